"""Where a source's intent logs live: one file a volume and run, which native/intent.[ch] writes.

    STATE/VOLUME.intent.RUN     a page that says what it is, then one bit a region

Each run of the site begins with a log of its own, in which everything is hot that may not be
committed: after an orderly stop the regions of `next`; after any other end what the log of the run
before says, and if that is missing, damaged, a copy or of another history, everything.  So is
everything of a volume whose data store was made smaller, or could not be read, at whatever end.

Invariants.  A log stands whole and durable before the ledger names its run (durable.py).  `next`
is within what is hot: a write that is not committed is never in a cold region (I4).

Left out: checksums of the bits.  They are written in place, a page at a time, and a torn page
has a bit too many at most.  Not noticed: a log that is put back to an older state of the same run
by other means than a copy of the file (runlog.py).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyroaring import BitMap64

from mirror_core import below, durable, flashcopy, limits, native, runlog
from mirror_core.errors import LedgerError, mend
from mirror_core.ledger import Ledger, VolumeRecord, is_harmed
from mirror_core.platform import HERE, Platform

_PAGE = 4096
# magic, version, region shift, volume's bytes, site, lineage, run
_HEAD = struct.Struct("<8sIIQ32s32s32s")
_CRC = struct.Struct("<I")
_MAGIC = b"fmINTENT"
_VERSION = 2


@dataclass(frozen=True)
class Opened:
    """A log in use.  id: what it is known again by (below.file_id).  lost: why the log of the run
    before told nothing, so that all is hot."""

    log: native.Intent
    id: str
    lost: str | None


def path_in(state: Path, volume: str, run: str) -> Path:
    return runlog.path_in(state, f"{volume}.intent", run)


def region_shift(record: VolumeRecord, least: int) -> int:
    """log2 of the bytes of a region, `least` at least."""
    least = max(least, record.block_size)
    region = max(least, -(-record.size // limits.INTENT_REGIONS_MAX))
    return (region - 1).bit_length()


def open_log(
    state: Path,
    book: Ledger,
    record: VolumeRecord,
    run: str,
    *,
    region: int = limits.INTENT_REGION_MIN,
    platform: Platform = HERE,
) -> Opened:
    """The log of a volume for this run.  LedgerError: it cannot be made, or the one before cannot
    be read."""
    shift = region_shift(record, region)
    size = native.Intent.log_bytes(record.size, shift)
    path, lost = path_in(state, record.name, run), None
    if is_harmed(record.data):
        lost, bits = f"volume {record.name}: its data store was harmed", b"\xff" * size
    elif book.clean:
        bits = _bits(_regions(book, record, shift), size)
    else:
        before = path_in(state, record.name, book.run)
        data = runlog.read(before, platform)
        lost = _unfit(before, data, _head(book, record, book.run, shift), size)
        if not lost and runlog.is_copy(before, book.logs, platform):
            lost = f"{before}: a copy of the intent log, which may be an older one"
        bits = b"\xff" * size if lost or not data else data[_PAGE:]
    try:
        durable.replace(path, _head(book, record, run, shift) + bits, platform)
        fd = platform.open(path, os.O_RDWR)
        name = below.file_id(fd, platform)
        store = platform.file_store(fd, _PAGE + size)
        return Opened(native.Intent(store, _PAGE, record.size, shift), name, lost)
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}: {mend(error)}", error.errno or 0) from error
    except durable.Doubt as doubt:
        raise LedgerError(f"{doubt}: mend that") from doubt


def _head(book: Ledger, record: VolumeRecord, run: str, shift: int) -> bytes:
    lineage = book.lineage.id if book.lineage else ""
    head = _HEAD.pack(
        _MAGIC, _VERSION, shift, record.size, book.site.encode(), lineage.encode(), run.encode()
    )
    return (head + _CRC.pack(zlib.crc32(head))).ljust(_PAGE, b"\0")


def _unfit(path: Path, data: bytes | None, head: bytes, size: int) -> str | None:
    """Why these bytes tell nothing of the run before; None: they do."""
    if data is None:
        return f"{path}: the intent log is missing"
    if data[:_PAGE] != head or len(data) != _PAGE + size:
        return f"{path}: not the intent log of this volume and run, or damaged"
    return None


def _regions(book: Ledger, record: VolumeRecord, shift: int) -> Iterable[tuple[int, int]]:
    """First and last region of each run of `next`."""
    changed = book.maps.get(f"{record.name}/next", BitMap64())
    for first, count in struct.iter_unpack("=QQ", flashcopy.packed_runs_of(changed)):
        yield (
            first * record.block_size >> shift,
            ((first + count) * record.block_size - 1) >> shift,
        )


def _bits(regions: Iterable[tuple[int, int]], size: int) -> bytes:
    """One bit a region, the lowest of each byte first (native/intent.h; little-endian words)."""
    bits, done = bytearray(size), 0  # regions before `done` are looked at
    for first, last in regions:
        for region in range(max(first, done), last + 1):
            bits[region >> 3] |= 1 << (region & 7)
        done = last + 1
    return bytes(bits)
