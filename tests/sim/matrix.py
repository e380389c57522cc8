"""Every long operation on every slow thing: in virtual time, one world a cell.

    cell    one of the four stores, or the link, with a latency and a rate
    world   first copy, and cycles of blocks that are still hardened, alone; cycles beside clients
            who write and zero; a power loss of the source, and what is compared after it; a kill
            of each site; then both are equal

What is asked of a cell: each operation ends within what its bytes and operations cost there, a
few times over; while no client waits no link is lost, and the first copy sends nothing twice;
no client's request waits longer than is promised (World.waited; the source's own slow store
aside); and what costs the link says which setting is too short.

    python -m sim.matrix [CELLS]    those whose names begin so; SIM_PLANT as of scripts/simulate

Left out: faults (trouble.py).  The volumes and pieces are small, as the core's are in here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from sim import clients
from sim.core import lib
from sim.sched import NS, Violation
from sim.shape import Shape
from sim.world import World

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

    def __init__(self, cell: Cell, seed: int = 1) -> None:
        shape = Shape(
            {"a": SIZE}, block=BLOCK, tick_ns=1_000, lanes=2, stable_s=0.5, slice_s=0.002,
            think_ns=int(max(0.03, cell.pass_s / 8) * NS),
        )  # fmt: skip
        super().__init__(seed, shape=shape)
        self.cell = cell
        self.quiet = True  # nobody waits for a copy
        self.disturbed = False  # by a crash
        self.network.slow = self.network.late = 0.0
        self.nclients = 0
        self._make_slow()

    def _fill(self) -> None:
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
        self._check_first_copy()
        self._until("cycles that meet blocks which are still hardened", self._overlap(), 2)
        self.quiet = False
        self.nclients = 2
        assert self.east.life
        clients.Clients(self, self.east, self.east.life)
        self._until_committed("cycles beside clients", 3)
        self.disturbed = True
        for machine, power in ((self.east, True), (self.east, False), (self.west, False)):
            what = f"after a {'power loss' if power else 'kill'} of {machine.name}"
            self.crash(machine, power=power, keep=0.0)
            machine.boot()
            self._until_committed(what, 1)
        self.clients_stop = True
        self._until("the rest", self._is_all_sent, 1)
        self.network.latency_ns = self.network.byte_ns = 0
        self._calm()
        self._end()
        self.count()

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
        if state == "cycle lost its link" and not self.disturbed:
            assert self.east.life and self.east.life.source
            reason = str(self.east.life.source.reason)
            self.counts["links lost to clients who wait"] += 1
            if self.quiet:
                raise Violation(f"{self.cell}: the link is lost, and nobody waits: {reason}")
            if self.east.was_slow:
                raise Violation(f"{self.cell}: the link is lost for what its own store takes")
            if "raise link_timeout" not in reason:
                raise Violation(f"{self.cell}: the link is lost, and the reason given is {reason}")

    def _is_all_sent(self) -> int:
        life = self.east.life
        if not (life and life.site and life.source):
            return 0
        stats = life.site.copier.stats()["a"]
        left = stats.next_blocks + stats.pending_blocks + stats.unsent_blocks
        return left == 0 and self._committed() >= life.source.committed

    def _committed(self) -> int:
        life = self.west.life
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

    def _until(self, what: str, count: Callable[[], int], more: int) -> None:
        began = lib.sim_clock_ns
        bound_s = more * (_SLACK_S + _TIMES * self.cell.pass_s)
        while (found := count()) < more:
            self.turns(_TURNS)
            if lib.sim_clock_ns - began > bound_s * NS:
                raise Violation(f"{self.cell}: {what}: {found} of {more} within {bound_s:.0f} s: "
                                f"{self._why()}")  # fmt: skip
        self.counts[f"virtual ms: {what}"] = (lib.sim_clock_ns - began) // 1_000_000

    def _check_first_copy(self) -> None:
        """For which nobody waited."""
        assert self.east.life and self.east.life.site
        sent = self.east.life.site.copier.stats()["a"].copied_bytes[1]
        if sent > SIZE:
            raise Violation(f"{self.cell}: the first copy has sent {sent} bytes of {SIZE}")


def main() -> int:
    """Each cell's figures; exit status 1 if one does not do what is asked."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    cells, bad = [cell for cell in CELLS if str(cell).startswith(wanted)], 0
    for cell in cells:
        world = Matrix(cell)
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
