"""Runs of blocks made durable record by record: a log beside the ledger, for one sequence.

Writing the whole ledger each time would cost as much as its maps are large, so what changes in
a map between two ledgers is appended: for each numbered set the runs of blocks that joined it.

    record   magic, serial, sequence, mark, length of the body, CRC-32 of all; body: number, runs

The mark of a record is its writer's.

Invariants.  When `append` returns the record is durable.  Records of another sequence mean
nothing: the log begins anew with the first record of the next.  A torn record can only be the
last (nothing was promised for it); one that is damaged, or missing, before a good one of this
sequence is refused (I7).

Left out: recording one block twice, which is harmless, and compaction.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from mirror_core import durable
from mirror_core.errors import LedgerError
from mirror_core.platform import HERE, Platform

_HEAD = struct.Struct("<8sQQQI")  # magic, serial, sequence, mark, bytes of the body
_CRC = struct.Struct("<I")  # of the head and the body
_START = _HEAD.size + _CRC.size
_MAGIC = b"fmRUNS\r\n"
_PART = struct.Struct("<IQ")  # in the body, for each set: its number, its runs; then the runs
_RUN = struct.Struct("<QQ")  # first block, blocks


class RunLog:
    """A log in use, written by one thread at a time."""

    def __init__(self, path: Path, platform: Platform = HERE) -> None:
        """OSError: it cannot be made."""
        self._platform = platform
        self._fd = platform.open(path, os.O_RDWR | os.O_CREAT)
        try:
            durable.sync_folder(path.parent, platform)
        except OSError:
            platform.close(self._fd)
            raise
        self._sequence = self._serial = self._end = 0

    def append(self, sequence: int, sets: Mapping[int, bytes], mark: int = 0) -> None:
        """Make durable that these runs (packed pairs, by number of the set) are in their sets.
        OSError: it may or may not be, and the next record takes its place."""
        if sequence != self._sequence:
            self.restart(sequence)
        body = b"".join(
            _PART.pack(number, len(runs) // _RUN.size) + runs for number, runs in sets.items()
        )
        head = _HEAD.pack(_MAGIC, self._serial, sequence, mark, len(body))
        record = head + _CRC.pack(zlib.crc32(head + body)) + body
        durable.write(self._fd, record, self._end, self._platform)
        self._platform.fdatasync(self._fd)
        self._serial += 1
        self._end += len(record)

    def restart(self, sequence: int) -> None:
        """Forget everything."""
        self._platform.ftruncate(self._fd, 0)
        self._sequence, self._serial, self._end = sequence, 0, 0

    def close(self) -> None:
        self._platform.close(self._fd)


def _read(path: Path, platform: Platform) -> bytes:
    try:
        return platform.read(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error


def sequence_of(path: Path, platform: Platform = HERE) -> int:
    """Whose records the log holds, 0: it holds none.  LedgerError: it cannot be read."""
    data = _read(path, platform)
    if len(data) < _START:
        return 0
    sequence = int(_HEAD.unpack_from(data)[2])
    return sequence if _record(data, 0, sequence, 0) is not None else 0


Runs = list[tuple[int, int, int]]  # number of the set, first block, blocks


def replay(path: Path, sequence: int, platform: Platform = HERE) -> Runs:
    """All runs of `sequence`.  LedgerError: damaged."""
    return [run for _, runs in records(path, sequence, platform) for run in runs]


def records(path: Path, sequence: int, platform: Platform = HERE) -> list[tuple[int, Runs]]:
    """The records of `sequence`: mark, runs.  LedgerError: damaged."""
    data = _read(path, platform)
    found: list[tuple[int, Runs]] = []
    at = serial = 0
    while at < len(data):
        body = _record(data, at, sequence, serial)
        if body is None:
            _refuse_damage(path, data, at, sequence, serial)
            break
        found.append((int(_HEAD.unpack_from(data, at)[3]), _runs(body)))
        at += _START + len(body)
        serial += 1
    return found


def _record(data: bytes, at: int, sequence: int, serial: int) -> bytes | None:
    """The body of the record at `at`, if there is a whole one of the sequence with that serial."""
    if len(data) - at < _START:
        return None
    magic, number, of, _, length = _HEAD.unpack_from(data, at)
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


def _runs(body: bytes) -> Runs:
    found: Runs = []
    at = 0
    while at < len(body):
        number, count = _PART.unpack_from(body, at)
        at += _PART.size
        end = at + count * _RUN.size
        found += [(number, first, n) for first, n in _RUN.iter_unpack(body[at:end])]
        at = end
    return found
