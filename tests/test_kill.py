"""Sites that are killed at any instant, under load, again and again: nothing is lost."""

from __future__ import annotations

import random

import direct
import durable
import pytest
from dependent import REGION, Judge, Load, read_images
from pair import SOAK, MakePair, Pair
from served import SlowPair
from test_link import WRITERS, check_end, kill

pytestmark = pytest.mark.timeout(300 * SOAK)

ROUNDS = 4
SEEDS = 2 if SOAK == 1 else 60 * SOAK  # `make soak` kills for an hour
VICTIMS = (("west",), ("east",), ("west", "east"), ("east", "west"))


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair("--size", str(WRITERS * REGION), "--volumes", "2")
    pair.start()
    direct.sync(pair)
    return pair


@pytest.mark.parametrize("seed", range(SEEDS))
def test_sites_killed_at_random_instants_lose_nothing(pair: Pair, seed: int) -> None:
    """4 times (20 in all) a site, or both, is killed under load.  Each time the target's durable
    state alone gives the image of a consistency point, never of an earlier one than the source
    was told of; the source has every acknowledged write; and after a sync both are equal."""
    chance = random.Random(seed)
    with Load([pair.uri("disk"), pair.uri("disk2")], WRITERS, reconnects=True) as load:
        judge = Judge(load)
        for _ in range(ROUNDS):
            load.wait_writes(chance.randrange(20, 300))
            known = direct.status(pair, "east")["committed"]["sequence"]
            victims = chance.choice(VICTIMS)
            for site in victims:
                kill(pair, site)
            if "west" in victims:
                assert durable.check(pair, judge).committed >= (known or 0)
            pair.start(*reversed(victims))
            direct.wait_status(pair, state="mirroring", reason=None)
    check_end(pair, load, judge)


def overwrites_hardened(pair: Pair) -> bool:
    """The second flashcopy is under way, and the next cycle has overwritten a block that it had
    just hardened."""
    found = direct.status(pair, "west")
    waited = any(volume["copies_before_write"] for volume in found["volumes"])
    return bool(found["cycle"]["phase"] == "copy" and waited)


@pytest.mark.soak
def test_a_target_killed_while_both_copies_run_keeps_its_image(make_pair: MakePair) -> None:
    """With the second flashcopy slow and the next cycle arriving, so that writers wait for
    hardenings, a killed target's durable state gives an image of one moment each time."""
    slow = SlowPair(make_pair("--size", str(WRITERS * (1 << 20)), "--volumes", "2"))
    pair = slow.pair
    partial = 0
    try:
        slow.begin()
        uris = [pair.uri("disk"), pair.uri("disk2")]
        with Load(uris, WRITERS, region=1 << 20) as load:
            judge = Judge(load)
            load.wait_writes(500)
            for _ in range(4 * SOAK):
                direct.wait_for(lambda: overwrites_hardened(pair), "both copies under way")
                kill(pair, "west")
                book = durable.check(pair, judge)
                partial += any(book.maps.values())
                pair.start("west")
                direct.wait_status(pair, state="mirroring", reason=None)
            slow.change_speed(slow=False)
        assert partial, "no second flashcopy was under way: the test proved nothing"
        direct.sync(pair)
        images = read_images(pair.folder / "west", load)
        judge.check(images, load.acknowledged())
        assert images == read_images(pair.folder / "east", load)
    finally:
        slow.end()
