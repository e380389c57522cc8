"""One schedule: two machines, a link, clients and faults, all from one seed.

    trouble   clients write; a fault comes after a random number of switches, again and again
    calm      faults end, everything is booted; clients write on for a while, then stop
    end       both sites must become equal within a bound

After every crash, and at instants in between (a probe: what if the power went here?), the
oracle looks at what is on the disks.

Left out: an orderly stop and start, commands (pause, sync), a lost or swapped store, a source
that goes back to an older copy of itself, promote (a role is fixed here: Machine.create), and
an intent log, which the source has not yet: after a crash it marks everything.  An exchange may
arrive twice, but not a handshake: each has a connection of its own, and TCP repeats nothing.
"""

from __future__ import annotations

import errno
import functools
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from mirror_core import limits, native
from mirror_core.driver import Driver
from mirror_core.errors import LedgerError
from mirror_core.target import Target
from sim import network, plants, sched, simos
from sim.core import ffi, lib
from sim.oracle import SECTOR, Oracle
from sim.sched import Life, Scheduler, Violation
from sim.sites import Incarnation, Machine, SimSite, patch_production

_TURNS_MAX = 30_000  # of an end: faults are over, so it takes a few hundred
_KEEP = (0.0, 0.25, 0.5, 0.75, 1.0)  # the chance of an unflushed write

patch_production()
plants.install()


@dataclass(frozen=True)
class Shape:
    """How large a world is, and how it runs."""

    sizes: dict[str, int]
    block: int = SECTOR
    preserve: Literal["both", "first"] = "both"
    clients: int = 1
    disk_errors: bool = False
    stride: int = 1
    tick_ns: int = 1_000
    laggard: str = ""
    slice_s: float = 2e-7  # of the second flashcopy: small batches of hardening
    lanes: int = 1  # of writers who wait for a copy

    @classmethod
    def of(cls, rng: random.Random) -> Shape:
        sizes = {"a": SECTOR * rng.randrange(2, 17)}
        if rng.random() < 0.7:
            sizes["b"] = SECTOR * rng.randrange(2, 9)
        return cls(
            sizes, rng.choice((512, 512, 1024)), rng.choice(("both", "both", "first")),
            rng.randrange(1, 4), rng.random() < 0.3, rng.choice((1, 2, 4, 8, 16)),
            rng.choice((1_000, 100_000, 3_000_000)),
            rng.choice(("", "west: control", "west: control", "east: control")),
            rng.choice((0.002, 2e-7, 2e-7)), rng.choice((1, 1, 2, 3)),
        )  # fmt: skip


class World:
    def __init__(self, seed: int, tracer: Any = None, shape: Shape | None = None) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.states: set[int] = set()
        shape = shape or Shape.of(self.random)
        self.scheduler = Scheduler(seed, shape.stride, shape.tick_ns)
        self.scheduler.laggard = shape.laggard
        self.scheduler.tracer = tracer
        sched.install(self.scheduler)
        simos.forget_descriptors()
        limits.HARDEN_SLICE_S = shape.slice_s
        limits.PRIORITY_LANES = shape.lanes
        self.block, self.preserve, sizes = shape.block, shape.preserve, shape.sizes
        self.nclients, self.disk_errors = shape.clients, shape.disk_errors
        self.east = Machine(self, "east", "west", sizes)
        self.west = Machine(self, "west", "east", sizes)
        self.sites = {"east": self.east, "west": self.west}
        self.network = network.Network(self)
        network.install(self.network)
        self._fill()
        self.oracle = Oracle(self.east.images("data"), self.block)
        self.serial = 0  # of writes
        self.clients_stop = False
        self.east.create("source")
        self.west.create("target")

    def _fill(self) -> None:
        """What the disks held before the sites were created."""
        rng = self.random
        for machine, part in ((self.east, "data"), (self.east, "intermediate"),
                              (self.west, "data"), (self.west, "intermediate")):  # fmt: skip
            if rng.random() < 0.5:
                machine.fill(part, tuple(
                    b"".join(rng.randbytes(8) * 64 if rng.random() < 0.6 else bytes(SECTOR)
                             for _ in range(size // SECTOR))
                    for size in machine.sizes.values()
                ))  # fmt: skip

    def site_of(self, life: Life) -> SimSite:
        assert isinstance(life, Incarnation) and life.site
        return life.site

    # ---- what machines report

    def opened(self, machine: Machine, life: Incarnation) -> None:
        """A site is open and has not begun: the oracle watches its consistency points."""
        assert life.site
        if machine is self.west:
            assert isinstance(life.site.control, Target)
            log = life.site.control._log
            append = log.append

            def counted(sequence: int, hardened: Any) -> None:
                append(sequence, hardened)
                self.counts["hardening records"] += 1

            setattr(log, "append", counted)  # noqa: B010
            return
        site, group = life.site, life.site.copier.group
        freeze = group.freeze

        def watched(budget_s: float) -> float:
            held = freeze(budget_s)
            self.counts["points"] += 1
            sequence = site.book.current.begun
            self.scheduler.trace(f"consistency point {sequence}")
            if not life.dead:
                self.oracle.point(sequence, machine.images("data"))
            return held

        setattr(group, "freeze", watched)  # noqa: B010

    def started(self, machine: Machine, life: Incarnation) -> None:
        assert life.site
        if machine is self.west:
            return
        for number in range(self.nclients):
            work = functools.partial(self._client, life, number)
            self.scheduler.spawn(life, f"client {number}", work)

    # ---- clients: each owns every n-th sector range, and writes only when the last is answered

    def _client(self, life: Incarnation, number: int) -> None:
        rng = self.scheduler.random
        while not self.clients_stop:
            volume = rng.randrange(len(self.east.sizes))
            size = list(self.east.sizes.values())[volume]
            share = size // SECTOR // self.nclients
            if share == 0:
                if number:
                    return
                share = size // SECTOR
            first = number * share + rng.randrange(share)
            sectors = min(rng.choice((1, 1, 1, 2, 3)), (number + 1) * share - first)
            self._request(life, volume, first * SECTOR, sectors * SECTOR)
            self.scheduler.pause()
            if rng.random() < 0.2:
                self.scheduler.wait(lib.sim_clock_ns + int(rng.random() * 30_000_000))

    def _request(self, life: Incarnation, volume: int, offset: int, length: int) -> None:
        assert life.site
        rng, oracle = self.scheduler.random, self.oracle
        handle = life.site.members[volume].native._handle
        kind = rng.random()
        if kind < 0.1:
            flushed = oracle.flushing(volume)
            if lib.fm_volume_client_flush(handle) == 0 and not life.dead:
                self.counts["flushes"] += 1
                flushed()
            return
        if kind < 0.2:
            out = ffi.new("char[]", length)
            if lib.fm_volume_read(handle, out, length, offset) == 0 and not life.dead:
                meant = bytes(oracle.model[volume][offset : offset + length])
                if sched.bytes_at(out, length) != meant:
                    raise Violation(f"a read of volume {volume} at {offset} is wrong")
            return
        flags = native.FUA if rng.random() < 0.1 else 0
        self.serial += 1
        if kind < 0.3:
            data = bytes(length)
            oracle.issue(volume, offset, data)
            rc = lib.fm_volume_zero(handle, 0, length, offset, flags | native.PUNCH)
        else:
            data = b"".join(
                (self.serial * 256 + i).to_bytes(8, "big") * (SECTOR // 8)
                for i in range(length // SECTOR)
            )
            oracle.issue(volume, offset, data)
            rc = lib.fm_volume_write(handle, 0, data, length, offset, flags)
        self.scheduler.trace(f"write {self.serial} volume {volume} at {offset}+{length}: {rc}")
        if life.dead:
            return
        self.counts["writes"] += 1
        if rc == 0:
            oracle.done(volume, offset, data)
        else:
            self.counts["write errors"] += 1
            if not self.disk_errors:
                raise Violation(f"a client got an error {rc} that no disk made")
            disk = self.east.images("data")[volume]
            oracle.failed(volume, offset, disk[offset : offset + length])

    # ---- the oracle's looks

    def _note_commits(self) -> None:
        east, west = self.east.life, self.west.life
        if east and east.site and isinstance(east.site.control, Driver):
            self.oracle.acknowledged = max(self.oracle.acknowledged, east.site.control.committed)
        if west and west.site and west.up and west.site.book.current.whole:
            self.oracle.durable(west.site.book.current.committed)
        state = hash((
            bytes(self.west.images("data")[0]), bytes(self.west.images("intermediate")[0]),
            self.east.images("data"), self.oracle.acknowledged,
        ))  # fmt: skip
        self.states.add(state)

    def _judge(self, fs: simos.SimFs, data: Any, intermediate: Any) -> None:
        try:
            book = self.west.book_on_disk(fs)
        except LedgerError as error:
            raise Violation(f"the target cannot start: {error}") from error
        self.oracle.judge(book, data, intermediate)
        self.counts["images judged"] += book.whole

    def probe(self) -> None:
        """What if the target's power went at this instant?"""
        self.counts["probes"] += 1
        self._note_commits()
        keep = self.scheduler.random.choice(_KEEP)
        data, _ = self.west.survivors("data", keep)
        intermediate, _ = self.west.survivors("intermediate", keep)
        fs, torn = self.west.fs.survivors(self.scheduler.random, keep)
        self.counts["torn files"] += torn
        self._judge(fs, data, intermediate)

    # ---- faults

    def crash(self, machine: Machine, *, power: bool, keep: float) -> None:
        self._note_commits()
        self.scheduler.trace(f"*** {machine.name}: {'power loss' if power else 'killed'}")
        self.counts["power losses" if power else "kills"] += 1
        if machine.life and not machine.life.up:
            self.counts["crashes in recovery"] += 1
        self.network.cut()
        if machine.life:
            machine.crash()
        if power:
            lost, torn = machine.lose_power(keep)
            self.counts["writes lost"] += lost
            self.counts["torn files"] += torn
        if machine is self.west:
            self._judge(self.west.fs, self.west.images("data"), self.west.images("intermediate"))
        else:
            self.oracle.source_came_back(machine.images("data"), power=power)
            try:
                machine.book_on_disk(machine.fs)
            except LedgerError as error:
                raise Violation(f"the source cannot start: {error}") from error

    def fault(self) -> None:
        rng = self.scheduler.random
        choice = rng.random()
        if choice < 0.5:
            which = rng.choice(((self.east,), (self.west,), (self.east, self.west)))
            keep = rng.choice(_KEEP)
            for machine in which:
                self.crash(machine, power=rng.random() < 0.7, keep=keep)
        elif choice < 0.8:
            self._link_fault(rng.random())
        elif self.disk_errors:
            self._disk_fault()
        else:
            self.probe()

    def _link_fault(self, choice: float) -> None:
        self.scheduler.trace("*** the link")
        self.counts["link cuts"] += 1
        net = self.network
        net.late = self.scheduler.random.choice((0.0, 0.5, 1.0))
        net.twice = self.scheduler.random.choice((0.0, 0.0, 0.3))
        if choice < 0.3:
            net.up = not net.up
            net.cut()
        elif choice < 0.6:
            net.hung = not net.hung
        else:
            net.cut()

    def _disk_fault(self) -> None:
        rng = self.scheduler.random
        machine = rng.choice((self.east, self.west))
        code = rng.choice((errno.EIO, errno.ENOSPC))
        self.counts["disk errors"] += 1
        self.scheduler.trace(f"*** a disk of {machine.name} fails")
        if rng.random() < 0.2:
            machine.fs.failing, machine.fs.failing_code = rng.randrange(1, 4), code
            return
        disk = rng.choice(list(machine.disks.values()))
        lib.sim_disk_fail(disk, rng.randrange(1, 16), rng.randrange(1, 4), -code)

    # ---- a schedule

    def run(self) -> None:
        rng = self.random
        self.east.boot()
        self.west.boot()
        gap = rng.choice((5, 12, 25, 60, 100))
        for _ in range(rng.randrange(1, 5)):
            self.scheduler.turns(int(rng.expovariate(1 / gap)))
            self.fault()
            if rng.random() < 0.5:
                self.scheduler.turns(rng.randrange(20))
            if rng.random() < 0.5:
                self.probe()
            self._boot_all(0.9)
        self._calm()
        self.scheduler.turns(rng.randrange(30))
        self._end()
        self.counts["schedules"] += 1
        self.counts["switches"] += self.scheduler.switches

    def _boot_all(self, chance: float = 1.0) -> None:
        for machine in (self.east, self.west):
            if machine.life and machine.life.refused:
                if not self.disk_errors:
                    raise Violation(f"{machine.name} does not start: {machine.life.refused}")
                machine.crash()
            if machine.life is None and self.scheduler.random.random() < chance:
                machine.boot()

    def _calm(self) -> None:
        self.scheduler.trace("*** calm")
        self.network.up, self.network.hung = True, False
        for machine in (self.east, self.west):
            machine.fs.failing = 0
            for disk in machine.disks.values():
                lib.sim_disk_fail(disk, 0, 0, 0)
        self._boot_all()

    def _end(self) -> None:
        self.clients_stop = True
        self.scheduler.trace("*** the end: clients stop")
        until = self.scheduler.switches + _TURNS_MAX
        while not self._converged():
            self.scheduler.turns(20)
            self._boot_all()  # one that was just booting when a disk failed
            if self.scheduler.switches > until:
                raise Violation(f"it does not converge: {self._why()}")
        self._note_commits()
        self._judge(self.west.fs, self.west.images("data"), self.west.images("intermediate"))
        source = self.east.images("data")
        if source != self.west.images("data") or source != tuple(map(bytes, self.oracle.model)):
            raise Violation("the sites are not equal in the end")
        for machine in (self.east, self.west):
            machine.crash()

    def _converged(self) -> bool:
        life, west = self.east.life, self.west.life
        if not (life and west and life.up and west.up and life.site and west.site):
            return False
        if any(t.name.startswith("client") for t in self.scheduler.tasks):
            return False
        control, target = life.site.control, west.site.control
        assert isinstance(control, Driver) and isinstance(target, Target)
        return (
            control.progress.phase == "idle"
            and life.site.copier.group.next_blocks() == 0
            and control.hardened >= control.committed > 0
            and target.hardened >= control.committed
        )

    def _why(self) -> str:
        life, west = self.east.life, self.west.life
        parts = []
        if life and life.site and isinstance(life.site.control, Driver):
            control = life.site.control
            parts += [str(control.reason), control.progress.phase, str(control.committed)]
        if west and west.site and isinstance(west.site.control, Target):
            parts += [str(west.site.control.reason), str(west.site.control.hardened)]
        return (
            ", ".join(parts) + "; " + ", ".join(f"{t.name} {t.state}" for t in self.scheduler.tasks)
        )
