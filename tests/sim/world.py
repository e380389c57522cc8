"""One schedule: two machines, a link, clients, commands and faults, all from one seed.

    trouble   clients write; commands and faults come after random numbers of switches
    calm      faults end, everything is booted; clients write on for a while, then stop
    end       if the target was promoted, the old source is refused, and takes the new one's
              history; then both sites must become equal within a bound

After every crash, and at instants in between (a probe: what if the power went here?), the
oracle looks at what is on the disks.  Who is the source follows from the ledgers alone.

Left out: a lost or swapped store, and a source that goes back to an older copy of itself.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from mirror_core import ledger, limits
from mirror_core.driver import Driver
from mirror_core.errors import LedgerError
from mirror_core.site import Site
from mirror_core.target import Target
from sim import clients, network, plants, sched, simos
from sim.core import lib
from sim.oracle import SECTOR, Content, History
from sim.sched import Life, Scheduler, Violation
from sim.sites import Incarnation, Machine

_TURNS_MAX = 30_000  # of an end: faults are over, so it takes a few hundred
_KEEP = (0.0, 0.25, 0.5, 0.75, 1.0)  # the chance of an unflushed write

limits.SAMPLE_BYTES, limits.SAMPLES = SECTOR, 3
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
    unit: int = SECTOR  # under one checksum, when a source compares
    sums: int = 2048  # in one request
    copy_s: float = 0.5  # of the first flashcopy, between two looks of its control
    stable_s: float = 2.0  # between two records of what is stable

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
            rng.choice((512, 1024)), rng.choice((2, 2048)),
            rng.choice((0.5, 2e-4, 2e-4)), rng.choice((0.0, 0.0, 0.002, 2.0)),
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
        limits.HARDEN_SLICE_S = shape.slice_s
        limits.PRIORITY_LANES = shape.lanes
        limits.COMPARE_UNIT_BYTES, limits.COMPARE_SUMS = shape.unit, shape.sums
        limits.SLICE_S = limits.SLICE_SHORT_S = shape.copy_s
        limits.STABLE_S, limits.STABLE_SHARE = shape.stable_s, 1
        self.block, self.preserve, sizes = shape.block, shape.preserve, shape.sizes
        self.nclients, self.disk_errors = shape.clients, shape.disk_errors
        self.east = Machine(self, "east", "west", sizes)
        self.west = Machine(self, "west", "east", sizes)
        self.sites = {"east": self.east, "west": self.west}
        self.network = network.Network(self)
        network.install(self.network)
        self._fill()
        self.histories: dict[str, History] = {}  # by lineage
        self.east.content = Content(self.east.images("data"))
        self.serial = 0  # of writes
        self.clients_stop = False
        self.east.create("source")
        self.west.create("target")
        lineage = self.east.book_on_disk(self.east.fs).lineage
        self.west.follows = self._history(lineage)

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

    def site_of(self, life: Life) -> Site:
        assert isinstance(life, Incarnation) and life.site
        return life.site

    def _history(self, lineage: ledger.Lineage | None) -> History:
        assert lineage
        return self.histories.setdefault(lineage.id, History(self.block))

    # ---- what machines report

    def opened(self, machine: Machine, life: Incarnation) -> None:
        """A site is open and has not begun: the oracle watches its consistency points."""
        assert life.site
        if isinstance(life.site.control, Target):
            self._watch_log(life.site.control)
        else:
            self._watch_points(machine, life.site)

    def _watch_log(self, control: Target) -> None:
        append = control.second.log.append

        def counted(history: Any, hardened: Any) -> None:
            append(history, hardened)
            self.counts["hardening records"] += 1

        setattr(control.second.log, "append", counted)  # noqa: B010

    def _watch_points(self, machine: Machine, site: Site) -> None:
        life, group = machine.life, site.copier.group
        history = self._history(site.book.current.lineage)
        freeze = group.freeze

        def watched(budget_s: float) -> float:
            held = freeze(budget_s)
            self.counts["points"] += 1
            sequence = site.book.current.begun
            self.scheduler.trace(f"consistency point {sequence}")
            if life and not life.dead and machine.content:
                history.point(sequence, machine.images("data"), machine.content)
            return held

        setattr(group, "freeze", watched)  # noqa: B010

    def started(self, machine: Machine, life: Incarnation) -> None:
        """Its role is durable: a start writes the ledger."""
        if life.target:
            machine.content = None
            return
        assert life.site
        if machine.content is None:
            self._promoted(machine, life.site.book.current)
        clients.Clients(self, machine, life)

    def _promoted(self, machine: Machine, book: ledger.Ledger) -> None:
        assert book.lineage and machine.follows
        data = machine.images("data")
        machine.follows.promoted(book.lineage.forked_at, data)
        machine.follows.end = book.lineage.forked_at
        machine.content = Content(data)
        self.counts["promotions"] += 1

    def stopped(self, machine: Machine) -> None:
        """In order."""
        self.counts["orderly stops"] += 1
        book = machine.book_on_disk(machine.fs)
        if book.role == "target":
            self._judge(machine, machine.fs, machine.images("data"),
                        machine.images("intermediate"), power=False)  # fmt: skip
        elif machine.content and book.clean:
            machine.content.stopped(machine.images("data"))
        elif machine.content:
            machine.content.came_back(machine.images("data"), power=False)

    def synced(self, history: History, sequence: int) -> None:
        """`sync` says that the target has `sequence`, and whole in its data stores."""
        for machine in (self.east, self.west):
            if machine.follows is not history or history.end is not None:
                continue
            fs, _ = machine.fs.survivors(self.scheduler.random, 0.0)
            data, _ = machine.survivors("data", 0.0)
            book = machine.book_on_disk(fs)
            owed = any(bits for key, bits in book.maps.items() if key.endswith("/pending"))
            if book.committed < sequence or (book.committed == sequence and owed):
                raise Violation(f"{sequence} is not whole at the target")
            if book.committed == sequence:
                history.judge(book, data, data)

    # ---- the oracle's looks

    def _note_commits(self) -> None:
        for machine in (self.east, self.west):
            life = machine.life
            if not (life and life.site):
                continue
            book, control = life.site.book.current, life.site.control
            if isinstance(control, Driver):
                self._history(book.lineage).acknowledge(control.committed)
            elif life.up and book.whole and machine.follows:
                machine.follows.durable(book.committed)
        state = hash((
            self.west.images("data"), self.west.images("intermediate"), self.east.images("data"),
            sum(history.acknowledged for history in self.histories.values()),
        ))  # fmt: skip
        self.states.add(state)

    def _judge(
        self, machine: Machine, fs: simos.SimFs, data: Any, intermediate: Any, *, power: bool
    ) -> ledger.Ledger:
        try:
            book = machine.book_on_disk(fs)
        except LedgerError as error:
            raise Violation(f"{machine.name} cannot start: {error}") from error
        if book.role == "target":
            assert machine.follows
            machine.follows.judge(book, data, intermediate)
            self.counts["images judged"] += book.whole
        elif machine.content:
            machine.content.judge(data, power=power)
        else:
            assert machine.follows and book.lineage
            machine.follows.promoted(book.lineage.forked_at, data)
        return book

    def probe(self) -> None:
        """What if the target's power went at this instant?  And the source's?"""
        self.counts["probes"] += 1
        self._note_commits()
        rng = self.scheduler.random
        keep = rng.choice(_KEEP)
        machine = self.east if (self.west.content is None) == (rng.random() < 0.2) else self.west
        data, _ = machine.survivors("data", keep)
        intermediate, _ = machine.survivors("intermediate", keep)
        fs, torn = machine.fs.survivors(rng, keep)
        self.counts["torn files"] += torn
        self._judge(machine, fs, data, intermediate, power=True)

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
        data = machine.images("data")
        book = self._judge(machine, machine.fs, data, machine.images("intermediate"), power=power)
        if book.role == "source" and machine.content:
            machine.content.came_back(data, power=power)

    def command(self) -> None:
        """Of a person, to a site that is up."""
        rng = self.scheduler.random
        life = rng.choice((self.east, self.west)).life
        if not (life and life.up) or life.stopping:
            return
        choice = rng.random()
        if choice < 0.4:
            self._stop(self.sites[life.name])
        elif life.source:
            asks = clients.sync, clients.sync, clients.pause, clients.pause, clients.resume
            asks[int(choice * 997) % len(asks)](self, life)
        else:
            clients.promote(self, life, force=rng.random() < 0.7)

    def _stop(self, machine: Machine) -> None:
        self.scheduler.trace(f"*** {machine.name}: stop")
        if machine.life and machine.life.target:
            self.network.cut()
        machine.stop()

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
        if rng.random() < 0.4:
            self._server_fault(machine)
            return
        code = rng.choice((errno.EIO, errno.ENOSPC))
        self.counts["disk errors"] += 1
        self.scheduler.trace(f"*** a disk of {machine.name} fails")
        if rng.random() < 0.2:
            machine.fs.failing, machine.fs.failing_code = rng.randrange(1, 4), code
            return
        disk = rng.choice(list(machine.disks.values()))
        lib.sim_disk_fail(disk, rng.randrange(1, 16), rng.randrange(1, 4), -code)

    def _server_fault(self, machine: Machine) -> None:
        rng = self.scheduler.random
        if machine.life is None or not machine.life.up:
            return
        number, part = rng.randrange(len(machine.sizes)), rng.choice(("data", "intermediate"))
        self.scheduler.trace(f"*** the server of {machine.name}'s {part} goes and comes back")
        self._note_commits()
        self.counts["servers lost"] += 1
        self.counts["writes lost"] += machine.restart_server(number, part, rng.choice(_KEEP))
        data = machine.images("data")
        if machine.book_on_disk(machine.fs).role == "target":
            self._judge(machine, machine.fs, data, machine.images("intermediate"), power=True)
        elif part == "data" and machine.content:
            machine.content.server_lost(number, data[number])

    # ---- a schedule

    def run(self) -> None:
        rng = self.random
        self.east.boot()
        self.west.boot()
        gap = rng.choice((5, 12, 25, 60, 100))
        commands = rng.choice((0.0, 0.2, 0.6))
        for _ in range(rng.randrange(1, 5)):
            wait = int(rng.expovariate(1 / gap))
            if rng.random() < commands:
                before = rng.randrange(wait + 1)
                self.turns(before)
                self.command()
                wait -= before
            self.turns(wait)
            self.fault()
            if rng.random() < 0.5:
                self.turns(rng.randrange(20))
            if rng.random() < 0.5:
                self.probe()
            self._boot_all(0.9)
        self._calm()
        self.turns(rng.randrange(30))
        self._end()
        self.counts["schedules"] += 1
        self.counts["switches"] += self.scheduler.switches

    def turns(self, count: int) -> None:
        until = self.scheduler.switches + count
        more = True
        while more:
            more = self.scheduler.turns(until - self.scheduler.switches)
            for machine in (self.east, self.west):
                if machine.life and machine.life.anew:
                    self.counts["processes begun anew"] += 1
                    self.crash(machine, power=False, keep=0.0)
                    machine.boot()

    def _boot_all(self, chance: float = 1.0) -> None:
        for machine in (self.east, self.west):
            if machine.life and machine.life.refused:
                if not self.disk_errors:
                    raise Violation(f"{machine.name} does not start: {machine.life.refused}")
                self.crash(machine, power=False, keep=0.0)
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
            self.turns(20)
            self._boot_all()  # one that was just booting when a disk failed
            self._resume_all()
            if self.scheduler.switches > until:
                raise Violation(f"it does not converge: {self._why()}")
        self._note_commits()
        for machine in (self.east, self.west):
            if machine.content:
                machine.content.equals(self.east.images("data"), "in the end")
                machine.content.equals(self.west.images("data"), "in the end")
            else:
                self._judge(machine, machine.fs, machine.images("data"),
                            machine.images("intermediate"), power=False)  # fmt: skip
        for machine in (self.east, self.west):
            machine.crash()

    def _resume_all(self) -> None:
        """So that it can become quiet; and who was refused takes the other history."""
        for machine, other in ((self.east, self.west), (self.west, self.east)):
            life = machine.life
            if not (life and life.site and life.source) or life.stopping:
                continue
            book = life.site.book.current
            if book.paused:
                clients.resume(self, life)
            history = self._history(book.lineage)
            ended = machine.content and other.content and other.follows is history
            if ended and life.source.refused and "is the source now" in str(life.source.reason):
                self.counts["old sources refused"] += 1
                self.crash(machine, power=False, keep=0.0)
                machine.follows = self._history(other.book_on_disk(other.fs).lineage)
                machine.resync()

    def _converged(self) -> bool:
        lives = [m.life for m in (self.east, self.west) if m.life and not m.life.stopping]
        source = next((one for one in lives if one.source), None)
        target = next((one for one in lives if one.target), None)
        if not (source and source.site and source.source):
            return False
        if not (target and target.site and target.target):
            return False
        if any("control" not in task.name for task in self.scheduler.tasks):
            return False
        control, committed = source.source, target.site.book.current.committed
        return (
            control.progress.phase == "idle"
            and source.site.copier.group.next_blocks() == 0
            and control.hardened >= control.committed > 0
            and target.target.hardened >= committed >= control.committed
        )

    def _why(self) -> str:
        parts = []
        for life in (self.east.life, self.west.life):
            if life and life.source:
                parts += [str(life.source.reason), life.source.progress.phase]
            elif life and life.target:
                parts += [str(life.target.reason), str(life.target.hardened)]
        return (
            ", ".join(parts) + "; " + ", ".join(f"{t.name} {t.state}" for t in self.scheduler.tasks)
        )
