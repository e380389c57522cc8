"""The judge: what clients were told, what a source held at each point, and what may be found.

Of a source (Content):
  - After a power loss each sector holds what was acknowledged and then flushed, or something
    written there later; after a killed process, what was acknowledged; after an orderly stop
    that, whatever the power does.
Of a mirror (History, one a lineage):
  - At a consistency point the source's disk holds exactly the acknowledged writes (I6).
  - image(k) of what a target's disk and ledger hold, at any instant of power loss, equals the
    source at consistency point k, byte for byte; k never goes back, and is never below the last
    commit that the source was told of.
  - A target that was promoted begins as its last image, and the history ends there.
A point is its sequence and its token: of a source that went back, or has a copy, two points may
have one sequence, and an image is exactly one of them.
When faults end both sites become equal (world.py).

The source after a power loss is a new content: the model goes on from what the disk holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from mirror_core import ledger
from sim.sched import Violation
from sim.shape import SECTOR

Image = tuple[bytes, ...]  # of each volume
Point = tuple[int, str]  # sequence and token
NO_POINT: Point = (-1, "")  # no image is this one, nor that of a target without any


class Content:
    """The volumes of one source as its clients know them."""

    def __init__(self, initial: Sequence[bytes]) -> None:
        self.model = [bytearray(one) for one in initial]  # what is acknowledged
        # Of a sector since it was last known durable: what it may hold, oldest first; and how
        # far that is acknowledged.
        self._versions: dict[tuple[int, int], list[bytes]] = {}
        self._known: dict[tuple[int, int], int] = defaultdict(int)
        # Of a volume: how often it lost what was not flushed, and how often that was acknowledged:
        # of the latter every client hears by an error of its next flush.
        self.losses = [0] * len(self.model)
        self.owed_errors = [0] * len(self.model)

    # ---- clients

    def issue(self, volume: int, offset: int, data: bytes) -> None:
        """Before a write: from now on the disk may hold any sector of it."""
        for at in range(0, len(data), SECTOR):
            key, new = (volume, (offset + at) // SECTOR), data[at : at + SECTOR]
            versions = self._versions.get(key)
            if versions:
                versions.append(new)
            else:
                self._versions[key] = [self._acknowledged(volume, offset + at), new]

    def done(self, volume: int, offset: int, data: bytes) -> None:
        self.model[volume][offset : offset + len(data)] = data
        for sector in range(offset // SECTOR, (offset + len(data)) // SECTOR):
            versions = self._versions.get((volume, sector))
            if versions:
                self._known[volume, sector] = len(versions) - 1

    def failed(self, volume: int, offset: int, disk: bytes) -> None:
        """A write got an error: the sectors hold what the disk says, old or new."""
        for at in range(0, len(disk), SECTOR):
            key = volume, (offset + at) // SECTOR
            self._versions.setdefault(key, []).append(disk[at : at + SECTOR])
        self.done(volume, offset, disk)

    def flushing(self, volume: int) -> Callable[[], None]:
        """Before a flush; the result is to be called when it is acknowledged."""
        covered = {key: self._known[key] for key in self._versions if key[0] == volume}
        values = {key: self._versions[key][known] for key, known in covered.items()}

        def flushed() -> None:
            for key, known in covered.items():
                versions = self._versions.get(key)
                if versions and known < len(versions) and versions[known] is values[key]:
                    del versions[:known]
                    self._known[key] -= known

        return flushed

    # ---- what is found

    def judge(self, disks: Image, *, power: bool) -> None:
        """What stands on the disks after the site was killed, or lost its power."""
        for volume, disk in enumerate(disks):
            model = self.model[volume]
            for at in range(0, len(disk), SECTOR):
                found = disk[at : at + SECTOR]
                key = volume, at // SECTOR
                versions = self._versions.get(key)
                if versions is None:
                    allowed = [bytes(model[at : at + SECTOR])]
                else:
                    allowed = versions if power else versions[self._known[key] :]
                if found not in allowed:
                    raise Violation(f"the source lost sector {key[1]} of volume {volume}: "
                                    f"{found[:8]!r}, of {[a[:8] for a in allowed]}")  # fmt: skip

    def came_back(self, disks: Image, *, power: bool) -> None:
        """A new life of the source begins with these bytes."""
        self.judge(disks, power=power)
        self.model = [bytearray(disk) for disk in disks]
        if power:
            self._versions.clear()
            self._known.clear()
        else:
            self._killed(disks)

    def store_lost(self, volume: int, disk: bytes, *, all_known: bool) -> None:
        """The source's data store lost some of what was not flushed; what is in flight may still
        be done.  `all_known`: of the rest nothing is lost any more, nor done."""
        self.losses[volume] += 1
        if any(self._acknowledged(volume, at) != disk[at : at + SECTOR]
               for at in range(0, len(disk), SECTOR)):  # fmt: skip
            self.owed_errors[volume] += 1
        for sector in range(len(disk) // SECTOR):
            key, at = (volume, sector), sector * SECTOR
            found = disk[at : at + SECTOR]
            versions = self._versions.get(key)
            if found not in (versions or [bytes(self.model[volume][at : at + SECTOR])]):
                raise Violation(f"a server lost sector {sector} of volume {volume} that was "
                                f"flushed: {found[:8]!r}")  # fmt: skip
            if versions:
                known = self._known[key] + 1
                before = [] if all_known else versions[:known]
                self._versions[key] = [*before, found, *versions[known:]]
                self._known[key] = len(before)
        self.model[volume][:] = disk

    def _acknowledged(self, volume: int, at: int) -> bytes:
        return bytes(self.model[volume][at : at + SECTOR])

    def _killed(self, disks: Image) -> None:
        """Nothing was flushed, and what was in flight is now known."""
        for (volume, sector), versions in self._versions.items():
            found = disks[volume][sector * SECTOR : (sector + 1) * SECTOR]
            if versions[-1] != found:
                versions.append(found)
            self._known[volume, sector] = len(versions) - 1

    def stopped(self, disks: Image) -> None:
        """In order: no request is under way, and all was flushed."""
        self.equals(disks, "after an orderly stop")
        self._versions.clear()
        self._known.clear()

    def equals(self, disks: Image, when: str) -> None:
        for volume, (disk, model) in enumerate(zip(disks, self.model, strict=True)):
            if disk != model:
                raise Violation(f"{when}: volume {volume} is not what was acknowledged: "
                                + difference(disk, bytes(model)))  # fmt: skip


class History:
    """One lineage: its consistency points, and what is known of its target."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.points: dict[Point, Image] = {}
        self.made_at: dict[int, int] = {}  # of each sequence, the switch at which its swap was made
        self.forked = False  # a site went back, or has a copy: numbers may be used again
        self.acknowledged = 0  # the last commit that the source knows of
        self.given_up = 0  # images of points up to this one count for nothing
        self.seen = 0  # the last k that a target that is up has shown
        self.end: int | None = None  # the k at which the target was promoted

    # ---- the source

    def point(self, point: Point, disks: Image, at: int) -> None:
        """A consistency point, with what stood on the disks when its swap was made; `at`: which
        switch of the schedule that was."""
        sequence = point[0]
        if point in self.points or (not self.forked and self.of(sequence)):
            raise Violation(f"sequence {sequence} was used twice")
        self.points[point] = disks
        self.made_at[sequence] = at

    def of(self, sequence: int, token: str = "") -> list[Image]:
        """The points of this sequence; of its token, if that is known."""
        return [
            image
            for (number, mark), image in self.points.items()
            if number == sequence and token in ("", mark)
        ]

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
        if any(tuple(images) == one for one in meant_ones):
            return
        for number, (image, meant) in enumerate(zip(images, meant_ones[-1], strict=True)):
            if image != meant:
                raise Violation(f"image {k} of volume {number} is not what the source held: "
                                + difference(image, meant))  # fmt: skip

    def durable(self, k: int) -> None:
        """A target that is up says that k is its image: no crash may take that back.  (What was
        on the disk of one that was just killed, a power loss may still take back.)"""
        self.seen = max(self.seen, k)


def difference(found: bytes, meant: bytes) -> str:
    """The first sector that differs, by its first bytes."""
    for at in range(0, len(meant), SECTOR):
        if found[at : at + SECTOR] != meant[at : at + SECTOR]:
            return f"sector {at // SECTOR} is {found[at : at + 8]!r}, not {meant[at : at + 8]!r}"
    return "nothing differs"
