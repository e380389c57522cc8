/* Promises of request.h, step by step: the stores are fakes, so a test says what
 * has happened and what has not. */
#include "stage.h"

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
  CHECK (first->flushes == 1 && second->flushes == 0 && front->flushes == 1);
  fm_volume_settle (v);
  CHECK_EQ (stats ().sent_blocks, 0);
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

/* The age of what is not yet safe counts from the first write; what was marked by the control is
 * older than all that is known, until it is settled, through an abandoned cycle too. */
static void
exposure_starts_with_a_write (void)
{
  set_up (false, 1, 1, 0);
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  fm_volume_settle (v);
  CHECK (stats ().next_since_ns == 0 && stats ().cycle_since_ns == 0);
  uint64_t before = fm_now_ns ();
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 0, 0), 0);
  uint64_t since = stats ().next_since_ns, held;
  CHECK (since >= before && since <= fm_now_ns ());
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, BLOCK, 0), 0);
  CHECK_EQ (stats ().next_since_ns, since);
  CHECK_EQ (fm_group_freeze (&v, 1, 1000 * FM_MS, &held), 0);
  CHECK (stats ().next_since_ns == 0 && stats ().cycle_since_ns == since);
  fm_volume_mark (v, 0, 1);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, BLOCK, 0), 0);
  CHECK_EQ (stats ().next_since_ns, FM_SINCE_UNKNOWN);
  fm_volume_fail (v, -EIO, 0);
  fm_volume_abandon (v);
  CHECK (stats ().next_since_ns == FM_SINCE_UNKNOWN && stats ().cycle_since_ns == 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 1000 * FM_MS, &held), 0);
  CHECK (stats ().next_since_ns == 0 && stats ().cycle_since_ns == FM_SINCE_UNKNOWN);
  fm_volume_fail (v, -EIO, 0);
  fm_volume_abandon (v);
  CHECK (stats ().next_since_ns == FM_SINCE_UNKNOWN && stats ().cycle_since_ns == 0);
  CHECK_EQ (fm_group_freeze (&v, 1, 1000 * FM_MS, &held), 0);
  CHECK_EQ (fm_volume_copy (v, 1000 * FM_MS), 1);
  fm_volume_settle (v);
  CHECK (stats ().next_since_ns == 0 && stats ().cycle_since_ns == 0);
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
  CHECK_EQ (stats ().write_error, -EIO);
  CHECK_EQ (stats ().next_blocks, 1); /* nobody knows what the disk holds now */
  front->fail_rc = -EOPNOTSUPP;
  CHECK_EQ (fm_volume_zero (v, 0, BLOCK, 0, FM_FAST), -EOPNOTSUPP);
  CHECK_EQ (stats ().write_errors, 1);
  front->fail_rc = 0;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 1, 1, 0), 0);
  CHECK_EQ (stats ().write_error, -EIO); /* where it failed nothing was written yet */
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 2, 0, 0), 0);
  CHECK_EQ (stats ().write_error, 0);
  CHECK_EQ (fm_volume_flush_front (v), 0);
  CHECK_EQ (front->flushes, 1);
  front->read_rc = -EIO;
  CHECK_EQ (fm_volume_read (v, buf, 2, 4), -EIO);
  CHECK_EQ (fm_volume_read (v, buf, 2, 4), -EIO);
  CHECK_EQ (stats ().read_errors, 2);
  front->read_rc = 0;
  CHECK_EQ (fm_volume_read (v, buf, 4, 0), 0);
  CHECK_EQ (stats ().read_error, -EIO);
  CHECK_EQ (fm_volume_read (v, buf, 6, 0), 0);
  CHECK (stats ().read_error == 0 && stats ().write_errors == 1);
  front->read_rc = -EIO;
  CHECK_EQ (fm_volume_read (v, buf, 2, 4), -EIO);
  front->read_rc = 0;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 2, 4, 0), 0);
  CHECK_EQ (stats ().read_error, 0);
  tear_down ();
}

/* A read or write that failed stands until all of its bytes were read or written well, in whatever pieces: one
 * sector of a long request may be what is bad. */
static void
all_of_what_failed (void)
{
  char buf[BLOCK];
  set_up (false, 1, 1, 0);
  front->read_rc = -EIO;
  CHECK_EQ (fm_volume_read (v, buf, 100, 50), -EIO);
  front->read_rc = 0;
  CHECK_EQ (fm_volume_read (v, buf, 60, 0), 0); /* its first bytes */
  CHECK_EQ (stats ().read_error, -EIO);
  CHECK_EQ (fm_volume_read (v, buf, 60, 140), 0); /* its last ones */
  CHECK_EQ (fm_volume_read (v, buf, 40, 80), 0);  /* some in the middle, which are not remembered */
  CHECK_EQ (stats ().read_error, -EIO);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 20, 60, 0), 0);
  CHECK_EQ (fm_volume_read (v, buf, 59, 80), 0);
  CHECK_EQ (stats ().read_error, -EIO);
  CHECK_EQ (fm_volume_read (v, buf, 1, 139), 0);
  CHECK_EQ (stats ().read_error, 0);
  front->fail_rc = -EIO;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 100, 50, 0), -EIO);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 10, 60, 0), -EIO); /* tried again in part */
  front->fail_rc = 0;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 30, 50, 0), 0);
  CHECK_EQ (stats ().write_error, -EIO);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 70, 80, 0), 0);
  CHECK_EQ (stats ().write_error, 0);
  front->fail_rc = -EIO;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 10, 0, 0), -EIO);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 10, 300, 0), -EIO); /* elsewhere: of these the last */
  front->fail_rc = 0;
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 10, 0, 0), 0);
  CHECK_EQ (stats ().write_error, -EIO);
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 10, 300, 0), 0);
  CHECK_EQ (stats ().write_error, 0);
  tear_down ();
}

int
main (void)
{
  RUN (copy_before_write);
  RUN (preserve_first_feeds_the_second);
  RUN (long_request);
  RUN (gate_and_session);
  RUN (missed_freeze);
  RUN (exposure_starts_with_a_write);
  RUN (answers);
  RUN (all_of_what_failed);
  return finish ("request");
}
