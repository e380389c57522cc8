"""The plugin of an NBD server that stands for a disk: `nbdkit python disk.py image=FILE`.

What is written and not flushed is in this process only, and is lost when it is killed.  The file
FILE.command says what the disk does now, one word or more:

    through         nothing stays in the cache: every write is on the disk when it is answered
    slow MS         each request takes so long
    error           each write, zero and flush fails with EIO
    hang            each request waits until the command is another one
    lose            the next flush fails with EIO and what it covered is gone, as on Linux

A zero and a trim are a write of zeroes.  Run by servers.py.
"""

from __future__ import annotations

import errno
import os
import threading
import time

import nbdkit

API_VERSION = 2
SECTOR = 512
LOOK_AGAIN_S = 0.01


class Disk:
    def __init__(self) -> None:
        self.image = ""
        self.fd = -1
        self._lock = threading.Lock()
        self._dirty: dict[int, bytes] = {}  # of sector: its bytes
        self._lost = False  # a `lose` was obeyed, and is over only with the command

    def command(self) -> list[str]:
        try:
            with open_file(f"{self.image}.command") as file:
                return file.read().split()
        except FileNotFoundError:
            return []

    def enter(self, call: str) -> list[str]:
        """Do to the request what is commanded; the command."""
        while "hang" in (words := self.command()):
            time.sleep(LOOK_AGAIN_S)
        if "slow" in words:
            time.sleep(float(words[words.index("slow") + 1]) / 1000)
        if "error" in words and call != "read":
            raise failed()
        return words

    def _sectors(self, first: int, end: int) -> bytes:
        data = bytearray(os.pread(self.fd, (end - first) * SECTOR, first * SECTOR))
        for n in range(first, end):
            if dirty := self._dirty.get(n):
                data[(n - first) * SECTOR : (n - first + 1) * SECTOR] = dirty
        return bytes(data)

    def read(self, offset: int, length: int) -> bytes:
        self.enter("read")
        first, end = offset // SECTOR, -(-(offset + length) // SECTOR)
        with self._lock:
            return self._sectors(first, end)[offset - first * SECTOR :][:length]

    def write(self, data: bytes, offset: int, *, fua: bool) -> None:
        words = self.enter("write")
        first, end = offset // SECTOR, -(-(offset + len(data)) // SECTOR)
        at = offset - first * SECTOR
        with self._lock:
            whole = bytearray(self._sectors(first, end))
            whole[at : at + len(data)] = data
            for n in range(first, end):
                self._dirty[n] = bytes(whole[(n - first) * SECTOR :][:SECTOR])
            if fua or "through" in words:
                self._clean()

    def _clean(self) -> None:
        for n, data in self._dirty.items():
            os.pwrite(self.fd, data, n * SECTOR)
        self._dirty.clear()

    def flush(self) -> None:
        words = self.enter("flush")
        with self._lock:
            if "lose" not in words:
                self._lost = False
            elif not self._lost:
                self._lost = True
                self._dirty.clear()
                raise failed()
            self._clean()


def failed() -> OSError:
    nbdkit.set_error(errno.EIO)
    return OSError(errno.EIO, os.strerror(errno.EIO))


disk = Disk()
open_file = open  # the name is a callback's below


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    assert key == "image"
    disk.image = value


def get_ready() -> None:
    disk.fd = os.open(disk.image, os.O_RDWR)


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
