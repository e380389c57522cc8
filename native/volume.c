/* See volume.h. */
#include "volume.h"
#include "lane.h"
#include "late.h"
#include "news.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifndef RUN_BYTES
#define RUN_BYTES (256 * 1024) /* one copy at most, but at least one block */
#endif
#define LONGER_NS (25 * FM_MS) /* a slice is longer by itself for each so much of the way, ... */
#define LONGER_MAX 10          /* ... at most */
#define BLOCK_MIN 512
#define BLOCK_MAX (32U * 1024 * 1024)

int
fm_volume_create (struct fm_store *front, struct fm_store *first, uint64_t size,
                  uint32_t block_size, bool preserve_first, struct fm_volume **out)
{
  if (size == 0 || block_size < BLOCK_MIN || block_size > BLOCK_MAX
      || (block_size & (block_size - 1)))
    return -EINVAL;
  struct fm_volume *v = calloc (1, sizeof *v);
  if (!v)
    return -ENOMEM;
  v->size = size;
  v->shift = (unsigned)__builtin_ctz (block_size);
  v->nblocks = (size + block_size - 1) >> v->shift;
  v->run_blocks = block_size >= RUN_BYTES ? 1 : RUN_BYTES >> v->shift;
  v->front = front;
  v->first = first;
  v->preserve_first = preserve_first;
  v->shared_fd = -1;
  v->next = &v->maps[0];
  v->pending = &v->maps[1];
  v->sent = &v->maps[2];
  v->hardening = &v->maps[3];
  fm_flow_init (&v->flow);
  fm_flow_init (&v->near);
  fm_gate_init (&v->gate);
  pthread_mutex_init (&v->lock, NULL);
  pthread_mutex_init (&v->failed_write.lock, NULL);
  pthread_mutex_init (&v->failed_read.lock, NULL);
  fm_cond_init (&v->moved);
  fm_cond_init (&v->hardened);
  int rc = fm_bitmap_init (&v->unsent, v->nblocks);
  rc = rc < 0 ? rc : fm_bitmap_init (&v->stable, v->nblocks);
  for (unsigned i = 0; rc == 0 && i < FM_MAPS; i++)
    rc = fm_bitmap_init (&v->maps[i], v->nblocks);
  if (rc < 0) {
    fm_volume_free (v);
    return rc;
  }
  front->used = size;
  if (first)
    first->used = size;
  *out = v;
  return 0;
}

void
fm_volume_set_first (struct fm_volume *v, struct fm_store *first)
{
  assert (!v->first && !v->bulk);
  first->used = v->size;
  v->first = first;
}

void
fm_volume_free (struct fm_volume *v)
{
  if (!v)
    return;
  fm_volume_fail (v, -ESHUTDOWN, -1); /* nobody is left who could wait */
  fm_volume_unlink (v);
  for (unsigned i = 0; i < FM_MAPS; i++)
    fm_bitmap_free (&v->maps[i]);
  fm_bitmap_free (&v->unsent);
  fm_bitmap_free (&v->stable);
  fm_volume_unshare (v);
  fm_news_free (v);
  fm_gate_free (&v->gate);
  pthread_cond_destroy (&v->hardened);
  pthread_cond_destroy (&v->moved);
  pthread_mutex_destroy (&v->failed_read.lock);
  pthread_mutex_destroy (&v->failed_write.lock);
  pthread_mutex_destroy (&v->lock);
  free (v);
}

/* What is left of the cycle that the background can still take. */
static uint64_t
left (const struct fm_volume *v)
{
  uint64_t pending = fm_bitmap_count (v->pending); /* first: blocks move this way only */
  return pending + fm_bitmap_count (&v->unsent);
}

/* What the background may take now. */
static uint64_t
ready (const struct fm_volume *v)
{
  bool lost = atomic_load (&v->second_lost), alone = v->comparing || lost;
  if (lost && v->hold)
    return 0;
  return alone ? fm_bitmap_count (v->pending) : left (v);
}

int
fm_volume_copy (struct fm_volume *v, uint64_t slice_ns)
{
  struct fm_lane *l = v->bulk;
  if (!l)
    return -ENOTCONN;
  fm_store_watch (v->first);
  /* At its end what is in flight comes to its end, too: the longer the way, the seldomer. */
  uint64_t times = fm_flow_way_ns (&v->flow) / LONGER_NS;
  uint64_t deadline = fm_now_ns () + slice_ns * (1 + (times < LONGER_MAX ? times : LONGER_MAX));
  for (;;) {
    bool more = fm_now_ns () < deadline && ready (v) && !atomic_load (&v->abandoned);
    bool begun = more && fm_lane_fill (l, deadline);
    bool moved = fm_lane_step (l);
    if (l->active && !moved)
      fm_lane_wait (l, fm_now_ns () + 50 * FM_MS);
    else if (more && !l->active && !begun) {
      /* Writers hold all that is left: wait for one of them; or for the flow. */
      uint64_t until = fm_lane_held_until (l);
      pthread_mutex_lock (&v->lock);
      if (v->nclaims || until)
        fm_cond_wait_until (&v->moved, &v->lock, until && until < deadline ? until : deadline);
      pthread_mutex_unlock (&v->lock);
    } else if (!more && !l->active)
      break;
  }
  int rc = atomic_load (&v->abandoned);
  return rc ? rc : ready (v) == 0;
}

void
fm_volume_set_bucket (struct fm_volume *v, struct fm_bucket *b)
{
  v->flow.bucket = b;
}

void
fm_volume_compare (struct fm_volume *v, bool comparing)
{
  v->comparing = comparing;
}

void
fm_volume_equal (struct fm_volume *v, uint64_t first, uint64_t n)
{
  assert (v->comparing && first <= v->nblocks && n <= v->nblocks - first);
  pthread_mutex_lock (&v->lock);
  fm_bitmap_set (v->sent, first, n);
  uint64_t moved = fm_bitmap_clear (&v->unsent, first, n);
  assert (moved == n); /* nobody but the background feeds, and it waits */
  pthread_mutex_unlock (&v->lock);
}

/* Sink 0.  What a flush of another store had lost of it is no more told by its own, nor is that it was too short before
 * a write to it, nor that its server had gone between the two. */
static int
flush_first (struct fm_volume *v)
{
  struct fm_op op = { .kind = FM_FLUSH };
  int rc = fm_port_io (v->bulk->sink[0], &op);
  uint64_t lost = fm_store_losses (v->first), known = v->first_heard;
  v->first_heard = lost;
  return rc == 0 && lost != known ? -EIO : rc;
}

int
fm_volume_flush_front (struct fm_volume *v)
{
  return fm_store_flush (v->front, &v->heard);
}

int
fm_volume_flush (struct fm_volume *v, bool front_too)
{
  int rc = atomic_load (&v->abandoned);
  if (rc < 0)
    return rc;
  if (!v->bulk)
    return -ENOTCONN;
  if ((rc = flush_first (v)) < 0)
    fm_volume_fail (v, rc, 0);
  if (rc == 0 && front_too && (rc = fm_volume_flush_front (v)) < 0)
    fm_volume_fail (v, rc, -1);
  return rc;
}

/* ---- the maps ---- */

static uint32_t
now_s (void)
{
  return (uint32_t)(fm_now_ns () / (1000 * FM_MS));
}

void
fm_volume_settle (struct fm_volume *v)
{
  assert (left (v) == 0 && !v->strict && fm_bitmap_count (v->hardening) == 0);
  if (v->intent) {
    fm_intent_used (v->intent, v->sent, v->shift, now_s ());
    fm_intent_used (v->intent, &v->stable, v->shift, now_s ());
  }
  fm_bitmap_empty (v->sent);
  fm_bitmap_empty (&v->stable);
  atomic_store (&v->cycle_since_ns, 0);
  v->sure = v->cycle_lost;
}

void
fm_volume_set_intent (struct fm_volume *v, struct fm_intent *i)
{
  assert (!v->strict && i->shift >= v->shift);
  v->intent = i;
}

int
fm_volume_heat_next (struct fm_volume *v)
{
  int rc = 0;
  uint64_t at, n;
  for (uint64_t from = 0; rc == 0 && fm_bitmap_run (v->next, from, v->nblocks, &at, &n);
       from = at + n)
    rc = fm_intent_heat (v->intent, at << v->shift, n << v->shift);
  return rc;
}

int
fm_volume_cool (struct fm_volume *v, uint32_t after_s)
{
  assert (left (v) == 0 && fm_bitmap_count (v->sent) == 0);
  uint32_t now = now_s ();
  return v->intent && now >= after_s ? fm_intent_cool (v->intent, v->next, v->shift, now - after_s + 1) : 0;
}

int
fm_volume_renew_intent (struct fm_volume *v)
{
  return v->intent ? fm_intent_renew (v->intent) : 0;
}

int
fm_volume_seal_intent (struct fm_volume *v)
{
  return v->intent ? fm_intent_seal (v->intent) : 0;
}

void
fm_volume_set_hold (struct fm_volume *v)
{
  v->hold = true;
}

void
fm_volume_set_patience (struct fm_volume *v, uint64_t ns)
{
  atomic_store (&v->patience_ns, ns);
}

void
fm_volume_set_returning (struct fm_volume *v, uint64_t ns)
{
  v->returning_ns = ns;
}

void
fm_volume_set_strict (struct fm_volume *v)
{
  v->strict = true;
  atomic_store (&v->owed, fm_bitmap_count (v->pending));
}

void
fm_volume_harden_begin (struct fm_volume *v)
{
  assert (fm_bitmap_count (v->hardening) == 0);
  pthread_mutex_lock (&v->lock);
  struct fm_bitmap *t = v->hardening;
  v->hardening = v->sent;
  v->sent = t;
  atomic_store (&v->harden_wanted, false);
  pthread_mutex_unlock (&v->lock);
}

void
fm_volume_harden_end (struct fm_volume *v)
{
  if (!v->strict) /* without the lock, which writers want: both are of this thread alone */
    fm_bitmap_or (&v->stable, v->hardening);
  pthread_mutex_lock (&v->lock);
  if (v->strict)
    atomic_fetch_sub (&v->owed, fm_bitmap_count (v->hardening));
  fm_bitmap_empty (v->hardening);
  pthread_cond_broadcast (&v->hardened);
  pthread_mutex_unlock (&v->lock);
}

/* Writers' copies that were under way when it failed come to their ends; with `lock`. */
static void
drain_claims (struct fm_volume *v)
{
  assert (atomic_load (&v->abandoned));
  while (v->nclaims)
    fm_cond_wait_until (&v->moved, &v->lock, fm_now_ns () + 1000 * FM_MS);
}

/* What is to be flushed is written after this.  A write that was given up (late.h) settles with a loss, of what was there
 * before: that is to be counted first.  0, or -errno while it has not settled: until then nothing is written. */
static int
begin_first (struct fm_volume *v)
{
  int rc = fm_late_refusal (v->first);
  v->first_heard = fm_store_losses (v->first);
  return rc;
}

void
fm_volume_retry (struct fm_volume *v)
{
  assert (v->strict);
  if (!atomic_load (&v->abandoned))
    return;
  pthread_mutex_lock (&v->lock);
  drain_claims (v); /* first: one of them may be given up; and nobody begins another until it is abandoned no more */
  pthread_mutex_unlock (&v->lock);
  int rc = begin_first (v);
  pthread_mutex_lock (&v->lock);
  fm_bitmap_or (v->pending, v->sent);
  fm_bitmap_or (v->pending, v->hardening);
  fm_bitmap_empty (v->sent);
  fm_bitmap_empty (v->hardening);
  atomic_store (&v->abandoned, 0);
  pthread_mutex_unlock (&v->lock);
  if (rc < 0)
    fm_volume_fail (v, rc, 0);
}

void
fm_volume_forget_next (struct fm_volume *v)
{
  fm_bitmap_reset (v->next);
  atomic_store (&v->next_since_ns, 0);
}

void
fm_volume_fail (struct fm_volume *v, int rc, int part)
{
  assert (rc < 0);
  pthread_mutex_lock (&v->lock);
  if (!atomic_load (&v->abandoned)) {
    atomic_store (&v->failed_part, part); /* first: who sees the one reads the other */
    atomic_store (&v->abandoned, rc);
  }
  pthread_cond_broadcast (&v->moved);
  pthread_cond_broadcast (&v->hardened);
  pthread_mutex_unlock (&v->lock);
}

void
fm_volume_lose_second (struct fm_volume *v, int rc)
{
  assert (rc < 0 && !v->strict);
  int none = 0;
  atomic_compare_exchange_strong (&v->second_lost, &none, rc);
}

void
fm_volume_leave_second (struct fm_volume *v)
{
  atomic_store (&v->leaves, true); /* first: a link that is just made looks after it (link.c) */
  fm_volume_lose_second (v, -ESHUTDOWN);
}

void
fm_volume_forget_stable (struct fm_volume *v)
{
  assert (atomic_load (&v->second_lost));
  fm_bitmap_or (&v->unsent, &v->stable); /* first: at no time is a block in none */
  fm_bitmap_empty (&v->stable);
}

void
fm_volume_all_sent (struct fm_volume *v)
{
  assert (fm_bitmap_count (v->pending) == 0 && !v->bulk->active);
  fm_bitmap_or (v->sent, &v->unsent);
  fm_bitmap_empty (&v->unsent);
}

void
fm_volume_abandon (struct fm_volume *v)
{
  assert (!v->strict);
  pthread_mutex_lock (&v->lock);
  drain_claims (v);
  pthread_mutex_unlock (&v->lock);
  /* First into next, then out of the others: at no time is a block in none. */
  fm_bitmap_or (v->next, v->pending);
  fm_bitmap_or (v->next, &v->unsent);
  fm_bitmap_or (v->next, v->sent);
  fm_bitmap_or (v->next, v->hardening);
  fm_bitmap_or (v->next, &v->stable);
  if (v->cycle_unheated)
    atomic_store (&v->unheated, true);
  /* Older than any write in `next`; and at no time are both 0. */
  uint64_t since = atomic_load (&v->cycle_since_ns);
  if (since && atomic_load (&v->next_since_ns) != FM_SINCE_UNKNOWN)
    atomic_store (&v->next_since_ns, since);
  atomic_store (&v->cycle_since_ns, 0);
  fm_bitmap_clear_all (v->pending); /* writers look at it */
  fm_bitmap_reset (&v->unsent);
  fm_bitmap_reset (v->sent);
  fm_bitmap_reset (v->hardening);
  fm_bitmap_reset (&v->stable);
}

void
fm_volume_doubt_front (struct fm_volume *v)
{
  v->sure = UINT64_MAX;
}

bool
fm_volume_doubts_front (const struct fm_volume *v)
{
  return !v->strict && atomic_load (&v->front->lost) != v->sure;
}

void
fm_volume_lose_front (struct fm_volume *v)
{
  atomic_store (&v->heard, fm_store_lose (v->front));
}

void
fm_volume_mark (struct fm_volume *v, uint64_t first, uint64_t n)
{
  atomic_store (&v->next_since_ns, FM_SINCE_UNKNOWN);
  fm_bitmap_set (v->next, first, n);
}

void
fm_volume_mark_pending (struct fm_volume *v, uint64_t first, uint64_t n)
{
  atomic_fetch_add (&v->owed, fm_bitmap_set (v->pending, first, n));
}

const struct fm_bitmap *
fm_volume_map (struct fm_volume *v, int which)
{
  const struct fm_bitmap *maps[]
    = { v->next, v->pending, &v->unsent, v->sent, v->hardening, &v->stable };
  assert (which >= 0 && which < (int)(sizeof maps / sizeof *maps));
  return maps[which];
}

unsigned
fm_volume_runs (struct fm_volume *v, int which, uint64_t from, uint64_t *out, unsigned max)
{
  const struct fm_bitmap *map = fm_volume_map (v, which);
  unsigned i = 0;
  while (i < max && fm_bitmap_run (map, from, v->nblocks, &out[2 * i], &out[2 * i + 1])) {
    from = out[2 * i] + out[2 * i + 1];
    i++;
  }
  return i;
}

void
fm_volume_mark_data (struct fm_volume *v)
{
  uint64_t mask = (1ULL << v->shift) - 1;
  for (uint64_t at = 0; at < v->size;) {
    uint64_t data, hole = v->front->ops->hole (v->front, at, v->size - at, &data);
    if (hole == 0) {
      uint64_t first = at >> v->shift, end = (at + data + mask) >> v->shift;
      fm_volume_mark (v, first, end - first);
      hole = data;
    }
    at += hole;
  }
}

void
fm_volume_read_stats (struct fm_volume *v, struct fm_volume_stats *s)
{
  /* A reader in the instant of the swap may count one map twice, which a figure
   * for people can bear. */
  s->next_blocks = fm_bitmap_count (v->next);
  s->pending_blocks = fm_bitmap_count (v->pending);
  s->unsent_blocks = fm_bitmap_count (&v->unsent);
  /* A swap moves a time one way, an abandon the other: read so, it is met in one of the two. */
  s->next_since_ns = atomic_load (&v->next_since_ns);
  s->cycle_since_ns = atomic_load (&v->cycle_since_ns);
  if (!s->next_since_ns)
    s->next_since_ns = atomic_load (&v->next_since_ns);
  s->heard_ns = atomic_load (&v->heard_ns);
  for (unsigned i = 0; i < FM_SINKS; i++)
    s->copied_bytes[i] = atomic_load (&v->copied_bytes[i]);
  pthread_mutex_lock (&v->lock);
  s->sent_blocks = fm_bitmap_count (v->sent) + fm_bitmap_count (v->hardening)
                   + fm_bitmap_count (&v->stable);
  s->wire_bytes = v->wire_bytes_before;
  if (v->second)
    s->wire_bytes += atomic_load (&v->second->written_bytes);
  pthread_mutex_unlock (&v->lock);
  s->copies_before_write = atomic_load (&v->copies_before_write);
  s->write_errors = atomic_load (&v->write_errors);
  s->read_errors = atomic_load (&v->read_errors);
  s->wait_us_sum = atomic_load (&v->wait_us_sum);
  for (unsigned i = 0; i < FM_HISTOGRAM; i++)
    s->wait_us[i] = atomic_load (&v->wait_us[i]);
  s->abandoned = atomic_load (&v->abandoned);
  s->failed_part = atomic_load (&v->failed_part);
  s->closed_part = atomic_load (&v->closed_part);
  s->second_lost = atomic_load (&v->second_lost);
  s->write_error = atomic_load (&v->failed_write.rc);
  s->read_error = atomic_load (&v->failed_read.rc);
}

/* ---- the group ---- */

uint64_t
fm_group_next_blocks (struct fm_volume **v, unsigned n)
{
  uint64_t sum = 0;
  for (unsigned i = 0; i < n; i++)
    sum += fm_bitmap_count (v[i]->next);
  return sum;
}

bool
fm_group_harden_wanted (struct fm_volume **v, unsigned n)
{
  for (unsigned i = 0; i < n; i++)
    if (atomic_load (&v[i]->harden_wanted))
      return true;
  return false;
}

void
fm_group_anchor (struct fm_volume **v, unsigned n)
{
  for (unsigned i = 0; i < n; i++)
    if (fm_store_need_anchor (v[i]->front) < 0)
      break; /* the swap says so; nothing is gained by waiting for others */
}

int
fm_group_close (struct fm_volume **v, unsigned n, uint64_t deadline_ns)
{
  int rc = 0;
  for (unsigned i = 0; i < n; i++)
    fm_gate_close (&v[i]->gate);
  for (unsigned i = 0; rc == 0 && i < n; i++)
    rc = fm_gate_drain (&v[i]->gate, deadline_ns);
  if (rc < 0)
    fm_group_open (v, n);
  return rc;
}

void
fm_group_swap (struct fm_volume **v, unsigned n)
{
  for (unsigned i = 0; i < n; i++) {
    assert (left (v[i]) == 0 && fm_bitmap_count (v[i]->sent) == 0);
    assert (fm_bitmap_count (&v[i]->stable) == 0);
    assert (fm_bitmap_count (v[i]->hardening) == 0 && atomic_load (&v[i]->owed) == 0);
    struct fm_bitmap *t = v[i]->next;
    v[i]->next = v[i]->pending;
    v[i]->pending = t;
    if (v[i]->strict)
      atomic_store (&v[i]->owed, fm_bitmap_count (t));
    v[i]->cycle_unheated = atomic_exchange (&v[i]->unheated, false);
    atomic_store (&v[i]->cycle_since_ns, atomic_load (&v[i]->next_since_ns));
    atomic_store (&v[i]->next_since_ns, 0);
    atomic_store (&v[i]->abandoned, 0);
    /* What is copied is read after this, so it is what a loss has left (of the target:
     * what a commit asserts was flushed before this). */
    uint64_t lost = atomic_load (&v[i]->front->lost);
    atomic_store (&v[i]->heard, lost);
    v[i]->restores = !v[i]->strict && lost != v[i]->sure;
    v[i]->cycle_lost = lost;
    int rc = begin_first (v[i]);
    if (rc < 0)
      fm_volume_fail (v[i], rc, 0);
    if (!v[i]->strict && !fm_store_has_anchor (v[i]->front)) /* after the line above: flush.c drops it first */
      fm_volume_fail (v[i], -ENOTCONN, -1);
  }
}

void
fm_group_open (struct fm_volume **v, unsigned n)
{
  for (unsigned i = 0; i < n; i++)
    fm_gate_open (&v[i]->gate);
}

int
fm_group_freeze (struct fm_volume **v, unsigned n, uint64_t budget_ns, uint64_t *held_ns)
{
  fm_group_anchor (v, n);
  uint64_t start = fm_now_ns ();
  int rc = fm_group_close (v, n, start + budget_ns);
  if (rc == 0) {
    fm_group_swap (v, n);
    fm_group_open (v, n);
  }
  *held_ns = fm_now_ns () - start;
  for (unsigned i = 0; rc == 0 && i < n; i++) /* beside the writers */
    assert (!v[i]->intent || v[i]->cycle_unheated
            || fm_intent_covers (v[i]->intent, v[i]->pending, v[i]->shift));
  return rc;
}

int
fm_group_fence (struct fm_volume **v, unsigned n, uint64_t session, uint64_t budget_ns)
{
  int rc = fm_group_close (v, n, fm_now_ns () + budget_ns);
  if (rc < 0)
    return rc;
  for (unsigned i = 0; i < n; i++) {
    atomic_store (&v[i]->session, session);
    /* What older sessions wrote counts no more, lost or not. */
    uint64_t lost = atomic_load (&v[i]->front->lost);
    atomic_store (&v[i]->heard, lost);
    atomic_store (&v[i]->told, lost);
  }
  fm_group_open (v, n);
  return 0;
}
