"""What an open file, folder or block device stands on, down to the disks.

A disk with a volatile cache says once, to whoever asks, that it could not flush it.  So a failed
flush of one store is a loss for every other one on the same disk, whichever file, partition or
logical volume that is.  This module finds out which stores have a disk in common.

From a block device the way goes down in /sys: from a partition to its disk, from device mapper and
md to their `slaves`, from a loop device to its file.  From a file it goes to the device of its file
system; where that has none (btrfs, overlay, FUSE, NFS) to what its mount names as its source.

Invariants
    In doubt two stores share (mounted.py, which asks what may be unmounted, goes the same way, and
    counts what is certain): a loss that is doubled costs a copy, one that is missed a wrong byte.
    So each device on the way names itself, too: what is below it may not be told, or change.
    And what stands on something that is not to be found here shares with all: a container's overlay
    names a path of the host, which leads back to the overlay there, or nowhere.
    In doubt they share losses, and no wait (native/below.h): the flush of one store waits for that
    of another only where both have met one name.  Else a file server that hangs would hold up each
    flush of a local disk for as long.  So what the disk of two such stores says to one of them just
    then, the other hears one flush later.
    What cannot be read ends the way there, and is never an error; a device of which /sys says
    nothing at all may be on any disk.
    Nothing here waits for a disk or a server: it asks /sys, /proc, the open file itself, and for
    names in /dev.  A loop device's file is found by where it is mounted, not by a look at it; only
    of one that is open here the kernel is asked, which looks (as identity.py does at each opening).

The way also tells whether our own kernel's cache is the only one that it drops when it is told to:
what a failed flush has lost may be read from another one for as long as that keeps it.  That is
certain only on disks, and on the file systems of `_OURS`.  FUSE, NFS and overlay ask somebody else;
ZFS has a cache of its own; and what a loop device, an NBD or a network file system reads may be in
the cache of its file or server.  What a disk, a hypervisor or an array keeps is its own matter.

A disk that has a lasting identity (identity.py) is named by that besides: the same disk by two ways
has two numbers.  A file system in memory stands on nothing; a loop device over a file there is a
device, which names itself.

Left out: what the way becomes after it was asked (a volume that is moved); a path of the host that
leads to another file system in a container; the journal of an ext4 on another device; what several
file systems of one server or pool (NFS, ZFS) have in common, or the stores behind NBD URIs; the one
controller of several disks.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mirror_core import identity
from mirror_core.platform import HERE, Platform

K = TypeVar("K")

_BTRFS = Path("/sys/fs/btrfs")
_PROC = Path("/proc")
_OURS = ("ext2", "ext3", "ext4", "xfs", "btrfs")  # their files are cached as pages, and only so
_IN_MEMORY = ("tmpfs", "ramfs", "rootfs", "devtmpfs")
_PATHS = ("upperdir", "logdev", "rtdev")  # options of overlay and xfs: what they stand on, besides
_LOWER = ("lowerdir", "lowerdir+", "datadir+")  # of overlay: what it reads
_UNKNOWN = "unknown"  # perhaps any disk
AWAY = -1  # the descriptor of what cannot be opened yet: it may stand on any disk


def disks(fd: int, platform: Platform = HERE) -> frozenset[str]:
    """What this open file, folder or block device stands on: the names of whole disks, and of what
    lies between.  Empty: memory only."""
    way = Way(platform)
    try:
        way.open(fd)
    except OSError:
        return frozenset({_UNKNOWN})
    return frozenset(way.names)


def cached_here(fd: int, platform: Platform = HERE) -> bool:
    """Whether only this machine's kernel caches what is read from this open file or block device,
    so that it can be dropped (posix_fadvise(2)).  In doubt: no."""
    way = Way(platform)
    try:
        way.open(fd)
    except OSError:
        return False
    return way.cached_here and _UNKNOWN not in way.names


def apart(one: int, other: int, platform: Platform = HERE) -> bool:
    """Whether these open files, folders or block devices have no disk in common, for certain: what
    `one` hears of a disk is nothing of the other's.  What stands on nothing hears of any disk."""
    ways = Way(platform), Way(platform)
    try:
        for way, fd in zip(ways, (one, other), strict=True):
            way.open(fd)
    except OSError:
        return False
    first, second = (way.names for way in ways)
    certain = all(way.certain and _UNKNOWN not in way.names for way in ways)
    return certain and bool(first) and first.isdisjoint(second)


class Numbers(Generic[K]):
    """Those of native/below.h, of all that a site stands on, each under its key."""

    def __init__(
        self, numbers: Mapping[K, int], sets: Mapping[K, frozenset[str]] | None = None
    ) -> None:
        """`sets`: what each stands on."""
        self._first, self._now, self._sets = numbers, dict(numbers), dict(sets or {})

    def __getitem__(self, key: K) -> int:
        return self._now[key]

    def opened(self, key: K, fd: int | None) -> int:
        """Of what was AWAY: from now on the number of what it is known to share a disk with, else
        its own.  (Of several it has the last, a store's rather than the folder's: that it loses
        with all is so from the start.)"""
        names = self._sets[key] = _below(fd) - {_UNKNOWN}
        beside = [self._now[one] for one, on in self._sets.items() if one != key and on & names]
        self._now[key] = beside[-1] if beside else self._first[key]
        return self._now[key]


def numbers(opened: Mapping[K, int | None]) -> Numbers[K]:
    """Of open files, folders and devices, and of what is AWAY; None: a server."""
    sets = {key: _below(fd) for key, fd in opened.items()}
    return Numbers(shared(sets), sets)


def _below(fd: int | None) -> frozenset[str]:
    return frozenset() if fd is None else disks(fd)


def shared(sets: Mapping[K, frozenset[str]]) -> dict[K, int]:
    """Classes of those that have a disk in common, also by way of a third, numbered from 1 in the
    order in which they come, or from -1 down, if one stands on something unknown: then they are in
    doubt (native/below.h).  0: stands on nothing, and shares nothing."""
    step = -1 if any(_UNKNOWN in names for names in sets.values()) else 1
    sets = {key: _each_its_own(i, names) for i, (key, names) in enumerate(sets.items())}
    groups: list[set[str]] = []  # disjoint
    for names in sets.values():
        joined = [group for group in groups if not group.isdisjoint(names)]
        groups = [group for group in groups if group.isdisjoint(names)]
        groups.append(set(names).union(*joined))
    numbers: dict[int, int] = {}
    found = dict.fromkeys(sets, 0)
    for key, names in sets.items():
        for i, group in enumerate(groups):
            if not group.isdisjoint(names):
                found[key] = numbers.setdefault(i, step * (len(numbers) + 1))
    return found


def _each_its_own(number: int, names: frozenset[str]) -> frozenset[str]:
    """What is unknown is nothing that two have in common for certain."""
    return frozenset(f"{name} {number}" if name == _UNKNOWN else name for name in names)


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    id: str
    number: str  # of the file system; its files may show another one: btrfs, one each subvolume
    point: str
    kind: str
    named: tuple[str, ...]  # paths of what it says to stand on, where its number does not tell
    parent: str = ""  # the id of the mount that it is mounted on
    lower: tuple[str, ...] = ()  # of an overlay: paths of what it reads, and does not write

    def holds(self, path: str) -> bool:
        """Whether a path leads through its point."""
        return f"{path}/".startswith(self.point.rstrip("/") + "/")


class Way:
    """The way down from one open file, or from a mount; `names` is what was met on it,
    `cached_here` whether all of it is certain to have no other cache than our kernel's, and
    `certain` whether it leads to no server or program, which may stand on any disk of ours."""

    _doubts = True  # what may be below counts

    def __init__(self, platform: Platform = HERE, mounts: list[Mount] | None = None) -> None:
        self.names: set[str] = set()
        self.cached_here = self.certain = True
        self._platform = platform
        self.mounts = mounts_of(platform=platform) if mounts is None else mounts
        self._passed: set[str] = set()  # mounts
        self._above: set[str] = set()  # those whose way is not at its end

    def open(self, fd: int) -> None:
        """From an open file, folder or block device.  OSError."""
        info = self._platform.fstat(fd)
        if stat.S_ISBLK(info.st_mode):
            self.device(_number(info.st_rdev), fd)
        else:
            self.file(fd, _number(info.st_dev))

    def device(self, number: str, fd: int | None = None) -> None:
        """`fd`: if it is open here."""
        node = identity.SYS / number
        if self._text(node / "partition"):
            number = self._text(node / "../dev") or number
            node = identity.SYS / number
        if number in self.names:
            return
        self.names.add(number)
        if self._text(node / "dev") != number:
            self.names.add(_UNKNOWN)  # no /sys here, or not this machine's
        lasting = identity.lasting_of(node, self._platform)
        if lasting:
            self.names.add(lasting)
        slaves = self._numbers_in(node / "slaves")
        file = self._text(node / "loop/backing_file")
        if not slaves and "device" not in self._listed(node):
            self.cached_here = False  # no hardware: loop, nbd, a volume of ZFS
            self.certain &= bool(file)
        self._devices(slaves)
        if file:
            self._loop(number, file, fd)

    def file(self, fd: int, number: str) -> None:
        """`number`: of its file system, as the file itself says."""
        mount = mount_of(fd, self.mounts, self._platform)
        if not mount and _is_anonymous(number):
            self.names.add(_UNKNOWN)
        self._file_system(number, [mount] if mount else [])

    def mount(self, mount: Mount) -> set[str]:
        self._file_system(mount.number, [mount])
        return self.names

    def _loop(self, number: str, file: str, fd: int | None) -> None:
        self._path(file)
        if fd is not None:
            self._behind_loop(fd)

    def _behind_loop(self, fd: int) -> None:
        """The path in /sys may mean another file by now, or in this mount namespace."""
        try:
            device, _, rdev, _, _ = identity.loop_status(fd, self._platform)
        except OSError:
            return
        if rdev:
            self.device(_number(rdev))
        else:
            self._file_system(_number(device), [])

    def _path(self, path: str) -> None:
        """A device in /dev, or a file of what is mounted there."""
        number = self.block_device(path)
        if number:
            self.device(number)
            return
        above = [m for m in self.mounts if m.holds(path)]
        nearest = max((mount.point for mount in above), key=len, default="")
        absent = path.startswith("/dev/") and not nearest.startswith("/dev/")
        if not above or (absent and ":" not in path):  # several devices are asked for one by one
            self.names.add(_UNKNOWN)
        for mount in above:
            if mount.point == nearest:  # there may be several, one over the other
                self._file_system(mount.number, [mount])

    def _file_system(self, number: str, mounts: list[Mount]) -> None:
        """`mounts`: the one of it that is meant, if that is known."""
        mounts = mounts or [mount for mount in self.mounts if mount.number == number][:1]
        if not mounts or any(mount.kind not in _OURS + _IN_MEMORY for mount in mounts):
            self.cached_here = self.certain = False
        if not _is_anonymous(number):
            self.device(number)
        elif not mounts:
            self.names.add(f"anonymous {number}")
        for mount in mounts:
            # What it names is not here: here that is itself.  Or it names nothing to be found.
            if mount.id in self._above or (mount.kind.startswith("fuse") and not mount.named):
                self.names.add(_UNKNOWN)
            if mount.kind in _IN_MEMORY or mount.id in self._passed:
                continue
            self._passed.add(mount.id)
            self._above.add(mount.id)
            if _is_anonymous(mount.number):
                self.names.add(f"anonymous {mount.number}")
            else:
                self.device(mount.number)
            if not (mount.kind == "btrfs" and self._btrfs(mount.named)):
                self._paths(mount)
            self._above.remove(mount.id)

    def _paths(self, mount: Mount) -> None:
        for path in mount.named:
            self._path(path)

    def _btrfs(self, paths: Iterable[str]) -> bool:
        """All devices of the file system that has a named one; of all, if nobody knows which;
        whether there are any."""
        named = {self.block_device(path) for path in paths}
        each = [set(self._numbers_in(_BTRFS / one / "devices")) for one in self._listed(_BTRFS)]
        meant = [one for one in each if one & named]
        for numbers in meant or (each if self._doubts else []):
            self._devices(numbers)
        return any(each)

    def _devices(self, numbers: Iterable[str]) -> None:
        for number in numbers:
            self.device(number)

    def block_device(self, path: str) -> str:
        """Its number; empty: it is none.  Only /dev is looked at, where nothing waits."""
        if not path.startswith("/dev/"):
            return ""
        try:
            info = self._platform.stat(Path(path))
        except (OSError, ValueError):
            return ""
        return _number(info.st_rdev) if stat.S_ISBLK(info.st_mode) else ""

    def _numbers_in(self, folder: Path) -> list[str]:
        """Of the devices to which the links in it lead."""
        numbers = (self._text(folder / name / "dev") for name in self._listed(folder))
        return [number for number in numbers if number]

    def _listed(self, folder: Path) -> list[str]:
        try:
            return self._platform.names(folder)
        except OSError:
            return []

    def _text(self, path: Path) -> str:
        return identity.text(path, self._platform)


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _is_anonymous(number: str) -> bool:
    """A file system has made it up: there is no such device."""
    return number.startswith("0:")


def mount_of(fd: int, mounts: list[Mount], platform: Platform = HERE) -> Mount | None:
    """The one of these through which it was opened; None: it is not to be seen."""
    lines = identity.text(_PROC / f"self/fdinfo/{fd}", platform)
    at = re.search(r"^mnt_id:\s*(\d+)", lines, re.MULTILINE)
    return next((mount for mount in mounts if at and mount.id == at[1]), None)


def file_id(fd: int, platform: Platform = HERE) -> str:
    """What tells an open file from every copy of it, also after a reboot; empty: nothing here does,
    or it is not to be seen."""
    try:
        name = identity.of_file(fd, platform)
    except OSError:
        return ""
    if "." in name:
        return name
    mount = mount_of(fd, mounts_of(platform=platform), platform)
    return name if mount and mount.kind in _IN_MEMORY else ""  # where no number is used twice


def is_of_this_machine(fd: int) -> bool:
    """Whether an open file or block device is one of its own file systems or devices, so that no
    other machine or server has a part in its locks.  In doubt: no."""
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        return True
    mount = mount_of(fd, mounts_of())
    return bool(mount and mount.kind in _OURS + _IN_MEMORY)


def mounts_of(process: str = "self", platform: Platform = HERE) -> list[Mount]:
    """All in its mount namespace, in the order in which they were made."""
    lines = identity.text(_PROC / process / "mountinfo", platform)
    return [mount for line in lines.split("\n") if (mount := _mount(line))]


def _mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    mount, system = before.split(" "), after.split(" ")
    if len(mount) < 6 or len(system) < 3:
        return None
    number, kind, source = mount[2], system[0], _unescaped(system[1])
    options = [option.partition("=")[::2] for option in system[2].split(",")]
    named = [_unescaped(value) for key, value in options if key in _PATHS]
    if _is_anonymous(number) and source.startswith("/") and not source.startswith("//"):
        several = source.split(":")  # devices, of some file systems
        named += {source, *(path for path in several if path.startswith("/"))}
    lower = [_unescaped(value) for key, value in options if key in _LOWER]
    return Mount(
        mount[0], number, _unescaped(mount[4]), kind, tuple(sorted(named)), mount[1],
        tuple(path for paths in lower for path in _listed(paths)),
    )  # fmt: skip


def _listed(paths: str) -> list[str]:
    """Of an overlay's option: between colons, of which those in a path come after a backslash."""
    each = re.split(r"(?<!\\):+", paths)
    return [re.sub(r"\\(.)", r"\1", path) for path in each]


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
