"""Faults of stores and their servers: requests, flushes, losses, which store it is."""

from __future__ import annotations

from faults.fault import Fault

DELETED = "tests/test_taken_away.py::test_a_store_that_was_deleted"

FAULTS = (
    Fault(
        "a server that is written in two ways is two stores",
        "tests/test_elsewhere.py::test_one_server_for_both_stores_is_refused",
        (("mirror_core/stores.py", "elsewhere.where(where) if info is None else where", "where"),),
        "written_in_two_ways",
    ),
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
        "what losetup may not open is taken for an answer",
        "tests/test_elsewhere.py::"
        "test_without_an_answer_of_losetup_a_loop_device_is_found_by_its_path[refused]",
        (("mirror_core/mounted.py",
          'if one["back-ino"] is not None and one["back-maj:min"] is not None:', "if True:"),),
    ),
    Fault(
        "a store that could not be made stays open, and locked",
        "tests/test_handles.py::test_a_server_keeps_no_connection_of_what_was_not_opened "
        "tests/test_handles.py::test_a_file_is_free_again_though_its_store_was_not_made "
        "tests/test_away.py::test_a_want_of_memory_while_it_is_taken_in_is_tried_again",
        (("mirror_core/native.py", "            _lib.fm_store_close(out[0])\n", ""),),
        "unmade_store_stays_open",
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
        "an intermediate that could not be taken in at the last stays locked",
        "tests/test_away.py::test_a_want_of_memory_while_it_is_taken_in_is_tried_again",
        (("mirror_core/site.py", "                self._late.callback(one.store.close)\n", ""),
         ("mirror_core/site.py", "            member.native.set_first(one.store)\n",
          "            self._late.callback(one.store.close)\n"
          "            member.native.set_first(one.store)\n")),
        "not_taken_in_stays_locked",
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
        "a lane that could not be noted stays connected",
        "tests/test_handles.py::test_a_server_keeps_no_connection_of_what_was_not_opened[unnoted]",
        (("mirror_core/session.py",
          "                except BaseException:  # nobody would close it\n"
          "                    store.close()\n",
          "                except BaseException:\n"),),
        "unnoted_lane_stays",
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
        "a device under a loop device is known by its node's inode",
        "tests/test_elsewhere.py::test_a_device_under_a_loop_device_is_refused",
        (("mirror_core/elsewhere.py", "    if one[2] or other.st_rdev:\n", "    if False:\n"),),
    ),
    Fault(
        "a zero beside the sectors of a block device is an error",
        "tests/test_block_devices.py::test_a_zero_or_trim_is_over_what_was_not_flushed",
        (("native/store_file.c", " || rc == -ENOSYS || rc == -EINVAL;", " || rc == -ENOSYS;"),),
        "zero_beside_sectors",
    ),
    Fault(
        "a flush leaves what was written in the cache of a block device",
        "tests/test_block_devices.py::test_a_zero_or_trim_is_over_what_was_not_flushed",
        (("native/store_file.c", "fdatasync (s->fd) < 0 ? -errno : 0;", "0;"),),
        "flush_leaves_a_cache",
    ),
    Fault(
        "what is large travels in one request, and is silent until its answer",
        "tests/test_slow.py::test_a_large_block_on_a_slow_store_arrives "
        "tests/test_slow.py::test_a_narrow_line_is_not_a_lost_one "
        "native:slow",
        (("native/room.h",
          "#define FM_PIECE_BULK (2 * FM_MIB)",
          "#define FM_PIECE_BULK (8 * FM_MIB)"),
         ("native/parts.c",
          "is_paced (s, kind) ? fm_pace_piece",
          "kind == FM_ZERO ? fm_pace_piece"),
         ("native/parts.c",
          "  else if (ops->drains && ops->drains (p))\n",
          "  else if (0 && ops->drains (p))\n")),
        "LARGE_IN_ONE_REQUEST",
    ),
    Fault(
        "a large block is sent at once, however slow its store is",
        "native:slow",
        (("native/parts.c",
          "is_paced (s, kind) ? fm_pace_piece",
          "kind == FM_ZERO ? fm_pace_piece"),),
        "LARGE_AT_ONCE",
    ),
    Fault(
        "whoever wants a connection for himself opens one, however few the server takes",
        "native:pool "
        "tests/test_limited_server.py::test_it_mirrors_over_as_many_connections_as_there_are",
        (("native/pool.c",
          "  while ((p = take_from_pool (s))) {\n",
          "  (void)take_from_pool;\n"
          "  while ((p = NULL)) {\n"),),
        "OPENS_ONE_MORE",
    ),
    Fault(
        "a server is examined on a connection that is closed before the next is opened",
        "native:nbd",
        (("native/store_nbd.c", "  fm_pool_add (s, first); /*", "  fm_port_close (first); /*"),),
        "examined_and_closed",
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
        "a source is not served without its intermediate (I9)",
        "tests/test_away.py::"
        "test_clients_are_served_while_it_is_away_and_mirroring_goes_on_with_it",
        (("mirror_core/site.py", '        if part == "data" or current.role == "target":\n'
          "            return self._open_one(record, part)\n",
          '        if part == "data" or current.role == "target" or part:\n'
          "            return self._open_one(record, part)\n"),),
        "not_served_without_intermediate",
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
        "a blank file that is taken for a source's intermediate is not marked as that",
        "tests/test_away.py::test_a_blank_file_is_taken_for_it",
        (("mirror_core/site.py", "            self._opened[key].set_mark(mark)\n",
          "            pass\n"),),
        "taken_and_not_marked",
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
        "more is written at once than a store's server takes",
        "tests/test_block_sizes.py::"
        "test_it_mirrors_between_servers_that_take_whole_blocks_only",
        (("native/parts.c", "  return piece < most ? piece : most;",
          "  return most ? piece : most;"),),
        "WRITES_TOO_MUCH_AT_ONCE",
    ),
    Fault(
        "more is read at once, to be compared, than a store's server takes",
        "tests/test_block_sizes.py::"
        "test_it_mirrors_between_servers_that_take_whole_blocks_only",
        (("native/gather.c", "n, buf, s->sizes.maximum);", "n, buf, UINT32_MAX);"),),
    ),
    Fault(
        "a write whose connection has ended is not done later",
        "native:lost",
        (("native/store_nbd.c", "is_write (op) && op->rc == -ENOTCONN;", "false;"),),
        "ENDED_IS_NOT_LATE",
    ),
    Fault(
        "connections on which a flush has failed stay in use",
        "native:lost",
        (("native/flush.c", "(s->anchor->failed || op->rc < 0)", "s->anchor->failed"),),
        "ERRORS_STAY",
    ),
    Fault(
        "a server of which nobody has an anchor is taken for gone",
        "native:lost",
        (("native/flush.c", "  uint64_t gone = atomic_load (&s->gone_ns);\n",
          "  uint64_t gone = atomic_load (&s->gone_ns);\n"
          "  if (!fm_store_has_anchor (s))\n    return true;\n"),),
        "NO_ANCHOR_IS_GONE",
    ),
    Fault(
        "a server that was restarted once has gone for connections made since, too",
        "native:lost",
        (("native/flush.c", "return gone > opened_ns && ", "return (void)opened_ns, gone && "),),
        "GONE_ONCE_IS_GONE",
    ),
    Fault(
        "a server that does not answer its flush in time has gone",
        "native:lost",
        (("native/flush.c", "bool gone = s->anchor->failed == -ENOTCONN;", "bool gone = true;"),),
        "SILENT_IS_GONE",
    ),
    Fault(
        "a write that was given up is over when its connection ends",
        "native:lost",
        (("native/late.c", "if (!late->is_cut || ", "if (true || "),),
        "CUT_IS_OVER",
    ),
    Fault(
        "a server that was restarted shows that the one before it lives",
        "native:lost",
        (("native/store_nbd.c", "  fm_late_settled (p->store); /* ... and", "  /* ... and"),),
        "THE_NEXT_SHOWS_IT_LIVES",
    ),
    Fault(
        "nobody hears that a server has gone which only lanes write to",
        "native:lost",
        (("native/volume.c", "  fm_store_watch (v->first);\n", ""),),
        "LANES_HAVE_NO_ANCHOR",
    ),
    Fault(
        "the end of an anchor on which nobody counts is a loss",
        "native:lost",
        (("native/flush.c", " && writes > s->before)", ")"),),
        "WATCHED_IS_LOST",
    ),
    Fault(
        "what has outlived an anchor has ended with it",
        "native:lost",
        (("native/flush.c", "return gone > opened_ns && gone + TOGETHER_NS > seen_ns;",
          "return gone > opened_ns && (gone + TOGETHER_NS > seen_ns || gone);"),),
        "OUTLIVES_ITS_SERVER",
    ),
    Fault(
        "what was given up as unheard is sent on",
        "tests/test_late_write.py",
        (("native/late.c", "{ .l_onoff = at_once }", "{ .l_onoff = 0 }"),),
        "GIVEN_UP_AND_SENT",
    ),
    Fault(
        "an outage that nobody meets is a loss",
        "tests/test_late_write.py",
        (("native/store_nbd.c", "(nbd_aio_get_fd (h), FM_ASK_MOST)", "(nbd_aio_get_fd (h), 4)"),),
        "IDLE_OUTAGE_IS_A_LOSS",
    ),
    Fault(
        "a server that has gone is waited for",
        "native:lost",
        (("native/flush.c", "  fm_late_server_gone (s);\n", ""),),
        "GONE_IS_LATE",
    ),
    Fault(
        "a late write is waited for as long as the kernel probes whether more is taken",
        "tests/test_late_write.py",
        (("native/late.c", "  else if (!late->probed_ns)\n", "  else if (false)\n"),),
        "PROBED_FOR_A_QUARTER_OF_AN_HOUR",
    ),
    Fault(
        "a source shares extents, and a client's write finds no space",
        "tests/test_shared_extents.py",
        (("native/lane.c", "if (!v->strict || s->copy", "if (s->copy"),),
        "SOURCE_SHARES",
    ),
    Fault(
        "what a target's stores share takes no space when it is written",
        "tests/test_shared_extents.py::test_what_a_target_shares_is_counted_as_what_may_grow",
        (("mirror_core/cli/checking.py", "total += length if", "total += 0 if"),),
        "shared_is_not_counted",
    ),
    Fault(
        "what NFS tells to the next one who writes concerns him alone",
        "native:lost",
        (("native/store_file.c", "if (rc < 0 && (is_full (rc)",
          "if (false && (is_full (rc)"),),
        "FULL_FOR_HIM_ALONE",
    ),
    Fault(
        "of every file system that is asked for no holes a full disk is an error for all",
        "tests/test_full_disk.py::test_a_full_disk_is_an_error_for_who_wrote_alone",
        (("native/store_file.c", "s->tells_of_others && !finds_space_first (fd)",
          "s->tells_of_others"),),
        "FULL_FOR_ALL",
    ),
    Fault(
        "where space is found first, a failed write of another kind is its own, too",
        "native:lost",
        (("native/store_file.c", "(is_full (rc) ? s->full_tells_of_others : s->tells_of_others)",
          "s->full_tells_of_others"),),
    ),
    Fault(
        "a device of which /sys says nothing shares a disk with nobody",
        "tests/test_below.py::test_what_cannot_be_read_is_no_error",
        (("mirror_core/below.py", 'if self._text(node / "dev") != number:', "if False:"),),
        "unknown_shares_nothing",
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
        "a source's new intermediate is flushed before it is known what stands beside it",
        "tests/test_away.py::test_what_a_new_one_is_told_of_its_disk_counts_for_the_data_there",
        (("mirror_core/site.py", "numbers.opened(key, one.fd)", "0"),),
        "new_one_flushed_apart",
    ),
    Fault(
        "another's file is flushed, though it shows data",
        "tests/test_away.py::test_a_file_that_shows_data_is_not_flushed",
        (("mirror_core/stores.py", "if not self._is_hole():", "if False:"),),
        "anothers_file_is_flushed",
    ),
    Fault(
        "a late write is waited for as long as the kernel sends it again",
        "tests/test_late_write.py",
        (("native/late.c", " && !is_unheard (late, nbd_aio_get_fd (h));", ";"),),
        "LATE_FOR_A_QUARTER_OF_AN_HOUR",
    ),
    Fault(
        "an idle connection to a store's server is never asked whether it is there",
        "tests/test_late_write.py",
        (("native/store_nbd.c", "    fm_late_keep_asking (nbd_aio_get_fd (h), FM_ASK_MOST);\n",
          ""),),
        "IDLE_IS_NOT_ASKED",
    ),
    Fault(
        "a file system's word for a hole is taken that does not know what is cached",
        "tests/test_holes.py",
        (("native/store_file.c", "if (!s->knows_holes) {", "if (false) {"),),
        "ANY_HOLE_IS_BELIEVED",
    ),
    Fault(
        "a connection that ended is asked for its error after it was freed",
        "native:pool",
        (("native/gather.c", "op.rc : failed;", "op.rc : g.port->failed;"),),
        "FREED_PORT_IS_ASKED",
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
        "a server that comes back with larger blocks is the same one",
        "tests/test_block_sizes.py::"
        "test_a_server_that_comes_back_with_larger_blocks_is_not_used",
        (("native/store_nbd.c", "sizes.minimum > s->sizes.minimum", "sizes.minimum == 0"),),
        "LARGER_BLOCKS_ARE_THE_SAME",
    ),
    Fault(
        "what a disk says to one store's flush is not told to the others on it (I9)",
        "native:below simulate:20000",
        (("native/below.c", "  if (is_the_disks (rc))\n    count_loss",
          "  if (0 && is_the_disks (rc))\n    count_loss"),),
        "LOSS_IS_ONES_OWN",
    ),
    Fault(
        "a flush is good before another's on its disk has told what it heard (I9)",
        "native:below",
        (("native/below.c", "while (rc == 0 && !(own && own->hurries)", "while (0"),),
        "GOOD_BEFORE_IT_IS_TOLD",
    ),
    Fault(
        "a flush waits for one on what is only perhaps its disk, which may hang for ever",
        "native:below",
        (("native/below.c", "if (f->below == below && f->number < number)",
          "if ((f->below == below || (f->below < 0 && below < 0)) && f->number < number)"),),
        "DOUBT_IS_A_WAIT",
    ),
    Fault(
        "what a disk says to one store's flush is not told to those of which it is a doubt (I9)",
        "native:below",
        (("native/below.c", "(s->below == below || (s->below < 0 && below < 0))",
          "s->below == below"),),
        "DOUBT_IS_NO_LOSS",
    ),
    Fault(
        "a full disk is a loss for all that stand on it",
        "native:below",
        (("native/below.c", "rc < 0 && rc != -ENOSPC", "rc < 0"),),
        "FULL_IS_LOST",
    ),
    Fault(
        "what another's flush has lost of sink 0 counts as whole (I1)",
        "native:below",
        (("native/volume.c", "rc == 0 && lost != known ?", "0 ?"),),
    ),
    Fault(
        "a log of hot regions that another's flush may have lost is not written anew (I4)",
        "native:below",
        (("native/intent.c", "if (is_hot (i, first, last) && !has_lost (i))",
          "if (is_hot (i, first, last))"),),
    ),
    Fault(
        "a log of hot regions counts as whole before all of it is written anew (I4)",
        "native:below",
        (("native/intent.c", "    make_all_dirty (i);\n  *from",
          "    make_all_dirty (i), atomic_store (&i->heard, before);\n  *from"),),
        "LOG_WHOLE_TOO_SOON",
    ),
    Fault(
        "what is durable by a client's flush is in regions whose log may be lost (I4)",
        "native:below",
        (("native/news.c", "return fm_volume_seal_intent (v);", "return 0;"),),
        "DURABLE_IN_A_LOST_LOG",
    ),
    Fault(
        "a client's flush is good before the log has heard of a flush beside it (I4)",
        "native:below",
        (("native/intent.c",
          "    fm_below_wait (i->log->below, atomic_load (&i->flushed));\n", ""),),
        "LOG_HAS_NOT_HEARD",
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
        "a sync of the state folder is good though another's has lost what it covers (I9)",
        "native:below",
        (("native/below.c", "return rc == 0 && fm_below_losses () != since ? -EIO : rc;",
          "return rc;"),),
        "SYNC_BESIDE_A_LOSS",
    ),
    Fault(
        "a disk that drops its cache slowly keeps the flushes of all disks waiting",
        "native:below",
        (("native/below.c", "  pthread_mutex_unlock (&lock);\n  if (is_the_disks (rc))\n"
          "    forget (f->below, own);\n",
          "  if (is_the_disks (rc))\n    forget (f->below, own);\n"
          "  pthread_mutex_unlock (&lock);\n"),),
    ),
    Fault(
        "a log of hot regions that may be lost waits for the next one that is heated (I4)",
        "native:below",
        (("native/intent.c", "if (cooled || has_lost (i))\n", "if (cooled)\n"),),
    ),
    Fault(
        "who heats a region, in the gate, waits for another's flush (I6)",
        "native:below",
        (("native/below.c", " && !(own && own->hurries)", ""),),
    ),
    Fault(
        "a site does not say which of its stores stand on one disk",
        "tests/test_losing_disk.py::test_what_one_store_hears_of_a_disk_all_hear_that_stand_on_it",
        (("mirror_core/site.py", "            if numbers[part]:\n", "            if False:\n"),),
        "shared_disks_untold",
    ),
    Fault(
        "a good write elsewhere hides one that failed",
        "tests/test_failed_writes.py::test_a_source_whose_data_store_is_full_says_that_writes_fail "
        "native:request",
        (("native/request.c", "  if (f->at >= f->end)\n    f->rc = 0;\n", "  f->rc = 0;\n"),),
        "GOOD_WRITE_HIDES_A_BAD_ONE",
    ),
    Fault(
        "a good read of the first bytes of one that failed hides it",
        "native:request",
        (("native/request.c", "    f->at = end;\n  else if (at < f->end",
          "    f->at = f->end;\n  else if (at < f->end"),),
        "GOOD_BEGINNING_HIDES_A_BAD_END",
    ),
    Fault(
        "reads of clients that fail are nobody's matter",
        "native:request "
        "tests/test_failed_writes.py::"
        "test_a_source_whose_data_store_cannot_be_read_says_that_reads_fail",
        (("native/access.c", "  fm_request_note (&v->failed_read, &op, rc);\n", ""),),
        "FAILED_READS_UNTOLD",
    ),
    Fault(
        "check of a running site is content with a store that is too small by now",
        "tests/test_check.py::test_a_store_that_was_made_smaller_under_a_running_site_is_noticed",
        (("mirror_core/cli/checking.py", "record and size < record.size", "False"),),
        "made_smaller_is_well",
    ),
    Fault(
        "what a source cannot read at its stop is as it was left",
        "tests/test_unreadable.py::"
        "test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start",
        (("mirror_core/site.py", "if not volumes:  # of what",
          "if not volumes and role == \"target\":  # of what"),),
        "harmed_is_as_left",
    ),
    Fault(
        "after a store was harmed only what was written is compared",
        "tests/test_unreadable.py::"
        "test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start",
        (("mirror_core/intent.py", "if is_harmed(record.data):", "if False:"),),
    ),
    Fault(
        "a store that was harmed in its end only is as it was left",
        "tests/test_unreadable.py::"
        "test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start[smaller]",
        (("mirror_core/site.py", "        self._look_at_stores()  # last", "        # last"),),
    ),
    Fault(
        "what an orderly stop meets of a cut is not as it was left, and no more than that (I1)",
        "tests/test_cut.py::test_a_cut_that_a_stop_meets_is_asked_about",
        (("mirror_core/site.py", "        role, volumes, unread =",
          "        self._look_at_stores()\n        role, volumes, unread ="),
         ("mirror_core/site.py", "        self._look_at_stores()  # last", "        # last")),
        "no_look_after_the_last_read",
    ),
    Fault(
        "a target's store that was made smaller holds its image when it is large again",
        "tests/test_unreadable.py::"
        "test_a_target_whose_store_was_made_smaller_has_no_image_when_it_is_large_again",
        (("mirror_core/site.py", "volumes=ledger.with_harmed(volumes or self._in_use(), harmed)",
          "volumes=volumes or self._in_use()"),
         ("mirror_core/site.py", "return ledger.with_harmed(volumes, self._words_of_harm())",
          "return volumes")),
        "large_again_is_an_image",
    ),
    Fault(
        "a store that a start found smaller is as it was, once it is large again (I1)",
        "tests/test_unreadable.py::test_a_source_s_store_that_is_large_again_is_not_as_it_was "
        "tests/test_unreadable.py::test_a_target_s_store_that_is_large_again_is_no_image",
        (("mirror_core/site.py", "                self._note_harmed(record, one, part, harmed)\n",
          ""),),
        "small_at_a_start_is_forgotten",
    ),
    Fault(
        "a store that was made smaller, and large again under a running site, is as it was (I1)",
        "tests/test_unreadable.py::test_a_source_s_store_that_is_large_again_is_not_as_it_was "
        "tests/test_unreadable.py::test_a_target_s_store_that_is_large_again_is_no_image",
        (("mirror_core/site.py", "                if self.control.was_cut(*key):",
          "                if False:"),),
        "large_again_while_it_runs",
    ),
    Fault(
        "a stop ends a start within its flush, after which each store is refused",
        "tests/test_hung_state.py::test_a_stop_of_a_start_that_flushes_costs_no_store",
        (("mirror_core/stores.py", "    with _told_to_end_later():\n", "    if True:\n"),),
        "ended_in_its_flush",
    ),
    Fault(
        "a person's word stands against the bytes of the store",
        "tests/test_adopt.py::"
        "test_a_person_s_word_that_nothing_was_put_there_does_not_stand_against_the_bytes",
        (("mirror_core/adoption.py", "return place if contradicted else said", "return said"),),
        "word_against_bytes",
    ),
    Fault(
        "a target's store that could not be read at its stop is as it was left (I1)",
        "tests/test_unreadable.py::"
        "test_a_target_s_store_that_could_not_be_read_at_its_stop_is_asked_about",
        (("mirror_core/stores.py", "record.fingerprint == UNREADABLE and ", "False and "),),
        "unreadable_is_as_left",
    ),
    Fault(
        "a promotion needs to read all that a fingerprint looks at",
        "tests/test_bad_sector.py::"
        "test_a_sector_that_cannot_be_read_keeps_no_image_from_its_promotion[running]",
        (("mirror_core/promotion.py", ", stores.Opened.stopped_or_unread)", ")"),),
        "promotion_reads_all",
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
        "what the ledger has heard of the disk of what was put back is forgotten (I9)",
        "tests/test_losing_disk.py::"
        "test_what_the_ledger_hears_of_its_disk_is_heard_of_the_stores_on_it",
        (("mirror_core/heard.py", "platform.heard_losses != before) and (names := near()):",
          "platform.heard_losses != before) and (names := set[str]()):"),),
        "heard_by_the_ledger_only",
    ),
    Fault(
        "what the state folder has heard of the disk of a seed is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_a_state_folder_hears_of_its_disk_is_heard_of_a_seed_on_it",
        (("mirror_core/site.py", "(seeded or not book.whole):\n",
          "(not seeded and not book.whole):\n"),),
        "heard_by_the_folder_only",
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
        "what the records of an adoption have heard of the other stores is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_whichever_record_of_an_adoption_hears_of_its_disk_counts",
        (("mirror_core/adoption.py",
          "with heard.listening(platform, lambda: near() - names, doubt):",
          "with contextlib.nullcontext():"),),
        "heard_by_an_adoption_only",
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
        "what the record of a store that was found smaller has heard is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_a_start_hears_that_finds_a_store_smaller_is_heard_of_the_stores",
        (("mirror_core/site.py", "with heard.listening(self.platform, lambda: near, doubt):",
          "with contextlib.nullcontext():"),),
        "heard_by_found_smaller_only",
    ),
    Fault(
        "what a disk says twice is not recorded (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_a_start_hears_that_finds_a_store_smaller_is_heard_of_the_stores",
        (("mirror_core/heard.py", "    for pause_s in _PAUSES_S:\n", "    for pause_s in ():\n"),),
        "heard_and_tried_once",
    ),
    Fault(
        "a store is smaller, and its ledger's trouble is all that is said",
        "tests/test_losing_disk.py::"
        "test_what_a_start_hears_that_finds_a_store_smaller_is_heard_of_the_stores",
        (("mirror_core/site.py", "f\"{harmed}; nor can that", "f\"nor can that"),),
        "smaller_unsaid",
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
        "an adoption whose flush has failed doubts its own store only (I9)",
        "tests/test_losing_disk.py::"
        "test_an_adoption_s_failed_flush_is_one_of_all_stores_of_the_site",
        (("mirror_core/adoption.py", "[one], others, book, ", "[one], [], book, "),),
        "heard_by_one_store_only",
    ),
    Fault(
        "a blank intermediate is flushed before what was put back (I9)",
        "tests/test_losing_disk.py::"
        "test_what_was_put_back_is_flushed_before_a_blank_intermediate_is_asked_for",
        (("mirror_core/site.py", "        if not source:\n            take_in(\"intermediate\")\n",
          "        take_in(\"intermediate\")\n"),
         ("mirror_core/site.py", "        if source:\n            take_in(\"intermediate\")\n",
          "")),
        "blank_before_what_counts",
    ),
    Fault(
        "check refuses what was flushed in another boot",
        "tests/test_losing_disk.py::"
        "test_a_check_says_of_a_flush_in_another_boot_what_a_start_does",
        (("mirror_core/cli/checking.py",
          "        book = stores.in_this_boot(book, age.boot_of(HERE))\n", ""),),
    ),
    Fault(
        "an image that is whole in data is not promoted for want of an intermediate",
        "tests/test_taken_away.py::test_an_image_is_promoted_without_a_store_that_holds_none_of_it",
        (("mirror_core/site.py", "lost = self._lost_stores()[1]",
          "lost = self._lost_stores()[0]"),),
        "intermediate_is_needed",
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
        "a kill forgets which store was seen smaller (I1)",
        "tests/test_unreadable.py::"
        "test_a_source_s_store_that_is_large_again_is_not_as_it_was[seen] "
        "tests/test_unreadable.py::test_a_target_s_store_that_is_large_again_is_no_image[seen-data]",
        (("mirror_core/site.py", "if not self.harm_is_recorded() and ", "if False and "),),
        "seen_and_killed",
    ),
    Fault(
        "nobody looks at the stores of a site whose status nobody asks for (I1)",
        "tests/test_unreadable.py::"
        "test_a_source_s_store_that_is_large_again_is_not_as_it_was[unasked] "
        "tests/test_unreadable.py::"
        "test_a_target_s_store_that_is_large_again_is_no_image[unasked-data]",
        (("mirror_core/site.py", "            self._looker.start()\n", "            pass\n"),),
        "looks_only_when_asked",
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
        "what is pending in an intermediate that was cut is hardened (I1)",
        "tests/test_cut.py::test_nothing_of_the_image_is_hardened_that_was_cut simulate:1000:cut",
        (("mirror_core/second.py", "            self._refuse_lost()  # before", "            #"),
         ("mirror_core/second.py", "        self._refuse_lost()  # all of it is read by now\n", ""),
         ("mirror_core/second.py", "        self._refuse_lost()\n        members =",
          "        members =")),
        "cut_and_hardened",
    ),
    Fault(
        "what is copied from an intermediate that is cut meanwhile is hardened (I1)",
        "tests/test_second.py::test_what_was_cut_while_it_was_copied_is_hardened_nowhere "
        "simulate:1000:cut",
        (("mirror_core/second.py", "        self._refuse_lost()  # all of it is read by now\n", ""),
         ("mirror_core/second.py", "        self._refuse_lost()\n        members =",
          "        members =")),
        "cut_while_it_is_copied",
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
        "each start that is refused for a cut flushes first",
        "tests/test_cut.py::test_a_start_that_is_refused_for_a_cut_writes_nothing",
        (("mirror_core/site.py", "if ledger.is_harmed(getattr(records[key[0]], key[1])):",
          "if False:"),),
        "flushed_and_refused",
    ),
    Fault(
        "a target that has lost some of its image commits, which nobody can promote",
        "simulate:1000:cut",
        (("mirror_core/target.py", "            self._refuse_lost()\n            if request.",
          "            if request."),
         ("mirror_core/target.py",
          "                self._refuse_lost()\n            except cut.ImageLost:",
          "                pass\n            except cut.ImageLost:")),
        "commits_without_an_image",
    ),
    Fault(
        "a source does not hear that its target has lost some of the image",
        "tests/test_cut.py::test_a_target_whose_data_was_cut_commits_no_more",
        (("mirror_core/target.py", "        self._refuse_lost()\n        done =",
          "        done ="),),
        "lost_image_is_untold",
    ),
    Fault(
        "an image of which some is gone is a point that somebody may rely on",
        "tests/test_cut.py::test_a_target_whose_data_was_cut_commits_no_more",
        (("mirror_core/status.py", "    whole = book.whole and not lost\n",
          "    whole = book.whole\n"),),
        "relies_on_a_lost_image",
    ),
    Fault(
        "who reads past the end of a store that was cut tells nobody (I1)",
        "native:store",
        (("native/store_file.c", "if (ended && (!is_device", "if (0 && (!is_device"),),
        "READ_PAST_ITS_END",
    ),
    Fault(
        "a server that comes back smaller, and then as large as it was, has what it had (I1)",
        "native:nbd tests/test_cut.py::test_a_server_s_store_that_came_back_smaller_is_not_sent",
        (("native/store_nbd.c", "  if (size < s->used)\n", "  if (0)\n"),),
        "SERVER_CAME_BACK_SMALLER",
    ),
    Fault(
        "of two stores that were cut the log names one",
        "tests/test_cut.py::test_each_store_that_was_cut_is_told",
        (("mirror_core/site.py", "                    if one not in known:\n",
          "                    if not known:\n"),),
        "one_cut_is_told",
    ),
    Fault(
        "a cut of data that holds nothing yet is asked about",
        "tests/test_cut.py::test_a_cut_of_data_before_its_first_image_costs_nothing[True]",
        (("mirror_core/site.py", 'if holds or key[1] != "data"]', "]"),),
        "cut_of_nothing_is_asked",
    ),
    Fault(
        "a cut of data before its first image costs that",
        "tests/test_cut.py::test_a_cut_of_data_before_its_first_image_costs_nothing[False]",
        (("mirror_core/cut.py", "data = found.data if first else", "data = 0 if first else"),),
        "cut_before_it_held_anything",
    ),
    Fault(
        "a first image is committed on a data store that is too small, and is lost with it",
        "tests/test_cut.py::test_a_first_image_waits_for_a_data_store_that_is_too_small",
        (("mirror_core/target.py", "whole and (short := self._short_data()):",
          "whole and (short := None):"),),
        "first_image_on_a_small_store",
    ),
    Fault(
        "a stop records a cut that is made good",
        "tests/test_cut.py::test_a_stop_makes_good_a_cut_of_nothing",
        (("mirror_core/target.py", "                self._cuts.begin(cuts)\n", ""),),
        "cut_at_a_stop",
    ),
    Fault(
        "that a store could not be read hides that a start found it smaller",
        "tests/test_cut.py::test_a_store_that_could_not_be_read_and_was_cut_then_is_asked_about",
        (("mirror_core/stores.py", "(is_harmed(known) and not unread)", "is_harmed(known)"),),
        "unread_hides_smaller",
    ),
    Fault(
        "what is left of a source's data that was cut while it runs is sent",
        "tests/test_cut.py::test_a_source_whose_data_was_cut_sends_no_more",
        (("mirror_core/driver.py", "if lost := cut.of_source(self._copier.members):",
          "if lost := []:"),),
        "cut_and_sent",
    ),
    Fault(
        "a target refuses because of a cut, and a kill forgets that (I1)",
        "tests/test_cut.py::test_who_refuses_because_of_a_cut_has_recorded_it[west] "
        "tests/test_hung_state.py::test_a_cut_is_remembered_while_a_store_hangs",
        (("mirror_core/target.py", "            self._remember_cut(self.lost_stores())\n", ""),),
        "refused_and_killed",
    ),
    Fault(
        "a source refuses because of a cut, and a kill forgets that",
        "tests/test_cut.py::test_who_refuses_because_of_a_cut_has_recorded_it[east]",
        (("mirror_core/driver.py", "            self._remember_cut(lost)\n", ""),),
        "not_sent_and_killed",
    ),
    Fault(
        "a look that ends late takes back what it has not seen (I1)",
        "tests/test_cut.py::test_who_refuses_because_of_a_cut_has_recorded_it",
        (("mirror_core/site.py", "words if now.volumes == before else {}", "words"),),
        "a_late_look_forgets",
    ),
    Fault(
        "a cut between a look at the source's data and the freeze is sent",
        "tests/test_cut.py::test_a_cut_that_comes_before_the_freeze_is_met_after_it",
        (("mirror_core/driver.py", "        self._refuse_cut()  # of before the freeze\n", ""),),
        "cut_before_the_freeze",
    ),
    Fault(
        "a commit leaves the word of a cut that it has made good (I1)",
        "tests/test_cut.py::test_a_commit_takes_back_the_word_of_a_cut",
        (("mirror_core/target.py",
          '                    "volumes": ledger.with_harmed(now.volumes, over),\n', ""),),
        "word_after_its_commit",
    ),
    Fault(
        "a commit takes back the word of a cut that came while it was under way (I1)",
        "tests/test_cut.py::test_a_commit_takes_back_no_word_that_is_newer",
        (("mirror_core/target.py", "ledger.with_harmed(now.volumes, over)",
          "ledger.with_harmed(mine.volumes, over)"),),
        "newer_word_and_its_commit",
    ),
    Fault(
        "a look that cannot look at a store forgets that it was cut (I1)",
        "tests/test_cut.py::test_a_look_that_fails_forgets_no_cut",
        (("mirror_core/site.py", "                if self.control.was_cut(*key):\n",
          "                self._look_at(one, size, [], [])\n"
          "                if self.control.was_cut(*key):\n"),),
        "failed_look_forgets",
    ),
    Fault(
        "of several stores that are smaller a start remembers the first (I1)",
        "tests/test_cut.py::test_a_start_remembers_each_store_that_is_smaller",
        (("mirror_core/site.py", "                    harmed.append(error)\n",
          "                    raise\n"),),
        "first_smaller_only",
    ),
    Fault(
        "a source whose cycle takes long does not hear that its target's image is lost",
        "tests/test_cut.py::test_a_long_cycle_is_told_of_a_lost_image",
        (("mirror_core/target.py", "            self._refuse_lost()\n            self._check_under",
          "            self._check_under"),),
        "lost_in_a_long_cycle",
    ),
    Fault(
        "a command that meets a smaller store remembers nothing (I1)",
        "tests/test_cut.py::test_a_command_that_meets_a_smaller_store_remembers_it",
        (("mirror_core/adoption.py", "    if changes:\n        with heard",
          "    if None:\n        with heard"),),
        "met_by_a_command_only",
    ),
    Fault(
        "who waits for a source whose data was cut waits for ever",
        "tests/test_cut.py::test_a_source_whose_data_was_cut_sends_no_more",
        (("mirror_core/driver.py", "self._say(str(error), refused=True)\n                elif not",
          "self._say(str(error))\n                elif not"),),
        "waits_for_a_cut_source",
    ),
    Fault(
        "a server's store that was larger for a while is refused at its own size",
        "tests/test_cut.py::test_a_server_s_store_that_was_larger_is_as_it_was",
        (("native/store_nbd.c", "size < (s->used ? s->used : s->size)", "size < s->size"),),
        "larger_for_a_while",
    ),
    Fault(
        "a cycle in which the source's data was cut is committed",
        "tests/test_cut.py::test_a_cut_that_comes_before_the_freeze_is_met_after_it",
        (("mirror_core/driver.py", "        self._refuse_cut()\n        if self._cuts_of",
          "        if self._cuts_of"),),
        "cut_in_a_cycle",
    ),
    Fault(
        "a cycle is committed whose first intermediate was cut (I1)",
        "tests/test_cut.py::test_a_cycle_is_not_committed_whose_intermediate_was_cut",
        (("mirror_core/driver.py", "if self._cuts_of_intermediates() != self._cuts:",
          "if False:"),),
        "its_intermediate_was_cut",
    ),
    Fault(
        "a server that answers with an error is not asked for its size (I1)",
        "tests/test_cut.py::test_nothing_of_the_image_is_hardened_that_was_cut[a-server]",
        (("native/store.c", "atomic_fetch_add (&s->doubts, 1)", "(void)0"),),
        "size_of_a_server_is_not_asked",
    ),
    Fault(
        "a server's error other than EIO says nothing of its size (I1)",
        "native:nbd",
        (("native/store.c", "return rc != -ENOTCONN && rc != -ETIMEDOUT &&",
          "return rc == -EIO && rc != -ETIMEDOUT &&"),),
        "ONLY_EIO_IS_A_DOUBT",
    ),
    Fault(
        "a server that takes no connection just now is not asked for its size any more (I1)",
        "native:nbd",
        (("native/flush.c", "      fm_pool_ask_size (s);", "      ;"),),
        "ASKED_ONCE",
    ),
    Fault(
        "who counts on a server's bytes does not wait for its size (I1)",
        "native:nbd",
        (("native/flush.c", "      ask_size (s);", "      (void)ask_size;"),),
        "SIZE_IS_NOT_WAITED_FOR",
    ),
    Fault(
        "a server that does not tell its size is waited for by each who counts on it",
        "native:nbd",
        (("native/flush.c", "s->in_vain != 1 + settled", "true"),),
        "WAITED_FOR_ITS_SIZE_EACH_TIME",
    ),
    Fault(
        "a slow server is not asked for its size while the pool is full (I1)",
        "native:nbd",
        (("native/pool.c", "(s->npool >= FM_POOL_MAX && !asks_size)", "s->npool >= FM_POOL_MAX"),),
        "FULL_POOL_ASKS_NO_SIZE",
    ),
    Fault(
        "a connection that has told a server's size stays for good",
        "native:nbd",
        (("native/pool.c", "p && s->asks_size && (!s->askers || s->npool > FM_POOL_MAX)", "0"),),
        "SIZE_TAKES_A_PLACE",
    ),
    Fault(
        "a full pool grows by each connection that tells a server's size while somebody waits",
        "native:pool",
        (("native/pool.c", "(!s->askers || s->npool > FM_POOL_MAX)", "!s->askers"),),
        "SIZE_FILLS_A_FULL_POOL",
    ),
    Fault(
        "a server that has told its size once is not asked at the next doubt (I1)",
        "native:nbd",
        (("native/flush.c", "      s->in_vain = 1 + settled;",
          "      s->in_vain = 1 + atomic_load (&s->settled);"),),
        "TOLD_ITS_SIZE_ONCE",
    ),
    Fault(
        "to ask a server for its size takes a connection from who has one",
        "native:nbd",
        (("native/flush.c", "      ask_size (s);", "      fm_pool_drop (s), ask_size (s);"),),
        "ASKED_IN_PLACE_OF_OTHERS",
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
        "a server that comes back without any bytes is one that is away (I1)",
        "tests/test_cut.py::test_a_server_s_store_that_came_back_smaller_is_not_sent[0] "
        "tests/test_cut.py::test_a_store_of_a_server_that_was_cut_is_not_as_it_was[True]",
        (("native/store_nbd.c", "  if (size < s->used)\n", "  if (size && size < s->used)\n"),
         ("mirror_core/stores.py", 'opened.size or opened.identity.kind != "device"',
          'opened.size or opened.identity.kind == "file"')),
        "empty_is_away",
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
        "a device that is away is promoted",
        "tests/test_unreadable.py::test_a_device_that_is_away_was_not_made_smaller",
        (("mirror_core/site.py", "            image.append(str(error))\n", "            pass\n"),),
        "promoted_without_a_disk",
    ),
    Fault(
        "a copy of what was left of a store is one of what it held (I1)",
        "tests/test_cut.py::"
        "test_a_copy_of_a_store_that_a_start_found_cut_is_what_a_person_says[False]",
        (("mirror_core/stores.py", '"" if is_harmed(record) else _bytes_of', "_bytes_of"),),
        "samples_of_a_copy",
    ),
    Fault(
        "a flush of a store that was made smaller than its volume is good (I1)",
        "native:store tests/test_unreadable.py::"
        "test_a_store_that_stays_too_small_is_not_committed_into",
        (("native/store_file.c", "(uint64_t)end < s->used &&", "0 &&"),),
        "SHORT_AND_FLUSHED",
    ),
    Fault(
        "a flush of such a store to which nothing was written is good",
        "native:store",
        (("native/flush.c", " && !(held && is_short (s))", ""),),
        "SHORT_SINCE_A_FLUSH",
    ),
    Fault(
        "a write makes a store large again that was made smaller, and hides that (I1)",
        "native:store",
        (("native/store_file.c", "if (s->knows_its_size && file_is_short (s))", "if (0)"),),
        "GROWS_AGAIN_UNSEEN",
    ),
    Fault(
        "all that a cycle copies into a file is left to its flush, for which clients' flushes wait",
        "native:store",
        (("native/lane.c", "|| l->cached < WRITE_OUT ||", "|| 1 ||"),),
        "ALL_IS_LEFT_TO_THE_FLUSH",
    ),
    Fault(
        "a disk that was slow to flush is thought to be quick the next time",
        "native:store",
        (("native/store_file.c", "    atomic_store (&s->flushes_slowly, true);\n", "    ;\n"),),
        "SLOW_IS_QUICK",
    ),
    Fault(
        "lone blocks are written out one by one where a flush of all is quick",
        "native:store",
        (("native/lane.c", "  if (!atomic_load (&first->flushes_slowly) && ", "  if (0 && "),),
        "QUICK_IS_SLOW",
    ),
    Fault(
        "a writer whose block is copied first waits for a place in the disk's queue",
        "native:store",
        (("native/lane.c", "  if (l->nslots == 1 || l->cached", "  if (l->cached"),),
        "WRITER_WAITS_FOR_THE_QUEUE",
    ),
    Fault(
        "what a disk refuses when something is begun to be written out is heard by nobody (I9)",
        "native:store",
        (("native/store_file.c", "SYNC_FILE_RANGE_WRITE) < 0 && (errno == EIO",
          "SYNC_FILE_RANGE_WRITE) < 0 && 0 && (errno == EIO"),),
        "WRITE_OUT_IS_NOT_HEARD",
    ),
    Fault(
        "a system that cannot begin to write out lets no cycle be committed",
        "native:store",
        (("native/store_file.c", " < 0 && (errno == EIO || is_full (-errno)))", " < 0)"),),
        "WRITE_OUT_IS_NEEDED",
    ),
    Fault(
        "what was sent to a sink 0 that had been made smaller counts as whole (I1)",
        "native:store",
        (("native/volume.c", "return rc == 0 && lost != known ?",
          "return rc == 0 && lost != known && v->first->below ?"),),
        "SINK_WAS_CUT",
    ),
    Fault(
        "what a sink 0 that is a server has lost beside its own flush counts as hardened (I2)",
        "native:failure",
        (("native/volume.c", "return rc == 0 && lost != known ?",
          "return rc == 0 && lost != known && !fm_store_is_server (v->first) ?"),),
        "SERVER_LOST_BESIDE_A_FLUSH",
    ),
    Fault(
        "what is written back to a file gives its space back",
        "native:lost",
        (("native/lane.c", "? FM_PUNCH | FM_KEEP :", "? FM_PUNCH :"),),
        "SPACE_GIVEN_BACK",
    ),
    Fault(
        "what is written back to a file fills its holes",
        "native:lost",
        (("native/store_file.c", "return at + n <= *hole_end;", "return false;"),),
        "HOLES_FILLED",
    ),
    Fault(
        "data that is written back to a file fills the holes beside it",
        "native:lost",
        (("native/lane.c", "FM_PUNCH | FM_KEEP : FM_KEEP,", "FM_PUNCH | FM_KEEP : 0,"),),
        "HOLES_BESIDE_DATA_FILLED",
    ),
    Fault(
        "what a process before has written is flushed only if this one writes, too (I9)",
        "native:lost",
        (("native/store.c", "atomic_init (&s->writes, 1);", "atomic_init (&s->writes, 1);\n  "
          "atomic_init (&s->covered, 1);"),),
        "NOTHING_WRITTEN_BEFORE",
    ),
    Fault(
        "what begins within a page and is written back fills the hole that follows",
        "native:lost",
        (("native/store_file.c", "KEEP_PAGE - (op->offset + at) % KEEP_PAGE;", "KEEP_PAGE;"),),
        "HOLES_CUT_INTO",
    ),
    Fault(
        "a thin device is filled with the zeroes that are written back to it",
        "tests/test_block_devices.py::test_what_a_client_has_trimmed_of_a_thin_device_stays_free",
        (("native/store_file.c", "if (is_device (fd) || fstatfs", "if (fstatfs"),
         ("native/store_file.c", "s->knows_its_size = s->knows_holes;",
          "s->knows_its_size = s->knows_holes && !is_device (fd);")),
        "THIN_DEVICE_FILLED",
    ),
    Fault(
        "a write that was given up voids the cycle that is copied after it has settled",
        "native:failure",
        (("native/volume.c", "= fm_late_refusal (v->first);", "= 0;"),),
        "LATE_WRITE_VOIDS_A_COPY",
    ),
    Fault(
        "what was lost before a retry makes that fail, too",
        "native:failure",
        (("native/volume.c", "int rc = begin_first (v);", "int rc = 0;"),),
        "RETRY_COUNTS_OLD_LOSSES",
    ),
    Fault(
        "a retry has counted what is late before a writer's copy has come to its end",
        "native:failure",
        (("native/volume.c",
          "  drain_claims (v); /* first: one of them may be given up; and nobody begins another "
          "until it is abandoned no more */\n  pthread_mutex_unlock (&v->lock);\n"
          "  int rc = begin_first (v);\n",
          "  pthread_mutex_unlock (&v->lock);\n  int rc = begin_first (v);\n"
          "  pthread_mutex_lock (&v->lock);\n  drain_claims (v);\n"
          "  pthread_mutex_unlock (&v->lock);\n"),),
        "LATE_COPY_VOIDS_A_RETRY",
    ),
    Fault(
        "what was stable in an intermediate that was made smaller is not sent again (I1)",
        "tests/test_unreadable.py::test_a_cycle_is_sent_again_whose_store_was_cut "
        "tests/test_cut.py::test_what_was_stable_in_a_cut_intermediate_is_sent_again",
        (("mirror_core/target.py",
          "anew or self._cuts.in_session(cuts, seeded=seeded) is not None", "anew"),),
        "stable_was_cut",
    ),
    Fault(
        "nor is it if the target is stopped before another session (I1)",
        "tests/test_unreadable.py::test_a_cycle_is_sent_again_whose_store_was_cut[and-stopped]",
        (("mirror_core/target.py", "                self._written.forget()\n"
          "                self._cuts.begin(cuts)\n", "                self._cuts.begin(cuts)\n"),),
        "stable_was_cut_at_a_stop",
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
        "of several stores that could not be read at a stop only the first is doubted (I1)",
        "tests/test_unreadable.py::test_each_store_that_could_not_be_read_at_a_stop_is_doubted",
        (("mirror_core/site.py", "                    yield key\n",
          "                    yield key\n                    return\n"),),
        "first_unreadable_only",
    ),
    Fault(
        "a store that could not be flushed at a stop is not looked at (I1)",
        "tests/test_unreadable.py::"
        "test_a_store_that_could_neither_be_flushed_nor_read_is_doubted[at-the-stop-west]",
        (("mirror_core/site.py", "        if not volumes:  # of what", "        if False:  #"),),
        "unflushed_and_unlooked",
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
        "a stop waits for a server that hangs once for each store",
        "tests/test_unreadable.py::"
        "test_a_stop_waits_for_a_server_that_hangs_not_once_for_each_store",
        (("mirror_core/site.py", "                    answers = False\n",
          "                    pass\n"),),
        "looks_at_all_that_hangs",
    ),
    Fault(
        "a comparison waits for the data store, of which no commit needs anything",
        "tests/test_compare.py::test_a_comparison_goes_on_without_the_data_store",
        (("mirror_core/target.py", "        except OSError:  # of data no commit",
          "        except ZeroDivisionError:  # of data no commit"),),
        "compares_with_data_only",
    ),
    Fault(
        "a device that is away was made smaller",
        "tests/test_unreadable.py::test_a_device_that_is_away_was_not_made_smaller",
        (("mirror_core/stores.py", "if not left and self.identity.kind != ",
          "if False and self.identity.kind != "),),
        "away_is_smaller",
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
        "what the record of a seed has heard is forgotten (I1, I9)",
        "tests/test_losing_disk.py::"
        "test_what_the_record_of_a_seed_hears_of_its_disk_is_heard_of_the_seed",
        (("mirror_core/resync.py", "        if lost and not force:\n", "        if False:\n"),),
        "heard_by_a_seed_s_record",
    ),
    Fault(
        "a look at a store that hangs holds up whoever asks",
        "tests/test_hung_state.py::test_a_store_that_hangs_holds_up_no_question",
        (("mirror_core/site.py", "            return next(iter(self._lost_stores()[0]), None)\n",
          "            return next(iter(self._look_and_record()[0]), None)\n"),),
        "asked_beside_a_hang",
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
        "stop does not look whether a store was deleted",
        f"{DELETED}_is_not_lost_by_a_stop_or_a_promotion",
        (("mirror_core/cli/running.py", "    if not force:\n", "    if False:\n"),),
        "stop_ends_a_deleted_store",
    ),
    Fault(
        "a promotion does not look whether a store was deleted",
        f"{DELETED}_is_not_lost_by_a_stop_or_a_promotion[west-data]",
        (("mirror_core/site.py", "        if lost:\n            raise StoreError(f\"cannot begin",
          "        if False:\n            raise StoreError(f\"cannot begin"),),
        "promotion_ends_a_deleted_store",
    ),
    Fault(
        "a source is not stopped while its intermediate is deleted",
        "tests/test_taken_away.py::"
        "test_a_source_s_deleted_intermediate_does_not_keep_it_from_stopping",
        (("mirror_core/cli/running.py",
          " and stores.place_of(settings, book, volume, part).counts", ""),),
    ),
    Fault(
        "a target does not tell of what its source could not write",
        "tests/test_failed_writes.py::"
        "test_a_target_whose_intermediate_is_full_says_so_until_it_is_written",
        (("mirror_core/target.py", "            if found.write_error and found.write_errors >",
          "            if False and found.write_errors >"),),
        "target_hides_a_full_disk",
    ),
    Fault(
        "a write counts on the anchor of before its connection was found to have ended",
        "native:lost",
        (("native/store.c", "if (!p || !number || atomic_load (&s->anchored) == *number)",
          "if (1)"),),
    ),
    Fault(
        "an anchor that has ended is given up after the look at what is not flushed",
        "native:order_store",
        (("native/flush.c",
          "  atomic_store (&s->anchored, 0); /* before `writes` is read: fm_store_written */\n",
          ""),
         ("native/flush.c", "  fm_pool_drop (s);\n}\n",
          "  atomic_store (&s->anchored, 0);\n  fm_pool_drop (s);\n}\n")),
    ),
    Fault(
        "a write is counted after the look at its anchor",
        "native:order_store",
        (("native/flush.c", "  atomic_fetch_add (&s->writes, 1);\n  if (rc == 0 && fm_store_is",
          "  if (rc == 0 && fm_store_is"),
         ("native/flush.c", "    fm_store_lose (s);\n}\n\nint\nfm_store_flush",
          "    fm_store_lose (s);\n  atomic_fetch_add (&s->writes, 1);\n}\n\n"
          "int\nfm_store_flush")),
    ),
    Fault(
        "only the first connection to a server is asked what it can do",
        "native:nbd",
        (("native/store_nbd.c", "if (rc == 0 && (rc = examine_again (p->store, h)) < 0)",
          "if (0 && (rc = examine_again (p->store, h)) < 0)"),),
        "ONLY_THE_FIRST_IS_ASKED",
    ),
    Fault(
        "a flush of much has no more time than one of little",
        "native:slow",
        (("native/store.c", "fm_now_ns () + left * FM_FLUSH_BYTE_NS", "fm_now_ns () + 0 * left"),),
        "NO_TIME_TO_FLUSH_MUCH",
    ),
    Fault(
        "zeroes in a server's cache are not counted as bytes to be flushed",
        "native:slow",
        (("native/store.c", "(op->kind == FM_WRITE || op->kind == FM_ZERO) && rc",
          "op->kind == FM_WRITE && rc"),),
        "ZEROES_ARE_NOT_TO_FLUSH",
    ),
    Fault(
        "the room for requests is shared by all stores, and none has its own",
        "native:room",
        (("native/room.c", "if (!own || *own)", "if (own || !own)"),),
        "ONE_ROOM_FOR_ALL",
    ),
    Fault(
        "the background has as many buffers as ever, however long its pieces are",
        "native:room",
        (("native/room.h", "#define FM_PIECE_BULK (2 * FM_MIB)",
          "#define FM_PIECE_BULK (32 * FM_MIB)"),
         ("native/lane.c", "l->nslots = nslots > FM_ROOM_BULK / l->piece ?",
          "l->nslots = 0 ?")),
        "BUFFERS_OF_ANY_SIZE",
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
        "who looks at a server waits until its flush has ended",
        "native:lost",
        (("native/flush.c", "  if (!try_hold_flush (s, &came))\n    return -EBUSY;\n",
          "  hold_flush (s, UINT64_MAX, &came);\n"),),
        "LOOK_WAITS_FOR_A_FLUSH",
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
        "who comes back is not told of a loss of which somebody else has heard",
        "native:lost simulate:10000",
        (("native/news.c", "return fm_now_ns () < since", "return 0 && fm_now_ns () < since"),),
        "NOT_TOLD_AGAIN",
    ),
    Fault(
        "a server is recorded as known while somebody may come back who was not told",
        "tests/test_server_instance.py::test_a_stranger_hears_for_nobody_else",
        (("mirror_core/server_instance.py", "if failed or volume.news_is_due():", "if failed:"),
         ("mirror_core/server_instance.py", "if not volume.news_is_due():", "if True:")),
        "one_hears_for_all",
    ),
    Fault(
        "a file whose ports are in use is taken for a silent server",
        "native:pool",
        (("native/pool.c", "if (!fm_store_is_server (s))", "if (0)"),),
    ),
    Fault(
        "an orderly stop forgets the loss that a client has not heard of",
        "tests/test_lost_flush.py::test_no_end_hides_a_loss_from_a_client",
        (("mirror_core/server_instance.py", 'lost = went_back or name in before.get("untold", ())',
          "lost = went_back"),),
        "stop_forgets_a_loss",
    ),
    Fault(
        "who came shortly before a loss and leaves is forgotten",
        "native:lost",
        (("native/news.c", "(was_there || now >=", "((was_there && 0) || now >="),),
        "LEAVER_IS_FORGOTTEN",
    ),
    Fault(
        "a kill forgets what the process before was to tell of a file",
        "tests/test_server_instance.py::test_a_loss_of_a_file_survives_a_kill",
        (("mirror_core/server_instance.py", "if self._volumes or self._untold:",
          "if self._volumes:"),),
    ),
    Fault(
        "a stop is in order while a server may still do a write that was given up",
        "tests/test_lost_store.py::test_a_stop_with_a_late_write_is_none_in_order",
        (("mirror_core/stores.py", "if not self.store.is_settled():", "if False:"),),
        "late_write_is_in_order",
    ),
    Fault(
        "who cannot look for the connections takes them all for ended",
        "native:callers",
        (("native/callers.c", "    return -errno;\n", "    return 0;\n"),),
        "CALLERS_ALL_ENDED",
    ),
    Fault(
        "a write does not wait for a late one of an older connection",
        "native:lost",
        (("native/store_nbd.c", "is_write (op) ? fm_late_refusal (p->store) : 0",
          "0"),),
        "LATE_WRITE_OVERTAKEN",
    ),
    Fault(
        "a write whose connection was ended is said to be a server that is slow",
        "native:lost",
        (("native/late.c", "int rc = s->late ? -ENOTCONN : 0;", "int rc = -ETIMEDOUT;"),),
        "ENDED_IS_SLOW",
    ),
    Fault(
        "a store flushes for a write with FUA, and others flush meanwhile",
        "native:order_store",
        (("native/store.c", "  op->flags &= ~(unsigned)FM_FUA;\n", ""),
         ("native/store.c", "return rc == 0 && durable ? 1 : rc;", "return rc;")),
        "FUA_FLUSHES_BY_ITSELF",
    ),
    Fault(
        "a write with FUA is durable without a flush",
        "native:order_store",
        (("native/store.c", "return rc == 0 && durable ? 1 : rc;", "return rc;"),),
        "FUA_UNFLUSHED",
    ),
    Fault(
        "who waits for a flush waits for his own, though another's has covered him",
        "native:durable",
        (("native/flush.c", "while (s->flush_held && !is_done (s, wanted))",
          "while (s->flush_held)"),),
        "EACH_WAITS_FOR_HIS_OWN",
    ),
    Fault(
        "each who waits for a silent server tries it himself",
        "native:durable",
        (("native/flush.c", "came <= s->failed_for ? s->failed_rc : open_anchor (s)",
          "open_anchor (s)"),
         ("native/flush.c", "else if (came <= s->failed_for)", "else if (0)")),
        "EACH_TRIES_HIMSELF",
    ),
    Fault(
        "what was written while a flush was under way counts as covered by it",
        "native:order_store",
        (("native/flush.c", "  uint64_t covers = atomic_load (&s->writes);\n", ""),
         ("native/flush.c", "atomic_store (&s->covered, covers);",
          "atomic_store (&s->covered, atomic_load (&s->writes));")),
    ),
    Fault(
        "a write that was not sent to a server counts as one to be flushed",
        "native:durable",
        (("native/store.c", "  if (!op->refused)\n", ""),),
        "REFUSED_IS_WRITTEN",
    ),
    Fault(
        "a zero of which a part was done counts as one that was not sent",
        "native:durable",
        (("native/parts.c", "    t->op.refused = false; /* the part before it was done */\n", ""),),
        "PART_IS_REFUSED",
    ),
    Fault(
        "what a device shows and has lost is copied, and not written back (I9)",
        "tests/test_losing_disk.py::test_what_a_device_has_lost_is_not_copied_from_its_cache",
        (("native/volume.c", "v[i]->restores = !v[i]->strict && lost",
          "v[i]->restores = !v[i]->strict && fm_store_is_server (v[i]->front) && lost"),),
        "DEVICE_IS_BELIEVED",
    ),
    Fault(
        "of two connections that have ended, only the first that is lent is looked at",
        "native:pool",
        (("native/pool.c", "  } while (since < until);\n",
          "  } while (0);\n  if (s)\n    return wait_for_one (s, since, rc);\n"),),
        "FIRST_ENDED_IS_LOOKED_AT",
    ),
    Fault(
        "who has waited long for a connection that has ended is lent no other one",
        "native:pool",
        (("native/pool.c", "uint64_t since = fm_now_ns (), until = 0;",
          "uint64_t since = fm_now_ns (), until = since + s->timeout_ns;"),),
        "LONG_WAIT_LENT_NONE",
    ),
    Fault(
        "who finds no free connection to a server opens another, however long that hangs",
        "native:pool",
        (("native/pool.c", "else if (s->npool == 0) {", "else if (!s->idle) {"),),
        "HANGS_FOR_ONE_MORE",
    ),
    Fault(
        "a store is asked for 64 MiB at once, whatever it has shown",
        "native:zero "
        "tests/test_slow.py::test_a_trim_on_a_slow_store_holds_up_nobody",
        (("native/parts.c", "? fm_pace_piece (&s->pace[kind])", "? FM_PACE_MOST"),),
        "AS_MUCH_AS_EVER_AT_ONCE",
    ),
    Fault(
        "bytes that the other side takes are no movement",
        "native:slow",
        (("native/store_nbd.c", "  .drains = nbd_drains,\n", ""),
         ("native/store_nbd.c", "static bool\nnbd_drains",
          "bool nbd_drains (struct fm_port *);\nbool\nnbd_drains")),
        "TAKEN_IS_NO_MOVEMENT",
    ),
    Fault(
        "a server that went with unflushed writes is just connected to again (I9)",
        "native:lost",
        (("native/flush.c", "  if (writes > atomic_load (&s->covered) && writes > s->before)\n"
          "    fm_store_lose (s);\n", ""),),
        "SERVER_JUST_CONNECTED",
    ),
    Fault(
        "only who asks first hears of a failed flush (I9)",
        "native:lost",
        (("native/flush.c", "return rc == 0 && lost != known ? -EIO : rc;",
          "return rc + 0 * (int)(lost - known);"),),
        "FIRST_HEARS_ALONE",
    ),
    Fault(
        "what was given up may come later",
        "native:lost",
        (("native/late.c", "  if (atomic_load (&s->nlate) == 0)\n    return true;\n",
          "  return true;\n"),),
        "LATE_WRITES",
    ),
    Fault(
        "a store that holds other bytes than its site's stop has left is taken (I7)",
        "tests/test_store_back.py::test_a_store_alone_that_went_back_is_refused_after_a_stop",
        (("mirror_core/stores.py", "has=opened.has(before, size)", "has=True"),),
        "any_bytes_after_a_stop",
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
        "a file of a server that shows what its disk has lost is a seed (I9)",
        "tests/test_holes.py::test_what_a_site_wrote_on_such_a_file_system_is_no_seed",
        (("mirror_core/resync.py", "and not _can_drop_caches(config):", "and False:"),),
        "file_of_a_server_is_a_seed",
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
    Fault(
        "a server that was adopted has lost nothing before (I9)",
        "tests/test_doubt.py::test_a_server_that_was_adopted_is_in_doubt",
        (("mirror_core/adoption.py",
          'if place.part == "intermediate" and (doubtful or not one.cached_here):', "if False:"),),
        "adopted_without_doubt",
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
        "what a disk has refused counts at the second start, which reads a cache (I9)",
        "tests/test_identity.py::test_what_a_disk_has_refused_never_counts",
        (("native/store_file.c", "  if (rc < 0)\n    file_forget (s);\n  else if (",
          "  if (rc == 0 && ("),
         ("native/store_file.c", "is_short (s)) {\n    fm_store_cut (s);\n    rc = -EIO;",
          "is_short (s))) {\n    fm_store_cut (s);\n    rc = -EIO;"),
         ("mirror_core/stores.py", "        _drop_caches(ones)\n        text =", "        text ="),
         ("mirror_core/stores.py", "if opened.is_one_of(place.unflushed):", "if False:")),
        "REFUSED_COUNTS_LATER",
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
        "a copy that could not be flushed is a seed once it is adopted (I9)",
        "tests/test_losing_disk.py::test_an_adoption_whose_flush_failed_is_followed_by_none_that_trusts_the_store",
        (("mirror_core/adoption.py", "        book = replace(book, doubtful_data=True)\n",
          "        pass\n"),),
        "unflushed_copy_is_a_seed",
    ),
    Fault(
        "a seed is flushed at a start before it is in doubt (I9)",
        "tests/test_losing_disk.py::test_a_seed_that_a_device_has_refused_is_given_up",
        (("mirror_core/site.py",
          '            if current.role == "target" and not current.whole:\n',
          "            if False:\n"),),
        "seed_flushed_too_soon",
    ),
    Fault(
        "one of a device's lasting identities is enough (I7)",
        "tests/test_identity.py::test_judge",
        (("mirror_core/identity.py", "if all(before[k] == now[k] for k in shared)",
          "if any(before[k] == now[k] for k in shared)"),),
        "one_identity_is_enough",
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
        "what was stable in a lost intermediate counts as written (I3)",
        "tests/test_adopt.py::"
        "test_what_a_cycle_had_made_stable_in_a_lost_intermediate_is_sent_again",
        (("mirror_core/adoption.py",
          "        platform.unlink(written.path_in(config.state, book))\n", "        pass\n"),),
        "stable_in_a_lost_store",
    ),
    Fault(
        "a refused store does not say what its adoption costs",
        "tests/test_adopt.py::test_what_an_adoption_costs_is_said_before_it_is_done",
        (("mirror_core/stores.py", "if not self.image or fits:", "if not self.image or True:"),),
    ),
    Fault(
        "a store that fails is tried again and again, without a pause",
        "tests/test_store_faults.py::test_a_fault_of_a_store_passes[east-data]",
        (("mirror_core/driver.py",
          "        self._retry_at = self._platform.monotonic() + self._backoff * "
          "self._platform.uniform(\n            0.5, 1.0\n        )\n",
          "        self._retry_at = self._platform.monotonic()\n"),),
        "tried_without_a_pause",
    ),
    Fault(
        "a source does not say which store is in its way",
        "tests/test_store_faults.py::test_a_fault_of_a_store_passes",
        (("mirror_core/flashcopy.py", 'return f"{where[error.part]}: {error}: {advice}"',
          'return f"{error}: {advice}"'),),
        "store_unnamed",
    ),
)  # fmt: skip
