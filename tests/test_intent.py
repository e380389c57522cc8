"""After a power loss a source looks at what its intent log says, not at everything (I4)."""

from __future__ import annotations

from pathlib import Path

import direct
import pytest
from handmade import scrape, value
from pair import CommandFailed, MakePair, Pair
from test_link import kill, lose_power

MIB = 1 << 20
REGION = MIB  # of the log, for volumes up to 1 TiB
SIZE = 256 * MIB
PLACES = (0, 100 * MIB + 4096, SIZE - 4096)


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair("--size", str(SIZE))
    pair.start()
    with pair.client() as client:
        for place in range(0, SIZE, 32 * MIB):
            client.write(place, b"old" * 1000)
    direct.sync(pair)
    for site in ("east", "west"):
        direct.stop(pair, site)
    # As if nothing had been written for long: every region is cold.
    log_of(pair).unlink()
    pair.start()
    return pair


def log_of(pair: Pair) -> Path:
    return pair.folder / "east/state/disk.intent"


def is_equal(pair: Pair) -> bool:
    return pair.image("east").read_bytes() == pair.image("west").read_bytes()


def copied_after_a_loss(pair: Pair) -> int:
    """Bytes that a source copied since it was killed, lost its maps, and was started again."""
    lose_power(pair, "east")
    pair.start("east")
    direct.sync(pair)
    assert is_equal(pair)
    return int(value(scrape(pair), 'copied_bytes_total{copy="first",volume="disk"}'))


def test_only_what_was_hot_is_looked_at(pair: Pair) -> None:
    """Three writes in 256 MiB: after a loss three regions are copied and compared, and both
    sites are equal."""
    direct.pause(pair)
    with pair.client() as client:
        for place in PLACES:
            client.write(place, b"new" * 1000)
    for _ in range(2):
        assert 0 < copied_after_a_loss(pair) <= len(PLACES) * REGION


def test_what_a_first_cycle_sends_is_hot(make_pair: MakePair) -> None:
    """All that is sent to a target without an image is in the log first.  Or: the answer to that
    commit is lost, a second cycle has sent much of it again when the source loses its power, and
    the target waits for ever for the rest of what that cycle had begun."""
    pair = make_pair("--size", str(SIZE))
    pair.start()
    direct.sync(pair)
    bits = log_of(pair).read_bytes()[4096:]
    regions = SIZE // REGION
    assert bits[: regions // 8] == b"\xff" * (regions // 8)


def test_a_lost_log_makes_everything_hot(pair: Pair) -> None:
    """Without its log such a source knows nothing, so it looks at everything."""
    log_of(pair).unlink()
    assert copied_after_a_loss(pair) == SIZE


def test_another_log_is_refused(pair: Pair) -> None:
    """A log of another volume, or a damaged one, is refused with what to do; nothing changes."""
    kill(pair, "east")
    right = log_of(pair).read_bytes()
    for wrong in (right[:-1], b"\1" + right[1:], right[:16] + b"\1" + right[17:], b""):
        log_of(pair).write_bytes(wrong)
        with pytest.raises(CommandFailed, match="intent: not the intent log of this volume") as e:
            pair.start("east")
        assert "remove it" in str(e.value)
        assert log_of(pair).read_bytes() == wrong
    log_of(pair).write_bytes(right)
    pair.start("east")
    direct.sync(pair)
    assert is_equal(pair)
