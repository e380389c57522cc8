"""One small change of the source.

Its name (`key`) is made from what is changed: the file, the rule, and the lines before and after
it.  So a mutant keeps its name while other places of the file change, and a record of it stays
true; a mutant whose own lines changed is another one.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Change:
    """Bytes [start, end) of a file become `new`."""

    rule: str
    start: int
    end: int
    new: bytes

    def of(self, source: bytes) -> bytes:
        return source[: self.start] + self.new + source[self.end :]


@dataclass(frozen=True)
class Mutant:
    file: str  # below the root of the checkout
    line: int
    rule: str
    key: str
    diff: str
    change: Change

    @property
    def what(self) -> str:
        return f"{self.file}:{self.line} {self.rule} [{self.key}]"

    def plant(self, root: Path) -> None:
        """Into a copy of the checkout."""
        path = root / self.file
        path.write_bytes(self.change.of(path.read_bytes()))


def name(file: str, source: bytes, changes: Iterable[Change]) -> list[Mutant]:
    """The changes as mutants; those that change nothing, or the same as another, are left out."""
    found: dict[bytes, Mutant] = {}
    seen: Counter[str] = Counter()
    before = source.decode().splitlines()
    for change in changes:
        fresh = change.of(source)
        digest = hashlib.sha256(fresh).digest()
        if fresh == source or digest in found:
            continue
        lines = list(difflib.unified_diff(before, fresh.decode().splitlines(), n=1, lineterm=""))
        text = "\n".join(line for line in lines[2:] if not line.startswith("@@"))
        seen[text] += 1
        words = f"{file}\n{change.rule}\n{text}\n{seen[text]}"
        key = hashlib.sha256(words.encode()).hexdigest()[:8]
        line = source.count(b"\n", 0, change.start) + 1
        found[digest] = Mutant(file, line, change.rule, key, text, change)
    return list(found.values())
