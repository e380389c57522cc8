"""A killed source knows to the block what it has to send; without its maps the log decides."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import copied_first
from pair import MakePair, Pair
from served import SlowPair
from test_link import kill, lose_power
from test_server_instance import SOURCE

from mirror_core import ledger, mapfile, native, written
from mirror_core.errors import LedgerError

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = 4096
# So the target says, and the source sends everything, if a cycle lacks what one before had sent.
LEFT_OUT = "a cycle left out what an abandoned one had written"


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    """In step, paused, everything hot."""
    pair = make_pair("--size", str(SIZE))
    pair.start()
    with pair.client() as client:
        for at in range(0, SIZE, MIB):
            client.write(at, random.Random(at).randbytes(MIB))
    direct.sync(pair)
    direct.pause(pair)
    return pair


def maps() -> list[Path]:
    return list(Path(os.environ["RUNTIME_DIRECTORY"]).glob("*.maps"))


def write_some(pair: Pair, seed: int, blocks: int) -> None:
    """In other blocks for each seed."""
    rng = random.Random(seed)
    with pair.client() as client:
        for i in rng.sample(range(SIZE // BLOCK // 8), blocks):
            client.write((8 * i + seed) * BLOCK + 7, rng.randbytes(100))


def copied_after_start(pair: Pair) -> int:
    pair.start("east")
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    return copied_first(pair)


@pytest.mark.parametrize("end", [kill, lose_power])
def test_the_ledger_of_a_source_that_runs_has_no_maps(
    pair: Pair, end: Callable[[Pair, str], None]
) -> None:
    """Those of its last stop are of no use any more, and each cycle would write them twice.  What
    ends the source right after its start takes nothing along: all that was not sent at the stop is
    known to the next process."""
    state, blocks = pair.folder / "east/state", 1500
    before = ledger.path_in(state).stat().st_size
    write_some(pair, 1, blocks)
    direct.stop(pair, "east")
    stopped = ledger.path_in(state).stat().st_size
    assert stopped > before + 2 * blocks, "the maps of a stop stand in the ledger"
    pair.start("east")
    assert ledger.path_in(state).stat().st_size < before + 100
    end(pair, "east")
    copied = copied_after_start(pair)
    assert copied == blocks * BLOCK if end is kill else copied >= blocks * BLOCK


def test_a_killed_source_sends_exactly_what_was_written(pair: Pair) -> None:
    """Of 64 MiB that are all hot 300 blocks are written, in lives that end by kills: these
    blocks are sent, and no other."""
    for seed in range(3):
        if seed:
            pair.start("east")
        write_some(pair, seed, 100)
        kill(pair, "east")
    assert copied_after_start(pair) == 300 * BLOCK
    assert "its maps are whole" in pair.log("east")


def test_a_cycle_cut_short_by_a_kill_is_begun_again(make_pair: MakePair) -> None:
    """Killed with blocks in every map, while both copies run, a source forgets none of them."""
    slow = SlowPair(make_pair("--size", "8M", "--volumes", "2"))
    try:
        slow.begin()
        pair, rng = slow.pair, random.Random(6)
        for _ in range(3):
            with pair.client() as client:
                for _ in range(400):
                    client.write(rng.randrange(2000) * BLOCK, rng.randbytes(BLOCK))
            kill(pair, "east")
            pair.start("east")
        slow.change_speed(slow=False)
        direct.sync(pair)
        assert "what was hot" not in pair.log("east") and LEFT_OUT not in pair.log("east")
        for volume in ("disk", "disk2"):
            image = pair.image("west", volume).read_bytes()
            assert pair.image("east", volume).read_bytes() == image
    finally:
        slow.end()


def test_a_killed_source_forgets_neither_unsent_nor_stable_blocks(make_pair: MakePair) -> None:
    """With preserve = first a cycle stands in the first intermediate long before it is sent.
    Killed when a part of it is stable at the target, a part was sent and most was not, the source
    sends all of it again."""
    pair, rng = make_pair("--size", "16M"), random.Random(7)
    pair.configure("east", 'preserve = "first"')
    pair.start()
    direct.sync(pair)
    direct.pause(pair)
    with pair.client() as client:
        for at in range(0, 8 * MIB, MIB):
            client.write(at, rng.randbytes(MIB))
    direct.ask(pair, {"op": "bandwidth", "rate": MIB // 2})
    direct.resume(pair)
    state = pair.folder / "west" / "state"

    def serial() -> int:  # of the target's last record; the source has heard of the one before
        found, _ = written.recover(state, ledger.load(state))
        return found.serial

    direct.wait_for(lambda: serial() >= 1, "a stable record")
    first = serial()
    direct.wait_for(lambda: serial() > first, "another one")
    assert copied_first(pair) >= 8 * MIB
    assert direct.status(pair)["volumes"][0]["pending_bytes"] > MIB
    kill(pair, "east")
    pair.start("east")
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    assert "its maps are whole" in pair.log("east") and LEFT_OUT not in pair.log("east")
    assert copied_first(pair) == 8 * MIB


def change(at: int, byte: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(byte)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="gone"),
        pytest.param(lambda path: os.truncate(path, 8192), id="cut"),
        pytest.param(change(0, b"x"), id="no maps"),
        pytest.param(change(76, b"x"), id="another run"),
        pytest.param(change(108, b"x"), id="another boot"),
        pytest.param(change(4088, b"\0"), id="not whole"),
    ],
)
def test_maps_that_do_not_count_are_left_alone(pair: Pair, damage: Callable[[Path], None]) -> None:
    """Of another run, another boot, or not whole: then what was hot is compared, and both
    sites are equal; nothing is left behind by an orderly stop."""
    write_some(pair, 1, 50)
    kill(pair, "east")
    for path in maps():
        damage(path)
    assert copied_after_start(pair) == SIZE
    assert "what was hot is compared" in pair.log("east")
    direct.stop(pair, "east")
    assert maps() == []


def a_volume(
    folder: Path, name: str
) -> tuple[native.Volume, list[native.Store], ledger.VolumeRecord]:
    """Of 16 blocks, its stores, and its record in the ledger."""
    stores = []
    for part in ("data", "intermediate"):
        path = folder / f"{name}.{part}"
        path.touch()
        os.truncate(path, 16 * BLOCK)
        stores.append(native.Store.file(os.open(path, os.O_RDWR), 16 * BLOCK))
    store = ledger.StoreRecord("file", "1")
    record = ledger.VolumeRecord(name, 16 * BLOCK, BLOCK, store, store)
    return native.Volume(stores[0], stores[1], 16 * BLOCK, BLOCK, False), stores, record


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[tuple[native.Volume, ledger.VolumeRecord]]:
    volume, stores, record = a_volume(folder, name)
    try:
        yield volume, record
    finally:
        volume.close()
        for store in stores:
            store.close()


def restored(folder: Path, name: str, book: ledger.Ledger) -> tuple[bool, list[tuple[int, int]]]:
    """Whether the maps tell anything, and what is in `next` then."""
    with opened(folder, name) as (volume, record):
        return mapfile.restore(book, record, volume), list(volume.runs(native.NEXT))


@pytest.fixture
def kept(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where maps are kept."""
    folder = scratch / "maps"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    return folder


BOOK = replace(
    SOURCE, run="1" * 32, begun=5, begun_token="5" * 32, committed=4, committed_token="4" * 32
)
HEAD = {
    "version": 8,
    "site": 12,
    "lineage": 44,
    "run": 76,
    "boot": 108,
    "size": 144,
    "block size": 152,
    "checksum": 160,
}


def test_each_field_of_kept_maps_says_whose_they_are(scratch: Path, kept: Path) -> None:
    """They count with all of them, and with another value of any of them they tell nothing."""
    with opened(scratch, "disk") as (volume, record):
        mapfile.share(BOOK, record, BOOK.run, volume).close()
        volume.mark(3, 2)
    (path,) = kept.glob("*.maps")
    right = path.read_bytes()
    assert restored(scratch, "disk", BOOK) == (True, [(3, 2)])
    for field, at in HEAD.items():
        path.write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        assert restored(scratch, "disk", BOOK) == (False, []), field
    path.write_bytes(right)
    assert restored(scratch, "disk", BOOK) == (True, [(3, 2)])


BEFORE = replace(BOOK, run="2" * 32, runs=("2" * 32,))  # that of the start
AFTER = replace(BOOK, committed=5, committed_token="5" * 32)
NO_IMAGE = replace(BOOK, committed=0, committed_token="")


@pytest.fixture
def shared(scratch: Path, kept: Path) -> Iterator[mapfile.Kept]:
    """Maps of BOOK's run, which a ledger is about to name."""
    with opened(scratch, "disk") as (volume, record):
        maps = mapfile.share(BEFORE, record, BOOK.run, volume)
        yield maps
        maps.close()


def test_maps_count_with_the_ledger_that_stands_whenever_their_process_is_killed(
    shared: mapfile.Kept,
) -> None:
    """A kill between any two steps of a change leaves the ledger of before, or that of after, and
    maps which have forgotten nothing that this one lacks; with any other one, also one that tells
    of a smaller number, they tell that it was put back."""
    found = mapfile.Found
    assert (mapfile.look(BEFORE), mapfile.look(BOOK)) == (found.NOTHING, found.OURS)
    shared.may_go_with(BOOK)
    assert (mapfile.look(BEFORE), mapfile.look(BOOK)) == (found.NOTHING, found.OURS)
    shared.go_with(BOOK)
    assert (mapfile.look(BEFORE), mapfile.look(BOOK)) == (found.LATER, found.OURS)
    for before, after in ((BOOK, AFTER), (AFTER, NO_IMAGE), (NO_IMAGE, BOOK)):
        (other,) = (one for one in (BOOK, AFTER, NO_IMAGE) if one not in (before, after))
        shared.may_go_with(after)
        assert {mapfile.look(before), mapfile.look(after)} == {found.OURS}
        assert mapfile.look(other) is found.LATER
        shared.go_with(after)
        assert mapfile.look(after) is found.OURS
        assert {mapfile.look(before), mapfile.look(other)} == {found.LATER}
    assert mapfile.look(replace(BOOK, committed_token="6" * 32)) is found.LATER
    assert mapfile.look(replace(BOOK, begun=BOOK.begun - 1)) is found.LATER
    assert mapfile.look(replace(BOOK, begun_token="6" * 32)) is found.LATER


def test_a_change_that_was_not_recorded_leaves_the_maps_with_what_stands(
    shared: mapfile.Kept,
) -> None:
    """Its disk is full: the ledger of before stands, and another change may come."""
    shared.go_with(BOOK)
    shared.may_go_with(AFTER)
    shared.may_go_with(NO_IMAGE)
    assert mapfile.look(BOOK) is mapfile.Found.OURS
    assert mapfile.look(AFTER) is mapfile.Found.LATER


def test_maps_of_a_run_that_no_ledger_has_named_tell_nothing(shared: mapfile.Kept) -> None:
    """A start that was killed, which may have written into the ledger of the run before."""
    harmed = replace(BEFORE, unflushed=("file:1",))
    shared.may_go_with(harmed)
    shared.go_with(harmed)
    assert mapfile.look(harmed) is mapfile.look(BEFORE) is mapfile.Found.NOTHING


def test_maps_of_an_earlier_run_tell_nothing_of_the_ledger(shared: mapfile.Kept) -> None:
    """They were left in a folder in which no run since has looked."""
    shared.go_with(BOOK)
    later = replace(BOOK, run="3" * 32, runs=(BOOK.run, "3" * 32))
    another = ledger.Lineage("7" * 32)  # it has changed its role twice since
    assert mapfile.look(replace(AFTER, lineage=another, begun=1)) is mapfile.Found.NOTHING
    unknown = replace(later, runs=("3" * 32,))
    assert mapfile.look(later) is mapfile.Found.NOTHING
    assert mapfile.look(replace(unknown, begun=BOOK.begun + 1)) is mapfile.Found.NOTHING
    assert mapfile.look(unknown) is mapfile.Found.LATER
    for older in ({"begun": BOOK.begun - 1}, {"committed": 3}, {"committed_token": "6" * 32}):
        adopted = replace(later, **older)
        assert mapfile.look(adopted) is mapfile.Found.LATER, older


def test_maps_of_a_later_ledger_are_restored_beside_no_other(
    scratch: Path, shared: mapfile.Kept
) -> None:
    """Who looked for them first could not read them for a moment (no descriptor, no memory): what
    they have forgotten is to be known to the ledger."""
    shared.go_with(BOOK)
    assert restored(scratch, "disk", BOOK) == (True, [])
    shared.may_go_with(AFTER)
    assert restored(scratch, "disk", BOOK) == restored(scratch, "disk", AFTER) == (True, [])
    shared.go_with(AFTER)
    with pytest.raises(LedgerError, match="start the site again"):
        restored(scratch, "disk", BOOK)


def test_what_is_no_page_of_maps_of_ours_proves_nothing(shared: mapfile.Kept, kept: Path) -> None:
    """Damaged, of another version, or cut: the intent log decides."""
    shared.go_with(AFTER)
    (path,) = kept.glob("*.maps")
    right = path.read_bytes()
    assert mapfile.look(BOOK) is mapfile.Found.LATER
    for at in (0, HEAD["version"], HEAD["run"], HEAD["checksum"]):
        path.write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        assert mapfile.look(BOOK) is mapfile.Found.NOTHING
    path.write_bytes(right[:4000])
    assert mapfile.look(BOOK) is mapfile.Found.NOTHING


@pytest.mark.root("gives a folder to another user")
def test_nobody_looks_into_a_folder_of_another_user(
    scratch: Path, shared: mapfile.Kept, kept: Path
) -> None:
    """Who may put there what he likes."""
    shared.go_with(BOOK)
    os.chown(kept, 1, 1)
    assert mapfile.look(AFTER) is mapfile.Found.NOTHING
    assert restored(scratch, "disk", BOOK) == (False, [])
    mapfile.remove(BOOK.site, BOOK.run)
    assert list(kept.glob("*.maps"))


def test_maps_of_an_older_run_do_not_count(pair: Pair) -> None:
    """Put back from before the last start, they would hide what was written since."""
    kill(pair, "east")
    old = {path: path.read_bytes() for path in maps()}
    pair.start("east")
    write_some(pair, 2, 50)
    lose_power(pair, "east")
    for path, data in old.items():
        path.write_bytes(data)
    assert copied_after_start(pair) == SIZE


def test_the_next_folder_serves_when_one_cannot(make_pair: MakePair) -> None:
    """A folder that cannot be made is passed over: the next one serves, and a kill costs no
    more than it did."""
    nowhere = "/proc/self/nowhere"
    pair = make_pair("--size", str(SIZE), environment={"RUNTIME_DIRECTORY": nowhere})
    pair.start()
    direct.sync(pair)
    direct.pause(pair)
    write_some(pair, 1, 50)
    kill(pair, "east")
    assert maps() == [] and copied_after_start(pair) == 50 * BLOCK
    direct.stop(pair, "east")


def test_a_killed_source_hears_of_the_last_commit(pair: Pair) -> None:
    """Its own ledger is a cycle behind; the target tells it which point it holds, and of when."""
    before = direct.status(pair)["committed"]
    kill(pair, "east")
    pair.start("east")
    direct.wait_for(lambda: direct.status(pair)["peer"]["state"] == "connected", "a session")
    assert direct.status(pair)["committed"] == before
    assert direct.status(pair, "west")["committed"] == before
