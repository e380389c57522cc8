"""Dependent writers that flush, and that go on after a power cut as a database does.

What a writer writes is the same in every run: its n-th write can be told from n alone. So the host
judges images without having seen the writes issued, and a writer whose source lost power issues
again what was not flushed (a database replays its log so): afterwards the volumes hold just what a
prefix of its writes leaves, as ``dependent.Judge`` wants it, and it goes on from there.

Each writer has one write in flight, alternating between the volumes (``dependent``). Now and then
it flushes both, or a write carries FUA. After each acknowledgement it reports ``wrote``, ``fua``
(that write is stable from then on) or ``flushed`` (all writes are up to this one), each followed by
WRITER N TIME.

Left out: zeroes and trims; several writes in flight at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from dependent import SECTOR, Write, content
from nbd_client import FUA, NbdClient

WRITERS = 4
REGION = 1 << 20  # bytes of each writer on each volume
VOLUMES = "disk", "disk2"
VOLUME_BYTES = WRITERS * REGION
FLUSH_EVERY, FUA_EVERY = 16, 10  # writes, on average
STALL_S = 60.0


def write_of(writer: int, number: int) -> Write:
    """4 to 24 KiB at any sector of the writer's region."""
    choice = random.Random(writer << 32 | number)
    sectors = choice.randrange(8, 49)
    offset = choice.randrange(REGION // SECTOR - sectors + 1) * SECTOR
    return Write(number % len(VOLUMES), offset, sectors * SECTOR)


class Writer(threading.Thread):
    """Replays writes from ``flushed`` to ``newest``; then, when let go on, writes until stopped."""

    def __init__(
        self,
        writer: int,
        uris: Sequence[str],
        flushed: int,
        newest: int,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name=f"writer {writer}", daemon=True)
        self.stopping = False
        self._writer, self._uris, self._say = writer, uris, say
        self._number, self._newest = flushed, newest
        self._chance = random.Random()

    def replay(self) -> None:
        """What was not flushed before the power cut, and stands in part, is written again."""
        self._clients = [NbdClient(uri, STALL_S) for uri in self._uris]
        while self._number < self._newest:
            self._write_next(0)
        self._flush()

    def run(self) -> None:
        while not self.stopping:
            fua = not self._chance.randrange(FUA_EVERY)
            self._write_next(FUA if fua else 0)
            self._report("fua" if fua else "wrote")
            if not self._chance.randrange(FLUSH_EVERY):
                self._flush()
        self._flush()
        for client in self._clients:
            client.close()

    def _write_next(self, flags: int) -> None:
        self._number += 1
        write = write_of(self._writer, self._number)
        data = content(self._writer, write.volume, self._number, write.offset, write.length)
        self._clients[write.volume].write(self._writer * REGION + write.offset, data, flags)

    def _flush(self) -> None:
        for client in self._clients:
            client.flush()
        self._report("flushed")

    def _report(self, what: str) -> None:
        self._say(f"{what} {self._writer} {self._number} {time.time()}")
