"""Forks of a process that has other threads: a lock that one of them holds at the fork is held for
ever in the child.

From 3.12 on Python warns of each by a DeprecationWarning, which no filter can make an error: the
fork drops the exception.  3.11 says nothing.  So they are counted here, on both alike; a subprocess
without `preexec_fn` is none, as no Python runs in its child before the exec.
"""

from __future__ import annotations

import os
import traceback

_seen: list[str] = []


def count() -> None:
    """From now on, in this process."""
    os.register_at_fork(before=_look)


def taken() -> list[str]:
    """Where each was begun, since this was last asked."""
    found = _seen.copy()
    _seen.clear()
    return found


def _look() -> None:
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        where = "".join(traceback.format_stack(limit=6)[:-1])
        _seen.append(f"a fork beside {threads - 1} other threads:\n{where}")
