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

from greenlet import GreenletExit, getcurrent, greenlet

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
    """One incarnation of a site."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False


class Task:
    def __init__(self, life: Life, name: str, work: Callable[[], None]) -> None:
        self.life, self.name, self.work = life, name, work
        self.greenlet: greenlet | None = None  # None: it has not begun
        self.state = READY
        self.deadline = NEVER
        self.late = False
        self.sleeping = False  # in an operation that takes its time


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
        self._world = getcurrent()  # who calls `turns`
        self._until = 0  # the switches after which the world goes on
        self._error: BaseException | None = None  # of a task that has ended
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

    def spawn(self, life: Life, name: str, work: Callable[[], None]) -> Task:
        task = Task(life, name, work)
        self.tasks.append(task)
        return task

    def pause(self) -> None:
        """Others may run here."""
        task = self.current
        if task:
            self._give_way(task, READY, NEVER)
            if task.life.dead:
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
        if task.life.dead:
            raise SiteDead
        late = self._give_way(task, WAITING, deadline_ns)
        if task.life.dead:
            raise SiteDead
        return late

    def fail(self, error: BaseException) -> None:
        """The schedule ends with this error."""
        self._error = self._error or error
        self.ask_world()

    def ask_world(self) -> None:
        """Its turn is the next."""
        self._until = self.switches

    @staticmethod
    def wake(task: Task) -> None:
        if task.state == WAITING:
            task.state, task.late = READY, False

    # ---- for the core (callbacks of cffi: they never raise)

    def core_wait(self, deadline_ns: int) -> int:
        task = self.current
        assert task
        if not task.life.dead:
            self._give_way(task, LOOKING, deadline_ns)
        else:
            self._give_way(task, READY, NEVER)
        if task.life.dead:  # whatever it waits for: it is late
            lib.sim_clock_ns = max(lib.sim_clock_ns, min(deadline_ns, lib.sim_clock_ns + 9 * NS))
            return 1
        return int(lib.sim_clock_ns >= deadline_ns)

    def core_sleep(self, until_ns: int) -> None:
        """An operation of a disk takes its time: nobody wakes it but the clock, or its death."""
        task = self.current
        if task and not task.life.dead:
            task.sleeping = True
            self._give_way(task, WAITING, until_ns)
            task.sleeping = False

    def core_event(self) -> None:
        self._give_credit()
        task = self.current
        if task:
            self._give_way(task, READY, NEVER)

    # ---- the loop: who gives way chooses who goes on, so the world is asked seldom

    def _give_way(self, task: Task, state: str, deadline_ns: int) -> bool:
        task.state, task.deadline = state, deadline_ns
        if state is not LOOKING:
            self._looked = 0
        other = self._choose() if self.switches < self._until else None
        if other is not task:
            self._switch(other)
        return task.late

    def _switch(self, task: Task | None) -> None:
        self.current = task
        if task is None:
            self._world.switch()
        elif task.greenlet:
            task.greenlet.switch()
        else:
            task.greenlet = _idle.pop() if _idle else greenlet(_run_tasks, self._world)
            if task.greenlet is not getcurrent():
                task.greenlet.switch()

    def run_task(self, task: Task) -> None:
        """All of it, in its greenlet."""
        try:
            if not task.life.dead:
                task.work()
        except SiteDead:
            pass
        except GreenletExit:
            raise  # nobody will come back here: a violation has ended the schedule
        except BaseException as error:
            self._error = error
        self.tasks.remove(task)
        self._looked = 0

    def after_task(self) -> None:
        going = self.switches < self._until and not self._error
        self._switch(self._choose() if going else None)

    def turns(self, count: int) -> bool:
        """Tasks go on, `count` switches in all.  True: the world was asked before."""
        until = self._until = self.switches + count
        while self.switches < self._until:
            task = self._choose()
            if task is None:
                return False
            self._go_on(task)
        self._until = 0
        return self.switches < until

    def _go_on(self, task: Task) -> None:
        self._switch(task)
        if self._error:
            raise self._error

    def _choose(self) -> Task | None:
        """Who goes on; None: there is nobody, nor will there be."""
        while True:
            chance = self.random.random()
            ready = [task for task in self.tasks if task.state is READY]
            looking: list[Task] = []
            if chance < 0.2 or not ready:
                looking = [task for task in self.tasks if task.state is LOOKING]
            if ready and not looking:
                self._looked = 0
                task = ready[int(chance * 997) % len(ready)]
                if task.name == self.laggard and chance * 991 % 1 < 0.85:
                    task = ready[int(chance * 983) % len(ready)]
                break
            if looking and (ready or self._looked < 2 * len(looking)):
                self._looked += 1
                task = looking[int(chance * 997) % len(looking)]
                task.state = READY
                break
            if not self._pass_time():
                return None
        self.switches += 1
        return task

    def _pass_time(self) -> bool:
        self._looked = 0
        if not self.tasks:
            return False
        first = min(t.deadline for t in self.tasks)
        if first == NEVER:
            return False
        slow = min((t.deadline for t in self.tasks if t.sleeping), default=0)
        if slow > first:  # who looks each instant whether it is done is late, or we never end
            first = max(first, lib.sim_clock_ns + (slow - lib.sim_clock_ns) // 16)
        lib.sim_clock_ns = max(lib.sim_clock_ns, first)
        for task in self.tasks:
            if task.deadline <= first:
                task.state, task.late = READY, True
        return True

    def unwind(self, life: Life, end_waits: Callable[[], None]) -> None:
        """Everything of a dead life comes to its end; nobody else runs meanwhile, and for them no
        time passes."""
        turns, now = 0, lib.sim_clock_ns
        while left := [t for t in self.tasks if t.life is life]:
            end_waits()
            for task in left:
                if task in self.tasks:
                    task.state = READY
                    self._go_on(task)
            turns += 1
            if turns > _UNWIND_TURNS:
                raise Violation(f"a dead site does not unwind: {[t.name for t in left]}")
        lib.sim_clock_ns = now


# ---- the one of this process, and the core's way to it

_now: list[Scheduler] = []
_idle: list[greenlet] = []
on_greenlet: list[Callable[[], object]] = []  # called in each that begins (lines.py)


def _run_tasks() -> None:
    """A greenlet runs one task after another: its stack costs as much as what a task does."""
    for begin in on_greenlet:
        begin()
    while True:
        scheduler = _now[0]
        assert scheduler.current
        scheduler.run_task(scheduler.current)
        _idle.append(getcurrent())
        scheduler.after_task()


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


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_sleep(until_ns: int) -> None:
    _now[0].core_sleep(until_ns)


on_loss: list[Callable[[int], None]] = []  # of the world


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_lost(disk: int) -> None:
    _now[0].trace(f"a flush of disk {disk} has lost something")
    on_loss[0](disk)


def bytes_at(pointer: Any, length: int) -> bytes:
    return bytes(ffi.buffer(pointer, length))
