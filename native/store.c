/* Ports, operations from any thread, and what is written and not flushed.  See store.h. */
#include "late.h"
#include "parts.h"
#include "pool.h"
#include "room.h"
#include "store.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define PROBES 4 /* in a time-out, of a server that flushes */
#define PROBE_BYTES 4096 /* there are servers that read no less */

uint64_t
fm_store_lose (struct fm_store *s)
{
  atomic_store (&s->lost_ns, fm_now_ns ()); /* first: who sees the loss sees that it is new */
  return atomic_fetch_add (&s->lost, 1) + 1;
}

void
fm_op_finish (struct fm_store *s, struct fm_op *op, int rc)
{
  assert (!op->done);
  op->rc = rc;
  op->done = true;
  if (rc < 0) {
    atomic_fetch_add_explicit (&s->errors, 1, memory_order_relaxed);
    if (op->kind == FM_FLUSH)
      fm_store_lose (s);
  } else if (op->kind == FM_WRITE)
    atomic_fetch_add_explicit (&s->written_bytes, op->length, memory_order_relaxed);
  /* One that failed may have been done in part. */
  if ((op->kind == FM_WRITE || op->kind == FM_ZERO) && rc != -EOPNOTSUPP)
    atomic_fetch_add_explicit (&s->changed_bytes, op->length, memory_order_relaxed);
}

void
fm_store_init (struct fm_store *s, const struct fm_store_ops *ops, uint64_t size,
               uint64_t timeout_ns)
{
  s->ops = ops;
  s->size = size;
  s->timeout_ns = timeout_ns;
  atomic_init (&s->writes, 1);
  pthread_mutex_init (&s->lock, NULL);
  fm_cond_init (&s->flush_free);
  fm_cond_init (&s->freed);
  for (unsigned i = 0; i < sizeof s->pace / sizeof *s->pace; i++)
    fm_pace_init (&s->pace[i]);
}

struct fm_port *
fm_port_open (struct fm_store *s, int *rc)
{
  struct fm_port *p = calloc (1, sizeof *p);
  if (!p) {
    *rc = -ENOMEM;
    return NULL;
  }
  p->store = s;
  *rc = s->ops->port_open (p, fm_now_ns () + s->timeout_ns);
  if (*rc < 0) {
    free (p);
    return NULL;
  }
  return p;
}

void
fm_port_close (struct fm_port *p)
{
  if (!p)
    return;
  assert (!p->under_way);
  p->store->ops->port_close (p);
  free (p);
}

void
fm_store_set_fenced (struct fm_store *s)
{
  s->fenced = true;
}

void
fm_store_unflushed (struct fm_store *s)
{
  atomic_fetch_add (&s->changed_bytes, FM_FLUSH_MOST);
}

void
fm_store_close (struct fm_store *s)
{
  if (!s)
    return;
  fm_pool_close (s);
  fm_port_close (s->anchor);
  s->ops->close (s);
  pthread_cond_destroy (&s->freed);
  pthread_cond_destroy (&s->flush_free);
  pthread_mutex_destroy (&s->lock);
  free (s->uri);
  free (s);
}

/* Ends some of what is under way on the port, or finds it silent. */
static void
move_on (struct fm_port *p, uint64_t until_ns)
{
  struct pollfd fd;
  uint64_t now = fm_now_ns (), look;
  if (p->stirred)
    fm_room_moves (now);
  fm_parts_silent (p, now); /* then the step below ends all that is under way */
  look = fm_parts_look_ns (p);
  if (p->store->ops->pollfd (p, &fd))
    fm_poll_until (&fd, 1, look < until_ns ? look : until_ns);
  p->store->ops->step (p);
}

/* A flush says nothing until it is over, and may have much to write.  So as long as that may take, the
 * server is asked something else now and then: while it answers, it is not silent.  A read that fails may be
 * libnbd's own refusal, which says nothing of the server. */
static void
flush_and_ask (struct fm_port *p, struct fm_parts *t)
{
  struct fm_store *s = p->store;
  char bytes[PROBE_BYTES];
  struct fm_parts probe = { .op = { .done = true } };
  struct fm_op read = { .kind = FM_READ, .buf = bytes,
                        .length = s->size < sizeof bytes ? s->size : sizeof bytes };
  uint64_t changed = atomic_load (&s->changed_bytes), left = changed - atomic_load (&s->flushed_bytes);
  left = left < FM_FLUSH_MOST ? left : FM_FLUSH_MOST;
  uint64_t end = fm_now_ns () + left * FM_FLUSH_BYTE_NS, every = s->timeout_ns / PROBES;
  uint64_t next = fm_now_ns () + every;
  fm_parts_begin (t, p, (struct fm_op){ .kind = FM_FLUSH });
  for (bool over = false; !over;) {
    over = fm_parts_step (t, s, p, true);
    bool asked = !fm_parts_step (&probe, s, p, false);
    uint64_t now = fm_now_ns ();
    if (!over && !asked && now >= next && now < end && probe.op.rc == 0) {
      fm_parts_begin (&probe, p, read);
      next = now + every;
    } else if (!over || asked) {
      over = false;
      move_on (p, asked || now >= end || probe.op.rc < 0 ? UINT64_MAX : next);
    }
  }
  if (t->op.rc == 0)
    atomic_store (&s->flushed_bytes, changed);
}

int
fm_port_io (struct fm_port *p, struct fm_op *op)
{
  struct fm_parts t;
  if (op->kind == FM_FLUSH)
    flush_and_ask (p, &t);
  else {
    fm_parts_begin (&t, p, *op);
    while (!fm_parts_step (&t, p->store, p, true))
      move_on (p, UINT64_MAX);
  }
  op->done = true;
  return op->rc = t.op.rc;
}

/* ---- what is written and not flushed: see store.h ---- */

/* Each who holds it connects, or flushes, and both have a bound; and of two whose writes stand before
 * a flush only one has to ask for it. */
static void
hold_flush (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  while (s->flush_held)
    fm_cond_wait (&s->flush_free, &s->lock);
  s->flush_held = true;
  pthread_mutex_unlock (&s->lock);
}

static void
free_flush (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  s->flush_held = false;
  pthread_cond_broadcast (&s->flush_free);
  pthread_mutex_unlock (&s->lock);
}

/* Held. */
static int
need_anchor (struct fm_store *s)
{
  int rc = 0;
  if (!s->anchor && (s->anchor = fm_port_own (s, &rc)))
    atomic_store (&s->anchored, ++s->anchors);
  return rc;
}

/* Held.  Its connection has ended, so the idle ones most likely did. */
static void
drop_anchor (struct fm_store *s)
{
  atomic_store (&s->anchored, 0); /* before the look at `writes`: see fm_store_io */
  fm_port_close (s->anchor);
  s->anchor = NULL;
  if (atomic_load (&s->writes) > s->covered)
    fm_store_lose (s);
  fm_pool_drop (s);
}

/* The number of the anchor that a write which is submitted now counts on. */
static int
anchor_for_write (struct fm_store *s, uint64_t *number)
{
  if ((*number = atomic_load (&s->anchored)))
    return 0;
  hold_flush (s);
  int rc = need_anchor (s);
  *number = s->anchors;
  free_flush (s);
  return rc;
}

int
fm_store_need_anchor (struct fm_store *s)
{
  uint64_t number;
  return fm_store_is_server (s) ? anchor_for_write (s, &number) : 0;
}

bool
fm_store_has_anchor (const struct fm_store *s)
{
  return !fm_store_is_server (s) || atomic_load (&s->anchored);
}

/* A connection has ended: with it the server? */
static void
look_at_anchor (struct fm_store *s)
{
  pthread_mutex_lock (&s->lock);
  bool held = s->flush_held;
  s->flush_held = true;
  pthread_mutex_unlock (&s->lock);
  if (held)
    return; /* who flushes finds out */
  if (s->anchor) {
    s->ops->step (s->anchor);
    if (s->anchor->failed)
      drop_anchor (s);
  }
  free_flush (s);
}

void
fm_store_give_port (struct fm_store *s, struct fm_port *p)
{
  if (p->failed)
    look_at_anchor (s);
  fm_port_give (p);
}

/* Ended without a port. */
static int
ended (struct fm_store *s, struct fm_op *op, int rc)
{
  if (rc < 0)
    atomic_fetch_add_explicit (&s->errors, 1, memory_order_relaxed);
  op->rc = rc;
  op->done = true;
  return rc;
}

static int
run_flush (struct fm_store *s, struct fm_op *op)
{
  uint64_t mine = atomic_load (&s->writes);
  int rc;
  hold_flush (s);
  if (!fm_late_settled (s))
    ended (s, op, -ETIMEDOUT);
  else if (s->covered >= mine) /* nothing was written, or another's flush has covered it by now */
    ended (s, op, 0);
  else if (fm_store_is_server (s) && (rc = need_anchor (s)) < 0)
    ended (s, op, rc);
  else {
    uint64_t covers = atomic_load (&s->writes);
    if (fm_store_is_server (s))
      fm_port_io (s->anchor, op);
    else
      fm_op_finish (s, op, s->ops->run (s, op));
    if (op->rc == 0)
      s->covered = covers;
    if (s->anchor && s->anchor->failed)
      drop_anchor (s);
  }
  free_flush (s);
  return op->rc;
}

int
fm_store_server_fd (struct fm_store *s)
{
  if (!fm_store_is_server (s))
    return -ENOTSOCK;
  struct pollfd fd;
  hold_flush (s);
  int rc = need_anchor (s);
  if (rc == 0) {
    s->ops->step (s->anchor);
    if (s->anchor->failed)
      drop_anchor (s);
    rc = s->anchor && s->ops->pollfd (s->anchor, &fd) ? fcntl (fd.fd, F_DUPFD_CLOEXEC, 0) : -ENOTCONN;
    if (rc == -1)
      rc = -errno;
  }
  free_flush (s);
  return rc;
}

/* ---- one operation, from any thread ---- */

/* In pieces, one after another, until one fails. */
static int
in_pieces (struct fm_port *p, const struct fm_op *op, uint64_t most)
{
  int rc = 0;
  for (uint64_t at = 0; at < op->length && rc == 0; at += most) {
    struct fm_op piece = *op;
    piece.offset += at;
    piece.length = op->length - at < most ? op->length - at : most;
    piece.buf = (char *)op->buf + at;
    rc = fm_port_io (p, &piece);
  }
  return rc;
}

static int
run_on_server (struct fm_store *s, struct fm_op *op)
{
  bool moves = op->kind == FM_READ || op->kind == FM_WRITE;
  uint64_t piece = op->length < FM_PIECE_BULK ? op->length : FM_PIECE_BULK;
  struct fm_room_turn turn;
  int rc = moves ? fm_room_enter (&turn, &s->room_used, piece, s->timeout_ns) : 0;
  if (rc < 0)
    return ended (s, op, rc);
  struct fm_port *p = fm_port_borrow (s, &rc);
  if (!p)
    ended (s, op, rc);
  else {
    if (moves && op->length > turn.bytes) {
      op->rc = in_pieces (p, op, turn.bytes);
      op->done = true;
    } else
      fm_port_io (p, op);
    fm_store_give_port (s, p);
  }
  if (moves)
    fm_room_leave (&turn);
  return op->rc;
}

static int
run (struct fm_store *s, struct fm_op *op)
{
  if (fm_store_is_server (s))
    return run_on_server (s, op);
  return ended (s, op, fm_parts_run (s, op));
}

void
fm_store_written (struct fm_store *s, uint64_t number, int rc)
{
  /* First count it, then look: who drops an anchor does the one and the other in the other
   * order, so one of the two sees that the anchor did not outlive the write.  One that failed
   * may have been done in part, which is to be flushed, but nobody counts on it. */
  atomic_fetch_add (&s->writes, 1);
  if (rc == 0 && fm_store_is_server (s) && atomic_load (&s->anchored) != number)
    fm_store_lose (s);
}

int
fm_store_io (struct fm_store *s, struct fm_op *op)
{
  if (op->kind == FM_FLUSH)
    return run_flush (s, op);
  if (op->kind == FM_READ)
    return run (s, op);
  if (op->flags & FM_FUA) {
    /* Durable when it succeeds; one that failed may be in the cache in part, for a flush. */
    int rc = run (s, op);
    if (rc < 0)
      atomic_fetch_add (&s->writes, 1);
    return rc;
  }
  uint64_t number = 0;
  int rc = fm_store_is_server (s) ? anchor_for_write (s, &number) : 0;
  if (rc < 0)
    return ended (s, op, rc);
  rc = run (s, op);
  fm_store_written (s, number, rc);
  return rc;
}

int
fm_store_flush (struct fm_store *s, _Atomic uint64_t *heard)
{
  struct fm_op op = { .kind = FM_FLUSH };
  uint64_t known = atomic_load (heard);
  int rc = fm_store_io (s, &op);
  uint64_t lost = atomic_load (&s->lost);
  atomic_store (heard, lost);
  return rc == 0 && lost != known ? -EIO : rc;
}

uint64_t
fm_store_size (struct fm_store *s)
{
  return s->size;
}

uint64_t
fm_store_losses (struct fm_store *s)
{
  return atomic_load (&s->lost);
}

int
fm_store_read (struct fm_store *s, void *buf, uint64_t n, uint64_t offset)
{
  struct fm_op op = { .kind = FM_READ, .buf = buf, .length = n, .offset = offset };
  return fm_store_io (s, &op);
}

uint64_t
fm_store_hole (struct fm_store *s, uint64_t offset, uint64_t length, uint64_t *data)
{
  return s->ops->hole (s, offset, length, data);
}
