"""The small scope: one volume of three blocks, and a crash at every point of it.

A case is a number: an interleaving (a seed of the scheduler, whose stride is 1: every operation
of a disk or file is a point), then one or two crashes, each at a point, of one site or of both,
by kill or power loss with nothing, all or some of what was not flushed surviving.  The first
crash goes over every point

    plain       of the start of both sites and of two cycles
    commanded   of a promotion of the target, of an orderly stop of either site, from its command
                on; that comes when there is an image

and the last points say so if it was not all of that
    again       the second crash, over every point of the recovery from the first, only with power
                losses that keep nothing or all

Left out: every interleaving of the tasks, and every subset of what survives: those are random.
"""

from __future__ import annotations

from typing import Any

from sim import clients
from sim.sched import Violation
from sim.shape import SECTOR, Shape
from sim.world import World

_POINTS = 350  # of the first crash: the start takes a hundred, and each cycle
_COMMAND_POINTS = 110  # after a command
_IMAGE = 1000  # turns, at most, until there is one
_AGAIN = 50  # of the second: the recovery
_INTERLEAVINGS = 3
_FIRST = (None, 0.0, 0.5, 1.0)  # killed; power lost, and how much of what was not flushed stays
_SECOND = (0.0, 1.0)
_WHO = (("east",), ("west",), ("east", "west"))
_COMMANDS = ("promote", "stop west", "stop east")
_WAYS = len(_WHO) * len(_FIRST) * _INTERLEAVINGS
_PLAIN = _POINTS * _WAYS
_COMMANDED = _COMMAND_POINTS * len(_COMMANDS) * _WAYS


def cases(crashes: int) -> int:
    """How many there are: of one crash come first."""
    again = _PLAIN * _AGAIN * len(_WHO) * len(_SECOND)
    return _PLAIN + _COMMANDED + (again if crashes == 2 else 0)


def every(step: int, case: int, tracer: Any = None) -> Small:
    """Of every so many-th case."""
    return Small(step * case, tracer)


class Small(World):
    def __init__(self, case: int, tracer: Any = None) -> None:
        self.command_given, again = "", None
        if _PLAIN <= case < _PLAIN + _COMMANDED:
            case, command = divmod(case - _PLAIN, len(_COMMANDS))
            self.command_given = _COMMANDS[command]
        elif case >= _PLAIN:
            again, case = divmod(case - _PLAIN - _COMMANDED, _PLAIN)
        rest, point = divmod(case, _COMMAND_POINTS if self.command_given else _POINTS)
        rest, who = divmod(rest, len(_WHO))
        interleaving, how = divmod(rest, len(_FIRST))
        shape = Shape(
            {"a": 3 * SECTOR}, laggard=("", "west: control", "east: control")[interleaving]
        )
        super().__init__(1000 + interleaving, tracer, shape)
        self.crashes = [(point, _WHO[who], _FIRST[how])]
        if again is not None:
            rest, point = divmod(again, _AGAIN)
            who_again, how_again = divmod(rest, len(_SECOND))
            self.crashes.append((point, _WHO[who_again], _SECOND[how_again]))

    def run(self) -> None:
        self.east.boot()
        self.west.boot()
        if self.command_given:
            for _ in range(_IMAGE):
                if self._hardened() < 1:
                    self.turns(1)
            self._give_command()
        for i, (point, who, keep) in enumerate(self.crashes):
            self.turns(point)
            if i == 0:
                self._check_scope(point)
            for name in who:
                self.crash(getattr(self, name), power=keep is not None, keep=keep or 0.0)
            self.boot_all()
        self.turns(30)
        self._end()
        self.count()

    def _give_command(self) -> None:
        _, _, name = self.command_given.partition(" ")
        if name:
            self.stop(getattr(self, name))
        else:
            assert self.west.life
            clients.promote(self, self.west.life, force=True)

    def _hardened(self) -> int:
        """The cycles that are whole in the target's data."""
        life = self.west.life
        return life.target.hardened if life and life.target else 0

    def _check_scope(self, point: int) -> None:
        """Violation: the last point of the first crash comes too soon."""
        if self.command_given == "promote":
            over = self.counts["promotions"] == 1
        elif self.command_given:
            over = self.counts["orderly stops"] == 1
        else:
            over = self._hardened() >= 2
        last = _COMMAND_POINTS if self.command_given else _POINTS
        if point == last - 1 and not over:
            raise Violation(f"{self.command_given or 'two cycles'}: not over at the last point")
