"""A store that somebody has cut, and made large again, is not what it was: in the middle of a
cycle, behind a server, as a device, and when another one is put in its place (I1, I7)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import MIB, Handmade, flashmirror, kill, refused
from loops import ENDS_AFTER, needs_loops, set_bound
from nbd_client import NbdClient, NbdError
from pair import some
from served import Faulty, Server
from test_unreadable import written

from mirror_core import config, flashcopy, ledger, limits, native, protocol, runlog, target
from mirror_core.book import Book
from mirror_core.driver import Driver
from mirror_core.errors import MirrorError
from mirror_core.journal import Journal
from mirror_core.platform import HERE
from mirror_core.site import Site

BLOCK = 4096


def write_all(pair: Handmade, image: bytes, rate: int = 2 * MIB) -> None:
    """In one cycle, which is slow."""
    direct.ask(pair, {"op": "bandwidth", "rate": rate})
    direct.pause(pair)
    with pair.client() as client:
        for at in range(0, pair.size, MIB):
            client.write(at, image[at : at + MIB])
    direct.resume(pair)


def cut(pair: Handmade, store: str) -> None:
    """And large again, once a status has said so."""
    os.truncate(store, BLOCK)
    assert f"{store}: was made smaller" in direct.status(pair, "west")["reason"]
    os.truncate(store, pair.size)


@pytest.fixture
def disk(scratch: Path) -> Iterator[Faulty]:
    disk = Faulty(scratch / "served.img")
    yield disk
    disk.stop()


def told(pair: Handmade, said: str) -> None:
    """By the source."""
    direct.wait_for(lambda: said in str(direct.status(pair)["reason"]), said)


def said_in_log(pair: Handmade, words: str) -> None:
    direct.wait_for(lambda: words in pair.log("west"), words)


def lost(pair: Handmade, part: str) -> None:
    """The source says that some of its target's image is gone, and why nothing goes on."""
    words = f"{part} store {pair.store('west', part)}: was made smaller while it held some of"
    told(pair, words)


@pytest.mark.parametrize("met_by", some(["a-write", "a-read", "a-server"]))
def test_nothing_of_the_image_is_hardened_that_was_cut(
    handmade: Handmade,
    disk: Faulty,
    scratch: Path,
    request: pytest.FixtureRequest,
    met_by: str,
) -> None:
    """It waits in the intermediate, of which somebody reclaims the space; a write of the next cycle
    makes that large again, or a copy meets its end before a person does, behind a server that runs
    on perhaps.  Its holes go into no data; no blank file takes its place; and its source is
    told."""
    handmade.stores["west", "data"] = disk.store(handmade.size)
    if met_by == "a-server":
        server = serve_empty(scratch / "front.img", handmade.size)
        request.addfinalizer(server.stop)
        handmade.stores["west", "intermediate"] = server.uri
    handmade.create()
    written(handmade)
    before, west = disk.image.read_bytes(), str(handmade.toml("west"))
    image = random.Random(1).randbytes(handmade.size - BLOCK)
    disk.fail("EIO", "pwrite")
    sequence = direct.status(handmade)["committed"]["sequence"]
    with handmade.client() as client:
        client.write(0, image)
    direct.wait_for(
        lambda: direct.status(handmade)["committed"]["sequence"] > sequence, "another commit"
    )
    where = handmade.store("west", "intermediate")
    store = str(server.image) if met_by == "a-server" else where
    os.truncate(store, BLOCK)
    if met_by != "a-write":
        disk.mend()
        said_in_log(handmade, where)
        os.truncate(store, handmade.size)
    else:
        with handmade.client() as client:
            client.write(handmade.size - BLOCK, b"x" * BLOCK)
        direct.wait_for(lambda: os.stat(store).st_size == handmade.size, "the next cycle's write")
        disk.mend()
    lost(handmade, "intermediate")
    assert "was made smaller" in refused("promote", west, "--force")
    handmade.run("stop", west)
    now = disk.image.read_bytes()  # what was copied before it was met is pending on disk, too
    assert all(
        now[at : at + BLOCK] in (before[at : at + BLOCK], image[at : at + BLOCK])
        for at in range(0, handmade.size, BLOCK)
    )
    if met_by != "a-server":
        Path(store).unlink()
        Path(store).touch()
        os.truncate(store, handmade.size)
    assert "gives up the image" in refused("start", west)
    words = ("adopt", west, "disk", "intermediate", "--yes", "--json")
    assert json.loads(handmade.run(*words))["effect"] == "give up"
    handmade.start("west")
    direct.sync(handmade)
    direct.pause(handmade)
    assert disk.image.read_bytes() == handmade.image("east").read_bytes()


def test_a_target_whose_data_was_cut_commits_no_more(handmade: Handmade) -> None:
    """Nobody may rely on a point that nobody can promote: neither site has one, and its source is
    refused, and says why."""
    handmade.create()
    written(handmade)
    state = handmade.folder / "west/state"
    sequence = ledger.load(state).committed
    cut(handmade, str(handmade.image("west")))
    lost(handmade, "data")
    with handmade.client() as client:
        client.write(0, b"x" * BLOCK)
    direct.wait_for(lambda: direct.status(handmade)["state"] == "refused", "it is refused")
    found = {site: direct.status(handmade, site) for site in ("east", "west")}
    for one in found.values():
        assert one["committed"]["sequence"] is one["hardened_sequence"] is None, one
        assert one["image_age_seconds"] is None, one
    assert found["east"]["data_exposure_seconds"] > 0
    assert "was made smaller while it held some of" in str(found["west"]["reason"])
    assert ledger.load(state).committed == sequence


def test_what_is_found_equal_in_a_seed_that_is_cut_then_is_sent(handmade: Handmade) -> None:
    """While the rest of the first cycle comes in: nothing is committed that counts on it."""
    handmade.size = 8 * MIB
    handmade.more = 'bandwidth = "1MiB/s"'
    handmade.create()
    image = random.Random(5).randbytes(handmade.size)
    store = Path(handmade.store("west", "data"))
    Path(handmade.store("east", "data")).write_bytes(image)
    store.write_bytes(image[: handmade.size // 2].ljust(handmade.size, b"x"))
    handmade.run("seed", str(handmade.toml("west")))
    handmade.start("west")
    handmade.start("east")
    direct.wait_for(
        lambda: direct.status(handmade)["cycle"]["copied_bytes"] >= handmade.size // 2 + MIB,
        "some of what differs is sent",
    )
    assert direct.status(handmade, "west")["committed"]["sequence"] is None
    cut(handmade, str(store))
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    direct.sync(handmade)
    direct.pause(handmade)
    assert store.read_bytes() == image


@pytest.mark.soak
def test_each_store_that_was_cut_is_told(handmade: Handmade) -> None:
    """One after the other: in the log, once."""
    handmade.create()
    written(handmade)
    for part in ("data", "intermediate"):
        store = handmade.store("west", part)
        os.truncate(store, BLOCK)
        words = f"{store}: was made smaller, {BLOCK} bytes"
        said_in_log(handmade, words)
        os.truncate(store, 2 * BLOCK)
    direct.status(handmade, "west")
    assert handmade.log("west").count("was made smaller, ") == 2


@contextlib.contextmanager
def source(handmade: Handmade) -> Iterator[tuple[Driver, native.Store, native.Store]]:
    """A source's control, without a thread, and its data and intermediate."""
    handmade.create()
    settings = config.load(str(handmade.toml("east")))
    data, first = (
        native.Store.file(os.open(handmade.store("east", part), os.O_RDWR), handmade.size)
        for part in ("data", "intermediate")
    )
    volume = native.Volume(data, first, handmade.size, BLOCK, True)
    copier = flashcopy.Flashcopy([flashcopy.Member("disk", volume)])
    book = Book(settings.state, ledger.load(settings.state), HERE, Journal())
    driver = Driver(
        settings,
        book,
        copier,
        Journal(),
        HERE,
        clean=True,
        drop_caches=lambda: None,
        take_intermediates=lambda: None,
        remember_cut=lambda _: None,
    )
    try:
        yield driver, data, first
    finally:
        copier.abandon(5)
        volume.close()
        data.close()
        first.close()


def test_a_long_cycle_is_told_of_a_lost_image(handmade: Handmade) -> None:
    """Before it asks for its commit, which may take hours."""
    handmade.size = 8 * MIB
    handmade.create()
    written(handmade)
    write_all(handmade, os.urandom(handmade.size), rate=64 << 10)
    direct.wait_for(lambda: bool(direct.status(handmade)["cycle"]["copied_bytes"]), "a cycle")
    cut(handmade, str(handmade.image("west")))
    lost(handmade, "data")


def test_a_commit_takes_back_the_word_of_a_cut(handmade: Handmade) -> None:
    """All of its image is written since: a kill at any instant leaves that."""
    handmade.create()
    written(handmade)
    state, store = handmade.folder / "west/state", handmade.store("west", "intermediate")
    cut(handmade, store)
    assert ledger.harmed(ledger.load(state).volumes)
    before = ledger.load(state).committed
    with handmade.client() as client:
        client.write(0, os.urandom(handmade.size))
    handle = os.pidfd_open(direct.status(handmade, "west")["pid"])
    deadline = time.monotonic() + 30
    while ledger.load(state).committed == before:  # at once: no look comes in between
        assert time.monotonic() < deadline
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    assert select.select([handle], [], [], 20)[0]
    os.close(handle)
    assert not ledger.harmed(ledger.load(state).volumes)
    handmade.start("west")


def test_a_commit_takes_back_no_word_that_is_newer(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody cuts both stores while it is under way."""
    monkeypatch.setattr(limits, "STORES_LOOK_S", 3600)
    handmade.create()
    site = Site(config.load(str(handmade.toml("west"))))
    site.start()
    try:
        control = site.control
        assert isinstance(control, target.Target)
        site.book.update(lineage=ledger.Lineage("1" * 32), committed=1, whole=True)
        site.copier.group.fence(5, 1.0)
        control.session = 5
        in_session = control._cuts.in_session

        def while_it_is_cut(*words: Any, **more: Any) -> Any:
            site._remember_cut([("disk", "data"), ("disk", "intermediate")])
            return in_session(*words, **more)

        monkeypatch.setattr(control._cuts, "in_session", while_it_is_cut)
        asked = protocol.Commit("1" * 32, 5, 2, time.time(), "2" * 32)
        direct.wait_for(lambda: control.commit(asked).done, "the commit")
        assert len(ledger.harmed(site.book.current.volumes)) == 2
    finally:
        site.stop()


def test_a_look_that_fails_forgets_no_cut(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write has met it, and that is recorded; then what the store stands on is in trouble."""
    monkeypatch.setattr(limits, "STORES_LOOK_S", 3600)
    handmade.create()
    site = Site(config.load(str(handmade.toml("east"))))
    site.start()
    try:
        site.members[0].native.front.cut()
        site._remember_cut([("disk", "data")])
        of_data, fstat = site._opened["disk", "data"].fd, os.fstat

        def stale(fd: int) -> os.stat_result:
            if fd == of_data:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return fstat(fd)

        with monkeypatch.context() as trouble:
            trouble.setattr(os, "fstat", stale)
            assert os.strerror(errno.ESTALE) in str(site._look_and_record())
        assert ledger.harmed(site.book.current.volumes) == {("disk", "data"): ledger.HARMED}
    finally:
        site.stop()


def test_a_start_remembers_each_store_that_is_smaller(handmade: Handmade) -> None:
    """A file system has lost the ends of several: of the second it would ask nobody."""
    handmade.create()
    written(handmade)
    kill(handmade, "west")
    for part in ("data", "intermediate"):
        os.truncate(handmade.store("west", part), BLOCK)
    assert "put the right store back" in refused("start", str(handmade.toml("west")))
    for part in ("data", "intermediate"):
        os.truncate(handmade.store("west", part), handmade.size)
    assert "found it smaller" in refused("start", str(handmade.toml("west")))
    words = ("adopt", str(handmade.toml("west")), "disk", "data", "--yes", "--json", "--unchanged")
    assert json.loads(handmade.run(*words))["effect"] == "keep"
    assert "found it smaller" in refused("start", str(handmade.toml("west")))


@pytest.mark.parametrize("command", some(["adopt", "check"]))
def test_a_command_that_meets_a_smaller_store_remembers_it(
    handmade: Handmade, command: str
) -> None:
    """A person looks before any start of a site that was killed, and gives the store its size.
    'check' changes nothing, and says to have that remembered first."""
    handmade.create()
    written(handmade)
    kill(handmade, "west")
    west, store = str(handmade.toml("west")), handmade.store("west", "data")
    os.truncate(store, BLOCK)
    if command == "check":
        assert "before 'start' or 'adopt' has seen it" in flashmirror("check", west).stdout
        return
    assert "makes zeroes of what is gone" in refused("adopt", west, "disk", "data", "--yes")
    os.truncate(store, handmade.size)
    assert "found it smaller" in refused("start", west)


@pytest.mark.soak
def test_a_server_s_store_that_was_larger_is_as_it_was(
    handmade: Handmade, scratch: Path, request: pytest.FixtureRequest
) -> None:
    """No byte of its volume was cut."""
    server = serve_empty(scratch / "served.img", handmade.size)
    request.addfinalizer(server.stop)
    handmade.stores["west", "data"] = server.uri
    handmade.create()
    written(handmade)
    direct.stop(handmade, "west")
    for size in (2 * handmade.size, handmade.size):
        server.stop()
        os.truncate(server.image, size)
        server.start()
        if size > handmade.size:
            handmade.start("west")
            direct.sync(handmade)
    with handmade.client() as client:
        client.write(0, b"x" * BLOCK)
    direct.sync(handmade)


def test_a_cut_that_comes_before_the_freeze_is_met_after_it(handmade: Handmade) -> None:
    """The look before it had found all well.  Nor is a cycle committed in which it came later."""
    with source(handmade) as (driver, data, _):
        driver._refuse_cut()
        data.cut()
        assert driver._freeze(1.0).error is None
        with pytest.raises(MirrorError, match="what is left of it is not sent"):
            driver._begin(1)
        assert driver._book.current.begun == 0
        driver._book.update(begun=1)
        with pytest.raises(MirrorError, match="what is left of it is not sent"):
            driver._commit(1)


def test_a_cycle_is_not_committed_whose_intermediate_was_cut(handmade: Handmade) -> None:
    """The source's own, behind a server perhaps, of which no flush tells that: what was sent from
    there since the link was lost, or compared, was zeroes."""
    with source(handmade) as (driver, _, first):
        assert driver._freeze(1.0).error is None
        driver._begin(1)
        first.cut()
        with pytest.raises(MirrorError, match="the cycle is copied anew"):
            driver._commit(1)


@pytest.mark.parametrize("restarted", some([True, False]))
def test_a_cut_of_data_before_its_first_image_costs_nothing(
    handmade: Handmade, *, restarted: bool
) -> None:
    """All of it is written for that, or was a hole."""
    handmade.size = 8 * MIB
    handmade.more = 'bandwidth = "1MiB/s"'
    handmade.create()
    image, west = random.Random(5).randbytes(handmade.size), str(handmade.toml("west"))
    Path(handmade.store("east", "data")).write_bytes(image)
    handmade.start()
    if restarted:
        direct.wait_for(lambda: bool(direct.status(handmade)["cycle"]["copied_bytes"]), "some")
        cut(handmade, str(handmade.image("west")))
        handmade.run("stop", west)
        handmade.start("west")
    direct.wait_for(
        lambda: direct.status(handmade)["cycle"]["copied_bytes"] >= 2 * MIB, "some is sent"
    )
    assert direct.status(handmade, "west")["committed"]["sequence"] is None
    cut(handmade, str(handmade.image("west")))
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    direct.sync(handmade)
    handmade.run("promote", west, "--force")
    with NbdClient(handmade.run("uri", west).strip()) as client:
        assert b"".join(client.read(at, MIB) for at in range(0, handmade.size, MIB)) == image


def test_a_first_image_waits_for_a_data_store_that_is_too_small(handmade: Handmade) -> None:
    """It holds nothing yet; what is committed on it would be lost with the first write to it."""
    handmade.create()
    image, store = random.Random(5).randbytes(handmade.size), handmade.image("west")
    Path(handmade.store("east", "data")).write_bytes(image)
    handmade.start("west")
    os.truncate(store, BLOCK)
    handmade.start("east")
    words = f"data store {store}: is smaller than its volume: give it that size again"
    told(handmade, words)
    assert ledger.load(handmade.folder / "west/state").committed == 0
    os.truncate(store, handmade.size)
    direct.sync(handmade)
    assert direct.status(handmade, "west")["reason"] is None
    assert store.read_bytes() == image


def test_a_stop_makes_good_a_cut_of_nothing(handmade: Handmade) -> None:
    """None of the image was in the intermediate; its source is paused, and opens no session."""
    handmade.create()
    written(handmade)
    direct.pause(handmade)
    cut(handmade, handmade.store("west", "intermediate"))
    handmade.run("stop", str(handmade.toml("west")))
    handmade.start("west")
    direct.resume(handmade)
    direct.sync(handmade)


def test_a_store_that_could_not_be_read_and_was_cut_then_is_asked_about(
    handmade: Handmade, disk: Faulty
) -> None:
    """A source's, that a start has found smaller: of one that it could not read at its stop it
    would ask nobody, and compare what is left with what the target alone has."""
    handmade.stores["east", "data"] = disk.store(handmade.size)
    handmade.create()
    written(handmade)
    disk.fail("EIO", "pread")
    direct.stop(handmade, "east")
    disk.mend()
    for size, said in (
        (16 * BLOCK, "put the right store back"),
        (handmade.size, "found it smaller"),
    ):
        disk.stop()
        os.truncate(disk.image, size)
        disk.start()
        assert said in refused("start", str(handmade.toml("east")))


def serve_empty(image: Path, size: int) -> Server:
    image.touch()
    os.truncate(image, size)
    server = Server(image)
    server.start()
    return server


@pytest.mark.parametrize("left", some([0, 16 * BLOCK]))
def test_a_server_s_store_that_came_back_smaller_is_not_sent(
    handmade: Handmade, scratch: Path, request: pytest.FixtureRequest, left: int
) -> None:
    """And is as large as it was then: what is left of it, or another file.  A person says which: if
    it was another one, nothing is lost."""
    server = serve_empty(scratch / "served.img", handmade.size)
    request.addfinalizer(server.stop)
    handmade.stores["east", "data"] = server.uri
    handmade.create()
    written(handmade)
    image = handmade.image("west").read_bytes()
    for size in (left, handmade.size):
        server.stop()
        os.truncate(server.image, size)
        server.start()
        with handmade.client() as client, contextlib.suppress(NbdError):
            client.write(0, b"x" * BLOCK)
            client.flush()
        told(handmade, "what is left of it is not sent")
    handmade.run("stop", str(handmade.toml("east")))
    server.image.write_bytes(image)
    assert "adopt it with --unchanged" in refused("start", str(handmade.toml("east")))
    words = ("adopt", str(handmade.toml("east")), "disk", "data", "--yes", "--unchanged")
    handmade.run(*words)
    handmade.start("east")
    direct.sync(handmade)
    direct.pause(handmade)
    assert handmade.image("west").read_bytes() == image


def test_a_source_whose_data_was_cut_sends_no_more(handmade: Handmade) -> None:
    """It runs on, and a client writes: the target's image stands as it was."""
    handmade.create()
    written(handmade)
    store, image = handmade.store("east", "data"), handmade.image("west").read_bytes()
    os.truncate(store, BLOCK)
    direct.wait_for(lambda: f"{store}: was made smaller" in handmade.log("east"), "it is seen")
    os.truncate(store, handmade.size)
    with handmade.client() as client:
        client.write(handmade.size - 64 * BLOCK, b"x" * 32 * BLOCK)
    told(handmade, "what is left of it is not sent")
    direct.wait_for(lambda: direct.status(handmade)["state"] == "refused", "a person ends it")
    assert "what is left of it is not sent" in refused("sync", str(handmade.toml("east")))
    handmade.run("promote", str(handmade.toml("west")), "--force")
    with NbdClient(handmade.run("uri", str(handmade.toml("west"))).strip()) as client:
        assert client.read(0, handmade.size) == image


@pytest.mark.parametrize("name", some(["west", "east"]))
def test_who_refuses_because_of_a_cut_has_recorded_it(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No look of the site has come to its end since: a kill forgets nothing of it.  Nor does one
    take that back which has seen less, and ends only now."""
    monkeypatch.setattr(limits, "STORES_LOOK_S", 3600)
    handmade.create()
    site = Site(config.load(str(handmade.toml(name))))
    site.start()
    try:
        if name == "west":
            site.book.update(lineage=ledger.Lineage("1" * 32), committed=1, hardened=1, whole=True)
        member, control = site.members[0].native, site.control
        data = member.front if name == "east" else member.first
        look = site._look_at_stores

        def see_less() -> Any:
            found = look()
            data.cut()
            with pytest.raises(MirrorError, match="was made smaller"):
                control._refuse_cut() if isinstance(control, Driver) else control._refuse_lost()
            assert harmed() == {("disk", "data"): ledger.HARMED}
            return found

        def harmed() -> Any:
            return ledger.harmed(ledger.load(handmade.folder / name / "state").volumes)

        monkeypatch.setattr(site, "_look_at_stores", see_less)
        site._look_and_record()
        assert harmed() == {("disk", "data"): ledger.HARMED}
        monkeypatch.undo()
    finally:
        site.stop()


def test_a_cut_that_a_stop_meets_is_asked_about(
    handmade: Handmade, scratch: Path, request: pytest.FixtureRequest
) -> None:
    """Nobody has read a source's served data since somebody cut it: the fingerprint of an orderly
    stop does.  That it is large again at the next start makes no zeroes its image."""
    server = serve_empty(scratch / "served.img", handmade.size)
    request.addfinalizer(server.stop)
    handmade.stores["east", "data"] = server.uri
    handmade.create()
    written(handmade)
    image = handmade.image("west").read_bytes()
    os.truncate(server.image, 16 * BLOCK)
    flashmirror("stop", str(handmade.toml("east")))
    assert "was made smaller" in handmade.log("east")
    os.truncate(server.image, handmade.size)
    assert "adopt it" in refused("start", str(handmade.toml("east")))
    assert handmade.image("west").read_bytes() == image


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_what_was_stable_in_a_cut_intermediate_is_sent_again(handmade: Handmade) -> None:
    """The target was started anew in the middle of a cycle: what of that is stable only its log
    knows, until its source goes on with it."""
    handmade.size = 16 * MIB
    handmade.create()
    written(handmade)
    image = random.Random(2).randbytes(handmade.size)
    write_all(handmade, image)
    state, before = handmade.folder / "west/state", direct.status(handmade)["committed"]["sequence"]

    def is_stable() -> bool:
        logs = [one for one in state.iterdir() if one.name.startswith("written.")]
        found = [runlog.history_of(one.read_bytes()) for one in logs]
        return any(one and one.sequence > before for one in found)

    direct.wait_for(is_stable, "some of a cycle to be stable")
    direct.wait_for(
        lambda: direct.status(handmade)["cycle"]["copied_bytes"] >= 8 * MIB, "more of it"
    )
    source = int(direct.status(handmade)["pid"])
    os.kill(source, signal.SIGSTOP)
    try:
        direct.stop(handmade, "west")
        handmade.start("west")
        cut(handmade, handmade.store("west", "intermediate"))
    finally:
        os.kill(source, signal.SIGCONT)
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    direct.sync(handmade)
    handmade.run("stop", str(handmade.toml("west")))
    assert handmade.image("west").read_bytes() == image


def test_a_store_that_was_cut_behind_the_last_sample_is_not_as_it_was(handmade: Handmade) -> None:
    """Nobody has started the site in between: the bytes at its end tell."""
    handmade.create()
    written(handmade)
    direct.stop(handmade, "west")
    os.truncate(handmade.image("west"), handmade.size - 3 * BLOCK)
    os.truncate(handmade.image("west"), handmade.size)
    assert "its content changed" in refused("start", str(handmade.toml("west")))


def test_a_fingerprint_without_the_last_bytes_is_one(handmade: Handmade) -> None:
    """A version before this one has made it."""
    handmade.create()
    written(handmade)
    direct.stop(handmade, "west")
    state = handmade.folder / "west/state"
    book = ledger.load(state)
    words = {
        (one.name, part): str(getattr(one, part).fingerprint).partition(":")[0]
        for one in book.volumes
        for part in ("data", "intermediate")
    }
    ledger.save(state, replace(book, volumes=ledger.with_harmed(book.volumes, words)))
    handmade.start("west")
    direct.stop(handmade, "west")
    [record] = ledger.load(state).volumes
    assert str(record.data.fingerprint).startswith(words["disk", "data"] + ":")


@pytest.mark.parametrize("unchanged", some([False, True]))
def test_a_copy_of_a_store_that_a_start_found_cut_is_what_a_person_says(
    handmade: Handmade, *, unchanged: bool
) -> None:
    """It may be of what that held, or of what was left of it: the places where a fingerprint looks
    are the same."""
    handmade.create()
    written(handmade)
    direct.stop(handmade, "west")
    west, image, copy = str(handmade.toml("west")), handmade.image("west"), handmade.folder / "copy"
    shutil.copy(image, copy)
    os.truncate(image, BLOCK)
    assert "put the right store back" in refused("start", west)
    copy.rename(image)
    assert "adopt it with --unchanged" in refused("start", west)
    words = ("adopt", west, "disk", "data", "--yes", "--json")
    said = json.loads(handmade.run(*words, *(["--unchanged"] if unchanged else [])))
    assert said["effect"] == ("keep" if unchanged else "give up")


@pytest.mark.soak
def test_a_source_s_store_whose_samples_fit_is_asked_about(handmade: Handmade) -> None:
    """A supervisor starts it in the middle of a copy into that file.  The copy comes to its end.
    A person says so: all that was cut no sample tells."""
    handmade.create()
    written(handmade)
    handmade.start("east")
    direct.stop(handmade, "east")
    store = Path(handmade.store("east", "data"))
    held = store.read_bytes()
    os.truncate(store, BLOCK)
    assert "put the right store back" in refused("start", str(handmade.toml("east")))
    with store.open("r+b") as file:
        file.write(held)
    assert "the target has what stood there" in refused("start", str(handmade.toml("east")))
    words = ("adopt", str(handmade.toml("east")), "disk", "data", "--yes", "--json", "--unchanged")
    assert json.loads(handmade.run(*words))["effect"] == "compare"
    handmade.start("east")
    direct.sync(handmade)


def test_a_start_that_is_refused_for_a_cut_writes_nothing(handmade: Handmade) -> None:
    """A supervisor tries it again every two seconds, until a person comes: it flushes nothing, in
    the middle of which it could be killed, and which would put all stores in doubt."""
    handmade.create()
    written(handmade)
    cut(handmade, str(handmade.image("west")))
    handmade.run("stop", str(handmade.toml("west")))
    state = handmade.folder / "west/state"
    before = {one.name: one.stat().st_ino for one in state.iterdir() if one.name != "site.log"}
    assert "was made smaller" in refused("start", str(handmade.toml("west")))
    after = {one.name: one.stat().st_ino for one in state.iterdir() if one.name != "site.log"}
    assert after == before


@pytest.mark.parametrize("killed", some([True, False]))
def test_a_store_of_a_server_that_was_cut_is_not_as_it_was(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest, *, killed: bool
) -> None:
    """A start has found it so, through its server."""
    server = serve_empty(scratch / "served.img", handmade.size)
    request.addfinalizer(server.stop)
    handmade.stores["west", "data"] = server.uri
    handmade.create()
    written(handmade)
    left = 0 if killed else BLOCK
    if killed:
        kill(handmade, "west")
    else:
        direct.stop(handmade, "west")
    for size, said in ((left, "put the right store"), (handmade.size, "found it smaller")):
        server.stop()
        os.truncate(server.image, size)
        server.start()
        assert said in refused("start", str(handmade.toml("west")))


@needs_loops
def test_a_device_that_shrank_for_a_moment_is_what_a_person_says(handmade: Handmade) -> None:
    """A logical volume was reduced by mistake, and has its extents again, with every byte."""
    file = handmade.folder / "disk"
    file.touch()
    os.truncate(file, handmade.size)
    made = subprocess.run(
        ["losetup", "--find", "--show", str(file)], check=True, capture_output=True, text=True
    )
    handmade.stores["west", "data"] = device = made.stdout.strip()
    west = str(handmade.toml("west"))
    try:
        handmade.create()
        written(handmade)
        held = file.read_bytes()
        set_bound(device, ENDS_AFTER, handmade.size // 2)
        assert f"{device}: was made smaller" in direct.status(handmade, "west")["reason"]
        set_bound(device, ENDS_AFTER, 0)
        handmade.run("stop", west)
        assert "--unchanged" in refused("start", west)
        words = ("adopt", west, "disk", "data", "--yes", "--json", "--unchanged")
        assert json.loads(handmade.run(*words))["effect"] == "keep"
        handmade.start("west")
        handmade.run("promote", west, "--force")
        with NbdClient(handmade.run("uri", west).strip()) as client:
            assert client.read(0, handmade.size) == held
    finally:
        handmade.kill()
        subprocess.run(["losetup", "-d", device], check=True)


def test_a_look_frees_the_store_that_was_closed_meanwhile(
    scratch: Path, request: pytest.FixtureRequest
) -> None:
    """No stop waits for a look that asks a slow server for its size."""
    server = Server(scratch / "served.img")
    request.addfinalizer(server.stop)
    server.image.touch()
    os.truncate(server.image, MIB)
    server.start("delay", parameters=("delay-open=1000ms",))

    def sockets() -> int:
        count = 0
        for one in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the folder's own, while it is read
                count += "socket:" in os.readlink(one)
        return count

    none = sockets()
    store = native.Store.nbd(server.uri, 10.0)
    os.truncate(server.image, 0)
    with pytest.raises(OSError):
        store.read(BLOCK, 0)
    one = sockets()
    with ThreadPoolExecutor() as pool:
        look = pool.submit(lambda: store.cuts)
        direct.wait_for(lambda: sockets() > one, "it connects")
        store.close()
        assert sockets() > one
        look.result(20.0)
    assert sockets() == none
    with pytest.raises(OSError, match="Bad file descriptor"):
        store.cut()
