"""The flashcopy relation of a group, used twice: source -> intermediates, intermediate -> target.

A thin face over the native volumes for the threads that control them: begin (freeze), copy,
flush, and then either settle (what was sent is asserted by a record) or take it back.  Which of
the two sides it is shows only in how the group is made (site.py): see native/volume.h.

All calls but the totals come from one thread.  Errors are CopyError, which says whose fault it
was: a cycle with a failed copy is void and must be abandoned (source) or retried (target); only
a source that lost the second sink (`part`) goes on with it.
"""

from __future__ import annotations

import contextlib
import errno
from array import array
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from pyroaring import BitMap64

from mirror_core import limits, native
from mirror_core.errors import LINK_ERRNOS, MirrorError, describe

# Of a failure: the store that is copied from, else the number of the sink; 1 is the peer's.
FRONT, PEER = -1, 1
SINCE_UNKNOWN = 0.0  # older than every other time


class CopyError(MirrorError):
    """A copy or its flush failed.  `part`: FRONT or the sink's number."""

    def __init__(self, volume: str, part: int, code: int) -> None:
        super().__init__(f"volume {volume}: {describe(code)}", abs(code))
        self.volume, self.part = volume, part


def explain(error: CopyError, where: Mapping[int, str]) -> str:
    """One line: which store (`where`: by the failure's part), what is wrong, what to do."""
    peer = error.part == PEER
    look = "look at the other site's status and the link" if peer else "look at its server"
    advice = (
        "free some space there" if error.code in (errno.ENOSPC, errno.EDQUOT)
        else f"{look}, or raise link_timeout if it is that slow" if error.code == errno.ETIMEDOUT
        else "its server is smaller than it was, read-only, without flush, FUA, zeroing or "
        "multi-conn, or takes other block sizes: start it as it was" if error.code == errno.EPROTO
        else "look into that store" if error.code not in LINK_ERRNOS
        else look
    )  # fmt: skip
    return f"{where[error.part]}: {error}: {advice}"


@dataclass(frozen=True)
class Member:
    """One volume of the group."""

    name: str
    native: native.Volume


class Flashcopy:
    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.group = native.Group([m.native for m in members])
        self._parted = False
        self._turn = 0  # whose is the next: the number of a member

    def link(self, seconds: Sequence[native.Store | None]) -> None:
        """Open the lanes to sink 0 and, where given, sink 1 of each volume.  CopyError: they
        are as before."""
        linked = []
        try:
            for member, second in zip(self.members, seconds, strict=True):
                with self._opening(member):
                    member.native.link(second, limits.PRIORITY_LANES)
                linked.append(member)
        except CopyError as error:
            for member in linked:
                if self._parted:
                    self._part(member, error.code)
                else:
                    member.native.fail(error.code or errno.EIO, FRONT)  # no lane is left for it
                    member.native.unlink()
            raise
        self._parted = False

    def leave(self) -> None:
        """Sink 1 is lost for good, and is linked to no more (any thread)."""
        for member in self.members:
            member.native.leave_second()

    def part(self, code: int) -> None:
        """Sink 1 is lost: end what is under way there, and copy on to sink 0 alone.  CopyError:
        that fails too."""
        for member in self.members:
            self._part(member, code)
        self._parted = True

    def _part(self, member: Member, code: int) -> None:
        with self._opening(member):
            member.native.lose_second(code)
            member.native.part(limits.PRIORITY_LANES)

    @staticmethod
    @contextlib.contextmanager
    def _opening(member: Member) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            part = member.native.stats().closed_part
            raise CopyError(member.name, part, error.errno or 0) from error

    def unlink(self) -> None:
        for member in self.members:
            member.native.unlink()
        self._parted = False

    def forget_stable(self) -> None:
        """Of a parted group: the next link's sink 1 does not know of what was stable."""
        for member in self.members:
            member.native.forget_stable()

    def all_sent(self) -> None:
        """With nothing pending: the cycle is committed; only the answer was lost."""
        for member in self.members:
            member.native.all_sent()

    def copy(self, slice_s: float) -> bool:
        """Copy for a while; True when nothing is left, in any volume, that can be copied now.
        CopyError.

        A volume has the whole slice, for at its end all that is in flight there ends too; another
        has what it leaves, and the next call begins behind the last.  So who waits for the
        background of one volume does not wait until another is copied."""
        until, left_s = native.now_s() + slice_s, slice_s
        first, done = self._turn, True
        for member in (*self.members[first:], *self.members[:first]):
            if left_s > 0:
                self._turn = (self._turn + 1) % len(self.members)
            try:
                done &= member.native.copy(max(0.0, left_s))  # 0: whether it is done
            except OSError as error:
                # Without a server the whole group is void: that of the first one (native/volume.c).
                void = (m for m in self.members if m.native.stats().abandoned)
                raise self._failure(next(void, member), error) from error
            left_s = until - native.now_s()
        return done

    def compare(self, on: bool) -> None:
        """Whether what the first sink has is to be compared with the second before it is fed."""
        for member in self.members:
            member.native.compare(on)

    def flush(self, *, front_too: bool) -> None:
        """Flush the sinks, and the front if asked.  CopyError."""
        for member in self.members:
            try:
                member.native.flush_sinks(front_too)
            except OSError as error:
                raise self._failure(member, error) from error

    @staticmethod
    def _failure(member: Member, error: OSError) -> CopyError:
        stats = member.native.stats()
        if not stats.abandoned and stats.second_lost:
            return CopyError(member.name, PEER, stats.second_lost)
        return CopyError(member.name, stats.failed_part, stats.abandoned or error.errno or 0)

    def check(self) -> None:
        """CopyError if a copy failed since the freeze: of a sink 1 that was lost too."""
        for member in self.members:
            stats = member.native.stats()
            if stats.abandoned:
                raise CopyError(member.name, stats.failed_part, stats.abandoned)
            if stats.second_lost:
                raise CopyError(member.name, PEER, stats.second_lost)

    def settle(self) -> None:
        for member in self.members:
            member.native.settle()

    def flush_past(self, *, servers: bool = True) -> str | None:
        """After an end without order: what the process before wrote is flushed before any of it
        is copied or counted.  Else a server that goes and comes back would take it along without
        a connection of ours noticing (store.h, I9).  What a failed flush has lost is not there to
        be copied either; its words.  `servers`: also of stores behind one."""
        words = None
        for member in self.members:
            if member.native.front.kind == "nbd" and not servers:
                continue
            try:
                member.native.flush_front()
            except OSError as error:
                words = f"volume {member.name}: {error.strerror}"
        return words

    def harden(self, record: Callable[[], None]) -> None:
        """Flush what was sent, have it recorded as no longer pending, then let writers go on
        (I2).  CopyError, or what `record` raises: `fail`, and `retry` later."""
        self.harden_begin()
        self.flush(front_too=False)
        record()
        self.harden_end()

    def harden_begin(self) -> None:
        """Put aside what was sent so far, to be flushed and recorded: here, or at the other site
        (stable.py)."""
        for member in self.members:
            member.native.harden_begin()

    def harden_end(self) -> None:
        """It is flushed and recorded, durably."""
        for member in self.members:
            member.native.harden_end()

    def cool(self, after_s: int) -> None:
        """After a commit whose cycle was settled (I4).  OSError: the intent log."""
        for member in self.members:
            member.native.cool(after_s)

    def retry(self) -> None:
        """After a failure: what was not hardened is pending again."""
        for member in self.members:
            member.native.retry()

    def fail(self, code: int) -> None:
        """Nobody waits for a copy any more (native/volume.h: abandoned)."""
        for member in self.members:
            member.native.fail(code, FRONT)

    def abandon(self, code: int) -> None:
        """Void the cycle in every volume: all its blocks go back into `next`."""
        self.fail(code)
        for member in self.members:
            member.native.abandon()

    def stats(self) -> dict[str, native.Stats]:
        return {m.name: m.native.stats() for m in self.members}

    def left_bytes(self) -> int:
        """What is still to be copied, in bytes."""
        return sum(
            (s.pending_blocks + s.unsent_blocks) * m.native.block_size
            for m in self.members
            for s in [m.native.stats()]
        )

    def exposed_since(self) -> float | None:
        """Monotonic time, in seconds, of the oldest write that is in a map; None: there is none.
        SINCE_UNKNOWN: it was written before this process began."""
        since = [
            ns
            for stats in self.stats().values()
            for ns in (stats.next_since_ns, stats.cycle_since_ns)
            if ns
        ]
        if native.SINCE_UNKNOWN in since:
            return SINCE_UNKNOWN
        return min(since) / native.NS if since else None


def bitmap_of(volume: native.Volume, *maps: int) -> BitMap64:
    """The union of maps of a volume in portable form."""
    result = BitMap64()
    for which in maps:
        result |= BitMap64.deserialize(volume.portable(which))
    return result


def mark(volume: native.Volume, bitmap: BitMap64, *, pending: bool = False) -> None:
    """What is in the set is in `next`, or pending."""
    volume.mark_spans(*_spans_of(bitmap), pending=pending)


def _spans_of(bitmap: BitMap64) -> tuple[array[int], array[int]]:
    """Where each run of consecutive members begins, and where it has ended."""
    behind = bitmap.shift(1)
    return (bitmap - behind).to_array(), (behind - bitmap).to_array()


def packed_runs_of(bitmap: BitMap64) -> bytes:
    """(first, count) of each run, as pairs of 64-bit numbers."""
    return native.pack_spans(*_spans_of(bitmap))
