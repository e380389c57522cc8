"""A promotion that has to wait: what its asker is told, and what becomes of it when they are gone;
and the moment in which the site's process begins anew."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, ServedDisk, eventually, kill, refused
from pair import FLASHMIRROR, MakePair, Pair

from mirror_core import config, limits, peer, process, protocol
from mirror_core.cli import cli
from mirror_core.cli.common import Deadline
from mirror_core.cli.mirroring import _wait_promoted
from mirror_core.cli.seeing import get_status
from mirror_core.errors import MirrorError, PeerError

WAITS = "is being promoted, and waits: "
AS_BEFORE = "the promotion is taken back, and west is a target as before"


@contextlib.contextmanager
def with_a_full_disk(pair: Handmade, scratch: Path) -> Iterator[ServedDisk]:
    """A target that cannot get its image whole, for want of space; its source is stopped."""
    disk = ServedDisk(scratch / "served")
    pair.stores["west", "data"] = disk.store(pair.size)
    pair.create()
    pair.start()
    direct.sync(pair)
    try:
        disk.fill()
        with pair.client() as client:
            client.write(0, b"later")
            eventually(
                lambda: "No space left" in (direct.status(pair, "west")["reason"] or ""),
                "the disk is full",
            )
        pair.stop("east")
        yield disk
    finally:
        pair.kill()
        disk.close()


def is_promoting(pair: Pair) -> bool:
    return "is being promoted" in (direct.status(pair, "west")["reason"] or "")


def test_a_promotion_whose_asker_is_gone_is_taken_back(handmade: Handmade, scratch: Path) -> None:
    """It has waited for long enough, or was interrupted: it says so, and whether the site is still
    a target, which it is then for good; status says what is waited for meanwhile."""
    west = str(handmade.toml("west"))
    with with_a_full_disk(handmade, scratch) as disk:
        said = refused("promote", west, "--force", "--timeout", "1s")
        assert said.startswith(f"west: promote not done in 1 s: {WAITS}"), said
        assert "No space left" in said and said.endswith(AS_BEFORE), said
        assert not is_promoting(handmade)
        # Whoever runs the tests may ignore some, such as nohup(1), and a command keeps to that.
        words = [
            "env",
            "--default-signal=INT,TERM,HUP",
            str(FLASHMIRROR),
            "promote",
            west,
            "--force",
        ]
        for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as asker:
                eventually(lambda: is_promoting(handmade), "it is under way")
                assert direct.status(handmade, "west")["reason"].startswith(WAITS)
                asker.send_signal(end)
                line = asker.communicate(timeout=20)[1]
            assert asker.returncode == 1, end
            assert line == f"flashmirror: west: interrupted: {AS_BEFORE}\n"
            assert not is_promoting(handmade)
        disk.empty()
        eventually(
            lambda: (
                direct.status(handmade, "west")["hardened_sequence"]
                == direct.status(handmade, "west")["committed"]["sequence"]
            ),
            "the image is whole",
        )
        assert direct.status(handmade, "west")["role"] == "target"
        handmade.run("promote", west, "--force")
        assert "flashmirror: promoted: source as of consistency point" in handmade.log("west")


def until_it_begins_anew(pair: Pair) -> config.SiteConfig:
    """With a promotion asked for: until its process has let go of what it holds."""
    settings = config.load(str(pair.toml("west")))
    pid = direct.status(pair, "west")["pid"]
    eventually(lambda: not process.running(settings), "it begins anew")
    os.kill(pid, 0)
    return settings


def has_ended(pid: int) -> bool:
    """Or waits for its parent to look at it."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 0)[0])
    finally:
        os.close(handle)


@contextlib.contextmanager
def promoted_meanwhile(pair: Pair) -> Iterator[list[int]]:
    pair.start()
    direct.sync(pair)
    words = [str(FLASHMIRROR), "promote", str(pair.toml("west")), "--force"]
    asker = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    ended: list[int] = []
    try:
        yield ended
    finally:
        ended.append(asker.wait(60))


def test_a_site_that_begins_anew_is_not_stopped(make_pair: MakePair) -> None:
    """Its process lives, and is there again in a moment: `status` and another `promote` wait for
    it."""
    pair = make_pair("--size", "1M")
    with promoted_meanwhile(pair) as ended:
        settings = until_it_begins_anew(pair)
        assert get_status(settings)["role"] == "source"
    assert ended == [0]
    pair = make_pair("--size", "1M")
    with promoted_meanwhile(pair) as ended:
        settings = until_it_begins_anew(pair)
        cli(["promote", str(settings.path)], standalone_mode=False)
    assert ended == [0]


@pytest.mark.parametrize("code", [errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EMFILE])
def test_a_promotion_that_is_given_up_while_its_site_lives_is_taken_back(
    handmade: Handmade, scratch: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Whatever kept its asker from an answer: the site would go on."""
    monkeypatch.setattr(limits, "START_TIMEOUT_S", 0.0)
    asked, answer = [], peer.ask

    def ask(uri: str, record: protocol.Record, timeout_s: float) -> protocol.Record:
        asked.append(record["op"])
        if asked.count("promote") > 1 and asked[-1] == "promote":
            raise PeerError(os.strerror(code), code)
        return answer(uri, record, timeout_s)

    with with_a_full_disk(handmade, scratch) as disk:
        monkeypatch.setattr(peer, "ask", ask)
        said = promoted(config.load(str(handmade.toml("west"))))
        assert AS_BEFORE in said, said
        assert not is_promoting(handmade)
        disk.empty()


@pytest.mark.parametrize("what", ["stop", "start"])
def test_a_site_that_begins_anew_is_stopped_and_started_as_any(
    make_pair: MakePair, what: str
) -> None:
    """A stop ends it, where it would have come back a moment later; a start makes no second one."""
    pair = make_pair("--size", "1M")
    with promoted_meanwhile(pair):
        pid = direct.status(pair, "west")["pid"]
        settings = until_it_begins_anew(pair)
        cli([what, str(settings.path)], standalone_mode=False)
        if what == "stop":
            assert has_ended(pid), "it comes back"
        else:
            assert process.status(settings)["pid"] == pid


def test_a_start_that_is_stopped_meanwhile_says_so(make_pair: MakePair) -> None:
    """Not that some socket is not there."""
    pair = make_pair("--size", "1M")
    settings = config.load(str(pair.toml("west")))
    said = []
    for _ in range(3):
        stopper = threading.Thread(
            target=lambda: (
                eventually(lambda: process.running(settings), "it starts"),
                process.stop(settings),
            )
        )
        stopper.start()
        words = [str(FLASHMIRROR), "start", str(settings.path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        stopper.join(60)
        said.append(done.stderr)
    assert not any("connect:" in line for line in said), said
    assert all(not line or "start it" in line for line in said), said


def promoted(settings: config.SiteConfig) -> str:
    """What the command says in the end, which fails."""
    with pytest.raises(MirrorError) as refusal:
        _wait_promoted(settings, {"op": "promote", "force": True}, Deadline(None))
    return str(refusal.value)


def test_a_promotion_whose_process_is_killed_says_what_became_of_the_site(
    handmade: Handmade, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, before the record."""
    monkeypatch.setattr(limits, "START_TIMEOUT_S", 0.5)
    with with_a_full_disk(handmade, scratch):
        settings = config.load(str(handmade.toml("west")))
        said: list[str] = []
        asker = threading.Thread(target=lambda: said.append(promoted(settings)))
        asker.start()
        eventually(lambda: is_promoting(handmade), "it is under way")
        kill(handmade, "west")
        asker.join(60)
    assert said[0].startswith("west: does not come back ("), said
    again = "nothing was done, and it is a target as before: start it and promote it again"
    assert again in said[0], said


def test_a_promoted_site_that_cannot_begin_anew_was_not_stopped(make_pair: MakePair) -> None:
    """Its store was moved away since its start: the log's last words, and what it is."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    settings = config.load(str(pair.toml("west")))
    data = Path(settings.volumes[0].data)
    away = data.rename(data.with_suffix(".away"))
    said = promoted(settings)
    away.rename(data)
    assert "has ended, and its last words are: " in said and f"{data}: No such file" in said, said
    assert "it is promoted, and a source from its next start on" in said, said
    pair.start("west")
    assert direct.status(pair, "west")["role"] == "source"
