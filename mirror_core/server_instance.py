"""Which process serves a source's data store, so that a loss which nobody saw is told.

Idea.  What a site has written and not flushed is in the cache of its store's server.  While the
site runs, a connection tells when that server ends (native/store.h).  While the site does not run,
after a kill, nobody is told; and its clients, the kernel's device above all, come back and flush.
So a source that was not stopped cleanly counts such a store as having lost those writes, and the
first flush of each client who may be one of them fails, once (native/news.h says who that is);
unless the server is known to be the process that it was.

    known     a Unix socket's other end: the process, and when that was started (proc(5)).  It must
              hold the other ends of all connections to that socket: one that only listens, such as
              systemd's for socket activation, outlives the server.
    recorded  in STATE/servers, for this run, before anything is written.  A store that has lost
              writes is recorded as unknown until nobody is left who may have to be told, and a
              client's flush is good then.  Until the ledger names this run too the record goes on
              with the run before, so that a start which fails in between forgets nothing; and, if
              the ledger was put back, with the run whose record stands there.
    a look    finds a loss that nobody was told of yet, as a cycle's flush or a client's write may
              meet it, every 0.25 s, in a thread of its own: the disk of the record may hang.
    untold    the volumes, behind a server or not, of which somebody was still to be told of a loss
              when the site was stopped, or a flush of somebody's has failed: the next process tells
              it, and so does the one after a kill of that one before all have heard.
    reboot    who had the device was on this machine and ended with it: there is nobody to tell.
    no boot   is known, as in a container that shows one of its own (platform.py): then nobody is
              known to have ended, and no process to be the one that had this number and start.

Invariant.  A server is recorded only as the process at the other end of the connection that
every unflushed write counts on, and only when no loss was counted that may be untold.  (A kill in
the instant of a loss, before it is recorded, escapes it.)
Left out: a kill of a site whose data is a file or a block device, whose cache is the kernel's;
servers over TCP, which are never known: each kill costs one failed flush; a server that replaces
itself by exec(2); a process that only passes on to the server, and counts as it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mirror_core import age, beside, durable, limits, native
from mirror_core.journal import Journal
from mirror_core.ledger import Ledger
from mirror_core.platform import HERE, Platform

VERSION = 2
MAY_BE_GONE = (
    "the server of its data store is not known to be the one that it was: what was not flushed may "
    f"be gone, and the first flush of each client fails once, of all that connect within "
    f"{limits.COMING_BACK_S:g} s"
)
UNTOLD = (
    "the process before had still to tell clients that what was not flushed to its data store may "
    "be gone: the first flush of each client fails once, of all that connect within "
    f"{limits.COMING_BACK_S:g} s"
)
PUT_BACK = (
    "its record of who is to be told of a loss may be an older one: the first flush of each client "
    f"fails once, of all that connect within {limits.COMING_BACK_S:g} s"
)
_CONNECTED = b"03"  # of /proc/net/unix: SS_CONNECTED
_TRIES = 3  # a client of the server that comes or goes between two looks


def path_in(state: Path) -> Path:
    return state / "servers"


def _started(pid: int) -> str:
    """In clock ticks since the boot.  proc(5): after the name, which may hold any bytes."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()


def _sockets_of(pid: int) -> set[str]:
    folder, found = Path(f"/proc/{pid}/fd"), set()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed since
            link = os.readlink(folder / name)
            if link.startswith("socket:["):
                found.add(link[8:-1])
    return found


def _accepted(path: str) -> set[str]:
    """The server's ends of all connections to this socket, by inode.  Names may hold any bytes."""
    rows = (row.split(maxsplit=7) for row in Path("/proc/net/unix").read_bytes().split(b"\n"))
    return {
        row[6].decode() for row in rows
        if len(row) == 8 and row[7] == os.fsencode(path) and row[5] == _CONNECTED and row[6] != b"0"
    }  # fmt: skip


def identify(fd: int) -> str | None:
    """The process at the other end of this connection, which is closed; None: it is not known."""
    try:
        connection = socket.socket(fileno=fd)
    except BaseException:  # its server may take no other client meanwhile
        os.close(fd)
        raise
    with connection:
        if connection.family != socket.AF_UNIX:
            return None
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, path = struct.unpack("=iII", credentials)[0], connection.getpeername()
            if pid <= 0 or not isinstance(path, str):
                return None
            for _ in range(_TRIES):
                started, accepted = _started(pid), _accepted(path)
                if accepted and accepted <= _sockets_of(pid) and started == _started(pid):
                    return f"{pid} {started}"
        except OSError:
            pass  # it has ended, or is another user's
    return None


def _stands(state: Path, site: str, platform: Platform) -> dict[str, Any] | None:
    """The record of this site, whichever run's it is, or None."""
    try:
        record = json.loads(platform.read(path_in(state)))
        fits = record["version"] == VERSION and record["site"] == site
        lists = (record.get("untold", []), record.setdefault("follows", []), [record["run"]])
        if fits and isinstance(record["data"], dict) and all(isinstance(x, list) for x in lists):
            found: dict[str, Any] = record
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass  # none, or damaged: no server is known
    return None


def _runs_of(record: dict[str, Any]) -> list[str]:
    """The runs that it is the record of."""
    return [record["run"], *record["follows"]]


def _load(state: Path, site: str, run: str, platform: Platform) -> dict[str, Any] | None:
    """What that run has recorded, or None."""
    record = _stands(state, site, platform)
    return record if run and record and run in _runs_of(record) else None


def goes_on(state: Path, site: str, before: str, run: str, platform: Platform = HERE) -> None:
    """Of a stopped site: what a run has recorded is the record of another one, too, which the
    ledger is to name.  OSError, durable.Doubt."""
    if record := _load(state, site, before, platform):
        fresh = json.dumps({**record, "run": run, "follows": [before]}).encode()
        durable.replace(path_in(state), fresh, platform)


class Servers:
    """Of a site that starts: `recorded` is of the run before, or empty."""

    def __init__(
        self, state: Path, book: Ledger, run: str, volumes: Mapping[str, native.Volume],
        platform: Platform = HERE, *, identify: Callable[[int], str | None] = identify,
    ) -> None:  # fmt: skip
        source = book.role == "source"
        self._state, self._site, self._run, self._platform = state, book.site, run, platform
        self._served_by = identify
        self._fronts = volumes if source else {}
        self._volumes = {n: v for n, v in self._fronts.items() if v.front.kind == "nbd"}
        self._looker: beside.Beside | None = None
        # By volume, of that thread: how long it waits after a log could not be renewed, until when.
        self._pauses: dict[str, tuple[float, float]] = {}
        self._boot = ""
        self._follows: list[str] = []  # the runs whose record this one takes the place of
        # -- guarded by `_lock`, from `begin` on
        self._lock = platform.lock()
        self._known: dict[str, str | None] = {}
        self._untold: set[str] = set()  # volumes of whose loss somebody is to be told
        self._recorded: dict[str, Any] | None = {}  # what is durable; None: that is not known
        self._again_at = 0.0  # no sooner that is tried again for a client, who would wait for it
        self._busy: set[str] = set()  # volumes whose server is to be looked at again
        self._asserted: set[str] = set()  # volumes whose server the file may say to be known

    def begin(self, *, clean: bool, run_before: str, went_back: bool = False) -> list[str]:
        """Before anything is written.  The volumes whose clients are to be told of a loss.
        `went_back`: the record may be an older one, so who is to be told is not known."""
        if not self._fronts:
            return []
        self._boot, self._follows = age.boot_of(self._platform), [run_before]
        if went_back and (stands := _stands(self._state, self._site, self._platform)):
            # Whoever puts the newer ledger back finds that its run has somebody to tell, too.
            newer = [run for run in _runs_of(stands) if run != run_before]
            self._follows += newer[: limits.RUNS_KNOWN]
        before = _load(self._state, self._site, run_before, self._platform) or {"data": {}}
        boot = str(before.get("boot", ""))
        reboot, same = age.is_another(boot, self._boot), age.is_the_same(boot, self._boot)
        for name, volume in self._fronts.items():
            lost = went_back or name in before.get("untold", ())
            if name in self._volumes:
                now = self._known[name] = self._identify(volume)
                known = same and now is not None and before["data"].get(name) == now
                lost |= not (clean or known)
            if lost and (went_back or not reboot):
                volume.lose_front()
                self._doubt(name)
        if self._volumes or self._untold:
            self._record()
        return sorted(self._untold)

    def start(self, journal: Journal) -> None:
        """Look for losses from now on."""
        if self._fronts:
            self._looker = beside.Beside("losses", self._look, journal, self._platform)
            self._looker.start()

    def stop(self, timeout_s: float) -> bool:
        """Whether nobody looks any more."""
        if self._looker:
            self._looker.stop()
        return self._looker is None or self._looker.join(timeout_s)

    def _look(self, is_over: beside.IsOver) -> None:
        while not is_over(limits.LOSS_LOOK_S):
            with contextlib.suppress(OSError, MemoryError):  # it looks again
                self.note()
            self.renew()

    def end(self) -> bool:
        """Of a stop, when no client is left: who is still to be told of a loss is told by the next
        process.  Whether that is durable."""
        with self._lock:
            stands = bool(self._untold or self._volumes or self._recorded is None)
            self._again_at = 0.0
            self._untold.clear()
            for name, volume in self._fronts.items():
                if volume.news_is_due():
                    self._doubt(name)
            return not (self._untold or stands) or self._record()

    def flushed(self, name: str, *, failed: bool) -> None:
        """A client's flush has ended, or another that concerns clients has failed."""
        volume = self._fronts.get(name)
        if volume is None:
            return
        if not failed and name not in self._untold and not volume.news_is_due():
            return  # the usual case: without a look at what another thread may wait for
        with self._lock:
            if failed or volume.news_is_due():
                self._doubt(name)
            else:
                self._trust(name, volume)
            self._record()

    def note(self) -> None:
        """Now and then: whoever has met a loss, such as a client's write, a kill does not end its
        telling; and what could not be recorded is tried again."""
        for name, volume in self._fronts.items():
            due = volume.news_is_due()
            if due or name in self._busy:
                self.flushed(name, failed=due)
        with self._lock:
            if self._recorded is None:
                self._again_at = 0.0
                self._record()

    def renew(self) -> None:
        """What a log of hot regions may have lost is written anew.  One that cannot be written is
        left alone for longer and longer: each failure is a loss for all on its disk."""
        for name, volume in self._fronts.items():
            pause_s, until = self._pauses.get(name, (limits.LOSS_LOOK_S, 0.0))
            if self._platform.monotonic() < until:
                continue
            try:
                volume.renew_intent()
                self._pauses.pop(name, None)
            except (OSError, MemoryError):
                pause_s = min(2 * pause_s, limits.RENEW_PAUSE_MAX_S)
                self._pauses[name] = pause_s, self._platform.monotonic() + pause_s

    def _doubt(self, name: str) -> None:
        self._untold.add(name)
        if name in self._known:
            self._known[name] = None

    def _trust(self, name: str, volume: native.Volume) -> None:
        """All have heard, and a flush was good."""
        try:
            now = self._identify(volume) if name in self._known else None
        except OSError:  # its connection is in a flush
            self._busy.add(name)
            return
        self._busy.discard(name)
        if not volume.news_is_due():  # meanwhile it may have been lost again
            self._untold.discard(name)
            if name in self._known:
                self._known[name] = now

    def _identify(self, volume: native.Volume) -> str | None:
        """None: it is away, or not known.  OSError: it is not to be seen now."""
        try:
            return self._served_by(volume.front.server_socket())
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise
            return None

    def _record(self) -> bool:
        """Whether what is known is durable.  If not, it is tried again; a file that says too much
        must not stand meanwhile, and none says nothing."""
        record = {
            "version": VERSION, "site": self._site, "run": self._run, "boot": self._boot,
            "follows": self._follows, "data": dict(self._known), "untold": sorted(self._untold),
        }  # fmt: skip
        if record == self._recorded:
            return True
        known = {name for name, server in self._known.items() if server}
        if self._platform.monotonic() >= self._again_at and self._replace(record):
            self._recorded, self._asserted = record, known
            return True
        self._recorded = None
        if self._asserted - known:
            durable.remove(path_in(self._state), self._platform)
        self._asserted |= known
        return False

    def _replace(self, record: dict[str, Any]) -> bool:
        try:
            durable.replace(path_in(self._state), json.dumps(record).encode(), self._platform)
        except (OSError, durable.Doubt):
            self._again_at = self._platform.monotonic() + 2 * limits.LOSS_LOOK_S
            return False
        self._again_at = 0.0
        return True
