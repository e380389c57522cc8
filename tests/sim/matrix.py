"""Every long operation on every slow thing: in virtual time, two worlds a cell.

    cell    one of the four stores, or the link, with a latency and a rate
    world   first copy, and cycles of blocks that are still hardened, alone; cycles beside clients
            who write and zero; an orderly stop of each site, of the target when it owes blocks;
            a power loss of the source, and what is compared after it; a kill of each site; the
            source dies, the target is promoted, and the old source takes the new history; then
            both are equal
    seed    a second world: the first cycle of a target that holds a copy which is not exact

What is asked of a cell: each operation ends within what its bytes and operations cost there, a
few times over; while no client waits no link is lost, the first copy sends nothing twice, and of
a seed only what differs is sent; no cycle is begun anew, whatever is lost but the source itself;
no client's request waits longer than is promised (World.waited; the source's own slow store
aside); and what costs the link says which setting is too short.

    python -m sim.matrix [CELLS]    those whose names begin so; SIM_PLANT as of scripts/simulate

Left out: faults (trouble.py).  The volumes and pieces are small, as the core's are in here.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

from mirror_core import limits
from sim import clients, person
from sim.core import lib
from sim.sched import NS, Violation
from sim.shape import Shape
from sim.sites import Machine
from sim.world import World, owes

PLACES = ("east data", "east intermediate", "west data", "west intermediate", "link")
LATENCIES_S = (0.0001, 0.01, 0.3, 1.0)
RATES_MB = (0.1, 1.0, 1000.0)
SIZE, BLOCK = 16 * 4096, 4096
PIECE = 512  # bytes of one operation, at least (core.py)
_TURNS = 400
_SLACK_S = 60.0  # of time-outs, back-offs and looks
_TIMES = 12  # what an operation may cost of its bare operations: reads, writes, flushes, both sites


@dataclass(frozen=True)
class Cell:
    place: str
    latency_s: float
    rate_mb: float

    def __str__(self) -> str:
        return f"{self.place}, {self.latency_s * 1000:g} ms, {self.rate_mb:g} MB/s"

    @property
    def pass_s(self) -> float:
        """What it costs to carry the volume through it once, piece by piece."""
        return SIZE / PIECE * self.latency_s + SIZE / (self.rate_mb * 1e6)


CELLS = tuple(Cell(p, s, mb) for p in PLACES for s in LATENCIES_S for mb in RATES_MB)


class Matrix(World):
    """One cell's world."""

    seeded = False

    def __init__(self, cell: Cell, seed: int = 1) -> None:
        shape = Shape(
            {"a": SIZE}, block=BLOCK, tick_ns=1_000, lanes=2, stable_s=0.5, slice_s=0.002,
            think_ns=int(max(0.03, cell.pass_s / 8) * NS), seeded=self.seeded,
        )  # fmt: skip
        super().__init__(seed, shape=shape)
        limits.SLICE_SHORT_S = 0.2  # as in production
        self.cell = cell
        self.target = self.west
        self.quiet = True  # nobody waits for a copy
        self.disturbed = False  # by a crash
        self.network.slow = self.network.late = 0.0
        self.nclients = 0
        self._make_slow()

    def _fill(self, of_zeroes: random.Random) -> None:
        self.east.fill("data", (self.random.randbytes(SIZE),))

    def _make_slow(self) -> None:
        cell = self.cell
        latency_ns, byte_ns = int(cell.latency_s * NS), int(1000 / cell.rate_mb)
        if cell.place == "link":
            self.network.latency_ns, self.network.byte_ns = latency_ns // 2, byte_ns
            return
        site, part = cell.place.split()
        machine = self.east if site == "east" else self.west
        machine.was_slow = site == "east"
        lib.sim_disk_slow(machine.disks["a", part], latency_ns, byte_ns)

    def run(self) -> None:
        self.east.boot()
        self.west.boot()
        self._until_committed("the first copy", 1)
        self._check_first_copy(SIZE)
        self._until("cycles that meet blocks which are still hardened", self._overlap(), 2)
        self.quiet = False
        self.nclients = 2
        assert self.east.life
        clients.Clients(self, self.east, self.east.life)
        self._until_committed("cycles beside clients", 3)
        self.disturbed = True
        self.west.was_slow |= self.cell.place.startswith("west")  # from here on the bounds are ours
        self._stop("the source stops", self.east)
        self._until("the target owes blocks", self._owes, 1, 5)
        self._stop("the target stops", self.west)
        for machine, power in ((self.east, True), (self.east, False), (self.west, False)):
            what = f"after a {'power loss' if power else 'kill'} of {machine.name}"
            self.crash(machine, power=power, keep=0.0)
            machine.boot()
            self._until_committed(what, 1)
        self.clients_stop = True
        self._until("the rest", self._is_all_sent, 1)
        self._promote()
        self.network.latency_ns = self.network.byte_ns = 0
        self._calm()
        self._end()
        self.count()

    def _stop(self, what: str, machine: Machine) -> None:
        """And starts again."""
        life = machine.life
        assert life
        self.stop(machine)
        self._until(what, lambda: life.dead or life.refused is not None, 1, 5)
        if life.refused:
            raise Violation(f"{self.cell}: {what}: {life.refused}")
        machine.boot()
        self._until_committed(f"after {what}", 1)

    def _owes(self) -> int:
        life = self.west.life
        return int(life is not None and life.target is not None and owes(life.target))

    def _promote(self) -> None:
        """And back."""
        self.crash(self.east, power=True, keep=0.5)
        assert self.west.life
        self.clients_stop = False
        clients.promote(self, self.west.life, force=True)
        self._until("promotion", lambda: self.west.content is not None, 1, 5)
        self.target = self.east
        self.east.boot()
        self._until("the old source is refused", lambda: person.rejoin(self, self.east), 1)
        self._until("it gives up its history", lambda: self.east.life is None, 1, 5)
        self.east.boot()
        self._until_committed("failback", 1)
        self.clients_stop = True

    def _overlap(self) -> Callable[[], int]:
        """Writes all while it is paused; and again when that is committed and not yet whole."""
        life = self.east.life
        assert life and life.source and life.site
        before, rounds = life.source.committed, 0

        def count() -> int:
            nonlocal rounds
            assert life.source
            done = life.source.committed - before
            if done == rounds < 2:
                rounds += 1
                clients.rewrite(self, self.east, life)
            return done if done < 2 else 1 + (life.source.hardened >= life.source.committed)

        return count

    def reach(self, state: str) -> None:
        super().reach(state)
        machines = (self.east, self.west)
        if state == "abandoned cycle" and any(m.life and m.life.source for m in machines):
            self._fail("a cycle is begun anew")
        if state == "cycle lost its link" and not self.disturbed:
            assert self.east.life and self.east.life.source
            reason = str(self.east.life.source.reason)
            self.counts["links lost to clients who wait"] += 1
            if self.quiet:
                self._fail(f"the link is lost, and nobody waits: {reason}")
            if self.east.was_slow:
                self._fail(f"the link is lost for what its own store takes: {reason}")
            if "raise link_timeout" not in reason:
                self._fail(f"the link is lost, and the reason given is {reason}")

    def _fail(self, what: str) -> None:
        """From the control's thread, which would take it for an error of its own."""
        self.scheduler.fail(Violation(f"{self.cell}: {what}"))

    def _is_all_sent(self) -> int:
        life = self.east.life
        if not (life and life.site and life.source):
            return 0
        stats = life.site.copier.stats()["a"]
        left = stats.next_blocks + stats.pending_blocks + stats.unsent_blocks
        return left == 0 and self._committed() >= life.source.committed

    def _committed(self) -> int:
        life = self.target.life
        whole = life and life.target and life.site and life.site.book.current.whole
        return life.target.hardened if whole and life and life.target else 0

    def _until_committed(self, what: str, more: int) -> None:
        """So many commits that are whole at the target."""
        seen, found = self._committed(), 0

        def count() -> int:
            nonlocal seen, found
            now = self._committed()
            found, seen = found + (now > seen), max(now, seen)
            return found

        self._until(what, count, more)

    def _until(self, what: str, count: Callable[[], int], more: int, turns: int = _TURNS) -> None:
        began = lib.sim_clock_ns
        bound_s = more * (_SLACK_S + _TIMES * self.cell.pass_s)
        while (found := count()) < more:
            self.turns(turns)
            if lib.sim_clock_ns - began > bound_s * NS:
                raise Violation(f"{self.cell}: {what}: {found} of {more} within {bound_s:.0f} s: "
                                f"{self._why()}")  # fmt: skip
        self.counts[f"virtual ms: {what}"] = (lib.sim_clock_ns - began) // 1_000_000

    def _check_first_copy(self, most: int) -> None:
        """For which nobody waited."""
        assert self.east.life and self.east.life.site
        sent = self.east.life.site.copier.stats()["a"].copied_bytes[1]
        if sent > most:
            raise Violation(f"{self.cell}: the first copy has sent {sent} bytes of {most}")


class Seeded(Matrix):
    """The same cell; an eighth of the seed differs."""

    seeded = True
    DIFFERS = SIZE // 8

    def _fill(self, of_zeroes: random.Random) -> None:
        data = self.random.randbytes(SIZE)
        self.east.fill("data", (data,))
        self.west.fill("data", (bytes(self.DIFFERS) + data[self.DIFFERS :],))

    def run(self) -> None:
        self.east.boot()
        self.west.boot()
        self._until_committed("the first cycle of a seed", 1)
        self._check_first_copy(self.DIFFERS)
        self.network.latency_ns = self.network.byte_ns = 0
        self._calm()
        self._end()
        self.count()


def main() -> int:
    """Each cell's figures; exit status 1 if one does not do what is asked."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    cells, bad = [cell for cell in CELLS if str(cell).startswith(wanted)], 0
    for cell in cells:
        for kind in (Matrix, Seeded):
            world = kind(cell)
            try:
                world.run()
                found = ", ".join(
                    f"{k[12:]} {v} ms" for k, v in world.counts.items() if k[:8] == "virtual "
                )
                links = world.counts["links lost to clients who wait"]
                print(f"{cell}: {found}; links lost to clients who wait: {links}")
            except Violation as violation:
                bad += 1
                print(f"violation: {violation}")
    print(f"{len(cells)} cells, {bad} violations")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
