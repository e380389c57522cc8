"""An exception at every call: of the system, of the stores, of the maps, in all that a site does.

A case is a number: a scene (a cycle, a handshake, a boot, a promotion, a stop; of one site), the
N-th call that this site makes in it of any of the functions in WHAT, and what is raised instead of
that call.  N goes over all calls: they are counted first, in a run of the scene without a fault,
which one seed makes the same each time.

What must hold is what holds everywhere (world.py): no writer waits longer than promised, a control
that has ended is never `mirroring`, a stop ends, a restart makes all right, no byte is wrong.

Left out: what raises after it was done; more than one exception; the locks (threading.Condition);
what takes something back and has no way to fail (Volume.fail, abandon and mark_shared, the gates'
opening, the clocks of the core).
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any

from mirror_core import native
from sim import clients, network, simos, sites, tells
from sim.sched import current
from sim.shape import SECTOR, Shape
from sim.sites import Machine
from sim.world import World

WHAT: tuple[tuple[type, str], ...] = (
    (simos.SimPlatform, "monotonic time uptime sleep uniform random_bits token spawn exists names "
                        "read open close pwrite ftruncate fsync fdatasync rename unlink flock "
                        "file_store boot_id control_channel peer_store write_log leads_to"),
    (native.Store, "reserve flush read gather gather_all extents close"),
    (native.Intent, "heat_all runs close"),
    (native.Volume, "set_first flush_front link part forget_stable all_sent unlink copy "
                    "compare equal adopt flush_sinks settle set_intent heat_all heat_next cool "
                    "harden_begin harden_end retry forget_next mark mark_pending mark_data "
                    "mark_spans portable runs packed_runs stats close"),
    (native.Group, "limit next_blocks harden_wanted freeze closed swap fence"),
    (network.Line, "ask hear cut close"),
    (sites.SimMaps, "share restore remove close"),
)  # fmt: skip


def _os_error(code: int) -> Callable[[], Exception]:
    return lambda: OSError(code, os.strerror(code))


RAISED: tuple[Callable[[], Exception], ...] = (
    *(_os_error(code) for code in (errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOENT)),
    MemoryError, AssertionError,
)  # fmt: skip
_SCENES = tuple(
    f"{what} {site}"
    for what in ("cycle", "handshake", "boot", "stop", "promote")
    for site in ("east", "west")
    if (what, site) != ("promote", "east")
)
_TURNS = 260  # of a scene
_LOOK = 5  # turns from one look at the images to the next


class Injection(simos.Bomb):
    """In place of the bomb of a machine: at the N-th call of those in WHAT."""

    def __init__(self, machine: Machine, number: int, make: Callable[[], Exception]) -> None:
        super().__init__(0, make, 1)
        self._machine, self._number = machine, number  # 0: none, they are counted
        self.calls = 0

    def call(self) -> None:
        """What every schedule has of the platform's calls, is not what counts here."""

    def made(self, what: str) -> None:
        task = current().current
        if self.spent or task is None or task.life.dead:
            return
        if getattr(task.life, "machine", None) is not self._machine:
            return
        self.calls += 1
        if self.calls == self._number:
            self.thrown, self.spent = 1, True
            error = self._make()
            current().trace(f"{what} raises {error!r}")
            raise error


_now: list[Injection] = []


def _watched(what: str, function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **more: Any) -> Any:
        if _now:
            _now[0].made(what)
        return function(*args, **more)

    return call


def _install() -> None:
    for kind, names in WHAT:
        for name in names.split():
            label = f"{kind.__name__}.{name}"
            setattr(kind, name, _watched(label, getattr(kind, name)))


class Injected(World):
    def __init__(self, case: int, tracer: Any = None) -> None:
        scene, number, self._make = _case(case)
        self._what, _, site = scene.partition(" ")
        shape = Shape({"a": 5 * SECTOR, "b": 3 * SECTOR}, clients=2, disk_errors=True,
                      exceptions=True, stable_s=0.0, stride=4)  # fmt: skip
        _now.clear()
        super().__init__(77, tracer, shape)
        self._machine: Machine = getattr(self, site)
        self._number = number
        self.calls = 0  # that the scene has made

    def run(self) -> None:
        self.east.boot()
        self.west.boot()
        while not (self.east.life and self.east.life.source and self.east.life.source.committed):
            self.turns(10)
        injection = Injection(self._machine, self._number, self._make)
        self._begin()
        self._machine.bomb = injection
        _now[:] = [injection]
        self._look_on(injection, _TURNS)
        self.calls, injection.spent = injection.calls, True
        _now.clear()
        for machine in self.machines:
            tells.check(self, machine)
        self._look_on(injection, 100)  # who waits is to be answered without a restart
        self._calm()
        self.turns(30)
        self._end()
        self.count()
        self.counts["exceptions thrown"] += injection.thrown

    def _look_on(self, injection: Injection, turns: int) -> None:
        """Wrong bytes may be right again in the end."""
        for _ in range(turns // _LOOK):
            self.turns(_LOOK)
            if injection.thrown:
                self.probe()

    def _begin(self) -> None:
        if self._what == "handshake":
            self.network.cut()
        elif self._what == "boot":
            self.crash(self._machine, power=False, keep=0.0)
            self._machine.boot()
        elif self._what == "stop":
            self.stop(self._machine)
        elif self._what == "promote":
            assert self.west.life
            clients.promote(self, self.west.life, force=True)


@functools.cache
def _scenes() -> tuple[tuple[str, int], ...]:
    """Each, and how many calls it makes."""
    _install()
    found = []
    for number, scene in enumerate(_SCENES):
        world = Injected(-1 - number)
        world.run()
        found.append((scene, world.calls))
    return tuple(found)


def cases() -> int:
    return sum(calls for _, calls in _scenes()) * len(RAISED)


def every(step: int, case: int, tracer: Any = None) -> Injected:
    """Of every so many-th case."""
    return Injected(step * case, tracer)


def _case(case: int) -> tuple[str, int, Callable[[], Exception]]:
    """The scene, the call (from 1 on; 0: none), and what it raises."""
    if case < 0:
        return _SCENES[-1 - case], 0, MemoryError
    rest, kind = divmod(case, len(RAISED))
    for scene, calls in _scenes():
        if rest < calls:
            return scene, 1 + rest, RAISED[kind]
        rest -= calls
    raise AssertionError(f"there are {cases()} cases")
