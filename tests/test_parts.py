"""What `scripts/soak` and `scripts/release-check` share, and how the latter judges what it read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from partslib import Known, Part, report, run
from releaselib import judge

SKIPS = "SKIPPED tests/test_a.py::test_a[1] - Skipped: needs root: mounts a file system\n"
TESTS = (
    "make test: not root; 'sudo make test' runs these, too, which are skipped now:\n"
    "240 passed, 0 failed\n"
    f"{SKIPS}== 1999 passed, 1 skipped in 90.1s (0:01:30) ==\n"
    "==== 30 passed, 1900 deselected in 9.5s ====\n"
    "make test: all parts passed: lint test-native test-faults test-python test-alone\n"
)


def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has passed of a commit is not run again, what failed or was stopped is, also after a
    line that a kill has cut; each part runs though one before it failed; one verdict ends it."""
    ran: list[str] = []

    def part(name: str, status: int) -> Part:
        def do(out: IO[bytes]) -> int:
            ran.append(name)
            out.write(b"said\n")
            return status

        return Part(name, do)

    chosen, path = [part("bad", 3), part("good", 0)], tmp_path / "results.jsonl"
    for commit, again in (("one", "bad good"), ("one", "bad"), ("two", "bad good")):
        known = Known(path, commit=commit)
        ran.clear()
        for one in chosen:
            if not known.passed(one.name):
                run(one, known, tmp_path)
        assert " ".join(ran) == again
        assert report("check", chosen, known) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "check: 1 of 2 parts passed; not bad"
        path.write_bytes(path.read_bytes() + b'{"part": "cut')
    assert report("check", chosen[1:], Known(path, commit="two")) == 0


def test_tests_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    """A test that has passed is not run again; one that failed, was skipped or was killed is; and
    where nothing is left, that is a success."""
    tests, record, runs = (tmp_path / name for name in ("test_it.py", "record", "runs"))
    (tmp_path / "conftest.py").write_text(
        "import resumed\n"
        "def pytest_addoption(parser): resumed.add_option(parser)\n"
        "def pytest_configure(config): resumed.configure(config)\n"
    )
    bodies = {
        "good": "pass",
        "bad": "assert later",
        "undone": "",
        "skipped": "later or pytest.skip('for now')",
        "killed": "later or os._exit(9)",
    }
    tests.write_text(
        "import os, pytest\n"
        f"RUNS = {str(runs)!r}\n"
        "later = 'LATER' in os.environ\n"
        "@pytest.fixture\ndef undone(): yield; assert later\n"
        + "".join(
            f"def test_{name}({'undone' if name == 'undone' else ''}):\n"
            f"    print({name!r}, file=open(RUNS, 'a'), flush=True)\n"
            f"    {body or 'pass'}\n"
            for name, body in bodies.items()
        )
    )

    def run_again(later: str) -> tuple[int, str]:
        runs.write_text("")
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "--record", record, tests],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), later: "1"},
            capture_output=True,
            check=False,
        )
        return ended.returncode, runs.read_text().replace("\n", " ")

    assert run_again("NOW") == (9, "good bad undone skipped killed ")
    assert run_again("LATER") == (0, "bad undone skipped killed ")
    assert run_again("NOW") == (0, "")


@pytest.mark.parametrize(
    ("change", "status", "verdict"),
    [
        (("", ""), 0, "passed (2269 passed, 0 failed, 1 skipped)"),
        (("test-python ", ""), 1, "not all parts passed"),
        ((SKIPS, ""), 1, "1 are skipped, and 0 named"),
        (("needs root: ", ""), 1, "skipped for no known reason: tests/test_a.py::test_a[1]"),
        (("240 passed, 0", "239 passed, 1"), 1, "some failed"),
        (("1999 passed", "9 passed, 900 failed"), 1, "some failed"),
        (("make test: not root", "make test: "), 1, "does not say first what needs root"),
    ],
)
def test_what_a_user_is_shown_is_judged(change: tuple[str, str], status: int, verdict: str) -> None:
    """All that README promises to who is not root, or the verdict says what was not kept."""
    found, more = judge.as_user(0, TESTS.replace(*change) if change[0] else TESTS)
    assert (found, more["verdict"].startswith(verdict)) == (status, True), more


def test_too_much_that_is_skipped_is_no_success() -> None:
    many = TESTS.replace(SKIPS, SKIPS * 300).replace(" 1 skipped", " 300 skipped")
    assert judge.as_user(0, many)[1]["verdict"].startswith("300 of 2569 are skipped")
    assert judge.as_root(0, many)[1]["verdict"].startswith("skipped for no known reason")


def test_a_demo_is_judged_by_its_proof_or_its_refusal() -> None:
    assert judge.demo(0, "All 12 checks hold.\n")[1]["counts"]["passed"] == 12
    assert judge.demo(0, "")[0] == 1
    assert judge.demo_refused(2, judge.REFUSES_DEMO + "\nmake: Error 1\n")[0] == 0
    assert judge.demo_refused(2, "make: Error 1\n")[0] == 1


def test_what_is_missing_is_read_from_what_was_said() -> None:
    said = "missing packages: run 'sudo apt-get install gcc libnbd-dev', then try again\nmake: 1\n"
    assert judge.packages(said) == "apt-get install gcc libnbd-dev"
    assert judge.packages("") == ""
