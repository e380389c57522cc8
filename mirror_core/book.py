"""The ledger in use: one current record, every change durable before it is seen.

A change of which nobody knows whether it is durable (durable.py) ends the process, as a kill
would: the next one reads what stands, and makes that durable before it does anything else.

Who holds something that counts with one ledger only hears of each change before it is recorded, and
once it stands, before anything else sees it.

A new consistency point, or history, is stamped with when it became known here, unless who changes
it knows better.

Guard: `lock` orders changes; a reader takes `current`, which is immutable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirror_core import age, ledger
from mirror_core.durable import Doubt
from mirror_core.errors import LedgerError, mend
from mirror_core.journal import Journal
from mirror_core.platform import Platform


class Book:
    def __init__(
        self, state: Path, current: ledger.Ledger, platform: Platform, journal: Journal
    ) -> None:
        self.state = state
        self.current = current
        self.warned: list[Callable[[ledger.Ledger], None]] = []  # who raises OSError prevents it
        self.told: list[
            Callable[[ledger.Ledger], None]
        ] = []  # whatever they raise, the record stands
        self._platform, self._journal = platform, journal
        self._boot = age.boot_of(platform)
        self._lock = platform.lock()

    def update(self, **changes: Any) -> None:
        """Replace the record durably.  LedgerError: the old one stands, here and on disk."""
        self.change(lambda _: changes)

    def change(self, changes: Callable[[ledger.Ledger], dict[str, Any]]) -> None:
        """The same, of what follows from the record that stands."""
        with self._lock:
            fresh = self._stamped(replace(self.current, **changes(self.current)))
            try:
                for warn in self.warned:
                    warn(fresh)
                ledger.save(self.state, fresh, self._platform)
            except OSError as error:
                raise LedgerError(
                    f"{ledger.path_in(self.state)}: {error.strerror}: the ledger cannot be "
                    f"written, mirroring stops until it can: {mend(error)}",
                    error.errno or 0,
                ) from error
            except Doubt as doubt:
                try:
                    self._journal.say(
                        f"{doubt}: the new ledger may not be durable: the site ends, and is to be "
                        "started again when that is mended"
                    )
                finally:  # a want of memory, too
                    self._platform.abort()
            try:
                for tell in self.told:
                    tell(fresh)
            finally:  # it stands
                self.current = fresh

    def _stamped(self, fresh: ledger.Ledger) -> ledger.Ledger:
        before = self.current
        if (fresh.consistency_point, fresh.since) == (before.consistency_point, before.since):
            return fresh
        if fresh.known_uptime != before.known_uptime:
            return replace(fresh, known_boot=self._boot)
        return replace(fresh, known_boot=self._boot, known_uptime=self._platform.uptime())
