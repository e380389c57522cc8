/* See lane.h. */
#include "lane.h"
#include "parts.h"
#include "room.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef HOLE_WORTH_ASKING
#define HOLE_WORTH_ASKING (64 * 1024)      /* bytes; below, reading is cheaper than lseek */
#endif
/* Bytes of a run that is worth sharing instead of copying, and of one that is shared at once,
 * while the files are locked.  Below, sharing and the next write to what is shared cost more
 * than two copies (docs/benchmarks.md). */
#ifndef CLONE_WORTH
#define CLONE_WORTH (1024 * 1024)
#endif
#define CLONE_MAX (16ULL * 1024 * 1024)
/* So many bytes of the background's in a sink 0 are begun to be written out at once, where its flush would take long.
 * So little is left to that, for which flushes of others on that disk wait (below.h), and a stop: it is the copying that
 * waits when the disk's queue is full.  On a disk of 50 MB/s a client's flush beside a cycle of 400 MB took 10.8 s
 * without that, and 2.0 to 2.5 s with it, as one of any file on that disk.  On a quick one lone blocks lose by it (51,200
 * of them: 0.6 s with one flush, 1.5 s so, 2.3 s with 4 MiB), so there it begins with so many as make a flush long. */
#define WRITE_OUT (16ULL * 1024 * 1024)
#define LONG_FLUSH (256ULL * 1024 * 1024)
#define PORTS_MAX (1 + FM_SINKS + FM_WIDE)

/* ---- the connections to this site's own stores: see lane.h ---- */

static struct fm_port *
lend (struct fm_port **at, struct fm_store *s, int *rc)
{
  *rc = 0;
  if (!*at)
    *at = fm_port_borrow (s, rc);
  return *at;
}

static void
give_back (struct fm_port **at, bool own)
{
  if (own || !*at || (*at)->under_way)
    return;
  fm_store_give_port ((*at)->store, *at);
  *at = NULL;
}

static void
rest (struct fm_lane *l)
{
  give_back (&l->front, l->own_front);
  give_back (&l->sink[0], l->own_first);
}

/* Somebody waits for the connection that reads the front: what is under way on it comes to its
 * end first. */
static bool
yields (struct fm_lane *l)
{
  if (l->own_front || !l->front || !fm_port_wanted (l->v->front))
    return false;
  give_back (&l->front, false);
  return l->front;
}

/* ---- */

void
fm_lane_close (struct fm_lane *l)
{
  if (!l)
    return;
  assert (l->active == 0);
  rest (l);
  fm_port_close (l->front);
  for (unsigned i = 0; i < FM_SINKS; i++)
    fm_port_close (l->sink[i]);
  for (unsigned i = 0; i < FM_WIDE; i++)
    fm_wide_close (&l->wide[i]);
  free (l->slots);
  free (l);
}

/* Its ports.  The part whose port could not be had (see closed_part) is in *part. */
static int
open_ports (struct fm_lane *l, struct fm_store *second, struct fm_port *kept, int *part)
{
  struct fm_volume *v = l->v;
  bool bulk = l->nslots > 1;
  int rc = 0;
  *part = -1;
  l->own_front = !fm_store_is_server (v->front);
  l->own_first = bulk || !fm_store_is_server (v->first);
  if (l->own_front)
    l->front = fm_port_open (v->front, &rc);
  else if (bulk && lend (&l->front, v->front, &rc)) /* it can be had */
    give_back (&l->front, false);
  if (rc < 0)
    return rc;
  *part = 0;
  if (l->own_first)
    l->sink[0] = kept ? kept : fm_port_own (v->first, &rc);
  if (rc < 0 || !second)
    return rc;
  *part = 1;
  l->sink[1] = fm_port_open (second, &rc);
  return rc;
}

struct fm_lane *
fm_lane_open (struct fm_volume *v, struct fm_store *second, unsigned nslots, struct fm_port *kept,
              int *rc)
{
  struct fm_lane *l = calloc (1, sizeof *l);
  *rc = -ENOMEM;
  if (!l || !(l->slots = calloc (nslots, sizeof *l->slots))) {
    free (l);
    return NULL;
  }
  l->v = v;
  uint64_t run = v->run_blocks << v->shift, most = nslots > 1 ? FM_PIECE_BULK : FM_PIECE;
  l->piece = run < most ? run : most;
  /* 16 at least, for there are pieces enough of a long run. */
  l->nslots = nslots > FM_ROOM_BULK / l->piece ? (unsigned)(FM_ROOM_BULK / l->piece) : nslots;
  l->nsinks = second ? 2 : 1;
  if (nslots > 1 && second)
    l->far = &v->flow;
  if (nslots > 1 && fm_store_is_server (v->first))
    l->near = &v->near;
  int part;
  *rc = open_ports (l, second, kept, &part);
  if (*rc == 0)
    return l;
  atomic_store (&v->closed_part, part);
  if (kept)
    l->sink[0] = NULL;
  fm_lane_close (l);
  return NULL;
}

/* ---- one slot ---- */

static uint64_t
bytes_of (const struct fm_volume *v, const struct fm_claim *c)
{
  uint64_t start = c->first << v->shift, end = (c->first + c->n) << v->shift;
  return (end < v->size ? end : v->size) - start; /* the last block may be short */
}

static unsigned
first_sink (const struct fm_slot *s)
{
  return s->copy == FM_COPY_FEED ? 1 : 0;
}

static unsigned
end_sink (const struct fm_lane *l, const struct fm_slot *s)
{
  return s->copy == FM_COPY_FIRST ? 1 : l->nsinks;
}

static struct fm_store *
read_from (const struct fm_lane *l, const struct fm_slot *s)
{
  return s->copy == FM_COPY_FEED ? l->v->first : l->v->front;
}

/* Where the lane has, or is lent, its connection for that. */
static struct fm_port **
read_at (struct fm_lane *l, const struct fm_slot *s)
{
  return s->copy == FM_COPY_FEED ? &l->sink[0] : &l->front;
}

/* To the front or sink 0. */
static void
begin_near (struct fm_parts *t, struct fm_port **at, struct fm_store *store, struct fm_op op)
{
  int rc;
  if (lend (at, store, &rc)) {
    fm_parts_begin (t, *at, op);
    return;
  }
  *t = (struct fm_parts){ .op = op };
  t->op.refused = true;
  fm_op_finish (store, &t->op, rc);
}

/* The same for the next part: the connection may have been given back in between, or is to be. */
static bool
step_near (struct fm_lane *l, struct fm_parts *t, struct fm_port **at, struct fm_store *store,
           bool learns)
{
  int rc;
  bool more = t->op.done && t->op.rc == 0 && t->left;
  bool waits = more && at == &l->front && yields (l);
  if (more && !waits && !lend (at, store, &rc)) {
    t->op.rc = rc;
    t->left = 0;
  }
  return fm_parts_step (t, store, waits ? NULL : *at, learns);
}

/* The connection of a slot to sink 1.  The slots share those by FM_SLOTS_EACH. */
static struct fm_port *
far_port (struct fm_lane *l, const struct fm_slot *s)
{
  unsigned n = (unsigned)(s - l->slots) / FM_SLOTS_EACH;
  struct fm_port *wide = n ? fm_wide_port (&l->wide[n - 1], l->sink[1]->store) : NULL;
  return wide ? wide : l->sink[1];
}

static void
enter_flow (struct fm_lane *l, struct fm_slot *s, uint64_t bytes)
{
  s->in = end_sink (l, s) > 1 ? l->far : l->near;
  s->flow = s->in ? bytes : 0;
  if (s->flow)
    fm_flow_begin (s->in, s->flow);
}

/* What was counted in the flow was not sent, or has ended. */
static void
leave_flow (struct fm_lane *l, struct fm_slot *s, uint64_t now)
{
  const struct fm_op *last = &s->write[end_sink (l, s) - 1].op;
  if (s->flow && s->sent_ns)
    fm_flow_end (s->in, s->flow, last->rc == 0 ? now - s->sent_ns : 0, now);
  else if (s->flow)
    fm_flow_cancel (s->in, s->flow);
  s->flow = s->sent_ns = 0;
}

static void
slot_write (struct fm_lane *l, struct fm_slot *s, bool zero)
{
  s->state = FM_SLOT_WRITING;
  if (s->flow) {
    s->sent_ns = fm_now_ns ();
    if (zero)
      fm_flow_refund (s->in, s->flow);
  }
  struct fm_op op = { .kind = zero ? FM_ZERO : FM_WRITE,
                      .flags = zero ? FM_PUNCH : 0,
                      .offset = (s->claim->first << l->v->shift) + s->at,
                      .length = s->n,
                      .buf = s->buf };
  for (unsigned i = first_sink (s); i < end_sink (l, s); i++)
    if (i == 1)
      fm_parts_begin (&s->write[1], s->far = far_port (l, s), op);
    else
      begin_near (&s->write[0], &l->sink[0], l->v->first, op);
}

/* Whether what is read is written back to where it came from: see lane.h. */
static bool
restores (const struct fm_lane *l, const struct fm_slot *s)
{
  return l->v->restores && s->copy != FM_COPY_FEED;
}

/* How many blocks the slot's stores do in a while, and at least one. */
static uint64_t
paced_blocks (struct fm_lane *l, const struct fm_slot *s, enum fm_op_kind kind, uint64_t most)
{
  uint64_t piece = kind == FM_WRITE ? fm_parts_piece (read_from (l, s), FM_READ) : UINT64_MAX;
  for (unsigned i = first_sink (s); i < end_sink (l, s); i++) {
    uint64_t own = fm_parts_piece (i == 1 ? l->sink[1]->store : l->v->first, kind);
    piece = own < piece ? own : piece;
  }
  uint64_t n = piece >> l->v->shift ? piece >> l->v->shift : 1;
  return n < most ? n : most;
}

static void
shrink (struct fm_volume *v, struct fm_claim *c, uint64_t n)
{
  pthread_mutex_lock (&v->lock);
  if (c->n > n)
    c->n = n;
  pthread_mutex_unlock (&v->lock);
}

/* A long run to one sink that can share it needs no reading and no writing.  A source shares nothing: a client's next
 * write there would need new space, which its owner may have allocated, and the disk may not have. */
static bool
slot_clone (struct fm_lane *l, struct fm_slot *s)
{
  struct fm_volume *v = l->v;
  if (!v->strict || s->copy == FM_COPY_FEED || end_sink (l, s) != 1 || bytes_of (v, s->claim) < CLONE_WORTH)
    return false;
  shrink (v, s->claim, CLONE_MAX >> v->shift ? CLONE_MAX >> v->shift : 1);
  uint64_t length = bytes_of (v, s->claim), offset = s->claim->first << v->shift;
  if (fm_store_clone (v->front, v->first, offset, length) < 0)
    return false;
  s->state = FM_SLOT_WRITING;
  s->n = length;
  s->write[0] = (struct fm_parts){ .op = { .kind = FM_WRITE, .length = length, .done = true } };
  return true;
}

/* Begin the piece at s->at: of the lane's length, or what is left. */
static void
read_piece (struct fm_lane *l, struct fm_slot *s)
{
  struct fm_store *from = read_from (l, s);
  uint64_t left = bytes_of (l->v, s->claim) - s->at;
  s->n = left < l->piece ? left : l->piece;
  s->state = FM_SLOT_READING;
  struct fm_op op = { .kind = FM_READ, .buf = s->buf, .length = s->n,
                      .offset = (s->claim->first << l->v->shift) + s->at };
  enter_flow (l, s, s->n);
  if (s->buf)
    begin_near (&s->read, read_at (l, s), from, op);
  else {
    s->read = (struct fm_parts){ .op = op };
    fm_op_finish (from, &s->read.op, -ENOMEM);
  }
}

/* A hole is written as zeroes without being read, a long run is shared where that can be,
 * anything else is read; either way the claim shrinks to what is done now. */
void
fm_lane_begin (struct fm_lane *l, struct fm_slot *s)
{
  struct fm_volume *v = l->v;
  struct fm_store *from = read_from (l, s);
  uint64_t length = bytes_of (v, s->claim), offset = s->claim->first << v->shift;
  s->at = 0;
  if (length >= HOLE_WORTH_ASKING && restores (l, s))
    shrink (v, s->claim, paced_blocks (l, s, FM_WRITE, v->run_blocks));
  else if (length >= HOLE_WORTH_ASKING) {
    uint64_t hole = from->ops->hole (from, offset, length, NULL);
    uint64_t whole = hole == length ? s->claim->n : hole >> v->shift;
    if (whole) {
      shrink (v, s->claim, paced_blocks (l, s, FM_ZERO, whole));
      s->n = bytes_of (v, s->claim);
      enter_flow (l, s, fm_flow_weight (s->n));
      slot_write (l, s, true);
      return;
    }
    if (slot_clone (l, s))
      return;
    shrink (v, s->claim, paced_blocks (l, s, FM_WRITE, v->run_blocks));
  }
  assert (s->claim->n <= v->run_blocks);
  s->buf = fm_room_take (l->piece);
  read_piece (l, s);
}

static bool
is_zero (const char *p, uint64_t n)
{
  for (uint64_t i = 0; i < 16 && i < n; i++)
    if (p[i])
      return false;
  return n <= 16 || memcmp (p, p + 16, n - 16) == 0;
}

/* The copy stands in its sinks: move its blocks to the map that follows.  With `lock`. */
static void
settle_maps (struct fm_lane *l, const struct fm_slot *s)
{
  struct fm_volume *v = l->v;
  uint64_t first = s->claim->first, n = s->claim->n;
  fm_bitmap_set (s->copy == FM_COPY_FIRST ? &v->unsent : v->sent, first, n);
  fm_bitmap_clear (s->copy == FM_COPY_FEED ? &v->unsent : v->pending, first, n);
  for (unsigned i = first_sink (s); i < end_sink (l, s); i++)
    atomic_fetch_add_explicit (&v->copied_bytes[i], bytes_of (v, s->claim), memory_order_relaxed);
}

/* A slot has written so much to sink 0.  A writer does not wait for the disk's queue: what its own lane writes is begun
 * with what the background writes. */
static void
write_out (struct fm_lane *l, uint64_t bytes)
{
  struct fm_store *first = l->v->first;
  l->cached += bytes;
  if (l->nslots == 1 || l->cached < WRITE_OUT || !first->ops->write_out)
    return;
  uint64_t changed = atomic_load (&first->changed_bytes);
  if (!atomic_load (&first->flushes_slowly) && changed - atomic_load (&first->flushed_bytes) < LONG_FLUSH)
    return;
  l->cached = 0;
  first->ops->write_out (first);
}

static void
slot_end (struct fm_lane *l, struct fm_slot *s, int rc, int part)
{
  struct fm_volume *v = l->v;
  bool wrote = rc == 0 && first_sink (s) == 0 && s->write[0].op.kind == FM_WRITE;
  uint64_t bytes = wrote ? bytes_of (v, s->claim) : 0;
  leave_flow (l, s, fm_now_ns ());
  fm_room_give (s->buf, l->piece);
  s->buf = NULL;
  l->put_off = rc == -EAGAIN && part == 1;
  if (rc < 0 && part == 1 && !l->put_off)
    fm_volume_lose_second (v, rc);
  else if (rc < 0 && !l->put_off)
    fm_volume_fail (v, rc, part);
  pthread_mutex_lock (&v->lock);
  if (rc == 0)
    settle_maps (l, s);
  s->claim->n = 0;
  v->nclaims--;
  pthread_cond_broadcast (&v->moved);
  pthread_mutex_unlock (&v->lock);
  s->claim = NULL;
  s->state = FM_SLOT_FREE;
  l->active--;
  write_out (l, bytes); /* now nobody waits for this run */
}

/* A piece stands in its sinks, or not: go on with the next one of the run, or end it. */
static void
piece_end (struct fm_lane *l, struct fm_slot *s, int rc, int part)
{
  leave_flow (l, s, fm_now_ns ());
  if (rc < 0 && rc != -EAGAIN && part == 1 && s->copy == FM_COPY_ALL && !l->v->hold) {
    fm_volume_lose_second (l->v, rc);
    s->copy = FM_COPY_FIRST; /* sink 0 has it, and is to have the rest */
    rc = 0;
  }
  if (rc == 0 && s->at + s->n < bytes_of (l->v, s->claim)) {
    rc = atomic_load (&l->v->abandoned), part = -1;
    if (rc == 0) {
      s->at += s->n;
      s->state = FM_SLOT_BETWEEN;
      give_back (&l->sink[0], l->own_first); /* before it waits for another */
      return;
    }
  }
  slot_end (l, s, rc, part);
}

/* Whether the run may be written back now, and is: in a void cycle writers wait for nothing else. */
static bool
begin_back (struct fm_volume *v, struct fm_claim *c)
{
  pthread_mutex_lock (&v->lock);
  c->back = !atomic_load (&v->abandoned);
  pthread_mutex_unlock (&v->lock);
  return c->back;
}

static void
end_back (struct fm_volume *v, struct fm_claim *c)
{
  pthread_mutex_lock (&v->lock);
  c->back = false;
  pthread_cond_broadcast (&v->moved);
  pthread_mutex_unlock (&v->lock);
}

static void
slot_restore (struct fm_lane *l, struct fm_slot *s)
{
  struct fm_volume *v = l->v;
  if (!begin_back (v, s->claim)) {
    slot_end (l, s, atomic_load (&v->abandoned), -1);
    return;
  }
  s->state = FM_SLOT_RESTORING;
  bool zero = is_zero (s->buf, s->n);
  struct fm_op op = { .kind = zero ? FM_ZERO : FM_WRITE, .flags = zero ? FM_PUNCH | FM_KEEP : FM_KEEP,
                      .offset = (s->claim->first << v->shift) + s->at,
                      .length = s->n, .buf = s->buf };
  s->anchor = atomic_load (&v->front->anchored);
  if (s->anchor || !fm_store_is_server (v->front))
    begin_near (&s->read, &l->front, v->front, op);
  else { /* no flush would cover it */
    s->read = (struct fm_parts){ .op = op };
    s->read.op.refused = true;
    fm_op_finish (v->front, &s->read.op, -ENOTCONN);
  }
}

static bool
slot_step (struct fm_lane *l, struct fm_slot *s)
{
  if (s->state == FM_SLOT_BETWEEN) {
    if (s->copy != FM_COPY_FEED && yields (l))
      return false;
    read_piece (l, s);
    return true;
  }
  if (s->state == FM_SLOT_RESTORING && step_near (l, &s->read, &l->front, l->v->front, false)) {
    give_back (&l->front, l->own_front);
    if (!s->read.op.refused)
      fm_store_written (l->v->front, s->anchor, s->read.op.rc);
    end_back (l->v, s->claim);
    if (s->read.op.rc < 0)
      slot_end (l, s, s->read.op.rc, -1);
    else
      slot_write (l, s, is_zero (s->buf, s->n));
    return true;
  }
  if (s->state == FM_SLOT_READING && step_near (l, &s->read, read_at (l, s), read_from (l, s), true)) {
    give_back (&l->front, l->own_front); /* before it waits for another */
    if (s->read.op.rc < 0)
      slot_end (l, s, s->read.op.rc, s->copy == FM_COPY_FEED ? 0 : -1);
    else if (restores (l, s))
      slot_restore (l, s);
    else
      slot_write (l, s, is_zero (s->buf, s->n));
    return true;
  }
  if (s->state != FM_SLOT_WRITING)
    return false;
  bool learns = !s->in || !fm_flow_is_measuring (s->in), done = true, near_done = true;
  int rc = 0, part = 0;
  for (unsigned i = first_sink (s); i < end_sink (l, s); i++) {
    bool ended = i == 1 ? fm_parts_step (&s->write[1], s->far->store, s->far, learns)
                        : step_near (l, &s->write[0], &l->sink[0], l->v->first, learns);
    if (ended && s->sent_ns && i + 1 == end_sink (l, s))
      leave_flow (l, s, fm_now_ns ()); /* not when sink 0 has it too, which may take longer */
    if (ended && s->write[i].op.rc < 0 && rc == 0) /* sink 0's, if both have failed */
      rc = s->write[i].op.rc, part = (int)i;
    done &= ended;
    near_done &= ended || i == 1;
  }
  atomic_store_explicit (&s->claim->at_second, near_done && !done, memory_order_relaxed);
  if (!done)
    return false;
  piece_end (l, s, rc, part);
  return true;
}

/* ---- the lane ---- */

struct fm_slot *
fm_lane_claim (struct fm_lane *l, enum fm_copy copy, uint64_t first, uint64_t n)
{
  struct fm_volume *v = l->v;
  struct fm_slot *s = l->slots;
  while (s->claim)
    s++;
  assert (s < l->slots + l->nslots);
  unsigned i = 0;
  while (v->claims[i].n)
    i++;
  assert (i < FM_CLAIMS);
  if (i >= v->claims_high)
    v->claims_high = i + 1;
  v->claims[i] = (struct fm_claim){ .first = first, .n = n, .lane = l };
  v->nclaims++;
  s->claim = &v->claims[i];
  s->copy = copy;
  l->active++;
  return s;
}

enum fm_copy
fm_lane_copy (const struct fm_lane *l, bool comparing)
{
  const struct fm_volume *v = l->v;
  if (atomic_load (&v->second_lost)) /* looked at once: it may be lost at any moment */
    return v->hold ? FM_COPY_LATER : FM_COPY_FIRST;
  /* With preserve = "first" no writer may wait for the peer: not even one who meets
   * a run of the background's. */
  return l->nsinks > 1 && (v->preserve_first || comparing) ? FM_COPY_FIRST : FM_COPY_ALL;
}

/* Claim the next run of the walk; NULL: all that is left is claimed by others. */
static struct fm_slot *
claim_next (struct fm_lane *l)
{
  struct fm_volume *v = l->v;
  uint64_t hole_blocks = FM_PACE_MOST >> v->shift;
  uint64_t max = hole_blocks > v->run_blocks ? hole_blocks : v->run_blocks;
  bool feed = fm_bitmap_count (v->pending) == 0, lost = atomic_load (&v->second_lost);
  if (feed && (v->comparing || lost))
    return NULL;
  const struct fm_bitmap *map = feed ? &v->unsent : v->pending;
  struct fm_slot *s = NULL;
  struct fm_claim run;
  pthread_mutex_lock (&v->lock);
  if (v->wanted)
    l->cursor = v->wanted - 1;
  v->wanted = 0;
  bool found = fm_plan_run (map, l->cursor, max, v->claims, v->claims_high, &run);
  if (!found && l->cursor) /* round once more: a writer may have left something */
    found = fm_plan_run (map, 0, max, v->claims, v->claims_high, &run);
  enum fm_copy copy = feed ? FM_COPY_FEED : fm_lane_copy (l, v->comparing);
  if (found && copy != FM_COPY_LATER) {
    s = fm_lane_claim (l, copy, run.first, run.n);
    l->cursor = run.first + 1; /* what the slot leaves of the run is found next */
  }
  pthread_mutex_unlock (&v->lock);
  return s;
}

bool
fm_lane_fill (struct fm_lane *l, uint64_t until_ns)
{
  unsigned begun = 0;
  struct fm_slot *s;
  while (begun < l->nslots && l->active < l->nslots && !atomic_load (&l->v->abandoned)
         && !(l->put_off && l->active) && !fm_lane_held_until (l) && !yields (l)
         && (s = claim_next (l))) {
    fm_lane_begin (l, s);
    begun++;
    while (s->state != FM_SLOT_FREE && slot_step (l, s))
      ; /* what files have done at once holds up no writer while others are begun */
    if (fm_now_ns () >= until_ns)
      break;
  }
  return begun > 0;
}

uint64_t
fm_lane_held_until (struct fm_lane *l)
{
  struct fm_volume *v = l->v;
  bool feed = fm_bitmap_count (v->pending) == 0;
  bool far = feed || fm_lane_copy (l, v->comparing) == FM_COPY_ALL;
  struct fm_flow *f = far && l->nsinks > 1 ? l->far : l->near;
  return f ? fm_flow_wait (f, fm_now_ns ()) : 0;
}

/* The ports that it has now; the first `far` of them lead to the peer. */
static unsigned
ports_of (struct fm_lane *l, struct fm_port **out, unsigned *far)
{
  unsigned n = 0;
  if (l->nsinks > 1)
    out[n++] = l->sink[1];
  for (unsigned i = 0; i < FM_WIDE; i++)
    if ((out[n] = atomic_load (&l->wide[i].port)))
      n++;
  *far = n;
  if (l->sink[0])
    out[n++] = l->sink[0];
  if (l->front)
    out[n++] = l->front;
  return n;
}

/* The first that is found silent ends the link for all. */
static void
lose_silent (struct fm_lane *l, int *lost)
{
  fm_volume_lose_second (l->v, -ETIMEDOUT);
  *lost = atomic_load (&l->v->second_lost);
}

bool
fm_lane_step (struct fm_lane *l)
{
  bool moved = false;
  if (!l->active) {
    rest (l);
    return false;
  }
  int lost = l->nsinks > 1 ? atomic_load (&l->v->second_lost) : 0;
  struct fm_port *ports[PORTS_MAX];
  unsigned far, n = ports_of (l, ports, &far);
  uint64_t now = fm_now_ns ();
  for (unsigned i = 0; i < n; i++) {
    ports[i]->store->ops->step (ports[i]);
    if (fm_parts_silent (ports[i], now) && i < far)
      lose_silent (l, &lost);
  }
  for (unsigned i = 0; lost && i < far; i++) { /* somebody found out: no need to wait as long */
    if (!ports[i]->failed)
      ports[i]->failed = lost;
    ports[i]->store->ops->step (ports[i]);
  }
  for (unsigned i = 0; i < l->nslots; i++)
    while (l->slots[i].state != FM_SLOT_FREE && slot_step (l, &l->slots[i]))
      moved = true;
  rest (l);
  return moved;
}

void
fm_lane_wait (struct fm_lane *l, uint64_t deadline_ns)
{
  struct fm_port *ports[PORTS_MAX];
  struct pollfd fds[PORTS_MAX];
  nfds_t n = 0;
  unsigned far, nports = ports_of (l, ports, &far);
  for (unsigned i = 0; i < nports; i++)
    if (ports[i]->under_way && ports[i]->store->ops->pollfd (ports[i], &fds[n])) {
      uint64_t look = fm_parts_look_ns (ports[i]);
      deadline_ns = look < deadline_ns ? look : deadline_ns;
      n++;
    }
  atomic_store_explicit (&l->waiting, true, memory_order_relaxed);
  fm_poll_until (fds, n, deadline_ns);
  atomic_store_explicit (&l->waiting, false, memory_order_relaxed);
}
