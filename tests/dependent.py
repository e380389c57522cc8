"""Writers whose writes depend on each other, and the judge of an image of what they wrote.

Each writer has a region of its own on two volumes.  It issues a write only after the one before
was acknowledged, alternating between the volumes; every sector of a write carries the writer,
the volume, the sector's place and the write's number.  So an image is of one moment exactly if,
for each writer, it is what some prefix of its writes leaves: `Judge.check` finds the prefix,
replays it and compares the whole region on both volumes.
"""

from __future__ import annotations

import errno
import random
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nbd_client import NbdClient, NbdError

SECTOR = 512
REGION = 192 * 1024  # bytes of each writer on each volume, unless said otherwise
STALL_S = 60.0  # a writer that waits longer has failed
GONE = (errno.ESHUTDOWN, errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOENT)


@dataclass(frozen=True)
class Write:
    volume: int
    offset: int  # in the writer's region
    length: int


def content(writer: int, volume: int, number: int, offset: int, length: int) -> bytes:
    """The bytes of a write: the first eight of each sector are its number."""
    first = offset // SECTOR
    return b"".join(
        struct.pack("<QHHI", number, writer, volume, first + i) * (SECTOR // 16)
        for i in range(length // SECTOR)
    )


@dataclass
class Log:
    """What one writer did; index n is write n.  Guard: `lock`."""

    writes: list[Write] = field(default_factory=lambda: [Write(0, 0, 0)])
    issued: list[float] = field(default_factory=lambda: [0.0])  # time.time()
    acknowledged: list[float] = field(default_factory=lambda: [0.0])
    longest_s: float = 0.0  # from the issue of a write to its acknowledgement
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> int:
        """How many writes were acknowledged."""
        with self.lock:
            return len(self.acknowledged) - 1


class Writer(threading.Thread):
    """Writes until told to stop; `error` is what ended it otherwise.

    With `reconnects` it takes a connection that ends for a restart of the source: it opens
    another and issues the same write again, so what it leaves is the same.
    """

    def __init__(
        self,
        number: int,
        uris: Sequence[str],
        moved: threading.Condition,
        region: int,
        reconnects: bool,
    ) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self.number, self.region, self.log = number, region, Log()
        self.error: Exception | None = None
        self.stopping = False
        self._uris, self._moved, self._reconnects = uris, moved, reconnects
        self._clients: list[NbdClient] = []
        self._random = random.Random(number)

    def run(self) -> None:
        try:
            self._connect(time.monotonic() + STALL_S)
            while not self.stopping:
                self._one()
                with self._moved:
                    self._moved.notify_all()
        except Exception as error:
            self.error = error
            with self._moved:
                self._moved.notify_all()
        finally:
            self._disconnect()

    def _one(self) -> None:
        n, sectors = len(self.log.writes), self._random.randrange(16, 49)  # 8 to 24 KiB
        offset = self._random.randrange(self.region // SECTOR - sectors + 1) * SECTOR
        write = Write(n % 2, offset, sectors * SECTOR)
        with self.log.lock:  # before it is issued: an image may hold it from now on
            self.log.writes.append(write)
            self.log.issued.append(time.time())
        data = content(self.number, write.volume, n, write.offset, write.length)
        begun = time.monotonic()
        while not self._issued(write, data, begun + STALL_S):
            self._connect(begun + STALL_S)
        with self.log.lock:
            self.log.acknowledged.append(time.time())
            self.log.longest_s = max(self.log.longest_s, time.monotonic() - begun)

    def _issued(self, write: Write, data: bytes, deadline: float) -> bool:
        """False: the source went away meanwhile."""
        try:
            self._clients[write.volume].write(self.number * self.region + write.offset, data)
        except OSError as error:
            gone = isinstance(error, ConnectionError) or error.errno in GONE
            if not (self._reconnects and gone) or time.monotonic() >= deadline:
                raise
            return False
        return True

    def _connect(self, deadline: float) -> None:
        while True:
            self._disconnect()
            try:
                for uri in self._uris:
                    self._clients.append(NbdClient(uri, STALL_S))
                return
            except (NbdError, ConnectionError, FileNotFoundError):
                if not self._reconnects or time.monotonic() >= deadline or self.stopping:
                    raise
            time.sleep(0.01)  # a source that restarts has no event to wait on but its answer

    def _disconnect(self) -> None:
        while self._clients:
            self._clients.pop().socket.close()


class Load:
    """Several writers at work, as a context."""

    def __init__(
        self,
        uris: Sequence[str],
        writers: int = 4,
        *,
        region: int = REGION,
        reconnects: bool = False,
    ) -> None:
        self.moved, self.region = threading.Condition(), region
        self.writers = [Writer(i, uris, self.moved, region, reconnects) for i in range(writers)]

    def logs(self) -> list[Log]:
        return [writer.log for writer in self.writers]

    def acknowledged(self) -> list[int]:
        """How many writes of each writer are acknowledged by now."""
        return [log.count() for log in self.logs()]

    def longest_s(self) -> float:
        return max(log.longest_s for log in self.logs())

    def wait_writes(self, more: int, timeout_s: float = STALL_S) -> None:
        """Until `more` writes more, of all writers together, are acknowledged."""
        goal = sum(self.acknowledged()) + more
        self.wait_for(lambda: sum(self.acknowledged()) >= goal, timeout_s)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Until the condition, looked at after every write."""
        with self.moved:
            done = self.moved.wait_for(lambda: self._failed() or condition(), timeout_s)
        self.raise_error()
        assert done, f"not within {timeout_s} s of load"

    def _failed(self) -> bool:
        return any(writer.error for writer in self.writers)

    def raise_error(self) -> None:
        """A write never fails: the error of one that did."""
        for writer in self.writers:
            if writer.error:
                raise AssertionError(f"{writer.name}: {writer.error!r}") from writer.error

    def __enter__(self) -> Load:
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for writer in self.writers:
            writer.stopping = True
        for writer in self.writers:
            writer.join(2 * STALL_S)
            assert not writer.is_alive(), f"{writer.name} hangs"
        if kind is None:
            self.raise_error()


class Logged(Protocol):
    """A load as its judge sees it."""

    region: int

    def logs(self) -> list[Log]: ...


class NotOneMoment(AssertionError):
    """The image is not what a prefix of a writer's writes leaves."""


class Judge:
    """Checks image after image of one load; the prefixes must never grow shorter."""

    def __init__(self, load: Logged) -> None:
        self._logs, self._region = load.logs(), load.region
        self.prefix = [0] * len(self._logs)
        self._model = [[bytearray(self._region) for _ in range(2)] for _ in self._logs]

    def check(
        self, images: Sequence[bytes], least: Sequence[int] = (), point: float | None = None
    ) -> None:
        """NotOneMoment unless both images together are a prefix for each writer: one that is not
        shorter than before, holds `least` writes, and all acknowledged before `point`."""
        for i, log in enumerate(self._logs):
            parts = [image[i * self._region : (i + 1) * self._region] for image in images]
            self._check_writer(i, log, parts)
            if least and self.prefix[i] < least[i]:
                raise NotOneMoment(f"writer {i}: {self.prefix[i]} writes, not {least[i]}")
            if point is not None:
                self._check_point(i, log, point)

    def _check_writer(self, i: int, log: Log, parts: Sequence[bytes]) -> None:
        # The last write of a prefix is never hidden by another of it.
        last = max(max(memoryview(part).cast("Q")[:: SECTOR // 8]) for part in parts)
        with log.lock:
            if last >= len(log.writes):
                raise NotOneMoment(f"writer {i}: write {last} was never issued")
            new = log.writes[self.prefix[i] + 1 : last + 1]
        if last < self.prefix[i]:
            raise NotOneMoment(f"writer {i}: went back from write {self.prefix[i]} to {last}")
        for n, write in enumerate(new, self.prefix[i] + 1):
            data = content(i, write.volume, n, write.offset, write.length)
            self._model[i][write.volume][write.offset : write.offset + write.length] = data
        self.prefix[i] = last
        for volume, part in enumerate(parts):
            if part != self._model[i][volume]:
                raise NotOneMoment(self._difference(i, last, volume, part))

    def _difference(self, i: int, last: int, volume: int, part: bytes) -> str:
        model = self._model[i][volume]
        at = next(k for k in range(self._region) if part[k] != model[k])
        at -= at % SECTOR
        found, meant = (struct.unpack_from("<QHHI", data, at) for data in (part, model))
        return (
            f"writer {i}, volume {volume}, sector {at // SECTOR}: found (write, writer, volume, "
            f"sector) {found}, but after the {last} writes that the image holds it is {meant}"
        )

    def _check_point(self, i: int, log: Log, point: float) -> None:
        with log.lock:
            later = log.acknowledged[self.prefix[i] + 1 :]
        if later and later[0] < point:
            raise NotOneMoment(
                f"writer {i}: write {self.prefix[i] + 1} was acknowledged {point - later[0]:.6f} s "
                "before the consistency point and is not in it"
            )


def read_images(folder: Path, load: Load) -> list[bytes]:
    """The writers' regions in the data stores of the site in this folder."""
    images = []
    for volume in ("disk", "disk2"):
        with (folder / f"{volume}.img").open("rb") as file:
            images.append(file.read(len(load.writers) * load.region))
    return images
