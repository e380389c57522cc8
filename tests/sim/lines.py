"""Which lines of production's control no schedule executes: what the simulator says nothing about.

Every greenlet is traced (sys.settrace is of one), so it is slow: some hundred schedules.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from sim import runner, sched
from sim.core import PRODUCTION

FILES = ("driver", "target", "second", "session", "stable", "site", "written", "runlog",
         "hardlog", "ledger", "durable", "promotion", "recovery", "resync", "status")  # fmt: skip
_COLLECT_EVERY = 30  # schedules
_PATHS = {str(PRODUCTION / "mirror_core" / f"{name}.py") for name in FILES}


def _lines_of(code: CodeType) -> Iterator[int]:
    """Of all functions in it; what runs at import is not counted."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines_of(constant)
            if constant.co_flags & 2:  # CO_NEWLOCALS: a function, not the body of a class
                lines = {line for _, _, line in constant.co_lines() if line}
                yield from lines - {constant.co_firstlineno}


def trace(*runs: tuple[range, runner.Make]) -> int:
    """Prints them, by file; how many there are."""
    seen: set[tuple[str, int]] = set()

    def in_frame(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return in_frame

    def in_call(frame: FrameType, event: str, _: Any) -> Any:
        return in_frame if frame.f_code.co_filename in _PATHS else None

    sched.on_greenlet[:] = [lambda: sys.settrace(in_call)]
    sched.forget_greenlets()  # those that have begun, as to count the injections, are not traced
    for seeds, make in runs:
        for number, seed in enumerate(seeds):
            _, violation = runner.one(seed, None, make)
            if violation:
                print(f"seed {seed}: {violation}")
            if number % _COLLECT_EVERY == 0:
                gc.collect()
    sys.settrace(None)
    missed = 0
    for path in sorted(_PATHS):
        source = Path(path).read_text()
        lines = set(_lines_of(compile(source, path, "exec")))
        never = sorted(line for line in lines if (path, line) not in seen)
        missed += len(never)
        print(f"{Path(path).name}: {len(lines) - len(never)} of {len(lines)} lines")
        for line in never:
            print(f"  {line:4} {source.splitlines()[line - 1]}")
    return missed
