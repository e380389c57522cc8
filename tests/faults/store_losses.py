"""Faults of what tells of a loss, and of who serves a store."""

from __future__ import annotations

from faults.fault import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        "a store that could not be made stays open, and locked",
        "tests/test_handles.py::test_a_server_keeps_no_connection_of_what_was_not_opened "
        "tests/test_handles.py::test_a_file_is_free_again_though_its_store_was_not_made "
        "tests/test_away.py::test_a_want_of_memory_while_it_is_taken_in_is_tried_again",
        (("mirror_core/native.py", "            _lib.fm_store_close(out[0])\n", ""),),
        "unmade_store_stays_open",
    ),
    Fault(
        "a line whose answer has no room stays connected",
        "tests/test_handles.py::test_a_server_keeps_no_connection_of_what_was_not_opened[unread]",
        (("mirror_core/native.py",
          "        self._answer = bytearray(answer_bytes)  # first: nobody would close the line\n",
          ""),
         ("mirror_core/native.py", "        self._handle: Any = out[0]\n",
          "        self._handle: Any = out[0]\n        self._answer = bytearray(answer_bytes)\n")),
        "unread_line_stays",
    ),
    Fault(
        "a connection whose server could not be looked at stays open",
        "tests/test_handles.py::test_a_connection_that_is_not_looked_at_is_closed",
        (("mirror_core/server_instance.py",
          "    except BaseException:  # its server may take no other client meanwhile\n"
          "        os.close(fd)\n",
          "    except BaseException:\n"),),
    ),
    Fault(
        "a device of which /sys says nothing shares a disk with nobody",
        "tests/test_below.py::test_what_cannot_be_read_is_no_error",
        (("mirror_core/below.py", 'if self._text(node / "dev") != number:', "if False:"),),
        "unknown_shares_nothing",
    ),
    Fault(
        "a log that cannot be written is tried again and again, a loss for all each time",
        "tests/test_loss_record.py::"
        "test_a_log_that_cannot_be_written_keeps_no_loss_from_being_recorded",
        (("mirror_core/server_instance.py", "if self._platform.monotonic() < until:",
          "if False:"),),
    ),
    Fault(
        "nobody writes a log anew that may be lost, unless a client does something (I4)",
        "tests/test_loss_record.py::test_who_looks_for_losses_has_the_log_written_anew",
        (("mirror_core/server_instance.py", "                volume.renew_intent()\n", ""),),
        "nobody_writes_the_log_anew",
    ),
    Fault(
        "what the ledger has heard of the disk of what was put back is forgotten (I9)",
        "tests/test_losing_disk.py::"
        "test_what_the_ledger_hears_of_its_disk_is_heard_of_the_stores_on_it",
        (("mirror_core/heard.py", "platform.heard_losses != before) and (names := near()):",
          "platform.heard_losses != before) and (names := set[str]()):"),),
        "heard_by_the_ledger_only",
    ),
    Fault(
        "what a disk says twice is not recorded (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_a_start_hears_that_finds_a_store_smaller_is_heard_of_the_stores",
        (("mirror_core/heard.py", "    for pause_s in _PAUSES_S:\n", "    for pause_s in ():\n"),),
        "heard_and_tried_once",
    ),
    Fault(
        "what the state folder has heard of its own disk is heard of each store",
        "tests/test_losing_disk.py::"
        "test_what_a_state_folder_hears_of_its_own_disk_is_nothing_of_the_stores",
        (("mirror_core/heard.py", "        if fd is None or not below.apart(folder, fd)\n", ""),),
        "heard_of_all",
    ),
    Fault(
        "what leads to a server has no disk in common with anything here (I9)",
        "tests/test_below.py::test_what_is_apart_for_certain",
        (("mirror_core/below.py", "    certain = all(way.certain and _UNKNOWN ",
          "    certain = all(_UNKNOWN "),),
        "apart_by_guess",
    ),
    Fault(
        "a session that begins brings back what was pending in an intermediate that was cut (I1)",
        "tests/test_second.py::test_a_cut_of_an_intermediate_costs_what_was_in_it "
        "simulate:1000:cut",
        (("mirror_core/cut.py", "            if not _owes(self._members[name]):\n",
          "            if True:\n"),),
        "a_session_brings_it_back",
    ),
    Fault(
        "a commit makes good that data was cut",
        "tests/test_second.py::test_a_cut_of_an_intermediate_costs_what_was_in_it",
        (("mirror_core/cut.py", "found.data if first else self._point[name].data",
          "found.data"),),
        "a_commit_brings_it_back",
    ),
    Fault(
        "a cut of data before its first image costs that",
        "tests/test_cut.py::test_a_cut_of_data_before_its_first_image_costs_nothing[False]",
        (("mirror_core/cut.py", "data = found.data if first else", "data = 0 if first else"),),
        "cut_before_it_held_anything",
    ),
    Fault(
        "a store is freed in the middle of a look, which then touches what is not there",
        "tests/test_cut.py::test_a_look_frees_the_store_that_was_closed_meanwhile",
        (("mirror_core/native.py", "is_used = self._looks > 0", "is_used = False"),
         ("mirror_core/native.py", "is_last = not self._handle and not self._looks",
          "is_last = False")),
        "freed_under_a_look",
    ),
    Fault(
        "what was found equal in a seed is there, though that was cut since (I1)",
        "tests/test_cut.py::test_what_is_found_equal_in_a_seed_that_is_cut_then_is_sent",
        (("mirror_core/cut.py", "if seeded and counts[name]", "if False and counts[name]"),),
        "seed_was_cut",
    ),
    Fault(
        "a cut of what is sent again costs the image",
        "tests/test_unreadable.py::test_a_cut_of_what_is_sent_again_costs_no_image",
        (("mirror_core/cut.py", " and _owes(self._members[name]):", ":"),
         ("mirror_core/cut.py", "            if not _owes(self._members[name]):\n",
          "            if False:\n"),
         ("mirror_core/cut.py", "Counts(data, found.intermediate)",
          "self._point[name]._replace(data=data)")),
        "cut_for_good",
    ),
    Fault(
        "what the record of a flush has heard when it was made again is forgotten (I9)",
        "tests/test_losing_disk.py::test_what_a_record_that_was_made_again_has_heard_counts "
        "tests/test_losing_disk.py::"
        "test_what_a_creation_hears_of_its_disk_is_heard_of_what_was_brought",
        (("mirror_core/heard.py", "        if platform.heard_losses != before and near():\n",
          "        if False:\n"),),
        "heard_and_put_again",
    ),
    Fault(
        "after a kill nobody is told that a restarted server has lost writes",
        "tests/test_server_instance.py::test_a_kill_while_the_server_is_restarted_is_told "
        "simulate:10000:server_beside,run_on",
        (("mirror_core/server_instance.py", "                volume.lose_front()\n", ""),),
        "beside_not_told",
    ),
    Fault(
        "after a kill each server that can be named is the one that it was",
        "simulate:1000:server_beside,run_on",
        (("mirror_core/server_instance.py", " and before[\"data\"].get(name) == now", ""),),
        "any_server_is_known",
    ),
    Fault(
        "a socket whose name is no text hides every server",
        "tests/test_server_instance.py::test_a_socket_of_somebody_s_with_any_name_is_no_matter",
        (("mirror_core/server_instance.py", '.read_bytes().split(b"\\n"))',
          '.read_text().encode().split(b"\\n"))'),),
    ),
    Fault(
        "a server that lost writes is recorded as known before anybody was told",
        "tests/test_server_instance.py::test_what_nobody_has_heard_of_survives_another_kill "
        "simulate:20000:server_beside,run_on",
        (("mirror_core/server_instance.py",
          "                self._doubt(name)\n        if self._volumes",
          "        if self._volumes"),),
        "known_too_soon",
    ),
    Fault(
        "a kill forgets a loss that only the mirroring has met",
        "tests/test_lost_flush.py::test_no_end_hides_a_loss_from_a_client",
        (("mirror_core/server_instance.py",
          "            if due or name in self._busy:\n",
          "            if name in self._busy:\n"),),
        "kill_forgets_a_loss",
    ),
    Fault(
        "a loss is looked for once, at the start",
        "tests/test_lost_flush.py::"
        "test_a_kill_hides_no_loss_that_is_met_while_the_control_waits",
        (("mirror_core/server_instance.py", "        while not is_over(limits.LOSS_LOOK_S):\n",
          "        if not is_over(limits.LOSS_LOOK_S):\n"),),
        "one_look_for_losses",
    ),
    Fault(
        "a server that was in a flush is not looked at again",
        "tests/test_loss_record.py::test_a_server_in_a_flush_is_looked_at_later",
        (("mirror_core/server_instance.py", "            self._busy.add(name)\n", ""),),
    ),
    Fault(
        "a record of servers that could not be written is not tried again",
        "tests/test_loss_record.py::test_a_server_that_could_not_be_recorded_is_later",
        (("mirror_core/server_instance.py", "if self._recorded is None:", "if False:"),),
        "not_recorded_later",
    ),
    Fault(
        "a record stands that says that a server is known which has lost something",
        "tests/test_loss_record.py::"
        "test_a_loss_that_cannot_be_recorded_leaves_no_server_known",
        (("mirror_core/server_instance.py", "if self._asserted - known:", "if False:"),),
    ),
    Fault(
        "a record of which nobody knows whether it stands says nothing",
        "tests/test_loss_record.py::"
        "test_a_loss_that_cannot_be_recorded_leaves_no_server_known",
        (("mirror_core/server_instance.py", "        self._asserted |= known\n", ""),),
    ),
    Fault(
        "a stop that cannot record a loss forgets those before",
        "tests/test_loss_record.py::test_a_stop_whose_record_fails_forgets_no_loss",
        (("mirror_core/server_instance.py", "if self._asserted - known:", "if True:"),),
    ),
    Fault(
        "a start that fails forgets what it was to tell",
        "tests/test_server_instance.py::test_a_loss_of_a_file_survives_a_start_that_fails",
        (("mirror_core/server_instance.py", "run in _runs_of(record)", 'run == record["run"]'),),
        "failed_start_forgets_a_loss",
    ),
    Fault(
        "a start beside a ledger that was put back forgets what the newer one's run was to tell",
        "tests/test_server_instance.py"
        "::test_a_start_beside_an_older_ledger_that_fails_forgets_no_loss_of_the_newer_one",
        (("mirror_core/server_instance.py",
          "            self._follows += newer[: limits.RUNS_KNOWN]\n", ""),),
        "older_start_forgets_a_loss",
    ),
    Fault(
        "an adoption forgets whom a loss is to be told",
        "tests/test_adopt.py::test_an_adoption_forgets_no_loss",
        (("mirror_core/server_instance.py", '"run": run, "follows": [before]}', '"run": before}'),),
        "adoption_forgets_a_loss",
    ),
    Fault(
        "that a flush of a file's has failed is forgotten with a kill",
        "tests/test_server_instance.py::"
        "test_what_a_client_has_heard_of_a_file_is_told_to_others_after_a_kill",
        (("mirror_core/server_instance.py",
          "                self._trust(name, volume)\n            self._record()\n",
          "                self._trust(name, volume)\n"),),
        "heard_is_not_recorded",
    ),
    Fault(
        "a server is recorded as known while somebody may come back who was not told",
        "tests/test_server_instance.py::test_a_stranger_hears_for_nobody_else",
        (("mirror_core/server_instance.py", "if failed or volume.news_is_due():", "if failed:"),
         ("mirror_core/server_instance.py", "if not volume.news_is_due():", "if True:")),
        "one_hears_for_all",
    ),
    Fault(
        "an orderly stop forgets the loss that a client has not heard of",
        "tests/test_lost_flush.py::test_no_end_hides_a_loss_from_a_client",
        (("mirror_core/server_instance.py", 'lost = went_back or name in before.get("untold", ())',
          "lost = went_back"),),
        "stop_forgets_a_loss",
    ),
    Fault(
        "a kill forgets what the process before was to tell of a file",
        "tests/test_server_instance.py::test_a_loss_of_a_file_survives_a_kill",
        (("mirror_core/server_instance.py", "if self._volumes or self._untold:",
          "if self._volumes:"),),
    ),
    Fault(
        "a record of servers counts for any site and run",
        "tests/test_server_instance.py::test_a_record_of_servers_counts_for_its_site_and_run",
        (("mirror_core/server_instance.py", 'and record["site"] == site', ""),
         ("mirror_core/server_instance.py",
          "return record if run and record and run in _runs_of(record) else None",
          "return record if run else None")),
        "record_of_any_site",
    ),
    Fault(
        "a start that drops our kernel's cache takes all that it reads for the disk's (I9)",
        "tests/test_holes.py::test_a_killed_source_brings_to_its_disk_what_its_file_system_shows",
        (("mirror_core/below.py", "return way.cached_here and _UNKNOWN not in way.names",
          "return True"),),
        "every_cache_is_the_kernels",
    ),
    Fault(
        "what a loop device reads is in no other cache than its own (I9)",
        "tests/test_below.py::test_whose_cache_is_read",
        (("mirror_core/below.py", 'if not slaves and "device" not in self._listed(node):',
          "if False:"),),
        "loop_is_a_disk",
    ),
    Fault(
        "every file system has its files in the cache of pages alone (I9)",
        "tests/test_below.py::test_whose_cache_is_read",
        (("mirror_core/below.py", "if not mounts or any(mount.kind not in _OURS + _IN_MEMORY for "
          "mount in mounts):", "if not mounts:"),),
        "any_file_system_is_ours",
    ),
)  # fmt: skip
