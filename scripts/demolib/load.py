"""A busy file system: a real tree that stands still, files that come and go, a database.

Everything is made so that a copy of the disk can be judged by itself, without asking the load:

* a finished file is named by the checksum of what it holds; it got its name after its fsync, so it
  is whole at every moment at which it is there;
* a row of the database can be computed from its number, and the rows are 1, 2 .. n.

Guard: a writer's counters are its own; they are read, perhaps an instant late, by others.
Left out: what was overwritten in place is only fsync'ed; nothing says which of its bytes are old.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Self

from demolib.stage import DemoError

KIB, MIB = 1 << 10, 1 << 20
FINISHED = "finished"  # a writer's folder of files that are named by their checksums
DATABASE = "rows.db"

_TREE_BYTES = 96 * MIB
_WRITERS = 3
_FILES = 40  # of one writer, at most
_FILE_BYTES = 192 * KIB
_STOP_S = 20.0


def plant_tree(at: Path) -> tuple[int, int]:
    """Copy a real tree of files, up to a bound; how many files and bytes."""
    files = copied_bytes = 0
    for source in _real_files():
        target = at / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
        files, copied_bytes = files + 1, copied_bytes + source.lstat().st_size
        if copied_bytes >= _TREE_BYTES:
            break
    return files, copied_bytes


def _real_files() -> Iterator[Path]:
    """Python's standard library, then what the machine shares."""
    for top in (sysconfig.get_path("stdlib"), "/usr/share"):
        for folder, folders, names in os.walk(top):
            folders.sort()
            for path in (Path(folder, name) for name in sorted(names)):
                if path.is_symlink() or path.is_file():
                    yield path


class Writer:
    """Does one thing after another, in a thread of its own, until it is told to stop."""

    def __init__(self, name: str, stopping: threading.Event) -> None:
        self.name, self.thread = name, threading.Thread(target=self._run, daemon=True)
        self.done: Counter[str] = Counter()
        self.error: Exception | None = None
        self._stopping = stopping

    def _run(self) -> None:
        try:
            with self.ready():
                while not self._stopping.is_set():
                    self.one()
        except (OSError, sqlite3.Error) as error:
            self.error = error

    def ready(self) -> AbstractContextManager[None]:
        """What the deeds need, from the first to the last."""
        raise NotImplementedError

    def one(self) -> None:
        raise NotImplementedError


class FileWriter(Writer):
    """Creates, overwrites, renames and deletes files in a folder of its own."""

    def __init__(self, folder: Path, stopping: threading.Event) -> None:
        super().__init__(f"load in {folder}", stopping)
        self._folder, self._finished = folder, folder / FINISHED
        self._random = random.Random(folder.name)
        self._names: list[str] = []

    @contextmanager
    def ready(self) -> Iterator[None]:
        self._finished.mkdir(parents=True)
        with (self._folder / "in-place").open("wb") as file:
            file.write(self._random.randbytes(4 * MIB))
        yield

    def one(self) -> None:
        deeds: list[Callable[[], None]] = [self._create, self._overwrite, self._rename]
        deed = self._random.choice(deeds)
        if len(self._names) >= _FILES:
            deed = self._delete
        deed()

    def _create(self) -> None:
        data = self._random.randbytes(self._random.randrange(1, _FILE_BYTES))
        name = hashlib.sha256(data).hexdigest()
        with (self._folder / "new").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (self._folder / "new").rename(self._finished / name)
        self._names.append(name)
        self.done["files created"] += 1

    def _overwrite(self) -> None:
        with (self._folder / "in-place").open("r+b") as file:
            file.seek(self._random.randrange(4 * MIB - 64 * KIB))
            file.write(self._random.randbytes(self._random.randrange(1, 64 * KIB)))
            file.flush()
            os.fdatasync(file.fileno())
        self.done["overwritten"] += 1

    def _rename(self) -> None:
        """Into another name that begins with the checksum, and into the journal at once."""
        if not self._names:
            return
        i = self._random.randrange(len(self._names))
        name = f"{checksum_in(self._names[i])}.{self._random.randrange(1000)}"
        (self._finished / self._names[i]).rename(self._finished / name)
        self._names[i] = name
        folder = os.open(self._finished, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.done["renamed"] += 1

    def _delete(self) -> None:
        """Half of them, so that there is room for a while."""
        self._random.shuffle(self._names)
        for name in self._names[_FILES // 2 :]:
            (self._finished / name).unlink()
            self.done["deleted"] += 1
        del self._names[_FILES // 2 :]


def checksum_in(name: str) -> str:
    return name.partition(".")[0]


class RowWriter(Writer):
    """Adds rows to an SQLite database, each in a transaction that also changes a total.

    synchronous = EXTRA: with FULL the deletion of the journal, which is the commit, may not have
    reached the disk when the commit returns.
    """

    def __init__(self, folder: Path, stopping: threading.Event) -> None:
        super().__init__("database", stopping)
        self.acknowledged: list[float] = []  # when, of rows 1, 2 ...; Unix seconds
        self._path = folder / DATABASE

    @contextmanager
    def ready(self) -> Iterator[None]:
        with closing(sqlite3.connect(self._path)) as self._database:
            self._database.execute("PRAGMA synchronous = EXTRA")
            with self._database as database:
                database.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, payload BLOB)")
                database.execute("CREATE TABLE total (rows INTEGER, sum INTEGER)")
                database.execute("INSERT INTO total VALUES (0, 0)")
            yield

    def one(self) -> None:
        number = len(self.acknowledged) + 1
        with self._database as database:
            database.execute("INSERT INTO row VALUES (?, ?)", (number, payload(number)))
            database.execute("UPDATE total SET rows = rows + 1, sum = sum + ?", (number,))
        self.acknowledged.append(time.time())
        self.done["rows committed"] += 1


def payload(number: int) -> bytes:
    """1 to 6 KiB that only this row has."""
    return hashlib.sha256(b"%d" % number).digest() * (32 + number % 160)


class Load:
    """All the writers; `with` stops them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._stopping = threading.Event()
        self.rows = RowWriter(folder, self._stopping)
        files = [FileWriter(folder / f"writer-{i}", self._stopping) for i in range(_WRITERS)]
        self._writers: list[Writer] = [self.rows, *files]

    def __enter__(self) -> Self:
        for writer in self._writers:
            writer.thread.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """DemoError: one of them hangs; or failed, if nothing else did."""
        self._stopping.set()
        deadline = time.monotonic() + _STOP_S
        for writer in self._writers:
            writer.thread.join(max(0.0, deadline - time.monotonic()))
            if writer.thread.is_alive():
                raise DemoError(f"{writer.name}: a write hangs for {_STOP_S:.0f} s")
        if failure is None:
            self.check()

    def check(self) -> None:
        """DemoError: a writer failed."""
        for writer in self._writers:
            if writer.error:
                raise DemoError(f"{writer.name}: {writer.error}")

    def summary(self) -> str:
        total: Counter[str] = sum((writer.done for writer in self._writers), Counter())
        return ", ".join(f"{count:,} {deed}" for deed, count in sorted(total.items()))

    def acknowledged_before(self, moment: float) -> int:
        """How many rows were committed before that moment, Unix seconds."""
        return sum(when < moment for when in self.rows.acknowledged)
