"""What a newcomer meets first: the packages that are asked for, who may run `make demo`, what is
skipped without root, and a checkout that was moved."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from handmade import as_somebody_else

ROOT = Path(__file__).parents[1]


def checkout(folder: Path) -> Path:
    """What `make` reads before it builds, where anybody may read it and nothing is built."""
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "scripts" / "need-packages", folder / "scripts")
    for one in (folder, *folder.parents[:1], *folder.rglob("*")):
        one.chmod(0o755)
    return folder


def said(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a user who is not root is told."""
    command = [*as_somebody_else(), *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def provided() -> set[str]:
    """The virtual packages of this machine: an installed package provides them, none is them."""
    text = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package}\t${db:Status-Status}\t${Provides}\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = [row.split("\t") for row in text.splitlines()]
    lists = [row[2] for row in rows if row[1] == "installed" and row[2]]
    names = {re.sub(r"\(.*", "", name).strip() for one in lists for name in one.split(",")}
    return names - {row[0] for row in rows if row[1] == "installed"}


def test_a_virtual_package_is_there_if_another_one_provides_it(scratch: Path) -> None:
    """Of all that this machine's packages provide nothing is asked for; what is missing is named,
    in one line that installs it."""
    folder, virtual = checkout(scratch / "c"), sorted(provided())
    assert virtual, "a Debian has virtual packages (awk, for one)"
    done = said(folder, "scripts/need-packages", "dpkg", *virtual)
    assert (done.returncode, done.stderr) == (0, "")
    done = said(folder, "scripts/need-packages", virtual[0], "no-such-package", "dpkg")
    assert done.returncode == 1
    assert done.stderr == (
        "missing packages: run 'sudo apt-get install no-such-package', then try again\n"
    )


def test_what_is_missing_is_said_before_anything_is_built(scratch: Path) -> None:
    """`make demo` says at once that it needs root, and `make test` names all packages that are
    missing in one line, before the build, which takes a minute."""
    folder = checkout(scratch / "c")
    words = ("make", "PYTHON=false", "RUN_PACKAGES=no-such-one")
    if os.geteuid() == 0:  # or `as_somebody_else` needs no help to be somebody else
        folder.chmod(0o777)
    done = said(folder, *words, "demo")
    assert done.stderr.splitlines()[0] == (
        "make demo: mounts a file system, which needs root: run 'sudo make demo'"
    )
    done = said(folder, *words, "test", "TEST_PACKAGES=no-such-two")
    line = "run 'sudo apt-get install no-such-one no-such-two'"
    assert done.returncode and line in done.stderr.splitlines()[0], done.stderr
    assert not (folder / ".venv").exists()


def test_help_lists_each_target_with_a_line(scratch: Path) -> None:
    """`make help` needs nothing that is built; what it does not list is no target of a person's."""
    folder = checkout(scratch / "c")
    done = said(folder, "make", "help")
    assert done.returncode == 0 and not (folder / ".venv").exists(), done.stderr
    lines = [re.fullmatch(r"([a-z-]+) +(\S.*)", line) for line in done.stdout.splitlines()]
    assert all(line and len(line[0]) <= 100 for line in lines), done.stdout
    named = [line[1] for line in lines if line]
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (build .*)$", text, re.MULTILINE)
    assert phony and sorted(named) == sorted(phony[1].split())
    assert sorted(named) == sorted(re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE))


def test_a_moved_checkout_is_built_again(scratch: Path) -> None:
    """A virtual environment holds the path of its folder in every script: in another one `make
    build` has something to do."""
    here = checkout(scratch / "here")
    (here / ".venv").mkdir()
    (here / ".venv" / ".built").write_text(f"{here}\n")
    query = ["make", "--question", "build"]
    assert subprocess.run(query, cwd=here, check=False).returncode == 0
    moved = here.rename(scratch / "moved")
    assert subprocess.run(query, cwd=moved, check=False).returncode == 1


def test_each_part_runs_even_when_one_before_it_has_failed(scratch: Path) -> None:
    """And one verdict stands at the end, which is also the exit status."""
    folder = checkout(scratch / "c")
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".built").write_text(f"{folder}\n")
    makefile = folder / "Makefile"
    makefile.write_text(
        makefile.read_text() + "\ngood another: ; @echo $@ ran\nbad: ; @echo bad ran; false\n"
    )
    for parts, verdict, status in (
        ("good bad another", "make test: FAILED: bad", 2),
        ("good another", "make test: all parts passed: good another", 0),
    ):
        words = ["make", f"TEST_PARTS={parts}", "RUN_PACKAGES=dpkg", "TEST_PACKAGES=", "test"]
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1] == verdict
        assert [line for line in lines if line.endswith(" ran")] == [
            f"{part} ran" for part in parts.split()
        ]


def as_a_user(*words: str) -> list[str]:
    """The lines that pytest says to who is not root."""
    command = [*as_somebody_else(), str(Path(sys.executable).with_name("pytest")), *words]
    own = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_what_needs_root_is_said_and_skipped_by_name() -> None:
    """`make test` says before anything is run which tests need root, and why; each is skipped with
    its own name and that reason, and no line stands for several."""
    quiet = ("--needs-root", "-p", "no:terminal", "-o", "addopts=")
    *named, last = as_a_user(*quiet, "tests/test_holes.py", "tests/test_building.py")
    why = "mounts a FUSE file system"
    assert all(line.startswith("needs root: tests/test_holes.py::test_") for line in named), named
    assert all(line.endswith(f": {why}") for line in named), named
    assert len(named) > 4 and re.fullmatch(rf"{len(named)} of \d+ tests need root", last)
    skipped = [line for line in as_a_user("tests/test_holes.py") if line.startswith("SKIPPED")]
    assert [line.split()[1] for line in skipped] == [line.split()[2][:-1] for line in named]
    assert all(line.endswith(f"needs root: {why}") for line in skipped), skipped


def test_no_test_is_left_out_without_a_word() -> None:
    """Who is not root runs each test, or is told by the one mark for that: none is missing from a
    list of cases, or skipped for a reason that does not say it is root."""
    hidden = re.compile(
        r"^if .*geteuid|^[A-Z_]+ = .*geteuid|skipif\((?:[^)]|\(\))*geteuid\(\) != 0"
        r"|^ +if .*geteuid.*:\n +(?:return$|pytest\.skip)",
        re.MULTILINE,
    )
    files = [
        *ROOT.glob("tests/test_*.py"),
        *ROOT.glob("tests/kernel/*.py"),
        ROOT / "tests/loops.py",
    ]
    assert [path.name for path in files if hidden.search(path.read_text())] == []
