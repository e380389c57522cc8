"""Boots a real Linux kernel for one command, as an ordinary process: user-mode Linux.

The idea: the guest's root is this machine's own file tree (hostfs) below a tmpfs (overlay), so
every program, the checkout and its virtual environment are there at their own paths and nothing is
installed or built. ``guest_init`` is its PID 1. Two channels leave the guest: the first console
carries the kernel's messages, among them PID 1's word on how the command ended; the second carries
what the command printed.

Invariants:
* What the guest writes is gone when it ends, but for the folder ``share`` (same path in both).
* A guest never outlives its time limit, even if this process is killed: ``timeout`` holds it.
* What the guest did not bring to an end is never taken for a success: ``DIED``, ``TIMED_OUT``.

Left out until a test needs them, with their places: disks (``ubdN=FILE`` on the kernel's command
line) and the cut of their power (kill the process group at a line of output, where ``_boot`` reads
it, and a status of its own); a network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KERNEL = Path("/usr/bin/linux.uml")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {str(KERNEL): "user-mode-linux", "modprobe": "kmod"}  # program: its package
GUEST_INIT = Path(__file__).with_name("guest_init.py")

DIED = 97  # the guest ended without a word: panic, out of memory, PID 1 failed
TIMED_OUT = 124
BOOT_AND_HALT_SECONDS = 60  # a generous bound on what is not the command itself

_RESULT = re.compile(r"guest_init: status (\d+)")
_COMPLAINT = re.compile(
    r"Kernel panic|BUG:|Oops|WARNING:|Call Trace|I/O error|blocked for more"
    r"|Out of memory|segfault|EXT4-fs error|XFS.*[Cc]orrupt|nbd.*(timed out|failed|stuck)"
)


@dataclass(frozen=True)
class GuestResult:
    """How the guest's command ended, what it printed, and what the kernel said meanwhile."""

    status: int
    output: str
    kernel_log: str

    @property
    def complaints(self) -> list[str]:
        """The kernel's lines that say that something is wrong."""
        return [line for line in self.kernel_log.splitlines() if _COMPLAINT.search(line)]

    def report(self) -> str:
        """All that a person needs to understand a failed run."""
        kernel = "\n".join(self.kernel_log.splitlines()[-60:])
        return f"guest status {self.status}\n{self.output}\n--- kernel ---\n{kernel}"


def missing(packages: dict[str, str]) -> str:
    """What to install, in one line, so that these programs are there too; empty if nothing."""
    needed = PACKAGES | packages
    absent = [program for program in needed if shutil.which(program, path=PATH) is None]
    install = " ".join(sorted({needed[program] for program in absent}))
    return f"{', '.join(absent)} missing: apt-get install {install}" if absent else ""


def run_guest(
    command: Sequence[str | Path],
    share: Path,
    timeout: float,
    *,
    modules: Sequence[str] = (),
    memory: str = "512M",
) -> GuestResult:
    """Boot a guest, run the command in it as root with ``share`` as its folder, and halt it.

    The command has ``timeout`` seconds; then the kernel's blocked tasks are at the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="guest.") as folder:
        run = Path(folder)
        conf = {
            "command": [str(word) for word in command],
            "share": str(share.resolve()),
            "modules": list(modules),
            "timeout": timeout,
            "environment": {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"},
        }
        (run / "guest.json").write_text(json.dumps(conf))
        output = _boot(run, memory, timeout + BOOT_AND_HALT_SECONDS)
        kernel_log = (run / "kernel.log").read_text(errors="replace")
    said = _RESULT.search(kernel_log)
    return GuestResult(int(said[1]) if said else DIED, output, kernel_log)


def _boot(run: Path, memory: str, limit: float) -> str:
    """Boot with the folder ``run``; when the guest has ended, what its command printed."""
    kernel = [
        *(str(KERNEL), f"mem={memory}", f"uml_dir={run}/", "umid=guest"),
        *("rootfstype=hostfs", "rootflags=/", "ro"),
        *("con=null", "con0=null,fd:2", "con1=null,fd:1"),
        *("loglevel=7", "panic=-1", "noreboot"),
        *(f"GUEST_CONF={run}/guest.json", "init=/usr/bin/python3", "--", "-IS", f'"{GUEST_INIT}"'),
    ]
    with (
        open(run / "kernel.log", "wb") as log,
        subprocess.Popen(
            ["timeout", "--signal=KILL", str(limit), *kernel],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
            text=True,
            errors="replace",
        ) as guest,
    ):
        assert guest.stdout is not None
        try:
            return "".join(guest.stdout)  # to its end, which is the guest's, or the time limit's
        finally:
            os.killpg(guest.pid, signal.SIGKILL)
