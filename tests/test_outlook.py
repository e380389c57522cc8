"""What a source says of what goes on, and what does not, while something is in the way."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, ServedDisk, east, flashmirror, kill, record
from nbd_client import NbdClient, NbdError
from served import Server

from mirror_core import config
from mirror_core.cli import checking

RESUMES = "mirroring resumes by itself"
STAYS = "it stays paused until 'flashmirror resume'"


@pytest.fixture
def server(scratch: Path) -> Iterator[Server]:
    """An NBD server of a store of 1 MiB."""
    one = Server(scratch / "served.img")
    one.image.touch()
    os.truncate(one.image, MIB)
    one.start()
    yield one
    one.stop()


def reason(pair: Handmade, words: str) -> str:
    """The source's, once these words are in it."""
    direct.wait_for(lambda: words in (direct.status(pair)["reason"] or ""), words)
    return str(direct.status(pair)["reason"])


def test_a_source_whose_own_data_server_is_gone_says_that_clients_fail(
    handmade: Handmade, server: Server
) -> None:
    """Not that writes go on, which they do not."""
    handmade.stores["east", "data"] = server.uri
    handmade.create()
    handmade.start()
    with handmade.client() as client:
        client.write(0, b"x" * 4096)
        direct.sync(handmade)
        server.stop()
        with pytest.raises(NbdError):
            client.write(0, b"y" * 4096)
    said = reason(handmade, "reads and writes of disk fail until it is back")
    assert f"data store {server.uri}" in said and "writes go on" not in said
    server.start()
    with handmade.client() as client:
        client.write(0, b"z" * 4096)
    direct.wait_status(handmade, "east", state="mirroring", reason=None)


def test_a_promoted_source_does_not_say_that_its_old_source_comes_back(handmade: Handmade) -> None:
    """By itself: that one is refused until a person has made it the target."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    kill(handmade, "east")
    handmade.run("promote", str(handmade.toml("west")), "--force")
    first = "mirroring goes on by itself once the site there is this one's target"
    direct.wait_for(lambda: first in (direct.status(handmade, "west")["reason"] or ""), first)
    assert RESUMES not in direct.status(handmade, "west")["reason"]
    assert first in handmade.log("west")
    handmade.run("resync", east(handmade), "--full", "--force")
    handmade.start("east")
    handmade.run("sync", str(handmade.toml("west")), "--timeout", "20s")
    handmade.stop("east")
    resumes = f"writes go on and {RESUMES}"
    direct.wait_for(lambda: resumes in (direct.status(handmade, "west")["reason"] or ""), resumes)


def test_a_promoted_source_that_begins_anew_calls_its_target_none_that_is_not_yet(
    handmade: Handmade,
) -> None:
    """Between its promotion and its first image elsewhere nobody but the site there knows whether
    that is its target already: what it says is true of both."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    kill(handmade, "east")
    handmade.run("promote", str(handmade.toml("west")), "--force")
    with NbdClient(handmade.run("uri", str(handmade.toml("west"))).strip()) as client:
        client.write(0, os.urandom(MIB))
    handmade.run("resync", east(handmade), "--full", "--force")
    direct.ask(handmade, {"op": "bandwidth", "rate": 4096}, "west")
    handmade.start("east")
    direct.wait_status_of_peer(handmade, "west", "connected")
    handmade.stop("east")
    handmade.stop("west")
    handmade.start("west")
    first = "mirroring goes on by itself once the site there is this one's target"
    direct.wait_for(lambda: first in (direct.status(handmade, "west")["reason"] or ""), first)


def test_a_paused_source_that_lost_its_peer_says_that_it_stays_paused(handmade: Handmade) -> None:
    """At every moment as it is then: in status, and in the log."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    assert direct.status(handmade)["paused"] is False
    direct.pause(handmade)
    assert (direct.status(handmade)["state"], direct.status(handmade)["paused"]) == ("paused", True)
    kill(handmade, "west")
    said = reason(handmade, STAYS)
    assert said.startswith("peer at ") and RESUMES not in said
    assert direct.status(handmade)["paused"] is True
    assert "degraded, paused: peer at" in handmade.run("status", east(handmade))
    log = handmade.log("east")
    assert STAYS in log and RESUMES not in log
    direct.resume(handmade)
    assert STAYS not in reason(handmade, RESUMES) and not direct.status(handmade)["paused"]
    direct.ask(handmade, {"op": "pause", "now": True})
    assert RESUMES not in reason(handmade, STAYS)
    handmade.stop("east")
    assert record("status", east(handmade))["paused"] is True


def test_a_source_whose_own_store_is_in_the_way_does_not_blame_its_peer(
    scratch: Path, handmade: Handmade
) -> None:
    """The peer is there, without a session; what becomes of that is told soon."""
    disk = ServedDisk(scratch / "disk")
    handmade.stores["east", "intermediate"] = disk.store(handmade.size)
    try:
        handmade.create()
        handmade.start("east")
        direct.wait_for(lambda: direct.status(handmade)["peer"]["heard"] is False, "nobody is")
        handmade.start("west")
        direct.sync(handmade)
        assert direct.status(handmade)["peer"]["heard"] is True
        disk.fill()
        with handmade.client() as client:
            client.write(0, b"x" * 4096)
        reason(handmade, f"intermediate store {handmade.store('east', 'intermediate')}")
        direct.wait_for(
            lambda: "is there, without a session" in handmade.run("status", east(handmade)),
            "the peer is there",
        )
        # Each session that the full store ends is followed by asking anew: null until the answer.
        direct.wait_for(lambda: direct.status(handmade)["peer"]["heard"] is True, "it is heard")
        direct.wait_status_of_peer(handmade, "east", "disconnected")
        assert direct.status(handmade, "west")["peer"]["heard"] is True
        kill(handmade, "west")
        direct.wait_for(lambda: direct.status(handmade)["peer"]["heard"] is False, "it is gone")
        handmade.stop("east")
        assert record("status", east(handmade))["peer"]["heard"] is None
    finally:
        handmade.kill()
        disk.close()


def test_a_copy_that_stands_still_says_so_and_not_when_it_ends(handmade: Handmade) -> None:
    """As after `pause --now`: what was copied before is no measure of what comes."""
    handmade.size = 64 * MIB
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    direct.pause(handmade)
    with handmade.client() as client:
        for at in range(0, handmade.size, MIB):
            client.write(at, os.urandom(MIB))
    direct.ask(handmade, {"op": "bandwidth", "rate": 2 * MIB})
    direct.resume(handmade)
    direct.wait_for(lambda: direct.status(handmade)["cycle"]["estimated_end"], "it copies")
    assert direct.status(handmade)["cycle"]["stands_still"] is False
    handmade.pause("--now")
    found = direct.status(handmade)["cycle"]
    assert found["phase"] == "copy" and 0 < found["copied_bytes"] < found["total_bytes"]
    assert found["estimated_end"] is None and found["stands_still"] is True
    text = handmade.run("status", east(handmade))
    assert re.search(r"^cycle +\d+ copy, .*, stands still$", text, re.MULTILINE), text
    direct.resume(handmade)
    assert direct.status(handmade)["cycle"]["stands_still"] is False


def row(pair: Handmade, site: str, name: str) -> str:
    """Of the table that status prints: what stands behind this name."""
    text = pair.run("status", str(pair.toml(site)))
    found = re.search(rf"^{name} +(\S.*)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_a_cycle_is_named_only_where_there_is_one(handmade: Handmade) -> None:
    """A target that receives its first copy is not idle, and receives nothing of a source that is
    gone; after a start there was none; a site that is stopped has none."""
    handmade.size = 64 * MIB
    handmade.create()
    handmade.start("east")
    with handmade.client() as client:
        for at in range(0, handmade.size, MIB):
            client.write(at, os.urandom(MIB))
    direct.ask(handmade, {"op": "bandwidth", "rate": 2 * MIB})
    handmade.start("west")
    direct.wait_for(lambda: direct.status(handmade, "west")["volumes"][0]["next_bytes"] > 0, "some")
    assert re.fullmatch(r"receiving, \S+ [KM]iB so far", row(handmade, "west", "cycle"))
    assert re.search(r", \S+ [KM]iB received, ", row(handmade, "west", "volume disk"))
    kill(handmade, "east")
    direct.wait_status_of_peer(handmade, "west", "disconnected")
    assert re.fullmatch(r"\S+ [KM]iB received", row(handmade, "west", "cycle"))
    handmade.start("east")
    committed = direct.sync(handmade)["committed"]["sequence"]
    for site, none in (("east", "none since the start"), ("west", "none under way")):
        handmade.stop(site)
        assert row(handmade, site, "cycle") == "none: the site is stopped"
        assert record("status", str(handmade.toml(site)))["cycle"]["sequence"] == committed
        handmade.start(site)
        assert row(handmade, site, "cycle") == none


def test_a_target_of_a_paused_source_says_so(handmade: Handmade) -> None:
    """Its image grows old, and nothing is wrong: until the source resumes, or is gone."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    direct.wait_status(handmade, "west", state="mirroring", paused=False, reason=None)
    direct.pause(handmade)
    found = direct.wait_status(handmade, "west", state="paused", paused=True)
    assert found["reason"] == "its source is paused: no new consistency point until it resumes"
    assert (found["peer"]["state"], found["peer"]["reason"]) == ("connected", None)
    direct.resume(handmade)
    direct.wait_status(handmade, "west", state="mirroring", paused=False, reason=None)
    direct.pause(handmade)
    direct.wait_status(handmade, "west", state="paused")
    handmade.stop("east")
    direct.wait_status(handmade, "west", state="degraded", paused=None)


def mirroring(pair: Handmade, site: str) -> str:
    """What `check` says of it: the result, and why."""
    text = flashmirror("check", str(pair.toml(site))).stdout
    found = re.search(r"^(\w+) +mirroring +(\S.*)$", text, re.MULTILINE)
    assert found, text
    return f"{found[1]}: {found[2]}"


def test_check_fails_for_what_is_in_the_way_of_the_first_copy(
    scratch: Path, handmade: Handmade
) -> None:
    """The state is `initial` all the while; a source that is paused is in nobody's way."""
    disk = ServedDisk(scratch / "disk")
    handmade.stores["west", "intermediate"] = disk.store(handmade.size)
    try:
        handmade.create()
        disk.fill()
        handmade.start("east")
        with handmade.client() as client:
            client.write(0, b"x" * 4096)
        handmade.start("west")
        direct.wait_for(lambda: "No space" in (direct.status(handmade, "west")["reason"] or ""), "")
        assert direct.status(handmade, "west")["state"] == "initial"
        assert re.match("failed: .*No space left", mirroring(handmade, "west"))
        disk.empty()
        direct.sync(handmade)
        direct.pause(handmade)
        direct.wait_status(handmade, "west", state="paused")
        assert (
            mirroring(handmade, "west")
            == "ok: its source is paused: no new consistency point until it resumes"
        )
    finally:
        handmade.kill()
        disk.close()


WRITE_FAILED = "a write failed: data store x: No space left on device"


@pytest.mark.parametrize("state", ["initial", "mirroring", "paused"])
def test_a_failed_write_fails_the_check_whatever_the_state(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Clients of a paused source write, too."""
    handmade.write("east")
    settings = config.load(east(handmade))
    found = {"role": "source", "state": state, "paused": state == "paused", "reason": WRITE_FAILED}
    found |= {"configuration_changed": False, "volumes": []}
    monkeypatch.setattr(checking, "_check_in_use", lambda *_: [])
    monkeypatch.setattr(checking, "live_status", lambda *_: found)
    assert checking._check_running(settings, None) == [("mirroring", "failed", WRITE_FAILED)]
    found["reason"] = None
    assert checking._check_running(settings, None) == [("mirroring", "ok", state)]
