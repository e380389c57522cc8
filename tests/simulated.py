"""Runs scripts/simulate in a process of its own: importing the simulator replaces the core."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def simulate(*options: str) -> tuple[int, str]:
    """Exit status, and what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/simulate"), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout


def counter(output: str, name: str) -> int:
    found = re.search(rf"^{name} +([0-9,]+)$", output, re.MULTILINE)
    assert found, f"no counter {name!r}"
    return int(found[1].replace(",", ""))
