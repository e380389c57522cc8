"""The simulated link: production's lines and NBD connections as messages that can be late.

A request becomes a task of the target's life, which enters production where nbdkit would: the
control export's answer, or a write to the intermediate through its gate.  The scheduler decides
when it arrives.  A cut ends every connection at the source at once; what was on the way is
lost, or arrives later all the same: the delayed commit and the delayed write of I8.  A hung
link carries nothing until it is mended or cut.  A duplicate is a request that arrives twice.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Any

from mirror_core import control, exports, native
from mirror_core.door import Visitor
from mirror_core.errors import MirrorError
from sim.clients import ANSWER_S
from sim.core import ffi, lib
from sim.sched import NS, Life, Violation, bytes_at, current
from sim.simos import Condition
from sim.sites import Incarnation
from sim.stalls import stalls

if TYPE_CHECKING:
    from sim.world import World

_SLOW_NS = NS // 20
PEER = Visitor(False, "10.0.0.2")  # the link is a network: no more than a peer may
_RESUMES, _EQUAL = re.compile(rb'"resumes": [1-9]'), re.compile(rb'"equal": "([01]*)"')
_OWED = b"a cycle left out"  # what a target says of blocks that its source has forgotten
_LATE_NS = NS  # how long a message of a cut connection is on its way, at most


class Broken:
    """A connection, or one exchange, between two lives."""

    def __init__(self, source: Life, target: Life) -> None:
        self.source, self.target = source, target
        self.broken = False


class Exchange(Broken):
    def __init__(self, source: Life, target: Life) -> None:
        super().__init__(source, target)
        self.answer: bytes | None = None
        self.changed = Condition()


class Line:
    """In place of mirror_core.native.Line."""

    def __init__(self, network: Network, uri: str, timeout_s: float) -> None:
        current().pause()
        self._network, self._timeout = network, timeout_s
        self._ends = self._network.reach(uri.partition("/")[0])
        self._network.lines.append(self)
        self._exchange: Exchange | None = None
        self._deadline = 0
        self.broken = False

    def ask(self, request: bytes) -> None:
        assert self._exchange is None, "one request at a time"
        current().pause()
        self._deadline = lib.sim_clock_ns + int(self._timeout * NS)
        if not self.broken:
            self._exchange = self._network.exchange(*self._ends, request)

    def hear(self, wait_s: float) -> bytes | None:
        way = self._exchange
        if way:
            wait_s = min(wait_s, (self._deadline - lib.sim_clock_ns) / NS)
            way.changed.wait_for(lambda: self.broken or way.answer is not None, wait_s)
        if way and not self.broken and way.answer is not None:
            self._end_exchange()
            return way.answer
        if not self.broken and lib.sim_clock_ns < self._deadline:
            return None
        code = errno.ECONNRESET if self.broken else errno.ETIMEDOUT
        raise native.NativeError(code, os.strerror(code))

    def cut(self) -> None:
        self.broken = True
        self._end_exchange()

    def close(self) -> None:
        if self in self._network.lines:
            self._network.lines.remove(self)
        self.cut()

    def _end_exchange(self) -> None:
        way, self._exchange = self._exchange, None
        if way:
            way.broken = way.answer is None
            way.changed.notify_all()


class Connection(Broken):
    def __init__(
        self, source: Life, target: Life, port: Any, export: exports.VolumeExport, session: str
    ) -> None:
        super().__init__(source, target)
        self.port, self.volume = port, export.volume._handle
        self.heard = ffi.new("uint64_t *", lib.sim_told(self.volume))
        self.session = int(session, 16)


class Network:
    def __init__(self, world: World) -> None:
        self.world = world
        self.up = True
        self.hung = False
        self.slow = world.random.choice((0.0, 0.1, 0.3))  # the chance that one takes its time
        self.late = world.random.choice(
            (0.0, 0.5, 1.0)
        )  # the chance that a message of a cut connection still arrives
        self.twice = 0.0  # the chance that an exchange arrives twice
        self.latency_ns = 0  # of each message
        self.byte_ns = NS // world.shape.rate if world.shape.rate else 0  # one after another
        self._free_ns = 0  # when the way has carried what it was given
        self.lines: list[Line] = []
        self.connections: dict[int, Connection] = {}
        self.remotes: dict[int, tuple[str, str]] = {}  # a link store's site and export
        self._numbers = 0  # of connections

    # ---- faults

    def cut(self) -> None:
        """Every connection ends."""
        for line in self.lines:
            line.cut()
        self.lines.clear()
        for connection in self.connections.values():
            connection.broken = True
            lib.sim_cut(connection.port, -errno.ENOTCONN)

    def _travel(self, carried: int) -> None:
        """The time that a message takes on its way, behind those that were sent before it."""
        if self.latency_ns or self.byte_ns:
            self._free_ns = max(self._free_ns, lib.sim_clock_ns) + carried * self.byte_ns
            current().wait(self._free_ns + self.latency_ns)

    def _arrives(self, way: Broken, carried: int) -> bool:
        """On the target's side, where a message comes in: whether it does."""
        scheduler = current()
        self._travel(carried)
        if scheduler.random.random() < self.slow:
            scheduler.wait(lib.sim_clock_ns + int(scheduler.random.random() * _SLOW_NS))
        while self.hung and not way.broken:
            scheduler.wait(lib.sim_clock_ns + NS // 10)
        if not way.broken:
            return True
        if scheduler.random.random() >= self.late:
            return False
        scheduler.wait(lib.sim_clock_ns + int(scheduler.random.random() * _LATE_NS))
        self.world.counts["late messages"] += 1
        return True

    def reach(self, site: str) -> tuple[Life, Life]:
        task = current().current
        assert task
        target = self.world.reached_as(site).life
        if not self.up or target is None or target.control is None or target.stopping:
            raise native.NativeError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return task.life, target

    def line(self, uri: str, timeout_s: float) -> Line:
        return Line(self, uri, timeout_s)

    # ---- one request of the control export

    def exchange(self, source: Life, target: Life, request: bytes) -> Exchange:
        scheduler = current()
        exchange = Exchange(source, target)
        operation = bytes(request[:60])
        scheduler.trace(f"asks {operation!r}")

        def handle() -> None:
            if self._arrives(exchange, len(request)):
                try:
                    began = lib.sim_clock_ns
                    assert isinstance(target, Incarnation)
                    if self.world.stranger and self.world.is_strange(source):
                        strange = self.world.stranger.answered(target, request)
                        if strange is None:
                            return
                        answer = strange
                    else:
                        answer = control.answer(self.world.site_of(target), request, PEER)
                    self.world.took(target, "answer to the peer", began, ANSWER_S)
                except Exception:
                    if not self.world.was_thrown(target):
                        raise
                    return  # nbdkit answers with an error, or the connection ends
                scheduler.trace(f"answers {answer[:100]!r}")
                if not self.world.is_strange(source):
                    self._count(operation, request, answer)
                if _OWED in answer:
                    self.world.reach("asked for what was owed")
                    # A source may have forgotten blocks of writes that its intent log refused, and
                    # all that was written after the instant to which it went back.
                    forked = any(h.forked for h in self.world.histories.values())
                    if not self.world.counts["intent logs that fail"] and not forked:
                        raise Violation(answer.decode())
                if not self._arrives_back(exchange, target):
                    return
                exchange.answer = answer
                exchange.changed.notify_all()

        name = f"{target.name}: exchange with {source.name}"
        scheduler.spawn(target, name, handle)
        if scheduler.random.random() < self.twice:
            scheduler.trace("and it will arrive twice")
            scheduler.spawn(target, f"{name} again", handle)
        return exchange

    def _count(self, operation: bytes, request: bytes, answer: bytes) -> None:
        counts = self.world.counts
        if b'"handshake"' in operation:
            counts["cycles gone on with"] += _RESUMES.search(request) is not None
            counts["stable cycles resumed"] += b'"resumed": true' in answer
        elif b'"stable"' in operation:
            counts["stable records"] += b'"done": true' in answer
        elif equal := _EQUAL.search(answer):
            counts["pieces compared"] += len(equal[1])
            counts["found equal"] += equal[1].count(b"1")

    def _arrives_back(self, way: Broken, target: Life) -> bool:
        """A site that stops does not wait for what it has answered, and which may be lost."""
        current().pause()
        self._travel(0)
        while self.hung and not way.broken:
            if target.stopping:
                return False
            current().wait(lib.sim_clock_ns + NS // 10)
        return not way.broken

    # ---- the peer's intermediate, and ports of link stores

    def open_store(self, uri: str, timeout_s: float) -> native.Store:
        scheduler = current()
        scheduler.pause()
        site, _, name = uri.partition("/")
        _, target = self.reach(site)
        export = self._export(target, name)
        number = len(self.remotes) + 1
        self.remotes[number] = site, name
        handle = lib.sim_remote_open(number, export.size, int(timeout_s * NS))
        return native.Store(handle, "nbd")

    def _export(self, target: Life, name: str) -> exports.VolumeExport:
        try:
            with stalls.none():  # or it may be killed within, which ends this connection
                export = exports.open_export(self.world.site_of(target), name, PEER)
        except MirrorError as error:
            raise native.NativeError(error.code, str(error)) from error
        assert isinstance(export, exports.VolumeExport)
        return export

    def connect(self, remote: int, port: Any) -> int:
        site, name = self.remotes[remote]
        try:
            source, target = self.reach(site)
            export = self._export(target, name)
        except OSError as error:
            return -(error.errno or errno.EIO)
        self._numbers += 1
        number = self._numbers
        self.connections[number] = Connection(source, target, port, export, name.rpartition("/")[2])
        return number

    def disconnect(self, number: int) -> None:
        connection = self.connections.pop(number)  # late messages hold it still
        connection.broken, connection.port = True, ffi.NULL

    def send(self, number: int, op: Any) -> None:
        connection = self.connections[number]
        scheduler = current()
        kind, flags, offset, length = op.kind, op.flags, op.offset, op.length
        data = bytes_at(op.buf, length) if kind == lib.FM_WRITE else b""
        volume, session = connection.volume, connection.session

        def handle() -> None:
            if not self._arrives(connection, len(data)):
                return
            if kind == lib.FM_WRITE:
                rc = lib.fm_volume_write(volume, session, data, length, offset, flags)
            elif kind == lib.FM_ZERO:
                rc = lib.fm_volume_zero(volume, session, length, offset, flags)
            else:
                rc = lib.sim_client_flush(volume, connection.heard)
            scheduler.trace(f"{kind} of {length} at {offset}: {rc}")
            if connection.target.dead or not self._arrives_back(connection, connection.target):
                return
            if connection.port:
                lib.sim_answer(connection.port, op, rc)

        scheduler.spawn(connection.target, f"{connection.target.name}: request", handle)


# ---- the core's way to it

_now: list[Network] = []


def install(network: Network) -> None:
    _now[:] = [network]


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_connect(remote: int, port: Any) -> int:
    return _now[0].connect(remote, port)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_disconnect(connection: int) -> None:
    _now[0].disconnect(connection)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_send(connection: int, op: Any) -> None:
    _now[0].send(connection, op)
