/* See parts.h. */
#include "parts.h"
#include "wait.h"

#include <errno.h>

#define LOOKS 8 /* at a port where nothing moves, until it is silent */

static bool
is_paced (const struct fm_store *s, enum fm_op_kind kind)
{
  return kind == FM_ZERO || (kind != FM_FLUSH && !s->ops->run); /* a file's bytes are done at once */
}

uint64_t
fm_parts_piece (const struct fm_store *s, enum fm_op_kind kind)
{
  uint64_t most = kind == FM_READ || kind == FM_WRITE ? s->sizes.maximum : UINT64_MAX;
  uint64_t piece = is_paced (s, kind) ? fm_pace_piece (&s->pace[kind]) : UINT64_MAX;
  return piece < most ? piece : most;
}

/* When it begins, 0: nothing is to be learned from it. */
static uint64_t
pace_begin (struct fm_store *s, const struct fm_op *op)
{
  if (op->length < FM_PACE_LEAST || !is_paced (s, op->kind))
    return 0;
  pthread_mutex_lock (&s->lock);
  fm_pace_begin (&s->pace[op->kind]);
  pthread_mutex_unlock (&s->lock);
  return fm_now_ns ();
}

static void
pace_end (struct fm_store *s, const struct fm_op *op, uint64_t begun_ns, int rc, bool learns)
{
  if (!begun_ns)
    return;
  uint64_t now = fm_now_ns ();
  pthread_mutex_lock (&s->lock);
  fm_pace_end (&s->pace[op->kind], op->length, learns && rc == 0 ? begun_ns : 0, now);
  if (rc == -ETIMEDOUT)
    fm_pace_forget (&s->pace[op->kind]);
  pthread_mutex_unlock (&s->lock);
}

int
fm_parts_run (struct fm_store *s, const struct fm_op *op)
{
  uint64_t begun_ns = pace_begin (s, op);
  int rc = s->ops->run (s, op);
  pace_end (s, op, begun_ns, rc, true);
  return rc;
}

static void
begin_part (struct fm_parts *t, struct fm_port *p)
{
  struct fm_store *s = p->store;
  uint64_t piece = fm_parts_piece (s, t->op.kind);
  t->op.length = t->left < piece ? t->left : piece;
  t->left -= t->op.length;
  t->op.done = t->op.refused = t->seen = false;
  t->begun_ns = pace_begin (s, &t->op);
  p->stirred |= !p->under_way;
  s->ops->submit (p, &t->op);
}

void
fm_parts_begin (struct fm_parts *t, struct fm_port *p, struct fm_op op)
{
  *t = (struct fm_parts){ .op = op, .left = op.length };
  begin_part (t, p);
}

bool
fm_parts_step (struct fm_parts *t, struct fm_store *s, struct fm_port *p, bool learns)
{
  while (t->op.done) {
    pace_end (s, &t->op, t->begun_ns, t->op.rc, learns);
    t->begun_ns = 0;
    if (p && !t->seen) /* once: it is asked again while another sink of the same copy is waited for */
      p->stirred = true;
    t->seen = true;
    if (t->op.rc < 0 || !t->left)
      return true;
    if (!p)
      return false;
    t->op.offset += t->op.length;
    if (t->op.buf)
      t->op.buf = (char *)t->op.buf + t->op.length;
    begin_part (t, p);
    t->op.refused = false; /* the part before it was done */
  }
  return false;
}

/* ---- silence ---- */

uint64_t
fm_parts_look_ns (const struct fm_port *p)
{
  return p->under_way && !p->stirred ? p->look_ns : UINT64_MAX;
}

bool
fm_parts_silent (struct fm_port *p, uint64_t now_ns)
{
  const struct fm_store_ops *ops = p->store->ops;
  uint64_t timeout = p->store->timeout_ns;
  if (!p->under_way || p->failed || (!p->stirred && now_ns < p->look_ns))
    return false;
  if (p->stirred)
    p->moved_ns = now_ns;
  else if (ops->drains && ops->drains (p))
    p->moved_ns = p->looked_ns; /* it may have been that long ago */
  if (p->moved_ns > atomic_load (&p->store->moved_ns))
    atomic_store (&p->store->moved_ns, p->moved_ns); /* who waits for a port waits on */
  p->stirred = false;
  p->looked_ns = now_ns;
  uint64_t end = p->moved_ns + timeout, next = now_ns + timeout / LOOKS;
  p->look_ns = next < end ? next : end;
  if (now_ns < end)
    return false;
  p->failed = -ETIMEDOUT;
  return true;
}
