"""The mirroring control: one cycle as a generator of effects.  Pure, no I/O, no clock.

    freeze     the consistency point of the whole group (I6); one that is missed has changed
               nothing, and another cycle tries again (Holds)
    begin      its sequence and token are durable before the target is asked for anything (I3),
               and after the freeze: who knows them has all that the cycle will commit (I7)
    copy       the first flashcopy, until nothing is left
    flush      the first intermediate, and the source
    commit     the target flushes the second, and says: sequence k is the image
    settle     the commit is durable here too; then what the cycle held is forgotten

The driver performs an effect and sends its Result back; an error is a value.

    the link, or the peer, is lost   resume: copy on into the first intermediate; once there is a
                                     session again, feed the second from the first what it lacks
    anything else                    abandon: the cycle's blocks go back into `next`, and a new
                                     cycle begins later

Both are always right.  The first intermediate stands still at the consistency point; and every
block of an abandoned cycle is copied again before the next commit.  Source: claim 1, steps 1 to 3.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from mirror_core import limits


@dataclass(frozen=True)
class Begin:
    sequence: int


@dataclass(frozen=True)
class Freeze:
    budget_s: float


@dataclass(frozen=True)
class Copy:
    pass


@dataclass(frozen=True)
class Flush:
    pass


@dataclass(frozen=True)
class Commit:
    sequence: int


@dataclass(frozen=True)
class Resume:
    """Until there is a session that goes on with this cycle."""

    sequence: int


@dataclass(frozen=True)
class Settle:
    sequence: int


@dataclass(frozen=True)
class Abandon:
    reason: str
    code: int


Effect = Begin | Freeze | Copy | Flush | Commit | Resume | Settle | Abandon


@dataclass(frozen=True)
class Result:
    """done: False asks for the same effect again.  error: one line, with its errno; `lost`: of
    the link or the peer only.  committed: so the peer says."""

    done: bool = True
    error: str | None = None
    code: int = 0
    lost: bool = False
    committed: bool = False


@dataclass(frozen=True)
class Outcome:
    """result: committed, missed (no consistency point was made) or abandoned."""

    result: str
    reason: str | None = None
    code: int = 0


@dataclass(frozen=True)
class Progress:
    """Where the running cycle is; bytes of all volumes of the group; `began`: monotonic time of
    its consistency point."""

    sequence: int = 0
    phase: str = "idle"
    copied_bytes: int = 0
    total_bytes: int = 0
    began: float = 0.0


@dataclass(frozen=True)
class LastCycle:
    duration_seconds: float
    bytes: int
    freeze_seconds: float


class Holds:
    """How long the next freeze may hold writes, and how long writes go on before it.

    After a missed freeze the next one may hold writes twice as long, up to `most_s`; and before it
    writes go on for at least as long as they were held.  So one write is held once, however
    many freezes are missed.  After the longest hold the pauses grow as well."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self.made()

    def made(self) -> None:
        """A freeze was in time."""
        self.budget_s, self.rest_s = self._least_s, 0.0

    def missed(self, held_s: float) -> bool:
        """A freeze was not.  Whether it was as patient as one may be."""
        longest = self.budget_s >= self._most_s
        self.rest_s = max(held_s, min(2 * self.rest_s, limits.BACKOFF_MAX_S) if longest else 0.0)
        self.budget_s = min(2 * self.budget_s, self._most_s)
        return longest


def cycle(sequence: int, freeze_budget_s: float) -> Generator[Effect, Result, Outcome]:
    """Cycle `sequence`, from freeze to settle."""
    result = yield Freeze(freeze_budget_s)
    if result.error:
        return Outcome("missed", result.error, result.code)
    result = yield Begin(sequence)
    if result.error:
        return (yield from _abandoned(result))
    result = yield from _to_commit(sequence)
    while result.lost:
        result = yield from _until_done(Resume(sequence))
        if not result.error and not result.committed:
            result = yield from _to_commit(sequence)
    if not result.error:
        result = yield Settle(sequence)  # if that fails nothing is forgotten: it is sent once more
    return (yield from _abandoned(result)) if result.error else Outcome("committed")


def _abandoned(result: Result) -> Generator[Effect, Result, Outcome]:
    yield Abandon(result.error or "", result.code)
    return Outcome("abandoned", result.error, result.code)


def _to_commit(sequence: int) -> Generator[Effect, Result, Result]:
    """The first flashcopy and its commit, or the first error."""
    result = Result()
    for effect in (Copy(), Flush(), Commit(sequence)):
        result = yield from _until_done(effect)
        if result.error:
            break
    return result


def _until_done(effect: Effect) -> Generator[Effect, Result, Result]:
    result = Result(done=False)
    while not result.done:
        result = yield effect
    return result
