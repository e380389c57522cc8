"""A target that begins with a copy brought by other means takes only what differs from it."""

from __future__ import annotations

import random
import shutil

import direct
import pytest
from handmade import scrape, value
from pair import CommandFailed, MakePair, Pair
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
    with couriered.client() as client:
        client.write(MIB, b"after" * 1000)
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()


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


def test_a_seed_of_other_data_is_harmless(couriered: Pair) -> None:
    """Whatever the data stores hold: what differs is sent, so the image is the source's."""
    couriered.image("west").write_bytes(random.Random(9).randbytes(SIZE))
    couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    check(couriered, 1.03 * SIZE)


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
