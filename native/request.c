/* See request.h. */
#include "request.h"
#include "lane.h"
#include "parts.h"
#include "room.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>

#define LOOK_AGAIN_NS (50 * FM_MS) /* a bound for waits whose end is signalled */

int
fm_request_begin (struct fm_volume *v, struct fm_request *r)
{
  if (!fm_gate_try_enter (&v->gate))
    return -EAGAIN;
  if (atomic_load (&v->session) == r->session)
    return 0;
  fm_gate_leave (&v->gate);
  return -ESHUTDOWN;
}

static void
give_back (struct fm_volume *v, struct fm_request *r)
{
  pthread_mutex_lock (&v->lock);
  bool old = r->lane->link != v->links;
  struct fm_lane **idle = old ? &v->old : &v->prio;
  r->lane->next = *idle;
  *idle = r->lane;
  *(old ? &v->old_out : &v->nprio_out) -= 1;
  r->put_off = r->lane->put_off;
  pthread_cond_broadcast (&v->moved);
  pthread_mutex_unlock (&v->lock);
  r->lane = NULL;
}

/* Whether nothing is copied until there is another link. */
static bool
held (const struct fm_volume *v)
{
  return v->hold && atomic_load (&v->second_lost);
}

static void
account_wait (struct fm_volume *v, const struct fm_request *r)
{
  if (!r->waited_since_ns)
    return;
  uint64_t us = (fm_now_ns () - r->waited_since_ns) / 1000;
  unsigned bucket = us ? 64 - (unsigned)__builtin_clzll (us) : 0;
  if (bucket >= FM_HISTOGRAM)
    bucket = FM_HISTOGRAM - 1;
  atomic_fetch_add (&v->wait_us[bucket], 1);
  atomic_fetch_add (&v->wait_us_sum, us);
  atomic_fetch_add (&v->copies_before_write, 1);
}

static int
leave (struct fm_volume *v, struct fm_request *r, int rc)
{
  if (rc != -EAGAIN) /* it comes again */
    account_wait (v, r);
  fm_gate_leave (&v->gate);
  return rc;
}

/* Whether sink 1 alone holds up this copy: its own thread waits for nothing else either. */
static bool
held_by_second (const struct fm_claim *c)
{
  return c->n && atomic_load (&c->at_second) && atomic_load (&c->lane->waiting);
}

/* Whether the writers' lanes are all in use, and sink 1 holds up one of them.  With `lock`. */
static bool
lanes_held_by_second (const struct fm_volume *v)
{
  for (unsigned i = 0; !v->prio && i < v->claims_high; i++)
    if (v->claims[i].n && v->claims[i].lane->nslots == 1 && held_by_second (&v->claims[i]))
      return true;
  return false;
}

/* A wait is over.  A step is none: it does the work of this site's own stores. */
static void
count_wait (struct fm_request *r)
{
  if (r->at_second)
    r->second_ns += fm_now_ns () - r->looked_ns;
  r->at_second = r->put_off = false;
}

static int
put_off (struct fm_volume *v, struct fm_request *r, uint64_t now)
{
  if (r->session) /* nothing of it is written, but who asks is there */
    atomic_store_explicit (&v->heard_ns, now, memory_order_relaxed);
  return leave (v, r, -EAGAIN);
}

/* It is to wait.  What for is looked at now and then, so the time until the next look is that of what is
 * found now. */
static int
goes_on_later (struct fm_volume *v, struct fm_request *r)
{
  uint64_t now = fm_now_ns (), patience = atomic_load (&v->patience_ns);
  if (v->strict)
    return patience && !r->lane && now >= r->waited_since_ns + patience ? put_off (v, r, now) : 0;
  r->looked_ns = now;
  if (r->lane)
    r->at_second = atomic_load (&r->lane->slots[0].claim->at_second);
  else {
    pthread_mutex_lock (&v->lock);
    const struct fm_claim *c = fm_plan_overlap (v->claims, v->claims_high, r->at, 1);
    r->at_second = r->put_off || (c ? held_by_second (c) : lanes_held_by_second (v));
    pthread_mutex_unlock (&v->lock);
  }
  if (r->at_second && patience && r->second_ns >= patience)
    fm_volume_lose_second (v, -ETIMEDOUT);
  return 0;
}

/* A writer of a strict volume is told to come again (`patience_ns`), and cannot leave a copy half
 * done.  So one that may take long is the background's, which makes that first. */
static bool
left_to_background (const struct fm_volume *v)
{
  uint64_t piece = fm_parts_piece (v->first, FM_WRITE);
  return v->strict && atomic_load (&v->patience_ns)
         && 1ULL << v->shift > (piece < FM_PIECE ? piece : FM_PIECE);
}

/* Claim the first pending run under the request if nobody has, with a lane. */
static struct fm_slot *
claim_under (struct fm_volume *v, struct fm_request *r, uint64_t first, uint64_t n)
{
  struct fm_slot *s = NULL;
  pthread_mutex_lock (&v->lock);
  if (n > v->run_blocks)
    n = v->run_blocks;
  enum fm_copy copy = v->prio ? fm_lane_copy (v->prio, false) : FM_COPY_LATER;
  if (atomic_load (&v->abandoned) || fm_plan_overlap (v->claims, v->claims_high, first, 1))
    n = 0; /* void: fm_volume_abandon counts on no new claims; or somebody copies it now */
  for (const struct fm_claim *c;
       n && (c = fm_plan_overlap (v->claims, v->claims_high, first, n));)
    n = c->first - first;
  /* Between the look at the map and the lock it may have been copied. */
  uint64_t at, m;
  bool still = n && fm_bitmap_run (v->pending, first, n, &at, &m) && at == first;
  if (still && left_to_background (v))
    v->wanted = first + 1;
  else if (still && copy != FM_COPY_LATER) {
    r->lane = v->prio;
    v->prio = r->lane->next;
    v->nprio_out++;
    s = fm_lane_claim (r->lane, copy, first, m);
  }
  pthread_mutex_unlock (&v->lock);
  return s;
}

static uint64_t
end_block (const struct fm_volume *v, const struct fm_request *r)
{
  return ((r->op.offset + r->op.length - 1) >> v->shift) + 1;
}

static bool
touches (const struct fm_bitmap *map, uint64_t first, uint64_t end)
{
  uint64_t at, n;
  return fm_bitmap_count (map) && fm_bitmap_run (map, first, end - first, &at, &n) && at < end;
}

/* I2: whether a block under the request may still be in the durable record of what is
 * pending.  With `lock`, under which blocks move from map to map. */
static bool
owed_under (const struct fm_volume *v, const struct fm_request *r)
{
  uint64_t first = r->op.offset >> v->shift, end = end_block (v, r);
  return touches (v->pending, first, end) || touches (v->sent, first, end)
         || touches (v->hardening, first, end);
}

/* Whether a copy writes back to the front what is under the request (lane.h).  Of a void cycle that is all
 * to wait for: it would undo the write. */
static bool
is_written_back (struct fm_volume *v, uint64_t first, uint64_t end)
{
  bool found = false;
  if (!v->restores)
    return false;
  pthread_mutex_lock (&v->lock);
  for (unsigned i = 0; i < v->claims_high; i++) {
    const struct fm_claim *c = &v->claims[i];
    found |= c->n && c->back && c->first < end && first < c->first + c->n;
  }
  pthread_mutex_unlock (&v->lock);
  return found;
}

/* 1: nothing under the request is pending any more; 0, -errno: as fm_request_step. */
static int
copied_before (struct fm_volume *v, struct fm_request *r)
{
  count_wait (r);
  if (r->lane) {
    fm_lane_step (r->lane);
    if (r->lane->active)
      return goes_on_later (v, r);
    give_back (v, r);
    if (r->put_off)
      return goes_on_later (v, r);
  }
  uint64_t first = r->op.offset >> v->shift;
  uint64_t end = end_block (v, r);
  uint64_t at, n;
  while (fm_bitmap_count (v->pending)
         && fm_bitmap_run (v->pending, first, end - first, &at, &n) && at < end) {
    int failed = atomic_load (&v->abandoned);
    if (failed && !v->strict && !is_written_back (v, first, end))
      break; /* the cycle is void: its old bytes are needed no more */
    if (failed && v->strict)
      return leave (v, r, failed);
    if (!r->waited_since_ns)
      r->waited_since_ns = fm_now_ns ();
    struct fm_slot *s = claim_under (v, r, at, n < end - at ? n : end - at);
    r->at = at;
    if (!s)
      return goes_on_later (v, r);
    fm_lane_begin (r->lane, s);
    fm_lane_step (r->lane);
    if (r->lane->active)
      return goes_on_later (v, r);
    give_back (v, r);
    if (r->put_off)
      return goes_on_later (v, r);
    first = at;
  }
  if (v->strict && atomic_load (&v->owed)) {
    int failed = 0;
    pthread_mutex_lock (&v->lock);
    r->unhardened = owed_under (v, r);
    if (r->unhardened) {
      failed = atomic_load (&v->abandoned);
      atomic_store (&v->harden_wanted, true);
    }
    pthread_mutex_unlock (&v->lock);
    if (failed)
      return leave (v, r, failed);
    if (!r->unhardened)
      return 1;
    if (!r->waited_since_ns)
      r->waited_since_ns = fm_now_ns ();
    return goes_on_later (v, r);
  }
  return 1;
}

/* In `next` before anything of it may be on the front (I4 needs it before the intent). */
static void
record (struct fm_volume *v, const struct fm_request *r)
{
  uint64_t first = r->op.offset >> v->shift;
  fm_bitmap_set (v->next, first, end_block (v, r) - first);
  if (r->session)
    atomic_store_explicit (&v->heard_ns, fm_now_ns (), memory_order_relaxed);
  if (!atomic_load_explicit (&v->next_since_ns, memory_order_relaxed)) {
    uint64_t none = 0;
    atomic_compare_exchange_strong (&v->next_since_ns, &none, fm_now_ns ());
  }
}

int
fm_volume_adopt (struct fm_volume *v, uint64_t session, uint64_t first, uint64_t n)
{
  uint64_t offset = first << v->shift;
  if (first >= v->nblocks || n == 0 || n > v->nblocks - first)
    return -EINVAL;
  struct fm_request r = { .session = session,
                          .op = { .kind = FM_WRITE, .offset = offset,
                                  .length = (n << v->shift) < v->size - offset
                                              ? n << v->shift : v->size - offset } };
  int rc;
  while ((rc = fm_request_begin (v, &r)) == -EAGAIN)
    fm_gate_wait_open (&v->gate);
  if (rc < 0)
    return rc;
  record (v, &r);
  return leave (v, &r, 0);
}

int
fm_request_step (struct fm_volume *v, struct fm_request *r)
{
  int rc = copied_before (v, r);
  if (rc != 1)
    return rc;
  record (v, r);
  if (v->intent)
    rc = fm_intent_heat_step (v->intent, r->op.offset, r->op.length);
  r->heating = rc == 0;
  if (rc < 0)
    atomic_store (&v->unheated, true);
  return rc < 0 ? leave (v, r, rc) : rc;
}

/* The next two: with `lock`. */

static void
note_failed (struct fm_failed *f, uint64_t at, uint64_t end, int rc)
{
  bool joins = f->rc && at < f->end && f->at < end;
  if (!joins || at < f->at)
    f->at = at;
  if (!joins || end > f->end)
    f->end = end;
  f->rc = rc;
}

static void
note_good (struct fm_failed *f, uint64_t at, uint64_t end)
{
  if (at <= f->at && end > f->at)
    f->at = end;
  else if (at < f->end && end >= f->end)
    f->end = at;
  if (f->at >= f->end)
    f->rc = 0;
}

void
fm_request_note (struct fm_failed *f, const struct fm_op *op, int rc)
{
  uint64_t at = op->offset, end = at + op->length;
  if (rc == 0 && !atomic_load_explicit (&f->rc, memory_order_relaxed))
    return;
  pthread_mutex_lock (&f->lock);
  if (rc < 0)
    note_failed (f, at, end, rc);
  else
    note_good (f, at, end);
  pthread_mutex_unlock (&f->lock);
}

int
fm_request_finish (struct fm_volume *v, struct fm_request *r)
{
  _Atomic uint64_t heard;
  int rc = leave (v, r, fm_store_io_unflushed (v->front, &r->op, &heard));
  if (rc == -EOPNOTSUPP && (r->op.flags & FM_FAST))
    return rc;
  bool durable = rc == 1;
  if (durable)
    rc = fm_request_flush (v, &heard);
  else if (rc < 0)
    atomic_fetch_add (&v->write_errors, 1);
  fm_request_note (&v->failed_write, &r->op, rc); /* of the front: not of the log */
  if (rc == 0)
    fm_request_note (&v->failed_read, &r->op, 0); /* who reads there now reads this */
  return rc == 0 && durable ? fm_volume_seal_intent (v) : rc;
}

int
fm_request_flush (struct fm_volume *v, _Atomic uint64_t *heard)
{
  int rc = fm_store_flush (v->front, heard);
  if (rc < 0)
    atomic_fetch_add (&v->write_errors, 1);
  return rc;
}

void
fm_request_wait (struct fm_volume *v, struct fm_request *r)
{
  uint64_t deadline = fm_now_ns () + LOOK_AGAIN_NS, patience = atomic_load (&v->patience_ns);
  if (r->lane) {
    fm_lane_wait (r->lane, deadline);
    return;
  }
  if (v->strict && patience && r->waited_since_ns + patience < deadline)
    deadline = r->waited_since_ns + patience;
  if (r->heating) {
    fm_intent_wait (v->intent, deadline);
    return;
  }
  uint64_t first = r->op.offset >> v->shift, end = end_block (v, r);
  pthread_mutex_lock (&v->lock);
  if (r->unhardened) {
    if (owed_under (v, r) && !atomic_load (&v->abandoned))
      fm_cond_wait_until (&v->hardened, &v->lock, deadline);
    r->unhardened = false;
    pthread_mutex_unlock (&v->lock);
    return;
  }
  if (r->put_off) { /* others have the lane meanwhile, and the peer a pause, whoever moves */
    while (!atomic_load (&v->abandoned) && !atomic_load (&v->second_lost)
           && fm_cond_wait_until (&v->moved, &v->lock, deadline) == 0)
      ;
    pthread_mutex_unlock (&v->lock);
    return;
  }
  /* A claim that was dropped before we had the lock would not wake us. */
  if (!v->prio || held (v) || left_to_background (v)
      || fm_plan_overlap (v->claims, v->claims_high, first, end - first))
    fm_cond_wait_until (&v->moved, &v->lock, deadline);
  pthread_mutex_unlock (&v->lock);
}
