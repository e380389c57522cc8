"""The log of a process: stderr, which nobody waits for, and which can be opened again.

A pipe whose reader stands still would hold up whoever logs, a client's request in nbdkit as well as
the control.  A write that would wait fails instead (EAGAIN), and is lost: what nbdkit says of its
clients, or a line of the journal, which counts it (journal.py).  Files never wait, and stay as they
are.  A pipe or a terminal is opened anew, so that others who have it are not concerned; a socket,
which is the service's own, cannot be.

A file is known by the name that it had when the process began: after a rename, as logrotate(8)
does, `reopen` goes on in a new file of that name.  Left out: who rotates while a site begins.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path


def open_log(path: Path, *, make: bool = True) -> int:
    """A file to append to; made if it is not there, unless `make` is False.  Its owner may have put
    anything there: a link, which root is not to follow, or a pipe, which nobody is to wait for.
    OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags | (os.O_CREAT if make else 0), 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no file")
    return fd


class Log:
    """`say` is told what goes wrong."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._path = _name_of_file()

    def reopen(self) -> None:
        """Nothing where stderr is no file: its other end is somebody else's."""
        if self._path is None:
            return
        try:
            fd = open_log(self._path)
        except OSError as error:
            self._say(f"{self._path}: {error.strerror}: mend that: the log goes on where it was")
            return
        if _is_same(1, 2):
            os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)


def _name_of_file() -> Path | None:
    """None: it is no file, or one without a name by now."""
    try:
        path, info = Path(os.readlink("/proc/self/fd/2")), os.fstat(2)
        if stat.S_ISREG(info.st_mode) and os.path.samestat(info, path.lstat()):
            return path
    except OSError:
        pass
    return None


def _is_same(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def never_wait() -> None:
    """From now on, in this process."""
    try:
        mode = os.fstat(2).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            _open_anew()
        elif stat.S_ISSOCK(mode):
            os.set_blocking(2, False)
    except OSError:  # it is closed, or no longer to be opened: a pipe without a reader fails anyway
        return


def _open_anew() -> None:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open("/proc/self/fd/2", flags)
    except OSError:
        os.set_blocking(2, False)
        return
    os.dup2(fd, 2)
    os.close(fd)
