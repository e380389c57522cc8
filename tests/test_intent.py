"""After a power loss a source looks at what its intent log says, not at everything (I4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import copied_first
from pair import MakePair, Pair, some
from pyroaring import BitMap64
from test_ledger import sample
from test_link import kill, lose_power

from mirror_core import intent, ledger
from mirror_core.ledger import Lineage

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
    pair.start()  # the log of this run is cold: everything is committed
    return pair


def log_of(pair: Pair) -> Path:
    """Of the run that the ledger names."""
    state = pair.folder / "east/state"
    return intent.path_in(state, "disk", ledger.load(state).run)


def is_equal(pair: Pair) -> bool:
    return pair.image("east").read_bytes() == pair.image("west").read_bytes()


def copied_after_a_loss(pair: Pair) -> int:
    """Bytes that a source copied since it was killed, lost its maps, and was started again."""
    lose_power(pair, "east")
    pair.start("east")
    direct.sync(pair)
    assert is_equal(pair)
    return copied_first(pair)


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
    """Without its log such a source knows nothing, so it looks at everything, and says so."""
    log_of(pair).unlink()
    assert copied_after_a_loss(pair) == SIZE
    assert "the intent log is missing: everything is compared" in pair.log("east")


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_what_an_orderly_stop_leaves_is_hot_in_the_next_log(pair: Pair, *, lost: bool) -> None:
    """What is not committed is in a hot region of each run's log: or a power loss would forget what
    the ledger's map had known.  If the log before was lost nobody knows that the ledger is the last
    one, so everything is hot."""
    direct.stop(pair, "west")
    with pair.client() as client:
        for place in PLACES:
            client.write(place, b"new" * 1000)
        client.flush()
    direct.stop(pair, "east")
    if lost:
        log_of(pair).unlink()
    pair.start("east")
    kill(pair, "east")
    hot = range(SIZE // REGION) if lost else {place // REGION for place in PLACES}
    assert regions_of(log_of(pair)) == sorted(hot)
    pair.start("east", "west")
    assert 0 < copied_after_a_loss(pair) <= len(hot) * REGION


def regions_of(path: Path) -> list[int]:
    bits = int.from_bytes(path.read_bytes()[4096:], "little")
    return [region for region in range(SIZE // REGION) if bits >> region & 1]


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "short": lambda right: right[:-1],
    "of another shape": lambda right: right[:16] + b"\1" + right[17:],
    "of another history": lambda right: right[:60] + b"\1" + right[61:],
    "empty": lambda right: b"",
}


@pytest.mark.parametrize(
    "wrong", some(WRONG.values()), ids=some(key.replace(" ", "-") for key in WRONG)
)
def test_another_log_makes_everything_hot(pair: Pair, wrong: Callable[[bytes], bytes]) -> None:
    """A log of another volume or history, or a damaged one, tells nothing: what is on disk is
    compared as a whole, and the log says why."""
    kill(pair, "east")
    path = log_of(pair)
    path.write_bytes(wrong(path.read_bytes()))
    pair.start("east")
    kill(pair, "east")
    assert len(regions_of(log_of(pair))) == SIZE // REGION
    pair.start("east")
    direct.sync(pair)
    assert is_equal(pair)
    assert "not the intent log of this volume and run, or damaged" in pair.log("east")


BOOK = sample(clean=True, maps={})
OTHER = {
    "of this history": BOOK,
    "of another site": replace(BOOK, site="o" * 32),
    "of another lineage": replace(BOOK, lineage=Lineage("o" * 32)),
    "of no lineage": replace(BOOK, lineage=None),
}


@pytest.mark.parametrize("other", OTHER.values(), ids=[key.replace(" ", "-") for key in OTHER])
def test_the_log_of_another_history_makes_everything_hot(
    tmp_path: Path, other: ledger.Ledger
) -> None:
    """A log that was written whole and well, for a run of the same name, by the same program: what
    is hot in it is not what this history has not committed."""
    record = replace(BOOK.volumes[0], size=SIZE)
    run, later = "a" * 32, "b" * 32
    intent.open_log(tmp_path, other, record, run).log.close()
    opened = intent.open_log(tmp_path, replace(BOOK, clean=False, run=run), record, later)
    hot = list(opened.log.runs())
    opened.log.close()
    assert (opened.lost is None) == (other == BOOK)
    assert hot == ([] if other == BOOK else [(0, SIZE)])


def test_a_fresh_log_is_hot_where_anything_is_not_committed(tmp_path: Path) -> None:
    """From its first instant: the ledger may name its run as soon as it stands, and nobody may
    come to heat anything in it before a power loss."""
    record = replace(BOOK.volumes[0], size=SIZE)
    blocks = [place // record.block_size for place in PLACES]
    book = replace(BOOK, maps={"disk/next": BitMap64(blocks)})
    opened = intent.open_log(tmp_path, book, record, "a" * 32)
    hot = list(opened.log.runs())
    opened.log.close()
    assert hot == [(place // REGION * REGION, REGION) for place in PLACES]
