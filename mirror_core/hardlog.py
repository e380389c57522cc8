"""What has left the ledger's `pending` maps since the last commit.

A hardening must be durable before a writer overwrites what it covered (I2), so it appends the
runs of blocks that are whole in `data` now to a log (runlog.py), a set for each volume.

    pending2 on disk = the ledger's `pending` of `committed`, less the log's runs of that history

A commit voids the log without touching it.  A log that is missing is refused: without it the
ledger's map may name blocks whose place in the intermediate the next cycle has taken (I1); or the
ledger was put back from a run before, whatever its map names.  One that tells of a later commit
stands beside an older ledger of its own run: a record is appended only when the ledger of its
commit stands, durably, and no ledger of the run names an earlier commit of that history after it,
unless it has no image.  Then the ledger counts as one that was copied (lastrun.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pyroaring import BitMap64

from mirror_core import native, runlog
from mirror_core.errors import LedgerError
from mirror_core.ledger import Ledger, VolumeRecord
from mirror_core.platform import HERE, Platform

KIND = "hardened"


def path_in(state: Path, book: Ledger) -> Path:
    """Of the run that the ledger names."""
    return runlog.path_in(state, KIND, book.run)


def history_of(book: Ledger) -> runlog.History:
    """Of the second flashcopy that the ledger tells of."""
    lineage = book.lineage.id if book.lineage else ""
    return runlog.History(KIND, book.site, lineage, book.committed, book.committed_token)


def recover(state: Path, book: Ledger, platform: Platform = HERE) -> Ledger:
    """Of a target that was not stopped in order: the ledger with its `pending` maps as they are on
    disk now (I1), unless it is an older one (`copied`).  LedgerError."""
    if not book.whole or not book.run:
        return book
    path = path_in(state, book)
    data = runlog.read(path, platform)
    if data is None:  # whatever is pending: each start makes it before its ledger
        raise LedgerError(
            f"{path}: the log of hardenings is missing, so nobody knows what the image is: either "
            "it was lost, or this ledger is an older one, which knows nothing of later cycles. Put "
            "back what stood here, or give up the image: 'flashmirror resync --full'"
        )
    records = runlog.records(path, data, history_of(book))
    hardened = sets_of(path, records, book.volumes)
    maps = dict(book.maps)
    for record, gone in zip(book.volumes, hardened, strict=True):
        key = f"{record.name}/pending"
        if key in maps:
            maps[key] = maps[key] - gone
    return replace(book, maps=maps, copied=book.copied or _tells_of_later(data, book))


def _tells_of_later(data: bytes, book: Ledger) -> bool:
    """Whether a log's records are of a later commit of its history than the ledger."""
    found, ours = runlog.history_of(data), history_of(book)
    if found is None or found.sequence <= ours.sequence:
        return False
    return found == replace(ours, sequence=found.sequence, token=found.token)


def sets_of(
    path: Path, records: list[tuple[int, list[runlog.Part]]], volumes: tuple[VolumeRecord, ...]
) -> list[BitMap64]:
    """The sets of a log, one for each volume.  LedgerError: it is of other volumes."""
    sets = [native.Runs(-(-v.size // v.block_size)) for v in volumes]
    for _, parts in records:
        for number, packed in parts:
            if number >= len(sets) or not sets[number].add(packed):
                raise LedgerError(f"{path}: the log of another site: restore its own")
    return [BitMap64.deserialize(one.portable()) for one in sets]
