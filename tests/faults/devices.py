"""Faults of an attached device, and of a machine that boots and goes down."""

from __future__ import annotations

from faults.fault import Fault

UNMOUNTING = "tests/test_unmounting.py"
ATTACH = "tests/test_attach.py"
BOOT = "tests/kernel/test_boot.py"

FAULTS = (
    Fault(
        "a site stops before what is mounted on its devices is unmounted",
        f"{BOOT}::test_a_volume_that_was_mounted_by_hand_is_unmounted_before_its_site_stops",
        (("systemd/flashmirror@.service", "!= stopping ] || exec", "!= stopping ] || echo"),),
        "stops_before_unmounting",
    ),
    Fault(
        "what is mounted below a volume keeps it mounted until its site is gone",
        f"{BOOT}::test_a_volume_that_was_mounted_by_hand_is_unmounted_before_its_site_stops",
        (("systemd/flashmirror@.service", "--unmount --going-down", "--unmount"),),
    ),
    Fault(
        "a holder gives up at once what its site has not begun to serve",
        f"{BOOT}::test_a_volume_of_fstab_is_mounted_and_outlives_a_killed_site",
        (("mirror_core/limits.py", "ATTACH_SITE_S = 10.0", "ATTACH_SITE_S = 0.0"),),
        "holder_gives_up_at_once",
    ),
    Fault(
        "a holder waits for ever when its site was updated to other protocols",
        f"{ATTACH}::test_a_holder_outlives_an_update_of_its_site_to_other_protocols "
        "tests/kernel/test_attached.py::"
        "test_a_device_goes_on_when_its_site_was_updated_to_other_protocols",
        (("mirror_core/attach.py", "            spoken = error.asked\n", "            raise\n"),),
        "holder_of_an_older_protocol_waits",
    ),
    Fault(
        "a holder that nobody can ask for is in the way of one that could",
        f"{ATTACH}::test_a_holder_that_nobody_can_ask_for_makes_way_for_another",
        (("mirror_core/attach.py", "            self._make_way(error)\n", ""),),
        "outlived_holder_stays",
    ),
    Fault(
        "a holder that asks by another program meets another history",
        f"{ATTACH}::test_a_holder_outlives_an_update_of_its_site_to_other_protocols",
        (("mirror_core/attach.py", "            return lineage\n",
          '            return self._device.backend.rpartition("/")[2]\n'),),
        "asked_for_is_believed",
    ),
    Fault(
        "a holder looks for its site only where that listened when it was attached",
        f"{ATTACH}::test_a_holder_finds_a_site_that_listens_elsewhere_since",
        (("mirror_core/attach.py", "                if not (moved := self._moved()):",
          "                if not (moved := None):"),),
        "holder_stays_where_its_site_was",
    ),
    Fault(
        "two attaches make two holders of one device",
        f"{ATTACH}::test_one_process_holds_a_device "
        "tests/kernel/test_device_instants.py::test_whatever_comes_of_it_the_device_works",
        (("mirror_core/holders.py", "            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
          "            pass\n"),),
        "two_holders",
    ),
    Fault(
        "a mount at boot gives up a site that comes late",
        f"{BOOT}::test_a_site_that_comes_late_is_mounted_when_it_comes",
        (("docs/attach.md", "x-systemd.device-timeout=infinity,x-systemd.after=",
          "x-systemd.device-timeout=1,x-systemd.after="),),
    ),
    Fault(
        "what stands on a device by way of another one stays mounted",
        "tests/test_unmounting.py::test_everything_that_stands_on_a_device_is_unmounted",
        (("mirror_core/mounted.py",
          "if wanted & _Certain(mounts, loops, platform).mount(m)", "if wanted & {m.number}"),),
        "device_by_way_of_another",
    ),
    Fault(
        "what is mounted is unmounted before what is mounted on it",
        "tests/test_unmounting.py::test_everything_that_stands_on_a_device_is_unmounted",
        (("mirror_core/mounted.py", "        for mount in reversed(self._mounts):",
          "        for mount in self._mounts:"),),
    ),
    Fault(
        "who uses what is mounted is not waited for",
        "tests/test_unmounting.py::test_who_uses_what_is_mounted_is_waited_for_and_no_longer_than_said",
        (("mirror_core/unmounting.py", "if self._is_late and (reasons or was_late):",
          "if reasons:"),),
        "unmounts_what_is_used",
    ),
    Fault(
        "who uses what is mounted is waited for without end",
        "tests/test_unmounting.py::test_who_uses_what_is_mounted_is_waited_for_and_no_longer_than_said",
        (("mirror_core/unmounting.py", "if self._is_late and (reasons or was_late):",
          "if False:"),),
    ),
    Fault(
        "what others mount over it while it is written is unmounted in its place",
        f"{UNMOUNTING}::test_what_is_mounted_in_between_is_not_taken_for_it",
        (("mirror_core/unmounting.py", "or self._leads_to(mount) else", "or mount else"),),
        "unmounts_what_came_between",
    ),
    Fault(
        "a device in use keeps the others mounted",
        "tests/test_unmounting.py::test_a_device_in_use_keeps_no_other_one_mounted",
        (("mirror_core/unmounting.py", "for m in stack.order]", "for m in stack.order[-1:]]"),),
    ),
    Fault(
        "a file system that does not answer takes the time of the others",
        f"{UNMOUNTING}::test_a_file_system_that_does_not_answer_takes_no_time_from_the_others",
        (("mirror_core/unmounting.py",
          "        until = time.monotonic() + limits.DEVICE_BUSY_S\n",
          "        until = self._deadline\n"),),
        "hung_takes_the_time",
    ),
    Fault(
        "what is slow to be written is begun again in each round",
        f"{UNMOUNTING}::test_a_file_system_that_does_not_answer_takes_no_time_from_the_others",
        (("mirror_core/unmounting.py", "if words not in self._begun:", "if True:"),),
    ),
    Fault(
        "what is unmounted as the time ends is said to be mounted",
        f"{UNMOUNTING}::test_what_is_unmounted_as_the_time_ends_is_done",
        (("mirror_core/unmounting.py", "if self._is_late and (reasons or was_late):",
          "if self._is_late:"),),
    ),
    Fault(
        "a file system that could not be written is said to be unmounted, and no more",
        f"{UNMOUNTING}::test_what_could_not_be_written_is_said",
        (("mirror_core/unmounting.py", "            if self._lost:\n", "            if False:\n"),),
    ),
    Fault(
        "check opens an intermediate that a running site waits for",
        "tests/test_away.py::test_check_opens_nothing_that_a_running_site_waits_for",
        (("mirror_core/cli/checking.py", "            why = waits_for[volume]",
          "            stores.open_store(where, 1)\n"
          "            why = waits_for[volume]"),),
    ),
    Fault(
        "of several devices those after one that refuses stay attached",
        "tests/test_attach.py::test_all_devices_of_a_site_are_detached_whichever_refuses",
        (("mirror_core/cli/attaching.py", 'refusals.append(f"{error}{whose}")',
          'refusals.append(f"{error}{whose}")\n                break'),),
        "stays_behind_a_refusal",
    ),
    Fault(
        "a device is detached whose number was given to another volume meanwhile",
        f"{ATTACH}::test_a_number_that_was_given_to_another_volume_is_not_detached",
        (("mirror_core/attach.py",
          "        refuse_another(device)  # who has it open keeps its number for it\n",
          ""),),
        "number_given_away_is_detached",
    ),
    Fault(
        "a holder says that it is ready to another place than it was told",
        f"{ATTACH}::test_ready_is_said_to_a_socket_whatever_its_folder_is_called",
        (("mirror_core/attach.py", 're.sub("^@", ', 're.sub("@", '),),
        "ready_said_elsewhere",
    ),
    Fault(
        "attach says that a device is attached whose holder could not begin",
        f"{ATTACH}::test_an_attach_whose_holder_ends_is_not_said_to_have_begun_one",
        (("mirror_core/attach.py",
          "is None or not holders.is_held(device.backend):\n        status =",
          "is None:\n        status ="),),
        "said_to_be_held",
    ),
    Fault(
        "an attach that takes too long does not say that somebody goes on with it",
        f"{ATTACH}::test_an_attach_that_takes_long_says_who_goes_on_with_it",
        (("mirror_core/attach.py", "process {child} goes on with \"\n", "it is given up \"\n"),),
        "attaches_without_a_word",
    ),
    Fault(
        "what a log had before is said to be the last words of a holder that was killed",
        f"{ATTACH}::test_an_attach_whose_holder_is_killed_says_so",
        (("mirror_core/attach.py", "if os.WIFSIGNALED(status):", "if False:"),),
        "killed_holder_has_last_words",
    ),
    Fault(
        "a volume is attached after detach has said that it is not",
        f"{ATTACH}::test_detach_ends_who_is_attaching_and_has_no_device_yet",
        (("mirror_core/attach.py", "if number := holders.process_of(backend):",
          "if number := None:"),),
        "attaching_goes_on",
    ),
    Fault(
        "detach ends the holder of a device that is in use",
        f"{ATTACH}::test_detach_ends_who_is_attaching_and_has_no_device_yet",
        (("mirror_core/attach.py",
          "    if kernel.find(backend) is not None:\n        return None\n", ""),),
    ),
    Fault(
        "a unit that ends detaches what was attached by hand since",
        f"{ATTACH}::test_a_unit_that_ends_leaves_alone_what_was_attached_by_hand_since",
        (("mirror_core/attach.py",
          "    refuse_another(device)\n    _refuse_held(device, held_by)\n",
          "    refuse_another(device)\n    held_by = None\n"),),
        "unit_detaches_another_s",
    ),
    Fault(
        "a unit that ends gives up what is being attached by hand",
        f"{ATTACH}::test_a_unit_that_ends_leaves_alone_what_was_attached_by_hand_since",
        (("mirror_core/cli/attaching.py", "if going_down or held_by is not None else",
          "if going_down else"),),
    ),
    Fault(
        "a holder that comes while a unit's detach waits is ended",
        f"{ATTACH}::test_a_holder_that_comes_while_a_unit_s_detach_waits_is_left_alone",
        (("mirror_core/attach.py", "        _refuse_held(device, held_by)\n        holders",
          "        holders"),),
    ),
    Fault(
        "the unit of a device says of no holder that it is its own",
        "tests/test_systemd.py::test_an_attached_volume_is_named_by_its_instance",
        (("systemd/flashmirror-attach@.service", ' --held-by "$$MAINPID"', ""),),
        "unit_stops_whatever_holds",
    ),
    Fault(
        "systemd ends a detach before it has said why it refuses",
        "tests/test_systemd.py::test_systemd_waits_longer_than_a_stop_may_take",
        (("systemd/flashmirror-attach@.service", "TimeoutStopSec=115s\n", ""),),
        "ends_a_detach_early",
    ),
    Fault(
        "a stranger says that a device is attached",
        f"{ATTACH}::test_a_stranger_does_not_say_that_a_device_is_attached",
        (("mirror_core/attach.py",
          "                if kernel.find(device.backend) is not None:", "                if 1:"),),
        "stranger_says_attached",
    ),
    Fault(
        "a holder that is stopped stays, in the way of the next one",
        f"{ATTACH}::test_a_holder_that_is_stopped_is_ended",
        (("mirror_core/holders.py",
          "                    signal.pidfd_send_signal(handle, signal.SIGCONT)"
          "  # it may be stopped\n", ""),),
        "stopped_holder_stays",
    ),
    Fault(
        "detach ends a process that has the number of a holder in another container",
        f"{ATTACH}::test_a_number_of_another_container_is_nobody_s_to_signal",
        (("mirror_core/holders.py", "            if _is_holder(number, name):",
          "            if process_of(name) == number:"),),
        "number_of_another_container",
    ),
    Fault(
        "a holder in a container of this machine is not found",
        f"{ATTACH}::test_a_holder_in_a_container_of_this_machine_is_ended_from_outside",
        (("mirror_core/holders.py", "int(own[1] if own else number)", "number"),),
    ),
    Fault(
        "what a program has written as it closed a device is lost when that is detached",
        f"{ATTACH}::test_what_was_written_to_a_device_is_on_it_before_it_is_disconnected",
        (("mirror_core/attach.py", "            _write_out(index)\n", "            pass\n"),),
        "detached_unwritten",
    ),
    Fault(
        "a device is detached though what was written to it cannot be on its volume",
        f"{ATTACH}::test_what_cannot_be_written_keeps_a_device_attached",
        (("mirror_core/attach.py", "        if number := int(said or errno.EIO):\n",
          "        if number := 0 * len(said):\n"),),
        "detached_though_unwritten",
    ),
    Fault(
        "what has become another volume's, or never was ours, is unmounted",
        f"{ATTACH}::test_what_is_not_ours_is_not_unmounted",
        (("mirror_core/cli/attaching.py", "                attaching.refuse_another(one)\n", ""),),
        "unmounts_another_s",
    ),
    Fault(
        "the unmounting asks once for what is meant",
        f"{UNMOUNTING}::test_what_is_another_s_by_now_is_not_unmounted",
        (("mirror_core/unmounting.py",
          "self._all, self._deadline = devices, deadline",
          "self._all, self._deadline = frozenset(devices), deadline"),),
        "asks_once_what_is_meant",
    ),
    Fault(
        "who has a device by another name is not found, and it is detached",
        f"{ATTACH}::test_who_has_a_device_is_found_whatever_it_calls_it",
        (("mirror_core/attach.py", 're.compile(r"^/dev/|/dev/nbd', 're.compile(r"/dev/nbd'),),
        "known_by_its_name_only",
    ),
    Fault(
        "a process whose main thread has ended has nothing open",
        f"{ATTACH}::test_who_has_a_device_is_found_whatever_has_become_of_its_main_thread "
        f"{ATTACH}::test_a_holder_whose_main_thread_has_ended_is_ended",
        (("mirror_core/holders.py",
          '    for thread in os.listdir(f"/proc/{number}/task"):', "    for thread in ():"),),
        "ended_main_thread_has_nothing",
    ),
    Fault(
        "what was made of a device is not named",
        f"{ATTACH}::test_what_was_made_of_a_device_is_named",
        (("mirror_core/kernel.py", '*node.glob("*/holders/*")]', "]"),),
    ),
    Fault(
        "a process that ends is in the way of a detach",
        f"{ATTACH}::test_a_process_that_ends_is_in_no_detach_s_way",
        (("mirror_core/attach.py",
          "    with contextlib.suppress(OSError):\n        for fd in holders.descriptors(number):",
          "    with contextlib.nullcontext():\n        for fd in holders.descriptors(number):"),),
        "ending_process_is_in_the_way",
    ),
    Fault(
        "what cannot be looked at of one device leaves the others attached",
        f"{ATTACH}::test_what_cannot_be_looked_at_of_one_device_leaves_no_other_attached",
        (("mirror_core/cli/attaching.py",
          "except OSError as error:  # whatever it is, there may be others",
          "except ZeroDivisionError as error:"),),
        "stays_behind_an_error",
    ),
    Fault(
        "a device whose name is no text hides all others",
        "tests/test_attach.py::test_a_device_of_somebody_elses_whose_name_is_no_text_hides_none",
        (("mirror_core/kernel.py",
          'identity.text(_BLOCK_DEVICES / f"nbd{index}" / "backend")',
          '(_BLOCK_DEVICES / f"nbd{index}" / "backend").read_text().strip()'),),
    ),
    Fault(
        "a digit of another script, or a zero before it, names a device",
        f"{ATTACH}::test_what_only_looks_like_a_device_s_name_is_none",
        (("mirror_core/attach.py", "(0|[1-9][0-9]{0,5})", "(\\d{1,6})"),),
        "any_digit_names_a_device",
    ),
    Fault(
        "what only looks like a device is in the way of those that are",
        f"{ATTACH}::test_what_only_looks_like_a_device_s_name_is_none",
        (("mirror_core/kernel.py", '"nbd([0-9]+)"', '"nbd(.*)"'),),
        "looks_like_a_device",
    ),
    Fault(
        "a mount point whose name is no text is neither written nor unmounted",
        f"{UNMOUNTING}::test_whatever_the_folder_is_called_it_is_written_and_unmounted",
        (("mirror_core/identity.py", 'os.fsdecode(platform.read(path)).removesuffix("\\n")',
          'platform.read(path).decode(errors="replace").strip(" \\t\\r\\n\\0")'),),
        "mount_point_is_text",
    ),
    Fault(
        "what is said of a mount point does something to a terminal",
        f"{UNMOUNTING}::test_whatever_the_folder_is_called_it_is_written_and_unmounted "
        f"{UNMOUNTING}::test_a_folder_whose_name_is_no_text_is_named_as_a_shell_takes_it",
        (("mirror_core/errors.py", "c if c.isprintable() else _escaped(c)", "c"),),
    ),
    Fault(
        "a loop device is not found by a path that is no text",
        "tests/test_elsewhere.py::"
        "test_a_loop_device_is_found_whatever_the_folders_above_are_called",
        (("mirror_core/below.py", 'lines = identity.text(_PROC / process / "mountinfo", platform)',
          'lines = os.fsencode(identity.text(_PROC / process / "mountinfo", platform)).decode('
          'errors="replace")'),),
        "loop_path_is_text",
    ),
    Fault(
        "a mistake in a configuration keeps everything mounted when the machine goes down",
        f"{ATTACH}::"
        "test_nothing_in_a_configuration_or_ledger_keeps_a_device_when_the_machine_goes_down "
        f"{UNMOUNTING}::"
        "test_a_configuration_with_a_mistake_keeps_nothing_mounted_when_the_machine_goes_down",
        (("mirror_core/attached.py", 'return GoingDown(known, None, f"{error}")', "raise"),),
        "mistake_keeps_it_mounted",
    ),
    Fault(
        "a state folder that hangs keeps everything mounted when the machine goes down",
        "tests/test_hung_state.py::"
        "test_a_state_folder_that_hangs_keeps_no_device_when_the_machine_goes_down",
        (("mirror_core/attached.py", "    process.refuse_hung(site)\n", ""),),
        "hung_folder_keeps_it_mounted",
    ),
    Fault(
        "a ledger of other volumes or blocks keeps everything mounted when the machine goes down",
        f"{ATTACH}::"
        "test_nothing_in_a_configuration_or_ledger_keeps_a_device_when_the_machine_goes_down",
        (("mirror_core/attached.py", "        named = _book_of(settings).name\n",
          "        from mirror_core.lock import check_ledger\n"
          "        check_ledger(settings, ledger.load(settings.state))\n"
          "        named = settings.name\n"),),
    ),
    Fault(
        "a site's name that its file and its ledger give differently is believed",
        f"{ATTACH}::"
        "test_nothing_in_a_configuration_or_ledger_keeps_a_device_when_the_machine_goes_down",
        (("mirror_core/attached.py", "        if named != settings.name:\n",
          "        named = settings.name\n        if False:\n"),),
        "edited_name_is_believed",
    ),
    Fault(
        "another site's devices are unmounted for a mistake in this one's configuration",
        f"{ATTACH}::"
        "test_nothing_in_a_configuration_or_ledger_keeps_a_device_when_the_machine_goes_down",
        (("mirror_core/attached.py", "if not _is_of_another(one, path)]", "]"),),
    ),
    Fault(
        "a device of an earlier history is not attached",
        f"{ATTACH}::test_a_device_of_an_earlier_history_is_its_site_s_and_is_named",
        (("mirror_core/attached.py", "one.lineage == today or not _is_of_another(one, site.path)",
          "one.lineage == today"),),
        "earlier_history_is_not_attached",
    ),
    Fault(
        "a device is any site's that has its name",
        f"{ATTACH}::test_a_device_of_another_site_of_the_same_name_is_not_touched",
        (("mirror_core/attached.py", "one.lineage == today or not _is_of_another(one, site.path)",
          "True"),),
        "any_site_of_the_name",
    ),
    Fault(
        "a history that nobody serves takes the time of today's",
        f"{ATTACH}::test_a_history_that_nobody_serves_takes_no_time_from_the_one_of_today",
        (("mirror_core/cli/attaching.py", 'group = groups.setdefault(one.lineage, {})',
          'group = groups.setdefault("", {})'),),
        "nobody_takes_the_time",
    ),
    Fault(
        "what an overlay reads does not count",
        f"{UNMOUNTING}::test_an_overlay_of_a_folder_there_is_unmounted_before_it",
        (("mirror_core/mounted.py", "(*mount.named, *mount.lower)", "mount.named"),),
    ),
    Fault(
        "a file system that lives on is said to be unmounted",
        f"{UNMOUNTING}::test_a_file_system_that_lives_on_has_written_and_is_not_said_to_be_gone "
        f"{UNMOUNTING}::test_what_was_unmounted_with_files_open_is_waited_for",
        (("mirror_core/mounted.py", "return error.errno == errno.EBUSY", "return False"),),
        "lives_on_is_unmounted",
    ),
    Fault(
        "a disk is asked whether it is held, and not its partitions",
        f"{UNMOUNTING}::test_a_partition_stands_on_its_disk",
        (("mirror_core/mounted.py", 'node.glob("*/partition")', 'node.glob("*/none")'),),
    ),
    Fault(
        "a file system is unmounted and not synced",
        f"{UNMOUNTING}::test_a_file_system_that_lives_on_has_written_and_is_not_said_to_be_gone "
        f"{UNMOUNTING}::test_who_uses_what_is_mounted_is_waited_for_and_no_longer_than_said",
        (("mirror_core/unmounting.py",
          "self._write(mount.point for mount in stack.order if mount not in strange)",
          "self._write([])"),),
        "unmounted_unsynced",
    ),
    Fault(
        "what another mount namespace has is not waited for",
        f"{UNMOUNTING}::test_a_mount_of_another_namespace_is_waited_for_and_named",
        (("mirror_core/mounted.py", "if namespace and namespace not in seen:", "if False:"),),
    ),
    Fault(
        "what another mount namespace has is not written",
        f"{UNMOUNTING}::test_a_mount_of_another_namespace_is_waited_for_and_named",
        (("mirror_core/unmounting.py", "self._write(others)", 'dict.fromkeys(others, "")'),),
    ),
    Fault(
        "what others have mounted is unmounted for whoever asks",
        f"{UNMOUNTING}::"
        "test_what_others_have_mounted_there_is_unmounted_only_when_that_is_asked_for",
        (("mirror_core/unmounting.py", "if stack.strange and not others:", "if False:"),),
    ),
    Fault(
        "what others have mounted below keeps the device mounted",
        f"{UNMOUNTING}::"
        "test_what_others_have_mounted_there_is_unmounted_only_when_that_is_asked_for",
        (("mirror_core/mounted.py", "            if one.parent == mount.id\n            or",
          "            if"),),
        "mounted_below_stays",
    ),
    Fault(
        "what is mounted over a folder above is not in the way",
        f"{UNMOUNTING}::"
        "test_what_others_have_mounted_there_is_unmounted_only_when_that_is_asked_for",
        (("mirror_core/mounted.py", "one.parent in above and one.id", "False and one.id"),),
    ),
    Fault(
        "a loop device is on what its file's path means now",
        f"{UNMOUNTING}::test_what_stands_on_a_file_that_a_mount_has_hidden_stays",
        (("mirror_core/mounted.py", "        elif number in self._loops:\n",
          "        elif file:\n            self._path(file)\n"
          "        elif number in self._loops:\n"),),
        "loop_by_path",
    ),
    Fault(
        "an overlay's path is looked up among later mounts",
        f"{UNMOUNTING}::test_an_overlay_of_a_folder_that_a_mount_has_hidden_stays",
        (("mirror_core/mounted.py", "self.mounts[: self.mounts.index(mount)] if",
          "self.mounts if"),),
    ),
    Fault(
        "a btrfs whose devices nobody knows is on every device",
        f"{UNMOUNTING}::test_a_file_system_whose_disks_nobody_knows_is_not_the_device_s",
        (("mirror_core/mounted.py", "_doubts = False", "_doubts = True"),),
        "btrfs_everywhere",
    ),
)  # fmt: skip
