/* Promises of request.h, step by step: the stores are fakes, so a test says what
 * has happened and what has not. */
#include "check.h"
#include "fake.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>

#define BLOCK 512
#define BLOCKS 64
#define SIZE (BLOCKS * BLOCK - 100) /* the last block is short */

static struct fake *front, *first, *second;
static struct fm_volume *v;
static char new_bytes[SIZE];

static void
check_front_write (struct fake *f, const struct fm_op *op)
{
  (void)f;
  uint64_t block = op->offset / BLOCK, end = (op->offset + op->length - 1) / BLOCK + 1, at, n;
  for (; block < end; block++)
    CHECK (fm_bitmap_run (v->next, block, 1, &at, &n) && at == block); /* recorded before */
  if (!v->abandoned)
    for (block = op->offset / BLOCK; block < end; block++)
      CHECK (!fm_bitmap_run (v->pending, block, 1, &at, &n) || at != block); /* I5 */
}

/* A volume whose every block is pending; bytes of block b are b + 1. */
static void
set_up (bool preserve_first, unsigned sinks, unsigned nprio, unsigned lazy)
{
  uint64_t held;
  front = fake_open (SIZE, lazy);
  first = fake_open (SIZE, lazy);
  second = fake_open (SIZE, lazy);
  for (unsigned i = 0; i < SIZE; i++)
    front->bytes[i] = (char)(1 + i / BLOCK);
  memset (new_bytes, 99, SIZE);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, preserve_first, &v), 0);
  front->on_write = check_front_write;
  CHECK_EQ (fm_volume_link (v, sinks == 2 ? &second->store : NULL, nprio), 0);
  fm_volume_mark (v, 0, BLOCKS);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
}

static void
tear_down (void)
{
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
  fake_close (second);
}

static struct fm_request
write_of (uint64_t offset, uint64_t n)
{
  return (struct fm_request){
    .op = { .kind = FM_WRITE, .offset = offset, .length = n, .buf = new_bytes }
  };
}

static bool
holds (const struct fake *f, unsigned block, char value)
{
  return f->bytes[block * BLOCK] == value;
}

static struct fm_volume_stats
stats (void)
{
  struct fm_volume_stats s;
  fm_volume_read_stats (v, &s);
  return s;
}

static void
steps (struct fm_request *r, unsigned n)
{
  while (n--)
    CHECK_EQ (fm_request_step (v, r), 0);
}

/* A write waits until both sinks hold the old bytes, and only then reaches the front. */
static void
copy_before_write (void)
{
  set_up (false, 2, 1, 0);
  struct fm_request r = write_of (5 * BLOCK, BLOCK);
  second->stuck = true;
  CHECK_EQ (fm_request_begin (v, &r), 0);
  steps (&r, 10);
  CHECK (holds (first, 5, 6) && holds (second, 5, 0) && holds (front, 5, 6));
  CHECK_EQ (stats ().pending_blocks, BLOCKS);
  second->stuck = false;
  while (fm_request_step (v, &r) == 0)
    ;
  CHECK (holds (second, 5, 6) && holds (front, 5, 6));
  CHECK_EQ (fm_request_finish (v, &r), 0);
  CHECK (holds (front, 5, 99));
  struct fm_volume_stats s = stats ();
  CHECK (s.pending_blocks == BLOCKS - 1 && s.sent_blocks == 1 && s.next_blocks == 1);
  CHECK_EQ (s.copies_before_write, 1);
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1); /* and the background leaves it alone */
  CHECK (holds (first, 5, 6) && holds (second, 5, 6) && holds (second, 6, 7));
  tear_down ();
}

/* preserve = "first": the writer waits for the first sink only; the second gets
 * the old bytes from there, though the front has new ones. */
static void
preserve_first_feeds_the_second (void)
{
  set_up (true, 2, 1, 0);
  struct fm_request r = write_of (5 * BLOCK, BLOCK);
  second->stuck = true;
  CHECK_EQ (fm_request_begin (v, &r), 0);
  for (unsigned i = 0; i < 10 && fm_request_step (v, &r) == 0; i++)
    ;
  CHECK_EQ (fm_request_step (v, &r), 1);
  CHECK_EQ (fm_request_finish (v, &r), 0);
  CHECK (holds (front, 5, 99) && holds (first, 5, 6) && holds (second, 5, 0));
  CHECK_EQ (stats ().unsent_blocks, 1);
  second->stuck = false;
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  CHECK (holds (second, 5, 6));
  struct fm_volume_stats s = stats ();
  CHECK (s.unsent_blocks == 0 && s.pending_blocks == 0 && s.sent_blocks == BLOCKS);
  CHECK_EQ (fm_volume_flush (v, true), 0);
  CHECK (first->flushes == 1 && second->flushes == 1 && front->flushes == 1);
  fm_volume_settle (v);
  CHECK_EQ (stats ().sent_blocks, 0);
  tear_down ();
}

/* Two writers on one block: it is copied once; who comes second waits for it. With
 * one lane, a third, elsewhere, waits for the lane. */
static void
one_claim_a_run (void)
{
  set_up (false, 1, 1, 0);
  struct fm_request a = write_of (5 * BLOCK + 1, 10), b = write_of (5 * BLOCK + 100, 10),
                    c = write_of (20 * BLOCK, BLOCK);
  first->stuck = true;
  CHECK (!fm_request_begin (v, &a) && !fm_request_begin (v, &b) && !fm_request_begin (v, &c));
  steps (&a, 3);
  steps (&b, 3);
  steps (&c, 3);
  CHECK (a.lane && !b.lane && !c.lane);
  first->stuck = false;
  while (fm_request_step (v, &a) == 0)
    ;
  CHECK_EQ (fm_request_step (v, &b), 1);
  while (fm_request_step (v, &c) == 0)
    ;
  CHECK_EQ (first->writes, 2);
  CHECK (!fm_request_finish (v, &a) && !fm_request_finish (v, &b) && !fm_request_finish (v, &c));
  CHECK (holds (first, 5, 6) && holds (first, 20, 21));
  tear_down ();
}

/* What one copies, another's copy leaves out: a second copy could read what was
 * written after the first. */
static void
claims_are_disjoint (void)
{
  set_up (false, 1, 2, 0);
  struct fm_request a = write_of (5 * BLOCK, 2 * BLOCK), b = write_of (3 * BLOCK, 8 * BLOCK);
  first->stuck = true;
  CHECK (!fm_request_begin (v, &a) && !fm_request_begin (v, &b));
  steps (&a, 3);
  steps (&b, 3);
  CHECK (a.lane && b.lane && v->nclaims == 2);
  CHECK (v->claims[0].first == 5 && v->claims[0].n == 2);
  CHECK (v->claims[1].first == 3 && v->claims[1].n == 2);
  first->stuck = false;
  while (fm_request_step (v, &a) == 0)
    ;
  while (fm_request_step (v, &b) == 0)
    ;
  CHECK_EQ (first->writes, 3);
  CHECK (!fm_request_finish (v, &a) && !fm_request_finish (v, &b));
  tear_down ();
}

static void *
unlink_and_say (void *arg)
{
  fm_volume_unlink (v);
  *(_Atomic bool *)arg = true;
  return NULL;
}

/* A link does not end under a writer who copies over it, and a cycle that is
 * abandoned in the middle of a write keeps each of its blocks in `next`. */
static void
unlink_waits_for_writers (void)
{
  pthread_t t;
  _Atomic bool unlinked = false;
  set_up (true, 2, 2, 0);
  struct fm_request a = write_of (5 * BLOCK, BLOCK), b = write_of (9 * BLOCK, BLOCK);
  CHECK (!fm_request_begin (v, &a) && !fm_request_begin (v, &b));
  while (fm_request_step (v, &b) == 0)
    ;
  CHECK_EQ (stats ().unsent_blocks, 1); /* copied, but b is not written yet */
  first->stuck = true;
  steps (&a, 3);
  fm_volume_fail (v, -ENOTCONN, 1);
  pthread_create (&t, NULL, unlink_and_say, &unlinked);
  usleep (50000);
  CHECK (!unlinked && a.lane);
  first->stuck = false;
  CHECK_EQ (fm_request_step (v, &a), 1);
  pthread_join (t, NULL);
  CHECK (unlinked && !a.lane);
  fm_volume_abandon (v);
  CHECK (stats ().next_blocks == BLOCKS && stats ().unsent_blocks == 0);
  CHECK (!fm_request_finish (v, &a) && !fm_request_finish (v, &b));
  tear_down ();
}

/* A request over many runs, copied and uncopied, to the short last block. */
static void
long_request (void)
{
  set_up (false, 2, 1, 3);
  for (unsigned i = 3; i < BLOCKS; i += 7) {
    struct fm_request r = write_of (i * BLOCK, BLOCK < SIZE - i * BLOCK ? BLOCK : 1);
    CHECK_EQ (fm_request_begin (v, &r), 0);
    while (fm_request_step (v, &r) == 0)
      ;
    CHECK_EQ (fm_request_finish (v, &r), 0);
  }
  struct fm_request all = write_of (0, SIZE);
  CHECK_EQ (fm_request_begin (v, &all), 0);
  while (fm_request_step (v, &all) == 0)
    ;
  CHECK_EQ (stats ().pending_blocks, 0);
  CHECK_EQ (fm_request_finish (v, &all), 0);
  for (unsigned i = 0; i < SIZE; i++)
    CHECK (front->bytes[i] == 99 && first->bytes[i] == (char)(1 + i / BLOCK)
           && second->bytes[i] == (char)(1 + i / BLOCK));
  tear_down ();
}

/* The gate and the session: -EAGAIN, -ESHUTDOWN; neither leaves anything inside. */
static void
gate_and_session (void)
{
  set_up (false, 1, 1, 0);
  struct fm_request r = write_of (0, BLOCK), other = write_of (0, BLOCK);
  other.session = 7;
  CHECK_EQ (fm_request_begin (v, &other), -ESHUTDOWN);
  CHECK_EQ (fm_group_close (&v, 1, fm_now_ns () + 100 * FM_MS), 0);
  CHECK_EQ (fm_request_begin (v, &r), -EAGAIN);
  fm_group_open (&v, 1);
  CHECK_EQ (fm_request_begin (v, &r), 0);
  CHECK_EQ (fm_group_fence (&v, 1, 7, 10 * FM_MS), -ETIMEDOUT); /* as before: */
  CHECK_EQ (fm_request_begin (v, &other), -ESHUTDOWN);
  while (fm_request_step (v, &r) == 0)
    ;
  CHECK_EQ (fm_request_finish (v, &r), 0);
  CHECK_EQ (fm_group_fence (&v, 1, 7, 100 * FM_MS), 0);
  CHECK_EQ (fm_request_begin (v, &r), -ESHUTDOWN);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), -ESHUTDOWN);
  CHECK_EQ (fm_volume_write (v, 7, new_bytes, 1, 0, 0), 0);
  tear_down ();
}

/* A missed freeze changes nothing and lets the writes go on; the next one holds. */
static void
missed_freeze (void)
{
  set_up (false, 1, 1, 0);
  uint64_t held;
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  fm_volume_settle (v);
  struct fm_request r = write_of (0, 3 * BLOCK);
  CHECK_EQ (fm_request_begin (v, &r), 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 10 * FM_MS, &held), -ETIMEDOUT);
  CHECK (held >= 10 * FM_MS);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 40 * BLOCK, 0), 0);
  CHECK (stats ().pending_blocks == 0 && stats ().next_blocks == 1);
  CHECK_EQ (fm_request_step (v, &r), 1);
  CHECK_EQ (fm_request_finish (v, &r), 0);
  CHECK (stats ().next_since_ns != 0 && stats ().cycle_since_ns == 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 10 * FM_MS, &held), 0);
  CHECK (stats ().pending_blocks == 4 && stats ().next_blocks == 0);
  CHECK (stats ().next_since_ns == 0 && stats ().cycle_since_ns != 0);
  tear_down ();
}

/* The age of what is not yet safe counts from the first write, also where `next`
 * holds its block already (all of them do before the first full copy). */
static void
exposure_starts_with_a_write (void)
{
  set_up (false, 1, 1, 0);
  fm_volume_mark (v, 0, BLOCKS);
  CHECK_EQ (stats ().next_since_ns, 0);
  uint64_t before = fm_now_ns ();
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), 0);
  uint64_t since = stats ().next_since_ns;
  CHECK (since >= before && since <= fm_now_ns ());
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, BLOCK, 0), 0);
  CHECK_EQ (stats ().next_since_ns, since);
  tear_down ();
}

/* A strict volume never gives a pending block up (I1): its writer gets the error
 * and has left the gate; other blocks go on; after a retry all is well. */
static void
strict (void)
{
  set_up (false, 1, 2, 0);
  fm_volume_set_strict (v);
  first->fail_rc = -ENOSPC;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 5 * BLOCK, 0), -ENOSPC);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 6 * BLOCK, 0), -ENOSPC);
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), -ENOSPC);
  CHECK (holds (front, 5, 6) && holds (front, 6, 7));
  CHECK (stats ().pending_blocks == BLOCKS && stats ().failed_part == 0);
  CHECK_EQ (fm_group_close (&v, 1, fm_now_ns () + 100 * FM_MS), 0);
  fm_group_open (&v, 1);
  first->fail_rc = 0;
  fm_volume_retry (v);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 5 * BLOCK, 0), 0);
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  CHECK (holds (first, 5, 6) && holds (front, 5, 99) && holds (first, 7, 8));
  fm_volume_fail (v, -EIO, 0);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 6 * BLOCK, 0), 0); /* it was copied */
  tear_down ();
}

/* What the client hears: bounds, errors of the front, and what is counted as one. */
static void
answers (void)
{
  char buf[BLOCK];
  set_up (false, 1, 1, 0);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 2, SIZE - 1, 0), -ENOSPC);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, UINT64_MAX, 0), -ENOSPC);
  CHECK_EQ (fm_volume_zero (v, 0, UINT64_MAX, 1, 0), -ENOSPC);
  CHECK_EQ (fm_volume_read (v, buf, 2, SIZE - 1), -EINVAL);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 0, SIZE, 0), 0);
  CHECK_EQ (fm_volume_read (v, buf, 1, SIZE - 1), 0);
  CHECK_EQ (buf[0], BLOCKS);
  CHECK_EQ (stats ().write_errors, 0);
  front->fail_rc = -EIO;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), -EIO);
  CHECK_EQ (stats ().write_errors, 1);
  CHECK_EQ (stats ().next_blocks, 1); /* nobody knows what the disk holds now */
  front->fail_rc = -EOPNOTSUPP;
  CHECK_EQ (fm_volume_zero (v, 0, BLOCK, 0, FM_FAST), -EOPNOTSUPP);
  CHECK_EQ (stats ().write_errors, 1);
  front->fail_rc = 0;
  CHECK_EQ (fm_volume_client_flush (v), 0);
  CHECK_EQ (front->flushes, 1);
  tear_down ();
}

static _Atomic unsigned writers_left;

static void *
sweeper (void *arg)
{
  uint64_t seed = 5 + (uintptr_t)arg;
  for (unsigned i = 0; i < 40; i++) {
    uint64_t offset = random_below (&seed, SIZE), n = 1 + random_below (&seed, SIZE - offset);
    CHECK_EQ (fm_volume_write (v, 0, new_bytes, n < 8 * BLOCK ? n : 8 * BLOCK, offset, 0), 0);
  }
  writers_left--;
  return NULL;
}

/* I5 under load: check_front_write sees each write as it reaches the front, while
 * the background clears the same map. */
static void
no_write_over_a_pending_block (void)
{
  for (unsigned round = 0; round < (SANITIZED ? 10 : 40); round++) {
    pthread_t t[3];
    set_up (round & 1, 2, 2, 2);
    writers_left = 3;
    for (uintptr_t i = 0; i < 3; i++)
      pthread_create (&t[i], NULL, sweeper, (void *)(i + 10 * round));
    CHECK_EQ (fm_volume_copy (v, 10000 * FM_MS), 1);
    for (unsigned i = 0; i < 3; i++)
      pthread_join (t[i], NULL);
    CHECK_EQ (fm_volume_copy (v, 10000 * FM_MS), 1);
    for (unsigned i = 0; i < SIZE; i++)
      CHECK (first->bytes[i] == (char)(1 + i / BLOCK) && second->bytes[i] == first->bytes[i]);
    tear_down ();
  }
}

static struct fm_volume *large;

static void *
write_to_large (void *arg)
{
  (void)arg;
  CHECK_EQ (fm_volume_write (large, 0, new_bytes, 1, 0, 0), 0);
  return NULL;
}

/* Who is about to claim a block when its cycle is abandoned claims nothing:
 * a copy that ended after the abandoning would put its block into the next cycle's
 * maps.  (The map is large, so that abandoning it takes a while.) */
static void
abandon_a_large_one (void)
{
  const uint64_t blocks = 1 << 20;
  struct fm_volume_stats s;
  uint64_t held;
  pthread_t t;
  struct fake *f = fake_open (blocks * BLOCK, 0), *sink = fake_open (blocks * BLOCK, 0);
  CHECK_EQ (fm_volume_create (&f->store, &sink->store, blocks * BLOCK, BLOCK, false, &large), 0);
  CHECK_EQ (fm_volume_link (large, NULL, 1), 0);
  for (uint64_t i = 0; i < blocks; i += 2)
    fm_volume_mark (large, i, 1);
  CHECK_EQ (fm_group_freeze (&large, 1, 100 * FM_MS, &held), 0);
  sink->stuck = true;
  pthread_mutex_lock (&large->lock);
  pthread_create (&t, NULL, write_to_large, NULL);
  usleep (50000); /* it has seen the cycle alive and waits for the lock to claim its block */
  atomic_store (&large->abandoned, -EIO);
  pthread_mutex_unlock (&large->lock);
  fm_volume_abandon (large);
  sink->stuck = false;
  pthread_join (t, NULL);
  fm_volume_read_stats (large, &s);
  CHECK (s.next_blocks == blocks / 2 && s.sent_blocks == 0 && s.pending_blocks == 0);
  CHECK_EQ (sink->writes, 0);
  fm_volume_free (large);
  fake_close (f);
  fake_close (sink);
}

static void
no_claim_outlives_its_cycle (void)
{
  for (unsigned i = 0; i < (SANITIZED ? 1 : 6); i++) /* who gets the lock first is a matter of luck */
    abandon_a_large_one ();
}

int
main (void)
{
  RUN (copy_before_write);
  RUN (preserve_first_feeds_the_second);
  RUN (one_claim_a_run);
  RUN (claims_are_disjoint);
  RUN (unlink_waits_for_writers);
  RUN (long_request);
  RUN (gate_and_session);
  RUN (missed_freeze);
  RUN (exposure_starts_with_a_write);
  RUN (strict);
  RUN (answers);
  RUN (no_write_over_a_pending_block);
  RUN (no_claim_outlives_its_cycle);
  return finish ("request");
}
