"""Stores and a link that are slow: mirroring is slow too, and nothing else.

Real servers (nbdkit's rate filter) before each of the four stores, and a line that is narrow.  What
the filter lets pass at once (2 s of its rate) is less than what is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from nbd_client import TRIM
from pair import MakePair, Pair, some
from places import Places, needs_networks
from served import Server, create_anew, serve

pytestmark = pytest.mark.timeout(300)

MIB = 1 << 20
LINK_TIMEOUT_S, FREEZE_MAX_S = 2.0, 1.0
STORES = [(site, part) for site in ("east", "west") for part in ("data", "intermediate")]


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.stop()


def slow_pair(
    make_pair: MakePair,
    servers: list[Server],
    site: str,
    part: str,
    *options: str,
    filters: tuple[str, ...],
    parameters: tuple[str, ...],
) -> Pair:
    """A running pair, one of whose stores is behind a server with these filters."""
    pair = make_pair(*options)
    for each in ("east", "west"):
        pair.configure(each, f'link_timeout = "{LINK_TIMEOUT_S}s"')
    servers.append(serve(pair, site, part=part))
    servers[0].start(*filters, parameters=parameters)
    create_anew(pair, site, "source" if site == "east" else "target")
    pair.start()
    direct.sync(pair)
    return pair


def check_no_loss(pair: Pair) -> None:
    for site in ("east", "west"):
        log = pair.log(site)
        assert "timed out" not in log and "did not drain" not in log, log


def slow_blocks(make_pair: MakePair, servers: list[Server], site: str, part: str) -> Pair:
    """Two blocks of 8 MiB, each of which takes 4 s in a store that does 2 MB/s, whichever of the
    four it is, where two seconds of silence are a loss."""
    return slow_pair(
        make_pair,
        servers,
        site,
        part,
        "--size",
        "16M",
        "--block-size",
        "8M",
        filters=("rate",),
        parameters=("rate=16M",),
    )


def write_all(pair: Pair, first: int) -> tuple[bytes, float]:
    """Both blocks, in requests that a freeze can wait for (freeze_max): what was written, and how
    long the slowest one took."""
    data = (bytes(range(first, 256)) * (16 * MIB // (256 - first) + 1))[: 16 * MIB]
    longest = 0.0
    with pair.client() as client:
        for at in range(0, len(data), 256 << 10):
            began = time.monotonic()
            client.write(at, data[at : at + (256 << 10)])
            longest = max(longest, time.monotonic() - began)
        client.flush()
    return data, longest


@pytest.mark.parametrize(("site", "part"), some(STORES[::-1], 4))
def test_a_large_block_on_a_slow_store_arrives(
    make_pair: MakePair, servers: list[Server], site: str, part: str
) -> None:
    """It arrives, and no link and no store is lost; nor when the next cycle needs a block that is
    still on its way into the target's store, for which no client waits."""
    pair = slow_blocks(make_pair, servers, site, part)
    for first in (1, 2) if site == "west" else (1,):
        before = direct.status(pair, "west")["committed"]["sequence"] or 0
        direct.ask(pair, {"op": "pause", "now": False})  # what is written, no client waits for
        data, _ = write_all(pair, first)
        direct.resume(pair)
        direct.wait_commit(pair, before)
    direct.sync(pair)
    check_no_loss(pair)
    assert pair.image("west").read_bytes() == data


@pytest.mark.parametrize("part", some(["intermediate", "data"]))
def test_a_write_does_not_wait_for_a_large_block_at_the_target(
    make_pair: MakePair, servers: list[Server], part: str
) -> None:
    """A client who writes on while such blocks are copied, and hardened, waits no longer than is
    promised.  If that costs the link, the source says which setting is too short."""
    pair = slow_blocks(make_pair, servers, "west", part)
    direct.pause(pair)
    write_all(pair, 1)
    direct.resume(pair)
    for first in (2, 3) if part == "data" else (2,):  # what the first one writes meets no hardening
        direct.wait_for(
            lambda: direct.status(pair)["volumes"][0]["next_bytes"] == 0, "a freeze of all of it"
        )
        data, longest = write_all(pair, first)
        assert longest < LINK_TIMEOUT_S + FREEZE_MAX_S + 0.5
    direct.sync(pair)
    if "timed out" in pair.log("east"):
        assert "raise link_timeout" in pair.log("east")
    assert pair.image("west").read_bytes() == data


@pytest.mark.parametrize(("site", "part"), some(STORES[1::-1] + STORES[2:]))
def test_a_trim_on_a_slow_store_holds_up_nobody(
    make_pair: MakePair, servers: list[Server], site: str, part: str
) -> None:
    """A trim of 96 MiB, of which a store writes 12.5 MB/s as zeroes, whichever of the four it is:
    it is done; a write beside it, and one beside the copying of it, waits for less than
    link_timeout; no freeze is missed and no link is lost."""
    size = 96 * MIB
    pair = slow_pair(
        make_pair,
        servers,
        site,
        part,
        "--size",
        str(size),
        filters=("nozero", "rate"),
        parameters=("zeromode=emulate", "rate=100M"),
    )
    with pair.client() as client, pair.client() as other:
        other.write(size - 4096, b"\1" * 4096)
        client.send(TRIM, 0, size - 8192)  # whose answer is not waited for
        longest, done = 0.0, time.monotonic() + 10
        while time.monotonic() < done:
            began = time.monotonic()
            other.write(size - 4096, b"\2" * 4096)
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.01)  # a client's own pace
        client.receive()
        client.flush()
    direct.sync(pair)
    check_no_loss(pair)
    assert longest < LINK_TIMEOUT_S
    assert pair.image("west").read_bytes() == pair.image("east").read_bytes()


@needs_networks
def test_a_narrow_line_is_not_a_lost_one(scratch: Path) -> None:
    """Blocks of 4 KiB over a line of 0.1 MB/s: what would be one run elsewhere takes longer than
    link_timeout there.  All arrives, and the link is not lost."""
    places = Places(scratch / "n", "--size", "1M", settings='link_timeout = "2s"')
    try:
        places.start()
        direct.sync(places)
        places.narrow("800kbit")
        with places.client() as client:
            client.write(0, bytes(range(256)) * (MIB // 256))
        direct.sync(places)
        check_no_loss(places)
        assert places.image("west").read_bytes() == places.image("east").read_bytes()
    finally:
        places.end()
