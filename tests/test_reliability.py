"""docs/reliability.md: the tests and planted faults of its table are there, and belong together;
and docs/threats.md: so are its tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import Fault, named, simulated

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reliability.md"
FILE = re.compile(
    r"`((?:native/)?tests/[\w/]+\.[ch]|tests/[\w/]+\.py)`(?: \(((?:`\w+`(?:, )?)+)\))?"
)
NONE = "none: "  # how a cell begins that says why there is no planted fault


def rows() -> list[tuple[str, str, str]]:
    """(promise, what shows it, planted faults)"""
    table = PAGE.read_text().partition("\n| promise | ")[2].partition("\n\n")[0]
    head, rule, *lines = table.splitlines()
    assert (head, rule) == ("shown by | planted fault |", "| --- | --- | --- |")
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return [(promise, shown, plants) for promise, shown, plants in cells]


def shown_by(cell: str) -> dict[str, list[str]]:
    """The files of tests that a cell names, and of each the tests, by a part of their names; none:
    all of them."""
    found: dict[str, list[str]] = {}
    for file, parts in FILE.findall(cell):
        found.setdefault(file, []).extend(re.findall(r"\w+", parts))
    return found


def is_shown_by(check: str, tests: dict[str, list[str]]) -> bool:
    """Whether the check of a planted fault is one of these tests."""
    if simulated(check):
        return True
    kind, _, name = check.partition(":")
    if kind in ("native", "fuzz"):
        return f"native/tests/{'fuzz' if kind == 'fuzz' else 'test'}_{name}.c" in tests
    file, _, test = check.partition("::")
    parts = tests.get(file)
    return parts is not None and (not parts or not test or any(part in test for part in parts))


ROWS = rows()


@pytest.mark.parametrize("row", ROWS, ids=[str(number) for number in range(1, len(ROWS) + 1)])
def test_each_promise_names_tests_and_faults_that_they_notice(row: tuple[str, str, str]) -> None:
    """What is named exists; each planted fault has a check that is one of the row's tests, or is
    one that the simulator finds."""
    promise, cell, plants = row
    tests = shown_by(cell)
    _are_there(tests)
    if plants.startswith(NONE):
        assert len(plants) > len(NONE) + 20, f"{promise}: says why"
        return
    names = re.findall(r"`(\w+)`", plants)
    assert names, promise
    for name in names:
        fault: Fault = named(name)
        assert any(is_shown_by(check, tests) for check in fault.checks), (promise, name)


def _are_there(tests: dict[str, list[str]]) -> None:
    for file, parts in tests.items():
        text = (ROOT / file).read_text()
        for part in parts:
            assert re.search(rf"^(def |static |)[\w ]*\w*{part}\w*[ (]", text, re.M), (file, part)


def test_each_line_on_who_may_do_what_names_its_tests() -> None:
    """All but root's, who may do everything."""
    table = (ROOT / "docs/threats.md").read_text().partition("\n| who | ")[2].partition("\n\n")[0]
    lines = table.splitlines()[2:]
    assert len(lines) > 5
    for line in lines:
        tests = shown_by(line)
        assert tests or line.startswith("| root |"), line
        _are_there(tests)
