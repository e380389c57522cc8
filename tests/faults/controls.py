"""Faults of the source's control, of sessions, and of what is said of them."""

from __future__ import annotations

from faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
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
        "a blank target that holds what was not sent gets what is no hole, and waits for ever",
        "tests/test_went_back.py::test_a_source_that_went_back_in_its_first_copy_is_sent_whole",
        (("mirror_core/driver.py",
          "data_only=welcome.blank and not self._owing",
          "data_only=welcome.blank"),),
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
        "what was found equal is not made stable while blocks are compared",
        "tests/test_slow_store.py::"
        "test_a_comparison_that_loses_its_link_goes_on_where_it_was",
        (("mirror_core/driver.py", "(not done or self._comparison)", "not done"),),
        "equal_is_not_stable",
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
        "a source is refused still when the right target has answered, until it is connected",
        "simulate:20000:clone,run_on",
        (("mirror_core/driver.py", "            if self.refused:  # that was another one",
          "            if False:  # that was another one"),),
        "refused_until_connected",
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
        "what follows the first commit of a seeded target is compared for nothing",
        "tests/test_seed.py::test_only_what_differs_from_a_seed_is_sent",
        (("mirror_core/driver.py",
          "self._comparable, self._seeded = True, False",
          "self._comparable = True"),),
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
        "a target that does not know what was stable gets only what was not (I9)",
        "simulate:20000",
        (("mirror_core/driver.py",
          "        if not welcome.resumed:\n            self._copier.forget_stable()\n", ""),),
        "stable_not_forgotten",
    ),
    Fault(
        "what is sent because the target has no image is not in the intent log (I4)",
        "simulate:1000",
        (("mirror_core/driver.py", "                member.native.heat_all()\n",
          "                pass\n"),),
        "marked_not_heated",
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
        "a control thread ends by an exception, and nobody is told",
        "simulate:10000:thrown,run_on",
        (("mirror_core/guard.py", "            try:\n                give_up(error)\n",
          "            return\n            try:\n                give_up(error)\n"),),
        "thrown_is_the_end",
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
