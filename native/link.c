/* The lanes of a volume: opened, and replaced while writers use them.  See volume.h.
 *
 * Idea.  A writer borrows a lane and gives it back.  To replace the lanes is to put new ones in
 * their place at once, so that a writer always finds one, and to wait until those that are out
 * have come back.  A lane knows by the number of its link whether it is an old one.
 */
#include "lane.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>

static void
close_all (struct fm_lane *l)
{
  while (l) {
    struct fm_lane *next = l->next;
    fm_lane_close (l);
    l = next;
  }
}

/* What the cycle has written to sink 0 counts on this lane's connection, as on an anchor
 * (store.h, I9): before it ends that is made durable, or the cycle is void.  The lane in its place
 * has it, unless it has failed. */
static void
flush_first (struct fm_volume *v, struct fm_lane *bulk)
{
  if (!bulk->sink[0])
    return;
  struct fm_op op = { .kind = FM_FLUSH };
  int rc = fm_port_io (bulk->sink[0], &op);
  if (rc < 0)
    fm_volume_fail (v, rc, 0);
}

/* `prio` and `bulk`, or none, which lead to `second` too if it is given, take the place of all
 * lanes.  Those that are out come back soon: the stores' time-outs are a bound. */
static void
replace (struct fm_volume *v, struct fm_lane *prio, struct fm_lane *bulk, struct fm_store *second)
{
  struct fm_lane *gone[] = { NULL, NULL, v->bulk };
  v->bulk = bulk;
  pthread_mutex_lock (&v->lock);
  gone[0] = v->prio;
  v->links++;
  for (struct fm_lane *l = v->prio = prio; l; l = l->next)
    l->link = v->links;
  if (second) { /* not before, or lanes that do not lead there would count as all */
    atomic_store (&v->second_lost, 0);
    pthread_cond_broadcast (&v->moved);
  }
  v->old_out += v->nprio_out;
  v->nprio_out = 0;
  while (v->old_out)
    fm_cond_wait_until (&v->moved, &v->lock, fm_now_ns () + 1000 * FM_MS);
  gone[1] = v->old;
  v->old = NULL;
  if (v->second) /* the link's figures stay when its store goes */
    v->wire_bytes_before += atomic_exchange (&v->second->written_bytes, 0);
  v->second = second;
  pthread_mutex_unlock (&v->lock);
  if (bulk && gone[2])
    flush_first (v, gone[2]);
  for (unsigned i = 0; i < 3; i++)
    close_all (gone[i]);
}

/* One more, unless it would lead to a sink 1 that is left: each connection takes its time, and who
 * stops waits for the one under way, not for all. */
static struct fm_lane *
open_one (struct fm_volume *v, struct fm_store *second, unsigned nslots, struct fm_port *kept,
          int *rc)
{
  if (!second || !atomic_load (&v->leaves))
    return fm_lane_open (v, second, nslots, kept, rc);
  atomic_store (&v->closed_part, 1);
  *rc = -ESHUTDOWN;
  return NULL;
}

/* The lanes to sink 0 and, if given, `second`, in place of those there are. */
static int
open_lanes (struct fm_volume *v, struct fm_store *second, unsigned nprio)
{
  assert (nprio > 0 && nprio <= FM_PRIO_MAX);
  int rc = 0;
  struct fm_port *kept = v->bulk && !v->bulk->sink[0]->failed ? v->bulk->sink[0] : NULL;
  struct fm_lane *prio = NULL, *bulk = open_one (v, second, FM_BULK_SLOTS, kept, &rc);
  for (unsigned i = 0; rc == 0 && i < nprio; i++) {
    struct fm_lane *l = open_one (v, second, 1, NULL, &rc);
    if (l) {
      l->next = prio;
      prio = l;
    }
  }
  if (rc == 0) {
    if (kept)
      v->bulk->sink[0] = NULL;
    replace (v, prio, bulk, second);
    return 0;
  }
  if (bulk && kept)
    bulk->sink[0] = NULL;
  close_all (prio);
  close_all (bulk);
  return rc;
}

int
fm_volume_link (struct fm_volume *v, struct fm_store *second, unsigned nprio)
{
  assert (!v->bulk || (second && atomic_load (&v->second_lost)));
  int rc = open_lanes (v, second, nprio);
  if (rc == 0 && atomic_load (&v->leaves)) /* since the last lane */
    fm_volume_lose_second (v, -ESHUTDOWN);
  return rc;
}

int
fm_volume_part (struct fm_volume *v, unsigned nprio)
{
  assert (atomic_load (&v->second_lost));
  int rc = open_lanes (v, NULL, nprio);
  if (rc < 0)
    return rc;
  /* No lane leads to sink 1 any more, so nothing is added to `sent`. */
  fm_bitmap_or (&v->unsent, v->sent); /* first: at no time is a block in none */
  fm_bitmap_or (&v->unsent, v->hardening);
  fm_bitmap_empty (v->sent);
  fm_bitmap_empty (v->hardening);
  return 0;
}

/* Whether somebody may wait, or come to wait, for a copy that only the lanes can make. */
static bool
counted_on (struct fm_volume *v)
{
  if (!v->bulk || atomic_load (&v->abandoned))
    return false;
  return fm_bitmap_count (v->pending) || fm_bitmap_count (&v->unsent)
         || (v->strict && atomic_load (&v->owed));
}

void
fm_volume_unlink (struct fm_volume *v)
{
  assert (!counted_on (v));
  replace (v, NULL, NULL, NULL);
  atomic_store (&v->second_lost, 0);
}
