"""The commands, as a person and a script use them: what they print, when they return, and their
exit status."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import direct
import pytest
from click.testing import CliRunner
from handmade import (
    ROLES,
    Handmade,
    SlowDisk,
    as_somebody_else,
    east,
    eventually,
    flashmirror,
    kill,
    nothing_changes,
    record,
    refused,
    state_of,
    until_state,
)
from nbd_client import NbdClient, NbdError
from pair import FLASHMIRROR, CommandFailed, MakePair, Pair
from served import Faulty

from mirror_core import cli, config, ledger, limits, process, protocol, timeouts
from mirror_core.cli import adopting, attaching, common, creating, mirroring, seeing
from mirror_core.cli import running as running_
from mirror_core.errors import MirrorError
from mirror_core.lock import lock_state

# ---- init, create, check


def test_init_makes_a_pair_that_is_ready_to_start(scratch: Path) -> None:
    """DIR/east.toml and DIR/west.toml with their images, as the interface names them."""
    said = record("init", str(scratch / "p"), "--size", "3M", "--volumes", "3")
    assert said == {
        "source": str(scratch / "p/east.toml"),
        "target": str(scratch / "p/west.toml"),
        "volumes": ["disk", "disk2", "disk3"],
    }
    for site in ("east", "west"):
        for name in said["volumes"]:
            for suffix in ("img", "intermediate.img"):
                assert (scratch / "p" / site / f"{name}.{suffix}").stat().st_size == 3 << 20


def test_init_says_how_large_its_volumes_are(scratch: Path) -> None:
    """A size without a unit is one of bytes, which nobody means by 10."""
    said = flashmirror("init", str(scratch / "p"), "--size", "10", "--volumes", "2").stdout
    assert "\nvolumes disk, disk2: 10 B each\n" in said


def test_what_init_makes_is_for_its_owner_only(scratch: Path) -> None:
    """The images hold what a source's clients write, whatever the umask; a folder that was there
    keeps its mode."""
    (scratch / "there").mkdir(mode=0o755)
    for folder, mode in ((scratch / "p", 0o700), (scratch / "there", 0o755)):
        record("init", str(folder), "--size", "1M")
        assert folder.stat().st_mode & 0o777 == mode
        for site in ("east", "west"):
            assert (folder / site).stat().st_mode & 0o777 == 0o700
            for image in (folder / site).glob("*.img"):
                assert image.stat().st_mode & 0o777 == 0o600, image


def test_an_init_that_is_refused_takes_nothing_of_another_one_s(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two at once in one folder the second finds the first's sites only when it makes its own,
    and what it leaves behind is a pair that works."""
    monkeypatch.setattr(creating, "_exists_without_pair", lambda _: True)
    first = Pair(scratch / "p", "--size", "1M")
    with pytest.raises(CommandFailed, match="name another folder"):
        Pair(scratch / "p", "--size", "2M")
    (scratch / "q").mkdir()
    (scratch / "q/west.toml").touch()
    with pytest.raises(CommandFailed, match="name another folder"):
        Pair(scratch / "q", "--size", "1M")
    assert [path.name for path in (scratch / "q").iterdir()] == ["west.toml"]
    try:
        first.start()
        direct.sync(first)
    finally:
        first.kill()


def test_create_says_what_it_made(handmade: Handmade) -> None:
    """create --json names site, role and volumes."""
    handmade.write("west")
    said = record("create", str(handmade.toml("west")), "--role", "target")
    volume = {"name": "disk", "size_bytes": handmade.size}
    assert said == {"site": "west", "role": "target", "volumes": [volume], "notes": []}


def test_check_finds_a_good_pair_good(running: Pair) -> None:
    """check of a running pair: every row ok (or a warning about space), exit status 0."""
    for site in ("east", "west"):
        rows = record("check", str(running.toml(site)))
        assert {row["result"] for row in rows} <= {"ok", "warning"}, rows
        names = [row["check"] for row in rows]
        assert {"configuration", "ledger", "process", "mirroring", "space", "peer"} <= {*names}
        [book] = [row["detail"] for row in rows if row["check"] == "ledger"]
        assert book == {"east": "source, 1 volume", "west": "target, 1 volume"}[site]


def test_check_of_a_stopped_site_looks_at_its_stores(make_pair: MakePair) -> None:
    """check opens the stores of a stopped site, and fails with the first thing that is wrong."""
    pair = make_pair("--size", "1M")
    pair.start("west")
    rows = record("check", east(pair))
    assert {row["check"] for row in rows} >= {"disk data", "disk intermediate"}
    os.truncate(pair.image("east"), 1 << 19)
    pair.stop("west")
    done = flashmirror("check", east(pair), "--json")
    failed = [row["check"] for row in json.loads(done.stdout) if row["result"] == "failed"]
    assert done.returncode == 1 and {"disk data", "peer"} <= {*failed}
    assert re.fullmatch(r"flashmirror: .*: \d+ of \d+ checks failed: .*\n", done.stderr)


# ---- which site is meant


ALL_BUT_CREATE = (
    "start",
    "start --foreground",
    "stop",
    "reopen",
    "status",
    "uri",
    "check",
    "sync",
    "pause",
    "resume",
    "bandwidth 0",
    "promote --force",
    "adopt disk data --yes",
    "seed",
    "resync --full",
)


def copied(pair: Pair, site: str, *mended: str) -> str:
    """A file for a site `third` that was made from another one's; of its settings only these were
    mended."""
    text = pair.toml(site).read_text().replace(f'name = "{site}"', 'name = "third"')
    for setting, old in (("listen", f"{site}.sock"), ("state", f"{site}/state")):
        if setting in mended:
            assert old in text
            text = text.replace(old, old.replace(site, "third"))
    path = pair.folder / "third.toml"
    path.write_text(text)
    return str(path)


def says(words: str, path: str) -> str:
    """The line with which a command refuses."""
    name, *options = words.split()
    with pytest.raises(MirrorError) as raised:
        cli.cli([name, path, *options], standalone_mode=False)
    return str(raised.value)


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_no_command_takes_another_site_s_state_folder_for_its_own(
    make_pair: MakePair, *, runs: bool
) -> None:
    """Whoever copies a site's file and forgets `state` is told so, whether that site runs or not,
    and nothing was done to it."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    if not runs:
        pair.stop()
    for site in ("east", "west"):
        path = copied(pair, site, "listen")
        with nothing_changes(pair.folder) if not runs else contextlib.nullcontext():
            for words in ALL_BUT_CREATE:
                said = says(words, path)
                assert said.endswith(f"of the site {site}, not third: mend 'name' or 'state'"), said
        if runs:
            assert direct.status(pair, site)["role"] == ROLES[site]
            assert direct.status(pair, site)["state"] == "mirroring"


def test_a_ledger_is_given_up_by_the_file_of_its_volumes_only(make_pair: MakePair) -> None:
    """A file of the right name whose volumes are others is another site's."""
    pair = make_pair("--size", "1M")
    text = pair.toml("west").read_text()
    pair.toml("west").write_text(text.replace('name = "disk"', 'name = "other"'))
    with nothing_changes(pair.folder):
        for words in ("resync --full", "seed"):
            assert "records other volumes" in says(words, str(pair.toml("west")))


def test_no_command_asks_another_site_that_listens_there(make_pair: MakePair) -> None:
    """Whoever copies a site's file and forgets `listen` is told so by the site that is asked."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    for site in ("east", "west"):
        path = copied(pair, site, "state")
        for words in ("sync", "pause", "resume", "bandwidth 0", "promote --force"):
            said = says(words, path)
            assert said.startswith(f"third: {site} listens there, "), said
            assert said.endswith("mend 'name' or 'listen'"), said
        status = direct.status(pair, site)
        assert (status["role"], status["state"]) == (ROLES[site], "mirroring")


# ---- start, stop


def test_start_and_stop_may_be_said_twice(make_pair: MakePair) -> None:
    """Both are idempotent: the second changes nothing and exits with 0."""
    pair = make_pair("--size", "1M")
    first = record("start", east(pair))
    running = {"site": "east", "pid": pair.status()["pid"], "configuration_changed": False}
    assert first == record("start", east(pair)) == running
    once, twice = record("stop", east(pair)), record("stop", east(pair))
    assert once == twice == {"site": "east", "in_order": True}
    assert pair.status()["state"] == "stopped"


def test_a_stop_says_whether_the_site_ended_in_order(handmade: Handmade) -> None:
    """Its last flush fails, so that its ledger does not say that all stands: `stop` says so, also
    when it is said again, until a start has recovered the site."""
    pair = handmade
    server = Faulty(pair.folder / "faulty.img")
    pair.stores["east", "data"] = server.store(pair.size)
    pair.create()
    pair.start()
    try:
        direct.pause(pair)  # a cycle would flush
        with pair.client() as client:
            client.write(0, b"x")
        server.fail("EIO", "flush")
        line = rf"east: stopped, but not cleanly: see {pair.folder}/east/state/site.log; .*\n"
        assert re.fullmatch(line, pair.run("stop", east(pair)))
        assert record("stop", east(pair)) == {"site": "east", "in_order": False}
        server.mend()
        pair.start("east")
        assert record("stop", east(pair)) == {"site": "east", "in_order": True}
    finally:
        pair.kill()
        server.stop()


def test_a_start_that_takes_long_is_not_one_that_has_ended(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store's server does not answer: the command says that the site is not ready and goes on,
    and so it does."""
    pair = handmade
    server = Faulty(pair.folder / "faulty.img")
    pair.stores["east", "data"] = server.store(pair.size)
    pair.more = 'link_timeout = "60s"'
    pair.create()
    pair.start("east")
    pair.stop("east")
    monkeypatch.setattr(limits, "START_TIMEOUT_S", 1.0)
    settings = config.load(str(pair.toml("east")))
    server.fail("hang", "pread")
    try:
        for said in (r"\(process \d+\): wait with", "goes on: wait with"):
            with pytest.raises(MirrorError, match=said) as raised:
                process.start(settings)
            assert "nbdkit ended" not in str(raised.value)
            eventually(lambda: process.running(settings), "it has its state")
        server.mend()
        monkeypatch.undo()
        process.start(settings)
        assert process.status(settings)["role"] == "source"
    finally:
        server.mend()
        pair.kill()
        server.stop()


def test_a_start_that_takes_a_while_leaves_no_error_in_the_log(handmade: Handmade) -> None:
    """Whoever waits for it waits: who gave up, and asked again, would look like a client that has
    gone in the middle of its handshake."""
    server = Faulty(handmade.folder / "faulty.img")
    handmade.stores["east", "data"] = server.store(handmade.size)
    handmade.more = 'link_timeout = "60s"'
    handmade.create()
    handmade.start("east")
    handmade.stop("east")
    server.fail("hang", "pread")
    mend = threading.Timer(2.5, server.mend)
    mend.start()
    try:
        handmade.start("east")
        handmade.stop("east")
        assert "error" not in handmade.log("east"), handmade.log("east")
    finally:
        mend.join()
        handmade.kill()
        server.stop()


def test_a_start_beside_a_stop_starts_the_site_again(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until the process has ended, whatever that takes; so a script that stops and starts
    a site, and somebody beside it, leave one that runs."""
    pair = handmade
    server = Faulty(pair.folder / "faulty.img")
    pair.stores["east", "data"] = server.store(pair.size)
    pair.more = 'link_timeout = "60s"'  # a server that hangs is not lost
    pair.create()
    pair.start("east")
    settings, pid = config.load(east(pair)), state_of(pair)["pid"]
    waits = threading.Event()
    gets_ready = process._gets_ready

    def meanwhile(site: config.SiteConfig) -> bool:
        waits.set()
        return gets_ready(site)

    monkeypatch.setattr(process, "_gets_ready", meanwhile)
    with ThreadPoolExecutor(2) as pool:
        try:
            server.fail("hang", "flush")
            before = server.tried("flush")
            stopped = pool.submit(process.stop, settings)
            eventually(lambda: server.tried("flush") > before, "it ends")
            started = pool.submit(process.start, settings)
            assert waits.wait(20) and not started.done()
        finally:
            server.mend()
        stopped.result(60)
        started.result(60)
    try:
        assert state_of(pair)["pid"] != pid
    finally:
        pair.kill()
        server.stop()


@pytest.mark.parametrize("runs", [True, False])
def test_a_start_that_finds_a_site_which_then_is_stopped_starts_it_again(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """It ends between the answer that it runs and the last look: who found it running starts it;
    one that this start has begun itself, and that is stopped, is not begun again."""
    pair = make_pair("--size", "1M")
    if runs:
        pair.start("east")
    begin = process.start
    stopped: list[bool] = []

    def then_stop(site: config.SiteConfig) -> None:
        begin(site)
        if not stopped:
            stopped.append(process.stop(site))

    monkeypatch.setattr(process, "start", then_stop)
    with contextlib.nullcontext() if runs else pytest.raises(MirrorError, match="not running"):
        cli.cli(["start", east(pair)], standalone_mode=False)
    assert process.running(config.load(east(pair))) is runs


def test_a_start_waits_for_whoever_was_quicker(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as systemd, between the look whether the site runs and the start of it."""
    pair = make_pair("--size", "1M")
    words = [str(FLASHMIRROR), "start", "--foreground", east(pair)]
    others: list[subprocess.Popen[bytes]] = []

    def too_late(site: config.SiteConfig) -> int:
        if not others:
            others.append(subprocess.Popen(words))
            eventually(lambda: process.running(site), "the other one has the state")
        return lock_state(site)

    monkeypatch.setattr("mirror_core.process.lock_state", too_late)
    pair.start("east")
    (other,) = others
    assert state_of(pair)["pid"] == other.pid
    pair.stop("east")
    assert other.wait(20) == 0


def test_a_start_that_has_not_the_state_touches_no_socket(make_pair: MakePair) -> None:
    """Another process may have it, which has bound its socket and does not listen yet: in the eyes
    of who comes by that is a stale one."""
    settings = config.load(east(make_pair("--size", "1M")))
    with socket.socket(socket.AF_UNIX) as bound, (settings.state / "lock").open("w") as lock:
        bound.bind(str(settings.socket))
        before = settings.socket.lstat().st_ino
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "the site runs already" in refused("start", "--foreground", str(settings.path))
        assert settings.socket.lstat().st_ino == before


def test_a_stale_socket_is_replaced(make_pair: MakePair) -> None:
    """After a crash the socket's file is in the way of nobody."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    kill(pair, "east")
    assert (pair.folder / "east.sock").is_socket()
    pair.start("east")
    with pair.client() as client:
        client.write(0, b"x")


def test_a_source_serves_without_its_peer(make_pair: MakePair) -> None:
    """start returns when the device opens; without a peer the site says so, and what was written
    meanwhile is mirrored when the peer comes."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    with pair.client() as client:
        client.write(5, b"alone")
        reason = until_state(pair, "degraded")["reason"]
        assert "west.sock" in reason and "start it" in reason
    pair.start("west")
    pair.sync()
    assert state_of(pair)["state"] == "mirroring"
    assert pair.image("west").read_bytes()[5:10] == b"alone"


def test_foreground_is_the_site_itself(make_pair: MakePair) -> None:
    """start --foreground becomes the site's process; SIGTERM ends it in order, with exit 0; its
    log goes to stderr."""
    pair = make_pair("--size", "1M")
    words = [str(FLASHMIRROR), "start", east(pair), "--foreground"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as site:
        try:
            eventually(lambda: answering(pair), "the site answers")
            assert state_of(pair)["pid"] == site.pid
            until_state(pair, "degraded")
        finally:
            site.terminate()
        _, said = site.communicate(timeout=20)
    assert site.returncode == 0
    assert b"flashmirror: peer at" in said and b"Traceback" not in said
    assert pair.status()["reason"] is None


def answering(pair: Pair) -> bool:
    with contextlib.suppress(Exception):
        return bool(state_of(pair))
    return False


# ---- sync, pause, resume


def test_times_have_one_form_with_a_zone(make_pair: MakePair) -> None:
    """What a person reads at one site is compared with a clock at the other, perhaps in another
    zone: each time says its own, to the second."""
    pair = make_pair("--size", "1M")
    pair.start()
    pair.sync()
    form = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+05:45"
    there = ("env", "TZ=Asia/Kathmandu")
    said = flashmirror("pause", east(pair), prefix=there).stdout
    assert re.search(rf"the target has the writes until {form}$", said), said
    said = flashmirror("status", east(pair), prefix=there).stdout
    assert re.search(rf"^committed +\d+ at {form}$", said, re.MULTILINE), said
    pair.stop("east")
    said = flashmirror("promote", str(pair.toml("west")), "--force", prefix=there).stdout
    assert re.search(rf"as of consistency point \d+, {form}$", said), said


def test_sync_makes_a_new_point_that_is_whole(running: Pair) -> None:
    """Even with nothing written, sync returns a newer committed sequence, whole at the target."""
    before = state_of(running)["committed"]
    said = record("sync", east(running))
    assert said["sequence"] > before["sequence"]
    assert said["consistency_point"] > before["consistency_point"]
    west = state_of(running, "west")
    assert west["committed"]["sequence"] == west["hardened_sequence"] >= said["sequence"]


def test_sync_that_takes_too_long_says_why(make_pair: MakePair) -> None:
    """Without a peer sync fails after its time-out with the reason, exit status 1."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    until_state(pair, "degraded")
    begin = time.monotonic()
    line = refused("sync", east(pair), "--timeout", "500ms")
    assert "east: sync not done in 0.5 s: peer at " in line and "start it" in line
    assert 0.5 <= time.monotonic() - begin < 10


GOES_ON = {
    "pause": "it is paused, and stays so until 'flashmirror resume {}'",
    "sync": "its point is made all the same, as soon as it can be: see 'flashmirror status {}'",
    "stop": "it goes on stopping: wait with 'flashmirror stop {0}', or have it again with "
    "'flashmirror start {0}'",
}


def test_who_waits_no_more_is_told_what_goes_on(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause, a sync or a stop that is interrupted, or has had its time, takes nothing back: its
    line says so, and how to end that."""
    pair = make_pair("--size", "1M")
    state = pair.folder / "east/state"
    book = ledger.load(state)
    ledger.save(state, replace(book, begun=1, begun_token="e" * 32))  # which nobody knows of yet
    pair.start("east")
    until_state(pair, "degraded")
    path = east(pair)
    told = {command: text.format(path) for command, text in GOES_ON.items()}
    for command in ("sync", "pause"):
        said = says(f"{command} --timeout 100ms", path)
        assert said.startswith(f"east: {command} not done in 0.1 s: "), said
        assert said.endswith(f"; {told[command]}"), said
    assert state_of(pair)["paused"]
    handle = os.pidfd_open(state_of(pair)["pid"])
    signal.pidfd_send_signal(handle, signal.SIGSTOP)
    with monkeypatch.context() as hasty:
        hasty.setattr(limits, "STOP_TIMEOUT_S", 0.1)
        assert says("stop", path).endswith(f"; {told['stop']}")
    signal.pidfd_send_signal(handle, signal.SIGCONT)
    os.close(handle)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    pair.start("east")
    with monkeypatch.context() as hasty:
        hasty.setattr(mirroring, "wait_until", interrupted)
        hasty.setattr(process, "stop", interrupted)
        for command, text in told.items():
            assert says(command, path) == f"east: interrupted: {text}"


def test_nobody_waits_for_a_source_that_is_refused(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a person ends: a pause without a time-out would wait for ever, and say nothing.  But
    one that was refused before the command is given the time to ask its target again."""
    pair = make_pair("--size", "1M")
    pair.start()
    pair.sync()
    pair.stop("east")
    state = pair.folder / "east/state"
    book = ledger.load(state)
    ledger.save(state, replace(book, begun=book.begun + 1, begun_token="e" * 32))
    pair.run("promote", "--force", str(pair.toml("west")))
    pair.start("east")
    why = until_state(pair, "refused")["reason"]
    monkeypatch.setattr(timeouts, "asks_again_s", lambda _: 0.2)
    for command in ("pause", "sync"):
        told = GOES_ON[command].format(east(pair))
        assert says(command, east(pair)) == f"east: {command} not done: {why}; {told}"
    monkeypatch.undo()
    status = state_of(pair)
    answers = [{"done": done, "status": status} for done in (False, True)]
    monkeypatch.setattr(common, "ask", lambda *_: answers.pop(0))
    settings, deadline = config.load(east(pair)), common.Deadline(None)
    assert common.wait_until(settings, {"op": "settled"}, deadline, "pause")["done"]


def test_a_stopped_site_does_not_sync_pause_or_resume(make_pair: MakePair) -> None:
    """The commands that need a running site say how to start it, exit status 1."""
    pair = make_pair("--size", "1M")
    for command in ("sync", "pause", "resume"):
        assert f"start it with 'flashmirror start {east(pair)}'" in refused(command, east(pair))
    pair.start("west")
    for command in ("sync", "pause", "resume"):
        assert "west: is a target: ask the source" in refused(command, str(pair.toml("west")))


def test_pause_stands_still_durably_and_sync_works_meanwhile(make_pair: MakePair) -> None:
    """While paused there is no new consistency point; sync makes one; a restart does not end the
    pause; resume does.  Both may be said twice."""
    pair = make_pair("--size", "1M")
    pair.start()
    pair.sync()
    said = record("pause", east(pair))
    committed = said["committed"]["sequence"]
    assert said["state"] == record("pause", east(pair))["state"] == "paused"
    with pair.client() as client:
        client.write(0, b"first")
    assert state_of(pair)["committed"]["sequence"] == committed
    assert pair.image("west").read_bytes()[:5] == bytes(5)
    pair.sync()
    assert pair.image("west").read_bytes()[:5] == b"first"
    assert state_of(pair)["state"] == "paused"
    pair.stop("east")
    pair.start("east")
    until_state(pair, "paused")
    with pair.client() as client:
        client.write(0, b"later")
    pair.stop("west")
    pair.start("west")
    eventually(lambda: state_of(pair)["peer"]["state"] == "connected", "the peer is back")
    assert pair.image("west").read_bytes()[:5] == b"first"
    for _ in range(2):
        assert record("resume", east(pair)) == {"state": "mirroring", "reason": None}
    eventually(lambda: pair.image("west").read_bytes()[:5] == b"later", "resume mirrors")


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_command_whose_record_takes_long_does_not_say_that_it_is_not_done(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The disk of the state folder takes longer than the command waits for an answer: it is done
    behind its back, and its last word says that this may be so."""
    pair = make_pair("--size", "1M")
    pair.start()
    pair.sync()
    if command == "resume":
        pair.pause()
    site, pid = east(pair), str(state_of(pair)["pid"])
    slow = [
        "strace",
        "-f",
        "-p",
        pid,
        "-o",
        "/dev/null",
        "-P",
        str(pair.folder / "east/state"),
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:delay_enter=3s",
    ]
    ask = functools.partial(common.ask, patience_s=1.0)
    monkeypatch.setattr(mirroring, "ask", lambda settings, record, *_: ask(settings, record))
    with subprocess.Popen(slow, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        assert "attached" in strace.stderr.readline()
        failure = CliRunner().invoke(getattr(mirroring, command), [site]).exception
        assert isinstance(failure, MirrorError)
        assert f"it may be {command}d all the same" in str(failure)
        until_state(pair, "paused" if command == "pause" else "mirroring")
        strace.terminate()


def test_a_sync_that_gave_up_makes_its_point_in_a_pause(make_pair: MakePair) -> None:
    """As the help of both commands says: who copies the target's data must know it."""
    pair = make_pair("--size", "1M")
    pair.start()
    pair.sync()
    pair.stop("west")
    direct.wait_status_of_peer(pair, "east", "disconnected")  # before, a cycle might begin
    with pair.client() as client:
        client.write(0, b"asked for")
    assert "not done in 0.1 s" in refused("sync", east(pair), "--timeout", "100ms")
    pair.pause()
    assert pair.image("west").read_bytes()[:9] == bytes(9)
    pair.start("west")
    eventually(lambda: pair.image("west").read_bytes()[:9] == b"asked for", "the point is made")
    assert state_of(pair)["state"] == "paused"


def test_what_cannot_be_is_not_said(make_pair: MakePair) -> None:
    """Of a source whose target has never been there `pause` says that it has no image, and
    `resume` that nothing is mirrored, and why."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    assert "no image is known to be at the target" in pair.run("pause", str(east(pair)))
    said = pair.run("resume", str(east(pair)))
    assert "not paused any more, degraded: peer" in said


def test_pause_now_stops_in_the_middle_of_a_copy(scratch: Path, handmade: Handmade) -> None:
    """pause --now returns while a cycle is under way, which then stands still; a plain pause lets
    it finish, and resume mirrors what was written since."""
    slow = SlowDisk(scratch / "slow", "80ms")
    handmade.size = 64 << 20
    handmade.stores["east", "intermediate"] = slow.store(handmade.size)
    try:
        handmade.create()
        handmade.start()
        handmade.pause()
        with handmade.client() as client:
            for at in range(0, handmade.size, 1 << 20):
                client.write(at, os.urandom(1 << 20))
            handmade.resume()
            eventually(lambda: state_of(handmade)["cycle"]["phase"] == "copy", "a cycle copies")
            handmade.pause("--now")
            first = state_of(handmade)
            assert first["state"] == "paused" and first["cycle"]["phase"] == "copy"
            pending = first["volumes"][0]["pending_bytes"]
            client.write(0, os.urandom(1 << 20))  # by a copy before write if it has to
            second = state_of(handmade)
            assert second["cycle"]["sequence"] == first["cycle"]["sequence"]
            assert pending >= second["volumes"][0]["pending_bytes"] > pending - (2 << 20) > 0
        handmade.pause()
        third = state_of(handmade)
        assert third["hardened_sequence"] == first["cycle"]["sequence"]
        assert third["volumes"][0]["next_bytes"] == 1 << 20
        handmade.resume()
        handmade.pause("--now")
        handmade.sync()  # starts the copying again, in the pause
        assert state_of(handmade)["state"] == "paused"
        assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()
    finally:
        handmade.kill()
        slow.close()


def test_pause_now_waits_for_a_commit_that_is_under_way(scratch: Path, handmade: Handmade) -> None:
    """What it says that the target has is not outdated at once; without the target the cycle goes
    back to its copying, and stands still."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.more = 'link_timeout = "30s"'  # a server that hangs is not lost
    handmade.create()
    try:
        handmade.start()
        direct.sync(handmade)
        with handmade.client() as client:
            commit_under_way(handmade, server, client)
            said = refused("pause", east(handmade), "--now", "--timeout", "500ms")
            assert "the target has not committed it yet: it hardens the one before" in said, said
            sequence = state_of(handmade)["cycle"]["sequence"]
            server.mend()
            handmade.pause("--now")
            found = state_of(handmade)
            assert (found["committed"]["sequence"], found["state"]) == (sequence, "paused")
            direct.resume(handmade)
            commit_under_way(handmade, server, client)
        direct.ask(handmade, {"op": "pause", "now": True})
        kill(handmade, "west")
        server.mend()
        handmade.pause("--now", "--timeout", "20s")
        cycle = state_of(handmade)["cycle"]
        assert (cycle["phase"], cycle["stands_still"]) == ("copy", True)
        handmade.start("west")
        direct.resume(handmade)
        direct.sync(handmade)
    finally:
        server.mend()
        handmade.kill()
        server.stop()


def test_pause_now_does_not_wait_for_what_the_target_hardens(
    scratch: Path, handmade: Handmade
) -> None:
    """Nothing is copied by the source, and the last point is committed: that is enough for --now,
    which says that the target's data is not that image yet; a plain pause waits for it."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.more = 'link_timeout = "30s"'  # a server that hangs is not lost
    handmade.create()
    try:
        handmade.start()
        direct.sync(handmade)
        server.fail("hang", "flush")
        before = state_of(handmade)["committed"]["sequence"]
        with handmade.client() as client:
            client.write(0, os.urandom(4096))
        eventually(
            lambda: (
                state_of(handmade)["committed"]["sequence"] > before
                and state_of(handmade)["cycle"]["phase"] == "idle"
            ),
            "it is committed",
        )
        said = handmade.run("pause", str(east(handmade)), "--now", "--timeout", "10s")
        assert "not all of them are in its data yet" in said, said
        assert "still hardens it" in refused("pause", east(handmade), "--timeout", "500ms")
        server.mend()
        assert "not all" not in handmade.run("pause", str(east(handmade)))
    finally:
        server.mend()
        handmade.kill()
        server.stop()


def commit_under_way(pair: Handmade, server: Faulty, client: NbdClient) -> None:
    """A cycle waits for its commit, as the target cannot harden the one before."""
    server.fail("hang", "flush")
    before = server.tried("flush")
    client.write(0, os.urandom(4096))
    eventually(lambda: server.tried("flush") > before, "the one before is hardened")
    client.write(64 << 10, os.urandom(4096))  # another block: nobody waits for the first
    eventually(lambda: state_of(pair)["cycle"]["phase"] == "commit", "it is to be committed")


def test_interval_paces_the_cycles(make_pair: MakePair) -> None:
    """With an interval of an hour one write is committed by sync, not by itself."""
    pair = make_pair("--size", "1M")
    pair.configure("east", 'interval = "1h"')
    pair.start()
    eventually(lambda: state_of(pair)["committed"]["sequence"], "the first cycle")
    first = state_of(pair)["committed"]["sequence"]
    with pair.client() as client:
        client.write(0, b"x" * 4096)
    status = state_of(pair)
    assert status["committed"]["sequence"] == first and status["cycle"]["phase"] == "idle"
    assert status["volumes"][0]["next_bytes"] == 4096 and status["data_exposure_seconds"] > 0
    pair.sync()
    status = state_of(pair)
    assert status["committed"]["sequence"] > first and status["data_exposure_seconds"] == 0


def test_progress_is_shown_on_a_terminal_only(make_pair: MakePair) -> None:
    """sync draws one line on a terminal, as long as that is wide, wiped at the end; what is in the
    way is told above it, once and to its end; elsewhere it is silent."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    until_state(pair, "degraded")
    words = [str(FLASHMIRROR), "sync", east(pair), "--timeout", "2500ms"]
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 60, 0, 0))
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as sync:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(terminal, 65536):
                shown += part
        assert sync.wait(timeout=20) == 1
    os.close(terminal)
    text = shown.decode()
    drawn = re.findall(r"\r\x1b\[K(cycle \d+ \w+ +\[[# ]{30}\] \d[^\r\n]*)", text)
    assert len(drawn) > 1 and max(map(len, drawn)) < 60, text
    (told,) = re.findall(r"\r\x1b\[Kdegraded: (peer at [^\r\n]*)\r?\n", text)
    assert told == state_of(pair)["reason"]
    assert re.search(r"\r\x1b\[Kflashmirror: east: sync not done", text), text
    assert len(refused(*words[1:-1], "100ms").splitlines()) == 1


# ---- the device


def test_uri_is_what_a_client_connects_to(running: Pair) -> None:
    """uri prints the device's NBD URI, with or without the volume's name."""
    uri = record("uri", east(running))["uri"]
    assert uri == running.run("uri", east(running), "disk").strip()
    with NbdClient(uri) as client:
        assert client.size == 1 << 20
    line = refused("uri", east(running), "nothing")
    assert "east has no volume nothing: it has disk" in line


def test_the_export_s_name_may_be_left_out_if_there_is_one_volume(
    running: Pair, make_pair: MakePair
) -> None:
    """An empty export name is the only volume; with two it is refused, and uri asks which."""
    with NbdClient(config.load(east(running)).device_uri("")) as client:
        assert client.size == 1 << 20
    two = make_pair("--size", "1M", "--volumes", "2")
    assert "name one of disk, disk2" in refused("uri", east(two))
    two.start("east")
    with pytest.raises(NbdError):
        NbdClient(config.load(east(two)).device_uri(""))
    with two.client("disk2") as client:
        assert client.size == 1 << 20


def test_a_target_s_device_is_refused_and_its_control_is_not(running: Pair) -> None:
    """On a target the device does not open, uri says where to look, and /control answers."""
    west = config.load(str(running.toml("west")))
    assert "is a target" in refused("uri", str(west.path))
    for export in ("", "disk", "disk/intermediate", "disk/intermediate/1", "nothing"):
        with pytest.raises(NbdError):
            NbdClient(west.device_uri(export))
    with NbdClient(west.control_uri()) as client:
        client.write(0, protocol.encode({"op": "status"}))
        answer = json.loads(client.read(0, 65536).rstrip(b"\0"))
    assert answer["site"] == "west"
    with pytest.raises(NbdError):
        NbdClient(config.load(east(running)).device_uri("disk/intermediate/1"))


def test_help_tells_every_command() -> None:
    """--help of the program and of each command exits with 0 and says what it does."""
    text = flashmirror("--help").stdout
    for family in (creating, adopting, running_, seeing, mirroring, attaching):
        for command in family.COMMANDS:
            assert re.search(rf"^  {command.name} +[A-Z]\w+", text, re.MULTILINE), command.name
    assert flashmirror("--version").stdout.startswith("flashmirror, version ")


def test_two_starts_at_once_are_one(make_pair: MakePair) -> None:
    """Whoever comes second waits for the first: both exit with 0, and there is one process."""
    pair = make_pair("--size", "1M")
    for _ in range(2):
        words = [str(FLASHMIRROR), "start", east(pair)]
        both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [start.communicate(timeout=60)[1] for start in both]
        assert [start.returncode for start in both] == [0, 0], said
        pair.stop("east")


def test_a_started_site_is_a_process_of_its_own(make_pair: MakePair) -> None:
    """Of a session of its own, in no folder that anybody wants to unmount; and begun without a line
    of ours between a fork and the exec, where a lock that another thread of the starter held is
    never given back."""
    forks: list[int] = []
    os.register_at_fork(before=lambda: forks.append(1))
    pair = make_pair("--size", "1M")
    pair.start("east")
    pid = state_of(pair)["pid"]
    assert not forks
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert os.readlink(f"/proc/{pid}/fd/2") == str(pair.folder / "east/state/site.log")


def test_a_look_at_a_site_does_not_keep_it_from_starting(make_pair: MakePair) -> None:
    """Commands that look whether a site runs, all the time, never make a start fail."""
    pair = make_pair("--size", "1M")
    settings = config.load(east(pair))
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            process.running(settings)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(2):
            pair.start("east")
            pair.stop("east")
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()


NAMED = """
import ctypes, sys
assert not ctypes.CDLL(None).prctl(15, "резервная".encode()[:15], 0, 0, 0)  # PR_SET_NAME
print("named", flush=True)
sys.stdin.read()
"""


def test_a_process_whose_name_is_no_text_is_in_no_command_s_way(make_pair: MakePair) -> None:
    """Any user may have one: the kernel cuts a name after 15 bytes, in the middle of a letter."""
    pair = make_pair("--size", "1M")
    words, pipe = [*as_somebody_else(), sys.executable, "-c", NAMED], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, cwd="/") as stranger:
        assert stranger.stdout and stranger.stdout.readline() == b"named\n"
        with pytest.raises(UnicodeDecodeError):
            Path(f"/proc/{stranger.pid}/comm").read_bytes().decode()
        east, west = (str(pair.toml(site)) for site in ("east", "west"))
        for command in (
            ["start", west],
            ["start", east],
            ["sync", east],
            ["reopen", east],
            ["stop", east],
            ["status", east],
            ["check", east],
            ["promote", "--force", west],
            ["start", west],
            ["stop", west],
            ["resync", "--full", "--force", east],
        ):
            done = flashmirror(*command)
            assert (done.returncode, done.stderr) == (0, ""), (command, done)
        stranger.kill()


def printing_to(out: int | IO[bytes], *words: str) -> tuple[int, str]:
    """Exit status, and what stands on stderr."""
    done = subprocess.run(
        [str(FLASHMIRROR), *words],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stderr


def test_what_is_done_has_not_failed_because_nobody_reads_it(running: Pair) -> None:
    """A pipe whose reader has gone is no failure of what was asked, and ends a `--watch`; of a
    full disk behind stdout the line says what is full, and that all was done."""
    path = east(running)
    nobody, pipe = os.pipe()
    os.close(nobody)
    for words in (("bandwidth", path, "0"), ("status", path), ("status", path, "--watch")):
        assert printing_to(pipe, *words) == (0, ""), words
    os.close(pipe)
    said = "standard output: No space left on device: what was asked is done, and cannot be said"
    with Path("/dev/full").open("wb") as full:
        assert printing_to(full, "bandwidth", path, "0") == (1, f"flashmirror: {said}\n")


@pytest.mark.parametrize("command", ["start", "resume", "promote"])
def test_a_command_does_not_fail_after_its_deed(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The site answers no question about its status from then on: what was done is said, and what
    is not known is said to be."""
    pair = make_pair("--size", "1M")
    site = "west" if command == "promote" else "east"
    if command != "start":
        pair.start()
        pair.run("sync", str(east(pair)))
        pair.run("stop" if command == "promote" else "pause", str(east(pair)))

    def look(*_: Any) -> None:
        raise MirrorError("does not answer")

    for family in (mirroring, running_, common):
        monkeypatch.setattr(family, "live_status", look, raising=False)
    ask = common.ask

    def asks(settings: config.SiteConfig, asked: protocol.Record, *rest: Any) -> protocol.Record:
        assert asked["op"] != "status"
        return ask(settings, asked, *rest)

    monkeypatch.setattr(mirroring, "ask", asks)
    force = ["--force"] if command == "promote" else []
    done = CliRunner().invoke(cli.cli, [command, str(pair.toml(site)), *force, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    if command == "start":
        assert said == {"site": "east", "pid": None, "configuration_changed": None}
    elif command == "resume":
        assert said["state"] == "mirroring"
    else:
        assert said["role"] == "source" and said["lineage"] and said["sequence"]
    monkeypatch.undo()
    assert direct.status(pair, site)["role"] == "source"
