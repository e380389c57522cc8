"""A block device, opened as its exclusive user: whoever has mounted it, or made another device of
it, is one, too."""

from __future__ import annotations

import errno
import os
import socket

from mirror_core import limits


def open_alone(path: str) -> int:
    """OSError: EBUSY, it has another one; ETIMEDOUT, it does not answer.  Who opens a device may
    have its partitions looked for, for as long as its site is away, and cannot be killed: that is a
    process of its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            try:
                for fd in range(3):  # who reads what this command prints does not wait for it
                    os.dup2(theirs.fileno(), fd)
                ours.close()
                _send_opened(theirs, path)
            finally:
                os._exit(0)
        theirs.close()
        ours.settimeout(limits.DEVICE_BUSY_S)
        try:
            code, fds, _, _ = socket.recv_fds(ours, 8, 1)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from error
        os.waitpid(child, 0)
    if not fds:
        number = int(code or errno.EIO)
        raise OSError(number, os.strerror(number))
    return fds[0]


def _send_opened(to: socket.socket, path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        socket.send_fds(to, [b"0"], [fd])
    except OSError as error:
        to.send(str(error.errno).encode())
