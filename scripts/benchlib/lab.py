"""The scratch folder and what runs in it: whatever is started here is stopped here.

Servers get a session of their own, so that a Ctrl-C reaches the bench alone, which then stops them
in order. What they say goes to a file in the scratch folder; its end is quoted when one fails.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_READY_SECONDS = 10.0
_STOP_SECONDS = 10.0
_CHUNK_BYTES = 8 * MIB


class BenchError(Exception):
    """One line for a person: what failed, and what to do."""


@dataclass(frozen=True)
class Lab:
    """Where the contenders live, and what they have in common."""

    folder: Path
    size_bytes: int
    flashmirror: Path

    def require_images(self, count: int) -> None:
        """Images on tmpfs are memory: refuse before the machine swaps or kills."""
        require_space(self.folder, count * self.size_bytes)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, with everything in it."""
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serve(command: Sequence[str], listening: Path) -> Iterator[None]:
    """Run a server until the block ends; the block begins when its socket accepts."""
    log = listening.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await(process, command[0], listening, log)
        yield
    finally:
        _stop(process)


def _await(process: subprocess.Popen[bytes], name: str, listening: Path, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(listening)) == 0:
                return
        time.sleep(0.01)
    raise BenchError(f"{name} does not serve {listening}: {last_line(log.read_bytes())}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(command: Sequence[str], timeout_seconds: float) -> str:
    """Run a program to its end and return what it printed."""
    what = " ".join((Path(command[0]).name, *command[1:3]))
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what}: not done in {timeout_seconds:.0f} s") from None
    if done.returncode != 0:
        raise BenchError(f"{what} failed (exit {done.returncode}): {last_line(done.stderr)}")
    return done.stdout.decode()


def last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def fill(image: Path, size_bytes: int) -> None:
    """Write every page of an image, none of them zeroes, keeping the file if it exists."""
    chunk = os.urandom(_CHUNK_BYTES)
    with image.open("r+b" if image.exists() else "wb") as file:
        for offset in range(0, size_bytes, len(chunk)):
            file.write(chunk[: size_bytes - offset])


def require_same(left: Path, right: Path, owner: str) -> None:
    """Refuse a copy that is none: nobody is to be measured doing nothing."""
    with left.open("rb") as a, right.open("rb") as b:
        offset = 0
        while chunk := a.read(_CHUNK_BYTES):
            if chunk != b.read(len(chunk)):
                raise BenchError(f"{owner}: {right} differs from {left} near byte {offset}")
            offset += len(chunk)
        if b.read(1):
            raise BenchError(f"{owner}: {right} is longer than {left}")


def require_programs(packages: Mapping[str, str]) -> None:
    """Name the Debian packages of all missing programs in one line."""
    missing = {
        program: package for program, package in packages.items() if not shutil.which(program)
    }
    if missing:
        raise BenchError(
            f"missing: {', '.join(missing)}; apt-get install {' '.join(sorted(missing.values()))}"
        )


def require_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    if available:
        free = min(free, int(available[1]) * KIB)
    if free < needed_bytes:
        raise BenchError(
            f"{folder}: {needed_bytes / GIB:.1f} GiB needed for the images, {free / GIB:.1f} GiB "
            "free there and in memory; use a smaller --size, or --quick"
        )


def interrupt_once() -> None:
    """SIGTERM and SIGHUP end the bench as Ctrl-C does; a second one does not stop the tidying."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupted(number: int, _frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in signals:
        signal.signal(each, interrupted)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
