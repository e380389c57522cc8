"""Faults of a site: its start and end, commands, roles, records from outside; of chaos."""

from __future__ import annotations

from faults.fault import Fault

FAULTS = (
    Fault(
        "check finds nothing wrong while writes fail",
        "tests/test_failed_writes.py::test_a_source_whose_data_store_is_full_says_that_writes_fail",
        (("mirror_core/cli/creating.py", " and (not reason or waits)", ""),),
    ),
    Fault(
        "a promotion that is taken back in its last step is recorded",
        "tests/test_promotion_fails.py::test_one_that_is_taken_back_in_its_last_step_is_not_recorded",
        (("mirror_core/promotion.py", "    _refuse_taken_back(site, takings)\n    assert",
          "    assert"),),
    ),
    Fault(
        "a source takes a promotion that may be taken back for a refusal",
        "tests/test_promotion_fails.py::test_a_source_forgets_a_promotion_that_is_taken_back",
        (("mirror_core/target.py", "raise PeerError(f\"{mine.name} is being promoted",
          "raise Refused(f\"{mine.name} is being promoted"),),
    ),
    Fault(
        "everybody may read the images that init makes",
        "tests/test_commands.py::test_what_init_makes_is_for_its_owner_only",
        (("mirror_core/cli/creating.py", "os.O_CLOEXEC, 0o600)", "os.O_CLOEXEC, 0o644)"),),
    ),
    Fault(
        "a sync leaves the copying halted that a pause has stopped",
        "tests/test_commands.py::test_pause_now_stops_in_the_middle_of_a_copy",
        (("mirror_core/driver.py", "self.halted and self.requested <= self.committed",
          "self.halted"),),
    ),
    Fault(
        "clients may take every descriptor of a site",
        "tests/test_pin.py::test_too_many_clients_are_refused_and_the_others_served",
        (("mirror_core/connections.py", "[0] - _RESERVED", "[0]"),),
    ),
    Fault(
        "a site that is started stays in the session of who started it",
        "tests/test_commands.py::test_a_started_site_is_a_process_of_its_own",
        (("mirror_core/sockets.py", "            setsid=True,\n", ""),),
    ),
    Fault(
        "a certificate does not name its signer's key",
        "tests/test_network.py::test_a_strict_verifier_accepts_both_sites_certificates",
        (("mirror_core/pki.py", "        .add_extension(signers, critical=False)\n", ""),),
    ),
    Fault(
        "a check of a paused source is content with a failed write",
        "tests/test_outlook.py::test_a_failed_write_fails_the_check_whatever_the_state",
        (("mirror_core/cli/creating.py", 'status["role"] == "target" and ', ""),),
    ),
    Fault(
        "a target of a paused source says that all is well",
        "tests/test_outlook.py::test_a_target_of_a_paused_source_says_so",
        (("mirror_core/target.py", "        self.source_paused = paused\n", ""),),
    ),
    Fault(
        "a target that receives its first copy is idle",
        "tests/test_outlook.py::test_a_cycle_is_named_only_where_there_is_one",
        (("mirror_core/cli/seeing.py", "    if idle and came:", "    if False:"),),
    ),
    Fault(
        "a target receives from a source that is gone",
        "tests/test_outlook.py::test_a_cycle_is_named_only_where_there_is_one",
        (("mirror_core/cli/seeing.py", 'receives = status["peer"]["state"] == "connected"',
          "receives = True"),),
    ),
    Fault(
        "a killed source says that more is whole at its target than was committed",
        "tests/test_status.py::test_nothing_is_whole_at_a_target_that_has_lost_its_image",
        (("mirror_core/cli/seeing.py", "min(book.hardened, book.committed)", "book.hardened"),),
    ),
    Fault(
        "who waits for the target's hardening is told that no point was made",
        "tests/test_status.py::test_a_target_that_flushes_is_not_idle",
        (("mirror_core/cli/common.py", 'if phase == "idle" and (', 'if phase == "" and ('),),
    ),
    Fault(
        "a copy that stands still is said to end at some time",
        "tests/test_outlook.py::test_a_copy_that_stands_still_says_so_and_not_when_it_ends",
        (("mirror_core/driver.py", '!= "copy" or self.standing or', '!= "copy" or'),),
    ),
    Fault(
        "a peer without a session is called away, whoever is at fault",
        "tests/test_outlook.py::"
        "test_a_source_whose_own_store_is_in_the_way_does_not_blame_its_peer",
        (("mirror_core/driver.py", "return self.connected or self._pulse.answers",
          "return self.connected"),),
    ),
    Fault(
        "a paused source says that mirroring resumes by itself",
        "tests/test_outlook.py::test_a_paused_source_that_lost_its_peer_says_that_it_stays_paused",
        (("mirror_core/session.py", "stays) if paused else reason", "stays) if 0 else reason"),),
    ),
    Fault(
        "a source whose data server is gone says that writes go on",
        "tests/test_outlook.py::test_a_source_whose_own_data_server_is_gone_says_that_clients_fail",
        (("mirror_core/session.py", "if error.part != flashcopy.FRONT:", "if error.part > -2:"),),
    ),
    Fault(
        "a peer is to be started whatever became of the question",
        "tests/test_advice.py::test_a_peer_is_to_be_started_only_if_it_does_not_run",
        (("mirror_core/cli/creating.py",
          "        elif peer.does_not_run(settings.peer, error):\n", "        else:\n"),),
    ),
    Fault(
        "a site that runs is in its own way",
        "tests/test_advice.py::test_what_runs_already_is_not_in_the_way_of_itself",
        (("mirror_core/process.py", "if running(site) and (pid := holder(site)):",
          "if (pid := holder(site)) == 0:"),),
    ),
    Fault(
        "a refusal does not say that its way out costs the image",
        "tests/test_recovery.py::test_a_refused_history_names_what_each_way_out_costs",
        (("mirror_core/recovery.py", "if mine.whole else \"\")", "if 0 else \"\")"),),
    ),
    Fault(
        "a recorded store is to be adopted",
        "tests/test_advice.py::test_the_recorded_store_need_not_be_adopted",
        (("mirror_core/cli/adopting.py", "isatty() and look.refusal is None:",
          "isatty() and look.refusal == '':"),),
    ),
    Fault(
        "what fails at a stop is told as the program has it",
        "tests/test_advice.py::test_what_fails_at_a_stop_is_named",
        (("mirror_core/site.py",
          "text = error.strerror if isinstance(error, OSError) else str(error)",
          "text = str(error)"),),
    ),
    Fault(
        "a misspelt key is told as one that is missing",
        "tests/test_config.py::test_a_misspelt_key_is_named_before_what_it_leaves_missing",
        (("mirror_core/config.py", "        self.only(_SETTINGS)\n", ""),),
    ),
    Fault(
        "a promotion that was given up is still under way",
        "tests/test_promotion_waits.py::test_a_promotion_whose_asker_is_gone_is_taken_back",
        (("mirror_core/target.py",
          "            self._promoting_until = 0.0\n\n    def _fence",
          "            pass\n\n    def _fence"),),
    ),
    Fault(
        "a promotion that was done before is done now",
        "tests/test_promote.py::test_promoting_again_is_the_same",
        (("mirror_core/cli/mirroring.py",
          '    if answer["done"]:\n        return None\n    moment', "    moment"),),
    ),
    Fault(
        "a promotion whose process has ended says the contrary of its ledger",
        "tests/test_promotion_waits.py::"
        "test_a_promotion_whose_process_is_killed_says_what_became_of_the_site "
        "tests/test_promotion_waits.py::test_a_promoted_site_that_cannot_begin_anew_was_not_stopped",
        (("mirror_core/cli/mirroring.py", 'if role == "source":\n', 'if role != "source":\n'),),
    ),
    Fault(
        "a promoted site that cannot begin anew has no last words",
        "tests/test_promotion_waits.py::test_a_promoted_site_that_cannot_begin_anew_was_not_stopped",
        (("mirror_core/process.py", "return _last_of_ours(_lines(log.path, log.begin))",
          "return None"),),
    ),
    Fault(
        "a site that begins anew is taken for a stopped one",
        "tests/test_promotion_waits.py::test_a_site_that_begins_anew_is_not_stopped "
        "tests/test_promotion_waits.py::test_a_site_that_begins_anew_is_stopped_and_started_as_any",
        (("mirror_core/process.py", "return running(site) or begins_anew(site) or running(site)",
          "return running(site)"),),
    ),
    Fault(
        "a device whose history is gone is to be unmounted first",
        "tests/test_attach.py::test_a_device_of_another_history_is_freed_before_it_is_unmounted",
        (("mirror_core/attach.py", "if self.index < 0:", "if self.index > 0:"),),
    ),
    Fault(
        "a start that stands still keeps the others waiting for ever",
        "tests/test_hangs.py::test_a_start_waits_for_another_one_no_longer_than_that_may_take",
        (("mirror_core/process.py", "fcntl.LOCK_EX | fcntl.LOCK_NB)", "fcntl.LOCK_EX)"),),
    ),
    Fault(
        "a hung site keeps a command longer than its time-out",
        "tests/test_hangs.py::test_a_hung_process_keeps_no_command_longer_than_its_time",
        (("mirror_core/cli/common.py",
          "min(limits.CONTROL_TIMEOUT_S, self.left_s() + limits.CONTROL_WAIT_S)",
          "limits.CONTROL_TIMEOUT_S"),),
    ),
    Fault(
        "a site is created anew in the folder of one whose ledger is lost",
        "tests/test_lost_ledger.py::test_a_lost_ledger_is_not_taken_for_a_new_site",
        (("mirror_core/creation.py", "        ledger.refuse_lost(config.state)\n", ""),),
    ),
    Fault(
        "a target that gave its image up is known by its bytes",
        "tests/test_seed.py::test_a_target_that_gave_its_image_up_may_hold_other_bytes",
        (("mirror_core/resync.py", "fingerprint=None)", "fingerprint=data.fingerprint)"),),
    ),
    Fault(
        "what the process before wrote is not counted as bytes to be flushed",
        "tests/test_slow_flush.py::test_what_the_process_before_wrote",
        (("mirror_core/site.py", "                one.store.unflushed()\n",
          "                pass\n"),),
    ),
    Fault(
        "an errno of the target's folder means to its source that it is owed everything",
        "tests/test_injected.py::test_a_stale_folder_is_nothing_that_the_target_is_owed",
        (("mirror_core/control.py", "{errno.ESTALE: Owed, ", "{"),),
    ),
    Fault(
        "a kill forgets what a write of a client has met",
        "tests/test_lost_flush.py::test_a_kill_hides_no_loss_that_a_write_has_met",
        (("mirror_core/site.py", "        self.servers.start(self.journal)\n", ""),),
    ),
    Fault(
        "after an orderly stop what a source's server shows is taken for what its disk has",
        "tests/test_lost_flush.py::test_a_source_copies_no_cache_that_its_disk_has_not",
        (("mirror_core/site.py", "current.doubtful_data or (served and not current.clean)",
          "served and not current.clean"),),
    ),
    Fault(
        "a server that came back as another one is not reached anew at each try",
        "tests/test_lost_store.py::test_a_server_that_comes_back_smaller_is_named_for_that",
        (("mirror_core/errors.py", "errno.ECONNABORTED, errno.EPROTO,", "errno.ECONNABORTED,"),),
    ),
    Fault(
        "a target that gives up its image keeps what was pending in it (I1)",
        "tests/test_promote.py::test_a_target_that_owes_blocks_takes_another_source",
        (("mirror_core/resync.py", "        maps={},\n    )\n", "    )\n"),),
    ),
    Fault(
        "a seed is not flushed before it counts (I1)",
        "tests/test_seed.py::test_a_seed_is_flushed_before_it_counts",
        (("mirror_core/site.py", "            self.copier.flush(front_too=False)\n",
          "            pass\n"),),
    ),
    Fault(
        "a seed that could not be flushed once counts at the next start (I1)",
        "tests/test_seed.py::test_a_seed_that_cannot_be_flushed_is_given_up",
        (("mirror_core/site.py", "            self.book.update(seeded=False, doubtful_data=True)\n",
          "            pass\n"),
         ("mirror_core/site.py", "self.book.update(seeded=False, lineage=None, source_run=\"\", "
          "doubtful_data=True)", "pass")),
    ),
    Fault(
        "after a clock was set back an age is negative",
        "tests/test_exposure.py::test_no_clock_that_is_set_makes_an_age_negative_or_nothing",
        (("mirror_core/age.py", "max(counted, platform.time() - self.wall)",
          "platform.time() - self.wall"),),
    ),
    Fault(
        "after a power loss a source forgets what was hot (I4)",
        "tests/test_intent.py::test_only_what_was_hot_is_looked_at simulate:10000",
        (("mirror_core/site.py", "for offset, length in log.runs():",
          "for offset, length in ():"),),
        "hot_forgotten",
    ),
    Fault(
        "a handshake may name any number of volumes",
        "tests/test_protocol.py::test_a_handshake_that_could_do_harm_is_refused",
        (("mirror_core/protocol.py", "several(_SHAPE.kind(), limits.VOLUMES_MAX)",
          "several(_SHAPE.kind(), 1 << 60)"),),
    ),
    Fault(
        "a peer's errno is not looked at",
        "tests/test_fuzz.py::test_a_peers_answer_is_a_record_or_an_error",
        (("mirror_core/peer.py", "known = type(code) is int and code in errno.errorcode",
          "known = code is not None"),),
    ),
    Fault(
        "a number of thousands of digits is not a refusal of a configuration",
        "tests/test_fuzz.py::test_any_configuration_is_a_site_or_refused",
        (("mirror_core/config.py", "except (ValueError, RecursionError)",
          "except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError)"),),
    ),
    Fault(
        "another history is admitted (I7)",
        "tests/test_recovery.py",
        (("mirror_core/recovery.py", "if mine.lineage is None or mine.lineage.id == hello.lineage:",
          "if True:"),),
    ),
    Fault(
        "a promoted site keeps the lineage of the old source (I7)",
        "tests/test_promote.py::test_the_old_source_is_refused",
        (("mirror_core/promotion.py", "lineage=Lineage(site.platform.token(), "
          "parent=book.lineage.id, forked_at=book.committed),", "lineage=book.lineage,"),),
    ),
    Fault(
        "a log line that cannot be written raises",
        "tests/test_log.py::test_what_cannot_be_said_is_counted_and_said_later",
        (("mirror_core/journal.py", "                self.unwritten += 1\n",
          "                raise\n"),),
    ),
    Fault(
        "a log pipe that is full holds up who logs",
        "tests/test_log.py",
        (("plugin/flashmirror.py", "        stderr.never_wait()\n", ""),),
    ),
    Fault(
        "a stop ends at its first error",
        "tests/test_injected.py::test_a_stop_ends_whatever_it_meets",
        (("mirror_core/site.py", "            return False\n\n    def _end_thread",
          "            raise\n\n    def _end_thread"),),
    ),
    Fault(
        "a copy of a target that has stayed behind is mirrored to (I7)",
        "tests/test_store_back.py::test_a_copy_of_a_target_that_stayed_behind_is_refused",
        (("mirror_core/recovery.py", "if image.same(committed) or image.same(begun):",
          "if image.sequence <= committed.sequence:"),),
    ),
    Fault(
        "who waits for a start gives up each second, and asks again",
        "tests/test_commands.py::test_a_start_that_takes_a_while_leaves_no_error_in_the_log",
        (("mirror_core/process.py", "max(left, limits.CONTROL_WAIT_S)", "limits.CONTROL_WAIT_S"),),
    ),
    Fault(
        "who comes over TCP needs no TLS",
        "tests/test_strangers.py::test_without_the_mirrors_certificate_nothing_opens",
        (("mirror_core/door.py", "and not self._site.insecure", "and False"),),
    ),
    Fault(
        "what was lost before a history is found equal in it (I9)",
        "tests/test_lost_flush.py::test_what_was_lost_before_a_history_is_not_found_equal",
        (("mirror_core/resync.py",
          "book.doubtful_before or (served and (book.doubtful_sent or not book.clean))",
          "book.doubtful_before"),),
    ),
    Fault(
        "a promotion forgets what the intermediate may have lost (I9)",
        "tests/test_doubt.py::test_a_promotion_forgets_no_doubt",
        (("mirror_core/promotion.py",
          "book.doubtful_before or site.control.may_read_a_cache()", "book.doubtful_before"),),
    ),
    Fault(
        "a source that was killed knows what its intermediate has lost (I9)",
        "tests/test_doubt.py::test_a_run_in_order_after_a_kill_forgets_no_doubt",
        (("mirror_core/site.py", "book.doubtful_before or (source and not book.clean)",
          "book.doubtful_before"),),
    ),
    Fault(
        "what was put back beside a store that was adopted is only in a cache (I9)",
        "tests/test_adopt_beside.py",
        (("mirror_core/site.py", "(current.clean or known.fingerprint)", "current.clean"),),
    ),
    Fault(
        "what was put back while a site was stopped is only in a cache (I9)",
        "tests/test_identity.py::test_what_a_site_starts_on_is_on_the_disk",
        (("mirror_core/site.py", "if counts and (current.clean or known.fingerprint):",
          "if False:"),),
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
        (("mirror_core/status.py", "trouble = control.reason or control.trouble",
          "trouble = control.reason"),),
    ),
    Fault(
        "a site's own old data is a seed, though its server may show what the disk has lost",
        "tests/test_seed.py::test_what_a_server_may_have_lost_is_no_seed",
        (("mirror_core/resync.py", "book.doubtful_data or (wrote and not sure)",
          "book.doubtful_data"),),
    ),
    Fault(
        "who says that it is there has any name, also one that no answer holds",
        "tests/test_promote.py::test_who_says_that_it_is_there_has_a_site_s_name",
        (("mirror_core/protocol.py", 'return fields.take(record, "name", _NAME), fields',
          'return field(record, "name", str), fields'),),
    ),
    Fault(
        "a source keeps the maps of its last stop in the ledger, and writes them in each cycle",
        "tests/test_maps.py::test_the_ledger_of_a_source_that_runs_has_no_maps",
        (("mirror_core/site.py", "maps = {} if source else self", "maps = self"),),
    ),
    Fault(
        "a start that is refused leaves the files that it has made",
        "tests/test_ends.py::test_refused_starts_leave_no_file",
        (("mirror_core/site.py", "undo.callback(self._remove_files_that_mean_nothing)", "pass"),),
    ),
    Fault(
        "a target that is told to stop becomes a source all the same",
        "tests/test_promotion_fails.py::test_a_stop_while_a_promotion_finishes_is_not_lost",
        (("mirror_core/site.py", "            self.is_ending = True\n", "            pass\n"),),
    ),
    Fault(
        "no session is opened any more after a promotion that failed",
        "tests/test_promotion_fails.py::test_a_promotion_that_fails_gives_the_site_back",
        (("mirror_core/promotion.py", "        patience_s = 0.0\n",
          '        patience_s = float("inf")\n'),),
    ),
    Fault(
        "a target takes its own failure for a source that is silent",
        "tests/test_status.py::test_a_target_whose_own_state_disk_fails_says_so",
        (("mirror_core/status.py", "(control.failure if control.is_there() else None)", "None"),),
    ),
    Fault(
        "a stop that was not in order is said to be one",
        "tests/test_commands.py::test_a_stop_says_whether_the_site_ended_in_order",
        (("mirror_core/process.py", "return ledger.load(site.state).clean", "return True"),),
    ),
    Fault(
        "a stop signals whoever has the number in the lock file",
        "tests/test_hangs.py::test_a_stop_signals_nobody_but_who_has_the_state",
        (("mirror_core/process.py", "if not _has_lock(site, pid):", "if False:"),),
    ),
    Fault(
        "a start that takes long is said to have ended",
        "tests/test_commands.py::test_a_start_that_takes_long_is_not_one_that_has_ended",
        (("mirror_core/process.py", "            if pid:\n",
          "            if pid or time.monotonic() >= deadline:\n"),),
    ),
    Fault(
        "a start removes what is named like a file of its own",
        "tests/test_ends.py::test_a_start_removes_files_of_its_own_runs_only",
        (("mirror_core/site.py", "kind in kinds and TOKEN.fullmatch(run)", "kind in kinds"),),
    ),
    Fault(
        "a creation that fails half-way leaves its ledger",
        "tests/test_bad_creation.py::test_a_creation_that_fails_half_way_leaves_nothing",
        (("mirror_core/creation.py", "        durable.remove(ledger.path_in(config.state), HERE)\n",
          ""),),
    ),
    Fault(
        "a signal is taken before the site knows of it",
        "tests/test_promotion_fails.py::test_a_signal_is_not_taken_before_the_site_knows_of_it",
        (("mirror_core/connections.py", "            poll.poll()\n",
          "            signal.sigwait(_ENDING)\n"),),
    ),
    Fault(
        "a scrape goes on when the volumes are gone",
        "tests/test_ends.py::test_a_scrape_at_the_end_touches_nothing_that_is_gone",
        (("mirror_core/metrics.py", "            if self._ended:\n", "            if False:\n"),),
    ),
    Fault(
        "chaos takes prefixes of different moments for one image",
        "tests/test_chaos.py::test_prefixes_of_different_moments_are_wrong",
        (("scripts/chaoslib/judge.py", "if p.end >= moment", "if p.end >= 0.0"),),
    ),
    Fault(
        "chaos looks at the head of a unit, not at all of it",
        "tests/test_chaos.py::test_one_wrong_byte_is_found",
        (("scripts/chaoslib/chains.py",
          "if value and unit == self._unit(volume, n, value)", "if value"),),
    ),
    Fault(
        "after an orderly stop what a source reads is taken for what its disk has (I9)",
        "simulate:10000:shown,run_on",
        (("mirror_core/site.py",
          "doubtful_data=any(m.native.doubts_front() for m in self.members)",
          "doubtful_data=False"),),
        "stop_ends_the_doubt",
    ),
    Fault(
        "an orderly stop of a source asserts what is not on its disk",
        "simulate:10000",
        (("mirror_core/site.py",
          "            *(self._tried(m.native.flush_front, self._data_of(m.name)) for m in "
          "self.members),\n",
          ""),),
        "stop_without_flush",
    ),
    Fault(
        "a source that was stopped knows its intermediate by its bytes, which nobody flushed",
        "simulate:10000",
        (("mirror_core/site.py", 'counts=role == "target"', "counts=True"),),
        "kept_intermediate",
    ),
    Fault(
        "what a target's cache shows as holes is not sent to it (I1)",
        "simulate:10000",
        (("mirror_core/site.py", "            self._flush_holes()\n", "            pass\n"),),
        "holes_not_flushed",
    ),
    Fault(
        "a site that went back is mirrored to, or from (I7)",
        "simulate:10000:goes_back,clone,promote,run_on",
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
        "partitions are disks of their own",
        "tests/test_below.py::test_partitions_of_one_disk_share_it",
        (("mirror_core/below.py", 'if self._text(node / "partition"):', "if False:"),),
    ),
    Fault(
        "a file stands on what its own number says, which subvolumes make up",
        "tests/test_below.py::test_the_way_down",
        (("mirror_core/below.py", "[mount for mount in self._mounts if mount.id == at]", "[]"),),
    ),
    Fault(
        "a loop device stands on what its path means now",
        "tests/test_below.py::test_the_path_of_a_loop_device_s_file_may_mean_another_one",
        (("mirror_core/below.py", "if fd is not None:", "if False:"),),
    ),
    Fault(
        "an overlay of a container shares nothing",
        "tests/test_below.py::test_what_stands_on_something_unknown_shares_with_all",
        (("mirror_core/below.py", "if mount.id in self._above or", "if"),),
    ),
    Fault(
        "a file system in user space that names nothing shares nothing",
        "tests/test_below.py::test_the_way_down",
        (("mirror_core/below.py", ' or (mount.kind.startswith("fuse") and not mount.named)', ""),),
    ),
    Fault(
        "a start that fails frees what a thread that hangs still uses",
        "tests/test_ends.py::test_a_start_that_fails_takes_nothing_from_under_a_thread",
        (("mirror_core/site.py", "self._ended_or_abort(self.servers.stop(timeout_s))",
          "self.servers.stop(timeout_s)"),),
    ),
    Fault(
        "what is unknown shares with what is unknown, and with nothing else",
        "tests/test_below.py::test_what_stands_on_something_unknown_shares_with_all",
        (("mirror_core/below.py", "if any(_UNKNOWN in names for names in sets.values()):",
          "if False:"),),
    ),
    Fault(
        "stores that share a disk by way of a third are told apart",
        "tests/test_below.py::test_what_has_a_disk_in_common_is_one_class",
        (("mirror_core/below.py", "joined = [group for group in groups if not "
          "group.isdisjoint(names)]", "joined: list[set[str]] = []"),),
    ),
)  # fmt: skip
