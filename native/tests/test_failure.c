/* Promises of volume.h when something breaks: sinks that fail, die or fall silent
 * under writers, cycles that are abandoned, links that end, sessions that are fenced. */
#include "check.h"
#include "fake.h"
#include "lab.h"
#include "lane.h"
#include "request.h"
#include "wait.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define BLOCK 4096
#define BLOCKS 200
#define SIZE (BLOCKS * BLOCK - 1000)
#define WRITERS 3

static struct fm_volume *v;
static struct fake *front, *first, *second;
static pthread_t writer[WRITERS];
static _Atomic bool stop;
static _Atomic uint64_t slowest_ns, session;

static void
set_up (bool preserve_first, unsigned lazy)
{
  front = fake_open (SIZE, lazy);
  first = fake_open (SIZE, lazy);
  second = fake_open (SIZE, lazy);
  CHECK_EQ (fm_volume_create (&front->store, &first->store, SIZE, BLOCK, preserve_first, &v), 0);
}

static void
tear_down (void)
{
  fm_volume_free (v);
  fake_close (front);
  fake_close (first);
  fake_close (second);
}

static struct fm_volume_stats
stats (void)
{
  struct fm_volume_stats s;
  fm_volume_read_stats (v, &s);
  return s;
}

static void
freeze (void)
{
  uint64_t held;
  while (fm_group_freeze (&v, 1, 500 * FM_MS, &held) < 0)
    ;
}

static int
copy_all (void)
{
  int rc;
  while ((rc = fm_volume_copy (v, FM_MS)) == 0)
    ;
  return rc < 0 ? rc : fm_volume_flush (v, true);
}

/* Every block of the void cycle is in `next`, and nothing is left of the cycle. */
static void
abandon (void)
{
  fm_volume_abandon (v);
  struct fm_volume_stats s = stats ();
  CHECK (s.pending_blocks == 0 && s.unsent_blocks == 0 && s.sent_blocks == 0);
}

/* The next good cycle: the sinks hold the front of the freeze. */
static void
good_cycle (const struct fake *last_sink)
{
  char *snapshot = malloc (SIZE);
  fm_group_anchor (&v, 1);
  while (fm_group_close (&v, 1, fm_now_ns () + 500 * FM_MS) < 0)
    ;
  memcpy (snapshot, front->bytes, SIZE);
  fm_group_swap (&v, 1);
  fm_group_open (&v, 1);
  if (CHECK_EQ (copy_all (), 0))
    fm_volume_settle (v);
  CHECK (memcmp (snapshot, first->bytes, SIZE) == 0);
  CHECK (!last_sink || memcmp (snapshot, last_sink->bytes, SIZE) == 0);
  free (snapshot);
}

static void *
write_on (void *arg)
{
  uint64_t seed = 77 + (uintptr_t)arg;
  char *buf = malloc (4 * BLOCK);
  while (!stop) {
    uint64_t offset = random_below (&seed, SIZE), most = SIZE - offset;
    uint64_t n = 1 + random_below (&seed, most < 4 * BLOCK ? most : 4 * BLOCK);
    memset (buf, (int)random_below (&seed, 256), n);
    uint64_t start = fm_now_ns (), mine = session;
    int rc = fm_volume_write (v, mine, buf, n, offset, 0);
    CHECK (rc == 0 || (rc == -ESHUTDOWN && mine != session));
    uint64_t took = fm_now_ns () - start, old = slowest_ns;
    while (took > old && !atomic_compare_exchange_weak (&slowest_ns, &old, took))
      ;
    usleep (20);
  }
  free (buf);
  return NULL;
}

static void
start_writers (void)
{
  stop = false;
  slowest_ns = session = 0;
  for (uintptr_t i = 0; i < WRITERS; i++)
    pthread_create (&writer[i], NULL, write_on, (void *)i);
}

static void
stop_writers (void)
{
  stop = true;
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (writer[i], NULL);
}

/* Sink 0, or its flush, fails: that voids the cycle, with its number; writers go on; abandon puts
 * every block back; the next cycle is right. */
static void
first_sink_fails (void)
{
  set_up (false, 0);
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  fm_volume_mark (v, 0, BLOCKS);
  freeze ();
  first->fail_after = 3;
  first->fail_rc = -ENOSPC;
  CHECK_EQ (copy_all (), -ENOSPC);
  CHECK (stats ().abandoned == -ENOSPC && stats ().failed_part == 0);
  CHECK_EQ (fm_volume_write (v, 0, "new", 3, 150 * BLOCK, 0), 0); /* waits for nothing */
  CHECK_EQ (stats ().copies_before_write, 0);
  uint64_t since = stats ().cycle_since_ns;
  abandon ();
  CHECK_EQ (stats ().next_blocks, BLOCKS);
  CHECK (since == 0 || stats ().next_since_ns == since);
  first->fail_rc = 0;
  fm_volume_unlink (v);
  second->open_rc = -ECONNREFUSED;
  CHECK_EQ (fm_volume_link (v, &second->store, 2), -ECONNREFUSED);
  CHECK_EQ (stats ().closed_part, 1); /* whatever the cycle had failed for */
  second->open_rc = 0;
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  good_cycle (second);
  first->flush_rc = -EIO;
  fm_volume_mark (v, 0, 1);
  freeze ();
  CHECK_EQ (copy_all (), -EIO);
  CHECK (stats ().abandoned == -EIO && stats ().failed_part == 0);
  first->flush_rc = 0;
  abandon ();
  CHECK_EQ (stats ().next_blocks, 1);
  good_cycle (second);
  tear_down ();
}

/* A cycle of all blocks, without sink 1. */
static void
begin_cycle (bool strict)
{
  set_up (false, 0);
  if (strict)
    fm_volume_set_strict (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  fm_volume_mark (v, 0, BLOCKS);
  freeze ();
}

/* What sink 0 has lost, whoever heard of it, is not told by its own flush any more: a server as a file.  What was lost
 * before a retry began is copied by that, so it is counted once. */
static void
first_sink_loses_beside_its_flush (void)
{
  for (unsigned strict = 0; strict < 2; strict++) {
    begin_cycle (strict);
    CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
    if (strict)
      fm_volume_harden_begin (v);
    fm_store_lose (&first->store);
    CHECK_EQ (fm_volume_flush (v, false), -EIO);
    CHECK (stats ().abandoned == -EIO && stats ().failed_part == 0);
    fm_store_lose (&first->store);
    if (strict)
      fm_volume_retry (v);
    else {
      abandon ();
      freeze ();
    }
    CHECK_EQ (stats ().pending_blocks, BLOCKS);
    CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
    if (strict)
      fm_volume_harden_begin (v);
    CHECK_EQ (fm_volume_flush (v, false), 0);
    if (strict)
      fm_volume_harden_end (v);
    tear_down ();
  }
}

/* A write of sink 0 that was given up settles with a loss, of what was there before: no try that copies all is void for
 * that (late.h). */
static void
late_write_voids_no_copy (void)
{
  for (unsigned strict = 0; strict < 2; strict++) {
    struct lab_server server = { 0 };
    int rc = 0;
    lab_serve (&server, "memory,16M");
    struct fm_store *late = lab_nbd_store (&server);
    front = fake_open (SIZE, 0);
    CHECK (fm_store_reserve (late, 8, &rc) == 8);
    late->timeout_ns = 500 * FM_MS;
    CHECK_EQ (fm_volume_create (&front->store, late, SIZE, BLOCK, false, &v), 0);
    if (strict)
      fm_volume_set_strict (v);
    CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
    fm_volume_mark (v, 0, BLOCKS);
    freeze ();
    lab_stop (&server);
    rc = copy_all ();
    CHECK_EQ (rc, -ETIMEDOUT);
    kill (server.pid, SIGCONT);
    for (uint64_t until = fm_now_ns () + 20000 * FM_MS; rc != 0 && CHECK (fm_now_ns () < until);) {
      fm_volume_fail (v, -EIO, -1);
      if (!strict)
        abandon ();
      fm_volume_unlink (v);
      usleep (100000); /* a server that goes on says nothing of it */
      CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
      if (strict)
        fm_volume_retry (v);
      else
        freeze ();
      while ((rc = fm_volume_copy (v, FM_MS)) == 0)
        ;
      bool copied = rc == 1;
      if (copied && strict)
        fm_volume_harden_begin (v);
      if (copied)
        CHECK_EQ (rc = fm_volume_flush (v, false), 0);
    }
    fm_volume_free (v);
    fm_store_close (late);
    fake_close (front);
    lab_kill (&server);
  }
}

static void *
write_first (void *arg)
{
  (void)arg;
  CHECK (fm_volume_write (v, 0, "new", 3, 0, 0) < 0); /* what the volume failed with, now or at the retry */
  return NULL;
}

/* The same of a writer's copy that is under way when the retry begins: it is given up while the retry waits for its
 * end. */
static void
late_copy_of_a_writer_voids_none (void)
{
  struct lab_server server = { 0 };
  pthread_t t;
  int rc = 0;
  lab_serve (&server, "memory,16M");
  struct fm_store *late = lab_nbd_store (&server);
  front = fake_open (SIZE, 0);
  CHECK (fm_store_reserve (late, 8, &rc) == 8);
  late->timeout_ns = 500 * FM_MS;
  CHECK_EQ (fm_volume_create (&front->store, late, SIZE, BLOCK, false, &v), 0);
  fm_volume_set_strict (v);
  CHECK_EQ (fm_volume_link (v, NULL, 1), 0);
  fm_volume_mark (v, 0, BLOCKS);
  freeze ();
  lab_stop (&server);
  pthread_create (&t, NULL, write_first, NULL);
  for (bool copies = false; !copies;) {
    pthread_mutex_lock (&v->lock);
    copies = v->nclaims;
    pthread_mutex_unlock (&v->lock);
    usleep (100);
  }
  fm_volume_fail (v, -EIO, -1);
  fm_volume_retry (v);
  kill (server.pid, SIGCONT);
  usleep (100000);
  for (uint64_t until = fm_now_ns () + 20000 * FM_MS; rc != 1 && CHECK (fm_now_ns () < until);) {
    while ((rc = fm_volume_copy (v, FM_MS)) == 0)
      ;
    if (rc == 1)
      break;
    fm_volume_fail (v, -EIO, -1);
    fm_volume_retry (v);
    usleep (100000);
  }
  fm_volume_harden_begin (v);
  CHECK_EQ (fm_volume_flush (v, false), 0);
  fm_volume_harden_end (v);
  pthread_join (t, NULL);
  fm_volume_free (v);
  fm_store_close (late);
  fake_close (front);
  lab_kill (&server);
}

/* Both sinks fail for the same run: sink 0 does not have it, so that voids the cycle, in which
 * order they ever answer; it is not a link that was lost. */
static void
both_sinks_fail (void)
{
  for (unsigned writes = 0; writes < 2; writes++) {
    set_up (false, 3);
    memset (front->bytes, 5, SIZE);
    CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
    fm_volume_mark (v, 0, BLOCKS);
    freeze ();
    first->fail_rc = -ENOSPC;
    second->fail_rc = -EIO;
    if (writes)
      CHECK_EQ (fm_volume_write (v, 0, "new", 3, 0, 0), 0);
    CHECK_EQ (copy_all (), -ENOSPC);
    CHECK (stats ().abandoned == -ENOSPC && stats ().failed_part == 0);
    CHECK (stats ().sent_blocks == 0 && stats ().unsent_blocks == 0);
    abandon ();
    CHECK_EQ (stats ().next_blocks, BLOCKS);
    fm_volume_unlink (v);
    first->fail_rc = second->fail_rc = 0;
    CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
    good_cycle (second);
    tear_down ();
  }
}

/* What is left of a cycle goes to sink 0 only, and sink 1 is lost. */
static void
copy_to_first (int lost)
{
  int rc;
  while ((rc = fm_volume_copy (v, FM_MS)) == 0)
    ;
  CHECK_EQ (rc, 1);
  CHECK (stats ().pending_blocks == 0 && stats ().second_lost == lost && !stats ().abandoned);
}

/* Sink 1 fails, and then its server: the cycle goes on into sink 0, writers wait for that one only;
 * over the next link sink 1 is fed from sink 0 what it lacks: all that is not stable. */
static void
second_sink_fails (void)
{
  set_up (false, 0);
  for (unsigned b = 0; b < BLOCKS; b++)
    memset (front->bytes + b * BLOCK, (int)b + 1, b < BLOCKS - 1 ? BLOCK : SIZE % BLOCK);
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  fm_volume_mark (v, 0, BLOCKS);
  freeze ();
  for (unsigned b = 0; b < 10; b++) /* sent, and then stable */
    CHECK_EQ (fm_volume_write (v, 0, "new", 3, b * BLOCK, 0), 0);
  fm_volume_harden_begin (v);
  CHECK_EQ (fm_volume_write (v, 0, "new", 3, 10 * BLOCK, 0), 0);
  fm_volume_harden_end (v);
  CHECK_EQ (stats ().sent_blocks, 11);
  second->fail_after = 1;
  second->fail_rc = -ENOSPC;
  copy_to_first (-ENOSPC);
  CHECK_EQ (fm_volume_write (v, 0, "new", 3, 150 * BLOCK, 0), 0);
  CHECK_EQ (fm_volume_part (v, 2), 0);
  CHECK (stats ().sent_blocks == 10 && stats ().unsent_blocks == BLOCKS - 10);
  second->fail_rc = 0;
  memset (second->bytes, 0, SIZE); /* which of it is sent? */
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  CHECK_EQ (copy_all (), 0);
  CHECK (memcmp (second->bytes + 10 * BLOCK, first->bytes + 10 * BLOCK, SIZE - 10 * BLOCK) == 0);
  CHECK (second->bytes[0] == 0 && second->bytes[10 * BLOCK - 1] == 0 && stats ().sent_blocks == BLOCKS);
  fm_volume_lose_second (v, -EIO);
  CHECK (stats ().second_lost == -EIO && !stats ().abandoned);
  CHECK_EQ (fm_volume_part (v, 2), 0);
  fm_volume_forget_stable (v);
  CHECK_EQ (stats ().unsent_blocks, BLOCKS);
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  CHECK_EQ (copy_all (), 0);
  CHECK (memcmp (second->bytes, first->bytes, SIZE) == 0);
  fm_volume_settle (v);
  CHECK_EQ (stats ().sent_blocks, 0);
  fm_volume_mark (v, 0, BLOCKS);
  good_cycle (second);
  tear_down ();
}

static void *
write_one (void *arg)
{
  (void)arg;
  CHECK_EQ (fm_volume_write (v, 0, "new", 3, 0, 0), 0);
  stop = true;
  return NULL;
}

/* A volume that holds: a writer who meets a pending block without a link waits, until there is one
 * again, or until the cycle is void; the others do not wait, and the copy is to both sinks. */
static void
holds_without_a_link (void)
{
  for (unsigned ends = 0; ends < 2; ends++) {
    pthread_t t;
    set_up (false, 0);
    fm_volume_set_hold (v);
    memset (front->bytes, 5, SIZE);
    CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
    fm_volume_mark (v, 0, BLOCKS / 2);
    freeze ();
    second->fail_rc = -EIO;
    stop = false;
    pthread_create (&t, NULL, write_one, NULL);
    while (!stats ().second_lost)
      usleep (100);
    CHECK_EQ (fm_volume_part (v, 2), 0);
    CHECK_EQ (fm_volume_copy (v, 10 * FM_MS), 1);
    CHECK (stats ().pending_blocks == BLOCKS / 2 && stats ().unsent_blocks == 0);
    CHECK_EQ (fm_volume_write (v, 0, "new", 3, (BLOCKS - 1) * BLOCK, 0), 0);
    CHECK (!stop && front->bytes[0] == 5);
    second->fail_rc = 0;
    if (ends) {
      CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
      CHECK_EQ (copy_all (), 0);
    } else
      fm_volume_fail (v, -ESHUTDOWN, -1);
    pthread_join (t, NULL);
    CHECK (front->bytes[0] == 'n' && second->bytes[0] == (ends ? 5 : 0));
    if (ends)
      fm_volume_settle (v);
    else
      fm_volume_unlink (v), abandon ();
    tear_down ();
  }
}

/* While there is no link the server of sink 0 goes with what it had not flushed, and comes back:
 * the cycle is void, or sink 1 would be fed from what is older (I9); also if the lane has noticed
 * while nothing was under way, so that the next one gets a connection of its own. */
static void
first_sink_lost_without_a_link (void)
{
  struct lab_server server = { 0 };
  char *image = malloc (SIZE);
  for (unsigned way = 0; way < 4; way++) {
    unsigned before_part = way % 2, noticed = way / 2;
    set_up (false, 0);
    fm_volume_free (v);
    lab_serve (&server, "memory,1M");
    struct fm_store *s = lab_nbd_store (&server);
    CHECK_EQ (fm_volume_create (&front->store, s, SIZE, BLOCK, false, &v), 0);
    CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
    memset (image, 7, SIZE);
    CHECK_EQ (fm_volume_write (v, 0, image, SIZE, 0, 0), 0);
    freeze ();
    CHECK_EQ (fm_volume_write (v, 0, "new", 3, 0, 0), 0); /* copied first */
    for (unsigned at = 0; at < 2; at++) {
      if (at == 0) {
        fm_volume_lose_second (v, -ENOTCONN);
        copy_to_first (-ENOTCONN);
      }
      if (at != before_part) {
        lab_kill (&server);
        lab_serve (&server, "memory,1M");
        while (noticed && !v->bulk->sink[0]->failed)
          s->ops->step (v->bulk->sink[0]);
      }
      CHECK_EQ (at ? fm_volume_link (v, &second->store, 2) : fm_volume_part (v, 2), 0);
    }
    CHECK (fm_volume_copy (v, 100 * FM_MS) < 0 && stats ().abandoned && stats ().failed_part == 0);
    fm_volume_unlink (v);
    fm_volume_free (v);
    fm_store_close (s);
    lab_kill (&server);
    fake_close (front), fake_close (first), fake_close (second);
  }
  free (image);
}

/* The link is lost at any instant of a cycle under load, again and again: the cycle ends with both
 * sinks as the front was at its freeze. */
static void
lost_under_load (void)
{
  uint64_t seed = 5;
  char *snapshot = malloc (SIZE);
  for (unsigned preserve_first = 0; preserve_first < 2; preserve_first++) {
    set_up (preserve_first, 1);
    CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
    start_writers ();
    for (unsigned i = 0; i < (SANITIZED ? 30 : 150); i++) {
      fm_volume_mark (v, 0, BLOCKS);
      fm_group_anchor (&v, 1);
      while (fm_group_close (&v, 1, fm_now_ns () + 500 * FM_MS) < 0)
        ;
      memcpy (snapshot, front->bytes, SIZE);
      fm_group_swap (&v, 1);
      fm_group_open (&v, 1);
      for (unsigned lost = random_below (&seed, 3); lost; lost--) {
        fm_volume_copy (v, random_below (&seed, 200) * 1000);
        fm_volume_harden_begin (v);
        if (random_below (&seed, 2))
          fm_volume_harden_end (v);
        fm_volume_lose_second (v, -ENOTCONN);
        fm_volume_copy (v, random_below (&seed, 200) * 1000);
        CHECK_EQ (fm_volume_part (v, 1 + (unsigned)random_below (&seed, 3)), 0);
        fm_volume_copy (v, random_below (&seed, 200) * 1000);
        if (random_below (&seed, 2)) {
          fm_volume_forget_stable (v);
          memset (second->bytes, 0, SIZE);
        }
        CHECK_EQ (fm_volume_link (v, &second->store, 1 + (unsigned)random_below (&seed, 3)), 0);
      }
      if (CHECK_EQ (copy_all (), 0))
        fm_volume_settle (v);
      CHECK (memcmp (snapshot, first->bytes, SIZE) == 0);
      CHECK (memcmp (snapshot, second->bytes, SIZE) == 0);
    }
    stop_writers ();
    tear_down ();
  }
  free (snapshot);
}

/* Cycles that fail at any instant under load: no claim or map of one survives its
 * abandoning, and the next good cycle is right. */
static void
abandoned_under_load (void)
{
  uint64_t seed = 3;
  for (unsigned preserve_first = 0; preserve_first < 2; preserve_first++) {
    set_up (preserve_first, 1);
    CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
    start_writers ();
    for (unsigned i = 0; i < (SANITIZED ? 100 : 500); i++) {
      if (i == 50)
        fm_store_lose (&front->store); /* from here on what is copied is written back first */
      freeze ();
      fm_volume_copy (v, random_below (&seed, 300) * 1000);
      fm_volume_fail (v, -EIO, 1);
      abandon ();
    }
    good_cycle (second);
    stop_writers ();
    good_cycle (second);
    tear_down ();
  }
}

static void *
look_on (void *arg)
{
  (void)arg;
  for (uint64_t sent = 0; !stop;) {
    struct fm_volume_stats s = stats ();
    CHECK (s.wire_bytes >= sent);
    sent = s.wire_bytes;
    usleep (10);
  }
  return NULL;
}

/* Links that end and begin again under load: no writer keeps a lane that is gone,
 * none fails, the next good cycle is right, and who reads figures meanwhile meets
 * nothing that is gone and no counter that runs backwards. */
static void
unlinked_under_load (void)
{
  uint64_t seed = 4;
  pthread_t looker;
  set_up (true, 1);
  start_writers ();
  pthread_create (&looker, NULL, look_on, NULL);
  for (unsigned i = 0; i < (SANITIZED ? 60 : 300); i++) {
    CHECK_EQ (fm_volume_link (v, i % 3 ? &second->store : NULL, 1 + i % 4), 0);
    freeze ();
    fm_volume_copy (v, random_below (&seed, 300) * 1000);
    fm_volume_fail (v, -ENOTCONN, 1);
    fm_volume_unlink (v);
    abandon ();
  }
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  good_cycle (second);
  stop_writers ();
  pthread_join (looker, NULL);
  good_cycle (second);
  tear_down ();
}

/* A silent sink holds a writer no longer than its store's timeout. */
static void
silent_sink (void)
{
  set_up (false, 0);
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  fm_volume_mark (v, 0, BLOCKS);
  second->store.timeout_ns = 200 * FM_MS;
  freeze ();
  second->stuck = true;
  uint64_t start = fm_now_ns ();
  CHECK_EQ (fm_volume_write (v, 0, "new", 3, 0, 0), 0);
  uint64_t took = fm_now_ns () - start;
  CHECK (took >= 200 * FM_MS && took < 1000 * FM_MS);
  CHECK_EQ (stats ().second_lost, -ETIMEDOUT);
  CHECK_EQ (fm_volume_write (v, 0, "new", 3, 50 * BLOCK, 0), 0);
  CHECK (fm_now_ns () - start - took < 200 * FM_MS); /* and once only */
  CHECK_EQ (fm_volume_part (v, 2), 0);
  second->stuck = false;
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  second->stuck = true;
  start = fm_now_ns ();
  copy_to_first (-ETIMEDOUT); /* nor the background */
  CHECK (fm_now_ns () - start < 1000 * FM_MS);
  tear_down ();
}

/* Time is counted from when an operation began, also where a run is a hole and
 * the lane was idle before: a slow answer is no silence. */
static void
slow_zeroes_are_no_silence (void)
{
  struct lab_server server = { 0 };
  int fd[2];
  const uint64_t size = 1 << 20;
  lab_serve (&server, "--filter=delay,memory,1M,delay-zero=150ms");
  struct fm_store *s = lab_nbd_store (&server), *f = lab_file_store (size, &fd[0]),
                  *i = lab_file_store (size, &fd[1]);
  s->timeout_ns = 800 * FM_MS;
  CHECK_EQ (fm_volume_create (f, i, size, BLOCK, false, &v), 0);
  CHECK_EQ (fm_volume_link (v, s, 1), 0);
  for (unsigned round = 0; round < 2; round++) {
    fm_volume_mark (v, 0, size / BLOCK);
    freeze ();
    if (round)
      CHECK_EQ (fm_volume_write (v, 0, "new", 3, 0, 0), 0);
    CHECK_EQ (copy_all (), 0);
    if (stats ().abandoned)
      break;
    fm_volume_settle (v);
    usleep (900 * 1000);
  }
  CHECK_EQ (stats ().abandoned, 0);
  fm_volume_free (v);
  fm_store_close (s), fm_store_close (f), fm_store_close (i);
  close (fd[0]), close (fd[1]);
  lab_kill (&server);
}

/* The server of a sink is killed, or stopped, under load, again and again: no
 * writer fails or waits for longer than the timeout; after the relink all is right. */
static void
server_lost_under_load (void)
{
  struct lab_server server = { 0 };
  char path[108], arguments[128], *image = malloc (SIZE);
  int fd = lab_file (SIZE, path);
  snprintf (arguments, sizeof arguments, "file,%s", path);
  set_up (false, 0);
  start_writers ();
  for (unsigned i = 0; i < 6; i++) {
    lab_serve (&server, arguments);
    struct fm_store *s = lab_nbd_store (&server);
    s->timeout_ns = 400 * FM_MS;
    CHECK_EQ (fm_volume_link (v, s, 2), 0);
    fm_volume_mark (v, 0, BLOCKS);
    good_cycle (NULL);
    CHECK (pread (fd, image, SIZE, 0) == SIZE && memcmp (image, first->bytes, SIZE) == 0);
    fm_volume_mark (v, 0, BLOCKS);
    freeze ();
    fm_volume_copy (v, 200000);
    if (i % 2) {
      lab_stop (&server);
      while (!fm_volume_copy (v, FM_MS))
        ;
    }
    lab_kill (&server);
    fm_volume_lose_second (v, -ENOTCONN);
    CHECK_EQ (fm_volume_part (v, 2), 0);
    fm_volume_fail (v, -ENOTCONN, 1);
    fm_volume_unlink (v);
    abandon ();
    fm_store_close (s);
  }
  stop_writers ();
  CHECK (slowest_ns < 1500 * FM_MS);
  tear_down ();
  close (fd);
  free (image);
}

/* I8: after the fence returned no request of the older session reaches the front,
 * those that waited for a copy included; the older ones hear -ESHUTDOWN. */
static _Atomic uint64_t fenced;

static void
check_session (struct fake *f, const struct fm_op *op)
{
  (void)f;
  CHECK (*(const uint64_t *)op->buf >= fenced);
}

static void *
write_in_session (void *arg)
{
  uint64_t mine = 0, seed = 9 + (uintptr_t)arg, heard = 0;
  while (!stop) {
    int rc = fm_volume_write (v, mine, &mine, 8, random_below (&seed, SIZE - 8), 0);
    CHECK (rc == 0 || rc == -ESHUTDOWN);
    if (rc == -ESHUTDOWN)
      heard++, mine = session; /* may be old again by now */
  }
  CHECK (heard > 0);
  return NULL;
}

static void
fence (void)
{
  set_up (false, 1);
  CHECK_EQ (fm_volume_link (v, &second->store, 2), 0);
  front->on_write = check_session;
  stop = false;
  session = fenced = 0;
  for (uintptr_t i = 0; i < WRITERS; i++)
    pthread_create (&writer[i], NULL, write_in_session, (void *)i);
  for (uint64_t s = 1; s < (SANITIZED ? 100 : 300); s++) {
    fm_volume_mark (v, 0, BLOCKS);
    freeze ();
    fm_volume_copy (v, 100000);
    CHECK_EQ (fm_group_fence (&v, 1, s, 5000 * FM_MS), 0);
    fenced = s;
    usleep (50);
    session = s;
    if (CHECK_EQ (copy_all (), 0))
      fm_volume_settle (v);
  }
  stop_writers ();
  tear_down ();
}

/* The bytes on the wire are those that were sent, however often the link is made. */
static void
wire_bytes (void)
{
  set_up (false, 0);
  memset (front->bytes, 1, SIZE);
  for (unsigned i = 1; i <= 3; i++) {
    CHECK_EQ (fm_volume_link (v, &second->store, 1), 0);
    fm_volume_mark (v, 0, BLOCKS);
    good_cycle (second);
    CHECK_EQ (stats ().wire_bytes, (uint64_t)i * SIZE);
    fm_volume_unlink (v);
    CHECK_EQ (stats ().wire_bytes, (uint64_t)i * SIZE);
  }
  CHECK_EQ (stats ().copied_bytes[1], 3 * (uint64_t)SIZE);
  tear_down ();
}

/* Lanes do not end under a cycle that writers count on, unless it was failed before. */
static void
unlinked_under_a_cycle (void)
{
  for (unsigned strict = 0; strict < 2; strict++) {
    begin_cycle (strict);
    if (strict) /* all is copied, but nothing is hardened */
      CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
    pid_t child = fork ();
    if (child == 0) {
      close (2); /* what an assert says */
      fm_volume_unlink (v);
      _exit (0);
    }
    int status = 0;
    CHECK_EQ (waitpid (child, &status, 0), child);
    CHECK (WIFSIGNALED (status) && WTERMSIG (status) == SIGABRT);
    fm_volume_fail (v, -EIO, -1);
    fm_volume_unlink (v);
    tear_down ();
  }
}

int
main (void)
{
  RUN (first_sink_fails);
  RUN (first_sink_loses_beside_its_flush);
  RUN (late_write_voids_no_copy);
  RUN (late_copy_of_a_writer_voids_none);
  RUN (both_sinks_fail);
  RUN (second_sink_fails);
  RUN (first_sink_lost_without_a_link);
  RUN (holds_without_a_link);
  RUN (lost_under_load);
  RUN (abandoned_under_load);
  RUN (unlinked_under_load);
  RUN (unlinked_under_a_cycle);
  RUN (silent_sink);
  RUN (slow_zeroes_are_no_silence);
  RUN (server_lost_under_load);
  RUN (fence);
  RUN (wire_bytes);
  return finish ("failure");
}
