"""Every metric's name and what to do with the figure; prometheus-client serves them.

Read from the site at each scrape (a custom collector): no counter is kept twice.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mirror_core import limits, sockets
from mirror_core import status as how
from mirror_core.address import Tcp
from mirror_core.errors import short

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from mirror_core.journal import Journal
    from mirror_core.site import Site

_P = "flashmirror_"


def program_version() -> str:
    """The installed version, or 'unknown' in a bare checkout."""
    try:
        return version("flashmirror")
    except PackageNotFoundError:
        return "unknown"


class SiteCollector(Collector):
    """Of a site that stops it tells nothing any more: its volumes go."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._ended = False  # guarded by `_lock`

    def collect(self) -> list[Metric]:
        with self._lock:
            if self._ended:
                return []
            return [*self._of_the_site(), *self._of_volumes(), *self._histograms()]

    def end(self) -> None:
        with self._lock:
            self._ended = True

    def _of_the_site(self) -> Iterator[Metric]:
        status = how.of(self._site)
        info = GaugeMetricFamily(
            _P + "info", "Always 1; join on its labels to know site, role and version.",
            labels=["site", "role", "version"],
        )  # fmt: skip
        info.add_metric([status["site"], status["role"], program_version()], 1)
        yield info
        committed = status["committed"]
        yield GaugeMetricFamily(
            _P + "committed_sequence",
            "The consistency point that the target can produce; if it does not grow while there "
            "are writes, look at status.",
            committed["sequence"] or 0,
        )
        yield GaugeMetricFamily(
            _P + "consistency_point_timestamp_seconds",
            "The moment of that consistency point, Unix time; after a disaster this is the "
            "state you get.",
            committed["consistency_point"] or 0,
        )
        yield GaugeMetricFamily(
            _P + "data_exposure_seconds",
            "Age of the oldest acknowledged write that no committed consistency point holds: "
            "alert when it exceeds the recovery point you promised, or when it is absent at the "
            "source.  A target, which cannot know, gives no sample.",
            status["data_exposure_seconds"],
        )
        yield GaugeMetricFamily(
            _P + "image_age_seconds",
            "Age of the last committed consistency point, at either site; no sample while there "
            "is none.  Where nothing is written it grows, and nothing is wrong: alert on it at "
            "the target, beside the source's data exposure, which goes with the source.  The "
            "target's is wrong by what the two clocks differ.",
            status["image_age_seconds"],
        )
        yield GaugeMetricFamily(
            _P + "peer_connected",
            "1 while there is a session with the other site; alert when it is 0 for longer than a "
            "restart takes.",
            int(status["peer"]["state"] == "connected"),
        )

    def _of_volumes(self) -> Iterator[Metric]:
        stats = self._site.statistics()
        sizes = {m.name: m.native.block_size for m in self._site.members}
        source = self._site.book.current.role == "source"
        copied = CounterMetricFamily(
            _P + "copied_bytes",
            "Bytes that a flashcopy finished copying: its rate is what replication costs; "
            "first is source to intermediates, second is intermediate to target.",
            labels=["volume", "copy"],
        )
        wire = CounterMetricFamily(
            _P + "wire_bytes",
            "NBD payload and checksums exchanged with the peer, before TLS: size the link by its "
            "rate.",
            labels=["volume"],
        )
        equal = CounterMetricFamily(
            _P + "equal_bytes",
            "Found equal at the peer by checksums, so not sent: after an end without order, of a "
            "seed, or of a cycle that was given up.",
            labels=["volume"],
        )
        before = CounterMetricFamily(
            _P + "copies_before_write",
            "Writes that had to wait for a copy; many of them: a faster link or intermediate, a "
            "longer interval, or preserve = first would help.",
            labels=["volume"],
        )
        errors = CounterMetricFamily(
            _P + "write_errors",
            "Writes that failed at the store behind the gate; any at all: look at that store.",
            labels=["volume"],
        )
        unread = CounterMetricFamily(
            _P + "read_errors",
            "Reads of clients that failed at the store behind the gate; any at all: look at that "
            "store.",
            labels=["volume"],
        )
        pending = GaugeMetricFamily(
            _P + "pending_bytes",
            "Still to be copied by the flashcopy that runs; should reach 0 in every cycle.",
            labels=["volume"],
        )
        following = GaugeMetricFamily(
            _P + "next_bytes",
            "Changed since the last consistency point: what the next cycle will copy.",
            labels=["volume"],
        )
        for name, s in stats.items():
            copied.add_metric([name, "first" if source else "second"], s.copied_bytes[0])
            wire.add_metric([name], s.wire_bytes + self._site.journal.comparing[name])
            equal.add_metric([name], self._site.journal.equal[name])
            before.add_metric([name], s.copies_before_write)
            errors.add_metric([name], s.write_errors)
            unread.add_metric([name], s.read_errors)
            pending.add_metric([name], (s.pending_blocks + s.unsent_blocks) * sizes[name])
            following.add_metric([name], s.next_blocks * sizes[name])
        yield from (copied, wire, equal, before, errors, unread, pending, following)

    def _histograms(self) -> Iterator[Metric]:
        counts, freezes, durations = self._site.journal.snapshot()
        cycles = CounterMetricFamily(
            _P + "cycles",
            "Cycles by result; abandoned ones that keep coming: see status for the reason.",
            labels=["result"],
        )
        for result in ("committed", "abandoned", "missed", "freeze_missed"):
            cycles.add_metric([result], counts.get(result, 0))
        yield cycles
        yield HistogramMetricFamily(
            _P + "cycle_freeze_seconds",
            "How long writes were held at a consistency point, made or missed; a growing tail: the "
            "source store is slow.",
            freezes.cumulative(), freezes.total,
        )  # fmt: skip
        yield HistogramMetricFamily(
            _P + "cycle_duration_seconds",
            "From consistency point to commit; about half of the data exposure under steady load.",
            durations.cumulative(), durations.total,
        )  # fmt: skip
        wait = HistogramMetricFamily(
            _P + "copy_before_write_wait_seconds",
            "How long writes waited for a copy; compare with the latency your application bears.",
            labels=["volume"],
        )
        for name, s in self._site.statistics().items():
            rows, seen = [], 0
            for i, count in enumerate(s.wait_us):
                seen += count
                last = i == len(s.wait_us) - 1
                rows.append(("+Inf" if last else str((1 << i) / 1e6), seen))
            wait.add_metric([name], rows, s.wait_us_sum / 1e6)
        yield wait


class _Server(ThreadingMixIn, WSGIServer):
    """On a socket that listens already.  A thread for each request: nobody waits for a client that
    is slow, at the end neither.  Anybody who reaches the port may connect: so there are
    METRICS_CLIENTS at a time, and the oldest goes when another one comes, which takes no
    descriptor from a device's client, a command or the peer, and writes nothing to the log.  One
    that has to go and cannot yet (the site tells nothing for a while) is waited for, and then
    whoever comes is turned away: a thread and a descriptor count until they have ended."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, app: WSGIApplication) -> None:
        self._changed = threading.Condition()  # guards the clients
        self._clients: dict[object, socket.socket] = {}  # by age, but those that are to go
        self._served: set[object] = set()  # by a thread each
        self._ending = False
        name = listening.getsockname()
        address = name[:2] if isinstance(name, tuple) else ("localhost", 0)
        super().__init__(address, _Silent, bind_and_activate=False)
        self.socket.close()
        self.socket, self.server_address = listening, address
        self.server_name, self.server_port = address
        self.setup_environ()
        self.set_app(app)

    def serve(self) -> None:
        """Until `end`.  A want of memory may come at any line: it costs a request, not the rest."""
        while True:
            try:
                self.serve_forever()
            except Exception:
                time.sleep(limits.METRICS_PAUSE_S)
            if self._ending:
                return

    def end(self) -> None:
        self._ending = True
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """OSError: none can be had, as without a descriptor; it is tried again."""
        try:
            client, address = self.socket.accept()
            return client, address or ("", 0)  # of a Unix socket's client there is none
        except OSError:
            time.sleep(limits.METRICS_PAUSE_S)  # nothing tells when there is one
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """OSError: there are too many."""
        with self._changed:
            self._clients[request] = request
            if len(self._clients) > limits.METRICS_CLIENTS:
                oldest = self._clients.pop(next(iter(self._clients)))
                with contextlib.suppress(OSError):  # it has gone by itself
                    oldest.shutdown(socket.SHUT_RDWR)
            if not self._changed.wait_for(self._has_room, limits.METRICS_PAUSE_S):
                raise OSError
            self._served.add(request)
        super().process_request(request, client_address)

    def _has_room(self) -> bool:
        return len(self._served) < limits.METRICS_THREADS

    def shutdown_request(self, request: Any) -> None:
        """The last thing that its thread does."""
        try:
            super().shutdown_request(request)
        finally:
            with self._changed:
                self._clients.pop(request, None)
                self._served.discard(request)
                self._changed.notify()

    def handle_error(self, *_: object) -> None:
        """A client that is slow, or has gone, is no event."""


class _Silent(WSGIRequestHandler):
    timeout = limits.METRICS_PATIENCE_S  # of each read and write

    def log_message(self, *_: object) -> None:
        """The log is for what needs a person."""

    def get_stderr(self) -> Any:
        """Of a client that does not read its answer there would be a traceback here."""
        return io.StringIO()


def _told(app: WSGIApplication, journal: Journal) -> WSGIApplication:
    """A fault of the metrics themselves is one line in the log, however often they are asked."""

    def telling(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Exception as error:
            journal.refused("a scrape", f"the metrics cannot be told: {short(error)}")
            raise

    return telling


class _Names:
    """By what names this machine may be asked.  The whole one of its own takes a look-up, for which
    a name server may be away: one thread waits for that, and nobody who asks."""

    def __init__(self, host: str) -> None:
        """`host`: as configured."""
        self._known = {host.lower(), "localhost"}
        self._whole = ""
        self._lock = threading.Lock()  # held while it is looked up
        self._again = 0.0  # when it may be
        self._look_up()

    def has(self, name: str) -> bool:
        if name in self._known or name in (socket.gethostname().lower(), self._whole):
            return True
        self._look_up()  # perhaps it has one by now, or another
        return False

    def _look_up(self) -> None:
        if self._again <= time.monotonic() and self._lock.acquire(blocking=False):
            try:
                threading.Thread(target=self._ask, name="own name", daemon=True).start()
            except (RuntimeError, MemoryError):  # there can be no thread
                self._lock.release()

    def _ask(self) -> None:
        try:
            self._whole = socket.getfqdn().lower()
        finally:
            self._again = time.monotonic() + limits.OWN_NAME_S
            self._lock.release()


def _of_our_host(app: WSGIApplication, host: str) -> WSGIApplication:
    """Refuses requests for a name that is not this machine's: a browser here that was led to a
    page whose name means this port (DNS rebinding) would read it to the page."""
    names = _Names(host)

    def guarded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = environ.get("HTTP_HOST")
        if asked is None or _is_ours(asked, names):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"this is not that host: ask {host}, or a number\n".encode()]

    return guarded


def _is_ours(asked: str, names: _Names) -> bool:
    """`asked`: a Host header (RFC 9110)."""
    found = re.fullmatch(r"(?:\[([\w.:%-]+)\]|([\w.-]+))(?::[0-9]*)?", asked, re.ASCII)
    if not found:
        return False
    name = (found[1] or found[2]).lower()
    with contextlib.suppress(ValueError):
        ip_address(name)
        return True
    return names.has(name)


class MetricsServer:
    """Serves one site's metrics on its configured address."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.collector = SiteCollector(site)
        self._serving: list[tuple[_Server, threading.Thread]] = []
        self.address: str | None = None

    def start(self) -> None:
        """MirrorError: the address is taken or not ours."""
        where = self._site.config.metrics
        assert where
        registry = CollectorRegistry()
        registry.register(self.collector)
        app = _told(make_wsgi_app(registry), self._site.journal)
        if isinstance(where, Tcp):
            app = _of_our_host(app, where.host)
        for listening in sockets.for_metrics(self._site.config):
            server = _Server(listening, app)
            thread = threading.Thread(target=server.serve, name="metrics", daemon=True)
            thread.start()
            self._serving.append((server, thread))
            self.address = (
                str(Tcp(where.host, server.server_port))
                if isinstance(where, Tcp)
                else f"unix:{where}"
            )

    def stop(self) -> None:
        for server, _ in self._serving:
            server.end()
        if self._serving:
            self.collector.end()  # a scrape under way may go on: of a client that is slow
        for _, thread in self._serving:
            thread.join()
        where = self._site.config.metrics
        if self._serving and isinstance(where, Path):
            with contextlib.suppress(OSError):  # its folder has gone, or another's now
                where.unlink(missing_ok=True)
