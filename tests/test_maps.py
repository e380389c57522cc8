"""A killed source knows to the block what it has to send; without its maps the log decides."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import direct
import pytest
from handmade import copied_first
from pair import MakePair, Pair
from served import SlowPair
from test_link import kill, lose_power

from mirror_core import ledger, written

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = 4096


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
        assert "what was hot" not in pair.log("east")
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
    assert "its maps are whole" in pair.log("east")


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
        pytest.param(change(50, b"x"), id="another run"),
        pytest.param(change(80, b"x"), id="another boot"),
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
