"""What the peer holds already travels as a checksum, not as data.

After an end without order a source knows only regions that may differ, most of whose blocks do
not.  In its next cycle

    source   copies the blocks to its first intermediate, where they stand still while writes go
             on, and offers their checksums
    target   compares its second intermediate; what is equal counts as written by this session.
             One that has no image yet, but was seeded, compares its data, which is the image where
             nothing is written: what is equal there need not be written at all
    source   sends the rest from the first intermediate

Invariants.  Compared is always with the second intermediate, never with the first: after an
abandoned cycle that may hold what the second never got.  A block found equal is in the target's
`next` like one that was sent, so a commit's flush and record cover it (I3).  Between the target's
reading and its counting nothing can change the block but this session, whose source waits.  A
request names its cycle: one that comes late would count for a later one, which does not hold it.

Left out: what to do about different versions of a block: the source's is sent.  Checksums are
BLAKE2b of 16 bytes (hashlib): two different blocks with the same one are not to be expected.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Iterator

from mirror_core import limits, native, protocol
from mirror_core.flashcopy import CopyError, Member

Run = tuple[int, int]  # first block, blocks
SUM_BYTES = 16


def unit_of(volume: native.Volume) -> int:
    """Blocks under one checksum: small ones are taken together, or their sums would be as
    long as they are."""
    return max(1, limits.COMPARE_UNIT_BYTES // volume.block_size)


def pieces_of(runs: Iterable[Run], unit: int) -> Iterator[Run]:
    """What has a checksum of its own, in order."""
    for first, count in runs:
        for at in range(first, first + count, unit):
            yield at, min(unit, first + count - at)


def checksums(store: native.Store, volume: native.Volume, pieces: Iterable[Run]) -> bytes:
    """One after another.  OSError."""
    size, block = volume.size, volume.block_size
    sums = bytearray()
    for first, count in pieces:
        data = store.read(min(count * block, size - first * block), first * block)
        sums += hashlib.blake2b(data, digest_size=SUM_BYTES).digest()
    return bytes(sums)


def requests(volume: native.Volume) -> Iterator[list[Run]]:
    """What is unsent, in runs that fit into one request."""
    unit = unit_of(volume)
    sums = max(1, min(limits.COMPARE_SUMS, limits.COMPARE_BYTES // (unit * volume.block_size)))
    batch: list[Run] = []
    left = sums
    for start, count in volume.runs(native.UNSENT):
        first, end = start, start + count
        while first < end:
            n = min(end - first, left * unit)
            batch.append((first, n))
            first += n
            left -= -(-n // unit)
            if left == 0 or len(batch) == limits.COMPARE_RUNS:
                yield batch
                batch, left = [], sums
    if batch:
        yield batch


def wire_bytes(asked: protocol.Compare) -> int:
    """Of the question and its answer, about."""
    return len(protocol.encode(protocol.record_of(asked))) + limits.ANSWER_BYTES


class Comparison:
    """The source's side of a cycle: `ask`, and then `take` the answer, until there is no more."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._left = ((m, runs) for m in members for runs in requests(m.native))
        self._asked: tuple[Member, protocol.Compare] | None = None

    def ask(self, session: int, sequence: int) -> protocol.Compare | None:
        """The next question.  CopyError: the first intermediate cannot be read."""
        for member, runs in self._left:
            volume = member.native
            try:
                sums = checksums(volume.first, volume, pieces_of(runs, unit_of(volume)))
            except OSError as error:
                raise CopyError(member.name, 0, error.errno or errno.EIO) from error
            question = protocol.Compare(session, sequence, member.name, tuple(runs), sums)
            self._asked = member, question
            return question
        return None

    def take(self, answer: protocol.Record) -> int:
        """What is equal counts as sent; how many bytes that is.  PeerError."""
        assert self._asked, "an answer to no question"
        volume, asked = self._asked[0].native, self._asked[1]
        found = protocol.bits_of(answer, "equal", len(asked.sums) // SUM_BYTES)
        same = runs_where(volume, asked, found)
        for first, count in same:
            volume.equal(first, count)
        return sum(count for _, count in same) * volume.block_size


def equal(volume: native.Volume, asked: protocol.Compare, store: native.Store) -> list[bool]:
    """The target's answer of this store, a piece each.  ValueError: no such blocks.  OSError."""
    unit = unit_of(volume)
    inside = all(0 < count <= volume.blocks - first for first, count in asked.runs)
    if not inside or sum(-(-n // unit) for _, n in asked.runs) * SUM_BYTES != len(asked.sums):
        raise ValueError("checksums of other blocks")
    own = checksums(store, volume, pieces_of(asked.runs, unit))
    spans = range(0, len(own), SUM_BYTES)
    return [own[i : i + SUM_BYTES] == asked.sums[i : i + SUM_BYTES] for i in spans]


def runs_where(volume: native.Volume, asked: protocol.Compare, found: Iterable[bool]) -> list[Run]:
    """The runs of the pieces that were found equal."""
    runs: list[Run] = []
    pieces = pieces_of(asked.runs, unit_of(volume))
    for (first, count), same in zip(pieces, found, strict=True):
        if not same:
            continue
        if runs and sum(runs[-1]) == first:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((first, count))
    return runs
