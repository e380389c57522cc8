"""Faults of copying: lanes, links, comparisons, cycles, both flashcopies."""

from __future__ import annotations

from faults.fault import Fault

FAULTS = (
    Fault(
        "nothing is exposed of what a cycle holds that is not committed",
        "tests/test_exposure.py::test_it_grows_while_blocks_are_compared "
        "tests/test_exposure.py::test_it_grows_through_a_cycle_and_its_troubles",
        (("mirror_core/flashcopy.py",
          "for ns in (stats.next_since_ns, stats.cycle_since_ns)",
          "for ns in (stats.next_since_ns,)"),),
        "cycle_exposes_nothing",
    ),
    Fault(
        "zeroes are not counted in the window",
        "native:zero",
        (("native/lane.c",
          "      enter_flow (l, s, fm_flow_weight (s->n));\n",
          ""),),
        "ZEROES_OUT_OF_THE_WINDOW",
    ),
    Fault(
        "a zero counts in the window as a run of data, however long it is",
        "native:zero",
        (("native/lane.c",
          "      enter_flow (l, s, fm_flow_weight (s->n));\n",
          "      enter_flow (l, s, FM_FLOW_RUN);\n"),),
    ),
    Fault(
        "a slice of copying ends when nothing is left",
        "native:zero",
        (("native/volume.c",
          "bool more = fm_now_ns () < deadline && ready (v)",
          "bool more = ready (v)"),),
        "SLICE_ENDS_LATE",
    ),
    Fault(
        "a slow store is found out in small steps",
        "native:pace",
        (("native/pace.c",
          "      down++;\n",
          "      ;\n"),),
    ),
    Fault(
        "a few quick operations of a cache are enough to try twice as much",
        "native:pace",
        (("native/pace.c",
          "#define PROOF 16 ",
          "#define PROOF 1 "),),
    ),
    Fault(
        "a size that was slow once is never tried again",
        "native:pace",
        (("native/pace.c",
          "    p->tries = *twice = 0;\n",
          "    p->tries = 0;\n"),),
        "SLOW_FOR_EVER",
    ),
    Fault(
        "an operation takes as long as those before it in the line, too",
        "native:pace",
        (("native/pace.c",
          "begun_ns > p->ended_ns ? begun_ns : p->ended_ns",
          "begun_ns"),),
    ),
    Fault(
        "after an operation that was not answered in time the next one is as large",
        "native:slow",
        (("native/parts.c",
          "  if (rc == -ETIMEDOUT)\n"
          "    fm_pace_forget (&s->pace[op->kind]);\n",
          ""),),
    ),
    Fault(
        "a comparison whose session is lost begins anew",
        "tests/test_compare.py::test_a_comparison_goes_on_in_the_next_session",
        (("mirror_core/compare.py", "        new._different = self._different\n", ""),),
        "comparison_begun_anew",
    ),
    Fault(
        "the next session walks over what is known to differ",
        "tests/test_compare.py::test_the_next_session_does_not_walk_over_what_is_known",
        (("mirror_core/compare.py",
          "        yield from pieces_of(runs_of(unknown), unit_of(member.native))\n",
          "        runs = member.native.runs(native.UNSENT)\n"
          "        for run in pieces_of(runs, unit_of(member.native)):\n"
          "            if run[0] in unknown:\n"
          "                yield run\n"),),
    ),
    Fault(
        "what was found equal in a session that is lost is sent, and not compared again",
        "tests/test_compare.py::test_a_comparison_goes_on_in_the_next_session",
        (("mirror_core/compare.py", "[not one for one in found]", "[True for _ in found]"),),
    ),
    Fault(
        "a source never learns that its target holds what it did not send",
        "tests/test_resume.py::test_what_the_target_holds_and_its_source_never_sent_ends_by_itself "
        "simulate:1000:owed,run_on",
        (("mirror_core/driver.py", "self._owing = error.code == errno.ESTALE",
          "self._owing = False"),),
        "owed_for_ever",
    ),
    Fault(
        "what a target holds that its source did not send costs a full copy",
        "tests/test_resume.py::test_what_the_target_holds_and_its_source_never_sent_ends_by_itself",
        (("mirror_core/driver.py",
          "            self._book.update(coarse=True)  # so that only what differs",
          "            # only what differs"),),
    ),
    Fault(
        "a source that was started again sends what it was to compare",
        "tests/test_compare.py::test_what_is_to_be_compared_is_over_a_restart",
        (("mirror_core/site.py", "self._coarse = current.coarse", "self._coarse = False"),),
        "coarse_until_a_restart",
    ),
    Fault(
        "what was to be compared once is compared for good",
        "tests/test_compare.py::test_what_is_to_be_compared_is_over_a_restart",
        (("mirror_core/driver.py", "self._point.wall, coarse=False,", "self._point.wall,"),),
        "coarse_for_good",
    ),
    Fault(
        "a lane gives a connection back that has ended, and nobody looks at the anchor",
        "native:lost",
        (("native/lane.c", "  fm_store_give_port ((*at)->store, *at);", "  fm_port_give (*at);"),),
        "ENDED_CONNECTION_GIVEN_BACK",
    ),
    Fault(
        "a link counts as there before its lanes are",
        "native:order",
        (("native/link.c", "  int rc = 0;\n  struct fm_port *kept",
          "  int rc = 0;\n  if (second)\n    atomic_store (&v->second_lost, 0);\n"
          "  struct fm_port *kept"),),
    ),
    Fault(
        "a source takes a target that says `not yet` for a lost one",
        "native:patience",
        (("native/lane.c", "l->put_off = rc == -EAGAIN && part == 1;", "l->put_off = false;"),),
        "NOT_YET_IS_LOST",
    ),
    Fault(
        "what this site's own stores take counts as the peer's",
        "native:patience",
        (("native/lane.c", "near_done && !done, memory", "!done, memory"),),
    ),
    Fault(
        "a block of which a piece stands in the sinks counts as copied",
        "native:room",
        (("native/lane.c", "if (rc == 0 && s->at + s->n < bytes_of (l->v, s->claim)) {",
          "if (0) {"),),
    ),
    Fault(
        "a cycle that is void writes back what a client has overwritten since it was read",
        "native:claims simulate:10000:shown,run_on",
        (("native/lane.c", "c->back = !atomic_load (&v->abandoned);", "c->back = true;"),),
        "VOID_WRITES_BACK",
    ),
    Fault(
        "what a cache shows and its disk has lost is copied, and not written back (I9)",
        "native:lost simulate:10000",
        (("native/lane.c", "return l->v->restores && s->copy",
          "return l->v->restores && 0 && s->copy"),),
        "NO_WRITE_BACK",
    ),
    Fault(
        "zeroes that are written back fill a store that is sparse",
        "native:lost",
        (("native/lane.c", "{ .kind = zero ? FM_ZERO : FM_WRITE, "
          ".flags = zero ? FM_PUNCH | FM_KEEP : FM_KEEP,\n"
          "                      .offset = (s->claim->first << v->shift) + s->at,\n"
          "                      .length = s->n, .buf = s->buf };\n  s->anchor",
          "{ .kind = FM_WRITE,\n"
          "                      .offset = (s->claim->first << v->shift) + s->at,\n"
          "                      .length = s->n, .buf = s->buf };\n  (void)zero;\n  s->anchor"),),
        "ZEROES_FILL",
    ),
    Fault(
        "a copy that was not written back to a server counts as one to be flushed",
        "native:durable",
        (("native/lane.c", "    if (!s->read.op.refused)\n", ""),),
    ),
    Fault(
        "new lanes want a connection to sink 0 beside that of the old ones",
        "native:pool",
        (("native/link.c", "*kept = v->bulk &&", "*kept = 0 && v->bulk &&"),),
    ),
    Fault(
        "a block leaves pending before its copy stands in the sinks (I5)",
        "native:request",
        (("native/lane.c", "  s->state = FM_SLOT_WRITING;\n  if (s->flow) {\n",
          "  s->state = FM_SLOT_WRITING;\n"
          "  fm_bitmap_clear (l->v->pending, s->claim->first, s->claim->n);\n"
          "  if (s->flow) {\n"),),
    ),
    Fault(
        "the short last block is cut to whole sectors",
        "native:request",
        (("native/lane.c", "return (end < v->size ? end : v->size) - start;",
          "return ((end < v->size ? end : v->size) - start) & ~511ULL;"),),
    ),
    Fault(
        "a run that both sinks failed to take counts as a lost peer",
        "native:failure",
        (("native/lane.c", "s->write[i].op.rc < 0 && rc == 0) /*", "s->write[i].op.rc < 0) /*"),),
    ),
    Fault(
        "what moves on one connection counts for all of a lane",
        "native:slow",
        (("native/lane.c", "    if (fm_parts_silent (ports[i], now) && i < far)",
          "    for (unsigned k = 0; k < far; k++)\n"
          "      ports[i]->stirred |= i < far && ports[k]->stirred;\n"
          "    if (fm_parts_silent (ports[i], now) && i < far)"),),
        "ONE_MOVES_ALL_LIVE",
    ),
    Fault(
        "the way is taken for as long as its queue, ever longer",
        "native:flow",
        (("native/flow.c", "    measure_begin (f);\n",
          "    f->least_ns = latency_ns, f->measured_ns = now_ns, (void)measure_begin;\n"),),
        "WAY_TAKEN_EVER_LONGER",
    ),
    Fault(
        "each volume of a group has the whole bandwidth",
        "tests/test_turns.py::test_the_volumes_of_a_group_have_one_limit",
        (("mirror_core/native.py",
          '        self._bucket = _ffi.new("struct fm_bucket *")\n'
          "        for volume in volumes:\n"
          "            volume._bucket = self._bucket\n"
          "            _lib.fm_volume_set_bucket(volume._handle, self._bucket)\n",
          "        self._volumes = volumes\n"
          "        for volume in volumes:\n"
          '            volume._bucket = _ffi.new("struct fm_bucket *")\n'
          "            _lib.fm_volume_set_bucket(volume._handle, volume._bucket)\n"),
         ("mirror_core/native.py",
          "        _lib.fm_bucket_limit(self._bucket, rate, _lib.fm_now_ns())\n",
          "        for volume in self._volumes:\n"
          "            _lib.fm_bucket_limit(volume._bucket, rate, _lib.fm_now_ns())\n")),
        "bandwidth_of_each_volume",
    ),
    Fault(
        "what was sent over a lost link and is not stable counts as sent (I9)",
        "native:failure simulate:10000",
        (("native/link.c", "  fm_bitmap_or (&v->unsent, v->sent);", "  "),
         ("native/link.c", "  fm_bitmap_empty (v->sent);\n", "")),
        "UNSTABLE_KEPT",
    ),
    Fault(
        "the first intermediate's connection ends in mid-cycle without a flush (I9)",
        "native:failure",
        (("native/link.c", "    flush_first (v, gone[2]);\n", "    (void)flush_first;\n"),),
        "NO_FLUSH_FIRST",
    ),
    Fault(
        "two copies of one block run at once",
        "native:claims",
        (("native/plan.c", "if (claims[i].n && claims[i].first < first + n",
          "if (n > 1 << 30 && claims[i].n"),),
    ),
    Fault(
        "the block behind a claim is not copied",
        "fuzz:maps",
        (("native/plan.c", "from = c->first + c->n;", "from = c->first + c->n + 1;"),),
    ),
    Fault(
        "a block leaves its map before it stands in the one that follows (I9)",
        "native:order",
        (("native/lane.c",
          "  fm_bitmap_set (s->copy == FM_COPY_FIRST ? &v->unsent : v->sent, first, n);\n"
          "  fm_bitmap_clear (s->copy == FM_COPY_FEED ? &v->unsent : v->pending, first, n);\n",
          "  fm_bitmap_clear (s->copy == FM_COPY_FEED ? &v->unsent : v->pending, first, n);\n"
          "  fm_bitmap_set (s->copy == FM_COPY_FIRST ? &v->unsent : v->sent, first, n);\n"),),
        "IN_NO_MAP_FOR_A_COPY",
    ),
    Fault(
        "after a failed append what was copied beside the hardening counts as hardened (I2)",
        "tests/test_second.py",
        (("mirror_core/second.py", "(m.native, native.PENDING, native.SENT)",
          "(m.native, native.PENDING)"),),
        "hardened_by_a_failed_append",
    ),
    Fault(
        "after a long flush the second flashcopy looks at nothing for as long",
        "tests/test_second.py::test_a_long_flush_makes_no_long_step",
        (("mirror_core/second.py", "min(self._batch_s, limits.SLICE_SHORT_S)", "self._batch_s"),),
        "long_flush_long_step",
    ),
    Fault(
        "all of the time goes into hardening if steps are short",
        "tests/test_second.py::test_a_writer_who_waits_has_a_hardening_after_as_much_copying",
        (("mirror_core/second.py", "many = self._copied_s >= self._batch_s", "many = True"),),
        "all_time_hardens",
    ),
    Fault(
        "blocks that were not compared count as equal",
        "tests/test_compare.py::test_only_what_differs_travels",
        (("mirror_core/compare.py", "        if not same:\n            continue\n", ""),),
        "not_compared_is_equal",
    ),
    Fault(
        "a target answers a comparison when all of it was read, however long that takes",
        "tests/test_slow_store.py::test_comparing_gets_on_however_long_a_read_takes",
        (("mirror_core/compare.py", "own = reader.sums(store, volume, pieces, seconds)",
          "own = reader.sums(store, volume, pieces, 100)"),
         ("mirror_core/compare.py", "min(limits.COMPARE_DEPTH, 2 * self._depth)", "1")),
        "answers_when_all_is_read",
    ),
    Fault(
        "lanes end under a cycle that writers count on",
        "native:failure",
        (("native/link.c", "  assert (!counted_on (v));\n", "  (void)counted_on;\n"),),
        "LANES_END_UNDER_A_CYCLE",
    ),
    Fault(
        "a map is marked block by block",
        "tests/test_many_blocks.py::test_many_millions_of_lone_blocks_are_nothing_to_wait_for",
        (("mirror_core/flashcopy.py",
          "volume.mark_spans(*_spans_of(bitmap), pending=pending)",
          "[volume.mark_spans(array('Q', [b]), array('Q', [b + 1]), pending=pending)"
          " for b in bitmap]"),),
        "map_marked_block_by_block",
    ),
    Fault(
        "a source copies what a cache shows and its disk has lost (I9)",
        "tests/test_lost_flush.py::test_a_source_copies_no_cache_that_its_disk_has_not",
        (("native/lane.c", "return l->v->restores && s->copy != FM_COPY_FEED;", "return false;"),),
        "COPIES_THE_CACHE",
    ),
    Fault(
        "of a group that lacks a server the volume whose turn it is is blamed",
        "tests/test_lost_store.py::test_of_a_group_without_a_server_its_own_volume_is_named",
        (("mirror_core/flashcopy.py", "next(void, member)", "member"),),
    ),
    Fault(
        "a cycle is begun before its freeze (I7)",
        "tests/test_cycle.py::"
        "test_a_cycle_is_frozen_begun_copied_flushed_committed_and_settled "
        "tests/test_went_back.py::test_a_snapshot_of_a_source_that_is_about_to_freeze_is_refused",
        (("mirror_core/cycle.py", "    result = yield Freeze(freeze_budget_s)\n",
          "    yield Begin(sequence)\n    result = yield Freeze(freeze_budget_s)\n"),
         ("mirror_core/cycle.py", "    result = yield Begin(sequence)\n    if result.error:\n"
          "        return (yield from _abandoned(result))\n", "")),
        "begun_before_its_freeze",
    ),
    Fault(
        "the volumes of a group are copied one after the other",
        "tests/test_turns.py::test_each_volume_has_its_turn",
        (("mirror_core/flashcopy.py", "(self._turn + 1) % len(self.members)", "0"),),
        "one_volume_after_the_other",
    ),
    Fault(
        "each volume of a group has the time of a whole slice, in each call",
        "tests/test_turns.py::test_a_call_takes_its_time_once",
        (("mirror_core/flashcopy.py", "left_s = until - native.now_s()", "left_s = slice_s"),),
        "a_slice_for_each_volume",
    ),
    Fault(
        "a hardening's record before the flush of what it asserts (I2)",
        "simulate:1000",
        (("mirror_core/flashcopy.py",
          "        self.flush(front_too=False)\n        record()\n",
          "        record()\n        self.flush(front_too=False)\n"),),
        "record_before_flush",
    ),
    Fault(
        "with on_link_loss = block a writer overwrites what the second intermediate lacks",
        "native:order",
        (("native/request.c", "  return v->hold && atomic_load (&v->second_lost);\n",
          "  return 0 && v->hold && atomic_load (&v->second_lost);\n"),
         ("native/lane.c", "    return v->hold ? FM_COPY_LATER : FM_COPY_FIRST;\n",
          "    return FM_COPY_FIRST;\n")),
        "NOTHING_HELD",
    ),
    Fault(
        "a writer does not wait until the second intermediate has his copy (I5)",
        "native:order",
        (("native/lane.c", "l->nsinks > 1 && (v->preserve_first || comparing)",
          "l->nsinks > 1 && (v->preserve_first || comparing || l->nslots == 1)"),),
        "WRITER_WAITS_FOR_FIRST_ONLY",
    ),
)  # fmt: skip
