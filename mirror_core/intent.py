"""Where a source's intent logs live: one file a volume, which native/intent.[ch] writes.

    STATE/VOLUME.intent     a page that says what it is, then one bit a region

Invariants.  A log is made whole, durably, before it is used (rename(2)).  One that is missing
after an end without order knows nothing, so everything is hot; one that is not ours, or of
another shape, is refused (I7).

Left out: checksums of the bits.  They are written in place, a page at a time, and a torn page
has a bit too many at most.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from mirror_core import limits, native
from mirror_core.errors import LedgerError
from mirror_core.ledger import VolumeRecord

_PAGE = 4096
_HEAD = struct.Struct("<8sIIQ32s")  # magic, version, region shift, volume's bytes, site
_CRC = struct.Struct("<I")
_MAGIC = b"fmINTENT"
_VERSION = 1


def path_in(state: Path, volume: str) -> Path:
    return state / f"{volume}.intent"


def region_shift(record: VolumeRecord) -> int:
    """log2 of the bytes of a region."""
    least = max(limits.INTENT_REGION_MIN, record.block_size)
    region = max(least, -(-record.size // limits.INTENT_REGIONS_MAX))
    return (region - 1).bit_length()


def _head(site: str, record: VolumeRecord) -> bytes:
    head = _HEAD.pack(_MAGIC, _VERSION, region_shift(record), record.size, site.encode())
    return (head + _CRC.pack(zlib.crc32(head))).ljust(_PAGE, b"\0")


def open_log(state: Path, site: str, record: VolumeRecord, *, clean: bool) -> native.Intent:
    """The log of a volume; a missing one is made.  LedgerError."""
    path = path_in(state, record.name)
    shift = region_shift(record)
    size = _PAGE + native.Intent.log_bytes(record.size, shift)
    try:
        fresh = not path.exists()
        if fresh:
            _make(path, _head(site, record).ljust(size, b"\0"))
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(fd).st_size != size or os.pread(fd, _PAGE, 0) != _head(site, record):
            os.close(fd)
            raise LedgerError(
                f"{path}: not the intent log of this volume, or damaged: restore it, or remove it "
                "and everything is sent again"
            )
        log = native.Intent(native.Store.file(fd, size), _PAGE, record.size, shift)
        if fresh and not clean:
            log.heat_all()
        return log
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error


def _make(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
