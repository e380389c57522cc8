"""Stores that somebody cuts under a site: what was in them is gone, whatever size they have later.

The core counts each cut that a read, a write, a flush, a connection to a server or a look of the
site meets (native/flush.c).  What one costs is what the store held of what counts then:

    data of a source          all of it: what is left is sent nowhere any more
    a source's intermediate   what the running cycle has copied there: it is copied anew (driver.py)
    data of a target          the image; before the first commit, a copy to begin with
    a target's intermediate   what is pending since the last commit, and what was written since the
                              session began

Invariants.  A commit counts on nothing that was written, or found equal in a seed, before a cut:
its stores were cut as often as when its session began (I9).  While a store was cut that held some
of the image, nothing is hardened, nothing is committed, and nothing is promoted (I1): some of the
image is nowhere.  A cut of an intermediate that held none of it is made good by the next session,
or an orderly stop: nobody counts any more on what was written there before.  Who refuses because
of a cut has recorded it in the ledger first, if that can be written: what a person does then, or a
kill, makes nobody forget it.  A look of the site records the others, a second later.

Left out: a cut that nobody has met before the store was large again: qemu-nbd reads zeroes behind
the end of a file, and says no word; one of a server that has answered with an error, and takes no
connection before the store is large again; a kill between who meets one and who refuses, or looks,
next.

Guard: `_session` and `_point`: the target's `serial`.  Any thread reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from mirror_core.errors import MirrorError, Refused
from mirror_core.flashcopy import Member

Part = Literal["data", "intermediate"]


class ImageLost(Refused):
    """Some of the image is nowhere, whatever its source, or who copies what is left, asks for."""


class DataCut(MirrorError):
    """Of a source: its target alone may have what is gone, and a person says which counts."""


class Counts(NamedTuple):
    """How often the stores of a volume were cut, since this process has opened them."""

    data: int = 0
    intermediate: int = 0


class Cuts:
    """Of a target."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = {m.name: m for m in members}
        self._session = dict.fromkeys(self._members, Counts())  # as of its beginning
        # As of when nothing that counts was in them, but what is there since.
        self._point = dict.fromkeys(self._members, Counts())

    def now(self) -> dict[str, Counts]:
        """OSError: they are closed."""
        return {
            name: Counts(one.native.first.cuts, one.native.front.cuts)
            for name, one in self._members.items()
        }

    def begin(self, counts: dict[str, Counts]) -> None:
        """A session: of what was written in one before, nothing is counted on any more."""
        for name, found in counts.items():
            if not _owes(self._members[name]):
                self._point[name] = self._point[name]._replace(intermediate=found.intermediate)
        self._session = counts

    def in_session(self, counts: dict[str, Counts], *, seeded: bool) -> tuple[str, Part] | None:
        """A store (volume, part) that was cut by `counts` since the session began, of those of
        which its commit needs what they held then; None: none was."""
        for name, before in self._session.items():
            if counts[name].intermediate != before.intermediate:
                return name, "intermediate"
            if seeded and counts[name].data != before.data:
                return name, "data"
        return None

    def commit(self, counts: dict[str, Counts], *, first: bool) -> None:
        """It stands, all of the one before is hardened, and nothing is pending yet.  `counts`: as
        `in_session` has found them right.  Of a first one each block of data is to be written, was
        a hole then, or was found equal in the session."""
        for name, found in counts.items():
            data = found.data if first else self._point[name].data
            self._point[name] = Counts(data, found.intermediate)

    def of_image(self) -> Iterator[tuple[str, Part]]:
        """Which stores (volume, part) were cut while they held some of the image.  OSError: they
        are closed."""
        for name, found in self.now().items():
            if found.data != self._point[name].data:
                yield name, "data"
            if found.intermediate != self._point[name].intermediate and _owes(self._members[name]):
                yield name, "intermediate"

    def met(self, volume: str, part: str) -> bool:
        """Whether that store was cut, and that is not made good.  OSError: it is closed."""
        return bool(getattr(self.now()[volume], part) != getattr(self._point[volume], part))


def _owes(member: Member) -> bool:
    """Some of the image is in its intermediate, and not hardened."""
    stats = member.native.stats()
    return bool(stats.pending_blocks + stats.unsent_blocks + stats.sent_blocks)


def of_source(members: Sequence[Member]) -> list[tuple[str, Part]]:
    """Which stores (volume, part) of the data were cut, since this process has opened them."""
    return [(m.name, "data") for m in members if m.native.front.cuts]
