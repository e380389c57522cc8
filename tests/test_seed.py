"""A target that begins with a copy brought by other means takes only what differs from it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import direct
import pytest
from handmade import Handmade, refused, scrape, value
from nbd_client import NbdClient
from pair import CommandFailed, MakePair, Pair
from served import Faulty
from test_link import kill

MIB = 1 << 20
SIZE = 48 * MIB
CHANGED = 150  # blocks of 4 KiB, after the copy was taken


@pytest.fixture
def couriered(make_pair: MakePair) -> Pair:
    """The source runs; the target, which never met it, holds an older copy of its data."""
    pair = make_pair("--size", str(SIZE))
    rng = random.Random(8)
    pair.start("east")
    with pair.client() as client:
        for at in range(0, SIZE // 2, MIB):  # the rest is a hole
            client.write(at, rng.randbytes(MIB))
        shutil.copyfile(pair.image("east"), pair.image("west"))
        for place in rng.sample(range(SIZE // 4096), CHANGED):
            client.write(place * 4096, rng.randbytes(4096))
    return pair


def wire(pair: Pair) -> float:
    return value(scrape(pair), 'wire_bytes_total{volume="disk"}')


def check(pair: Pair, most: float) -> None:
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    assert CHANGED * 4096 <= wire(pair) <= most
    status = direct.status(pair, "west")
    assert status["state"] == "mirroring" and status["committed"]["sequence"]


def test_only_what_differs_from_a_seed_is_sent(couriered: Pair) -> None:
    """The checksums of what is equal travel instead of it, and after that all is as ever."""
    couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    check(couriered, 1.2 * CHANGED * 4096 + SIZE / 100)
    before = wire(couriered)
    with couriered.client() as client:
        client.write(MIB, b"after" * 1000)
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()
    assert wire(couriered) - before == 2 * 4096, "nothing is compared any more"


def test_a_seed_survives_kills_of_either_site(couriered: Pair) -> None:
    """Killed while it is compared, the target or the source begins again, and ends equal."""
    couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    equal = 'equal_bytes_total{volume="disk"}'

    def goes_on() -> bool:
        return value(scrape(couriered), equal) > 0

    for site in ("west", "east"):
        direct.wait_for(goes_on, "something is equal")
        kill(couriered, site)
        couriered.start(site)
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()


def test_a_seed_is_flushed_before_it_counts(scratch: Path, handmade: Handmade) -> None:
    """What is found equal is not written again, so it is made durable first: a target whose power
    is lost after the first commit, and before its data stores were flushed by anything else, has
    the image."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.create()
    handmade.start("east")
    data = random.Random(3).randbytes(handmade.size)
    with handmade.client() as client, NbdClient(server.uri) as disk:
        client.write(0, data)
        disk.write(0, data)  # in the disk's cache
    handmade.stop("east")
    handmade.run("seed", str(handmade.toml("west")))
    try:
        handmade.start("west")
        server.fail("hang", "flush")
        handmade.start("east")
        direct.wait_for(
            lambda: direct.status(handmade, "west")["committed"]["sequence"] is not None, "a commit"
        )
        kill(handmade, "west")
        server.mend()
        server.restart()
        handmade.start("west")
        direct.sync(handmade)
        handmade.stop()
        assert server.image.read_bytes() == data
    finally:
        handmade.kill()
        server.stop()


def test_a_seed_that_cannot_be_flushed_is_given_up(scratch: Path, handmade: Handmade) -> None:
    """The system tells of a failed flush once, and reads what was lost from its memory: the start
    is refused, and from the next one on everything is sent, whatever seems to be equal."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.create()
    handmade.start("east")
    data = random.Random(3).randbytes(handmade.size)
    with handmade.client() as client, NbdClient(server.uri) as disk:
        client.write(0, data)
        disk.write(0, data)
    handmade.run("seed", str(handmade.toml("west")))
    try:
        server.fail("EIO", "flush")
        said = refused("start", str(handmade.toml("west")))
        assert "the seed cannot be flushed, and is given up" in said, said
        server.mend()
        handmade.start("west")
        direct.sync(handmade)
        assert wire(handmade) >= handmade.size
        handmade.stop()
        assert server.image.read_bytes() == data
    finally:
        handmade.kill()
        server.stop()


def test_a_seed_of_other_data_is_harmless(couriered: Pair) -> None:
    """Whatever the data stores hold: what differs is sent, so the image is the source's."""
    couriered.image("west").write_bytes(random.Random(9).randbytes(SIZE))
    couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    check(couriered, 1.03 * SIZE)


def _overwrite(pair: Pair) -> None:
    with pair.image("west").open("r+b") as file:
        file.write(random.Random(9).randbytes(SIZE))


def _seed(pair: Pair) -> None:
    _overwrite(pair)
    pair.run("seed", str(pair.toml("west")))


@pytest.mark.parametrize(
    ("begins", "bring"), [("blank", _overwrite), ("blank", _seed), ("seeded", _seed)]
)
def test_what_a_cycle_relies_on_is_what_the_target_holds_then(
    couriered: Pair, begins: str, bring: Callable[[Pair], None]
) -> None:
    """A first cycle leaves out what a blank target need not be sent, or what it found equal in a
    seed.  If the target ends in its middle, and other data is brought, it does not go on."""
    if begins == "blank":
        with couriered.image("west").open("r+b") as file:
            file.truncate(0)
            file.truncate(SIZE)
    else:
        couriered.run("seed", str(couriered.toml("west")))
    with couriered.client() as client:
        client.write(40 * MIB, random.Random(10).randbytes(4 * MIB))  # which no seed has
    direct.ask(couriered, {"op": "bandwidth", "rate": MIB})
    couriered.start("west")
    state = couriered.folder / "west" / "state"

    def records() -> int:
        return sum(path.read_bytes().count(b"fmRUNS") for path in state.glob("written.*"))

    direct.wait_for(lambda: records() >= 2, "the source knows that some of the cycle is stable")
    if begins == "blank":
        direct.stop(couriered, "west")
    else:
        kill(couriered, "west")  # in order, its fingerprint would tell
    bring(couriered)
    direct.ask(couriered, {"op": "bandwidth", "rate": 0})
    couriered.start("west")
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()


def test_only_a_stopped_target_without_an_image_is_seeded(couriered: Pair) -> None:
    """A source, a running target and one that has an image refuse, with what to do."""
    with pytest.raises(CommandFailed, match="runs already"):
        couriered.run("seed", str(couriered.toml("east")))
    couriered.start("west")
    direct.sync(couriered)
    direct.stop(couriered, "west")
    with pytest.raises(CommandFailed, match="resync --full"):
        couriered.run("seed", str(couriered.toml("west")))
    direct.stop(couriered, "east")
    with pytest.raises(CommandFailed, match="is a source: seed the target"):
        couriered.run("seed", str(couriered.toml("east")))
