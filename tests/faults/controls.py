"""Faults of the two control threads, of source and target, and of what ends them."""

from __future__ import annotations

from faults.fault import Fault

FAULTS = (
    Fault(
        "a source that a person stops says that it resumes by itself",
        "tests/test_stalled_thread.py::test_a_stop_is_no_trouble_with_the_peer",
        (("mirror_core/driver.py",
          "            if not self._is_stop(error):\n                self._say(str(error))\n",
          "            self._say(str(error))\n"),),
        "stop_resumes_by_itself",
    ),
    Fault(
        "a refusal stays as the reason when the right target is connected again",
        "tests/test_went_back.py::test_a_refusal_is_over_with_the_target_that_is_taken_again",
        (("mirror_core/driver.py", "None if self.refused else outcome.reason", "outcome.reason"),),
        "refusal_stays",
    ),
    Fault(
        "a source that was led to a fresh target and back sends all of it again",
        "tests/test_went_back.py::test_a_fresh_target_that_has_answered_once_is_no_copy_of_the_source",
        (("mirror_core/driver.py",
          "self._book.update(coarse=True)  # it holds, if the old one comes back: that has it all",
          "pass"),),
        "led_astray_sends_all",
    ),
    Fault(
        "the metrics of a target say 0 of what only its source can know",
        "tests/test_exposure.py::test_a_target_does_not_know",
        (("mirror_core/metrics.py",
          "            status[\"data_exposure_seconds\"],\n",
          "            status[\"data_exposure_seconds\"] or 0,\n"),),
    ),
    Fault(
        "a target does not say how old its image is",
        "tests/test_exposure.py::test_a_target_does_not_know",
        (("mirror_core/target.py",
          "moment = self._committed_at if whole else None", "moment = None"),),
    ),
    Fault(
        "a blank target that holds what was not sent gets what is no hole, and waits for ever",
        "tests/test_went_back.py::test_a_source_that_went_back_in_its_first_copy_is_sent_whole",
        (("mirror_core/driver.py",
          "data_only=welcome.blank and not self._owing",
          "data_only=welcome.blank"),),
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
        "nothing is exposed while the target is away",
        "tests/test_exposure.py::test_it_grows_while_nothing_is_committed "
        "tests/test_exposure.py::test_it_grows_while_writes_are_held",
        (("mirror_core/driver.py",
          "        if point is None:\n"
          "            return self._began.age(self._platform)\n",
          "        if point is None:\n"
          "            return self._began.age(self._platform)\n"
          "        if not self.connected:\n"
          "            return 0.0\n"),),
        "away_exposes_nothing",
    ),
    Fault(
        "nothing is exposed where nothing was ever committed",
        "tests/test_exposure.py::test_before_the_first_commit_all_is_exposed",
        (("mirror_core/driver.py",
          "            return self._began.age(self._platform)\n",
          "            return 0.0\n"),),
        "no_point_no_exposure",
    ),
    Fault(
        "a source does not go on in the version that its target knows",
        "tests/test_network.py::test_a_site_of_an_older_version_is_mirrored_with[west]",
        (("mirror_core/peer.py",
          "            self.version = version  # the other",
          "            result_of(answer)  # the other"),),
        "older_version_not_gone_on_in",
    ),
    Fault(
        "a target of an older version is said to have met this run",
        "tests/test_network.py::test_after_a_while_in_the_older_protocol_both_go_on_in_the_newer",
        (("mirror_core/session.py",
          "if self._link.version >= protocol.TOKENS:", "if True:"),),
    ),
    Fault(
        "a site that is held to an older version knows the newer one all the same",
        "tests/test_network.py::test_a_site_of_an_older_version_is_mirrored_with",
        (("mirror_core/control.py",
          "        record, version = protocol.decode(data, version)\n",
          "        record, _ = protocol.decode(data)\n"),),
        "held_version_not_kept",
    ),
    Fault(
        "a command does not go on in the version that a site is held to",
        "tests/test_network.py::test_a_site_of_an_older_version_is_mirrored_with",
        (("mirror_core/peer.py",
          "        version = known  # the",
          "        return result_of(answer)  # the"),),
    ),
    Fault(
        "nothing is exposed of what was written before a restart, as nobody knows since when",
        "simulate:1000 "
        "tests/test_exposure.py::test_a_source_that_was_restarted_goes_on_counting",
        (("mirror_core/driver.py",
          "            return point.age(self._platform)\n        return max(",
          "            return 0.0\n        return max("),),
        "exposure_unknown_is_none",
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
        "what a target says of its image counts only when its session is opened",
        "tests/test_exposure.py::test_a_target_without_an_image_exposes_all_before_it_has_a_session",
        (("mirror_core/driver.py",
          "        welcome = self._session.open(resumes, stable)\n",
          "        welcome = self._session.open(resumes, stable)\n"
          "        self._session.remember(welcome)\n"),),
        "image_counts_with_a_session",
    ),
    Fault(
        "a source that could not drop what a kill had lost stops in order",
        "tests/test_ends.py::"
        "test_a_source_that_could_not_drop_what_was_lost_does_not_stop_in_order",
        (("mirror_core/driver.py", "        return self._clean\n", "        return True\n"),),
        "undropped_stop_in_order",
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
        "what was found equal is not made stable while blocks are compared",
        "tests/test_slow_store.py::"
        "test_a_comparison_that_loses_its_link_goes_on_where_it_was",
        (("mirror_core/driver.py", "(not done or self._comparison)", "not done"),),
        "equal_is_not_stable",
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
        "an error that nobody foresaw leaves its cycle under way",
        "tests/test_injected.py::test_errors_of_the_machine_pass",
        (("mirror_core/driver.py", "        self._void_cycle(code)\n", ""),),
        "unforeseen_leaves_its_cycle",
    ),
    Fault(
        "the machine's errors end a control thread",
        "tests/test_injected.py::test_errors_of_the_machine_pass",
        (("mirror_core/guard.py", "if not passes(error) or not wait(pause):", "if True:"),),
        "machines_errors_end",
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
        "a refusal in the middle of a cycle is not told as one",
        "tests/test_refused.py",
        (("mirror_core/driver.py", "        if isinstance(error, Refused):  # at once",
          "        if False:  # at once"),),
        "refusal_in_a_cycle_untold",
    ),
    Fault(
        "what is committed, and not in the target's data yet, is called whole",
        "tests/test_sync.py",
        (("mirror_core/driver.py",
          "return self.hardened, self._hardened_at.wall if self._hardened_at else None",
          "return self.committed, self.point"),),
        "committed_is_whole",
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
        "a first cycle goes on with other data than it was begun with (I1)",
        "tests/test_seed.py::test_what_a_cycle_relies_on_is_what_the_target_holds_then",
        (("mirror_core/driver.py", "began != (False, welcome.seeded, welcome.blank)",
          "self._comparable"),),
        "first_cycle_relies_on_other_data",
    ),
    Fault(
        "a cycle of what has changed goes on for a target that gave up its image (I1)",
        "tests/test_seed.py::test_what_a_cycle_relies_on_is_what_the_target_holds_then",
        (("mirror_core/driver.py",
          "self._comparable, self._seeded = True, False",
          "self._comparable, self._seeded = False, False"),),
        "changes_without_an_image",
    ),
    Fault(
        "a first copy whose link is lost before anything is stable begins anew",
        "tests/test_matrix.py::test_all_that_is_slow_gets_on",
        (("mirror_core/driver.py", "began != (False, welcome.seeded, welcome.blank)",
          "not welcome.resumed"),),
        "first_copy_begins_anew",
    ),
    Fault(
        "a source that was killed copies what a failed flush has lost, from the kernel's cache",
        "tests/test_lost_flush.py::test_a_source_that_was_killed_copies_what_its_disk_holds",
        (("mirror_core/driver.py", "            self._drop_caches()\n", ""),),
        "kernels_cache_is_copied",
    ),
    Fault(
        "nothing is exposed at a source whose target is refused",
        "tests/test_went_back.py::test_a_target_that_went_back_is_refused",
        (("mirror_core/driver.py", "if unsure:  # nor", "if False:  # nor"),),
        "refused_exposes_nothing",
    ),
    Fault(
        "a refused target that goes away has again what it had lost",
        "tests/test_went_back.py::test_a_refused_target_that_is_away_holds_no_more_than_before",
        (("mirror_core/driver.py", "unsure = self.unsure", "unsure = self.refused"),),
        "refused_and_away",
    ),
    Fault(
        "of a target that was refused no more is exposed than since the last commit",
        "tests/test_went_back.py::test_what_a_refused_target_holds_is_not_known "
        "simulate:1000:goes_back,run_on",
        (("mirror_core/driver.py",
          "            return max(self._began.age(self._platform), point.age(self._platform))\n",
          "            return point.age(self._platform)\n"),),
        "refused_exposes_a_cycle",
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
        "a source that was started again does not know that its target was refused",
        "tests/test_went_back.py::test_a_source_knows_over_a_restart_that_its_target_was_refused",
        (("mirror_core/driver.py", "self.unsure = book.current.unsure", "self.unsure = False"),),
        "refused_until_a_restart",
    ),
    Fault(
        "that a target was refused is recorded once, or never",
        "tests/test_went_back.py::test_a_source_knows_over_a_restart_that_its_target_was_refused",
        (("mirror_core/driver.py", "        if not self._book.current.unsure:\n",
          "        if not self.refused:\n"),),
        "refused_is_recorded_once",
    ),
    Fault(
        "a target that was refused once is in doubt for good",
        "tests/test_went_back.py::test_a_source_knows_over_a_restart_that_its_target_was_refused",
        (("mirror_core/session.py", "                unsure=False,\n", ""),),
        "refused_for_good",
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
        "the line of a pulse stays as it is when a session begins",
        "tests/test_pulse.py::test_the_line_of_a_pulse_is_of_the_session",
        (("mirror_core/pulse.py", "            if session != of:", "            if False:"),),
        "line_of_no_session",
    ),
    Fault(
        "a pulse that has just knocked notices a session late",
        "tests/test_pulse.py::test_the_line_of_a_pulse_is_of_the_session",
        (("mirror_core/pulse.py", "min(due - self._platform.monotonic(), limits.PULSE_S)",
          "due - self._platform.monotonic()"),),
        "session_noticed_late",
    ),
    Fault(
        "a source without a session is silent",
        "tests/test_promote.py::test_a_source_that_flushes_for_long_at_its_start_is_there",
        (("mirror_core/pulse.py", "                self._beat(session)\n",
          "                if session:\n                    self._beat(session)\n"),),
        "silent_without_a_session",
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
        "a source is refused still when the right target has answered, until it is connected",
        "simulate:20000:clone,run_on",
        (("mirror_core/driver.py", "            if self.refused:  # that was another one",
          "            if False:  # that was another one"),),
        "refused_until_connected",
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
        "what was whole of an image that is lost is whole of the next one after a kill",
        "tests/test_status.py::test_nothing_is_whole_at_a_target_that_has_lost_its_image",
        (("mirror_core/session.py", ", hardened=min(welcome.hardened, image[0])", ""),),
    ),
    Fault(
        "a pause without the target is said to be settled",
        "tests/test_status.py::test_what_was_begun_last_may_be_committed_and_not_whole",
        (("mirror_core/driver.py", "known = self.connected or self._book.current.begun ==",
          "known = True or self._book.current.begun =="),),
    ),
    Fault(
        "a source that makes a pause, as its target cannot do what it asks, is taken for gone",
        "tests/test_status.py::test_a_target_says_what_it_cannot_do_until_it_can_do_that",
        (("mirror_core/target.py", "if self.trouble or (self.failure", "if (self.failure"),),
    ),
    Fault(
        "what follows the first commit of a seeded target is compared for nothing",
        "tests/test_seed.py::test_only_what_differs_from_a_seed_is_sent",
        (("mirror_core/driver.py",
          "self._comparable, self._seeded = True, False",
          "self._comparable = True"),),
    ),
    Fault(
        "a commit may have any sequence",
        "tests/test_went_back.py::test_a_number_of_the_peer_ends_no_target",
        (("mirror_core/target.py",
          "if request.sequence - mine.committed > limits.SEQUENCE_STEP_MAX:", "if False:"),),
        "any_sequence",
    ),
    Fault(
        "writes are held again right after a freeze that was missed",
        "tests/test_holds.py::test_a_slow_write_holds_up_others_for_one_freeze_at_a_time",
        (("mirror_core/driver.py", "if now < self._freeze_at:", "if False:"),),
        "held_again_at_once",
    ),
    Fault(
        "how long writes were held for a freeze that was missed is not counted",
        "tests/test_holds.py::test_a_slow_write_holds_up_others_for_one_freeze_at_a_time",
        (("mirror_core/driver.py", "            self._journal.held(self._held)\n"
          "            self._journal.missed_freeze()\n",
          "            self._journal.missed_freeze()\n"),),
        "missed_hold_not_counted",
    ),
    Fault(
        "the reason of a missed consistency point goes with the next look at the peer",
        "tests/test_holds.py::test_a_missed_point_is_said_until_one_is_made",
        (("mirror_core/driver.py", "            self._stuck = outcome.reason\n"
          "            self._say(outcome.reason)\n", "            self._say(outcome.reason)\n"),),
        "missed_point_untold",
    ),
    Fault(
        "a missed consistency point is tried again when the interval is over",
        "tests/test_holds.py::test_a_missed_point_is_said_until_one_is_made",
        (("mirror_core/driver.py", "self._holds.rest_s\n"
          '        self._last_begin = float("-inf")\n', "self._holds.rest_s\n"),),
        "missed_point_waits",
    ),
    Fault(
        "an own store that is silent is taken for the link",
        "tests/test_holds.py::test_an_own_store_that_is_silent_is_not_taken_for_the_link",
        (("mirror_core/driver.py", "self._stuck = None if self.refused else outcome.reason",
          "self._stuck = None if outcome.code in LINK_ERRNOS else outcome.reason"),),
        "own_store_is_the_link",
    ),
    Fault(
        "a resume comes in between the ledger and the halt of a pause",
        "tests/test_stalled_thread.py::test_what_a_pause_holds_a_resume_lets_go",
        (("mirror_core/driver.py", "        with self._pausing:\n"
          "            self._book.update(paused=True)\n",
          "        if True:\n            self._book.update(paused=True)\n"),),
        "resume_comes_in_between",
    ),
    Fault(
        "a source that waits for its own store is silent",
        "tests/test_pulse.py::test_a_source_is_heard_while_its_own_store_flushes",
        (("mirror_core/driver.py", "        self._pulse.start()\n", ""),),
        "own_store_is_silence",
    ),
    Fault(
        "an error that the target answers with is taken for the link's by its errno",
        "tests/test_holds.py::test_a_target_that_answers_with_an_error_is_not_taken_for_a_lost_link",
        (("mirror_core/driver.py", " and not isinstance(error, Answered)\n", "\n"),),
        "answer_is_the_link",
    ),
    Fault(
        "a source that ends waits for its target as long as ever",
        "tests/test_ends.py::test_a_stop_does_not_wait_for_a_silent_target",
        (("mirror_core/driver.py", "            self.changed.notify_all()\n"
          "        self._copier.leave()\n",
          "            self.changed.notify_all()\n"),),
        "ends_patiently",
    ),
    Fault(
        "a name server that is silent holds the control of a source",
        "tests/test_ends.py::test_a_stop_does_not_wait_for_a_name_server",
        (("mirror_core/peer.py", "platform.looker(self._look_up, limits.CONNECT_S)",
          "self._look_up"),),
        "name_server_holds_a_stop",
    ),
    Fault(
        "a source that is to stop goes on opening the intermediates of its target",
        "tests/test_ends.py::test_a_stop_waits_for_one_connection_of_a_session_at_most",
        (("mirror_core/session.py", "                if self._ending():\n",
          "                if False:\n"),),
        "opens_on_at_a_stop",
    ),
    Fault(
        "a source that is to stop goes on opening lanes to its target",
        "tests/test_ends.py::test_a_stop_waits_for_one_connection_of_a_session_at_most",
        (("native/link.c", "  if (!second || !atomic_load (&v->leaves))\n", "  if (true)\n"),),
        "links_on_at_a_stop",
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
        "a target that does not know what was stable gets only what was not (I9)",
        "simulate:20000",
        (("mirror_core/driver.py",
          "        if not welcome.resumed:\n            self._copier.forget_stable()\n", ""),),
        "stable_not_forgotten",
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
        "what is sent because the target has no image is not in the intent log (I4)",
        "simulate:1000",
        (("mirror_core/driver.py", "                member.native.heat_all()\n",
          "                pass\n"),),
        "marked_not_heated",
    ),
    Fault(
        "commits of an older session are taken (I8)",
        "simulate:20000",
        (("mirror_core/target.py", "if not session or session != self.session:", "if False:"),),
        "late_commits",
    ),
    Fault(
        "a sequence is used before it is on the disk (I3)",
        "simulate:10000",
        (("mirror_core/driver.py",
          "self._book.update(begun=sequence, begun_token=self._platform.token())",
          "self._book.current = replace(\n"
          "            self._book.current, begun=sequence, begun_token=self._platform.token())"),),
        "begun_not_durable",
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
        "a control thread ends by an exception, and nobody is told",
        "simulate:10000:thrown,run_on",
        (("mirror_core/guard.py", "            try:\n                give_up(error)\n",
          "            return\n            try:\n                give_up(error)\n"),),
        "thrown_is_the_end",
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
        "a pause whose record takes long is said not to be done",
        "tests/test_commands.py::test_a_command_whose_record_takes_long_does_not_say_that_it_is_not_done[pause]",
        (("mirror_core/cli/mirroring.py", 'f"it may be paused all the same, and', 'f"it'),),
        "slow_pause_is_none",
    ),
    Fault(
        "so is a resume",
        "tests/test_commands.py::test_a_command_whose_record_takes_long_does_not_say_that_it_is_not_done[resume]",
        (("mirror_core/cli/mirroring.py", '"it may be resumed all the same: see', '"see'),),
        "slow_resume_is_none",
    ),
    Fault(
        "a promotion that is given up for want of an answer goes on",
        "tests/test_promotion_waits.py::"
        "test_a_promotion_that_is_given_up_while_its_site_lives_is_taken_back",
        (("mirror_core/cli/mirroring.py", "    if not process.is_there(settings):\n",
          "    if True:\n"),),
        "unanswered_promotion_goes_on",
    ),
    Fault(
        "a promotion whose command is ended by a signal goes on",
        "tests/test_promotion_waits.py::test_a_promotion_whose_asker_is_gone_is_taken_back",
        (("mirror_core/cli/mirroring.py", "signal.signal(end, signal.default_int_handler)",
          "pass"),),
        "signalled_promotion_goes_on",
    ),
    Fault(
        "a session that the target has ended is a fault that stands until a commit",
        "tests/test_promotion_fails.py::"
        "test_a_cycle_that_stands_still_forgets_a_promotion_that_is_taken_back",
        (("mirror_core/driver.py", "if not (of_link or over):", "if not of_link:"),),
    ),
    Fault(
        "a target's store that fails says that the session is over",
        "tests/test_protocol.py::"
        "test_an_errno_that_means_something_to_a_source_is_told_for_nothing_else",
        (("mirror_core/control.py", ", errno.ESHUTDOWN: SessionOver}", "}"),),
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
        "a pause that stops the copying does not wait for a commit that is under way",
        "tests/test_commands.py::test_pause_now_waits_for_a_commit_that_is_under_way",
        (("mirror_core/driver.py", "(self.halted and idle)",
          '(self.halted and self.progress.phase != "copy")'),),
        "pause_waits_for_no_commit",
    ),
    Fault(
        "a cycle that stands still after its commit was lost is still to be committed",
        "tests/test_commands.py::test_pause_now_waits_for_a_commit_that_is_under_way",
        (("mirror_core/driver.py",
          'self.progress = replace(self.progress, phase="copy")  # back', "pass  # back"),),
    ),
    Fault(
        "nothing is exposed in a cycle that stands still",
        "tests/test_exposure.py::test_it_grows_in_a_cycle_that_stands_still",
        (("mirror_core/driver.py",
          "        if point is None:\n"
          "            return self._began.age(self._platform)\n",
          "        if self.standing:\n"
          "            return 0.0\n"
          "        if point is None:\n"
          "            return self._began.age(self._platform)\n"),),
        "stands_still_exposes_nothing",
    ),
    Fault(
        "nothing is exposed when the control has ended",
        "tests/test_exposure.py::test_it_grows_when_the_control_has_ended",
        (("mirror_core/driver.py",
          "        if point is None:\n"
          "            return self._began.age(self._platform)\n",
          "        if self._ended:\n"
          "            return 0.0\n"
          "        if point is None:\n"
          "            return self._began.age(self._platform)\n"),),
        "ended_exposes_nothing",
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
        "a paused source makes no point for a sync either",
        "tests/test_commands.py::test_pause_stands_still_durably_and_sync_works_meanwhile",
        (("mirror_core/driver.py",
          "        if self.requested > committed:\n            return True\n"
          "        if self._book.current.paused:\n            return False\n",
          "        if self._book.current.paused:\n            return False\n"
          "        if self.requested > committed:\n            return True\n"),),
        "paused_syncs_nothing",
    ),
    Fault(
        "a freeze that was missed is told as the last commit's cycle",
        "tests/test_holds.py::test_a_missed_point_is_said_until_one_is_made",
        (("mirror_core/driver.py", "cycle.Progress(self.progress.sequence, \"freeze\")",
          "cycle.Progress(self.committed, \"freeze\")"),),
        "missed_freeze_is_a_cycle",
    ),
    Fault(
        "a pause that stops the copying waits for what the target copies to its data",
        "tests/test_commands.py::test_pause_now_does_not_wait_for_what_the_target_hardens",
        (("mirror_core/driver.py", "(self.halted and idle)",
          "(self.halted and idle and not self.connected)"),),
        "pause_waits_for_hardening",
    ),
    Fault(
        "a commit does not wait until the one before is whole in the target's data (I3)",
        "simulate:1000",
        (("mirror_core/target.py",
          "            if not self.wait_hardened(limits.CONTROL_WAIT_S):\n"
          "                return protocol.Progress(False, mine.hardened, self.reason)\n", ""),),
        "commit_before_hardened",
    ),
    Fault(
        "a commit is asked for while what it holds is not flushed at the source (I4)",
        "simulate:1000",
        (("mirror_core/driver.py", "self._copier.flush(front_too=True)",
          "self._copier.flush(front_too=False)"),),
        "commit_without_source_flush",
    ),
    Fault(
        "the glossary names a key of the status that is not there",
        "tests/test_glossary.py"
        "::test_each_name_of_a_word_is_there_and_what_is_there_has_a_word[status]",
        (("docs/glossary.md", "`cycle.stands_still`", "`cycle.halted`"),),
        "word_without_a_key",
    ),
    Fault(
        "the glossary names what is not in the code any more",
        "tests/test_glossary.py"
        "::test_each_word_is_where_the_glossary_says_that_it_is_in_the_code",
        (("docs/glossary.md", "`native/lane.h: FM_COPY_FEED`", "`native/lane.h: FM_COPY_SEND`"),),
        "word_without_its_code",
    ),
    Fault(
        "the help of an option is half a sentence",
        "tests/test_language.py"
        "::test_each_command_and_option_says_what_it_does_in_a_sentence",
        (("mirror_core/cli/common.py", "Print the result as JSON.", "print JSON"),),
        "help_in_half_sentences",
    ),
    Fault(
        "a message has a word that is to be translated back",
        "tests/test_language.py"
        "::test_no_message_has_a_word_that_is_to_be_translated_back",
        (("mirror_core/cli/checking.py", "{why}correct 'peer'", "{why}mend 'peer'"),),
        "message_in_old_words",
    ),
)  # fmt: skip
