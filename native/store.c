/* Ports, and operations from any thread.  See store.h. */
#include "below.h"
#include "flush.h"
#include "late.h"
#include "parts.h"
#include "pool.h"
#include "room.h"
#include "store.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define PROBE_BYTES 4096 /* there are servers that read no less, and do not say so */
#define PROBES 4 /* in a time-out, of a server that flushes */

/* Not of a connection that has ended, or is silent: the next one tells the size.  Which error a server gives behind the
 * end of a file is its own affair: EIO, EINVAL, ENOSPC, or whatever its thread has met last (nbdkit 1.32). */
static bool
is_answer (int rc)
{
  return rc != -ENOTCONN && rc != -ETIMEDOUT && rc != -ESHUTDOWN && rc != -EOPNOTSUPP;
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
    else if (fm_store_is_server (s) && is_answer (rc))
      atomic_fetch_add (&s->doubts, 1);
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
  s->sizes = (struct fm_block_sizes){ 1, 1, UINT32_MAX };
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
  return fm_port_open_by (s, fm_now_ns () + s->timeout_ns, rc);
}

struct fm_port *
fm_port_open_by (struct fm_store *s, uint64_t deadline_ns, int *rc)
{
  uint64_t doubts = atomic_load (&s->doubts), known = atomic_load (&s->settled);
  struct fm_port *p = calloc (1, sizeof *p);
  if (!p) {
    *rc = -ENOMEM;
    return NULL;
  }
  p->store = s;
  *rc = s->ops->port_open (p, deadline_ns);
  if (*rc < 0) {
    free (p);
    return NULL;
  }
  while (known < doubts && !atomic_compare_exchange_weak (&s->settled, &known, doubts))
    ;
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
  fm_below_leave (s);
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
  char bytes[FM_MINIMUM_MOST];
  uint64_t least = s->sizes.minimum > PROBE_BYTES ? s->sizes.minimum : PROBE_BYTES;
  struct fm_parts probe = { .op = { .done = true } };
  struct fm_op read = { .kind = FM_READ, .buf = bytes,
                        .length = s->size < least ? s->size : least };
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
  op->refused = t.op.refused;
  return op->rc = t.op.rc;
}

/* ---- one operation, from any thread ---- */

int
fm_op_unsent (struct fm_store *s, struct fm_op *op, int rc)
{
  if (rc < 0)
    atomic_fetch_add_explicit (&s->errors, 1, memory_order_relaxed);
  op->rc = rc;
  op->done = true;
  return rc;
}

/* In pieces, one after another, until one fails. */
static void
in_pieces (struct fm_port *p, struct fm_op *op, uint64_t most)
{
  op->rc = 0;
  op->done = true;
  for (uint64_t at = 0; at < op->length && op->rc == 0; at += most) {
    struct fm_op piece = *op;
    piece.offset += at;
    piece.length = op->length - at < most ? op->length - at : most;
    piece.buf = (char *)op->buf + at;
    op->rc = fm_port_io (p, &piece);
    op->refused = piece.refused && at == 0;
  }
}

/* A connection of the pool, for what counts on the anchor of that number (NULL: on none). */
static struct fm_port *
borrow (struct fm_store *s, uint64_t *number, int *rc)
{
  for (;;) {
    if (number && (*rc = fm_flush_anchor (s, number)) < 0)
      return NULL;
    struct fm_port *p = fm_port_borrow (s, rc);
    if (!p || !number || atomic_load (&s->anchored) == *number)
      return p;
    fm_port_give (p); /* the anchor has ended */
  }
}

static int
run_on_server (struct fm_store *s, struct fm_op *op, uint64_t *number)
{
  bool moves = op->kind == FM_READ || op->kind == FM_WRITE;
  uint64_t piece = op->length < FM_PIECE_BULK ? op->length : FM_PIECE_BULK;
  struct fm_room_turn turn;
  int rc = moves ? fm_room_enter (&turn, &s->room_used, piece, s->timeout_ns) : 0;
  op->refused = true; /* until it is sent */
  if (rc < 0)
    return fm_op_unsent (s, op, rc);
  struct fm_port *p = borrow (s, number, &rc);
  if (!p)
    fm_op_unsent (s, op, rc);
  else {
    if (moves && op->length > turn.bytes)
      in_pieces (p, op, turn.bytes);
    else
      fm_port_io (p, op);
    fm_store_give_port (s, p);
  }
  if (moves)
    fm_room_leave (&turn);
  return op->rc;
}

/* `number` becomes that of the anchor that a server's write counts on; NULL: it counts on none. */
static int
run (struct fm_store *s, struct fm_op *op, uint64_t *number)
{
  if (fm_store_is_server (s))
    return run_on_server (s, op, number);
  return fm_op_unsent (s, op, fm_parts_run (s, op));
}

/* The error of a flush that the system or a server does for one write with FUA would be all that is said of what
 * others had written (a disk's cache is flushed whole), and their flush may be good before we hear it; and it may take
 * long.  So a flush of ours is what makes it durable. */
int
fm_store_io_unflushed (struct fm_store *s, struct fm_op *op, _Atomic uint64_t *heard)
{
  if (op->kind == FM_FLUSH)
    return fm_flush_run (s, op);
  if (op->kind == FM_READ)
    return run (s, op, NULL);
  bool durable = op->flags & FM_FUA;
  uint64_t number = 0;
  atomic_store (heard, atomic_load (&s->lost));
  op->flags &= ~(unsigned)FM_FUA;
  int rc = run (s, op, &number);
  if (!op->refused)
    fm_store_written (s, number, rc);
  return rc == 0 && durable ? 1 : rc;
}

int
fm_store_io (struct fm_store *s, struct fm_op *op)
{
  _Atomic uint64_t heard;
  int rc = fm_store_io_unflushed (s, op, &heard);
  return rc == 1 ? op->rc = fm_store_flush (s, &heard) : rc;
}

uint64_t
fm_store_size (struct fm_store *s)
{
  return s->size;
}

struct fm_block_sizes
fm_store_block_sizes (const struct fm_store *s)
{
  return s->sizes;
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
