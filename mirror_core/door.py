"""Who comes in, by which socket, and what becomes of strangers.

    the Unix socket   its owner, and root: everything
    TCP               the peer: its session's intermediates and the control of sessions; with TLS,
                      or plain if the site says `insecure`

Authority follows the socket (a Visitor), never the request.

Over TCP anybody may knock.  nbdkit gives each connection a thread and waits for it without end:
for its first word, for its part of the TLS handshake, for its choice of an export.  So each is
noted when it knocks (preconnect), and a thread looks after those that the session does not use:
that have no intermediate of it open, nor asked for it on the control export, nor are asking now.
Who has gone is told once with its address (it failed at TLS, or at NBD), who does nothing for
OPENING_S is put out, and of more than STRANGERS_MAX the oldest of the address that has the most.
So a flood from one address, be it with the mirror's certificate, does not keep the peer from
coming back, and never touches the session's connections; and no address takes all places, nor all
TCP clients the descriptors of this machine's own.  From very many addresses: docs/network.md.

Guard: `_lock`, for the fields below its line.  Nothing here is called for a request.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field

from mirror_core import connections, limits
from mirror_core.config import SiteConfig
from mirror_core.errors import MirrorError
from mirror_core.journal import Journal

Address = tuple[str, int]  # of a client over TCP


@dataclass
class _Guest:
    """A connection over TCP.  All but `told` is guarded by the door's lock."""

    lock: threading.Lock
    news: threading.Event
    since: float = field(default_factory=time.monotonic)  # it did something last
    intermediates: int = 0  # open; each is of a session
    session: int = 0  # that it asked for last, on the control export, and was answered
    asking: int = 0
    told: bool = False  # it opened an export, or why it could not was logged

    @contextlib.contextmanager
    def asks(self) -> Generator[None, None, None]:
        """A request on the control export."""
        with self.lock:
            self.asking += 1
        try:
            yield
        finally:
            with self.lock:
                self.asking -= 1
                self.since = time.monotonic()
            self.news.set()

    def has_asked_in(self, session: int) -> None:
        """And was answered."""
        with self.lock:
            self.session = session

    def is_of(self, session: int) -> bool:
        """With the lock."""
        return bool(self.intermediates or self.asking or (session and self.session == session))


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

    def __init__(self, site: SiteConfig, journal: Journal, session: Callable[[], int]) -> None:
        """`session`: the number of the one that there is, or 0."""
        super().__init__(name="door")
        self._site, self._journal, self._session = site, journal, session
        self._server = _whole_server()
        self._callers = connections.callers(site)
        self._news = threading.Event()  # somebody over TCP may be a stranger
        self._hurry = threading.Event()  # they are too many, or it is over
        self._ended = False
        self._lock = threading.Lock()
        # -- guarded by `_lock`
        self._guests: dict[Address, _Guest] = {}

    # ---- nbdkit's threads

    def knock(self) -> None:
        """A new connection.  MirrorError: it is to be closed."""
        visitor = self.who()
        if not connections.room(local=visitor.local):
            raise MirrorError("too many connections for the limit of open files", errno.EMFILE)
        if visitor.address is None:
            return
        with self._lock:
            strangers, host = self._strangers(), visitor.address[0]
            full = _is_full(self._guests, host) or (
                len(strangers) >= 2 * limits.STRANGERS_MAX and _from_busiest(strangers, host)
            )
            if not full:
                self._guests[visitor.address] = _Guest(self._lock, self._news)
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

    def entered(self, visitor: Visitor, *, intermediate: bool) -> None:
        """It has opened an export."""
        if visitor.guest:
            with self._lock:
                visitor.guest.intermediates += intermediate
                visitor.guest.told, visitor.guest.since = True, time.monotonic()

    def left(self, visitor: Visitor, *, intermediate: bool) -> None:
        """It has closed one: its connection has ended, or it may open another one."""
        if visitor.guest:
            with self._lock:
                visitor.guest.intermediates -= intermediate
                visitor.guest.session, visitor.guest.since = 0, time.monotonic()
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
        """With `_lock`."""
        session = self._session()
        return {a: g for a, g in self._guests.items() if not g.is_of(session)}

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
        """What became of those that the session does not use.  Whether there are any."""
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
            with self._lock:
                if strangers[address].is_of(self._session()):
                    continue  # meanwhile
            self._callers.shut(here[address])
            self._put_out(strangers[address], address, crowded=address not in slow)
        return True

    def _put_out(self, guest: _Guest, address: Address, *, crowded: bool) -> None:
        nothing = "did nothing for" if guest.told else "opened nothing within"
        guest.told = True
        self._journal.refused(
            address[0],
            f"one of more than {limits.STRANGERS_MAX} clients that no session uses"
            if crowded
            else f"{nothing} {limits.OPENING_S:g} s",
        )

    def _forget(self, address: Address, guest: _Guest) -> None:
        """Its connection has ended; another one may have come from the same port since."""
        with self._lock:
            if self._guests.get(address) is not guest or guest.intermediates or guest.asking:
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


def _is_full(guests: Iterable[Address], host: str) -> bool:
    """Whether one more of this host is too many: it leaves some places to others."""
    counts = Counter(address[0] for address in guests)
    most = limits.TCP_CLIENTS_MAX
    return counts.total() >= most or counts[host] >= most - limits.STRANGERS_MAX


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
