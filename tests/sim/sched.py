"""Tasks of one thread, a clock that is a number, and one random stream: one seed, one run.

Idea.  Every thread that production has (the driver, the second flashcopy, each client, each
request at the target) is a greenlet that runs production's own blocking code.  Where it would
block (native/wait.c, threading, an answer of the peer) or touch a disk or a file, it comes
here, and the scheduler decides by the seed who goes on (native/simsched.h).  Time passes only
when all wait.

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
READY, WAITING = lib.SIM_READY, lib.SIM_WAITING
_STATES = {lib.SIM_READY: "ready", lib.SIM_WAITING: "waiting", lib.SIM_LOOKING: "looking"}
_WORLD = -1
_UNWIND_TURNS = 20_000


class SiteDead(BaseException):
    """Raised in what still runs of a site that crashed; no code of production catches it."""


class Violation(AssertionError):
    """What must never happen has happened."""


class Life:
    """One incarnation of a site."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = self.stopping = False


class Task:
    __slots__ = "greenlet", "life", "name", "number", "work"

    def __init__(self, life: Life, name: str, work: Callable[[], None], number: int) -> None:
        self.life, self.name, self.work = life, name, work
        self.number = number  # in simsched.h
        self.greenlet: greenlet | None = None  # None: it has not begun

    @property
    def state(self) -> str:
        return _STATES[lib.sim_task_state(self.number)]


class Scheduler:
    def __init__(self, seed: int, stride: int, tick_ns: int) -> None:
        self.random = random.Random(seed)
        self.laggard = ""  # tasks of this name get a turn seldom
        self.tasks: list[Task] = []
        self.current: Task | None = None  # None: the world itself runs
        self.tracer: Callable[[str], None] | None = None
        self._by_number: dict[int, Task] = {}
        self._world = getcurrent()  # who calls `turns`
        self._error: BaseException | None = None  # of a task that has ended
        lib.sim_seed = seed * 2654435761 % (1 << 63) | 1
        lib.sim_begin(seed, stride, tick_ns)

    @property
    def switches(self) -> int:
        return int(lib.sim_switches)

    def trace(self, text: str) -> None:
        if self.tracer:
            who = self.current.name if self.current else "world"
            self.tracer(f"{lib.sim_clock_ns / NS:10.6f} {self.switches:5} {who:24} {text}")

    # ---- for tasks

    def spawn(
        self, life: Life, name: str, work: Callable[[], None], *, client: bool = False
    ) -> Task:
        number = lib.sim_task_new(name == self.laggard, client)
        task = self._by_number[number] = Task(life, name, work, number)
        self.tasks.append(task)
        return task

    def pause(self) -> None:
        """Others may run here."""
        task = self.current
        if task:
            self._give_way(task, READY, NEVER)

    def touch(self) -> None:
        """As an operation of a disk: a pause now and then."""
        if lib.sim_touch():
            self.pause()

    def wait(self, deadline_ns: int) -> bool:
        """Until woken by `wake` or the deadline; True: it was the deadline."""
        task = self.current
        assert task, "only a task can wait"
        if task.life.dead:
            raise SiteDead
        self._give_way(task, WAITING, deadline_ns)
        return bool(lib.sim_task_late(task.number))

    def fail(self, error: BaseException) -> None:
        """The schedule ends with this error."""
        self._error = self._error or error
        self.ask_world()

    def ask_world(self) -> None:
        """Its turn is the next."""
        lib.sim_until = lib.sim_switches

    @staticmethod
    def wake(task: Task) -> None:
        lib.sim_task_wake(task.number)

    # ---- the loop: who gives way chooses who goes on, so the world is asked seldom

    def _give_way(self, task: Task, state: int, deadline_ns: int) -> None:
        chosen = lib.sim_give_way(state, deadline_ns)
        if chosen != task.number:
            self.switch(chosen)
        if task.life.dead:
            raise SiteDead

    def switch(self, chosen: int) -> None:
        """Comes back when it is the caller's turn again."""
        if chosen == _WORLD:
            self.current = None
            self._world.switch()
            return
        task = self.current = self._by_number[chosen]
        lib.sim_dead = task.life.dead
        if task.greenlet:
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
        del self._by_number[task.number]
        lib.sim_task_end(task.number)

    def after_task(self) -> None:
        if self._error:
            self.ask_world()
        self.switch(lib.sim_next())

    def turns(self, count: int) -> bool:
        """Tasks go on, `count` switches in all.  True: the world was asked before."""
        until = lib.sim_until = lib.sim_switches + count
        while lib.sim_switches < lib.sim_until:
            chosen = lib.sim_next()
            if chosen == _WORLD:
                lib.sim_until = 0
                return False
            self._go_on(chosen)
        lib.sim_until = 0
        return bool(lib.sim_switches < until)

    def _go_on(self, chosen: int) -> None:
        self.switch(chosen)
        if self._error:
            raise self._error

    def unwind(self, life: Life, end_waits: Callable[[], None]) -> None:
        """Everything of a dead life comes to its end; nobody else runs meanwhile, and for them no
        time passes."""
        turns, now = 0, lib.sim_clock_ns
        while left := [t for t in self.tasks if t.life is life]:
            end_waits()
            for task in left:
                if task in self.tasks:
                    lib.sim_task_ready(task.number)
                    lib.sim_go_on(task.number)
                    self._go_on(task.number)
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


def forget_greenlets() -> None:
    """Between two schedules: the next one begins with fresh ones."""
    _idle.clear()


def install(scheduler: Scheduler) -> None:
    _now[:] = [scheduler]


def current() -> Scheduler:
    return _now[0]


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_switch(chosen: int) -> None:
    _now[0].switch(chosen)


_KINDS = ("read", "write", "zero", "flush")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_operation(disk: int, kind: int, after: bool) -> None:
    _now[0].trace(f"{'after' if after else 'before'} {_KINDS[kind]} disk {disk}")


on_loss: list[Callable[[int, bool], None]] = []  # of the world: a disk, and whether it shows it yet
on_fading: list[Callable[[int], None]] = []
on_folder_loss: list[Callable[[int, bool], None]] = []  # of a number of native/below.h


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_lost(disk: int, later: bool) -> None:
    shown = ", which its cache still shows" if later else ""
    _now[0].trace(f"a flush of disk {disk} has lost something{shown}")
    _judged(lambda: on_loss[0](disk, later))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_faded(disk: int) -> None:
    _now[0].trace(f"the cache of disk {disk} does not show any more what a flush had lost")
    _judged(lambda: on_fading[0](disk))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def sim_folder_lost(below: int, later: bool) -> None:
    on_folder_loss[0](below, later)


def _judged(look: Callable[[], None]) -> None:
    """What C calls cannot raise."""
    try:
        look()
    except Violation as violation:
        _now[0].fail(violation)


def bytes_at(pointer: Any, length: int) -> bytes:
    return bytes(ffi.buffer(pointer, length))
