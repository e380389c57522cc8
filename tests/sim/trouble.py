"""What befalls two sites: faults, and the commands of a person, aimed at states that owe something.

A schedule is a few acts.  Most begin after the first commit: a fault while two sites boot and
shake hands says little about a mirror (a tenth of the schedules has those).  An act brings about
a state that matters (a target that owes blocks, a commit that is asked, a cycle without its link,
a flush that has just failed), runs until it is there, and strikes: a crash, a power loss, an
orderly stop, a change of role, another fault.  Which, when and how long: the seed.

Left out: what production is known not to survive (Shape has a switch for each such kind).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from mirror_core import limits, native
from sim import clients, person, simos
from sim.copies import Copies
from sim.core import lib
from sim.cuts import Cuts
from sim.files import FilesOfState
from sim.sched import NS
from sim.sites import Machine
from sim.strangers import Stranger

if TYPE_CHECKING:
    from sim.world import World

KEEP = (0.0, 0.25, 0.5, 0.75, 1.0)  # the chance of an unflushed write
_FIRST_COMMIT = 1500  # turns until it, at most
_PATIENCE = 500  # turns until a state is there, at most
_MS = 1_000_000
FLUSHES = 1 << lib.FM_FLUSH
_FAILED_STEP = "failed step of the second flashcopy"


class Trouble:
    """The acts of one schedule."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        of_copies = Copies(self)
        of_files = FilesOfState(self, of_copies)
        of_cuts = Cuts(self)
        # What is older than a cut tells nothing of it.
        self._older = (of_copies.goes_back, of_copies.clone, of_copies.restores,
                       of_files.lost_files, of_files.old_files)  # fmt: skip
        self.acts: list[tuple[int, Callable[[], None]]] = [  # with weights
            (3, self._run_on), (3, self._at_random), (4, self._command),
            (3, self._crash_owing), (3, self._stop_owing), (3, self._crash_parted),
            (2, self._at_commit), (4, self._link), (2, self._promote), (2, self._resync),
            (2, self._slow), (3, self._drain), (1, self._pause), (5, self._waits),
            (2, self._failback), (7, of_copies.goes_back), (2, of_copies.clone),
            (3, of_copies.restores),
            (4, of_files.lost_files), (7, of_files.old_files),
            (4, self._second_source), (5, of_cuts.cut),
        ]  # fmt: skip
        if world.disk_errors:
            self.acts += [
                (8, self._flush_of_hardening), (4, self._flush), (3, self._folder),
                (6, self._failed_sync), (4, self._disk), (2, self._server), (2, self._both_sinks),
                (4, self._append), (2, self._at_stop), (4, self._beside), (2, self._cooling),
                (2, self._written), (8, self._forgetful), (7, self._shown), (4, self._comparison),
                (2, self._away), (8, self._owed), (10, self._server_beside),
                (4 * world.shape.exceptions, self._thrown),
            ]  # fmt: skip

        chosen = os.environ.get("SIM_ACTS", "").split(",")  # to aim a search
        if chosen != [""]:
            some = [(w, act) for w, act in self.acts if act.__name__.strip("_") in chosen]
            self.acts = some or self.acts

    def run(self) -> None:
        if self.world.shape.early:
            self.world.turns(int(self.random.expovariate(1 / self.random.choice((5, 25, 60)))))
        else:
            self.until(self._has_commit, _FIRST_COMMIT, 20)
        total = [weight for weight, _ in self.acts]
        for _ in range(self.random.randrange(2, 6)):
            self.world.awaited = frozenset()
            _, act = self.random.choices(self.acts, total)[0]
            if self.world.was_cut and act in self._older:
                continue
            self.world.scheduler.trace(f"*** act {act.__name__}")
            act()
            if self.random.random() < 0.4:
                self.world.probe()
            if self.random.random() < 0.5:
                self._mend()
            if self.random.random() < 0.7:
                self.world.boot_all(0.9)
            self.world.turns(self.random.randrange(60))

    # ---- waiting for a state

    def until(self, there: Callable[[], bool], turns: int = _PATIENCE, step: int = 0) -> bool:
        scheduler = self.world.scheduler
        until, before = scheduler.switches + turns, -1
        while not (found := there()) and before < scheduler.switches < until:
            before = scheduler.switches
            self.world.turns(step or self.random.choice((1, 1, 2, 5)))
        return found

    def _until_reached(self, *states: str, turns: int = _PATIENCE) -> None:
        self.world.awaited = frozenset(states)
        self.world.turns(turns)
        self.world.awaited = frozenset()

    def _mend(self) -> None:
        net = self.world.network
        net.up, net.hung = True, False
        for machine in self.world.machines:
            machine.heal()

    def source(self) -> Machine | None:
        return next((m for m in self._machines() if m.life and m.life.source), None)

    def target(self) -> Machine | None:
        return next((m for m in self._machines() if m.life and m.life.target), None)

    def _machines(self) -> tuple[Machine, Machine]:
        return self.world.west, self.world.east

    def driver(self) -> Any:
        machine = self.source()
        return machine.life.source if machine and machine.life else None

    def _has_commit(self) -> bool:
        driver = self.driver()
        return driver is not None and driver.committed > 0

    def owes(self) -> bool:
        machine = self.target()
        target = machine.life.target if machine and machine.life else None
        return target is not None and target.hardened < target._book.current.committed

    def phase(self, *phases: str) -> Callable[[], bool]:
        def there() -> bool:
            driver = self.driver()
            return driver is not None and driver.progress.phase in phases

        return there

    def _parted(self) -> bool:
        driver = self.driver()
        return driver is not None and driver._copier._parted

    # ---- to strike

    def _strike(self, machine: Machine | None, *, stop: float = 0.25) -> None:
        """A crash of this one or of both, or an orderly stop of it, perhaps with a power loss
        after."""
        if machine is None or machine.life is None:
            return
        chance = self.random.random()
        if chance < stop:
            self.stop(machine)
        else:
            both = chance > 0.85
            power, keep = self.random.random() < 0.65, self.random.choice(KEEP)
            for one in self._machines() if both else (machine,):
                self.world.crash(one, power=power, keep=keep)

    def stop(self, machine: Machine) -> None:
        """And wait for its end, most times; what was flushed by then a power loss leaves."""
        life = machine.life
        if not (life and life.up) or life.stopping:
            return
        self.world.stop(machine)
        if self.random.random() < 0.8:
            self.until(lambda: machine.life is not life, 1000, 5)
        if machine.life is None and self.random.random() < 0.7:
            self.world.reach("power loss after an orderly stop")
            self.world.crash(machine, power=True, keep=self.random.choice(KEEP))

    def fail(self, machine: Machine, disk: Any, kinds: int, count: int, code: int = 0) -> None:
        code = code or self.random.choice((errno.EIO, errno.ENOSPC))
        self.world.counts["disk errors"] += 1
        self.world.scheduler.trace(f"*** a disk of {machine.name} fails")
        is_log = disk not in machine.disks.values()
        self.world.counts["intent logs that fail"] += is_log
        modes = [lib.SIM_LOSE_NOW, lib.SIM_LOSE_LATER]
        loss = self.random.choice(modes[: 2 if self.world.shape.later else 1])
        lib.sim_disk_lose(disk, loss)
        lib.sim_disk_fail(disk, kinds, count, -code)

    def _loses(self) -> Literal["now", "later", ""]:
        """Of a state folder's syncs that fail."""
        return self.random.choice(("now", "later", ""))

    # ---- acts

    def _run_on(self) -> None:
        """Cycles go on."""
        self.world.turns(self.random.randrange(400))

    def _at_random(self) -> None:
        self.world.turns(int(self.random.expovariate(1 / 60)))
        self._strike(self.random.choice(self._machines()), stop=0.1)

    def _command(self) -> None:
        life = self.random.choice(self._machines()).life
        if not (life and life.up and life.source) or life.stopping:
            return
        ask = self.random.choice((clients.sync, clients.pause, clients.resume, clients.limit))
        ask(self.world, life)
        self.world.turns(self.random.randrange(120))

    def _pause(self) -> None:
        """And strike."""
        machine = self.source()
        if machine and machine.life and machine.life.source and not machine.life.stopping:
            clients.pause(self.world, machine.life)
            self.world.reach("paused")
            self.world.turns(self.random.randrange(150))
            self._strike(self.random.choice(self._machines()))

    def _crash_owing(self) -> None:
        if self.until(self.owes):
            self.world.turns(self.random.randrange(12))
            self._strike(self.target(), stop=0.0)

    def _stop_owing(self) -> None:
        machine = self.target()
        if machine and self.random.random() < 0.5:  # so that there is time to stop it
            for volume in machine.sizes:
                lib.sim_disk_slow(
                    machine.disks[volume, "data"], self.random.randrange(300) * _MS, 0
                )
        if self.until(self.owes):
            self.world.turns(self.random.randrange(6))
            if machine := self.target():
                self.stop(machine)

    def _crash_parted(self) -> None:
        """A cycle that has lost its link; and its own store, or the site, or the target."""
        self.until(self.phase("copy"))
        self._link_goes()
        if not self.until(self._parted, 300):
            return
        self.world.turns(self.random.randrange(60))
        machine = self.source()
        if machine and self.world.disk_errors and self.random.random() < 0.4:
            disk = machine.disks[self.random.choice(list(machine.sizes)), "intermediate"]
            self.fail(machine, disk, 15, self.random.randrange(1, 4))
        elif self.random.random() < 0.6:
            self._strike(self.random.choice((machine, self.target())))
        self.world.turns(self.random.randrange(60))
        self.world.network.up, self.world.network.hung = True, False

    def _at_commit(self) -> None:
        """The link, the target or the source goes while a commit is asked."""
        if not self.until(self.phase("flush", "commit")):
            return
        self.world.turns(self.random.randrange(25))
        if self.random.random() < 0.5:
            self._link_goes()
            self.world.turns(self.random.randrange(20))
        if self.random.random() < 0.7:
            self._strike(self.random.choice(self._machines()))

    def _link(self) -> None:
        self.world.turns(int(self.random.expovariate(1 / 40)))
        self._link_goes()
        self.world.turns(self.random.randrange(150))
        if self.random.random() < 0.7:
            self.world.network.up, self.world.network.hung = True, False

    def _link_goes(self) -> None:
        net, chance = self.world.network, self.random.random()
        self.world.scheduler.trace("*** the link")
        self.world.counts["link cuts"] += 1
        net.late = self.random.choice((0.0, 0.5, 1.0))
        net.twice = self.random.choice((0.0, 0.0, 0.3))
        if chance < 0.25:
            net.up = False
            net.cut()
        elif chance < 0.5:
            net.hung = True
        else:
            net.cut()

    def _promote(self) -> None:
        """The target, and faults meanwhile; if the other side was promoted, it gives up first."""
        if any(person.rejoin(self.world, machine) for machine in self._machines()):
            self.world.turns(self.random.randrange(400))
            return
        machine = self.target()
        if not (machine and machine.life and machine.life.target) or machine.life.stopping:
            return
        life = machine.life
        if self.random.random() < 0.4:
            self.until(self.owes)
        if self.world.disk_errors and self.random.random() < 0.4:
            disk = self.random.choice(list(machine.disks.values()))
            self.fail(machine, disk, self.random.choice((FLUSHES, 15)), 1)
        self.world.reach("promotion begun under fault")
        clients.promote(self.world, life, force=self.random.random() < 0.8)
        self.world.turns(self.random.randrange(80))
        if self.random.random() < 0.5:
            self._strike(self.random.choice(self._machines()), stop=0.1)
            self.world.boot_all()
        self.until(lambda: machine.content is not None, 300, 10)
        self.world.turns(self.random.randrange(200))
        for one in self._machines():
            person.rejoin(self.world, one)

    def _resync(self) -> None:
        """`resync --full` of a target that may owe blocks, and a crash in it."""
        machine = self.target()
        if not machine or not machine.follows or machine.follows.end is not None:
            return
        if self.random.random() < 0.5:
            self.until(self.owes)
        if machine.life is None or machine.life.stopping or not machine.life.target:
            return
        if self.random.random() < 0.5:
            life = machine.life
            self.world.stop(machine)
            self.until(lambda: machine.life is not life, 1000, 5)
        else:
            self.world.crash(machine, power=False, keep=0.0)
        if machine.life is not None:
            return
        self.world.reach("resync --full under fault")
        person.give_up(self.world, machine)
        if self.random.random() < 0.4:
            self.world.turns(self.random.randrange(12))
            if machine.life:
                self.world.crash(machine, power=self.random.random() < 0.7,
                                 keep=self.random.choice(KEEP))  # fmt: skip
        self.until(lambda: machine.life is None, 200, 5)
        self.world.boot_all()
        self.world.turns(self.random.randrange(300))

    def _slow(self) -> None:
        """A store takes its time, for a while."""
        machine = self.random.choice(self._machines())
        disk = self.random.choice(list(machine.disks.values()))
        latency = int(10 ** self.random.uniform(-4, 0.9) * NS)
        machine.was_slow = True
        self.world.scheduler.trace(f"*** a disk of {machine.name} takes {latency / _MS} ms")
        lib.sim_disk_slow(disk, latency, self.random.choice((0, 1_000, 100_000)))
        self.world.turns(self.random.randrange(100, 400))
        if self.random.random() < 0.3:
            self._strike(machine)

    def _drain(self) -> None:
        """What must drain meets a store that takes longer than its time-out."""
        chance = self.random.random()
        machine = self.source() if chance < 0.4 else self.target()
        if not machine:
            return
        if chance < 0.4:
            self._slow_down(machine, "data", 0.03, 1.5)
        else:
            self._slow_down(machine, "intermediate", 3.0, 12.0)
        self.world.turns(self.random.randrange(20, 120))
        if chance > 0.6:
            self._link_goes()
            self.world.network.up, self.world.network.hung = True, False
        self._until_reached("missed freeze", "fence timed out", turns=250)
        self._mend()

    def _slow_down(self, machine: Machine, part: str, low_s: float, high_s: float) -> None:
        machine.was_slow = True
        for volume in machine.sizes:
            latency = int(self.random.uniform(low_s, high_s) * NS)
            lib.sim_disk_slow(machine.disks[volume, part], latency, 0)

    def _waits(self) -> None:
        """A target needs longer than one request may wait."""
        machine = self.target()
        if not machine:
            return
        part = self.random.choice(("data", "intermediate"))
        self._slow_down(machine, part, 0.2, 2.5)
        states = ("commit asked again", "stable asked again")
        self._until_reached(*states[: self.random.choice((1, 1, 2))], turns=400)
        self.world.turns(self.random.randrange(30))
        if self.random.random() < 0.4:
            self._link_goes()
        if self.random.random() < 0.5:
            self._strike(machine)

    def _failback(self) -> None:
        """A promotion, the old source takes the new history; and the way back."""
        for _ in range(2):
            self._promote()
            self.world.boot_all()
            self.until(lambda: any(person.rejoin(self.world, m) for m in self._machines()), 300, 20)
            self.world.turns(30)
            self.world.boot_all()
            self.until(self._has_commit, 800, 20)

    def _second_source(self) -> None:
        """It comes, beside the first one's cycles, faults and ends, and goes, or stays."""
        target, world, rng = self.target(), self.world, self.random
        if world.stranger or not target or not self._has_commit():
            return
        world.stranger = Stranger(world, target)
        world.stranger.boot()
        for _ in range(rng.randrange(1, 5)):
            world.turns(rng.randrange(150))
            if rng.random() < 0.2:
                self._link_goes()
                world.turns(rng.randrange(60))
                world.network.up, world.network.hung = True, False
            if rng.random() < 0.3:
                self._strike(rng.choice(self._machines()))
                world.boot_all()
            if rng.random() < 0.5:
                world.probe()
        if rng.random() < 0.5:
            world.stranger.end()

    def _forgetful(self) -> None:
        """The target cannot record what is stable any more, again and again, in a cycle that takes
        its time; then it goes, and its next run does not know what the source counts on."""
        limits.STABLE_S = 0.0  # of this world, from now on
        self._set_bandwidth(self.random.choice((2048, 4096, 16_384)))
        machine = self.target() if self.until(self._has_stable, 300) else None
        if machine:
            machine.fs.loses = self._loses()
            machine.fs.failing, machine.fs.failing_name = 1 << 30, "written"
            machine.fs.failing_code = errno.ENOSPC
            for _ in range(self.random.choice((2, 2, 3))):  # of one the log keeps what was before
                self._until_reached("failed record of written", turns=150)
            if self.random.random() < 0.1:
                self.stop(machine)
            elif machine.life:
                self.world.crash(machine, power=self.random.random() < 0.4,
                                 keep=self.random.choice(KEEP))  # fmt: skip
            machine.heal()
            self.world.boot_all()
            self._until_reached("stable blocks that the target forgot", turns=200)
        self._set_bandwidth(0)
        self.world.turns(self.random.randrange(100))

    def _set_bandwidth(self, rate: int) -> None:
        if driver := self.driver():
            driver.set_bandwidth(rate)

    def _shown(self) -> None:
        """A source's cache shows what its disk has lost; then the cycle that is to write that back
        becomes void beside its clients, or the site ends.  What takes its time for each byte is
        overtaken by what is shorter."""
        machine, rng = self.source(), self.random
        if not machine:
            return
        disks = [machine.disks[volume, "data"] for volume in machine.sizes]
        byte_ns = rng.choice((0, 0, 1_000, 20_000))
        machine.was_slow |= byte_ns > 0
        ours = any((volume, "data") in machine.local for volume in machine.sizes)
        in_flush = self.world.shape.later and rng.random() < (0.8 if ours else 0.2)
        for disk in disks:
            self.fail(machine, disk, FLUSHES, 1)
            if self.world.shape.later:
                lib.sim_disk_lose(disk, lib.SIM_LOSE_LATER)
            lib.sim_disk_slow(disk, 0, byte_ns)
        if in_flush:
            self._killed_in_flush(machine)
            return
        self.until(lambda: any(lib.sim_disk_failing(disk) == 0 for disk in disks), 200)
        for _ in range(rng.randrange(1, 6)):
            self.until(self.phase("copy"), 200)
            self.world.turns(rng.randrange(12))
            if rng.random() < 0.8:
                disk = machine.disks[rng.choice([*machine.sizes]), "intermediate"]
                self.fail(machine, disk, 14, rng.choice((1, 2, 2, 20)))
            else:
                self.fail(machine, rng.choice(disks), 1 << lib.FM_READ, 1)
            self.world.turns(rng.randrange(30))
            if rng.random() < 0.3:
                self._strike(machine, stop=0.7)
                return

    def _killed_in_flush(self, machine: Machine) -> None:
        """Which fails, before the process has its own kernel drop what the cache shows, or has
        recorded that it has met a loss."""
        for volume in machine.sizes:
            lib.sim_disk_halt(machine.disks[volume, "data"])
        self.until(lambda: bool(machine.stale()), 200, 1)
        before = self.driver()
        begun = before._book.current.begun if before else 0
        self.world.crash(machine, power=False, keep=0.0)
        machine.heal()
        self.world.boot_all()
        self.until(lambda: (driver := self.driver()) is not None and driver.committed > begun)

    def _comparison(self) -> None:
        """A source that has lost its power has its target compare, which cannot read, or whose
        server goes meanwhile; or what it reads is what a cache shows of what its disk has lost."""
        hides = self.world.shape.later and self.random.random() < 0.3
        if hides and (machine := self.target()):
            self._hide_a_loss(machine)
        if machine := self.source():
            self.world.crash(machine, power=True, keep=1.0)
        self.world.boot_all()
        self.until(self.phase("copy"), 300)
        if hides:
            self.world.turns(self.random.randrange(300))
            self._strike(self.target())
        elif machine := self.target():
            code = self.random.choice((errno.EIO, errno.ECONNRESET))
            for disk in machine.disks.values():
                count = self.random.choice((1, 1, 2, 5))
                self.fail(machine, disk, 1 << lib.FM_READ, count, code)
            self._until_reached("failed compare", "compared what cannot be read", turns=100)
            self.world.turns(self.random.randrange(30))
            if self.random.random() < 0.4:
                self._strike(self.random.choice(self._machines()))

    def _hide_a_loss(self, machine: Machine) -> None:
        disks = [machine.disks[volume, "intermediate"] for volume in machine.sizes]
        self.until(self.phase("copy"), 300)
        for disk in disks:
            self.fail(machine, disk, FLUSHES, 1)
            lib.sim_disk_lose(disk, lib.SIM_LOSE_LATER)
        self.until(lambda: any(lib.sim_disk_failing(disk) == 0 for disk in disks), 300)

    def _has_stable(self) -> bool:
        machine, driver = self.source(), self.driver()
        if not (machine and machine.life and machine.life.site) or driver.progress.phase != "copy":
            return False
        return any(one.native.packed_runs(native.STABLE) for one in machine.life.site.members)

    # ---- acts of disks that fail

    def _flush_of_hardening(self) -> None:
        """A target's data store fails a flush in the second flashcopy, and loses; then, in the
        back-off, an end of any kind, a promotion, or nothing."""
        machine = self.target()
        if not machine:
            return
        disk = machine.disks[self.random.choice(list(machine.sizes)), "data"]
        self.fail(machine, disk, FLUSHES, 1)
        self._until_reached(_FAILED_STEP)
        self.world.turns(self.random.choice((0, 0, 1, 3)))
        life, chance = machine.life, self.random.random()
        if chance < 0.75:
            self._strike(machine, stop=0.6)
        elif life and life.target and not life.stopping:
            clients.promote(self.world, life, force=True)

    def _flush(self) -> None:
        """Any flush fails and loses; then anything."""
        machine = self.random.choice(self._machines())
        disk = self.random.choice(machine.all_disks())
        self.fail(machine, disk, FLUSHES, self.random.choice((1, 1, 2, 3)))
        if machine.life and self.random.random() < 0.3:
            self.stop(machine)
            return
        self.until(lambda: lib.sim_disk_failing(disk) == 0)
        self.world.turns(self.random.choice((0, 0, 1, 2, 5, 20)))
        if self.random.random() < 0.7:
            self._strike(self.random.choice((machine, *self._machines())), stop=0.5)

    def _folder(self) -> None:
        """The state folder fails: a few calls, or as one that is full until it is mended."""
        machine, rng = self.random.choice(self._machines()), self.random
        self.world.counts["disk errors"] += 1
        machine.fs.loses = self._loses()
        machine.fs.failing = rng.choice((1, 1, 2, 3, 1 << 30))
        machine.fs.failing_code = rng.choice((errno.EIO, errno.ENOSPC, errno.EROFS))
        if rng.random() < 0.3:
            self.stop(machine)
        self.world.turns(rng.randrange(150))
        if rng.random() < 0.5:
            self._strike(machine)
        if rng.random() < 0.7:
            machine.heal()

    def _failed_sync(self) -> None:
        """A sync of a file of the state folder fails and loses, and before another one makes good
        for it, the power."""
        machine, rng = self.random.choice(self._machines()), self.random
        fs = machine.fs
        fs.loses, fs.failing_code = rng.choice(("now", "later")), errno.EIO
        fs.failing, fs.failing_syncs = rng.choice((1, 1, 2)), True
        fs.failing_name = rng.choice(("", "ledger", "hardened", "written"))
        self.world.counts["disk errors"] += 1
        if rng.random() < 0.2:
            self.stop(machine)
        if self.until(lambda: fs is not machine.fs or fs.failing == 0, 300, 1):
            self.world.turns(rng.choice((0, 0, 1, 2, 5, 20)))
            self.world.crash(machine, power=True, keep=rng.choice((0.0, 0.0, 0.5)))
        machine.heal()

    def _append(self) -> None:
        """The log of hardenings cannot be written, where a writer waits for it."""
        if machine := self.target():
            self._slow_down(machine, "data", 0.0, 0.05)
        if not self.until(self.owes):
            return
        machine = self.target()
        assert machine
        machine.fs.loses = self._loses()
        machine.fs.failing = self.random.choice((1, 1, 2, 4))
        machine.fs.failing_name, machine.fs.failing_code = "hardened", errno.ENOSPC
        self._until_reached("failed append", turns=300)
        if self.random.random() < 0.5:
            self._until_reached("ledger in place of the log", turns=200)
        self.world.turns(self.random.choice((0, 1, 4, 20, 60)))
        self._strike(machine)

    def _beside(self) -> None:
        """One file of the state folder cannot be written: the record of what is stable, the
        ledger, an intent log."""
        machine = self.random.choice(self._machines())
        machine.fs.loses = self._loses()
        machine.fs.failing = self.random.choice((1, 2, 5))
        machine.fs.failing_name = self.random.choice(("written", "written", "ledger", "a.intent"))
        machine.fs.failing_code = errno.ENOSPC
        logs = machine.all_disks()[len(machine.disks) :]
        if logs and self.random.random() < 0.6:
            self.fail(machine, self.random.choice(logs), 14, self.random.randrange(1, 4))
        self._until_reached("failed record of written", "failed cooling", "failed ledger save")
        self.world.turns(self.random.randrange(20))
        if self.random.random() < 0.6:
            self._strike(machine)

    def _away(self) -> None:
        """A source begins without its intermediates, and is served; they come later, perhaps."""
        machine = self.source()
        if machine is None:
            return
        machine.away = True
        self._strike(machine)
        self.world.boot_all()
        self.world.turns(self.random.randrange(200))
        if self.random.random() < 0.7:
            machine.away = False
            self.world.turns(self.random.randrange(200))
            if self.random.random() < 0.5:
                self._strike(machine)

    def _written(self) -> None:
        """The target cannot record what is stable."""
        machine = self.target()
        driver = self.driver()
        if machine and driver and self.until(lambda: bool(driver._stable.under_way), 300):
            machine.fs.loses = self._loses()
            machine.fs.failing, machine.fs.failing_name = self.random.choice((1, 2)), "written"
            machine.fs.failing_code = self.random.choice((errno.ENOSPC, errno.EIO))
            self._until_reached("failed record of written", turns=200)
            self.world.turns(self.random.randrange(20))
            if self.random.random() < 0.6:
                self._strike(self.random.choice(self._machines()))

    def _cooling(self) -> None:
        """The source's intent log cannot be written or flushed, where a cycle is settled."""
        machine = self.source()
        if not machine or not self.until(self.phase("commit")):
            return
        machine = self.source() or machine
        for log in machine.all_disks()[len(machine.disks) :]:
            self.fail(machine, log, 14, self.random.randrange(1, 3))
        self._until_reached("failed cooling", turns=150)
        self.world.turns(self.random.randrange(20))
        if self.random.random() < 0.6:
            self._strike(machine)

    def _owed(self) -> None:
        """The intent log refuses writes, whose blocks the next cycle sends all the same; that cycle
        is abandoned, and a power loss has the source forget them.  The target does not."""
        limits.INTENT_COOL_S = 0  # of this world, from now on: what is committed is cold at once
        machine, driver, counts = self.source(), self.driver(), self.world.counts
        if not machine or not driver:
            return
        before, is_over = driver.committed, self.phase("idle", "freeze")
        self.until(lambda: driver.committed > before and is_over(), 300, 1)
        for log in machine.all_disks()[len(machine.disks) :]:
            self.fail(machine, log, 14, 1 << 20, errno.ENOSPC)
        errors = counts["write errors"]
        self.until(lambda: counts["write errors"] > errors, 200)
        before = driver._book.current.begun
        self.until(lambda: driver._book.current.begun > before, 200)
        for volume in machine.sizes:
            self.fail(machine, machine.disks[volume, "intermediate"], FLUSHES, 1)
        self._until_reached("abandoned cycle", turns=300)
        if machine is not self.source():
            return
        self.world.crash(machine, power=True, keep=self.random.choice((0.0, 0.0, 0.5)))
        machine.heal()
        self.world.boot_all()
        self._until_reached("asked for what was owed", turns=300)
        self.world.turns(self.random.randrange(30))
        if self.random.random() < 0.3:
            self._strike(self.random.choice(self._machines()))

    def _thrown(self) -> None:
        """An exception of any kind at the N-th call of the platform: in a cycle, a hardening, a
        handshake, a boot, a promotion, a stop."""
        machine, rng = self.random.choice(self._machines()), self.random
        where = rng.choice(("now", "boot", "commit", "owes", "stop", "promote"))
        if where == "commit":
            self.until(self.phase("flush", "commit"))
        elif where == "owes":
            self.until(self.owes)
        elif where == "promote":
            machine = self.target() or machine
        elif where == "boot" and machine.life:
            self.world.crash(machine, power=False, keep=0.0)
            self.world.boot_all()
        machine.bomb = simos.Bomb(rng.randrange(1, 50), simos.an_error(rng),
                                  rng.choice((1, 1, 1, 2, 5, 1 << 30)))  # fmt: skip
        self.world.reach("exception at a call of the platform")
        life = machine.life
        if where == "stop":
            self.stop(machine)
        elif where == "promote" and life and life.target and not life.stopping:
            clients.promote(self.world, life, force=True)
        self.world.turns(rng.randrange(250))
        if rng.random() < 0.3:
            self.world.probe()
        if rng.random() < 0.4:
            self._strike(machine)
        machine.bomb.spent = rng.random() < 0.7

    def _at_stop(self) -> None:
        """A flush of an orderly stop fails, and loses."""
        machine = self.source() if self.random.random() < 0.7 else self.target()
        if not machine:
            return
        if self.random.random() < 0.5:
            self.until(self.phase("copy"))
        part = self.random.choice(("data", "data", "intermediate"))
        for volume in machine.sizes:
            self.fail(machine, machine.disks[volume, part], FLUSHES, 1)
        self.stop(machine)

    def _disk(self) -> None:
        machine = self.random.choice(self._machines())
        disk = self.random.choice(machine.all_disks())
        kinds = self.random.randrange(1, 16)
        self.fail(machine, disk, kinds, self.random.choice((1, 1, 2, 3, 1 << 20)))
        self.world.turns(self.random.randrange(150))
        if self.random.random() < 0.5:
            self._strike(machine)

    def _server(self) -> None:
        machine = self.random.choice(self._machines())
        self.world.turns(int(self.random.expovariate(1 / 40)))
        if machine.life and machine.life.up and machine.served:
            volume, part = self.random.choice(list(machine.served))
            number = list(machine.sizes).index(volume)
            self.world.restart_server(machine, number, part, self.random.choice(KEEP))

    def _server_beside(self) -> None:
        """A site is killed, and servers of its stores go meanwhile, with what was not flushed; and
        perhaps it is killed again before its clients have heard."""
        rng = self.random
        machine = self.source() if rng.random() < 0.8 else self.target()
        if not machine or not machine.life:
            return
        self.world.turns(rng.randrange(60))
        data = [machine.disks[key] for key in machine.served if key[1] == "data"]
        if rng.random() < 0.8:
            self.until(lambda: any(lib.sim_disk_unflushed(disk) > 2 for disk in data), 100, 1)
        if machine.life is None or not machine.life.up:
            return
        self.world.crash(machine, power=False, keep=0.0)
        for volume, part in machine.served:
            if rng.random() < (0.8 if part == "data" else 0.4):
                self.world.reach("a server went while its site was down")
                number = list(machine.sizes).index(volume)
                self.world.restart_server(machine, number, part, rng.choice((0.0, 0.0, 0.5)))
        self.world.boot_all()
        for _ in range(rng.choice((0, 0, 1, 2))):
            self.world.turns(rng.randrange(60))
            self._strike(machine, stop=0.3)
            self.world.boot_all()
        self._until_reached("told of what went while the site was down", turns=300)

    def _both_sinks(self) -> None:
        """The link and the source's own intermediate, at once."""
        machine = self.source()
        if not machine or not self.until(self.phase("copy")):
            return
        machine = self.source() or machine
        disk = machine.disks[self.random.choice(list(machine.sizes)), "intermediate"]
        self.fail(machine, disk, 14, self.random.randrange(1, 3))
        self.world.turns(self.random.choice((0, 0, 1, 3)))
        self._link_goes()
        self.world.turns(self.random.randrange(150))
        self.world.network.up, self.world.network.hung = True, False
