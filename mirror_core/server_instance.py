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
              client's flush is good then.
    untold    the volumes, behind a server or not, of which somebody was still to be told of a loss
              when the site was stopped: the next process tells it, and so does the one after a kill
              of that one before all have heard.
    reboot    who had the device was on this machine and ended with it: there is nobody to tell.

Invariant.  A server is recorded only as the process at the other end of the connection that
every unflushed write counts on, and only when no loss was counted that may be untold.  (A loss that
only the control has met, and a kill before the next flush of any client, escape it.)
Left out: a kill of a site whose data is a file or a block device, whose cache is the kernel's;
servers over TCP, which are never known: each kill costs one failed flush; a server that replaces
itself by exec(2).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirror_core import durable, limits, native
from mirror_core.ledger import Ledger
from mirror_core.platform import HERE, Platform

VERSION = 1
MAY_BE_GONE = (
    "the server of its data store is not known to be the one that it was: what was not flushed may "
    f"be gone, and the first flush of each client fails once, of all that connect within "
    f"{limits.COMING_BACK_S:g} s"
)
UNTOLD = (
    "the process before has met a loss of what was not flushed to its data store, and the first "
    f"flush of each client fails once, of all that connect within {limits.COMING_BACK_S:g} s"
)
_CONNECTED = "03"  # of /proc/net/unix: SS_CONNECTED
_TRIES = 3  # a client of the server that comes or goes between two looks


def path_in(state: Path) -> Path:
    return state / "servers"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> str:
    """In clock ticks since the boot.  proc(5): after the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _sockets_of(pid: int) -> set[str]:
    folder, found = Path(f"/proc/{pid}/fd"), set()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed since
            link = os.readlink(folder / name)
            if link.startswith("socket:["):
                found.add(link[8:-1])
    return found


def _accepted(path: str) -> set[str]:
    """The server's ends of all connections to this socket, by inode."""
    rows = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines())
    return {
        row[6] for row in rows
        if len(row) == 8 and row[7] == path and row[5] == _CONNECTED and row[6] != "0"
    }  # fmt: skip


def identify(fd: int) -> str | None:
    """The process at the other end of this connection, which is closed; None: it is not known."""
    with socket.socket(fileno=fd) as connection:
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


class Servers:
    """Of a site that starts: `recorded` is of the run before, or empty."""

    def __init__(
        self, state: Path, book: Ledger, run: str, volumes: Mapping[str, native.Volume],
        platform: Platform = HERE,
    ) -> None:  # fmt: skip
        source = book.role == "source"
        self._state, self._site, self._run, self._platform = state, book.site, run, platform
        self._fronts = volumes if source else {}
        self._volumes = {n: v for n, v in self._fronts.items() if v.front.kind == "nbd"}
        self._lock = platform.lock()
        self._known: dict[str, str | None] = {}
        self._owed: set[str] = set()  # volumes that have lost writes, not known again
        self._untold: list[str] = []  # of all at the end; before that, of those without a server

    def begin(self, *, clean: bool, run_before: str) -> list[str]:
        """Before anything is written.  The volumes whose clients are to be told of a loss."""
        if not self._fronts:
            return []
        boot = boot_id()
        before = self._load(run_before) or {"data": {}}
        reboot = before.get("boot", boot) != boot
        for name, volume in self._fronts.items():
            lost = name in before.get("untold", ())
            if name in self._volumes:
                now = self._known[name] = self._identify(volume)
                lost |= not clean and (now is None or before["data"].get(name) != now)
            if lost and not reboot:
                volume.lose_front()
                self._owed.add(name)
                if name in self._known:
                    self._known[name] = None
        self._untold = sorted(self._owed - self._volumes.keys())
        if self._volumes or self._untold:
            self._save(boot)
        return sorted(self._owed)

    def end(self) -> bool:
        """Of a stop, when no client is left: who is still to be told of a loss is told by the next
        process.  Whether that is durable."""
        stands = bool(self._untold or self._volumes)
        self._untold = [name for name, volume in self._fronts.items() if volume.news_is_due()]
        if not (self._untold or stands) or self._save(boot_id()):
            return True
        durable.remove(path_in(self._state), self._platform)
        return False

    def flushed(self, name: str, *, failed: bool) -> None:
        """A client's flush has ended."""
        volume = self._fronts.get(name)
        if volume is None or not (name in self._volumes or name in self._untold):
            return
        with self._lock:
            if name not in self._volumes:
                if name in self._untold and not volume.news_is_due():
                    self._untold.remove(name)
                    self._save(boot_id())  # if not: the next process tells it for nothing
            elif failed or volume.news_is_due():
                self._owed.add(name)
                self._know(name, None)
            elif name in self._owed:
                now = self._identify(volume)
                if not volume.news_is_due():  # meanwhile it may have been lost again
                    self._owed.discard(name)
                    self._know(name, now)

    def _know(self, name: str, now: str | None) -> None:
        before = self._known[name]
        if before == now:
            return
        self._known[name] = now
        if not self._save(boot_id()):
            self._known[name] = before  # it is tried again
            if now is None:  # a file that says too much must not stand: none says nothing
                durable.remove(path_in(self._state), self._platform)

    @staticmethod
    def _identify(volume: native.Volume) -> str | None:
        try:
            return identify(volume.front.server_socket())
        except OSError:
            return None  # it is away

    def _load(self, run: str) -> dict[str, Any] | None:
        """What that run has recorded, or None."""
        try:
            record = json.loads(self._platform.read(path_in(self._state)))
            fits = record["version"] == VERSION and record["site"] == self._site
            shaped = isinstance(record["data"], dict) and isinstance(record.get("untold", []), list)
            if run and fits and record["run"] == run and shaped:
                found: dict[str, Any] = record
                return found
        except (OSError, ValueError, TypeError, KeyError):
            pass  # none, or damaged: no server is known
        return None

    def _save(self, boot: str) -> bool:
        """Whether it is durable.  If not, what stands there is of another run, or of before."""
        record = {
            "version": VERSION, "site": self._site, "run": self._run, "boot": boot,
            "data": self._known, "untold": self._untold,
        }  # fmt: skip
        try:
            durable.replace(path_in(self._state), json.dumps(record).encode(), self._platform)
        except (OSError, durable.Doubt):
            return False
        return True
