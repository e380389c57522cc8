"""docs/explanation/invariants.md: each invariant has its places, tests and planted faults; what the
page names is there, and belongs together."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from faults import named
from test_reliability import ROOT, is_shown_by

PAGE = (ROOT / "docs/explanation/invariants.md").read_text()
SECTIONS = {one[:2]: one for one in PAGE.split("\n## ") if re.match(r"I\d: ", one)}
PARTS = ("Promise", "Why", "Kept in", "Asserted in", "Tests", "Simulator", "Planted faults")
PLACE = re.compile(r"`([\w/]+\.(?:py|[ch])):([\w.]+)`")
TEST = re.compile(r"`([\w/]+\.(?:py|c)):[: ](\w+)`")
FAULT = re.compile(r"^\* `(\w+)`: ", re.MULTILINE)
C_FUNCTION = re.compile(r"^(\w+) \(.*?^}", re.MULTILINE | re.DOTALL)


@cache
def functions(file: str) -> dict[str, str]:
    """The text of each function, by its name; of a class's: Class.method."""
    text = (ROOT / file).read_text()
    if not file.endswith(".py"):
        return {found[1]: found[0] for found in C_FUNCTION.finditer(text)}
    scopes = [("", ast.parse(text))] + [
        (f"{one.name}.", one) for one in ast.parse(text).body if isinstance(one, ast.ClassDef)
    ]
    return {
        prefix + one.name: ast.get_source_segment(text, one) or ""
        for prefix, scope in scopes
        for one in scope.body
        if isinstance(one, ast.FunctionDef)
    }


def parts(section: str) -> dict[str, str]:
    """What stands under each of its words in bold."""
    found = re.split(r"^\*\*([\w ]+)\.?\*\*", section, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_there_are_nine() -> None:
    """I1 to I9, in their order."""
    assert [*SECTIONS] == [f"I{number}" for number in range(1, 10)]


@pytest.mark.parametrize("name", SECTIONS)
def test_each_invariant_is_kept_and_shown(name: str) -> None:
    """A place in production, a test, and a planted fault that one of these tests, or the simulator,
    notices."""
    part = parts(SECTIONS[name])
    assert tuple(part) == PARTS
    assert [file for file, _ in PLACE.findall(part["Kept in"]) if "tests/" not in file]
    tests: dict[str, list[str]] = {}
    for file, test in TEST.findall(part["Tests"]):
        tests.setdefault(file, []).append(test)
    faults = FAULT.findall(part["Planted faults"])
    assert tests and faults
    for fault in faults:
        assert any(is_shown_by(check, tests) for check in named(fault).checks), fault


def test_what_the_page_names_is_there() -> None:
    """Each function, and each test by its whole name."""
    for file, function in PLACE.findall(PAGE) + TEST.findall(PAGE):
        assert function in functions(file), f"{file}:{function}"


@pytest.mark.parametrize("name", SECTIONS)
def test_what_is_said_to_assert_does(name: str) -> None:
    """Or ends the process."""
    for item in parts(SECTIONS[name])["Asserted in"].split("\n* ")[1:]:
        for file, function in PLACE.findall(item.partition("`: ")[0] + "`"):
            assert re.search(r"\bassert\b|\babort\(", functions(file)[function]), function
