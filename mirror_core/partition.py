"""The UUID of a partition, as blkid calls it PARTUUID, whether udev runs or not.

Asked in this order: the kernel (uevent, since Linux 6.9), udev's database, the partition table on
the disk itself (GPT, or MBR: its signature and the partition's number).  The last needs a user who
may read the whole disk.

Left out: the partition tables of other machines (BSD, Sun, Mac).
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from pathlib import Path

_SECTOR = 512  # the unit of `start` in /sys, whatever the disk's
_GPT_HEAD = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY = struct.Struct("<16s16sQQ")
_GPT_ENTRIES_MAX = 1024
_MBR_SIGNATURE, _MBR_TYPE, _MBR_END = 440, 450, 510
_GPT_PROTECTIVE = 0xEE


def uuid_of(node: Path) -> str | None:
    """`node`: /sys/dev/block/MAJOR:MINOR of a partition.  None: nobody can tell."""
    return _asked(node / "uevent", "PARTUUID=") or _asked(
        Path("/run/udev/data") / f"b{node.name}", "E:ID_PART_ENTRY_UUID="
    ) or _on_disk(node)  # fmt: skip


def _asked(path: Path, key: str) -> str | None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.removeprefix(key).lower() for line in lines if line.startswith(key)), None)


def _on_disk(node: Path) -> str | None:
    try:
        disk = node.resolve().parent
        major, minor = map(int, (disk / "dev").read_text().split(":"))
        sector = int((disk / "queue/logical_block_size").read_text())
        start = int((node / "start").read_text()) * _SECTOR
        name = _asked(disk / "uevent", "DEVNAME=")
        fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if os.fstat(fd).st_rdev != os.makedev(major, minor):
            return None
        return _in_table(fd, sector, start, int((node / "partition").read_text()))
    except (OSError, ValueError, struct.error):
        return None
    finally:
        os.close(fd)


def _in_table(fd: int, sector: int, start: int, number: int) -> str | None:
    first = os.pread(fd, _SECTOR, 0)
    if first[_MBR_END:] != b"\x55\xaa":
        return None
    if first[_MBR_TYPE] == _GPT_PROTECTIVE:
        return _in_gpt(fd, sector, start)
    (signature,) = struct.unpack_from("<I", first, _MBR_SIGNATURE)
    return f"{signature:08x}-{number:02x}" if signature else None


def _in_gpt(fd: int, sector: int, start: int) -> str | None:
    head = os.pread(fd, sector, sector)
    magic, _, length, crc, _, _, _, _, _, _, entries_at, count, size, _ = _GPT_HEAD.unpack_from(
        head
    )
    if magic != b"EFI PART" or not _GPT_HEAD.size <= length <= sector:
        return None
    if zlib.crc32(head[:16] + bytes(4) + head[20:length]) != crc or size < _GPT_ENTRY.size:
        return None
    for i in range(min(count, _GPT_ENTRIES_MAX)):
        entry = os.pread(fd, _GPT_ENTRY.size, entries_at * sector + i * size)
        kind, unique, low, _ = _GPT_ENTRY.unpack(entry)
        if any(kind) and low * sector == start:
            return str(uuid.UUID(bytes_le=unique))
    return None
