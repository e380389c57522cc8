/* Promises about the order of steps, in every order that a few tasks can have: interleave.h. */
#define BLOCKS 4
#include "stage.h"

#include "interleave.h"

#define MANY 50   /* runs; fewer would mean that a scenario has no points */
#define WRITTEN 1 /* the block that is written, and so copied before */

static struct fm_volume *other; /* the group's second volume, where there is one */
static bool settled, fenced, recorded[BLOCKS], written, two_writers;

static void
all_orders (struct interleave scenario)
{
  unsigned long runs = interleave (&scenario);
  CHECK (runs > MANY || checks_failed);
  if (getenv ("TIMES"))
    printf ("  %lu runs\n", runs);
}

/* Without a point. */
static bool
holds_bit (const struct fm_bitmap *b, uint64_t bit)
{
  return __atomic_load_n (&b->level[0][bit / 64], __ATOMIC_RELAXED) >> (bit % 64) & 1;
}

static bool
is_pending (uint64_t block)
{
  return holds_bit (*(struct fm_bitmap **)&v->pending, block);
}

static bool
is_in_next (const struct fm_volume *of, uint64_t block)
{
  return holds_bit (*(struct fm_bitmap *const *)&of->next, block);
}

/* What a process that is killed here leaves in its maps (shared.c). */
static void
every_block_is_in_a_map (void)
{
  for (unsigned b = 0; b < BLOCKS && !settled; b++) {
    bool found = holds_bit (&v->unsent, b) || holds_bit (&v->stable, b);
    for (unsigned i = 0; i < FM_MAPS; i++)
      found |= holds_bit (&v->maps[i], b);
    CHECK (found);
  }
}

/* ---- maps ---- */

static struct fm_bitmap map;

static bool
has (uint64_t bit)
{
  uint64_t first, n;
  return fm_bitmap_run (&map, bit, 1, &first, &n) && first == bit;
}

static void
begin_map (void)
{
  CHECK_EQ (fm_bitmap_init (&map, 300000), 0); /* three levels */
  fm_bitmap_set (&map, 5, 1);
}

static void
set_another (void)
{
  fm_bitmap_set (&map, 7, 1);
}

static void
set_far_away (void)
{
  fm_bitmap_set (&map, 299999, 1);
}

static void
clear_it (void)
{
  fm_bitmap_clear (&map, 5, 1);
}

static void
end_map (void)
{
  CHECK (!has (5) && has (7));
  CHECK_EQ (fm_bitmap_count (&map), 1 + has (299999));
  fm_bitmap_free (&map);
}

/* A bit that is set while the last one of its group is cleared is found afterwards. */
static void
set_while_another_is_cleared (void)
{
  all_orders ((struct interleave){ begin_map, { set_another, clear_it }, end_map, NULL, 3 });
  all_orders (
    (struct interleave){ begin_map, { set_another, clear_it, set_far_away }, end_map, NULL, 2 });
}

static void
begin_full_map (void)
{
  begin_map ();
  fm_bitmap_set (&map, 0, 3);
  fm_bitmap_set (&map, 700, 1);
}

static void
clear_one_by_one (void)
{
  for (unsigned i = 0; i < 6; i++)
    fm_bitmap_clear (&map, i, 1);
}

static void
find_any (void)
{
  uint64_t first, n;
  CHECK (fm_bitmap_run (&map, 0, 64, &first, &n) && n > 0);
}

static void
end_full_map (void)
{
  CHECK (has (700));
  fm_bitmap_free (&map);
}

/* Who looks for a bit finds one that stays, whatever is cleared before it meanwhile (I5). */
static void
a_bit_that_stays_is_found (void)
{
  all_orders (
    (struct interleave){ begin_full_map, { find_any, clear_one_by_one }, end_full_map, NULL, 3 });
}

/* ---- the gate ---- */

static struct fm_gate gate;
static unsigned inside;

static void
begin_gate (void)
{
  fm_gate_init (&gate);
  inside = 0;
}

static void
enter_and_leave (void)
{
  while (!fm_gate_try_enter (&gate))
    fm_gate_wait_open (&gate);
  inside++;
  interleave_point ();
  inside--;
  fm_gate_leave (&gate);
}

static void
close_and_open (void)
{
  fm_gate_close (&gate);
  CHECK_EQ (fm_gate_drain (&gate, UINT64_MAX), 0);
  CHECK_EQ (inside, 0);
  interleave_point ();
  CHECK_EQ (inside, 0);
  fm_gate_open (&gate);
}

static void
end_gate (void)
{
  fm_gate_free (&gate);
}

/* Between a drain and the open nobody is inside (I6). */
static void
nobody_is_inside (void)
{
  all_orders ((struct interleave){
    begin_gate, { enter_and_leave, close_and_open, enter_and_leave }, end_gate, NULL, 2 });
}

/* ---- a volume ---- */

static void
check_write (struct fake *f, const struct fm_op *op)
{
  uint64_t block = op->offset / BLOCK;
  (void)f;
  CHECK (is_in_next (v, block) && !fenced);
  CHECK (v->strict ? recorded[block] : __atomic_load_n (&v->abandoned, 5) || !is_pending (block));
  written = true;
}

static void
begin_volume (void)
{
  settled = fenced = written = false;
  memset (recorded, 0, sizeof recorded);
  set_up (false, 1, 1, 0); /* all is pending */
  front->on_write = check_write;
}

/* The same, and all is in `next`. */
static void
begin_before_the_freeze (void)
{
  begin_volume ();
  CHECK_EQ (fm_volume_copy (v, UINT64_MAX / 2), 1);
  fm_volume_settle (v);
  memset (first->bytes, 0, SIZE);
  fm_volume_mark (v, 0, BLOCKS);
}

static void
write_it (void)
{
  int rc = fm_volume_write (v, 0, new_bytes, BLOCK, WRITTEN * BLOCK, 0);
  CHECK (rc == 0 || (v->strict && rc == -EIO));
  written = true;
}

static void
freeze_it (void)
{
  uint64_t held;
  CHECK_EQ (fm_group_freeze (&v, 1, UINT64_MAX / 2, &held), 0);
}

static void
copy_it (void)
{
  CHECK_EQ (fm_volume_copy (v, UINT64_MAX / 2), 1);
}

static void
cycle (void)
{
  freeze_it ();
  copy_it ();
  CHECK_EQ (fm_volume_flush (v, true), 0);
  settled = true;
  fm_volume_settle (v);
}

/* The copy is of the moment of the freeze: what was written before it, and nothing else. */
static void
end_cycle (void)
{
  for (unsigned b = 0; b < BLOCKS; b++) {
    bool later = is_in_next (v, b);
    CHECK (later ? b == WRITTEN : true);
    CHECK (holds (first, b, b == WRITTEN && !later ? 99 : (char)(b + 1)));
  }
  tear_down ();
}

/* A write beside a whole cycle: I5, I6, and at no instant is a block in no map. */
static void
a_write_beside_a_cycle (void)
{
  all_orders ((struct interleave){ begin_before_the_freeze, { write_it, cycle }, end_cycle,
                                   every_block_is_in_a_map, 1 });
}

static void
abandon_it (void)
{
  fm_volume_fail (v, -EIO, 0);
  fm_volume_abandon (v);
}

static void
end_abandoned (void)
{
  struct fm_volume_stats s = stats ();
  CHECK (s.next_blocks == BLOCKS && s.pending_blocks == 0 && s.sent_blocks == 0);
  tear_down ();
}

/* A cycle that is abandoned under a writer's copy. */
static void
a_write_beside_an_abandoned_cycle (void)
{
  all_orders ((struct interleave){ begin_volume, { write_it, abandon_it }, end_abandoned,
                                   every_block_is_in_a_map, 1 });
}

/* The front has lost something: what is copied is written back to it. */
static void
begin_after_a_loss (void)
{
  uint64_t held;
  begin_volume ();
  fm_volume_fail (v, -EIO, 0);
  fm_volume_abandon (v);
  fm_store_lose (&front->store);
  CHECK_EQ (fm_group_freeze (&v, 1, UINT64_MAX / 2, &held), 0);
  CHECK (v->restores);
  front->on_write = NULL;
}

/* Another part of the same block. */
static void
write_beside_it (void)
{
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 100, WRITTEN * BLOCK, 0), 0);
}

static void
write_behind_it (void)
{
  CHECK_EQ (fm_volume_write (v, 0, new_bytes, 100, WRITTEN * BLOCK + 200, 0), 0);
}

static void
fail_it (void)
{
  fm_volume_fail (v, -EIO, 0);
}

static void
copy_and_abandon_it (void)
{
  int rc = fm_volume_copy (v, UINT64_MAX / 2);
  CHECK (rc == -EIO || rc == 1);
  abandon_it ();
}

static void
end_written (void)
{
  for (unsigned at = 0; at < BLOCK; at++)
    CHECK_EQ (front->bytes[WRITTEN * BLOCK + at],
              at < 100 || (at >= 200 && at < 300 && two_writers) ? 99 : WRITTEN + 1);
  end_abandoned ();
}

/* What is written back is never what a writer has overwritten, whoever copies it, and whenever the cycle
 * fails. */
static void
a_write_beside_a_write_back (void)
{
  two_writers = false;
  all_orders ((struct interleave){ begin_after_a_loss,
                                   { write_beside_it, copy_and_abandon_it, fail_it }, end_written,
                                   NULL, 1 });
  two_writers = true;
  all_orders ((struct interleave){ begin_after_a_loss,
                                   { write_beside_it, write_behind_it, abandon_it }, end_written,
                                   NULL, 1 });
}

static struct fake *other_front, *other_sink;

static void
begin_group (void)
{
  settled = fenced = written = false;
  begin_before_the_freeze ();
  fm_volume_forget_next (v);
  other_front = fake_open (SIZE, 0);
  other_sink = fake_open (SIZE, 0);
  CHECK_EQ (
    fm_volume_create (&other_front->store, &other_sink->store, SIZE, BLOCK, false, &other), 0);
}

static void
write_both (void)
{
  write_it ();
  CHECK_EQ (fm_volume_write (other, 0, new_bytes, BLOCK, WRITTEN * BLOCK, 0), 0);
}

static void
freeze_both (void)
{
  uint64_t held;
  struct fm_volume *both[] = { v, other };
  CHECK_EQ (fm_group_freeze (both, 2, UINT64_MAX / 2, &held), 0);
}

static void
end_group (void)
{
  CHECK (is_in_next (other, WRITTEN) || !is_in_next (v, WRITTEN));
  fm_volume_free (other);
  fake_close (other_front);
  fake_close (other_sink);
  tear_down ();
}

/* One moment for the group: not the second write without the first, which it may depend on (I6).  Two
 * preemptions: one in the middle of the freeze, and one before a request of the writer to its store,
 * which is a wait that would let the freeze end. */
static void
dependent_writes_beside_a_freeze (void)
{
  all_orders ((struct interleave){ begin_group, { write_both, freeze_both }, end_group, NULL, 2 });
}

static void
fence_it (void)
{
  CHECK_EQ (fm_group_fence (&v, 1, 7, UINT64_MAX / 2), 0);
  fenced = true;
}

static void
write_or_be_refused (void)
{
  int rc = fm_volume_write (v, 0, new_bytes, BLOCK, WRITTEN * BLOCK, 0);
  CHECK (rc == 0 || rc == -ESHUTDOWN);
}

/* No request of an older session reaches the front after the fence (I8). */
static void
a_write_beside_a_fence (void)
{
  all_orders ((struct interleave){ begin_before_the_freeze, { write_or_be_refused, fence_it },
                                   tear_down, NULL, 2 });
}

/* ---- hardening ---- */

static void
begin_strict (void)
{
  begin_volume ();
  fm_volume_set_strict (v);
}

static void
harden (void)
{
  fm_volume_harden_begin (v);
  CHECK_EQ (fm_volume_flush (v, false), 0);
  for (unsigned b = 0; b < BLOCKS; b++)
    recorded[b] |= holds_bit (v->hardening, b);
  fm_volume_harden_end (v);
}

static void
harden_all (void)
{
  while (!written || stats ().pending_blocks + stats ().sent_blocks) {
    copy_it ();
    harden ();
    if (!written)
      interleave_wait ();
  }
}

/* A block is overwritten only after it was recorded as hardened (I2). */
static void
a_write_beside_a_hardening (void)
{
  all_orders ((struct interleave){ begin_strict, { write_it, harden_all }, tear_down, NULL, 1 });
}

static void
lose_and_retry (void)
{
  interleave_point ();
  fm_volume_fail (v, -EIO, 0);
  memset (first->bytes, 0, SIZE); /* what was not flushed is gone */
  fm_volume_retry (v);
}

static void
end_retried (void)
{
  copy_it ();
  harden ();
  for (unsigned b = 0; b < BLOCKS; b++)
    CHECK (holds (first, b, (char)(b + 1)));
  tear_down ();
}

static void
copy_for_a_write (void)
{
  struct fm_request r = write_of (WRITTEN * BLOCK, BLOCK);
  int rc = fm_request_begin (v, &r);
  while (rc == 0 && !r.unhardened) {
    rc = fm_request_step (v, &r);
    interleave_wait ();
  }
  CHECK (rc == 0 || rc == -EIO);
  if (rc == 0)
    fm_gate_leave (&v->gate); /* its client has gone */
}

/* A writer's copy that is under way when a flush fails is made again (I9). */
static void
a_copy_beside_a_failed_flush (void)
{
  all_orders (
    (struct interleave){ begin_strict, { copy_for_a_write, lose_and_retry }, end_retried, NULL, 1 });
}

/* ---- a link that is lost ---- */

static bool parted;

/* The old bytes stand in the intermediates first (I5): in both, where a link is waited for. */
static void
check_copied (struct fake *f, const struct fm_op *op)
{
  check_write (f, op);
  CHECK (holds (first, WRITTEN, WRITTEN + 1));
  CHECK (!v->hold || holds (second, WRITTEN, WRITTEN + 1));
}

static void
begin_two_sinks (bool preserve_first)
{
  parted = settled = fenced = written = false;
  set_up (preserve_first, 2, 1, 0);
  front->on_write = check_copied;
}

static void
begin_linked (void)
{
  begin_two_sinks (false);
}

static void
begin_first_is_enough (void)
{
  begin_two_sinks (true);
}

static void
begin_held (void)
{
  begin_linked ();
  fm_volume_set_hold (v);
}

/* What counts as sent stands in both. */
static void
what_is_sent_is_there (void)
{
  every_block_is_in_a_map ();
  for (unsigned b = 0; b < BLOCKS; b++)
    if (holds_bit (v->sent, b))
      CHECK (holds (first, b, (char)(b + 1)) && holds (second, b, (char)(b + 1)));
}

static void
every_block_waits_for_the_link (void)
{
  what_is_sent_is_there ();
  for (unsigned b = 0; b < BLOCKS && !parted; b++)
    CHECK (!holds_bit (&v->unsent, b));
}

static void
lose_it (void)
{
  fm_volume_lose_second (v, -EIO);
}

static void
copy_over_two_links (void)
{
  fm_volume_copy (v, 0);
  lose_it ();
  copy_it ();
  parted = true;
  CHECK_EQ (fm_volume_part (v, 1), 0);
  copy_it ();
  CHECK_EQ (fm_volume_link (v, &second->store, 1), 0);
  copy_it ();
}

static void
end_linked (void)
{
  if (v->second_lost) { /* once more, at last */
    CHECK_EQ (fm_volume_part (v, 1), 0);
    CHECK_EQ (fm_volume_link (v, &second->store, 1), 0);
    copy_it ();
  }
  CHECK_EQ (stats ().sent_blocks, BLOCKS);
  for (unsigned b = 0; b < BLOCKS; b++)
    CHECK (holds (first, b, (char)(b + 1)) && holds (second, b, (char)(b + 1)));
  CHECK (is_in_next (v, WRITTEN) && holds (front, WRITTEN, 99));
  tear_down ();
}

/* A link is lost, and there is another, beside a write: both sinks hold what there was at the consistency
 * point, and no block is counted as sent that the second has not. */
static void
a_write_beside_a_lost_link (void)
{
  all_orders ((struct interleave){ begin_linked, { write_it, copy_over_two_links }, end_linked,
                                   what_is_sent_is_there, 1 });
  all_orders ((struct interleave){ begin_linked, { write_it, copy_over_two_links, lose_it }, end_linked,
                                   what_is_sent_is_there, 1 });
  all_orders ((struct interleave){ begin_first_is_enough, { write_it, copy_over_two_links, lose_it },
                                   end_linked, what_is_sent_is_there, 1 });
}

/* Where a link is waited for, nothing is copied to the first sink alone, by whom ever, and nothing is
 * overwritten that the second lacks. */
static void
a_write_that_waits_for_a_link (void)
{
  all_orders ((struct interleave){ begin_held, { write_it, copy_over_two_links }, end_linked,
                                   every_block_waits_for_the_link, 1 });
}

/* ---- the intent log ---- */

static struct fake *logged;
static struct fm_intent *intent;

static bool
is_on_disk (unsigned block)
{
  return logged->bytes[block / 8] >> (block % 8) & 1;
}

static void
check_logged (struct fake *f, const struct fm_op *op)
{
  check_write (f, op);
  CHECK (is_on_disk ((unsigned)(op->offset / BLOCK)));
}

static void
begin_hot (void)
{
  begin_volume ();
  copy_it ();
  fm_volume_settle (v);
  logged = fake_open (fm_intent_log_bytes (SIZE, 9), 0);
  CHECK_EQ (fm_intent_open (&logged->store, 0, SIZE, 9, &intent), 0);
  CHECK_EQ (fm_intent_heat_all (intent), 0);
  fm_volume_set_intent (v, intent);
  front->on_write = check_logged;
}

static void
cool_it (void)
{
  CHECK_EQ (fm_volume_cool (v, 0), 0);
}

static void
end_hot (void)
{
  CHECK (is_in_next (v, WRITTEN) && is_on_disk (WRITTEN) && !is_on_disk (WRITTEN + 1));
  tear_down ();
  fm_intent_close (intent);
  fake_close (logged);
}

/* A region into which is written while it is cooled stays in the log (I4). */
static void
a_write_beside_a_cooling (void)
{
  all_orders ((struct interleave){ begin_hot, { write_it, cool_it }, end_hot, NULL, 1 });
}

/* ---- one task, killed anywhere ---- */

static void
begin_whole_life (void)
{
  settled = fenced = written = false;
  set_up (false, 2, 1, 0);
}

/* Every way that a block takes from map to map. */
static void
whole_life (void)
{
  fm_volume_compare (v, true);
  copy_it ();
  fm_volume_equal (v, 0, 1);
  fm_volume_compare (v, false);
  fm_volume_harden_begin (v);
  fm_volume_harden_end (v);
  CHECK (holds_bit (&v->stable, 0) && holds_bit (&v->unsent, 1));
  copy_it ();
  CHECK (holds_bit (v->sent, 1));
  fm_volume_lose_second (v, -EIO);
  CHECK_EQ (fm_volume_part (v, 1), 0);
  fm_volume_forget_stable (v);
  CHECK_EQ (fm_volume_link (v, &second->store, 1), 0);
  copy_it ();
  fm_volume_lose_second (v, -EIO);
  fm_volume_harden_begin (v);
  CHECK_EQ (fm_volume_part (v, 1), 0);
  fm_volume_all_sent (v);
  abandon_it ();
}

/* A block in each map, and all of them given up at once. */
static void
abandoned_life (void)
{
  fm_volume_compare (v, true);
  copy_it ();
  fm_volume_equal (v, 0, 1);
  fm_volume_harden_begin (v);
  fm_volume_harden_end (v);
  fm_volume_equal (v, 1, 1);
  fm_volume_harden_begin (v);
  fm_volume_equal (v, 2, 1);
  CHECK (holds_bit (&v->stable, 0) && holds_bit (v->hardening, 1) && holds_bit (v->sent, 2)
         && holds_bit (&v->unsent, 3));
  abandon_it ();
}

static void
killed_anywhere_no_block_is_in_no_map (void)
{
  struct interleave once = { begin_whole_life, { whole_life }, end_abandoned,
                             every_block_is_in_a_map, 0 };
  CHECK_EQ (interleave (&once), 1);
  once.task[0] = abandoned_life;
  CHECK_EQ (interleave (&once), 1);
}

int
main (void)
{
  RUN (set_while_another_is_cleared);
  RUN (a_bit_that_stays_is_found);
  RUN (nobody_is_inside);
  RUN (a_write_beside_a_cycle);
  RUN (a_write_beside_an_abandoned_cycle);
  RUN (a_write_beside_a_write_back);
  RUN (dependent_writes_beside_a_freeze);
  RUN (a_write_beside_a_fence);
  RUN (a_write_beside_a_hardening);
  RUN (a_copy_beside_a_failed_flush);
  RUN (a_write_beside_a_lost_link);
  RUN (a_write_that_waits_for_a_link);
  RUN (a_write_beside_a_cooling);
  RUN (killed_anywhere_no_block_is_in_no_map);
  return finish ("order");
}
