"""A thread of the control may stand still between any two statements, as on a busy machine.

The sources named in FILES are compiled with a look between every two statements of a function:
`if _stalls.armed: _stalls.point()`.  In some schedules (Shape.stalls) every so many-th point gives
the turn to others, for an instant or for long.  In all others a look costs some nanoseconds.

Invariants.  Lines keep their numbers (lines.py).  Nobody stands still inside `with condition:`,
where others would have to wait (simos.Condition has no lock; it counts how deep each greenlet is
inside, for one that is killed leaves in another's turn), nor while the oracle looks.

Left out: what stands in between the parts of one statement; the core, whose switches are its own.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import CodeType, ModuleType
from typing import Any

from greenlet import getcurrent

from sim.core import lib
from sim.sched import NS, current

FILES = frozenset(
    f"mirror_core.{name}"
    for name in ("driver", "target", "second", "session", "stable", "promotion", "site", "book",
                 "compare", "control", "written", "runlog", "hardlog", "durable", "peer", "pulse")
)  # fmt: skip
# Points between two, at most; and for how long: many that are short, or few that are long.
_KINDS = (
    (20, (0, 0, NS // 10_000, NS // 100)),
    (100, (0, NS // 10_000, NS // 100, NS // 10)),
    (500, (NS // 100, NS // 10, NS, 4 * NS)),
)


class Stalls:
    """Those of the schedule under way."""

    def __init__(self) -> None:
        self.armed = False
        # By greenlet (its id): conditions that it holds, or looks of the oracle.
        self.inside: dict[int, int] = {}
        self.made = 0
        self._left = 0
        self._every, self._lengths_ns = _KINDS[0]

    def begin(self, *, armed: bool) -> None:
        self.armed, self.made = armed, 0
        self.inside.clear()
        if armed:
            rng = current().random
            self._every, self._lengths_ns = rng.choice(_KINDS)
            self._left = 1 + rng.randrange(self._every)

    @contextlib.contextmanager
    def none(self) -> Iterator[None]:
        """The oracle calls production's code, in the turn of a task."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        me = id(getcurrent())
        self.inside[me] = self.inside.get(me, 0) + 1

    def leave(self) -> None:
        """Those of a schedule that has ended may leave later."""
        me = id(getcurrent())
        if self.inside.get(me, 0) > 1:
            self.inside[me] -= 1
        else:
            self.inside.pop(me, None)

    def point(self) -> None:
        scheduler = current()
        task = scheduler.current
        if task is None or task.life.dead or id(getcurrent()) in self.inside:
            return
        self._left -= 1
        if self._left > 0:
            return
        rng = scheduler.random
        self._left = 1 + rng.randrange(self._every)
        self.made += 1
        stall_ns = rng.choice(self._lengths_ns)
        scheduler.trace(f"stands still for {stall_ns / NS:g} s")
        if stall_ns:
            scheduler.wait(lib.sim_clock_ns + stall_ns)
        else:
            scheduler.pause()


class _Between(ast.NodeTransformer):
    """Puts a look before each statement of functions but the first."""

    def __init__(self) -> None:
        self._in_function = False

    def _function(self, node: Any) -> Any:
        before, self._in_function = self._in_function, True
        self.generic_visit(node)
        self._in_function = before
        node.body = self._with_looks(node.body)
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if self._in_function and not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            for field in ("body", "orelse", "finalbody"):
                block = getattr(node, field, None)
                if isinstance(block, list):
                    setattr(node, field, self._with_looks(block))
        return node

    @staticmethod
    def _with_looks(block: Sequence[ast.stmt]) -> list[ast.stmt]:
        looked: list[ast.stmt] = []
        for number, statement in enumerate(block):
            if number and not isinstance(statement, ast.Global | ast.Nonlocal):
                look = ast.parse("if _stalls.armed: _stalls.point()").body[0]
                for one in ast.walk(look):
                    ast.copy_location(one, statement)
                looked.append(look)
            looked.append(statement)
        return looked


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = _Between().visit(ast.parse(self.get_data(path), path))
        code = compile(tree, path, "exec", dont_inherit=True)
        assert isinstance(code, CodeType)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in FILES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec and spec.origin
        spec.loader = _Loader(fullname, spec.origin)
        return spec


stalls = Stalls()


def install() -> None:
    """Before production's control is imported."""
    assert not FILES & sys.modules.keys()
    setattr(builtins, "_stalls", stalls)  # noqa: B010
    sys.meta_path.insert(0, _Finder())


install()
