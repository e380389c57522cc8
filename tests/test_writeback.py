"""What a site does so that its own machine may write back to it, and says if it may not.

Which capabilities these tests have differs; each promise is checked by what there is.  With all of
them: tests/kernel/test_attached.py."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from handmade import as_somebody_else, state_of
from pair import Pair

from mirror_core import limits

IPC_LOCK, SYS_RESOURCE = 14, 24
PREPARE = """
import ctypes, threading
from mirror_core import writeback
print(writeback.prepare())
print(ctypes.CDLL(None).prctl(58, 0, 0, 0, 0))
threads = [threading.Thread(target=lambda: bytearray(1 << 20)) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def may(capability: int) -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> capability & 1)


def test_a_site_does_what_is_permitted_and_says_what_is_not(running: Pair) -> None:
    """Locked memory, OOM score; one line in the log names each capability that is missing."""
    process = Path(f"/proc/{state_of(running)['pid']}")
    locked = int((process / "status").read_text().split("VmLck:")[1].split()[0])
    score = int((process / "oom_score_adj").read_text())
    lines = [line for line in running.log("east").splitlines() if "not permitted" in line]
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    may_lock = may(IPC_LOCK) or hard == resource.RLIM_INFINITY
    assert (locked > 0) == may_lock
    assert (score == limits.OOM_SCORE) == may(SYS_RESOURCE)
    if may_lock and may(SYS_RESOURCE):
        assert lines == []
    else:
        assert len(lines) == 1
        assert ("CAP_IPC_LOCK" in lines[0]) != may_lock
        assert ("CAP_SYS_RESOURCE" in lines[0]) != may(SYS_RESOURCE)


def test_locked_memory_is_not_filled(running: Pair) -> None:
    """Pages are locked when they are touched: the process is as small as it was."""
    status = (Path(f"/proc/{state_of(running)['pid']}") / "status").read_text()
    size, resident = (int(status.split(f"{key}:")[1].split()[0]) for key in ("VmSize", "VmRSS"))
    assert resident < size / 4


def test_without_any_capability_the_process_goes_on() -> None:
    """All three are named; afterwards threads, which need memory, begin as ever."""
    words = [*as_somebody_else(), sys.executable, "-c", PREPARE]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said, flusher = done.stdout.splitlines()
    if os.geteuid() == 0 or not may(SYS_RESOURCE):  # or it is somebody with that capability
        assert flusher == "-1", "who may not set it may not ask for it either"
        assert "I/O flusher" in said and "spared when memory is short" in said
