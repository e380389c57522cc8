"""What no test may do is found in each session of pytest: to need root without a word
(`privileged`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent

NEEDS_ROOT = """
import subprocess
import pytest

def mount():
    subprocess.run(["mount", "--version"], check=True)

@pytest.fixture
def mounted():
    mount()

def test_unmarked():
    mount()

def test_a_fixture(mounted):
    pass

@pytest.mark.root("mounts")
def test_marked(mounted):
    mount()

def test_any_user():
    subprocess.run(["true"], check=True)
"""


def session(folder: Path, tests: str) -> tuple[set[tuple[str, str]], str]:
    """The verdicts of a session with these tests, and all that it said."""
    planted = folder / "test_planted.py"
    planted.write_text(tests)
    words = ["-p", "conftest", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", *words, str(planted)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "200"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^([A-Z]+) test_planted\.py::test_(\w+)", done.stdout, re.MULTILINE)
    return set(found), done.stdout


def test_a_test_that_does_not_say_that_it_needs_root_fails(tmp_path: Path) -> None:
    """To root, too, for whom the program works; not one that says so, or begins another."""
    verdicts, said = session(tmp_path, NEEDS_ROOT)
    assert verdicts - {("PASSED", "marked")} == {  # that is skipped where we are not root
        ("FAILED", "unmarked"),
        ("ERROR", "a_fixture"),
        ("PASSED", "any_user"),
    }, said
    assert "begins mount, which needs root, without the mark" in said
