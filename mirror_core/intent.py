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

from mirror_core import durable, limits, native
from mirror_core.errors import LedgerError
from mirror_core.ledger import VolumeRecord
from mirror_core.platform import HERE, Platform

_PAGE = 4096
_HEAD = struct.Struct("<8sIIQ32s")  # magic, version, region shift, volume's bytes, site
_CRC = struct.Struct("<I")
_MAGIC = b"fmINTENT"
_VERSION = 1


def path_in(state: Path, volume: str) -> Path:
    return state / f"{volume}.intent"


def region_shift(record: VolumeRecord, least: int) -> int:
    """log2 of the bytes of a region, `least` at least."""
    least = max(least, record.block_size)
    region = max(least, -(-record.size // limits.INTENT_REGIONS_MAX))
    return (region - 1).bit_length()


def _head(site: str, record: VolumeRecord, shift: int) -> bytes:
    head = _HEAD.pack(_MAGIC, _VERSION, shift, record.size, site.encode())
    return (head + _CRC.pack(zlib.crc32(head))).ljust(_PAGE, b"\0")


def open_log(
    state: Path,
    site: str,
    record: VolumeRecord,
    *,
    clean: bool,
    region: int = limits.INTENT_REGION_MIN,
    platform: Platform = HERE,
) -> native.Intent:
    """The log of a volume; a missing one is made.  LedgerError."""
    path = path_in(state, record.name)
    shift = region_shift(record, region)
    size = _PAGE + native.Intent.log_bytes(record.size, shift)
    head = _head(site, record, shift)
    try:
        fresh = not platform.exists(path)
        if fresh:
            durable.replace(path, head.ljust(size, b"\0"), platform)
        found = platform.read(path)
        if len(found) != size or found[:_PAGE] != head:
            raise LedgerError(
                f"{path}: not the intent log of this volume, or damaged: restore it, or remove it "
                "and everything is sent again"
            )
        fd = platform.open(path, os.O_RDWR)
        log = native.Intent(platform.file_store(fd, size), _PAGE, record.size, shift)
        if fresh and not clean:
            log.heat_all()
        return log
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error
    except durable.Doubt as doubt:
        raise LedgerError(f"{doubt}: mend that") from doubt
