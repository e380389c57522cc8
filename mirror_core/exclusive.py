"""A block device, opened as its exclusive user: whoever has mounted it, or made another device of
it, is one, too.  Run as a program it opens the device that is named, for `open_alone`."""

from __future__ import annotations

import errno
import os
import socket
import sys

from mirror_core import apart


def open_alone(path: str) -> int:
    """OSError: EBUSY, it has another one; ETIMEDOUT, it does not answer.  Who opens a device may
    have its partitions looked for, for as long as its site is away."""
    answer = apart.ask(sys.executable, "-P", "-m", __name__, path)
    if not answer.fds:
        number = int(answer.said or errno.EIO)
        raise OSError(number, os.strerror(number))
    return answer.fds[0]


def _send_opened(path: str) -> None:
    with socket.socket(fileno=os.dup(1)) as to:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
            socket.send_fds(to, [b"0"], [fd])
        except OSError as error:
            to.send(str(error.errno).encode())


if __name__ == "__main__":
    _send_opened(sys.argv[1])
