"""Faults of which store it is, and of its adoption."""

from __future__ import annotations

from faults.fault import Fault

DELETED = "tests/test_taken_away.py::test_a_store_that_was_deleted"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "a server that is written in two ways is two stores",
        "tests/test_elsewhere.py::test_one_server_for_both_stores_is_refused",
        (("mirror_core/stores.py", "elsewhere.where(where) if info is None else where", "where"),),
        "written_in_two_ways",
    ),
    Fault(
        "what losetup may not open is taken for an answer",
        "tests/test_elsewhere.py::"
        "test_without_an_answer_of_losetup_a_loop_device_is_found_by_its_path[refused]",
        (("mirror_core/mounted.py",
          'if one["back-ino"] is not None and one["back-maj:min"] is not None:', "if True:"),),
    ),
    Fault(
        "a file whose store could not be handed on stays locked",
        "tests/test_away.py::test_a_want_of_memory_while_it_is_taken_in_is_tried_again",
        (("mirror_core/stores.py",
          "        return Opened(where, store, size, identity, fd, cached_here)\n"
          "    except BaseException:\n        store.close()\n",
          "        return Opened(where, store, size, identity, fd, cached_here)\n"
          "    except BaseException:\n"),),
        "unopened_store_stays_locked",
    ),
    Fault(
        "a server that takes one client is taken",
        "tests/test_limited_server.py::test_a_server_that_refuses_a_second_client_is_refused",
        (("mirror_core/stores.py",
          "    if had < limits.STORE_CONNECTIONS_MIN:\n",
          "    if had < 1:\n"),),
        "one_client_is_enough",
    ),
    Fault(
        "nobody says what more connections would help",
        "tests/test_limited_server.py::test_create_and_check_say_what_a_server_must_offer",
        (("mirror_core/stores.py",
          "        if had >= limits.STORE_CONNECTIONS_GOOD:\n",
          "        if had >= limits.STORE_CONNECTIONS_MIN:\n"),),
    ),
    Fault(
        "a source writes to whatever stands in the place of its intermediate",
        "tests/test_away.py::test_another_one_is_not_written_to",
        (("mirror_core/stores.py", "            or not one.blank_once_flushed()\n", ""),),
        "writes_to_whatever_is_there",
    ),
    Fault(
        "a blank store of another site is taken for a source's intermediate",
        "tests/test_away.py::test_another_one_is_not_written_to",
        (("mirror_core/stores.py",
          "            one.mark() not in (None, place.mark)\n            or one",
          "            one"),),
    ),
    Fault(
        "a source whose intermediate takes no mark, as with a quota used up, is not served",
        "tests/test_away.py::test_a_blank_file_that_takes_no_mark_is_taken_all_the_same",
        (("mirror_core/stores.py",
          "            with contextlib.suppress(OSError):\n                os.setxattr(",
          "            if True:\n                os.setxattr("),),
        "not_served_unmarked",
    ),
    Fault(
        "a device that udev looks at is another site's",
        "tests/test_identity.py::test_a_device_that_udev_looks_at_is_waited_for",
        (("mirror_core/stores.py", "        until += limits.DEVICE_BUSY_S\n",
          "        until += 0\n"),),
        "udev_is_another_site",
    ),
    Fault(
        "the device promises smaller requests than its store's server takes",
        "tests/test_block_sizes.py::"
        "test_the_device_promises_what_the_servers_of_its_stores_take",
        (("mirror_core/exports.py", "self.minimum = sizes.minimum", "self.minimum = 1"),),
        "promises_smaller_requests",
    ),
    Fault(
        "QEMU may open the image of a running site",
        "tests/test_elsewhere.py::test_who_comes_later_and_locks_as_qemu_does_is_kept_out",
        (("mirror_core/stores.py", "        elsewhere.lock(fd, where)\n", ""),),
        "qemu_may_write",
    ),
    Fault(
        "one disk by two ways is two stores",
        "tests/test_elsewhere.py::test_one_disk_by_two_ways_is_refused",
        (("mirror_core/identity.py", "judge(one, other, marked=False) is Verdict.SAME or any(",
          "any("),),
        "one_disk_twice",
    ),
    Fault(
        "two files with one inode number and generation are one disk by two ways",
        "tests/test_elsewhere.py::test_two_files_that_are_called_alike_are_two_disks",
        (("mirror_core/stores.py", " and not _are_two_files(one, other):", ":"),),
        "called_alike_is_one_disk",
    ),
    Fault(
        "any two loop devices are two disks",
        "tests/test_elsewhere.py::test_two_files_that_are_called_alike_are_two_disks",
        (("mirror_core/stores.py",
          "return identities.loop_status(one.fd)[:2] != identities.loop_status(other.fd)[:2]",
          "return True"),),
        "any_loops_are_two_disks",
    ),
    Fault(
        "a disk is a store beside a partition of it, by another way",
        "tests/test_elsewhere.py::test_nor_is_a_disk_a_store_beside_a_partition_of_it",
        (("mirror_core/identity.py", 'part.startswith(f"{whole}#")', "False"),),
        "disk_beside_its_partition",
    ),
    Fault(
        "another's file is flushed, though it shows data",
        "tests/test_away.py::test_a_file_that_shows_data_is_not_flushed",
        (("mirror_core/stores.py", "if not self._is_hole():", "if False:"),),
        "anothers_file_is_flushed",
    ),
    Fault(
        "a fingerprint reads less than a store's server gives",
        "tests/test_block_sizes.py::"
        "test_it_mirrors_between_servers_that_take_whole_blocks_only",
        (("mirror_core/stores.py", "ranges = [(i // least * least, -(-min(i + sample, size) "
          "// least) * least) for i in at]", "ranges = [(i, min(i + sample, size)) for i in at]"),),
    ),
    Fault(
        "a fingerprint is of other bytes where a server takes larger requests",
        "tests/test_block_sizes.py::"
        "test_a_server_that_comes_back_with_other_blocks_after_a_stop_is_the_same",
        (("mirror_core/stores.py", "            start = before + i - first\n",
          "            start = before\n"),),
    ),
    Fault(
        "a site's blocks may be smaller than the requests that a store's server takes",
        "tests/test_block_sizes.py::"
        "test_a_site_whose_blocks_are_no_requests_of_a_server_is_refused",
        (("mirror_core/stores.py", "    if block_size % least:", "    if False:"),),
    ),
    Fault(
        "after a store was harmed only what was written is compared",
        "tests/test_unreadable.py::"
        "test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start",
        (("mirror_core/intent.py", "if is_harmed(record.data):", "if False:"),),
    ),
    Fault(
        "a stop ends a start within its flush, after which each store is refused",
        "tests/test_hung_state.py::test_a_stop_of_a_start_that_flushes_costs_no_store",
        (("mirror_core/stores.py", "    with _told_to_end_later():\n", "    if True:\n"),),
        "ended_in_its_flush",
    ),
    Fault(
        "a target's store that could not be read at its stop is as it was left (I1)",
        "tests/test_unreadable.py::"
        "test_a_target_s_store_that_could_not_be_read_at_its_stop_is_asked_about",
        (("mirror_core/stores.py", "record.fingerprint == UNREADABLE and ", "False and "),),
        "unreadable_is_as_left",
    ),
    Fault(
        "a store that cannot be read where a fingerprint looks is in the way of its adoption",
        "tests/test_bad_sector.py::"
        "test_a_sector_that_cannot_be_read_keeps_no_image_from_its_promotion[bad-since-its-stop] "
        "tests/test_bad_sector.py::"
        "test_a_source_with_a_sector_that_cannot_be_read_serves_the_others",
        (("mirror_core/stores.py", "                raise\n            return None\n        return",
          "                raise\n            raise\n        return"),),
        "unread_is_no_question",
    ),
    Fault(
        "a store that cannot be read where a fingerprint looks is as it was left (I1)",
        "tests/test_bad_sector.py::"
        "test_a_sector_that_cannot_be_read_keeps_no_image_from_its_promotion[bad-since-its-stop]",
        (("mirror_core/stores.py", "return None if place.unchanged else text", "return None"),),
        "unread_is_as_left",
    ),
    Fault(
        "what could be copied of a store that could not be read is no image, whoever says so",
        "tests/test_bad_sector.py::"
        "test_a_copy_of_a_store_that_could_not_be_read_is_what_a_person_says[True]",
        (("mirror_core/stores.py",
          "    if record.fingerprint == UNREADABLE:\n        return A_COPY\n",
          ""),),
        "rescued_copy_is_none",
    ),
    Fault(
        "a name that is none of a host is an internal error",
        "tests/test_ends.py::test_what_is_no_name_of_a_host_is_no_error_of_ours",
        (("mirror_core/peer.py", "except UnicodeError as error:  # of its encoding (idna)",
          "except ZeroDivisionError as error:"),),
        "no_name_is_an_internal_error",
    ),
    Fault(
        "a creation makes records durable before what was brought to its stores (I1, I9)",
        "tests/test_losing_disk.py::test_a_creation_flushes_what_was_brought_before_any_record",
        (("mirror_core/stores.py",
          "        try:\n            for one in ones:\n                one.flush()\n"
          "        except StoreError as error:\n            doubt((), error)\n        yield\n",
          "        yield\n"),),
        "created_before_the_flush",
    ),
    Fault(
        "what a creation's ledger has heard of the disk of what was brought is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_a_creation_hears_of_its_disk_is_heard_of_what_was_brought",
        (("mirror_core/stores.py", "with _told_to_end_later(), heard.listening(HERE, near, doubt):",
          "with _told_to_end_later():"),),
        "heard_by_a_creation_only",
    ),
    Fault(
        "a sync of the state folder does not count what it was told (I1, I9)",
        "tests/test_losing_disk.py::test_what_a_record_that_was_made_again_has_heard_counts",
        (("mirror_core/platform.py", "self.heard_losses += error.errno == errno.EIO",
          "self.heard_losses += 0"),),
        "heard_is_not_counted",
    ),
    Fault(
        "what the last record of a flush has heard of the other stores is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_whichever_record_of_an_adoption_hears_of_its_disk_counts",
        (("mirror_core/stores.py",
          "with heard.listening(platform, lambda: are_near() - flushed, doubt):",
          "with contextlib.nullcontext():"),),
        "heard_after_the_flush",
    ),
    Fault(
        "a site is promoted onto a disk of which nothing can be read",
        "tests/test_promotion_fails.py::test_a_promotion_that_fails_gives_the_site_back",
        (("mirror_core/stores.py", " or not self._reads(size):", ":"),),
        "promoted_onto_nothing",
    ),
    Fault(
        "what was cut off behind the last sample is there (I1)",
        "tests/test_cut.py::test_a_store_that_was_cut_behind_the_last_sample_is_not_as_it_was",
        (("mirror_core/stores.py", "        at.append(max(0, size - sample))\n",
          "        at.append(0)\n"),),
        "its_end_is_not_looked_at",
    ),
    Fault(
        "a fingerprint of an older version is of other bytes",
        "tests/test_cut.py::test_a_fingerprint_without_the_last_bytes_is_one",
        (("mirror_core/stores.py", 'return fingerprint in (now, now.partition(":")[0])',
          "return fingerprint == now"),),
        "old_fingerprint_is_none",
    ),
    Fault(
        "an exact copy is what was cut, and not what it is a copy of",
        "tests/test_cut.py::"
        "test_a_copy_of_a_store_that_a_start_found_cut_is_what_a_person_says[True]",
        (("mirror_core/stores.py", "if place.unchanged and _hint_of_copy(record):",
          "if place.unchanged and record.fingerprint == UNREADABLE:"),),
        "copy_was_cut",
    ),
    Fault(
        "a server's store that a start found smaller is as it was, once it is large again (I1)",
        "tests/test_cut.py::test_a_store_of_a_server_that_was_cut_is_not_as_it_was",
        (("mirror_core/stores.py", "    if not place.counts or not ready or ",
          "    if opened.fd is None or not place.counts or not ready or "),),
        "server_was_not_cut",
    ),
    Fault(
        "of a device that shrank for a moment a person's word counts for nothing",
        "tests/test_cut.py::test_a_device_that_shrank_for_a_moment_is_what_a_person_says",
        (("mirror_core/stores.py", "        if not place.unchanged:  # a logical",
          "        if True:  # a logical"),),
        "shrank_for_good",
    ),
    Fault(
        "that a store could not be read hides that a start found it smaller",
        "tests/test_cut.py::test_a_store_that_could_not_be_read_and_was_cut_then_is_asked_about",
        (("mirror_core/stores.py", "(is_harmed(known) and not unread)", "is_harmed(known)"),),
        "unread_hides_smaller",
    ),
    Fault(
        "a copy of what was left of a store is one of what it held (I1)",
        "tests/test_cut.py::"
        "test_a_copy_of_a_store_that_a_start_found_cut_is_what_a_person_says[False]",
        (("mirror_core/stores.py", '"" if is_harmed(record) else _bytes_of', "_bytes_of"),),
        "samples_of_a_copy",
    ),
    Fault(
        "a look that finds a store smaller tells nobody who uses it",
        "tests/test_unreadable.py::test_who_uses_a_store_hears_that_a_look_found_it_smaller "
        "tests/test_unreadable.py::"
        "test_a_source_sends_no_zeroes_of_an_intermediate_that_was_emptied",
        (("mirror_core/stores.py", "            self.store.cut()\n", ""),),
        "seen_smaller_and_kept",
    ),
    Fault(
        "what is left of a source's store that was cut is sent over what the target alone has",
        "tests/test_unreadable.py::"
        "test_a_source_s_store_that_is_large_again_is_not_as_it_was[stopped] "
        "tests/test_unreadable.py::test_a_source_s_store_that_is_large_again_is_not_as_it_was[found]",
        (("mirror_core/stores.py", '    known_there = TARGET_HAS if place.heals else ""\n',
          '    if place.heals:\n        return None\n    known_there = ""\n'),),
        "zeroes_over_the_copy",
    ),
    Fault(
        "so is what a start found smaller, if the samples that are left fit",
        "tests/test_cut.py::test_a_source_s_store_whose_samples_fit_is_asked_about",
        (("mirror_core/stores.py", "    if found and not place.unchanged:",
          "    if found and not (place.unchanged or (place.heals and _bytes_of(record))):"),),
        "samples_are_all_bytes",
    ),
    Fault(
        "of a store that a start found smaller a person's word counts for nothing",
        "tests/test_unreadable.py::test_a_store_that_was_being_restored_is_what_a_person_says",
        (("mirror_core/stores.py", "if found and not place.unchanged:", "if found:"),),
        "restored_is_gone",
    ),
    Fault(
        "a store that has lost something is not looked at when its site stops (I1)",
        "tests/test_unreadable.py::"
        "test_a_store_that_could_neither_be_flushed_nor_read_is_doubted[before-west]",
        (("mirror_core/stores.py", "        if counts:\n            known",
          "        if counts and not self.store.losses:\n            known"),),
        "lost_and_unlooked",
    ),
    Fault(
        "a device that is away was made smaller",
        "tests/test_unreadable.py::test_a_device_that_is_away_was_not_made_smaller",
        (("mirror_core/stores.py", "if not left and self.identity.kind != ",
          "if False and self.identity.kind != "),),
        "away_is_smaller",
    ),
    Fault(
        "status says nothing of a store that was deleted",
        f"{DELETED}_is_not_lost_by_a_stop_or_a_promotion",
        (("mirror_core/stores.py",
          "        gone = stat.S_ISREG(info.st_mode) and not info.st_nlink\n",
          "        gone = False\n"),),
        "deleted_untold",
    ),
    Fault(
        "a stop is in order while a server may still do a write that was given up",
        "tests/test_lost_store.py::test_a_stop_with_a_late_write_is_none_in_order",
        (("mirror_core/stores.py", "if not self.store.is_settled():", "if False:"),),
        "late_write_is_in_order",
    ),
    Fault(
        "a store that holds other bytes than its site's stop has left is taken (I7)",
        "tests/test_store_back.py::test_a_store_alone_that_went_back_is_refused_after_a_stop",
        (("mirror_core/stores.py", "has=opened.has(before, size)", "has=True"),),
        "any_bytes_after_a_stop",
    ),
    Fault(
        "a device is taken for its number alone (I7)",
        "tests/test_identity.py::test_a_killed_site_on_numbers_alone_is_refused_after_a_reboot",
        (("mirror_core/identity.py",
          "exact = bool(known.instance) and known.instance == found.instance", "exact = True"),),
        "known_by_number",
    ),
    Fault(
        "a file is taken for its inode number alone, without its mark (I7)",
        "tests/test_identity.py::test_a_file_that_was_given_the_inode_number_is_not_taken_after_a_kill",
        (("mirror_core/identity.py", "exact = marked or known.instance != MARKED",
          "exact = True"),),
        "known_by_inode",
    ),
    Fault(
        "what a start or an adoption could not flush is flushed by the next one (I9)",
        "tests/test_losing_disk.py::"
        "test_a_start_whose_flush_failed_is_followed_by_none_that_trusts_the_store "
        "tests/test_losing_disk.py::"
        "test_an_adoption_whose_flush_failed_is_followed_by_none_that_trusts_the_store "
        "simulate:2000:restores,run_on,promote",
        (("mirror_core/stores.py", "save(unflushed=unflushed, flushing=before)",
          "save(flushing=before)"),),
        "flushed_at_the_second_start",
    ),
    Fault(
        "the bytes of a store that could not be flushed count if they are as they were left (I9)",
        "tests/test_losing_disk.py::test_an_adoption_whose_flush_failed_is_followed_by_none_that_trusts_the_store",
        (("mirror_core/stores.py", "and not opened.is_one_of(place.unflushed | place.flushing)",
          ""),
         ("mirror_core/stores.py", "if opened.is_one_of(place.unflushed):", "if False:")),
        "unflushed_bytes_count",
    ),
    Fault(
        "one of a device's lasting identities is enough (I7)",
        "tests/test_identity.py::test_judge",
        (("mirror_core/identity.py", "if all(before[k] == now[k] for k in shared)",
          "if any(before[k] == now[k] for k in shared)"),),
        "one_identity_is_enough",
    ),
    Fault(
        "a lost intermediate costs the image though no byte of that was there",
        "tests/test_adopt.py::"
        "test_a_target_that_lost_an_intermediate_with_nothing_of_its_image_keeps_that",
        (("mirror_core/stores.py", "return place.spare and opened.blank()\n", "return False\n"),),
        "spare_store_costs_the_image",
    ),
    Fault(
        "a blank file is advised where a server or a device is named",
        "tests/test_adopt.py::test_what_keeps_an_image_is_said_as_it_can_be_had",
        (("mirror_core/stores.py", '"here" if kind == "file" else stead', '"here"'),),
        "blank_file_at_a_server",
    ),
    Fault(
        "a blank intermediate keeps an image whose blocks were lost (I1)",
        "tests/test_adopt.py::"
        "test_a_block_of_the_image_that_was_lost_with_the_intermediate_gives_it_up",
        (("mirror_core/stores.py",
          '        and not book.maps.get(f"{volume}/pending")\n', ""),),
        "pending_lost_and_kept",
    ),
    Fault(
        "nothing is pending where no log of hardenings is (I1)",
        "tests/test_adopt.py::"
        "test_a_block_of_the_image_that_was_lost_with_the_intermediate_gives_it_up",
        (("mirror_core/stores.py",
          "return replace(place_of(site, book, volume, part), spare=False)",
          "return place_of(site, book, volume, part)"),),
        "spare_without_a_log",
    ),
    Fault(
        "other bytes than were left in an intermediate are as good as none (I7)",
        "tests/test_adopt.py::test_a_target_with_another_store_gives_its_image_up",
        (("mirror_core/stores.py",
          "return place.spare and opened.blank()\n", "return place.spare\n"),),
        "any_spare_store_is_good",
    ),
    Fault(
        "a refused store does not say what its adoption costs",
        "tests/test_adopt.py::test_what_an_adoption_costs_is_said_before_it_is_done",
        (("mirror_core/stores.py", "if not self.image or fits:", "if not self.image or True:"),),
    ),
    Fault(
        "a source does not say which store is in its way",
        "tests/test_store_faults.py::test_a_fault_of_a_store_passes",
        (("mirror_core/flashcopy.py", 'return f"{where[error.part]}: {error}: {advice}"',
          'return f"{error}: {advice}"'),),
        "store_unnamed",
    ),
)  # fmt: skip
