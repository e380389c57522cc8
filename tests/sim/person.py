"""What a person does where a site says that it needs one, and no more than its reason says.

    rejoin   an old source, whose target was promoted, takes the new history
    adopt    a store that is not as the site left it is the right one all the same
    resync   a target takes what the source holds now, because one of the two went back
    mend     a file of the state folder that is gone, or older, is put back, or its image given up

`adopt` and `resync` only in a world in which somebody put something back, or copied it, or in which
what a person put there may be lost before the site that finds out could know the store: otherwise
the site that needs them never becomes equal to the other, which is a violation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sim import clients, cuts
from sim.core import lib
from sim.sites import Machine

if TYPE_CHECKING:
    from sim.world import World


def tend(world: World) -> None:
    """Nothing holds a source up that a person is to do."""
    for machine in world.machines:
        life = machine.life
        if not (life and life.site and life.source) or life.stopping:
            continue
        if life.site.book.current.paused and not life.is_resuming:
            clients.resume(world, life)
        if life.source.bandwidth:
            life.source.set_bandwidth(0)
        if not rejoin(world, machine) and not cuts.tend(world, machine):
            resync(world, machine)


def rejoin(world: World, machine: Machine) -> bool:
    """An old source whose target was promoted gives up its history, if it is refused."""
    life, other = machine.life, world.other(machine)
    if not (life and life.site and life.source) or life.stopping or machine in world.clones:
        return False
    history = world.history(life.site.book.current.lineage)
    ended = machine.content and other.content and other.follows is history
    if not ended or not life.source.refused:
        return False
    if "is the source now" not in str(life.source.reason):
        return False
    world.counts["old sources refused"] += 1
    world.crash(machine, power=False, keep=0.0)
    machine.follows = world.history(other.book_on_disk(other.fs).lineage)
    machine.resync()
    return True


def resync(world: World, machine: Machine) -> bool:
    """A source is refused because it, or its target, went back or has a copy."""
    life, other = machine.life, world.other(machine)
    if not (life and life.site and life.source and life.source.refused) or world.clones:
        return False
    history = world.history(life.site.book.current.lineage)
    advice = f"'flashmirror resync --full' on {other.site}"
    if not history.forked or advice not in str(life.source.reason):
        return False
    if other.content or (other.life and other.life.stopping):
        return False
    if other.life and not (other.life.up or other.life.refused):  # it starts, or gives up already
        return False
    if other.book_on_disk(other.fs).lineage is None:  # it was done, and the source tries again soon
        return False
    world.reach("went back, and was refused")
    world.scheduler.trace(f"*** a person reads: {life.source.reason}")
    if other.life:
        world.crash(other, power=False, keep=0.0)
    machine.is_mixed = False
    give_up(world, other)
    return True


def give_up(world: World, machine: Machine) -> None:
    """`resync --full` of a target that does not run."""
    assert machine.follows
    machine.follows.give_up()
    machine.resync()


def mend(world: World, machine: Machine) -> bool:
    """It does not start because a file of its state folder is gone, or is an older one.  What stood
    there counts as before: a start that is refused has changed nothing."""
    life, stood = machine.life, machine.stood
    if not (life and life.refused and stood):
        return False
    rng, reason = world.scheduler.random, str(life.refused)
    asked = re.search(r"put it back|put back what|Put back what|'flashmirror adopt", reason)
    if not asked or (asked[0].startswith("'") and rng.random() < 0.5):
        return False
    world.scheduler.trace(f"*** a person reads: {reason}")
    world.crash(machine, power=False, keep=0.0)
    if "give up the image" in reason and rng.random() < 0.6:
        world.reach("an image is given up for a file")
        give_up(world, machine)
        return True
    world.reach("a file is put back after a refusal")
    machine.stood = None
    for name, data in stood.files.items():
        machine.fs.put(name, data)
    stood.as_before()
    world.judge(machine)
    return True


def adopt(world: World, machine: Machine) -> bool:
    """It does not start because a store is not as it left it."""
    life = machine.life
    reason = str(life and life.refused)
    asked = re.search(r"'flashmirror adopt \S+ (\w+) (\w+)'", reason)
    if not asked:
        return False
    was_cut = world.was_cut and not machine.content
    touched = machine.went_back or machine.lost_copy or was_cut
    unchanged = "--unchanged" in reason and not touched
    if machine.went_back:
        world.reach("went back, and its store was refused")
    elif was_cut:
        world.reach("cut, and its store was refused")
    elif machine.lost_copy or lib.sim_disk_faded(machine.disks[asked[1], asked[2]]):
        world.counts["stores refused that a cache had shown otherwise"] += 1
    elif unchanged:
        world.counts["stores that nobody had changed, and could not be flushed"] += 1
    else:
        return False
    world.scheduler.trace(f"*** a person reads: {reason}")
    world.crash(machine, power=False, keep=0.0)
    if machine.content is None and not unchanged:
        assert machine.follows
        machine.follows.give_up()
    machine.adopt(asked[1], asked[2], unchanged=unchanged)
    return True
