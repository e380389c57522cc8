"""The simulator notices each fault that is planted in production (tests/sim/plants.py)."""

from __future__ import annotations

import pytest
from pair import SOAK, some
from simulated import simulate

PLANTS = {
    "NO_SINK_FLUSH": 10_000,
    "SENT_IS_COMMITTED": 10_000,
    "UNSTABLE_KEPT": 10_000,
    "commit_without_flush": 10_000,
    "hot_forgotten": 10_000,
    "ledger_not_synced": 10_000,
    "folder_not_synced": 10_000,
    "begun_not_durable": 10_000,
    "freeze_of_one_volume": 10_000,
    "stop_without_flush": 10_000,
    "promoted_too_early": 10_000,
    "handshake_twice": 10_000,
    "any_image_taken": 20_000,
    "record_before_flush": 10_000,
    "recovery_forgets_log": 10_000,
    "stable_without_flush": 10_000,
    "kept_intermediate": 10_000,
    "stable_of_any_cycle": 10_000,
}
if SOAK > 1:  # they take thousands of schedules to show
    PLANTS |= dict.fromkeys(
        (
            "stable_not_forgotten",
            "thrown_is_the_end",
            "any_copy_taken",
            "maps_of_any_commit",
            "compare_trusts_a_cache",
            "hardened_by_the_ledger",
            "NO_FENCE",
            "NO_HARDENING",
            "late_commits",
            "failed_flush_believed",
        ),
        20_000,
    )


ACTS = dict.fromkeys(("any_image_taken", "any_copy_taken", "maps_of_any_commit"),
                     "goes_back,clone,promote,run_on")  # fmt: skip


@pytest.mark.parametrize("plant", some(PLANTS))
def test_planted_fault_is_caught(plant: str) -> None:
    """A step left out (sim/plants.py; faults.py) is a violation within some schedules."""
    count, acts = str(PLANTS[plant]), ACTS.get(plant, "")
    status, output = simulate(
        "--plant", plant, "--count", count, "--stop-at", "1", "--acts", acts
    )  # fmt: skip
    assert status == 1 and f"--plant {plant}" in output
