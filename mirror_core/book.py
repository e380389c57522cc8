"""The ledger in use: one current record, every change durable before it is seen.

Guard: `lock` orders changes; a reader takes `current`, which is immutable.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirror_core import ledger
from mirror_core.errors import LedgerError


class Book:
    def __init__(self, state: Path, current: ledger.Ledger) -> None:
        self.state = state
        self.current = current
        self._lock = threading.Lock()

    def update(self, **changes: Any) -> None:
        """Replace the record durably.  LedgerError: the old one stands, here and on disk."""
        with self._lock:
            fresh = replace(self.current, **changes)
            try:
                ledger.save(self.state, fresh)
            except OSError as error:
                raise LedgerError(
                    f"{ledger.path_in(self.state)}: {error.strerror}: the ledger cannot be "
                    "written, mirroring stops until it can",
                    error.errno or 0,
                ) from error
            self.current = fresh
