"""Stores that stand on one disk are known to: they lose together."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from loops import SECTOR, Loop, mbr, needs_loops

from mirror_core import below

MIB = 1 << 20
Open = Callable[[Path], int]


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as undo:
        yield opening(undo)


def opening(undo: ExitStack) -> Open:
    """Opens, until that ends."""

    def open_it(path: Path) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, fd)
        return fd

    return open_it


@needs_loops
def test_whatever_is_between_them_and_the_disk(scratch: Path) -> None:
    """Two partitions; a file and a folder of a file system on one of them; a loop device over such
    a file; a disk of their own."""
    with ExitStack() as undo:
        disk, other = Loop(scratch / "disk", 32 * MIB), Loop(scratch / "other", MIB)
        undo.callback(other.close)
        undo.callback(disk.close)
        number = disk.detach()
        half = 15 * MIB // SECTOR
        for at, data in mbr(7, [(2048, half), (2048 + half, half)]).items():
            disk.write(data, at)
        disk.attach(number)
        one, two = (Path(part) for part in disk.scan())
        mounted = scratch / "mounted"
        mounted.mkdir()
        subprocess.run(["mkfs.ext4", "-q", str(one)], check=True)
        subprocess.run(["mount", str(one), str(mounted)], check=True)
        undo.callback(subprocess.run, ["umount", str(mounted)], check=True)
        (mounted / "file").touch()
        upon = Loop(mounted / "upon", MIB)
        undo.callback(upon.close)
        apart = Loop(scratch / "apart", MIB, forget=True)
        undo.callback(apart.close)
        opened = opening(undo)
        numbers = below.shared({
            "one": opened(one), "two": opened(two), "file": opened(mounted / "file"),
            "folder": opened(mounted), "upon": opened(upon.path), "other": opened(other.path),
            "apart": opened(apart.path), "server": None,
        })  # fmt: skip
        together = {numbers[name] for name in ("one", "two", "file", "folder", "upon")}
        assert len(together) == 1
        alone = [numbers["other"], numbers["apart"]]
        assert len({*together, *alone}) == 3 and 0 not in {*together, *alone}
        assert numbers["server"] == 0


def test_memory_is_no_disk(opened: Open) -> None:
    """What is in a tmpfs shares with nobody, not even with what is in the same one."""
    memory = Path("/dev/shm")
    assert below.shared({"a": opened(memory), "b": opened(memory)}) == {"a": 0, "b": 0}


def test_a_file_system_without_a_device_is_shared_all_the_same(opened: Open) -> None:
    """Nobody knows what /proc stands on; two files of it stand on the same."""
    first, second, other = Path("/proc/self/status"), Path("/proc/self/stat"), Path("/dev/shm")
    numbers = below.shared({path: opened(path) for path in (first, second, other)})
    assert numbers[first] == numbers[second] > 0 == numbers[other]


def test_what_is_made_of_two_disks_joins_them(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Device mapper and md name what they are made of; who stands on either shares with both.
    (There is no device mapper here: the folders are as sysfs has them.)"""
    device = os.fstat(opened(tmp_path)).st_dev
    mine = f"{os.major(device)}:{os.minor(device)}"
    for number, slaves in ((mine, ["7:1", "7:2"]), ("7:1", []), ("7:2", ["7:3"]), ("7:3", [])):
        for slave in slaves:
            folder = tmp_path / number / "slaves" / slave
            folder.mkdir(parents=True)
            (folder / "dev").write_text(f"{slave}\n")
        (tmp_path / number).mkdir(exist_ok=True)
    monkeypatch.setattr(below, "_SYS", tmp_path)
    found: set[str] = set()
    below._descend(device, found)
    assert found == {mine, "7:1", "7:2", "7:3"}
    sets = {1: {"7:3"}, 2: {"7:1"}, 3: found, 4: {"9:9"}, 5: set()}
    monkeypatch.setattr(below, "_below", sets.__getitem__)
    numbers = below.shared({name: name for name in sets})
    assert numbers[1] == numbers[2] == numbers[3] != numbers[4] and numbers[5] == 0
