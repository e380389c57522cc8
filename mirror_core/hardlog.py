"""What has left the ledger's `pending` maps since the last commit: a log beside the ledger.

A hardening must be durable before a writer overwrites what it covered (I2).  Writing the whole
ledger each time would cost as much as its maps are large, so a hardening appends one record: for
each volume the runs of blocks that are whole in `data` now.

    record   magic, serial, sequence, length of the body, CRC-32 of all; body: volume, runs

    pending2 on disk = the ledger's `pending` of `sequence`, less the log's runs of that sequence

Invariants.  `append` returns when the record is durable, and only then may a covered block be
overwritten.  Records of another sequence mean nothing: a commit voids the log without touching
it.  A torn record can only be the last (nothing was promised for it); one that is damaged, or
missing, before a good one of this sequence is refused (I7).

Left out: removing one block twice, which is harmless, and compaction: a commit begins anew.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pyroaring import BitMap64

from mirror_core.errors import LedgerError
from mirror_core.ledger import Ledger

_HEAD = struct.Struct("<8sQQI")  # magic, serial, sequence, bytes of the body
_CRC = struct.Struct("<I")  # of the head and the body
_START = _HEAD.size + _CRC.size
_MAGIC = b"fmHARD\r\n"
_PART = struct.Struct("<IQ")  # in the body, for each volume: its number, its runs; then the runs
_RUN = struct.Struct("<QQ")  # first block, blocks


def path_in(state: Path) -> Path:
    return state / "hardened"


class HardLog:
    """The log of one running site, written by one thread."""

    def __init__(self, state: Path) -> None:
        """OSError: it cannot be made."""
        self._fd = os.open(path_in(state), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._sequence = self._serial = self._end = 0

    def append(self, sequence: int, hardened: Mapping[int, bytes]) -> None:
        """Make durable that these runs (packed pairs, by number of volume) are hardened.
        OSError: it may or may not be; the ledger itself must be written next (`restart`)."""
        if sequence != self._sequence:
            self.restart(sequence)
        body = b"".join(
            _PART.pack(volume, len(runs) // _RUN.size) + runs for volume, runs in hardened.items()
        )
        head = _HEAD.pack(_MAGIC, self._serial, sequence, len(body))
        record = head + _CRC.pack(zlib.crc32(head + body)) + body
        written = os.pwrite(self._fd, record, self._end)
        if written != len(record):
            raise OSError(28, "short write")
        os.fdatasync(self._fd)
        self._serial += 1
        self._end += len(record)

    def restart(self, sequence: int) -> None:
        """Forget everything: the ledger says it all."""
        os.ftruncate(self._fd, 0)
        self._sequence, self._serial, self._end = sequence, 0, 0

    def close(self) -> None:
        os.close(self._fd)


def recover(state: Path, book: Ledger) -> Ledger:
    """The ledger with its `pending` maps as they are on disk now (I1).  LedgerError."""
    hardened = [BitMap64() for _ in book.volumes]
    for volume, first, count in replay(state, book.committed):
        if volume >= len(hardened) or (first + count - 1) * book.volumes[volume].block_size >= (
            book.volumes[volume].size
        ):
            raise LedgerError(f"{path_in(state)}: the log of another site: restore its own")
        hardened[volume].add_range(first, first + count)
    maps = dict(book.maps)
    for record, gone in zip(book.volumes, hardened, strict=True):
        key = f"{record.name}/pending"
        if key in maps:
            maps[key] = maps[key] - gone
    return replace(book, maps=maps)


def replay(state: Path, sequence: int) -> list[tuple[int, int, int]]:
    """(volume, first block, blocks) that were hardened since the commit of `sequence`.
    LedgerError: the log is damaged."""
    path = path_in(state)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error
    found: list[tuple[int, int, int]] = []
    at = serial = 0
    while at < len(data):
        body = _record(data, at, sequence, serial)
        if body is None:
            _refuse_damage(path, data, at, sequence, serial)
            break
        found += _runs(body)
        at += _START + len(body)
        serial += 1
    return found


def _record(data: bytes, at: int, sequence: int, serial: int) -> bytes | None:
    """The body of the record at `at`, if there is a whole one of the sequence with that serial."""
    if len(data) - at < _START:
        return None
    magic, number, of, length = _HEAD.unpack_from(data, at)
    if (magic, of, number) != (_MAGIC, sequence, serial) or len(data) - at - _START < length:
        return None
    head, body = data[at : at + _HEAD.size], data[at + _START : at + _START + length]
    (crc,) = _CRC.unpack_from(data, at + _HEAD.size)
    return body if zlib.crc32(head + body) == crc else None


def _refuse_damage(path: Path, data: bytes, at: int, sequence: int, serial: int) -> None:
    """A torn record is the last one: behind one that is damaged, or gone, stands a good one."""
    later = data.find(_MAGIC, at)
    while later >= 0:
        if len(data) - later >= _START:
            number = _HEAD.unpack_from(data, later)[1]
            if number >= serial and _record(data, later, sequence, number) is not None:
                raise LedgerError(f"{path}: the log is damaged at byte {at}: restore the state "
                                  "folder, or create the target anew")  # fmt: skip
        later = data.find(_MAGIC, later + 1)


def _runs(body: bytes) -> list[tuple[int, int, int]]:
    found, at = [], 0
    while at < len(body):
        volume, count = _PART.unpack_from(body, at)
        at += _PART.size
        end = at + count * _RUN.size
        found += [(volume, first, n) for first, n in _RUN.iter_unpack(body[at:end])]
        at = end
    return found
