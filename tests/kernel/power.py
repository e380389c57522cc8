"""Two sites in two guests, power cuts, and what is true afterwards: round after round.

East (the source) and west (the target) each run in a user-mode Linux of their own, with images and
state on a disk of their own, and a cable between them. In a round writers work on the source while
cycle follows cycle; some moments after a commit the power of one site, or of both, is cut; what
then holds is gathered in a ``Round``. The next round goes on from there, so that a cut also meets
what the recovery from the one before has left. Nothing is judged here but the writes themselves:
the promises are in ``test_power_cut``.

What survives a cut of the source need not be a prefix of the writes: that is promised for the
target only. The source has, sector by sector, at least the last write that was flushed there.

The order of a round:  load, cut, boot;  the target's image from its durable state, before its site
runs (a target that was not cut goes on running: once it has settled, its source gone);  both sites
run, what the source's devices hold;  sync, all bytes of both.  Where the target alone was cut, the
load goes on meanwhile, until a commit shows that mirroring has resumed.

Left out: cuts during a recovery, or of both sites at moments far apart.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uml
from dependent import SECTOR, Judge, Log, NotOneMoment, Write, content
from kernels import Kernel
from power_load import REGION, VOLUME_BYTES, VOLUMES, WRITERS, write_of

GUEST_SCRIPT = Path(__file__).with_name("guest_power.py")
GUEST_SECONDS = 600  # a site that is never cut lives for two rounds
ANSWER_SECONDS = 90.0
ADDRESSES = {"east": "10.0.0.1", "west": "10.0.0.2"}
CUTS = {"source": ("east",), "target": ("west",), "both": ("east", "west")}
DISK_BYTES = 128 << 20
EVENTS_MAX = 8  # of a load before the cut: commits, or writes of the target's ledger
DELAY_MAX_S = {"committed": 0.3, "ledger": 0.03}  # from the event to the cut
BETWEEN_MAX_S = 0.02  # from the cut of one site to that of the other
NO_WRITE_BEYOND = 1_000_000  # a number in an image that no writer reaches


class History:
    """All that the writers reported; what it means for an image."""

    region = REGION

    def __init__(self) -> None:
        self._logs = [Log() for _ in range(WRITERS)]
        self.flushed = [0] * WRITERS
        self.fua: list[list[int]] = [[] for _ in range(WRITERS)]
        self.committed = 0

    def logs(self) -> list[Log]:
        return self._logs

    def hear(self, line: str) -> str:
        """One report of a guest; its first word.  What else it prints is said of its failure."""
        word, *rest = line.split() or [""]
        if word == "committed":
            self.committed = max(self.committed, int(rest[0]))
        elif word in ("wrote", "fua", "flushed"):
            writer, number, when = int(rest[0]), int(rest[1]), float(rest[2])
            self._know(writer, number)
            acknowledged = self._logs[writer].acknowledged
            acknowledged += [when] * (number + 1 - len(acknowledged))  # a replay has one report
            if word == "fua":
                self.fua[writer].append(number)
            elif word == "flushed":
                self.flushed[writer] = number
        return word

    def _know(self, writer: int, number: int) -> list[Write]:
        """The writer's writes, at least up to this one."""
        writes = self._logs[writer].writes
        while len(writes) <= number < NO_WRITE_BEYOND:
            writes.append(write_of(writer, len(writes)))
            self._logs[writer].issued.append(0.0)
        return writes

    def learn(self, images: Sequence[bytes]) -> list[int]:
        """The newest write of each writer that the images hold; it is known from now on."""
        newest = [max(max(numbers(image, writer)) for image in images) for writer in range(WRITERS)]
        for writer, number in enumerate(newest):
            self._know(writer, number)
        return newest

    def forget(self, newest: Sequence[int]) -> None:
        """The source has lost what is newer: the writers will do that once more."""
        for log, number in zip(self._logs, newest, strict=True):
            del log.acknowledged[number + 1 :]

    def missing(self, images: Sequence[bytes]) -> tuple[list[str], int]:
        """What a source's images lack of what was flushed; and how many sectors lack what was
        acknowledged, but not flushed."""
        self.learn(images)
        lines, lost = [], 0
        for writer in range(WRITERS):
            stable = self._expected(writer, self.flushed[writer], self.fua[writer])
            latest = self._expected(writer, self._logs[writer].count(), self.fua[writer])
            for volume, image in enumerate(images):
                found = numbers(image, writer)
                for sector, number in enumerate(found):
                    at = writer * REGION + sector * SECTOR
                    where = f"writer {writer}, volume {volume}, sector {sector}"
                    if number < stable[volume][sector]:
                        lines.append(f"{where}: {number}, flushed was {stable[volume][sector]}")
                    elif number and image[at : at + SECTOR] != self._sector(
                        writer, volume, number, sector
                    ):
                        lines.append(f"{where}: not the bytes of write {number}")
                    lost += number < latest[volume][sector]
        return lines, lost

    def _expected(self, writer: int, upto: int, more: Sequence[int]) -> list[list[int]]:
        """The number that each sector has after the writes up to one, and some more."""
        writes = self._know(writer, upto)
        expected = [[0] * (REGION // SECTOR) for _ in VOLUMES]
        for number in sorted({*range(1, upto + 1), *more}):
            write = writes[number]
            first, count = write.offset // SECTOR, write.length // SECTOR
            expected[write.volume][first : first + count] = [number] * count
        return expected

    def _sector(self, writer: int, volume: int, number: int, sector: int) -> bytes | None:
        """What the write puts there; None if it does not."""
        writes = self._logs[writer].writes
        if number >= len(writes):
            return None
        write, at = writes[number], sector * SECTOR
        if write.volume != volume or not write.offset <= at < write.offset + write.length:
            return None
        return content(writer, volume, number, at, SECTOR)


def numbers(image: bytes, writer: int) -> list[int]:
    """The number of the write that each sector of a writer's region holds."""
    part = memoryview(image)[writer * REGION : (writer + 1) * REGION]
    return part.cast("Q")[:: SECTOR // 8].tolist()


@dataclass
class Round:
    """One cut and what was found after it.  Troubles are empty if all is well."""

    number: int
    cut: str
    after: str  # what the cut followed: a report of the source, or of the target
    delay_s: float
    image_trouble: str = ""  # of the target's image, from its durable state
    pending_blocks: int = 0  # that the target had still to copy when it was cut
    committed_before: int = 0  # the last that the source knew of
    committed_after: int = 0  # what the target's durable state says
    committed_at_end: int = 0
    lost_flushed: list[str] = field(default_factory=list)
    lost_unflushed_sectors: int = 0
    writes: int = 0  # known to be issued, by its end
    differences: list[str] = field(default_factory=list)  # between the sites after a sync
    complaints: list[str] = field(default_factory=list)  # of the kernels that were cut
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"round {self.number}: cut of {self.cut} {self.delay_s * 1000:.0f} ms after "
            f"{self.after}, {self.writes} writes, {self.pending_blocks} blocks pending, "
            f"{self.lost_unflushed_sectors} unflushed sectors lost, commits "
            f"{self.committed_before} {self.committed_after} {self.committed_at_end}, "
            f"{self.seconds:.1f} s{' image: ' + self.image_trouble if self.image_trouble else ''}"
        )


class Site:
    """One guest after another, on one disk."""

    def __init__(
        self, name: str, folder: Path, plug: uml.Plug, kernel: Kernel, options: Sequence[str]
    ) -> None:
        self.name, self._plug, self._kernel = name, plug, kernel
        self._share = folder / "share"
        self._disk = folder / f"{name}.disk"
        with open(self._disk, "wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", str(self._disk)], check=True, env={"PATH": uml.PATH}
        )
        other = next(address for name, address in ADDRESSES.items() if name != self.name)
        self._command: list[str | Path] = [
            *(sys.executable, "-X", "faulthandler"),
            *(str(GUEST_SCRIPT), name, other, str(self._share), *options),
        ]
        self.guest: uml.Guest | None = None

    def boot(self) -> None:
        self.guest = uml.Guest(
            self._command,
            self._share,
            GUEST_SECONDS,
            kernel=self._kernel,
            memory="320M",
            disks=[self._disk],
            plug=self._plug,
            environment={"PYTHONPATH": str(Path(__file__).parent.parent)},
        )

    def wait_ready(self) -> None:
        while self.line() != "ready":
            pass

    def line(self) -> str:
        assert self.guest
        return self.guest.line(ANSWER_SECONDS)

    def order(self, order: str, **words: Any) -> None:
        assert self.guest
        self.guest.say(json.dumps({"order": order, **words}))

    def cut_power(self) -> None:
        assert self.guest
        self.guest.cut_power()

    def close(self) -> list[str]:
        """Whatever state it is in; what its kernel complained of."""
        if not self.guest:
            return []
        self.guest.close()
        complaints, self.guest = self.guest.result().complaints, None
        return complaints

    def volumes(self) -> list[bytes]:
        """What the last order left in the share, taken from there."""
        files = [self._share / f"{self.name}-{volume}" for volume in VOLUMES]
        images = [file.read_bytes() for file in files]
        for file in files:
            file.unlink()
        return images


class Rig:
    """Both sites, and all that is known of them."""

    def __init__(
        self, folder: Path, kernel: Kernel, seed: int, options: Sequence[str] = ()
    ) -> None:
        (folder / "share").mkdir()
        self._chance = random.Random(seed)
        self._cable = uml.Cable(*ADDRESSES.values())
        plugs = dict(zip(ADDRESSES, self._cable.plugs, strict=True))
        self.east = Site("east", folder, plugs["east"], kernel, options)
        self.west = Site("west", folder, plugs["west"], kernel, options)
        self._sites = {"east": self.east, "west": self.west}
        self.history = History()
        self._judge = Judge(self.history)
        self._resume = [(0, 0)] * WRITERS  # each writer's last flushed write, and its newest

    def begin(self) -> None:
        """Both run, and are linked and equal."""
        self._boot(["east", "west"])
        self._start(["east", "west"])
        self._ask(self.east, "sync")

    def report(self) -> None:
        """The end of what each guest said: the trouble may be another's than the one asked."""
        for site in self._sites.values():
            if site.guest:
                site.cut_power()
                print(f"{site.name}: {site.guest.result().report()}")

    def end(self) -> None:
        for site in self._sites.values():
            site.close()
        self._cable.close()

    def _boot(self, names: Sequence[str]) -> None:
        for name in names:
            self._sites[name].boot()
        for name in names:
            self._sites[name].wait_ready()

    def _start(self, names: Sequence[str]) -> None:
        for name in names:
            self._sites[name].order("start")
        for name in names:
            self._answer(self._sites[name])

    def _ask(self, site: Site, order: str, **words: Any) -> Any:
        """The answer to an order; the load's reports on the way are heard."""
        site.order(order, **words)
        return self._answer(site)

    def _answer(self, site: Site) -> Any:
        while True:
            word, _, rest = (line := site.line()).partition(" ")
            if word == "done":
                return json.loads(rest)
            self.history.hear(line)

    def _wait(self, site: Site, event: str, count: int) -> None:
        """So many reports of this kind."""
        while count:
            count -= self.history.hear(site.line()) == event

    # ---- a round

    def play(self, number: int, cut: str) -> Round:
        """One round, to the end."""
        began = time.monotonic()
        found = self.play_to_recovery(number, cut)
        if cut == "target":
            self._wait(self.east, "committed", 1)
            self._ask(self.east, "end_load")
            self._look_at_source(found)
        found.committed_at_end = self._ask(self.east, "sync")
        self._compare(found)
        found.seconds = time.monotonic() - began
        return found

    def play_to_recovery(self, number: int, cut: str) -> Round:
        """Load, cut, boot, the image of the target, the start of both sites; the source's.

        The cut is anywhere in a cycle: some moments after a commit that the source knows of.  Or
        it is close to the commit or the hardening itself: after the target wrote its ledger.
        """
        after = self._chance.choice(list(DELAY_MAX_S))
        found = Round(number, cut, after, self._chance.uniform(0, DELAY_MAX_S[after]))
        self._ask(self.east, "load", resume=self._resume)
        self._ask(self.west, "ping")  # what it reported until now is over
        reporter = self.east if after == "committed" else self.west
        self._wait(reporter, after, self._chance.randint(1, EVENTS_MAX))
        time.sleep(found.delay_s)
        self._cut(found, CUTS[cut])
        self._look_at_target(found)
        self._start(CUTS[cut])
        if cut != "target":
            self._look_at_source(found)
        return found

    def _cut(self, found: Round, names: Sequence[str]) -> None:
        for i, name in enumerate(self._chance.sample(names, len(names))):
            if i:
                time.sleep(self._chance.uniform(0, BETWEEN_MAX_S))
            self._sites[name].cut_power()
        for name in names:
            with contextlib.suppress(uml.GuestEnded):
                while True:
                    self.history.hear(self._sites[name].line())
            found.complaints += self._sites[name].close()
        if "east" not in names:
            self._ask(self.east, "ping")  # and it says what it knew of
        found.committed_before = self.history.committed
        self._boot(names)

    def _look_at_target(self, found: Round) -> None:
        if found.cut == "source":
            self._ask(self.west, "settle")
        record = self._ask(self.west, "image")
        found.committed_after = record["sequence"]
        found.pending_blocks = record["pending_blocks"]
        images = self.west.volumes()
        if not record["whole"]:
            found.image_trouble = "the target claims no image"
            return
        self.history.learn(images)
        try:
            self._judge.check(images, point=record["point"])
        except NotOneMoment as error:
            found.image_trouble = str(error)

    def _look_at_source(self, found: Round) -> None:
        self._ask(self.east, "device")
        images = self.east.volumes()
        found.lost_flushed, found.lost_unflushed_sectors = self.history.missing(images)
        newest = self.history.learn(images)
        self.history.forget(newest)
        self._resume = list(zip(self.history.flushed, newest, strict=True))
        found.writes = sum(newest)

    def _compare(self, found: Round) -> None:
        for site in self.east, self.west:
            self._ask(site, "data")
        for volume, east, west in zip(
            VOLUMES, self.east.volumes(), self.west.volumes(), strict=True
        ):
            assert len(east) == VOLUME_BYTES
            if east != west:
                at = next(i for i, (a, b) in enumerate(zip(east, west, strict=False)) if a != b)
                found.differences.append(f"{volume} from byte {at}")


@contextlib.contextmanager
def rig(kernel: Kernel, seed: int, options: Sequence[str] = ()) -> Iterator[Rig]:
    """A running pair on disks in memory; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="power.", dir="/dev/shm") as folder:
        rig = Rig(Path(folder), kernel, seed, options)
        try:
            rig.begin()
            yield rig
        except BaseException:
            rig.report()
            raise
        finally:
            rig.end()
