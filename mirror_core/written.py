"""What the cycle under way has written to the second intermediate, made durable in its middle.

    stable    written by the cycle, flushed, and recorded here: not sent again after a link or this
              site was lost, so it counts as written by the session that goes on with the cycle (I3)
    owed      written since the last commit by cycles that were given up: a commit that has not
              written all of it again is refused

The log (runlog.py) is of the cycle's sequence: a set of `stable` for each volume, then one of
`owed`.  A commit voids it without touching it.

Invariants.  What the source calls stable was flushed before it was recorded.  A record may hold
more (what was just being written; what the source has no answer for): that is sent again, which
is harmless.  A record's mark is the serial of the source's request, so that a target that was put
back to an older state is found to know less than the source relies on (I7).
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
from mirror_core.platform import HERE, Platform

Maps = Mapping[str, BitMap64]


@dataclass(frozen=True)
class Written:
    """`sequence`: of the cycle that `stable` belongs to; 0: of none.  `serial`: of the source's
    last request for it.  Maps by volume's name."""

    sequence: int = 0
    serial: int = 0
    stable: Maps = field(default_factory=dict)


def path_in(state: Path) -> Path:
    return state / "written"


def recover(
    state: Path, book: Ledger, platform: Platform = HERE
) -> tuple[Written, dict[str, BitMap64]]:
    """What is stable, and what is owed, after any end.  LedgerError: the log is damaged."""
    names = [v.name for v in book.volumes]
    owed = {name: book.maps.get(f"{name}/written", BitMap64()) for name in names}
    path = path_in(state)
    sequence = runlog.sequence_of(path, platform)
    if sequence <= book.committed:
        return Written(), owed
    records = runlog.records(path, sequence, platform)
    runs = [run for _, part in records for run in part]
    sets = hardlog.sets_of(path, runs, book.volumes + book.volumes)
    stable = dict(zip(names, sets, strict=False))
    for name, one in zip(names + names, sets, strict=True):
        owed[name] |= one
    return Written(sequence, records[-1][0], stable), owed


class WrittenLog:
    """The log of a running target.  Guard: the target's `serial`."""

    def __init__(
        self, state: Path, volumes: list[str], found: Written, platform: Platform = HERE
    ) -> None:
        """OSError: it cannot be made."""
        self._log = runlog.RunLog(path_in(state), platform)
        self._volumes, self._found = volumes, found
        self._whole = False  # the log on disk holds all that `_found` says

    def of(self, sequence: int, serial: int = 0) -> Maps | None:
        """What is stable of this cycle; None: nothing is known of it, or not that request."""
        found = self._found
        known = sequence and sequence == found.sequence and found.serial >= serial
        return found.stable if known else None

    def record(self, sequence: int, serial: int, written: Maps, owed: Maps) -> None:
        """All of `written`, which is flushed, is stable.  OSError: what was stable before is."""
        known = self.of(sequence) if self._whole else None
        self._whole = False
        maps = [written[n] - known[n] if known else written[n] for n in self._volumes]
        if known is None:
            self._log.restart(sequence)
            maps += [owed[n] for n in self._volumes]
        sets = {
            i: b"".join(struct.pack("<QQ", *run) for run in flashcopy.runs_of(bitmap))
            for i, bitmap in enumerate(maps)
        }
        self._log.append(sequence, sets, serial)
        self._found, self._whole = Written(sequence, serial, dict(written)), True

    def forget(self) -> None:
        """Nothing is stable, and nothing owed: everything is sent.  OSError."""
        self._found = Written()
        self._log.restart(0)

    def close(self) -> None:
        self._log.close()
