"""Who comes in, by which socket, and what becomes of strangers.

    the Unix socket   its owner, and root: everything
    TCP               the peer: its session's intermediates and the control of sessions; with TLS,
                      or plain if the site says `insecure`

Authority follows the socket (a Visitor), never the request.

Over TCP anybody may knock.  nbdkit gives each connection a thread and waits for it without end:
for its first word, for its part of the TLS handshake, for its choice of an export.  So each is
noted when it knocks (preconnect) and when it opens an export, and a thread looks after those that
have none: who has gone is told once with its address (it failed at TLS, or at NBD), who takes
longer than OPENING_S is put out, and of more than STRANGERS_MAX the oldest of the address that
has the most.  So a flood from one address does not keep the peer from coming back, and never
touches a connection that has an export open.  From very many addresses: docs/network.md.

Guard: `_lock`, for the fields below its line.  Nothing here is called for a request.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from mirror_core import connections, limits
from mirror_core.config import SiteConfig
from mirror_core.errors import MirrorError
from mirror_core.journal import Journal


@dataclass(frozen=True)
class Visitor:
    """A client: whether it came by the Unix socket, and its address, or its user."""

    local: bool
    origin: str
    address: connections.Address | None = None


def _whole_server() -> ctypes.CDLL:
    server = ctypes.CDLL(None)
    server.nbdkit_peer_uid.restype = ctypes.c_int64
    return server


def _peer_address(server: ctypes.CDLL) -> connections.Address | None:
    """Of the connection that this thread of nbdkit's serves; None: it has none (Unix).
    MirrorError: the client has gone."""
    raw, size = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
    if server.nbdkit_peer_name(raw, ctypes.byref(size)) != 0:
        raise MirrorError("the client has gone", errno.ENOTCONN)
    data = raw.raw[: size.value]  # sockaddr(3type)
    family, port = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "big")
    if family == socket.AF_INET:
        return socket.inet_ntop(family, data[4:8]), port
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, data[8:24]), port
    if family != socket.AF_UNIX:
        raise MirrorError(f"a client of address family {family}", errno.EPERM)
    return None


@dataclass
class _Guest:
    """A connection over TCP."""

    since: float = field(default_factory=time.monotonic)  # it has no export open
    exports: int = 0
    told: bool = False  # it opened one, or why it could not was logged


class Door(threading.Thread):
    """Started after nbdkit's fork; `end` from cleanup, when no client is left."""

    def __init__(self, site: SiteConfig, journal: Journal) -> None:
        super().__init__(name="door")
        self._site, self._journal = site, journal
        self._server = _whole_server()
        self._news = threading.Event()  # somebody over TCP has no export open
        self._hurry = threading.Event()  # they are too many, or it is over
        self._ended = False
        self._lock = threading.Lock()
        # -- guarded by `_lock`
        self._guests: dict[connections.Address, _Guest] = {}

    # ---- nbdkit's threads

    def knock(self) -> None:
        """A new connection.  MirrorError: it is to be closed."""
        visitor = self.who()
        if not connections.room():
            raise MirrorError("too many connections for the limit of open files", errno.EMFILE)
        if visitor.address is None:
            return
        with self._lock:
            strangers = self._strangers()
            full = (
                len(strangers) >= 2 * limits.STRANGERS_MAX
                or len(self._guests) >= limits.TCP_CLIENTS_MAX
            )
            if not full:
                self._guests[visitor.address] = _Guest()
        if full or len(strangers) >= limits.STRANGERS_MAX:
            self._hurry.set()
        self._news.set()
        if full:
            raise self._refused(visitor, "too many clients: allow the peer's address only", 0)

    def visitor(self) -> Visitor:
        """Who wants to open an export.  MirrorError: may not."""
        visitor = self.who()
        if not visitor.local and self._server.nbdkit_is_tls() != 1 and not self._site.insecure:
            raise self._refused(visitor, "came over TCP without TLS", errno.EPERM)
        return visitor

    def entered(self, visitor: Visitor) -> None:
        """It has opened an export."""
        with self._lock:
            guest = self._guests.get(visitor.address) if visitor.address else None
            if guest:
                guest.exports, guest.told = guest.exports + 1, True

    def left(self, visitor: Visitor) -> None:
        """It has closed one: its connection has ended, or it may open another one."""
        with self._lock:
            guest = self._guests.get(visitor.address) if visitor.address else None
            if guest:
                guest.exports, guest.since = guest.exports - 1, time.monotonic()
        if guest:
            self._news.set()

    def refused(self, visitor: Visitor, error: MirrorError) -> None:
        """It may not open what it asked for: said in the log."""
        if not visitor.local:
            self._refused(visitor, str(error), 0)

    def who(self) -> Visitor:
        """The client that this thread serves, whatever it may do.  MirrorError: nothing at all."""
        address = _peer_address(self._server)
        if address is not None:
            return Visitor(False, address[0], address)
        uid = self._server.nbdkit_peer_uid()
        visitor = Visitor(True, f"user {uid}")
        if uid not in (0, os.geteuid()):
            raise self._refused(visitor, "the Unix socket is for its owner only", errno.EPERM)
        return visitor

    def _refused(self, visitor: Visitor, why: str, code: int) -> MirrorError:
        self._journal.refused(visitor.origin, why)
        with self._lock:
            guest = self._guests.get(visitor.address) if visitor.address else None
            if guest:
                guest.told = True
        return MirrorError(why, code)

    def _strangers(self) -> dict[connections.Address, _Guest]:
        return {a: g for a, g in self._guests.items() if not g.exports}

    # ---- the thread

    def run(self) -> None:
        while True:
            self._news.wait()
            self._hurry.wait(limits.DOOR_LOOK_S)
            if self._ended:
                return
            self._hurry.clear()
            self._news.clear()
            if self.look():
                self._news.set()

    def look(self) -> bool:
        """What became of those that have no export open.  Whether there are any."""
        now = time.monotonic()
        with self._lock:
            strangers = self._strangers()
        slow = {a for a, g in strangers.items() if now > g.since + limits.OPENING_S}
        crowd = _crowd(strangers)
        old = {a for a, g in strangers.items() if now > g.since + limits.DOOR_LOOK_S}
        if not old and not crowd:
            return bool(strangers)
        here = set()
        for connection, address in connections.accepted(self._site):
            if address in slow or address in crowd:
                connections.shut(connection, socket.SHUT_RDWR)
                self._put_out(strangers[address], address, crowded=address not in slow)
            if address:
                here.add(address)
        for address in old - here:
            self._forget(address, strangers[address])
        return True

    def _put_out(self, guest: _Guest, address: connections.Address, *, crowded: bool) -> None:
        if not guest.told:
            guest.told = True
            self._journal.refused(
                address[0],
                f"one of more than {limits.STRANGERS_MAX} clients that open nothing"
                if crowded
                else f"opened nothing within {limits.OPENING_S:g} s",
            )

    def _forget(self, address: connections.Address, guest: _Guest) -> None:
        """Its connection has ended; another one may have come from the same port since."""
        with self._lock:
            if self._guests.get(address) is not guest or guest.exports:
                return
            del self._guests[address]
        if not guest.told:
            self._journal.refused(
                address[0],
                "went before it opened anything: it is no NBD client, or it or this site does not "
                "accept the other's certificate"
                if self._site.tls
                else "went before it opened anything: it is no NBD client",
            )

    def end(self) -> None:
        self._ended = True
        self._news.set()
        self._hurry.set()
        self.join()


def _crowd(strangers: dict[connections.Address, _Guest]) -> set[connections.Address]:
    """Whom to put out until STRANGERS_MAX are left: the oldest of the address with the most."""
    excess = len(strangers) - limits.STRANGERS_MAX
    if excess <= 0:
        return set()
    waiting: dict[str, list[connections.Address]] = {}
    for address in sorted(strangers, key=lambda a: -strangers[a].since):  # the oldest last
        waiting.setdefault(address[0], []).append(address)
    counts = Counter({host: len(addresses) for host, addresses in waiting.items()})
    out = set()
    for _ in range(excess):
        host = counts.most_common(1)[0][0]
        counts[host] -= 1
        out.add(waiting[host].pop())
    return out
