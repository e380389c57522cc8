"""The machine of a simulated site: a clock, chance, threads, and a folder with a power switch.

A file has what is safe (since its last fsync) and what was done since, in order; a folder the
same with its names.  When the power goes, each write to a file not yet synced is kept, lost or
torn at sector size by coins; of changes of names a prefix is kept, as a journal does.  A killed
process loses nothing.  So an fsync left out, or a rename before it, shows as a torn file.

An fsync that fails has lost an arbitrary part of what it covered, as one of a disk has
(simstore.h): the next one does not write it, and succeeds.  Where the folder stands on the disk of
the stores, each loses what a flush of another one has lost; and production is told, as its
own syncs (native/below.h) would tell it.

A file that the core writes itself (an intent log) is a disk of simstore.c.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from mirror_core import native
from mirror_core.platform import Platform
from sim.core import ffi, lib
from sim.sched import NEVER, NS, SiteDead, Task, Violation, bytes_at, current
from sim.stalls import stalls

if TYPE_CHECKING:
    from sim.sites import Incarnation, Machine

_SECTOR = 512
T = TypeVar("T")


class Inode:
    _numbers = itertools.count(10**15)  # of one length: a ledger that names one is as long

    def __init__(self) -> None:
        self.number = next(self._numbers)  # what it is known again by; a copy has another one
        self.disk: Any = None  # of a file that the core writes
        self.safe = b""
        self.now = bytearray()
        self.undone: list[tuple[int, bytes | None]] = []  # (offset, bytes); None: truncated there
        self.stale = False  # `now` is not `safe` and `undone`: a sync has failed

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
        if self.stale:
            safe = _replay(self.safe, self.undone)
            self.safe = bytes(safe.now)
        else:
            self.safe = bytes(self.now)
        self.undone.clear()

    def lose(self, rng: Any, *, now: bool) -> None:
        """A sync fails; `now`: readers find what is left at once, else when the cache needs
        the room."""
        after, keep = Inode(), rng.random()
        after.now[:] = self.safe
        for at, data in self.undone:
            _survive(after, at, data, rng, keep)
        self.safe = bytes(after.now)
        self.undone.clear()
        self.stale = bytes(self.now) != self.safe
        if now:
            self.evict()

    def evict(self) -> None:
        if self.stale:
            self.now[:] = _replay(self.safe, self.undone).now
            self.stale = False


def _replay(safe: bytes, undone: list[tuple[int, bytes | None]]) -> Inode:
    inode = Inode()
    inode.now[:] = safe
    for at, data in undone:
        inode.apply(at, data)
    return inode


class SimFs:
    """The state folder of a site: its files, and what a power loss makes of them."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.safe_names: dict[str, Inode] = {}
        self.changes: list[Callable[[dict[str, Inode]], None]] = []
        self.failing = 0  # the next so many writes and syncs fail
        self.failing_name = ""  # of this file only
        self.failing_syncs = False  # and no writes
        self.failing_code = errno.EIO
        self.loses: Literal["", "now", "later"] = ""  # what a sync that fails has covered
        self.losses = 0  # of its disk

    def put(self, name: str, data: bytes, *, into: bool = False) -> None:
        """A file that stands there, safely; `into` the one that stood there, or a copy."""
        self.sync_names()
        before = self.names.get(name)
        inode = self.names[name] = self.safe_names[name] = Inode()
        inode.now[:] = inode.safe = data
        if into and before:
            inode.number = before.number

    def copy_files(self) -> None:
        """The folder came back file by file, and not as a snapshot."""
        for inode in self.names.values():
            inode.number = Inode().number

    def remove(self, name: str) -> None:
        """It is gone, whatever the power does."""
        self.sync_names()
        del self.names[name], self.safe_names[name]

    def rename(self, change: Callable[[dict[str, Inode]], None]) -> None:
        change(self.names)
        self.changes.append(change)

    def lose(self, inode: Inode | None) -> None:
        """A sync, of a file or (None) of the folder, fails."""
        if self.loses and inode:
            inode.lose(current().random, now=self.loses == "now")
        elif self.loses:
            self._lose_names(now=self.loses == "now")

    def lose_all(self, *, now: bool) -> None:
        """A flush of something else on its disk fails."""
        self.losses += 1
        for inode in self.names.values():
            if inode.undone:
                inode.lose(current().random, now=now)
        self._lose_names(now=now)

    def _lose_names(self, *, now: bool) -> None:
        for change in self.changes[: current().random.randrange(len(self.changes) + 1)]:
            change(self.safe_names)
        self.changes.clear()
        if now:
            self.names = dict(self.safe_names)

    def sync_names(self) -> None:
        for change in self.changes:
            change(self.safe_names)
        self.changes.clear()

    def read(self, name: str) -> bytes:
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        inode = self.names[name]
        if inode.disk is not None:
            return bytes_at(lib.sim_disk_now(inode.disk), len(inode.now))
        return bytes(inode.now)

    def is_failing(self, name: str, *, sync: bool = False) -> bool:
        if self.failing_syncs and not sync:
            return False
        return self.failing > 0 and name.startswith(self.failing_name)

    def fail_if_told(self, name: str, *, sync: bool = False) -> None:
        if self.is_failing(name, sync=sync):
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
            fresh.number, fresh.now = inode.number, bytearray(inode.safe)
            partly = False
            if inode.disk is not None:
                out = ffi.new("char[]", len(inode.now))
                partly = lib.sim_disk_survivors(inode.disk, int(256 * keep), out) > 0
                fresh.now = bytearray(bytes_at(out, len(inode.now)))
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


class Bomb:
    """An exception of any kind at the N-th call of the platform, and perhaps at all after it."""

    def __init__(self, calls: int, make: Callable[[], Exception], times: int) -> None:
        self._left, self._make, self._times = calls, make, times
        self.thrown = 0
        self.spent = False

    def call(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.thrown += 1
            self.spent = self.thrown >= self._times
            error = self._make()
            current().trace(f"is thrown {error!r}")
            raise error


def an_error(rng: Any) -> Callable[[], Exception]:
    code = rng.choice((0, 0, errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOENT))
    if code:
        return lambda: OSError(code, os.strerror(code))
    return rng.choice((MemoryError, AssertionError))  # type: ignore[no-any-return]


class SimPlatform(Platform):
    """What one life of a site has of its machine.  What a dead one still does raises SiteDead."""

    def __init__(self, machine: Machine, life: Incarnation) -> None:
        self._machine, self._life, self._fs = machine, life, machine.fs
        self._open: dict[int, tuple[str, Inode | None]] = {}
        self._looks = False  # somebody does, for whom nothing takes time

    def _touch(self) -> None:
        """Every call of the system comes through here."""
        if self._looks:
            return
        if self._life.dead:
            raise SiteDead
        current().touch()
        bomb = self._machine.bomb
        if bomb and not bomb.spent:
            bomb.call()

    # ---- clock and chance

    def monotonic(self) -> float:
        return float(lib.sim_clock_ns / NS)

    def time(self) -> float:
        return float(1e9 + lib.sim_clock_ns / NS)

    def uptime(self) -> float:
        return float((lib.sim_clock_ns - self._machine.booted_ns) / NS)

    def sleep(self, seconds: float) -> None:
        current().wait(lib.sim_clock_ns + int(seconds * NS))

    def uniform(self, low: float, high: float) -> float:
        return current().random.uniform(low, high)

    def random_bits(self, bits: int) -> int:
        return current().random.getrandbits(bits)

    def token(self) -> str:
        return current().random.randbytes(16).hex()

    # ---- threads

    def condition(self) -> Condition:
        return Condition()

    def lock(self) -> Lock:
        return Lock()

    def spawn(self, name: str, work: Callable[[], None]) -> SimThread:
        task = current().spawn(self._life, f"{self._life.name}: control", work)
        if name not in ("losses", "pulse"):  # which begin before the control
            self._machine.is_up(self._life)
        return SimThread(task)

    def looker(self, work: Callable[[], T], wait_s: float) -> Callable[[], T]:
        def look() -> T:
            """At once: nothing hangs here for whoever looks at a name."""
            self._looks = True
            try:
                with stalls.none():
                    return work()
            finally:
                self._looks = False

        return look

    # ---- files

    def exists(self, path: Path) -> bool:
        return path.name in self._fs.names

    def leads_to(self, path: Path, fd: int) -> bool:
        return self._fs.names.get(path.name) is self._open[fd][1]

    def names(self, folder: Path) -> list[str]:
        self._touch()
        return list(self._fs.names)

    def read(self, path: Path) -> bytes:
        self._touch()
        return self._fs.read(path.name)

    def open(self, path: Path, flags: int) -> int:
        self._touch()
        inode = None
        if not flags & os.O_DIRECTORY:
            inode = self._fs.names.get(path.name)
            if inode is None:
                if not flags & os.O_CREAT:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                self._fs.fail_if_told(path.name)
                fresh = inode = Inode()
                self._fs.rename(lambda names: names.__setitem__(path.name, fresh))
            elif flags & os.O_TRUNC:
                inode.change(0, None)
        fd = 1000 + len(self._open)
        while fd in self._open:
            fd += 1
        self._open[fd] = path.name, inode
        return fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._touch()
        name, rng = self._open[fd][0], current().random
        if data and self._fs.is_failing(name) and rng.random() < 0.5:  # a disk that gets full
            data = data[: 1 + rng.randrange(len(data))]
        else:
            self._fs.fail_if_told(name)
        self._inode(fd).change(offset, bytes(data))
        return len(data)

    def ftruncate(self, fd: int, length: int) -> None:
        self._touch()
        if self._fs.failing_code != errno.ENOSPC:  # to cut a file needs no room
            self._fs.fail_if_told(self._open[fd][0])
        self._inode(fd).change(length, None)

    def _inode(self, fd: int) -> Inode:
        inode = self._open[fd][1]
        assert inode, "a folder"
        return inode

    def losses(self) -> int:
        return self._fs.losses

    def fsync(self, fd: int, since: int) -> None:
        self._touch()
        name, inode = self._open[fd]
        try:
            self._fs.fail_if_told(name, sync=True)
        except OSError as error:
            self.heard_losses += error.errno == errno.EIO
            self._fs.losses += error.errno == errno.EIO
            self._fs.lose(inode)
            self._flushed(error.errno or errno.EIO)
            raise
        if inode is None:
            self._fs.sync_names()
        else:
            inode.sync()
        self._flushed(0)
        self._touch()
        if self._fs.losses != since:
            self.heard_losses += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _flushed(self, code: int) -> None:
        """A disk that fails (EIO) loses of all that it holds."""
        loses = self._fs.loses if code == errno.EIO else ""
        loss = {"": lib.SIM_LOSE_NOTHING, "now": lib.SIM_LOSE_NOW, "later": lib.SIM_LOSE_LATER}
        lib.sim_folder_flush(self._machine.below, -code, loss[loses])

    def fdatasync(self, fd: int, since: int) -> None:
        SimPlatform.fsync(self, fd, since)

    def rename(self, old: Path, new: Path) -> None:
        self._touch()

        def change(names: dict[str, Inode]) -> None:
            if old.name in names:
                names[new.name] = names.pop(old.name)

        if not self._fs.is_failing(new.name):
            self._fs.rename(change)
            return
        if current().random.random() < 0.5:  # it is done, as a file server may do it, and
            self._fs.rename(change)
        self._fs.fail_if_told(new.name)

    def unlink(self, path: Path) -> None:
        self._touch()

        def change(names: dict[str, Inode]) -> None:
            names.pop(path.name, None)

        self._fs.rename(change)

    def fstat(self, fd: int) -> os.stat_result:
        self._touch()
        return os.stat_result((0, self._inode(fd).number, *[0] * 8))

    def ioctl(self, fd: int, request: int, answer: bytearray) -> None:
        """FS_IOC_GETVERSION, of a file that keeps its number."""
        self._touch()
        answer[:4] = b"\1\0\0\0"

    def flock(self, fd: int) -> None:
        """Nobody else is there: a machine has one life at a time."""

    # ---- what is not files

    def boot_id(self) -> str:
        self._touch()
        if self._life.contained:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return f"boot {self._machine.boots}"

    def file_store(self, fd: int, size: int) -> native.Store:
        """A file that the core writes: a disk, which loses what was not flushed as others do."""
        inode = self._inode(fd)
        if inode.disk is None:
            number = len(self._fs.names) + (30 if self._machine.site == "east" else 40)
            inode.disk = ffi.gc(lib.sim_disk_new(number, size), lib.sim_disk_free)
            lib.sim_disk_reset(inode.disk, bytes(inode.now))
        self.close(fd)
        handle = lib.sim_file_open(inode.disk)
        store = native.Store(handle, "file")
        self._life.stores.append(("", store))
        if self._machine.below:
            lib.sim_disk_share(inode.disk, self._machine.below)
        native.folder_stands_on(self._machine.below)  # which is one for all processes here
        store.stands_with_folder()
        native.folder_stands_on(0)
        return store

    def folder_stands_on(self, number: int) -> None:
        """What it loses is counted here (`losses`)."""

    def control_channel(self, uri: str, timeout_s: float) -> Any:
        self._touch()
        return self._machine.world.network.line(uri, timeout_s)

    def peer_store(self, uri: str, timeout_s: float) -> native.Store:
        self._touch()
        return self._machine.world.network.open_store(uri, timeout_s)

    def write_log(self, line: str) -> None:
        current().trace(line.removeprefix("flashmirror: "))
        if line.startswith("flashmirror: internal error") and not self._machine.bomb:
            current().fail(Violation(line))
        bomb = self._machine.bomb
        if bomb and not bomb.spent:
            bomb.call()

    def abort(self) -> NoReturn:
        """The world kills what runs, and boots."""
        self._life.anew = True
        current().ask_world()
        current().wait(NEVER)
        raise SiteDead


class Reader(Platform):
    """The oracle's: it reads what a power loss would leave; of what is gone, `gone`."""

    def __init__(self, fs: SimFs, gone: Mapping[str, bytes]) -> None:
        self._fs, self._gone = fs, gone

    def read(self, path: Path) -> bytes:
        if path.name in self._gone and path.name not in self._fs.names:
            return self._gone[path.name]
        return self._fs.read(path.name)


# ---- threads


class SimThread:
    def __init__(self, task: Task) -> None:
        self._task = task

    def join(self) -> None:
        scheduler, wait_ns = current(), NS // 1000
        while self._task in scheduler.tasks:
            scheduler.wait(lib.sim_clock_ns + wait_ns)
            wait_ns = min(2 * wait_ns, NS // 4)


class Condition:
    """threading.Condition; nobody else runs inside a `with`, so it has no lock."""

    def __init__(self) -> None:
        self._waiters: list[Task] = []

    def __enter__(self) -> Condition:
        stalls.enter()
        return self

    def __exit__(self, *_: object) -> None:
        stalls.leave()

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
