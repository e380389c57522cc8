"""Single files of a state folder that are lost, or that stand there as they were in an older copy.

    lost    some files of a machine that is down are gone
    old     some are put back as a copy of the machine (copies.py) has them, beside newer ones

Then it is booted, and is right, or refuses with a reason that names the file.  Of a refusal that
the reason calls one for a person to end: they put back what stood there, and the image is judged
at once, for a start that is refused has changed nothing; or they give it up (`resync --full`).

What docs/recovery.md lists as not noticed is treated as in copies.py.  Of a target with an older
ledger, or an older log of hardenings of the same run, the image may be a mixture: it is not judged
until the next commit.  Of a source with an older intent log of the same run, whose maps are gone, a
person has all of the data compared.  Everything else is judged as if nothing had happened: nothing
of it makes a site need another history, a store adopted, or the image given up.

Left out: a file that is damaged (tests/test_fuzz.py); a site that is created anew because its
ledger is lost (tests/test_lost_ledger.py); that who was to be told of a loss, which only `servers`
has, is told it (the clients of the next life know).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mirror_core import durable, ledger
from sim.content import Point
from sim.copies import Copies, Copy, is_noticed, take
from sim.core import lib
from sim.oracle import NO_POINT
from sim.sites import Machine, Stood, load

if TYPE_CHECKING:
    from sim.trouble import Trouble

KINDS = {"source": ("ledger", "intent", "servers"), "target": ("ledger", "hardened", "written")}
STATES = (
    *(f"{role} {how} {kind}" for role, kinds in KINDS.items() for kind in kinds
      for how in ("without its", "with an older")),
    "lost a file, and was refused", "has an older file, and was refused",
    "an older file is not noticed", "a file is put back after a refusal",
    "an image is given up for a file",
)  # fmt: skip
Files = Mapping[str, bytes]
_MS = 1_000_000


def kind_of(name: str) -> str:
    """Of a file of the state folder; empty: of those that mean nothing."""
    if name.endswith(durable.FRESH):
        return ""
    parts = name.split(".")
    kinds = {kind for some in KINDS.values() for kind in some}
    return next((part for part in parts[:2] if part in kinds), "")


def _point(book: ledger.Ledger) -> Point:
    return book.committed, book.committed_token


class FilesOfState:
    """Acts of trouble.py."""

    def __init__(self, trouble: Trouble, copies: Copies) -> None:
        self.trouble, self.world, self.random = trouble, trouble.world, trouble.random
        self.copies = copies

    def lost_files(self) -> None:
        """Some are gone, of a machine that went down in a state that owes something."""
        machine = self._one()
        if machine is None:
            return
        role = machine.book_on_disk(machine.fs).role
        aim = self._aim(role)
        self._comes_to(machine, aim)
        self.world.turns(self.random.choice((0, 0, 3, 20)))
        if not self._goes_down(machine, role):
            return
        names = self._some([name for name in machine.fs.names if kind_of(name)], aim)
        if not names:
            return
        self.world.scheduler.trace(f"*** {machine.name} has lost {', '.join(names)}")
        self._forgets_servers(machine, names)
        stood = self._take_away(machine, names)
        for name in names:
            self.world.reach(f"{role} without its {kind_of(name)}")
        machine.stood = Stood(stood, lambda: None)
        self._comes_up(machine)
        self._look_on(machine, "lost a file, and was refused")

    def old_files(self) -> None:
        """Some are as they were before some commits, or none."""
        machine = self._one()
        if machine is None:
            return
        aim = self._aim(machine.book_on_disk(machine.fs).role)
        self._comes_to(machine, aim)
        if not self.copies.is_whole(machine):
            return
        copy = self._copy(machine, aim)
        role = copy.book.role
        if not self._goes_on(machine, copy, aim) or not self._goes_down(machine, role, aim):
            return
        if not self.copies.is_of(machine, copy):
            return
        old = self._older(machine, copy)
        there = [name for name in old if name in machine.fs.names]
        names = self._some([*old], aim if aim in map(kind_of, there) else "")
        if not names:
            return
        self.world.scheduler.trace(f"*** {machine.name} has older {', '.join(names)}")
        self._forgets_servers(machine, names)
        newest = load(machine.fs.read("ledger"))
        into = self.random.random() < 0.5  # the files themselves, or copies in their place
        numbers = {name: inode.number for name, inode in machine.fs.names.items()}
        stood = {name: machine.fs.read(name) for name in names if name in machine.fs.names}
        for name in names:
            machine.fs.put(name, old[name], into=into)
            if name in stood or "ledger" in names:
                self.world.reach(f"{role} with an older {kind_of(name)}")
        put = {name: old[name] for name in names}
        same = {n for n, inode in machine.fs.names.items() if inode.number == numbers.get(n)}
        if role == "source":
            self._of_source(machine, copy, put, stood, same)
        else:
            self._of_target(machine, newest, put, stood, same)

    @staticmethod
    def _forgets_servers(machine: Machine, names: list[str]) -> None:
        """Who was to be told of a loss is told by nothing else, after a stop in order."""
        if {"servers", "ledger"}.isdisjoint(map(kind_of, names)):
            return
        machine.forgot_servers = True
        if machine.content:
            machine.content.unheard.clear()

    # ---- which, and when

    def _one(self) -> Machine | None:
        is_source = self.random.random() < 0.5
        machine = self.trouble.source() if is_source else self.trouble.target()
        if machine is None or self.world.clones or not self.copies.is_whole(machine):
            return None
        return machine

    def _aim(self, role: ledger.Role) -> str:
        """Those that are seldom there the more often."""
        if role == "source" and self.world.disk_errors:
            return self.random.choice(("ledger", "intent", "servers", "servers", "servers"))
        if role == "source":
            return self.random.choice(("ledger", "intent"))
        return self.random.choice(("ledger", "ledger", "hardened", "written"))

    def _comes_to(self, machine: Machine, aim: str) -> None:
        """A state in which this file says something."""
        if aim == "servers":
            self._meets_a_loss(machine)
        elif aim == "hardened":
            self._hardens(machine)
        elif aim == "written":
            self._records("stable records", 200)
        elif aim == "intent":
            self._begins_anew(machine)
        else:
            self.trouble.until(self.trouble.phase("copy", "flush", "commit"), 200)

    def _begins_anew(self, machine: Machine) -> None:
        """After an orderly stop few regions are hot."""
        self.trouble.stop(machine)
        self.world.boot_all()
        self.trouble.until(lambda: bool(machine.life and machine.life.up), 100, 2)

    def _copy(self, machine: Machine, aim: str) -> Copy:
        if aim != "ledger":
            return take(self.world, machine, self.random.choice((0.0, 0.5, 1.0)))
        return self.copies.take_one(machine)

    def _goes_on(self, machine: Machine, copy: Copy, aim: str) -> bool:
        """To where the file says another thing, perhaps of the same commit."""
        if aim == "servers":
            self._meets_a_loss(machine)
            return True
        if aim == "hardened" and self.random.random() < 0.7:
            self._hardens(machine)
            return True
        if aim == "written" and self.random.random() < 0.7:
            self._records("stable records", 200)
            return True
        if aim == "intent" and self.random.random() < 0.5:
            self.world.turns(self.random.randrange(60))
            return True
        if aim == "ledger" and self.random.random() < 0.6:
            self.copies.goes_down(machine)
            self.world.boot_all()  # and has another run
            if self.random.random() < 0.4:
                return self._is_short(machine)
        return self.copies.run_on(machine, copy)

    def _is_short(self, machine: Machine) -> bool:
        """A run that ends before much of it is durable, or the peer has met it."""
        self.trouble.until(lambda: bool(machine.life and machine.life.up), 200, 2)
        self.world.turns(self.random.randrange(60))
        if machine.life:
            power = self.random.random() < 0.6
            self.world.crash(machine, power=power, keep=self.random.choice((0.0, 0.5, 1.0)))
        return machine.life is None

    def _meets_a_loss(self, machine: Machine) -> None:
        """Of which a source has somebody to tell: only then does it have the file `servers`."""
        if not self.world.disk_errors:
            return
        before = self._servers(machine)
        for volume in machine.sizes:
            self.trouble.fail(machine, machine.disks[volume, "data"], 1 << lib.FM_FLUSH, 1)
        self.trouble.until(lambda: self._servers(machine) != before, 250)
        machine.heal()

    @staticmethod
    def _servers(machine: Machine) -> bytes:
        return machine.fs.read("servers") if "servers" in machine.fs.names else b""

    def _hardens(self, machine: Machine) -> None:
        """With a record for each writer who waits."""
        machine.was_slow = True
        disks = [machine.disks[volume, "data"] for volume in machine.sizes]
        for disk in disks:
            lib.sim_disk_slow(disk, self.random.randrange(50) * _MS, 0)
        self._records("hardening records", 150)
        for disk in disks:
            lib.sim_disk_slow(disk, 0, 0)

    def _records(self, what: str, turns: int) -> None:
        counts = self.world.counts
        before = counts[what]
        self.trouble.until(lambda: counts[what] > before, turns)

    def _goes_down(self, machine: Machine, role: ledger.Role, aim: str = "") -> bool:
        """False: it does not, or is another by then."""
        history, power = machine.follows, self.random.random() < 0.6
        if aim in ("hardened", "intent") and machine.life:  # which count after no other end
            self.world.crash(machine, power=power, keep=self.random.choice((0.0, 0.5, 1.0)))
        if not self.copies.goes_down(machine) or machine.book_on_disk(machine.fs).role != role:
            return False
        return role == "source" or bool(history and history.end is None)

    def _older(self, machine: Machine, copy: Copy) -> dict[str, bytes]:
        """Those of the copy that are another thing than what stands there."""
        found = {}
        for name in copy.fs.names:
            data = copy.fs.read(name)
            now = machine.fs.read(name) if name in machine.fs.names else None
            if kind_of(name) and data != now:
                found[name] = data
        return found

    def _some(self, names: list[str], aim: str) -> list[str]:
        """Of that kind one or more, and perhaps others."""
        kinds = sorted({kind_of(name) for name in names})
        if not kinds:
            return []
        kind = aim if aim in kinds else self.random.choice(kinds)
        ours = [name for name in names if kind_of(name) == kind]
        chosen = [name for name in ours if self.random.random() < 0.7] or ours[:1]
        more = self.random.choice((0.0, 0.0, 0.5))
        return [n for n in names if n in chosen or self.random.random() < more]

    @staticmethod
    def _take_away(machine: Machine, names: list[str]) -> dict[str, bytes]:
        """Durably; what stood there."""
        stood = {name: machine.fs.read(name) for name in names if name in machine.fs.names}
        for name in stood:
            machine.fs.remove(name)
        return stood

    # ---- what comes of older ones

    def _of_source(
        self, machine: Machine, copy: Copy, put: Files, stood: Files, same: set[str]
    ) -> None:
        """`same`: the files that are no copies."""
        book = load(machine.fs.read("ledger"))
        has_maps = self.copies.has_maps(machine, book)
        if "ledger" in put:
            self._goes_back(machine, book)
            machine.is_mixed = not has_maps

        def as_before() -> None:
            machine.is_mixed = False

        machine.stood = Stood(stood, as_before)
        logs = {f"{name}.intent.{book.run}" for name in machine.sizes}
        old_log = not book.clean and not logs.isdisjoint(put) and logs <= same
        if book.clean:
            before, now = copy.images["data"], machine.images("data")
            seen = not logs <= same or all(is_noticed(book, "data", before, now))
            unnoticed = "ledger" in put and not seen
        else:
            unnoticed = old_log and not has_maps
        if unnoticed and ("ledger" not in put or self.copies.holds(book)):
            self._is_unnoticed(machine)
        self._comes_up(machine)
        if old_log and not (machine.life and machine.life.up):  # or the maps may go meanwhile
            if machine.life:
                self.world.crash(machine, power=False, keep=0.0)
            self._is_unnoticed(machine)
        self._look_on(machine, "has an older file, and was refused")

    def _is_unnoticed(self, machine: Machine) -> None:
        self.world.reach("an older file is not noticed")
        self.copies.adopts(machine)

    def _of_target(
        self, machine: Machine, newest: ledger.Ledger, put: Files, stood: Files, same: set[str]
    ) -> None:
        assert machine.follows
        history, book = machine.follows, load(machine.fs.read("ledger"))
        given_up, seen, acknowledged = history.given_up, history.seen, history.acknowledged
        if "ledger" in put:
            history.give_up()
            self._goes_back(machine, book)
            machine.unjudged = _point(book)
        elif f"hardened.{book.run}" in put and book.whole and not book.clean:
            machine.unjudged = _point(newest)
        machine.is_copy = f"hardened.{book.run}" not in same
        if machine.unjudged != NO_POINT and not machine.is_copy:
            self.world.reach("an older file is not noticed")

        def as_before() -> None:
            machine.unjudged, history.given_up = NO_POINT, given_up
            history.seen = max(history.seen, seen)
            history.acknowledged = max(history.acknowledged, acknowledged)

        machine.stood = Stood(stood, as_before)
        self._comes_up(machine)
        self._look_on(machine, "has an older file, and was refused")

    def _goes_back(self, machine: Machine, book: ledger.Ledger) -> None:
        machine.went_back = True
        self.world.history(book.lineage).forked = True

    # ---- what comes of all

    def _comes_up(self, machine: Machine) -> None:
        """Or is refused, or something else comes in between."""
        if machine.life is None:
            machine.boot()
        life = machine.life

        def has_begun() -> bool:
            return machine.life is not life or bool(life and (life.up or life.refused))

        self.trouble.until(has_begun, 400, 5)

    def _look_on(self, machine: Machine, refused: str) -> None:
        """A person is not always at once there."""
        if machine.life and machine.life.refused:
            self.world.reach(refused)
            if self.random.random() < 0.2:
                return
        self.world.boot_all()
        self.copies.look_on(machine)
