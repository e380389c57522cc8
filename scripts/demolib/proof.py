"""What is proved of the target's image, and the copies that it is proved on.

Two moments. One is in the middle of the load: nothing of the source stands still, so a copy is
judged by itself. The other is made while the source's file system is frozen for an instant: then
the source still stands at the consistency point, and its image and files are compared.

A copy is treated as after a disaster: mounted once, which replays the file system's journal, then
checked by fsck without a repair, then mounted read-only and read.

Left out: the target's image is never mounted itself, that would write to it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demolib.load import DATABASE, FINISHED, Load, checksum_in, payload
from demolib.stage import DemoError, Sites, attempt, last_line, mounted, run

LOAD, TREE = "load", "tree"  # folders of the file system

_CHUNK_BYTES = 8 << 20

Manifest = dict[str, str]


class Checks:
    """Prints each result as it comes, and remembers whether any failed."""

    def __init__(self) -> None:
        self.failed = self.total = 0

    def that(self, holds: bool, text: str, otherwise: str = "") -> None:
        """`text` says what holds; `otherwise` what was found instead."""
        self.total += 1
        self.failed += not holds
        print(f"  \u2714 {text}" if holds else f"  \u2718 NOT: {text}: {otherwise}", flush=True)


@dataclass(frozen=True)
class Point:
    """A consistency point, as the source and the target say after a pause."""

    sequence: int
    moment: float  # Unix seconds
    changed_since_bytes: int
    whole: bool  # at the target, by its own word

    @classmethod
    def of(cls, sites: Sites) -> Point:
        source, target = sites.look(), sites.target_status()
        committed = source["committed"]
        return cls(
            committed["sequence"],
            committed["consistency_point"],
            sum(v["next_bytes"] + v["pending_bytes"] for v in source["volumes"]),
            target["committed"] == committed
            and target["hardened_sequence"] == committed["sequence"],
        )


@dataclass(frozen=True)
class Copy:
    """A copy of the target's image, taken while mirroring was paused, and what is known of it."""

    image: Path
    point: Point
    acknowledged: int  # rows committed before the point
    original: Manifest  # what must be in it


def take_copy(sites: Sites, load: Load, image: Path, original: Manifest) -> Copy:
    """Mirroring is paused."""
    point = Point.of(sites)
    run("cp", "--sparse=auto", sites.target_image, image)
    return Copy(image, point, load.acknowledged_before(point.moment), original)


def manifest(top: Path) -> Manifest:
    """Every entry below `top`: what it is, and the checksum of what it holds."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        facts = f"{status.st_mode:o} {status.st_uid} {status.st_mtime_ns}"
        if path.is_symlink():
            facts += f" -> {os.readlink(path)}"
        elif path.is_file():
            facts += f" {checksum(path)}"
        found[str(path.relative_to(top))] = facts
    return found


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_difference(left: Path, right: Path) -> int | None:
    """The offset of a chunk in which two files differ, None: they are equal."""
    with left.open("rb") as a, right.open("rb") as b:
        offset = 0
        while True:
            chunk, other = a.read(_CHUNK_BYTES), b.read(_CHUNK_BYTES)
            if chunk != other:
                return offset
            if not chunk:
                return None
            offset += len(chunk)


def check_equal(checks: Checks, sites: Sites, point: Point) -> None:
    """The source's file system is frozen, mirroring is paused."""
    checks.that(
        point.changed_since_bytes == 0,
        f"no write reached the source since consistency point {point.sequence}",
        f"{point.changed_since_bytes:,} bytes",
    )
    differs = first_difference(sites.source_image, sites.target_image)
    checks.that(
        differs is None,
        f"all {sites.source_image.stat().st_size:,} bytes of the target's image are those of the "
        "source",
        f"they differ after byte {differs}",
    )


def check_copy(checks: Checks, copy: Copy, folder: Path) -> None:
    """The image recovers as after a crash, and holds what it must."""
    checks.that(
        copy.point.whole,
        f"the target itself says that consistency point {copy.point.sequence} is committed, and "
        "whole in its image",
        "it does not",
    )
    try:
        journal = "needs_recovery" in run("dumpe2fs", "-h", copy.image)
        with mounted(copy.image, folder / "copy", "loop"):
            pass
        fsck = attempt("e2fsck", "-f", "-n", copy.image)
        checks.that(
            fsck.returncode == 0,
            "e2fsck -f -n finds a copy of the target's image clean, "
            + ("after the replay of its journal" if journal else "its journal was empty"),
            last_line(fsck.stdout),
        )
        with mounted(copy.image, folder / "copy", "loop", "ro") as at:
            _check_files(checks, copy, at)
            _check_rows(checks, copy, at / LOAD / DATABASE, folder / "database")
    except (DemoError, OSError) as error:
        checks.that(False, "a copy of the target's image recovers and is read", str(error))


def _check_files(checks: Checks, copy: Copy, at: Path) -> None:
    found = manifest(at)
    differing = [name for name, facts in copy.original.items() if found.get(name) != facts]
    checks.that(
        not differing,
        f"{len(copy.original):,} files and folders are in it as on the source: kind, mode, owner, "
        "time, checksum",
        f"{len(differing)} are not, {differing[:1]} among them",
    )
    finished = [at / name for name in found if f"/{FINISHED}/" in name]
    torn = [path for path in finished if checksum(path) != checksum_in(path.name)]
    checks.that(
        not torn,
        f"{len(finished)} files that the load had finished are in it, each whole",
        f"{len(torn)} are torn, {torn[:1]} among them",
    )


def _check_rows(checks: Checks, copy: Copy, database: Path, scratch: Path) -> None:
    """On a copy of the database's files: SQLite has to write to recover."""
    scratch.mkdir()
    for file in database.parent.glob(f"{DATABASE}*"):
        shutil.copy(file, scratch)
    try:
        rows, wrong = _read_rows(scratch / DATABASE)
    except sqlite3.Error as error:
        rows, wrong = 0, str(error)
    shutil.rmtree(scratch)
    if not wrong and rows < copy.acknowledged:
        wrong = f"{rows:,} rows"
    checks.that(
        not wrong,
        f"SQLite's database is sound: {rows:,} rows without a gap, all {copy.acknowledged:,} that "
        "were committed before the consistency point among them",
        wrong,
    )


def _read_rows(path: Path) -> tuple[int, str]:
    """How many rows, and what is wrong with them."""
    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as database:
        integrity = "; ".join(line for (line,) in database.execute("PRAGMA integrity_check"))
        rows: list[Any] = database.execute("SELECT * FROM row ORDER BY number").fetchall()
        totals = database.execute("SELECT rows, sum FROM total").fetchall()
    numbers = [number for number, _ in rows]
    if integrity != "ok":
        return len(rows), integrity
    if numbers != list(range(1, len(rows) + 1)) or totals != [(len(rows), sum(numbers))]:
        return len(rows), "rows are missing"
    if any(content != payload(number) for number, content in rows):
        return len(rows), "rows are torn"
    return len(rows), ""
