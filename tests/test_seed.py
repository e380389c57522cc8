"""A target that begins with a copy brought by other means takes only what differs from it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import Handmade, refused, scrape, value
from nbd_client import NbdClient, NbdError
from pair import FLASHMIRROR, CommandFailed, MakePair, Pair, some
from pyroaring import BitMap64
from served import Faulty
from test_ledger import sample
from test_link import kill

from mirror_core import config, ledger, protocol, resync

MIB = 1 << 20
SIZE = 48 * MIB
CHANGED = 150  # blocks of 4 KiB, after the copy was taken


@pytest.fixture
def couriered(make_pair: MakePair) -> Pair:
    """The source runs; the target, which never met it, holds an older copy of its data."""
    pair = make_pair("--size", str(SIZE))
    rng = random.Random(8)
    pair.start("east")
    with pair.client() as client:
        for at in range(0, SIZE // 2, MIB):  # the rest is a hole
            client.write(at, rng.randbytes(MIB))
        shutil.copyfile(pair.image("east"), pair.image("west"))
        for place in rng.sample(range(SIZE // 4096), CHANGED):
            client.write(place * 4096, rng.randbytes(4096))
    return pair


def wire(pair: Pair) -> float:
    return value(scrape(pair), 'wire_bytes_total{volume="disk"}')


def check(pair: Pair, most: float) -> None:
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    assert CHANGED * 4096 <= wire(pair) <= most
    status = direct.status(pair, "west")
    assert status["state"] == "mirroring" and status["committed"]["sequence"]


def test_only_what_differs_from_a_seed_is_sent(couriered: Pair) -> None:
    """The checksums of what is equal travel instead of it, and after that all is as ever."""
    couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    check(couriered, 1.2 * CHANGED * 4096 + SIZE / 100)
    before = wire(couriered)
    with couriered.client() as client:
        client.write(MIB, b"after" * 1000)
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()
    assert wire(couriered) - before == 2 * 4096, "nothing is compared any more"


def test_a_seed_survives_kills_of_either_site(couriered: Pair) -> None:
    """Killed while it is compared, the target or the source begins again, and ends equal."""
    couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    equal = 'equal_bytes_total{volume="disk"}'

    def goes_on() -> bool:
        return value(scrape(couriered), equal) > 0

    for site in ("west", "east"):
        direct.wait_for(goes_on, "something is equal")
        kill(couriered, site)
        couriered.start(site)
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()


def test_a_seed_is_flushed_before_it_counts(scratch: Path, handmade: Handmade) -> None:
    """What is found equal is not written again, so it is made durable first: a target whose power
    is lost after the first commit, and before its data stores were flushed by anything else, has
    the image."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.create()
    handmade.start("east")
    data = random.Random(3).randbytes(handmade.size)
    with handmade.client() as client, NbdClient(server.uri) as disk:
        client.write(0, data)
        disk.write(0, data)  # in the disk's cache
    handmade.stop("east")
    handmade.run("seed", str(handmade.toml("west")))
    try:
        handmade.start("west")
        server.fail("hang", "flush")
        handmade.start("east")
        direct.wait_for(
            lambda: direct.status(handmade, "west")["committed"]["sequence"] is not None, "a commit"
        )
        kill(handmade, "west")
        server.mend()
        server.restart()
        handmade.start("west")
        direct.sync(handmade)
        handmade.stop()
        assert server.image.read_bytes() == data
    finally:
        handmade.kill()
        server.stop()


def test_a_kill_while_a_seed_is_flushed_is_no_riddle(scratch: Path, handmade: Handmade) -> None:
    """The log says why everything is sent then."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.create()
    with NbdClient(server.uri) as disk:
        disk.write(0, random.Random(3).randbytes(handmade.size))
    handmade.run("seed", str(handmade.toml("west")))
    tried = server.tried("flush")
    server.fail("hang", "flush")
    words = [str(FLASHMIRROR), "start", str(handmade.toml("west"))]
    try:
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as starts:
            direct.wait_for(lambda: server.tried("flush") > tried, "the flush")
            os.kill(int((handmade.folder / "west/state/lock").read_text()), signal.SIGKILL)
            assert starts.wait(60)
        assert "the seed is flushed: if this start does not come to its end" in handmade.log("west")
    finally:
        server.mend()
        server.stop()


def test_a_seed_that_cannot_be_flushed_is_given_up(scratch: Path, handmade: Handmade) -> None:
    """The system tells of a failed flush once, and reads what was lost from its memory: the start
    is refused, and from the next one on everything is sent, whatever seems to be equal."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.create()
    handmade.start("east")
    data = random.Random(3).randbytes(handmade.size)
    with handmade.client() as client, NbdClient(server.uri) as disk:
        client.write(0, data)
        disk.write(0, data)
    handmade.run("seed", str(handmade.toml("west")))
    try:
        server.fail("EIO", "flush")
        said = refused("start", str(handmade.toml("west")))
        assert "the seed cannot be flushed, and is given up" in said, said
        server.mend()
        handmade.start("west")
        direct.sync(handmade)
        assert wire(handmade) >= handmade.size
        handmade.stop()
        assert server.image.read_bytes() == data
    finally:
        handmade.kill()
        server.stop()


def test_a_seed_of_other_data_is_harmless(couriered: Pair) -> None:
    """Whatever the data stores hold: what differs is sent, so the image is the source's."""
    couriered.image("west").write_bytes(random.Random(9).randbytes(SIZE))
    couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    check(couriered, 1.03 * SIZE)


@pytest.mark.parametrize("seeded", [False, True])
def test_a_target_that_gave_its_image_up_may_hold_other_bytes(
    couriered: Pair, seeded: bool
) -> None:
    """After an orderly stop a store is known by its bytes, too.  Not by those of an image that was
    given up: a person may bring a copy, or anything, into that store."""
    couriered.start("west")
    direct.sync(couriered)
    direct.stop(couriered, "west")
    couriered.run("resync", "--full", str(couriered.toml("west")))
    _overwrite(couriered)
    if seeded:
        couriered.run("seed", str(couriered.toml("west")))
    couriered.start("west")
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()


def _overwrite(pair: Pair) -> None:
    with pair.image("west").open("r+b") as file:
        file.write(random.Random(9).randbytes(SIZE))


def _seed(pair: Pair) -> None:
    _overwrite(pair)
    pair.run("seed", str(pair.toml("west")))


def _give_up(pair: Pair) -> None:
    pair.run("resync", "--full", str(pair.toml("west")))
    _overwrite(pair)


@pytest.mark.parametrize(
    ("begins", "bring"),
    some([("blank", _seed), ("blank", _overwrite), ("seeded", _seed), ("whole", _give_up)]),
)
def test_what_a_cycle_relies_on_is_what_the_target_holds_then(
    couriered: Pair, begins: str, bring: Callable[[Pair], None]
) -> None:
    """A first cycle leaves out what a blank target need not be sent, or what it found equal in a
    seed, and a later one what has not changed.  If the target ends in its middle, and other data is
    brought, it does not go on."""
    if begins == "blank":
        with couriered.image("west").open("r+b") as file:
            file.truncate(0)
            file.truncate(SIZE)
    elif begins == "seeded":
        couriered.run("seed", str(couriered.toml("west")))
    else:  # in the session of its first commit
        couriered.start("west")
        direct.sync(couriered)
    direct.ask(couriered, {"op": "bandwidth", "rate": MIB})
    with couriered.client() as client:
        client.write(40 * MIB, random.Random(10).randbytes(4 * MIB))  # which no seed has
    if begins != "whole":
        couriered.start("west")
    state = couriered.folder / "west" / "state"

    def records() -> int:
        return sum(path.read_bytes().count(b"fmRUNS") for path in state.glob("written.*"))

    direct.wait_for(lambda: records() >= 2, "the source knows that some of the cycle is stable")
    if begins == "blank":
        direct.stop(couriered, "west")
    else:
        kill(couriered, "west")  # in order, its fingerprint would tell
    bring(couriered)
    direct.ask(couriered, {"op": "bandwidth", "rate": 0})
    couriered.start("west")
    direct.sync(couriered)
    assert couriered.image("east").read_bytes() == couriered.image("west").read_bytes()


def test_only_a_stopped_target_without_an_image_is_seeded(couriered: Pair) -> None:
    """A source, a running target and one that has an image refuse, with what to do."""
    with pytest.raises(CommandFailed, match="east: runs: stop it"):
        couriered.run("seed", str(couriered.toml("east")))
    couriered.start("west")
    direct.sync(couriered)
    direct.stop(couriered, "west")
    with pytest.raises(CommandFailed, match="resync --full"):
        couriered.run("seed", str(couriered.toml("west")))
    direct.stop(couriered, "east")
    with pytest.raises(CommandFailed, match="is a source: seed the target"):
        couriered.run("seed", str(couriered.toml("east")))


def test_what_was_written_in_part_is_not_found_equal_to_a_seed(
    scratch: Path, handmade: Handmade
) -> None:
    """A block of which the write to the intermediate has ended in its middle (a writer's copy, when
    the link is lost) may stand in the record of what is stable.  The source sends it again, but
    compares it first: the data holds it, and the image would read the intermediate."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "intermediate"] = server.store(handmade.size)
    handmade.create()
    data = random.Random(4).randbytes(handmade.size)
    Path(handmade.store("west", "data")).write_bytes(data)
    try:
        handmade.run("seed", str(handmade.toml("west")))
        handmade.start("west")
        cycle: dict[str, Any] = {"sequence": 1, "token": "c" * 32}
        hello = {**direct.hello(handmade, 5), "begun": 1, "begun_token": "c" * 32}
        assert direct.ask(handmade, hello, "west")["seeded"]
        server.fail("EIO", "pwrite")
        device = config.load(str(handmade.toml("west"))).device_uri("disk/intermediate/5")
        with NbdClient(device) as client, pytest.raises(NbdError):
            client.write(7 * 4096, data[7 * 4096 :][:4096])
        server.mend()
        until_done(handmade, {"op": "stable", "session": 5, "serial": 1, **cycle})
        again = {**hello, "session": 7, "resumes": 1, "stable": 1}
        assert direct.ask(handmade, again, "west")["resumed"]
        blocks = handmade.size // 4096
        sums = [hashlib.blake2b(data[i * 4096 :][:4096], digest_size=16) for i in range(blocks)]
        asked = protocol.Compare(7, 1, "disk", ((0, blocks),), b"".join(s.digest() for s in sums))
        equal = direct.ask(handmade, protocol.record_of(asked), "west")["equal"]
        device = config.load(str(handmade.toml("west"))).device_uri("disk/intermediate/7")
        with NbdClient(device) as client:
            for i in (i for i in range(blocks) if equal[i] == "0"):
                client.write(i * 4096, data[i * 4096 :][:4096])
        done = {"op": "commit", "session": 7, "lineage": hello["lineage"], **cycle}
        until_done(handmade, {**done, "consistency_point": 1.0})
        direct.wait_for(
            lambda: bool(direct.status(handmade, "west")["hardened_sequence"]), "the image in data"
        )
        assert Path(handmade.store("west", "data")).read_bytes() == data
        assert equal.count("0") == 1, "what was written by nobody is not sent"
    finally:
        handmade.kill()
        server.stop()


def until_done(pair: Pair, record: dict[str, Any]) -> None:
    direct.wait_for(lambda: bool(direct.ask(pair, record, "west")["done"]), record["op"])


def test_what_a_server_may_have_lost_is_no_seed(scratch: Path, handmade: Handmade) -> None:
    """A target that is to take everything anew may have its own old data for a seed.  But the
    process before may have been told that a flush has lost some of it, which the server still
    shows: then it says so, and everything is sent."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "data"] = server.store(handmade.size)
    handmade.create()
    data = random.Random(5).randbytes(handmade.size)
    try:
        handmade.start()
        with handmade.client() as client:
            client.write(0, data)
            direct.sync(handmade)
            server.fail("lose-later", "flush")
            before = server.tried("flush")
            client.write(0, b"lost" * 1024)
        direct.wait_for(lambda: server.tried("flush") > before, "a flush of it")
        kill(handmade, "west")
        server.mend()
        handmade.run("resync", "--full", str(handmade.toml("west")))
        said = refused("seed", str(handmade.toml("west")))
        assert "may show what its disk has lost" in said and "seed it with --force" in said
        handmade.start("west")
        direct.sync(handmade)
        handmade.stop()
        server.restart()
        assert server.image.read_bytes() == b"lost" * 1024 + data[4096:]
    finally:
        handmade.kill()
        server.stop()


@pytest.mark.parametrize(
    ("role", "whole", "clean", "pending", "doubtful"),
    [
        ("source", False, True, False, False),
        ("source", False, False, False, True),
        ("target", True, True, False, False),
        ("target", True, False, False, True),
        ("target", True, True, True, True),
        ("target", False, False, False, False),  # it has written nothing there
    ],
)
def test_what_a_site_wrote_and_does_not_know_to_be_flushed_is_in_doubt(
    role: ledger.Role, whole: bool, clean: bool, pending: bool, doubtful: bool
) -> None:
    """When its history is given up; what was in doubt already is."""
    maps = {"disk/pending": BitMap64([1])} if pending else {}
    book = sample(role=role, whole=whole, clean=clean, maps=maps)
    assert resync.give_up(book).doubtful_data == doubtful
    assert resync.give_up(replace(book, doubtful_data=True)).doubtful_data
