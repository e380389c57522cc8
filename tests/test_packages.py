"""What is asked of Debian's packages, and what is made into one of Python's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = "import sys; sys.path.insert(0, 'native'); import build; build.build_sdist(sys.argv[1])"
SHOW = "show:;@echo $(RUN_PACKAGES) $(TEST_PACKAGES)"


def test_every_package_is_one_of_its_own() -> None:
    """What the Makefile asks for is there afterwards: it asks only once, and who is not root can
    go on.  A name that another package provides dpkg never knows as installed."""
    words = ["make", "--no-print-directory", "-C", str(ROOT), f"--eval={SHOW}", "show"]
    named = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert "nbdkit" in named
    known = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [name for name in named if f"{name} installed" not in known] == []


def test_the_source_archive_builds(tmp_path: Path) -> None:
    """What `pip install` gets from an sdist is whole: the core, the commands, the plugin."""
    copy = tmp_path / "copy"
    made = shutil.ignore_patterns(".*", "build", "build-*", "*.egg-info", "*.so", "_native.c")
    shutil.copytree(ROOT, copy, ignore=made)
    run(sys.executable, "-c", BUILD, str(tmp_path), at=copy)
    (archive,) = tmp_path.glob("*.tar.gz")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        str(archive),
        at=tmp_path,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    for end in ("/_native.*\\.so", "/cli/__init__.py", "/share/flashmirror/flashmirror.py"):
        assert any(re.search(f"{end}$", name) for name in names), f"{end}: {names}"


def run(*words: str, at: Path) -> None:
    done = subprocess.run(words, cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
