"""The simulator in CI: random crash schedules, the small scope, and proof that it can fail.

Each runs scripts/simulate in a process of its own: importing the simulator replaces the core.
`make soak` runs ten times as many random schedules, from other seeds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOAK = int(os.environ.get("FLASHMIRROR_SOAK", "1"))
COUNT = 6_000


# States that are reached in fewer schedules than one of a hundred.
RATES = {"failed record of written": 0.004, "commit asked again": 0.005,
         "stable asked again": 0.005, "stable blocks that the target forgot": 0.0002}  # fmt: skip


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


@pytest.mark.timeout(1800 * SOAK)  # 2 cores that are free need some 100 s
def test_random_crashes_lose_nothing() -> None:
    """No schedule of crashes, power losses, link and disk faults, stops, pauses and promotions
    loses or mixes a point, or what was acknowledged and flushed."""
    status, output = simulate("--count", str(COUNT * SOAK), "--first", str(1 + COUNT * (SOAK - 1)))
    assert status == 0, output
    assert counter(output, "schedules") == COUNT * SOAK
    for name in ("power losses", "crashes in recovery", "writes lost", "torn files", "link cuts",
                 "late messages", "disk errors", "servers lost", "hardening records",
                 "maps outlived a kill", "cycles gone on with", "stable cycles resumed",
                 "orderly stops", "syncs done", "promotions", "old sources refused",
                 "flushes that lost"):  # fmt: skip
        assert counter(output, name) > 0, f"the schedules had no {name}"
    shallow = counter(output, "schedules without a point under fault")
    assert shallow <= 0.15 * COUNT * SOAK, "the faults come before there is anything to lose"
    for state, found in re.findall(r"^  (\S.*\S) +([0-9,]+)$", output, re.MULTILINE):
        reached = int(found.replace(",", ""))
        assert reached >= RATES.get(state, 0.01) * COUNT * SOAK, f"seldom: {state}"


def test_a_record_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Ranges that a record has are not run again, and the sums are of all of them."""
    record = str(tmp_path / "record")
    for count in ("3", "8"):
        status, output = simulate("--first", "1", "--count", count, "--record", record)
        assert status == 0 and counter(output, "schedules") == int(count)
    firsts = [json.loads(line)["first"] for line in Path(record).read_text().splitlines()]
    assert firsts == [1, 4]


def test_an_exception_at_any_call_leaves_nobody_waiting() -> None:
    """Of the system, a store, a map, in a cycle, a handshake, a boot, a promotion, a stop: writers
    are answered, a control that has ended says so, a stop ends, and a restart makes all right.
    (A sample; `make soak` has every call.)"""
    every = "1" if SOAK > 1 else "13"
    status, output = simulate("--injections", "--every", every, "--count", "1000000")
    assert status == 0, output
    assert counter(output, "exceptions thrown") > (5_000 if SOAK > 1 else 500)


def test_every_crash_point_of_the_small_scope() -> None:
    """Three blocks, two cycles, a promotion, orderly stops: whichever instant one crash takes,
    nothing is lost."""
    status, output = simulate("--exhaustive")
    assert status == 0, output
    assert counter(output, "schedules") > 10_000


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
    "failed_flush_believed": 10_000,
    "thrown_is_the_end": 10_000,
    "hardened_by_the_ledger": 20_000,
    "any_image_taken": 20_000,
    "NO_HARDENING": 10_000,
    "record_before_flush": 10_000,
    "recovery_forgets_log": 10_000,
    "stable_without_flush": 10_000,
    "kept_intermediate": 10_000,
    "NO_FENCE": 10_000,
    "late_commits": 10_000,
    "stable_of_any_cycle": 10_000,
}
if SOAK > 1:  # they take thousands of schedules to show
    PLANTS |= dict.fromkeys(
        ("stable_not_forgotten", "any_copy_taken", "maps_of_any_commit"), 20_000
    )


ACTS = dict.fromkeys(("any_image_taken", "any_copy_taken", "maps_of_any_commit"),
                     "goes_back,clone,promote,run_on")  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS)
def test_planted_fault_is_caught(plant: str) -> None:
    """A step left out (sim/plants.py; faults.py) is a violation within some schedules."""
    count, acts = str(PLANTS[plant]), ACTS.get(plant, "")
    status, output = simulate(
        "--plant", plant, "--count", count, "--stop-at", "1", "--acts", acts
    )  # fmt: skip
    assert status == 1 and f"--plant {plant}" in output


def test_one_seed_is_one_run() -> None:
    """The trace of a seed is the same whenever it is asked for."""
    first, second = (simulate("--seed", "7") for _ in range(2))
    assert first == second
    assert "consistency point" in first[1]
