"""What a process owes that dirty pages of its own machine wait for.

The kernel frees memory by writing to the device that this process serves.  If the process itself
then waits for memory, nothing ever moves again.  So it says that it is an I/O flusher (its
allocations never wait for writeback: prctl(2) PR_SET_IO_FLUSHER, inherited by threads begun
later), keeps its pages in memory, and is not the one that is killed when memory is short.

Pages are locked as they are touched (MCL_ONFAULT).  `nbdkit --swap` locks every page at once,
which would make the sparse maps of a large volume as large as they look.

Each of this needs a capability.  Without it the process goes on and says what is missing.
"""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

from mirror_core import limits

_PR_SET_IO_FLUSHER = 57
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14


def prepare() -> str | None:
    """Do what is permitted, in the main thread and before the others.

    None, or one line that says what was not and which capability it takes.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    missing = []
    if libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        missing.append("to be an I/O flusher (CAP_SYS_RESOURCE)")
    if not _may_lock() or libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        missing.append("to lock memory (CAP_IPC_LOCK)")
    try:
        Path("/proc/self/oom_score_adj").write_text(str(limits.OOM_SCORE))
    except OSError:
        missing.append("to be spared when memory is short (CAP_SYS_RESOURCE)")
    if not missing:
        return None
    return f"not permitted {', '.join(missing)}: a device attached here may hang if memory is short"


def _may_lock() -> bool:
    """Whether memory may be locked without end: under a limit that is met later on, every new
    mapping, a thread's stack for one, would fail."""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return True
    status = Path("/proc/self/status").read_text()
    (capabilities,) = (row.split()[1] for row in status.splitlines() if row.startswith("CapEff:"))
    return bool(int(capabilities, 16) >> _CAP_IPC_LOCK & 1)
