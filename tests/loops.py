"""Real block devices for tests: loop devices over files, with and without partitions."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
import subprocess
import time
import uuid
import zlib
from pathlib import Path

import pytest

SECTOR = 512
LINUX_DATA = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")

needs_loops = pytest.mark.root("makes loop devices", "/dev/loop-control")


_SET_FD = 0x4C00
_SET_STATUS64, _GET_STATUS64, _INFO_BYTES = 0x4C04, 0x4C05, 232
BEGINS_AT, ENDS_AFTER = 24, 32
_ADD, _REMOVE = 0x4C80, 0x4C81  # linux/loop.h: LOOP_CTL_ADD, LOOP_CTL_REMOVE
_added: set[int] = set()
_numbers = itertools.count(1000 + os.getpid() % 10_000 * 16)  # seldom another process's


def _control(request: int, number: int) -> None:
    fd = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, number)
    finally:
        os.close(fd)


def _add() -> int:
    """A loop device that was not there: of two processes in two namespaces the number may be one,
    and one that was killed leaves its own."""
    for number in _numbers:
        with contextlib.suppress(FileExistsError):
            _control(_ADD, number)
            return number
    raise AssertionError("numbers end")


def _unmount_elsewhere(device: str) -> None:
    """A mount namespace that another test has made meanwhile got a copy of every mount, and would
    keep the device in use for as long as it runs."""
    names = [Path(device).name, *(Path(one).name for one in Loop.partitions(device))]
    numbers = {Path("/sys/class/block", name, "dev").read_text().strip() for name in names}
    seen = {os.readlink("/proc/self/ns/mnt")}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            namespace = os.readlink(process / "ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            for line in (process / "mountinfo").read_text().splitlines():
                if line.split()[2] in numbers:
                    subprocess.run(
                        ["nsenter", f"--mount={process}/ns/mnt", "umount", line.split()[4]],
                        check=False,
                    )


def _delete_partitions(device: str) -> None:
    """One that was just being made may hold them for a moment still: there is no event to wait on
    but that they are free."""
    deadline = time.monotonic() + 120  # as long as a whole test of another process, perhaps
    while subprocess.run(["partx", "--delete", device], check=False).returncode:
        assert time.monotonic() < deadline, f"{device}: still in use"
        time.sleep(0.05)
        _unmount_elsewhere(device)


class Loop:
    """`path`: a link in the test's folder to the device, as udev's names are."""

    def __init__(self, file: Path, size: int, *, forget: bool = False) -> None:
        """`forget`: the file's name is removed, so that nothing tells the device from another."""
        self.file, self.path = file, file.with_suffix(".dev")
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, size)
        if forget:
            file.unlink()
        self.number: int | None = None
        self.attach()

    def attach(self, number: int | None = None) -> None:
        """As that loop device, or as one that was not there before."""
        assert self.number is None
        if number is None:
            number = _add()
            _added.add(number)
        self.number = number
        device, fd = f"/dev/loop{number}", os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SET_FD, self._fd)
        finally:
            os.close(fd)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(device)

    def detach(self) -> int:
        """The number that it had, free for another."""
        assert self.number is not None
        number, self.number = self.number, None
        device = f"/dev/loop{number}"
        _unmount_elsewhere(device)
        if self.partitions(device):
            _delete_partitions(device)
        subprocess.run(["losetup", "--detach", device], check=True)
        return number

    def scan(self) -> list[str]:
        """The partitions that the kernel finds now."""
        subprocess.run(["partx", "--update", f"/dev/loop{self.number}"], check=True)
        return self.partitions(f"/dev/loop{self.number}")

    @staticmethod
    def partitions(device: str) -> list[str]:
        return sorted(str(path) for path in Path("/dev").glob(f"{Path(device).name}p*"))

    def write(self, data: bytes, offset: int = 0) -> None:
        """Into the file, while no device is on it."""
        assert self.number is None
        os.pwrite(self._fd, data, offset)

    def empty(self) -> None:
        """The file is a hole, while nobody has the device open."""
        size = os.fstat(self._fd).st_size
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        if self.number is not None:
            self.detach()
        os.close(self._fd)
        for number in [*_added]:
            with contextlib.suppress(OSError):  # EBUSY: another Loop of this test is on it
                _control(_REMOVE, number)
                _added.remove(number)


def set_bound(device: str, at: int, value: int) -> None:
    """Of a loop device, by its place in struct loop_info64 (linux/loop.h): BEGINS_AT, where in its
    file it begins; ENDS_AFTER, so many bytes, 0: where its file does."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = bytearray(_INFO_BYTES)
        fcntl.ioctl(fd, _GET_STATUS64, info)
        info[at : at + 8] = value.to_bytes(8, "little")
        fcntl.ioctl(fd, _SET_STATUS64, bytes(info))
    finally:
        os.close(fd)


def gpt(size: int, parts: list[tuple[int, int, uuid.UUID]]) -> dict[int, bytes]:
    """A partition table, as {offset: bytes}: (first sector, last sector, UUID) of each."""
    last = size // SECTOR - 1
    protective = bytearray(SECTOR)
    struct.pack_into("<8B2I", protective, 446, 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, last)
    protective[510:] = b"\x55\xaa"
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", LINUX_DATA.bytes_le, one.bytes_le, low, high, 0, b"")
        for low, high, one in parts
    ).ljust(128 * 128, b"\0")
    head = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        b"EFI PART",
        1 << 16,
        92,
        0,
        0,
        1,
        last,
        34,
        last - 33,
        uuid.uuid4().bytes_le,
        2,
        128,
        128,
        zlib.crc32(entries),
    )
    head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
    return {0: bytes(protective), SECTOR: head.ljust(SECTOR, b"\0"), 2 * SECTOR: entries}


def mbr(signature: int, parts: list[tuple[int, int]]) -> dict[int, bytes]:
    """(first sector, sectors) of each."""
    table = bytearray(SECTOR)
    struct.pack_into("<I", table, 440, signature)
    for i, (first, count) in enumerate(parts):
        struct.pack_into("<8B2I", table, 446 + 16 * i, 0, 0, 2, 0, 0x83, 0, 0, 0, first, count)
    table[510:] = b"\x55\xaa"
    return {0: bytes(table)}
