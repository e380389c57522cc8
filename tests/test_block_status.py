"""Block status: what a client asks for costs what it is told, however many extents follow."""

from __future__ import annotations

import json
import statistics
import subprocess
import time

import pytest
from pair import MakePair, Pair
from served import Server

from mirror_core import limits

BLOCK = 4096
EXTENTS = 4096


def qemu_map(uri: str) -> tuple[list[tuple[int, int, bool]], float]:
    """What QEMU finds, which asks for one extent at a time, and how long that takes, seconds."""
    began = time.monotonic()
    words = ["qemu-img", "map", "--output=json", "-f", "raw", uri]
    done = subprocess.run(words, capture_output=True, check=True, timeout=120)
    took = time.monotonic() - began
    return [(e["start"], e["length"], e["data"]) for e in json.loads(done.stdout)], took


def with_holes(make_pair: MakePair) -> Pair:
    """Every other block of its volume is written."""
    pair = make_pair("--size", f"{BLOCK * EXTENTS}")
    pair.start()
    with pair.client() as client:
        for at in range(0, BLOCK * EXTENTS, 2 * BLOCK):
            client.write(at, b"x" * BLOCK)
        client.flush()
    return pair


@pytest.mark.alone
def test_a_map_of_many_extents_takes_three_times_what_nbdkits_own_plugin_takes(
    make_pair: MakePair,
) -> None:
    """At the most, and says the same.  (It took 150 times that, for each answer was of all extents
    of the range.)  In turns, and of each the median: one that was lucky decides nothing."""
    pair = with_holes(make_pair)
    server = Server(pair.image("east"))
    server.start()
    try:
        mine, theirs = [], []
        for _ in range(7):
            found, took = qemu_map(pair.uri())
            mine.append(took)
            expected, took = qemu_map(server.uri)
            theirs.append(took)
            assert found == expected and len(found) == EXTENTS
    finally:
        server.stop()
    print(f"qemu-img map, seconds: {mine}, nbdkit's file plugin: {theirs}")
    assert statistics.median(mine) <= 3 * statistics.median(theirs), (mine, theirs)


def test_a_client_that_takes_all_extents_is_told_all(make_pair: MakePair) -> None:
    """Of more than are told at a time: libnbd's nbdinfo, which does not ask for one alone."""
    assert limits.EXTENTS_MAX < EXTENTS
    pair = with_holes(make_pair)
    words = ["nbdinfo", "--map", "--json", pair.uri()]
    done = subprocess.run(words, capture_output=True, check=True, timeout=60)
    found = [(e["offset"], e["length"], e["type"]) for e in json.loads(done.stdout)]
    assert found == [(BLOCK * i, BLOCK, 3 * (i % 2)) for i in range(EXTENTS)]
