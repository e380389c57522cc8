"""What a durable write costs: 4 KiB with FUA on a disk, a paused site beside nbdkit's own C plugin.

fio's nbd engine cannot ask for FUA, so threads with a small NBD client do: each writes, waits for
the answer, and writes again.  The disk's flush is what takes the time, not this client.  With
`dirty` another client of the device writes without it meanwhile, as a database's pages do beside
its log: whoever flushes the whole file pays for those.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchlib.contenders import nbdkit_file
from benchlib.flashmirror import Pair
from benchlib.intent import ROOT, idle_pair
from benchlib.lab import MIB, fill, say
from benchlib.load import Pace

SIZE = 64 * MIB
_BLOCK = 4096
_FUA = 1  # nbd_client.FUA
CASES = ((1, False), (8, False), (1, True), (8, True))  # clients, dirty


def name_of(clients: int, dirty: bool) -> str:
    return f"{clients} client{'s' * (clients > 1)}{', dirty pages' * dirty}"


def measure_durable(program: Path, disk: Path, rounds: int, pace: Pace) -> dict[str, list[float]]:
    """Of each case: writes a second of a site over those of nbdkit's plugin, a round each."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=disk)))
        pair: Pair = stack.enter_context(idle_pair(program, folder / "pair", SIZE))
        fill(folder / "plain.img", SIZE)
        plain = stack.enter_context(nbdkit_file(folder / "plain.img"))
        ratios: dict[str, list[float]] = {}
        for number in range(1, rounds + 1):
            for case in CASES:
                order = [("site", pair.uri()), ("plugin", plain)][:: 1 if number % 2 else -1]
                found = {what: _writes_a_second(uri, *case, pace.seconds) for what, uri in order}
                ratios.setdefault(name_of(*case), []).append(found["site"] / found["plugin"])
                say(
                    f"[durable] round {number}: {name_of(*case)}: {found['site']:,.0f} writes/s, "
                    f"nbdkit's plugin {found['plugin']:,.0f}"
                )
        return ratios


def _writes_a_second(uri: str, clients: int, dirty: bool, seconds: float) -> float:
    os.sync()  # what the disk still writes of the one before is not this one's
    with ExitStack() as stack:
        if dirty:
            stack.enter_context(_writer(uri, 0))
        counts = [stack.enter_context(_writer(uri, _FUA)) for _ in range(clients)]
        began, before = time.monotonic(), sum(map(len, counts))
        time.sleep(seconds)
        return (sum(map(len, counts)) - before) / (time.monotonic() - began)


@contextlib.contextmanager
def _writer(uri: str, flags: int) -> Iterator[list[None]]:
    """A client that writes at random offsets until the block ends; one entry for each answer."""
    sys.path.insert(0, str(ROOT / "tests"))
    from nbd_client import NbdClient  # noqa: PLC0415  (of the tests: only here)

    over = threading.Event()
    done: list[None] = []
    errors: list[OSError] = []

    def run() -> None:
        try:
            with NbdClient(uri) as client:
                while not over.is_set():
                    at = random.randrange(SIZE // _BLOCK) * _BLOCK
                    client.write(at, os.urandom(_BLOCK), flags)
                    done.append(None)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
