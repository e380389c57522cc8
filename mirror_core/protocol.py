"""The records that sites and commands exchange over the control export.  Pure.

One connection carries one request: a JSON record written at offset 0, its answer read at 0,
padded with zero bytes to CONTROL_BYTES.  Every record, so also a handshake and its answer, names
the protocol's version; one of another version, or one that is not a record at all, is refused with
a reason.  Both sides say the same of two versions: neither has to understand the other for it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from mirror_core import limits
from mirror_core.errors import Malformed, OtherVersion, short

VERSION = 2  # 1: no `site` in a handshake
Record = dict[str, Any]
T = TypeVar("T")
_NUMBERS = 1 << 63
LINEAGE_PATTERN = "[0-9a-f]{32}"


def encode(record: Record) -> bytes:
    """The bytes of a record, not padded.  At most CONTROL_BYTES (asserted: we made it)."""
    data = json.dumps({"flashmirror": VERSION, **record}).encode()
    assert len(data) <= limits.CONTROL_BYTES, "a control record outgrew its bound"
    return data


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")  # JSON has no NaN and no Infinity


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def decode(data: bytes) -> Record:
    """The record in padded bytes.  Malformed: it is none; OtherVersion."""
    try:
        record = _DECODER.decode(data.rstrip(b"\0").decode())
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(record, dict):
        raise Malformed("not an object")
    version = record.pop("flashmirror", None)
    if type(version) is not int or not 0 <= version < _NUMBERS:
        raise Malformed(f"no protocol version: {short(version)}")
    if version != VERSION:
        raise OtherVersion(version, VERSION)
    return record


def field(record: Record, key: str, kind: type[T]) -> T:
    """A field of the record, of that type; a number is from 0 to 2**63 - 1, and a float may be
    written as an int.  Malformed if it is not there or another."""
    value: Any = record.get(key)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (kind in (int, float) and not 0 <= value < _NUMBERS):
        raise Malformed(f"{key}: {short(value)}")
    return cast(T, float(value)) if kind is float else cast(T, value)


def _matching(record: Record, key: str, pattern: str) -> str:
    value = field(record, key, str)
    if not re.fullmatch(pattern, value):
        raise Malformed(f"{key}: {short(value)}")
    return value


@dataclass(frozen=True)
class VolumeShape:
    name: str
    size: int
    block_size: int


@dataclass(frozen=True)
class Handshake:
    """Source -> target: opens a session (I8); one that goes on with cycle `resumes`, unless 0,
    of which it relies on what was stable at request `stable`.

    site   the source's id, which it keeps for life (ledger.py): one that was restarted is let in
           again, another one is not while the first is connected
    """

    name: str
    lineage: str
    session: int
    volumes: tuple[VolumeShape, ...]
    site: str
    resumes: int = 0
    stable: int = 0

    def record(self) -> Record:
        return {"op": "handshake", **vars(self), "volumes": [vars(v) for v in self.volumes]}

    @classmethod
    def of(cls, record: Record) -> Handshake:
        shapes = []
        volumes = field(record, "volumes", list)
        if len(volumes) > limits.VOLUMES_MAX:
            raise Malformed(f"{len(volumes)} volumes")
        for item in volumes:
            if not isinstance(item, dict):
                raise Malformed("volumes")
            shapes.append(
                VolumeShape(
                    _matching(item, "name", limits.NAME_PATTERN), field(item, "size", int),
                    field(item, "block_size", int),
                )
            )  # fmt: skip
        return cls(
            _matching(record, "name", limits.NAME_PATTERN),
            _matching(record, "lineage", LINEAGE_PATTERN),
            field(record, "session", int), tuple(shapes),
            _matching(record, "site", limits.NAME_PATTERN),
            field(record, "resumes", int), field(record, "stable", int),
        )  # fmt: skip


@dataclass(frozen=True)
class Welcome:
    """The target's answer to a handshake.

    whole   image(committed) can be produced; if not, every block must be sent
    blank   the data stores hold nothing but holes: of a source's blocks only those
            that hold data need to be sent
    seeded  they hold a copy that came by other means: what is equal need not be sent
    point   of `committed`, Unix seconds; 0: there is none
    resumed what was stable of the cycle that the source goes on with counts as written
    """

    name: str
    instance: str
    committed: int
    hardened: int
    whole: bool
    blank: bool
    seeded: bool
    point: float
    resumed: bool

    def record(self) -> Record:
        return dict(vars(self))

    @classmethod
    def of(cls, record: Record) -> Welcome:
        return cls(
            _matching(record, "name", limits.NAME_PATTERN), field(record, "instance", str),
            field(record, "committed", int), field(record, "hardened", int),
            field(record, "whole", bool), field(record, "blank", bool),
            field(record, "seeded", bool), field(record, "point", float),
            field(record, "resumed", bool),
        )  # fmt: skip


@dataclass(frozen=True)
class Compare:
    """Source -> target: which of these pieces does the second intermediate hold already?

    sequence   what the cycle under way is to commit
    runs       (first block, blocks)
    sums       checksums of their pieces, one after another (compare.py)
    """

    session: int
    sequence: int
    volume: str
    runs: tuple[tuple[int, int], ...]
    sums: bytes

    def record(self) -> Record:
        sums = base64.b64encode(self.sums).decode()
        return {"op": "compare", **vars(self), "sums": sums}

    def wire_bytes(self) -> int:
        """Of the question and its answer, about."""
        return len(encode(self.record())) + limits.ANSWER_BYTES

    @classmethod
    def of(cls, record: Record) -> Compare:
        runs = []
        for run in field(record, "runs", list):
            if not isinstance(run, list) or len(run) != 2:
                raise Malformed("runs")
            pair = {"first": run[0], "count": run[1]}
            runs.append((field(pair, "first", int), field(pair, "count", int)))
        try:
            sums = base64.b64decode(field(record, "sums", str), validate=True)
        except (ValueError, binascii.Error) as error:
            raise Malformed("sums") from error
        volume = _matching(record, "volume", limits.NAME_PATTERN)
        session, sequence = field(record, "session", int), field(record, "sequence", int)
        return cls(session, sequence, volume, tuple(runs), sums)


def bits_of(record: Record, key: str, count: int) -> list[bool]:
    """A field that holds `count` yes or no, as text of 0 and 1.  Malformed."""
    text = field(record, key, str)
    if len(text) != count or set(text) - {"0", "1"}:
        raise Malformed(f"{key}: {short(text)}")
    return [c == "1" for c in text]


@dataclass(frozen=True)
class Stable:
    """Source -> target: flush what cycle `sequence` has written so far, and remember it.
    `serial` tells one request from the next; it is asked again until it is done."""

    session: int
    sequence: int
    serial: int

    def record(self) -> Record:
        return {"op": "stable", **vars(self)}

    @classmethod
    def of(cls, record: Record) -> Stable:
        return cls(
            field(record, "session", int), field(record, "sequence", int),
            field(record, "serial", int),
        )  # fmt: skip


@dataclass(frozen=True)
class Commit:
    """Source -> target: what this session wrote up to here is consistency point `sequence`."""

    lineage: str
    session: int
    sequence: int
    consistency_point: float

    def record(self) -> Record:
        return {"op": "commit", **vars(self)}

    @classmethod
    def of(cls, record: Record) -> Commit:
        return cls(
            field(record, "lineage", str), field(record, "session", int),
            field(record, "sequence", int), field(record, "consistency_point", float),
        )  # fmt: skip
