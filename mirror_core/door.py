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

Address = tuple[str, int]  # of a client over TCP


@dataclass
class _Guest:
    """A connection over TCP."""

    since: float = field(default_factory=time.monotonic)  # it has no export open
    exports: int = 0
    told: bool = False  # it opened one, or why it could not was logged


@dataclass(frozen=True)
class Visitor:
    """A client: whether it came by the Unix socket, and its host, or its user."""

    local: bool
    origin: str
    address: Address | None = None
    guest: _Guest | None = None  # once it is noted


def _whole_server() -> ctypes.CDLL:
    server = ctypes.PyDLL(None)  # the calls are short: they keep the GIL
    server.nbdkit_peer_uid.restype = ctypes.c_int64
    return server


def _peer_address(server: ctypes.CDLL) -> Address | None:
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


class Door(threading.Thread):
    """Started after nbdkit's fork; `end` from cleanup, when no client is left."""

    def __init__(self, site: SiteConfig, journal: Journal) -> None:
        super().__init__(name="door")
        self._site, self._journal = site, journal
        self._server = _whole_server()
        self._callers = connections.callers(site)
        self._news = threading.Event()  # somebody over TCP has no export open
        self._hurry = threading.Event()  # they are too many, or it is over
        self._ended = False
        self._lock = threading.Lock()
        # -- guarded by `_lock`
        self._guests: dict[Address, _Guest] = {}

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
            full = len(self._guests) >= limits.TCP_CLIENTS_MAX or (
                len(strangers) >= 2 * limits.STRANGERS_MAX
                and _from_busiest(strangers, visitor.address[0])
            )
            if not full:
                self._guests[visitor.address] = _Guest()
        if full or len(strangers) >= limits.STRANGERS_MAX:
            self._hurry.set()
        self._news.set()
        if full:
            raise self._refused(
                visitor, "too many clients: allow the peer's address only", errno.EAGAIN
            )

    def visitor(self) -> Visitor:
        """Who wants to open an export.  MirrorError: may not."""
        visitor = self.who()
        if not visitor.local and self._server.nbdkit_is_tls() != 1 and not self._site.insecure:
            raise self._refused(visitor, "came over TCP without TLS", errno.EPERM)
        return visitor

    def entered(self, visitor: Visitor) -> None:
        """It has opened an export."""
        if visitor.guest:
            with self._lock:
                visitor.guest.exports, visitor.guest.told = visitor.guest.exports + 1, True

    def left(self, visitor: Visitor) -> None:
        """It has closed one: its connection has ended, or it may open another one."""
        if visitor.guest:
            with self._lock:
                visitor.guest.exports -= 1
                visitor.guest.since = time.monotonic()
            self._news.set()

    def refused(self, visitor: Visitor, error: MirrorError) -> None:
        """It may not open what it asked for: said in the log."""
        if not visitor.local:
            self._refused(visitor, str(error), error.code)

    def who(self) -> Visitor:
        """The client that this thread serves, whatever it may do.  MirrorError: nothing at all."""
        address = _peer_address(self._server)
        if address is not None:
            with self._lock:
                return Visitor(False, address[0], address, self._guests.get(address))
        uid = self._server.nbdkit_peer_uid()
        visitor = Visitor(True, f"user {uid}")
        if uid not in (0, os.geteuid()):
            raise self._refused(visitor, "the Unix socket is for its owner only", errno.EPERM)
        return visitor

    def _refused(self, visitor: Visitor, why: str, code: int) -> MirrorError:
        self._journal.refused(visitor.origin, why)
        if visitor.guest:
            visitor.guest.told = True
        return MirrorError(why, code)

    def _strangers(self) -> dict[Address, _Guest]:
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
            try:
                again = self.look()
            except Exception as error:  # no memory, no descriptor: it passes
                self._journal.trouble(error)
                again = True
            if again:
                self._news.set()

    def look(self) -> bool:
        """What became of those that have no export open.  Whether there are any."""
        now = time.monotonic()
        with self._lock:
            strangers = self._strangers()
        if all(now < g.since + limits.DOOR_LOOK_S for g in strangers.values()) and (
            len(strangers) <= limits.STRANGERS_MAX
        ):
            return bool(strangers)  # they have just come: most are about to open theirs
        here = self._callers.look()
        for address in strangers.keys() - here.keys():
            self._forget(address, strangers.pop(address))
        slow = {a for a, g in strangers.items() if now > g.since + limits.OPENING_S}
        for address in slow | _crowd(strangers):
            if strangers[address].exports:
                continue  # meanwhile it has opened one
            self._callers.shut(here[address])
            self._put_out(strangers[address], address, crowded=address not in slow)
        return True

    def _put_out(self, guest: _Guest, address: Address, *, crowded: bool) -> None:
        if not guest.told:
            guest.told = True
            self._journal.refused(
                address[0],
                f"one of more than {limits.STRANGERS_MAX} clients that open nothing"
                if crowded
                else f"opened nothing within {limits.OPENING_S:g} s",
            )

    def _forget(self, address: Address, guest: _Guest) -> None:
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


def _from_busiest(strangers: dict[Address, _Guest], host: str) -> bool:
    counts = Counter(address[0] for address in strangers)
    return counts[host] == max(counts.values())


def _crowd(strangers: dict[Address, _Guest]) -> set[Address]:
    """Whom to put out until STRANGERS_MAX are left: the oldest of the address with the most."""
    excess = len(strangers) - limits.STRANGERS_MAX
    if excess <= 0:
        return set()
    waiting: dict[str, list[Address]] = {}
    for address in sorted(strangers, key=lambda a: -strangers[a].since):  # the oldest last
        waiting.setdefault(address[0], []).append(address)
    counts = Counter({host: len(addresses) for host, addresses in waiting.items()})
    out = set()
    for _ in range(excess):
        host = counts.most_common(1)[0][0]
        counts[host] -= 1
        out.add(waiting[host].pop())
    return out
