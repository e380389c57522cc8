"""The Python thread state of a worker is kept between requests, and nothing else is kept."""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import eventually, flashmirror, state_of
from nbd_client import WRITE, NbdClient
from pair import SOAK, MakePair, Pair
from planted import loaded_core, plant

from mirror_core import config, connections, ledger, process

BLOCK = 4096
REQUESTS = 2000


def faults(pid: int) -> int:
    """Minor page faults of all threads of a process so far."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def faults_of_requests(pair: Pair) -> int:
    """The page faults of 1,000 writes and as many flushes on one connection, once it is warm.

    A flush runs Python code, for which a new thread state maps a page; a write runs none.
    """
    pid = state_of(pair)["pid"]
    pair.pause()
    with pair.client() as client:
        for _ in range(2):
            before = faults(pid)
            for i in range(REQUESTS // 2):
                client.write(i % 64 * BLOCK, b"x" * BLOCK)
                client.flush()
    return faults(pid) - before


def test_a_request_does_not_make_a_thread_state(make_pair: MakePair) -> None:
    """2,000 requests of one connection cost far less than a page fault each: the thread state is
    made once.  (It was the largest cost of a small request: an mmap and a munmap each.)"""
    pair = make_pair("--size", "1M")
    pair.start("east")
    assert faults_of_requests(pair) <= REQUESTS / 10


@pytest.mark.soak
def test_the_test_above_sees_a_missing_pin(
    make_pair: MakePair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the pin compiled out the same requests cost more than the bound: the test can fail."""
    environment = plant("NO_PIN", tmp_path_factory.mktemp("planted"))
    pair = make_pair("--size", "1M", environment=environment)
    pair.start("east")
    assert any("planted" in str(path) for path in loaded_core(state_of(pair)["pid"]))
    assert faults_of_requests(pair) > REQUESTS / 4


def resources(pid: int) -> dict[str, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    found = {key: re.search(rf"{key}:\s+(\d+)", status) for key in ("VmRSS", "Threads")}
    assert all(found.values())
    numbers = {key: int(match[1]) for key, match in found.items() if match}
    return {**numbers, "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


def connect_and_use(pair: Pair, count: int) -> None:
    uri = config.load(str(pair.toml("east"))).device_uri("disk")
    for i in range(count):
        with NbdClient(uri) as client:
            client.write(i % 64 * BLOCK, b"x" * BLOCK)
            assert client.read(i % 64 * BLOCK, 1) == b"x"


def test_three_thousand_connections_leak_nothing(make_pair: MakePair) -> None:
    """After 3,000 connections that were opened, used and closed: the same threads, descriptors,
    and about the same memory."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    pair.pause()
    pid = state_of(pair)["pid"]
    connect_and_use(pair, 300)
    before = resources(pid)
    connect_and_use(pair, 3000 * SOAK)
    eventually(lambda: resources(pid)["Threads"] <= before["Threads"] + 2, "threads end")
    eventually(lambda: resources(pid)["descriptors"] <= before["descriptors"] + 2, "files close")
    after = resources(pid)
    # A thread state is about 20 KiB: 3,000 of them would be 60 MiB.
    assert after["VmRSS"] <= before["VmRSS"] + 4096, (before, after)


def test_many_connections_at_once_leak_nothing(make_pair: MakePair) -> None:
    """200 connections at the same time, three times over, leave no more than the first time."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    pair.pause()
    pid = state_of(pair)["pid"]
    uri = config.load(str(pair.toml("east"))).device_uri("disk")
    alone = resources(pid)
    held = []
    for _ in range(3):
        clients = [NbdClient(uri) for _ in range(200)]
        for client in clients:
            client.write(0, b"x" * BLOCK)
        for client in clients:
            client.close()
        eventually(lambda: resources(pid)["Threads"] <= alone["Threads"] + 2, "threads end")
        held.append(resources(pid)["VmRSS"])
    assert held[-1] <= held[0] + 4096, held


def test_too_many_clients_are_refused_and_the_others_served(make_pair: MakePair) -> None:
    """Near the limit of open files, and not before, a new client is refused at once and those that
    are there are served; nothing spins on accept, and when clients have gone there is room again.
    """
    pair = make_pair("--size", "1M")
    flashmirror("start", str(pair.toml("east")), prefix=("prlimit", "--nofile=150:150"))
    uri = config.load(str(pair.toml("east"))).device_uri("disk")
    pid = state_of(pair)["pid"]
    clients = []
    with pytest.raises(OSError):
        for _ in range(200):
            clients.append(NbdClient(uri))
    # nbdkit takes one descriptor for a client, and three where it serves it with several threads.
    assert abs(resources(pid)["descriptors"] - (150 - connections._RESERVED)) < 4
    refused = 0
    for _ in range(100):
        try:  # a descriptor that was in use for a moment, to look for the peer, may be free now
            clients.append(NbdClient(uri))
        except OSError:
            refused += 1
    assert refused >= 95
    for client in clients:
        client.write(0, b"x" * BLOCK)
        client.close()
    eventually(lambda: pair.status()["pid"], "there is room again")
    with NbdClient(uri) as client:
        assert client.read(0, 1) == b"x"
    assert "accept" not in pair.log("east") and len(pair.log("east")) < 50_000


class Writers:
    """Clients that write as fast as they can, many requests in flight, until they are cut off."""

    def __init__(self, uri: str, count: int) -> None:
        self.answered = 0
        self._clients = [NbdClient(uri) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._write, args=(client, i))
            for i, client in enumerate(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, client: NbdClient, seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(16):
                client.send(WRITE, rng.randrange(256) * BLOCK, BLOCK, b"w" * BLOCK)
            while True:
                client.receive()
                self.answered += 1
                client.send(WRITE, rng.randrange(256) * BLOCK, BLOCK, b"w" * BLOCK)
        except OSError:
            client.socket.close()  # the server has gone

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def mirrored() -> Iterator[Pair]:
    """A pair whose target runs throughout."""
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-", dir="/dev/shm"))
    pair = Pair(folder / "p", "--size", "1M")
    try:
        pair.start("west")
        yield pair
    finally:
        pair.kill()
        shutil.rmtree(folder)


@pytest.mark.parametrize("turn", range(10 * SOAK))
def test_shutdown_under_load_never_hangs(mirrored: Pair, turn: int) -> None:
    """While four clients write pipelined and cycles run: stop returns within 10 s, the process is
    gone, and the ledger says that it ended in order."""
    settings = config.load(str(mirrored.toml("east")))
    process.start(settings)
    pid = state_of(mirrored)["pid"]
    writers = Writers(settings.device_uri("disk"), 4)
    eventually(lambda: writers.answered >= 100 * (1 + turn % 5), "the clients write")
    begin = time.monotonic()
    mirrored.stop("east")
    assert time.monotonic() - begin <= 10
    assert not Path(f"/proc/{pid}").exists() or is_zombie(pid)
    writers.join()
    assert ledger.load(mirrored.folder / "east" / "state").clean
    assert "Traceback" not in mirrored.log("east")


def is_zombie(pid: int) -> bool:
    """Ended, and only not yet waited for by whoever adopted it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def reset(client: NbdClient) -> None:
    """End the connection at once, whatever is under way."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def test_a_client_that_resets_disturbs_nobody(make_pair: MakePair) -> None:
    """A hundred clients vanish with replies pending: the site is the same process, and another
    client's requests are answered throughout."""
    pair = make_pair("--size", "1M")
    pair.start()
    pid = state_of(pair)["pid"]
    uri = pair.uri()
    rng = random.Random(0)
    with NbdClient(uri) as steady:
        for turn in range(100 * SOAK):
            vanishing = NbdClient(uri)
            for _ in range(rng.randrange(1, 32)):
                vanishing.send(WRITE, rng.randrange(256) * BLOCK, BLOCK, b"v" * BLOCK)
            if turn % 2:  # some replies wait in the socket
                assert select.select([vanishing.socket], [], [], 20)[0]
            reset(vanishing)
            data = rng.randbytes(BLOCK)
            steady.write(0, data)
            assert steady.read(0, BLOCK) in (data, b"v" * BLOCK)
    assert state_of(pair)["pid"] == pid
    pair.sync()
    assert pair.image("west").read_bytes() == pair.image("east").read_bytes()
