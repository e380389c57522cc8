"""A source's state folder, or an intent log of it, is put back in its place, as a snapshot of its
file system does it: the same files, older bytes.  Its process was killed, and the maps of the run
are still in memory: they tell that, and nothing is left out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import Handmade, east, eventually, flashmirror
from pair import CommandFailed, MakePair, Pair
from test_link import kill
from test_lost_flush import BLOCK, Lab, fails, lab, recorded

from mirror_core import config, ledger, mapfile, server_instance
from mirror_core.site import Site

MIB = 1 << 20
ELSEWHERE = ("env", "-u", "RUNTIME_DIRECTORY")
__all__ = ["lab"]
UNSEEN = 64 << 10  # no fingerprint of an orderly stop looks there
OLDER = "its ledger does not know: it may be an older one"


class Snapshot:
    """Of a folder: the very files, also those that are removed later, and what was in them."""

    def __init__(self, folder: Path) -> None:
        self._folder, aside = folder, folder.with_name("snapshot")
        aside.mkdir()
        self._files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self._aside = aside
        for name in self._files:
            (aside / name).hardlink_to(folder / name)

    def put_back(self, only: str = "") -> None:
        """Those whose names begin like that."""
        for name, data in self._files.items():
            if name.startswith(only):
                (self._aside / name).write_bytes(data)
                (self._folder / name).unlink(missing_ok=True)
                (self._folder / name).hardlink_to(self._aside / name)


def state_of(pair: Pair) -> Path:
    return pair.folder / "east/state"


def in_step(pair: Pair) -> None:
    """And the source's intent log is cold."""
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    pair.start("east")
    direct.sync(pair)


def within_a_cycle(pair: Pair) -> Snapshot:
    """Of the source's state; the cycle is committed since, and then the target went."""
    path, state = pair.toml("east"), state_of(pair)
    path.write_text('bandwidth = "2MiB/s"\n' + path.read_text())
    in_step(pair)
    with pair.client() as client:
        client.write(0, b"A" * 2 * MIB)
    direct.wait_for(lambda: ledger.load(state).begun > ledger.load(state).committed, "a cycle")
    saved = Snapshot(state)
    begun = ledger.load(state).begun
    direct.wait_for(lambda: ledger.load(state).committed == begun, "its commit")
    kill(pair, "west")
    return saved


def move_data(pair: Pair) -> None:
    """To another file, which is to be adopted."""
    data = pair.image("east", "disk")
    moved = data.with_name("moved")
    moved.write_bytes(data.read_bytes())
    moved.replace(data)


def write(pair: Pair, volume: str) -> None:
    with pair.client(volume) as client:
        client.write(6 * MIB + UNSEEN, b"B" * 4096)
        client.flush()


def maps(pair: Pair, volume: str) -> list[Path]:
    site = ledger.load(state_of(pair)).site
    return [*Path(os.environ["RUNTIME_DIRECTORY"]).glob(f"{site}-{volume}-*.maps")]


def is_equal(pair: Pair, *volumes: str) -> None:
    direct.resume(pair)
    direct.sync(pair)
    for volume in volumes:
        assert pair.image("east", volume).read_bytes() == pair.image("west", volume).read_bytes()


@pytest.mark.parametrize("only", ["", "disk2.intent"], ids=["state", "log"])
def test_an_adoption_forgets_nothing_that_maps_tell_of_another_volume(
    make_pair: MakePair, only: str
) -> None:
    """The data of one volume was moved, so it is adopted, and that ends the killed run, whose maps
    alone know what was written to the other one."""
    pair = make_pair("--size", "8M", "--volumes", "2")
    in_step(pair)
    direct.pause(pair)
    saved = Snapshot(state_of(pair))
    write(pair, "disk2")
    kill(pair, "east")
    saved.put_back(only)
    move_data(pair)
    with pytest.raises(CommandFailed, match="flashmirror adopt"):
        pair.start("east")
    pair.run("adopt", str(pair.toml("east")), "disk", "data", "--yes")
    pair.start("east")
    is_equal(pair, "disk", "disk2")


@pytest.mark.parametrize("lost", ["disk2", "none"])
def test_a_ledger_that_was_put_back_was_so_for_all_volumes(make_pair: MakePair, lost: str) -> None:
    """From within the cycle of the last commit.  One volume has no maps, as there was no memory for
    them; those of the other tell that the log of that one is old, too."""
    pair = make_pair("--size", "8M", "--volumes", "2")
    saved = within_a_cycle(pair)
    write(pair, "disk2")
    kill(pair, "east")
    saved.put_back()
    for file in maps(pair, lost):
        file.unlink()
    pair.start("west")
    pair.start("east")
    is_equal(pair, "disk", "disk2")
    assert OLDER in pair.log("east")


def test_an_adoption_elsewhere_hides_no_ledger_that_was_put_back(make_pair: MakePair) -> None:
    """A person gives the command where the service's own folder (RUNTIME_DIRECTORY) is not known:
    the start after that finds maps of the run before, which had committed more."""
    pair = make_pair("--size", "8M", "--volumes", "2")
    saved = within_a_cycle(pair)
    write(pair, "disk2")
    kill(pair, "east")
    saved.put_back()
    move_data(pair)
    words = ("adopt", str(pair.toml("east")), "disk", "data", "--yes")
    done = flashmirror(*words, prefix=ELSEWHERE)
    assert done.returncode == 0, done.stderr
    pair.start("west")
    pair.start("east")
    is_equal(pair, "disk", "disk2")
    assert OLDER in pair.log("east")


def test_what_a_ledger_that_was_put_back_says_of_the_target_is_not_told(
    make_pair: MakePair,
) -> None:
    """It tells of a commit, and since then the source may have met a target that holds nothing: all
    is exposed until one answers, over restarts, too.  Nor does anything tell of a loss."""
    pair = make_pair("--size", "8M")
    saved = within_a_cycle(pair)
    kill(pair, "east")
    saved.put_back()
    began, logs = ledger.load(state_of(pair)).since, list[str]()
    for _ in range(2):
        pair.start("east")
        status = pair.status()
        assert status["committed"] == {"sequence": None, "consistency_point": None}
        assert status["image_age_seconds"] is None and status["hardened_sequence"] is None
        assert status["data_exposure_seconds"] > time.time() - began - 1
        kill(pair, "east")
        logs.append(pair.log("east"))
    assert server_instance.PUT_BACK in logs[0] and server_instance.UNTOLD not in logs[0]
    assert server_instance.UNTOLD in logs[1]  # nobody has heard of it yet
    pair.start("west")
    pair.start("east")
    is_equal(pair, "disk")
    assert pair.status()["committed"]["sequence"]


def test_a_run_elsewhere_puts_nothing_back(make_pair: MakePair) -> None:
    """Killed as a service, started by hand where its maps are not found, stopped in order, and
    started as a service: those maps are older than the ledger."""
    pair = make_pair("--size", "8M")
    in_step(pair)
    kill(pair, "east")
    done = flashmirror("start", str(pair.toml("east")), prefix=ELSEWHERE)
    assert done.returncode == 0, done.stderr
    write(pair, "disk")
    direct.sync(pair)
    direct.stop(pair, "east")
    assert maps(pair, "disk")
    pair.start("east")
    is_equal(pair, "disk")
    assert OLDER not in pair.log("east")


@pytest.mark.parametrize(("site", "part"), [("east", "data")])
def test_a_loss_is_told_though_its_record_was_put_back(lab: Lab) -> None:
    """The store's own server, the same process, has lost what was acknowledged; the site is killed,
    and the record of that is an older one: who was to be told is not known, so each client is."""
    pair = lab.pair
    pair.stores["east", "data"] = lab.server.store(MIB)
    pair.create()
    pair.start()
    with pair.client() as client, pair.client() as other:
        client.write(0, b"old" * 4096)
        pair.sync()
        saved = Snapshot(pair.folder / "east/state")
        client.write(0, b"mid" * 4096)
        pair.sync()
        direct.pause(pair)
        other.write(0, b"new" * 4096)
        lab.server.fail("lose-later", "flush")
        assert fails(lambda: client.write(BLOCK * 8, b"x" * BLOCK, 1))
        lab.server.mend()
        eventually(lambda: recorded(pair) == {"disk": None}, "a record")
    kill(pair, "east")
    saved.put_back()
    pair.start("east")
    with pair.client() as client:
        assert fails(client.flush)


def another_target(pair: Pair) -> Callable[[], None]:
    """A new one, without an image, in place of the first, which the answer puts back."""
    west = pair.folder / "west"
    first = west.rename(pair.folder / "first")
    west.mkdir()
    for name in ("disk.img", "disk.intermediate.img"):
        (west / name).touch()
        os.truncate(west / name, 8 * MIB)
    pair.run("create", str(pair.toml("west")), "--role", "target")

    def first_again() -> None:
        west.rename(pair.folder / "second")
        first.rename(west)

    return first_again


def test_a_state_from_before_another_target_was_met_is_noticed(make_pair: MakePair) -> None:
    """With that one, which had no image, the number of the last commit was 0: less than that of the
    ledger that is put back."""
    pair = make_pair("--size", "8M")
    in_step(pair)
    direct.pause(pair)
    saved = Snapshot(state_of(pair))
    kill(pair, "west")
    first_again = another_target(pair)
    pair.start("west")
    direct.wait_for(lambda: ledger.load(state_of(pair)).committed == 0, "it has met the other one")
    write(pair, "disk")
    kill(pair, "east")
    kill(pair, "west")
    first_again()
    saved.put_back()
    pair.start("west")
    pair.start("east")
    is_equal(pair, "disk")
    assert OLDER in pair.log("east")


def test_a_kill_beside_the_record_of_a_commit_costs_no_comparison(handmade: Handmade) -> None:
    """The ledger names the commit, the maps have not heard that it stands: they count with it."""
    handmade.create()
    state = handmade.folder / "east/state"
    site = Site(config.load(east(handmade)))
    site.start()
    committed = site.book.current.committed + 1
    stands = site.book.told.copy()
    site.book.told.clear()  # killed here
    site.book.update(committed=committed, committed_token="1" * 32)
    book = ledger.load(state)
    assert (book.committed, mapfile.look(book)) == (committed, mapfile.Found.OURS)
    for tell in stands:
        tell(book)
    assert mapfile.look(ledger.load(state)) is mapfile.Found.OURS
    assert mapfile.look(replace(book, committed_token="2" * 32)) is mapfile.Found.LATER
    site.ending()
    site.stop()


def test_an_end_in_order_that_was_not_the_last_ends_no_doubt(handmade: Handmade) -> None:
    """A run since then was killed: what its caches show may not be on the disk, and somebody may
    still be to be told of a loss."""
    handmade.create()
    handmade.start("east")
    handmade.stop("east")
    saved = Snapshot(handmade.folder / "east/state")
    handmade.start("east")
    kill(handmade, "east")
    saved.put_back()
    site = Site(config.load(east(handmade)))
    assert site.book.current.clean and not site.book.current.copied
    assert site.members[0].native.doubts_front()
    site.start()
    assert site.book.current.doubtful_before
    site.ending()
    site.stop()


@pytest.mark.parametrize("order", [True, False], ids=["stopped", "killed"])
def test_a_state_from_before_a_run_that_no_target_met_is_noticed(
    make_pair: MakePair, order: bool
) -> None:
    """It names the run before, which the target has met, however that ended; the maps of the one
    since are in memory."""
    pair = make_pair("--size", "8M")
    in_step(pair)
    direct.pause(pair)
    kill(pair, "west")
    if order:
        direct.stop(pair, "east")
    else:
        kill(pair, "east")
    saved = Snapshot(state_of(pair))
    pair.start("east")
    write(pair, "disk")
    kill(pair, "east")
    saved.put_back()
    pair.start("west")
    pair.start("east")
    is_equal(pair, "disk")
