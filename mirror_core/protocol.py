"""The records that sites and commands exchange over the control export.  Pure.

One connection carries one request at a time: a JSON record written at offset 0, its answer read at
0, padded with zero bytes to CONTROL_BYTES.  Every record names the version that it is written in,
and an answer has that of its request.  Who asks begins with the highest version that he knows; a
site that does not know it refuses with its own, and the other goes on in that one if he knows it:
so two sites agree on the highest version that both know (peer.py).  If there is none, both say so
in the same words: neither has to understand the other for it.

The fields of each record stand in a table (fields.py), with the version that they came with.

    2   the first
    3   tokens: a sequence is known by its number and a token, a source by its run (ledger.py)
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from mirror_core import fields, limits
from mirror_core.errors import Malformed, OtherVersion, short
from mirror_core.fields import (
    FLAG,
    LIST,
    NUMBER,
    RECORD,
    SECONDS,
    TEXT,
    Field,
    Kind,
    Table,
    matching,
    meaning,
    optional,
    several,
)

OLDEST, VERSION = 2, 3
TOKENS = 3  # the version that they came with
Record = dict[str, Any]
T = TypeVar("T")
LINEAGE_PATTERN = "[0-9a-f]{32}"


def encode(record: Record, version: int = VERSION) -> bytes:
    """The bytes of a record, not padded.  At most CONTROL_BYTES (asserted: we made it)."""
    data = json.dumps({"flashmirror": version, **record}).encode()
    assert len(data) <= limits.CONTROL_BYTES, "a control record outgrew its bound"
    return data


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")  # JSON has no NaN and no Infinity


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def decode(data: bytes, newest: int = VERSION) -> tuple[Record, int]:
    """The record in padded bytes, and its version.  Malformed: it is none; OtherVersion: it is none
    that is known here, the newest of which is `newest`."""
    try:
        record = _DECODER.decode(data.rstrip(b"\0").decode())
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(record, dict):
        raise Malformed("not an object")
    version = record.pop("flashmirror", None)
    if type(version) is not int or not 0 <= version < fields.NUMBERS:
        raise Malformed(f"no protocol version: {short(version)}")
    if not OLDEST <= version <= newest:
        raise OtherVersion(version, newest)
    return record, version


_KINDS: dict[type, Kind] = {
    str: TEXT, bool: FLAG, int: NUMBER, float: SECONDS, list: LIST, dict: RECORD
}  # fmt: skip


def field(record: Record, key: str, kind: type[T]) -> T:
    """A field of the record, of that type; a number is from 0 to 2**63 - 1, and a float may be
    written as an int.  Malformed if it is not there or another."""
    with _malformed():
        return cast(T, fields.take(record, key, _KINDS[kind]))


@contextlib.contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except fields.Unfit as error:
        raise Malformed(str(error)) from error


@dataclass(frozen=True)
class VolumeShape:
    name: str
    size: int
    block_size: int


@dataclass(frozen=True)
class Handshake:
    """Source -> target: opens a session (I8); one that goes on with the cycle `resumes`, unless 0,
    which is then `begun`, of which it relies on what was stable at request `stable`.

    site        the source's id, which it keeps for life (ledger.py): one that was restarted is let
                in again, another one is not while the first is connected
    run, runs   its running process; this one and those of which the target may have met the last:
                a target that has met another was continued by a copy of this source
    begun       the last sequence that a cycle of the source may have had
    committed   the last one that the source knows to be committed
    silence     how long it may be silent and is still there, seconds; 0: it does not say
    Version 2 has none of the last seven, which are not known then: "", (), None and 0.
    """

    name: str
    lineage: str
    session: int
    volumes: tuple[VolumeShape, ...]
    site: str
    resumes: int = 0
    stable: int = 0
    run: str = ""
    runs: tuple[str, ...] = ()
    begun: int | None = None
    begun_token: str = ""
    committed: int | None = None
    committed_token: str = ""
    silence: float = 0.0


@dataclass(frozen=True)
class Welcome:
    """The target's answer to a handshake.

    site    the target's id (ledger.py)
    whole   image(committed) can be produced; if not, every block must be sent
    blank   the data stores hold nothing but holes: of a source's blocks only those
            that hold data need to be sent
    seeded  they hold a copy that came by other means: what is equal need not be sent
    point   of `committed`, Unix seconds; 0: there is none
    resumed what was stable of the cycle that the source goes on with counts as written
    """

    name: str
    site: str
    committed: int
    hardened: int
    whole: bool
    blank: bool
    seeded: bool
    point: float
    resumed: bool
    committed_token: str = ""


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


@dataclass(frozen=True)
class Compared:
    """The target's answer: which pieces are equal, of the first that there was time for."""

    equal: tuple[bool, ...]


@dataclass(frozen=True)
class Look:
    """Source -> target: what is hardened?  Without a session (0) it only says that this source is
    there, by its name and its history.

    wait    for so many seconds, if not all is yet
    paused  the source is, because a person wants that
    """

    session: int
    wait: float
    paused: bool = False
    name: str | None = None
    lineage: str | None = None


@dataclass(frozen=True)
class Progress:
    """The target's answer to `Stable`, `Commit` and `Look`.

    done      what was asked for is durable; else it is to be asked again
    hardened  the last sequence that is whole in the data stores, durably, or one before
    reason    why the second flashcopy does not go on; None: it does
    """

    done: bool
    hardened: int
    reason: str | None = None


@dataclass(frozen=True)
class Who:
    """What `check` of the other site compares with its own."""

    site: str
    role: str
    volumes: tuple[VolumeShape, ...]


@dataclass(frozen=True)
class Stable:
    """Source -> target: flush what cycle `sequence` has written so far, and remember it.
    `serial` tells one request from the next; it is asked again until it is done."""

    session: int
    sequence: int
    serial: int
    token: str = ""


@dataclass(frozen=True)
class Commit:
    """Source -> target: what this session wrote up to here is consistency point `sequence`."""

    lineage: str
    session: int
    sequence: int
    consistency_point: float
    token: str = ""


def _read_run(value: Any) -> tuple[int, int]:
    if type(value) is not list or len(value) != 2:
        raise fields.Unfit(short(value))
    return NUMBER.read(value[0]), NUMBER.read(value[1])


def _read_bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(TEXT.read(value), validate=True)
    except binascii.Error as error:
        raise fields.Unfit(str(error)) from error


def _read_bits(value: Any) -> tuple[bool, ...]:
    return tuple(c == "1" for c in matching("[01]*").read(value))


_NAME = matching(limits.NAME_PATTERN)
_ROLE = matching("source|target")
_BITS = Kind(_read_bits, lambda bits, version: "".join("01"[bit] for bit in bits))
_TOKEN = matching("[0-9a-f]{0,32}")
_LINEAGE = matching(LINEAGE_PATTERN)
_RUN = Kind(_read_run, lambda run, version: list(run))
_BYTES = Kind(_read_bytes, lambda data, version: base64.b64encode(data).decode())
_SHAPE = Table(
    VolumeShape,
    Field("name", "name", _NAME),
    Field("size", "size", NUMBER),
    Field("block_size", "block_size", NUMBER),
)
_SHAPES = several(_SHAPE.kind(), limits.VOLUMES_MAX)
_HANDSHAKE = Table(
    Handshake,
    Field("name", "name", _NAME),
    Field("lineage", "lineage", _LINEAGE),
    Field("session", "session", NUMBER),
    Field("volumes", "volumes", _SHAPES),
    Field("site", "site", _NAME),
    Field("resumes", "resumes", NUMBER),
    Field("stable", "stable", NUMBER),
    Field("run", "run", _TOKEN, TOKENS, ""),
    Field("runs", "runs", several(_TOKEN, limits.RUNS_KNOWN), TOKENS, ()),
    Field("begun", "begun", optional(NUMBER), TOKENS),
    Field("begun_token", "begun_token", _TOKEN, TOKENS, ""),
    Field("committed", "committed", optional(NUMBER), TOKENS),
    Field("committed_token", "committed_token", _TOKEN, TOKENS, ""),
    Field("silence_seconds", "silence", SECONDS, TOKENS, 0.0),
)
_WELCOME = Table(
    Welcome,
    Field("name", "name", _NAME),
    Field("instance", "site", TEXT),
    Field("committed", "committed", NUMBER),
    Field("hardened", "hardened", NUMBER),
    Field("whole", "whole", FLAG),
    Field("blank", "blank", FLAG),
    Field("seeded", "seeded", FLAG),
    Field("point", "point", SECONDS),
    Field("resumed", "resumed", FLAG),
    Field("committed_token", "committed_token", _TOKEN, TOKENS, ""),
)
_COMPARE = Table(
    Compare,
    Field("session", "session", NUMBER),
    Field("sequence", "sequence", NUMBER),
    Field("volume", "volume", _NAME),
    Field("runs", "runs", several(_RUN, limits.COMPARE_RUNS)),
    Field("sums", "sums", _BYTES),
)
_STABLE = Table(
    Stable,
    Field("session", "session", NUMBER),
    Field("sequence", "sequence", NUMBER),
    Field("serial", "serial", NUMBER),
    Field("token", "token", _TOKEN, TOKENS, ""),
)
_COMMIT = Table(
    Commit,
    Field("lineage", "lineage", TEXT),
    Field("session", "session", NUMBER),
    Field("sequence", "sequence", NUMBER),
    Field("consistency_point", "consistency_point", SECONDS),
    Field("token", "token", _TOKEN, TOKENS, ""),
)
_COMPARED = Table(Compared, Field("equal", "equal", _BITS))
_LOOK = Table(
    Look,
    Field("session", "session", NUMBER),
    Field("wait", "wait", SECONDS),
    Field("paused", "paused", meaning(False, FLAG)),
    Field("name", "name", optional(_NAME)),
    Field("lineage", "lineage", optional(_LINEAGE)),
)
_PROGRESS = Table(  # builds before 0.1.0 say in each answer only what was asked for
    Progress,
    Field("done", "done", meaning(False, FLAG)),
    Field("hardened", "hardened", meaning(0, NUMBER)),
    Field("reason", "reason", optional(TEXT)),
)
_SHAPE_IN_BYTES = Table(
    VolumeShape,
    Field("name", "name", _NAME),
    Field("size_bytes", "size", NUMBER),
    Field("block_size_bytes", "block_size", NUMBER),
)
_WHO = Table(
    Who,
    Field("site", "site", _NAME),
    Field("role", "role", _ROLE),
    Field("volumes", "volumes", several(_SHAPE_IN_BYTES.kind(), limits.VOLUMES_MAX)),
)
_TABLES: dict[type, tuple[str, Table[Any]]] = {  # with the operation that a request names
    Handshake: ("handshake", _HANDSHAKE),
    Welcome: ("", _WELCOME),
    Compare: ("compare", _COMPARE),
    Compared: ("", _COMPARED),
    Stable: ("stable", _STABLE),
    Commit: ("commit", _COMMIT),
    Look: ("hardened", _LOOK),
    Progress: ("", _PROGRESS),
    Who: ("", _WHO),
}
Message = Handshake | Welcome | Compare | Compared | Stable | Commit | Look | Progress | Who
Request = Record | Handshake | Compare | Stable | Commit | Look
M = TypeVar("M", bound=Message)


def record_of(message: Message | Record, version: int = VERSION) -> Record:
    """As it is sent in that version."""
    if isinstance(message, dict):
        return message
    operation, table = _TABLES[type(message)]
    return {**({"op": operation} if operation else {}), **table.write(message, version)}


def read(kind: type[M], record: Record, version: int = VERSION) -> M:
    """Malformed."""
    with _malformed():
        return cast(M, _TABLES[kind][1].read(record, version))
