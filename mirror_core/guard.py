"""Keeps what a control thread promises to others when something is raised that nobody foresaw.

    the system's errors     OSError, MemoryError: they pass.  What was under way is given up, and
                            the thread's work begins again, after a wait that grows
    all others              a broken invariant, which nobody can trust any more: the work ends
                            until the site is started again

`give_up` comes first, and sees to it that nobody waits for the thread: no writer, no request, no
stop.  If even that raises, the process ends as if it were killed: what a kill leaves is right.

Left out: what is expected to fail (MirrorError, whose reason and back-off belong to the work).
"""

from __future__ import annotations

from collections.abc import Callable

from mirror_core import limits
from mirror_core.errors import MirrorError
from mirror_core.journal import Journal
from mirror_core.platform import Platform


def passes(error: Exception) -> bool:
    """Whether it may go well the next time."""
    return isinstance(error, (MirrorError, OSError, MemoryError))


def reason_of(error: Exception) -> str:
    """One line for `status`."""
    what = str(error) or type(error).__name__
    if passes(error):
        return f"{what}: look at this machine's memory and disks; it is tried again"
    return f"internal error ({error!r}): report it, restart the site"


def run(
    work: Callable[[], None],
    give_up: Callable[[Exception], None],
    wait: Callable[[float], bool],
    journal: Journal,
    platform: Platform,
) -> None:
    """Until `work` returns, or is broken.  `wait`: for so long at most; False: it is to end."""
    pause = limits.BACKOFF_MIN_S
    while True:
        try:
            work()
            return
        except Exception as error:
            try:
                give_up(error)
                journal.trouble(error)
                if not passes(error) or not wait(pause):
                    return
            except Exception as worse:
                journal.trouble(worse)
                journal.say("what was under way cannot be given up: the site ends: start it again")
                platform.abort()
        pause = min(2 * pause, limits.BACKOFF_MAX_S)
