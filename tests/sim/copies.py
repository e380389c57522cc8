"""Machines that go back in time, and copies of them that live beside them.

    take       a copy of a machine at any instant, as a snapshot of a virtual machine is: what a
               power loss would leave
    put back   parts of it (state, data, intermediate, or all) when the machine is down, after
               cycles that it does not hold
    restore    what a target's store holds, after it was away, is copied there again, and its flush,
               which is the start's, may fail
    clone      a second machine that begins as the copy: of a source, both serve clients; of a
               target, the link leads now to one and now to the other

Afterwards the site is refused, with a reason whose way out a person takes (person.py), or it is
right: nothing here asks that it is refused, for the oracle knows every point by its bytes.

What docs/recovery.md lists as not noticed (`_unnoticed`) is not left to the sites: the person who
put it back says so at once, by `adopt` or `resync --full`, as if it had been noticed.  A target
whose parts are of two moments holds a mixture: its image is not judged until the next commit.

Single files of a state folder that are lost, or older than those beside them: files.py.

Left out: a copy from before a change of role; two copies of a source that speaks the older
protocol, which has no tokens: a commit of one is taken for one of the other (docs/network.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror_core import ledger, limits
from sim import person
from sim.content import Content, Image, Point
from sim.core import lib
from sim.shape import SECTOR
from sim.simos import SimFs
from sim.sites import PARTS, Machine

if TYPE_CHECKING:
    from sim.trouble import Trouble
    from sim.world import World

ALL = ("state", *PARTS)
STATES = (
    *(f"{role} went back: {part}"
      for role in ("source", "target") for part in (*ALL, "all", "files of its state")),
    "two copies of a source", "two copies of a target", "went back twice",
    "went back, and is not noticed", "went back, and was refused",
    "went back, and its store was refused", "went back, and went on",
    "what was put back is refused by its disk", "maps of a later ledger",
    "one volume is adopted beside another", "went back, before a run that met nobody",
)  # fmt: skip


@dataclass(frozen=True)
class Copy:
    fs: SimFs
    images: dict[str, Image]
    book: ledger.Ledger


def take(world: World, machine: Machine, keep: float) -> Copy:
    rng = world.scheduler.random
    fs, _ = machine.fs.survivors(rng, keep)
    images = {part: machine.survivors(part, keep)[0] for part in PARTS}
    book = machine.book_on_disk(fs)
    world.scheduler.trace(f"*** a copy of {machine.name}: commit {book.committed}, begun "
                          f"{book.begun}, {'clean' if book.clean else 'running'}")  # fmt: skip
    return Copy(fs, images, book)


def put_back(
    world: World, machine: Machine, copy: Copy, parts: tuple[str, ...], *, as_files: bool = False
) -> None:
    """Of a machine that is down; its state as a snapshot, or file by file."""
    assert machine.life is None
    world.scheduler.trace(f"*** {machine.name}: {', '.join(parts)} put back to {copy.book.begun}")
    machine.went_back = True
    if "state" in parts:
        machine.fs, _ = copy.fs.survivors(world.scheduler.random, 1.0)
        if as_files:
            machine.fs.copy_files()
    for part in PARTS:
        if part in parts:
            machine.fill(part, copy.images[part])
    if machine.content and "data" in parts:
        machine.content = Content(machine.images("data"))


def _begun(book: ledger.Ledger) -> Point:
    return book.begun, book.begun_token


def _committed(book: ledger.Ledger) -> Point:
    return book.committed, book.committed_token


def _may_be_one(token: str, other: str) -> bool:
    """Of commits of one sequence: protocol 2 has no tokens."""
    return token == other or not (token and other)


def _seen_by_fingerprint(before: bytes, after: bytes) -> bool:
    """Whether two contents differ where a fingerprint looks (stores.Opened.fingerprint)."""
    size = len(after)
    spread = [size * i // limits.SAMPLES for i in range(limits.SAMPLES)]
    first = range(0, limits.SAMPLES_FIRST * limits.SAMPLE_BYTES, limits.SAMPLE_BYTES)
    at = {*first, *spread}
    return any(before[i : i + SECTOR] != after[i : i + SECTOR] for i in at if i < size)


def is_noticed(book: ledger.Ledger, part: str, before: Image, after: Image) -> list[bool]:
    """Of each volume whose store differs, whether a start looks there.  A run that met a loss
    leaves no fingerprint of that store."""
    return [
        getattr(record, part).fingerprint is not None and _seen_by_fingerprint(a, b)
        for record, a, b in zip(book.volumes, before, after, strict=True)
        if a != b
    ]


class Copies:
    """Acts of trouble.py."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble, self.world, self.random = trouble, trouble.world, trouble.random

    # ---- back in time

    def goes_back(self) -> None:
        """A machine takes back what it held before some commits, or none, and perhaps again."""
        twice = self.random.random() < 0.3
        machine = self.trouble.source() if self.random.random() < 0.5 else self.trouble.target()
        kept: Copy | None = None
        for number in range(1 + twice):
            if machine is None or not self.is_whole(machine):
                return
            fresh = machine.content is not None and self.random.random() < 0.3
            if fresh:
                copy = self._beside_a_fresh_run(machine)
            else:
                old = kept if self.random.random() < 0.5 else None
                copy = old or self.take_one(machine)
                if not self.run_on(machine, copy):
                    return
            kept = copy
            if copy is None or not self.goes_down(machine, killed=fresh):
                return
            if not self.is_of(machine, copy):
                return
            self._goes_back(machine, copy, in_place=fresh and self.random.random() < 0.8)
            if number:
                self.world.reach("went back twice")
            self.world.boot_all()
            self.look_on(machine)

    def _beside_a_fresh_run(self, machine: Machine) -> Copy | None:
        """Of a source whose logs know little yet: from before a run that its target does not meet,
        or from within one, whose maps in memory then know of more."""
        peer = self.world.west if machine is self.world.east else self.world.east
        alone = self.random.random() < 0.5
        if alone and peer.life:
            self.world.crash(peer, power=False, keep=0.0)
        if not self.goes_down(machine):
            return None
        copy = take(self.world, machine, 1.0)
        machine.boot()
        self.trouble.until(lambda: bool(machine.life and machine.life.up), 100, 5)
        if not (machine.life and machine.life.up):
            return None
        if alone:
            self.world.reach("went back, before a run that met nobody")
        else:
            self.world.turns(self.random.randrange(20))
            copy = take(self.world, machine, 1.0)
        self.world.turns(self.random.randrange(200))
        return copy

    def _goes_back(self, machine: Machine, copy: Copy, *, in_place: bool) -> None:
        """`in_place`: the files of its state alone are the same, only older, and nothing booted."""
        role = copy.book.role
        what = self.random.choice((*ALL, *ALL, "all", "all", "state+data", "state+intermediate"))
        what = "state" if in_place else what
        parts = ALL if what == "all" else tuple(what.split("+"))
        if "+" not in what:
            self.world.reach(f"{role} went back: {what}")
        history = self.world.history(copy.book.lineage)
        history.forked = True
        before = {part: machine.images(part) for part in PARTS}
        as_files = "state" in parts and not in_place and self.random.random() < 0.5
        put_back(self.world, machine, copy, parts, as_files=as_files)
        if as_files:
            self.world.reach(f"{role} went back: files of its state")
        if "state" in parts and not in_place and self.random.random() < 0.5:
            machine.maps.clear()  # and the machine was booted
        if role == "source":
            self._source_is_back(machine, copy, parts, before["data"], as_files=as_files)
        else:
            self._target_is_back(machine, parts, before)
            machine.is_copy = as_files

    def _source_is_back(
        self, machine: Machine, copy: Copy, parts: tuple[str, ...], before: Image, *, as_files: bool
    ) -> None:
        """What is not noticed, a person says: all of the data is to be compared."""
        if as_files and copy.book.run in copy.book.runs:
            return  # its logs are copies, so that is what it does itself
        if "state" in parts and "data" not in parts:
            machine.is_mixed = not self.has_maps(machine, copy.book)
            before = copy.images["data"]
        if not self._is_unnoticed(machine, copy, parts, before):
            self._adopts_one(machine)
            return
        self.world.reach("went back, and is not noticed")
        self.world.scheduler.trace("*** which is not noticed: a person adopts the data")
        self.adopts(machine)

    def _adopts_one(self, machine: Machine) -> None:
        """Somebody has moved a data store, and takes it in again; of the others it says nothing."""
        if self.random.random() < 0.3:
            self.world.reach("one volume is adopted beside another")
            machine.adopt(self.random.choice([*machine.sizes]), "data")
            self.trouble.until(lambda: machine.life is None, 300, 5)

    def adopts(self, machine: Machine) -> None:
        """All of its data is to be compared."""
        machine.adopt(*(word for volume in machine.sizes for word in (volume, "data")))
        self.trouble.until(lambda: machine.life is None, 300, 5)
        machine.is_mixed = False

    def _is_unnoticed(
        self, machine: Machine, copy: Copy, parts: tuple[str, ...], before: Image
    ) -> bool:
        book, data = machine.book_on_disk(machine.fs), machine.images("data")
        if "state" in parts and "data" in parts:
            return False  # what it knows of it holds
        if "state" in parts and self.is_older(machine, book):
            return False  # everything is compared
        if "data" not in parts and "state" not in parts:
            return False  # an intermediate
        if book.clean:
            return not all(is_noticed(book, "data", before, data))  # each is adopted by itself
        if "state" not in parts:
            return before != data
        return not self.has_maps(machine, book) and self.holds(book)

    @staticmethod
    def is_older(machine: Machine, book: ledger.Ledger) -> bool:
        """What was in memory at a kill tells that this is not the ledger of then."""
        return any(
            _committed(book) not in kept.commits
            if run == book.run
            else kept.was_up and run not in book.runs and kept.begun >= book.begun
            for run, kept in machine.maps.items()
            if kept.folder == machine.folder
            and book.lineage is not None
            and kept.counts.lineage == book.lineage.id
        )

    def has_maps(self, machine: Machine, book: ledger.Ledger) -> bool:
        """Of each volume, that tell what is hot, unless a later run has passed them over; or some
        that tell that the ledger was put back."""
        kept = machine.kept(book) if book.run not in machine.passed_over else None
        all_of_them = kept is not None and kept.runs.keys() == machine.sizes.keys()
        return all_of_them or self.is_older(machine, book)

    def holds(self, book: ledger.Ledger) -> bool:
        """Whether the target's image may be one that this source knows, or become it: a commit
        that the killed source has asked for may be on its way."""
        peer = self.world.west if book.name == self.world.east.site else self.world.east
        theirs = peer.book_on_disk(peer.fs)
        return theirs.whole and any(
            theirs.committed == number and _may_be_one(theirs.committed_token, token)
            for number, token in (_committed(book), _begun(book))
        )

    def _target_is_back(
        self, machine: Machine, parts: tuple[str, ...], before: dict[str, Image]
    ) -> None:
        """Its image is an older one, or a mixture; a person says what is not noticed."""
        assert machine.follows
        machine.follows.give_up()
        book = machine.book_on_disk(machine.fs)
        if "state" in parts:
            if parts != ALL:
                machine.unjudged = _committed(book)
            return
        pairs = [
            (a, b)
            for part in parts
            for a, b in zip(before[part], machine.images(part), strict=True)
            if a != b
        ]
        if not pairs:
            return
        machine.unjudged = _committed(book)
        if book.clean and any(
            any(is_noticed(book, part, before[part], machine.images(part))) for part in parts
        ):
            return
        self.world.reach("went back, and is not noticed")
        self.world.scheduler.trace("*** which is not noticed: a person gives its image up")
        person.give_up(self.world, machine)
        self.trouble.until(lambda: machine.life is None, 300, 5)

    def restores(self) -> None:
        """A store of a target that was stopped in order was lost, and a person has put what it held
        there again: it is on the disk when the start has flushed it, and who starts it once more
        after a failure is told that all is well."""
        machine = self.trouble.target()
        if machine is None or not self.is_whole(machine) or self.world.clones:
            return
        self.trouble.stop(machine)
        book = machine.book_on_disk(machine.fs)
        if machine.life or not book.clean or not book.whole:
            return
        part = self.random.choice(PARTS)
        volumes = [v for v in machine.sizes if (v, part) not in machine.served]
        if not volumes:  # who puts something behind a server flushes it
            return
        for volume, held in zip(machine.sizes, machine.images(part), strict=True):
            if volume in volumes:
                disk = machine.disks[volume, part]
                lib.sim_disk_reset(disk, self.random.randbytes(len(held)))
                lib.sim_disk_fill(disk, held)
        self.world.scheduler.trace(f"*** {machine.name}: its {part} is copied there again")
        machine.lost_copy, machine.unjudged = True, _committed(book)
        machine.is_copy = False
        if self.world.disk_errors and self.random.random() < 0.8:
            self.world.fail_to_flush(machine, self.random.choice(volumes), part)
        self._starts(machine)
        if machine.life and machine.life.refused:
            self.world.reach("what was put back is refused by its disk")
            self.world.crash(machine, power=False, keep=0.0)
            machine.heal()
            self._starts(machine)
        self.look_on(machine)

    def _starts(self, machine: Machine) -> None:
        self.world.boot_all()
        self.trouble.until(
            lambda: bool(machine.life and (machine.life.up or machine.life.refused)), 1000, 5
        )

    # ---- copies that live

    def clone(self) -> None:
        """A copy lives beside the machine for a while; one of the two goes on."""
        is_source = self.random.random() < 0.5
        machine = self.trouble.source() if is_source else self.trouble.target()
        if machine is None or not self.is_whole(machine) or self.world.clones:
            return
        if is_source and self.world.shape.older:
            return
        copy = self.take_one(machine)
        if not self.run_on(machine, copy):
            return
        self.world.reach(f"two copies of a {copy.book.role}")
        self.world.history(copy.book.lineage).forked = True
        one = Machine(self.world, machine.site + "*", machine.peer, machine.sizes)
        one.was_slow, one.follows = machine.was_slow, machine.follows
        one.content = Content(copy.images["data"]) if machine.content else None
        put_back(self.world, one, copy, ALL)
        machine.went_back = True
        self.world.clones.append(one)
        one.boot()
        for _ in range(self.random.randrange(1, 5)):
            self.world.turns(self.random.randrange(150))
            if not is_source and self.random.random() < 0.7:
                self._lead_to(one)
            if self.random.random() < 0.5:
                self.world.network.cut()
            if self.random.random() < 0.3:
                self.world.probe()
            victim = self.random.choice((machine, one))
            if self.random.random() < 0.3 and victim.life:
                self.world.crash(victim, power=self.random.random() < 0.5,
                                 keep=self.random.choice((0.0, 0.5, 1.0)))  # fmt: skip
            self.world.boot_all()
        self._end_of_one(machine, one)
        self.look_on(one)

    def _lead_to(self, one: Machine) -> None:
        """The link leads to this copy of a target, which may hold less than was committed."""
        world = self.world
        if one not in world.clones:
            one = world.clones[0]
        world.scheduler.trace(f"*** the link leads to {one.name}")
        world.network.cut()
        here = world.reached_as(one.site)
        world.clones.remove(one)
        self._stand_for(here, one)
        world.clones.append(here)
        if one.follows:
            one.follows.give_up()

    def _end_of_one(self, machine: Machine, one: Machine) -> None:
        """A person ends one of the two for good."""
        world = self.world
        if self.random.random() < 0.5:
            machine, one = one, machine
        world.scheduler.trace(f"*** of two copies {machine.name} ends for good")
        if machine.life:
            world.crash(machine, power=False, keep=0.0)
        world.network.cut()
        here = world.reached_as(one.site)
        if one is not here:
            self._stand_for(here, one)
            if one.follows and not one.content:
                one.follows.give_up()
        world.clones.clear()

    def _stand_for(self, here: Machine, one: Machine) -> None:
        if here is self.world.east:
            self.world.east = one
        else:
            self.world.west = one

    # ---- how they come to it

    def is_whole(self, machine: Machine) -> bool:
        """It has not changed its role, nor is about to, and is of one moment."""
        history, life = machine.follows, machine.life
        if not (life and life.up) or life.stopping or machine.is_mixed:
            return False
        if life.target and (life.target.promoting or not life.target._book.current.whole):
            return False
        if life.target and _committed(life.target._book.current) == machine.unjudged:
            return False
        return machine.content is not None or bool(history and history.end is None)

    def take_one(self, machine: Machine) -> Copy:
        """At a moment of one's choice."""
        moment, until = self.random.random(), self.trouble.until
        if moment < 0.15:
            until(self.trouble.phase("freeze"))
        elif moment < 0.3:
            until(self.trouble.phase("copy"))
        elif moment < 0.45:
            until(self.trouble.phase("commit"))
        elif moment < 0.6:
            until(self.trouble.owes)
        elif moment < 0.75:
            self._commits(1)
        if moment > 0.85:
            self.trouble.stop(machine)
        elif moment < 0.75:
            self.world.turns(self.random.choice((0, 0, 1, 3, 10)))
        keep = self.random.choice((0.0, 0.5, 1.0, 1.0))
        copy = take(self.world, machine, keep)
        self.world.boot_all()
        return copy

    @staticmethod
    def is_of(machine: Machine, copy: Copy) -> bool:
        """The machine has not changed its role or its history since."""
        book = machine.book_on_disk(machine.fs)
        return (book.role, book.lineage) == (copy.book.role, copy.book.lineage)

    def run_on(self, machine: Machine, copy: Copy) -> bool:
        """For some commits, or a while without one; whether its role is still the same."""
        count = self.random.choice((0, 0, 1, 1, 2, 3))
        if count:
            self._commits(count)
            self.world.turns(self.random.choice((0, 0, 2, 10)))
        else:
            self.world.turns(self.random.randrange(80))
        if machine.life and machine.life.refused:
            return False
        if not self.is_of(machine, copy):
            return False
        return machine.life is None or self.is_whole(machine)

    def _commits(self, count: int) -> bool:
        driver = self.trouble.driver()
        if driver is None:
            return False
        wanted = driver.committed + count
        return self.trouble.until(lambda: driver.committed >= wanted, 400, 2)

    def goes_down(self, machine: Machine, *, killed: bool = False) -> bool:
        """`killed`: its process alone."""
        if machine.life and killed:
            self.world.crash(machine, power=False, keep=0.0)
        elif machine.life and machine.life.up and self.random.random() < 0.4:
            self.trouble.stop(machine)
        elif machine.life:
            power = self.random.random() < 0.3
            self.world.crash(machine, power=power, keep=self.random.choice((0.0, 0.5, 1.0)))
        return machine.life is None

    def look_on(self, machine: Machine) -> None:
        """Until something has come of it; a person is not always at once there."""
        driver = self.trouble.driver()
        before = driver.committed if driver else 0

        def something() -> bool:
            now = self.trouble.driver()
            return now is not None and (now.refused or now.committed > before > 0)

        self.trouble.until(something, self.random.choice((20, 300)), 5)
        now = self.trouble.driver()
        if now and machine.life and not now.refused and now.committed > before > 0:
            self.world.reach("went back, and went on")
        if self.random.random() < 0.6:
            person.tend(self.world)
            self._settle_down()

    def _settle_down(self) -> None:
        is_down: Callable[[], bool] = lambda: any(m.life is None for m in self.world.machines)  # noqa: E731
        self.trouble.until(is_down, 200, 5)
        self.world.boot_all()
