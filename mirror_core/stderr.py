"""Makes stderr something that nobody waits for: a pipe whose reader stands still would hold up
whoever logs, a client's request in nbdkit as well as the control.

A write that would wait fails instead (EAGAIN), and is lost: what nbdkit says of its clients, or a
line of the journal, which counts it (journal.py).  Files never wait, and stay as they are.  A pipe
or a terminal is opened anew, so that others who have it are not concerned; a socket, which is the
service's own, cannot be.
"""

from __future__ import annotations

import os
import stat


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
