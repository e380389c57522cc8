"""Which stores stand on one disk, and so lose together (native/below.h).

A disk that cannot flush its own cache says so once, to whoever asks.  So it matters which stores,
and whether the state folder, have a disk in common, however many layers are in between:

    a file or folder    its file system's device, or devices
    a partition         the disk that holds it
    device mapper, md   what they are made of (`slaves`)
    a loop device       the file behind it

Every block device on the way down counts: any of them may have the cache.

Invariants.  What cannot be found out is a thing of its own: stores of one file system share it all
the same.  Memory (tmpfs) loses nothing, so what is in it shares with nobody.
Left out: what a hypervisor, a storage array or a server has below its disks; layers that change
while a site runs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

_SYS = Path("/sys/dev/block")
_BTRFS = Path("/sys/fs/btrfs")
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
_Name = TypeVar("_Name", bound=Hashable)


def shared(opened: Mapping[_Name, int | None]) -> dict[_Name, int]:
    """Of open files, folders and block devices: those that have a disk in common, also by way of
    another one, have a number in common, from 1 on.  0: it shares with nobody (None: a server)."""
    disks = {name: set() if fd is None else _below(fd) for name, fd in opened.items()}
    groups: list[set[str]] = []
    for mine in disks.values():
        joined = [group for group in groups if group & mine]
        groups = [group for group in groups if not group & mine]
        if mine:
            groups.append(mine.union(*joined))
    numbers = {disk: number for number, group in enumerate(groups, 1) for disk in group}
    return {name: numbers[min(mine)] if mine else 0 for name, mine in disks.items()}


def _below(fd: int) -> set[str]:
    """Every block device that it is or stands on, as MAJOR:MINOR; or a file system's own number."""
    found: set[str] = set()
    try:
        info = os.fstat(fd)
        if stat.S_ISBLK(info.st_mode):
            _descend(info.st_rdev, found)
        else:
            _of_file_system(fd, info.st_dev, found)
    except OSError:
        found.add(f"descriptor {fd}")
    return found


def _descend(device: int, found: set[str]) -> None:
    number = f"{os.major(device)}:{os.minor(device)}"
    if number in found:
        return
    found.add(number)
    node = _SYS / number
    if (node / "partition").exists():
        node = node.resolve().parent
        _descend(_number_in(node), found)
    for slave in _names(node / "slaves"):
        _descend(_number_in(node / "slaves" / slave), found)
    if behind := _text(node / "loop/backing_file"):
        _of_path(behind, found)


def _of_path(path: str, found: set[str]) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # removed, or of another mount namespace: the loop device itself is known
    try:
        info = os.fstat(fd)
        if stat.S_ISBLK(info.st_mode):
            _descend(info.st_rdev, found)
        else:
            _of_file_system(fd, info.st_dev, found)
    finally:
        os.close(fd)


def _of_file_system(fd: int, device: int, found: set[str]) -> None:
    if os.major(device):
        _descend(device, found)
        return
    kind, source = _mount_of(fd)
    if kind in _IN_MEMORY:
        return
    found.add(f"{os.major(device)}:{os.minor(device)}")
    for path in {source, *_members_of_btrfs(source)} if source.startswith("/") else ():
        try:
            info = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(info.st_mode):
            _descend(info.st_rdev, found)


def _mount_of(fd: int) -> tuple[str, str]:
    """The kind of the file system and what is mounted (proc_pid_mountinfo(5))."""
    number = ""
    for line in _text(Path(f"/proc/self/fdinfo/{fd}")).splitlines():
        if line.startswith("mnt_id:"):
            number = line.split()[1]
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        words = line.split()
        if words[0] == number and "-" in words:
            at = words.index("-")
            return words[at + 1], words[at + 2]
    return "", ""


def _members_of_btrfs(source: str) -> Iterator[str]:
    name = Path(os.path.realpath(source)).name
    for uuid in _names(_BTRFS):
        members = _names(_BTRFS / uuid / "devices")
        if name in members:
            yield from (f"/dev/{member}" for member in members)


def _number_in(node: Path) -> int:
    major, _, minor = _text(node / "dev").partition(":")
    return os.makedev(int(major), int(minor)) if major and minor else 0


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: Path) -> str:
    """What stands there; empty: it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
