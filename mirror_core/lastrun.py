"""The ledger of a state folder, and whether it is that of the last run there.

Each run makes its files (the intent logs of a source, the log of hardenings of a target) before a
ledger names it, and removes those of others after that, durably, before anybody is served.  So the
files of the run that a ledger names stand beside it, unless they were lost, or it is an older
ledger, which was put back: then other runs came after the one that it names, and that this one was
stopped in order says nothing of them.

Not noticed: a ledger that was put back with the files beside it; one that no run has made yet, or
a promotion has just made, which names no commit of its history.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mirror_core import hardlog, intent, ledger
from mirror_core.errors import LedgerError
from mirror_core.ledger import Ledger
from mirror_core.platform import HERE, Platform


def load(state: Path, platform: Platform = HERE) -> Ledger:
    """As of a site that was killed, unless it was stopped in order and the files of its last run
    say so.  LedgerError."""
    book = ledger.load(state, platform)
    for path in _files(state, book):
        try:
            if not platform.exists(path):
                return replace(book, clean=False)
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}: mend that", error.errno or 0) from error
    return book


def _files(state: Path, book: Ledger) -> list[Path]:
    """Of the run that it names."""
    if book.role == "source" and book.run in book.runs:
        return [intent.path_in(state, volume.name, book.run) for volume in book.volumes]
    if book.role == "target" and book.whole and book.run:
        return [hardlog.path_in(state, book)]
    return []
