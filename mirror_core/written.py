"""What the cycle under way has written to the second intermediate, made durable in its middle.

    stable    written by the cycle, flushed, and recorded here: not sent again after a link or this
              site was lost, so it counts as written by the session that goes on with the cycle (I3)
    owed      written since the last commit by cycles that were given up: a commit that has not
              written all of it again is refused

The log (runlog.py) is of the cycle's sequence: a set of `stable` for each volume, then one of
`owed`.  A commit voids it without touching it.

Invariant.  A block is recorded only after the flush that covers it.  The record may hold more
than the source knows to be stable (the answer was lost): that is sent again, which is harmless.
Left out: what was written after the last record; the source sends it again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyroaring import BitMap64

from mirror_core import flashcopy, hardlog, runlog
from mirror_core.ledger import Ledger

Maps = Mapping[str, BitMap64]


@dataclass(frozen=True)
class Written:
    """`sequence`: of the cycle that `stable` belongs to; 0: of none.  Maps by volume's name."""

    sequence: int = 0
    stable: Maps = field(default_factory=dict)


def path_in(state: Path) -> Path:
    return state / "written"


def recover(state: Path, book: Ledger) -> tuple[Written, dict[str, BitMap64]]:
    """What is stable, and what is owed, after any end.  LedgerError: the log is damaged."""
    names = [v.name for v in book.volumes]
    owed = {name: book.maps.get(f"{name}/written", BitMap64()) for name in names}
    path = path_in(state)
    sequence = runlog.sequence_of(path)
    if sequence <= book.committed:
        return Written(), owed
    sets = hardlog.sets_in(path, sequence, book.volumes + book.volumes)
    stable = dict(zip(names, sets, strict=False))
    for name, one in zip(names + names, sets, strict=True):
        owed[name] |= one
    return Written(sequence, stable), owed


class WrittenLog:
    """The log of a running target.  Guard: the target's `serial`."""

    def __init__(self, state: Path, volumes: list[str], found: Written) -> None:
        """OSError: it cannot be made."""
        self._log = runlog.RunLog(path_in(state))
        self._volumes, self._found = volumes, found
        self._whole = False  # the log on disk holds all that `_found` says

    def of(self, sequence: int) -> Maps | None:
        """What is stable of this cycle; None: nothing is known of it."""
        return self._found.stable if sequence and sequence == self._found.sequence else None

    def record(self, sequence: int, written: Maps, owed: Maps) -> None:
        """All of `written`, which is flushed, is stable.  OSError: what was stable before is."""
        known = self.of(sequence)
        anew, self._whole = known is None or not self._whole, False
        if anew:
            self._log.restart(sequence)
            self._append(sequence, owed, len(self._volumes))
        new = {n: b if anew or not known else b - known[n] for n, b in written.items()}
        self._append(sequence, new, 0)
        self._found, self._whole = Written(sequence, dict(written)), True

    def _append(self, sequence: int, maps: Maps, number: int) -> None:
        sets = {}
        for i, name in enumerate(self._volumes, number):
            sets[i] = b"".join(struct.pack("<QQ", *run) for run in flashcopy.runs_of(maps[name]))
        self._log.append(sequence, sets)

    def forget(self) -> None:
        """Nothing is stable, and nothing owed: everything is sent.  OSError."""
        self._found = Written()
        self._log.restart(0)

    def close(self) -> None:
        self._log.close()
