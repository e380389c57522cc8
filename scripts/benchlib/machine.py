"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

PACKAGES = {
    "fio": "fio",
    "nbdkit": "nbdkit",
    "qemu-storage-daemon": "qemu-system-common",
    "nbdcopy": "libnbd-bin",
}
"""The programs compared and used, each with its Debian package."""

_QUIET_LOAD = 0.5

Facts = dict[str, str | int | float]


def facts() -> Facts:
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": int(memory[1]) * 1024 if memory else 0,
        "kernel": platform.release(),
        "load_average_before": os.getloadavg()[0],
        **{program: _version(program) for program in PACKAGES},
    }


def busy() -> str:
    """A warning if something else is running, else nothing."""
    load = os.getloadavg()[0]
    return f"the machine is busy (load {load:.1f}): expect noise" if load > _QUIET_LOAD else ""


def _version(program: str) -> str:
    """The version a program tells; absolute ones without words around them."""
    try:
        done = subprocess.run((program, "--version"), check=False, capture_output=True, text=True)
    except OSError:
        return "not installed"
    number = re.search(r"\d+\.\d[\w.+~-]*", done.stdout)
    return number[0] if number else done.stdout.strip()
