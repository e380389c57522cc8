"""The log of what was done, with times; counters; and the first failure.

Every line begins with the seconds since the beginning.  A failure is a sentence that says what
was promised and what was seen; the run ends with it, and everything is kept.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path


class ChaosFailure(Exception):
    """A promise was broken."""


class Record:
    def __init__(self, path: Path, *, verbose: bool) -> None:
        self._file = path.open("a", buffering=1)
        self._verbose = verbose
        self._began = time.monotonic()
        self._conductor = threading.get_ident()  # who has begun it, and does the faults
        self._lock = threading.Lock()  # guards all below
        self.counts: Counter[str] = Counter()
        self.said = 0  # lines of the conductor
        self.failure: str | None = None

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:8.3f} {text}"
        with self._lock:
            self._file.write(line + "\n")
            self.said += threading.get_ident() == self._conductor
            if self._verbose:
                print(line, flush=True)

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.counts[what] += by

    def fail(self, text: str) -> None:
        """Keep the first failure; the conductor raises it at its next `check`."""
        self.say(f"FAILURE: {text}")
        with self._lock:
            self.failure = self.failure or text

    def check(self) -> None:
        """Raises ChaosFailure if anything has failed so far, in any thread."""
        if self.failure:
            raise ChaosFailure(self.failure)
