"""How old a consistency point is, and since when writes wait for one, whatever the clocks do.

A point is stamped with the wall clock of the source that made it, which lasts, but may be set, and
which another site's may differ from.  A process counts besides by its monotonic clock, which is
never set and goes no further back than the process knows the point.

    made here            by the monotonic clock alone
    read or told of      by the wall clock, but at least for as long as it has been known here, in
                         this process or in one before it since the machine was started (ledger.py)

Invariants.  An age never decreases while its point stays the same and no clock is set, and never
goes below what has been counted, whatever is set: so it is never negative, and 0 only in the
instant in which the point is learned.
Left out: time in which the machine was suspended while the process ran, which the monotonic clock
does not count; a wall clock that is behind when the machine was started since; that two sites'
clocks may differ, by which the age of what the other one has told is wrong; and that a container
whose boot is not known may have been moved to a machine that is up for longer: until its next
commit it tells an age that is too large, by as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirror_core.ledger import Ledger
from mirror_core.platform import Platform


@dataclass(frozen=True)
class Moment:
    """`wall`: Unix seconds; `known`: monotonic, since when it has been known here.  `exact`: it
    was made then, here."""

    wall: float
    known: float
    exact: bool = False

    def age(self, platform: Platform) -> float:
        """Seconds."""
        counted = platform.monotonic() - self.known
        return counted if self.exact else max(counted, platform.time() - self.wall)


def told(wall: float | None, platform: Platform) -> Moment | None:
    """Of a moment that the other site has told; None: of none."""
    return Moment(wall, platform.monotonic()) if wall else None


def of_point(book: Ledger, platform: Platform) -> Moment | None:
    """Of the ledger's consistency point; None: there is none."""
    point = book.consistency_point
    return Moment(point, _known(book, platform)) if point else None


def of_history(book: Ledger, platform: Platform) -> Moment:
    """When the history of the ledger began; if it does not say that: now."""
    known = platform.monotonic() if book.consistency_point else _known(book, platform)
    return Moment(book.since or platform.time(), known)


def of_this_boot(book: Ledger, platform: Platform) -> dict[str, str | float]:
    """For the ledger of a run that begins: in which boot, from when on its point is known."""
    boot, known = boot_of(platform), platform.uptime()
    if _counts_on(book, boot):
        known = min(known, book.known_uptime)
    return {"known_boot": boot, "known_uptime": known}


def is_of_another_boot(book: Ledger, platform: Platform) -> bool:
    """Whether the run before ended with its machine, for certain."""
    return is_another(book.known_boot, boot_of(platform))


def is_another(before: str, now: str) -> bool:
    """Whether the machine was started anew between two looks at its boot, for certain."""
    return bool(before and now) and before != now


def is_the_same(before: str, now: str) -> bool:
    """Whether it was not, for certain: neither is true where one of them is not known."""
    return bool(before) and before == now


def _known(book: Ledger, platform: Platform) -> float:
    """Monotonic, of this process; perhaps of before it began."""
    now = platform.monotonic()
    if not _counts_on(book, boot_of(platform)):
        return now
    return now - max(0.0, platform.uptime() - book.known_uptime)


def _counts_on(book: Ledger, boot: str) -> bool:
    """Where the boot is not known the machine may have been started since, and then its point is
    known for longer than it is up now."""
    return bool(book.known_uptime) and not is_another(book.known_boot, boot)


def boot_of(platform: Platform) -> str:
    """Empty: it is not known, as in a container that shows one of its own (platform.py)."""
    try:
        return platform.boot_id()
    except OSError:
        return ""
