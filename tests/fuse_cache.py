"""A FUSE file system of one file, over a sparse one, whose writes the kernel keeps for a while.

    python fuse_cache.py FILE FOLDER        FOLDER/disk is FILE, until it is unmounted
    python fuse_cache.py FILE FOLDER CACHE  it is CACHE, a copy, until a flush brings that to FILE

What the kernel asks is passed on to FILE (linux/fuse.h), lseek(2) too, as those do that share a
folder with a virtual machine.  With a CACHE it may lose what is in there as a kernel does: while a
file CACHE.fails stands a flush fails, what it covered is not on FILE, and is shown all the same.
While a file FILE.hangs stands a flush has no answer; while FILE.slow does each question how large
it is takes as many seconds as that file says.
Left out: everything else that a file system can do.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import sys
import time

_HEAD = struct.Struct("<IIQQIIIHH")  # length, what, number, node, whose
_ANSWER = struct.Struct("<IiQ")
_ROOT, _DISK = 1, 2  # nodes
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE = 1, 2, 3, 4, 14, 15, 16
_RELEASE, _FSYNC, _FLUSH, _INIT, _INTERRUPT, _DESTROY = 18, 20, 25, 26, 36, 38
_FALLOCATE, _LSEEK = 43, 46
_BIG_WRITES, _WRITEBACK_CACHE = 1 << 5, 1 << 16
_COUNT_S = int(os.environ.get("FUSE_ATTRIBUTES_S", "3600"))  # attributes do for so long
_PAGE = 4096


class FileSystem:
    def __init__(self, file: str, cache: str = "") -> None:
        self._file, self._disk = file, os.open(file, os.O_RDWR)
        self._cache, self._dirty = cache, list[tuple[int, int]]()  # offset and length
        if cache:
            shutil.copyfile(file, cache)
        self._fd = os.open(cache, os.O_RDWR) if cache else self._disk
        self._libc = ctypes.CDLL(None, use_errno=True)

    def serve(self, folder: str) -> None:
        device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if self._libc.mount(b"fuse_cache", folder.encode(), b"fuse", 0, options.encode()) < 0:
            raise OSError(ctypes.get_errno(), f"mount {folder}")
        print("mounted", flush=True)
        while True:
            try:
                request = os.read(device, 1 << 20)
            except OSError as error:
                if error.errno == errno.ENODEV:  # it was unmounted
                    return
                continue
            _, what, number, node, *_ = _HEAD.unpack_from(request)
            if what in (_FORGET, _INTERRUPT):
                continue
            code, answer = 0, b""
            try:
                answer = self._answer(what, node, request[_HEAD.size :])
            except OSError as error:
                code = error.errno or errno.EIO
            os.write(device, _ANSWER.pack(_ANSWER.size + len(answer), -code, number) + answer)

    def _answer(self, what: int, node: int, body: bytes) -> bytes:
        """OSError: what is told to who asks."""
        if what == _INIT:
            flags = _BIG_WRITES | _WRITEBACK_CACHE
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 16, flags, 12, 9, 1 << 16, 1, 0, 0, 0)
        if what == _LOOKUP:
            if body.rstrip(b"\0") != b"disk":
                raise OSError(errno.ENOENT, "")
            return struct.pack("<QQQQII", _DISK, 0, _COUNT_S, _COUNT_S, 0, 0) + self._attributes(2)
        if what in (_GETATTR, _SETATTR):
            return struct.pack("<QII", _COUNT_S, 0, 0) + self._attributes(node)
        if what == _OPEN:
            return struct.pack("<QII", 1, 0, 0)
        if what in (_RELEASE, _FLUSH, _DESTROY):
            return b""
        return self._on_file(what, body)

    def _on_file(self, what: int, body: bytes) -> bytes:
        if what == _READ:
            _, offset, length = struct.unpack_from("<QQI", body)
            return os.pread(self._fd, length, offset)
        if what == _WRITE:
            _, offset, length = struct.unpack_from("<QQI", body)
            os.pwrite(self._fd, body[40 : 40 + length], offset)
            self._dirty.append((offset, length))
            return struct.pack("<II", length, 0)
        if what == _FSYNC:
            self._flush()
            return b""
        if what == _LSEEK:
            _, offset, whence = struct.unpack_from("<QQI", body)
            return struct.pack("<Q", os.lseek(self._fd, offset, whence))
        if what == _FALLOCATE:
            _, offset, length, mode = struct.unpack_from("<QQQI", body)
            place = ctypes.c_int64(offset), ctypes.c_int64(length)
            if self._libc.fallocate(self._fd, mode, *place) < 0:
                raise OSError(ctypes.get_errno(), "")
            self._dirty.append((offset, length))
            return b""
        raise OSError(errno.ENOSYS, "")

    def _flush(self) -> None:
        """OSError: it failed, and what it covered counts as written."""
        while os.path.exists(f"{self._file}.hangs"):
            time.sleep(0.01)
        covered, self._dirty = self._dirty, []
        if self._cache and os.path.exists(f"{self._cache}.fails"):
            raise OSError(errno.EIO, "")
        for offset, length in covered if self._cache else ():
            os.pwrite(self._disk, os.pread(self._fd, length, offset), offset)
        os.fsync(self._disk)

    def _attributes(self, node: int) -> bytes:
        slow = f"{self._file}.slow"
        if os.path.exists(slow):
            with open(slow) as file:
                time.sleep(float(file.read()))
        found = os.fstat(self._fd)
        size, blocks = (found.st_size, found.st_blocks) if node == _DISK else (0, 0)
        mode = 0o100600 if node == _DISK else 0o40700
        times, parts = (0, 0, 0), (0, 0, 0)
        who = os.getuid(), os.getgid()
        return struct.pack("<6Q10I", node, size, blocks, *times, *parts, mode, 1, *who, 0, _PAGE, 0)


if __name__ == "__main__":
    FileSystem(sys.argv[1], *sys.argv[3:]).serve(sys.argv[2])
