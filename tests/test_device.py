"""The source's device answers as the NBD protocol says, at its edges and with its flags."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from nbd_client import FAST_ZERO, FUA, NO_HOLE, READ, TRIM, WRITE, ZEROES, NbdClient, NbdError
from pair import MakePair, Pair
from served import create_anew, serve

SIZE = 1_000_001
ENOTSUP = 95  # the protocol's number for it

FLAGS = {
    "flush": 1 << 2,
    "FUA": 1 << 3,
    "trim": 1 << 5,
    "write zeroes": 1 << 6,
    "multi-conn": 1 << 8,
    "cache": 1 << 10,
    "fast zero": 1 << 11,
}


@pytest.fixture
def source(make_pair: MakePair) -> Iterator[tuple[Pair, NbdClient]]:
    """A running pair and a client whose device is full of a pattern."""
    pair = make_pair("--size", str(SIZE))
    pair.start()
    with pair.client() as client:
        client.write(0, b"\x5a" * SIZE)
        yield pair, client


def answer(client: NbdClient, kind: int, offset: int, length: int, flags: int = 0) -> int:
    """The errno of the answer, 0 for none."""
    client.send(kind, offset, length, b"\1" * length if kind == WRITE else b"", flags)
    try:
        client.receive()
    except NbdError as error:
        return error.errno or 0
    return 0


def test_the_device_offers_what_it_can(source: tuple[Pair, NbdClient]) -> None:
    """A client learns the size to the byte, and that it may flush, force, trim, zero fast, and
    use several connections; the device is not read-only."""
    _, client = source
    assert client.size == SIZE
    assert not client.flags & 2
    missing = [name for name, bit in FLAGS.items() if not client.flags & bit]
    assert not missing


def test_past_the_end_is_refused(source: tuple[Pair, NbdClient]) -> None:
    """A request that reaches past the end gets the errno of the protocol, changes nothing, and
    the connection goes on."""
    _, client = source
    wanted = {READ: errno.EINVAL, WRITE: errno.ENOSPC, ZEROES: errno.ENOSPC, TRIM: errno.EINVAL}
    for offset, length in [(SIZE, 1), (SIZE - 1, 2), (SIZE + 4096, 512)]:
        assert {kind: answer(client, kind, offset, length) for kind in wanted} == wanted
    assert client.read(0, SIZE) == b"\x5a" * SIZE


def test_the_last_byte_is_as_good_as_any(source: tuple[Pair, NbdClient]) -> None:
    """What is written to, and trimmed from, the short last block reaches the target."""
    pair, client = source
    client.write(SIZE - 1, b"\1")
    direct.sync(pair)
    assert pair.image("west").read_bytes()[-2:] == b"\x5a\1"
    client.trim(SIZE - 1, 1)
    direct.sync(pair)
    assert pair.image("west").read_bytes()[-2:] == b"\x5a\0"


def test_a_fast_zero_is_done_or_changes_nothing(source: tuple[Pair, NbdClient]) -> None:
    """A fast zero either is done or answers ENOTSUP with the data as it was; it is no failed
    write, and the target gets the same."""
    pair, client = source
    expected = bytearray(b"\x5a" * SIZE)
    for start, flags in [(4096, FAST_ZERO), (300_001, FAST_ZERO | NO_HOLE)]:
        result = answer(client, ZEROES, start, 65536, flags)
        assert result in (0, ENOTSUP)
        if result == 0:
            expected[start : start + 65536] = bytes(65536)
    assert client.read(0, SIZE) == expected
    direct.sync(pair)
    assert pair.image("west").read_bytes() == expected


def logged(log: Path, call: str) -> int:
    """How many calls the log filter saw."""
    return sum(f" {call} id=" in line for line in log.read_text().splitlines())


def test_fua_and_flush_reach_the_store(make_pair: MakePair) -> None:
    """A write, zero or trim with FUA is flushed before it is answered, one without is not, and a
    flush is a flush of the store."""
    pair = make_pair("--size", "1M")
    server = serve(pair, "east")
    log = pair.folder / "calls.log"
    server.start("log", parameters=(f"logfile={log}",))
    try:
        create_anew(pair, "east", "source")
        pair.start("east")
        with pair.client() as client:
            for flags in (0, FUA):
                before = logged(log, "Flush")
                client.write(0, b"\1" * 4096, flags)
                client.zero(8192, 4096, flags)
                client.send(TRIM, 16384, 4096, flags=flags)
                client.receive()
                assert logged(log, "Flush") == before + (3 if flags else 0)
            assert (logged(log, "Write"), logged(log, "Zero")) == (2, 4)
            client.write(0, b"\2" * 4096)
            before = logged(log, "Flush")
            client.flush()
            assert logged(log, "Flush") == before + 1
        pair.stop("east")
    finally:
        server.stop()
