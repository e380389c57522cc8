"""Faults of each of the four stores: who hears of them, what goes on, and that it ends by itself.

One pair for each store, behind a server that fails on command (faulty.py); the faults come one
after another, so each is also a test that the one before has left nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from handmade import Handmade, eventually, state_of, until_state
from nbd_client import NbdClient, NbdError
from pair import some
from served import Faulty

from mirror_core import limits

SIZE = 1 << 20
BLOCK = 4096
HELD_S = 0.4  # how long a fault lasts at least, with clients at work
CALLS = ("pread", "pwrite", "flush")


@dataclass(frozen=True)
class Fault:
    """What becomes of these calls; no error: the server is killed."""

    name: str
    error: str = ""
    calls: tuple[str, ...] = CALLS

    def client_errno(self, call: str) -> int:
        """What a client hears if it is its own data."""
        if call not in self.calls:
            return 0
        return errno.ENOSPC if self.error == "ENOSPC" else errno.EIO


WRITE = Fault("EIO on write", "EIO", ("pwrite",))
FULL = Fault("ENOSPC on write", "ENOSPC", ("pwrite",))
READ = Fault("EIO on read", "EIO", ("pread",))
FLUSH = Fault("failed flush", "EIO", ("flush",))
GONE = Fault("disappears")
HANGS = Fault("hangs", "hang")

# Of each store: the faults that stop mirroring, and those that it need not notice.
STORES: dict[tuple[str, str], tuple[tuple[Fault, ...], tuple[Fault, ...]]] = {
    ("east", "data"): ((READ, FLUSH, GONE, HANGS), (WRITE, FULL)),
    ("east", "intermediate"): ((WRITE, FULL, FLUSH, GONE, HANGS), (READ,)),
    ("west", "intermediate"): ((WRITE, FULL, READ, FLUSH, GONE, HANGS), ()),
    ("west", "data"): ((WRITE, FULL, FLUSH, GONE, HANGS), (READ,)),
}


class Lab:
    """A running pair, one of its stores faulty, a client, and what the volume should hold."""

    def __init__(self, pair: Handmade, server: Faulty, site: str, part: str) -> None:
        self.pair, self.server, self.site, self.part = pair, server, site, part
        self.random = random.Random(site + part)
        self.model = bytearray(SIZE)
        self.client: NbdClient
        self.own = 0  # requests of the client that reach the faulty store, and fail there

    def begin(self) -> None:
        self.pair.more = 'link_timeout = "500ms"'
        self.pair.stores[self.site, self.part] = self.server.store(SIZE)
        self.pair.create()
        self.pair.start()
        self.client = self.pair.client()
        self.write(range(16))
        self.pair.sync()

    def is_clients(self) -> bool:
        return (self.site, self.part) == ("east", "data")

    def write(self, blocks: range) -> None:
        for block in blocks:
            data = self.random.randbytes(BLOCK)
            self.client.write(block * BLOCK, data)
            self.model[block * BLOCK : (block + 1) * BLOCK] = data

    def strike(self, fault: Fault) -> None:
        if fault.error:
            self.server.fail(fault.error, *fault.calls)
        else:
            self.server.stop()

    def end(self, fault: Fault) -> None:
        if fault.error:
            self.server.mend()
        else:
            self.server.start()

    def expect(self, fault: Fault, call: str, request: Callable[[], object]) -> None:
        """The request ends as it should while the fault lasts."""
        wanted = fault.client_errno(call) if self.is_clients() else 0
        self.own += bool(wanted)
        try:
            request()
            found = 0
        except NbdError as error:
            found = error.errno or 0
        assert found == wanted, (fault.name, call, os.strerror(found))

    def work(self, fault: Fault) -> None:
        """What a client does while the fault lasts, on three blocks with gaps."""
        for block in (1, 5, 9):
            data = self.random.randbytes(BLOCK)
            self.expect(fault, "pwrite", partial(self.client.write, block * BLOCK, data))
            if not (self.is_clients() and "pwrite" in fault.calls):
                self.model[block * BLOCK : (block + 1) * BLOCK] = data
        self.expect(fault, "pread", lambda: self.client.read(0, BLOCK))
        if fault is GONE and self.is_clients():  # without a connection nothing was written
            with contextlib.suppress(NbdError):
                self.client.flush()
        else:
            self.expect(fault, "flush", self.client.flush)

    def recovered(self) -> bool:
        found = state_of(self.pair)
        return (found["state"], found["volumes"][0]["next_bytes"]) == ("mirroring", 0)

    def check(self, fault: Fault) -> None:
        """After the fault: no command is needed, and nothing is lost or mixed."""
        eventually(self.recovered, f"{fault.name}: mirroring goes on; {state_of(self.pair)}")
        if self.is_clients():  # it may have been told of the loss at its next flush, once
            try:
                self.client.flush()
            except NbdError:
                self.client.flush()
            self.pair.sync()  # what failed is there or not, but the same at both sites
            held = self.client.read(0, SIZE)
            assert self.image("west") == held, fault.name
        self.write(range(1, 10))
        self.pair.sync()
        assert self.client.read(0, SIZE) == self.model, fault.name
        for site in ("east", "west"):
            assert self.image(site) == self.model, (fault.name, site)

    def image(self, site: str) -> bytes:
        served = (self.site, self.part) == (site, "data")
        return (self.server.image if served else self.pair.image(site)).read_bytes()

    def name_of_store(self) -> tuple[str, ...]:
        """The source knows the target's intermediate as its peer's."""
        of_peer = (self.site, self.part) == ("west", "intermediate")
        return (
            (self.server.uri, "intermediate store of the peer") if of_peer else (self.server.uri,)
        )


@pytest.fixture
def lab(scratch: Path, handmade: Handmade, site: str, part: str) -> Iterator[Lab]:
    handmade.size = SIZE
    server = Faulty(scratch / "faulty.img")
    yield Lab(handmade, server, site, part)
    handmade.kill()
    server.stop()


def tries_at_most(seconds: float) -> float:
    """With a back-off that doubles, the n-th wait ends no sooner than MIN / 2 * (2 ** n - 1)."""
    return 2 + math.log2(1 + 2 * seconds / limits.BACKOFF_MIN_S)


@pytest.mark.parametrize(("site", "part"), some(STORES, 4))
def test_a_fault_of_a_store_passes(lab: Lab) -> None:
    """Whatever the fault: a client hears of it exactly if the data is its own, with the right
    errno; mirroring is degraded with a reason that names the store, tries with back-off, and when
    the fault ends it goes on by itself and both sites are equal to what was written."""
    lab.begin()
    stop, pass_by = STORES[lab.site, lab.part]
    for fault in stop:
        before, began = lab.server.tried(*fault.calls), time.monotonic()
        lab.own = 0
        lab.strike(fault)
        lab.work(fault)
        found = until_state(lab.pair, "degraded")["reason"]
        assert any(name in found for name in lab.name_of_store()), (fault.name, found)
        while time.monotonic() < began + HELD_S:
            lab.expect(fault, "pread", lambda: lab.client.read(0, BLOCK))
        lasted = time.monotonic() - began
        tries = lab.server.tried(*fault.calls) - before - lab.own
        assert tries <= 4 * tries_at_most(lasted), (
            fault.name,
            tries,
            lasted,
        )  # of 3 blocks, a flush
        lab.end(fault)
        lab.check(fault)
    for fault in pass_by:
        lab.strike(fault)
        lab.work(fault)
        lab.end(fault)
        lab.check(fault)


def test_a_shortened_file_is_an_error_never_zeroes(handmade: Handmade) -> None:
    """The source's data loses its end: EIO to a client who reads there and a reason that names the
    file; nothing of it is mirrored, and with the end back, and adopted, both sites are equal."""
    handmade.create()
    handmade.start()
    path = Path(handmade.store("east", "data"))
    model = random.Random(1).randbytes(SIZE)
    with handmade.client() as client:
        client.write(0, model)
        handmade.sync()
        handmade.pause()
        client.write(SIZE - BLOCK, model[-BLOCK:])
        os.truncate(path, SIZE // 2)
        for at in (SIZE // 2, SIZE - BLOCK, SIZE // 2 - 512):
            with pytest.raises(NbdError) as caught:
                client.read(at, BLOCK)
            assert caught.value.errno == errno.EIO
        assert client.read(0, BLOCK) == model[:BLOCK]
        handmade.resume()
        said = f"data store {path}: was made smaller: what is left of it is not sent"
        eventually(  # a look of the site may have found it before, and says so meanwhile
            lambda: said in (state_of(handmade)["reason"] or ""), "a reason"
        )
        assert handmade.image("west").read_bytes() == model
        with path.open("r+b") as file:
            file.seek(SIZE // 2)
            file.write(model[SIZE // 2 :])
        assert client.read(0, SIZE) == model
    handmade.run("stop", str(handmade.toml("east")))
    handmade.run("adopt", str(handmade.toml("east")), "disk", "data", "--yes")
    handmade.start("east")
    handmade.sync()
    assert handmade.image("west").read_bytes() == model
