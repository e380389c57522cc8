"""An exception at every call that a site makes, in the simulator (tests/sim/injections.py)."""

from __future__ import annotations

from pair import SOAK
from simulated import counter, simulate


def test_an_exception_at_any_call_leaves_nobody_waiting() -> None:
    """Of the system, a store, a map, in a cycle, a handshake, a boot, a promotion, a stop: writers
    are answered, a control that has ended says so, a stop ends, and a restart makes all right.
    (A sample; `make soak` has every call.)"""
    every = "1" if SOAK > 1 else "37"
    status, output = simulate("--injections", "--every", every, "--count", "1000000")
    assert status == 0, output
    assert counter(output, "exceptions thrown") > (5_000 if SOAK > 1 else 150)
