"""Stores that stand on one disk are known to: what one has lost, the others may have.

Disks are real loop devices with partitions and file systems.  Device mapper is there where the
kernel has it (tests/kernel runs these in one that does); what needs other hardware is told by a
made-up /sys.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from handmade import MIB
from loops import SECTOR, Loop, gpt, needs_loops

from mirror_core import below
from mirror_core.platform import HERE, Platform

SIZE = 24 * MIB
PARTS = ((2048, 2048 + 16384 - 1), (20480, 20480 + 8192 - 1))  # first and last sector


def device_mapper() -> bool:
    done = subprocess.run(["dmsetup", "targets"], capture_output=True, check=False)
    return done.returncode == 0


needs_mapper = pytest.mark.skipif(
    os.geteuid() == 0 and not device_mapper(),
    reason="this kernel has no device mapper: tests/kernel/test_mapper.py runs it on one that has",
)


class Disks:
    """Makes disks, and what stands on them, for one test."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._undo, self._numbers = folder, ExitStack(), itertools.count()

    def path(self) -> Path:
        return self._folder / f"{next(self._numbers)}"

    def loop(self, file: Path | None = None, size: int = SIZE) -> Loop:
        made = Loop(file or self.path(), size)
        self._undo.callback(made.close)
        return made

    def parts(self) -> list[str]:
        """The two partitions of a new disk."""
        loop = self.loop()
        loop.detach()
        table = gpt(SIZE, [(first, last, uuid.uuid4()) for first, last in PARTS])
        for offset, data in table.items():
            loop.write(data, offset)
        loop.attach()
        return loop.scan()

    def mounted(self, device: str | Path) -> Path:
        """A new file system of that device."""
        subprocess.run(["mkfs.ext4", "-q", str(device)], check=True)
        folder = self.path()
        folder.mkdir()
        subprocess.run(["mount", "-t", "ext4", str(device), str(folder)], check=True)
        self._undo.callback(subprocess.run, ["umount", str(folder)], check=True)
        return folder

    def mapped(self, *devices: Path) -> str:
        """A device-mapper device over the first MiB of each, one after the other."""
        name, sectors = f"below-{os.getpid()}-{next(self._numbers)}", MIB // SECTOR
        table = "\n".join(
            f"{i * sectors} {sectors} linear {device.resolve()} 0"
            for i, device in enumerate(devices)
        )
        dmsetup = ["dmsetup", "--noudevsync"]
        subprocess.run([*dmsetup, "create", name], input=table, text=True, check=True)
        self._undo.callback(subprocess.run, [*dmsetup, "remove", name], check=True)
        subprocess.run(["dmsetup", "mknodes", name], check=True)
        return f"/dev/mapper/{name}"

    def close(self) -> None:
        self._undo.close()


@pytest.fixture
def disks(scratch: Path) -> Iterator[Disks]:
    made = Disks(scratch)
    yield made
    made.close()


def under(path: str | Path, platform: Platform = HERE) -> frozenset[str]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return below.disks(fd, platform)
    finally:
        os.close(fd)


def classes(*paths: str | Path) -> list[int]:
    return list(below.shared({i: under(path) for i, path in enumerate(paths)}).values())


def new_file(path: Path) -> Path:
    path.write_bytes(bytes(SECTOR))
    return path


# ---- this machine's devices


@needs_loops
def test_partitions_of_one_disk_share_it(disks: Disks) -> None:
    """With each other and with the whole disk, and not with another disk's."""
    one, other = disks.parts(), disks.parts()
    whole = one[0].removesuffix("p1")
    assert classes(*one, *other, whole) == [1, 1, 2, 2, 1]


@needs_loops
def test_two_disks_share_nothing(disks: Disks) -> None:
    """Though both are loop devices over files of one file system in memory."""
    assert classes(disks.loop().path, disks.loop().path) == [1, 2]


@needs_loops
def test_a_file_shares_the_disk_with_the_partition_beside_it(disks: Disks) -> None:
    """And so does its folder; a file of another disk's file system does not."""
    (first, second), (elsewhere, _) = disks.parts(), disks.parts()
    folder = disks.mounted(first)
    file = new_file(folder / "file")
    assert classes(file, second, folder, new_file(disks.mounted(elsewhere) / "file")) == [
        1,
        1,
        1,
        2,
    ]


@needs_loops
def test_a_loop_device_stands_on_the_disk_of_its_file(disks: Disks) -> None:
    """So do its file system and a partition beside that disk's one."""
    first, second = disks.parts()
    folder = disks.mounted(first)
    loop = disks.loop(folder / "image", 4 * MIB)
    inner = new_file(disks.mounted(loop.path) / "file")
    assert classes(second, loop.path, inner, new_file(folder / "beside"), disks.loop().path) == [
        1,
        1,
        1,
        1,
        2,
    ]


@needs_loops
def test_a_loop_device_over_a_device_stands_on_its_disk(disks: Disks) -> None:
    """It has a device where others have a file."""
    first, second = disks.parts()
    done = subprocess.run(
        ["losetup", "--find", "--show", first], check=True, capture_output=True, text=True
    )
    over = done.stdout.strip()
    try:
        assert classes(over, second) == [1, 1]
    finally:
        subprocess.run(["losetup", "--detach", over], check=True)


@needs_loops
@pytest.mark.parametrize("asked", ["itself", "its file system"])
def test_a_loop_device_whose_file_was_removed_stands_on_its_disk_still(
    disks: Disks, asked: str
) -> None:
    """The file lives on until the device is detached."""
    first, second = disks.parts()
    folder = disks.mounted(first)
    loop = disks.loop(folder / "image", 4 * MIB)
    top: str | Path = loop.path
    if asked != "itself":
        top = disks.mounted(loop.path)
    loop.file.unlink()
    assert classes(top, second, disks.loop().path) == [1, 1, 2]


@needs_loops
def test_the_path_of_a_loop_device_s_file_may_mean_another_one(disks: Disks) -> None:
    """Something else is mounted there by now: the device itself tells what it stands on."""
    first, second = disks.parts()
    folder = disks.mounted(first)
    inner = folder / "inner"
    inner.mkdir()
    device = disks.loop(inner / "image", 4 * MIB).path.resolve()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(inner)], check=True)
    try:
        assert classes(device, second) == [1, 1]
    finally:
        subprocess.run(["umount", str(inner)], check=True)


@needs_loops
def test_memory_shares_nothing(disks: Disks) -> None:
    """A file there stands on nothing; a loop device over one stands on itself, so that its
    partitions do."""
    loop = disks.loop()
    assert under(loop.file) == frozenset() and under(loop.path) != frozenset()
    assert classes(loop.file, loop.file.parent, loop.path) == [0, 0, 1]


@needs_loops
@needs_mapper
def test_a_logical_volume_stands_on_each_of_its_disks(disks: Disks) -> None:
    """Over one of two disks it shares that one; over both it makes one class of them."""
    first, second = disks.loop(), disks.loop()
    over_first = disks.mapped(first.path)
    assert classes(over_first, first.path, second.path) == [1, 1, 2]
    over_both = disks.mapped(first.path, second.path)
    assert classes(over_first, second.path) == [1, 2]
    assert classes(over_first, second.path, over_both) == [1, 1, 1]


@needs_loops
@needs_mapper
def test_what_stands_on_a_logical_volume_stands_on_its_disk(disks: Disks) -> None:
    """A file system of one, and a volume of a volume over a partition."""
    first, second = disks.parts()
    outer = disks.mapped(Path(disks.mapped(Path(first))))
    folder = disks.mounted(outer)
    assert classes(second, new_file(folder / "file"), disks.loop().path) == [1, 1, 2]


@needs_loops
@pytest.mark.parametrize("hidden", ["/sys", "/proc", "/dev"])
def test_what_cannot_be_read_is_no_error(disks: Disks, hidden: str) -> None:
    """A device and a file stand at least on what the file itself says."""

    class Blind(Platform):
        def read(self, path: Path) -> bytes:
            self._look(path)
            return super().read(path)

        def names(self, folder: Path) -> list[str]:
            self._look(folder)
            return super().names(folder)

        def stat(self, path: Path) -> os.stat_result:
            self._look(path)
            return super().stat(path)

        @staticmethod
        def _look(path: Path) -> None:
            if str(path).startswith(hidden):
                raise PermissionError(hidden)

    first, second = disks.parts()
    file = new_file(disks.mounted(first) / "file")
    assert under(first, Blind()) & under(file, Blind())
    assert under(first, Blind()) & under(second, Blind()), "what is not known is doubt"
    assert below.disks(-1) == below.disks(-1) != frozenset()


# ---- a machine that is made up

MOUNTS = r"""
20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:5 / /dev rw - devtmpfs devtmpfs rw
30 20 0:40 / /srv/with\040blank rw shared:1 - btrfs /dev/sdb1 rw,subvolid=5,subvol=/
31 20 0:50 / /merged rw - overlay overlay rw,lowerdir=/lower,upperdir=/srv/with\040blank/up
32 20 0:51 / /net rw - nfs4 server:/export rw,vers=4.2
33 20 0:52 / /fuse rw - fuse.bindfs /srv/with\040blank/x rw
34 20 0:53 / /self rw - fuse.odd /self/a rw
35 20 259:0 / /xfs rw - xfs /dev/nvme0n1 rw,logdev=/dev/sdc,noquota
36 20 0:54 / /root rw - btrfs /dev/root rw
37 20 0:55 / /cifs rw - cifs //server/share rw
38 20 0:56 / /memory rw - tmpfs tmpfs rw
39 20 0:60 / /box rw - overlay overlay rw,lowerdir=/lower,upperdir=/box/of/the/host
40 39 0:60 /etc/hosts /shown rw - overlay overlay rw,lowerdir=/lower,upperdir=/box/of/the/host
41 20 0:61 / /other rw - overlay overlay rw,lowerdir=l/1:l/2,upperdir=9f/diff
45 20 7:0 / /on-a-loop rw - ext4 /dev/loop0 rw
42 20 8:1 / /gone rw - xfs /dev/sda1 rw,logdev=/dev/not-here
43 20 0:62 / /pool rw - bcachefs /dev/sdc:/dev/sda1 rw
44 20 0:63 / /joined rw - fuse.mergerfs a:b rw
"""
SDA, SDB, SDC, SDD, SDE, MD, NVME = "8:0", "8:16", "8:32", "8:48", "8:64", "9:0", "259:0"
LOOP, NBD, MAPPED = "7:0", "43:0", "252:0"
BLOCK = "/sys/dev/block"
UNKNOWN = "unknown"
FILES = {
    "/proc/self/mountinfo": MOUNTS,
    **{f"{BLOCK}/{part}/partition": "1\n" for part in ("8:1", "8:2", "8:17")},
    f"{BLOCK}/8:1/../dev": f"{SDA}\n",
    f"{BLOCK}/8:2/../dev": f"{SDA}\n",
    f"{BLOCK}/8:17/../dev": f"{SDB}\n",
    f"{BLOCK}/{MD}/slaves/sda2/dev": "8:2\n",
    f"{BLOCK}/{MD}/slaves/sdc/dev": f"{SDC}\n",
    **{f"{BLOCK}/{disk}/device/model": "disk\n" for disk in (SDA, SDB, SDE, "8:80", NVME)},
    f"{BLOCK}/{LOOP}/loop/backing_file": "/home/image\n",
    f"{BLOCK}/{MAPPED}/slaves/loop0/dev": f"{LOOP}\n",
    f"{BLOCK}/{SDC}/device/wwid": "naa.5000c500a1b2c3d4\n",
    f"{BLOCK}/{SDD}/device/wwid": "naa.5000c500a1b2c3d4\n",
    "/sys/fs/btrfs/1b3c/devices/sdb1/dev": "8:17\n",
    "/sys/fs/btrfs/1b3c/devices/sde/dev": f"{SDE}\n",
    "/sys/fs/btrfs/2c4d/devices/sdf/dev": "8:80\n",
    "/sys/fs/btrfs/features/raid56": "0\n",
}
DEVICES = {"/dev/sda1": "8:1", "/dev/sdb1": "8:17", "/dev/sdc": SDC, "/dev/nvme0n1": NVME}


class Told(Platform):
    """What /sys, /proc and /dev say where the file 5 is a block device, or a file of a mount."""

    def __init__(self, number: str, mount: int | None) -> None:
        self._number, self._mount = number, mount

    def read(self, path: Path) -> bytes:
        if str(path) == "/proc/self/fdinfo/5":
            return f"pos:\t0\nflags:\t02100002\nmnt_id:\t{self._mount}\nino:\t7\n".encode()
        if number := re.fullmatch(rf"{BLOCK}/(\d+:\d+)/dev", str(path)):
            return f"{number[1]}\n".encode()
        if str(path) not in FILES:
            raise FileNotFoundError(path)
        return FILES[str(path)].encode()

    def names(self, folder: Path) -> list[str]:
        inside = [file for file in FILES if file.startswith(f"{folder}/")]
        return sorted({file.removeprefix(f"{folder}/").split("/")[0] for file in inside})

    def fstat(self, fd: int) -> os.stat_result:
        return self._answer(self._number, is_device=self._mount is None)

    def stat(self, path: Path) -> os.stat_result:
        if str(path) not in DEVICES:
            raise FileNotFoundError(path)
        return self._answer(DEVICES[str(path)], is_device=True)

    @staticmethod
    def _answer(number: str, *, is_device: bool) -> os.stat_result:
        major, minor = map(int, number.split(":"))
        mode, device = stat.S_IFBLK if is_device else stat.S_IFREG, os.makedev(major, minor)
        return os.stat_result((mode, 7, device, *[0] * 7), {"st_rdev": device})


# What is open: its number, and its mount if it is a file; the disks; what else it is named by.
WAYS: dict[str, tuple[str, int | None, set[str], set[str]]] = {
    "a mirror of a partition and a disk": (
        MD,
        None,
        {MD, SDA, SDC},
        {"wwid:naa.5000c500a1b2c3d4"},
    ),
    "a disk by its other way": (SDD, None, {SDD}, {"wwid:naa.5000c500a1b2c3d4"}),
    "a file": ("8:1", 20, {SDA}, set()),
    "a file of a file system with two devices": ("0:41", 30, {SDB, SDE}, {"anonymous 0:40"}),
    "one of another subvolume": ("0:42", 30, {SDB, SDE}, {"anonymous 0:40"}),
    "one of such a file system whose devices nobody names": (
        "0:57",
        36,
        {SDB, SDE, "8:80"},
        {"anonymous 0:54"},
    ),
    "a file of an overlay": ("0:50", 31, {SDB, SDE}, {"anonymous 0:50", "anonymous 0:40"}),
    "a file of a folder shown elsewhere": (
        "0:52",
        33,
        {SDB, SDE},
        {"anonymous 0:52", "anonymous 0:40"},
    ),
    "a file of a mount that names itself": ("0:53", 34, set(), {"anonymous 0:53", UNKNOWN}),
    "a file of a container's overlay, which names a path of the host": (
        "0:60",
        39,
        set(),
        {"anonymous 0:60", UNKNOWN},
    ),
    "a file of it that is shown elsewhere": ("0:60", 40, set(), {"anonymous 0:60", UNKNOWN}),
    "a file of an overlay that names a path within an unknown one": (
        "0:61",
        41,
        set(),
        {"anonymous 0:61", UNKNOWN},
    ),
    "a file of a file system in user space that names nothing": (
        "0:63",
        44,
        set(),
        {"anonymous 0:63", UNKNOWN},
    ),
    "a file of a file system whose log is on a device that is not here": (
        "8:1",
        42,
        {SDA},
        {UNKNOWN},
    ),
    "a file of a file system of two devices": (
        "0:62",
        43,
        {SDC, SDA},
        {"anonymous 0:62", "wwid:naa.5000c500a1b2c3d4"},
    ),
    "a file of a file system with its log elsewhere": (
        NVME,
        35,
        {NVME, SDC},
        {"wwid:naa.5000c500a1b2c3d4"},
    ),
    "a file of a server": ("0:51", 32, set(), {"anonymous 0:51"}),
    "a file of another server": ("0:55", 37, set(), {"anonymous 0:55"}),
    "a file of a mount that is not shown": ("0:77", 99, set(), {"anonymous 0:77", UNKNOWN}),
    "a file of such a mount with a device": ("8:17", 99, {SDB}, set()),
    "a file in memory": ("0:56", 38, set(), set()),
}


# Those of them of which only our own kernel keeps anything in memory, and what else there is.
CACHED_HERE = {
    "a mirror of a partition and a disk": True,
    "a disk by its other way": True,
    "a file": True,
    "a file of a file system with two devices": True,
    "one of another subvolume": True,
    "one of such a file system whose devices nobody names": True,
    "a file of a file system with its log elsewhere": True,
    "a file in memory": True,
}
ELSEWHERE = {
    "a loop device": (LOOP, None),
    "a file of one": (LOOP, 45),
    "a device over one": (MAPPED, None),
    "a device of a server": (NBD, None),
}


@pytest.mark.parametrize(
    ("number", "mount", "here"),
    [(*way[:2], CACHED_HERE.get(name, False)) for name, way in WAYS.items()]
    + [(*way, False) for way in ELSEWHERE.values()],
    ids=[name.replace(" ", "-") for name in (*WAYS, *ELSEWHERE)],
)
def test_whose_cache_is_read(number: str, mount: int | None, *, here: bool) -> None:
    """Our own kernel's alone, where the disks and the file system are known; in doubt not.  It is
    asked of what can drop what a failed flush has lost and still shows."""
    assert below.cached_here(5, Told(number, mount)) is here


def test_an_open_file_that_cannot_be_asked_may_be_cached_anywhere() -> None:
    """Not even what it is, is known."""
    assert not below.cached_here(-1)


@pytest.mark.parametrize(
    ("number", "mount", "disks", "besides"), WAYS.values(), ids=[k.replace(" ", "-") for k in WAYS]
)
def test_the_way_down(number: str, mount: int | None, disks: set[str], besides: set[str]) -> None:
    """To all disks that the kernel tells of, and to no other."""
    assert below.disks(5, Told(number, mount)) == disks | besides


class Both(Told):
    """The same, where 6 is another one."""

    def __init__(self, one: str, other: str) -> None:
        each = {**{name: way[:2] for name, way in WAYS.items()}, **ELSEWHERE}
        self._told = {5: Told(*each[one]), 6: Told(*each[other])}

    def read(self, path: Path) -> bytes:
        if str(path) == "/proc/self/fdinfo/6":
            return self._told[6].read(Path("/proc/self/fdinfo/5"))
        return self._told[5].read(path)

    def fstat(self, fd: int) -> os.stat_result:
        return self._told[fd].fstat(fd)


@pytest.mark.parametrize(
    ("one", "other", "certain"),
    [
        ("a file", "a file of a file system with two devices", True),
        ("a file", "a file of a file system with its log elsewhere", True),
        ("a file", "a file in memory", True),
        ("a file", "a file", False),
        ("a file", "a file of one", False),
        ("a file", "a file of a server", False),
        ("a file", "a device of a server", False),
        ("a file", "a file of a mount that is not shown", False),
        ("a file of a server", "a file", False),
        ("a file in memory", "a file", False),
        ("a disk by its other way", "a mirror of a partition and a disk", False),
        ("a device over one", "a file of a file system with its log elsewhere", True),
        ("a device over one", "a mirror of a partition and a disk", False),
    ],
)
def test_what_is_apart_for_certain(one: str, other: str, certain: bool) -> None:
    """What a disk says to the one is nothing of the other: a server may stand on any disk; and what
    stands on memory hears of no disk that is known."""
    assert below.apart(5, 6, Both(one, other)) is certain


def test_what_is_not_open_is_apart_from_nothing() -> None:
    """Not even what it is, is known."""
    assert not below.apart(-1, -1)


# ---- classes


def test_what_stands_on_something_unknown_shares_with_all() -> None:
    """With what is known, too, but not with what stands on nothing: numbers below 0 are in doubt,
    and lose together (native/below.h)."""
    box = below.disks(5, Told("0:60", 39))
    sets = {"a": frozenset("1"), "box": box, "memory": frozenset[str](), "b": frozenset("2")}
    for keys in itertools.permutations(sets):
        found = below.shared({key: sets[key] for key in keys})
        assert list(found) == list(keys) and found["memory"] == 0
        assert all(found[key] < 0 for key in ("a", "box", "b"))


def test_a_doubt_has_no_flush_wait_for_another() -> None:
    """One number, whose flushes wait for each other, have only those that are known to share: files
    of one mount do, whatever that stands on, and two unknown ones do not."""
    box, merged = (
        below.disks(5, Told(*WAYS[name][:2]))
        for name in (
            "a file of a container's overlay, which names a path of the host",
            "a file of a file system in user space that names nothing",
        )
    )
    away = below.disks(below.AWAY)
    sets = {"a": "1", "b": "12", "box": box, "another": box, "merged": merged}
    sets |= {"away": away, "away, too": away}
    for keys in itertools.permutations(sets):
        found = below.shared({key: frozenset(sets[key]) for key in keys})
        assert found["a"] == found["b"] and found["box"] == found["another"]
        assert set(found.values()) == {-1, -2, -3, -4, -5}


@needs_loops
def test_what_was_away_stands_where_it_is_opened(disks: Disks) -> None:
    """It has the number of what it shares a disk with then, each time anew; where that is nothing,
    its own.  It is in doubt still, as all are."""
    (first, second), other = disks.parts(), disks.loop()
    with ExitStack() as opened:

        def fd(path: str | Path) -> int:
            number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, number)
            return number

        memory = other.file.parent
        found = below.numbers(
            {"data": fd(first), "memory": fd(memory), "one": below.AWAY, "two": below.AWAY}
        )
        data, one, two = (found[key] for key in ("data", "one", "two"))
        assert len({data, one, two}) == 3 and max(data, one, two) < 0 == found["memory"]
        assert found.opened("one", fd(second)) == found["one"] == data
        assert found.opened("one", fd(memory)) == one
        assert found.opened("one", fd(other.path)) == one
        assert found.opened("two", fd(other.path)) == one, "with another that was away"
        assert found.opened("two", fd(second)) == data
        assert found.opened("two", fd(memory)) == two


def test_what_has_a_disk_in_common_is_one_class() -> None:
    """Also by way of a third, whichever comes first; what stands on nothing is in none."""
    sets = {"a": "1", "b": "2", "memory": "", "c": "34", "d": "13", "e": "2", "more memory": ""}
    for keys in itertools.permutations(sets):
        found = below.shared({key: frozenset(sets[key]) for key in keys})
        assert list(found) == list(keys)
        assert found["memory"] == found["more memory"] == 0
        assert found["a"] == found["c"] == found["d"] and found["b"] == found["e"]
        assert {found["a"], found["b"]} == {1, 2}
    assert below.shared({}) == {}
