"""A promotion that does not come to its end: the site is stopped meanwhile, or something fails."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import direct
import pytest
from handmade import Handmade, eventually, flashmirror, refused
from pair import MakePair
from served import Faulty

from mirror_core import config, ledger, limits, process, promotion, protocol, status
from mirror_core.cli import cli
from mirror_core.cli.seeing import get_status
from mirror_core.errors import MirrorError, PeerError
from mirror_core.site import Site
from mirror_core.target import Target

NEVER_ENDED = 20.0  # seconds, where an orderly stop takes less than one


@contextlib.contextmanager
def on_a_faulty_disk(pair: Handmade) -> Iterator[Faulty]:
    """A target that has an image, whose data is behind a server with faults on command."""
    server = Faulty(pair.folder / "faulty.img")
    pair.stores["west", "data"] = server.store(pair.size)
    pair.more = 'link_timeout = "30s"'  # what hangs here is not lost
    pair.create()
    pair.start()
    with pair.client() as client:
        client.write(0, random.Random(1).randbytes(pair.size))
    direct.sync(pair)
    pair.stop("east")
    try:
        yield server
    finally:
        server.mend()
        pair.kill()
        server.stop()


def has_taken(pid: int, number: int) -> bool:
    """Whether a signal that was sent to the process waits for nobody any more."""
    text = Path(f"/proc/{pid}/status").read_text()
    waiting = int(re.findall(r"^ShdPnd:\s*(\w+)", text, re.MULTILINE)[0], 16)
    return not waiting >> (number - 1) & 1


def test_a_stop_while_a_promotion_finishes_is_not_lost(handmade: Handmade) -> None:
    """The site is told to stop while it reads its stores, with which a promotion ends: it stops,
    is a target still, and who asked for the promotion is told so."""
    pair = handmade
    with on_a_faulty_disk(pair) as server:
        pid = direct.status(pair, "west")["pid"]
        server.fail("hang", "pread")
        before = server.tried("pread")
        said: list[str] = []
        asker = threading.Thread(
            target=lambda: said.append(refused("promote", str(pair.toml("west")), "--force"))
        )
        asker.start()
        eventually(lambda: server.tried("pread") > before, "the stores are read")
        stopper = threading.Thread(target=direct.stop, args=(pair, "west"))
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: has_taken(pid, signal.SIGTERM), "the site has heard that it is to stop")
        stopper.start()
        server.mend()
        stopper.join(NEVER_ENDED)
        assert not stopper.is_alive(), f"it runs on: {direct.status(pair, 'west')['role']}"
        asker.join(NEVER_ENDED)
        book = ledger.load(pair.folder / "west" / "state")
        assert (book.role, book.clean) == ("target", True)
        assert len(said) == 1 and "promote it again" in said[0], said


def test_a_stop_after_the_record_leaves_a_source(handmade: Handmade) -> None:
    """Told to stop when the ledger says already that it is a source: it does not begin anew, who
    asked is told that its next start is a source's, and so it is."""
    pair = handmade
    pair.create()
    pair.start()
    direct.sync(pair)
    pair.stop()
    begun: list[config.SiteConfig] = []
    site = Site(config.load(str(pair.toml("west"))), begin_anew=begun.append)
    site.start()
    try:
        site.book.told.append(lambda book: site.ending() if book.role == "source" else None)
        assert not promotion.promote(site, force=True)["done"]
        with pytest.raises(MirrorError, match="is being stopped: it is a source from its next"):
            promotion.promote(site, force=True)
    finally:
        site.stop()
    assert not begun
    pair.start("west")
    assert direct.status(pair, "west")["role"] == "source"


BEGIN_ANEW = """
import os, signal, sys
from mirror_core import config, process
signal.signal(signal.SIGTERM, lambda *_: None)  # as nbdkit, which ends with the exec
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getpid(), signal.SIGTERM)
process.begin_anew(config.load(sys.argv[1]))
"""


def test_a_signal_that_comes_while_it_begins_anew_ends_it(handmade: Handmade) -> None:
    """From the last look at whether it is to stop until its new program is there nobody takes the
    signal, and then it ends the process."""
    handmade.create()
    west = str(handmade.toml("west"))
    child = subprocess.Popen([sys.executable, "-c", BEGIN_ANEW, west], cwd="/")
    try:
        assert child.wait(NEVER_ENDED) == -signal.SIGTERM
    except subprocess.TimeoutExpired:
        process.stop(config.load(west))
        child.wait()
        raise


ENDER = """
import os, signal, sys
from mirror_core import config, connections
def ending():
    print(signal.SIGTERM in signal.sigpending(), flush=True)
connections.hold_signals()
ender = connections.Ender(config.load(sys.argv[1]), ending, lambda: None, lambda: None)
ender.start()
os.kill(os.getpid(), signal.SIGTERM)
ender._left.wait(0.5)
ender.end()
print("ended")
"""


def test_a_signal_is_not_taken_before_the_site_knows_of_it(handmade: Handmade) -> None:
    """Or a process that begins anew in between would have lost it."""
    handmade.create()
    done = subprocess.run(
        [sys.executable, "-c", ENDER, str(handmade.toml("west"))],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=handmade.folder,
    )
    assert done.stdout.split() == ["True", "ended"]


def test_a_promotion_that_fails_gives_the_site_back(handmade: Handmade) -> None:
    """With its second flashcopy done the site cannot read a store, as it has to: the person is
    told so, and it is a target as before, which its source mirrors to."""
    pair = handmade
    with on_a_faulty_disk(pair) as server:
        server.fail("EIO", "pread")
        said = refused("promote", str(pair.toml("west")), "--force")
        assert "Input/output error: look into that store" in said, said
        assert direct.status(pair, "west")["reason"] != "is being promoted"
        server.mend()
        pair.start("east")
        with pair.client() as client:
            client.write(0, b"after")
        direct.sync(pair)


def test_a_promotion_whose_site_does_not_answer_is_taken_back(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store hangs in its last step, and who asked gives up: once the store answers the site is a
    target as before."""
    pair = handmade
    with on_a_faulty_disk(pair) as server:
        monkeypatch.setattr(limits, "CONTROL_TIMEOUT_S", 1.5)
        monkeypatch.setattr(limits, "START_TIMEOUT_S", 0.0)
        server.fail("hang", "pread")
        with pytest.raises(MirrorError, match="does not answer") as refusal:
            cli(["promote", str(pair.toml("west")), "--force"], standalone_mode=False)
        server.mend()
        monkeypatch.undo()
        west = config.load(str(pair.toml("west")))
        eventually(lambda: get_status(west)["reason"] != "is being promoted", "it is over")
        assert get_status(west)["role"] == "target"
        assert "it is taken back as soon as the site answers" in str(refusal.value)
        pair.start("east")
        direct.sync(pair)


def test_a_promotion_that_nobody_asks_for_any_more_is_over(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked for it has gone before its end: after a while the site is a target as before."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop()
    monkeypatch.setattr(limits, "CONTROL_TIMEOUT_S", 0.5)
    site = Site(config.load(str(handmade.toml("west"))))
    site.start()
    try:
        target = site.control
        assert isinstance(target, Target)
        hello = protocol.read(protocol.Handshake, direct.hello(handmade, 5))
        assert not promotion.promote(site, force=True)["done"]
        with pytest.raises(PeerError, match="is being promoted"):
            target.handshake(hello)
        eventually(lambda: not target.promoting, "it is over")
        target.handshake(hello)
        target.poll(hello.session, 0.0, paused=False)
        assert status.of(site)["peer"]["state"] == "connected"
    finally:
        site.stop()


class InOrder:
    """A lock that is had in the order in which it is asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.asked = self._left = 0

    def __enter__(self) -> None:
        with self._changed:
            mine, self.asked = self.asked, self.asked + 1
            self._changed.wait_for(lambda: self._left == mine)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._left += 1
            self._changed.notify_all()


@pytest.mark.parametrize("queued", [0, 2])
def test_one_that_is_taken_back_in_its_last_step_is_not_recorded(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch, queued: int
) -> None:
    """A store that hangs may hold up the last step for long.  Who asked asks again meanwhile, then
    gives up, and is told that the site is a target as before: that stays so."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop()
    site = Site(config.load(str(handmade.toml("west"))), begin_anew=lambda _: None)
    site.start()
    pool = ThreadPoolExecutor(queued + 1)
    try:
        records, turns = site.records, InOrder()
        monkeypatch.setattr(site, "promotion", turns)
        answers: list[Future[protocol.Record]] = []

        def ask(what: Callable[[], protocol.Record]) -> None:
            before = turns.asked
            answers.append(pool.submit(what))
            eventually(lambda: turns.asked > before, "it waits for its turn")

        def slowly(*words: Any) -> object:
            if not answers:
                for _ in range(queued):
                    ask(lambda: promotion.promote(site, force=True))
                ask(lambda: promotion.take_back(site))
            return records(*words)

        monkeypatch.setattr(site, "records", slowly)
        with pytest.raises(MirrorError, match="was taken back"):
            while True:
                promotion.promote(site, force=True)
        *again, given_up = answers
        assert given_up.result(10) == {"role": "target"}
        for turn in again:
            with pytest.raises(MirrorError, match="was taken back"):
                turn.result(10)
        assert site.book.current.role == "target"
    finally:
        site.stop()
        pool.shutdown()


def test_a_look_that_is_late_in_the_last_step_ends_no_promotion(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the record needs is read, which takes so long on a slow file server that the stores are
    looked at once more: all was well a moment ago, and so it would be late each time."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop()
    site = Site(config.load(str(handmade.toml("west"))), begin_anew=lambda _: None)
    site.start()
    try:
        records = site.records

        def late() -> NoReturn:
            raise OSError(errno.ETIMEDOUT, "does not answer")

        def slowly(*words: Any) -> object:
            monkeypatch.setattr(site, "_lost_stores", late)
            return records(*words)

        monkeypatch.setattr(site, "records", slowly)
        with pytest.raises(MirrorError, match="it is a source from its next start on"):
            while True:
                promotion.promote(site, force=True)
        assert site.book.current.role == "source"
    finally:
        site.stop()


def test_a_source_forgets_a_promotion_that_is_taken_back(handmade: Handmade) -> None:
    """Its cycle goes on, and nothing of it is told any more, even while the source is paused."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    with handmade.client() as client:
        client.write(0, b"x" * 4096)
    assert not direct.ask(handmade, {"op": "promote", "force": True, "wait": 0.0}, "west")["done"]
    said = "is being promoted"
    direct.wait_for(lambda: said in str(direct.status(handmade)["reason"]), "it is told")
    direct.ask(handmade, {"op": "pause", "now": True})
    assert direct.ask(handmade, {"op": "take_back"}, "west") == {"role": "target"}
    direct.wait_for(lambda: direct.status(handmade)["peer"]["state"] == "connected", "a session")
    assert said not in str(direct.status(handmade)["reason"])
    direct.resume(handmade)
    direct.sync(handmade)


def test_a_cycle_that_stands_still_forgets_a_promotion_that_is_taken_back(
    handmade: Handmade,
) -> None:
    """Once its source has a session again nothing is said of the one that was ended."""
    handmade.more = 'bandwidth = "64KiB/s"'
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    with handmade.client() as client:
        client.write(0, random.randbytes(256 << 10))
    direct.wait_for(lambda: direct.status(handmade)["cycle"]["phase"] == "copy", "it copies")
    direct.pause(handmade, now=True)
    assert direct.status(handmade)["cycle"]["stands_still"]
    assert not direct.ask(handmade, {"op": "promote", "force": True, "wait": 0.0}, "west")["done"]
    direct.wait_for(lambda: bool(direct.status(handmade)["reason"]), "the session is lost")
    assert direct.ask(handmade, {"op": "take_back"}, "west") == {"role": "target"}
    direct.wait_for(lambda: direct.status(handmade)["peer"]["state"] == "connected", "a session")
    found = direct.status(handmade)
    assert (found["state"], found["reason"]) == ("paused", None)


def test_a_promotion_names_the_point_that_it_was_done_at(handmade: Handmade) -> None:
    """Commits come until the old source has no session any more: later than the command began."""
    pair = handmade
    pair.create()
    pair.start()
    with pair.client() as client:
        stop = threading.Event()

        def write() -> None:
            with contextlib.suppress(OSError, EOFError):
                while not stop.is_set():
                    client.write(0, random.randbytes(4096))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            direct.wait_commit(pair, 3)
            said = json.loads(pair.run("promote", str(pair.toml("west")), "--force", "--json"))
        finally:
            stop.set()
            writer.join(NEVER_ENDED)
    lineage = ledger.load(pair.folder / "west" / "state").lineage
    assert lineage and said["sequence"] == lineage.forked_at


def test_a_promotion_that_could_not_begin_anew_is_refused(handmade: Handmade) -> None:
    """The file of a running target was edited: whatever would end its next start is said before
    anything is done.  The site goes on, its source has its session, and a good edit is in force
    with the promotion."""
    pair = handmade
    pair.create()
    pair.start()
    direct.sync(pair)
    toml, before = pair.toml("west"), direct.status(pair, "west")
    good = toml.read_text()
    volume = '\n[[volume]]\nname = "b"\ndata = "b"\nintermediate = "bi"\n'
    open_port = 'insecure = true\nlisten = ["tcp:127.0.0.1:1", '
    tls = f'[tls]\npsk = "{pair.folder}/none"\n[[volume]]'
    for text, why in (
        (good + volume, "records other volumes than"),
        ('block_size = "8K"\n' + good, "set that again"),
        (good.replace("[[volume]]", tls), "No such file"),
        (good.replace("listen = [", open_port), "listen: was changed"),
        (
            good.replace('metrics = "127.0.0.1:0"', 'metrics = "127.0.0.1:1"'),
            "metrics: was changed",
        ),
        (good.replace("/west/disk.img", "/west/other.img"), "volume: was changed"),
        (good.replace("/west/state", "/west/other"), "state: was changed"),
    ):
        toml.write_text(text)
        said = refused("promote", str(toml), "--force")
        assert "is not promoted" in said and why in said, said
        found = direct.status(pair, "west")
        assert [found[key] for key in ("pid", "role")] == [before["pid"], "target"]
        assert found["peer"] == before["peer"]
    toml.write_text('interval = "1s"\n' + good)
    pair.stop("east")
    pair.run("promote", str(toml), "--force")
    assert direct.status(pair, "west")["role"] == "source"


@pytest.mark.root("gives a folder away")
def test_a_state_folder_that_was_given_away_is_told_with_what_gives_it_back(
    make_pair: MakePair,
) -> None:
    """Of a site that runs as root: `check` says it while nothing is lost yet, and so does the
    promotion, which could not begin anew; what both say to do is enough."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    state, toml = pair.folder / "west" / "state", str(pair.toml("west"))
    os.chown(state, 65534, 65534)
    helps = f"chown root {state}"
    said = flashmirror("check", toml)
    assert said.returncode and f"({helps!r})" in said.stdout, said.stdout
    direct.stop(pair, "east")
    said = flashmirror("promote", toml, "--force")
    assert "is not promoted" in said.stderr and f"({helps!r})" in said.stderr, said.stderr
    assert "sudo" not in said.stderr
    subprocess.run(helps.split(), check=True)
    assert "ok      folder" in flashmirror("check", toml).stdout
    pair.run("promote", toml, "--force")


def test_what_was_edited_in_a_promotion_is_refused_before_its_record(handmade: Handmade) -> None:
    """A promotion may take long; the file is looked at once more in its last step."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop()
    toml = handmade.toml("west")
    good = toml.read_text()
    site = Site(config.load(str(toml)), begin_anew=lambda _: None)
    site.start()
    try:
        records = site.records

        def meanwhile(*words: Any) -> object:
            toml.write_text("intervall = 1\n" + good)
            return records(*words)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(site, "records", meanwhile)
            with pytest.raises(MirrorError, match="no such setting"):
                while True:
                    promotion.promote(site, force=True)
        assert site.book.current.role == "target"
    finally:
        site.stop()
