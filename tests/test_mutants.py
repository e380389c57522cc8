"""`scripts/mutants`: what its rules make, how it goes on with a record, what its tables name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults import FAULTS, RARE, Fault, simulated
from mutantslib import c_rules, ladder, mutant, python_rules, record
from mutantslib.workshop import Bench, Ended

ROOT = Path(__file__).resolve().parent.parent

PYTHON = b"""\
def commit(self, members) -> bool:
    # the record comes last
    for member in members:
        member.flush(front_too=True)
    self.done = len(members) >= 1 and not self.failed
    self.log.append(self.done)
    self.changed.notify_all()
    return self.done
"""
C = b"""\
int
flush_all (struct fm_volume **v, unsigned n)
{
  int rc = 0;
  for (unsigned i = 0; rc == 0 && i < n; i++)
    rc = flush (v[i]); /* each; */
  if (rc < 0 || n == 0) {
    forget (v);
    fail (v, rc);
  }
  return rc;
}
"""


def lines_of(rules: object, file: str, source: bytes) -> set[tuple[str, str]]:
    """(rule, the line that is new), of mutants of one line."""
    made = mutant.name(file, source, rules.changes(source))  # type: ignore[attr-defined]
    assert len({one.key for one in made}) == len(made)
    return {
        (one.rule, line[1:].strip())
        for one in made
        for line in one.diff.splitlines()
        if line.startswith("+")
    }


def test_rules_of_python() -> None:
    """Each rule makes its mutants of a function that gives an occasion for all of them."""
    assert lines_of(python_rules, "a.py", PYTHON) >= {
        ("first only", "for member in list(members)[:1]:"),
        ("all but the first", "for member in list(members)[1:]:"),
        ("flag", "member.flush(front_too=False)"),
        ("drop", "pass"),
        ("bound", "self.done = len(members) > 1 and not self.failed"),
        ("operand", "self.done = ((len(members) >= 1))"),
        ("swap", "self.changed.notify_all()"),
        ("constant", "return True"),
    }


def test_rules_of_c() -> None:
    """The same of C; comments are no code."""
    found = lines_of(c_rules, "a.c", C)
    assert found >= {
        ("first only", "for (unsigned i = 0; rc == 0 && i < 1; i++)"),
        ("all but the first", "for (unsigned i = 1; rc == 0 && i < n; i++)"),
        ("all but the last", "for (unsigned i = 0; rc == 0 && i < n - 1; i++)"),
        ("drop", "; /* each; */"),
        ("negate", "if (!(rc < 0 || n == 0)) {"),
        ("operand", "if ((rc < 0 )) {"),
        ("bound", "if (rc <= 0 || n == 0) {"),
        ("logic", "if (rc < 0 && n == 0) {"),
        ("swap", "fail (v, rc);"),
        ("return", "return 0;"),
    }


def test_a_mutant_keeps_its_name_while_other_lines_change() -> None:
    """So what is known of it, or that it is equivalent, stays true."""
    for rules, source, before in (
        (python_rules, PYTHON, b"import os\n\n\n"),
        (c_rules, C, b"#include <stdio.h>\n\n"),
    ):
        keys = [
            {m.key for m in mutant.name("x", text, rules.changes(text))}
            for text in (source, before + source)
        ]
        assert keys[0] == keys[1]


def test_a_record_is_gone_on_with(tmp_path: Path) -> None:
    """Also one whose last line was cut by a kill: checks that were passed are not run again, and
    the score counts what was caught against what was tried."""
    path = tmp_path / "results.jsonl"
    first, second, *_ = mutant.name("native/a.c", C, c_rules.changes(C))
    known = record.Record(path)
    known.add(first, "passed", check="programs gate")
    known.add(second, "caught", check="programs gate", how="a test")
    known.close()
    path.write_bytes(path.read_bytes() + b'{"key": "cut')
    known = record.Record(path)
    assert known.histories[first.key].passed == {"programs gate"}
    assert known.histories[second.key].result == "caught"
    known.add(first, "passed", check="programs volume")
    known.close()
    again = record.Record(path)
    assert again.histories[first.key].passed == {"programs gate", "programs volume"}
    said = record.report([first, second], again)
    again.close()
    assert "50 %" in said and f"survived: 1\n{first.what}" in said


def test_the_ladder_names_tests_that_are_there() -> None:
    """A table that names a file which was renamed would check nothing."""
    for files in (*ladder.TABLES.values(), *ladder.SITES.values(), ladder.WHOLE):
        for name in files.split():
            assert (ROOT / f"tests/test_{name}.py").exists(), name
    for programs in ladder.PROGRAMS.values():
        for name in programs.split():
            assert (ROOT / f"native/tests/test_{name}.c").exists(), name
    stems = {path.stem for path in (*ROOT.glob("native/*.c"), *ROOT.glob("mirror_core/*.py"))}
    named = {*ladder.PROGRAMS, *ladder.TABLES, *ladder.SITES, *ladder.NOT_SIMULATED.split()}
    assert named <= stems, named - stems


def test_every_file_has_checks_of_its_own() -> None:
    """All programs of C for each file of C, the nearest first; for the control a test of pytest.
    One that the tables do not know would meet the dear checks only."""
    for path in ROOT.glob("native/[!_]*.c"):
        words = [
            check.what for check in ladder.ladder(f"native/{path.name}") if check.kind == "programs"
        ]
        assert sorted(" ".join(words).split()) == ladder._all_programs(), path
    known = {*ladder.TABLES, *ladder.SITES, "native", "platform", "limits", "stderr"}
    for path in ROOT.glob("mirror_core/*.py"):
        file = f"mirror_core/{path.name}"
        assert ladder.OUTSIDE.fullmatch(file) or path.stem in known, path


class Pytest(Bench):
    """It runs no test: these fail each time, and the others the first time only."""

    def __init__(self, fail: list[str], fail_once: list[str]) -> None:
        super().__init__(ROOT)
        self.fail, self.fail_once = fail, fail_once

    def run(self, words: list[str], seconds: float) -> Ended:
        named = [word for word in words if word.startswith("tests/")]
        for name in (*self.fail_once, *self.fail):
            if f"--deselect={name}" not in words and named in ([name], ["tests/test_a.py"]):
                if name in self.fail_once:
                    self.fail_once.remove(name)
                return Ended(1, f"FAILED {name} - a word")
        everything = {"--deselect=tests/test_a.py::one", "--deselect=tests/test_a.py::two"}
        return Ended(5 if everything <= set(words) else 0, "")


@pytest.mark.parametrize(
    ("fail", "fail_once", "caught"),
    [
        ("", "", ""),
        ("", "one", ""),
        ("", "one two", ""),
        ("one two", "", "one"),
        ("two", "one", "two"),
    ],
)
def test_a_test_that_fails_by_chance_hides_no_other(fail: str, fail_once: str, caught: str) -> None:
    """The run ends with the first that fails.  If it does not fail again, the others are run."""

    def names(words: str) -> list[str]:
        return [f"tests/test_a.py::{word}" for word in words.split()]

    bench = Pytest(names(fail), names(fail_once))
    found = ladder.pytest_says(bench, "tests/test_a.py", 1.0)
    assert found == (names(caught)[0] if caught else None)


def test_each_planted_fault_fits_the_source_and_names_its_checks() -> None:
    """What each replaces stands in its file once, what comes of it is Python, and the tests that
    must notice it are there: so a change of either is seen at once, not in the next `make soak`."""
    names = [fault.name for fault in FAULTS if fault.name]
    assert len(names) == len(set(names))
    for fault in FAULTS:
        changed: dict[str, str] = {}
        for file, old, new in fault.edits:
            text = changed.get(file) or (ROOT / file).read_text()
            assert text.count(old) == 1, (fault.what, file, old)
            changed[file] = text.replace(old, new)
        for file, text in changed.items():
            if file.endswith(".py"):
                compile(text, f"{file}: {fault.what}", "exec")
        assert fault.checks, fault
        for check in fault.checks:
            assert_is_there(check, fault)


def assert_is_there(check: str, fault: Fault) -> None:
    kind, _, name = check.partition(":")
    if kind == "native":
        assert (ROOT / f"native/tests/test_{name}.c").exists(), fault
    elif kind == "fuzz":
        assert (ROOT / f"native/tests/fuzz_{name}.c").exists(), fault
    elif found := simulated(check):
        count, acts = found
        assert fault.name and 0 < count <= RARE, fault
        trouble = (ROOT / "tests/sim/trouble.py").read_text()
        for act in filter(None, acts.split(",")):
            assert re.search(rf"(self\._|of_\w+\.){act}\)", trouble), (fault, act)
    else:
        path, _, test = check.partition("::")
        text = (ROOT / path).read_text()
        assert not test or f"\ndef {test.partition('[')[0]}(" in text, fault
