"""Tasks of one thread, a clock that is a number, and one random stream: one seed, one run.

Idea.  Every thread that production has (the driver, the second flashcopy, each client, each
request at the target) is a greenlet that runs production's own blocking code.  Where it would
block (native/wait.c, threading, an answer of the peer) or touch a disk or a file, it comes
here, and the scheduler decides by the seed who goes on.  Time passes only when all wait.

Invariants.
  - Nothing but the seed decides: no clock, no thread, no order of a hash.
  - Time goes on to the next deadline only when every task waits and has looked in vain: a
    waiter in the core is woken without a reason (it has to look again), one in Python by a
    notify or its deadline.
  - Tasks belong to a life, one incarnation of a site.  Of a dead life every wait ends at once
    (Python: SiteDead; the core: late), so that it unwinds; nothing it does has an effect.

Left out: two tasks inside the core at the same instant; that is for TSan.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from sim.core import ffi, lib

NS = 1_000_000_000
NEVER = (1 << 64) - 1
READY, WAITING, LOOKING = "ready", "waiting", "looking"  # looking: may be woken for no reason
_UNWIND_TURNS = 20_000


class SiteDead(BaseException):
    """Raised in what still runs of a site that crashed; no code of production catches it."""


class Violation(AssertionError):
    """What must never happen has happened."""


class Life:
    """One incarnation of a site; None as a life: the world itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False


class Task:
    def __init__(
        self, life: Life | None, name: str, run: Callable[[], None], world: greenlet
    ) -> None:
        self.life, self.name = life, name
        self.greenlet = greenlet(run, world)  # where it goes when it ends
        self.state = READY
        self.deadline = NEVER
        self.late = False
        self.error: BaseException | None = None

    def is_dead(self) -> bool:
        return self.life is not None and self.life.dead


class Scheduler:
    def __init__(self, seed: int, stride: int, tick_ns: int) -> None:
        self.random = random.Random(seed)
        self.stride = stride  # operations of disks between two switches, at most
        self.tick_ns = tick_ns  # how long those take, at most
        self.laggard = ""  # tasks of this name get a turn seldom
        self.tasks: list[Task] = []
        self.current: Task | None = None  # None: the world itself runs
        self.switches = 0
        self.tracer: Callable[[str], None] | None = None
        self._world = getcurrent()  # who calls `turn`
        self._looked = 0  # in vain, since anything else happened
        lib.sim_clock_ns = NS
        lib.sim_seed = seed * 2654435761 % (1 << 63) | 1
        self._give_credit()

    def _give_credit(self) -> None:
        chance = self.random.random()
        lib.sim_credit = 1 + int(chance * self.stride)
        lib.sim_clock_ns += int(chance * self.tick_ns)

    def trace(self, text: str) -> None:
        if self.tracer:
            who = self.current.name if self.current else "world"
            self.tracer(f"{lib.sim_clock_ns / NS:10.6f} {self.switches:5} {who:24} {text}")

    # ---- for tasks

    def spawn(self, life: Life | None, name: str, work: Callable[[], None]) -> Task:
        def run() -> None:
            try:
                if not task.is_dead():
                    work()
            except SiteDead:
                pass
            except BaseException as error:
                task.error = error

        task = Task(life, name, run, self._world)
        self.tasks.append(task)
        return task

    def pause(self) -> None:
        """Others may run here."""
        task = self.current
        if task:
            self._give_way(task, READY, NEVER)
            if task.is_dead():
                raise SiteDead

    def touch(self) -> None:
        """As an operation of a disk: a pause if the credit is spent."""
        credit = lib.sim_credit
        if credit > 1:
            lib.sim_credit = credit - 1
        else:
            self._give_credit()
            self.pause()

    def wait(self, deadline_ns: int) -> bool:
        """Until woken by `wake` or the deadline; True: it was the deadline."""
        task = self.current
        assert task, "only a task can wait"
        if task.is_dead():
            raise SiteDead
        late = self._give_way(task, WAITING, deadline_ns)
        if task.is_dead():
            raise SiteDead
        return late

    @staticmethod
    def wake(task: Task) -> None:
        if task.state == WAITING:
            task.state, task.late = READY, False

    # ---- for the core (callbacks of cffi: they never raise)

    def core_wait(self, deadline_ns: int) -> int:
        task = self.current
        assert task
        if not task.is_dead():
            self._give_way(task, LOOKING, deadline_ns)
        else:
            self._give_way(task, READY, NEVER)
        if task.is_dead():  # whatever it waits for: it is late
            lib.sim_clock_ns = max(lib.sim_clock_ns, min(deadline_ns, lib.sim_clock_ns + 9 * NS))
            return 1
        return int(lib.sim_clock_ns >= deadline_ns)

    def core_event(self) -> None:
        self._give_credit()
        task = self.current
        if task:
            self._give_way(task, READY, NEVER)

    # ---- the loop

    def _give_way(self, task: Task, state: str, deadline_ns: int) -> bool:
        task.state, task.deadline = state, deadline_ns
        self._world.switch()
        return task.late

    def switch_to(self, task: Task) -> None:
        self.switches += 1
        self.current = task
        task.greenlet.switch()
        self.current = None
        if task.greenlet.dead:
            self.tasks.remove(task)
            if task.error:
                raise task.error

    def turn(self) -> bool:
        """One task goes on.  False: there is none, nor will there be."""
        ready, looking = [], []
        for task in self.tasks:
            if task.state is READY:
                ready.append(task)
            elif task.state is LOOKING:
                looking.append(task)
        chance = self.random.random()
        if ready and not (looking and chance < 0.2):
            self._looked = 0
            task = ready[int(chance * 997) % len(ready)]
            if task.name == self.laggard and chance * 991 % 1 < 0.85:
                task = ready[int(chance * 983) % len(ready)]
            self.switch_to(task)
            return True
        if looking and (ready or self._looked < 2 * len(looking)):
            self._looked += 1
            task = looking[int(chance * 997) % len(looking)]
            task.state = READY
            self.switch_to(task)
            if task.state is READY:  # it met a disk: it had not looked in vain
                self._looked = 0
            return True
        return self._pass_time()

    def _pass_time(self) -> bool:
        self._looked = 0
        if not self.tasks:
            return False
        first = min(t.deadline for t in self.tasks)
        if first == NEVER:
            return False
        lib.sim_clock_ns = max(lib.sim_clock_ns, first)
        for task in self.tasks:
            if task.deadline <= first:
                task.state, task.late = READY, True
        return True

    def unwind(self, life: Life) -> None:
        """Everything of a dead life comes to its end; nobody else runs meanwhile."""
        turns = 0
        while left := [t for t in self.tasks if t.life is life]:
            for task in left:
                if task in self.tasks:
                    task.state = READY
                    self.switch_to(task)
            turns += 1
            if turns > _UNWIND_TURNS:
                raise Violation(f"a dead site does not unwind: {[t.name for t in left]}")


# ---- the one of this process, and the core's way to it

_now: list[Scheduler] = []


def install(scheduler: Scheduler) -> None:
    _now[:] = [scheduler]


def current() -> Scheduler:
    return _now[0]


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_wait(deadline_ns: int) -> int:
    return _now[0].core_wait(deadline_ns)


_KINDS = ("read", "write", "zero", "flush")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_event(disk: int, kind: int) -> None:
    scheduler = _now[0]
    if scheduler.tracer:
        scheduler.trace(f"{'after' if kind > 3 else 'before'} {_KINDS[kind % 4]} disk {disk}")
    scheduler.core_event()


def bytes_at(pointer: Any, length: int) -> bytes:
    return bytes(ffi.buffer(pointer, length))
