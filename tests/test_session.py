"""What no test may do is found in each session of pytest: to fork beside threads (`forks`), as no
site and no command does either, and to need root without a word (`privileged`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent

FORKS = """
import os, subprocess, threading
import pytest

def fork():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)

@pytest.fixture
def thread():
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    yield
    end.set()
    other.join()

@pytest.fixture
def ends_with_a_fork(thread):
    yield
    fork()

def test_alone():
    fork()

def test_a_program(thread):
    subprocess.run(["true"], check=True)

def test_in_a_test(thread):
    fork()

def test_before_a_program(thread):
    subprocess.run(["true"], check=True, preexec_fn=lambda: None)

def test_in_a_teardown(ends_with_a_fork):
    pass

def test_that_fails_anyway(thread):
    fork()
    raise OSError("anyway")
"""
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
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^([A-Z]+) test_planted\.py::test_(\w+)", done.stdout, re.MULTILINE)
    return set(found), done.stdout


def test_a_test_that_forks_beside_a_thread_fails(tmp_path: Path) -> None:
    """Whether it passes otherwise or not, where it forked is said; also what Python itself, from
    3.12 on, warns of."""
    verdicts, said = session(tmp_path, FORKS)
    assert verdicts == {
        ("PASSED", "alone"),
        ("PASSED", "a_program"),
        ("FAILED", "in_a_test"),
        ("FAILED", "before_a_program"),
        ("PASSED", "in_a_teardown"),
        ("ERROR", "in_a_teardown"),
        ("FAILED", "that_fails_anyway"),
    }, said
    assert "OSError: anyway" in said
    assert len(re.findall("^a fork beside 1 other threads:$", said, re.MULTILINE)) >= 4, said
    if sys.version_info >= (3, 12):
        assert "is multi-threaded, use of fork() may lead to deadlocks" in said


def test_no_site_and_no_command_forks() -> None:
    """They have threads, and Python warns nobody there: what they begin, they begin by a program
    (`launch`), of which no line of Python runs before its exec."""
    forks = re.compile(r"\bos\.fork(pty)?\(|\bpty\.(fork|spawn)\(|\bpreexec_fn\b|multiprocessing\b")
    files = [*(ROOT / "mirror_core").rglob("*.py"), ROOT / "plugin/flashmirror.py"]
    assert len(files) > 20
    assert [path.name for path in files if forks.search(path.read_text())] == []


def test_a_test_that_does_not_say_that_it_needs_root_fails(tmp_path: Path) -> None:
    """To root, too, for whom the program works; not one that says so, or begins another."""
    verdicts, said = session(tmp_path, NEEDS_ROOT)
    assert verdicts - {("PASSED", "marked")} == {  # that is skipped where we are not root
        ("FAILED", "unmarked"),
        ("ERROR", "a_fixture"),
        ("PASSED", "any_user"),
    }, said
    assert "begins mount, which needs root, without the mark" in said
