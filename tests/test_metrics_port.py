"""The port of the metrics, whoever comes to it and whatever the machine lacks: without a site."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from handmade import eventually
from prometheus_client.core import GaugeMetricFamily, Metric

from mirror_core import limits, metrics
from mirror_core.address import Tcp
from mirror_core.journal import Journal
from mirror_core.site import Site


class Collector:
    """In the place of the site's: `rows` samples."""

    def __init__(self, _: object) -> None:
        self.rows, self.fault = 1, False
        self.until: threading.Event | None = None

    def collect(self) -> Iterator[Metric]:
        if self.until:
            assert self.until.wait(60)
        if self.fault:
            raise KeyError("x")
        family = GaugeMetricFamily("x", "x", labels=["row"])
        for row in range(self.rows):
            family.add_metric([f"{row:060d}"], 1.0)
        yield family

    def end(self) -> None:
        pass


class Port:
    """Metrics that are served, and where."""

    def __init__(self) -> None:
        site = SimpleNamespace(
            config=SimpleNamespace(metrics=Tcp("127.0.0.1", 0)), journal=Journal()
        )
        self.metrics = metrics.MetricsServer(cast(Site, site))
        self.metrics.start()
        ((self.server, self.thread),) = self.metrics._serving
        assert self.metrics.address
        self.number = int(self.metrics.address.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.number), timeout=20)

    def status(self, host: str = "localhost") -> int:
        """Of a scrape by that name."""
        client = http.client.HTTPConnection("127.0.0.1", self.number, timeout=20)
        with contextlib.closing(client):
            client.request("GET", "/metrics", headers={"Host": host})
            answer = client.getresponse()
            answer.read()
            return answer.status


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    monkeypatch.setattr(metrics, "SiteCollector", Collector)
    opened = Port()
    yield opened
    opened.metrics.stop()
    assert not opened.thread.is_alive()


def once(error: BaseException, then: Callable[..., Any]) -> Callable[..., Any]:
    """Raises that error, and is `then` after it."""
    errors = [error]

    def call(*words: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return then(*words, **named)

    return call


class Accepting:
    """A socket whose `accept` is another one."""

    def __init__(self, real: socket.socket, accept: Callable[[], Any]) -> None:
        self._real, self.accept = real, accept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")], ids=repr)
def test_a_connection_that_cannot_be_taken_is_taken_later(port: Port, error: Exception) -> None:
    """For want of memory or of a descriptor: the next scrape is answered, as the one after it."""
    real = port.server.socket
    taken = Accepting(real, once(error, real.accept))
    port.server.socket = cast(socket.socket, taken)
    assert port.status() == port.status() == 200


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("no thread")], ids=repr)
def test_a_scrape_without_a_thread_costs_that_scrape(
    port: Port, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its connection is closed; the next one is answered."""
    monkeypatch.setattr(threading.Thread, "start", once(error, threading.Thread.start))
    with port.connect() as client:
        assert client.recv(1) == b""
    assert port.status() == 200


def test_a_want_of_memory_where_the_port_is_watched_ends_nothing(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is watched anew."""
    monkeypatch.setattr(
        port.server, "service_actions", once(MemoryError(), port.server.service_actions)
    )
    assert port.status() == port.status() == 200


# What is no host, or has brackets that do not match, or others in them.
HOSTS = ("[::1", "[1]", "::1]", "[[::1]]", "[]", "[::1]x", "a:b", "a:1:2", "a b", "@x", "", "\xe9")


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_is_none_is_refused_in_silence(
    port: Port, capfd: pytest.CaptureFixture[str], host: str
) -> None:
    """Anybody who reaches the port may send it, as often as he likes."""
    assert port.status(host) == 403
    assert capfd.readouterr().err == ""


def test_who_asks_and_does_not_read_writes_nothing_to_the_log(
    port: Port, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The answer is larger than a socket's buffer: its thread ends when its patience does."""
    monkeypatch.setattr(metrics._Silent, "timeout", 0.2)
    cast(Collector, port.metrics.collector).rows = 100_000
    ended = threading.Event()
    real = port.server.shutdown_request

    def end(request: Any) -> None:
        real(request)
        ended.set()

    monkeypatch.setattr(port.server, "shutdown_request", end)
    with port.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert ended.wait(60)
    assert capfd.readouterr().err == ""


def test_a_fault_of_the_metrics_is_told_in_one_line(
    port: Port, capfd: pytest.CaptureFixture[str]
) -> None:
    """However often they are asked for; who asks is told that there is one."""
    cast(Collector, port.metrics.collector).fault = True
    assert {port.status() for _ in range(5)} == {500}
    (said,) = capfd.readouterr().err.splitlines()
    assert said.endswith("refused: a scrape: the metrics cannot be told: KeyError('x')")


# ---- threads


class Resolver:
    """In the place of socket.getfqdn: answers when it is let."""

    def __init__(self) -> None:
        self.answers = threading.Semaphore(0)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        assert self.answers.acquire(timeout=60)
        return f"whole-{self.asked}.Example"


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getfqdn", made)
    yield made
    made.answers.release()


def test_nobody_waits_for_a_name_server(resolver: Resolver, port: Port) -> None:
    """Not the start, nor who asks for a name of others: one thread does, however many ask."""
    before = threading.active_count()
    for _ in range(100):
        assert port.status("another.example") == 403
    assert port.status(socket.gethostname()) == 200
    assert threading.active_count() <= before + limits.METRICS_CLIENTS
    assert resolver.asked == 1
    resolver.answers.release()
    eventually(lambda: port.status("whole-1.example") == 200, "the name is known")


def test_the_whole_name_of_this_machine_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver, port: Port
) -> None:
    """Who asks for a name that is not known lets it be, after a while: the machine may have got it
    since, as at boot."""
    monkeypatch.setattr(limits, "OWN_NAME_S", 0.0)
    resolver.answers.release(1000)
    eventually(lambda: port.status("whole-2.example") == 200, "it has another name")


def test_who_cannot_be_answered_yet_takes_few_threads(port: Port) -> None:
    """The site tells nothing for a while: who comes then is turned away, and afterwards all are
    answered."""
    told = threading.Event()
    cast(Collector, port.metrics.collector).until = told
    before = threading.active_count()
    with contextlib.ExitStack() as crowd:
        for _ in range(3 * limits.METRICS_THREADS):
            client = crowd.enter_context(port.connect())
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(1) == b""  # the last one: all before it have been taken
        assert threading.active_count() <= before + limits.METRICS_THREADS
        told.set()
    assert port.status() == 200
