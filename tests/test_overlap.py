"""The second flashcopy of a consistency point overlaps with the first copy of the next one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import direct
import durable
import pytest
from dependent import Judge, Load, NotOneMoment, read_images
from pair import SOAK, MakePair
from planted import loaded_core, plant
from served import SlowPair

from mirror_core import ledger

pytestmark = pytest.mark.timeout(300 * SOAK)

WRITERS = 4
REGION = 5 << 20  # so large that a cycle is many more runs than are in flight at once
INSTANTS = 3 * SOAK


@pytest.fixture
def slow(make_pair: MakePair) -> Iterator[SlowPair]:
    slow = SlowPair(make_pair("--size", str(WRITERS * REGION), "--volumes", "2"))
    try:
        slow.begin()
        yield slow
    finally:
        slow.end()


def is_overlap(book: ledger.Ledger) -> bool:
    """The second flashcopy was under way, and some of the next cycle had arrived."""
    pending, written = (
        any(book.maps.get(f"{volume}/{name}") for volume in ("disk", "disk2"))
        for name in ("pending", "written")
    )
    return pending and written


def check_instants(slow: SlowPair, judge: Judge, instants: int) -> int:
    """Stop the target in the middle of second flashcopies and judge what its durable state can
    produce; how often the next cycle had begun to arrive."""
    pair, overlaps = slow.pair, 0
    for _ in range(instants):
        direct.wait_commit(pair, ledger.load(pair.folder / "west/state").committed)
        direct.stop(pair, "west")
        book = ledger.load(pair.folder / "west/state")
        assert book.whole and book.clean
        images = [durable.image(pair, book, volume) for volume in ("disk", "disk2")]
        judge.check(images, point=book.consistency_point)
        overlaps += is_overlap(book)
        pair.start("west")
    return overlaps


def test_image_stays_right_while_the_next_cycle_arrives(slow: SlowPair) -> None:
    """With the second flashcopy held back by a slow data store, and the next cycle already
    arriving, the target can at every instant produce image(k) from its durable state: a prefix
    of each writer.  When the store is mended, everything arrives."""
    pair = slow.pair
    with Load([pair.uri("disk"), pair.uri("disk2")], WRITERS, region=REGION) as load:
        judge = Judge(load)
        load.wait_writes(2000)
        overlaps = check_instants(slow, judge, INSTANTS)
        for _ in range(30):  # a target that stops lets end what is in flight: all, at times
            overlaps = overlaps or check_instants(slow, judge, 1)
        assert overlaps, "no instant had both copies under way: the test proved nothing"
        slow.change_speed(slow=False)
    direct.sync(pair)
    images = read_images(pair.folder / "west", load)
    judge.check(images, load.acknowledged())
    assert images == read_images(pair.folder / "east", load)


@pytest.mark.soak
def test_the_check_notices_a_target_without_copy_before_write(
    slow: SlowPair, scratch: Path
) -> None:
    """The same check fails within 10 instants when the target alone lets the next cycle
    overwrite what its second flashcopy has still to copy."""
    pair = slow.pair
    direct.stop(pair, "west")
    pair.environment.update(plant("NO_COPY_BEFORE_WRITE", scratch / "planted"))
    pair.start("west")
    (core,) = loaded_core(direct.status(pair, "west")["pid"])
    assert core.is_relative_to(scratch / "planted")
    with Load([pair.uri("disk"), pair.uri("disk2")], WRITERS, region=REGION) as load:
        load.wait_writes(2000)
        with pytest.raises(NotOneMoment):
            check_instants(slow, Judge(load), 10)
