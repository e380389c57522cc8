"""Faults of a line or two, each with the checks that must catch it: tests of the tests.

`scripts/mutants` plants them one at a time and runs each check of each (fault.py).  Tests
(planted.py) and `scripts/simulate --plant NAME` plant those that have a name: in capitals if the
fault is in the core.

A fault stands in the file of what it breaks; the first line of each says what that is.
"""

from __future__ import annotations

from faults import (
    adoptions,
    commands,
    controls,
    copies,
    core_losses,
    core_stores,
    devices,
    metrics,
    processes,
    reference,
    roles,
    settings,
    sites,
    state,
    store_losses,
    store_sites,
    stores,
    target_controls,
    volumes,
)
from faults.fault import RARE, SOON, Fault, NotPlanted, simulated

__all__ = ["FAULTS", "RARE", "SOON", "Fault", "NotPlanted", "named", "simulated"]

_FILES = (
    volumes,
    copies,
    core_stores,
    core_losses,
    store_losses,
    stores,
    store_sites,
    adoptions,
    controls,
    target_controls,
    state,
    sites,
    roles,
    processes,
    settings,
    commands,
    devices,
    metrics,
    reference,
)
FAULTS: tuple[Fault, ...] = tuple(fault for file in _FILES for fault in file.FAULTS)


def named(name: str) -> Fault:
    """NotPlanted: there is none."""
    for fault in FAULTS:
        if name and fault.name == name:
            return fault
    raise NotPlanted(f"no fault is named {name}")
