"""The protocol, checked by spin: every state within bounds, and what each rule is there for.

mirror.pml and freeze.pml say what is modelled and what is not.  A rule that no trace needs would
be a rule that nobody tests: so each can be removed, and pan must then find the trace.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pair import SOAK, some

MODELS = Path(__file__).parent
MEMORY_MIB = 2048

# switch: the least that its trace needs of the world (the switches stand at their rules)
MIRROR_RULES = {
    "COMPARE_WITH_FIRST": "LOSSES=1",
    "NO_COMMIT_FLUSH": "",
    "NO_COOLING_RULE": "",
    "NO_COPY_BEFORE_WRITE": "",
    "NO_DURABLE_BEGUN": "LOSSES=1",
    "NO_DURABLE_INTENT": "LOSSES=1",
    "NO_DURABLE_WRITTEN": "LOSSES=1",
    "NO_FENCE_AT_PROMOTE": "PROMOTES=1",
    "NO_FENCE_COMMITS": "LOSSES=1",
    "NO_FENCE_WAITING": "CUTS=1",
    "NO_FENCE_WRITES": "CUTS=1",
    "NO_FIRST_COMMIT": "PROMOTES=2",
    "NO_FIRST_CYCLE": "PROMOTES=1",
    "NO_HARDENED_IMAGE": "LOSSES=1",
    "NO_HARDENING_FLUSH": "",
    "NO_JOIN_UNSTABLE": "LOSSES=2",
    "NO_JOIN_WRITTEN": "LOSSES=1",
    "NO_REHEAT": "",
    "NO_RESEND_UNSTABLE": "LOSSES=1",
    "NO_RESTART_FROM_INTENT": "LOSSES=1",
    "NO_SOURCE_FLUSH": "",
    "NO_UNION": "PROMOTES=1",
    "NO_UNWRITTEN": "LOSSES=1",
    "NO_WAIT_FOR_HARDENING": "",
    "NO_WAIT_FOR_PENDING2": "",
    "NO_WHOLE_IMAGE": "CUTS=1 PROMOTES=1",
}
NO_RULES = {"ENDLESS", "SENT_AGAIN"}  # switches that remove nothing
FREEZE_RULES = ("NO_COPY_BEFORE_WRITE", "NO_DRAIN", "SWAP_PER_VOLUME")


@dataclass(frozen=True)
class Search:
    """errors: 0 or 1.  unreached: statements never executed.  trace: the steps to the error."""

    errors: int
    states: int
    unreached: list[str]
    trace: list[str]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def search(
    folder: Path,
    model: str,
    defined: str = "",
    *,
    spin: tuple[str, ...] = (),
    gcc: tuple[str, ...] = ("-O2", "-DSAFETY"),
    pan: tuple[str, ...] = (),
) -> Search:
    """Look through every state of `model`, with the macros in `defined`."""
    assert shutil.which("spin"), "spin is missing: apt-get install spin"
    macros = [f"-D{macro}" for macro in defined.split()]
    shutil.copy(MODELS / model, folder)
    began = time.monotonic()
    run(folder, "spin", *spin, *macros, "-a", model)
    # No partial order reduction: every step touches shared state, there is nothing to reduce.
    run(folder, "gcc", "-w", *gcc, "-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB}", "-o", "pan", "pan.c")
    output = run(folder, "./pan", "-m100000", *pan)
    ended = re.search(r"errors: (\d+)\n\s*(\d+) states, stored", output)
    assert ended, output
    errors, states = map(int, ended.groups())
    assert "max search depth too small" not in output
    assert bool(errors) == ("Search not completed" in output), output
    trace = []
    if errors:
        assert f"wrote {model}.trail" in output
        replayed = run(folder, "spin", "-t", "-B", *macros, model)
        trace = re.findall(r"^ +([a-z_]+(?: \d)?)$", replayed, re.MULTILINE)
    unreached = re.findall(r', state \d+, "(.*)"', output)
    took = f"{time.monotonic() - began:.1f} s"
    print(f"{model} {defined}: {states} states, {took}", *trace, sep="\n  ")
    return Search(errors, states, unreached, trace)


def trace_without(folder: Path, model: str, rule: str, world: str = "") -> list[str]:
    """The shortest trace that breaks a promise once `rule` is removed."""
    found = search(
        folder, model, f"{rule} {world}", gcc=("-O0", "-DSAFETY", "-DBFS"), pan=("-w20",)
    )
    assert found.errors == 1, f"{rule}: no promise is broken without it"
    return found.trace


def test_every_promise_holds_in_every_state(tmp_path: Path) -> None:
    """Whatever is lost, cut, late or promoted: the image is the committed point, no commit is
    taken back, no intent is lost; and whenever nothing is left to do both sites are equal."""
    world = "SENT_AGAIN CUTS=2" if SOAK > 1 else "SENT_AGAIN"
    found = search(tmp_path, "mirror.pml", world, pan=("-n", "-w25"))
    assert found.errors == 0, found.trace
    assert found.states > 1_000_000


def test_the_sites_always_come_to_rest(tmp_path: Path) -> None:
    """No run of the protocol goes on for ever: once the faults stop, the sites become equal."""
    world = f"ENDLESS WRITES=2 LOSSES={min(SOAK, 2)}"
    found = search(tmp_path, "mirror.pml", world, gcc=("-O1", "-DNP"), pan=("-l", "-n", "-w22"))
    assert found.errors == 0, found.trace


def test_no_step_of_the_model_is_dead(tmp_path: Path) -> None:
    """What is never executed proves nothing: only the asserts of broken promises are not."""
    found = search(tmp_path, "mirror.pml", "LOSSES=1", spin=("-o3",), pan=("-w22",))
    assert found.errors == 0, found.trace
    unreached = [line for line in found.unreached if not line.startswith("assert(")]
    assert unreached == ["-end-"] * 3


@pytest.mark.parametrize("rule", some(MIRROR_RULES, 3))
def test_each_rule_of_the_mirror_is_needed(tmp_path: Path, rule: str) -> None:
    """Without the rule, some promise is broken."""
    budgets = {"LOSSES": "0", "CUTS": "0", "PROMOTES": "0"}
    budgets |= dict(item.split("=") for item in MIRROR_RULES[rule].split())
    world = " ".join(f"{name}={value}" for name, value in budgets.items())
    assert trace_without(tmp_path, "mirror.pml", rule, world)


def test_a_consistency_point_of_two_volumes_is_a_prefix(tmp_path: Path) -> None:
    """Of dependent writes to two volumes a point holds the first so many, and all that were
    acknowledged before; a missed deadline only opens the gates."""
    found = search(tmp_path, "freeze.pml")
    assert found.errors == 0, found.trace


@pytest.mark.parametrize("rule", FREEZE_RULES)
def test_each_rule_of_the_freeze_is_needed(tmp_path: Path, rule: str) -> None:
    """Without the rule, a point is no prefix, or a write is in no map."""
    assert trace_without(tmp_path, "freeze.pml", rule)


@pytest.mark.parametrize(
    ("model", "rules"), [("mirror.pml", MIRROR_RULES), ("freeze.pml", FREEZE_RULES)]
)
def test_no_switch_is_forgotten(model: str, rules: Iterable[str]) -> None:
    """Every switch that a model has is among those tested here."""
    text = (MODELS / model).read_text()
    switches = set(re.findall(r"^#ifn?def (\w+)", text, re.MULTILINE))
    bounds = set(re.findall(r"^#ifndef (\w+)\n#define \1 ", text, re.MULTILINE))
    assert switches - bounds - NO_RULES == set(rules)
