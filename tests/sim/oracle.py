"""The judge: what a source held at each point, and what may be found at its target.

Of a source: content.py.  Of a mirror (History, one a lineage):
  - At a consistency point the source's disk holds exactly the acknowledged writes, and those that
    are done and wait for their flush (I6).
  - image(k) of what a target's disk and ledger hold, at any instant of power loss, equals the
    source at consistency point k, byte for byte; k never goes back, and is never below the last
    commit that the source was told of.
  - Where the source's cache showed at point k what its disk had lost, the image has the one or the
    other, and from the commit on what the disk has then.
  - A target that was promoted begins as its last image, and the history ends there.
A point is its sequence and its token: of a source that went back, or has a copy, two points may
have one sequence, and an image is exactly one of them.
When faults end both sites become equal (world.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from mirror_core import ledger
from sim.content import Alternatives, Image, Point, difference
from sim.sched import Violation
from sim.shape import SECTOR

NO_POINT: Point = (-1, "")  # no image is this one, nor that of a target without any


class History:
    """One lineage: its consistency points, and what is known of its target."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.points: dict[Point, Image] = {}
        self.fading: dict[Point, Alternatives] = {}  # what an image may hold instead
        self.made_at: dict[int, int] = {}  # of each sequence, the switch at which its swap was made
        self.named: dict[int, float] = {}  # and the time at which it got its name, seconds
        self.forked = False  # a site went back, or has a copy: numbers may be used again
        self.acknowledged = 0  # the last commit that the source knows of
        self.given_up = 0  # images of points up to this one count for nothing
        self.seen = 0  # the last k that a target that is up has shown
        self.end: int | None = None  # the k at which the target was promoted

    # ---- the source

    def point(self, point: Point, disks: Image, at: int, now: float) -> None:
        """A consistency point, with what stood on the disks when its swap was made; `at`: which
        switch of the schedule that was."""
        sequence = point[0]
        if point in self.points or (not self.forked and self.of(sequence)):
            raise Violation(f"sequence {sequence} was used twice")
        self.points[point] = disks
        self.made_at[sequence], self.named[sequence] = at, now

    def of(self, sequence: int, token: str = "") -> list[Image]:
        """The points of this sequence; of its token, if that is known."""
        return [
            image
            for (number, mark), image in self.points.items()
            if number == sequence and token in ("", mark)
        ]

    def _fits(self, images: Sequence[bytes], sequence: int, token: str) -> bool:
        for point, meant in self.points.items():
            if point[0] != sequence or token not in ("", point[1]):
                continue
            fading = self.fading.get(point, {})
            if not fading and tuple(images) == meant:
                return True
            if fading and all(
                image[at : at + SECTOR] in (meant[volume][at : at + SECTOR],
                                            fading.get((volume, at // SECTOR)))
                for volume, image in enumerate(images)
                for at in range(0, len(image), SECTOR)
            ):  # fmt: skip
                return True
        return False

    def last(self) -> int:
        return max((number for number, _ in self.points), default=0)

    def give_up(self) -> None:
        """A person says that the target's image counts for nothing; until the next commit it
        may be there or not."""
        self.given_up = self.last()
        self.seen = self.acknowledged = 0

    def acknowledge(self, k: int) -> None:
        """The source knows of commit `k`."""
        if k <= self.given_up:
            return
        if self.end is not None and k > self.end:
            raise Violation(f"{k} was committed, but the history ended with {self.end}")
        self.acknowledged = max(self.acknowledged, k)

    # ---- the target

    def judge(self, book: ledger.Ledger, data: Image, intermediate: Image, *,
              apart: bool = False) -> None:  # fmt: skip
        """What a target's durable state says; `apart`: of a copy that no source reaches, which
        has stayed behind."""
        if not book.whole:
            if not apart and (self.seen or self.acknowledged):
                raise Violation(f"the image of {max(self.seen, self.acknowledged)} is lost")
            return
        if not apart:
            self._check_k(book.committed)
        images = []
        for number, volume in enumerate(book.volumes):
            stores = {"data": data[number], "intermediate": intermediate[number]}
            parts = []
            for at in range(0, volume.size, self.block):
                where = ledger.image(book, volume.name, at // self.block)
                parts.append(stores[where][at : at + self.block])
            images.append(b"".join(parts))
        self._compare(book.committed, images, book.committed_token)

    def promoted(self, k: int, data: Image) -> None:
        """A target's durable state says that it is a source, and nobody wrote to it yet."""
        self._check_k(k)
        self._compare(k, data)

    def _check_k(self, k: int) -> None:
        if k < self.acknowledged:
            raise Violation(f"image {k} is older than acknowledged commit {self.acknowledged}")
        if k < self.seen:
            raise Violation(f"the image went back from {self.seen} to {k}")

    def _compare(self, k: int, images: Sequence[bytes], token: str = "") -> None:
        meant_ones = self.of(k, token)
        if not meant_ones:
            raise Violation(f"image {k} was never a consistency point")
        if self._fits(images, k, token):
            return
        for number, (image, meant) in enumerate(zip(images, meant_ones[-1], strict=True)):
            if image != meant:
                raise Violation(f"image {k} of volume {number} is not what the source held: "
                                + difference(image, meant))  # fmt: skip

    def durable(self, k: int) -> None:
        """A target that is up says that k is its image: no crash may take that back.  (What was
        on the disk of one that was just killed, a power loss may still take back.)"""
        self.seen = max(self.seen, k)
