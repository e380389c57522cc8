"""The ledger of a state folder, and whether it is that of the last run there.

Each run makes its files (the intent logs of a source, the log of hardenings of a target) before a
ledger names it, and removes those of others after that, durably, before anybody is served.  So the
files of the run that a ledger names stand beside it, unless they were lost, or it is an older
ledger, which was put back: then other runs came after the one that it names, and that this one was
stopped in order says nothing of them.

Where the files were put back with it they are copies, which the ledger tells from those that the
run has made (runlog.py).  It may be the newest all the same: somebody may have moved the folder to
another disk.  Of a source everything is compared then.  A target mirrors on, for its source knows
which commit is the last one; but until the next its image is not known to be of one moment.  So it
is of an older ledger beside a log of its run that tells of a later commit (hardlog.py).

Not noticed: such a ledger beside a log that does not; a folder that comes back with its whole file
system, or where no file is known from its copy; a ledger that no run has made yet, or a promotion
has just made, which names no commit of its history.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mirror_core import hardlog, intent, ledger, runlog
from mirror_core.errors import LedgerError
from mirror_core.ledger import Ledger
from mirror_core.platform import HERE, Platform

COPIED = (
    "its state folder was put back, or copied, since its last run: if that is not the newest one, "
    "the image is a mixture of two points"
)


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
        if runlog.is_copy(path, book.logs, platform):
            return (
                replace(book, clean=False) if book.role == "source" else replace(book, copied=True)
            )
    return book


def taken_away(state: Path, book: Ledger, platform: Platform = HERE) -> Path | None:
    """Which file somebody has taken from under a site that runs, or put another one in its place;
    None: all are there.  OSError, LedgerError: that is not known."""
    if not platform.exists(ledger.path_in(state)):
        return ledger.path_in(state)
    for path in _files(state, book):
        if not platform.exists(path) or runlog.is_copy(path, book.logs, platform):
            return path
    return None


def _files(state: Path, book: Ledger) -> list[Path]:
    """Of the run that it names."""
    if book.role == "source" and book.run in book.runs:
        return [intent.path_in(state, volume.name, book.run) for volume in book.volumes]
    if book.role == "target" and book.whole and book.run:
        return [hardlog.path_in(state, book)]
    return []
