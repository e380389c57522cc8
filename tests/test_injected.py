"""Whatever the machine raises at whichever call: nobody waits, status says so, and it passes.

A real pair whose sites have a machine that raises on command (injected.py): the system's errors,
want of memory, and a broken invariant, at the N-th call of each method of the platform, in cycles,
hardenings, handshakes, promotions and stops.  A random sample, of some hundred; `make soak` takes
ten times as many.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import direct
import pytest
from handmade import Handmade, copied_first, eventually, state_of
from nbd_client import NbdClient
from pair import CommandFailed, some

from mirror_core import config, ledger, process
from mirror_core.errors import MirrorError, PeerError

SOAK = int(os.environ.get("FLASHMIRROR_SOAK", "1"))
SIZE = 1 << 20
BLOCK = 4096
WRITE_S = 5.0  # a client's write takes at most
PASSING = ("ENOSPC", "EROFS", "EIO", "ENOENT", "MemoryError")
IN_RUNS = (
    "monotonic",
    "time",
    "uniform",
    "random_bits",
    "token",
    "read",
    "open",
    "close",
    "pwrite",
    "ftruncate",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "control_channel",
    "peer_store",
    "write_log",
)
IN_STARTS = (
    "spawn",
    "names",
    "file_store",
    "token",
    "read",
    "open",
    "close",
    "fsync",
    "rename",
    "random_bits",
    "flock",
)
IN_CYCLES = ("monotonic", "time", "open", "close", "pwrite", "fsync", "rename")
IN_STOPS = (
    "monotonic",
    "time",
    "open",
    "close",
    "pwrite",
    "fsync",
    "rename",
    "unlink",
    "names",
    "write_log",
)
IN_PROMOTIONS = (
    "monotonic",
    "time",
    "open",
    "close",
    "pwrite",
    "fsync",
    "rename",
    "unlink",
    "write_log",
)
AT_MOST = {"monotonic": 60, "control_channel": 2, "peer_store": 2}


class Injected(Handmade):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SIZE)
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *sites: str) -> None:
        for site in sites or ("west", "east"):
            self.begin(site)
            eventually(partial(self.is_up, site), f"{site} is up; {self.log(site)}")

    def begin(self, site: str) -> None:
        """It may end, if something is raised in its start."""
        settings = config.load(str(self.toml(site)))
        settings.socket.unlink(missing_ok=True)  # of a start that has ended, as `start` does
        words, environment = process.command(settings)
        at = words.index("python")
        plugin = str(Path(__file__).with_name("injected.py"))
        words[at:] = ["--foreground", "--unix", str(settings.socket), "python", plugin, words[-1]]
        with (settings.state / "site.log").open("ab") as log:
            self.children[site] = subprocess.Popen(words, env=environment, stdout=log, stderr=log)

    def answers(self, site: str) -> bool:
        try:
            return bool(state_of(self, site))
        except MirrorError:
            return False

    def is_up(self, site: str) -> bool:
        ended = self.children[site].poll() is not None
        answers = self.answers(site)
        assert answers or not ended, self.log(site)
        return answers

    def has_begun(self, site: str) -> bool:
        """It serves, or it has ended."""
        return self.children[site].poll() is not None or self.answers(site)

    def inject(self, site: str, method: str, error: str, number: int) -> None:
        self.toml(site).with_suffix(".injected").unlink(missing_ok=True)
        order = self.toml(site).with_suffix(".inject")
        order.with_suffix(".fresh").write_text(f"{method} {error} {number}")
        order.with_suffix(".fresh").rename(order)

    def was_raised(self, site: str) -> bool:
        return self.toml(site).with_suffix(".injected").exists()

    def forget(self, site: str) -> None:
        self.toml(site).with_suffix(".inject").unlink(missing_ok=True)

    def end(self, site: str) -> None:
        """A stop, whatever is injected: it comes to its end."""
        child = self.children[site]
        child.terminate()
        child.wait(30)


@pytest.fixture
def injected(scratch: Path) -> Iterator[Injected]:
    pair = Injected(scratch / "pair")
    pair.create()
    pair.start()
    yield pair
    for child in pair.children.values():
        child.kill()
        child.wait(20)


def sync(pair: Injected, site: str) -> None:
    """The request itself may meet what is raised, once: it is answered with an error, and asked
    again."""
    try:
        direct.sync(pair)
    except PeerError:
        assert pair.was_raised(site)
        direct.sync(pair)


def write_some(client: NbdClient, chance: random.Random) -> None:
    for _ in range(8):
        began = time.monotonic()
        client.write(chance.randrange(SIZE // BLOCK) * BLOCK, chance.randbytes(BLOCK))
        assert time.monotonic() < began + WRITE_S
    client.flush()


@pytest.mark.parametrize("site", ["east", "west"])
def test_a_stale_folder_is_nothing_that_the_target_is_owed(injected: Injected, site: str) -> None:
    """The state folder is on NFS, and its server answers ESTALE once, as a cycle begins or is
    committed: what that cycle had is sent again, and not everything; and the site says so."""
    with injected.client() as client:
        client.write(0, b"x" * BLOCK)
        direct.sync(injected)
        before = copied_first(injected)
        # Or it would be met in the record of that.
        book = injected.folder / "west/state"
        direct.wait_for(lambda: not ledger.load(book).maps, "all is hardened")
        injected.inject(site, "rename", "ESTALE", 1)
        client.write(0, b"y" * BLOCK)
        sync(injected, site)
        assert injected.was_raised(site)
        injected.forget(site)
    assert BLOCK <= copied_first(injected) - before <= 2 * BLOCK
    assert os.strerror(errno.ESTALE) in injected.log(site)


def a_fault(
    chance: random.Random, errors: tuple[str, ...], calls: tuple[str, ...] = IN_RUNS
) -> tuple[str, str, str, int]:
    method = chance.choice(calls)
    number = 1 + chance.randrange(AT_MOST.get(method, 4))
    return chance.choice(("east", "west")), method, chance.choice(errors), number


def test_errors_of_the_machine_pass(injected: Injected) -> None:
    """Each is raised once while clients write and cycles run: no process ends, no write waits, and
    mirroring goes on by itself; in the end both sites are equal."""
    chance = random.Random(1)
    raised = 0
    for number in range(60 * SOAK):
        fault = site, method, error, nth = a_fault(chance, PASSING)
        injected.inject(site, method, error, nth)
        if number % 5 == 0 and site == "west":  # it is met in a handshake, too
            injected.end("east")
            injected.start("east")
        with injected.client() as client:
            write_some(client, chance)
            sync(injected, site)
            raised += injected.was_raised(site)
            injected.forget(site)
            write_some(client, chance)
            direct.sync(injected)
            assert injected.image("west").read_bytes() == client.read(0, SIZE), fault
        for name, child in injected.children.items():
            assert child.poll() is None, (fault, injected.log(name))
    assert raised > 15 * SOAK, raised


def test_a_broken_invariant_is_said_and_holds_up_nobody(injected: Injected) -> None:
    """Mirroring stops, or goes on if the control itself was not concerned; writes go on; status is
    never `mirroring` when it does not; a stop ends, and with the next start all is mirrored."""
    chance = random.Random(2)
    broken = 0
    for _ in range(12 * SOAK):
        fault = site, method, error, nth = a_fault(chance, ("AssertionError",), IN_CYCLES)
        injected.inject(site, method, error, nth)
        found = ""
        with injected.client() as client:
            give_up = time.monotonic() + 2.0
            while not injected.was_raised(site) and time.monotonic() < give_up:
                write_some(client, chance)
            if injected.was_raised(site):
                found = eventually(lambda: ended_well(injected), f"an end of {fault}")
            injected.forget(site)
            write_some(client, chance)
        if found == "broken":
            broken += 1
            for one in ("east", "west"):
                injected.end(one)
            injected.start()
        with injected.client() as client:
            direct.sync(injected)
            assert injected.image("west").read_bytes() == client.read(0, SIZE), fault
    assert broken > 2 * SOAK, broken


def ended_well(pair: Injected) -> str:
    """Of a pair in which an invariant may be broken."""
    found = {site: state_of(pair, site) for site in ("east", "west")}
    for site, status in found.items():
        if "internal error" in str(status["reason"]):
            assert status["state"] == "degraded", (site, status)
            return "broken"
    east = found["east"]
    equal = not east["volumes"][0]["next_bytes"] and east["cycle"]["phase"] == "idle"
    return "mirroring" if equal and east["state"] == "mirroring" else ""


def test_a_stop_ends_whatever_it_meets(injected: Injected) -> None:
    """Each step of a stop is tried, and what the next start finds is right."""
    chance = random.Random(3)
    raised = 0
    for _ in range(12 * SOAK):
        site, method, error, nth = a_fault(chance, (*PASSING, "AssertionError"), IN_STOPS)
        with injected.client() as client:
            write_some(client, chance)
            held = client.read(0, SIZE)
        injected.inject(site, method, error, 1 + nth % 3)
        injected.end(site)
        raised += injected.was_raised(site)
        injected.forget(site)
        injected.start(site)
        with injected.client() as client:
            assert client.read(0, SIZE) == held
            direct.sync(injected)
            assert injected.image("west").read_bytes() == held, (site, method, error, nth)
    assert raised >= 4 * SOAK, raised


def says_why(log: str) -> bool:
    """Its last words, which `start` shows: a line of ours, or what nbdkit makes of an error."""
    words = [line.partition("flashmirror: ")[2] for line in log.splitlines() if line.strip()]
    return bool(words and words[-1]) or "nbdkit: error: " in log


def adopted_if_doubted(pair: Injected, site: str) -> None:
    """An error of the state folder's disk may be one of a copy's that was put back: a person says
    that there is none."""
    if ledger.load(pair.folder / site / "state").unflushed:
        for part in ("data", "intermediate"):
            pair.run("adopt", str(pair.toml(site)), "disk", part, "--yes", "--unchanged")


@pytest.mark.parametrize("site", some(["east", "west"]))
def test_a_start_serves_or_ends_whatever_it_meets(injected: Injected, site: str) -> None:
    """And says why if it ends; the next one finds all as it was."""
    chance = random.Random(5)
    met = set()
    with injected.client() as client:
        write_some(client, chance)
        held = client.read(0, SIZE)
    direct.sync(injected)
    for method in IN_STARTS:
        error = "MemoryError" if method == "spawn" else chance.choice(PASSING)
        injected.end(site)
        injected.inject(site, method, error, 1)
        before = len(injected.log(site))
        injected.begin(site)
        eventually(partial(injected.has_begun, site), f"a start that meets {method} {error}")
        if injected.was_raised(site):
            met.add(method)
        if injected.children[site].poll() is not None:
            assert injected.was_raised(site), injected.log(site)
            assert says_why(injected.log(site)[before:]), (method, error)
            injected.forget(site)
            adopted_if_doubted(injected, site)
            injected.start(site)
        injected.forget(site)
        with injected.client() as client:
            direct.sync(injected)
            assert client.read(0, SIZE) == held, (method, error)
            assert injected.image("west").read_bytes() == held, (method, error)
    assert len(met) >= 8, met


@pytest.mark.timeout(600 * SOAK)
def test_a_promotion_ends_whatever_it_meets(scratch: Path) -> None:
    """It is done, or it is not and says so, and then it can be asked for again; the volume is that
    of the last commit."""
    chance = random.Random(4)
    raised = 0
    for number in range(12 * SOAK):
        pair = Injected(scratch / f"pair-{number}")
        pair.create()
        pair.start()
        try:
            with pair.client() as client:
                write_some(client, chance)
                held = client.read(0, SIZE)
            direct.sync(pair)
            pair.children["east"].kill()
            pair.children["east"].wait(20)
            method = chance.choice(IN_PROMOTIONS)
            fault = "west", method, chance.choice((*PASSING, "AssertionError"))
            pair.inject(*fault, 1 + chance.randrange(20 if method == "monotonic" else 2))
            promote_in_the_end(pair)
            raised += pair.was_raised("west")
            eventually(partial(pair.is_up, "west"), f"west is up after {fault}")
            assert state_of(pair, "west")["role"] == "source", fault
            west = config.load(str(pair.toml("west"))).device_uri("disk")
            with NbdClient(west) as client:
                assert client.read(0, SIZE) == held, fault
        finally:
            for child in pair.children.values():
                child.kill()
                child.wait(20)
    assert raised >= 4 * SOAK, raised


def promote_in_the_end(pair: Injected) -> None:
    """A person asks for it again, and starts the site anew if that is what it says or has done."""
    for _ in range(4):
        try:
            pair.run("promote", str(pair.toml("west")), "--force", timeout_s=60.0)
            return
        except CommandFailed:
            pair.forget("west")
        child = pair.children["west"]
        with contextlib.suppress(MirrorError):  # it begins anew
            if "internal error" in str(state_of(pair, "west")["reason"]):
                pair.end("west")
        if child.poll() is not None:
            pair.start("west")
    raise AssertionError(f"west is not promoted: {pair.log('west')}")
