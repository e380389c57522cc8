"""detach --unmount: what stands on a device is unmounted, and who uses it is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loops import SECTOR, Loop, gpt, needs_loops

from mirror_core import below, unmounting
from mirror_core.errors import MirrorError

MIB = 1 << 20
USER = "import os, sys; os.chdir(sys.argv[1]); print('in', flush=True); input()"

pytestmark = needs_loops


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


def number(loop: Loop) -> str:
    device = loop.path.resolve().stat().st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path / "disk", 32 * MIB)
    yield made
    made.close()


@pytest.fixture
def mounted(loop: Loop, tmp_path: Path) -> Iterator[Path]:
    """A file system on it, and where that is."""
    at = tmp_path / "at"
    at.mkdir()
    run("mkfs.ext4", "-q", loop.path)
    run("mount", loop.path, at)
    yield at
    subprocess.run(["umount", "-R", at], capture_output=True, check=False)


def test_everything_that_stands_on_a_device_is_unmounted(
    loop: Loop, mounted: Path, tmp_path: Path
) -> None:
    """Its file system, a bind mount of it, and one in a file on it, by way of another device."""
    bound, inner = tmp_path / "a folder", tmp_path / "inner"
    bound.mkdir()
    inner.mkdir()
    run("mount", "--bind", mounted, bound)
    other = Loop(mounted / "image", 8 * MIB)
    try:
        run("mkfs.ext4", "-q", other.path)
        run("mount", other.path, inner)
        points = below.mounts_on(number(loop))
        assert points == [str(inner), str(bound), str(mounted)]
        with pytest.raises(MirrorError, match="target is busy"):  # `other` has its file open
            unmounting.everything_on([number(loop)], 0.5)
        assert below.mounts_on(number(loop)) == [str(mounted)]
    finally:
        subprocess.run(["umount", inner, bound], capture_output=True, check=False)
        other.close()
    unmounting.everything_on([number(loop)], 10)
    assert below.mounts_on(number(loop)) == []


def test_a_partition_stands_on_its_disk(loop: Loop, tmp_path: Path) -> None:
    """By the number of the whole disk."""
    loop.detach()
    first, last = 2048, 32 * MIB // SECTOR - 2048
    for offset, data in gpt(32 * MIB, [(first, last, uuid.uuid4())]).items():
        loop.write(data, offset)
    loop.attach()
    (partition,) = loop.scan()
    at = tmp_path / "at"
    at.mkdir()
    run("mkfs.ext4", "-q", partition)
    run("mount", partition, at)
    assert below.mounts_on(number(loop)) == [str(at)]
    unmounting.everything_on([number(loop)], 10)
    assert below.mounts_on(number(loop)) == []


def test_who_uses_what_is_mounted_is_waited_for_and_no_longer_than_said(
    loop: Loop, mounted: Path
) -> None:
    """It keeps it, and is named neither dead nor gone: when the time is over the line says why."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, mounted], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin and user.stdout and user.stdout.readline()
        with pytest.raises(MirrorError, match=f"not unmounted: .*{mounted}.* busy"):
            unmounting.everything_on([number(loop)], 0.5)
        assert below.mounts_on(number(loop)) == [str(mounted)]
        ends_while(lambda: unmounting.everything_on([number(loop)], 30), user)
    assert below.mounts_on(number(loop)) == []


def ends_while(waits: Callable[[], None], user: subprocess.Popen[bytes]) -> None:
    """`user` ends half a second after the waiting has begun."""

    def end() -> None:
        time.sleep(0.5)  # that it is still there when the waiting begins is the point
        assert user.stdin
        user.stdin.write(b"\n")
        user.stdin.close()

    ending = threading.Thread(target=end)
    ending.start()
    waits()
    ending.join()


def test_a_device_in_use_keeps_no_other_one_mounted(
    loop: Loop, mounted: Path, tmp_path: Path
) -> None:
    """All of a site's devices are unmounted in the time that there is, whichever refuses."""
    other, at = Loop(tmp_path / "other", 16 * MIB), tmp_path / "there"
    at.mkdir()
    try:
        run("mkfs.ext4", "-q", other.path)
        run("mount", other.path, at)
        with subprocess.Popen(
            [sys.executable, "-c", USER, mounted], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as user:
            assert user.stdin and user.stdout and user.stdout.readline()
            with pytest.raises(MirrorError, match=f"not unmounted: .*{mounted}.* busy"):
                unmounting.everything_on([number(loop), number(other)], 0.5)
            assert below.mounts_on(number(other)) == []
            user.stdin.close()
    finally:
        subprocess.run(["umount", at], capture_output=True, check=False)
        other.close()


def test_who_has_nothing_mounted_has_nothing_unmounted(loop: Loop, mounted: Path) -> None:
    """A mount of another device stays."""
    unmounting.everything_on(["43:77"], 1)
    assert below.mounts_on(number(loop)) == [str(mounted)]
