"""What production takes of `os`, `threading` and `time`, over a file system with a power switch.

A file has what is safe (since its last fsync) and what was done since, in order; a folder the
same with its names.  When the power goes, each write to a file not yet synced is kept, lost or
torn at sector size by coins; of changes of names a prefix is kept, as a journal does.  A killed
process loses nothing.  So an fsync left out, or a rename before it, shows as a torn file.

A path belongs to a life: what a dead site still does raises SiteDead.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any

from sim.core import lib
from sim.sched import NEVER, NS, Life, SiteDead, Task, current

_SECTOR = 512


class Inode:
    def __init__(self) -> None:
        self.safe = b""
        self.now = bytearray()
        self.undone: list[tuple[int, bytes | None]] = []  # (offset, bytes); None: truncated there

    def apply(self, at: int, data: bytes | None) -> None:
        if data is None:
            del self.now[at:]
            self.now.extend(bytes(at - len(self.now)))
        else:
            self.now.extend(bytes(max(0, at - len(self.now))))
            self.now[at : at + len(data)] = data

    def change(self, at: int, data: bytes | None) -> None:
        self.apply(at, data)
        self.undone.append((at, data))

    def sync(self) -> None:
        self.safe = bytes(self.now)
        self.undone.clear()


class SimFs:
    """The state folder of a site: its files, and what a power loss makes of them."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.safe_names: dict[str, Inode] = {}
        self.changes: list[Callable[[dict[str, Inode]], None]] = []
        self.failing = 0  # the next so many writes and syncs fail
        self.failing_code = errno.EIO

    def put(self, name: str, data: bytes) -> None:
        """A file that stands there, safely."""
        inode = self.names[name] = self.safe_names[name] = Inode()
        inode.now[:] = inode.safe = data

    def rename(self, change: Callable[[dict[str, Inode]], None]) -> None:
        change(self.names)
        self.changes.append(change)

    def sync_names(self) -> None:
        self.safe_names = dict(self.names)
        self.changes.clear()

    def fail_if_told(self) -> None:
        if self.failing:
            self.failing -= 1
            raise OSError(self.failing_code, os.strerror(self.failing_code))

    def survivors(self, rng: Any, keep: float) -> tuple[SimFs, int]:
        """The folder as after a power loss now; and how many files were torn."""
        torn = 0
        after = SimFs()
        names = dict(self.safe_names)
        for change in self.changes[: rng.randrange(len(self.changes) + 1)]:
            change(names)
        for name, inode in names.items():
            fresh = Inode()
            fresh.now = bytearray(inode.safe)
            partly = False
            for at, data in inode.undone:
                partly |= _survive(fresh, at, data, rng, keep)
            torn += partly
            fresh.sync()
            after.names[name] = fresh
        after.safe_names = dict(after.names)
        return after, torn


def _survive(inode: Inode, at: int, data: bytes | None, rng: Any, keep: float) -> bool:
    """Whether less than all of this change came through."""
    if data is None:
        if rng.random() < keep:
            inode.apply(at, None)
        return False
    partly, end = False, at + len(data)
    while at < end:
        stop = min(end, (at // _SECTOR + 1) * _SECTOR)
        if rng.random() < keep:
            inode.apply(at, data[len(data) - (end - at) : len(data) - (end - stop)])
        else:
            partly = True
        at = stop
    return partly


class SimPath:
    """A path in a site's state folder, as one life of the site sees it."""

    def __init__(self, fs: SimFs, life: Life, name: str = "") -> None:
        self.fs, self.life, self.name = fs, life, name

    def __truediv__(self, name: str) -> SimPath:
        return SimPath(self.fs, self.life, name)

    @property
    def parent(self) -> SimPath:
        return SimPath(self.fs, self.life)

    def with_suffix(self, suffix: str) -> SimPath:
        return SimPath(self.fs, self.life, self.name.partition(".")[0] + suffix)

    def __str__(self) -> str:
        return f"{self.life.name}/{self.name}"

    def touch(self) -> None:
        """Every call of the system comes through here."""
        if self.life.dead:
            raise SiteDead
        current().touch()

    def exists(self) -> bool:
        return self.name in self.fs.names

    def read_bytes(self) -> bytes:
        self.touch()
        if self.name not in self.fs.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return bytes(self.fs.names[self.name].now)

    def unlink(self, missing_ok: bool = False) -> None:
        assert missing_ok
        self.touch()

        def change(names: dict[str, Inode]) -> None:
            names.pop(self.name, None)

        self.fs.rename(change)


class _File:
    """What os.fdopen returns: buffered until flush, as Python's."""

    def __init__(self, fd: int) -> None:
        self._fd, self._buffer, self._at = fd, b"", 0

    def write(self, data: bytes) -> None:
        self._buffer += data

    def flush(self) -> None:
        pwrite(self._fd, self._buffer, self._at)
        self._at += len(self._buffer)
        self._buffer = b""

    def fileno(self) -> int:
        return self._fd

    def __enter__(self) -> _File:
        return self

    def __exit__(self, kind: type | None, _e: object, _t: TracebackType | None) -> None:
        if self._buffer and kind is None:
            self.flush()
        close(self._fd)


_open: dict[int, tuple[SimPath, Inode | None]] = {}


def open_(path: SimPath, flags: int, _mode: int = 0) -> int:
    path.touch()
    inode = None
    if not flags & os.O_DIRECTORY:
        inode = path.fs.names.get(path.name)
        if inode is None:
            path.fs.fail_if_told()
            fresh = inode = Inode()
            path.fs.rename(lambda names: names.__setitem__(path.name, fresh))
        elif flags & os.O_TRUNC:
            inode.change(0, None)
    fd = 1000 + len(_open)
    while fd in _open:
        fd += 1
    _open[fd] = path, inode
    return fd


def close(fd: int) -> None:
    _open.pop(fd, None)


def pwrite(fd: int, data: bytes, at: int) -> int:
    path, inode = _open[fd]
    path.touch()
    path.fs.fail_if_told()
    assert inode
    inode.change(at, bytes(data))
    return len(data)


def ftruncate(fd: int, length: int) -> None:
    path, inode = _open[fd]
    path.touch()
    assert inode
    inode.change(length, None)


def fsync(fd: int) -> None:
    path, inode = _open[fd]
    path.touch()
    path.fs.fail_if_told()
    if inode is None:
        path.fs.sync_names()
    else:
        inode.sync()
    path.touch()


def rename(old: SimPath, new: SimPath) -> None:
    old.touch()

    def change(names: dict[str, Inode]) -> None:
        if old.name in names:
            names[new.name] = names.pop(old.name)

    old.fs.rename(change)


def forget_descriptors() -> None:
    _open.clear()


# ---- threading and time


class Condition:
    """threading.Condition; nobody else runs inside a `with`, so it has no lock."""

    def __init__(self) -> None:
        self._waiters: list[Task] = []

    def __enter__(self) -> Condition:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        return self._wait_until(_deadline(timeout))

    def _wait_until(self, deadline_ns: int) -> bool:
        scheduler = current()
        task = scheduler.current
        assert task
        self._waiters.append(task)
        try:
            return not scheduler.wait(deadline_ns)
        finally:
            self._waiters.remove(task)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline_ns = _deadline(timeout)
        while not predicate():
            if lib.sim_clock_ns >= deadline_ns or not self._wait_until(deadline_ns):
                return predicate()
        return True

    def notify_all(self) -> None:
        for task in self._waiters:
            current().wake(task)


class Lock:
    """threading.Lock: held across disk operations, so others may have to wait."""

    def __init__(self) -> None:
        self._held = False
        self._free = Condition()

    def __enter__(self) -> None:
        self._free.wait_for(lambda: not self._held)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
        self._free.notify_all()


def _deadline(timeout: float | None) -> int:
    return NEVER if timeout is None else int(lib.sim_clock_ns) + int(timeout * NS) + 1


def _urandom(n: int) -> bytes:
    return current().random.randbytes(n)


def _uniform(a: float, b: float) -> float:
    return current().random.uniform(a, b)


def _randbits(n: int) -> int:
    return current().random.getrandbits(n)


OS = SimpleNamespace(
    **{name: getattr(os, name) for name in dir(os) if name.startswith("O_")},
    open=open_, close=close, pwrite=pwrite, ftruncate=ftruncate, fsync=fsync, fdatasync=fsync,
    rename=rename, strerror=os.strerror, getpid=lambda: 1,
    fdopen=lambda fd, _mode: _File(fd), urandom=_urandom,
)  # fmt: skip
TIME = SimpleNamespace(
    monotonic=lambda: lib.sim_clock_ns / NS, time=lambda: 1e9 + lib.sim_clock_ns / NS
)
THREADING = SimpleNamespace(Condition=Condition, Lock=Lock)
RANDOM = SimpleNamespace(uniform=_uniform)
SECRETS = SimpleNamespace(randbits=_randbits, token_hex=lambda n: _urandom(n).hex())
