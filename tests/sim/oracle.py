"""The judge: what the source held at each consistency point, and what may be found later.

  - image(k) of what a target's disk and ledger hold, at any instant of power loss, equals the
    source at consistency point k, byte for byte; k never goes back, and is never below the last
    commit that the source was told of.
  - At the point itself the source's disk holds exactly the acknowledged writes (I6).
  - After a power loss each sector of the source holds what was acknowledged and then flushed,
    or something written there later; after a killed process, what was acknowledged.
  - When faults end both sites become equal.

The source after a power loss is a new content: the model goes on from what the disk holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from mirror_core import ledger
from sim.sched import Violation

SECTOR = 512
Image = tuple[bytes, ...]  # of each volume


class Oracle:
    def __init__(self, initial: Sequence[bytes], block: int) -> None:
        self.block = block
        self.model = [bytearray(one) for one in initial]  # what is acknowledged
        self.points: dict[int, Image] = {}
        self.acknowledged = 0  # the last commit that the source knows of
        self.seen = 0  # the last k that a target that is up has shown
        # Of a sector since it was last known durable: what it may hold, oldest first; and how
        # far that is acknowledged.
        self._versions: dict[tuple[int, int], list[bytes]] = {}
        self._known: dict[tuple[int, int], int] = defaultdict(int)

    # ---- clients

    def issue(self, volume: int, offset: int, data: bytes) -> None:
        """Before a write: from now on the disk may hold any sector of it."""
        for at in range(0, len(data), SECTOR):
            key = volume, (offset + at) // SECTOR
            before = bytes(self.model[volume][offset + at : offset + at + SECTOR])
            self._versions.setdefault(key, [before]).append(data[at : at + SECTOR])

    def done(self, volume: int, offset: int, data: bytes) -> None:
        self.model[volume][offset : offset + len(data)] = data
        for at in range(0, len(data), SECTOR):
            key = volume, (offset + at) // SECTOR
            if key in self._versions:
                self._known[key] = len(self._versions[key]) - 1

    def failed(self, volume: int, offset: int, disk: bytes) -> None:
        """A write got an error: the sectors hold what the disk says, old or new."""
        for at in range(0, len(disk), SECTOR):
            key = volume, (offset + at) // SECTOR
            self._versions[key].append(disk[at : at + SECTOR])
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

    # ---- the source

    def point(self, sequence: int, disks: Image) -> None:
        """The swap of consistency point `sequence` has just been made."""
        if sequence in self.points:
            raise Violation(f"sequence {sequence} was used twice")
        for volume, (disk, model) in enumerate(zip(disks, self.model, strict=True)):
            if disk != model:
                raise Violation(f"point {sequence}: volume {volume} is not what was acknowledged: "
                                + difference(disk, bytes(model)))  # fmt: skip
        self.points[sequence] = disks

    def source_came_back(self, disks: Image, *, power: bool) -> None:
        """A new life of the source begins with these bytes."""
        for volume, disk in enumerate(disks):
            for sector in range(len(disk) // SECTOR):
                found = disk[sector * SECTOR : (sector + 1) * SECTOR]
                key = volume, sector
                versions = self._versions.get(key)
                if versions is None:
                    at = sector * SECTOR
                    allowed = [bytes(self.model[volume][at : at + SECTOR])]
                else:
                    allowed = versions if power else versions[self._known[key] :]
                if found not in allowed:
                    raise Violation(f"the source lost sector {sector} of volume {volume}: "
                                    f"{found[:8]!r}, of {[a[:8] for a in allowed]}")  # fmt: skip
        self.model = [bytearray(disk) for disk in disks]
        if power:
            self._versions.clear()
            self._known.clear()
        else:
            self._killed(disks)

    def _killed(self, disks: Image) -> None:
        """Nothing was flushed, and what was in flight is now known."""
        for (volume, sector), versions in self._versions.items():
            found = disks[volume][sector * SECTOR : (sector + 1) * SECTOR]
            if versions[-1] != found:
                versions.append(found)
            self._known[volume, sector] = len(versions) - 1

    # ---- the target

    def judge(self, book: ledger.Ledger, data: Image, intermediate: Image) -> int:
        """What a target's durable state says; its k."""
        if not book.whole:
            if self.seen or self.acknowledged:
                raise Violation(f"the image of {max(self.seen, self.acknowledged)} is lost")
            return 0
        k = book.committed
        if k < self.acknowledged:
            raise Violation(f"image {k} is older than acknowledged commit {self.acknowledged}")
        if k < self.seen:
            raise Violation(f"the image went back from {self.seen} to {k}")
        if k not in self.points:
            raise Violation(f"image {k} was never a consistency point")
        for number, volume in enumerate(book.volumes):
            stores = {"data": data[number], "intermediate": intermediate[number]}
            parts = []
            for at in range(0, volume.size, self.block):
                where = ledger.image(book, volume.name, at // self.block)
                parts.append(stores[where][at : at + self.block])
            image = b"".join(parts)
            if image != self.points[k][number]:
                raise Violation(f"image {k} of volume {number} is not what the source held: "
                                + difference(image, self.points[k][number]))  # fmt: skip
        return k

    def durable(self, k: int) -> None:
        """A target that is up says that k is its image: no crash may take that back.  (What was
        on the disk of one that was just killed, a power loss may still take back.)"""
        if k > self.seen:
            self.seen = k
            for old in [s for s in self.points if s < k]:
                self.points[old] = ()  # can be asked for no more; the number stays used


def difference(found: bytes, meant: bytes) -> str:
    """The first sector that differs, by its first bytes."""
    for at in range(0, len(meant), SECTOR):
        if found[at : at + SECTOR] != meant[at : at + SECTOR]:
            return f"sector {at // SECTOR} is {found[at : at + 8]!r}, not {meant[at : at + 8]!r}"
    return "nothing differs"
