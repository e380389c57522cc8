"""The status of a site: its keys, its states, and how it is shown."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import Handmade, east, kill, refused
from pair import FLASHMIRROR, CommandFailed, MakePair, Pair
from served import Faulty
from test_link import lose_power

from mirror_core import config, ledger, status, timeouts
from mirror_core.cli import cli, seeing
from mirror_core.errors import MirrorError, PeerError, Refused
from mirror_core.site import Site

STATUS = {  # on which scripts rely; block_size_bytes is what `check` compares the sites by
    "site",
    "role",
    "lineage",
    "pid",
    "metrics_address",
    "state",
    "reason",
    "paused",
    "peer",
    "cycle",
    "committed",
    "hardened_sequence",
    "data_exposure_seconds",
    "image_age_seconds",
    "last_cycle",
    "volumes",
    "configuration_changed",
}
INSIDE: dict[str, set[str]] = {
    "peer": {"state", "since", "heard", "reason"},
    "cycle": {"sequence", "phase", "stands_still", "copied_bytes", "total_bytes", "estimated_end"},
    "committed": {"sequence", "consistency_point"},
    "last_cycle": {"duration_seconds", "bytes", "freeze_seconds"},
    "volumes": {
        "name",
        "size_bytes",
        "block_size_bytes",
        "next_bytes",
        "pending_bytes",
        "copies_before_write",
        "write_error",
        "read_error",
        "has_intermediate",
    },
}
STATES = {"initial", "mirroring", "paused", "degraded", "stopped", "refused"}


def assert_status(status: dict[str, Any]) -> None:
    assert status.keys() == STATUS
    assert status["state"] in STATES
    for key, names in INSIDE.items():
        values = status[key] if isinstance(status[key], list) else [status[key]]
        for value in values:
            assert value is None or value.keys() == names, key
    assert status["cycle"]["phase"] in ("idle", "freeze", "copy", "flush", "commit")


def test_status_has_every_key_of_the_interface(running: Pair) -> None:
    """`status --json` of either role has the documented keys, no more and no fewer."""
    for site, role in (("east", "source"), ("west", "target")):
        status = running.status(site)
        assert_status(status)
        assert (status["site"], status["role"], status["state"]) == (site, role, "mirroring")
        assert status["reason"] is None and status["peer"]["state"] == "connected"
        assert status["committed"]["sequence"] == status["hardened_sequence"] >= 1
        assert abs(status["committed"]["consistency_point"] - time.time()) < 3600
        assert Path(f"/proc/{status['pid']}").exists()
        assert re.fullmatch(r"127\.0\.0\.1:\d+", status["metrics_address"])
    assert running.status()["last_cycle"] is not None
    assert running.status()["lineage"] == running.status("west")["lineage"]


def test_a_stopped_site_is_stopped(make_pair: MakePair) -> None:
    """Before its first start, and after a stop, a site is `stopped`, with exit status 0 and with
    what its ledger knows."""
    pair = make_pair("--size", "1M")
    status = pair.status()
    assert_status(status)
    assert (status["state"], status["pid"], status["reason"]) == ("stopped", None, None)
    assert status["committed"] == {"sequence": None, "consistency_point": None}
    pair.start()
    pair.sync()
    committed = pair.status()["committed"]
    pair.stop()
    for site in ("east", "west"):
        status = pair.status(site)
        assert_status(status)
        assert (status["state"], status["committed"]) == ("stopped", committed)
    assert "stopped" in pair.run("status", east(pair))


def test_status_of_a_site_that_was_killed_says_so(make_pair: MakePair) -> None:
    """A site that did not end in order is `stopped`, with that reason."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    kill(pair, "east")
    status = pair.status()
    assert (status["state"], status["reason"]) == ("stopped", "it was not shut down cleanly")


def test_status_for_people_names_what_matters(running: Pair) -> None:
    """Without --json the same as a table."""
    text = running.run("status", east(running))
    for part in ("east (source)", "mirroring", "connected", "committed", "data exposure", "disk"):
        assert part in text


def test_watch_goes_on_until_ctrl_c(running: Pair) -> None:
    """`status --watch` shows the status again and again; SIGINT is its regular end."""
    default = ("env", "--default-signal=INT")  # nohup(1) may have it ignored
    words = [*default, str(FLASHMIRROR), "status", east(running), "--watch", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
        assert watch.stdout is not None and watch.stderr is not None
        seen = b""
        deadline = time.monotonic() + 20
        while seen.count(b'"lineage"') < 2:
            assert select.select([watch.stdout], [], [], deadline - time.monotonic())[0]
            seen += os.read(watch.stdout.fileno(), 65536)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=20) == 0
        assert watch.stderr.read() == b""


def test_watch_goes_on_while_a_site_does_not_answer(
    running: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is what one watches for: it is said, and looked at again."""
    looks: list[BaseException | dict[str, Any]]
    looks = [MirrorError("east: hangs"), running.status(), KeyboardInterrupt()]

    def look(_settings: config.SiteConfig) -> dict[str, Any]:
        found = looks.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(seeing, "get_status", look)
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    cli(["status", east(running), "--watch"], standalone_mode=False)
    said = capsys.readouterr()
    assert said.err == "flashmirror: east: hangs\n"
    assert "east (source)" in said.out


def test_a_source_that_has_not_connected_yet_is_not_mirroring(make_pair: MakePair) -> None:
    """It may not find its peer for as long as link_timeout."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    pair.stop()
    site = Site(config.load(str(pair.toml("east"))))
    try:
        assert status.of(site)["state"] == "degraded"
    finally:
        site.stop()


def test_a_target_whose_own_state_disk_fails_says_so(make_pair: MakePair) -> None:
    """Its source asks for a session all the time, which the target cannot record: its status and
    its log name the disk, not the source, which is not taken for gone; and it passes."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    in_the_way = pair.folder / "west" / "state" / "ledger.new"
    in_the_way.mkdir()
    pair.start("east")
    direct.wait_for(
        lambda: "ledger cannot be written" in (direct.status(pair, "west")["reason"] or ""),
        "the reason",
    )
    found = direct.status(pair, "west")
    assert (found["state"], found["peer"]["state"]) == ("degraded", "disconnected")
    assert "ledger cannot be written" in found["peer"]["reason"]
    assert pair.log("west").count("east asks for a session, which fails: ") == 1
    with pytest.raises(CommandFailed, match="its source east is there: stop it, or promote with"):
        pair.run("promote", str(pair.toml("west")))
    in_the_way.rmdir()
    direct.sync(pair)
    direct.wait_status(pair, "west", reason=None)


def test_a_target_whose_source_has_no_session_says_so(make_pair: MakePair) -> None:
    """The source cannot write its ledger, and so mirrors nothing: its target, which hears from it
    all the time, does not say that they mirror."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    in_the_way = pair.folder / "east" / "state" / "ledger.new"
    in_the_way.mkdir()
    with pair.client() as client:
        client.write(0, b"x" * 4096)
    direct.wait_for(
        lambda: (
            "east is there, and has no session" in (direct.status(pair, "west")["reason"] or "")
        ),
        "the reason",
    )
    found = direct.wait_status(pair, "west", state="degraded")
    assert found["peer"]["state"] == "disconnected" and found["peer"]["heard"]
    assert abs(time.time() - found["peer"]["since"]) < 20
    in_the_way.rmdir()
    direct.sync(pair)
    direct.wait_status(pair, "west", state="mirroring", reason=None)


def test_a_source_that_says_that_it_has_no_session_is_believed(make_pair: MakePair) -> None:
    """Long before it has been silent for as long as it may be; but not for a sign that was under
    way when it was heard of in its session, nor for another history's."""
    pair = make_pair("--size", "1M")
    pair.configure("west", 'link_timeout = "20s"')
    pair.start()
    direct.sync(pair)
    lineage = direct.status(pair)["lineage"]
    sign = {"op": "hardened", "session": 0, "wait": 0.0, "paused": False, "name": "east"}
    direct.ask(pair, {**sign, "lineage": lineage}, "west")
    assert direct.status(pair, "west")["peer"]["state"] == "connected", "it has a session"
    direct.stop(pair, "east")

    def told(lineage: str) -> str:
        direct.ask(pair, {**sign, "lineage": lineage}, "west")
        return str(direct.status(pair, "west")["peer"]["state"])

    direct.wait_for(lambda: told(lineage) == "disconnected", "it is believed", 10)
    found = direct.status(pair, "west")
    assert found["state"] == "degraded"
    assert found["reason"] == "its source east is there, and has no session: look at its status"
    pair.start("east")
    direct.sync(pair)
    direct.stop(pair, "east")
    began = time.monotonic()
    while time.monotonic() < began + 2:
        assert told("0" * 32) == "connected"


def test_a_target_says_since_when_it_has_lost_its_source(make_pair: MakePair) -> None:
    """Not since when they were connected."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    connected = direct.status(pair, "west")["peer"]["since"]
    killed = time.time()
    assert connected < killed
    kill(pair, "east")
    direct.wait_status_of_peer(pair, "west", "disconnected")
    since = direct.status(pair, "west")["peer"]["since"]
    assert killed < since < time.time()
    direct.ask(pair, {"op": "promote", "force": False}, "west")
    assert direct.status(pair, "west")["peer"]["since"] == pytest.approx(since, abs=0.1)


@pytest.fixture
def alone(make_pair: MakePair) -> Pair:
    """A target that has an image, and whose source does not run; it is not patient."""
    pair = make_pair("--size", "1M")
    pair.configure("west", 'link_timeout = "500ms"')
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    return pair


def test_a_target_says_what_it_cannot_do_until_it_can_do_that(alone: Pair) -> None:
    """A commit that its state folder refuses is no less of a trouble when another record, in a
    file that is open, was good; and a source that makes a pause then is not gone."""
    book = direct.hello(alone, 5)
    cycle: dict[str, Any] = {"sequence": book["begun"] + 1, "token": "c" * 32}
    direct.ask(alone, {**book, "begun": cycle["sequence"], "begun_token": "c" * 32}, "west")
    (fresh := alone.folder / "west" / "state" / "ledger.new").mkdir()
    commit = {"op": "commit", "session": 5, "lineage": book["lineage"], **cycle}
    stable = {"op": "stable", "session": 5, "serial": 1, **cycle}

    def done(record: dict[str, Any]) -> bool:
        return bool(direct.ask(alone, record, "west")["done"])

    with pytest.raises(PeerError, match="the ledger cannot be written"):
        direct.wait_for(lambda: done({**commit, "consistency_point": 1.0}), "a commit")
    direct.wait_for(lambda: done(stable), "a record")
    found = direct.status(alone, "west")
    assert found["state"] == "degraded" and "the ledger cannot be written" in found["reason"]
    pause = time.monotonic() + timeouts.silence_s(0.5) + 0.2
    direct.wait_for(lambda: time.monotonic() > pause, "a pause")
    assert direct.status(alone, "west")["peer"]["state"] == "connected"
    fresh.rmdir()
    direct.wait_for(lambda: done({**commit, "consistency_point": 1.0}), "a commit")
    found = direct.status(alone, "west")
    assert (found["state"], found["reason"]) == ("mirroring", None)


def test_what_another_source_was_told_does_not_outlive_the_right_one(alone: Pair) -> None:
    """A target that refuses a second source while its own is connected is not refused when that
    one goes: it has no word from it."""
    hello = direct.hello(alone, 5)
    direct.ask(alone, hello, "west")
    with pytest.raises(Refused, match="mirrors another history"):
        direct.ask(alone, {**hello, "session": 7, "lineage": "0" * 32}, "west")
    look = {"op": "hardened", "session": 5, "wait": 0.0, "paused": False}
    direct.ask(alone, look, "west")
    direct.wait_status_of_peer(alone, "west", "connected")
    direct.wait_status_of_peer(alone, "west", "disconnected")
    found = direct.status(alone, "west")
    assert (found["state"], found["reason"]) == ("degraded", "no word from the source")
    with pytest.raises(Refused, match="mirrors another history"):
        direct.ask(alone, {**hello, "session": 7, "lineage": "0" * 32}, "west")
    assert direct.status(alone, "west")["state"] == "refused"


@pytest.mark.parametrize("away", [True, False])
def test_a_target_that_cannot_compare_says_so(
    scratch: Path, handmade: Handmade, *, away: bool
) -> None:
    """Its source has lost its power, and what was hot cannot be read here: while its server is
    away, until it is compared; if only its reads fail, until it is committed, for it is sent."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "intermediate"] = server.store(handmade.size)
    handmade.create()
    try:
        handmade.start()
        with handmade.client() as client:
            client.write(0, b"x" * 4096)
        direct.sync(handmade)
        lose_power(handmade, "east")
        if away:
            server.stop()
        else:
            server.fail("EIO", "pread")
            server.fail("hang", "flush")  # and so no commit is made meanwhile
            with open(handmade.store("east", "data"), "r+b") as file:  # or it is equal in data
                file.write(b"y" * 4096)
        handmade.start("east")
        direct.wait_for(
            lambda: (
                "cannot compare: intermediate store"
                in (direct.status(handmade, "west")["reason"] or "")
            ),
            "the reason",
        )
        assert direct.status(handmade, "west")["state"] == "degraded"
        if away:
            server.start()
        else:
            server.mend()
        direct.sync(handmade)
        found = direct.status(handmade, "west")
        assert (found["state"], found["reason"]) == ("mirroring", None)
    finally:
        handmade.kill()
        server.stop()


def test_a_target_that_flushes_is_not_idle(scratch: Path, handmade: Handmade) -> None:
    """Nothing is left to be copied, and nothing of it is sure to be on the disk: the second
    flashcopy is not at its end, and who waits for it is told so."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.more = 'link_timeout = "30s"'  # a server that hangs is not lost
    handmade.create()
    try:
        handmade.start()
        direct.sync(handmade)
        server.fail("hang", "flush")
        before = server.tried("flush")
        with handmade.client() as client:
            client.write(0, b"x" * 4096)
        direct.wait_for(lambda: server.tried("flush") > before, "it flushes")
        found = direct.status(handmade, "west")
        assert not found["volumes"][0]["pending_bytes"]
        assert found["hardened_sequence"] < found["committed"]["sequence"]
        assert found["cycle"]["phase"] == "flush"
        said = refused("pause", east(handmade), "--timeout", "500ms")
        assert f"cycle {found['committed']['sequence']} is committed, and the target still" in said
        said = refused("sync", east(handmade), "--timeout", "500ms")
        assert "the target has not committed it yet: it hardens the one before" in said, said
        server.mend()
        direct.wait_for(
            lambda: direct.status(handmade, "west")["cycle"]["phase"] == "idle", "its end"
        )
    finally:
        server.mend()
        handmade.kill()
        server.stop()


def test_nothing_is_whole_at_a_target_that_has_lost_its_image(alone: Pair) -> None:
    """Told so, and killed, the source does not say again what it knew before."""
    alone.start("east")
    direct.sync(alone)
    direct.pause(alone)
    direct.stop(alone, "east")
    direct.stop(alone, "west")
    alone.run("resync", "--full", str(alone.toml("west")))
    alone.start()
    direct.wait_for(lambda: direct.status(alone)["peer"]["state"] == "connected", "a session")
    kill(alone, "east")
    direct.stop(alone, "west")
    assert ledger.load(alone.folder / "east" / "state").hardened == 0, "nor after its next commit"
    found = seeing.stopped_status(config.load(east(alone)))
    assert (found["committed"]["sequence"], found["hardened_sequence"]) == (None, None)
    alone.start("east")
    found = direct.status(alone)
    assert (found["committed"]["sequence"], found["hardened_sequence"]) == (None, None)


def test_a_source_records_of_no_more_that_it_is_whole_than_of_what_is_committed(
    alone: Pair,
) -> None:
    """It hears of a commit, whose answer was lost, and of its hardening, while its ledger cannot be
    written; and is stopped when it can, before there is another session."""
    state = alone.folder / "east" / "state"
    book = ledger.load(state)
    before = book.committed - 1
    ledger.save(
        state,
        replace(
            book,
            committed=before,
            committed_token="",
            hardened=before,
            begun_token=book.committed_token,
        ),
    )
    direct.stop(alone, "west")
    alone.start("east")
    (fresh := state / "ledger.new").mkdir()
    alone.start("west")
    direct.wait_for(
        lambda: "the ledger cannot be written" in str(direct.status(alone)["reason"]),
        "a session that is not remembered",
    )
    assert direct.status(alone)["hardened_sequence"] == book.committed
    kill(alone, "west")
    fresh.rmdir()
    direct.stop(alone, "east")
    assert ledger.load(state).hardened == ledger.load(state).committed == before
    found = seeing.stopped_status(config.load(east(alone)))
    assert found["hardened_sequence"] == found["committed"]["sequence"] == (before or None)


def test_what_was_begun_last_may_be_committed_and_not_whole(alone: Pair) -> None:
    """A source was stopped before it knew what became of its commit: without its target nobody
    knows that what is committed is whole there, and `pause` does not say so."""
    alone.start("east")
    direct.sync(alone)
    direct.stop(alone, "east")
    direct.stop(alone, "west")
    state = alone.folder / "east" / "state"
    book = ledger.load(state)
    ledger.save(state, replace(book, begun=book.committed + 1, begun_token="e" * 32))
    alone.start("east")
    said = refused("pause", east(alone), "--timeout", "500ms")
    assert said.startswith("east: pause not done in 0.5 s: peer at"), said
    alone.start("west")
    direct.pause(alone)
