"""A fault of a line or two, and the checks that must catch it.

A fault is a few edits of the source.  It is built into a copy, and never switched at run time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SOON = 1_000  # CI looks for the faults that the simulator finds within so many schedules
RARE = 20_000  # `make soak` also for those that it finds within so many: no fault may take more


@dataclass(frozen=True)
class Fault:
    """`caught_by`: checks, separated by spaces, each of which must catch it.

    native:NAME, fuzz:NAME   a program of native/tests
    simulate:COUNT[:ACTS]    the simulator, within so many schedules (with only these acts of
                             sim/trouble.py); such a fault has a name
    tests/...                a pytest node
    """

    what: str
    caught_by: str
    edits: tuple[tuple[str, str, str], ...]  # (file, what stands there once, instead)
    name: str = ""

    @property
    def checks(self) -> list[str]:
        return self.caught_by.split()

    def plant(self, root: Path) -> None:
        """Into a copy of the checkout.  NotPlanted: it no longer fits the source."""
        for file, old, new in self.edits:
            text = (root / file).read_text()
            if text.count(old) != 1:
                raise NotPlanted(f"{file} has {text.count(old)} times what the fault replaces")
            (root / file).write_text(text.replace(old, new))


class NotPlanted(Exception):
    """The fault could not be built in."""


def simulated(check: str) -> tuple[int, str] | None:
    """How many schedules, and which acts ("": all); None: the check is not by the simulator."""
    found = re.fullmatch(r"simulate:(\d+)(?::(\S+))?", check)
    return (int(found[1]), found[2] or "") if found else None
