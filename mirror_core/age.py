"""How old a consistency point is, and since when writes wait for one, whatever the clocks do.

A point is stamped with the wall clock of the source that made it, which lasts, but may be set, and
which another site's may differ from.  A process counts besides by its monotonic clock, which is
never set and goes no further back than the process knows the point.

    made here            by the monotonic clock alone
    read or told of      by the wall clock, but at least for as long as it has been known here

Invariants.  An age never decreases while its point stays the same and no clock is set, and never
goes below what the monotonic clock has counted, whatever is set: so it is never negative, and 0
only in the instant in which the point is learned.
Left out: time in which the machine was suspended, which the monotonic clock does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Of a moment that was read from a record, or that the other site has told; None: of none."""
    return Moment(wall, platform.monotonic()) if wall else None
