"""A target is promoted: its image is served, of one moment, and the old source is refused."""

from __future__ import annotations

import contextlib
import errno
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import direct
import durable
import pytest
from dependent import REGION, Judge, Load, read_images
from handmade import Handmade
from nbd_client import NbdClient
from pair import SOAK, CommandFailed, MakePair, Pair
from served import Faulty, SlowPair, create_anew
from test_link import WRITERS, frozen, kill

from mirror_core import config, limits, promotion, status, timeouts
from mirror_core.errors import MirrorError, PeerError, Refused
from mirror_core.platform import Platform
from mirror_core.site import Site
from mirror_core.target import Target

pytestmark = pytest.mark.timeout(300 * SOAK)


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair("--size", str(WRITERS * REGION), "--volumes", "2")
    pair.start()
    direct.sync(pair)
    return pair


def west_device(pair: Pair, volume: str = "disk") -> NbdClient:
    return NbdClient(config.load(str(pair.toml("west"))).device_uri(volume))


def lose_source(pair: Pair) -> None:
    """Kill it, and wait until the target has noticed."""
    kill(pair, "east")
    direct.wait_for(
        lambda: direct.status(pair, "west")["peer"]["state"] == "disconnected", "the loss"
    )


def promote(pair: Pair, *words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        pair.run("promote", str(pair.toml("west")), "--json", *words)
    )
    return found


def test_a_promoted_target_serves_the_image_of_its_last_moment(pair: Pair) -> None:
    """After the source is lost under load, the promoted target serves what the moment that it
    names held, read and write; it keeps what is written through a restart and a kill."""
    with Load([pair.uri("disk"), pair.uri("disk2")], WRITERS, reconnects=True) as load:
        judge = Judge(load)
        load.wait_writes(300)
        lose_source(pair)
        said = promote(pair)
        found = direct.status(pair, "west")
        assert (said["role"], found["role"]) == ("source", "source")
        point = said["consistency_point"]
        assert isinstance(point, float)
        judge.check(read_images(pair.folder / "west", load), point=point)
        pair.start("east")  # so that the writers end
    with west_device(pair) as client:
        client.write(4096, b"new" * 100)
        client.flush()
    kill(pair, "west")
    pair.start("west")
    direct.stop(pair, "west")
    pair.start("west")
    with west_device(pair) as client:
        assert client.read(4096, 300) == b"new" * 100


def test_the_old_source_is_refused(pair: Pair) -> None:
    """It says that the other site was promoted and after which sequence; it goes on serving, and
    nothing of it reaches the promoted site any more."""
    lose_source(pair)
    said = promote(pair)
    before = pair.image("west").read_bytes()
    pair.start("east")
    found = direct.wait_status(pair, "east", state="refused")
    assert f"west was promoted after sequence {said['sequence']}" in found["reason"]
    with pair.client() as client:
        client.write(0, b"old history")
    assert direct.status(pair, "west")["role"] == "source"
    assert pair.image("west").read_bytes() == before


def test_a_connected_source_is_not_overruled_without_force(pair: Pair) -> None:
    """While its source is connected and healthy a target refuses, and nothing changes; with
    --force the session of the source ends and the target is promoted."""
    later = r"its source east is connected: stop it, or promote .* promote again in \d+ s"
    with pytest.raises(CommandFailed, match=later):
        promote(pair)
    direct.sync(pair)
    assert promote(pair, "--force")["role"] == "source"
    direct.wait_for(
        lambda: "west was promoted" in (direct.status(pair, "east")["reason"] or ""),
        "the old source hears that it was overruled",
    )
    assert direct.status(pair, "east")["state"] == "refused"


def test_a_target_that_was_just_started_does_not_know_that_its_source_is_gone(pair: Pair) -> None:
    """A source that is slow, or makes a pause, has not asked it for a session yet: it refuses, and
    says for how long.  A source that is gone is, after that time."""
    with frozen(pair, "east"):
        direct.stop(pair, "west")
        pair.start("west")
        with pytest.raises(CommandFailed, match=r"promote it again in [1-8] s, or with --force"):
            promote(pair)
    direct.sync(pair)
    assert direct.status(pair, "west")["role"] == "target"
    kill(pair, "east")
    direct.stop(pair, "west")
    pair.start("west")

    def promoted() -> bool:
        with contextlib.suppress(CommandFailed):
            return promote(pair)["role"] == "source"
        return False

    direct.wait_for(promoted, "it knows")


@pytest.mark.soak
def test_a_source_that_flushes_for_long_at_its_start_is_there(
    scratch: Path, handmade: Handmade
) -> None:
    """What the process before had written is flushed before it asks for a session, which may take
    minutes: it says that it is there, also to a target that was started since, whose status
    does not tell who may promote it that there is no word from the source."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["east", "data"] = server.store(handmade.size)
    try:
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        with handmade.client() as client:
            direct.pause(handmade)
            client.write(0, b"x" * 4096)
        kill(handmade, "east")
        direct.stop(handmade, "west")
        tried = server.tried("flush")
        server.fail("hang", "flush")
        handmade.start("west")
        handmade.start("east")
        direct.wait_for(lambda: server.tried("flush") > tried, "the flush")
        over = time.monotonic() + timeouts.asks_again_s(timeouts.silence_s(limits.LINK_TIMEOUT_S))
        direct.wait_for(lambda: time.monotonic() > over, "it would have asked for a session")
        with pytest.raises(CommandFailed, match="its source east is there: stop it, or promote"):
            promote(handmade)
        found = direct.status(handmade, "west")
        assert (found["state"], found["peer"]["state"]) == ("degraded", "disconnected")
        assert found["reason"] == (
            "its source east is there, and has no session: look at its status"
        )
        server.mend()
        direct.sync(handmade)
    finally:
        handmade.kill()
        server.stop()


@pytest.mark.parametrize("end", [direct.stop, kill])
def test_a_target_that_was_just_started_knows_how_patient_its_source_is(
    pair: Pair, end: Callable[[Pair, str], None]
) -> None:
    """The source may be silent for longer than the target's own link_timeout says, and is there:
    whoever promotes waits as long for it as before the restart."""
    pair.configure("east", 'link_timeout = "60s"')
    direct.stop(pair, "east")
    pair.start("east")
    direct.wait_status(pair, state="mirroring")
    with frozen(pair, "east"):
        end(pair, "west")
        pair.start("west")
        with pytest.raises(CommandFailed, match=r"promote it again in 6\d s, or with --force"):
            promote(pair)


@pytest.mark.parametrize("history", ["the same", "another"])
def test_a_source_that_was_refused_is_there(pair: Pair, history: str) -> None:
    """Of this history: it serves its clients.  Who is refused for his history is nothing to this
    target."""
    direct.stop(pair, "east")
    direct.stop(pair, "west")
    pair.start("west")
    hello = {**direct.hello(pair, 5), "volumes": []}
    if history == "another":
        hello["lineage"] = "0" * 32
    with pytest.raises(Refused):
        direct.ask(pair, hello, "west")
    over = time.monotonic() + timeouts.silence_s(limits.LINK_TIMEOUT_S)
    direct.wait_for(lambda: time.monotonic() > over, "it is silent")
    words = "its source east is there" if history == "the same" else "was started only now"
    with pytest.raises(CommandFailed, match=words):
        promote(pair)


def test_who_says_that_it_is_there_has_a_site_s_name(pair: Pair) -> None:
    """Or a person who promotes would hear no reason, or a stranger's lines."""
    direct.stop(pair, "east")
    history = direct.hello(pair, 5)["lineage"]
    sign = {"op": "hardened", "session": 0, "wait": 0.0, "paused": False, "lineage": history}
    for name in ("x" * 65, "east\nwest", ""):
        with pytest.raises(PeerError, match="name: "):
            direct.ask(pair, {**sign, "name": name}, "west")
    direct.ask(pair, {**sign, "name": "east"}, "west")


class Young(Platform):
    """A machine that was started a second before."""

    def __init__(self) -> None:
        self._booted = time.monotonic() - 1.0

    def monotonic(self) -> float:
        return time.monotonic() - self._booted


def test_nobody_is_there_for_a_machine_that_has_just_booted(pair: Pair) -> None:
    """Its clock begins at 0, which is no time at which a source was heard."""
    pair.stop()
    site = Site(config.load(str(pair.toml("west"))), platform=Young())
    site.start()
    try:
        assert isinstance(site.control, Target) and not site.control.is_there()
        with pytest.raises(MirrorError, match="was started only now"):
            promotion.promote(site, force=False)
    finally:
        site.stop()


def test_a_site_without_an_image_is_not_promoted(make_pair: MakePair) -> None:
    """A target that never committed anything has nothing to promote; a source is one already."""
    pair = make_pair("--size", "1M")
    pair.start("west")
    with pytest.raises(CommandFailed, match="has no image yet"):
        promote(pair)
    pair.start("east")
    with pytest.raises(CommandFailed, match="east: is a source already"):
        pair.run("promote", str(pair.toml("east")))


def test_promoting_again_is_the_same(pair: Pair) -> None:
    """A promotion that was done is done: that is said, with its own point, and the same history."""
    lose_source(pair)
    first, second = promote(pair), promote(pair)
    assert first["lineage"] == second["lineage"] and second["role"] == "source"
    assert second["sequence"] == first["sequence"] and second["consistency_point"] is None
    said = pair.run("promote", str(pair.toml("west")))
    at = first["sequence"]
    assert said == f"west: is the source already, since it was promoted at consistency point {at}\n"


def test_a_promotion_may_be_killed_at_any_instant(make_pair: MakePair) -> None:
    """With the second flashcopy slow, so that the promotion waits for it: killed in the middle it
    is a target again, with the same image; a promotion asked again comes to its end."""
    slow = SlowPair(make_pair("--size", "8M", "--volumes", "2"))
    pair = slow.pair
    try:
        slow.begin()
        with pair.client() as client:
            direct.pause(pair)
            for i in range(0, 2000, 3):  # takes the target many times as long as a command
                client.write(i * 4096, b"\xa5" * 4096)
        before = direct.status(pair, "west")["committed"]["sequence"]
        direct.ask(pair, {"op": "sync"})
        direct.wait_commit(pair, before)
        kill(pair, "east")  # of which the target is sure after link_timeout only: --force
        committed = direct.status(pair, "west")["committed"]
        caller = threading.Thread(target=promote_and_lose, args=(pair,))
        caller.start()
        direct.wait_for(lambda: is_promoting(pair), "a promotion under way")
        kill(pair, "west")
        pair.start("west")
        caller.join(60)
        found = direct.status(pair, "west")
        if found["role"] == "target":
            assert found["committed"] == committed
            slow.change_speed(slow=False)
            promote(pair, "--force")
        assert direct.status(pair, "west")["role"] == "source"
        with west_device(pair) as client:
            assert client.read(1998 * 4096, 4096) == b"\xa5" * 4096
        assert pair.image("west").read_bytes() == pair.image("east").read_bytes()
    finally:
        slow.end()


def promote_and_lose(pair: Pair) -> None:
    with contextlib.suppress(CommandFailed):
        promote(pair, "--force")


def is_promoting(pair: Pair) -> bool:
    found = direct.status(pair, "west")
    return bool(found["cycle"]["phase"] == "copy" and found["reason"] == "is being promoted")


def test_the_old_source_takes_the_new_history_when_a_person_says_so(pair: Pair) -> None:
    """`resync --full --force` makes the old source a target; then it gets everything."""
    lose_source(pair)
    promote(pair)
    with west_device(pair) as client:
        client.write(8192, b"new" * 100)
    with pytest.raises(CommandFailed, match="is a source: --force makes it a target"):
        pair.run("resync", "--full", str(pair.toml("east")))
    pair.run("resync", "--full", "--force", str(pair.toml("east")))
    pair.start("east")
    pair.run("sync", str(pair.toml("west")), "--timeout", "60s")
    for volume in ("disk", "disk2"):
        assert pair.image("east", volume).read_bytes() == pair.image("west", volume).read_bytes()
    assert direct.status(pair, "east")["role"] == "target"


def test_a_target_takes_everything_anew_when_a_person_says_so(pair: Pair) -> None:
    """`resync --full` on a stopped target gives its image up; it gets everything again."""
    with pytest.raises(CommandFailed, match="west: runs: stop it"):
        pair.run("resync", "--full", str(pair.toml("west")))
    direct.stop(pair, "west")
    pair.run("resync", "--full", str(pair.toml("west")))
    assert pair.status("west")["committed"]["sequence"] is None
    pair.start("west")
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


@pytest.mark.parametrize("patient", ["east", "west", None])
def test_a_slow_source_is_connected_for_as_long_as_the_sites_are_patient(
    make_pair: MakePair, patient: str | None
) -> None:
    """A source that is silent for longer than the usual link_timeout is not taken for gone where
    its own, or the target's, is longer; where both are shorter it is, sooner than usual."""
    pair = make_pair("--size", "1M")
    for site in ("east", "west"):
        pair.configure(site, f'link_timeout = "{"20s" if site == patient else "500ms"}"')
    pair.start()
    direct.sync(pair)
    with frozen(pair, "east"):
        stopped = time.monotonic()
        if patient is None:
            direct.wait_status_of_peer(pair, "west", "disconnected")
            assert time.monotonic() - stopped < limits.LINK_TIMEOUT_S
        else:
            usual = limits.LINK_TIMEOUT_S + 2 * limits.IDLE_LOOK_S
            direct.wait_for(lambda: time.monotonic() > stopped + usual + 0.5, "a while")
            assert direct.status(pair, "west")["peer"]["state"] == "connected"
            with pytest.raises(CommandFailed, match="its source east is connected: stop it"):
                pair.run("promote", str(pair.toml("west")))
    direct.sync(pair)


def test_a_target_that_owes_blocks_takes_another_source(make_pair: MakePair) -> None:
    """Stopped in the middle of a second flashcopy, and then told to take everything anew: the
    blocks that it owed to its old image mean nothing to a source that was created anew, whose
    sequences begin again."""
    slow = SlowPair(make_pair("--size", "8M", "--volumes", "2"))
    pair = slow.pair
    try:
        slow.begin()
        direct.pause(pair)
        with pair.client() as client:
            for i in range(0, 2000, 8):
                client.write(i * 4096, b"\xa5" * 4096)
        before = direct.status(pair, "west")["committed"]["sequence"]
        direct.ask(pair, {"op": "sync"})
        direct.wait_commit(pair, before)
        for site in ("west", "east"):
            direct.stop(pair, site)
        assert durable.load_book(pair).maps["disk/pending"], "the target owed nothing"
        pair.run("resync", "--full", str(pair.toml("west")))
        create_anew(pair, "east", "source")
        pair.start()
        with pair.client() as client:
            client.write(1000 * 4096 + 5, b"new")
        for _ in range(3):
            direct.sync(pair)
        for volume in ("disk", "disk2"):
            assert (
                pair.image("east", volume).read_bytes() == pair.image("west", volume).read_bytes()
            )
    finally:
        slow.end()


def test_asked_again_after_the_machine_refused_to_begin_anew(pair: Pair) -> None:
    """The record stands: the same answer, and another try; status says the same."""
    pair.stop()
    tries: list[config.SiteConfig] = []

    def refuse(site: config.SiteConfig) -> None:
        tries.append(site)
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    site = Site(config.load(str(pair.toml("west"))), begin_anew=refuse)
    site.start()
    try:
        promotion.promote(site, force=True)
        for _ in range(3):
            with pytest.raises(MirrorError, match="is a source from its next start on"):
                promotion.promote(site, force=True)
        assert len(tries) == 3
        found = status.of(site)
        said = "is a source from its next start on: stop it and start it"
        assert (found["state"], found["reason"]) == ("degraded", said)
        assert (found["peer"]["state"], found["peer"]["reason"]) == ("disconnected", said)
    finally:
        site.stop()
