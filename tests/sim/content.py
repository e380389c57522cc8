"""What the clients of a source know of its volumes, and what may stand on its disks.

  - After a power loss each sector holds what was acknowledged and then flushed, or something
    written there later; after a killed process, what was acknowledged; after an orderly stop
    that, whatever the power does.
  - Of what the server of its data store has lost while the site was down, after a kill, each client
    who was connected hears by an error of his next flush, in this life of the source or another.
  - A flush that fails may have lost a sector that a cache shows yet (`doubt`).  Readers find it
    until it fades, then what the disk holds; and once more what they found before, until the next
    consistency point, for the cycle may write that back.  What a client has written since is
    never undone.
  - After the commit of a consistency point the disk holds that, and shows nothing else, but for
    what clients have written since (`committed`).

The source after a power loss is a new content: the model goes on from what the disk holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from sim.sched import Violation
from sim.shape import SECTOR, sectors_in

Image = tuple[bytes, ...]  # of each volume
Point = tuple[int, str]  # sequence and token
Alternatives = dict[tuple[int, int], bytes]  # of a volume's sector


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
        # By client and volume: of how many losses he had heard before one while the site was down,
        # of which he has not heard yet.
        self.unheard: dict[tuple[int, int], int] = {}
        self.changes = [0] * len(self.model)  # how often what readers find became something else
        # Of sectors that a failed flush has lost and a cache has shown yet: their clients were
        # told, and no flush makes them safe, until they write again, or a commit has followed.
        # With how many `_touches` there were then.
        self._doubted: dict[tuple[int, int], int] = {}
        # Of sectors that show no more what was lost, since the last consistency point: what they
        # have shown.
        self._faded: dict[tuple[int, int], list[bytes]] = {}
        # What shows instead of a write that is under way, if that was lost before its answer.
        self._faded_under: dict[tuple[int, int], bytes] = {}
        self._touches = 0  # begins and ends of writes, and of each sector the last one
        self._touched_at: dict[tuple[int, int], int] = {}
        self._under_way: set[tuple[int, int]] = set()  # begun and not ended
        # Of those, what is to be durable before it is answered, by volume and offset.
        self._durable: dict[tuple[int, int], bytes] = {}
        # The last consistency point: how many of those were before it, and what a fading sector
        # may be copied as.  And the first of each that has a name.
        self._swapped: tuple[int, Alternatives] = (0, {})
        self._points: dict[Point, int] = {}

    # ---- clients

    def issue(self, volume: int, offset: int, data: bytes, *, durable: bool) -> None:
        """Before a write: from now on the disk may hold any sector of it."""
        if durable:
            self._durable[volume, offset] = data
        for at in range(0, len(data), SECTOR):
            key, new = (volume, (offset + at) // SECTOR), data[at : at + SECTOR]
            self._touched(key)
            self._under_way.add(key)
            versions = self._versions.get(key)
            if versions:
                versions.append(new)
            else:
                self._versions[key] = [self._acknowledged(volume, offset + at), new]

    def done(self, volume: int, offset: int, data: bytes) -> None:
        self.model[volume][offset : offset + len(data)] = data
        self._durable.pop((volume, offset), None)
        for sector in range(offset // SECTOR, sectors_in(offset + len(data))):
            versions = self._versions.get((volume, sector))
            self._faded.pop((volume, sector), None)
            if (volume, sector) in self._faded_under:
                self._faded[volume, sector] = [self._faded_under.pop((volume, sector))]
            if self._doubted.get((volume, sector), 0) < self._touched_at[volume, sector]:
                self._doubted.pop((volume, sector), None)  # else what is written now was lost
            self._touched((volume, sector))
            self._under_way.discard((volume, sector))
            if versions:
                self._known[volume, sector] = len(versions) - 1

    def _touched(self, key: tuple[int, int]) -> None:
        """At the begin of a write and at its end: it may be done in between."""
        self._touches += 1
        self._touched_at[key] = self._touches

    def failed(self, volume: int, offset: int, disk: bytes) -> None:
        """A write got an error: the sectors hold what the disk says, old or new."""
        for at in range(0, len(disk), SECTOR):
            key = volume, (offset + at) // SECTOR
            self._versions.setdefault(key, []).append(disk[at : at + SECTOR])
        faded, doubted = dict(self._faded), dict(self._doubted)
        self.done(volume, offset, disk)
        self._faded, self._doubted = faded, doubted  # perhaps nothing was written

    def flushing(self, volume: int) -> Callable[[], None]:
        """Before a flush; the result is to be called when it is acknowledged."""
        covered = {key: self._known[key] for key in self._versions if key[0] == volume}
        values = {key: self._versions[key][known] for key, known in covered.items()}
        doubted = {*self._doubted, *self._faded}

        def flushed() -> None:
            for key, known in covered.items():
                versions = self._versions.get(key)
                if key in doubted or key in self._doubted or key in self._faded:
                    continue
                if versions and known < len(versions) and versions[known] is values[key]:
                    del versions[:known]
                    self._known[key] -= known

        return flushed

    # ---- what is found

    def judge(self, disks: Image, *, power: bool) -> None:
        """What stands on the disks after the site was killed, or lost its power."""
        if not power:
            self.settle(disks)
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
                allowed = [*allowed, *self._faded.get(key, [])]
                if found not in allowed:
                    raise Violation(f"the source lost sector {key[1]} of volume {volume}: "
                                    f"{found[:8]!r}, of {[a[:8] for a in allowed]}")  # fmt: skip

    def came_back(self, disks: Image, *, power: bool) -> None:
        """A new life of the source begins with these bytes."""
        self.judge(disks, power=power)
        self.model = [bytearray(disk) for disk in disks]
        self._faded.clear()
        self._faded_under.clear()
        for key in self._under_way:
            self._touched(key)
        self._under_way.clear()
        self._durable.clear()
        if power:
            self._versions.clear()
            self._known.clear()
            self._doubted.clear()
            self.unheard.clear()  # whoever had the device was on this machine
        else:
            self._killed(disks)

    def store_lost(self, volume: int, disk: bytes, *, all_known: bool) -> None:
        """The source's data store lost some of what was not flushed; what is in flight may still
        be done.  `all_known`: of the rest nothing is lost any more, nor done."""
        self.losses[volume] += 1
        self.changes[volume] += 1
        if any(self._is_older((volume, at // SECTOR), disk[at : at + SECTOR])
               for at in range(0, len(disk), SECTOR)
               if (volume, at // SECTOR) not in self._doubted):  # fmt: skip
            self.owed_errors[volume] += 1
        for sector in range(sectors_in(len(disk))):
            key, at = (volume, sector), sector * SECTOR
            found = disk[at : at + SECTOR]
            versions, before = self._versions.get(key), self._acknowledged(volume, at)
            if found not in self._may_hold(key):
                raise Violation(f"a server lost sector {sector} of volume {volume} that was "
                                f"flushed: {found[:8]!r}")  # fmt: skip
            if found != before:  # a cycle that has read it may write it back
                self._faded.setdefault(key, []).append(before)
            if versions:
                known = self._known[key] + 1
                older = [] if all_known else versions[:known]
                self._versions[key] = [*older, found, *versions[known:]]
                self._known[key] = len(older)
            if all_known:
                self._doubted.pop(key, None)
        self.model[volume][:] = disk

    def lost_beside(self, volume: int, disk: bytes, clients: int) -> None:
        """The same while the site is down, after a kill: so many clients were connected then, and
        each is to hear of it, once."""
        before = self.owed_errors[volume]
        self.store_lost(volume, disk, all_known=True)
        for client in range(clients if self.owed_errors[volume] != before else 0):
            self.unheard.setdefault((client, volume), before)

    def _is_older(self, key: tuple[int, int], found: bytes) -> bool:
        """Than what is acknowledged; not what a write that is under way has left there."""
        later = self._versions.get(key, [])[self._known[key] + 1 :]
        return found != self._acknowledged(key[0], key[1] * SECTOR) and found not in later

    # ---- what a flush has lost and a cache shows

    def doubt(self, volume: int, stale: set[int], safe: bytes, disks: Image) -> None:
        """A flush has failed; `safe`: what the disk holds and shows later, in sectors `stale`."""
        self.settle(disks)
        is_news = False
        for sector in stale:
            key, at = (volume, sector), sector * SECTOR
            self._versions.setdefault(key, [self._acknowledged(volume, at)])
            found = safe[at : at + SECTOR]
            if found not in self._may_hold(key):
                raise Violation(f"a flush lost sector {sector} of volume {volume} that was "
                                f"flushed: {found[:8]!r}")  # fmt: skip
            is_news |= key not in self._doubted and found != self._acknowledged(volume, at)
            self._doubted[key] = self._touches
        self.owed_errors[volume] += is_news

    def fade(self, volume: int, sectors: set[int], disk: bytes) -> None:
        """What readers find from now on; a write that is under way may have been lost so."""
        self.changes[volume] += 1
        for sector in sectors:
            key, at = (volume, sector), sector * SECTOR
            found, before = disk[at : at + SECTOR], self._acknowledged(volume, at)
            if key in self._under_way:
                self._faded_under[key] = found
            if found == before:
                continue
            if found not in self._may_hold(key):
                raise Violation(f"a cache hid in sector {sector} of volume {volume} what is none "
                                f"of its versions: {found[:8]!r}")  # fmt: skip
            if self._known[key] + 1 < len(self._versions.get(key, [])):
                self.losses[volume] += 1
            self._faded.setdefault(key, []).append(before)
            self._now_known(key, found)

    def _may_hold(self, key: tuple[int, int]) -> list[bytes]:
        versions = self._versions.get(key) or [self._acknowledged(key[0], key[1] * SECTOR)]
        return [*versions, *self._faded.get(key, [])]

    def _now_known(self, key: tuple[int, int], found: bytes) -> None:
        volume, at = key[0], key[1] * SECTOR
        self.model[volume][at : at + SECTOR] = found
        versions = self._versions.get(key)
        if versions:
            self._known[key] += 1
            versions.insert(self._known[key], found)

    def settle(self, disks: Image) -> None:
        """A cycle has written back what has faded, or not."""
        for key, shown in self._faded.items():
            at = key[1] * SECTOR
            found = disks[key[0]][at : at + SECTOR]
            if found in shown and found != self._acknowledged(key[0], at):
                self._versions.setdefault(key, [self._acknowledged(key[0], at)])
                self._now_known(key, found)

    def may_read(self, volume: int, offset: int, found: bytes) -> bool:
        return all(
            found[at : at + SECTOR]
            in (self._acknowledged(volume, offset + at),
                *self._faded.get((volume, (offset + at) // SECTOR), ()))
            for at in range(0, len(found), SECTOR)
        )  # fmt: skip

    def swapped(self, disks: Image, safe: Image, stale: set[tuple[int, int]]) -> None:
        """A consistency point; `safe`: what of it fades may be copied as."""
        self.equals(disks, "a consistency point")
        self._faded.clear()  # the copies of the cycle before have ended
        self._swapped = (
            self._touches,
            {
                (volume, sector): safe[volume][sector * SECTOR : (sector + 1) * SECTOR]
                for volume, sector in stale
            },
        )

    def name_point(self, point: Point) -> Alternatives:
        self._points[point], alternatives = self._swapped
        return alternatives

    def committed(
        self, point: Point, meant: Image, fading: Alternatives, safe: Image, disks: Image
    ) -> tuple[Image, Alternatives]:
        """The source knows of this commit: that is safe on its disks, and read there, but for what
        was written since.  What it is now that of most that was fading one knows what it became."""
        held, left = [bytearray(image) for image in meant], dict(fading)
        if point not in self._points:
            return meant, fading
        for volume, disk in enumerate(safe):
            for at in range(0, len(disk), SECTOR):
                key, found = (volume, at // SECTOR), disk[at : at + SECTOR]
                if key in self._under_way or self._touched_at.get(key, 0) > self._points[point]:
                    continue
                if found not in (held[volume][at : at + SECTOR], fading.get(key)):
                    raise Violation(
                        f"{point[0]} is committed, but sector {key[1]} of volume {volume} on the "
                        f"source's disk is {found[:8]!r}, not {bytes(held[volume][at : at + 8])!r}"
                    )
                shown = disks[volume][at : at + SECTOR]
                if shown != found:
                    raise Violation(
                        f"{point[0]} is committed, but a cache shows {shown[:8]!r} in sector "
                        f"{key[1]} of volume {volume}, and the source's disk has {found[:8]!r}"
                    )
                held[volume][at : at + SECTOR] = found
                self._doubted.pop(key, None)
                left.pop(key, None)
        return tuple(bytes(image) for image in held), left

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
        self._faded.clear()
        for key in [key for key in self._versions if key not in self._doubted]:
            del self._versions[key]
            self._known.pop(key, None)

    def equals(self, disks: Image, when: str) -> None:
        self.settle(disks)
        for volume, (disk, model) in enumerate(zip(disks, self._done(disks), strict=True)):
            if disk != model:
                raise Violation(f"{when}: volume {volume} is not what was acknowledged: "
                                + difference(disk, bytes(model)))  # fmt: skip

    def _done(self, disks: Image) -> list[bytearray]:
        """What is acknowledged, with what is written of those that wait for their flush, for which
        no freeze waits: each wholly, or nothing of it."""
        models = [bytearray(one) for one in self.model]
        for (volume, offset), data in self._durable.items():
            if disks[volume][offset : offset + len(data)] == data:
                models[volume][offset : offset + len(data)] = data
        return models


def difference(found: bytes, meant: bytes) -> str:
    """The first sector that differs, by its first bytes."""
    for at in range(0, len(meant), SECTOR):
        if found[at : at + SECTOR] != meant[at : at + SECTOR]:
            return f"sector {at // SECTOR} is {found[at : at + 8]!r}, not {meant[at : at + 8]!r}"
    return "nothing differs"
