"""Unmount what stands on a device of ours, before the machine goes down.

A mount that a person has made is to systemd like one of a local disk: it outlasts every ordinary
service, and so the site whose volume it is on.  What the kernel had not written by then would be
lost, and the unmounting would wait for ever for a site that is gone.  So the units of systemd/ have
this done before a site stops, as rbdmap(8) does for the devices of Ceph.

Invariants.
* Whatever certainly stands on the device counts: its partitions, volumes of LVM and LUKS on it,
  their bind mounts, a loop device over a file there, an overlay of a folder there (mounted.py).
* What others have mounted below that, or over it, is in its way and is not the device's (files in
  memory would be lost with it).  It is unmounted where that is asked for, as when the machine goes
  down; else it is named, and nothing is unmounted.
* What is mounted over it meanwhile, or in its place when a folder above was renamed, is not taken
  for it: just before each unmount it is looked once more whether the path leads to what is meant.
* Nothing is taken from who uses it: it is waited for, with a bound.  (systemd ends every service
  at the same time, by force when its time is over.)
* Whatever comes of it, what was written is written out first: syncfs(2) before each unmount.  For a
  file system may live on when it is unmounted here, in a container or under an overlay.  That is
  waited for, too, and it is not said that all was done.
* Without the site an unmount, or a sync, cannot end and cannot be killed: it is left alone then.
  Nothing else waits for it: all are synced at once, and each is unmounted when its own is over.

Left out: swap.  And the few milliseconds between that look and the one of umount(8), which takes a
path: a descriptor of a mount keeps it in use.  (umount2(2) with MNT_EXPIRE, twice, would leave no
gap, but also what mount(8) has noted, and what others' helpers of umount(8) would do.)
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterable

from mirror_core import limits, mounted
from mirror_core.below import Mount
from mirror_core.errors import MirrorError, printable

_READ_S = 0.05  # at least that long is looked whether something has ended: it has to be read


def everything_on(
    devices: Iterable[str], timeout_s: float = limits.UNMOUNT_S, *, others: bool = False
) -> None:
    """`devices`: MAJOR:MINOR of each, asked for before each round; `others`: what is in the way,
    too.  MirrorError: this is still mounted, for this reason; all else that could be unmounted is.
    Or not all was written."""
    work = _Unmounting(devices, time.monotonic() + timeout_s)
    while not work.is_done(others=others):
        time.sleep(limits.UNMOUNT_AGAIN_S)


class _Unmounting:
    def __init__(self, devices: Iterable[str], deadline: float) -> None:
        self._all, self._deadline = devices, deadline
        self._lost: dict[str, str] = {}  # what could not be written
        self._begun: dict[tuple[str, ...], subprocess.Popen[str]] = {}
        self._is_late = False

    def is_done(self, *, others: bool) -> bool:
        """One round.  False: it is to be tried again, a little later."""
        self._devices = frozenset(self._all)
        stack = mounted.stack(self._devices)
        if stack.strange and not others:
            where = ", ".join(sorted({printable(mount.point) for mount in stack.strange}))
            raise MirrorError(
                f"not unmounted: {where}: mounted below or over what is on the device, "
                "and not on it: unmount that first"
            )
        said = self._unmount(stack) or self._living_on()
        reasons = list(dict.fromkeys(filter(None, said)))
        if not stack.order and not reasons:
            if self._lost:
                lost = printable(self._what_was_lost())
                raise MirrorError(f"unmounted, and not all was written: {lost}")
            return True
        was_late, self._is_late = self._is_late, time.monotonic() >= self._deadline
        if self._is_late and (reasons or was_late):
            why = "; ".join(reasons) or f"{stack.order[-1].point}: it is mounted again and again"
            lost = f"; not all was written: {self._what_was_lost()}" if self._lost else ""
            raise MirrorError(f"not unmounted: {printable(why + lost)}")
        return False

    def _what_was_lost(self) -> str:
        return "; ".join(self._lost.values())

    def _unmount(self, stack: mounted.Stack) -> list[str]:
        """Why each is still mounted; empty: it is not.  (That somebody else has unmounted it
        meanwhile shows in the next look.)"""
        strange = set(stack.strange)
        away = self._write(mount.point for mount in stack.order if mount not in strange)
        return [away.get(m.point) or self._take_off(m) for m in stack.order]

    def _take_off(self, mount: Mount) -> str:
        words = ("umount", "--", mount.point)
        return self._run(*words) if words in self._begun or self._leads_to(mount) else ""

    def _leads_to(self, mount: Mount) -> bool:
        """Whether its path means it still: it was looked up before all was written."""
        order = mounted.stack(frozenset(self._all)).order
        before = itertools.takewhile(lambda one: one != mount, order)  # on it, or over it
        return mount in order and not any(one.holds(mount.point) for one in before)

    def _write(self, paths: Iterable[str]) -> dict[str, str]:
        """syncfs(2) of each.  Why it is not known what comes of it; empty: it is over."""
        all_of_them = {path: ("sync", "--file-system", "--", path) for path in paths}
        for words in all_of_them.values():
            self._begin(words)
        until = time.monotonic() + limits.DEVICE_BUSY_S
        return {path: self._written(path, words, until) for path, words in all_of_them.items()}

    def _written(self, path: str, words: tuple[str, ...], until: float) -> str:
        why = self._end(words, until)
        if why.startswith("sync: error syncing"):
            self._lost[path] = why
            return ""
        return why if why.startswith(f"{path}: ") else ""  # else it is gone

    def _living_on(self) -> list[str]:
        """Why nothing is mounted here, and all the same somebody has the devices."""
        others = {
            f"/proc/{one.process}/root{one.mount.point}": one
            for one in mounted.elsewhere(self._devices)
        }
        away = self._write(others)
        found = [
            away[where]
            or f"{printable(one.mount.point)}: still mounted for process {one.process} "
            f"({one.name}), in a mount namespace of its own"
            for where, one in others.items()
        ]
        if not found:
            found = [
                f"{name}: in use: a file system there lives on, under an overlay, in another mount "
                "namespace, or unmounted with files open"
                for name in mounted.held(self._devices)
            ]
        return found

    def _run(self, *words: str) -> str:
        self._begin(words)
        return self._end(words, time.monotonic() + limits.DEVICE_BUSY_S)

    def _begin(self, words: tuple[str, ...]) -> None:
        """Unless it goes on since an earlier round."""
        if words not in self._begun:
            self._begun[words] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="surrogateescape",
                env={**os.environ, "LC_ALL": "C"},
            )

    def _end(self, words: tuple[str, ...], until: float) -> str:
        """The last line of what it says if it fails; it is for the last of the words."""
        child = self._begun[words]
        try:
            said = child.communicate(timeout=max(_READ_S, until - time.monotonic()))[1]
        except subprocess.TimeoutExpired:
            return f"{words[-1]}: it does not answer (is its site away?)"
        del self._begun[words]
        lines = said.strip().splitlines() or [f"{words[0]}: {words[-1]}: {child.returncode}"]
        return lines[-1] if child.returncode else ""
