"""Faults of an adoption, and of who else has a store."""

from __future__ import annotations

from faults.fault import Fault

DELETED = "tests/test_taken_away.py::test_a_store_that_was_deleted"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "the same address with its port and without is two servers",
        "tests/test_elsewhere.py::test_however_a_server_is_written_it_is_one_store",
        (("mirror_core/elsewhere.py", "port = parts.port or limits.PORT",
          "port = parts.port"),),
    ),
    Fault(
        "a lock that is not flock's means nothing",
        "tests/test_elsewhere.py::test_a_file_that_another_server_has_locked_is_refused",
        (("mirror_core/elsewhere.py", "    if kind == fcntl.F_UNLCK:\n", "    if True:\n"),),
        "other_locks_mean_nothing",
    ),
    Fault(
        "what is under a loop device is free",
        "tests/test_elsewhere.py::test_what_is_under_a_loop_device_is_refused",
        (("mirror_core/elsewhere.py", "who = _loop_over(fd) or _locker(fd)",
          "who = _locker(fd)"),),
        "under_a_loop_is_free",
    ),
    Fault(
        "of a loop device only the path is looked at, whatever that means here",
        "tests/test_elsewhere.py::test_a_loop_device_of_another_mount_namespace_is_noticed",
        (("mirror_core/elsewhere.py", "        if number in told:\n", "        if False:\n"),),
        "loop_elsewhere_is_free",
    ),
    Fault(
        "of a loop device over a device the inode of a node decides",
        "tests/test_elsewhere.py::test_a_loop_device_of_another_mount_namespace_is_noticed",
        (("mirror_core/elsewhere.py", "    if stat.S_ISBLK(ours.st_mode):\n",
          "    if False:\n"),),
    ),
    Fault(
        "a loop device that tells nothing of its file is free",
        "tests/test_elsewhere.py::"
        "test_without_an_answer_of_losetup_a_loop_device_is_found_by_its_path",
        (("mirror_core/elsewhere.py", "found = ours in _file_systems_of(path, mounts)",
          "found = 0 in _file_systems_of(path, mounts)"),),
        "untold_loop_is_free",
    ),
    Fault(
        "a device under a loop device is known by its node's inode",
        "tests/test_elsewhere.py::test_a_device_under_a_loop_device_is_refused",
        (("mirror_core/elsewhere.py", "    if one[2] or other.st_rdev:\n", "    if False:\n"),),
    ),
    Fault(
        "what a target's stores share takes no space when it is written",
        "tests/test_shared_extents.py::test_what_a_target_shares_is_counted_as_what_may_grow",
        (("mirror_core/cli/checking.py", "total += length if", "total += 0 if"),),
        "shared_is_not_counted",
    ),
    Fault(
        "whatever others have open is asked whether it is a store of ours",
        "tests/test_hangs.py::test_a_hung_server_of_others_is_in_no_command_s_way",
        (("mirror_core/elsewhere.py", "            if any(held.search(text(folder / name)) for",
          "            if any(os.stat(folder / f\"../fd/{name}\") and "
          "held.search(text(folder / name)) for"),),
        "asks_what_others_have",
    ),
    Fault(
        "whatever a process has open is asked whether it is a site's lock",
        "tests/test_hangs.py::test_a_hung_server_of_others_is_in_no_command_s_way",
        (("mirror_core/process.py", "if named and os.path.samestat(", "if os.path.samestat("),),
        "asks_what_a_site_has",
    ),
    Fault(
        "check of a running site is content with a store that is too small by now",
        "tests/test_check.py::test_a_store_that_was_made_smaller_under_a_running_site_is_noticed",
        (("mirror_core/cli/checking.py", "record and size < record.size", "False"),),
        "made_smaller_is_well",
    ),
    Fault(
        "a person's word stands against the bytes of the store",
        "tests/test_adopt.py::"
        "test_a_person_s_word_that_nothing_was_put_there_does_not_stand_against_the_bytes",
        (("mirror_core/adoption.py", "return place if contradicted else said", "return said"),),
        "word_against_bytes",
    ),
    Fault(
        "an adoption needs to read all that a fingerprint looks at",
        "tests/test_bad_sector.py::"
        "test_a_sector_that_cannot_be_read_keeps_no_image_from_its_promotion[stopped] "
        "tests/test_bad_sector.py::"
        "test_a_source_with_a_sector_that_cannot_be_read_serves_the_others",
        (("mirror_core/adoption.py", "one.stopped_or_unread(", "one.stopped("),),
        "adoption_reads_all",
    ),
    Fault(
        "what the records of an adoption have heard of the other stores is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_whichever_record_of_an_adoption_hears_of_its_disk_counts",
        (("mirror_core/adoption.py",
          "with heard.listening(platform, lambda: near() - names, doubt):",
          "with contextlib.nullcontext():"),),
        "heard_by_an_adoption_only",
    ),
    Fault(
        "an adoption whose flush has failed doubts its own store only (I9)",
        "tests/test_losing_disk.py::"
        "test_an_adoption_s_failed_flush_is_one_of_all_stores_of_the_site",
        (("mirror_core/adoption.py", "[one], others, book, ", "[one], [], book, "),),
        "heard_by_one_store_only",
    ),
    Fault(
        "check refuses what was flushed in another boot",
        "tests/test_losing_disk.py::"
        "test_a_check_says_of_a_flush_in_another_boot_what_a_start_does",
        (("mirror_core/cli/checking.py",
          "        book = stores.in_this_boot(book, age.boot_of(HERE))\n", ""),),
    ),
    Fault(
        "stop is the end of a store that was deleted together with the ledger",
        "tests/test_taken_away.py::"
        "test_a_store_that_was_deleted_with_the_ledger_is_not_lost_by_a_stop",
        (("mirror_core/cli/running.py", "            os.path.realpath(where): where\n",
          "            where + \"?\": where\n"),),
        "lost_with_its_ledger",
    ),
    Fault(
        "a command that meets a smaller store remembers nothing (I1)",
        "tests/test_cut.py::test_a_command_that_meets_a_smaller_store_remembers_it",
        (("mirror_core/adoption.py", "    if changes:\n        with heard",
          "    if None:\n        with heard"),),
        "met_by_a_command_only",
    ),
    Fault(
        "what the record of a seed has heard is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_the_record_of_a_seed_hears_of_its_disk_is_heard_of_the_seed",
        (("mirror_core/resync.py", "        if lost and not force:\n", "        if False:\n"),),
        "heard_by_a_seed_s_record",
    ),
    Fault(
        "stop does not look whether a store was deleted",
        f"{DELETED}_is_not_lost_by_a_stop_or_a_promotion",
        (("mirror_core/cli/running.py", "    if not force:\n", "    if False:\n"),),
        "stop_ends_a_deleted_store",
    ),
    Fault(
        "a source is not stopped while its intermediate is deleted",
        "tests/test_taken_away.py::"
        "test_a_source_s_deleted_intermediate_does_not_keep_it_from_stopping",
        (("mirror_core/cli/running.py",
          " and stores.place_of(settings, book, volume, part).counts", ""),),
    ),
    Fault(
        "a file of a server that shows what its disk has lost is a seed (I9)",
        "tests/test_holes.py::test_what_a_site_wrote_on_such_a_file_system_is_no_seed",
        (("mirror_core/resync.py", "and not _can_drop_caches(config):", "and False:"),),
        "file_of_a_server_is_a_seed",
    ),
    Fault(
        "a server that was adopted has lost nothing before (I9)",
        "tests/test_doubt.py::test_a_server_that_was_adopted_is_in_doubt",
        (("mirror_core/adoption.py",
          'if place.part == "intermediate" and (doubtful or not one.cached_here):', "if False:"),),
        "adopted_without_doubt",
    ),
    Fault(
        "a copy that could not be flushed is a seed once it is adopted (I9)",
        "tests/test_losing_disk.py::test_an_adoption_whose_flush_failed_is_followed_by_none_that_trusts_the_store",
        (("mirror_core/adoption.py", "        book = replace(book, doubtful_data=True)\n",
          "        pass\n"),),
        "unflushed_copy_is_a_seed",
    ),
    Fault(
        "of an adopted source only what was hot is compared (I4)",
        "tests/test_adopt.py::test_everything_in_an_adopted_source_reaches_the_target",
        (("mirror_core/adoption.py", "opened.log.heat_all()\n", "pass\n"),),
        "adopted_hot_only",
    ),
    Fault(
        "what a person did not agree to is adopted",
        "tests/test_adopt.py::test_what_changed_while_a_person_was_asked_is_not_adopted",
        (("mirror_core/cli/adopting.py", "yes or found == seen", "yes or bool(found and seen)"),),
    ),
    Fault(
        "of an adopted source the maps in memory count (I4)",
        "tests/test_adopt.py::test_everything_in_an_adopted_source_reaches_the_target",
        (("mirror_core/adoption.py", 'replace(book, clean=False, run=run, logs=logs, maps={})',
          "book"),),
        "adopted_maps_count",
    ),
    Fault(
        "an adopted target keeps an image that is not known to be whole (I7)",
        "tests/test_adopt.py::test_a_target_with_another_store_gives_its_image_up",
        (("mirror_core/adoption.py", "book = resync.give_up(book)", "pass"),),
        "adopted_image_stays",
    ),
    Fault(
        "what was stable in a lost intermediate counts as written (I3)",
        "tests/test_adopt.py::"
        "test_what_a_cycle_had_made_stable_in_a_lost_intermediate_is_sent_again",
        (("mirror_core/adoption.py",
          "        platform.unlink(written.path_in(config.state, book))\n", "        pass\n"),),
        "stable_in_a_lost_store",
    ),
)  # fmt: skip
