"""What the cycle under way has written to the second intermediate, made durable in its middle.

    stable    written by the cycle, flushed, and recorded here: not sent again after a link or this
              site was lost, so it counts as written by the session that goes on with the cycle (I3)
    owed      written since the last commit by cycles that were given up: a commit that has not
              written all of it again is refused

The log (runlog.py) is of the cycle: a set of `stable` for each volume, then one of `owed`.  A
commit voids it without touching it.  Without a log, or with one of another history, nothing is
stable: the source sends again what is not committed (I4), so all that is owed too.

Invariants.  What the source calls stable was flushed before it was recorded.  A record may hold
more (what was just being written; what the source has no answer for): that is sent again, which
is harmless.  A record's mark is the serial of the source's request, so that a target that was put
back to an older state is found to know less than the source relies on (I7).
Left out: what was written after the last record; the source sends it again.
"""

from __future__ import annotations

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
    """`sequence` and `token`: of the cycle that `stable` belongs to; 0: of none.  `serial`: of the
    source's last request for it.  Maps by volume's name."""

    sequence: int = 0
    token: str = ""
    serial: int = 0
    stable: Maps = field(default_factory=dict)


KIND = "written"


def path_in(state: Path, book: Ledger) -> Path:
    """Of the run that the ledger names."""
    return runlog.path_in(state, KIND, book.run)


def recover(
    state: Path, book: Ledger, platform: Platform = HERE
) -> tuple[Written, dict[str, BitMap64]]:
    """What is stable, and what is owed, after any end.  LedgerError: the log is damaged."""
    names = [v.name for v in book.volumes]
    owed = {name: book.maps.get(f"{name}/written", BitMap64()) for name in names}
    path = path_in(state, book)
    data = runlog.read(path, platform) or b""
    history = runlog.history_of(data)
    if history is None or not _is_under_way(history, book):
        return Written(), owed
    if not book.clean:  # the ledger's are of an orderly stop before: of those the log names what is
        owed = {name: BitMap64() for name in names}
    records = runlog.records(path, data, history)
    sets = hardlog.sets_of(path, records, book.volumes + book.volumes)
    stable = dict(zip(names, sets, strict=False))
    for name, one in zip(names + names, sets, strict=True):
        owed[name] |= one
    return Written(history.sequence, history.token, records[-1][0], stable), owed


def _is_under_way(history: runlog.History, book: Ledger) -> bool:
    """Whether the log is of a cycle of this site's history that is not committed."""
    of = book.lineage.id if book.lineage else ""
    ours = (history.kind, history.site, history.lineage) == (KIND, book.site, of)
    return ours and history.sequence > book.committed


class WrittenLog:
    """The log of a running target.  Guard: the target's `serial`."""

    def __init__(
        self, state: Path, run: str, volumes: list[str], found: Written, platform: Platform = HERE
    ) -> None:
        """OSError: it cannot be made."""
        self._log = runlog.RunLog(state, KIND, run, platform)
        self._volumes, self._found = volumes, found
        self._whole = False  # the log on disk holds all that `_found` says

    def of(self, sequence: int, token: str, serial: int = 0) -> Maps | None:
        """What is stable of this cycle; None: nothing is known of it, or not that request."""
        found = self._found
        same = sequence and (sequence, token) == (found.sequence, found.token)
        return found.stable if same and found.serial >= serial else None

    def record(self, cycle: runlog.History, serial: int, written: Maps, owed: Maps) -> None:
        """All of `written`, which is flushed, is stable.  OSError: what was stable before is."""
        known = self.of(cycle.sequence, cycle.token) if self._whole else None
        self._whole = False
        maps = [written[n] - known[n] if known else written[n] for n in self._volumes]
        if known is None:
            self._log.restart(cycle)
            maps += [owed[n] - written[n] for n in self._volumes]  # that is owed without it
        sets = {i: flashcopy.packed_runs_of(bitmap) for i, bitmap in enumerate(maps)}
        self._log.append(cycle, sets, serial)
        self._found = Written(cycle.sequence, cycle.token, serial, dict(written))
        self._whole = True

    def owes_less(self) -> None:
        """The log names what is not owed any more: the next record begins it anew."""
        self._whole = False

    def forget(self) -> None:
        """Nothing is stable, and nothing owed: everything is sent.  Durably.  OSError."""
        self._found, self._whole = Written(), False  # first: the log may be cut and not flushed
        self._log.forget()

    def close(self) -> None:
        self._log.close()
