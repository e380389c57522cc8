"""What a site takes of the machine that it runs on: the one seam below the control.

    clock, chance, threads        of the two control threads and their commands
    files                         of the state folder, each call of the system by itself; what is
                                  asked about open files, in /sys and /proc
    connections                   to the other site
    the log                       where lines go that people read

Whatever can fail, take long, or be lost in a crash comes through an object of this class, which
is handed to what needs it.  The simulator hands in its own (tests/sim/simos.py), and so can fail,
delay and lose any call of any site without a patch.

Invariant: a method here decides nothing; it is one call, or one object, of the system.
Left out: the stores and the maps in memory, which a site is handed besides (site.py); what runs
in the process beside the control (sockets, nbdkit, metrics).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import random
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from mirror_core import apart, limits, native

TOKEN = re.compile("[0-9a-f]{32}")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UUID = re.compile(b"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n")
T = TypeVar("T")


class Thread(Protocol):
    def join(self) -> None: ...


class Condition(Protocol):
    """As threading.Condition."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *_: Any) -> Any: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool: ...
    def notify_all(self) -> None: ...


class Lock(Protocol):
    def __enter__(self) -> Any: ...
    def __exit__(self, *_: Any) -> Any: ...


class Platform:
    """This machine.  The calls on files raise OSError, as those of `os` do."""

    heard_losses = 0  # syncs of the state folder that were told of one, whoever minds

    # ---- clock and chance

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def uptime(self) -> float:
        """Seconds since the machine was started, also those in which it was suspended: also in a
        container whose clock begins elsewhere (time_namespaces(7))."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - _boottime_offset()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)

    def random_bits(self, bits: int) -> int:
        return secrets.randbits(bits)

    def token(self) -> str:
        """32 hexadecimal digits (TOKEN) that nobody else has drawn."""
        return secrets.token_hex(16)

    # ---- threads

    def condition(self) -> Condition:
        return threading.Condition()

    def lock(self) -> Lock:
        return threading.Lock()

    def spawn(self, name: str, work: Callable[[], None]) -> Thread:
        thread = threading.Thread(name=name, target=work)
        thread.start()
        return thread

    def looker(self, work: Callable[[], T], wait_s: float) -> Callable[[], T]:
        """What `work` says, asked by a thread that may hang (apart.Look)."""
        return apart.Look(work, wait_s).ask

    # ---- files of the state folder

    def exists(self, path: Path) -> bool:
        """OSError: that is not known."""
        try:
            os.stat(path)
        except FileNotFoundError:
            return False
        return True

    def leads_to(self, path: Path, fd: int) -> bool:
        """Whether a name is still that of an open file.  OSError: that is not known."""
        try:
            return os.path.samestat(os.lstat(path), os.fstat(fd))
        except FileNotFoundError:
            return False

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def read(self, path: Path) -> bytes:
        with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
            return file.read()

    def open(self, path: Path, flags: int) -> int:
        return _open(path, flags)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """How many bytes were written: it may be fewer."""
        return os.pwrite(fd, data, offset)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def losses(self) -> int:
        """How often something that was not flushed may have gone, of anything that stands on the
        folder's disk (below.py): asked before what a sync is to make durable."""
        return native.folder_losses()

    def fdatasync(self, fd: int, since: int) -> None:
        """What was written to it since `losses` was so many is durable.  OSError: it may not be."""
        self._sync(fd, since, data_only=True)

    def fsync(self, fd: int, since: int) -> None:
        """The same; of a folder: its names."""
        self._sync(fd, since, data_only=False)

    def _sync(self, fd: int, since: int, *, data_only: bool) -> None:
        try:
            native.sync(fd, since, data_only=data_only)
        except OSError as error:
            self.heard_losses += error.errno == errno.EIO
            raise

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def flock(self, fd: int) -> None:
        """Exclusively, at once or not at all."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def file_store(self, fd: int, size: int) -> native.Store:
        """Of an open file of the state folder, whose descriptor is taken over."""
        store = native.Store.file(fd, size)
        store.stands_with_folder()
        return store

    # ---- what loses together

    def folder_stands_on(self, number: int) -> None:
        """The state folder's, for its syncs and file stores from now on; 0: on nothing shared."""
        native.folder_stands_on(number)

    # ---- what an open file stands on (below.py)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def stat(self, path: Path) -> os.stat_result:
        return os.stat(path)

    def ioctl(self, fd: int, request: int, answer: bytearray) -> None:
        fcntl.ioctl(fd, request, answer)

    # ---- the other site

    def boot_id(self) -> str:
        """The kernel's, another one after each start of the machine: random(4).  OSError: it is not
        known, also where a container shows one of its own instead (systemd-nspawn, LXC): a file of
        another file system over it, or another one of /proc, of which `uuid` alone looks like it,
        and says something else each time.  A /proc/sys that is read-only (systemd's
        ProtectKernelTunables) is the same file system."""
        unknown = OSError(errno.ENODATA, os.strerror(errno.ENODATA), str(BOOT_ID))
        named = os.open(BOOT_ID, os.O_PATH | os.O_CLOEXEC)
        try:  # what is no file of /proc may be a pipe, or have no end: it is not opened
            if os.fstat(named).st_dev != os.stat("/proc").st_dev:
                raise unknown
        finally:
            os.close(named)
        with BOOT_ID.open("rb") as file, BOOT_ID.open("rb") as again:
            found = file.readline(64)
            if found != again.readline(64) or not _UUID.fullmatch(found):
                raise unknown
            return found.decode().strip()

    def control_channel(self, uri: str, timeout_s: float) -> native.Line:
        return native.Line(uri, limits.CONTROL_BYTES, timeout_s)

    def peer_store(self, uri: str, timeout_s: float) -> native.Store:
        """An export of the other site, which refuses itself what was given up (I8)."""
        return native.Store.nbd(uri, timeout_s, fenced=True)

    # ---- the log, and the last resort

    def write_log(self, line: str) -> None:
        """To stderr, which the starter sends to a file or to the journal.  OSError: not all of it.
        It does not wait where `stderr.never_wait` was called."""
        if sys.stderr is None:  # closed when the process began: the number is something else's
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        data = f"{stamp} {line}\n".encode(errors="backslashreplace")
        if os.write(2, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def abort(self) -> NoReturn:
        """The process ends here, as if it were killed: what a kill leaves is always right."""
        os._exit(1)


@functools.cache  # a process of many threads stays where it is
def _boottime_offset() -> float:
    """Of this process's CLOCK_BOOTTIME, seconds."""
    with contextlib.suppress(OSError):  # a kernel without such namespaces
        for line in Path("/proc/self/timens_offsets").read_text().splitlines():
            clock, seconds, nanoseconds = line.split()
            if clock in ("boottime", str(time.CLOCK_BOOTTIME)):
                return int(seconds) + int(nanoseconds) / 1e9
    return 0.0


def _open(path: Path, flags: int) -> int:
    """A folder, or a file that is one.  A state folder is its owner's, who may put there what he
    likes, and who opens it may be root: a link is not followed, and a pipe is not waited for."""
    if flags & os.O_DIRECTORY:
        return os.open(path, flags | os.O_CLOEXEC)
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no file")
    return fd


HERE = Platform()
