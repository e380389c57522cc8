"""The simulator finds the faults that are planted for it: those that show soon (faults/).

`scripts/mutants`, of `make soak`, plants all.
"""

from __future__ import annotations

import pytest
from faults import FAULTS, SOON, simulated
from simulated import simulate

FOUND = {
    fault.name: found
    for fault in FAULTS
    for check in fault.checks
    if (found := simulated(check)) and found[0] <= SOON
}


@pytest.mark.parametrize("name", FOUND)
def test_planted_fault_is_caught(name: str) -> None:
    """It is a violation within some schedules."""
    count, acts = FOUND[name]
    status, output = simulate(
        "--plant", name, "--count", str(count), "--stop-at", "1", "--acts", acts
    )
    assert status == 1 and f"--plant {name}" in output
