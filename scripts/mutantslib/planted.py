"""The mutants made by hand (tests/faults/), each with one check that must catch it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from mutantslib.ladder import Check
from mutantslib.workshop import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from faults import FAULTS, Fault, simulated


@dataclass(frozen=True)
class Planted:
    fault: Fault
    check: Check

    @property
    def what(self) -> str:
        name = f" ({self.fault.name})" if self.fault.name else ""
        return f"{self.fault.what}{name}"

    @property
    def key(self) -> str:
        return f"planted: {self.what} [{self.check.name}]"

    @property
    def diff(self) -> str:
        return "\n".join(f"{file}\n-{old}\n+{new}" for file, old, new in self.fault.edits)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for file, _, _ in self.fault.edits)

    def is_native(self) -> bool:
        return self.check.kind in ("programs", "fuzz")


def check_of(words: str) -> Check:
    """The same, as the ladder has it."""
    kind, _, rest = words.partition(":")
    if kind == "native":
        return Check("programs", rest)
    if kind == "fuzz":
        return Check("fuzz", rest)
    if found := simulated(words):
        count, acts = found
        return Check("simulate", f"1 {count} {acts}".rstrip())
    return Check("pytest", words)


def planted(pattern: re.Pattern[str], *, native: bool) -> list[Planted]:
    """Those whose words the pattern finds."""
    all_of_them = [Planted(fault, check_of(words)) for fault in FAULTS for words in fault.checks]
    return [
        one for one in all_of_them if pattern.search(one.what) and (one.is_native() or not native)
    ]
