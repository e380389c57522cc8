/* Promises of intent.h (I4): on disk before the write, off only when nothing needs it. */
#include "stage.h"

#include <errno.h>

#define REGION_SHIFT 11 /* 4 blocks */
#define REGIONS ((SIZE + (1 << REGION_SHIFT) - 1) >> REGION_SHIFT)
#define LOG_OFFSET 512

static struct fake *logged; /* the store of the log */
static struct fm_intent *intent;

static bool
on_disk (unsigned region)
{
  pthread_mutex_lock (&logged->lock);
  bool set = logged->bytes[LOG_OFFSET + region / 8] & (1 << (region % 8));
  pthread_mutex_unlock (&logged->lock);
  return set;
}

/* Bytes of a client reach the front only in regions that stand in the log. */
static void
check_logged (struct fake *f, const struct fm_op *op)
{
  (void)f;
  for (uint64_t r = op->offset >> REGION_SHIFT; r <= (op->offset + op->length - 1) >> REGION_SHIFT;
       r++)
    CHECK (on_disk ((unsigned)r));
}

static void
open_intent (void)
{
  CHECK_EQ (fm_intent_open (&logged->store, LOG_OFFSET, SIZE, REGION_SHIFT, &intent), 0);
}

/* A volume in sync: nothing pending, nothing hot. */
static void
begin (unsigned lazy)
{
  set_up (false, 1, 2, lazy);
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  fm_volume_settle (v);
  logged = fake_open (LOG_OFFSET + fm_intent_log_bytes (SIZE, REGION_SHIFT), 0);
  open_intent ();
  logged->flushes = 0;
  fm_volume_set_intent (v, intent);
  front->on_write = check_logged;
}

static void
end (void)
{
  tear_down ();
  fm_intent_close (intent);
  fake_close (logged);
}

/* A whole cycle, so that what was written until now is at the target. */
static void
cycle (void)
{
  uint64_t held;
  CHECK_EQ (fm_group_freeze (&v, 1, 1000 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_copy (v, 10000 * FM_MS), 1);
  CHECK_EQ (fm_volume_flush (v, true), 0);
  fm_volume_settle (v);
}

/* The first write into a region stands in the log, flushed, before it is issued; the next
 * ones cost nothing; a write over several regions heats them together. */
static void
heated_before_the_write (void)
{
  begin (0);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 5 * BLOCK, 0), 0);
  CHECK (on_disk (1) && !on_disk (0) && !on_disk (2));
  CHECK_EQ (logged->flushes, 1);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 6 * BLOCK, 0), 0);
  CHECK_EQ (logged->flushes, 1);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, SIZE - 7 * BLOCK, 7 * BLOCK, 0), 0);
  CHECK_EQ (logged->flushes, 2);
  CHECK_EQ (fm_intent_hot (intent), REGIONS - 1);
  uint64_t at, n;
  CHECK (fm_intent_run (intent, 0, &at, &n) && at == 1 << REGION_SHIFT);
  CHECK_EQ (at + n, (uint64_t)REGIONS << REGION_SHIFT);
  CHECK (!fm_intent_run (intent, at + n, &at, &n));
  end ();
}

/* What was hot when the process ended is hot for the next one, which flushes the log first:
 * a bit that a killed process had written is in the cache, but perhaps not on the disk. */
static void
found_again (void)
{
  begin (0);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 9 * BLOCK, 0), 0);
  fm_intent_close (intent);
  unsigned long before = logged->flushes;
  logged->store.covered = 0; /* as another process finds it */
  open_intent ();
  CHECK_EQ (logged->flushes, before + 1);
  uint64_t at, n;
  CHECK (fm_intent_run (intent, 0, &at, &n));
  CHECK (at == 2 << REGION_SHIFT && n == 1 << REGION_SHIFT);
  CHECK_EQ (fm_intent_heat_all (intent), 0);
  CHECK_EQ (fm_intent_hot (intent), REGIONS);
  v->intent = intent;
  end ();
}

/* A region is cooled when a commit has covered it, not while `next` has a block of it, and
 * not soon after it was used. */
static void
cooled_when_committed (void)
{
  begin (0);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), 0);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 4 * BLOCK, 0), 0);
  cycle ();
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 4 * BLOCK, 0), 0);
  CHECK_EQ (fm_volume_cool (v, 1000), 0);
  CHECK (on_disk (0) && on_disk (1)); /* used a moment ago */
  CHECK_EQ (fm_volume_cool (v, 0), 0);
  CHECK (!on_disk (0) && on_disk (1)); /* written since */
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), 0);
  CHECK (on_disk (0));
  end ();
}

/* A log that cannot be written: the write fails, has left the gate, and was not issued. */
static void
log_fails (void)
{
  begin (0);
  logged->fail_rc = -EIO;
  unsigned long before = front->writes;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), -EIO);
  logged->fail_rc = 0;
  logged->flush_rc = -EIO;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), -EIO);
  CHECK (front->writes == before && fm_intent_hot (intent) == 0);
  CHECK_EQ (fm_group_close (&v, 1, fm_now_ns () + 100 * FM_MS), 0);
  fm_group_open (&v, 1);
  logged->flush_rc = 0;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), 0);
  CHECK (on_disk (0));
  end ();
}

/* Bits behind the last region, as damage leaves them, are no regions: nothing counts or cools
 * them, and the next write of their page takes them away. */
static void
bits_of_no_region (void)
{
  begin (0);
  fm_intent_close (intent);
  memset (logged->bytes + LOG_OFFSET, 255, fm_intent_log_bytes (SIZE, REGION_SHIFT));
  open_intent ();
  fm_volume_set_intent (v, intent);
  uint64_t at, n;
  CHECK_EQ (fm_intent_hot (intent), REGIONS);
  CHECK (fm_intent_run (intent, 0, &at, &n) && at == 0 && n == REGIONS << REGION_SHIFT);
  CHECK_EQ (fm_volume_cool (v, 0), 0);
  CHECK_EQ (fm_intent_hot (intent), 0);
  for (unsigned r = 0; r < 4096 * 8; r++)
    CHECK (!on_disk (r));
  end ();
}

static _Atomic bool over;

static void *
write_here_and_there (void *arg)
{
  uint64_t seed = 3 + (uintptr_t)arg;
  while (!over)
    CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, random_below (&seed, BLOCKS - 1) * BLOCK, 0), 0);
  return NULL;
}

/* While threads write, and cycles and coolings come and go, no write is issued into a region
 * that does not stand in the log; what is in `next` at the end stands there. */
static void
under_load (void)
{
  begin (1);
  pthread_t writer[3];
  over = false;
  for (uintptr_t i = 0; i < 3; i++)
    pthread_create (&writer[i], NULL, write_here_and_there, (void *)i);
  for (unsigned i = 0; i < (SANITIZED ? 30 : 300); i++) {
    cycle ();
    CHECK_EQ (fm_volume_cool (v, 0), 0);
  }
  over = true;
  for (unsigned i = 0; i < 3; i++)
    pthread_join (writer[i], NULL);
  uint64_t at, n;
  for (uint64_t from = 0; fm_bitmap_run (v->next, from, 1, &at, &n); from = at + 1)
    CHECK (on_disk ((unsigned)(at * BLOCK >> REGION_SHIFT)));
  end ();
}

static unsigned long written_before_flush;

static void
count_bits (struct fake *f, const struct fm_op *op)
{
  CHECK (op->offset >= LOG_OFFSET && op->offset + op->length <= f->store.size && !f->flushes);
  written_before_flush += op->length;
}

/* A process before this one may have written bits whose flush has failed: they are read, but the
 * disk may not have them, and says so nobody any more.  So they are written again before they
 * count, and a log that cannot be is not opened. */
static void
found_bits_are_written_again (void)
{
  logged = fake_open (LOG_OFFSET + fm_intent_log_bytes (SIZE, REGION_SHIFT), 0);
  logged->bytes[LOG_OFFSET] = 5;
  logged->on_write = count_bits;
  logged->fail_rc = -EIO;
  CHECK_EQ (fm_intent_open (&logged->store, LOG_OFFSET, SIZE, REGION_SHIFT, &intent), -EIO);
  logged->fail_rc = 0;
  logged->flush_rc = -EIO;
  CHECK_EQ (fm_intent_open (&logged->store, LOG_OFFSET, SIZE, REGION_SHIFT, &intent), -EIO);
  logged->flush_rc = 0;
  logged->flushes = 0;
  written_before_flush = 0;
  open_intent ();
  CHECK_EQ (written_before_flush, fm_intent_log_bytes (SIZE, REGION_SHIFT));
  CHECK (logged->flushes == 1 && fm_intent_hot (intent) == 2 && logged->bytes[LOG_OFFSET] == 5);
  fm_intent_close (intent);
  fake_close (logged);
}

int
main (void)
{
  RUN (heated_before_the_write);
  RUN (found_again);
  RUN (cooled_when_committed);
  RUN (log_fails);
  RUN (bits_of_no_region);
  RUN (found_bits_are_written_again);
  RUN (under_load);
  return finish ("intent");
}
