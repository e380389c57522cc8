"""What the intent log costs a write: a site on a disk file, with it and without it.

Nothing switches the log off in production, so the site without it is built from a copy of the
source with a planted fault (tests/faults/).  Both are paused, as an idle mirror is; a first pass
over the volume makes everything hot; then they take turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchlib.flashmirror import Pair
from benchlib.lab import MIB, fill, say
from benchlib.load import WORKLOADS, Pace, put_on

ROOT = Path(__file__).resolve().parent.parent.parent
SIZE = 64 * MIB
FAULT = "NO_INTENT"
_HEAT = next(w for w in WORKLOADS if w.name == "write-1m-d8")
_LOAD = next(w for w in WORKLOADS if w.name == "randwrite-4k-d32")


def measure_intent(program: Path, disk: Path, rounds: int, pace: Pace) -> list[float]:
    """IOPS with the log over IOPS without it, a round each."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=disk)))
        environment = _without_log(folder / "core")
        with_log = stack.enter_context(idle_pair(program, folder / "with", SIZE))
        with _environment(environment):
            without = stack.enter_context(idle_pair(program, folder / "without", SIZE))
        ratios = []
        for number in range(1, rounds + 1):
            order = (with_log, without) if number % 2 else (without, with_log)
            iops = {}
            for pair in order:
                os.sync()  # what the disk still writes of the one before is not this one's
                iops[pair] = put_on(pair.uri(), _LOAD, pace, seed=number).iops
            ratios.append(iops[with_log] / iops[without])
            say(
                f"[intent] round {number}: {iops[with_log]:,.0f} IOPS with the log, "
                f"{iops[without]:,.0f} without"
            )
        return ratios


def _without_log(folder: Path) -> dict[str, str]:
    sys.path.insert(0, str(ROOT / "tests"))
    import planted  # noqa: PLC0415  (of the tests: only here)

    folder.mkdir()
    return planted.plant(FAULT, folder)


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    yield
    os.environ.clear()
    os.environ.update(before)


@contextmanager
def idle_pair(program: Path, folder: Path, size: int) -> Iterator[Pair]:
    """Paused, with nothing to be sent, and everything hot."""
    with Pair(program, folder, str(size)) as pair:
        fill(pair.source_image, size)
        pair.start_both()
        pair.sync()
        pair.pause()
        put_on(pair.uri(), _HEAT, Pace(2.0, 0.1), seed=1)
        yield pair
