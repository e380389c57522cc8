"""A record of schedules that were run, a JSON line a range: a million can be run in parts.

    {"tree": digest, "first": seed, "count": n, "counts": {...}, "violations": [[seed, what], ...]}

Lines of another tree (another simulator, or other sources of production that it runs) count for
nothing: what they ran is not what stands here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tree

from sim import runner
from sim.core import PRODUCTION, ROOT

_RANGE = 500  # schedules a line


class Record:
    def __init__(self, path: Path, plants: list[str]) -> None:
        self._path = path
        self._tree = " ".join([tree.digest(ROOT, PRODUCTION), *plants])
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        self._known: list[dict[str, Any]] = [r for r in records if r["tree"] == self._tree]
        self.others = len(records) - len(self._known)

    def missing(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """The ranges of these seeds that no line has: first seed and how many."""
        at, end = first, first + count
        for known in sorted(self._known, key=lambda r: int(r["first"])):
            until = min(end, known["first"])
            while at < until:
                n = min(_RANGE, until - at)
                yield at, n
                at += n
            at = max(at, known["first"] + known["count"])
        while at < end:
            n = min(_RANGE, end - at)
            yield at, n
            at += n

    def add(self, first: int, count: int, found: runner.Report) -> None:
        line = {
            "tree": self._tree, "first": first, "count": count, "seconds": found.seconds,
            "counts": found.counts, "violations": found.violations,
        }  # fmt: skip
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._known.append(line)

    def total(self) -> runner.Report:
        """Of all lines of this tree.  Distinct states are not recorded."""
        total = runner.Report()
        for line in self._known:
            total.counts.update(line["counts"])
            total.violations += [(seed, what) for seed, what in line["violations"]]
            total.seconds += line["seconds"]
        return total
