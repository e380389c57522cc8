"""Many schedules over the cores: counters, and for each violation the command that replays it.

Each worker is a process of its own, because a broken assertion in the core ends it: it keeps
the seed under way in shared memory, so that the seed is known, and the rest goes on after it.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from sim.sched import Violation
from sim.world import World

_COLLECT_EVERY = 30  # schedules: a world is full of cycles; more of them cost more than they save
_REPORT_EVERY = 500
_SCHEDULE_SECONDS = 60  # of real time: more is a loop


@dataclass
class Report:
    counts: Counter[str] = field(default_factory=Counter)
    states: set[int] = field(default_factory=set)
    violations: list[tuple[int, str]] = field(default_factory=list)  # seed, what
    seconds: float = 0.0

    def add(self, other: Report) -> None:
        self.counts += other.counts
        self.states |= other.states
        self.violations += other.violations


Make = Callable[[int, Any], World]  # of a seed and a tracer


def one(seed: int, tracer: Any = None, make: Make = World) -> tuple[World, str | None]:
    """Run a schedule; the violation, if there is one."""
    world = make(seed, tracer)
    try:
        world.run()
    except Exception as error:
        kind = "" if isinstance(error, Violation) else f"{type(error).__name__} "
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if kind == "" else f" ({os.path.basename(where.filename)}:{where.lineno})"
        if tracer:
            traceback.print_exc(file=sys.stdout)
        return world, f"{kind}{error}{place}"
    return world, None


def _work(make: Make, seeds: range, pipe: Connection, under_way: mmap.mmap) -> None:
    gc.disable()
    gc.freeze()  # what stands now is no garbage ever: not to be looked at each time
    report = Report()
    for number, seed in enumerate(seeds, 1):
        struct.pack_into("=q", under_way, 0, seed)
        signal.alarm(_SCHEDULE_SECONDS)
        world, violation = one(seed, None, make)
        report.counts += world.counts
        report.states |= world.states
        if violation:
            report.violations.append((seed, violation))
        if number % _COLLECT_EVERY == 0:
            gc.collect()
        if number % _REPORT_EVERY == 0 or violation:
            pipe.send(report)
            report = Report()
    pipe.send(report)
    pipe.send(None)


class _Worker:
    """One core's share: seeds first, first + step, ..."""

    def __init__(self, make: Make, first: int, step: int, last: int) -> None:
        self.make, self.step, self.last = make, step, last
        self.under_way = mmap.mmap(-1, 8)
        self._begin(first)

    def _begin(self, first: int) -> None:
        struct.pack_into("=q", self.under_way, 0, first)
        self.pipe, far = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        self.process = context.Process(
            target=_work, args=(self.make, range(first, self.last, self.step), far, self.under_way)
        )
        self.process.start()
        far.close()

    def receive(self) -> Report | None:
        """What it has to say; None: it is done."""
        try:
            report: Report | None = self.pipe.recv()
            if report is None:
                self.process.join()
            return report
        except EOFError:
            self.process.join()
            (seed,) = struct.unpack_from("=q", self.under_way)
            died = signal.Signals(-(self.process.exitcode or 0)).name
            if seed + self.step < self.last:
                self._begin(seed + self.step)
            else:
                self.pipe, far = multiprocessing.Pipe(duplex=False)
                far.send(None)
            what = "does not end" if died == "SIGALRM" else f"{died} (an assertion of the core)"
            return Report(violations=[(seed, what)])

    def end(self) -> None:
        self.process.terminate()
        self.process.join()


def many(
    count: int,
    first: int,
    jobs: int,
    *,
    stop_at: int = 0,
    progress: bool = False,
    make: Make = World,
) -> Report:
    """`count` schedules from seed `first` on; with `stop_at`, until so many violations."""
    began = time.monotonic()
    total = Report()
    workers = [_Worker(make, first + i, jobs, first + count) for i in range(min(jobs, count))]
    while workers:
        for pipe in multiprocessing.connection.wait([w.pipe for w in workers]):
            worker = next(w for w in workers if w.pipe is pipe)
            report = worker.receive()
            if report is None:
                workers.remove(worker)
            else:
                total.add(report)
        total.seconds = time.monotonic() - began
        if progress and sys.stderr.isatty():
            print(f"\r{total.counts['schedules']} schedules, {len(total.violations)} violations, "
                  f"{total.seconds:.0f} s ", end="", file=sys.stderr, flush=True)  # fmt: skip
        if stop_at and len(total.violations) >= stop_at:
            for worker in workers:
                worker.end()
            break
    return total
