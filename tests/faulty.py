"""The plugin of an NBD server that has faults on command: `nbdkit python faulty.py image=FILE`.

A disk with a cache: what is written and not flushed is in this process only, and dies with it.
Beside the image stands FILE.faults, a folder: while a file of the name of a call is in it (pread,
pwrite, flush), that call fails with the errno that the file names (and behind it perhaps the one
byte that is bad: then only where it takes that in), or hangs if it says so; if the
file is then called `held`, what hangs goes on hanging, and nothing else.  A flush that is to `lose`
fails with EIO, and what it covered is gone, as of a disk whose pages the system takes for clean
after it has told of the error once; if it is to `lose-later`, these pages are read until the server
ends, and no flush will ever write them.  A line of FILE.calls for each call tells how often each
was tried.  A zero is a pwrite.  Run by served.py.
"""

from __future__ import annotations

import errno
import os
import threading
import time

import nbdkit

API_VERSION = 2
SECTOR = 512
_LOOK_AGAIN_S = 0.01


class Disk:
    def __init__(self) -> None:
        self.image = ""
        self.fd = self._calls = -1
        self._lock = threading.Lock()
        self._dirty: dict[int, bytes] = {}  # of sector: its bytes
        self._stale: dict[int, bytes] = {}  # that are read, and will never be written

    def open(self) -> None:
        self.fd = os.open(self.image, os.O_RDWR)
        self._calls = os.open(f"{self.image}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _enter(self, call: str, offset: int = 0, length: int = 0) -> None:
        """Count it, and do to it what is commanded."""
        os.write(self._calls, f"{call}\n".encode())
        folder = f"{self.image}.faults"
        while True:
            try:
                with open_file(f"{folder}/{call}") as file:
                    command = file.read()
            except FileNotFoundError:
                return
            command, _, bad = command.partition(" ")
            if bad and not offset <= int(bad) < offset + length:
                return
            if command in ("lose", "lose-later"):
                with self._lock:
                    if command == "lose-later":
                        self._stale |= self._dirty
                    self._dirty.clear()
                command = "EIO"
            if command != "hang":
                code = getattr(errno, command)
                nbdkit.set_error(code)
                raise OSError(code, os.strerror(code))
            while any(os.path.exists(f"{folder}/{name}") for name in (call, "held")):
                time.sleep(_LOOK_AGAIN_S)

    def _sectors(self, first: int, end: int) -> bytes:
        return b"".join(
            self._dirty.get(n) or self._stale.get(n) or os.pread(self.fd, SECTOR, n * SECTOR)
            for n in range(first, end)
        )

    def read(self, offset: int, length: int) -> bytes:
        self._enter("pread", offset, length)
        first, end = offset // SECTOR, -(-(offset + length) // SECTOR)
        with self._lock:
            return self._sectors(first, end)[offset - first * SECTOR :][:length]

    def write(self, data: bytes, offset: int, *, fua: bool) -> None:
        self._enter("pwrite")
        first, end = offset // SECTOR, -(-(offset + len(data)) // SECTOR)
        at = offset - first * SECTOR
        with self._lock:
            if fua:
                os.pwrite(self.fd, data, offset)
            whole = bytearray(self._sectors(first, end))
            whole[at : at + len(data)] = data
            for n in range(first, end):
                self._dirty[n] = bytes(whole[(n - first) * SECTOR :][:SECTOR])
                self._stale.pop(n, None)

    def flush(self) -> None:
        self._enter("flush")
        with self._lock:
            for n, data in self._dirty.items():
                os.pwrite(self.fd, data, n * SECTOR)
            self._dirty.clear()


disk = Disk()
open_file = open  # the name is a callback's below


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    assert key == "image"
    disk.image = value


def get_ready() -> None:
    disk.open()


def open(readonly: bool) -> Disk:
    return disk


def get_size(h: Disk) -> int:
    return os.fstat(h.fd).st_size


def can_multi_conn(h: Disk) -> bool:
    return True


def can_fua(h: Disk) -> int:
    return int(nbdkit.FUA_NATIVE)


def can_zero(h: Disk) -> bool:
    return True


def pread(h: Disk, buf: memoryview, offset: int, flags: int) -> None:
    buf[:] = h.read(offset, len(buf))


def pwrite(h: Disk, buf: memoryview, offset: int, flags: int) -> None:
    h.write(bytes(buf), offset, fua=bool(flags & nbdkit.FLAG_FUA))


def zero(h: Disk, count: int, offset: int, flags: int) -> None:
    h.write(bytes(count), offset, fua=bool(flags & nbdkit.FLAG_FUA))


def flush(h: Disk, flags: int) -> None:
    h.flush()
