"""What has left the ledger's `pending` maps since the last commit.

A hardening must be durable before a writer overwrites what it covered (I2), so it appends the
runs of blocks that are whole in `data` now to a log (runlog.py), a set for each volume.

    pending2 on disk = the ledger's `pending` of `sequence`, less the log's runs of that sequence

A commit voids the log without touching it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pyroaring import BitMap64

from mirror_core import runlog
from mirror_core.errors import LedgerError
from mirror_core.ledger import Ledger, VolumeRecord
from mirror_core.platform import HERE, Platform


def path_in(state: Path) -> Path:
    return state / "hardened"


def recover(state: Path, book: Ledger, platform: Platform = HERE) -> Ledger:
    """The ledger with its `pending` maps as they are on disk now (I1).  LedgerError."""
    path = path_in(state)
    hardened = sets_of(path, runlog.replay(path, book.committed, platform), book.volumes)
    maps = dict(book.maps)
    for record, gone in zip(book.volumes, hardened, strict=True):
        key = f"{record.name}/pending"
        if key in maps:
            maps[key] = maps[key] - gone
    return replace(book, maps=maps)


def sets_of(path: Path, runs: runlog.Runs, volumes: tuple[VolumeRecord, ...]) -> list[BitMap64]:
    """The sets of a log, one for each volume.  LedgerError: it is of other volumes."""
    sets = [BitMap64() for _ in volumes]
    for number, first, count in runs:
        if number >= len(sets) or (first + count - 1) * volumes[number].block_size >= (
            volumes[number].size
        ):
            raise LedgerError(f"{path}: the log of another site: restore its own")
        sets[number].add_range(first, first + count)
    return sets
