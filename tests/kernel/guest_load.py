"""SQLite databases under load, and what is left of them in a copy of their disk.

A thread adds row after row, each to every database in turn and each in a transaction that also
adds to a running total, so that a row is spread over tables, pages and the journal. A row is
acknowledged when it is committed in all the databases, with ``synchronous = EXTRA``: with FULL the
deletion of the "delete" journal, which is the commit, may not have reached the disk yet.

What ``examine`` checks, on whatever a crash left: SQLite's own integrity; the rows are exactly
1, 2 .. n; every payload is the one of its number; the total agrees with the rows.

Left out: readers beside the writer, and updates and deletions of rows.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TypedDict

JOURNALS = "wal", "delete"  # SQLite's two ways to be durable: a log ahead, an undo journal


class Found(TypedDict):
    """A database as it was found on a copy of the target's image."""

    integrity: str
    rows: int
    intact: bool


def payload(number: int) -> bytes:
    """1 to 6 KiB that only this row has."""
    return hashlib.sha256(b"%d" % number).digest() * (32 + number % 160)


class Load(threading.Thread):
    """Writes rows from its start until ``stop``; ``acknowledged`` never runs ahead of the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.acknowledged = 0
        self._folder = folder
        self._progress = threading.Condition()
        self._stopping = False
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            self._error = error
        with self._progress:
            self._progress.notify_all()

    def _write(self) -> None:
        databases = [self._create(journal) for journal in JOURNALS]
        while not self._stopping:
            number = self.acknowledged + 1
            for database in databases:
                with database:
                    database.execute("INSERT INTO row VALUES (?, ?)", (number, payload(number)))
                    database.execute("UPDATE total SET rows = rows + 1, sum = sum + ?", (number,))
            with self._progress:
                self.acknowledged = number
                self._progress.notify_all()
        for database in databases:
            database.close()

    def _create(self, journal: str) -> sqlite3.Connection:
        database = sqlite3.connect(self._folder / f"{journal}.db", check_same_thread=False)
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, payload BLOB)")
        database.execute("CREATE TABLE total (rows INTEGER, sum INTEGER)")
        database.execute("INSERT INTO total VALUES (0, 0)")
        database.commit()
        return database

    def wait_for(self, rows: int, seconds: float) -> None:
        """Return when this many more rows are acknowledged."""
        with self._progress:
            goal = self.acknowledged + rows
            done = self._progress.wait_for(
                lambda: self._error or self.acknowledged >= goal, seconds
            )
        if self._error:
            raise self._error
        if not done:
            raise TimeoutError(f"{self.acknowledged} rows of {goal} after {seconds} s")

    def stop(self, seconds: float) -> None:
        self._stopping = True
        self.join(seconds)
        if self._error:
            raise self._error
        if self.is_alive():
            raise TimeoutError(f"the load does not stop within {seconds} s")


def examine(mounted: Path, scratch: Path) -> dict[str, Found]:
    """Open the databases of a read-only file system, on a copy: SQLite's recovery has to write."""
    scratch.mkdir()
    for file in mounted.glob("*.db*"):
        if not file.name.endswith("-shm"):  # SQLite's shared memory: only of a running process
            shutil.copy(file, scratch)
    found = {journal: _examine(scratch / f"{journal}.db") for journal in JOURNALS}
    shutil.rmtree(scratch)
    return found


def _examine(path: Path) -> Found:
    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as database:
        integrity = "; ".join(line for (line,) in database.execute("PRAGMA integrity_check"))
        rows = database.execute("SELECT number, payload FROM row ORDER BY number").fetchall()
        totals = database.execute("SELECT rows, sum FROM total").fetchall()
    numbers = [number for number, _ in rows]
    intact = (
        numbers == list(range(1, len(rows) + 1))
        and all(content == payload(number) for number, content in rows)
        and totals == [(len(rows), sum(numbers))]
    )
    return {"integrity": integrity, "rows": len(rows), "intact": intact}
