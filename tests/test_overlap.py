"""The second flashcopy of a consistency point overlaps with the first copy of the next one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import direct
import pytest
from conftest import MakePair
from dependent import Judge, Load, read_images
from pair import SOAK, Pair
from served import create_anew, serve_data

from mirror_core import ledger

WRITERS = 4
REGION = 8 << 20  # so large that a cycle is many more runs than are in flight at once
INSTANTS = 3 * SOAK


class SlowPair:
    """A running pair of two volumes whose target's data stores take 60 ms for each write."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.servers = [serve_data(pair, "west", volume) for volume in ("disk", "disk2")]

    def begin(self) -> None:
        for site in ("east", "west"):
            self.pair.configure(site, 'link_timeout = "20s"')  # slow is not lost here
        for server in self.servers:
            server.start()
        create_anew(self.pair, "west", "target")
        self.pair.start()
        direct.sync(self.pair)
        self.change_speed(slow=True)

    def change_speed(self, *, slow: bool) -> None:
        """With other servers before the stores; the target is stopped and started for it."""
        direct.stop(self.pair, "west")
        for server in self.servers:
            server.stop()
            if slow:
                server.start("delay", parameters=("wdelay=60ms",), threads=4)
            else:
                server.start()
        self.pair.start("west")

    def end(self) -> None:
        self.pair.kill()
        for server in self.servers:
            server.stop()


@pytest.fixture
def slow(make_pair: MakePair) -> Iterator[SlowPair]:
    slow = SlowPair(make_pair("--size", str(WRITERS * REGION), "--volumes", "2"))
    try:
        slow.begin()
        yield slow
    finally:
        slow.end()


def image(pair: Pair, book: ledger.Ledger, volume: str) -> bytes:
    """image(k) of a stopped target from its durable state alone, by invariant I1."""
    block = book.volumes[0].block_size
    stores = {
        "data": pair.image("west", volume).read_bytes(),
        "intermediate": (pair.folder / "west" / f"{volume}.intermediate.img").read_bytes(),
    }
    return b"".join(
        stores[ledger.image(book, volume, at // block)][at : at + block]
        for at in range(0, len(stores["data"]), block)
    )


def wait_commit(pair: Pair, after: int, timeout_s: float = 60.0) -> None:
    """Until the target has committed a sequence beyond this one."""
    deadline = time.monotonic() + timeout_s
    while (direct.status(pair, "west")["committed"]["sequence"] or 0) <= after:
        assert time.monotonic() < deadline, "no commit"
        time.sleep(0.01)  # a status has no event to wait on


def is_overlap(book: ledger.Ledger) -> bool:
    """The second flashcopy was under way, and some of the next cycle had arrived."""
    pending, written = (any(book.maps.get(f"{volume}/{name}") for volume in ("disk", "disk2"))
                        for name in ("pending", "written"))  # fmt: skip
    return pending and written


def test_image_stays_right_while_the_next_cycle_arrives(slow: SlowPair) -> None:
    """With the second flashcopy held back by a slow data store, and the next cycle already
    arriving, the target can at every instant produce image(k) from its durable state: a prefix
    of each writer.  When the store is mended, everything arrives."""
    pair, overlaps = slow.pair, 0
    with Load([pair.uri("disk"), pair.uri("disk2")], WRITERS, region=REGION) as load:
        judge = Judge(load)
        load.wait_writes(2000)
        for _ in range(INSTANTS):
            wait_commit(pair, ledger.load(pair.folder / "west/state").committed)
            direct.stop(pair, "west")
            book = ledger.load(pair.folder / "west/state")
            assert book.whole and book.clean
            images = [image(pair, book, volume) for volume in ("disk", "disk2")]
            judge.check(images, point=book.consistency_point)
            print({k: len(v) for k, v in book.maps.items()}, book.committed, judge.prefix)
            overlaps += is_overlap(book)
            pair.start("west")
        assert overlaps, "no instant had both copies under way: the test proved nothing"
        slow.change_speed(slow=False)
    direct.sync(pair)
    images = read_images(pair.folder / "west", load)
    judge.check(images, load.acknowledged())
    assert images == read_images(pair.folder / "east", load)
