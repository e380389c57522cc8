/* The connections of a store that are lent for one operation, or for as long as something is
 * under way.  See store.h.
 *
 * Idea.  A server may take few clients, and then the next connection is refused, or hangs until
 * its time is over.  So nobody waits for another connection while there is one: whoever finds none
 * free waits in line for one to be given back, and meanwhile one more is opened beside, by a thread
 * of its own.  If that fails, the server takes no more, and what there is is shared.
 *
 * Invariants, of the fields that `lock` guards.
 *   - `npool` counts the connections of the pool: free, lent, and being opened.
 *   - One at a time is opened beside; after a failure none for AGAIN_NS.  One that is only to tell the server's size is
 *     opened however many there are, and stays only if somebody waits for one and there are FM_POOL_MAX at most.
 *   - An asker takes a free connection only when no asker came before it, so nobody starves.
 * Left out: fewer than there are.  A connection stays until it fails, or the store is closed.
 */
#include "pool.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define AGAIN_NS (30000 * FM_MS) /* until a server that took no more is asked again */

/* Somebody who waits for a connection, in the order of coming.  Not on his stack, which the
 * simulator's tasks take away while they wait. */
struct fm_asker {
  struct fm_asker *next;
};

/* Of who waits since then: as long as something moves, his turn comes; and with a file nothing is silent. */
static uint64_t
deadline_of (const struct fm_store *s, uint64_t since_ns)
{
  if (!fm_store_is_server (s))
    return UINT64_MAX;
  uint64_t moved = atomic_load (&s->moved_ns);
  return (moved > since_ns ? moved : since_ns) + s->timeout_ns;
}

/* All with `lock`, to the next line like this. */

static struct fm_port *
pop (struct fm_store *s)
{
  struct fm_port *p = s->idle;
  if (p) {
    s->idle = p->next;
    p->next = NULL;
  }
  return p;
}

static void
push (struct fm_store *s, struct fm_port *p)
{
  p->next = s->idle;
  s->idle = p;
}

/* All that are free leave the pool. */
static struct fm_port *
take_idle (struct fm_store *s)
{
  struct fm_port *all = s->idle;
  for (struct fm_port *p = all; p; p = p->next)
    s->npool--;
  s->idle = NULL;
  return all;
}

/* NULL: no memory. */
static struct fm_asker *
stand_in_line (struct fm_store *s)
{
  struct fm_asker *me = calloc (1, sizeof *me), **at = &s->askers;
  while (*at)
    at = &(*at)->next;
  *at = me;
  return me;
}

static void
leave_line (struct fm_store *s, struct fm_asker *me)
{
  struct fm_asker **at = &s->askers;
  while (*at != me)
    at = &(*at)->next;
  *at = me->next;
  free (me);
  if (s->askers && s->idle)
    pthread_cond_broadcast (&s->freed); /* somebody else is the first now */
}

static int
wait_freed (struct fm_store *s, uint64_t since_ns)
{
  int rc = fm_cond_wait_until (&s->freed, &s->lock, deadline_of (s, since_ns));
  return rc < 0 && fm_now_ns () < deadline_of (s, since_ns) ? 0 : rc;
}

/* ---- without `lock` */

static void
close_ports (struct fm_port *p)
{
  while (p) {
    struct fm_port *next = p->next;
    fm_port_close (p);
    p = next;
  }
}

static void
opened (struct fm_store *s, struct fm_port *p)
{
  pthread_mutex_lock (&s->lock);
  if (p && s->asks_size && (!s->askers || s->npool > FM_POOL_MAX)) {
    pthread_mutex_unlock (&s->lock);
    fm_port_close (p); /* first: then its place at the server is another's */
    pthread_mutex_lock (&s->lock);
    s->npool--;
  } else if (p)
    push (s, p);
  else {
    s->npool--;
    s->more_ns = fm_now_ns () + AGAIN_NS;
  }
  s->opening--;
  pthread_cond_broadcast (&s->freed);
  pthread_mutex_unlock (&s->lock);
}

static void *
open_one (void *arg)
{
  struct fm_store *s = arg;
  int rc;
  opened (s, fm_port_open (s, &rc));
  return NULL;
}

/* Begin to open one more beside, unless that is under way or of no use.  With `lock`, which is not held for a
 * while: true. */
static bool
open_more (struct fm_store *s, bool asks_size)
{
  if (s->opening || (s->npool >= FM_POOL_MAX && !asks_size) || fm_now_ns () < s->more_ns)
    return false;
  s->opening = 2; /* it, and us: until it is 0 nobody else begins another */
  s->asks_size = asks_size;
  s->npool++;
  pthread_mutex_unlock (&s->lock);
  if (s->opener_begun)
    fm_thread_end (s->opener); /* it has said that it is done */
  s->opener_begun = fm_thread_begin (&s->opener, open_one, s) == 0;
  if (!s->opener_begun)
    opened (s, NULL);
  pthread_mutex_lock (&s->lock);
  s->opening--;
  return true;
}

/* The same, unless one is free. */
static bool
open_beside (struct fm_store *s)
{
  return !s->idle && open_more (s, false);
}

static struct fm_port *
wait_for_one (struct fm_store *s, uint64_t since, int *rc)
{
  pthread_mutex_lock (&s->lock);
  struct fm_port *p = s->askers ? NULL : pop (s);
  struct fm_asker *me = p ? NULL : stand_in_line (s);
  *rc = p || me ? 0 : -ENOMEM;
  while (!p && *rc == 0) {
    if (s->idle && s->askers == me)
      p = pop (s);
    else if (s->npool == 0) { /* nobody could give one back */
      s->npool++;
      pthread_mutex_unlock (&s->lock);
      p = fm_port_open (s, rc);
      pthread_mutex_lock (&s->lock);
      if (!p) {
        s->npool--;
        pthread_cond_broadcast (&s->freed); /* the others find out themselves */
      }
    } else if (!open_beside (s)) {
      int late = wait_freed (s, since);
      if (!(s->idle && s->askers == me))
        *rc = late;
    }
  }
  if (me)
    leave_line (s, me);
  pthread_mutex_unlock (&s->lock);
  return p;
}

struct fm_port *
fm_port_borrow (struct fm_store *s, int *rc)
{
  uint64_t since = fm_now_ns (), until = 0;
  do {
    struct fm_port *p = wait_for_one (s, since, rc);
    if (!p)
      return NULL;
    s->ops->step (p);
    if (!p->failed)
      return p;
    fm_store_give_port (s, p); /* it has ended since it was used last, and the others most likely did */
    since = fm_now_ns ();
    until = until ? until : since + s->timeout_ns; /* he may have waited long before */
  } while (since < until);
  *rc = -ENOTCONN; /* a server that ends each at once */
  return NULL;
}

void
fm_port_give (struct fm_port *p)
{
  struct fm_store *s = p->store;
  struct fm_port *gone = NULL;
  bool failed = p->failed; /* given back it is another's */
  assert (!p->under_way);
  pthread_mutex_lock (&s->lock);
  if (failed) { /* the others most likely died with it: the next call connects anew */
    gone = take_idle (s);
    s->npool--;
  } else
    push (s, p);
  if (s->askers)
    pthread_cond_broadcast (&s->freed);
  pthread_mutex_unlock (&s->lock);
  if (failed) {
    close_ports (gone);
    fm_port_close (p);
  }
}

bool
fm_port_wanted (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  bool wanted = s->askers && !s->idle;
  pthread_mutex_unlock (&s->lock);
  return wanted;
}

/* One of the pool, if it has two: one stays, to be shared.  NULL: it has not, or none was free in
 * time. */
static struct fm_port *
take_from_pool (struct fm_store *s)
{
  uint64_t since = fm_now_ns ();
  struct fm_port *p = NULL;
  pthread_mutex_lock (&s->lock);
  struct fm_asker *me = stand_in_line (s);
  bool late = !me;
  while (!p && s->npool > 1 && !late) {
    if (s->idle && s->askers == me) {
      p = pop (s);
      s->npool--;
    } else
      late = wait_freed (s, since) < 0;
  }
  if (me)
    leave_line (s, me);
  pthread_mutex_unlock (&s->lock);
  return p;
}

struct fm_port *
fm_port_own (struct fm_store *s, int *rc)
{
  struct fm_port *p;
  *rc = 0;
  while ((p = take_from_pool (s))) {
    s->ops->step (p);
    if (!p->failed)
      return p;
    fm_port_close (p); /* it has ended since it was used last */
  }
  return fm_port_open (s, rc);
}

void
fm_pool_ask_size (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  open_more (s, true);
  pthread_mutex_unlock (&s->lock);
}

struct fm_port *
fm_pool_spare (struct fm_store *s)
{
  struct fm_port *p = NULL;
  pthread_mutex_lock (&s->lock);
  if (s->npool < 2)
    open_more (s, false);
  else if (!s->askers && !s->opening && (p = pop (s)))
    s->npool--;
  pthread_mutex_unlock (&s->lock);
  if (!p)
    return NULL;
  s->ops->step (p);
  if (!p->failed)
    return p;
  fm_port_close (p); /* it has ended since it was used last */
  return NULL;
}

void
fm_pool_add (struct fm_store *s, struct fm_port *p)
{
  pthread_mutex_lock (&s->lock);
  s->npool++;
  push (s, p);
  pthread_mutex_unlock (&s->lock);
}

unsigned
fm_store_reserve (struct fm_store *s, unsigned n, int *rc)
{
  *rc = 0;
  pthread_mutex_lock (&s->lock);
  while (s->npool < n && *rc == 0) {
    pthread_mutex_unlock (&s->lock);
    struct fm_port *p = fm_port_open (s, rc);
    if (p)
      fm_pool_add (s, p);
    pthread_mutex_lock (&s->lock);
  }
  unsigned had = s->npool;
  pthread_mutex_unlock (&s->lock);
  return had;
}

void
fm_pool_drop (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  struct fm_port *gone = take_idle (s);
  if (s->askers)
    pthread_cond_broadcast (&s->freed);
  pthread_mutex_unlock (&s->lock);
  close_ports (gone);
}

void
fm_pool_close (struct fm_store *s)
{
  if (s->opener_begun)
    fm_thread_end (s->opener);
  assert (!s->askers && !s->opening);
  close_ports (s->idle);
}
