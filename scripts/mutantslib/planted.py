"""The mutants made by hand: each has one check, which must catch it.

Those of tests/faults.py are edits of the source; those of tests/sim/plants.py replace a function
of production while the simulator runs, and only it can show them.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from mutantslib.ladder import Check
from mutantslib.workshop import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from faults import FAULTS, Fault

_SCHEDULES = 100_000  # within which the simulator finds each of its plants


@dataclass(frozen=True)
class Planted:
    what: str
    check: Check
    fault: Fault | None = None

    def plant(self, root: Path) -> None:
        """Into a copy of the checkout.  NotPlanted: it no longer fits the source."""
        if self.fault:
            self.fault.plant(root)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for file, _, _ in self.fault.edits) if self.fault else ()

    def is_native(self) -> bool:
        return self.check.kind in ("programs", "fuzz")


def check_of(caught_by: str) -> Check:
    kind, _, rest = caught_by.partition(":")
    if kind == "native":
        return Check("programs", rest)
    return Check("fuzz", rest) if kind == "fuzz" else Check("pytest", caught_by)


def planted(pattern: re.Pattern[str], *, native: bool) -> list[Planted]:
    """Those whose words the pattern finds."""
    all_of_them = [Planted(f.what, check_of(f.caught_by), f) for f in FAULTS]
    tree = ast.parse((ROOT / "tests/sim/plants.py").read_text())
    for node in tree.body:
        words = isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
        if isinstance(node, ast.FunctionDef) and words and not node.name.startswith("_"):
            check = Check("plant", f"{node.name} {_SCHEDULES}")
            all_of_them.append(Planted(f"{words} ({node.name})", check))
    return [
        one for one in all_of_them if pattern.search(one.what) and (one.is_native() or not native)
    ]
