"""How many clients there may be, and how their connections end when nbdkit was told to end.

At its limit of descriptors nbdkit spins on accept(2) and fills the log, for as long as the
clients stay; so a connection is refused when few descriptors are left (`room`).

nbdkit waits for its clients before it calls `cleanup`, without a bound, and a client that is
idle (a mounted file system at night, the lanes of a source) never goes by itself.  So a thread
learns of the shutdown as a callback would, through nbdkit_nanosleep(3), and from then on shuts
the receiving side of every connection of our socket: a request under way still gets its answer,
then its connection ends.  It looks again until `cleanup`, which may miss nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import stat
import threading
from pathlib import Path

_LOOK_AGAIN_S = 0.05
_SLEEP_S = 86400
_RESERVED = 64  # descriptors


def take_all_descriptors() -> None:
    """Raise this process's limit as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room() -> bool:
    """Whether one more client leaves enough descriptors for the stores, the peer and the log."""
    fd = os.dup(2)  # the lowest that is free
    os.close(fd)
    return fd < resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED


class Ender(threading.Thread):
    """Started after nbdkit's fork; `end` from cleanup, when no client is left."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="ender")
        self._path = str(path)
        self._left = threading.Event()

    def run(self) -> None:
        sleep = ctypes.CDLL(None).nbdkit_nanosleep
        while sleep(_SLEEP_S, 0) == 0:
            pass
        while not self._left.wait(_LOOK_AGAIN_S):
            end_connections(self._path)

    def end(self) -> None:
        self._left.set()
        self.join()


def end_connections(path: str) -> None:
    """Shut the receiving side of every connection that was accepted on this Unix socket."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if not listens and connection.getsockname() == path:
                    connection.shutdown(socket.SHUT_RD)
