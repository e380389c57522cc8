"""Faults of a change of role, of sessions, and of the history that a site has."""

from __future__ import annotations

from faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        "neither an older state of a source nor another copy of it is told from it (I7)",
        "tests/test_went_back.py::test_a_source_that_went_back_is_refused "
        "tests/test_went_back.py::test_of_two_copies_of_a_source_one_is_refused",
        (("mirror_core/recovery.py",
          "if image.same(committed) or image.same(begun):",
          "if True:"),
         ("mirror_core/recovery.py",
          "if not known or mine.source_run in hello.runs:",
          "if True:")),
        "neither_told_apart",
    ),
    Fault(
        "a target without an image makes a source forget the runs that the one before has met",
        "tests/test_went_back.py::"
        "test_a_fresh_target_that_has_answered_once_is_no_copy_of_the_source "
        "tests/test_went_back.py::test_a_target_that_another_one_has_followed_hears_of_no_copy",
        (("mirror_core/session.py", "before = () if welcome.whole else (", "before = () and ("),),
        "runs_met_forgotten",
    ),
    Fault(
        "a consistency point is known by its number alone (I7)",
        "tests/test_recovery.py::test_a_source_that_has_met_a_wrong_target_did_not_go_back",
        (("mirror_core/recovery.py",
          "        tokens = {self.token, other.token} - {\"\"}\n",
          "        tokens: set[str] = set()\n"),),
    ),
    Fault(
        "a session that a source opens, and makes no use of, is one",
        "tests/test_away.py::test_its_target_never_calls_it_connected",
        (("mirror_core/target.py", "return self.session != 0 and self._used == self.session",
          "return self.session != 0"),),
        "unused_session_is_one",
    ),
    Fault(
        "check takes an intermediate that is waited for for one in use",
        "tests/test_away.py::test_check_says_what_it_waits_for",
        (("mirror_core/status.py", '"has_intermediate": name not in waiting',
          '"has_intermediate": True'),),
        "check_takes_it_for_used",
    ),
    Fault(
        "a peer may have the same blocks compared without end",
        "tests/test_compare.py::test_a_comparison_is_bounded_in_bytes",
        (("mirror_core/compare.py", "    if pieces > 1 and sum(n for _, n in asked.runs)",
          "    if False and sum(n for _, n in asked.runs)"),),
    ),
    Fault(
        "a source without its intermediate does not hear that its target was promoted",
        "tests/test_away.py::test_it_hears_that_its_target_was_promoted",
        (("mirror_core/driver.py", "        welcome = self._greet()\n        self._take_inter",
          "        self._take_intermediates()\n        welcome = self._greet()\n"
          "        self._take_inter"),),
        "unheard_promotion",
    ),
    Fault(
        "a promotion that is taken back in its last step is recorded",
        "tests/test_promotion_fails.py::test_one_that_is_taken_back_in_its_last_step_is_not_recorded",
        (("mirror_core/promotion.py", "    _refuse_taken_back(site, takings)\n    assert",
          "    assert"),),
        "taken_back_is_recorded",
    ),
    Fault(
        "a source takes a promotion that may be taken back for a refusal",
        "tests/test_promotion_fails.py::test_a_source_forgets_a_promotion_that_is_taken_back",
        (("mirror_core/target.py", "raise PeerError(f\"{mine.name} is being promoted",
          "raise Refused(f\"{mine.name} is being promoted"),),
        "promotion_is_a_refusal",
    ),
    Fault(
        "a sync leaves the copying halted that a pause has stopped",
        "tests/test_commands.py::test_pause_now_stops_in_the_middle_of_a_copy",
        (("mirror_core/driver.py", "self.halted and self.requested <= self.committed",
          "self.halted"),),
        "sync_leaves_it_halted",
    ),
    Fault(
        "a target of a paused source says that all is well",
        "tests/test_outlook.py::test_a_target_of_a_paused_source_says_so",
        (("mirror_core/target.py", "        self.source_paused = paused\n", ""),),
        "paused_target_is_well",
    ),
    Fault(
        "a copy that stands still is said to end at some time",
        "tests/test_outlook.py::test_a_copy_that_stands_still_says_so_and_not_when_it_ends",
        (("mirror_core/driver.py", '!= "copy" or self.standing or', '!= "copy" or'),),
        "stands_still_and_ends",
    ),
    Fault(
        "a peer without a session is called away, whoever is at fault",
        "tests/test_outlook.py::"
        "test_a_source_whose_own_store_is_in_the_way_does_not_blame_its_peer",
        (("mirror_core/driver.py", "return self.connected or self._pulse.answers",
          "return self.connected"),),
        "peer_called_away",
    ),
    Fault(
        "a paused source says that mirroring resumes by itself",
        "tests/test_outlook.py::test_a_paused_source_that_lost_its_peer_says_that_it_stays_paused",
        (("mirror_core/session.py", "stays if paused else first", "stays if 0 else first"),),
        "pause_resumes_by_itself",
    ),
    Fault(
        "a source whose data server is gone says that writes go on",
        "tests/test_outlook.py::test_a_source_whose_own_data_server_is_gone_says_that_clients_fail",
        (("mirror_core/session.py", "if error.part != flashcopy.FRONT:", "if error.part > -2:"),),
        "writes_go_on_anyway",
    ),
    Fault(
        "a refusal does not say that its way out costs the image",
        "tests/test_recovery.py::test_a_refused_history_names_what_each_way_out_costs",
        (("mirror_core/recovery.py", "if mine.whole else \"\")", "if 0 else \"\")"),),
    ),
    Fault(
        "a promotion that was given up is still under way",
        "tests/test_promotion_waits.py::test_a_promotion_whose_asker_is_gone_is_taken_back",
        (("mirror_core/target.py",
          "            self._promoting_until = 0.0\n\n    def _fence",
          "            pass\n\n    def _fence"),),
        "given_up_is_under_way",
    ),
    Fault(
        "a state folder that hangs keeps a target's status, and its metrics",
        "tests/test_hung_state.py::test_a_target_says_that_its_state_folder_hangs",
        (("mirror_core/target.py",
          "platform.looker(self._missing_file, limits.CONTROL_WAIT_S)", "self._missing_file"),),
        "hung_folder_keeps_a_status",
    ),
    Fault(
        "a promotion is refused while a look at its stores has no answer",
        "tests/test_hung_state.py::test_a_promotion_waits_for_a_file_server_and_says_so",
        (("mirror_core/promotion.py", "        except StillLooking as error:\n",
          "        except ZeroDivisionError as error:\n"),),
        "no_look_is_the_end",
    ),
    Fault(
        "a look that is late in the last step of a promotion ends it",
        "tests/test_promotion_fails.py::"
        "test_a_look_that_is_late_in_the_last_step_ends_no_promotion",
        (("mirror_core/promotion.py", "site.refuse_anew(again=True)", "site.refuse_anew()"),),
        "late_in_the_last_step",
    ),
    Fault(
        "a site is created anew in the folder of one whose ledger is lost",
        "tests/test_lost_ledger.py::test_a_lost_ledger_is_not_taken_for_a_new_site",
        (("mirror_core/creation.py", "        ledger.refuse_lost(config.state)\n", ""),),
        "lost_ledger_is_a_new_site",
    ),
    Fault(
        "a target that gave its image up is known by its bytes",
        "tests/test_seed.py::test_a_target_that_gave_its_image_up_may_hold_other_bytes",
        (("mirror_core/resync.py", "fingerprint=None)", "fingerprint=data.fingerprint)"),),
    ),
    Fault(
        "maps count in a boot that is not known (I4)",
        "tests/test_boot_id.py::test_maps_count_in_a_boot_that_is_the_same",
        (("mirror_core/mapfile.py", "any(now) and boot == now", "boot == now"),),
        "maps_of_an_unknown_boot",
    ),
    Fault(
        "a target that gives up its image keeps what was pending in it (I1)",
        "tests/test_promote.py::test_a_target_that_owes_blocks_takes_another_source",
        (("mirror_core/resync.py", "        maps={},\n    )\n", "    )\n"),),
        "given_up_image_is_pending",
    ),
    Fault(
        "another history is admitted (I7)",
        "tests/test_recovery.py simulate:1000:second_source,run_on",
        (("mirror_core/recovery.py", "if mine.lineage is None or mine.lineage.id == hello.lineage:",
          "if True:"),),
        "another_history",
    ),
    Fault(
        "a second source puts an end to the session of the first",
        "tests/test_network.py::test_a_second_source_is_refused_while_the_first_is_connected "
        "simulate:10000:second_source,run_on",
        (("mirror_core/target.py", "if self._has_source() and hello.site != self.source_site:",
          "if False:"),),
        "second_source",
    ),
    Fault(
        "a source that is refused has ended the session of another one all the same",
        "simulate:1000:second_source,run_on",
        (("mirror_core/target.py", "                self.note_refusal(decision.refused)\n",
          "                self._end_session()\n"
          "                self.note_refusal(decision.refused)\n"),),
        "refused_ends_a_session",
    ),
    Fault(
        "a promoted site keeps the lineage of the old source (I7)",
        "tests/test_promote.py::test_the_old_source_is_refused",
        (("mirror_core/promotion.py", "lineage=Lineage(site.platform.token(), "
          "parent=book.lineage.id, forked_at=book.committed),", "lineage=book.lineage,"),),
        "promoted_keeps_the_lineage",
    ),
    Fault(
        "a copy of a target that has stayed behind is mirrored to (I7)",
        "tests/test_store_back.py::test_a_copy_of_a_target_that_stayed_behind_is_refused",
        (("mirror_core/recovery.py", "if image.same(committed) or image.same(begun):",
          "if image.sequence <= committed.sequence:"),),
        "stale_copy_is_mirrored_to",
    ),
    Fault(
        "what was lost before a history is found equal in it (I9)",
        "tests/test_lost_flush.py::test_what_was_lost_before_a_history_is_not_found_equal",
        (("mirror_core/resync.py",
          "book.doubtful_before or book.doubtful_sent or not book.clean or lost",
          "book.doubtful_before"),),
        "trusts_before_its_history",
    ),
    Fault(
        "a promotion forgets what the intermediate may have lost (I9)",
        "tests/test_doubt.py::test_a_promotion_forgets_no_doubt",
        (("mirror_core/promotion.py",
          "book.doubtful_before or site.control.may_read_a_cache()", "book.doubtful_before"),),
        "promotion_ends_the_doubt",
    ),
    Fault(
        "a second seed counts for what the first one was compared with",
        "tests/test_seed.py::test_what_a_cycle_relies_on_is_what_the_target_holds_then",
        (("mirror_core/resync.py", "replace(give_up(book), seeded=True)",
          "replace(book, seeded=True)"),),
    ),
    Fault(
        "a target that cannot flush says that all is well",
        "tests/test_lost_flush.py::test_a_target_says_that_it_cannot_flush",
        (("mirror_core/status.py", "trouble = lost or control.reason or control.trouble",
          "trouble = control.reason"),),
        "cannot_flush_untold",
    ),
    Fault(
        "a site's own old data is a seed, though its server may show what the disk has lost",
        "tests/test_seed.py::test_what_a_server_may_have_lost_is_no_seed",
        (("mirror_core/resync.py", "book.doubtful_data or (wrote and not sure)",
          "book.doubtful_data"),),
        "own_data_is_a_seed",
    ),
    Fault(
        "no session is opened any more after a promotion that failed",
        "tests/test_promotion_fails.py::test_a_promotion_that_fails_gives_the_site_back",
        (("mirror_core/promotion.py", "        patience_s = 0.0\n",
          '        patience_s = float("inf")\n'),),
        "failed_promotion_ends_sessions",
    ),
    Fault(
        "a target takes its own failure for a source that is silent",
        "tests/test_status.py::test_a_target_whose_own_state_disk_fails_says_so",
        (("mirror_core/status.py", "(control.failure if control.is_there() else None)", "None"),),
        "own_failure_is_silence",
    ),
    Fault(
        "a target mirrors from a source that says that it has no session",
        "tests/test_status.py::test_a_source_that_says_that_it_has_no_session_is_believed",
        (("mirror_core/status.py", "connected() and control.parted() is None", "connected()"),),
        "no_session_not_believed",
    ),
    Fault(
        "a promoted source awaits its old source",
        "tests/test_outlook.py::test_a_promoted_source_does_not_say_that_its_old_source_comes_back",
        (("mirror_core/session.py", "first if promoted else", "first if 0 else"),),
    ),
    Fault(
        "a creation that fails half-way leaves its ledger",
        "tests/test_bad_creation.py::test_a_creation_that_fails_half_way_leaves_nothing",
        (("mirror_core/creation.py", "        durable.remove(ledger.path_in(config.state), HERE)\n",
          ""),),
        "failed_creation_leaves",
    ),
    Fault(
        "a site that went back is mirrored to, or from (I7)",
        "simulate:1000:goes_back,clone,promote,run_on "
        "tests/test_went_back.py::test_a_snapshot_of_an_idle_source_is_refused_after_one_commit "
        "tests/test_went_back.py::test_a_number_of_the_peer_ends_no_source",
        (("mirror_core/recovery.py", "if image.same(committed) or image.same(begun):",
          "if True:"),),
        "any_image_taken",
    ),
    Fault(
        "copies of a source are not told apart (I7)",
        "simulate:20000:goes_back,clone,promote,run_on",
        (("mirror_core/recovery.py", "if not known or mine.source_run in hello.runs:",
          "if True:"),),
        "any_copy_taken",
    ),
    Fault(
        "a session that is written in, and not yet asked in, does not count",
        "tests/test_outlook.py::test_a_cycle_is_named_only_where_there_is_one",
        (("mirror_core/target.py", "if self.session and self._wrote() > self._opened:",
          "if False:"),),
        "written_in_is_unused",
    ),
    Fault(
        "a ledger is given up by the file of other volumes",
        "tests/test_commands.py::test_a_ledger_is_given_up_by_the_file_of_its_volumes_only",
        (("mirror_core/resync.py", "        check_ledger(config, book)\n", ""),),
        "given_up_by_another_file",
    ),
    Fault(
        "an adopted source is said to have ended without order",
        "tests/test_adopt.py::test_an_adopted_source_is_not_said_to_have_ended_without_order",
        (("mirror_core/ledger.py", " and not ledger.clean and ledger.run not in ledger.runs",
          " and not ledger.clean and False"),),
        "adopted_without_order",
    ),
    Fault(
        "an adopted source that has run and was killed is said to be adopted",
        "tests/test_adopt.py::test_an_adopted_source_is_not_said_to_have_ended_without_order",
        (("mirror_core/ledger.py", " and not ledger.clean and ledger.run not in ledger.runs",
          " and not ledger.clean"),),
        "adopted_for_ever",
    ),
    Fault(
        "a site that was given up is said to have ended without order",
        "tests/test_adopt.py::test_a_source_that_was_given_up_is_not_said_to_have_ended_without_order",
        (("mirror_core/ledger.py", "is_adopted(ledger) or nothing", "is_adopted(ledger)"),),
        "given_up_without_order",
    ),
)  # fmt: skip
