"""Every long operation on every slow store and link, in virtual time (sim/matrix.py), in CI.

In a process of its own: importing the simulator replaces the core.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def matrix(*words: str, plant: str = "") -> tuple[int, str]:
    """Exit status, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "sim.matrix", *words],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SIM_PLANT": plant},
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout


def test_all_that_is_slow_gets_on() -> None:
    """Five places, four latencies, three rates: first copy, seed, cycles, hardening, writes,
    zeroes, comparison, handshakes, stops, promotion and failback end in their time; no write waits
    longer than is promised, no link is lost while none waits, and the reason names the setting
    where one is."""
    status, output = matrix()
    assert status == 0, output
    assert "60 cells, 0 violations" in output


@pytest.mark.soak
def test_the_matrix_can_fail() -> None:
    """A target that says nothing while it hardens loses the link, and a write that waits for all
    before it waits too long, a seed of which all is sent: each is found."""
    status, output = matrix("west data, 1000 ms", plant="NO_PUTTING_OFF")
    assert status == 1 and "nobody waits" in output
    status, output = matrix("west data, 1000 ms", plant="NO_PATIENCE")
    assert status == 1 and "request took" in output
    status, output = matrix("west data, 0.1 ms, 1 MB", plant="NOTHING_EQUAL")
    assert status == 1 and "of 8192" in output
