/* Promises of a strict volume (I2): what is pending in its durable record is not overwritten. */
#include "stage.h"

static void
set_up_strict (void)
{
  set_up (false, 1, 2, 0);
  fm_volume_set_strict (v);
}

/* One hardening, as the control does it: flush, (record,) and only then let writers go on. */
static void
harden (void)
{
  fm_volume_harden_begin (v);
  CHECK_EQ (fm_volume_flush (v, false), 0);
  fm_volume_harden_end (v);
}

/* Whether the request may go on to the front now. */
static bool
may_write (struct fm_request *r)
{
  int rc = 0;
  for (unsigned i = 0; i < 20 && rc == 0; i++)
    rc = fm_request_step (v, r);
  CHECK (rc >= 0);
  return rc == 1;
}

/* A writer that meets a pending block has it copied at once, and asks for a hardening;
 * it goes on only after the end of one that covered its block. */
static void
writer_waits_for_a_hardening (void)
{
  set_up_strict ();
  struct fm_request r = write_of (5 * BLOCK, BLOCK);
  CHECK_EQ (fm_request_begin (v, &r), 0);
  CHECK (!fm_group_harden_wanted (&v, 1));
  CHECK (!may_write (&r));
  CHECK (holds (first, 5, 6) && holds (front, 5, 6) && fm_group_harden_wanted (&v, 1));
  fm_volume_harden_begin (v);
  CHECK (!may_write (&r)); /* flushed perhaps, but not recorded */
  fm_volume_harden_end (v);
  CHECK (may_write (&r));
  CHECK_EQ (fm_request_finish (v, &r), 0);
  CHECK (holds (front, 5, 99) && holds (first, 5, 6));
  CHECK_EQ (stats ().pending_blocks, BLOCKS - 1);
  tear_down ();
}

/* A block that was copied after the hardening had begun is not covered by it. */
static void
a_hardening_covers_what_was_sent_before_it (void)
{
  set_up_strict ();
  fm_volume_harden_begin (v);
  struct fm_request r = write_of (5 * BLOCK, BLOCK);
  CHECK_EQ (fm_request_begin (v, &r), 0);
  CHECK (!may_write (&r));
  fm_volume_harden_end (v);
  CHECK (!may_write (&r));
  harden ();
  CHECK (may_write (&r));
  CHECK_EQ (fm_request_finish (v, &r), 0);
  tear_down ();
}

/* Blocks that are in no map of the record are written without a wait, whatever is pending. */
static void
others_do_not_wait (void)
{
  set_up_strict ();
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  harden ();
  uint64_t held;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 5 * BLOCK, 0), 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 100 * FM_MS, &held), 0);
  CHECK_EQ (stats ().pending_blocks, 1);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 6 * BLOCK, 0), 0);
  CHECK (!fm_group_harden_wanted (&v, 1));
  struct fm_request r = write_of (4 * BLOCK, 3 * BLOCK);
  CHECK_EQ (fm_request_begin (v, &r), 0);
  CHECK (!may_write (&r));
  harden ();
  CHECK (may_write (&r));
  CHECK_EQ (fm_request_finish (v, &r), 0);
  tear_down ();
}

/* A failed copy, or a failed flush: the writer gets the error and has left the gate, and
 * nothing is given up: what was sent and not hardened is pending again after a retry. */
static void
failure_gives_nothing_up (void)
{
  set_up_strict ();
  struct fm_request r = write_of (4 * BLOCK, BLOCK);
  CHECK_EQ (fm_request_begin (v, &r), 0);
  CHECK (!may_write (&r));
  fm_volume_harden_begin (v);
  first->flush_rc = -EIO;
  CHECK_EQ (fm_volume_flush (v, false), -EIO);
  CHECK_EQ (fm_request_step (v, &r), -EIO);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 6 * BLOCK, 0), -EIO);
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), -EIO);
  CHECK_EQ (fm_group_close (&v, 1, fm_now_ns () + 100 * FM_MS), 0);
  fm_group_open (&v, 1);
  CHECK (stats ().pending_blocks == BLOCKS - 1 && stats ().sent_blocks == 1);
  first->flush_rc = 0;
  CHECK_EQ (fm_volume_flush (v, true), -EIO); /* the store says it once; what it lost is lost */
  fm_volume_retry (v);
  CHECK_EQ (fm_volume_flush (v, true), 0);
  CHECK (stats ().pending_blocks == BLOCKS && stats ().sent_blocks == 0);
  first->fail_rc = -ENOSPC;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, 5 * BLOCK, 0), -ENOSPC);
  CHECK (stats ().pending_blocks == BLOCKS && stats ().failed_part == 0);
  first->fail_rc = 0;
  fm_volume_retry (v);
  memset (first->bytes, 0, SIZE); /* the server lost what it had not flushed */
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  harden ();
  for (unsigned i = 0; i < BLOCKS; i++)
    CHECK (holds (first, i, (char)(1 + i)) && holds (front, i, (char)(1 + i)));
  tear_down ();
}

static void *
write_all (void *arg)
{
  uint64_t seed = 5 + (uintptr_t)arg;
  for (unsigned i = 0; i < 40; i++)
    CHECK_EQ (fm_volume_write (v, 0, new_bytes, BLOCK, random_below (&seed, BLOCKS - 1) * BLOCK, 0), 0);
  return NULL;
}

/* Every byte that reaches the front meets no block of the record, while threads write,
 * the background copies and hardenings come and go. */
static void
check_no_owed_block (struct fake *f, const struct fm_op *op)
{
  (void)f;
  uint64_t at, n, block = op->offset / BLOCK;
  pthread_mutex_lock (&v->lock);
  const struct fm_bitmap *maps[] = { v->pending, v->sent, v->hardening };
  for (unsigned i = 0; i < 3; i++)
    CHECK (!fm_bitmap_run (maps[i], block, 1, &at, &n) || at != block);
  pthread_mutex_unlock (&v->lock);
}

static void
under_load (void)
{
  for (unsigned round = 0; round < (SANITIZED ? 5 : 40); round++) {
    set_up (false, 1, 2, round % 3);
    fm_volume_set_strict (v);
    front->on_write = check_no_owed_block;
    pthread_t writer[3];
    for (uintptr_t i = 0; i < 3; i++)
      pthread_create (&writer[i], NULL, write_all, (void *)i);
    int done = 0;
    while (!done) {
      done = fm_volume_copy (v, 20 * 1000);
      CHECK (done >= 0);
      if (fm_group_harden_wanted (&v, 1) || done)
        harden ();
    }
    for (unsigned i = 0; i < 3; i++)
      pthread_join (writer[i], NULL);
    for (unsigned i = 0; i < BLOCKS; i++)
      CHECK (holds (first, i, (char)(1 + i)));
    tear_down ();
  }
}

int
main (void)
{
  RUN (writer_waits_for_a_hardening);
  RUN (a_hardening_covers_what_was_sent_before_it);
  RUN (others_do_not_wait);
  RUN (failure_gives_nothing_up);
  RUN (under_load);
  return finish ("harden");
}
