/* See gather.h. */
#include "gather.h"
#include "room.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct read {
  struct fm_op op;
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
           && (g->begun == 0 || fm_now_ns () < deadline_ns))
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

int
fm_store_gather (struct fm_store *s, const uint64_t *runs, unsigned n, void *buf, unsigned depth,
                 uint64_t deadline_ns, struct fm_gather_times *times)
{
  assert (n && depth);
  int rc = 0;
  struct gather g = { .n = n, .times = times, .reads = calloc (n, sizeof *g.reads) };
  if (!g.reads)
    return -ENOMEM;
  char *at = buf;
  uint64_t longest = 0;
  for (unsigned i = 0; i < n; i++) {
    longest = runs[2 * i + 1] > longest ? runs[2 * i + 1] : longest;
    g.reads[i].op = (struct fm_op){ .kind = FM_READ, .buf = at, .offset = runs[2 * i],
                                    .length = runs[2 * i + 1] };
    at += runs[2 * i + 1];
  }
  *times = (struct fm_gather_times){ .quickest_ns = UINT64_MAX };
  uint64_t room = longest * (depth < n ? depth : n); /* under way at once to a server (room.h) */
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
    fm_store_give_port (s, g.port);
    unsigned done = 0;
    while (done < g.begun && g.reads[done].op.rc == 0)
      done++;
    assert (g.begun);
    rc = done ? (int)done : g.reads[0].op.rc;
  }
  if (room)
    fm_room_leave (&turn);
  free (g.reads);
  return rc;
}
