"""A failed flush is told once: what it covered is written again, however the site ends after it.

The store of one part fails a flush, loses what the flush covered, and says nothing of it afterwards
(faulty.py).  While the site waits for its next try the store is well again, so whatever flushes
first is answered that all is well.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, eventually, kill, state_of
from nbd_client import FUA, NbdError
from pair import some
from served import Faulty
from test_link import lose_power

SIZE = 1 << 20
BLOCK = 4096
FAILURES = 6  # of a flush, so that the wait for the next try is long enough to come in between


class Lab:
    """A pair in sync; then one store loses what a flush of it was to make durable."""

    def __init__(self, pair: Handmade, server: Faulty, site: str, part: str) -> None:
        self.pair, self.server, self.site, self.part = pair, server, site, part

    def begin(self, failures: int = FAILURES, loses: str = "lose", *, mend: bool = True) -> None:
        self.pair.stores[self.site, self.part] = self.server.store(SIZE)
        self.pair.create()
        self.pair.start()
        chance = random.Random(self.site + self.part)
        with self.pair.client() as client:
            client.write(0, chance.randbytes(SIZE))
            self.pair.sync()
            before = self.server.tried("flush")
            self.server.fail(loses, "flush")
            direct.pause(self.pair)  # one cycle has all of it
            for block in range(0, SIZE // BLOCK, 3):
                client.write(block * BLOCK, chance.randbytes(BLOCK))
            direct.resume(self.pair)
            eventually(lambda: self.server.tried("flush") >= before + failures, "failed flushes")
            eventually(lambda: state_of(self.pair, self.site)["reason"], "a reason")
        if mend:
            self.server.mend()

    def image(self, site: str) -> bytes:
        served = (self.site, self.part) == (site, "data")
        return (self.server.image if served else self.pair.image(site)).read_bytes()

    def check(self) -> None:
        """The target holds what the source's clients read."""
        self.pair.sync()
        with self.pair.client() as client:
            held = client.read(0, SIZE)
        assert wrong_blocks(self.image("west"), held) == []


def wrong_blocks(found: bytes, wanted: bytes) -> list[int]:
    return [at for at in range(0, SIZE, BLOCK) if found[at : at + BLOCK] != wanted[at : at + BLOCK]]


@pytest.fixture
def lab(scratch: Path, handmade: Handmade, site: str, part: str) -> Iterator[Lab]:
    handmade.size = SIZE
    server = Faulty(scratch / "faulty.img")
    yield Lab(handmade, server, site, part)
    handmade.kill()
    server.stop()


@pytest.mark.parametrize(
    ("site", "part"),
    some([("west", "intermediate"), ("west", "data"), ("east", "data"), ("east", "intermediate")]),
)
def test_what_a_failed_flush_lost_is_copied_again(lab: Lab) -> None:
    """Of each store: its site stops while it waits for the next try, and begins again."""
    lab.begin()
    lab.pair.stop(lab.site)
    lab.pair.start(lab.site)
    lab.check()


@pytest.mark.parametrize(("site", "part"), [("west", "intermediate")])
def test_a_target_says_that_it_cannot_flush(lab: Lab) -> None:
    """Its own status does, all the time, and not that its source is silent or that all is well;
    until a flush was good."""

    def says() -> bool:
        status = state_of(lab.pair, "west")
        said = "cannot flush: intermediate store" in (status["reason"] or "")
        return bool(said and status["state"] == "degraded")

    lab.begin(1, loses="EIO", mend=False)
    eventually(says, "the reason")
    before = lab.server.tried("flush")
    while lab.server.tried("flush") < before + 3:
        assert says(), state_of(lab.pair, "west")
    assert "cannot flush: intermediate store" in lab.pair.log("west")
    lab.server.mend()
    lab.check()
    status = state_of(lab.pair, "west")
    assert (status["state"], status["reason"]) == ("mirroring", None)


@pytest.mark.parametrize(("site", "part"), [("west", "data")])
def test_a_promoted_image_lacks_nothing_of_a_failed_flush(lab: Lab) -> None:
    """Promoted instead of stopped: `data` becomes the volume, whole and durable."""
    lab.begin(2)
    with lab.pair.client() as client:
        held = client.read(0, SIZE)
    lab.pair.run("promote", str(lab.pair.toml("west")), "--force")
    lab.server.restart()  # what was not flushed is gone
    assert wrong_blocks(lab.image("west"), held) == []


@pytest.mark.parametrize(("site", "part"), [("west", "intermediate")])
@pytest.mark.parametrize("end", some([kill, None, direct.stop]))
def test_a_comparison_takes_no_cache_for_a_disk(lab: Lab, end: Callable[..., None] | None) -> None:
    """What a failed flush has lost may be read for a while: it is not found equal, by the target
    that has seen the failure, nor by the process after it, however the first one ended."""
    lab.begin(loses="lose-later", mend=False)
    lose_power(lab.pair, "east")  # it will compare what was hot
    lab.server.mend()
    if end:
        end(lab.pair, "west")
        lab.pair.start("west")
    lab.pair.start("east")
    lab.check()
    lab.server.stop()  # a commit was flushed: the disk has all that was written for it
    with lab.pair.client() as client:
        held = client.read(0, SIZE)
    found = lab.server.image.read_bytes()
    assert [at for at in wrong_blocks(found, held) if at // BLOCK % 3 == 0] == []


@pytest.mark.parametrize(("site", "part"), [("west", "intermediate")])
@pytest.mark.parametrize(
    ("end", "mended"), some([(direct.stop, False), (direct.stop, True), (kill, False)])
)
def test_what_was_lost_before_a_history_is_not_found_equal(
    lab: Lab, end: Callable[..., None], *, mended: bool
) -> None:
    """The first cycle of a target with a seed writes little to its intermediate: what its server
    shows of the history before, and has lost, stays there.  `mended`: it ended in order."""
    lab.begin(loses="lose-later", mend=mended)
    end(lab.pair, "west")
    direct.stop(lab.pair, "east")
    lab.server.mend()
    west = str(lab.pair.toml("west"))
    lab.pair.run("resync", "--full", west)
    lab.pair.image("west").write_bytes(lab.image("east"))
    lab.pair.run("seed", west)
    lab.pair.start()
    lab.check()
    direct.stop(lab.pair, "west")
    with lab.pair.client() as client:
        client.write(BLOCK, b"x" * BLOCK)  # the region is hot
    lose_power(lab.pair, "east")
    lab.pair.start()
    lab.check()
    lab.server.stop()
    lost = [at for at in wrong_blocks(lab.server.image.read_bytes(), lab.image("east"))]
    assert [at for at in lost if at // BLOCK % 3 == 0] == []


def stop_when_all_have_heard(pair: Handmade, site: str) -> None:
    """As later than COMING_BACK_S after the loss: the next process tells nobody of it."""
    direct.stop(pair, site)
    servers = pair.folder / site / "state" / "servers"
    record = json.loads(servers.read_text())
    assert record["untold"] == ["disk"]
    servers.write_text(json.dumps({**record, "untold": []}))


@pytest.mark.parametrize(("site", "part"), [("east", "data")])
@pytest.mark.parametrize("end", some([kill, None, stop_when_all_have_heard, direct.stop]))
def test_a_source_copies_no_cache_that_its_disk_has_not(
    lab: Lab, end: Callable[..., None] | None
) -> None:
    """A server of the source's data shows what a failed flush has lost, until it ends: what the
    target gets is written back before, so both hold the same however the cache goes."""
    lab.begin(2, loses="lose-later")
    if end:
        end(lab.pair, "east")
        lab.pair.start("east")
    lab.check()
    lab.server.restart()
    with lab.pair.client() as client:
        eventually(lambda: not fails(lambda: client.write(0, b"x" * BLOCK)), "the server is met")
    lab.check()


@pytest.mark.parametrize(("site", "part"), [("east", "data")])
def test_what_a_write_with_fua_has_heard_is_told(lab: Lab) -> None:
    """It is flushed for, and the error of that is all that is ever said of what others had
    written: they hear of it at their next flush, and what its cache still shows is written back
    before the target gets it."""
    lab.pair.stores["east", "data"] = lab.server.store(SIZE)
    lab.pair.create()
    lab.pair.start()
    with lab.pair.client() as client, lab.pair.client() as other:
        client.write(0, b"old" * 4096)
        lab.pair.sync()
        direct.pause(lab.pair)
        other.write(0, b"new" * 4096)
        lab.server.fail("lose-later", "flush")
        assert fails(lambda: client.write(BLOCK * 8, b"x" * BLOCK, FUA))
        lab.server.mend()
        assert fails(other.flush), "its acknowledged writes are gone"
        assert not fails(other.flush)
        direct.resume(lab.pair)
        lab.pair.sync()
    lab.server.stop()
    assert wrong_blocks(lab.image("west"), lab.server.image.read_bytes()) == []


@pytest.mark.parametrize(("site", "part"), [("east", "data")])
@pytest.mark.parametrize("end", [direct.stop, kill])
def test_no_end_hides_a_loss_from_a_client(lab: Lab, end: Callable[..., None]) -> None:
    """Only the mirroring has met the failed flush: the client, who comes back to the next process,
    hears of it, once; whether this one was stopped in order or, after its next look, killed."""
    lab.begin(2)
    if end is kill:
        eventually(lambda: recorded(lab.pair) == {"disk": None}, "a record")
    end(lab.pair, "east")
    lab.pair.start("east")
    with lab.pair.client() as client:
        assert fails(client.flush), "acknowledged writes are gone"
        assert not fails(client.flush)


@pytest.mark.parametrize(("site", "part"), [("east", "data")])
@pytest.mark.parametrize("state", some(["paused", "without a target", "in a cycle"]))
def test_a_kill_hides_no_loss_that_a_write_has_met(lab: Lab, state: str) -> None:
    """A client's write with FUA, whose own error says nothing to others: before any of them has
    flushed, and while no cycle ends, it is recorded that they are to be told."""
    lab.pair.stores["east", "data"] = lab.server.store(SIZE)
    lab.pair.create()
    lab.pair.start()
    with lab.pair.client() as client, lab.pair.client() as other:
        client.write(0, b"old" * 4096)
        lab.pair.sync()
        if state == "in a cycle":
            direct.ask(lab.pair, {"op": "bandwidth", "rate": 20_000})
            client.write(0, random.Random(1).randbytes(SIZE))
            eventually(lambda: state_of(lab.pair)["cycle"]["phase"] == "copy", "a cycle")
        else:
            direct.pause(lab.pair)
        if state == "without a target":
            direct.stop(lab.pair, "west")
            eventually(lambda: state_of(lab.pair)["peer"]["state"] == "disconnected", "no link")
        assert recorded(lab.pair) != {"disk": None}, "the server is known"
        other.write(0, b"new" * 4096)
        lab.server.fail("lose-later", "flush")
        assert fails(lambda: client.write(BLOCK * 8, b"x" * BLOCK, FUA))
        lab.server.mend()
        eventually(lambda: recorded(lab.pair) == {"disk": None}, "a record")
    kill(lab.pair, "east")
    lab.pair.start("east")
    with lab.pair.client() as client:
        assert fails(client.flush), "acknowledged writes are gone"


@pytest.mark.parametrize(("site", "part"), [("east", "data")])
@pytest.mark.parametrize("phase", ["commit", "flush"])
def test_a_kill_hides_no_loss_that_is_met_while_the_control_waits(
    lab: Lab, scratch: Path, phase: str
) -> None:
    """For a commit, as the one before does not become whole, or for a flush that hangs."""
    pair, where = lab.pair, ("west", "data") if phase == "commit" else ("east", "intermediate")
    other_store = Faulty(scratch / "other.img")
    pair.stores["east", "data"], pair.stores[where] = (
        lab.server.store(SIZE),
        other_store.store(SIZE),
    )
    pair.more = 'link_timeout = "30s"'  # what hangs is not lost
    try:
        pair.create()
        pair.start()
        with pair.client() as client, pair.client() as other:
            client.write(0, b"old" * 4096)
            pair.sync()
            first = state_of(pair)["committed"]["sequence"]
            other_store.fail("EIO" if phase == "commit" else "hang", "flush")
            if phase == "commit":
                client.write(0, b"one" * 4096)
                eventually(lambda: state_of(pair)["committed"]["sequence"] > first, "a commit")
            client.write(BLOCK * 20, b"two" * 4096)
            eventually(lambda: state_of(pair)["cycle"]["phase"] == phase, phase)
            assert recorded(pair) != {"disk": None}, "the server is known"
            other.write(BLOCK * 30, b"new" * 4096)
            lab.server.fail("lose-later", "flush")
            assert fails(lambda: client.write(BLOCK * 8, b"x" * BLOCK, FUA))
            lab.server.mend()
            eventually(lambda: recorded(pair) == {"disk": None}, "a record")
            assert state_of(pair)["cycle"]["phase"] == phase
        kill(pair, "east")
        other_store.mend()
        pair.start("east")
        with pair.client() as client:
            assert fails(client.flush), "acknowledged writes are gone"
    finally:
        pair.kill()
        other_store.stop()


def recorded(pair: Handmade) -> object:
    """The servers that are known."""
    return json.loads((pair.folder / "east" / "state" / "servers").read_text())["data"]


def fails(request: Callable[[], object]) -> bool:
    try:
        request()
    except NbdError:
        return True
    return False


def cached_bytes(image: Path) -> int:
    """Of the file, in the kernel's memory (mincore(2))."""
    with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = (mapped.size() + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        found = (ctypes.c_ubyte * pages)()
        at = ctypes.c_char.from_buffer(mapped)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            where = ctypes.c_void_p(ctypes.addressof(at))
            assert libc.mincore(where, ctypes.c_size_t(mapped.size()), found) == 0
        finally:
            del at
        return sum(page & 1 for page in found) * mmap.PAGESIZE


def test_a_source_that_was_killed_copies_what_its_disk_holds(handmade: Handmade) -> None:
    """The process before may have been killed in a flush that failed: the kernel has told it, and
    takes what it has in memory for what is on the disk.  So that is dropped."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        image = Path(folder) / "disk.img"
        handmade.size = SIZE
        image.write_bytes(random.Random(1).randbytes(SIZE))
        handmade.stores["east", "data"] = str(image)
        handmade.create()
        handmade.start()
        handmade.sync()
        direct.pause(handmade)  # so that nobody reads it again
        with handmade.client() as client:
            client.read(0, SIZE)
        assert cached_bytes(image) == SIZE
        kill(handmade, "east")
        handmade.start("east")
        eventually(lambda: cached_bytes(image) < SIZE // 4, "what is in memory is dropped")
