"""Faults of the target's control."""

from __future__ import annotations

from faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        "a target does not say how old its image is",
        "tests/test_exposure.py::test_a_target_does_not_know",
        (("mirror_core/target.py",
          "moment = self._committed_at if whole else None", "moment = None"),),
    ),
    Fault(
        "what is put off by a target is answered when its source has given it up",
        "tests/test_timeouts.py::test_the_waits_are_those_of_the_page",
        (("mirror_core/timeouts.py",
          "return min(limits.CONTROL_WAIT_S, _link_timeout_of(silence) / 4) if",
          "return 2 * _link_timeout_of(silence) if"),),
        "put_off_too_late",
    ),
    Fault(
        "a source that is less patient than its target does not hear why it gets no session",
        "tests/test_timeouts.py::test_a_source_hears_why_it_gets_no_session",
        (("mirror_core/target.py", "self._fence(hello.session, hello.silence)",
          "self._fence(hello.session)"),),
        "fenced_for_longer_than_it_waits",
    ),
    Fault(
        "a write waits for the link once in the queue and once for its own copy",
        "tests/test_timeouts.py::test_the_waits_are_those_of_the_page",
        (("mirror_core/timeouts.py",
          "return freeze_max + patience_s(link_timeout)",
          "return freeze_max + 2 * patience_s(link_timeout)"),),
        "waits_twice_for_the_link",
    ),
    Fault(
        "a comparison is answered later than its source waits",
        "tests/test_timeouts.py::test_the_waits_are_those_of_the_page",
        (("mirror_core/timeouts.py",
          "    return link_timeout + limits.CONTROL_WAIT_S\n",
          "    return link_timeout\n"),),
        "comparison_answered_late",
    ),
    Fault(
        "a source is taken for gone between two of its looks",
        "tests/test_timeouts.py::test_the_waits_are_those_of_the_page",
        (("mirror_core/timeouts.py",
          "    return link_timeout + 2 * limits.IDLE_LOOK_S\n",
          "    return link_timeout\n"),),
        "gone_between_two_looks",
    ),
    Fault(
        "a target says that nothing is exposed",
        "simulate:10000 "
        "tests/test_exposure.py::test_a_target_does_not_know",
        (("mirror_core/target.py", "    def exposure(self) -> None:\n",
          "    def exposure(self) -> float | None:\n        return 0.0\n\n"
          "    def _nobody(self) -> None:\n"),),
        "target_exposes_nothing",
    ),
    Fault(
        "what is committed is told to the source as whole in the data",
        "simulate:1000",
        (("mirror_core/target.py", "return protocol.Progress(done, self.hardened, self.reason)",
          "return protocol.Progress(done, self._book.current.committed, self.reason)"),),
        "committed_is_hardened",
    ),
    Fault(
        "a commit forgets which blocks are in the intermediate (I3)",
        "tests/test_kill.py::test_a_target_killed_while_both_copies_run_keeps_its_image",
        (("mirror_core/target.py",
          '"maps": {f"{name}/pending": bitmap for name, bitmap in written.items()},',
          '"maps": {},'),),
        "commit_forgets_its_map",
    ),
    Fault(
        "what a comparison of an older cycle finds counts for the next",
        "tests/test_compare.py",
        (("mirror_core/target.py", "if sequence <= self._book.current.committed:",
          "if False:"),),
    ),
    Fault(
        "a target does not ask how patient its source is",
        "tests/test_promote.py::"
        "test_a_slow_source_is_connected_for_as_long_as_the_sites_are_patient",
        (("mirror_core/target.py", "self._config.link_timeout), theirs)",
          "self._config.link_timeout), 0.0)"),),
        "patience_not_asked",
    ),
    Fault(
        "a target that was started again has forgotten how patient its source is",
        "tests/test_promote.py::"
        "test_a_target_that_was_just_started_knows_how_patient_its_source_is",
        (("mirror_core/target.py", "theirs = self._book.current.source_silence",
          "theirs = self._book.current.source_silence if self.heard > 0 else 0.0"),),
        "patience_forgotten",
    ),
    Fault(
        "a target believes that a cycle holds all that an abandoned one had written",
        "tests/test_fuzz.py::test_a_target_answers_every_control_record_in_any_order",
        (("mirror_core/target.py", "            if not owed <= written[name]:\n",
          "            assert owed <= written[name]\n            if False:\n"),),
    ),
    Fault(
        "what one copy of a source had made stable counts beside another's session (I3)",
        "tests/test_resume.py::test_a_session_of_another_cycle_voids_what_was_stable",
        (("mirror_core/target.py", "if stable is None:  # this", "if anew:  # this"),),
        "stable_of_a_copy",
    ),
    Fault(
        "a target whose maps are not those of its commit goes on (I1)",
        "tests/test_injections.py::test_an_exception_at_any_call_leaves_nobody_waiting",
        (("mirror_core/target.py", "if self._book.current.committed == request.sequence:  #",
          "if False:  #"),),
        "maps_of_another_commit",
    ),
    Fault(
        "what was lost in a first cycle was all written in it (I9)",
        "tests/test_doubt.py::"
        "test_a_loss_in_a_first_cycle_may_be_of_what_was_there_before",
        (("mirror_core/target.py", "self._doubtful_before or (first and self._has_lost())",
          "self._doubtful_before"),),
        "first_cycle_wrote_all",
    ),
    Fault(
        "what is equal to a seed is owed again after a restart of its target",
        "tests/test_seed_owed.py",
        (("mirror_core/target.py", "self._written.owes_less()", "pass"),),
        "equal_to_a_seed_owed_again",
    ),
    Fault(
        "what was owed at a stop in order, and equals a seed, is owed again after a kill",
        "tests/test_seed_owed.py",
        (("mirror_core/written.py", "if not book.clean:", "if False:"),),
    ),
    Fault(
        "what a failed flush has lost is found equal while a cache holds it (I9)",
        "tests/test_lost_flush.py::test_a_comparison_takes_no_cache_for_a_disk simulate:20000",
        (("mirror_core/target.py", "return self._doubtful_before or self._has_lost()",
          "return False"),),
        "compare_trusts_a_cache",
    ),
    Fault(
        "a target that was refused is told to hold the last commit",
        "tests/test_went_back.py::test_what_a_refused_target_holds_is_not_known "
        "simulate:10000:goes_back,run_on",
        (("mirror_core/status.py", "control.awaits_target, not control.unsure",
          "control.awaits_target, True"),),
        "refused_holds_a_commit",
    ),
    Fault(
        "a block that was written in part counts as equal to a seed, which is not where it is read",
        "tests/test_seed.py::test_what_was_written_in_part_is_not_found_equal_to_a_seed",
        (("mirror_core/target.py", "            and not touches(native.NEXT, *piece)\n", ""),),
        "part_equals_a_seed",
    ),
    Fault(
        "what is in a target's data alone is sent again",
        "tests/test_compare.py::test_what_is_in_the_target_s_data_alone_is_not_sent",
        (("mirror_core/target.py", "if not is_image or not others or left_s <= 0:", "if True:"),),
        "data_alone_is_sent",
    ),
    Fault(
        "what the next image reads in the intermediate is found in data (I1)",
        "tests/test_compare.py::test_what_is_written_or_owed_is_not_found_in_the_data",
        (("mirror_core/target.py", "            and not touches(native.NEXT, *piece)\n", ""),),
        "written_is_found_in_data",
    ),
    Fault(
        "what a cycle that was given up has written need not be written again",
        "tests/test_compare.py::test_what_is_written_or_owed_is_not_found_in_the_data",
        (("mirror_core/target.py",
          "(seeded or not owed.intersect(BitMap64(range(piece[0], sum(piece)))))", "True"),),
        "owed_is_found_in_data",
    ),
    Fault(
        "data is compared while it holds the image of before (I1)",
        "tests/test_compare.py::test_what_is_not_hardened_is_not_found_in_the_data",
        (("mirror_core/target.py",
          "is_image = mine.whole and not mine.doubtful_data and self._is_hardened()",
          "is_image = mine.whole and not mine.doubtful_data"),),
        "older_image_is_found",
    ),
    Fault(
        "data that is no image, or in doubt, is compared (I9)",
        "tests/test_compare.py::test_nothing_is_found_in_data_that_is_no_image_or_in_doubt",
        (("mirror_core/target.py",
          "is_image = mine.whole and not mine.doubtful_data and self._is_hardened()",
          "is_image = self._is_hardened()"),),
        "any_data_is_the_image",
    ),
    Fault(
        "a source that was refused is not there",
        "tests/test_promote.py::test_a_source_that_was_refused_is_there",
        (("mirror_core/target.py",
          "                self._note_sign(hello.name, hello.lineage, again_s)\n", ""),),
        "refused_is_not_there",
    ),
    Fault(
        "a source of any history is the one that a promotion parts from",
        "tests/test_promote.py::test_a_source_that_was_refused_is_there",
        (("mirror_core/target.py", "if mine is None or mine.id != lineage:", "if mine is None:"),),
    ),
    Fault(
        "a target tells no word from a source that says that it is there",
        "tests/test_promote.py::test_a_source_that_flushes_for_long_at_its_start_is_there",
        (("mirror_core/status.py", "or _silent(control.knocker())", 'or _silent("")'),),
        "knocker_untold",
    ),
    Fault(
        "a source that was never heard was heard when the machine booted",
        "tests/test_promote.py::test_nobody_is_there_for_a_machine_that_has_just_booted",
        (("mirror_core/target.py", "return wrote_ns / native.NS if wrote_ns else -math.inf",
          "return wrote_ns / native.NS"),),
    ),
    Fault(
        "a target that cannot compare says that all is well",
        "tests/test_status.py::test_a_target_that_cannot_compare_says_so",
        (("mirror_core/target.py", 'self._note_trouble("compare", text)', "pass"),),
        "cannot_compare_untold",
    ),
    Fault(
        "a place of the target that cannot be read ends mirroring",
        "tests/test_unreadable.py",
        (("mirror_core/target.py", "            if code in LINK_ERRNOS:\n",
          "            if code:\n"),),
        "unreadable_ends_mirroring",
    ),
    Fault(
        "a target that could not compare once says so for ever",
        "tests/test_status.py::test_a_target_that_cannot_compare_says_so",
        (("mirror_core/target.py", '"record", "flush", "compare")', '"record", "flush")'),),
    ),
    Fault(
        "a target that was just started takes a source that it has not heard yet for gone",
        "tests/test_promote.py::"
        "test_a_target_that_was_just_started_does_not_know_that_its_source_is_gone",
        (("mirror_core/target.py", "if self.heard < self._began and left > 0:", "if False:"),),
        "just_started_is_gone",
    ),
    Fault(
        "a target whose record was good says no more that it cannot commit",
        "tests/test_status.py::test_a_target_says_what_it_cannot_do_until_it_can_do_that",
        (("mirror_core/target.py", 'self._noting("record", "flush")',
          'self._noting("record", "flush", "commit")'),),
        "cannot_commit_untold",
    ),
    Fault(
        "what another source is told is said of the one that is connected",
        "tests/test_status.py::test_what_another_source_was_told_does_not_outlive_the_right_one",
        (("mirror_core/target.py", "if not self._has_source():\n                again_s",
          "if True:\n                again_s"),),
    ),
    Fault(
        "a target says that it refuses whom nobody has heard of since",
        "tests/test_refused.py::test_a_refusal_is_told_as_long_as_its_source_asks",
        (("mirror_core/target.py", "monotonic() < self._refused_until", "monotonic() < math.inf"),),
    ),
    Fault(
        "a source that makes a pause, as its target cannot do what it asks, is taken for gone",
        "tests/test_status.py::test_a_target_says_what_it_cannot_do_until_it_can_do_that",
        (("mirror_core/target.py", "if self.trouble or (self.failure", "if (self.failure"),),
    ),
    Fault(
        "a commit may have any sequence",
        "tests/test_went_back.py::test_a_number_of_the_peer_ends_no_target",
        (("mirror_core/target.py",
          "if request.sequence - mine.committed > limits.SEQUENCE_STEP_MAX:", "if False:"),),
        "any_sequence",
    ),
    Fault(
        "a commit without a flush of the intermediate (I3)",
        "simulate:1000",
        (("mirror_core/target.py", "                member.native.flush_front()\n",
          "                flush.wanted[0] == 'commit' or member.native.flush_front()\n"),),
        "commit_without_flush",
    ),
    Fault(
        "what is not flushed counts as stable, and is not sent again (I9)",
        "simulate:10000",
        (("mirror_core/target.py", "                member.native.flush_front()\n",
          "                flush.wanted[0] == 'stable' or member.native.flush_front()\n"),),
        "stable_without_flush",
    ),
    Fault(
        "a target becomes a source while blocks of its image are in the intermediate only",
        "simulate:1000",
        (("mirror_core/target.py",
          "        hardened = self.wait_hardened(wait_s)\n",
          "        hardened = True\n"),
         ("mirror_core/promotion.py", "book.whole and book.hardened == book.committed",
          "book.whole")),
        "promoted_too_early",
    ),
    Fault(
        "a handshake that comes again opens its session again (I8)",
        "simulate:10000",
        (("mirror_core/target.py", "            self._refuse_twice(hello.session)\n", ""),),
        "handshake_twice",
    ),
    Fault(
        "commits of an older session are taken (I8)",
        "simulate:20000",
        (("mirror_core/target.py", "if not session or session != self.session:", "if False:"),),
        "late_commits",
    ),
    Fault(
        "at a target's stop a flush that succeeds counts for what one that failed had covered (I9)",
        "simulate:1000 "
        "tests/test_lost_flush.py::test_what_a_failed_flush_lost_is_copied_again",
        (("mirror_core/target.py",
          "            self._copier.retry()  # of a failed flush",
          "            self._copier.harden_end()\n            self._copier.harden_begin()\n"
          "            self._copier.harden_end()\n"
          "            self._copier.retry()  # of a failed flush"),),
        "failed_flush_believed",
    ),
    Fault(
        "a commit that is recorded and whose maps do not stand yet is hardened with those of the "
        "one before (I2)",
        "simulate:20000",
        (("mirror_core/target.py", "self.hardened >= self._pending_of",
          "self.hardened >= self._book.current.committed"),),
        "hardened_by_the_ledger",
    ),
    Fault(
        "a turn of a promotion that was taken back while it waited goes on",
        "tests/test_promotion_fails.py::test_one_that_is_taken_back_in_its_last_step_is_not_recorded",
        (("mirror_core/promotion.py",
          "    takings = site.takings  # before it waits for its turn\n    with site.promotion:\n",
          "    with site.promotion:\n        takings = site.takings\n"),),
    ),
    Fault(
        "a target that is being promoted is refused, as a wrong source was before",
        "tests/test_refused.py::test_a_target_that_is_being_promoted_is_not_refused",
        (("mirror_core/status.py", "if refusal and silent == refusal", "if silent and refusal"),),
    ),
    Fault(
        "a site that is promoted, and could not begin anew, waits for its source",
        "tests/test_promote.py::test_asked_again_after_the_machine_refused_to_begin_anew",
        (("mirror_core/status.py", 'promoted = book.role == "source"', "promoted = False"),),
    ),
    Fault(
        "nothing is exposed at a source whose intermediate is away",
        "tests/test_exposure.py::test_it_grows_while_the_intermediate_is_away",
        (("mirror_core/status.py", "\"data_exposure_seconds\": site.control.exposure(),",
          "\"data_exposure_seconds\":\n"
          "            0.0 if site.without_intermediate() else site.control.exposure(),"),),
        "away_intermediate_exposes_nothing",
    ),
    Fault(
        "a promoted source has the last point of the old history, and so exposes nothing of it",
        "tests/test_exposure.py::test_a_promoted_source_without_a_target_exposes_all",
        (("mirror_core/promotion.py", "        consistency_point=None,\n", ""),),
        "promoted_exposes_nothing",
    ),
    Fault(
        "a commit does not wait until the one before is whole in the target's data (I3)",
        "simulate:1000",
        (("mirror_core/target.py",
          "            if not self.wait_hardened(limits.CONTROL_WAIT_S):\n"
          "                return protocol.Progress(False, mine.hardened, self.reason)\n", ""),),
        "commit_before_hardened",
    ),
)  # fmt: skip
