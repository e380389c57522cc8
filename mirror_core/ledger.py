"""The durable record of a site: role, lineage, sequences, maps.  Atomic, checksummed, versioned.

One file, replaced whole (durable.py): a reader finds the old record or the new one, never a part.

    flashmirror-ledger VERSION SHA256 BYTES\\n
    {json head}\\n
    maps, one after another, in the portable form of roaring bitmaps

Invariants.  What the head says is of one moment: a commit is one replacement (I3).  A file that
is damaged, foreign or of another version is refused with what is wrong, never guessed at (I7).

`clean` tells whether the maps are those of an orderly stop; if it is False a source's are in
shared memory (mapfile.py) or, coarsely, in its intent log.
"""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pyroaring import BitMap64

from mirror_core import durable
from mirror_core.errors import LedgerError, line
from mirror_core.platform import HERE, Platform

VERSION = 1
_MAGIC = "flashmirror-ledger"
_ENCODER = json.JSONEncoder(default=vars, check_circular=False)
Role = Literal["source", "target"]


@dataclass(frozen=True)
class Lineage:
    """A data history: `parent` and `forked_at` (a sequence) say where it left another."""

    id: str
    parent: str | None = None
    forked_at: int = 0


@dataclass(frozen=True)
class StoreRecord:
    """What a store was when it was taken in: enough to notice that it is another one."""

    kind: str  # file, device or nbd
    identity: str  # inode, device number or URI
    fingerprint: str | None = None  # of samples of its bytes at the last orderly stop


@dataclass(frozen=True)
class VolumeRecord:
    name: str
    size: int
    block_size: int
    data: StoreRecord
    intermediate: StoreRecord


@dataclass(frozen=True)
class Ledger:
    site: str  # random id of the site itself
    name: str
    role: Role
    lineage: Lineage | None  # None: a target that has not met its source yet
    volumes: tuple[VolumeRecord, ...]
    begun: int = 0  # the highest sequence ever begun (source)
    committed: int = 0  # the highest sequence committed; 0: none
    consistency_point: float | None = None  # of `committed`, Unix seconds
    hardened: int = 0  # the highest sequence whole in the target's data stores
    whole: bool = False  # target: image(committed) can be produced
    seeded: bool = False  # target: not whole, but its data stores hold a copy to compare with
    paused: bool = False
    clean: bool = True
    run: str = ""  # random id of the run whose maps are in shared memory (mapfile.py)
    maps: dict[str, BitMap64] = field(default_factory=dict)  # "VOLUME/next" and so on


def image(ledger: Ledger, volume: str, block: int) -> Literal["intermediate", "data"]:
    """Which store of a target holds a block of image(committed): invariant I1."""
    pending = ledger.maps.get(f"{volume}/pending")
    return "intermediate" if pending is not None and block in pending else "data"


def encode(ledger: Ledger) -> bytes:
    """The file's bytes."""
    head = dict(vars(ledger))
    blobs = {key: bitmap.serialize() for key, bitmap in sorted(ledger.maps.items()) if bitmap}
    head["maps"] = {key: len(blob) for key, blob in blobs.items()}
    payload = _ENCODER.encode(head).encode() + b"\n" + b"".join(blobs.values())
    first = f"{_MAGIC} {VERSION} {hashlib.sha256(payload).hexdigest()} {len(payload)}\n"
    return first.encode() + payload


def decode(data: bytes, where: str) -> Ledger:
    """The record in the file's bytes.  LedgerError says what is wrong with them."""
    first, _, payload = data.partition(b"\n")
    words = first.decode(errors="replace").split(" ")
    if words[0] != _MAGIC or len(words) != 4:
        raise LedgerError(f"{where}: not a flashmirror ledger: restore it or create the site anew")
    if words[1] != str(VERSION):
        raise LedgerError(
            f"{where}: ledger version {words[1]!r}, this program reads {VERSION}: use the program "
            "that wrote it"
        )
    if hashlib.sha256(payload).hexdigest() != words[2] or str(len(payload)) != words[3]:
        raise LedgerError(f"{where}: the ledger is damaged (checksum): restore it from a backup")
    try:
        return _decode_payload(payload)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(
            f"{where}: the ledger makes no sense ({line(str(error))}): restore it from a backup"
        ) from error


def _decode_payload(payload: bytes) -> Ledger:
    text, _, blobs = payload.partition(b"\n")
    head: dict[str, Any] = json.loads(text)
    maps, at = {}, 0
    for key, length in head.pop("maps").items():
        maps[key] = BitMap64.deserialize(blobs[at : at + length])
        at += length
    lineage = head.pop("lineage")
    volumes = tuple(
        VolumeRecord(
            **{
                **volume,
                "data": StoreRecord(**volume["data"]),
                "intermediate": StoreRecord(**volume["intermediate"]),
            }
        )
        for volume in head.pop("volumes")
    )
    if head["role"] not in ("source", "target"):
        raise ValueError(f"role {head['role']!r}")
    return Ledger(
        **head, lineage=Lineage(**lineage) if lineage else None, volumes=volumes, maps=maps
    )


def path_in(state: Path) -> Path:
    return state / "ledger"


def load(state: Path, platform: Platform = HERE) -> Ledger:
    """The site's ledger.  LedgerError: there is none, or it is not to be trusted."""
    path = path_in(state)
    try:
        data = platform.read(path)
    except FileNotFoundError as error:
        raise LedgerError(
            f"{path}: there is no ledger: run 'flashmirror create' first", errno.ENOENT
        ) from error
    except OSError as error:
        raise LedgerError(
            f"{path}: {error.strerror}: run as the user that the site belongs to, or mend that",
            error.errno or errno.EIO,
        ) from error
    return decode(data, str(path))


def save(state: Path, ledger: Ledger, platform: Platform = HERE) -> None:
    """Replace the ledger durably.  OSError: the old one stands.  Doubt: durable.py."""
    durable.replace(path_in(state), encode(ledger), platform)
