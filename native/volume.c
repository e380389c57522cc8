/* See volume.h. */
#include "volume.h"
#include "lane.h"
#include "wait.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef RUN_BYTES
#define RUN_BYTES (256 * 1024) /* one copy at most, but at least one block */
#endif
#define HEAD_BYTES 4096
#define BLOCK_MIN 512
#define BLOCK_MAX (64U * 1024 * 1024)

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
  v->sink[0] = first;
  v->nsinks = 1;
  v->preserve_first = preserve_first;
  v->shared_fd = -1;
  v->next = &v->maps[0];
  v->pending = &v->maps[1];
  v->sent = &v->maps[2];
  v->hardening = &v->maps[3];
  fm_gate_init (&v->gate);
  pthread_mutex_init (&v->lock, NULL);
  fm_cond_init (&v->moved);
  fm_cond_init (&v->hardened);
  for (unsigned i = 0; i < 5; i++) {
    int rc = fm_bitmap_init (i < 4 ? &v->maps[i] : &v->unsent, v->nblocks);
    if (rc < 0) {
      fm_volume_free (v);
      return rc;
    }
  }
  *out = v;
  return 0;
}

void
fm_volume_free (struct fm_volume *v)
{
  if (!v)
    return;
  fm_volume_unlink (v);
  for (unsigned i = 0; i < 4; i++)
    fm_bitmap_free (&v->maps[i]);
  fm_bitmap_free (&v->unsent);
  if (v->shared_head)
    munmap (v->shared_head, HEAD_BYTES);
  if (v->shared_fd >= 0)
    close (v->shared_fd);
  fm_gate_free (&v->gate);
  pthread_cond_destroy (&v->hardened);
  pthread_cond_destroy (&v->moved);
  pthread_mutex_destroy (&v->lock);
  free (v);
}

/* ---- maps in shared memory ---- */

static struct fm_bitmap *
map_of (struct fm_volume *v, unsigned i)
{
  return i < 4 ? &v->maps[i] : &v->unsent;
}

uint64_t
fm_volume_shared_bytes (const struct fm_volume *v)
{
  return HEAD_BYTES + 5 * fm_bitmap_shared_bytes (&v->unsent);
}

/* Whether the file is in memory, which a disk's is not: it would be read and written back in
 * the way of writes; and whether it can be emptied, as fm_bitmap_reset does. */
static int
can_hold_maps (int fd, uint64_t bytes)
{
  struct statfs where;
  if (fstatfs (fd, &where) < 0)
    return -errno;
  if (where.f_type != TMPFS_MAGIC)
    return -EOPNOTSUPP;
  return fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, HEAD_BYTES,
                    (off_t)(bytes - HEAD_BYTES)) < 0 ? -errno : 0;
}

int
fm_volume_share (struct fm_volume *v, int fd)
{
  assert (!v->strict);
  int rc = v->shared_fd >= 0 ? -EBUSY : can_hold_maps (fd, fm_volume_shared_bytes (v));
  void *head = MAP_FAILED;
  if (rc == 0
      && (head = mmap (NULL, HEAD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
    rc = -errno;
  if (rc < 0) {
    close (fd);
    return rc;
  }
  v->shared_fd = fd;
  v->shared_head = head;
  _Atomic uint64_t *whole = (_Atomic uint64_t *)((char *)head + HEAD_BYTES) - 1;
  uint64_t each = fm_bitmap_shared_bytes (&v->unsent);
  for (unsigned i = 0; rc == 0 && i < 5; i++)
    rc = fm_bitmap_share (map_of (v, i), fd, HEAD_BYTES + i * each, whole);
  if (rc < 0)
    atomic_store (whole, 0);
  return rc;
}

int
fm_volume_mark_shared (struct fm_volume *v, int fd)
{
  int rc = 0;
  for (unsigned i = 0; rc == 0 && i < 5; i++)
    rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i * fm_bitmap_shared_bytes (v->next));
  return rc;
}

/* ---- lanes ---- */

int
fm_volume_link (struct fm_volume *v, struct fm_store *second, unsigned nprio)
{
  assert (!v->bulk && !v->prio && nprio > 0 && nprio <= FM_PRIO_MAX);
  assert (fm_bitmap_count (&v->unsent) == 0);
  assert (v->strict || fm_bitmap_count (v->sent) == 0);
  int rc = 0;
  pthread_mutex_lock (&v->lock);
  v->sink[1] = second;
  v->nsinks = second ? 2 : 1;
  pthread_mutex_unlock (&v->lock);
  v->bulk = fm_lane_open (v, FM_BULK_SLOTS, &rc);
  for (unsigned i = 0; rc == 0 && i < nprio; i++) {
    struct fm_lane *l = fm_lane_open (v, 1, &rc);
    if (!l)
      break;
    pthread_mutex_lock (&v->lock);
    l->next = v->prio;
    v->prio = l;
    pthread_mutex_unlock (&v->lock);
  }
  if (rc < 0)
    fm_volume_unlink (v);
  return rc;
}

void
fm_volume_unlink (struct fm_volume *v)
{
  pthread_mutex_lock (&v->lock);
  while (v->nprio_out) /* bounded by the stores' time-outs */
    fm_cond_wait_until (&v->moved, &v->lock, fm_now_ns () + 1000 * FM_MS);
  struct fm_lane *l = v->prio;
  v->prio = NULL;
  pthread_mutex_unlock (&v->lock);
  while (l) {
    struct fm_lane *next = l->next;
    fm_lane_close (l);
    l = next;
  }
  fm_lane_close (v->bulk);
  v->bulk = NULL;
  pthread_mutex_lock (&v->lock);
  if (v->sink[1])
    v->wire_bytes_before += atomic_exchange (&v->sink[1]->written_bytes, 0);
  v->sink[1] = NULL;
  v->nsinks = 1;
  pthread_mutex_unlock (&v->lock);
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
  return v->comparing ? fm_bitmap_count (v->pending) : left (v);
}

int
fm_volume_copy (struct fm_volume *v, uint64_t slice_ns)
{
  struct fm_lane *l = v->bulk;
  if (!l)
    return -ENOTCONN;
  uint64_t deadline = fm_now_ns () + slice_ns;
  for (;;) {
    bool more = fm_now_ns () < deadline && ready (v) && !atomic_load (&v->abandoned);
    bool begun = more && fm_lane_fill (l);
    bool moved = fm_lane_step (l);
    if (l->active && !moved)
      fm_lane_wait (l, fm_now_ns () + 50 * FM_MS);
    else if (more && !l->active && !begun) {
      /* Writers hold all that is left: wait for one of them. */
      pthread_mutex_lock (&v->lock);
      if (v->nclaims)
        fm_cond_wait_until (&v->moved, &v->lock, deadline);
      pthread_mutex_unlock (&v->lock);
    } else if (!more && !l->active)
      break;
  }
  int rc = atomic_load (&v->abandoned);
  return rc ? rc : ready (v) == 0;
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

static int
flush_on (struct fm_port *p)
{
  struct fm_op op = { .kind = FM_FLUSH };
  return fm_port_io (p, &op);
}

int
fm_volume_flush_front (struct fm_volume *v)
{
  return fm_store_flush (v->front, &v->heard);
}

int
fm_volume_flush (struct fm_volume *v, bool front_too)
{
  int rc = 0;
  if (!v->bulk)
    return -ENOTCONN;
  for (unsigned i = 0; rc == 0 && i < v->nsinks; i++)
    if ((rc = flush_on (v->bulk->sink[i])) < 0)
      fm_volume_fail (v, rc, (int)i);
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
  assert (left (v) == 0 && !v->strict);
  if (v->intent)
    fm_intent_used (v->intent, v->sent, v->shift, now_s ());
  fm_bitmap_empty (v->sent);
  atomic_store (&v->cycle_since_ns, 0);
}

void
fm_volume_set_intent (struct fm_volume *v, struct fm_intent *i)
{
  assert (!v->strict && i->shift >= v->shift);
  v->intent = i;
}

int
fm_volume_cool (struct fm_volume *v, uint32_t after_s)
{
  assert (left (v) == 0 && fm_bitmap_count (v->sent) == 0);
  uint32_t now = now_s ();
  return v->intent && now >= after_s ? fm_intent_cool (v->intent, v->next, v->shift, now - after_s + 1) : 0;
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
  assert (v->strict && fm_bitmap_count (v->hardening) == 0);
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
  pthread_mutex_lock (&v->lock);
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

void
fm_volume_retry (struct fm_volume *v)
{
  assert (v->strict);
  pthread_mutex_lock (&v->lock);
  if (atomic_load (&v->abandoned)) {
    drain_claims (v);
    fm_bitmap_or (v->pending, v->sent);
    fm_bitmap_or (v->pending, v->hardening);
    fm_bitmap_empty (v->sent);
    fm_bitmap_empty (v->hardening);
    atomic_store (&v->abandoned, 0);
  }
  pthread_mutex_unlock (&v->lock);
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
  uint64_t since = atomic_exchange (&v->cycle_since_ns, 0);
  if (since) /* older than anything that `next` has seen */
    atomic_store (&v->next_since_ns, since);
  fm_bitmap_reset (v->pending);
  fm_bitmap_reset (&v->unsent);
  fm_bitmap_reset (v->sent);
}

void
fm_volume_mark (struct fm_volume *v, uint64_t first, uint64_t n)
{
  fm_bitmap_set (v->next, first, n);
}

void
fm_volume_mark_pending (struct fm_volume *v, uint64_t first, uint64_t n)
{
  atomic_fetch_add (&v->owed, fm_bitmap_set (v->pending, first, n));
}

unsigned
fm_volume_runs (struct fm_volume *v, int which, uint64_t from, uint64_t *out, unsigned max)
{
  const struct fm_bitmap *maps[] = { v->next, v->pending, &v->unsent, v->sent, v->hardening };
  assert (which >= 0 && which < 5);
  unsigned i = 0;
  while (i < max
         && fm_bitmap_run (maps[which], from, v->nblocks, &out[2 * i], &out[2 * i + 1])) {
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
      fm_bitmap_set (v->next, first, end - first);
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
  s->next_since_ns = atomic_load (&v->next_since_ns);
  s->cycle_since_ns = atomic_load (&v->cycle_since_ns);
  for (unsigned i = 0; i < FM_SINKS; i++)
    s->copied_bytes[i] = atomic_load (&v->copied_bytes[i]);
  pthread_mutex_lock (&v->lock);
  s->sent_blocks = fm_bitmap_count (v->sent) + fm_bitmap_count (v->hardening);
  s->wire_bytes = v->wire_bytes_before;
  if (v->sink[1])
    s->wire_bytes += atomic_load (&v->sink[1]->written_bytes);
  pthread_mutex_unlock (&v->lock);
  s->copies_before_write = atomic_load (&v->copies_before_write);
  s->write_errors = atomic_load (&v->write_errors);
  s->wait_us_sum = atomic_load (&v->wait_us_sum);
  for (unsigned i = 0; i < FM_HISTOGRAM; i++)
    s->wait_us[i] = atomic_load (&v->wait_us[i]);
  s->abandoned = atomic_load (&v->abandoned);
  s->failed_part = atomic_load (&v->failed_part);
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
    assert (fm_bitmap_count (v[i]->hardening) == 0 && atomic_load (&v[i]->owed) == 0);
    struct fm_bitmap *t = v[i]->next;
    v[i]->next = v[i]->pending;
    v[i]->pending = t;
    if (v[i]->strict)
      atomic_store (&v[i]->owed, fm_bitmap_count (t));
    atomic_store (&v[i]->cycle_since_ns, atomic_exchange (&v[i]->next_since_ns, 0));
    atomic_store (&v[i]->abandoned, 0);
    /* What is copied is read after this, so it is what a loss has left (of the target:
     * what a commit asserts was flushed before this). */
    atomic_store (&v[i]->heard, atomic_load (&v[i]->front->lost));
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
  uint64_t start = fm_now_ns ();
  int rc = fm_group_close (v, n, start + budget_ns);
  if (rc == 0) {
    fm_group_swap (v, n);
    fm_group_open (v, n);
  }
  *held_ns = fm_now_ns () - start;
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
