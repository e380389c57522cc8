"""The first full copy of a written volume against nbdcopy of the same bytes.

Both begin with nothing running and end with the bytes in the target's image; both times include
the start of the servers. All images to be copied into hold other bytes before: to give a virtual
machine memory that it never had takes its host many times longer than the copy. flashmirror writes
every byte three times on the way (first intermediate, second intermediate, target), nbdcopy once.
What is left of flashmirror's time without its two starts is told apart: on a small volume they are
most of it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchlib.contenders import nbdkit_file
from benchlib.flashmirror import Pair
from benchlib.lab import Lab, fill, require_same, run, say

_COPY_SECONDS = 120.0


@dataclass(frozen=True)
class FirstCopy:
    size_bytes: int
    nbdcopy_seconds: float
    flashmirror_seconds: float
    of_it_starts_seconds: float


def first_copies(lab: Lab, rounds: int) -> list[FirstCopy]:
    return [_first_copy(lab, f"[first copy {number + 1}/{rounds}]") for number in range(rounds)]


def _first_copy(lab: Lab, label: str) -> FirstCopy:
    lab.require_images(5)
    with _folder(lab) as folder:
        source = folder / "source.img"
        fill(source, lab.size_bytes)
        nbdcopy_seconds = _nbdcopy(lab, source, folder / "copy.img")
        flashmirror_seconds, starts_seconds = _flashmirror(lab, source, folder / "pair")
    say(
        f"{label} nbdcopy {nbdcopy_seconds:.2f} s, flashmirror {flashmirror_seconds:.2f} s, "
        f"of it starts {starts_seconds:.2f} s"
    )
    return FirstCopy(lab.size_bytes, nbdcopy_seconds, flashmirror_seconds, starts_seconds)


@contextmanager
def _folder(lab: Lab) -> Iterator[Path]:
    folder = lab.folder / "first-copy"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _nbdcopy(lab: Lab, source: Path, target: Path) -> float:
    fill(target, lab.size_bytes)
    began = time.monotonic()
    with nbdkit_file(target) as uri:
        run(("nbdcopy", "--flush", str(source), uri), _COPY_SECONDS)
        seconds = time.monotonic() - began
    require_same(source, target, "nbdcopy")
    target.unlink()
    return seconds


def _flashmirror(lab: Lab, source: Path, folder: Path) -> tuple[float, float]:
    with Pair(lab.flashmirror, folder, str(lab.size_bytes)) as pair:
        with source.open("rb") as bytes_, pair.source_image.open("r+b") as image:
            shutil.copyfileobj(bytes_, image)
        for image_to_be in (*pair.intermediates, pair.target_image):
            fill(image_to_be, lab.size_bytes)
        began = time.monotonic()
        starts_seconds = pair.start_both()
        pair.sync()
        seconds = time.monotonic() - began
        require_same(source, pair.target_image, "flashmirror's first copy")
    return seconds, starts_seconds
