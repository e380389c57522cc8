"""A site that goes back in time, or is copied: refused with the reason and the way out, or right.

Snapshots are restored, virtual machines are cloned, yesterday's folder is put back.  What is put
back here: the state folder of a site, its data, its intermediate, or all of them, by one or more
commits, after an orderly stop and after a kill.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import Handmade, SlowDisk, flashmirror, scrape, value
from nbd_client import NbdClient
from pair import CommandFailed, MakePair, Pair, some
from test_link import kill

from mirror_core import config, ledger
from mirror_core.errors import MirrorError
from mirror_core.protocol import Commit, record_of

BLOCK = 4096
BLOCKS = 16


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair("--size", str(BLOCKS * BLOCK))
    pair.start()
    write(pair, b"first")
    return pair


def write(pair: Pair, text: bytes) -> None:
    """Every block anew, and committed."""
    with pair.client() as client:
        for block in range(BLOCKS):
            client.write(block * BLOCK, text + b" of block %d" % block)
        client.flush()
    direct.sync(pair)


def state_of(pair: Pair, site: str) -> Path:
    return pair.folder / site / "state"


def images(pair: Pair, site: str) -> list[Path]:
    return sorted((pair.folder / site).glob("*.img"))


def end(pair: Pair, site: str, *, killed: bool) -> None:
    if killed:
        kill(pair, site)
    else:
        direct.stop(pair, site)


@contextmanager
def put_back(pair: Pair, site: str, what: str, *, killed: bool) -> Iterator[None]:
    """At the end the site stands as it stood at the beginning, in these parts, and is down."""
    aside = pair.folder / f"{site}-before"
    kill(pair, site)  # what a snapshot of a running machine holds
    shutil.copytree(state_of(pair, site), aside / "state")
    for image in images(pair, site):
        shutil.copy(image, aside / image.name)
    pair.start(site)
    direct.sync(pair)
    yield
    end(pair, site, killed=killed)
    if "state" in what:
        shutil.rmtree(state_of(pair, site))
        shutil.copytree(aside / "state", state_of(pair, site))
    for image in images(pair, site):
        if "stores" in what:  # the same file, with the bytes of before
            image.write_bytes((aside / image.name).read_bytes())


def refused(pair: Pair, site: str = "east") -> str:
    """The reason, which stands: mirroring does not go on by itself."""
    status: dict[str, Any] = {}

    def is_refused() -> bool:
        status.update(direct.status(pair, site))
        return bool(status["state"] == "refused")

    direct.wait_for(is_refused, f"refused: {status}")
    return str(status["reason"])


def is_equal(pair: Pair) -> bool:
    return pair.image("east").read_bytes() == pair.image("west").read_bytes()


def way_out(pair: Pair) -> None:
    """What the reason advises: the target takes what the source holds."""
    direct.stop(pair, "west")
    pair.run("resync", "--full", str(pair.toml("west")))
    pair.start("west")
    direct.sync(pair)
    assert is_equal(pair)


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("commits", some([1, 3]))
@pytest.mark.parametrize("what", ["state", "state and stores"])
def test_a_source_that_went_back_is_refused(
    pair: Pair, what: str, commits: int, *, killed: bool
) -> None:
    """The target holds a commit that this source has not begun: it keeps its image."""
    with put_back(pair, "east", what, killed=killed):
        for number in range(commits):
            write(pair, b"later %d" % number)
        held = pair.image("west").read_bytes()
    pair.start("east")
    reason = refused(pair)
    assert "east" in reason and "'flashmirror resync --full' on west" in reason
    assert pair.image("west").read_bytes() == held
    way_out(pair)


@pytest.mark.parametrize("killed", some([True, False]), ids=some(["killed", "stopped"]))
@pytest.mark.parametrize("source_too", [False, True], ids=["alone", "with-a-killed-source"])
@pytest.mark.parametrize("commits", some([1, 3]))
@pytest.mark.parametrize("what", ["state", "state and stores"])
def test_a_target_that_went_back_is_refused(
    pair: Pair, what: str, commits: int, *, source_too: bool, killed: bool
) -> None:
    """Even by exactly one commit, and even if the source ended without order since: it made that
    commit durable before it forgot what the commit held."""
    with put_back(pair, "west", what, killed=killed):
        for number in range(commits):
            write(pair, b"later %d" % number)
        if source_too:
            kill(pair, "east")
    pair.start("west")
    if source_too:
        pair.start("east")
    reason = refused(pair)
    assert "west went back from sequence" in reason and "resync --full' on west" in reason
    assert direct.status(pair)["data_exposure_seconds"] > 0, "all is sent, and the target lost it"
    way_out(pair)


def test_an_older_ledger_put_back_alone_is_no_image(pair: Pair) -> None:
    """With nobody to ask: the source is lost, and a promotion would take the mixture for the point
    that the older ledger names."""
    kill(pair, "west")
    ledger = state_of(pair, "west") / "ledger"
    older = ledger.read_bytes()
    pair.start("west")
    write(pair, b"later")
    for site in ("east", "west"):
        kill(pair, site)
    ledger.write_bytes(older)
    with pytest.raises(CommandFailed, match=r"this ledger is an older one.*resync --full"):
        pair.run("start", str(pair.toml("west")))


@pytest.mark.parametrize("site", ["east", "west"])
def test_an_older_ledger_of_an_orderly_stop_says_nothing_of_the_runs_since(
    make_pair: MakePair, site: str
) -> None:
    """It is put back alone, and the run since has changed nothing at the places that are sampled:
    of a source everything is compared; of a target there is no image any more."""
    pair = make_pair("--size", "4M")
    pair.start()
    between = 5 * (4 << 20) // 64 + BLOCK
    _write_at(pair, between, b"first")
    for one in ("east", "west"):
        direct.stop(pair, one)
    ledger = state_of(pair, site) / "ledger"
    older = ledger.read_bytes()
    for one in ("east", "west") if site == "west" else ("east",):
        pair.start(one)
    _write_at(pair, between, b"later", sync=site == "west")
    for one in ("east", "west"):
        direct.stop(pair, one)
    ledger.write_bytes(older)
    if site == "west":
        with pytest.raises(CommandFailed, match=r"this ledger is an older one.*resync --full"):
            pair.run("start", str(pair.toml("west")))
        said = flashmirror("check", str(pair.toml("west")))
        assert said.returncode == 1 and "this ledger is an older one" in said.stderr
        return
    pair.start()
    direct.sync(pair)
    assert "the intent log is missing: everything is compared" in pair.log("east")
    for one in ("east", "west"):
        direct.stop(pair, one)
    assert images(pair, "east")[0].read_bytes() == images(pair, "west")[0].read_bytes()


def _write_at(pair: Pair, offset: int, text: bytes, *, sync: bool = True) -> None:
    with pair.client() as client:
        client.write(offset, text)
        client.flush()
    if sync:
        direct.sync(pair)


def test_a_newer_ledger_put_back_after_a_refused_start_has_its_image(pair: Pair) -> None:
    """The start with an older one has changed nothing: not the logs of the run that it does not
    name."""
    direct.stop(pair, "west")
    ledger = state_of(pair, "west") / "ledger"
    older = ledger.read_bytes()
    pair.start("west")
    write(pair, b"later")
    for site in ("east", "west"):
        kill(pair, site)
    newer = ledger.read_bytes()
    ledger.write_bytes(older)
    with pytest.raises(CommandFailed, match="this ledger is an older one"):
        pair.run("start", str(pair.toml("west")))
    ledger.write_bytes(newer)
    pair.start("west")
    pair.run("promote", "--force", str(pair.toml("west")))
    assert images(pair, "west")[0].read_bytes().startswith(b"later of block 0")


def test_a_source_s_newer_ledger_put_back_after_a_refused_start_has_its_maps(pair: Pair) -> None:
    """Nor the maps in memory of that run: what differs is known to the block."""
    direct.stop(pair, "east")
    ledger = state_of(pair, "east") / "ledger"
    older = ledger.read_bytes()
    pair.start("east")
    write(pair, b"later")
    kill(pair, "east")
    newer = ledger.read_bytes()
    ledger.write_bytes(older)
    with pytest.raises(CommandFailed, match="its content changed while the site was stopped"):
        pair.run("start", str(pair.toml("east")))
    ledger.write_bytes(newer)
    before = len(pair.log("east"))
    pair.start("east")
    assert "its maps are whole" in pair.log("east")[before:]


def test_maps_of_a_run_whose_log_is_gone_do_not_count(pair: Pair, scratch: Path) -> None:
    """An older ledger is put back alone, and the maps of its run stand in a folder that no run
    since has looked in (of systemd, or of a login): all of the data is compared."""
    (scratch / "run").mkdir(mode=0o700)
    there = ("env", f"RUNTIME_DIRECTORY={scratch}/run")
    toml = str(pair.toml("east"))
    direct.stop(pair, "east")
    assert flashmirror("start", toml, prefix=there).returncode == 0
    direct.sync(pair)
    direct.stop(pair, "west")
    kill(pair, "east")
    assert list((scratch / "run").glob("*.maps"))
    ledger = state_of(pair, "east") / "ledger"
    older = ledger.read_bytes()
    pair.start("east")
    with pair.client() as client:
        client.write(0, b"later" * 100)
        client.flush()
    direct.stop(pair, "east")
    ledger.write_bytes(older)
    assert flashmirror("start", toml, prefix=there).returncode == 0
    pair.start("west")
    direct.sync(pair)
    for site in ("east", "west"):
        direct.stop(pair, site)
    assert images(pair, "east")[0].read_bytes() == images(pair, "west")[0].read_bytes()


def test_a_start_that_is_refused_late_keeps_its_maps(pair: Pair) -> None:
    """The ledger names this run already, and counts it as killed: what cannot be removed is named,
    and the next start knows to the block what differs."""
    direct.stop(pair, "east")
    state = state_of(pair, "east")
    count = len(list(state.glob("*.intent.*")))
    stands = state / f"{next(state.glob('*.intent.*')).name.rpartition('.')[0]}.{'0' * 32}"
    stands.mkdir()
    with pytest.raises(CommandFailed, match=f"{stands}: Is a directory: mend that"):
        pair.run("start", str(pair.toml("east")))
    stands.rmdir()
    before = len(pair.log("east"))
    pair.start("east")
    assert "its maps are whole" in pair.log("east")[before:]
    assert len(list(state.glob("*.intent.*"))) == count


def test_a_refused_target_that_is_away_holds_no_more_than_before(pair: Pair) -> None:
    """Who does not answer any more has not got back what it had lost: something is exposed."""
    with put_back(pair, "west", "state and stores", killed=False):
        write(pair, b"later")
    pair.start("west")
    refused(pair)
    direct.stop(pair, "west")
    direct.wait_status(pair, state="degraded")
    assert direct.status(pair)["data_exposure_seconds"] > 0
    said = pair.run("pause", str(pair.toml("east")))
    assert "and no image is known to be at the target" in said
    direct.resume(pair)
    pair.start("west")
    refused(pair)
    way_out(pair)
    assert direct.status(pair)["data_exposure_seconds"] == 0


def exposes_all(pair: Pair, written: float) -> None:
    """Exposure is at least the age of a write of before `written` that the target has lost, and no
    figure claims that the target holds anything."""
    asked = time.monotonic()
    found = direct.status(pair)
    assert found["data_exposure_seconds"] >= asked - written
    assert found["committed"] == {"sequence": None, "consistency_point": None}
    assert found["hardened_sequence"] is None and found["image_age_seconds"] is None


def write_twice(pair: Pair) -> float:
    """So that the last point is a second younger than the first write; when that was."""
    write(pair, b"later")
    written = time.monotonic()
    direct.wait_for(lambda: direct.status(pair)["image_age_seconds"] > 1, "a second")
    write(pair, b"last")
    return written


def test_what_a_refused_target_holds_is_not_known(pair: Pair) -> None:
    """It went back by more than the last commit, or is another one: all is exposed since history
    began, and neither a commit nor the age of an image is told, until it has a session again."""
    with put_back(pair, "west", "state and stores", killed=False):
        written = write_twice(pair)
    pair.start("west")
    refused(pair)
    exposes_all(pair, written)
    assert "none known" in pair.run("status", str(pair.toml("east")))
    way_out(pair)
    found = direct.status(pair)
    assert found["data_exposure_seconds"] == 0 and found["committed"]["sequence"]


def test_a_refusal_is_over_with_the_target_that_is_taken_again(make_pair: MakePair) -> None:
    """The wrong one answers in the middle of a cycle, which is given up.  When the right one is
    back nothing advises to give its image up: not while the next cycle is still to come."""
    pair, mib = make_pair("--size", "8M"), 1 << 20
    pair.start()
    direct.sync(pair)
    with put_back(pair, "west", "state and stores", killed=False):
        write(pair, b"later")
        direct.ask(pair, {"op": "bandwidth", "rate": mib})
        with pair.client() as client:
            for at in range(0, 8 * mib, mib):
                client.write(at, os.urandom(mib))
        direct.wait_for(lambda: direct.status(pair)["cycle"]["phase"] == "copy", "a cycle")
        direct.pause(pair, now=True)
        direct.stop(pair, "west")
        right = [(image, image.read_bytes()) for image in images(pair, "west")]
        aside = shutil.copytree(state_of(pair, "west"), pair.folder / "right")
        pair.start("west")
    pair.start("west")
    assert "west went back" in refused(pair)
    direct.stop(pair, "west")
    shutil.rmtree(state_of(pair, "west"))
    shutil.copytree(aside, state_of(pair, "west"))
    for image, held in right:
        image.write_bytes(held)
    pair.start("west")
    direct.wait_status_of_peer(pair, "east", "connected")
    found = direct.status(pair)
    assert found["state"] == "paused" and found["reason"] is None, found["reason"]
    direct.ask(pair, {"op": "bandwidth", "rate": 0})
    direct.resume(pair)
    direct.sync(pair)
    assert is_equal(pair)


@pytest.mark.parametrize("killed", some([True, False]), ids=some(["killed", "stopped"]))
def test_a_source_knows_over_a_restart_that_its_target_was_refused(
    pair: Pair, *, killed: bool
) -> None:
    """That target never answers again: the next process tells the same, and so does the status of
    a site that is stopped.  What could not be recorded at the first refusal is at a later one."""
    with put_back(pair, "west", "state and stores", killed=False):
        written = write_twice(pair)
    in_the_way = state_of(pair, "east") / "ledger.new"
    in_the_way.mkdir()
    pair.start("west")
    refused(pair)
    exposes_all(pair, written)
    in_the_way.rmdir()
    direct.wait_for(lambda: ledger.load(state_of(pair, "east")).unsure, "it is recorded")
    direct.stop(pair, "west")
    end(pair, "east", killed=killed)
    assert pair.status()["committed"]["sequence"] is None
    for _ in range(2):
        pair.start("east")
        exposes_all(pair, written)
        end(pair, "east", killed=killed)
    pair.start("east")
    pair.start("west")
    refused(pair)
    way_out(pair)
    for site in ("west", "east"):
        direct.stop(pair, site)
    pair.start("east")
    found = direct.status(pair)
    assert found["data_exposure_seconds"] == 0 and found["committed"]["sequence"]


def test_of_two_copies_of_a_source_one_is_refused(pair: Pair) -> None:
    """The target follows the one that it has met last, and the other is refused, with the reason,
    as long as it does not have the first one's state: no mixture of the two."""
    kill(pair, "east")
    clone = pair.folder / "clone"
    shutil.copytree(pair.folder / "east", clone)
    text = pair.toml("east").read_text()
    (pair.folder / "clone.toml").write_text(
        text.replace("east/", "clone/").replace("east.sock", "clone.sock")
    )
    book = ledger.load(clone / "state")
    for volume in book.volumes:  # as on another machine, where it would have the same numbers
        for part in ("data", "intermediate"):
            record = getattr(volume, part)
            path = clone / ("disk.img" if part == "data" else "disk.intermediate.img")
            object.__setattr__(record, "identity", str(path.stat().st_ino))
    ledger.save(clone / "state", book)
    pair.start("east")
    write(pair, b"of the first")
    direct.stop(pair, "east")
    pair._do("start", str(pair.folder / "clone.toml"))
    try:
        reason = refused(pair, "clone")
        assert "another copy of" in reason or "went back" in reason
    finally:
        pair._do("stop", str(pair.folder / "clone.toml"))
    pair.start("east")
    write(pair, b"again")
    assert is_equal(pair)


@contextmanager
def elsewhere(pair: Pair) -> Iterator[None]:
    """The source is led to a fresh target meanwhile, and has a session there."""
    west = pair.toml("west").read_text()
    (pair.folder / "north.toml").write_text(west.replace("west", "north"))
    (pair.folder / "north").mkdir()
    for image in images(pair, "west"):
        (pair.folder / "north" / image.name).touch()
        os.truncate(pair.folder / "north" / image.name, image.stat().st_size)
    pair.run("create", str(pair.toml("north")), "--role", "target")
    pair.start("north")
    direct.stop(pair, "east")
    east = pair.toml("east").read_text()
    pair.toml("east").write_text(east.replace("west", "north"))
    pair.start("east")
    direct.wait_status_of_peer(pair, "east", "connected")
    yield
    direct.stop(pair, "east")
    direct.stop(pair, "north")
    pair.toml("east").write_text(east)


def test_a_fresh_target_that_has_answered_once_is_no_copy_of_the_source(pair: Pair) -> None:
    """The old target knows the last run that it has met: as nothing was begun meanwhile mirroring
    goes on, as often as the source was started since; and what both have is not sent again."""
    direct.pause(pair)
    with elsewhere(pair):
        assert direct.status(pair)["committed"]["sequence"] is None
    pair.start("east")
    direct.wait_status_of_peer(pair, "east", "connected")
    with pair.client() as client:
        client.write(0, b"later" * 100)
    direct.sync(pair)
    assert is_equal(pair)
    assert value(scrape(pair), 'equal_bytes_total{volume="disk"}') > BLOCKS * BLOCK // 2


def test_a_target_that_another_one_has_followed_hears_of_no_copy(pair: Pair) -> None:
    """There is none that could be stopped: the words name what may have happened."""
    with elsewhere(pair):
        write(pair, b"of the other")
    pair.start("east")
    reason = refused(pair)
    assert "west went back" in reason and "or another target?" in reason, reason
    assert "another copy of east" not in reason
    way_out(pair)


def test_a_number_of_the_peer_ends_no_source(pair: Pair) -> None:
    """A target that says it committed 2**63 - 1 is refused; the source takes no number from it,
    and goes on with its own when the target is right again."""
    direct.stop(pair, "west")
    state = state_of(pair, "west")
    good = ledger.load(state)
    bad = replace(good, committed=(1 << 63) - 1)
    ledger.save(state, bad)
    pair.start("west")
    refused(pair)
    direct.stop(pair, "west")
    ledger.save(state, replace(ledger.load(state), committed=good.committed))
    pair.start("west")
    write(pair, b"after")
    assert direct.status(pair)["committed"]["sequence"] < 1000
    assert is_equal(pair)


@pytest.mark.parametrize(
    ("sequence", "moment"), [((1 << 63) - 1, 1e9), (1 << 60, 1e9), (None, 1e18)]
)
def test_a_number_of_the_peer_ends_no_target(
    pair: Pair, sequence: int | None, moment: float
) -> None:
    """A commit whose sequence leaves no room for others, or whose moment has no date, is refused;
    promoted, the target is a source that can be mirrored and started again."""
    direct.stop(pair, "east")
    hello = direct.hello(pair, 5)
    direct.ask(pair, hello, "west")
    image = direct.status(pair, "west")["committed"]
    after = image["sequence"] + 1 if sequence is None else sequence
    commit = record_of(Commit(hello["lineage"], 5, after, moment, "ab" * 16))
    with pytest.raises(MirrorError, match=r"too far after|malformed"):
        direct.ask(pair, commit, "west")
    assert direct.status(pair, "west")["committed"] == image
    pair.run("promote", str(pair.toml("west")), "--force")
    west = config.load(str(pair.toml("west"))).device_uri("disk")
    with NbdClient(west) as client:
        client.write(0, b"x" * 512)
    direct.stop(pair, "west")
    pair.start("west")


@pytest.mark.parametrize("maps", [True, False], ids=["maps", "no-maps"])
def test_a_snapshot_of_an_idle_source_is_refused_after_one_commit(
    make_pair: MakePair, *, maps: bool
) -> None:
    """Of the machine as it runs, whose process goes on in the same run: the sequence of the commit
    that follows must not be known to it."""
    pair = make_pair("--size", "4M")
    pair.start()
    write(pair, b"first")
    time.sleep(0.3)  # idle
    aside = pair.folder / "aside"
    shutil.copytree(state_of(pair, "east"), aside / "state")
    for image in images(pair, "east"):
        shutil.copy(image, aside / image.name)
    with pair.client() as client:
        client.write(2 << 20, b"later" * 100)
        client.flush()
    direct.sync(pair)
    kill(pair, "east")
    shutil.rmtree(state_of(pair, "east"))
    shutil.copytree(aside / "state", state_of(pair, "east"))
    for image in images(pair, "east"):
        image.write_bytes((aside / image.name).read_bytes())
    if not maps:
        for file in Path(os.environ["RUNTIME_DIRECTORY"]).glob("*.maps"):
            file.unlink()
    pair.start("east")
    assert "went back" in refused(pair)
    way_out(pair)


def as_it_was(folder: Path, before: Path) -> None:
    """As a snapshot of the file system brings it back: no file is a copy, so nothing but what the
    files say tells."""
    for path in folder.iterdir():
        if (before / path.name).exists():
            path.write_bytes((before / path.name).read_bytes())
        else:
            path.unlink()


def test_maps_in_memory_do_not_count_for_an_older_state(make_pair: MakePair) -> None:
    """A snapshot from within the target's last commit's cycle, whose data lacks what was written
    and not flushed by then, is put back without a reboot: the maps in memory have forgotten what
    the commit held, so what was hot is compared."""
    pair, mib = make_pair("--size", "16M"), 1 << 20
    pair.start()
    direct.sync(pair)
    direct.pause(pair)
    before = pair.image("east").read_bytes()
    with pair.client() as client:
        for at in range(0, 8 * mib, mib):
            client.write(at, os.urandom(mib))
    direct.ask(pair, {"op": "bandwidth", "rate": mib})
    direct.resume(pair)
    direct.wait_for(lambda: direct.status(pair)["cycle"]["phase"] == "copy", "a cycle")
    aside = pair.folder / "aside"
    shutil.copytree(state_of(pair, "east"), aside)
    direct.ask(pair, {"op": "bandwidth", "rate": 0})
    direct.pause(pair)  # when it is committed, and whole at the target
    kill(pair, "east")
    as_it_was(state_of(pair, "east"), aside)
    pair.image("east").write_bytes(before)
    pair.start("east")
    direct.sync(pair)
    assert is_equal(pair)


def test_a_state_older_than_the_maps_in_memory_makes_everything_differ(make_pair: MakePair) -> None:
    """The state folder alone is put back, from within the target's last commit's cycle.  Its intent
    log knows nothing of a region that was cold then and was written after the commit; that it is
    an old one the maps in memory tell, which are of a later commit."""
    pair, mib = make_pair("--size", "16M"), 1 << 20
    pair.start()
    direct.sync(pair)
    direct.pause(pair)
    direct.stop(pair, "east")
    pair.start("east")  # all is cold now
    with pair.client() as client:
        for at in range(0, 8 * mib, mib):
            client.write(at, os.urandom(mib))
    direct.ask(pair, {"op": "bandwidth", "rate": mib})
    direct.resume(pair)
    direct.wait_for(lambda: direct.status(pair)["cycle"]["phase"] == "copy", "a cycle")
    aside = pair.folder / "aside"
    shutil.copytree(state_of(pair, "east"), aside)
    direct.ask(pair, {"op": "bandwidth", "rate": 0})
    direct.pause(pair)  # when it is committed, and whole at the target
    with pair.client() as client:
        client.write(12 * mib, b"after the commit")
        client.flush()
    kill(pair, "east")
    as_it_was(state_of(pair, "east"), aside)
    pair.start("east")
    direct.sync(pair)
    assert is_equal(pair)


def test_a_source_that_went_back_in_its_first_copy_is_sent_whole(make_pair: MakePair) -> None:
    """A blank target without an image has been sent a block that the source, put back to before it
    was written, does not know, and that is a hole there.  The target's refusal of the commit is
    answered with all of the volume, not with the source's data alone, or it is refused for ever."""
    pair, mib = make_pair("--size", "16M"), 1 << 20
    pair.start("east")
    with pair.client() as client:
        client.write(0, b"early")
        client.flush()
    kill(pair, "east")
    aside = pair.folder / "aside"
    shutil.copytree(state_of(pair, "east"), aside / "state")
    shutil.copy(pair.image("east"), aside / "image")
    pair.start("east")
    with pair.client() as client:
        for at in range(3 * mib, 8 * mib, mib):
            client.write(at, os.urandom(mib))
    direct.ask(pair, {"op": "bandwidth", "rate": mib // 2})
    pair.start("west")
    direct.wait_for(lambda: direct.status(pair)["cycle"]["copied_bytes"] > mib // 2, "some sent")
    kill(pair, "east")
    shutil.rmtree(state_of(pair, "east"))
    shutil.copytree(aside / "state", state_of(pair, "east"))
    with pair.image("east").open("r+b") as image:  # the same file, of before, holes and all
        image.truncate(0)
        image.write((aside / "image").read_bytes()[:mib])
        image.truncate(16 * mib)
    pair.start("east")
    direct.sync(pair, timeout_s=20)
    assert is_equal(pair)


def test_a_snapshot_of_a_source_that_is_about_to_freeze_is_refused(scratch: Path) -> None:
    """A slow store holds up the freeze of a cycle, whose try is given up; meanwhile a snapshot is
    taken, and then a block is written where nothing was hot.  The snapshot knows nothing of the
    cycle that holds that block, and is found out."""
    size, mib = 8 << 20, 1 << 20
    disk, pair = SlowDisk(scratch / "slow", "500ms"), Handmade(scratch / "pair", size)
    pair.stores["east", "data"] = disk.store(size)
    pair.more = 'freeze_max = "10s"'
    try:
        pair.create()
        pair.start()
        direct.sync(pair)
        state, before = state_of(pair, "east"), (scratch / "slow" / "slow.img").read_bytes()
        with ThreadPoolExecutor(2) as pool, pair.client() as one, pair.client() as two:
            first = pool.submit(one.write, 0, b"a" * BLOCK)
            direct.wait_for(lambda: direct.status(pair)["cycle"]["phase"] == "freeze", "a freeze")
            assert not first.done()
            shutil.copytree(state, scratch / "state")
            pool.submit(two.write, 4 * mib, b"b" * BLOCK).result()
            first.result()
        direct.wait_for(lambda: direct.status(pair)["data_exposure_seconds"] == 0, "a commit")
        kill(pair, "east")
        for file in Path(os.environ["RUNTIME_DIRECTORY"]).glob("*.maps"):
            file.unlink()
        shutil.rmtree(state)
        shutil.copytree(scratch / "state", state)
        (scratch / "slow" / "slow.img").write_bytes(before)
        pair.start("east")
        assert "went back" in refused(pair)
    finally:
        pair.kill()
        disk.close()
