"""What a store is known again by, apart from its bytes: pure reading of the kernel's answers.

    lasting    outlives a reboot: the device-mapper UUID, an md or RBD image's id, the WWID or
               serial number of a disk, the UUID of a partition, the file behind a loop device
    name       what the kernel or the owner calls it now: a file's inode and generation, a
               device's major:minor, a server's URI.  An accident: it may change while the store
               stays the same, and a device's number may mean another disk after a reboot
    instance   of a device: the boot id and the kernel's disk sequence number, which no other disk
               of the same boot has, if the boot is known (platform.py); of a file: that it carried
               our mark (stores.py)

`judge` compares these with the recorded ones.  A lasting identity decides.  Without one, an
instance does, within one boot.  Otherwise a device's number proves nothing, nor does an inode
number without a generation where a mark has gone, and stores.py asks for the fingerprint of an
orderly stop, or for a person ('flashmirror adopt').

A file has no lasting identity but our mark in an extended attribute (stores.py), which may travel
to a copy.  A device has no room for a mark: all of its bytes are the owner's.
Left out: names in /dev, which udev's rules decide; whether a store is open elsewhere.
"""

from __future__ import annotations

import enum
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from mirror_core import partition
from mirror_core.platform import HERE, Platform

SYS = Path("/sys/dev/block")  # a folder, or a link to one, for each MAJOR:MINOR
_BLKGETDISKSEQ = 0x80081280  # linux/fs.h: unsigned 64-bit; since Linux 5.15
_FS_IOC_GETVERSION = 0x80087601  # linux/fs.h: a file's generation
_LOOP_GET_STATUS64 = 0x4C05  # linux/loop.h
_LOOP_INFO64 = struct.Struct("<QQQQQ")  # the file's device, inode, rdev; offset; size limit
_LOOP_INFO64_BYTES = 232

# Of a whole disk: the first whose files are all there and not empty is its lasting identity.
_ATTRIBUTES = (
    ("dm", ("dm/uuid",)),
    ("md", ("md/uuid",)),
    ("rbd", ("device/cluster_fsid", "device/pool_id", "device/image_id")),
    ("wwid", ("wwid",)),
    ("wwid", ("device/wwid",)),
    ("serial", ("serial",)),
    ("serial", ("device/serial",)),
)


MARKED = "marked"  # the instance of a file


class Verdict(enum.Enum):
    SAME = "the store that was recorded"
    UNSURE = "its name does not tell it from another one"
    OTHER = "another store"


@dataclass(frozen=True)
class Identity:
    """`lasting`: KIND:VALUE, sorted.  `instance`: empty where the kernel tells none."""

    kind: str  # file, device or nbd
    name: str
    lasting: tuple[str, ...] = ()
    instance: str = ""

    def __str__(self) -> str:
        return " ".join([self.kind, self.name, *self.lasting])


def judge(known: Identity, found: Identity, *, marked: bool) -> Verdict:
    """Whether `found` is the store that `known` was.  `marked`: a file carries the mark of that
    store; a copy of it may, too, so another inode is not accepted for the mark alone."""
    if known.kind != found.kind:
        return Verdict.OTHER
    before, now = (dict(one.split(":", 1) for one in i.lasting) for i in (known, found))
    shared = before.keys() & now.keys()
    if shared:  # all must agree: a cloned partition table has the UUIDs of the first one
        return Verdict.SAME if all(before[k] == now[k] for k in shared) else Verdict.OTHER
    if known.name != found.name:
        return Verdict.UNSURE if marked else Verdict.OTHER
    if known.kind == "device":
        exact = bool(known.instance) and known.instance == found.instance
    else:
        exact = marked or known.instance != MARKED or "." in known.name
    return Verdict.SAME if exact else Verdict.UNSURE


def names_of(identity: Identity) -> set[str]:
    """What it is called, in every way: of two stores with a name in common one may be the other."""
    return {f"{identity.kind} {identity.name}", *identity.lasting}


def overlap(one: Identity, other: Identity) -> bool:
    """Whether two devices are one disk by two ways, or one is a partition of what the other is."""
    return judge(one, other, marked=False) is Verdict.SAME or any(
        part.startswith(f"{whole}#")
        for a, b in ((one, other), (other, one))
        for whole in a.lasting
        for part in b.lasting
    )


def of_server(uri: str) -> Identity:
    return Identity("nbd", uri)


def of_path(fd: int) -> Identity:
    """Of an open file or block device."""
    info = os.fstat(fd)
    if not stat.S_ISBLK(info.st_mode):
        return Identity("file", of_file(fd))
    number = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    node = SYS / number
    start = text(node / "start") if (node / "partition").exists() else ""
    lasting = [one + (f"#{start}" if start else "") for one in _of_disk(fd, node, bool(start))]
    uuid = partition.uuid_of(node) if start else None
    if uuid:
        lasting.append(f"partuuid:{uuid}")
    return Identity("device", number, tuple(sorted(lasting)), _instance(fd, start))


def text(path: Path, platform: Platform = HERE) -> str:
    """A file of /sys or /proc without the newline at its end; empty: there is none.  It may hold a
    path, or another user's name for something: a byte that is no UTF-8 is kept as in every path
    (os.fsdecode), and so is a blank at the end.  Who shows it to a person takes
    errors.printable."""
    try:
        return os.fsdecode(platform.read(path)).removesuffix("\n")
    except OSError:
        return ""


def _attribute(path: Path, platform: Platform) -> str:
    """What a disk says of itself, as it is recorded for ever: padding is nothing of it."""
    return os.fsencode(text(path, platform)).decode(errors="replace").strip(" \t\r\n\0")


def _of_disk(fd: int, node: Path, is_partition: bool) -> list[str]:
    """At most one lasting identity of a whole disk, or of the one that holds a partition."""
    disk = node.resolve().parent if is_partition else node
    if (disk / "loop").is_dir():
        behind = _behind_loop(fd, disk)
        return [f"loop:{behind}"] if behind else []
    lasting = lasting_of(disk)
    return [lasting] if lasting else []


def lasting_of(disk: Path, platform: Platform = HERE) -> str | None:
    """What a whole disk tells of itself, which is no loop device.  `disk`: its folder in /sys."""
    for kind, names in _ATTRIBUTES:
        values = [_attribute(disk / name, platform) for name in names]
        if all(values) and values[-1].strip("0"):  # a serial of zeroes is nobody's
            return f"{kind}:{'/'.join(values)}"
    return None


def loop_status(fd: int, platform: Platform = HERE) -> tuple[int, int, int, int, int]:
    """Of a loop device, or a partition of one: device and inode of the file behind it, the number
    of that if it is a device itself (0: it is none); offset and size limit.  OSError."""
    buffer = bytearray(_LOOP_INFO64_BYTES)
    platform.ioctl(fd, _LOOP_GET_STATUS64, buffer)
    device, inode, rdev, offset, limit = _LOOP_INFO64.unpack_from(buffer)
    return device, inode, rdev, offset, limit


def _behind_loop(fd: int, disk: Path) -> str | None:
    """The file behind a loop device, and which part of it; None: it cannot be looked at."""
    try:
        device, inode, rdev, offset, limit = loop_status(fd)
        if rdev:
            return None  # a block device: the inode is that of its node in /dev
        path = (disk / "loop/backing_file").read_bytes().rstrip(b"\n")
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        info = os.fstat(file)
        if (info.st_dev, info.st_ino) != (device, inode):
            return None  # the path means another file by now, or in this mount namespace
        name = of_file(file)
        if "." not in name:  # the first files of two tmpfs have one inode number
            name += f"-{os.fstatvfs(file).f_fsid:x}"
        return f"{name}@{offset}+{limit}"
    finally:
        os.close(file)


def of_file(fd: int, platform: Platform = HERE) -> str:
    """Inode, and the generation where the file system keeps one: it tells a file from a later
    one that was given the same inode.  OSError."""
    inode = platform.fstat(fd).st_ino
    buffer = bytearray(8)
    try:
        platform.ioctl(fd, _FS_IOC_GETVERSION, buffer)
    except OSError:
        return str(inode)
    return f"{inode}.{int.from_bytes(buffer[:4], 'little')}"


def _instance(fd: int, start: str) -> str:
    buffer = bytearray(8)
    try:
        boot = HERE.boot_id()
        fcntl.ioctl(fd, _BLKGETDISKSEQ, buffer)
    except OSError:
        return ""  # an older kernel, or a boot that is not known
    sequence = int.from_bytes(buffer, "little")
    return f"{boot}/{sequence}" + (f"#{start}" if start else "")
