"""Whether two names are one store; whether somebody else has one open, where the kernel tells.

    where(URI)   what is left of a server's URI when its spelling is an accident no more
    refuse(fd)   a file or device that is under a loop device, or that somebody has locked
    lock(fd)     it is ours: who comes later and asks as QEMU does is kept out
    holder(fd)   the process that has a lock on it which is an open file's

flock(2) and O_EXCL (stores.py) keep out other sites, mounted devices, device-mapper and md.  Other
servers lock in their own way (QEMU: fcntl(2), some bytes), and a loop device not at all.

Left out: whoever locks nothing, such as nbdkit's file plugin or dd; one server under two hosts'
names; a loop device that is read-only, as of one who looks, or that was set up in another mount
namespace while losetup (package mount) is missing, or some loop device answers nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import re
import stat
import struct
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mirror_core import below, identity, limits, mounted
from mirror_core.errors import StoreError, printable
from mirror_core.identity import text

_LOOPS = Path("/sys/block")
_FLOCK = struct.Struct("hhqqi4x")  # fcntl_locking(2): struct flock
_HERE = ("127.0.0.1", "::1")

# ---- servers


def where(uri: str) -> tuple[object, ...]:
    """The server and export of a URI that config.py has let through.  TLS or not, its user and how
    it is written make no other store of it; nor do slashes at the end of an export's name."""
    try:
        parts = urlsplit(uri)
        port = parts.port or limits.PORT
    except ValueError:  # whoever opens it says what is wrong
        return (uri,)
    export = unquote(parts.path).removeprefix("/").rstrip("/")
    if parts.scheme.endswith("+unix"):
        sockets = re.findall(r"(?:^|[&;])socket=([^&;]*)", parts.query)
        return "unix", _socket(unquote(sockets[-1]) if sockets else ""), export
    kind = "vsock" if parts.scheme.endswith("+vsock") else "tcp"
    return kind, _host(unquote(parts.hostname or "")), port, export


def _socket(path: str) -> object:
    try:
        info = os.stat(path)
        return info.st_dev, info.st_ino
    except OSError:  # it does not listen yet
        return os.path.realpath(path)


def _host(name: str) -> str:
    """As it is written in one way only: names have no case, and numbers few zeroes."""
    name = name.lower().rstrip(".")
    with contextlib.suppress(ValueError):
        name = str(ipaddress.ip_address(name))
    return "localhost" if name in _HERE else name


# ---- files and devices


def refuse(fd: int, name: str) -> None:
    """`fd`: it, open to write.  StoreError: somebody else may write to it, and who that is."""
    who = _loop_over(fd) or _locker(fd)
    if who:
        raise StoreError(f"{name}: in use by {who}: stop that first", errno.EBUSY)


def lock(fd: int, name: str) -> None:
    """All of it (F_OFD_SETLK), until `fd` is closed.  StoreError: somebody was quicker.  Not where
    flock(2) is such a lock already, as on NFS: ours would be in the way of ours."""
    if not below.is_of_this_machine(fd):
        return
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise StoreError(
                f"{name}: in use by {_locker(fd) or 'another process'}: stop that first",
                errno.EBUSY,
            ) from error


def _loop_over(fd: int) -> str | None:
    """A path tells nothing of what is behind a loop device that was set up in another mount
    namespace, as in a container.  So each is asked; only one that does not tell is looked at by its
    path, and only if that may be on the file system of our store."""
    loops = [
        disk
        for disk in _LOOPS.glob("loop*")
        if text(disk / "loop/backing_file") and text(disk / "ro") != "1"
    ]
    if not loops:
        return None
    told, mounts = mounted.behind_loops(), below.mounts_of()
    ours = _file_system_of(fd, mounts)
    for disk in loops:
        number = text(disk / "dev")
        if number in told:
            found = _is_behind(told[number], disk, fd)
        else:
            path = text(disk / "loop/backing_file")
            found = ours in _file_systems_of(path, mounts) and _stands_on(disk, fd)
        if found:
            at = mounted.on({number})
            where = f", mounted on {printable(at[0].point)}" if at else ""
            return f"the loop device /dev/{disk.name}{where}"
    return None


def _is_behind(file: mounted.Behind, disk: Path, fd: int) -> bool:
    """`file`: what the loop device has told, just now.  Of a device that is not its number: that is
    asked for here, of one that answers."""
    ours = os.fstat(fd)
    if stat.S_ISBLK(ours.st_mode):
        return _asked(disk, ours) is True
    number = f"{os.major(ours.st_dev)}:{os.minor(ours.st_dev)}"
    return (file.file_system, file.inode) == (number, ours.st_ino)


def _file_system_of(fd: int, mounts: list[below.Mount]) -> str:
    """The number of the one in which it was opened; empty: it is not to be seen."""
    mount = below.mount_of(fd, mounts)
    return mount.number if mount else ""


def _file_systems_of(path: str, mounts: list[below.Mount]) -> set[str]:
    """The numbers of the file systems that a path may lead to: those mounted at the nearest point
    above it.  What is on another one than ours is not looked at: its server, or disk, may be away,
    and whoever looks at a file there waits for that."""
    above = [mount for mount in mounts if mount.holds(path)]
    nearest = max((len(mount.point) for mount in above), default=0)
    return {mount.number for mount in above if len(mount.point) == nearest}


def _stands_on(disk: Path, fd: int) -> bool:
    """Whether a loop device stands on what is open here.  Its file is looked at by its path, and if
    that may be it, or leads nowhere from here, the device is asked, by who may do that."""
    ours = os.fstat(fd)
    try:
        found = os.stat(text(disk / "loop/backing_file"))
        if not _is_same((found.st_dev, found.st_ino, found.st_rdev), ours):
            return False
        known = True
    except OSError:
        known = False
    answer = _asked(disk, ours)
    return known if answer is None else answer


def _asked(disk: Path, ours: os.stat_result) -> bool | None:
    """Whether a loop device says that it stands on ours.  None: it may not be asked."""
    try:
        loop = os.open(f"/dev/{disk.name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        device, inode, rdev, _, _ = identity.loop_status(loop)
    except OSError:  # it stands on nothing by now
        return False
    finally:
        os.close(loop)
    return _is_same((device, inode, rdev), ours)


def _is_same(one: tuple[int, int, int], other: os.stat_result) -> bool:
    """`one`: device, inode and number; the number tells a device, whatever the name of its node."""
    if one[2] or other.st_rdev:
        return one[2] == other.st_rdev
    return one[:2] == (other.st_dev, other.st_ino)


def _locker(fd: int) -> str | None:
    """Who has locked a part of it (F_OFD_GETLK)."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    except OSError:  # a file system without
        return None
    if kind == fcntl.F_UNLCK:
        return None
    pid = pid if pid > 0 else holder(fd, "OFDLCK")  # of an open file, not of a process
    if not pid:
        return "another process"
    return f"process {pid} ({printable(text(Path(f'/proc/{pid}/comm')))})"


def holder(fd: int, kind: str) -> int | None:
    """The process that has a lock of this kind on what is open here: FLOCK, or OFDLCK, of an open
    file (proc_pid_fdinfo(5)).  None: it is not to be seen from here.  Nothing that others have open
    is looked at itself: its server may hang, and is no matter of ours."""
    mount = below.mount_of(fd, below.mounts_of())
    if not mount:
        return None
    major, minor = map(int, mount.number.split(":"))
    file = f"{major:02x}:{minor:02x}:{os.fstat(fd).st_ino}"
    held = re.compile(rf"^lock:.* {kind} .* {file} ", re.MULTILINE)
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended since, or is somebody else's
            folder = Path("/proc", process, "fdinfo")
            if any(held.search(text(folder / name)) for name in os.listdir(folder)):
                return int(process)
    return None
