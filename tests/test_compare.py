"""After an end without order only what differs travels; the rest is compared by checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import Handmade, scrape, value
from nbd_client import NbdClient
from pair import MakePair, Pair
from pyroaring import BitMap64
from served import Faulty, Server
from test_link import kill, lose_power

from mirror_core import compare, config, flashcopy, ledger, limits, native
from mirror_core.errors import PeerError
from mirror_core.protocol import Commit, Compare, Record, record_of

MIB = 1 << 20
SIZE = 64 * MIB


def filled(make_pair: MakePair, *options: str) -> Pair:
    """Both sites hold the same random bytes, all regions are hot, and mirroring is paused."""
    pair = make_pair("--size", str(SIZE), *options)
    pair.start()
    rng = random.Random(3)
    with pair.client() as client:
        for at in range(0, SIZE, MIB):
            client.write(at, rng.randbytes(MIB))
    direct.sync(pair)
    direct.pause(pair)
    return pair


def wire(pair: Pair) -> float:
    return value(scrape(pair), 'wire_bytes_total{volume="disk"}')


def lost_and_synced(pair: Pair) -> float:
    """Wire bytes of a source that lost what it knew of its blocks, until both are equal."""
    lose_power(pair, "east")
    pair.start("east")
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    return wire(pair)


@pytest.mark.parametrize("end", [direct.stop, kill])
def test_what_is_to_be_compared_is_over_a_restart(
    make_pair: MakePair, end: Callable[[Pair, str], None]
) -> None:
    """After a power loss the source ends once more before its cycle is committed, in order or
    not, with its maps; and once more: they tell what may differ, which still is compared.  After a
    commit they tell what does, and that is sent."""
    pair = filled(make_pair)
    direct.stop(pair, "west")
    lose_power(pair, "east")
    for _ in range(2):
        pair.start("east")
        end(pair, "east")
    before = len(pair.log("east"))
    pair.start()
    assert "its maps are whole" not in pair.log("east")[before:]
    direct.sync(pair)
    assert wire(pair) < SIZE // 50
    assert value(scrape(pair), 'equal_bytes_total{volume="disk"}') == SIZE
    with pair.client() as client:
        client.write(5 * MIB, client.read(5 * MIB, MIB))  # a comparison would find it equal
    end(pair, "east")
    pair.start("east")
    direct.sync(pair)
    assert wire(pair) >= MIB and value(scrape(pair), 'equal_bytes_total{volume="disk"}') == 0
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


@pytest.mark.parametrize("block", [512, 4096, 64 * 1024])
def test_only_what_differs_travels(make_pair: MakePair, block: int) -> None:
    """64 MiB that may differ, of which 200 pieces do: their bytes, and 1 % for checksums."""
    pair = filled(make_pair, "--block-size", str(block))
    unit = max(block, 4096)
    places = sorted(random.Random(4).sample(range(SIZE // unit), 200))
    with pair.client() as client:
        for i, place in enumerate(places):
            client.write(place * unit, b"%08d" % i * (unit // 8))
    sent = lost_and_synced(pair)
    assert 200 * unit <= sent <= 1.2 * 200 * unit + SIZE // 100
    assert value(scrape(pair), 'equal_bytes_total{volume="disk"}') == SIZE - 200 * unit


def test_writes_go_on_while_blocks_are_compared(make_pair: MakePair) -> None:
    """Writers meet blocks that are compared, and blocks that were: each image is of one moment,
    and at the end both are equal."""
    pair = filled(make_pair)
    lose_power(pair, "east")
    pair.start("east")
    sequence = direct.ask(pair, {"op": "sync"})["sequence"]
    rng = random.Random(5)
    with pair.client() as client:
        while not direct.ask(pair, {"op": "wait", "sequence": sequence})["done"]:
            for _ in range(50):
                client.write(rng.randrange(SIZE // 512) * 512, rng.randbytes(512))
    direct.sync(pair)
    assert value(scrape(pair), 'equal_bytes_total{volume="disk"}') > SIZE // 2
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


def test_a_comparison_cut_short_is_made_again(make_pair: MakePair) -> None:
    """The target is killed while blocks are compared, once it has found some equal: what it
    forgot is compared or sent again."""
    pair = filled(make_pair)
    with pair.client() as client:
        client.write(5 * MIB, b"x" * MIB)
    lose_power(pair, "east")
    pair.start("east")
    direct.ask(pair, {"op": "sync"})
    direct.wait_for(
        lambda: value(scrape(pair), 'equal_bytes_total{volume="disk"}') > 0, "the first are equal"
    )
    kill(pair, "west")
    pair.start("west")
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


class Copied:
    """A volume all of whose blocks are in the first intermediate, and may be in the second."""

    def __init__(self, folder: Path) -> None:
        self.stores = []
        for name in ("front", "first", "second", "second"):
            fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.truncate(fd, MIB)
            self.stores.append(native.Store.file(fd, MIB))
        self.volume = native.Volume(self.stores[0], self.stores[1], MIB, 4096, False)
        self.members = (flashcopy.Member("disk", self.volume),)
        self.copier = flashcopy.Flashcopy(self.members)
        self.copier.link([self.stores[2]])
        self.copier.compare(True)
        flashcopy.mark(self.volume, BitMap64(range(self.volume.blocks)), pending=True)
        while not self.copier.copy(1.0):
            pass
        self.comparison = compare.Comparison(self.members, compare.Reader())

    def loses_its_session(self) -> None:
        self.copier.part(errno.EIO)
        self.copier.link([self.stores[3]])
        self.comparison = self.comparison.again(self.members)

    def close(self) -> None:
        self.copier.fail(errno.ESHUTDOWN)
        self.copier.unlink()
        self.volume.close()
        for store in self.stores:
            store.close()


@pytest.fixture
def copied(scratch: Path) -> Iterator[Copied]:
    made = Copied(scratch)
    yield made
    made.close()


def test_a_comparison_goes_on_in_the_next_session(copied: Copied) -> None:
    """Of the same cycle: what was found different is not asked for once more; what was found equal
    is, for only that session had it."""
    asked = copied.comparison.ask(1, 1)
    assert asked and asked.runs == ((0, limits.COMPARE_SUMS_FIRST),)
    copied.comparison.take({"equal": "01" * (limits.COMPARE_SUMS_FIRST // 2)})
    copied.loses_its_session()
    asked = copied.comparison.ask(2, 1)
    again = tuple((block, 1) for block in range(1, limits.COMPARE_SUMS_FIRST, 2))
    assert asked and asked.runs[: len(again) - 1] == again[:-1]
    assert asked.runs[len(again) - 1][0] == again[-1][0]


def test_the_next_session_does_not_walk_over_what_is_known(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of much that differs that takes long, and the control hears nobody meanwhile: no more pieces
    are looked at than are unknown."""
    known = BitMap64(range(1, left := copied.volume.blocks - 3))
    told = 0
    while told < left:
        asked = copied.comparison.ask(1, 1)
        assert asked
        most = min(len(asked.sums) // compare.SUM_BYTES, left - told)
        bits = "".join("01"[told + i not in known] for i in range(most))
        copied.comparison.take({"equal": bits})
        told += most
    copied.loses_its_session()
    looked: list[compare.Run] = []
    pieces_of = compare.pieces_of

    def seen(runs: Iterable[compare.Run], unit: int) -> Iterator[compare.Run]:
        for piece in pieces_of(runs, unit):
            looked.append(piece)
            yield piece

    monkeypatch.setattr(compare, "pieces_of", seen)
    asked = copied.comparison.ask(2, 1)
    assert asked and asked.runs == ((0, 1), (left, 3))
    assert looked == [(0, 1), (left, 1), (left + 1, 1), (left + 2, 1)]


def test_what_is_unknown_is_walked_over_once() -> None:
    """However much of it there is, and however it lies; all of it at once would not be held."""
    window = compare.WINDOW
    runs = [(0, 1), (window - 1, 2), (5 * window, 3 * window + 7), (1 << 34, 1)]
    unknown = BitMap64()
    for first, count in runs:
        unknown.add_range(first, first + count)
    walked = BitMap64()
    for first, count in compare.runs_of(unknown.copy()):
        assert 0 < count <= window and walked.range_cardinality(first, first + count) == 0
        walked.add_range(first, first + count)
    assert walked == unknown


@pytest.mark.parametrize("after", ["a-seed", "a-blank-intermediate"])
def test_what_is_in_the_target_s_data_alone_is_not_sent(make_pair: MakePair, after: str) -> None:
    """Its intermediate never held what a seed held, nor what was there before it was lost; but the
    image has all of it."""
    pair = make_pair("--size", str(8 * MIB))
    west, intermediate = str(pair.toml("west")), pair.folder / "west/disk.intermediate.img"
    pair.start("east")
    with pair.client() as client:
        client.write(0, random.Random(3).randbytes(8 * MIB))
    if after == "a-seed":
        shutil.copyfile(pair.image("east"), pair.image("west"))
        pair.run("seed", west)
    pair.start("west")
    direct.sync(pair)
    if after == "a-blank-intermediate":
        direct.stop(pair, "west")
        intermediate.unlink()
        intermediate.touch()
        os.truncate(intermediate, 8 * MIB)
        pair.run("adopt", west, "disk", "intermediate", "--yes")
        pair.start("west")
    with pair.client() as client:
        client.write(4 * MIB, b"other" * 1000)
    assert lost_and_synced(pair) < MIB


OLD, NEW = b"o" * 4096, b"n" * 4096


@pytest.fixture
def data(scratch: Path, handmade: Handmade) -> Iterator[Faulty]:
    """Of a target that has OLD everywhere, in its data too; its source is stopped."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.create()
    handmade.start()
    with handmade.client() as client:
        client.write(0, OLD * (handmade.size // 4096))
    direct.sync(handmade)
    handmade.stop("east")
    yield server
    handmade.kill()
    server.stop()


def opened(pair: Handmade, session: int) -> int:
    """With a session, which has written NEW to block 7; the sequence of the cycle under way."""
    hello = direct.hello(pair, session)
    sequence = int(hello["committed"]) + 1
    hello.update(begun=sequence, begun_token="c" * 32)
    direct.ask(pair, hello, "west")
    device = config.load(str(pair.toml("west"))).device_uri(f"disk/intermediate/{session}")
    with NbdClient(device) as client:
        client.write(7 * 4096, NEW)
    return sequence


def has_old(pair: Handmade, session: int, sequence: int) -> str:
    """Which of the blocks 6 to 8 the target finds equal to OLD."""
    sums = hashlib.blake2b(OLD, digest_size=16).digest() * 3
    asked = record_of(Compare(session, sequence, "disk", ((6, 3),), sums))
    return str(direct.ask(pair, asked, "west")["equal"])


def test_what_is_written_or_owed_is_not_found_in_the_data(handmade: Handmade, data: Faulty) -> None:
    """The image would read the intermediate, where a write may have ended in its middle; and what
    an older cycle has written there its source is to write again."""
    sequence = opened(handmade, 5)
    assert has_old(handmade, 5, sequence) == "101"
    hello = {**direct.hello(handmade, 6), "begun": sequence, "begun_token": "d" * 32}
    direct.ask(handmade, hello, "west")
    assert has_old(handmade, 6, sequence) == "101"


def test_what_is_not_hardened_is_not_found_in_the_data(handmade: Handmade, data: Faulty) -> None:
    """It holds the image of before: what equals that would be another block in the next image."""
    sequence = opened(handmade, 5)
    data.fail("EIO", "pwrite")
    hello = direct.hello(handmade, 5)
    commit = Commit(hello["lineage"], 5, sequence, 1.0, "c" * 32)
    direct.wait_for(lambda: bool(direct.ask(handmade, record_of(commit), "west")["done"]), "commit")
    assert has_old(handmade, 5, sequence + 1) == "101"
    data.mend()
    direct.wait_for(
        lambda: direct.status(handmade, "west")["hardened_sequence"] == sequence, "hardened"
    )
    assert has_old(handmade, 5, sequence + 1) == "101"


@pytest.mark.parametrize("doubt", [{"whole": False}, {"doubtful_data": True}])
def test_nothing_is_found_in_data_that_is_no_image_or_in_doubt(
    handmade: Handmade, data: Faulty, doubt: dict[str, Any]
) -> None:
    """Such as what an older version of the program did not flush for sure."""
    handmade.stop("west")
    state, intermediate = handmade.folder / "west/state", handmade.store("west", "intermediate")
    nothing: dict[str, Any] = {}
    for changes, expected in ((nothing, "111"), (doubt, "000")):
        book = ledger.load(state)
        blank = replace(book.volumes[0].intermediate, fingerprint=None)
        volumes = (replace(book.volumes[0], intermediate=blank),)
        ledger.save(state, replace(book, volumes=volumes, **changes))
        Path(intermediate).write_bytes(bytes(handmade.size))
        handmade.start("west")
        hello = direct.hello(handmade, 5)
        sequence = int(hello["committed"]) + 1
        direct.ask(handmade, {**hello, "begun": sequence, "begun_token": "c" * 32}, "west")
        assert has_old(handmade, 5, sequence) == expected
        handmade.stop("west")


def test_a_comparison_of_another_session_is_refused(make_pair: MakePair) -> None:
    """Whoever does not hold the session changes nothing and learns nothing; a source is asked
    nothing at all."""
    pair = filled(make_pair)
    for asked in (Compare(1, 2, "disk", ((0, 1),), bytes(16)), Compare(0, 0, "x", (), b"")):
        for site in ("west", "east"):
            with pytest.raises(PeerError, match="session is over"):
                direct.ask(pair, record_of(asked), site)


def test_a_comparison_that_comes_late_is_refused(make_pair: MakePair) -> None:
    """What is found equal for a cycle that is committed would count for the next one, which
    then would have to write the block again if it were abandoned."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    committed = direct.status(pair, "west")["committed"]["sequence"]
    direct.ask(pair, direct.hello(pair, 5), "west")
    zeroes = hashlib.blake2b(bytes(limits.BLOCK_SIZE_DEFAULT), digest_size=16).digest()
    late, timely = (
        record_of(Compare(5, sequence, "disk", ((0, 1),), zeroes))
        for sequence in (committed, committed + 1)
    )
    with pytest.raises(PeerError, match="asked too late"):
        direct.ask(pair, late, "west")
    assert direct.ask(pair, timely, "west")["equal"] == "1"


def test_a_comparison_is_bounded_in_bytes(handmade: Handmade) -> None:
    """A peer that asks for the same blocks again and again is refused before anything is read; one
    piece may be as large as it is."""
    handmade.more = 'block_size = "64K"\n'
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    direct.stop(handmade, "east")
    committed = direct.status(handmade, "west")["committed"]["sequence"]
    direct.ask(handmade, direct.hello(handmade, 5), "west")

    def asked(runs: int) -> Record:
        sums = bytes(compare.SUM_BYTES * 2 * runs)
        return record_of(Compare(5, committed + 1, "disk", ((0, 2),) * runs, sums))

    most = limits.COMPARE_BYTES // (2 << 16)
    assert direct.ask(handmade, asked(most), "west")["equal"]
    with pytest.raises(PeerError, match="more than 16777216 bytes"):
        direct.ask(handmade, asked(most + 1), "west")


def test_a_comparison_goes_on_without_the_data_store(
    handmade: Handmade, scratch: Path, request: pytest.FixtureRequest
) -> None:
    """The target's data is compared only where its intermediate differs, and a commit needs nothing
    of it: while its server is away what was hot gets to its next point."""
    server = Server(scratch / "served.img")
    request.addfinalizer(server.stop)
    server.image.touch()
    os.truncate(server.image, handmade.size)
    server.start()
    handmade.stores["west", "data"] = server.uri
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    with handmade.client() as client:
        client.write(0, b"x" * 4096)
        client.flush()
    lose_power(handmade, "east")
    before = direct.status(handmade, "west")["committed"]["sequence"]
    server.stop()
    handmade.start("east")
    direct.wait_for(
        lambda: (direct.status(handmade, "west")["committed"]["sequence"] or 0) > before,
        "the next point",
    )
