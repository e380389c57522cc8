"""One schedule: two machines, a link, clients, commands and faults, all from one seed.

    trouble   clients write; commands and faults come after random numbers of switches
    calm      faults end, everything is booted; clients write on for a while, then stop
    end       if the target was promoted, the old source is refused, and takes the new one's
              history; then both sites must become equal within a bound

After every crash, and at instants in between (a probe: what if the power went here?), the
oracle looks at what is on the disks.  Who is the source follows from the ledgers alone.

Two machines may have copies (copies.py): `east` and `west` are those that the link joins.  A third
one may be a second source of their target (strangers.py).

Left out: a lost or swapped store; volumes of a mirror with different block sizes (config.py has
one for all); requests and copies of more than a few kilobytes (native/tests/test_zero.c,
test_room.c, tests/test_equality.py).
"""

from __future__ import annotations

import contextlib
import errno
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mirror_core import ledger
from mirror_core.driver import Driver
from mirror_core.errors import LedgerError
from mirror_core.site import Site
from mirror_core.target import Target
from sim import clients, cuts, network, person, sched, simos, strangers, tells, trouble, watch
from sim.content import Content, Image
from sim.core import lib
from sim.oracle import History
from sim.sched import NS, Life, Scheduler, Violation
from sim.shape import SECTOR, Shape, sectors_in
from sim.sites import Incarnation, Machine
from sim.stalls import stalls

_TURNS_MAX = 30_000  # of an end: faults are over, so it takes a few hundred
WAITS_S = (0.5, 2.5, 5)
KEEP = (0.0, 0.25, 0.5, 0.75, 1.0)  # the chance of an unflushed write


def owes(target: Target) -> bool:
    return target.hardened < target._book.current.committed


class World:
    def __init__(self, seed: int, tracer: Any = None, shape: Shape | None = None) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.was_cut = False  # a store (cuts.py)
        self.reached: set[str] = set()  # of watch.STATES
        self.awaited: frozenset[str] = frozenset()  # the world is asked when one is reached
        self._is_there = False  # it was
        self.states: set[int] = set()
        shape = shape or Shape.of(self.random)
        self.scheduler = Scheduler(seed, shape.stride, shape.tick_ns)
        self.scheduler.laggard = shape.laggard
        self.scheduler.tracer, lib.sim_traces = tracer, tracer is not None
        sched.install(self.scheduler)
        stalls.begin(armed=shape.stalls)
        shape.set_limits()
        self.shape = shape
        self.block, sizes = shape.block, shape.sizes
        self.nclients, self.disk_errors = shape.clients, shape.disk_errors
        lib.sim_stores_forget()
        self.east = Machine(self, "east", "west", sizes)
        self.west = Machine(self, "west", "east", sizes)
        self.clones: list[Machine] = []  # copies that live beside them
        self.stranger: strangers.Stranger | None = None  # a second source
        self.network = network.Network(self)
        network.install(self.network)
        sched.on_loss[:], sched.on_fading[:] = [self._lost], [self._faded]
        sched.on_folder_loss[:] = [self._folder_lost]
        self._fill(random.Random(f"zeroes {seed}"))
        self.histories: dict[str, History] = {}  # by lineage
        self.east.content = Content(self.east.images("data"))
        self.serial = 0  # of writes
        self.asking: dict[Incarnation, dict[int, int]] = {}  # its clients who wait: since when
        self.is_calm = False  # faults are over
        self.clients_stop = False
        self.east.create("source")
        self.west.create("target", seeded=shape.seeded)
        lineage = self.east.book_on_disk(self.east.fs).lineage
        self.west.follows = self.history(lineage)

    def _fill(self, of_zeroes: random.Random) -> None:
        """What the disks held before the sites were created; the target's data may have been
        zeroed just now, and not flushed."""
        rng = self.random
        for machine, part in ((self.east, "data"), (self.east, "intermediate"),
                              (self.west, "data"), (self.west, "intermediate")):  # fmt: skip
            if rng.random() < 0.5:
                machine.fill(part, tuple(
                    b"".join(rng.randbytes(8) * 64 if rng.random() < 0.6 else bytes(SECTOR)
                             for _ in range(sectors_in(size)))[:size]
                    for size in machine.sizes.values()
                ))  # fmt: skip
        if not self.shape.seeded and of_zeroes.random() < 0.3:
            zeroes = tuple(bytes(size) for size in self.west.sizes.values())
            self.west.fill("data", zeroes, flushed=False)
            if self.disk_errors and of_zeroes.random() < 0.5:
                self.fail_to_flush(self.west, of_zeroes.choice([*self.west.sizes]), "data")
        if self.shape.seeded:
            images = tuple(
                b"differs" + image[7:] if rng.random() < 0.7 else image
                for image in self.east.images("data")
            )
            flushed = rng.random() < 0.5
            self.west.fill("data", images, flushed=flushed)
            if not flushed and self.disk_errors:
                self.fail_to_flush(self.west, rng.choice([*self.west.sizes]), "data")

    def fail_to_flush(self, machine: Machine, volume: str, part: str) -> None:
        """Whoever flushes that store of a target first loses some of what a person put there."""
        disk = machine.disks[volume, part]
        loss = lib.SIM_LOSE_LATER if self.shape.later else lib.SIM_LOSE_NOW
        lib.sim_disk_lose(disk, loss)
        lib.sim_disk_fail(disk, 1 << lib.FM_FLUSH, 1, -errno.EIO)
        machine.lost_copy = True

    @property
    def machines(self) -> tuple[Machine, ...]:
        return (self.east, self.west, *self.clones)

    def reached_as(self, site: str) -> Machine:
        """Whom the address of a site leads to."""
        return self.east if site == self.east.site else self.west

    def other(self, machine: Machine) -> Machine:
        """The peer of this one, or of whom it is a copy."""
        return self.west if machine.site == self.east.site else self.east

    def is_strange(self, life: Life) -> bool:
        """Of a second source."""
        return isinstance(life, Incarnation) and life.machine.site == strangers.NORTH

    def site_of(self, life: Life) -> Site:
        assert isinstance(life, Incarnation) and life.site
        return life.site

    def history(self, lineage: ledger.Lineage | None) -> History:
        assert lineage
        return self.histories.setdefault(lineage.id, History(self.block))

    # ---- what machines report

    def reach(self, state: str) -> None:
        """One of watch.STATES: whoever waits for it has the next turn."""
        self.reached.add(state)
        if state in self.awaited:
            self.awaited, self._is_there = frozenset(), True
            self.scheduler.ask_world()

    def opened(self, machine: Machine, life: Incarnation) -> None:
        """A site is open and has not begun: the oracle watches its consistency points."""
        assert life.site
        if self.is_strange(life):
            return
        watch.watch(self, life)
        if self.stranger and isinstance(life.site.control, Target):
            self.stranger.watch(life, life.site.control)
        if isinstance(life.site.control, Driver):
            self._watch_points(machine, life.site)

    def _watch_points(self, machine: Machine, site: Site) -> None:
        life, group = machine.life, site.copier.group
        history = self.history(site.book.current.lineage)
        freeze = group.freeze
        made: list[tuple[Image, int]] = []  # the last one, which has no sequence yet

        def watched(budget_s: float) -> float:
            held = freeze(budget_s)
            self.counts["points"] += 1
            self.counts["points under fault"] += not self.is_calm
            self.scheduler.trace("consistency point")
            if life and not life.dead and machine.content:
                made[:] = [(machine.images("data"), self.scheduler.switches)]
                with self._judging():
                    machine.content.swapped(made[0][0], machine.safe(), machine.stale())
            return held

        def named(book: ledger.Ledger) -> None:
            with self._judging():
                look_at(book)

        def look_at(book: ledger.Ledger) -> None:
            point, before = (book.begun, book.begun_token), site.book.current
            if made and point != (before.begun, before.begun_token):
                history.point(point, *made.pop(), site.platform.monotonic())
                if machine.content:
                    fading = history.fading[point] = machine.content.name_point(point)
                    if fading:
                        self.reach("consistency point on what a cache shows")
            done = book.committed, book.committed_token
            if done[1] != before.committed_token and machine.content and done in history.points:
                self.counts["commits of which the source's disk was judged"] += 1
                meant, fading = history.points[done], history.fading.get(done, {})
                history.points[done], history.fading[done] = machine.content.committed(
                    done, meant, fading, machine.safe(), machine.images("data")
                )

        setattr(group, "freeze", watched)  # noqa: B010
        site.book.told.append(named)

    @contextlib.contextmanager
    def _judging(self) -> Iterator[None]:
        """Beside production, which would take a violation for an error of its own."""
        try:
            yield
        except Violation as violation:
            self.scheduler.fail(violation)
            raise

    def started(self, machine: Machine, life: Incarnation) -> None:
        """Its role is durable: a start writes the ledger."""
        if self.is_strange(life):
            return
        if life.target:
            machine.content = None
            return
        assert life.site
        if machine.content is None:
            self._promoted(machine, life.site.book.current)
        servers = life.site.servers
        for name, server in servers._known.items() if machine.was_killed else ():
            known = server and name not in servers._untold
            self.reach(f"a server is {'' if known else 'not '}known again after a kill")
        clients.Clients(self, machine, life)

    def _promoted(self, machine: Machine, book: ledger.Ledger) -> None:
        assert book.lineage and machine.follows
        data = machine.images("data")
        cuts.refuse_promoted(machine, book.lineage.forked_at)
        if machine.unjudged[0] != book.lineage.forked_at:
            machine.follows.promoted(book.lineage.forked_at, data)
        elif machine.is_copy:
            raise Violation(f"{machine.name} is promoted, and its image is of two moments")
        machine.follows.end = book.lineage.forked_at
        machine.content = Content(data)
        self.counts["promotions"] += 1
        self.reach("promoted a second time" if self.counts["promotions"] > 1 else "promoted")

    def stopped(self, machine: Machine) -> None:
        """In order."""
        self.counts["orderly stops"] += 1
        machine.was_killed = False
        book = machine.book_on_disk(machine.fs)
        if book.role == "target":
            self._judge(machine, machine.fs, machine.images("data"),
                        machine.images("intermediate"), power=False)  # fmt: skip
        elif machine.content and book.clean:
            machine.content.stopped(machine.images("data"))
        elif machine.content:
            machine.content.came_back(machine.images("data"), power=False)

    def synced(self, history: History, sequence: int) -> None:
        """`sync` says that the target has `sequence`, and whole in its data stores.  It was so when
        that was found; then a person may have given the image up before the answer was told."""
        if sequence <= history.given_up:
            return
        for machine in self.machines:
            if machine.follows is not history or history.end is not None:
                continue
            if machine in self.clones:
                continue
            fs, _ = machine.fs.survivors(self.scheduler.random, 0.0)
            data, _ = machine.survivors("data", 0.0)
            book = machine.book_on_disk(fs)
            if book.role != "target":  # promoted since; it is judged when it serves
                continue
            owed = any(bits for key, bits in book.maps.items() if key.endswith("/pending"))
            if book.committed < sequence or (book.committed == sequence and owed):
                raise Violation(f"{sequence} is not whole at the target")
            point = book.committed, book.committed_token
            if point == machine.unjudged or cuts.is_lost(machine, book):
                continue
            if book.committed == sequence:
                history.judge(book, data, data)

    def was_thrown(self, life: Life) -> bool:
        """Whether an exception may come from a fault (simos.Bomb)."""
        assert isinstance(life, Incarnation)
        bomb = life.machine.bomb
        return bomb is not None and bomb.thrown > 0

    def waited(self, machine: Machine, life: Incarnation, ns: int) -> None:
        """A client's request was answered after so long.  A source's own slow stores aside, no
        more than is promised, and the operations of others that took their time meanwhile."""
        if life.dead or machine.was_slow or self.shape.stalls:
            return
        if self.shape.on_link_loss == "block":
            return
        for limit_s in WAITS_S:
            if ns <= limit_s * NS:
                return
            self.counts[f"requests longer than {limit_s} s"] += 1
        if ns > self.shape.wait_s * NS:
            raise Violation(f"a client's request took {ns / NS:.1f} s")

    def took(self, life: Incarnation, what: str, began_ns: int, limit_s: float) -> None:
        """What a site promises to end: a stop, an answer to a command or to its peer."""
        ns = lib.sim_clock_ns - began_ns
        if life.dead or life.machine.was_slow or self.shape.stalls:
            return
        for part in (0.25, 0.5, 0.75):
            self.counts[f"{what} longer than {part} of its limit"] += ns > part * limit_s * NS
        if ns > limit_s * NS:
            raise Violation(f"{what} of {life.name} took {ns / NS:.1f} s, not {limit_s:g}")

    def judge_waits(self, machine: Machine) -> None:
        """Of requests that nobody has answered yet: a restart would end them."""
        life = machine.life
        for began in self.asking.get(life, {}).values() if life else ():
            assert life
            self.waited(machine, life, lib.sim_clock_ns - began)

    # ---- the oracle's looks

    def _note_commits(self) -> None:
        for machine in self.machines:
            life = machine.life
            if not (life and life.site):
                continue
            book, control = life.site.book.current, life.site.control
            if isinstance(control, Driver):
                self.history(book.lineage).acknowledge(control.committed)
            elif life.up and book.whole and machine.follows and machine not in self.clones:
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
            point = book.committed, book.committed_token
            if point == machine.unjudged or cuts.is_lost(machine, book):
                return book
            apart = machine in self.clones
            machine.follows.judge(book, data, intermediate, apart=apart)
            self.counts["images judged"] += book.whole
        elif machine.content:
            machine.content.judge(data, power=power)
        else:
            assert machine.follows and book.lineage
            cuts.refuse_promoted(machine, book.lineage.forked_at)
            if machine.unjudged[0] != book.lineage.forked_at:
                machine.follows.promoted(book.lineage.forked_at, data)
        return book

    def look_at(self, machine: Machine) -> None:
        """What if it were killed at this instant?"""
        if machine.life and not machine.life.dead:
            self.judge(machine)

    def judge(self, machine: Machine) -> None:
        self._judge(machine, machine.fs, machine.images("data"),
                    machine.images("intermediate"), power=False)  # fmt: skip

    def probe(self) -> None:
        """What if the target's power went at this instant?  And the source's?"""
        self.counts["probes"] += 1
        self._note_commits()
        for machine in self.machines:
            tells.check(self, machine)
        rng = self.scheduler.random
        keep = rng.choice(KEEP)
        machine = self.east if (self.west.content is None) == (rng.random() < 0.2) else self.west
        data, _ = machine.survivors("data", keep)
        intermediate, _ = machine.survivors("intermediate", keep)
        fs, torn = machine.fs.survivors(rng, keep)
        self.counts["torn files"] += torn
        self._judge(machine, fs, data, intermediate, power=True)

    # ---- faults

    def crash(self, machine: Machine, *, power: bool, keep: float) -> None:
        self._note_commits()
        self._note_crash(machine.life)
        self.scheduler.trace(f"*** {machine.name}: {'power loss' if power else 'killed'}")
        self.counts["power losses" if power else "kills"] += 1
        if machine.life and not machine.life.up:
            self.counts["crashes in recovery"] += 1
            self.reach("crash in recovery")
        self.network.cut()
        if machine.life:
            machine.crash()
            machine.was_killed = True
        machine.was_killed &= not power
        if power:
            lost, torn = machine.lose_power(keep)
            self.counts["writes lost"] += lost
            self.counts["torn files"] += torn
        data = machine.images("data")
        book = self._judge(machine, machine.fs, data, machine.images("intermediate"), power=power)
        if book.role == "source" and machine.content:
            machine.content.came_back(data, power=power)

    def _note_crash(self, life: Incarnation | None) -> None:
        if life and life.target:
            if owes(life.target):
                self.reach("crash of a target that owes blocks")
            if life.target.promoting:
                self.reach("crash of a target while it is promoted")
        elif life and life.source:
            if life.source.progress.phase == "commit":
                self.reach("crash while a commit is asked")
            if life.source._copier._parted:
                self.reach("crash of a source without its link")

    def stop(self, machine: Machine) -> None:
        self.scheduler.trace(f"*** {machine.name}: stop")
        life = machine.life
        if life and life.target:
            self.network.cut()
            if owes(life.target):
                self.reach("stop of a target that owes blocks")
            if life.target.second._failure:
                self.reach("stop of a target after a failed step")
        machine.stop()

    def _lost(self, disk: int, later: bool) -> None:
        """A flush that failed has lost something, which readers see from now on, or some time
        (simstore.h)."""
        self.counts["flushes that lost"] += 1
        for machine, number, content in self._sources_on(disk):
            data = machine.images("data")[number]
            if later:
                self.counts["losses that a source's cache hides"] += 1
                stale = {sector for volume, sector in machine.stale() if volume == number}
                content.doubt(number, stale, machine.safe()[number], machine.images("data"))
            else:
                content.store_lost(number, data, all_known=False)

    def _folder_lost(self, below: int, later: bool) -> None:
        for machine in self.machines:
            if machine.below == below:
                machine.fs.lose_all(now=not later)

    def _faded(self, disk: int) -> None:
        for machine, number, content in self._sources_on(disk):
            self.counts["losses that a source's cache has hidden"] += 1
            sectors = {sector for volume, sector in machine.stale() if volume == number}
            content.fade(number, sectors, machine.images("data")[number])

    def _sources_on(self, disk: int) -> list[tuple[Machine, int, Content]]:
        """The source whose data this disk is: at most one."""
        return [
            (machine, number, machine.content)
            for machine in self.machines
            for number, volume in enumerate(machine.sizes)
            if lib.sim_disk_number(machine.disks[volume, "data"]) == disk and machine.content
        ]

    def restart_server(self, machine: Machine, number: int, part: str, keep: float) -> None:
        self.scheduler.trace(f"*** the server of {machine.name}'s {part} goes and comes back")
        self._note_commits()
        self.counts["servers lost"] += 1
        self.counts["writes lost"] += machine.restart_server(number, part, keep)
        data = machine.images("data")
        if machine.book_on_disk(machine.fs).role == "target":
            self._judge(machine, machine.fs, data, machine.images("intermediate"), power=True)
        elif part == "data" and machine.content:
            if machine.life is None and self.shape.returning_s and not machine.went_back:
                machine.content.lost_beside(number, data[number], self.nclients)
            else:
                machine.content.store_lost(number, data[number], all_known=True)

    # ---- a schedule

    def run(self) -> None:
        rng = self.random
        self.east.boot()
        self.west.boot()
        trouble.Trouble(self).run()
        self._calm()
        self.turns(rng.randrange(30))
        self._end()
        self.count()

    def count(self) -> None:
        self.counts["schedules"] += 1
        self.counts["switches"] += self.scheduler.switches
        self.counts["stalls between statements"] += stalls.made
        self.counts["schedules without a point under fault"] += not self.counts[
            "points under fault"
        ]
        for state in self.reached:
            self.counts[f"state: {state}"] += 1

    def turns(self, count: int) -> None:
        until = self.scheduler.switches + math.ceil(count * self.shape.pace)
        more, self._is_there = True, False
        while more and not self._is_there:
            more = self.scheduler.turns(until - self.scheduler.switches)
            for machine in self.machines:
                if machine.life and machine.life.anew:
                    self.counts["processes begun anew"] += 1
                    self.crash(machine, power=False, keep=0.0)
                    machine.boot()

    def boot_all(self, chance: float = 1.0) -> None:
        for machine in self.machines:
            if machine.life and machine.life.refused:
                refused = machine.life.refused
                if not person.mend(self, machine):
                    if person.adopt(self, machine):
                        continue
                    if not self.disk_errors:
                        raise Violation(f"{machine.name} does not start: {refused}")
                    self.crash(machine, power=False, keep=0.0)
            elif self._is_broken(machine.life):
                tells.check(self, machine)
                self.judge_waits(machine)
                self.counts["sites restarted after an internal error"] += 1
                self.crash(machine, power=False, keep=0.0)
            if machine.life is None and self.scheduler.random.random() < chance:
                machine.boot()

    def _is_broken(self, life: Incarnation | None) -> bool:
        """Its control has met an exception that it does not go on from: a person restarts it."""
        if life is None or life.stopping or life.control is None:
            return False
        return life.control._ended and self.was_thrown(life)

    def _calm(self) -> None:
        self.scheduler.trace("*** calm")
        self.is_calm, self.awaited = True, frozenset()
        self.network.up, self.network.hung = True, False
        for machine in self.machines:
            machine.heal()
        self.boot_all()

    def _end(self) -> None:
        self.clients_stop = True
        self.scheduler.trace("*** the end: clients stop")
        until = self.scheduler.switches + _TURNS_MAX
        while not self._converged():
            self.turns(20)
            self.boot_all()  # one that was just booting when a disk failed
            person.tend(self)
            if self.scheduler.switches > until:
                raise Violation(f"it does not converge: {self._why()}")
        self._note_commits()
        if self.stranger:
            self.stranger.end()
        for machine in self.machines:
            machine.evict()  # and what no disk has is not read any more
        for machine in self.machines:
            if machine.content:
                machine.content.equals(self.east.images("data"), "in the end")
                machine.content.equals(self.west.images("data"), "in the end")
            else:
                self._judge(machine, machine.fs, machine.images("data"),
                            machine.images("intermediate"), power=False)  # fmt: skip
        for machine in self.machines:
            machine.crash()

    def _converged(self) -> bool:
        lives = [m.life for m in (self.east, self.west) if m.life and not m.life.stopping]
        source = next((one for one in lives if one.source), None)
        target = next((one for one in lives if one.target), None)
        if not (source and source.site and source.source):
            return False
        if not (target and target.site and target.target):
            return False
        others = "control", f"exchange with {strangers.NORTH}"
        if any(not any(name in task.name for name in others) for task in self.scheduler.tasks):
            return False
        control, committed = source.source, target.site.book.current.committed
        return (
            control.progress.phase == "idle"
            and not cuts.is_lost(target.machine, target.site.book.current)
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
