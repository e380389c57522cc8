"""A store behind an NBD server that dies with what it had answered and not flushed (I9).

The target's data or intermediate: linked anew when it is back, and what may be lost is copied
again.  The source's data: whoever counted on it is told, once, and the target follows the disk.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import Handmade, eventually, refused
from nbd_client import FUA, NbdClient, NbdError
from pair import CommandFailed, MakePair, Pair, some
from served import Faulty, Server, create_anew, serve
from test_link import kill

from mirror_core import flashcopy, native
from mirror_core.ledger import load

BLOCK = 4096
BLOCKS = 100  # written with gaps, so that each is a run of its own


class Served:
    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.server: Server = serve(pair, "west")

    def begin(self, *filters: str, parameters: tuple[str, ...] = ()) -> None:
        """A pair that is in sync, its target's data behind a server with these filters."""
        self.server.start()
        create_anew(self.pair, "west", "target")
        self.pair.start()
        self.write(b"old")
        direct.sync(self.pair)
        direct.stop(self.pair, "west")
        self.server.stop()
        self.server.start(*filters, threads=4, parameters=parameters)
        self.pair.start("west")
        direct.sync(self.pair)

    def write(self, what: bytes) -> None:
        with self.pair.client() as client:
            for i in range(BLOCKS):
                client.write(2 * i * BLOCK, what.ljust(BLOCK, b"."))

    def is_equal(self) -> bool:
        return self.pair.image("east").read_bytes() == self.pair.image("west").read_bytes()

    def west(self) -> dict[str, Any]:
        return direct.status(self.pair, "west")


@pytest.fixture
def served(make_pair: MakePair) -> Iterator[Served]:
    served = Served(make_pair("--size", "4M"))
    try:
        yield served
    finally:
        served.pair.kill()
        served.server.stop()


def blamed(served: Served) -> bool:
    found = served.west()
    return found["state"] == "degraded" and served.server.uri in str(found["reason"])


def test_a_server_that_dies_between_cycles_costs_a_pause(served: Served) -> None:
    """Nothing was written to it since its last flush: the committed image stays claimed, the
    second flashcopy says which store it misses and goes on by itself when the server is back."""
    served.begin()
    before = served.west()["hardened_sequence"]
    served.server.stop()
    served.write(b"new")
    direct.ask(served.pair, {"op": "sync"})
    direct.wait_for(lambda: blamed(served), "a reason that names the store")
    found = served.west()
    assert found["hardened_sequence"] == before
    assert found["committed"]["sequence"] > before
    served.server.start()
    direct.sync(served.pair)
    assert served.west()["reason"] is None
    assert served.is_equal()


def test_a_server_that_comes_back_smaller_is_named_for_that(served: Served) -> None:
    """As long as it is so: each try finds it so again, and no other reason is given meanwhile, but
    that the image may be gone with its end.  It is not, a person says, when it is as it was."""
    served.begin()
    served.server.stop()
    served.server.start("truncate", parameters=("truncate=2M",))
    served.write(b"new")
    direct.ask(served.pair, {"op": "sync"})

    def is_named() -> bool:
        reason = str(served.west()["reason"])
        return "its server is smaller" in reason or "was made smaller while it held" in reason

    direct.wait_for(is_named, "the reason")
    until = time.monotonic() + 4  # tries come 0.1, 0.2, 0.4, 0.8 and 1.6 s after each other
    while time.monotonic() < until:
        assert is_named(), served.west()["reason"]
    served.server.stop()
    served.server.start()
    west = str(served.pair.toml("west"))
    served.pair.run("stop", west)
    assert "adopt it with --unchanged" in refused("start", west)
    words = ("adopt", west, "disk", "data", "--yes", "--json", "--unchanged")
    assert json.loads(served.pair.run(*words))["effect"] == "keep"
    served.pair.start("west")
    direct.sync(served.pair)
    assert served.west()["reason"] is None
    assert served.is_equal()


# ---- a server whose cache is lost with it

SIZE = 1 << 20


@pytest.fixture
def faulty(scratch: Path, handmade: Handmade) -> Iterator[Faulty]:
    """A server for one of the stores; it ends after the pair."""
    server = Faulty(scratch / "faulty.img")
    yield server
    handmade.kill()
    server.stop()


def begin(pair: Handmade, faulty: Faulty, site: str, part: str) -> None:
    pair.stores[site, part] = faulty.store(SIZE)
    pair.create()
    pair.start()


def fails(request: Callable[[], object]) -> bool:
    try:
        request()
    except NbdError as error:
        assert error.errno == errno.EIO
        return True
    return False


def answers(client: NbdClient) -> bool:
    """Whether a read is answered; a connection that has ended is met by one request or two."""
    return not fails(lambda: client.read(0, BLOCK))


def test_a_server_that_dies_with_unflushed_writes_costs_nothing(
    handmade: Handmade, faulty: Faulty
) -> None:
    """What the target's data had answered and not flushed is gone: it is copied again from the
    intermediate, where it was not overwritten, and the image is claimed all the time."""
    begin(handmade, faulty, "west", "data")
    handmade.sync()
    before = faulty.tried("flush")
    faulty.fail("hang", "flush")
    with handmade.client() as client:
        for at in range(0, SIZE, 2 * BLOCK):
            client.write(at, b"new".ljust(BLOCK, b"."))
    direct.ask(handmade, {"op": "sync"})
    direct.wait_for(lambda: faulty.tried("flush") > before, "all is copied, and not flushed")
    committed = direct.status(handmade, "west")["committed"]["sequence"]
    faulty.stop()
    assert b"new" not in faulty.image.read_bytes()
    direct.wait_for(
        lambda: faulty.uri in str(direct.status(handmade, "west")["reason"]),
        "a reason that names the store",
    )
    faulty.mend()
    faulty.start()
    direct.sync(handmade)
    assert direct.status(handmade, "west")["committed"]["sequence"] >= committed
    assert faulty.image.read_bytes() == handmade.image("east").read_bytes()


def test_a_client_whose_writes_were_lost_is_told(handmade: Handmade, faulty: Faulty) -> None:
    """The source's data loses what was answered and not flushed: the next flush of every
    connection fails with EIO, once, whoever met the dead server first; the target follows what
    the disk holds."""
    begin(handmade, faulty, "east", "data")
    with handmade.client() as one, handmade.client() as other, handmade.client() as reader:
        one.write(0, b"kept" * 1024)
        one.flush()
        one.write(0, b"lost" * 1024)
        one.write(BLOCK, b"safe" * 1024, FUA)
        handmade.sync()  # a flush of the cycle's: all is safe so far
        faulty.fail("hang", "flush")  # or a cycle would save what comes
        other.write(2 * BLOCK, b"gone" * 1024)
        faulty.restart()
        faulty.mend()
        eventually(lambda: answers(reader), "the server is back")
        assert fails(one.flush) and fails(other.flush) and fails(reader.flush)
        for client in (one, other, reader):
            client.flush()
        with handmade.client() as late:  # he may be one of them, who is back
            assert fails(late.flush)
            late.flush()
        assert one.read(2 * BLOCK, BLOCK) == bytes(BLOCK), "the disk never had it"
        handmade.sync()
        held = one.read(0, SIZE)
    assert held[:BLOCK] == b"lost" * 1024 and held[BLOCK : 2 * BLOCK] == b"safe" * 1024
    assert handmade.image("west").read_bytes() == held


# ---- a server that hangs, and does later what it was asked


def test_a_late_write_of_a_client_overwrites_nothing(handmade: Handmade, faulty: Faulty) -> None:
    """A write that was given up is done by the server of the source's data when it likes: until it
    is, nothing else is written there, so that it cannot undo what came after."""
    handmade.more = 'link_timeout = "500ms"'
    begin(handmade, faulty, "east", "data")
    with handmade.client() as client:
        handmade.sync()
        faulty.fail("hang", "pwrite")
        assert fails(lambda: client.write(0, b"old" * 1024))
        faulty.hold("pwrite")
        assert fails(lambda: client.write(0, b"new" * 1024)), "the old one could come after it"
        assert client.read(0, 3) == bytes(3)
        faulty.release()
        eventually(lambda: not fails(lambda: client.write(0, b"new" * 1024)), "it was done")
        handmade.sync()
        assert client.read(0, 3072) == b"new" * 1024
        assert handmade.image("west").read_bytes() == client.read(0, SIZE)


def test_a_late_write_of_the_second_flashcopy_overwrites_nothing(
    handmade: Handmade, faulty: Faulty
) -> None:
    """The same at the target's data: the image is not undone by a copy of the one before."""
    handmade.more = 'link_timeout = "500ms"'
    begin(handmade, faulty, "west", "data")
    with handmade.client() as client:
        handmade.sync()
        faulty.fail("hang", "pwrite")
        client.write(0, b"old" * 1024)
        eventually(
            lambda: "timed out" in str(direct.status(handmade, "west")["reason"]), "a reason"
        )
        faulty.hold("pwrite")
        client.write(0, b"new" * 1024)
        with pytest.raises(CommandFailed):
            handmade.sync("1s")
        faulty.release()
        handmade.sync()
    assert faulty.image.read_bytes()[:3072] == b"new" * 1024


@pytest.mark.parametrize("site", some(["west", "east"]))
def test_a_stop_with_a_late_write_is_none_in_order(
    handmade: Handmade, faulty: Faulty, site: str
) -> None:
    """What was given up may still be done to the store that is read after the stop, so that site
    has not stopped in order; when it was done before, it has."""
    part = "intermediate" if site == "east" else "data"
    handmade.more = 'link_timeout = "500ms"'
    begin(handmade, faulty, site, part)

    def stops_in_order() -> bool:
        handmade.stop(site)
        return load(handmade.folder / site / "state").clean

    with handmade.client() as client:
        handmade.sync()
        faulty.fail("hang", "pwrite")
        client.write(0, b"old" * 1024)
        eventually(lambda: "timed out" in str(direct.status(handmade, site)["reason"]), "a reason")
        faulty.hold("pwrite")
    assert not stops_in_order()
    assert f"{faulty.uri}: a write to it that was given up may still be done" in handmade.log(site)
    faulty.release()
    handmade.start(site)
    handmade.sync()
    assert stops_in_order()


# ---- a server whose cache goes with it


def test_a_server_that_comes_back_with_everything_costs_no_flush(
    handmade: Handmade, faulty: Faulty
) -> None:
    """All was flushed before the server went: no flush fails."""
    begin(handmade, faulty, "east", "data")
    with handmade.client() as client:
        client.write(0, b"x" * BLOCK)
        handmade.sync()
        client.flush()
        faulty.restart()
        client.flush()
        eventually(lambda: answers(client), "the server is back")
        client.write(0, b"y" * BLOCK)
        client.flush()
        handmade.sync()
        assert handmade.image("west").read_bytes() == client.read(0, SIZE)


def test_a_failed_flush_is_told_to_each_client(handmade: Handmade, faulty: Faulty) -> None:
    """A flush of the source's data fails, of a client or of the cycle: nobody's next flush says
    that all is well, and the cycle is sent again."""
    begin(handmade, faulty, "east", "data")
    with handmade.client() as one, handmade.client() as other:
        handmade.sync()
        faulty.fail("EIO", "flush")
        one.write(0, b"x" * BLOCK)
        found = eventually(lambda: direct.status(handmade)["reason"], "a reason")
        assert faulty.uri in found and "Input/output error" in found
        faulty.mend()
        handmade.sync()
        assert fails(one.flush) and fails(other.flush)
        one.flush()
        other.flush()
        assert handmade.image("west").read_bytes() == one.read(0, SIZE)


def test_an_intermediate_that_loses_a_cycle_gets_it_again(
    handmade: Handmade, faulty: Faulty
) -> None:
    """The target's intermediate loses what it had answered before the commit: the cycle is void,
    all of it is sent again, and the image is right."""
    begin(handmade, faulty, "west", "intermediate")
    with handmade.client() as client:
        handmade.sync()
        before = direct.status(handmade, "west")["committed"]["sequence"]
        faulty.fail("hang", "flush")
        client.write(0, b"again" * 1000)
        tried = faulty.tried("flush")
        direct.wait_for(lambda: faulty.tried("flush") > tried, "the cycle's flush")
        faulty.stop()
        faulty.mend()
        found = eventually(lambda: direct.status(handmade)["reason"], "a reason")
        assert faulty.uri in found or "peer at" in found
        assert direct.status(handmade, "west")["committed"]["sequence"] == before
        faulty.start()
        handmade.sync()
        held = client.read(0, SIZE)
    assert held.startswith(b"again")
    assert handmade.image("west").read_bytes() == held


@pytest.mark.parametrize(("site", "part"), [("east", "data"), ("west", "intermediate")])
def test_what_a_killed_site_had_not_flushed_is_flushed_by_the_next(
    handmade: Handmade, faulty: Faulty, site: str, part: str
) -> None:
    """No connection of the next process would notice that the server went with it: so it is
    flushed before anything is copied, and when the server then goes, nothing is lost."""
    begin(handmade, faulty, site, part)
    handmade.sync()
    handmade.pause()
    with handmade.client() as client:
        client.write(0, b"kept" * 1024)
    kill(handmade, site)
    flushed = faulty.tried("flush")
    handmade.start(site)
    direct.wait_for(lambda: faulty.tried("flush") > flushed, "a flush")
    faulty.restart()
    handmade.resume()
    handmade.sync()
    with handmade.client() as client:
        held = client.read(0, SIZE)
    assert held.startswith(b"kept")
    assert handmade.image("west").read_bytes() == held


def test_of_a_group_without_a_server_its_own_volume_is_named(scratch: Path) -> None:
    """The others' servers are there again, and nobody is sent to look at those, whose turn it is
    to be copied."""
    servers = {name: Faulty(scratch / f"{name}.img") for name in ("a", "b", "c")}
    stores, members = [], []
    for name, server in servers.items():
        sink = scratch / f"{name}.sink"
        sink.touch()
        os.truncate(sink, BLOCK)
        stores.append(native.Store.nbd(server.store(BLOCK), 5.0))
        stores.append(native.Store.file(os.open(sink, os.O_RDWR), BLOCK))
        volume = native.Volume(stores[-2], stores[-1], BLOCK, BLOCK, False)
        members.append(flashcopy.Member(name, volume))
    copier = flashcopy.Flashcopy(members)
    try:
        copier.link([None] * 3)
        copier.group.freeze(1.0)
        copier.abandon(errno.EIO)
        for server in servers.values():
            server.stop()
        for member in members:
            with pytest.raises(OSError):
                member.native.flush_front()
        for name in ("b", "c"):
            servers[name].start()
        for _ in members:
            copier.group.freeze(1.0)
            with pytest.raises(flashcopy.CopyError, match="volume a"):
                copier.copy(0.1)
            copier.abandon(errno.EIO)
    finally:
        copier.fail(errno.ESHUTDOWN)
        copier.unlink()
        for member in members:
            member.native.close()
        for store in stores:
            store.close()
        for server in servers.values():
            server.stop()
