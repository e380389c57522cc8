"""`scripts/demo`: its proof holds, notices what is wrong, and nothing of it stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
ROW = re.compile(r" +(\d+)  \d\d:\d\d:\d\d\.\d{3}( +[\d.]+){4}$")
END_S = 60.0
ONCE_S = 120.0  # on a busy machine; about 15 on an idle one
PROOF_AT_REST = (
    "no write reached the source since consistency point",
    "all 1,073,741,824 bytes of the target's image are those of the source",
)
PROOF_OF_A_COPY = (
    "the target itself says that consistency point",
    "e2fsck -f -n finds a copy of the target's image clean",
    "files and folders are in it as on the source",
    "files that the load had finished are in it, each whole",
    "SQLite's database is sound",
)

needs_device = pytest.mark.skipif(
    not (Path("/dev/fuse").exists() or Path("/sys/block/nbd0").exists()),
    reason="the demo's file system needs the kernel's nbd or fuse",
)


class Demo:
    """A demo that runs, and what it said so far."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, SCRIPTS / "demo", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        )
        self.lines: list[str] = []

    def read_to(self, pattern: str | re.Pattern[str] | None) -> str:
        """Up to the line that matches; None: to the end."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if pattern and re.match(pattern, self.lines[-1]):
                return self.lines[-1]
        assert pattern is None, f"{pattern} not found in:\n{self.text}"
        return ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def folder(self) -> Path:
        found = re.search(r"^Two sites in (\S+),", self.text, re.MULTILINE)
        assert found, self.text
        return Path(found[1])

    def end(self) -> int:
        self.read_to(None)
        return self.process.wait(END_S)

    def proved(self, mark: str) -> list[str]:
        return [line for line in self.lines if line.startswith(f"  {mark} ")]


@contextmanager
def demo(*options: str) -> Iterator[Demo]:
    """Afterwards nothing of it is left: checked here, for every run."""
    run = Demo(*options)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.terminate()
            run.end()
    assert left_behind(run.folder) == []


def left_behind(folder: Path) -> list[str]:
    """Mounts, loop devices, processes and folders of a demo in that folder."""
    found = [str(folder)] if folder.exists() else []
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if folder.name in line]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = backing.read_text()
        except OSError:
            continue  # another's, just gone
        found += [f"{backing}: {text}"] if folder.name in text else []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = process.read_text()
        except OSError:
            continue
        found += [f"{process}: {text}"] if folder.name in text else []
    return found


@pytest.mark.root("mounts a file system")
@needs_device
def test_the_proof_holds() -> None:
    """--once ends with status 0 after a table of cycles and every line of the proof."""
    began = time.monotonic()
    with demo("--once", "--seconds", "4") as run:
        status = run.end()
    assert status == 0, run.text
    assert time.monotonic() < began + ONCE_S
    sequences = [int(found[1]) for found in map(ROW.match, run.lines) if found]
    assert len(sequences) >= 2
    assert sequences == sorted(set(sequences))
    proved = run.proved("\u2714")
    for claim in PROOF_AT_REST:
        assert sum(claim in line for line in proved) == 1, (claim, run.text)
    for claim in PROOF_OF_A_COPY:
        assert sum(claim in line for line in proved) == 2, (claim, run.text)
    assert f"All {len(proved)} checks hold." in run.lines


@pytest.mark.root("mounts a file system")
@needs_device
def test_a_wrong_image_is_noticed() -> None:
    """One byte of the target's image is changed behind its back: that line fails, status 1."""
    with demo("--once", "--seconds", "2") as run:
        run.read_to(ROW)
        with (run.folder / "west" / "disk.img").open("r+b") as image:
            image.seek(-1, os.SEEK_END)  # the file system does not use it, nor would fsck see it
            image.write(b"x")
        status = run.end()
    assert status == 1, run.text
    [failed] = run.proved("\u2718")
    assert "bytes of the target's image are those of the source: they differ" in failed
    assert "demo: 1 of 12 checks failed, see above" in run.lines


@pytest.mark.root("mounts a file system")
@needs_device
@pytest.mark.soak
def test_it_serves_until_interrupted() -> None:
    """Without --once it goes on, as it says, until Ctrl-C, which is no failure."""
    with demo("--seconds", "1") as run:
        run.read_to("Ctrl-C ends it")
        assert (run.folder / "mnt").is_mount()
        (run.folder / "mnt" / "mine").write_text("mine")
        sync = re.search(r"a point now +(\S+) (.+)", run.text)
        assert sync
        subprocess.run([sync[1], *sync[2].split()], check=True, timeout=END_S)
        addresses = re.findall(r"http://\S+", run.text)
        assert len(addresses) == 2
        for address in addresses:
            with urllib.request.urlopen(address, timeout=END_S) as page:
                assert b"flashmirror_committed_sequence" in page.read()
        run.process.send_signal(signal.SIGINT)
        status = run.end()
    assert status == 0, run.text


@pytest.mark.root("mounts a file system")
@needs_device
def test_ctrl_c_under_load_leaves_nothing() -> None:
    """A signal in the middle of everything: all is taken down, and the status says so."""
    with demo("--once") as run:
        run.read_to(ROW)
        run.process.send_signal(signal.SIGINT)
        status = run.end()
    assert status == 130, run.text
    assert run.proved("\u2714") == []


def test_without_root_it_says_so() -> None:
    """One clear line, and nothing was begun."""
    pretend = (
        "import os, runpy, sys; os.geteuid = lambda: 1000; del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", pretend, SCRIPTS / "demo"],
        cwd="/",  # -c looks there first, and a checkout is not an installation
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "demo: mounting a file system needs root: run 'sudo make demo'\n"
