/* See gather.h. */
#include "gather.h"
#include "room.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct read {
  struct fm_op op;
  unsigned run; /* of which it is all, or a piece */
  uint64_t since_ns;
  bool counted;
};

struct gather {
  struct fm_port *port;
  struct read *reads;
  unsigned n, begun, low, active; /* all below `low` are counted */
  uint64_t moved_ns; /* when something was begun or done last */
  struct fm_gather_times *times;
};

static void
count (struct gather *g, struct read *r)
{
  uint64_t now = fm_now_ns (), took = now - r->since_ns;
  r->counted = true;
  g->active--;
  g->moved_ns = now;
  atomic_store (&g->port->store->moved_ns, now);
  fm_room_moves (now);
  if (took < g->times->quickest_ns)
    g->times->quickest_ns = took;
  if (took > g->times->slowest_ns)
    g->times->slowest_ns = took;
}

static void
reap (struct gather *g)
{
  for (unsigned i = g->low; i < g->begun; i++)
    if (g->reads[i].op.done && !g->reads[i].counted)
      count (g, &g->reads[i]);
  while (g->low < g->begun && g->reads[g->low].counted)
    g->low++;
}

static void
begin (struct gather *g)
{
  struct read *r = &g->reads[g->begun++];
  g->active++;
  r->since_ns = g->moved_ns = fm_now_ns ();
  g->port->store->ops->submit (g->port, &r->op);
  reap (g);
}

static void
run (struct gather *g, unsigned depth, uint64_t deadline_ns)
{
  const struct fm_store *s = g->port->store;
  for (;;) {
    while (g->begun < g->n && g->active < depth && !g->port->failed
           && (g->reads[g->begun].run == 0 || fm_now_ns () < deadline_ns))
      begin (g);
    if (g->active == 0)
      return;
    uint64_t patience = g->moved_ns + s->timeout_ns;
    struct pollfd fd;
    if (s->ops->pollfd (g->port, &fd))
      fm_poll_until (&fd, 1, patience);
    if (fm_now_ns () >= patience)
      g->port->failed = -ETIMEDOUT; /* the step below ends all that is under way */
    s->ops->step (g->port);
    reap (g);
  }
}

/* The reads, none longer than `most`: the longest of them. */
static uint64_t
plan (struct gather *g, const uint64_t *runs, unsigned n, char *to, uint64_t most)
{
  uint64_t longest = 0;
  for (unsigned i = 0; i < n; i++)
    g->n += (unsigned)((runs[2 * i + 1] + most - 1) / most);
  g->reads = calloc (g->n, sizeof *g->reads);
  struct read *r = g->reads;
  for (unsigned i = 0; r && i < n; i++)
    for (uint64_t at = runs[2 * i], left = runs[2 * i + 1], length; left; r++) {
      length = left < most ? left : most;
      r->run = i;
      r->op = (struct fm_op){ .kind = FM_READ, .buf = to, .offset = at, .length = length };
      longest = length > longest ? length : longest;
      at += length, to += length, left -= length;
    }
  return longest;
}

int
fm_store_gather (struct fm_store *s, const uint64_t *runs, unsigned n, void *buf, unsigned depth,
                 uint64_t deadline_ns, struct fm_gather_times *times)
{
  assert (n && depth);
  int rc = 0;
  struct gather g = { .times = times };
  uint64_t longest = plan (&g, runs, n, buf, s->sizes.maximum);
  if (!g.reads)
    return -ENOMEM;
  *times = (struct fm_gather_times){ .quickest_ns = UINT64_MAX };
  uint64_t room = longest * (depth < g.n ? depth : g.n); /* under way at once to a server (room.h) */
  room = !fm_store_is_server (s) ? 0 : room < FM_ROOM_REQUESTS ? room : FM_ROOM_REQUESTS;
  struct fm_room_turn turn;
  rc = room ? fm_room_enter (&turn, NULL, room, s->timeout_ns) : 0;
  if (rc < 0) {
    free (g.reads);
    return rc;
  }
  g.port = fm_port_borrow (s, &rc);
  if (g.port) {
    run (&g, depth, deadline_ns);
    int failed = g.port->failed; /* which is freed if it has */
    fm_store_give_port (s, g.port);
    unsigned done = 0;
    while (done < g.begun && g.reads[done].op.rc == 0)
      done++;
    unsigned whole = done < g.n ? g.reads[done].run : n;
    rc = whole ? (int)whole : done < g.begun ? g.reads[done].op.rc : failed;
    assert (rc);
  }
  if (room)
    fm_room_leave (&turn);
  free (g.reads);
  return rc;
}
