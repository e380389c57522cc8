"""A cycle goes on over a lost link: what it had made stable at the target is not sent again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import direct
import pytest
from handmade import scrape, value
from nbd_client import NbdClient
from pair import MakePair, Pair
from served import Server, create_anew, serve
from test_link import frozen, kill

from mirror_core import config, limits
from mirror_core.protocol import Stable, record_of

pytestmark = pytest.mark.timeout(300)

MIB = 1 << 20
SIZE = 96 * MIB
RATE = 24 * MIB  # bytes a second that the target's intermediate takes
SENT_BEFORE = 84 * MIB  # when the link is lost: most of it


@pytest.fixture
def slow(make_pair: MakePair) -> Iterator[tuple[Pair, Server]]:
    """A synced pair whose next cycle sends all of SIZE, slowly, and is under way."""
    pair = make_pair("--size", str(SIZE))
    server = serve(pair, "west", part="intermediate")
    for site in ("east", "west"):
        pair.configure(site, 'link_timeout = "1s"')
    server.start("rate", parameters=(f"rate={8 * RATE}", "burstiness=0.2"), threads=1)
    try:
        create_anew(pair, "west", "target")
        pair.start()
        direct.sync(pair)
        direct.pause(pair)
        rng = random.Random(6)
        with pair.client() as client:
            for at in range(0, SIZE, MIB):
                client.write(at, rng.randbytes(MIB))
        direct.resume(pair)
        direct.wait_for(lambda: wire(pair) >= SENT_BEFORE, "most of it is sent")
        yield pair, server
    finally:
        pair.kill()
        server.stop()


def wire(pair: Pair) -> float:
    return value(scrape(pair), 'wire_bytes_total{volume="disk"}')


def check_sent_once(pair: Pair) -> None:
    """But for one window, and what a slow server has in its queues."""
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    again = wire(pair) - SIZE
    assert 0 <= again <= 3 * limits.STABLE_S * RATE + 2 * MIB
    assert again < SENT_BEFORE - 6 * MIB
    assert value(scrape(pair), 'cycles_total{result="abandoned"}') == 0


def test_a_killed_target_goes_on_with_the_cycle(slow: tuple[Pair, Server]) -> None:
    """The target is killed when most of a cycle is sent, and started again: only what it may
    not have kept is sent twice, and the cycle is not abandoned."""
    pair, _ = slow
    kill(pair, "west")
    direct.wait_status(pair, state="degraded")
    pair.start("west")
    check_sent_once(pair)


def test_a_cut_link_is_taken_up_again(slow: tuple[Pair, Server]) -> None:
    """The same when the target only falls silent: its session ends, its process does not."""
    pair, _ = slow
    with frozen(pair, "west"):
        direct.wait_status(pair, state="degraded")
    check_sent_once(pair)


def test_a_cycle_without_a_link_goes_on_into_the_first_intermediate(
    slow: tuple[Pair, Server],
) -> None:
    """What is left of it is copied there, so that writers wait for nothing more; the status says
    since when and why the link is gone; and stop and start keep it all."""
    pair, _ = slow
    kill(pair, "west")
    found = direct.wait_status(pair, state="degraded")
    assert found["peer"]["state"] == "disconnected" and "west" in found["peer"]["reason"]
    first = 'copied_bytes_total{copy="first",volume="disk"}'
    direct.wait_for(lambda: value(scrape(pair), first) >= SIZE, "all is in the first")
    assert found["cycle"]["phase"] == "copy"
    with pair.client() as client:
        client.write(0, b"new" * 512)
    direct.stop(pair, "east")
    pair.start()
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


@pytest.mark.soak
def test_a_target_that_was_given_up_gets_everything(slow: tuple[Pair, Server]) -> None:
    """Its history was dropped while it was away: what was stable there counts no more."""
    pair, _ = slow
    direct.stop(pair, "west")
    direct.wait_status(pair, state="degraded")
    pair.run("resync", "--full", str(pair.toml("west")))
    before = wire(pair)
    pair.start("west")
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    assert wire(pair) - before >= SIZE


@pytest.mark.parametrize("other", [False, True], ids=["alone", "beside-another-copy"])
def test_a_session_of_another_cycle_voids_what_was_stable(
    make_pair: MakePair, *, other: bool
) -> None:
    """One copy of a source has had a cycle's block made stable.  If another copy opens a session,
    whose writes may go over it, the first one's cycle begins with nothing, after a kill too."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    hello = direct.hello(pair, 5)
    sequence, token = hello["committed"] + 1, "ab" * 16
    hello.update(begun=sequence, begun_token=token)
    assert not direct.ask(pair, hello, "west")["resumed"]
    west = config.load(str(pair.toml("west")))
    with NbdClient(west.device_uri("disk/intermediate/5")) as client:
        client.write(4096, b"stable" * 100)
    stable = record_of(Stable(5, sequence, 1, token))
    direct.wait_for(lambda: bool(direct.ask(pair, stable, "west")["done"]), "it is stable")
    if other:
        direct.ask(pair, {**hello, "session": 6, "begun_token": "cd" * 16}, "west")
        kill(pair, "west")
        pair.start("west")
    again = {**hello, "session": 7, "resumes": sequence, "stable": 1}
    assert direct.ask(pair, again, "west")["resumed"] is not other


def _stop_and_start(pair: Pair, site: str) -> None:
    direct.stop(pair, site)
    pair.start(site)


def _kill_and_start(pair: Pair, site: str) -> None:
    kill(pair, site)
    pair.start(site)


@pytest.mark.parametrize(
    ("end", "site"),
    [(None, ""), *itertools.product((_stop_and_start, _kill_and_start), ("east", "west"))],
)
def test_what_the_target_holds_and_its_source_never_sent_ends_by_itself(
    make_pair: MakePair, end: Callable[[Pair, str], None] | None, site: str
) -> None:
    """Whatever it was, and whichever site is stopped or killed before anybody has said so: the
    commit says that a cycle left it out, and then another cycle of everything is compared, of which
    only what differs is sent."""
    pair = make_pair("--size", "8M")
    pair.start()
    with pair.client() as client:
        client.write(0, random.Random(4).randbytes(8 << 20))
    direct.sync(pair)
    direct.ask(pair, direct.hello(pair, 5), "west")
    west = config.load(str(pair.toml("west")))
    with NbdClient(west.device_uri("disk/intermediate/5")) as client:
        client.write(4096, b"stray" * 100)
    if end:
        end(pair, site)
    before = wire(pair)
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    assert wire(pair) - before < 1 << 20
    is_forgotten = end is _kill_and_start and site == "west"  # and no more counted on than known
    assert is_forgotten or "left out what an abandoned one had written" in pair.log("east")
