"""A chain: writes of one client over both volumes, each issued after the one before was
acknowledged.

A chain has a region of its own on each volume, made of units (512 bytes, or 4 KiB for the chain
that zeroes and trims much).  Each unit of a write says the chain, the volume, the write's value
and its own place, with a checksum that fills the rest.  A value is a number that is new with each
write, unless the client writes an old value again (ABA), which leaves the same bytes.  The value
0 is zeroes: a write of zeroes, or a trim.  A consistency point may come between two parts of one
of these, at multiples of 64 KiB (docs/reliability.md), so each part is a write of its own here.

A history is a base (the values that all units had at some moment that every later image holds)
and the writes after it.  Guard: `lock`, for the history.
"""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

HEAD = struct.Struct("<4sHHQQ8s")  # magic, chain, volume, value, unit, checksum
MAGIC = b"chn1"
DAMAGED = -1  # the value of a unit that no write has left so
NEVER = float("inf")
PART = 64 << 10  # bytes; where a zero may be cut


@dataclass
class Write:
    """Units [first, first + count) of a volume get `value`.  Times are of time.monotonic()."""

    volume: int
    first: int
    count: int
    value: int
    issued: float = NEVER
    acknowledged: float = NEVER


@dataclass
class Region:
    """Where a chain writes on one volume, in bytes from the volume's beginning."""

    offset: int
    units: int


@dataclass
class Chain:
    number: int
    unit: int  # bytes
    regions: Sequence[Region]
    most: int  # units of one write
    zeroes: float  # the share of writes that are zeroes or trims
    lock: threading.Lock = field(default_factory=threading.Lock)
    # -- guarded by `lock`
    base: list[list[int]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    values: int = 0  # given out so far

    def __post_init__(self) -> None:
        self.base = [[0] * region.units for region in self.regions]

    def content(self, volume: int, first: int, count: int, value: int) -> bytes:
        """The bytes of these units once they hold this value."""
        if value == 0:
            return bytes(count * self.unit)
        return b"".join(self._unit(volume, n, value) for n in range(first, first + count))

    def _unit(self, volume: int, n: int, value: int) -> bytes:
        key = struct.pack("<HHQQ", self.number, volume, value, n)
        check = blake2b(key, digest_size=8).digest()
        head = HEAD.pack(MAGIC, self.number, volume, value, n, check)
        return head + check * ((self.unit - len(head)) // len(check))

    def values_of(self, volume: int, data: bytes) -> list[int]:
        """What each unit of this chain's region, as read from an image, holds."""
        zero, found = bytes(self.unit), []
        for n in range(self.regions[volume].units):
            unit = data[n * self.unit : (n + 1) * self.unit]
            if unit == zero:
                found.append(0)
                continue
            value = HEAD.unpack_from(unit)[3]
            found.append(value if value and unit == self._unit(volume, n, value) else DAMAGED)
        return found

    def next_write(self, rng: random.Random) -> Write:
        """The write that the client issues next.  Call with `lock` held."""
        turn = rng.random()
        if turn < 0.1 and self.writes:  # ABA: an older one again, byte for byte
            old = rng.choice(self.writes[-64:])
            return Write(old.volume, old.first, old.count, old.value)
        volume = rng.randrange(len(self.regions))
        count = rng.randint(1, min(self.most, self.regions[volume].units))
        first = rng.randint(0, self.regions[volume].units - count)
        if turn < 0.1 + self.zeroes:
            return Write(volume, first, count, 0)
        self.values += 1
        return Write(volume, first, count, self.values)

    def issue(self, write: Write, now: float) -> list[Write]:
        """Into the history, as the parts that an image may hold.  Call with `lock` held."""
        parts, first, end = [], write.first, write.first + write.count
        while first < end:
            room = PART - (self.regions[write.volume].offset + first * self.unit) % PART
            count = end - first if write.value else min(end - first, room // self.unit)
            assert count, "a part ends within a unit"
            parts.append(replace(write, first=first, count=count, issued=now))
            first += count
        self.writes += parts
        return parts

    def cut_back(self, to: int, now: float) -> None:
        """Only the first `to` writes of the history have happened: the target was promoted."""
        with self.lock:
            del self.writes[to:]
            for write in self.writes:
                write.acknowledged = min(write.acknowledged, now)

    def forget(self, first: int) -> None:
        """Every image to come holds the first `first` writes: the base takes them."""
        with self.lock:
            for write in self.writes[:first]:
                units = self.base[write.volume]
                units[write.first : write.first + write.count] = [write.value] * write.count
            del self.writes[:first]
