"""A slow store is not a dead one: comparing goes on however long a read takes, and nobody waits.

The target's intermediate is a real NBD server that takes its time for each read; the source has
lost its power, so what was hot is compared.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import direct
import pytest
from handmade import Handmade, scrape, value
from nbd_client import NbdClient
from pair import SOAK, some
from served import Server
from test_link import kill, lose_power

from mirror_core import native

MIB = 1 << 20
BLOCK = 4096
LINK_TIMEOUT_S = 2.0


def test_what_cannot_be_read_is_never_left_out(scratch: Path) -> None:
    """Of reads of which a later one fails there is what stands before it; whoever wants all, as a
    fingerprint does, gets the error."""
    fd = os.open(scratch / "short", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, b"a" * BLOCK + b"b" * BLOCK)
    store = native.Store.file(fd, 3 * BLOCK)
    runs = [(BLOCK, BLOCK), (0, BLOCK), (2 * BLOCK, BLOCK), (0, BLOCK)]
    assert store.gather(runs, 2, 1.0)[0] == b"b" * BLOCK + b"a" * BLOCK
    assert store.gather_all(runs[:2], 2) == b"b" * BLOCK + b"a" * BLOCK
    for read in (lambda: store.gather_all(runs, 2), lambda: store.gather(runs[2:], 2, 1.0)):
        with pytest.raises(OSError, match="Input/output error"):
            read()
    store.close()


@contextmanager
def target_on_a_server(pair: Handmade, folder: Path, size: int) -> Iterator[Server]:
    """A pair that has committed random bytes, paused; the target's intermediate is behind a
    server."""
    folder.mkdir()
    server = Server(folder / "intermediate.img")
    server.image.touch()
    os.truncate(server.image, size)
    server.start()
    pair.size, pair.stores["west", "intermediate"] = size, server.uri
    pair.more = f'link_timeout = "{LINK_TIMEOUT_S}s"'
    pair.create()
    try:
        pair.start()
        rng = random.Random(7)
        with pair.client() as client:
            for at in range(0, size, MIB):
                client.write(at, rng.randbytes(MIB))
        direct.sync(pair)
        direct.pause(pair)
        yield server
    finally:
        pair.kill()
        server.stop()


def slow(pair: Handmade, server: Server, *rules: str, threads: int = 16) -> None:
    direct.stop(pair, "west")
    server.stop()
    server.start("delay", parameters=rules, threads=threads)
    pair.start("west")


def found_equal(pair: Handmade) -> float:
    return value(scrape(pair), 'equal_bytes_total{volume="disk"}')


class Writer:
    """Writes one block after another, and times each."""

    def __init__(self, pair: Handmade) -> None:
        self.longest_s, self.writes = 0.0, 0
        self._uri, self._blocks = pair.uri(), pair.size // BLOCK
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        rng = random.Random(8)
        with NbdClient(self._uri) as client:
            while not self._stop.wait(0.02):
                began = time.monotonic()
                client.write(rng.randrange(self._blocks) * BLOCK, rng.randbytes(BLOCK))
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.writes += 1

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize(
    ("delay", "size"),
    [
        *some([("50ms", 32 * MIB), ("2ms", 64 * MIB), ("250ms", 16 * MIB)], 3),
        *([("1000ms", 4 * MIB)] if SOAK > 1 else []),
    ],
)
def test_comparing_gets_on_however_long_a_read_takes(
    scratch: Path, handmade: Handmade, delay: str, size: int
) -> None:
    """All of it is compared in one session, the ten blocks that differ are sent, and both are
    equal; no write to the source waits longer than link_timeout."""
    with target_on_a_server(handmade, scratch / "served", size) as server:
        with handmade.client() as client:
            for at in range(0, size, size // 10 // BLOCK * BLOCK):
                client.write(at, b"different" * 400)
        lose_power(handmade, "east")
        slow(handmade, server, f"rdelay={delay}")
        handmade.start("east")
        before = direct.status(handmade)["committed"]["sequence"] or 0
        direct.resume(handmade)
        with Writer(handmade) as writer:
            direct.wait_for(
                lambda: (direct.status(handmade)["committed"]["sequence"] or 0) > before,
                "the comparison is over, and its cycle committed",
                timeout_s=120,
            )
        # The blocks that differ, and those that were written before the consistency point.
        assert size - 30 * BLOCK <= found_equal(handmade) <= size - 10 * BLOCK
        assert writer.writes and writer.longest_s < LINK_TIMEOUT_S, writer.longest_s
        log = handmade.log("east")
        assert log.count("mirroring to west") == 2, f"a session was lost:\n{log}"
        direct.sync(handmade, timeout_s=120)
        assert handmade.image("east").read_bytes() == handmade.image("west").read_bytes()


@pytest.mark.soak
def test_a_comparison_that_loses_its_link_goes_on_where_it_was(
    scratch: Path, handmade: Handmade
) -> None:
    """The target is killed in a long comparison: what it had found equal, and recorded, is neither
    compared nor sent again.  The rest is sent: the server's cache is no proof of its disk."""
    size = 64 * MIB
    with target_on_a_server(handmade, scratch / "served", size) as server:
        lose_power(handmade, "east")
        slow(handmade, server, "rdelay=50ms", threads=2)
        handmade.start("east")
        direct.ask(handmade, {"op": "sync"})
        direct.wait_for(lambda: found_equal(handmade) >= size / 2, "half of it is compared", 60)
        kill(handmade, "west")
        before = found_equal(handmade)
        server.stop()  # nbdkit before 1.33.10 may abort when a client goes with replies under way
        server.start("delay", parameters=("rdelay=50ms",), threads=2)
        handmade.start("west")
        direct.sync(handmade, timeout_s=120)
        assert found_equal(handmade) == before
        sent = value(scrape(handmade), 'wire_bytes_total{volume="disk"}')
        assert sent < size - 0.2 * before, "it began anew"
        assert handmade.image("east").read_bytes() == handmade.image("west").read_bytes()
