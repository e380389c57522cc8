"""Faults of the state folder: ledger, logs beside it, and the maps that outlive a kill."""

from __future__ import annotations

from faults.fault import Fault

FAULTS = (
    Fault(
        "what is hardened goes into a log that nobody finds any more (I1)",
        "tests/test_second.py::test_a_copy_in_the_place_of_the_log_costs_no_more_than_a_hardening",
        (("mirror_core/second.py", "if whole and self.log.is_in_place():", "if whole:"),),
        "appends_to_a_lost_log",
    ),
    Fault(
        "an older ledger beside the log of a later commit is the newest one (I1)",
        "tests/test_second.py::test_a_ledger_that_is_older_than_its_log_was_put_back",
        (("mirror_core/hardlog.py", "book.copied or _tells_of_later(data, book)", "book.copied"),),
        "older_than_its_log",
    ),
    Fault(
        "a log that is made anew stands before the ledger knows it",
        "tests/test_second.py::test_a_log_that_is_made_anew_is_a_copy_at_no_instant",
        (("mirror_core/runlog.py", "            self.tell(ids)\n", ""),),
        "stands_before_it_is_known",
    ),
    Fault(
        "a log begins anew in a file that nobody finds any more (I1)",
        "tests/test_hardlog.py::test_a_log_begins_anew_in_a_file_that_is_found",
        (("mirror_core/runlog.py", "        self.put_in_place()\n        if history",
          "        if history"),),
        "begins_anew_in_a_lost_log",
    ),
    Fault(
        "hardenings of the commit before count for the next one (I1)",
        "tests/test_hardlog.py::test_a_record_of_another_history_counts_for_nothing "
        "simulate:1000",
        (("mirror_core/runlog.py",
          "        history.sequence, history.token.encode(), serial, mark, length,\n",
          "        0, b\"\", serial, mark, length,\n"),),
        "hardened_of_any_commit",
    ),
    Fault(
        "the log of a run takes the place of that of the run before (I2)",
        "tests/test_hardlog.py::test_a_log_of_another_run_is_none",
        (("mirror_core/runlog.py",
          "    return state / f\"{kind}.{run}\"\n",
          "    return state / kind\n"),),
        "log_of_any_run",
    ),
    Fault(
        "the log of hardenings of another lineage counts (I1)",
        "tests/test_hardlog.py::test_a_record_of_another_history_counts_for_nothing",
        (("mirror_core/runlog.py",
          "history.kind.encode(), history.site.encode(), history.lineage.encode(),",
          "history.kind.encode(), history.site.encode(), b\"\","),),
        "hardened_of_any_lineage",
    ),
    Fault(
        "the log of hardenings of another site counts (I1)",
        "tests/test_hardlog.py::test_a_record_of_another_history_counts_for_nothing",
        (("mirror_core/runlog.py",
          "history.kind.encode(), history.site.encode(), history",
          "history.kind.encode(), b\"\", history"),),
        "hardened_of_any_site",
    ),
    Fault(
        "the log of hardenings of another point with the same number counts (I1)",
        "tests/test_hardlog.py::test_a_record_of_another_history_counts_for_nothing",
        (("mirror_core/runlog.py",
          "history.sequence, history.token.encode(),",
          "history.sequence, b\"\","),),
        "hardened_of_any_token",
    ),
    Fault(
        "the hot regions of another lineage count (I4)",
        "tests/test_intent.py::test_the_log_of_another_history_makes_everything_hot",
        (("mirror_core/intent.py",
          "    lineage = book.lineage.id if book.lineage else \"\"\n",
          "    lineage = \"\"\n"),),
        "hot_of_any_lineage",
    ),
    Fault(
        "blocks of 64 MiB are taken, which no export can be opened with",
        "tests/test_config.py::test_a_refusal_is_one_line_with_file_key_and_advice",
        (("mirror_core/limits.py",
          "BLOCK_SIZE_MAX = 32 * MIB",
          "BLOCK_SIZE_MAX = 64 * MIB"),),
    ),
    Fault(
        "what fails behind the rename of a new ledger reads as if the old one stood (I3)",
        "simulate:10000:folder,beside,append,thrown,run_on",
        (("mirror_core/durable.py", "        _put_again(path, data, platform, error)\n",
          "        raise\n"),),
        "rename_is_undone",
    ),
    Fault(
        "a ledger of which nobody knows whether it is durable is taken for the old one (I3)",
        "tests/test_ledger.py::test_a_site_that_does_not_know_its_ledger_ends",
        (("mirror_core/book.py", "                    self._platform.abort()\n",
          '                    raise LedgerError("in doubt", errno.EIO)\n'),
         ("mirror_core/book.py", "from collections.abc import Callable\n",
          "import errno\nfrom collections.abc import Callable\n")),
        "ledger_in_doubt",
    ),
    Fault(
        "a rename that was done and reports an error was not done (I3)",
        "simulate:10000:folder,beside,append,thrown,run_on",
        (("mirror_core/durable.py", "            undone = platform.exists(fresh)\n",
          "            undone = True\n"),),
        "rename_not_looked_at",
    ),
    Fault(
        "a fresh log of hot regions is cold where something is not committed (I4)",
        "simulate:10000",
        (("mirror_core/intent.py", "        bits = _bits(_regions(book, record, shift), size)\n",
          "        bits = bytes(size)\n"),
         ("mirror_core/site.py", "volume.heat_next()  # the maps", "pass  # the maps")),
        "fresh_log_is_cold",
    ),
    Fault(
        "a fresh log is cold, and is heated before anybody writes",
        "tests/test_intent.py::test_a_fresh_log_is_hot_where_anything_is_not_committed "
        "simulate:10000",
        (("mirror_core/intent.py", "        bits = _bits(_regions(book, record, shift), size)\n",
          "        bits = bytes(size)\n"),),
        "fresh_log_heated_later",
    ),
    Fault(
        "what is in the maps of a killed run, and was refused, is not hot (I4)",
        "simulate:10000",
        (("mirror_core/site.py", "volume.heat_next()  # the maps", "pass  # the maps"),),
        "maps_not_heated",
    ),
    Fault(
        "a log whose cut was not flushed is written into",
        "tests/test_written.py::test_a_log_that_cannot_be_forgotten_twice_is_no_damaged_one",
        (("mirror_core/runlog.py", "            self._platform.ftruncate(self._fd, 1)\n",
          '            durable.write(self._fd, b"\\0", 0, self._platform)\n'),),
    ),
    Fault(
        "the name of a new state folder is not durable",
        "tests/test_ledger.py::test_a_state_folder_does_not_vanish_with_the_power",
        (("mirror_core/durable.py", "    for one in (folder, *missing):\n",
          "    for one in missing:\n"),),
    ),
    Fault(
        "a cut of a log whose flush failed is believed when it is flushed again",
        "tests/test_written.py::test_a_log_that_could_not_be_forgotten_is_when_it_is_said",
        (("mirror_core/runlog.py", "        self._may_be_whole = True\n", ""),),
        "cut_is_believed",
    ),
    Fault(
        "hardenings are not logged: a stale bit in pending2 (I2)",
        "tests/test_kill.py::test_a_target_killed_while_both_copies_run_keeps_its_image "
        "simulate:20000",
        (("mirror_core/runlog.py", "        if history != self._history:\n",
          "        return\n        if history != self._history:\n"),),
        "stale_pending",
    ),
    Fault(
        "maps of an older run, another boot, or not whole count",
        "tests/test_maps.py "
        "tests/test_maps.py::test_each_field_of_kept_maps_says_whose_they_are",
        (("mirror_core/mapfile.py", "if page[:_POINTS_AT] != _head(book, record, book.run, boot):",
          "if not page:"),),
        "any_maps_count",
    ),
    Fault(
        "maps that have forgotten a commit count with a ledger of before it (I7)",
        "tests/test_went_back.py::test_maps_in_memory_do_not_count_for_an_older_state "
        "simulate:20000:goes_back,clone,promote,run_on",
        (("mirror_core/mapfile.py", "    return _POINT.pack(\n",
          "    return bytes(_POINT.size)\n    return _POINT.pack(\n"),),
        "maps_of_any_commit",
    ),
    Fault(
        "the checksum of a ledger is not looked at (I7)",
        "tests/test_fuzz.py::test_a_damaged_ledger_is_never_taken_for_another "
        "tests/test_ledger.py::test_each_byte_of_the_first_line_matters",
        (("mirror_core/ledger.py", "hashlib.sha256(payload).hexdigest() != words[2] or ", ""),),
        "ledger_unchecked",
    ),
    Fault(
        "the checksum of a record of hardenings is not looked at (I7)",
        "tests/test_fuzz.py::test_a_damaged_log_of_hardenings_gives_a_prefix_or_is_refused",
        (("mirror_core/runlog.py", "return body if zlib.crc32(body, zlib.crc32(head)) == crc",
          "return body if crc or zlib.crc32(body, zlib.crc32(head)) == crc"),),
        "record_unchecked",
    ),
    Fault(
        "a start makes an object of each run of a log: several times the memory of the site before",
        "tests/test_many_blocks.py::"
        "test_a_start_after_a_kill_needs_little_more_memory_than_its_log",
        (("mirror_core/hardlog.py", "or not sets[number].add(packed):",
          "or not all(\n                [sets[number].add(memoryview(struct.pack(\"=QQ\", *run)))\n"
          "                 for run in list(struct.iter_unpack(\"=QQ\", packed))]\n            ):"),
         ("mirror_core/hardlog.py", "from dataclasses import replace\n",
          "import struct\nfrom dataclasses import replace\n")),
        "an_object_of_each_run",
    ),
    Fault(
        "a record of hardenings that is gone is not missed (I7)",
        "tests/test_fuzz.py::test_a_damaged_log_of_hardenings_gives_a_prefix_or_is_refused",
        (("mirror_core/runlog.py", "later = data.find(_MAGIC, at)\n",
          "later = data.find(_MAGIC, at + 1)\n"),),
    ),
    Fault(
        "the size in the head of an intent log is not looked at (I7)",
        "tests/test_fuzz.py::"
        "test_a_damaged_intent_log_makes_all_hot_or_its_regions_are_of_the_volume",
        (("mirror_core/intent.py", "data[:_PAGE] != head", "data[:16] != head[:16]"),),
    ),
    Fault(
        "what is stable counts for any site and lineage (I7)",
        "tests/test_written.py::test_a_record_of_another_history_counts_for_nothing",
        (("mirror_core/written.py", "return ours and history.sequence > book.committed",
          "return bool(ours or True) and history.sequence > book.committed"),),
        "stable_of_any_site",
    ),
    Fault(
        "a log that is begun anew may have older records of its cycle behind it",
        "tests/test_written.py::test_a_log_that_is_begun_anew_has_nothing_behind_it",
        (("mirror_core/runlog.py", "if history == self._history or self._may_be_whole:",
          "if self._may_be_whole:"),),
        "records_left_behind",
    ),
    Fault(
        "a rename that reports an error was not done",
        "tests/test_ledger.py::test_a_rename_that_was_done_counts_whatever_it_reports",
        (("mirror_core/durable.py", "undone = platform.exists(fresh)", "undone = True"),),
        "rename_was_not_done",
    ),
    Fault(
        "what an older cycle made stable counts as written by this one (I3)",
        "simulate:10000",
        (("mirror_core/written.py", "if same and found.serial >= serial else None",
          "if sequence else None"),),
        "stable_of_any_cycle",
    ),
    Fault(
        "the ledger is renamed over the old one before its bytes are on the disk",
        "simulate:10000",
        (("mirror_core/durable.py", "            platform.fsync(fd, known)\n", ""),),
        "ledger_not_synced",
    ),
    Fault(
        "a commit is acknowledged while the new ledger's name is not on the disk",
        "simulate:1000",
        (("mirror_core/durable.py", "    try:\n        platform.fsync(fd, known)\n",
          "    try:\n        pass\n"),),
        "folder_not_synced",
    ),
    Fault(
        "a hardening's record is not synced before writers go on (I2)",
        "simulate:20000",
        (("mirror_core/runlog.py",
          "        self._platform.fdatasync(self._fd, known)\n        self._may_be_whole = False\n"
          "        self._serial += 1\n",
          "        self._may_be_whole = False\n        self._serial += 1\n"),),
        "log_not_synced",
    ),
    Fault(
        "a restart takes the ledger's pending map without the log of hardenings (I1)",
        "simulate:10000",
        (("mirror_core/hardlog.py", "if not book.whole or not book.run:", "if True:"),),
        "recovery_forgets_log",
    ),
    Fault(
        "an older ledger that is put back alone, with nothing pending, makes an image (I1)",
        "tests/test_went_back.py::test_an_older_ledger_put_back_alone_is_no_image",
        (("mirror_core/hardlog.py", "if not book.whole or not book.run:",
          'if not any(key.endswith("/pending") for key in book.maps):'),),
        "older_ledger_is_an_image",
    ),
    Fault(
        "an older ledger of an orderly stop, put back alone, tells what is not committed (I1, I4)",
        "tests/test_went_back.py simulate:20000:old_files,run_on",
        (("mirror_core/lastrun.py", "if not platform.exists(path):", "if False:"),),
        "older_end_is_believed",
    ),
    Fault(
        "a ledger of the first version names a run whose files never were",
        "tests/test_ledger.py",
        (("mirror_core/ledger.py", 'return replace(ledger, run="")', "return ledger"),),
        "first_version_has_a_run",
    ),
    Fault(
        "a log of hardenings that is lost tells nothing: all of the ledger is pending still (I1)",
        "tests/test_hardlog.py simulate:20000:lost_files,old_files",
        (("mirror_core/hardlog.py", "    if data is None:  # whatever", "    if data is None:\n"
          "        return book\n    if data is None:  # whatever"),),
        "lost_log_is_empty",
    ),
    Fault(
        "of an intent log that is lost nothing is hot (I4)",
        "tests/test_intent.py simulate:20000:lost_files,old_files",
        (("mirror_core/intent.py", 'b"\\xff" * size if lost or not data else',
          'b"\\0" * size if not data else b"\\xff" * size if lost else'),),
        "lost_intent_is_cold",
    ),
    Fault(
        "what an older log says is stable counts, whatever its source was told since (I7)",
        "simulate:20000:lost_files,old_files",
        (("mirror_core/written.py", "if same and found.serial >= serial else None",
          "if same else None"),),
        "older_stable",
    ),
    Fault(
        "a start that is refused with an older ledger removes the logs of the newer one",
        "simulate:20000:lost_files,old_files",
        (("mirror_core/site.py", "run == self._run != self.book", "run != self.book"),),
        "refused_start_removes",
    ),
    Fault(
        "maps count for a run whose intent log is gone (I4)",
        "tests/test_went_back.py::test_maps_of_a_run_whose_log_is_gone_do_not_count",
        (("mirror_core/site.py", "elif opened.lost or not self._maps", "elif not self._maps"),),
        "maps_without_a_log",
    ),
    Fault(
        "a start that is refused with an older ledger removes the maps of the newer one",
        "tests/test_went_back.py::"
        "test_a_source_s_newer_ledger_put_back_after_a_refused_start_has_its_maps",
        (("mirror_core/site.py", "        if not self._maps_count:\n"
          "            self._maps.remove(self.book.current.site, self._run)",
          "        if not self._maps_count:\n"
          "            self._maps.remove_others(self.book.current.site, self.book.current.run)"),),
        "refused_start_removes_maps",
    ),
    Fault(
        "a power loss brings back the log of a run before, which an older ledger believes (I4)",
        "simulate:20000:old_files",
        (("mirror_core/site.py", "durable.sync_folder(state, known, self.platform)", "pass"),),
        "old_log_comes_back",
    ),
    Fault(
        "maps of another boot, or of one that is not known, tell nothing of an older ledger (I4)",
        "tests/test_boot_id.py::test_maps_count_in_a_boot_that_is_the_same",
        (("mirror_core/mapfile.py", "if len(page) == _PAGE and _is_right(page):",
          "if len(page) == _PAGE and _is_right(page) and any(_boot()) and page[_BOOT] == _boot():"
          ),),
        "put_back_in_an_unknown_boot",
    ),
    Fault(
        "what maps of another boot, or of one that is not known, hold is left to the log (I4)",
        "tests/test_boot_id.py::test_maps_count_in_a_boot_that_is_the_same",
        (("mirror_core/mapfile.py", "if os.fstat(fd).st_size == volume.shared_bytes():",
          "if boot == now and os.fstat(fd).st_size == volume.shared_bytes():"),),
        "unknown_maps_left_to_the_log",
    ),
    Fault(
        "beside an older ledger the intent log decides, which is as old (I4)",
        "tests/test_put_back.py::test_a_ledger_that_was_put_back_was_so_for_all_volumes "
        "simulate:20000:goes_back",
        (("mirror_core/site.py", "source and maps.look(current) is mapfile.Found.LATER", "False"),),
        "older_ledger_left_to_the_log",
    ),
    Fault(
        "maps tell only of their own volume that the ledger is an older one (I4)",
        "tests/test_put_back.py::test_a_ledger_that_was_put_back_was_so_for_all_volumes "
        "simulate:20000:goes_back",
        (("mirror_core/site.py", "        if self._went_back:\n            self._coarse = True\n",
          "        if self._went_back and self._maps.restore(current, record, volume):\n"
          "            self._coarse = True\n"),),
        "older_for_one_volume",
    ),
    Fault(
        "maps of a later ledger that could not be read at first count with an older one (I4)",
        "tests/test_maps.py::test_maps_of_a_later_ledger_are_restored_beside_no_other",
        (("mirror_core/mapfile.py",
          "if judge(book, [_counts(page)]) is Found.LATER:", "if False:"),),
        "later_maps_beside_an_older_ledger",
    ),
    Fault(
        "a ledger that was put back tells what the target holds, and what is exposed",
        "tests/test_put_back.py"
        "::test_what_a_ledger_that_was_put_back_says_of_the_target_is_not_told "
        "simulate:20000:goes_back",
        (("mirror_core/site.py", "current = replace(current, unsure=True)", "pass"),),
        "older_ledger_is_told",
    ),
    Fault(
        "beside a ledger that was put back the log says only that its data was adopted",
        "tests/test_put_back.py::test_an_adoption_elsewhere_hides_no_ledger_that_was_put_back",
        (("mirror_core/site.py", "        if self._went_back:\n            self.journal.say(",
          "        if self._went_back and not ledger.is_adopted(self.book.current):\n"
          "            self.journal.say("),),
        "adopted_and_put_back_is_adopted",
    ),
    Fault(
        "beside a ledger that was put back the log speaks of a loss that nobody knows of",
        "tests/test_put_back.py"
        "::test_what_a_ledger_that_was_put_back_says_of_the_target_is_not_told",
        (("mirror_core/site.py", "                words = server_instance.PUT_BACK\n",
          "                pass\n"),),
        "put_back_is_a_loss",
    ),
    Fault(
        "a ledger is older than maps only if its number is the smaller one (I4)",
        "tests/test_maps.py::"
        "test_maps_count_with_the_ledger_that_stands_whenever_their_process_is_killed "
        "tests/test_put_back.py::test_a_state_from_before_another_target_was_met_is_noticed",
        (("mirror_core/mapfile.py", "if _point(book) not in (one.stands, one.coming):",
          "if book.committed <= _POINT.unpack(one.stands)[2] and "
          "_point(book) not in (one.stands, one.coming):"),),
        "older_by_its_number",
    ),
    Fault(
        "maps of a run that the ledger does not know tell nothing of it (I4)",
        "tests/test_maps.py::test_maps_of_an_earlier_run_tell_nothing_of_the_ledger "
        "tests/test_put_back.py::test_a_state_from_before_a_run_that_no_target_met_is_noticed "
        "simulate:20000:goes_back",
        (("mirror_core/mapfile.py", "elif one.stands != _NONE:", "elif False:"),),
        "unknown_run_tells_nothing",
    ),
    Fault(
        "maps of another lineage tell that a ledger was put back, and each client of a loss",
        "tests/test_maps.py::test_maps_of_an_earlier_run_tell_nothing_of_the_ledger simulate:20000",
        (("mirror_core/mapfile.py", "if one.lineage != _lineage(book):", "if False:"),),
        "another_lineage_is_later",
    ),
    Fault(
        "maps of any other run tell that the ledger was put back, and everything is compared",
        "tests/test_maps.py::test_maps_of_an_earlier_run_tell_nothing_of_the_ledger",
        (("mirror_core/mapfile.py",
          "begun > book.begun or (begun == book.begun and not earlier)", "True"),),
        "any_run_is_later",
    ),
    Fault(
        "maps of an earlier run that had committed more tell nothing of an adopted ledger (I4)",
        "tests/test_put_back.py::test_an_adoption_elsewhere_hides_no_ledger_that_was_put_back",
        (("mirror_core/mapfile.py",
          "one.run in book.runs and _point(book) in (one.stands, one.coming)",
          "one.run in book.runs"),),
        "earlier_commit_tells_nothing",
    ),
    Fault(
        "maps of an earlier run that had begun more tell nothing of an adopted ledger (I4)",
        "tests/test_maps.py::test_maps_of_an_earlier_run_tell_nothing_of_the_ledger",
        (("mirror_core/mapfile.py", "begun > book.begun or (begun", "(begun"),),
        "earlier_run_tells_nothing",
    ),
    Fault(
        "beside an older ledger the record of who is to be told of a loss is believed (I9)",
        "tests/test_put_back.py::test_a_loss_is_told_though_its_record_was_put_back",
        (("mirror_core/server_instance.py", "lost = went_back or name in", "lost = name in"),),
        "older_record_of_losses",
    ),
    Fault(
        "maps count with a ledger that does not name their run",
        "tests/test_maps.py::test_maps_of_a_run_that_no_ledger_has_named_tell_nothing",
        (("mirror_core/mapfile.py", "return self if book.run != self.run else replace(",
          "return replace("),),
        "counted_before_they_are_named",
    ),
    Fault(
        "a source that is killed while a commit is recorded compares everything",
        "tests/test_put_back.py::test_a_kill_beside_the_record_of_a_commit_costs_no_comparison",
        (("mirror_core/site.py", "            self.book.warned.append(kept.may_go_with)\n", ""),),
        "maps_are_not_warned",
    ),
    Fault(
        "maps that are damaged, or of another version, tell of a ledger",
        "tests/test_maps.py::test_what_is_no_page_of_maps_of_ours_proves_nothing",
        (("mirror_core/mapfile.py", "if len(page) == _PAGE and _is_right(page):",
          "if len(page) == _PAGE:"),),
        "damaged_maps_tell",
    ),
    Fault(
        "maps in a folder of another user are believed, and removed",
        "tests/test_maps.py::test_nobody_looks_into_a_folder_of_another_user",
        (("mirror_core/mapfile.py", "if folder.lstat().st_uid == os.geteuid():",
          "if folder.lstat():"),),
        "maps_of_another_user",
    ),
    Fault(
        "an adoption forgets what maps of a killed run tell of the other volumes (I4)",
        "tests/test_put_back.py::test_an_adoption_forgets_nothing_that_maps_tell_of_another_volume "
        "simulate:20000:goes_back",
        (("mirror_core/adoption.py", "if has_maps or v.name", "if v.name"),),
        "adoption_forgets_maps",
    ),
    Fault(
        "an end in order that was not the last one ends the doubt about caches (I9)",
        "tests/test_put_back.py::test_an_end_in_order_that_was_not_the_last_ends_no_doubt",
        (("mirror_core/site.py", "self._in_order = current.clean and not self._went_back",
          "self._in_order = current.clean"),),
        "older_end_ends_the_doubt",
    ),
    Fault(
        "a flush of a file of the state folder that failed is tried again, and believed (I9)",
        "simulate:10000",
        (("mirror_core/durable.py", "            platform.fsync(fd, known)\n        finally:\n"
          "            platform.close(fd)\n        _rename",
          "            try:\n                platform.fsync(fd, known)\n"
          "            except OSError:\n                platform.fsync(fd, platform.losses())\n"
          "        finally:\n            platform.close(fd)\n        _rename"),
         ("mirror_core/runlog.py",
          "        self._platform.fdatasync(self._fd, known)\n        self._may_be_whole = False\n"
          "        self._serial += 1\n",
          "        try:\n            self._platform.fdatasync(self._fd, known)\n"
          "        except OSError:\n"
          "            self._platform.fdatasync(self._fd, self._platform.losses())\n"
          "        self._may_be_whole = False\n        self._serial += 1\n")),
        "failed_sync_is_believed",
    ),
    Fault(
        "a target does not see that its log or ledger was taken away",
        "tests/test_lost_ledger.py::test_a_target_says_what_was_taken_of_its_state_and_a_stop_writes_it",
        (("mirror_core/status.py", " or control.trouble or taken_away", " or control.trouble"),),
        "taken_away_untold",
    ),
    Fault(
        "another log in the place of a target's is taken for its own",
        "tests/test_lost_ledger.py::test_a_target_says_what_was_taken_of_its_state_and_a_stop_writes_it",
        (("mirror_core/platform.py", "os.path.samestat(os.lstat(path), os.fstat(fd))",
          "os.path.exists(path)"),),
        "any_log_in_the_place",
    ),
    Fault(
        "a copy of an intent log is believed, which may be an older one (I4)",
        "tests/test_copied_state.py::"
        "test_what_became_hot_since_a_source_s_log_was_put_back_is_compared "
        "simulate:10000:goes_back,old_files,run_on",
        (("mirror_core/intent.py", "not lost and runlog.is_copy(before, book.logs, platform)",
          "False"),),
        "copied_log_believed",
    ),
    Fault(
        "what may be a mixture is promoted, as it was restored from a backup (I1)",
        "tests/test_copied_state.py::test_an_older_state_folder_of_a_target_is_no_image "
        "simulate:10000:goes_back,old_files,run_on,promote",
        (("mirror_core/target.py", "if mine.copied and not newest:", "if False:"),),
        "mixture_promoted",
    ),
    Fault(
        "a start does not look whether the log of its last run is a copy (I1)",
        "tests/test_copied_state.py::test_an_older_state_folder_of_a_target_is_no_image "
        "simulate:10000:goes_back,old_files,run_on,promote",
        (("mirror_core/lastrun.py", "        if runlog.is_copy(path, book.logs, platform):\n",
          "        if False:\n"),),
        "copied_folder_believed",
    ),
    Fault(
        "a target's log that was made anew counts as a copy at the next start",
        "tests/test_copied_state.py::test_a_log_that_was_made_anew_is_no_copy",
        (("mirror_core/second.py", "if ids != self._book.current.logs:", "if False:"),),
        "log_not_named",
    ),
    Fault(
        "a commit does not end the doubt in a state folder that was copied",
        "tests/test_copied_state.py::test_a_target_whose_folder_was_moved_in_order_goes_on",
        (("mirror_core/target.py", "                    \"copied\": False,\n", ""),),
        "copied_for_ever",
    ),
    Fault(
        "a state folder from a backup is believed where it says that a store holds nothing (I1)",
        "tests/test_copied_state.py::"
        "test_a_blank_intermediate_beside_an_older_state_folder_keeps_no_image",
        (("mirror_core/stores.py",
          "        and (newest or not book.copied)  # which may not know what came later\n", ""),),
        "backup_says_spare",
    ),
    Fault(
        "a source does not see that its log or ledger was taken away",
        "tests/test_copied_state.py::test_a_source_says_that_its_ledger_was_taken_away",
        (("mirror_core/status.py", "site.taken_away() or site.file_taken_away()",
          "site.taken_away()"),),
        "source_s_file_taken_away_untold",
    ),
    Fault(
        "a stop in order leaves a target without its log of hardenings",
        "tests/test_lost_ledger.py::test_a_target_says_what_was_taken_of_its_state_and_a_stop_writes_it",
        (("mirror_core/target.py", "            self.second.put_in_place()",
          "            pass"),),
        "log_stays_away",
    ),
    Fault(
        "a stop without the log of hardenings is called in order",
        "tests/test_lost_ledger.py::test_a_stopped_target_without_its_log_is_not_called_in_order",
        (("mirror_core/process.py", "book = lastrun.load(site.state)",
          "book = ledger.load(site.state)"),),
        "in_order_by_the_ledger",
    ),
    Fault(
        "a file of the state folder is renamed, and the glossary is not told",
        "tests/test_glossary.py"
        "::test_each_name_of_a_word_is_there_and_what_is_there_has_a_word[file]",
        (("mirror_core/hardlog.py", 'KIND = "hardened"', 'KIND = "applied"'),),
        "file_without_a_word",
    ),
)  # fmt: skip
