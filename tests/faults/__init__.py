"""Faults of a line or two, each with the checks that must catch it: tests of the tests.

`scripts/mutants` plants them one at a time and runs each check of each (fault.py).  Tests
(planted.py) and `scripts/simulate --plant NAME` plant those that have a name: in capitals if the
fault is in the core.

A fault stands in the file of what it breaks: volumes, copies, stores, controls, state, sites,
devices, metrics, reference.
"""

from __future__ import annotations

from faults import (
    controls,
    copies,
    devices,
    metrics,
    reference,
    sites,
    state,
    stores,
    volumes,
)
from faults.fault import RARE, SOON, Fault, NotPlanted, simulated

__all__ = ["FAULTS", "RARE", "SOON", "Fault", "NotPlanted", "named", "simulated"]

FAULTS: tuple[Fault, ...] = (
    *volumes.FAULTS, *copies.FAULTS, *stores.FAULTS, *controls.FAULTS, *state.FAULTS, *sites.FAULTS,
    *devices.FAULTS, *metrics.FAULTS, *reference.FAULTS,
)  # fmt: skip


def named(name: str) -> Fault:
    """NotPlanted: there is none."""
    for fault in FAULTS:
        if name and fault.name == name:
            return fault
    raise NotPlanted(f"no fault is named {name}")
