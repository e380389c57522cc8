"""Data exposure grows in every state of a source in which a disaster would lose a write.

A figure that is alerted on may say too much, never too little: whatever a source does, did before
it was started, or does not know, exposure is at least the age of the oldest write that the target
has not committed.  A target, which cannot know, says nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import Handmade, ServedDisk, scrape, value
from nbd_client import NbdClient
from pair import MakePair, Pair
from served import Faulty, Server
from test_holds import hung_write, mirror
from test_injected import Injected
from test_ledger import sample
from test_link import frozen, kill, lose_power

from mirror_core import age, config, ledger
from mirror_core.platform import Platform

MIB = 1 << 20
BLOCK = 4096


def exposure(pair: Pair, site: str = "east") -> float:
    found: float = direct.status(pair, site)["data_exposure_seconds"]
    return found


def write(pair: Pair, at: int = 0, site: str = "east") -> float:
    """One block is acknowledged; when that was."""
    with NbdClient(config.load(str(pair.toml(site))).device_uri("disk")) as client:
        client.write(at, b"x" * BLOCK)
    return time.monotonic()


def check_grows(pair: Pair, written: float, site: str = "east") -> None:
    """Exposure is at least the age of a write that was acknowledged by `written`, and grows."""
    asked = time.monotonic()
    first = exposure(pair, site)
    assert first >= asked - written, "less than the age of a write that may be lost"
    direct.wait_for(lambda: exposure(pair, site) >= first + 0.1, "exposure has grown", timeout_s=5)


def synced(make_pair: MakePair, size: str = "4M") -> Pair:
    pair = make_pair("--size", size)
    pair.start()
    for _ in range(2):  # of the last one a source that is killed need not know
        write(pair, MIB)
        direct.sync(pair)
    assert exposure(pair) == 0, "all is committed"
    return pair


@pytest.mark.parametrize("end", [direct.stop, kill, lose_power])
def test_a_source_that_was_restarted_goes_on_counting(
    make_pair: MakePair, end: Callable[[Pair, str], None]
) -> None:
    """Its target is away; stopped in order, killed, or after a power loss it does not know when
    the writes were that wait, but that they are younger than the last point."""
    pair = synced(make_pair)
    direct.stop(pair, "west")
    written = write(pair)
    check_grows(pair, written)
    end(pair, "east")
    pair.start("east")
    check_grows(pair, written)
    assert direct.status(pair)["image_age_seconds"] >= exposure(pair) - 0.1, "no more than that"
    pair.start("west")
    direct.sync(pair)
    assert exposure(pair) == 0


def test_it_grows_while_nothing_is_committed(make_pair: MakePair) -> None:
    """Paused; the target away, and silent; mirroring refused, by a target that was promoted."""
    pair = synced(make_pair)
    direct.pause(pair)
    written = write(pair)
    check_grows(pair, written)
    direct.resume(pair)
    direct.sync(pair)
    with frozen(pair, "west"):
        check_grows(pair, write(pair))
    direct.sync(pair)
    direct.stop(pair, "west")
    written = write(pair)
    check_grows(pair, written)
    direct.stop(pair, "east")
    pair.start("west")
    pair.run("promote", str(pair.toml("west")), "--force")
    pair.start("east")
    direct.wait_status(pair, state="refused")
    check_grows(pair, written)


def test_a_target_without_an_image_exposes_all_before_it_has_a_session(
    make_pair: MakePair,
) -> None:
    """Nothing waits to be sent; the target has given its image up and says so, but no session comes
    about, for this site's own disk is full: all is exposed, since this history began."""
    pair = synced(make_pair)
    created = time.monotonic()
    direct.stop(pair, "west")
    pair.run("resync", "--full", str(pair.toml("west")))
    in_the_way = pair.folder / "east" / "state" / "ledger.new"
    in_the_way.mkdir()
    pair.start("west")
    direct.wait_for(lambda: "ledger" in str(direct.status(pair)["reason"]), "a reason")
    check_grows(pair, created)
    assert direct.status(pair)["image_age_seconds"] is None
    in_the_way.rmdir()
    direct.sync(pair)
    assert exposure(pair) == 0


def test_before_the_first_commit_all_is_exposed(make_pair: MakePair) -> None:
    """What stands on the volume before its first commit, which may take days, has stood there
    since the site was created for all that anybody knows; over restarts too."""
    created = time.monotonic()
    pair = make_pair("--size", "4M")
    direct_created = time.monotonic()
    pair.start("east")
    for _ in range(2):
        found = exposure(pair)
        assert found >= time.monotonic() - direct_created - 0.2
        assert found <= time.monotonic() - created + 0.2
        check_grows(pair, direct_created + 0.2)
        assert direct.status(pair)["image_age_seconds"] is None
        kill(pair, "east")
        pair.start("east")
    pair.start("west")
    direct.sync(pair)
    assert exposure(pair) == 0


@contextmanager
def slow_target(pair: Handmade, folder: Path, *, size: int) -> Iterator[Server]:
    """A pair with an image whose target's intermediate is behind a server."""
    folder.mkdir()
    server = Server(folder / "intermediate.img")
    server.image.touch()
    os.truncate(server.image, size)
    server.start()
    pair.size, pair.stores["west", "intermediate"] = size, server.uri
    pair.create()
    try:
        pair.start()
        with pair.client() as client:
            for at in range(0, size, MIB):
                client.write(at, os.urandom(MIB))
        direct.sync(pair)
        yield server
    finally:
        pair.kill()
        server.stop()


def slow(pair: Handmade, server: Server, *rules: str) -> None:
    """The target's intermediate becomes slow, while the target is stopped."""
    direct.stop(pair, "west")
    server.stop()
    server.start("delay", parameters=rules, threads=4)
    pair.start("west")


def phase(pair: Pair) -> str:
    found: str = direct.status(pair)["cycle"]["phase"]
    return found


def test_it_grows_while_blocks_are_compared(scratch: Path, handmade: Handmade) -> None:
    """After a power loss, while the target compares, which its store makes slow."""
    with slow_target(handmade, scratch / "served", size=32 * MIB) as server:
        direct.pause(handmade)
        written = write(handmade)
        lose_power(handmade, "east")
        slow(handmade, server, "rdelay=100ms")
        handmade.start("east")
        direct.resume(handmade)
        direct.wait_for(lambda: phase(handmade) == "copy", "a cycle compares")
        check_grows(handmade, written)
        assert phase(handmade) == "copy", "it has ended too soon"


def test_it_grows_through_a_cycle_and_its_troubles(scratch: Path, handmade: Handmade) -> None:
    """In a slow cycle; with new writes in the next one; its link lost, and another; taken up
    again; and over to the cycle that follows."""
    handmade.more = 'link_timeout = "1s"'
    with slow_target(handmade, scratch / "served", size=8 * MIB) as server:
        direct.pause(handmade)
        with handmade.client() as client:
            for at in range(0, 8 * MIB, 2 * BLOCK):
                client.write(at, b"a" * BLOCK)
        written = time.monotonic()
        slow(handmade, server, "wdelay=100ms")
        direct.resume(handmade)
        direct.wait_for(lambda: phase(handmade) == "copy", "a cycle copies")
        check_grows(handmade, written)
        later = write(handmade, BLOCK)
        check_grows(handmade, written)
        kill(handmade, "west")
        direct.wait_status(handmade, state="degraded")
        check_grows(handmade, written)
        handmade.start("west")
        direct.wait_status(handmade, state="mirroring")
        check_grows(handmade, written)
        direct.wait_for(lambda: exposure(handmade) < time.monotonic() - written, "it commits", 60)
        now = time.monotonic()
        assert exposure(handmade) == 0 or exposure(handmade) >= now - later


def test_it_grows_over_cycles_that_are_abandoned(scratch: Path, handmade: Handmade) -> None:
    """The source's intermediate is full: cycle after cycle is begun and given up."""
    full = ServedDisk(scratch / "full")
    handmade.stores["east", "intermediate"] = full.store(handmade.size)
    try:
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        full.fill()
        written = write(handmade)
        for _ in range(10):
            check_grows(handmade, written)
        assert direct.status(handmade)["state"] == "degraded"
    finally:
        handmade.kill()
        full.close()


@pytest.mark.soak
def test_it_grows_in_a_cycle_that_stands_still(scratch: Path, handmade: Handmade) -> None:
    """`pause --now`: of what the cycle holds, and of what was written since, nothing is
    committed."""
    with slow_target(handmade, scratch / "served", size=8 * MIB) as server:
        direct.pause(handmade)
        with handmade.client() as client:
            for at in range(0, 8 * MIB, 2 * BLOCK):
                client.write(at, b"a" * BLOCK)
        written = time.monotonic()
        slow(handmade, server, "wdelay=100ms")
        direct.resume(handmade)
        direct.wait_for(lambda: phase(handmade) == "copy", "a cycle copies")
        assert direct.pause(handmade, now=True)["cycle"]["stands_still"]
        check_grows(handmade, written)
        write(handmade, BLOCK)
        check_grows(handmade, written)
        assert direct.status(handmade)["cycle"]["stands_still"]


def test_it_grows_over_freezes_that_are_missed(scratch: Path, handmade: Handmade) -> None:
    """One write hangs in the source's data store, so that no consistency point is made: what others
    have written meanwhile waits."""
    handmade.more = 'link_timeout = "20s"'
    server = Faulty(scratch / "faulty.img")
    try:
        mirror(handmade, "data", server)

        def missed() -> float:
            return value(scrape(handmade), 'cycles_total{result="freeze_missed"}')

        with hung_write(handmade, server):
            written = write(handmade, BLOCK)
            for _ in range(3):
                before = missed()
                direct.wait_for(lambda: missed() > before, "another freeze is missed")  # noqa: B023
                check_grows(handmade, written)
    finally:
        handmade.kill()
        server.stop()


def test_it_grows_when_the_control_has_ended(scratch: Path) -> None:
    """An error of our own has ended the thread that mirrors, in a cycle: what that held, and what
    is written since, waits for the next start."""
    pair = Injected(scratch / "pair")
    pair.create()
    try:
        pair.start()
        direct.sync(pair)
        pair.inject("east", "rename", "AssertionError", 1)
        written = write(pair)
        direct.wait_for(lambda: "internal error" in str(direct.status(pair)["reason"]), "its end")
        check_grows(pair, written)
        write(pair, MIB // 2)
        check_grows(pair, written)
    finally:
        for child in pair.children.values():
            child.kill()
            child.wait(20)


def test_it_grows_while_the_intermediate_is_away(handmade: Handmade) -> None:
    """The source was started without it: its target is there, and nothing is mirrored."""
    handmade.create()
    handmade.start()
    write(handmade)
    direct.sync(handmade)
    direct.stop(handmade, "east")
    place = Path(handmade.store("east", "intermediate"))
    away = place.rename(place.with_suffix(".away"))
    handmade.start("east")
    written = write(handmade)
    direct.wait_for(lambda: "waits for it" in str(direct.status(handmade)["reason"]), "a reason")
    check_grows(handmade, written)
    away.rename(place)
    direct.sync(handmade)
    assert exposure(handmade) == 0


def test_a_promoted_source_without_a_target_exposes_all(make_pair: MakePair) -> None:
    """No site is known to have anything of the new history, be something written in it or not;
    over restarts too, until the first commit of it."""
    pair = synced(make_pair)
    direct.stop(pair, "east")
    pair.run("promote", str(pair.toml("west")), "--force")
    promoted = time.monotonic()
    assert direct.status(pair, "west")["role"] == "source"
    check_grows(pair, promoted, "west")
    write(pair, 0, "west")
    for end in (direct.stop, kill):
        check_grows(pair, promoted, "west")
        assert direct.status(pair, "west")["image_age_seconds"] is None
        end(pair, "west")
        pair.start("west")
    check_grows(pair, promoted, "west")


def test_it_grows_while_writes_are_held(make_pair: MakePair) -> None:
    """on_link_loss = block: what was acknowledged before the link was lost waits, too."""
    pair = make_pair("--size", "4M")
    pair.configure("east", 'on_link_loss = "block"\nlink_timeout = "1s"')
    pair.start()
    direct.sync(pair)
    with frozen(pair, "west"):
        with NbdClient(pair.uri()) as client:
            client.write(0, b"x" * BLOCK)
        written = time.monotonic()
        direct.wait_status(pair, state="degraded")
        check_grows(pair, written)
    direct.sync(pair)


def test_a_target_does_not_know(make_pair: MakePair) -> None:
    """A target whose source is there, away or dead never says that nothing is exposed: `null`,
    and no sample; it knows how old its image is, and so does the source."""
    pair = synced(make_pair)
    ages = [direct.status(pair, site)["image_age_seconds"] for site in ("east", "west")]
    assert ages[1] >= ages[0] - 0.1 > -0.1, "that of the target, asked later"
    for killed in (False, True):
        if killed:
            kill(pair, "east")
        status, text = direct.status(pair, "west"), scrape(pair, "west")
        assert status["data_exposure_seconds"] is None
        assert "\nflashmirror_data_exposure_seconds " not in text
        assert "\nflashmirror_image_age_seconds " in text
        first = status["image_age_seconds"]
        assert direct.status(pair, "west")["image_age_seconds"] > first
    assert "the source knows" in pair.run("status", str(pair.toml("west")))
    dead = pair.status("east")
    assert dead["data_exposure_seconds"] is None and dead["image_age_seconds"] > 0


class Clocks(Platform):
    """Two clocks that are set by hand."""

    def __init__(self) -> None:
        self.wall, self.counted, self.up, self.boot = 1e9, 50.0, 70.0, "this"

    def time(self) -> float:
        return self.wall

    def uptime(self) -> float:
        return self.up

    def boot_id(self) -> str:
        if not self.boot:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return self.boot

    def monotonic(self) -> float:
        return self.counted


class Running(Clocks):
    """They go on by a microsecond with each look."""

    def uptime(self) -> float:
        self._go_on()
        return self.up

    def monotonic(self) -> float:
        self._go_on()
        return self.counted

    def _go_on(self) -> None:
        self.up += 1e-6
        self.counted += 1e-6


@pytest.mark.parametrize("jump", [-1e8, -3600.0, 3600.0, 1e8])
def test_no_clock_that_is_set_makes_an_age_negative_or_nothing(jump: float) -> None:
    """A point of this process does not see the wall clock at all; one that was read or told of is
    at least as old as it has been known, and after a jump backwards grows from there."""
    clocks = Clocks()
    made = age.Moment(clocks.wall, clocks.counted, exact=True)
    read = age.told(clocks.wall - 100, clocks)
    assert read and read.age(clocks) == 100
    clocks.counted += 5
    clocks.wall += 5 + jump
    assert made.age(clocks) == 5
    assert read.age(clocks) == max(5, 105 + jump)
    clocks.counted += 1
    clocks.wall += 1
    assert made.age(clocks) == 6
    assert read.age(clocks) == max(6, 106 + jump)
    assert age.told(None, clocks) is None and age.told(0.0, clocks) is None


@pytest.mark.parametrize("jump", [-1e8, -3600.0, 0.0, 3600.0])
def test_a_process_counts_on_from_the_one_before(jump: float) -> None:
    """Of the same boot, or one that is not known: no clock that was set before it began makes less
    of a point's age, or of a history's without one.  After a start of the machine the wall clock is
    all there is, and where nothing says since when the point is known."""
    clocks = Clocks()
    book = sample(consistency_point=clocks.wall - 5, known_boot="this", known_uptime=clocks.up - 5)
    clocks.wall += 10 + jump
    clocks.up += 10
    clocks.counted = 3.0
    point = age.of_point(book, clocks)
    assert point and point.age(clocks) == max(15, 15 + jump)
    young = replace(book, consistency_point=None, since=1e9 - 5)
    assert age.of_history(young, clocks).age(clocks) == max(15, 15 + jump)
    for before, boot in (("this", ""), ("", "this"), ("", "")):
        clocks.boot, in_between = boot, replace(book, known_boot=before)
        point = age.of_point(in_between, clocks)
        assert point and point.age(clocks) == max(15, 15 + jump)
        point = age.of_point(replace(in_between, known_uptime=0.0), clocks)
        assert point and point.age(clocks) == max(0, 15 + jump)
    clocks.boot = "another"
    point = age.of_point(book, clocks)
    assert point and point.age(clocks) == max(0, 15 + jump)


@pytest.mark.parametrize(
    ("before", "boot", "passed", "known"),
    [
        ("this", "this", 10, 0),
        ("this", "another", 10, 10),
        ("this", "", 10, 0),
        ("", "this", 10, 0),
        ("", "", 10, 0),
        ("this", "", -10, -10),
        ("this", "another", -10, -10),
    ],
)
def test_a_process_says_how_long_its_point_is_known(
    before: str, boot: str, passed: int, known: int
) -> None:
    """For the next one: of a machine that was started since, or is up for less time than it was, it
    is no longer than that is up now."""
    clocks = Clocks()
    book = sample(known_boot=before, known_uptime=clocks.up)
    clocks.boot, clocks.up = boot, clocks.up + passed
    told = age.of_this_boot(book, clocks)
    assert told == {"known_boot": boot, "known_uptime": book.known_uptime + known}


def test_how_long_a_point_is_known_does_not_drift() -> None:
    """The clocks go on between two looks at them: what is said is never before the boot, which no
    ledger is read with, nor another time at each start."""
    clocks = Running()
    book = sample(known_boot="this", known_uptime=1e-7)
    for _ in range(3):
        assert age.of_this_boot(book, clocks) == {"known_boot": "this", "known_uptime": 1e-7}


@pytest.mark.parametrize(
    ("before", "boot", "certain"),
    [
        ("this", "this", False),
        ("this", "another", True),
        ("", "another", False),
        ("this", "", False),
        ("", "", False),
    ],
)
def test_a_machine_was_started_anew_only_if_that_is_certain(
    before: str, boot: str, certain: bool
) -> None:
    """Where a boot is not known (test_boot_id.py) it is neither another one nor the same; how long
    the machine is up, and was when its ledger was written, says nothing of it."""
    for passed in (-10, 10):
        clocks = Clocks()
        book = sample(known_boot=before, known_uptime=clocks.up)
        clocks.boot, clocks.up = boot, clocks.up + passed
        assert age.is_of_another_boot(book, clocks) is certain
        assert age.is_the_same(before, boot) is (before == boot == "this")


def test_a_clock_that_is_set_back_hides_nothing_from_the_next_process(make_pair: MakePair) -> None:
    """The source is started again after its clock was set back by two hours, as if its ledger were
    of the future: what waited before waits since then."""
    pair = synced(make_pair)
    direct.stop(pair, "west")
    written = write(pair)
    direct.stop(pair, "east")
    state = pair.folder / "east" / "state"
    book = ledger.load(state)
    assert book.consistency_point
    ledger.save(state, replace(book, consistency_point=book.consistency_point + 7200))
    pair.start("east")
    check_grows(pair, written)
