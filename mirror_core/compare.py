"""What the peer holds already travels as a checksum, not as data.

After an end without order a source knows only regions that may differ, most of whose blocks do
not.  In its next cycle

    source   copies the blocks to its first intermediate, where they stand still while writes go
             on, and offers their checksums
    target   compares its second intermediate; what is equal counts as written by this session.
             The rest, if it has an image that is whole in its data, is compared with that: there
             the next image is, too, where nothing is written, so what is equal need not be written
             at all.  One that has no image yet, but was seeded, compares its data alone
    source   sends the rest from the first intermediate

Pace.  Neither site waits for one read after another: each reads long runs, as many at once as its
store answers as fast as one.  The target reads for COMPARE_S, then it answers what it has compared
by then, from the front; the source asks for the rest again, in requests that are as large as what
was answered last.  While it waits for an answer it reads on.  So a store that takes a second for
each read is compared slowly, and never too slowly for the session.

Invariants.  Compared is always with the second site's stores, never with the first intermediate:
after an abandoned cycle that may hold what the second never got.  A block found equal in the
intermediate is in the target's `next` like one that was sent, so a commit's flush and record cover
it (I3).  One found equal in data is not in `next`, nor owed, and was hardened before it was read:
no commit but the next one, which leaves it where it is, can change what the image reads there (I1).
Between the target's reading and its counting nothing can change the block but this session, whose
source waits.  A request names its cycle: one that comes late would count for a later one, which
does not hold it.

Sessions.  A comparison whose session is lost goes on in the next one: what differs stays known,
and what was found equal stays sent if it was made stable.  That begins STABLE_S into a session at
the soonest and takes a flush: a session that is shorter finds only what differs.

Left out: what to do about different versions of a block: the source's is sent.  Checksums are
BLAKE2b of 16 bytes (hashlib): two different blocks with the same one are not to be expected.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from pyroaring import BitMap64

from mirror_core import flashcopy, limits, native, protocol
from mirror_core.errors import Malformed
from mirror_core.flashcopy import CopyError, Member

Run = tuple[int, int]  # first block, blocks
SUM_BYTES = 16
WINDOW = 1 << 20  # blocks whose runs are held in memory at once
_JITTER_S = 0.01  # a read that is slower by so little has not waited for others


def unit_of(volume: native.Volume) -> int:
    """Blocks under one checksum: small ones are taken together, or their sums would be as
    long as they are."""
    return max(1, limits.COMPARE_UNIT_BYTES // volume.block_size)


def pieces_of(runs: Iterable[Run], unit: int) -> Iterator[Run]:
    """What has a checksum of its own, in order."""
    for first, count in runs:
        for at in range(first, first + count, unit):
            yield at, min(unit, first + count - at)


def runs_of(left: BitMap64) -> Iterator[Run]:
    """What is in the set, which is empty at the end.  A part at a time: all the runs of a large
    volume would take gigabytes."""
    while left:
        first = left.min()
        packed = flashcopy.packed_runs_of(left & BitMap64(range(first, first + WINDOW)))
        left.remove_range(first, first + WINDOW)
        yield from cast("Iterator[Run]", struct.iter_unpack("=QQ", packed))


class Reader:
    """Reads a site's stores, as many runs at once as are answered as fast as one."""

    def __init__(self) -> None:
        self._depth = 1

    def sums(
        self, store: native.Store, volume: native.Volume, pieces: Sequence[Run], seconds: float
    ) -> list[bytes]:
        """The checksums of the pieces, from the front, that can be read within about that time:
        all, or some; none where the first is that large.  OSError."""
        found: list[bytes] = []
        deadline = native.now_s() + seconds
        while len(found) < len(pieces) and (not found or native.now_s() < deadline):
            batch = list(_batch(volume, itertools.islice(pieces, len(found), None)))
            data = memoryview(self._read(store, _reads(batch), deadline - native.now_s()))
            at = 0
            for _, length in batch:
                if at + length > len(data):
                    return found
                found.append(_sum(data[at : at + length]))
                at += length
        return found

    def _read(self, store: native.Store, reads: Sequence[Run], seconds: float) -> bytearray:
        data, quickest, slowest = store.gather(reads, self._depth, max(0.0, seconds))
        if slowest > 1.5 * quickest + _JITTER_S:
            self._depth = max(1, self._depth // 2)
        elif len(reads) >= self._depth:
            self._depth = min(limits.COMPARE_DEPTH, 2 * self._depth)
        return data


def _sum(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=SUM_BYTES).digest()


def _batch(volume: native.Volume, pieces: Iterable[Run]) -> Iterator[tuple[int, int]]:
    """Offset and bytes of pieces that are read together: the first, and what fits beside it."""
    left = limits.COMPARE_READ_BYTES
    for first, count in pieces:
        offset = first * volume.block_size
        length = min(count * volume.block_size, volume.size - offset)
        if length > left and left < limits.COMPARE_READ_BYTES:
            return
        yield offset, length
        left -= length
        if left <= 0:
            return


def _reads(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of bytes as the reads that are done for them: neighbours together, long ones apart."""
    reads: list[tuple[int, int]] = []
    for start, length in spans:
        offset, end = start, start + length
        while offset < end:
            last, size = reads[-1] if reads else (0, 0)
            room = limits.COMPARE_RUN_BYTES - size if reads and last + size == offset else 0
            n = min(end - offset, room or limits.COMPARE_RUN_BYTES)
            if room > 0:
                reads[-1] = (last, size + n)
            else:
                reads.append((offset, n))
            offset += n
    return reads


@dataclass(frozen=True)
class _Piece:
    member: Member
    run: Run
    sum: bytes


def wire_bytes(asked: protocol.Compare) -> int:
    """Of the question and its answer, about."""
    return len(protocol.encode(protocol.record_of(asked))) + limits.ANSWER_BYTES


class Comparison:
    """The source's side of a cycle: `ask`, and then `take` the answer, until there is no more;
    `read_on` while the answer is awaited.  In another session the same cycle goes on with
    `again`."""

    def __init__(self, members: Iterable[Member], reader: Reader) -> None:
        self._reader = reader
        self._members = deque(members)  # with something unread
        self._different = {m.name: BitMap64() for m in self._members}
        self._unread = {m.name: self._unknown(m) for m in self._members}
        self._again: deque[Run] = deque()  # of the first of them: there was no time to read these
        self._read: deque[_Piece] = deque()  # and not answered
        self._asked: list[_Piece] = []
        self._size = limits.COMPARE_SUMS_FIRST

    def again(self, members: Iterable[Member]) -> Comparison:
        """Of another session.  What is equal counts for the one that found it, and for others if
        it was made stable; what differs is sent, and not asked for once more."""
        new = Comparison(members, self._reader)
        new._different = self._different
        return new

    def _unknown(self, member: Member) -> Iterator[Run]:
        """What is neither sent nor known to differ; found when it is first asked for."""
        # As sets: piece by piece the control would be deaf for 30 s behind 400 GB that differ.
        unknown = flashcopy.bitmap_of(member.native, native.UNSENT) - self._different[member.name]
        yield from pieces_of(runs_of(unknown), unit_of(member.native))

    @property
    def asked(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._asked)

    def ask(self, session: int, sequence: int) -> protocol.Compare | None:
        """The next question.  CopyError: the first intermediate cannot be read."""
        assert not self._asked
        while not self._read and self._members:
            self.read_on()
        if not self._read:
            return None
        member, left = self._read[0].member, limits.COMPARE_BYTES
        runs: list[Run] = []
        while self._read and self._read[0].member is member and len(self._asked) < self._size:
            first, count = self._read[0].run
            left -= count * member.native.block_size
            joins = bool(runs) and sum(runs[-1]) == first and _whole(runs[-1], member)
            if self._asked and (left < 0 or (not joins and len(runs) == limits.COMPARE_RUNS)):
                break
            if joins:
                runs[-1] = (runs[-1][0], runs[-1][1] + count)
            else:
                runs.append((first, count))
            self._asked.append(self._read.popleft())
        sums = b"".join(piece.sum for piece in self._asked)
        return protocol.Compare(session, sequence, member.name, tuple(runs), sums)

    def read_on(self) -> bool:
        """Read for a while, unless enough is read for another question; whether there was
        anything to do.  CopyError."""
        if not self._members or len(self._read) >= self._size:
            return False
        member = self._members[0]
        unread = itertools.chain(self._drain(), self._unread[member.name])
        pieces = list(itertools.islice(unread, self._size))
        if not pieces:
            self._members.popleft()
            return True
        volume = member.native
        try:
            sums = self._reader.sums(volume.first, volume, pieces, limits.COMPARE_S)
            if not sums:  # one that is so large: it takes the time that it takes
                sums = [_sum(volume.first.gather_all(_reads(_batch(volume, pieces[:1])), 1))]
        except OSError as error:
            raise CopyError(member.name, 0, error.errno or errno.EIO) from error
        self._read.extend(_Piece(member, *one) for one in zip(pieces, sums, strict=False))
        self._again.extend(pieces[len(sums) :])
        return True

    def _drain(self) -> Iterator[Run]:
        while self._again:
            yield self._again.popleft()

    def take(self, answer: protocol.Record) -> tuple[str, int, int]:
        """What is equal counts as sent: the volume, no bytes of the wire, and how many bytes that
        is.  What was not compared in time is asked again.  PeerError."""
        asked, self._asked = self._asked, []
        assert asked, "an answer to no question"
        found = protocol.read(protocol.Compared, answer).equal
        if not 0 < len(found) <= len(asked):
            raise Malformed(f"equal: {len(found)} answers to {len(asked)} questions")
        self._read.extendleft(reversed(asked[len(found) :]))
        most = limits.COMPARE_SUMS if len(found) == len(asked) else max(1, len(found))
        self._size = min(2 * self._size, most)
        volume = asked[0].member.native
        same = runs_where((piece.run for piece in asked[: len(found)]), found)
        for first, count in same:
            volume.equal(first, count)
        different = self._different[asked[0].member.name]
        for first, count in runs_where((piece.run for piece in asked), [not one for one in found]):
            different.add_range(first, first + count)
        return asked[0].member.name, 0, sum(count for _, count in same) * volume.block_size


def _whole(run: Run, member: Member) -> bool:
    """Whether the pieces of a longer run would be those of this one, and others."""
    return run[1] % unit_of(member.native) == 0


def sums_of(volume: native.Volume, asked: protocol.Compare) -> list[bytes]:
    """The source's checksums, a piece each.  ValueError: no such blocks, or more than a source asks
    for at a time, as the same ones again and again."""
    unit = unit_of(volume)
    inside = all(0 < count <= volume.blocks - first for first, count in asked.runs)
    pieces = sum(-(-n // unit) for _, n in asked.runs)
    if not inside or pieces * SUM_BYTES != len(asked.sums):
        raise ValueError("checksums of other blocks")
    if pieces > 1 and sum(n for _, n in asked.runs) * volume.block_size > limits.COMPARE_BYTES:
        raise ValueError(f"more than {limits.COMPARE_BYTES} bytes to compare at a time")
    return [asked.sums[at : at + SUM_BYTES] for at in range(0, len(asked.sums), SUM_BYTES)]


def equal(
    volume: native.Volume,
    pieces: Sequence[Run],
    theirs: Sequence[bytes],
    store: native.Store,
    reader: Reader,
    *,
    seconds: float,
) -> list[bool]:
    """The target's answer of this store, a piece each, from the front, as far as it gets in about
    that time.  OSError."""
    own = reader.sums(store, volume, pieces, seconds)
    if not own:  # so large a piece is sent: that goes on however long it takes
        return [False]
    return [a == b for a, b in zip(own, theirs, strict=False)]


def runs_where(pieces: Iterable[Run], found: Sequence[bool]) -> list[Run]:
    """The runs of the pieces that were found equal; those after the last one found are left out."""
    runs: list[Run] = []
    for (first, count), same in zip(pieces, found, strict=False):
        if not same:
            continue
        if runs and sum(runs[-1]) == first:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((first, count))
    return runs
