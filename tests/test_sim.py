"""The simulator in CI: random crash schedules, and the small scope (test_plants.py: it can fail).

`make soak` runs ten times as many random schedules, from other seeds.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tree
from pair import SOAK, some
from simulated import counter, simulate

COUNT = 700
# Of the schedules come to each state: it is 0.01 in a hundred thousand, and few in these.
LEAST = 0.007 if SOAK > 1 else 0.001


@pytest.mark.timeout(1800 * SOAK)  # 2 cores that are free need some 20 s
def test_random_crashes_lose_nothing() -> None:
    """No schedule of crashes, power losses, link and disk faults, stops, pauses and promotions
    loses or mixes a point, or what was acknowledged and flushed."""
    status, output = simulate(
        "--count", str(COUNT * SOAK), "--first", str(9_000_001 + COUNT * (SOAK - 1))
    )
    assert status == 0, output
    assert counter(output, "schedules") == COUNT * SOAK
    for name in (
        "power losses",
        "crashes in recovery",
        "writes lost",
        "torn files",
        "link cuts",
        "late messages",
        "disk errors",
        "servers lost",
        "hardening records",
        "maps outlived a kill",
        "cycles gone on with",
        "stable cycles resumed",
        "clients that came back",
        "fast zeroes refused",
        "orderly stops",
        "syncs done",
        "promotions",
        "old sources refused",
        "flushes that lost",
        "losses that a source's cache hides",
        "commits of which the source's disk was judged",
    ):
        assert counter(output, name) > 0, f"the schedules had no {name}"
    shallow = counter(output, "schedules without a point under fault")
    assert shallow <= 0.15 * COUNT * SOAK, "the faults come before there is anything to lose"
    for state, found in re.findall(r"^  (\S.*\S) +([0-9,]+)$", output, re.MULTILINE):
        reached = int(found.replace(",", ""))
        assert reached >= LEAST * COUNT * SOAK, f"seldom: {state}"


def test_a_record_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Ranges that a record has are not run again, and the sums are of all of them."""
    record = str(tmp_path / "record")
    for count in ("3", "8"):
        status, output = simulate("--first", "1", "--count", count, "--record", record)
        assert status == 0 and counter(output, "schedules") == int(count)
    firsts = [json.loads(line)["first"] for line in Path(record).read_text().splitlines()]
    assert firsts == [1, 4]


_SAME = {
    "mirror_core/site.py": ("leaves nothing behind", "has left nothing behind"),
    "mirror_core/attach.py": ("def ", "def other_"),
    "native/gate.c": ("/*", "/* says more:"),
}
_OTHER = {
    "mirror_core/limits.py": ("STABLE_S = 1.0", "STABLE_S = 2.0"),
    "mirror_core/ledger.py": ("return", "return None or"),
    "native/gate.c": ("->state", "->states"),
    "tests/sim/native/sim.cdef": ("int", "long"),
    "tests/sim/world.py": ("return", "return None or"),
}


@pytest.mark.parametrize(("changes", "same"), some([(_OTHER, False), (_SAME, True)]))
def test_a_record_counts_for_what_its_schedules_ran(
    tmp_path: Path, changes: dict[str, tuple[str, str]], same: bool
) -> None:
    """For other words about it, too, and for what no schedule runs; not for another core, another
    module that the sites run, or another simulator."""
    root = Path(__file__).parent.parent
    for folder in ("mirror_core", "native", "tests/sim"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("build*"))
    before = tree.digest(tmp_path, tmp_path)
    for file, (old, new) in changes.items():
        text = (tmp_path / file).read_text()
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new, 1))
        assert (tree.digest(tmp_path, tmp_path) == before) is same, file
        (tmp_path / file).write_text(text)


def test_every_crash_point_of_the_small_scope() -> None:
    """Three blocks, two cycles, a promotion, orderly stops: whichever instant one crash takes,
    nothing is lost.  Every instant in one way or another; `make soak` takes each in every way."""
    every = 1 if SOAK > 1 else 59  # which divides no number of points, nor of ways
    status, output = simulate("--exhaustive", "--every", str(every))
    assert status == 0, output
    assert counter(output, "schedules") > 18_000 // every


def test_one_seed_is_one_run() -> None:
    """The trace of a seed is the same whenever it is asked for."""
    first, second = (simulate("--seed", "7") for _ in range(2))
    assert first == second
    assert "consistency point" in first[1]
