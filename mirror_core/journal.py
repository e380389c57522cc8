"""What a site tells people while it runs: lines in its log, and the counts behind its metrics.

Invariant.  To say something never fails and never waits: a line that cannot be written (a full
disk, a pipe that nobody reads, no memory) is counted, and the next one that can be says how many.

Guard: `_lock` guards the counts.  Histograms are kept here, not in prometheus_client's global
registry, so that a site can be built twice in one process (tests).
"""

from __future__ import annotations

import bisect
import traceback
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mirror_core import limits
from mirror_core.errors import printable
from mirror_core.platform import HERE, Platform

FREEZE_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
CYCLE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0)


@dataclass
class Histogram:
    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, int]]:
        """The buckets as Prometheus wants them: ('0.01', at most that many)."""
        rows, seen = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            seen += count
            rows.append((bound, seen))
        return rows


@dataclass
class _Told:
    """A refusal that was logged: when, and how often there was the same since."""

    at: float
    more: int = 0


class Journal:
    def __init__(self, platform: Platform = HERE) -> None:
        self._platform = platform
        self._lock = platform.lock()
        self._refusals: OrderedDict[tuple[str, str], _Told] = OrderedDict()
        self.unwritten = 0  # lines, since the last that was written
        self.cycles: Counter[str] = Counter()
        self.freezes = Histogram(FREEZE_BUCKETS_S)
        self.durations = Histogram(CYCLE_BUCKETS_S)
        self.comparing: Counter[str] = Counter()  # wire bytes by volume
        self.equal: Counter[str] = Counter()  # bytes by volume that needed not be sent

    def say(self, text: str) -> None:
        """One line in the log: stderr, which the starter sends to a file or to the journal.  (The
        story of an error has several.)"""
        with self._lock:
            try:
                text = "\n".join(map(printable, text.split("\n")))
                if self.unwritten:
                    lines = "line" if self.unwritten == 1 else "lines"
                    self._platform.write_log(
                        f"flashmirror: {self.unwritten} {lines} before this could not be written"
                    )
                    self.unwritten = 0
                self._platform.write_log(f"flashmirror: {text}")
            except Exception:
                self.unwritten += 1

    def trouble(self, error: Exception) -> None:
        """The whole story of an error that nobody foresaw, for who mends it."""
        try:
            text = "".join(traceback.format_exception(error)).rstrip()
        except Exception:
            text = "an error that cannot be described"
        self.say(text)

    def refused(self, origin: str, why: str) -> None:
        """Log a refusal once; if it repeats itself, after a while, with how often."""
        now, key = self._platform.monotonic(), (origin, why)
        with self._lock:
            told = self._refusals.get(key)
            if told and now < told.at + limits.TELL_AGAIN_S:
                told.more += 1
                return
            again = f" ({told.more} more since the last line)" if told and told.more else ""
            self._refusals[key] = _Told(now)
            self._refusals.move_to_end(key)
            while len(self._refusals) > limits.REFUSALS_KNOWN:
                self._refusals.popitem(last=False)
        self.say(f"refused: {origin}: {why}{again}")

    def cycle(self, result: str) -> None:
        with self._lock:
            self.cycles[result] += 1

    def missed_freeze(self) -> None:
        self.cycle("freeze_missed")

    def held(self, seconds: float) -> None:
        with self._lock:
            self.freezes.add(seconds)

    def duration(self, seconds: float) -> None:
        with self._lock:
            self.durations.add(seconds)

    def compared(self, volume: str, wire_bytes: int, equal_bytes: int) -> None:
        with self._lock:
            self.comparing[volume] += wire_bytes
            self.equal[volume] += equal_bytes

    def snapshot(self) -> tuple[dict[str, int], Histogram, Histogram]:
        with self._lock:
            copies = [Histogram(h.bounds) for h in (self.freezes, self.durations)]
            for copy, own in zip(copies, (self.freezes, self.durations), strict=True):
                copy.counts, copy.total = list(own.counts), own.total
            return dict(self.cycles), copies[0], copies[1]
