"""What is mounted on a device, and what is in the way of unmounting that.

below.py finds what a store stands on, and counts what may be there.  Here the safe side is the
other one: who is to unmount, or to say that a device is in use, counts only what certainly stands
on it.  A loop device is asked what its file is on, for the path of that may mean another file by
now; a path that a mount names was looked up when that was mounted, among those mounted before it;
and a btrfs whose devices nobody knows is somebody else's.

What others have mounted *below* a mount point of the device (a tmpfs, the /proc of a chroot, a disk
of this machine), or *over* it or one of its folders, does not stand on the device.  But nothing can
be unmounted before it.

Left out: who has a file system that lives on without a mount that is to be found: under an overlay
of a relative path, in a namespace without a process, or unmounted with files open.  That it lives
is known (`held`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mirror_core import apart, below, exclusive, identity
from mirror_core.below import Mount
from mirror_core.errors import printable
from mirror_core.platform import HERE, Platform

_ALL = Path("/proc")


@dataclass(frozen=True)
class Stack:
    """All that is to be unmounted, in an order in which that can be done."""

    order: tuple[Mount, ...]
    strange: tuple[Mount, ...]  # those of them that do not stand on the device


@dataclass(frozen=True)
class Elsewhere:
    """A mount in the namespace of another process."""

    process: int
    name: str
    mount: Mount


@dataclass(frozen=True)
class Behind:
    """The file behind a loop device: the number of the file system that it is on, and its inode."""

    file_system: str
    inode: int


def behind_loops() -> dict[str, Behind]:
    """Of each loop device, MAJOR:MINOR, as far as that is told: nothing without losetup (package
    mount), or while one of them does not answer, whose file may be on a site that is away; and not
    of those that may not be opened."""
    words = ["losetup", "--list", "--json", "--output", "MAJ:MIN,BACK-INO,BACK-MAJ:MIN"]
    found: dict[str, Behind] = {}
    with contextlib.suppress(OSError, ValueError, KeyError):
        said = apart.ask(*words).said
        for one in json.loads(said)["loopdevices"] if said else ():
            if one["back-ino"] is not None and one["back-maj:min"] is not None:
                file = Behind(one["back-maj:min"].strip(), int(one["back-ino"]))
                found[one["maj:min"].strip()] = file
    return found


def on(devices: Collection[str], platform: Platform = HERE) -> list[Mount]:
    """What certainly stands on one of these block devices, MAJOR:MINOR, be it by way of others; in
    the order in which it was mounted."""
    return _on(devices, below.mounts_of(platform=platform), _files_of_loops(platform), platform)


def stack(devices: Collection[str], platform: Platform = HERE) -> Stack:
    """Those, and what is in their way."""
    mounts = below.mounts_of(platform=platform)
    own = {m.id for m in _on(devices, mounts, _files_of_loops(platform), platform)}
    tree = _Tree(mounts)
    order = tree.order(own)
    return Stack(tuple(order), tuple(m for m in order if m.id not in own))


def elsewhere(devices: Collection[str]) -> Iterator[Elsewhere]:
    """The same in the mount namespaces of other processes, one process of each."""
    loops, seen = _files_of_loops(HERE), {_namespace("self")}
    for process in sorted(int(path.name) for path in _ALL.glob("[0-9]*")):
        namespace = _namespace(str(process))
        if namespace and namespace not in seen:
            seen.add(namespace)
            mounts = below.mounts_of(str(process))
            name = printable(identity.text(_ALL / str(process) / "comm"))  # any user's choice
            for mount in _on(devices, mounts, loops, HERE):
                yield Elsewhere(process, name, mount)


def held(devices: Collection[str]) -> list[str]:
    """The names of those, of their partitions, and of what LVM and the like have made of them, that
    somebody has exclusively: as a rule a file system that lives.  What cannot be asked, or does not
    answer, is not known to be."""
    found, left, seen = [], sorted(devices), set(devices)
    while left:
        node = identity.SYS / left.pop()
        parts = [path.parent for path in node.glob("*/partition")] or [node]
        for part in parts:
            made = [identity.text(path) for path in part.glob("holders/*/dev")]
            left += [number for number in made if number not in seen]
            seen.update(made)
            if not made and _is_held(part):
                found.append(_name_of(part))
    return sorted(found)


def _name_of(node: Path) -> str:
    event = identity.text(node / "uevent").split("\n")
    return next((f"/dev/{line[8:]}" for line in event if line.startswith("DEVNAME=")), "")


def _is_held(node: Path) -> bool:
    if not (name := _name_of(node)):
        return False
    try:
        os.close(exclusive.open_alone(name))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _on(
    devices: Collection[str], mounts: list[Mount], loops: Mapping[str, str], platform: Platform
) -> list[Mount]:
    wanted = set(devices)
    return [m for m in mounts if wanted & _Certain(mounts, loops, platform).mount(m)]


class _Certain(below.Way):
    """The way down, as far as it is certain."""

    _doubts = False

    def __init__(self, mounts: list[Mount], loops: Mapping[str, str], platform: Platform) -> None:
        """`loops`: what the file of each loop device is on."""
        super().__init__(platform, mounts)
        self._loops = loops

    def _loop(self, number: str, file: str, fd: int | None) -> None:
        device = self.block_device(file)
        if device:
            self.device(device)
        elif number in self._loops:
            self._file_system(self._loops[number], [])

    def _paths(self, mount: Mount) -> None:
        for path in (*mount.named, *mount.lower):
            device = self.block_device(path)
            before = self.mounts[: self.mounts.index(mount)] if mount in self.mounts else []
            above = [m for m in reversed(before) if m.holds(path)]  # the latest is on top
            if device:
                self.device(device)
            elif above:
                nearest = max(above, key=lambda m: len(m.point))
                self._file_system(nearest.number, [nearest])


class _Tree:
    """Mounts, and what each is mounted on."""

    def __init__(self, mounts: list[Mount]) -> None:
        self._mounts = mounts
        self._of = {mount.id: mount for mount in mounts}

    def order(self, own: Collection[str]) -> list[Mount]:
        """These, each behind what is in its way; else the latest first."""
        found: dict[str, Mount] = {}

        def take(mount: Mount) -> None:
            if mount.id in found or mount.id in begun:
                return
            begun.add(mount.id)
            for one in self._in_the_way(mount):
                take(one)
            found[mount.id] = mount

        begun: set[str] = set()
        for mount in reversed(self._mounts):
            if mount.id in own:
                take(mount)
        return list(found.values())

    def _in_the_way(self, mount: Mount) -> list[Mount]:
        """What is mounted on it, and what is mounted over one of the folders above it, through
        which a path would lead elsewhere."""
        above = self._above(mount)
        return [
            one
            for one in reversed(self._mounts)
            if one.parent == mount.id
            or (one.parent in above and one.id not in above and one is not mount
                and one.holds(mount.point))
        ]  # fmt: skip

    def _above(self, mount: Mount) -> set[str]:
        found: set[str] = set()
        while mount.parent in self._of and mount.parent not in found:
            found.add(mount.parent)
            mount = self._of[mount.parent]
        return found


def _files_of_loops(platform: Platform) -> dict[str, str]:
    """The number of each loop device, and that of the file system which its file is on."""
    if platform is not HERE:
        return {}
    return {number: file.file_system for number, file in behind_loops().items()}


def _namespace(process: str) -> str:
    """Empty: it has ended, or may not be looked at."""
    try:
        return os.readlink(_ALL / process / "ns/mnt")
    except OSError:
        return ""
