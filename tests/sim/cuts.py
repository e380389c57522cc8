"""Somebody cuts a store of a target that runs, and makes it large again; the site has met that.

Its end is zeroes from then on, on the disk, too.  If some of the image was in that store it is
lost: it is not judged any more, nothing is promoted or committed on it, and its source says why,
until a person gives it up.  But what was read from an intermediate before may be on its way into
the data: an image of which nothing is pending is judged.  If none was, nothing is lost that does
not come again: the oracle judges each image as ever.

Left out: a cut of data after the last look of a promotion, which is as one after that; a kill
before the site has recorded what it met (a second, on a real one); a cut that it has not met; a
source's stores; something older put back in the same world, as what tells of the cut could be gone
with that (copies.py, files.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from mirror_core.ledger import Ledger
from mirror_core.recovery import Point
from mirror_core.site import Site
from mirror_core.target import Target
from sim import clients, person
from sim.core import ffi, lib
from sim.sched import Violation
from sim.sites import Incarnation, Machine

if TYPE_CHECKING:
    from sim.trouble import Trouble
    from sim.world import World

LOST = "was made smaller while it held some of the image"
STATES = (
    "cut with some of the image", "cut without any of the image", "told of an image that was cut",
    "cut, and its store was refused", "a promotion of an image that was cut",
)  # fmt: skip
_TRIES = 20


class Cuts:
    """Acts."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble, self.world, self.random = trouble, trouble.world, trouble.random

    def cut(self) -> None:
        if self.random.random() < 0.5:
            self.trouble.until(self.trouble.owes)
        else:
            self.trouble.until(self.trouble.phase("copy", "flush", "commit"))
        machine = self.trouble.target()
        if self.world.clones or any(m.went_back or m.is_copy for m in self.world.machines):
            return
        life = machine.life if machine else None
        if not machine or not life or not life.target or life.stopping:
            return
        assert life.site
        self.world.was_cut = True
        holds = self._cut(machine, life.site)
        self.world.reach(f"cut with{' some' if holds else 'out any'} of the image")
        if not self._record(machine, life):
            self._give_up(machine)
            return
        self.world.turns(self.random.randrange(60))
        if holds and self.random.random() < 0.3 and machine.life is life and not life.stopping:
            self.world.reach("a promotion of an image that was cut")
            clients.promote(self.world, life, force=True)
        elif self.random.random() < 0.5:
            self.trouble._strike(machine)
        self.world.turns(self.random.randrange(120))
        person.tend(self.world)

    def _cut(self, machine: Machine, site: Site) -> bool:
        """Whether some of the image was there."""
        member = self.random.choice(site.members)
        part = self.random.choice(("intermediate", "intermediate", "data"))
        assert isinstance(site.control, Target)
        if site.control.promoting:  # of data nobody may look again before the record
            part = "intermediate"
        size, disk = machine.sizes[member.name], machine.disks[member.name, part]
        left = self.random.randrange(-(-size // self.world.block)) * self.world.block
        stats, book = member.native.stats(), machine.book_on_disk(machine.fs)
        source = self.world.other(machine).life
        if (
            cast(Any, site.control.serial)._held and source and source.site
        ):  # perhaps a commit of that
            under_way = source.site.book.current
            machine.cut_later = (under_way.begun, under_way.begun_token)
        owes = stats.pending_blocks + stats.unsent_blocks + stats.sent_blocks > 0
        owes |= site.control._pending_of != book.committed  # it is about to
        holds = book.whole and (part == "data" or owes)
        if holds and not is_lost(machine, book):
            machine.cut_image, machine.cut_data = (book.committed, book.committed_token), False
        machine.cut_data |= holds and part == "data"
        self.world.scheduler.trace(f"*** {machine.name}: {member.name} {part} is cut to {left}")
        for bytes_of in (lib.sim_disk_now, lib.sim_disk_safe):
            ffi.buffer(bytes_of(disk), size)[left:] = bytes(size - left)
        (member.native.first if part == "data" else member.native.front).cut()
        return bool(holds)

    def _record(self, machine: Machine, life: Incarnation) -> bool:
        """The site looks, until that is in its ledger.  False: it ended before."""
        site = life.site
        assert site
        for _ in range(_TRIES):
            self._look(machine, life, site)
            if machine.life is not life:
                return False
            if site.harm_is_recorded():
                return True
            machine.heal()
        raise Violation(f"{machine.name} does not record that its store was cut")

    def _look(self, machine: Machine, life: Incarnation, site: Site) -> None:
        found: list[str | None] = []
        self.world.scheduler.spawn(
            life, f"{machine.name}: look", lambda: found.append(site.taken_away())
        )
        self.trouble.until(lambda: bool(found) or machine.life is not life)

    def _give_up(self, machine: Machine) -> None:
        """What it had met died with it."""
        if machine.life:
            self.world.crash(machine, power=False, keep=0.0)
        if not machine.content:
            person.give_up(self.world, machine)


def tend(world: World, machine: Machine) -> bool:
    """A source says that some of its target's image is gone: a person gives it up."""
    life, other = machine.life, world.other(machine)
    if not (life and life.source and LOST in str(life.source.reason)):
        return False
    if other.content or not (other.life and other.life.target) or other.life.stopping:
        return False
    world.reach("told of an image that was cut")
    world.crash(other, power=False, keep=0.0)
    person.give_up(world, other)
    return True


def is_lost(machine: Machine, book: Ledger) -> bool:
    """Some of its image is nowhere, or what is left of that is on its way into the data."""
    point = Point(book.committed, book.committed_token)  # an older protocol has no token
    if not any(point.same(Point(*cut)) for cut in (machine.cut_image, machine.cut_later)):
        return False
    return machine.cut_data or any(
        bits for key, bits in book.maps.items() if key.endswith("/pending")
    )


def refuse_promoted(machine: Machine, sequence: int) -> None:
    if machine.cut_data and machine.cut_image[0] == sequence:
        raise Violation(f"{machine.name} is promoted, and some of its image is gone")
