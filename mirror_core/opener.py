"""A program: opens a block device as its exclusive user, and sends the descriptor over its output,
a socket; or the errno of why not.  With a word behind the path it opens it beside others and writes
out what the kernel has of it, and sends the errno of that, or 0.  It needs nothing else of ours, so
that it begins at once."""

import ctypes
import os
import socket
import sys

_WAIT_WRITE_WAIT = 7  # linux/fs.h: SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER


def main(path: str, *write: str) -> None:
    with socket.socket(fileno=os.dup(1)) as to:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if write else os.O_EXCL))
            if write:
                _write(fd)
                to.send(b"0")
            else:
                socket.send_fds(to, [b"0"], [fd])
        except OSError as error:
            to.send(str(error.errno).encode())


def _write(fd: int) -> None:
    """As the last close of a device does: without the flush of an fsync(2), for which one whose
    site is away would wait though nothing was written to it.  OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    whole = ctypes.c_int64(0), ctypes.c_int64(0)
    if libc.sync_file_range(fd, *whole, _WAIT_WRITE_WAIT):
        raise OSError(ctypes.get_errno(), "")


if __name__ == "__main__":
    main(*sys.argv[1:])
