"""Faults of a volume: its gate, requests and maps, consistency points, the intent log."""

from __future__ import annotations

from faults.fault import Fault

FAULTS = (
    Fault(
        "what an abandoned cycle had of a write is exposed since the next write, or not at all",
        "tests/test_exposure.py::test_it_grows_over_cycles_that_are_abandoned",
        (("native/volume.c",
          "  if (since && atomic_load (&v->next_since_ns) != FM_SINCE_UNKNOWN)\n",
          "  if (0)\n"),),
        "ABANDONED_EXPOSES_LESS",
    ),
    Fault(
        "a zero is in the gate as long as all of it takes (I6)",
        "native:zero",
        (("native/access.c",
          "    piece = n < piece ? n : piece;\n",
          "    piece = n;\n"),),
        "ZERO_STAYS_IN_THE_GATE",
    ),
    Fault(
        "a look at a page of a shared map gives it that page, which a full disk does not have",
        "native:bitmap",
        (("native/bitmap.c", "  if (l == 0 && !is_there (b, w))\n    return 0;\n", ""),),
        "LOOK_TAKES_A_PAGE",
    ),
    Fault(
        "where the maps' disk is full each lone page is a mapping of its own",
        "native:bitmap",
        (("native/bitmap.c", "  while (first > 0 && ", "  while (0 && "),
         ("native/bitmap.c", "  while (end < pages && ", "  while (0 && end < pages && ")),
        "A_MAPPING_A_PAGE",
    ),
    Fault(
        "an abandoned cycle takes the pages from under its writers",
        "native:shared",
        (("native/volume.c", "fm_bitmap_clear_all (v->pending);",
          "fm_bitmap_reset (v->pending);"),),
    ),
    Fault(
        "no freeze (I6)",
        "native:volume",
        (("native/gate.c", "  uint32_t old = atomic_fetch_or (&g->state, FM_GATE_CLOSED);\n"
          "  assert (!(old & FM_GATE_CLOSED));\n", "  (void)g;\n"),
         ("native/gate.c", "while (r == 0 && (atomic_load (&g->state)",
          "while (0 && (atomic_load (&g->state)"),
         # The volumes' moments differ, as without a common freeze they may.
         ("native/volume.c", "    atomic_store (&v[i]->abandoned, 0);\n",
          "    atomic_store (&v[i]->abandoned, 0);\n"
          "    fm_poll_until (NULL, 0, fm_now_ns () + 2 * FM_MS);\n")),
        "NO_FREEZE",
    ),
    Fault(
        "a writer looks whether the link is lost, and once more when he begins to copy",
        "native:order",
        (("native/request.c", "fm_lane_claim (r->lane, copy, first, m)",
          "fm_lane_claim (r->lane, atomic_load (&v->second_lost) ? FM_COPY_FIRST : copy,\n"
          "                       first, m)"),),
        "LINK_LOOKED_AT_TWICE",
    ),
    Fault(
        "a map in locked memory keeps the bits that it was emptied of",
        "native:bitmap",
        (("native/bitmap.c", "  void *fresh = mmap (p, bytes, PROT_READ | PROT_WRITE,\n"
          "                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);\n"
          "  assert (fresh == p);\n", "  madvise (p, bytes, MADV_DONTNEED);\n"),),
        "LOCKED_MAP_KEEPS_BITS",
    ),
    Fault(
        "a writer waits for the peer as long as those before it and its own copy take together",
        "native:patience "
        "tests/test_slow.py::test_a_write_does_not_wait_for_a_large_block_at_the_target",
        (("native/request.c", "if (r->at_second && patience &&", "if (0 && patience &&"),),
        "NO_PATIENCE",
    ),
    Fault(
        "a target says nothing while it hardens what its source wants to overwrite",
        "native:patience",
        (("native/request.c", "return patience && !r->lane", "return 0 && !r->lane"),),
        "NO_PUTTING_OFF",
    ),
    Fault(
        "no copy before write",
        "native:volume",
        (("native/request.c", "  int rc = copied_before (v, r);\n",
          "  int rc = 1;\n  (void)copied_before;\n"),),
        "NO_COPY_BEFORE_WRITE",
    ),
    Fault(
        "a thread of nbdkit makes a Python thread state for each request",
        "tests/test_pin.py::test_a_request_does_not_make_a_thread_state",
        (("native/pin.c", "if (pinned || !PIN)", "if (pinned || PIN)"),),
        "NO_PIN",
    ),
    Fault(
        "a cycle copies from the cache of a server whose end nobody would notice (I9)",
        "native:lost",
        (("native/volume.c", "if (fm_store_need_anchor (v[i]->front) < 0)", "if (0)"),
         ("native/volume.c", "if (!v[i]->strict && !fm_store_has_anchor",
          "if (0 && !fm_store_has_anchor")),
        "COPIES_WITHOUT_ANCHOR",
    ),
    Fault(
        "a client of a void cycle overtakes what is being written back under him",
        "native:claims simulate:20000:shown,run_on",
        (("native/request.c", "if (failed && !v->strict && !is_written_back (v, first, end))",
          "if (failed && !v->strict && (!is_written_back (v, first, end) || 1))"),),
        "OVERTAKES_WRITE_BACK",
    ),
    Fault(
        "a file has no fingerprint after a run that only tells of an older loss",
        "tests/test_server_instance.py::test_a_loss_of_a_file_survives_a_kill",
        (("mirror_core/native.py", "self.front._before += 1", "pass"),),
    ),
    Fault(
        "a zero with FUA is durable without a flush",
        "native:durable",
        (("native/access.c", "  rc = fm_request_flush (v, &heard);\n", ""),),
    ),
    Fault(
        "a zero with FUA is flushed in each of its pieces",
        "native:durable",
        (("native/access.c", ".flags = flags & ~(unsigned)FM_FUA,", ".flags = flags,"),),
        "FUA_FLUSHED_BY_PIECES",
    ),
    Fault(
        "a freeze waits for the flush of a write with FUA",
        "native:durable",
        (("native/request.c",
          "leave (v, r, fm_store_io_unflushed (v->front, &r->op, &heard));",
          "fm_store_io (v->front, &r->op);\n  heard = 0;\n  leave (v, r, rc + 0 * (int)heard);"),),
        "FREEZE_WAITS_FOR_FUA",
    ),
    Fault(
        "a hardening is recorded while its sink is not flushed (I2)",
        "tests/test_sim.py::test_every_crash_point_of_the_small_scope simulate:10000",
        (("native/volume.c", "if ((rc = flush_first (v)) < 0)",
          "(void)flush_first;\n  if ((rc = 0) < 0)"),),
        "NO_SINK_FLUSH",
    ),
    Fault(
        "the freeze leaves out one volume of the group (I6)",
        "native:volume",
        (("native/volume.c", "  for (unsigned i = 0; i < n; i++)\n    fm_gate_close",
          "  for (unsigned i = n > 1; i < n; i++)\n    fm_gate_close"),),
        "FREEZE_LEAVES_ONE_OUT",
    ),
    Fault(
        "the mark in next comes after the write",
        "native:request",
        (("native/request.c", "  record (v, r);\n", ""),
         ("native/request.c", "  if (durable)\n    rc = fm_request_flush",
          "  record (v, r);\n  if (durable)\n    rc = fm_request_flush")),
    ),
    Fault(
        "a long zero zeroes its first piece again and again",
        "native:zero",
        (("native/access.c", "    offset += piece, n -= piece;\n", "    n -= piece;\n"),),
    ),
    Fault(
        "an abandoned cycle forgets what was sent (I9)",
        "native:failure simulate:10000",
        (("native/volume.c", "  fm_bitmap_or (v->next, v->sent);\n", ""),),
        "SENT_IS_COMMITTED",
    ),
    Fault(
        "a request of an older session enters (I8)",
        "native:request simulate:20000",
        (("native/request.c", "if (atomic_load (&v->session) == r->session)",
          "if (atomic_load (&v->session) >= r->session || 1)"),),
        "NO_FENCE",
    ),
    Fault(
        "a writer does not wait for the hardening (I2)",
        "native:harden simulate:10000",
        (("native/request.c", "if (v->strict && atomic_load (&v->owed))", "if (0)"),),
        "NO_HARDENING",
    ),
    Fault(
        "a hardening covers what was copied after its flush began (I2)",
        "native:harden",
        (("native/volume.c", "  fm_bitmap_empty (v->hardening);\n  pthread_cond",
          "  fm_bitmap_empty (v->hardening);\n  fm_bitmap_empty (v->sent);\n  pthread_cond"),),
        "HARDENS_WHAT_CAME_LATER",
    ),
    Fault(
        "a failed flush of the target's data is just tried again (I9)",
        "native:harden "
        "tests/test_lost_flush.py::test_a_promoted_image_lacks_nothing_of_a_failed_flush",
        (("native/volume.c", "  fm_bitmap_or (v->pending, v->hardening);\n", ""),),
        "FLUSH_JUST_TRIED_AGAIN",
    ),
    Fault(
        "a write does not wait for the intent log (I4)",
        "native:intent",
        (("native/request.c", "  if (v->intent)\n", "  if (v->intent && 0)\n"),),
        "NO_INTENT",
    ),
    Fault(
        "a region is hot before its bit is written (I4)",
        "native:intent",
        (("native/intent.c", "    i->busy = true;\n    rc = write_dirty",
          "    i->busy = true;\n    set_hot (i, i->image, 0, i->nwords);\n    rc = write_dirty"),),
    ),
    Fault(
        "the intent log is not flushed (I4)",
        "native:intent",
        (("native/intent.c", "    rc = fm_store_io (i->log, &flush);", "    rc = 0;"),),
        "INTENT_NOT_FLUSHED",
    ),
    Fault(
        "bits that a killed process left unflushed count as durable (I4)",
        "native:intent",
        (("native/intent.c", "    rc = fm_store_flush (log, &i->heard);", "    rc = 0;"),),
        "INTENT_FOUND_UNFLUSHED",
    ),
    Fault(
        "a region is cooled although it was written since (I4)",
        "native:intent",
        (("native/intent.c",
          "return fm_bitmap_run (map, first, 1, &at, &n) && at >> per == region;",
          "return fm_bitmap_run (map, first, 1, &at, &n) && !per;"),),
    ),
    Fault(
        "a group of which only the last word is set counts as empty",
        "fuzz:maps",
        (("native/bitmap.c", "  for (unsigned w = 0; w < GROUP_WORDS; w++)\n",
          "  for (unsigned w = 0; w < GROUP_WORDS - 1; w++)\n"),),
        "LAST_WORD_OVERLOOKED",
    ),
    Fault(
        "bits behind the last region of an intent log count as regions (I7)",
        "fuzz:intent",
        (("native/intent.c", "memset (i->image + words, 0,",
          "words = i->nwords;\n  memset (i->image + words, 0,"),),
        "BITS_BEHIND_THE_END",
    ),
    Fault(
        "a shared map touches a page that its file does not have",
        "native:bitmap",
        (("native/bitmap.c", "      make_there (b, word);\n",
          "      if (n > 1)\n        make_there (b, word);\n"),),
    ),
    Fault(
        "a map that found no room in its file still counts as whole",
        "native:bitmap",
        (("native/bitmap.c", "  atomic_store (b->whole, 0);\n", ""),),
        "FULL_MAP_IS_WHOLE",
    ),
    Fault(
        "the gate opens before the maps are swapped (I6)",
        "native:order",
        (("native/volume.c", "    fm_group_swap (v, n);\n    fm_group_open (v, n);\n",
          "    fm_group_open (v, n);\n    fm_group_swap (v, n);\n"),),
        "OPEN_BEFORE_SWAP",
    ),
    Fault(
        "who lowers a summary does not look at the group again",
        "native:order",
        (("native/bitmap.c", "    if (!is_empty (b, l - 1, group)) {\n", "    if (0) {\n"),),
        "SUMMARY_NOT_LOOKED_AT_AGAIN",
    ),
    Fault(
        "who looks for a bit believes a group that was emptied under its eyes (I5)",
        "native:order",
        (("native/bitmap.c", "  } while (k == i);\n", "  } while (0);\n"),),
    ),
    Fault(
        "a region is cooled after the last look at what is written (I4)",
        "native:order",
        (("native/intent.c", "  atomic_fetch_and (&i->hot[region / 64], ~bit);\n"
          "  if (!has_blocks (next, region, per))", "  if (!has_blocks (next, region, per)"
          " && atomic_fetch_and (&i->hot[region / 64], ~bit))"),),
        "COOLED_AFTER_THE_LOOK",
    ),
    Fault(
        "a writer looks whether its region is hot before its blocks are in next (I4)",
        "native:order",
        (("native/request.c", "  record (v, r);\n  if (v->intent)\n", "  if (v->intent)\n"),
         ("native/request.c", "  r->heating = rc == 0;\n",
          "  record (v, r);\n  r->heating = rc == 0;\n")),
        "HOT_LOOK_BEFORE_THE_MARK",
    ),
    Fault(
        "a retry does not wait for writers' copies (I9)",
        "native:order",
        (("native/volume.c", "  drain_claims (v); /* first: one of them may be given up; and "
          "nobody begins another until it is abandoned no more */\n", ""),),
    ),
    Fault(
        "a block that is abandoned in a hardening is in no map for an instant: a kill forgets it",
        "native:order",
        (("native/volume.c",
          "  fm_bitmap_or (v->next, v->pending);\n  fm_bitmap_or (v->next, &v->unsent);",
          "  struct fm_bitmap *lost = v->hardening;\n"
          "  uint64_t first, n;\n"
          "  for (uint64_t at = 0; fm_bitmap_run (lost, at, 1, &first, &n); at = first + n) {\n"
          "    fm_bitmap_clear (lost, first, n);\n"
          "    fm_bitmap_set (v->next, first, n);\n"
          "  }\n"
          "  fm_bitmap_or (v->next, v->pending);\n  fm_bitmap_or (v->next, &v->unsent);"),),
        "IN_NO_MAP_FOR_AN_INSTANT",
    ),
    Fault(
        "of a seed all is sent, whatever was found equal",
        "tests/test_matrix.py",
        (("native/volume.c", "  assert (v->comparing && first <= v->nblocks",
          "  return;\n  assert (v->comparing && first <= v->nblocks"),),
        "NOTHING_EQUAL",
    ),
    Fault(
        "a killed source forgets what is stable at the target",
        "native:shared",
        (("native/shared.c", "rc == 0 && i < MAPS; i++)\n    rc = fm_bitmap_load",
          "rc == 0 && i < MAPS - 1; i++)\n    rc = fm_bitmap_load"),),
        "KILL_FORGETS_STABLE",
    ),
    Fault(
        "a killed source forgets what the peer lacks",
        "native:shared",
        (("native/shared.c", "    rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i",
          "    if (map_of (v, i) != &v->unsent)\n"
          "      rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i"),),
        "KILL_FORGETS_UNSENT",
    ),
    Fault(
        "a killed source forgets what the peer lacks: whole sites",
        "tests/test_maps.py::test_a_killed_source_forgets_neither_unsent_nor_stable_blocks",
        (("native/shared.c", "    rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i",
          "    if (map_of (v, i) != &v->unsent)\n"
          "      rc = fm_bitmap_load (v->next, fd, HEAD_BYTES + i"),),
        "KILLED_SITE_FORGETS_UNSENT",
    ),
    Fault(
        "a killed source forgets what is stable at the target: whole sites",
        "tests/test_maps.py::test_a_killed_source_forgets_neither_unsent_nor_stable_blocks",
        (("native/shared.c", "rc == 0 && i < MAPS; i++)\n    rc = fm_bitmap_load",
          "rc == 0 && i < MAPS - 1; i++)\n    rc = fm_bitmap_load"),),
        "KILLED_SITE_FORGETS_STABLE",
    ),
    Fault(
        "what an older session compared counts as written (I8)",
        "native:claims",
        (("native/request.c", "  if (rc < 0)\n    return rc;\n  record (v, &r);",
          "  record (v, &r);\n  if (rc < 0)\n    return rc;"),),
    ),
    Fault(
        "a killed source forgets the cycle that ran",
        "tests/test_maps.py::test_a_cycle_cut_short_by_a_kill_is_begun_again",
        (("native/shared.c", "rc == 0 && i < MAPS; i++)\n    rc = fm_bitmap_load",
          "rc == 0 && i < 1; i++)\n    rc = fm_bitmap_load"),),
        "KILL_FORGETS_THE_CYCLE",
    ),
    Fault(
        "nothing is exposed of what was written before a restart",
        "native:request",
        (("native/volume.c", "  atomic_store (&v->next_since_ns, FM_SINCE_UNKNOWN);\n", ""),),
    ),
    Fault(
        "a flush after one that failed is good (I9)",
        "native:harden",
        (("native/volume.c", "  int rc = atomic_load (&v->abandoned);\n  if (rc < 0)\n",
          "  int rc = 0;\n  if (rc < 0)\n"),),
        "GOOD_AFTER_A_FAILED_FLUSH",
    ),
    Fault(
        "what is found in an intent log counts as durable (I4)",
        "native:intent",
        (("native/intent.c", "    rc = fm_store_io (log, &write);\n", "    (void)write;\n"),),
    ),
    Fault(
        "a client gets another errno than its store gave",
        "tests/test_errors.py::test_the_store_s_error_reaches_the_client",
        (("native/client.c", "return c->session ? -EIO : rc;", "return -EIO;"),),
        "OTHER_ERRNO",
    ),
    Fault(
        "each volume has a moment of its own (I6)",
        "simulate:10000",
        # Those behind the first have a minute: none is frozen without the others.
        (("mirror_core/native.py",
          "_lib.fm_group_freeze(self._array, self._n, int(budget_s * NS), held)\n",
          "next((r for i in range(self._n) if (r := _lib.fm_group_freeze(\n"
          "            self._array + i, 1, int((60 if i else budget_s) * NS), held)) < 0), 0)\n"),),
        "freeze_of_one_volume",
    ),
    Fault(
        "a freeze that was missed begins the count of what is exposed anew",
        "tests/test_exposure.py::test_it_grows_over_freezes_that_are_missed",
        (("native/volume.c", "  *held_ns = fm_now_ns () - start;\n",
          "  for (unsigned i = 0; rc < 0 && i < n; i++)\n"
          "    atomic_store (&v[i]->next_since_ns, 0);\n"
          "  *held_ns = fm_now_ns () - start;\n"),),
        "MISSED_EXPOSES_NOTHING",
    ),
    Fault(
        "the last region of an intent log is counted in memory that is not its own",
        "fuzz:intent",
        (("native/intent.c", "  i->used_s = calloc (i->nregions, 4);\n",
          "  i->used_s = calloc (i->nregions - 1, 4);\n"),),
        "ROOM_FOR_ONE_REGION_LESS",
    ),
)  # fmt: skip
