"""The plugin of an NBD server whose disk is slow behind a cache.

    nbdkit python slow_cache.py image=FILE

A write or a zero costs no time; a flush takes what the disk needs for all since the one before, at
4 MiB a second, and meanwhile all else is answered.
"""

from __future__ import annotations

import os
import threading
import time

import nbdkit

API_VERSION = 2
BYTES_A_SECOND = 4 << 20


class Disk:
    def __init__(self) -> None:
        self.image, self.fd = "", -1
        self._lock, self._owed = threading.Lock(), 0

    def write(self, data: bytes, offset: int, *, fua: bool) -> None:
        os.pwrite(self.fd, data, offset)
        if not fua:
            with self._lock:
                self._owed += len(data)

    def flush(self) -> None:
        with self._lock:
            owed, self._owed = self._owed, 0
        time.sleep(owed / BYTES_A_SECOND)  # it is a disk that is slow


_disk = Disk()


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    assert key == "image"
    _disk.image = value


def after_fork() -> None:
    _disk.fd = os.open(_disk.image, os.O_RDWR)


def open(readonly: bool) -> int:
    return 1


def get_size(h: int) -> int:
    return os.fstat(_disk.fd).st_size


def can_write(h: int) -> bool:
    return True


def can_flush(h: int) -> bool:
    return True


def can_zero(h: int) -> bool:
    return True


def can_multi_conn(h: int) -> bool:
    return True


def can_fua(h: int) -> int:
    return int(nbdkit.FUA_NATIVE)


def pread(h: int, buffer: bytearray, offset: int, flags: int) -> None:
    buffer[:] = os.pread(_disk.fd, len(buffer), offset)


def pwrite(h: int, buffer: bytes, offset: int, flags: int) -> None:
    _disk.write(buffer, offset, fua=bool(flags & nbdkit.FLAG_FUA))


def zero(h: int, count: int, offset: int, flags: int) -> None:
    pwrite(h, bytes(count), offset, flags)


def flush(h: int, flags: int) -> None:
    _disk.flush()
