"""What was tried: a file of JSON lines, one for each check that ended.

A run that is stopped, or that shall go deeper, goes on where the lines end.  The file is of one
tree: by default its name is a digest of all that a check could depend on, so that a mutant which
survived yesterday's tests is tried against today's.

tests/mutants_equivalent.toml names the mutants that change nothing that anybody can notice, each
with the reason.  They count neither as caught nor as survived.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutantslib.mutant import Mutant
from mutantslib.planted import Planted
from mutantslib.workshop import PARTS, ROOT

EQUIVALENT = ROOT / "tests/mutants_equivalent.toml"
_CODE = (".py", ".c", ".h", ".cdef", ".sh", ".toml", "")
NO_MUTANT = ("not built", "same object code")


def default_path() -> Path:
    digest = hashlib.sha256()
    for part in PARTS:
        top = ROOT / part
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            built = path.name == "_native.c" or "__pycache__" in path.parts or "build-" in str(path)
            if path.is_file() and path.suffix in _CODE and not built and path != EQUIVALENT:
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return ROOT / "build" / "mutants" / f"{digest.hexdigest()[:12]}.jsonl"


def equivalents() -> dict[str, str]:
    """key -> reason."""
    found = tomllib.loads(EQUIVALENT.read_text())
    return {one["key"]: one["reason"] for one in found.get("equivalent", [])}


@dataclass
class History:
    """Of one mutant, be it made by rule or by hand."""

    passed: set[str] = field(default_factory=set)  # the names of checks
    result: str = ""  # how it ended: "caught", or one of NO_MUTANT
    how: str = ""


class Record:
    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # guards all below
        self.histories: dict[str, History] = defaultdict(History)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a run that was killed
                    self._take(json.loads(line))
        self._file = path.open("a")
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._file.write("\n")

    def close(self) -> None:
        self._file.close()

    def add(
        self,
        mutant: Mutant | Planted,
        result: str,
        *,
        check: str = "",
        how: str = "",
        seconds: float = 0.0,
    ) -> None:
        line = {
            "key": mutant.key,
            "what": mutant.what,
            "diff": mutant.diff,
            "check": check,
            "result": result,
            "how": how,
            "seconds": round(seconds, 1),
        }
        with self._lock:
            self._take(line)
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def _take(self, line: dict[str, Any]) -> None:
        history = self.histories[line["key"]]
        if line["result"] == "passed":
            history.passed.add(line["check"])
        else:
            history.result = line["result"]
            history.how = f"{line['check']}: {line['how']}"


def report(mutants: Iterable[Mutant], record: Record) -> str:
    """Scores by file, then who survived, and what nobody needs to catch."""
    reasons = equivalents()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors, same, by = [], [], Counter[str]()
    for mutant in sorted(mutants, key=lambda m: (m.file, m.line)):
        history = record.histories[mutant.key]
        if history.result in NO_MUTANT or (not history.result and not history.passed):
            continue
        kind = "caught" if history.result else "survived"
        if kind == "survived" and mutant.key in reasons:
            kind = "equivalent"
            same.append(f"{mutant.what}: {reasons[mutant.key]}")
        elif kind == "survived":
            survivors.append(
                f"{mutant.what}, passes: {', '.join(sorted(history.passed))}\n{mutant.diff}\n"
            )
        else:
            by[" ".join(history.how.split()[:1])] += 1
        counts[mutant.file][kind] += 1
    lines = [f"{'file':34}{'run':>6}{'caught':>8}{'survived':>10}{'equivalent':>12}  score"]
    total: Counter[str] = Counter()
    for file in sorted(counts):
        lines.append(_row(file, counts[file]))
        total += counts[file]
    lines += [_row("all", total), "caught by " + ", ".join(f"{k} {n}" for k, n in by.items())]
    for title, found in (("survived", survivors), ("equivalent", same)):
        lines += [f"\n{title}: {len(found)}", *found]
    return "\n".join(lines)


def _row(name: str, found: Counter[str]) -> str:
    real = found["caught"] + found["survived"]
    score = f"{100 * found['caught'] / real:.0f} %" if real else "-"
    return (
        f"{name:34}{found.total():>6}{found['caught']:>8}{found['survived']:>10}"
        f"{found['equivalent']:>12}  {score:>5}"
    )
