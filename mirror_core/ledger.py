"""The durable record of a site: role, lineage, sequences, maps.  Atomic, checksummed, versioned.

One file, replaced whole (durable.py): a reader finds the old record or the new one, never a part.

    flashmirror-ledger VERSION SHA256 BYTES\\n
    {json head}\\n                the fields of the tables below
    maps, one after another, in the portable form of roaring bitmaps

Invariants.  What the head says is of one moment: a commit is one replacement (I3).  A file that
is damaged, foreign or of a later version is refused with what is wrong, never guessed at (I7).  A
sequence is known by its token too: a number alone could be used twice, by a site that was put back
to an older state or by a copy of it.

`clean` tells whether the maps are those of an orderly stop; if it is False a source's are in
shared memory (mapfile.py) or, coarsely, in its intent log.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pyroaring import BitMap64

from mirror_core import durable, limits, timeouts
from mirror_core.errors import LedgerError, line
from mirror_core.fields import (
    FLAG,
    NUMBER,
    SECONDS,
    TEXT,
    Field,
    Table,
    Unfit,
    matching,
    one_of,
    optional,
    several,
)
from mirror_core.platform import HERE, Platform

VERSION = 9
_MAGIC = "flashmirror-ledger"
_RESTORE = (
    "put this very file back if it was moved; an older copy of it knows nothing of later cycles, "
    "and is no image beside the stores of now; or create the site anew (docs/recovery.md)"
)
_MOST_SILENT = timeouts.silence_s(limits.LINK_TIMEOUT_MAX_S)
Role = Literal["source", "target"]
HARMED = "made smaller"  # a store, since this site has had it: bytes that counted are gone
UNREADABLE = "unreadable"  # where it was looked at, at its stop: who mends that may change bytes
# By a start, and perhaps its fingerprint behind that: somebody has cut it, or was restoring it.
FOUND_SMALLER = "found smaller"


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
    identity: str  # inode and generation, device number, or URI: what it is called now
    # Of samples of its bytes, from an orderly stop to a start; or one of those words: they fit none
    fingerprint: str | None = None
    lasting: tuple[str, ...] = ()  # KIND:VALUE: identities that outlive a reboot (identity.py)
    instance: str = ""  # what else tells it apart (identity.py); empty: not known


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
    begun: int = 0  # source: the highest sequence that a cycle may ever have had
    begun_token: str = ""  # its token: drawn with the sequence, by nobody else; "": not known
    committed: int = 0  # the highest sequence committed; 0: none
    committed_token: str = ""
    consistency_point: float | None = None  # of `committed`, Unix seconds
    hardened: int = 0  # the highest sequence whole in the target's data stores: of those committed
    whole: bool = False  # target: image(committed) can be produced
    seeded: bool = False  # target: not whole, but its data stores hold a copy to compare with
    # What is read may be a cache's, not the disk's: of the data (a source's volume, or a seed); of
    # what a target's intermediates were sent since the last commit; and of what the intermediates
    # held before this history, in whichever role.
    doubtful_data: bool = False
    doubtful_sent: bool = False
    doubtful_before: bool = False
    paused: bool = False
    since: float = 0.0  # when this history began here, Unix seconds; 0: not known
    # When `consistency_point`, or without one `since`, became known here, whatever the wall clock
    # does: the boot of this machine, and its seconds (CLOCK_BOOTTIME).  The boot is that of `run`;
    # empty: it is not known (platform.py).
    known_boot: str = ""
    known_uptime: float = 0.0
    clean: bool = True
    run: str = ""  # random id of the last run: of the files beside the ledger, and of the maps
    runs: tuple[str, ...] = ()  # source: its runs of which the target may have met the last
    source_run: str = ""  # target: the run of the source that it has met last
    source_silence: float = 0.0  # target: how long its source may be silent, as that has said
    # Source: its target was refused, or this may be an older ledger: none may hold `committed`.
    unsure: bool = False
    coarse: bool = False  # source: `next` may hold much that does not differ: it is compared
    # Stores, as identity.names_of has them, in which a person may have put what is on no disk: a
    # flush at a start or an adoption has failed; or it is under way, in that boot of the machine.
    unflushed: tuple[str, ...] = ()
    flushing: tuple[str, ...] = ()
    flushing_boot: str = ""
    # What the logs of `run` are known again by (below.file_id): a copy of one may be older.  Empty:
    # not known.
    logs: tuple[str, ...] = ()
    copied: bool = False  # target: its log was a copy, and may be older than what its stores hold
    maps: dict[str, BitMap64] = field(default_factory=dict)  # "VOLUME/next" and so on


def image(ledger: Ledger, volume: str, block: int) -> Literal["intermediate", "data"]:
    """Which store of a target holds a block of image(committed): invariant I1."""
    pending = ledger.maps.get(f"{volume}/pending")
    return "intermediate" if pending is not None and block in pending else "data"


def with_harmed(
    volumes: tuple[VolumeRecord, ...], harmed: Mapping[tuple[str, str], str | None]
) -> tuple[VolumeRecord, ...]:
    """The same, with a word (HARMED and so on), or without any, for these stores (volume, part)."""
    return tuple(
        replace(
            volume,
            **{
                part: replace(getattr(volume, part), fingerprint=harmed[volume.name, part])
                for part in ("data", "intermediate")
                if (volume.name, part) in harmed
            },
        )
        for volume in volumes
    )


def harmed(volumes: tuple[VolumeRecord, ...]) -> dict[tuple[str, str], str]:
    """The words of those that have one."""
    return {
        (one.name, part): str(getattr(one, part).fingerprint)
        for one in volumes
        for part in ("data", "intermediate")
        if is_harmed(getattr(one, part))
    }


def is_harmed(record: StoreRecord) -> bool:
    """Whether bytes of a store that counted are gone, or may be, whatever it holds now."""
    return (record.fingerprint or "").startswith((HARMED, UNREADABLE, FOUND_SMALLER))


def is_adopted(ledger: Ledger) -> bool:
    """Of a source whether a person has adopted its data since its last run: so it is not clean, for
    all of that is compared, however that run ended.  It names a run that no process has begun yet
    (adoption.py)."""
    return ledger.role == "source" and not ledger.clean and ledger.run not in ledger.runs


def ended_in_order(ledger: Ledger) -> bool:
    """Whether a person is told nothing else of a stopped site.  Nothing of a target without a
    history counts, however the run before ended that had one, so no start recovers anything."""
    nothing = ledger.role == "target" and not ledger.lineage and not ledger.seeded
    return ledger.clean or is_adopted(ledger) or nothing


_STORE = Table(
    StoreRecord,
    Field("kind", "kind", TEXT),
    Field("identity", "identity", TEXT),
    Field("fingerprint", "fingerprint", optional(TEXT)),
    Field("lasting", "lasting", several(matching("(?s)[a-z]+:.+"), limits.IDENTITIES_MAX)),
    Field("instance", "instance", TEXT),
)
_VOLUME = Table(
    VolumeRecord,
    Field("name", "name", TEXT),
    Field("size_bytes", "size", NUMBER),
    Field("block_size_bytes", "block_size", NUMBER),
    Field("data", "data", _STORE.kind()),
    Field("intermediate", "intermediate", _STORE.kind()),
)
_LINEAGE = Table(
    Lineage,
    Field("id", "id", TEXT),
    Field("parent", "parent", optional(TEXT)),
    Field("forked_at", "forked_at", NUMBER),
)
_LEDGER = Table(
    Ledger,
    Field("site", "site", TEXT),
    Field("name", "name", TEXT),
    Field("role", "role", one_of("source", "target")),
    Field("lineage", "lineage", optional(_LINEAGE.kind())),
    Field("volumes", "volumes", several(_VOLUME.kind(), limits.VOLUMES_MAX)),
    Field("begun", "begun", NUMBER),
    Field("begun_token", "begun_token", TEXT),
    Field("committed", "committed", NUMBER),
    Field("committed_token", "committed_token", TEXT),
    Field("consistency_point", "consistency_point", optional(SECONDS)),
    Field("hardened", "hardened", NUMBER),
    Field("has_image", "whole", FLAG),
    Field("seeded", "seeded", FLAG),
    Field("paused", "paused", FLAG),
    Field("clean_shutdown", "clean", FLAG),
    Field("history_began", "since", SECONDS),
    Field("run", "run", TEXT),
    Field("runs", "runs", several(TEXT, limits.RUNS_KNOWN)),
    Field("source_run", "source_run", TEXT),
    Field("reads_doubtful", "doubtful_data", FLAG, since=3, default=True),
    Field("reads_doubtful_sent", "doubtful_sent", FLAG, since=5, default=True),
    Field("reads_doubtful_before", "doubtful_before", FLAG, since=4, default=True),
    Field("known_boot", "known_boot", TEXT, since=6, default=""),
    Field("known_uptime", "known_uptime", SECONDS, since=6, default=0.0),
    Field("source_silence", "source_silence", SECONDS, since=7, default=_MOST_SILENT),
    Field("target_unsure", "unsure", FLAG, since=7, default=True),
    Field("next_coarse", "coarse", FLAG, since=7, default=False),
    Field("unflushed", "unflushed", several(TEXT, limits.UNFLUSHED_MAX), since=8, default=()),
    Field("flushing", "flushing", several(TEXT, limits.UNFLUSHED_MAX), since=8, default=()),
    Field("flushing_boot", "flushing_boot", TEXT, since=8, default=""),
    Field("logs", "logs", several(TEXT, limits.VOLUMES_MAX), since=9, default=()),
    Field("logs_copied", "copied", FLAG, since=9, default=False),
)

# Version 1 had the names that its attributes had.
_STORE_1 = Table(
    StoreRecord,
    Field("kind", "kind", TEXT),
    Field("identity", "identity", TEXT),
    Field("fingerprint", "fingerprint", optional(TEXT)),
)
_VOLUME_1 = Table(
    VolumeRecord,
    Field("name", "name", TEXT),
    Field("size", "size", NUMBER),
    Field("block_size", "block_size", NUMBER),
    Field("data", "data", _STORE_1.kind()),
    Field("intermediate", "intermediate", _STORE_1.kind()),
)
_LEDGER_1 = Table(
    Ledger,
    Field("site", "site", TEXT),
    Field("name", "name", TEXT),
    Field("role", "role", one_of("source", "target")),
    Field("lineage", "lineage", optional(_LINEAGE.kind())),
    Field("volumes", "volumes", several(_VOLUME_1.kind(), limits.VOLUMES_MAX)),
    Field("begun", "begun", NUMBER),
    Field("committed", "committed", NUMBER),
    Field("consistency_point", "consistency_point", optional(SECONDS)),
    Field("hardened", "hardened", NUMBER),
    Field("whole", "whole", FLAG),
    Field("seeded", "seeded", FLAG),
    Field("paused", "paused", FLAG),
    Field("clean", "clean", FLAG),
    Field("run", "run", TEXT),
    Field("reads_doubtful", "doubtful_data", FLAG, since=3, default=True),
    Field("reads_doubtful_sent", "doubtful_sent", FLAG, since=5, default=True),
    Field("reads_doubtful_before", "doubtful_before", FLAG, since=4, default=True),
    Field("known_boot", "known_boot", TEXT, since=6, default=""),
    Field("known_uptime", "known_uptime", SECONDS, since=6, default=0.0),
    Field("source_silence", "source_silence", SECONDS, since=7, default=_MOST_SILENT),
    Field("target_unsure", "unsure", FLAG, since=7, default=True),
    Field("next_coarse", "coarse", FLAG, since=7, default=False),
    Field("unflushed", "unflushed", several(TEXT, limits.UNFLUSHED_MAX), since=8, default=()),
    Field("flushing", "flushing", several(TEXT, limits.UNFLUSHED_MAX), since=8, default=()),
    Field("flushing_boot", "flushing_boot", TEXT, since=8, default=""),
    Field("logs", "logs", several(TEXT, limits.VOLUMES_MAX), since=9, default=()),
    Field("logs_copied", "copied", FLAG, since=9, default=False),
)
_TABLES = {1: _LEDGER_1, **{version: _LEDGER for version in range(2, VERSION + 1)}}


def encode(ledger: Ledger) -> bytes:
    """The file's bytes."""
    blobs = {key: bitmap.serialize() for key, bitmap in sorted(ledger.maps.items()) if bitmap}
    head = _LEDGER.write(ledger, VERSION)
    head["maps"] = {key: len(blob) for key, blob in blobs.items()}
    payload = json.dumps(head).encode() + b"\n" + b"".join(blobs.values())
    first = f"{_MAGIC} {VERSION} {hashlib.sha256(payload).hexdigest()} {len(payload)}\n"
    return first.encode() + payload


def decode(data: bytes, where: str) -> Ledger:
    """The record in the file's bytes.  LedgerError says what is wrong with them."""
    first, _, payload = data.partition(b"\n")
    words = first.decode(errors="replace").split(" ")
    if words[0] != _MAGIC or len(words) != 4:
        raise LedgerError(f"{where}: not a flashmirror ledger: {_RESTORE}")
    if words[1] not in map(str, _TABLES):
        raise LedgerError(
            f"{where}: ledger version {words[1]!r}, this program reads up to {VERSION}: use the "
            "program that wrote it"
        )
    if hashlib.sha256(payload).hexdigest() != words[2] or str(len(payload)) != words[3]:
        raise LedgerError(f"{where}: the ledger is damaged (checksum): {_RESTORE}")
    try:
        ledger = _decode_payload(payload, int(words[1]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(
            f"{where}: the ledger makes no sense ({line(str(error))}): {_RESTORE}"
        ) from error
    if words[1] != "1":
        return ledger
    if not ledger.clean:
        raise LedgerError(
            f"{where}: of an earlier version, whose site was not stopped in order: start and stop "
            "it once with the program that wrote it"
        )
    return replace(ledger, run="")  # whose files had no run in their names


def _decode_payload(payload: bytes, version: int) -> Ledger:
    text, _, blobs = payload.partition(b"\n")
    head: dict[str, Any] = json.loads(text)
    maps, at = {}, 0
    for key, length in cast("dict[str, int]", head.pop("maps")).items():
        maps[key] = BitMap64.deserialize(blobs[at : at + length])
        at += length
    table = _TABLES[version]
    if unknown := head.keys() - table.keys(version):
        raise Unfit(f"unknown: {', '.join(sorted(unknown))}")
    return table.read(head, version, maps=maps)


def path_in(state: Path) -> Path:
    return state / "ledger"


# What may be in a state folder before its first ledger: also after a `create` that was killed.
_OF_NO_SITE = {"lock", "ledger" + durable.FRESH, "lost+found"}


def refuse_lost(state: Path, platform: Platform = HERE) -> None:
    """To be asked where no ledger is.  LedgerError: there was one, of a site that has run here:
    a new one in its place would cost what only that one knew."""
    try:
        names = platform.names(state)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LedgerError(
            f"{state}: {error.strerror}: mend that", error.errno or errno.EIO
        ) from error
    if set(names) - _OF_NO_SITE:
        raise LedgerError(
            f"{path_in(state)}: the ledger is lost: put it back, or read docs/recovery.md, 'A "
            "ledger is lost', before you do anything else: the image may be lost with it (of a new "
            "site: name an empty folder as 'state')",
            errno.ENOENT,
        )


def load(state: Path, platform: Platform = HERE) -> Ledger:
    """The site's ledger.  LedgerError: there is none, or it is not to be trusted."""
    path = path_in(state)
    try:
        data = platform.read(path)
    except FileNotFoundError as error:
        refuse_lost(state, platform)
        raise LedgerError(
            f"{path}: there is no ledger: of a new site, run 'flashmirror create' first; of one "
            "that was here, mount or put back what holds it",
            errno.ENOENT,
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
