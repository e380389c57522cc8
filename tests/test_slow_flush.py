"""A flush that takes long because there is much in a server's cache is no lost server, whether that
is data, zeroes, or what the process before wrote; no client is told of a loss that was none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import Handmade, eventually, kill, scrape, state_of, until_state, value
from served import Server

MIB = 1 << 20
MUCH = 16 * MIB  # takes 4 s, twice as long as a server may be silent
SLOW_S = 3.0


@pytest.fixture
def pair(scratch: Path) -> Iterator[Handmade]:
    pair = Handmade(scratch / "mirror", size=2 * MUCH)
    yield pair
    pair.kill()


@pytest.fixture
def slow(scratch: Path) -> Iterator[Server]:
    image = scratch / "slow.img"
    image.touch()
    os.truncate(image, 2 * MUCH)
    script = Path(__file__).with_name("slow_cache.py")
    server = Server(image, "python", str(script), f"image={image}")
    server.start()
    yield server
    server.stop()


def start(pair: Handmade, slow: Server, part: str) -> None:
    pair.stores["east", part] = slow.uri
    pair.create()
    pair.start("east")


def flush_takes_long(pair: Handmade) -> None:
    began = time.monotonic()
    with pair.client() as client:
        client.flush()
    assert time.monotonic() - began > SLOW_S, "there was little to flush: this shows nothing"


def test_zeroes_of_a_client(pair: Handmade, slow: Server) -> None:
    start(pair, slow, "data")
    with pair.client() as client:
        client.flush()  # what was there before
        client.zero(0, MUCH)
    flush_takes_long(pair)


def test_what_the_process_before_wrote(pair: Handmade, slow: Server) -> None:
    """Its server is alive, and is known to be the same."""
    start(pair, slow, "data")
    with pair.client() as client:
        client.flush()
        for offset in range(0, MUCH, MIB):
            client.write(offset, b"w" * MIB)
    kill(pair, "east")
    pair.start("east")
    flush_takes_long(pair)


def test_zeroes_that_a_cycle_copies(pair: Handmade, slow: Server) -> None:
    """To the source's intermediate: the flush of the cycle is good, and the cycle is committed."""
    start(pair, slow, "intermediate")
    pair.start("west")
    until_state(pair, "mirroring")
    before = state_of(pair)["committed"]["sequence"]
    with pair.client() as client:
        client.trim(0, MUCH)
    eventually(lambda: state_of(pair)["committed"]["sequence"] > before, "a commit", 40.0)
    assert value(scrape(pair), 'cycles_total{result="abandoned"}') == 0
