/* Promises of lane.h and volume.h about who copies what, when several meet: claims,
 * lanes, and cycles that end under a writer. */
#include "stage.h"

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

static void *
sweeper (void *arg)
{
  uint64_t seed = 5 + (uintptr_t)arg;
  for (unsigned i = 0; i < 40; i++) {
    uint64_t offset = random_below (&seed, SIZE), n = 1 + random_below (&seed, SIZE - offset);
    CHECK_EQ (fm_volume_write (v, 0, new_bytes, n < 8 * BLOCK ? n : 8 * BLOCK, offset, 0), 0);
  }
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

/* While it compares, the background copies to sink 0 only, writers do as ever, and what was
 * found equal is not sent; the rest is, from sink 0, whatever was written since. */
static void
what_is_equal_is_not_sent (void)
{
  set_up (false, 2, 2, 0);
  fm_volume_compare (v, true);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 5 * BLOCK, 0), 0); /* copies to both */
  CHECK_EQ (fm_volume_copy (v, 10000 * FM_MS), 1);
  CHECK (stats ().unsent_blocks == BLOCKS - 1 && stats ().sent_blocks == 1);
  CHECK (second->writes == 1 && holds (second, 5, 6));
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 20 * BLOCK, 0), 0);
  fm_volume_equal (v, 6, 10);
  CHECK (stats ().unsent_blocks == BLOCKS - 11 && stats ().sent_blocks == 11);
  fm_volume_compare (v, false);
  CHECK_EQ (fm_volume_copy (v, 10000 * FM_MS), 1);
  CHECK (stats ().unsent_blocks == 0 && stats ().sent_blocks == BLOCKS);
  for (unsigned b = 0; b < BLOCKS; b++)
    CHECK (holds (second, b, b >= 6 && b < 16 ? 0 : (char)(b + 1)));
  tear_down ();
}

/* What a session says to be equal counts as written by it; of an older session nothing
 * does (I8), nor what is no block. */
static void
what_is_equal_counts_as_written (void)
{
  set_up (false, 1, 1, 0);
  CHECK_EQ (fm_group_fence (&v, 1, 7, 100 * FM_MS), 0);
  CHECK_EQ (fm_volume_adopt (v, 6, 0, 3), -ESHUTDOWN);
  CHECK_EQ (fm_volume_adopt (v, 7, BLOCKS - 1, 2), -EINVAL);
  CHECK_EQ (fm_volume_adopt (v, 7, UINT64_MAX, 2), -EINVAL);
  CHECK_EQ (stats ().next_blocks, 0);
  CHECK_EQ (fm_volume_adopt (v, 7, 2, 3), 0);
  CHECK_EQ (fm_volume_adopt (v, 7, BLOCKS - 1, 1), 0);
  CHECK_EQ (stats ().next_blocks, 4);
  tear_down ();
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

/* What is read is to be written back to a front that has lost something (lane.h).  If the cycle fails
 * meanwhile, a writer of the same block does not wait for its copy, and his bytes stay. */
static void
a_write_back_undoes_nothing (void)
{
  for (unsigned begun = 0; begun < 2; begun++) {
    uint64_t held;
    set_up (false, 1, 2, 0);
    front->on_write = NULL;
    fm_volume_fail (v, -EIO, 0);
    fm_volume_abandon (v);
    fm_store_lose (&front->store);
    CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
    struct fm_request a = write_of (5 * BLOCK + 1, 10), b = write_of (5 * BLOCK + 100, 10);
    CHECK (!fm_request_begin (v, &a) && !fm_request_begin (v, &b));
    front->stuck = true;
    steps (&a, 1); /* it reads ... */
    if (begun) {
      front->stuck = false;
      steps (&a, 1); /* ... and writes back */
    }
    fm_volume_fail (v, -EIO, 0);
    front->stuck = false;
    bool waits = fm_request_step (v, &b) == 0;
    CHECK_EQ (waits, begun);
    if (!begun)
      fm_request_step (v, &a); /* what it has read is of before the write */
    CHECK (waits || fm_request_finish (v, &b) == 0);
    while (fm_request_step (v, &a) == 0)
      ;
    CHECK (!waits || (fm_request_step (v, &b) == 1 && fm_request_finish (v, &b) == 0));
    CHECK_EQ (front->bytes[5 * BLOCK + 100], 99);
    CHECK_EQ (front->writes, 1 + begun);
    CHECK_EQ (fm_request_finish (v, &a), 0);
    fm_volume_abandon (v);
    tear_down ();
  }
}

int
main (void)
{
  RUN (one_claim_a_run);
  RUN (claims_are_disjoint);
  RUN (unlink_waits_for_writers);
  RUN (no_write_over_a_pending_block);
  RUN (what_is_equal_is_not_sent);
  RUN (what_is_equal_counts_as_written);
  RUN (no_claim_outlives_its_cycle);
  RUN (a_write_back_undoes_nothing);
  return finish ("claims");
}
