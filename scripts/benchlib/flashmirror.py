"""flashmirror as its users have it: the command, the device, the metrics.

One pair of sites serves both contenders: paused it is idle, resumed it cycles without pause. Each
leaves it paused with nothing dirty, so that neither pays for the other's writes.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchlib.contenders import Contender, Facts
from benchlib.lab import BenchError, Lab, fill, require_same, run, say
from benchlib.metrics import Metrics, quantile_bound, scrape

VOLUME = "disk"

_COMMAND_SECONDS = 150.0
_SYNC_TIMEOUT = "120s"
_SCRAPE_PERIOD_SECONDS = 0.25


@dataclass(frozen=True)
class Process:
    """Where a running site is to be found."""

    pid: int
    metrics_address: str


class Pair:
    """Two sites made by `init`; `with` stops them in the end. Nothing is started by it."""

    def __init__(self, program: Path, folder: Path, size: str) -> None:
        self._program = program
        self._processes: dict[Path, Process] = {}
        self.source, self.target = folder / "east.toml", folder / "west.toml"
        self.source_image = folder / "east" / f"{VOLUME}.img"
        self.target_image = folder / "west" / f"{VOLUME}.img"
        self.intermediates = [
            folder / site / f"{VOLUME}.intermediate.img" for site in ("east", "west")
        ]
        self._do("init", folder, "--size", size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for site in (self.source, self.target):
            try:
                self.stop(site)
            except BenchError as failure:
                say(f"bench: {failure}")
                self._kill(site)

    def start(self, site: Path) -> float:
        """Start a site; how long that took."""
        return self._do("start", site)

    def start_both(self) -> float:
        return self.start(self.target) + self.start(self.source)

    def stop(self, site: Path) -> None:
        self._do("stop", site)
        self._processes.pop(site, None)

    def sync(self) -> float:
        return self._do("sync", self.source, "--timeout", _SYNC_TIMEOUT)

    def pause(self) -> None:
        self._do("pause", self.source)

    def resume(self) -> None:
        self._do("resume", self.source)

    def status(self, site: Path) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self._ask("status", site, "--json"))
        return status

    def metrics(self) -> Metrics:
        """A scrape of the source."""
        return scrape(self._process(self.source).metrics_address)

    def uri(self) -> str:
        return self._ask("uri", self.source, VOLUME).strip()

    def resident_bytes(self, site: Path) -> int:
        statm = Path(f"/proc/{self._process(site).pid}/statm").read_text()
        page_count = int(statm.split()[1])
        return page_count * os.sysconf("SC_PAGE_SIZE")

    def _do(self, *arguments: str | Path) -> float:
        began = time.monotonic()
        self._ask(*arguments)
        return time.monotonic() - began

    def _ask(self, *arguments: str | Path) -> str:
        return run((str(self._program), *map(str, arguments)), _COMMAND_SECONDS)

    def _process(self, site: Path) -> Process:
        """Asked once a start, and not by it: that is timed."""
        if site not in self._processes:
            status = self.status(site)
            if status["state"] == "stopped":
                raise BenchError(f"{site}: not running")
            self._processes[site] = Process(status["pid"], status["metrics_address"])
        return self._processes[site]

    def _kill(self, site: Path) -> None:
        with suppress(BenchError, ProcessLookupError):
            os.kill(self._process(site).pid, signal.SIGKILL)


@contextmanager
def filled_pair(lab: Lab) -> Iterator[Pair]:
    """A running pair, paused, all four images written."""
    lab.require_images(4)
    with Pair(lab.flashmirror, lab.folder / "pair", str(lab.size_bytes)) as pair:
        fill(pair.source_image, lab.size_bytes)
        pair.start_both()
        pair.sync()
        pair.pause()
        yield pair


class SharedPair:
    """The pair of both contenders: started with the first of them, stopped with the last."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._users = 0
        self._running = ExitStack()

    @contextmanager
    def used(self) -> Iterator[Pair]:
        if self._users == 0:
            self._pair = self._running.enter_context(filled_pair(self._lab))
        self._users += 1
        try:
            yield self._pair
        finally:
            self._users -= 1
            if self._users == 0:
                self._running.close()


class Flashmirror(Contender):
    """What both contenders have in common: the device of the shared pair."""

    def __init__(self, lab: Lab, shared: SharedPair) -> None:
        super().__init__(lab)
        self._shared = shared

    def start(self, stack: ExitStack) -> None:
        self._pair = stack.enter_context(self._shared.used())
        self.uri = self._pair.uri()


class FlashmirrorIdle(Flashmirror):
    """Mirroring on, no cycle running: writes are only recorded."""

    name = "flashmirror-idle"

    @contextmanager
    def working(self) -> Iterator[Facts]:
        before = _committed(self._pair.metrics())
        yield {}
        if _committed(self._pair.metrics()) != before:
            raise BenchError("flashmirror committed a consistency point while paused")
        self._pair.sync()


class FlashmirrorCycling(Flashmirror):
    """Every commit starts the next cycle."""

    name = "flashmirror-cycling"

    @contextmanager
    def working(self) -> Iterator[Facts]:
        with cycling(self._pair) as facts:
            yield facts

    def prove(self) -> None:
        require_same(self._pair.source_image, self._pair.target_image, self.name)


@contextmanager
def cycling(pair: Pair) -> Iterator[Facts]:
    """Cycles run while the block does; then the target gets the rest, and facts are told."""
    facts: Facts = {}
    before = pair.metrics()
    stopping = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pair.resume()
        watched = pool.submit(_watch_exposure, pair, stopping)
        try:
            yield facts
        finally:
            stopping.set()
    loaded = pair.metrics()
    pair.pause()
    pair.sync()
    facts.update(_facts(before, loaded), exposure_seconds_max=watched.result())
    facts.update(_bytes(before, pair.metrics()))


def _watch_exposure(pair: Pair, stopping: threading.Event) -> float:
    worst = 0.0
    while not stopping.wait(_SCRAPE_PERIOD_SECONDS):
        worst = max(worst, pair.metrics().largest("flashmirror_data_exposure_seconds"))
    return worst


def _facts(before: Metrics, loaded: Metrics) -> Facts:
    """What cycles did under the load itself."""
    if not loaded.largest("flashmirror_peer_connected"):
        raise BenchError("flashmirror lost its peer under load")
    hold = "flashmirror_cycle_freeze_seconds"
    held = _grown(before, loaded, f"{hold}_count")
    results = {
        f"cycles_{result}": _grown(before, loaded, "flashmirror_cycles_total", result=result)
        for result in loaded.by("flashmirror_cycles_total", "result")
    }
    return {
        "cycles": results.get("cycles_committed", 0),
        **results,
        "hold_seconds_p99": quantile_bound(before, loaded, hold, 0.99),
        "hold_seconds_mean": _grown(before, loaded, f"{hold}_sum") / held if held else None,
        "copies_before_write": _grown(before, loaded, "flashmirror_copies_before_write_total"),
    }


def _bytes(before: Metrics, after: Metrics) -> Facts:
    """What was copied, the rest included: nothing of it is under way at either end."""
    changed = _grown(before, after, "flashmirror_copied_bytes_total", copy="first")
    wire = wire_bytes(before, after)
    return {
        "copied_bytes": changed,
        "wire_bytes": wire,
        "wire_over_changed": wire / changed if changed else None,
    }


def wire_bytes(before: Metrics, after: Metrics) -> float:
    return _grown(before, after, "flashmirror_wire_bytes_total")


def _grown(before: Metrics, after: Metrics, name: str, **labels: str) -> float:
    return after.total(name, **labels) - before.total(name, **labels)


def _committed(metrics: Metrics) -> float:
    return metrics.largest("flashmirror_committed_sequence")
