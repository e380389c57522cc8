"""Runs of blocks made durable record by record: a log beside the ledger, for one sequence.

Writing the whole ledger each time would cost as much as its maps are large, so what changes in
a map between two ledgers is appended: for each numbered set the runs of blocks that joined it.

    STATE/KIND.RUN   one file for each run of the site (run: random, in the ledger)
    record           magic, version, kind, history, serial, mark, bytes of the body, CRC-32 of all;
                     body: for each set its number, how many runs, the runs
    history          site, lineage, sequence and its token (ledger.py)

The mark of a record is its writer's.

Invariants.  The file stands, durably, before the ledger names its run, so that one that is missing
is known to be.  When `append` returns the record is durable.  Records of another history mean
nothing: the log begins anew with the first record of the next.  A torn record can only be the
last (nothing was promised for it); one that is damaged, or missing, before a good one of this
history is refused (I7).

A copy of the file, put back in its place, may be older than what it stands for: the ledger has what
the file is known again by (below.file_id), and a copy has another one.  If somebody has taken it
away, another file is made beside its place, and comes there once the ledger knows that (`tell`):
none that a kill leaves there is taken for a copy.

Left out: recording one block twice, which is harmless, and compaction.  Not noticed: older bytes
that are written into the file itself, or come back with its whole file system.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirror_core import below, durable
from mirror_core.errors import LedgerError
from mirror_core.platform import HERE, Platform

# magic, version, kind, site, lineage, sequence, token, serial, mark, bytes of the body
_HEAD = struct.Struct("<8sI12s32s32sQ32sQQI")
_CRC = struct.Struct("<I")  # of the head and the body
_START = _HEAD.size + _CRC.size
_MAGIC = b"fmRUNS\r\n"
_VERSION = 2
_PART = struct.Struct("<IQ")  # in the body, for each set: its number, its runs; then the runs
_RUN = struct.Struct("<QQ")  # first block, blocks


@dataclass(frozen=True)
class History:
    """What a record is about: of which site, data history and consistency point or cycle."""

    kind: str  # of log
    site: str
    lineage: str
    sequence: int = 0
    token: str = ""


def path_in(state: Path, kind: str, run: str) -> Path:
    return state / f"{kind}.{run}"


class RunLog:
    """A log in use, written by one thread at a time."""

    def __init__(self, state: Path, kind: str, run: str, platform: Platform = HERE) -> None:
        """A new file.  OSError: it cannot be made."""
        # Of what the next file is to be known again by
        self.tell: Callable[[tuple[str, ...]], object] = lambda _: None
        self._platform = platform
        self.path = path_in(state, kind, run)
        self._fd = self._made()
        self.ids = _ids(self._fd, platform)  # what a ledger is to know it again by
        self._history: History | None = None
        self._serial = self._end = 0
        self._may_be_whole = False  # on the disk: it was cut, and the flush of that failed

    def _made(self) -> int:
        """OSError."""
        known = self._platform.losses()
        fd = self._platform.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            durable.sync_folder(self.path.parent, known, self._platform)
        except OSError:
            self._platform.close(fd)
            raise
        return fd

    def is_in_place(self) -> bool:
        """Whether who looks for it finds it, or somebody has taken it away, or put another one
        there.  OSError: that is not known."""
        return self._platform.leads_to(self.path, self._fd)

    def put_in_place(self) -> None:
        """An empty one, if it is not there: of use after a ledger that says all that it has said.
        OSError; and what `tell` raises."""
        if self.is_in_place():
            return
        known = self._platform.losses()
        beside = self.path.with_name(self.path.name + durable.FRESH)
        fresh = self._platform.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            ids = _ids(fresh, self._platform)
            self.tell(ids)
            self._platform.rename(beside, self.path)
            durable.sync_folder(self.path.parent, known, self._platform)
        except Exception:
            self._platform.close(fresh)
            raise
        self._platform.close(self._fd)
        self._fd, self.ids, self._may_be_whole = fresh, ids, False
        self._history, self._serial, self._end = None, 0, 0

    def append(self, history: History, sets: Mapping[int, bytes], mark: int = 0) -> None:
        """Make durable that these runs (packed pairs, by number of the set) are in their sets.
        OSError, and what `tell` raises: it may or may not be, and the next record takes its
        place."""
        known = self._platform.losses()
        if history != self._history:
            self.restart(history)
        body = b"".join(
            _PART.pack(number, len(runs) // _RUN.size) + runs for number, runs in sets.items()
        )
        head = _head(history, self._serial, mark, len(body))
        record = head + _CRC.pack(zlib.crc32(head + body)) + body
        durable.write(self._fd, record, self._end, self._platform)
        self._platform.fdatasync(self._fd, known)
        self._may_be_whole = False
        self._serial += 1
        self._end += len(record)

    def restart(self, history: History) -> None:
        """Forget everything, and begin anew, in a file that the next start finds.  OSError; and
        what `tell` raises.

        Records of the same history are gone durably before: if a power loss took the cut back, but
        not the first record behind it, they would tell of a damage that there is not."""
        self.put_in_place()
        if history == self._history or self._may_be_whole:
            self.forget()
        else:
            self._cut()
        self._history = history

    def _cut(self) -> None:
        self._platform.ftruncate(self._fd, 0)
        self._history, self._serial, self._end = None, 0, 0

    def forget(self) -> None:
        """Forget everything, durably.  OSError."""
        known = self._platform.losses()
        if self._may_be_whole:  # a flush is not to be believed after that: another change is
            self._platform.ftruncate(self._fd, 1)
        self._may_be_whole = True
        self._cut()
        self._platform.fdatasync(self._fd, known)
        self._may_be_whole = False

    def close(self) -> None:
        self._platform.close(self._fd)


def _ids(fd: int, platform: Platform) -> tuple[str, ...]:
    """Empty: nothing tells it from a copy."""
    return tuple(filter(None, [below.file_id(fd, platform)]))


def _head(history: History, serial: int, mark: int, length: int) -> bytes:
    return _HEAD.pack(
        _MAGIC, _VERSION, history.kind.encode(), history.site.encode(), history.lineage.encode(),
        history.sequence, history.token.encode(), serial, mark, length,
    )  # fmt: skip


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")


def read(path: Path, platform: Platform = HERE) -> bytes | None:
    """The file's bytes; None: there is none.  LedgerError: it cannot be read."""
    try:
        return platform.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error


def is_copy(path: Path, known: Sequence[str], platform: Platform = HERE) -> bool:
    """Whether another file stands there than one of those that a ledger knows; no: that is not to
    be told, or there is none.  LedgerError: it cannot be opened."""
    if not known:
        return False
    try:
        fd = platform.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error
    try:
        found = below.file_id(fd, platform)
    finally:
        platform.close(fd)
    return found != "" and found not in known


def history_of(data: bytes) -> History | None:
    """Whose records the log holds; None: it holds none."""
    if len(data) < _START:
        return None
    _, _, kind, site, lineage, sequence, token, _, _, _ = _HEAD.unpack_from(data)
    history = History(_text(kind), _text(site), _text(lineage), sequence, _text(token))
    return history if _record(data, 0, history, 0) is not None else None


# Number of the set, runs as they are packed: there may be tens of millions, so that no object is
# made of each.
Part = tuple[int, memoryview]


def records(path: Path, data: bytes, history: History) -> list[tuple[int, list[Part]]]:
    """The records of that history: mark, parts.  LedgerError: damaged."""
    found: list[tuple[int, list[Part]]] = []
    at = serial = 0
    while at < len(data):
        body = _record(data, at, history, serial)
        if body is None:
            _refuse_damage(path, data, at, history, serial)
            break
        found.append((int(_HEAD.unpack_from(data, at)[8]), _parts(body)))
        at += _START + len(body)
        serial += 1
    return found


def _record(data: bytes, at: int, history: History, serial: int) -> memoryview | None:
    """The body of the record at `at`, if there is a whole one of the history with that serial."""
    if len(data) - at < _START:
        return None
    mark, length = _HEAD.unpack_from(data, at)[8:]
    head = data[at : at + _HEAD.size]
    body = memoryview(data)[at + _START : at + _START + length]
    if head != _head(history, serial, mark, length) or len(body) < length:
        return None
    (crc,) = _CRC.unpack_from(data, at + _HEAD.size)
    return body if zlib.crc32(body, zlib.crc32(head)) == crc else None


def _refuse_damage(path: Path, data: bytes, at: int, history: History, serial: int) -> None:
    """A torn record is the last one: behind one that is damaged, or gone, stands a good one."""
    later = data.find(_MAGIC, at)
    while later >= 0:
        if len(data) - later >= _START:
            number = _HEAD.unpack_from(data, later)[7]
            if number >= serial and _record(data, later, history, number) is not None:
                raise LedgerError(
                    f"{path}: the log is damaged at byte {at}: restore the state folder, or give "
                    "up the image: 'flashmirror resync --full'"
                )
        later = data.find(_MAGIC, later + 1)


def _parts(body: memoryview) -> list[Part]:
    found: list[Part] = []
    at = 0
    while at < len(body):
        number, count = _PART.unpack_from(body, at)
        at += _PART.size
        end = at + count * _RUN.size
        found.append((number, body[at:end]))
        at = end
    return found
