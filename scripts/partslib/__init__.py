"""A long run in parts, each of which is run even when one before it has failed.

How each ended goes to a file of JSON lines, and its output beside it: a part that has passed is not
run again, one that failed or was stopped is, so a run goes on where it was stopped.  On a terminal
the last line of the part that runs is shown.  One verdict stands at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Do = Callable[[IO[bytes]], int]  # writes its output there; the exit status
Judge = Callable[[int, str], tuple[int, dict[str, Any]]]  # status, output -> status, what to record


def as_it_ended(status: int, _output: str) -> tuple[int, dict[str, Any]]:
    return status, {}


@dataclass(frozen=True)
class Part:
    name: str
    do: Do
    judge: Judge = as_it_ended


def command(words: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> Do:
    """Runs it, in this environment and that one."""

    def do(out: IO[bytes]) -> int:
        return subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode

    return do


class Known:
    """How the parts ended, of one tree or commit: of the lines that hold what `of` says."""

    def __init__(self, path: Path, **of: str) -> None:
        self._path, self._of = path, of
        self.ended: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for text in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):  # the last line of a run that was killed
                line = json.loads(text)
                if of.items() <= line.items():
                    self.ended[line["part"]] = line

    def add(self, part: str, status: int, seconds: float, last: str, **more: Any) -> None:
        line = {**self._of, "part": part, "status": status, "seconds": round(seconds), "last": last}
        line |= more
        self.ended[part] = line
        whole = not self._path.exists() or self._path.read_bytes()[-1:] in (b"", b"\n")
        with self._path.open("a") as file:
            file.write(("" if whole else "\n") + json.dumps(line) + "\n")

    def passed(self, part: str) -> bool:
        return part in self.ended and self.ended[part]["status"] == 0


def last_line(text: str) -> str:
    return next(iter(reversed(text.strip().splitlines())), "")


@contextlib.contextmanager
def shown(name: str, log: Path) -> Iterator[None]:
    """On a terminal: for how long it runs by now, and what it said last."""
    if not sys.stdout.isatty():
        yield
        return
    began, ended = time.monotonic(), threading.Event()

    def show() -> None:
        while not ended.wait(1):
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - 4096))
                said = last_line(file.read().decode(errors="replace"))
            text = f"{name}, {time.monotonic() - began:.0f} s: {said}"
            room = shutil.get_terminal_size().columns - 1
            print("\r\033[K" + "".join(filter(str.isprintable, text))[:room], end="", flush=True)

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        print("\r\033[K", end="", flush=True)


def run(part: Part, known: Known, logs: Path) -> None:
    """Says how it ended."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / (re.sub(r"\W+", "_", part.name) + ".log")
    began = time.monotonic()
    with log.open("wb") as out, shown(part.name, log):
        status = part.do(out)
    seconds, text = time.monotonic() - began, log.read_text(errors="replace")
    status, more = part.judge(status, text)
    known.add(part.name, status, seconds, last_line(text), **more)
    print(f"{said_of(known.ended[part.name])} ({os.path.relpath(log)})", flush=True)


def said_of(line: Mapping[str, Any]) -> str:
    word = "passed" if line["status"] == 0 else f"FAILED ({line['status']})"
    return f"{word}: {line['part']}, {line['seconds']} s: {line.get('verdict') or line['last']}"


def report(title: str, chosen: Sequence[Part], known: Known) -> int:
    """One line of each, and the verdict, which is also the exit status."""
    left = [one.name for one in chosen if not known.passed(one.name)]
    for one in chosen:
        line = known.ended.get(one.name)
        print(f"not run yet: {one.name}" if line is None else said_of(line))
    tail = f"; not {', '.join(left)}" if left else ""
    print(f"{title}: {len(chosen) - len(left)} of {len(chosen)} parts passed{tail}")
    return 1 if left or not chosen else 0
