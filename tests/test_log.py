"""A log that cannot be written holds up nobody: a full disk, a pipe that nobody reads.

The source's log is made such, then its link is lost and comes back, of which there is much to say.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import direct
import pytest
from handmade import Handmade, MountedDisk, eventually, state_of, until_state
from pair import FLASHMIRROR

from mirror_core.errors import MirrorError
from mirror_core.journal import Journal
from mirror_core.platform import Platform

BLOCK = 4096


class Unwritable(Platform):
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.lines: list[str] = []

    def write_log(self, line: str) -> None:
        if self.error:
            raise self.error
        self.lines.append(line)


def test_what_cannot_be_said_is_counted_and_said_later() -> None:
    platform = Unwritable()
    journal = Journal(platform)
    for platform.error in (OSError(28, "full"), MemoryError(), ValueError("closed")):
        journal.say("lost")
    platform.error = None
    journal.say("a name that is not text: \udcff")
    assert platform.lines == [
        "flashmirror: 3 lines before this could not be written",
        "flashmirror: a name that is not text: \udcff",
    ]
    journal.say("next")
    assert platform.lines[2:] == ["flashmirror: next"]


@pytest.fixture
def log(scratch: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor whose every write fails, or would wait."""
    with ExitStack() as undo:
        if request.param == "full disk":
            disk = MountedDisk(scratch / "log", 1 << 20)
            undo.callback(disk.close)
            fd = os.open(disk.folder / "site.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            disk.fill()
            while os.fstat(fd).st_size % BLOCK or os.fstat(fd).st_size == 0:
                try:
                    os.write(fd, b"x")
                except OSError:
                    break
        else:
            reader, fd = os.pipe()
            if request.param == "pipe without a reader":
                os.close(reader)
            else:
                undo.callback(os.close, reader)
                os.write(fd, bytes(fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)))
        undo.callback(os.close, fd)
        yield fd


@pytest.mark.parametrize("log", ["full disk", "full pipe", "pipe without a reader"], indirect=True)
def test_a_source_mirrors_on_without_its_log(handmade: Handmade, log: int) -> None:
    handmade.create()
    handmade.start("west")
    words = [str(FLASHMIRROR), "start", "--foreground", str(handmade.toml("east"))]
    source = subprocess.Popen(words, stderr=log)
    try:
        eventually(lambda: answers(handmade), "the source answers")
        with handmade.client() as client:
            client.write(0, b"1" * BLOCK)
            direct.sync(handmade)
            handmade.stop("west")
            until_state(handmade, "degraded")
            client.write(0, b"2" * BLOCK)
            handmade.start("west")
            direct.sync(handmade)
            assert state_of(handmade)["state"] == "mirroring"
            assert handmade.image("west").read_bytes() == client.read(0, handmade.size)
        handmade.stop("east")
        assert source.wait(20) == 0
    finally:
        source.kill()
        source.wait(20)


def answers(pair: Handmade) -> bool:
    try:
        return bool(state_of(pair))
    except MirrorError:
        return False
