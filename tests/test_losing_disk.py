"""A state folder whose disk loses what it has taken: Linux says so once, to one fsync, and goes on
showing from memory what is on no disk (I9).

The disk is a real one: ext2 on a loop device whose backing file has no space left.  What was lost
comes to light as after a power loss: the site is killed, and the file system mounted anew.  Now and
then this file system loses a part of what it has told to be flushed, which nobody can notice before
(a program of ten lines sees it, too): then the ledger's checksum does.

A file of it as a block device is one with such a cache of its own, as virtual machines have.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import (
    MIB,
    Handmade,
    MountedDisk,
    eventually,
    flashmirror,
    kill,
    scrape,
    state_of,
    value,
)
from loops import SECTOR, mbr, needs_loops
from nbd_client import FUA, WRITE, NbdError
from pair import FLASHMIRROR, CommandFailed, some

from mirror_core import adoption, config, ledger, stores
from mirror_core.errors import LedgerError, MirrorError, StoreError
from mirror_core.platform import Platform
from mirror_core.site import Site

SOAK = int(os.environ.get("FLASHMIRROR_SOAK", "1"))
BLOCK = 4096
BLOCKS = 64
LOST = ("ledger", "log of hardenings", "hardened.")  # what a refused start may name


class LosingDisk:
    """Mounted at `folder`; while it is full every write to new space is lost when it is flushed."""

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder, self._space = folder, MountedDisk(beside, 24 * MIB)
        self._raw = Path(self._space.store(16 * MIB))
        subprocess.run(["mkfs.ext2", "-q", "-b", "1024", str(self._raw)], check=True)
        folder.mkdir(parents=True)
        self._mount()
        (folder / "lost+found").rmdir()

    def _mount(self) -> None:
        # Space that is free is given back, so that what is written next needs some again.
        subprocess.run(
            ["mount", "-t", "ext2", "-o", "loop,discard", str(self._raw), str(self.folder)],
            check=True,
        )

    def fill(self) -> None:
        self._space.fill()

    def empty(self) -> None:
        self._space.empty()

    def forget(self) -> None:
        """From now on the disk itself is read."""
        subprocess.run(["umount", str(self.folder)], check=True)
        self._mount()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
        self._space.close()


@pytest.fixture
def pair(scratch: Path) -> Iterator[Handmade]:
    made = Handmade(scratch / "pair", BLOCKS * BLOCK)
    yield made
    made.kill()


@needs_loops
@pytest.mark.parametrize("seed", range(2 * SOAK))
@pytest.mark.parametrize("site", ["west", "east"])
def test_what_a_state_folder_has_lost_is_not_counted_on(
    pair: Handmade, scratch: Path, site: str, seed: int
) -> None:
    """A site whose records were lost says that its folder fails; and after a power loss it starts
    with what its disk has and both sites become equal, or it is refused with the file's name."""
    chance = random.Random(seed)
    disk = LosingDisk(pair.folder / site / "state", scratch / "space")
    try:
        pair.create()
        pair.start()
        with pair.client() as client:
            for _ in range(4):
                client.write(chance.randrange(BLOCKS) * BLOCK, chance.randbytes(BLOCK))
                direct.sync(pair)
                disk.fill()

                def has_lost() -> bool:
                    client.write(chance.randrange(BLOCKS) * BLOCK, chance.randbytes(BLOCK))
                    return says_so(pair, site)

                eventually(has_lost, f"{site} says that its folder fails")
                disk.empty()
            if chance.random() < 0.5:
                direct.sync(pair)
        kill(pair, site)
        disk.forget()
        try:
            pair.start(site)
        except CommandFailed as error:
            assert any(name in str(error) for name in LOST), error
            return
        direct.sync(pair)
        assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
    finally:
        pair.kill()
        disk.close()


def says_so(pair: Handmade, site: str) -> bool:
    try:
        status = state_of(pair, site)
    except MirrorError:
        return False  # it begins anew
    return status["state"] == "degraded" and "state" in str(status["reason"])


class LosingDevice:
    """A block device whose own cache shows for a while what its disk has refused."""

    def __init__(self, disk: LosingDisk, size: int, *, parts: int = 0) -> None:
        """`parts`: partitions of BLOCKS blocks."""
        self._file = disk.folder / "device"
        self._file.touch()
        os.truncate(self._file, size)
        sectors = BLOCKS * BLOCK // SECTOR
        if parts:
            table = mbr(7, [(2048 // parts * (1 + part), sectors) for part in range(parts)])
            with self._file.open("r+b") as file:
                for at, data in table.items():
                    file.seek(at)
                    file.write(data)
                os.fsync(file.fileno())
        words = ["losetup", "-f", "--show", *(["-P"] if parts else []), str(self._file)]
        made = subprocess.run(words, check=True, capture_output=True, text=True)
        self.path = made.stdout.strip()
        if parts:
            subprocess.run(["partx", "--update", self.path], check=True)

    def take(self, part: str = "") -> None:
        """Our own kernel writes to it what clients have not flushed, as it does now and then."""
        fd = os.open(part or self.path, os.O_RDONLY)
        assert ctypes.CDLL(None).sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 7) == 0
        os.close(fd)

    def shown(self, size: int, part: str = "") -> bytes:
        """From the disk itself; `part`: of a partition."""
        for path in (str(self._file), self.path, part or self.path):
            fd = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):
                os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            data = os.pread(fd, size, 0)
            os.close(fd)
        return data

    def punch(self, at: int, size: int) -> None:
        """A hole, as where a store is restored into a thin volume."""
        self.shown(1)
        where = ["-o", str(at), "-l", str(size)]
        subprocess.run(["fallocate", "-p", *where, str(self._file)], check=True)
        os.sync()
        subprocess.run(["fstrim", str(self._file.parent)], check=True)
        assert self.shown(at + size)[at:] == bytes(size)

    def close(self) -> None:
        subprocess.run(["losetup", "-d", self.path], check=True)


@needs_loops
def test_what_one_store_hears_of_a_disk_all_hear_that_stand_on_it(
    pair: Handmade, scratch: Path
) -> None:
    """The data and the intermediate are two partitions.  The disk says to the flush of the one that
    it could not flush its cache; what it has lost is the other's, whose clients hear of it, and
    which the mirror writes back."""
    disk = LosingDisk(scratch / "disk", scratch / "space")
    device = LosingDevice(disk, 2 * MIB, parts=2)
    parts = [f"{device.path}p{number}" for number in (1, 2)]
    pair.stores["east", "data"], pair.stores["east", "intermediate"] = parts
    try:
        pair.create()
        pair.start()
        direct.sync(pair)
        direct.pause(pair)
        with pair.client() as client:
            disk.fill()
            client.write(9 * BLOCK, b"x" * BLOCK)
            device.take(parts[0])
            direct.resume(pair)
            direct.wait_for(lambda: direct.status(pair)["state"] == "degraded", "a failed flush")
            disk.empty()
            with pytest.raises(NbdError):
                client.flush()
            client.flush()
        direct.sync(pair)
        pair.stop("east", "west")
        assert device.shown(BLOCKS * BLOCK, parts[0]) == pair.image("west").read_bytes()
    finally:
        pair.kill()
        device.close()
        disk.close()


@needs_loops
def test_a_seed_that_a_device_has_refused_is_given_up(pair: Handmade, scratch: Path) -> None:
    """The device of a target says once, to its first start, that it could not flush the copy that
    is the seed, and shows it still: that start is refused, and the next one has everything sent."""
    disk = LosingDisk(scratch / "disk", scratch / "space")
    device = LosingDevice(disk, BLOCKS * BLOCK)
    pair.size, pair.stores["west", "data"] = BLOCKS * BLOCK, device.path
    data = random.Random(4).randbytes(pair.size)
    try:
        pair.create()
        pair.run("seed", str(pair.toml("west")))
        pair.start("east")
        with pair.client() as client:
            client.write(0, data)
        disk.fill()
        with open(device.path, "r+b", buffering=0) as copy:
            copy.write(data)
            device.take()
        with pytest.raises(CommandFailed, match="the seed cannot be flushed, and is given up"):
            pair.start("west")
        disk.empty()
        pair.start("west")
        direct.sync(pair)
        pair.stop("east", "west")
        assert device.shown(pair.size) == data
    finally:
        pair.kill()
        device.close()
        disk.close()


@needs_loops
@pytest.mark.parametrize("site", ["west", "east"])
def test_a_start_whose_flush_failed_is_followed_by_none_that_trusts_the_store(
    pair: Handmade, scratch: Path, site: str
) -> None:
    """A person puts the bytes of a data store back, of which a flush loses some where no sample of
    the fingerprint looks.  The device tells the first start; the next one, to whose flush it says
    that all is well, is refused until the store is adopted, and then both sites hold the same."""
    disk = LosingDisk(scratch / "disk", scratch / "space")
    pair.size = 4 * MIB
    device = LosingDevice(disk, pair.size)
    subprocess.run(["losetup", "--direct-io=on", device.path], check=True)
    pair.stores[site, "data"] = device.path
    data = random.Random(4).randbytes(pair.size)
    try:
        pair.create()
        pair.start()
        with pair.client() as client:
            client.write(0, data)
        direct.sync(pair)
        pair.stop("east", "west")
        device.punch(1028 * 1024, 56 * 1024)
        disk.fill()
        with open(device.path, "r+b", buffering=0) as copy:
            copy.write(data)
            with pytest.raises(CommandFailed, match="this flush has lost a later one does not"):
                pair.start(site)
        disk.empty()
        with pytest.raises(CommandFailed, match=r"a flush of what was put there .* has failed"):
            pair.start(site)
        pair.run("adopt", "--yes", str(pair.toml(site)), "disk", "data")
        pair.start("west", "east")
        direct.sync(pair)
        pair.stop("east", "west")
        other = pair.image("west" if site == "east" else "east").read_bytes()
        assert device.shown(pair.size) == other
        assert site == "east" or other == data
    finally:
        pair.kill()
        device.close()
        disk.close()


@needs_loops
@pytest.mark.parametrize("seeded", [False, True], ids=["image", "seed"])
def test_an_adoption_whose_flush_failed_is_followed_by_none_that_trusts_the_store(
    pair: Handmade, scratch: Path, seeded: bool
) -> None:
    """A copy of a target's data on another device, whose flush fails in the first adoption and not
    in the second, is no image any more, and no seed: everything is sent."""
    disk = LosingDisk(scratch / "disk", scratch / "space")
    pair.size = BLOCKS * BLOCK
    device = LosingDevice(disk, pair.size)
    data = random.Random(4).randbytes(pair.size)
    try:
        pair.create()
        pair.start(*(["east"] if seeded else []))
        with pair.client() as client:
            client.write(0, data)
        if not seeded:
            direct.sync(pair)
            pair.stop("east", "west")
        before, toml = pair.store("west", "data"), pair.toml("west")
        pair.stores["west", "data"] = device.path
        toml.write_text(toml.read_text().replace(before, device.path))
        disk.fill()
        with open(device.path, "r+b", buffering=0) as copy:
            copy.write(data)
            device.take()
        adopt = ("adopt", "--yes", "--json", str(toml), "disk", "data")
        with pytest.raises(CommandFailed, match="what this flush has lost a later one does not"):
            pair.run(*adopt)
        disk.empty()
        assert json.loads(pair.run(*adopt))["effect"] == ("record" if seeded else "give up")
        if seeded:
            with pytest.raises(CommandFailed, match="start the site without a seed"):
                pair.run("seed", str(toml))
        pair.start("west", *([] if seeded else ["east"]))
        direct.sync(pair)
        pair.stop("east", "west")
        assert device.shown(pair.size) == data
    finally:
        pair.kill()
        device.close()
        disk.close()


@needs_loops
@pytest.mark.parametrize("restarted", some([True, False]))
@pytest.mark.parametrize("durably", [False, True])
def test_what_a_device_has_lost_is_not_copied_from_its_cache(
    pair: Handmade, scratch: Path, durably: bool, restarted: bool
) -> None:
    """A device says once that it could not flush its cache, to a flush or to another's write with
    FUA: who has written hears of it, and in the end both sites hold the same."""
    disk = LosingDisk(scratch / "disk", scratch / "space")
    device = LosingDevice(disk, BLOCKS * BLOCK)
    pair.stores["east", "data"] = device.path
    try:
        pair.create()
        pair.start()
        direct.sync(pair)
        direct.pause(pair)
        with pair.client() as client, pair.client() as other:
            disk.fill()
            client.write(0, b"x" * BLOCK)
            device.take()
            if durably:
                other.send(WRITE, 9 * BLOCK, BLOCK, b"x" * BLOCK, FUA)
                with pytest.raises(NbdError):
                    other.receive()
            with pytest.raises(NbdError):
                client.flush()
            client.flush()
            disk.empty()
        if restarted:
            pair.stop("east")
            pair.start("east")
        direct.resume(pair)
        direct.sync(pair)
        pair.stop("east", "west")
        assert device.shown(BLOCKS * BLOCK) == pair.image("west").read_bytes()
    finally:
        pair.kill()
        device.close()
        disk.close()


def start_with(pair: Handmade, where: Path, calls: str, site: str = "west", when: str = "1") -> str:
    """Of a site whose first such call at this place is told that the disk has lost something."""
    words = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        str(where),
        "-e",
        f"inject={calls}:error=EIO:when={when}",
        str(FLASHMIRROR),
        "start",
        str(pair.toml(site)),
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    return done.stderr


@pytest.mark.parametrize("site", ["west", "east"])
def test_what_the_ledger_hears_of_its_disk_is_heard_of_the_stores_on_it(
    pair: Handmade, site: str
) -> None:
    """The state folder stands on the same disk as what was put back, and its flush comes first: the
    disk says only once that it has lost something."""
    pair.create()
    pair.start()
    direct.sync(pair)
    pair.stop("east", "west")
    said = start_with(pair, pair.folder / site / "state/ledger.new", "fdatasync,fsync", site)
    assert "cannot be written" in said and "a later one does not tell" in said, said
    with pytest.raises(CommandFailed, match=r"a flush of what was put there .* has failed"):
        pair.start(site)


def test_what_a_state_folder_hears_of_its_disk_is_heard_of_a_seed_on_it(pair: Handmade) -> None:
    """The names of this run's first file are made durable before the seed is flushed."""
    data = random.Random(4).randbytes(pair.size)
    pair.create()
    pair.start("east")
    with pair.client() as client:
        client.write(0, data)
    Path(pair.store("west", "data")).write_bytes(data)
    pair.run("seed", str(pair.toml("west")))
    start_with(pair, pair.folder / "west/state", "fsync")
    book = ledger.load(pair.folder / "west/state")
    assert not book.seeded and book.doubtful_data
    pair.start("west")
    direct.sync(pair)
    assert int(value(scrape(pair, "east"), 'equal_bytes_total{volume="disk"}')) == 0


@pytest.mark.parametrize("site", ["west", "east"])
def test_what_a_record_that_was_made_again_has_heard_counts(pair: Handmade, site: str) -> None:
    """The ledger's name was not made durable at once, and then was: its disk has said what it had
    lost, which may be what was put back."""
    pair.create()
    pair.start()
    direct.sync(pair)
    pair.stop("east", "west")
    said = start_with(pair, pair.folder / site / "state", "fsync", site)
    assert "has lost something" in said and "a later one does not tell" in said, said
    with pytest.raises(CommandFailed, match=r"a flush of what was put there .* has failed"):
        pair.start(site)


def record_of_a_seed(pair: Handmade, where: str) -> subprocess.CompletedProcess[bytes]:
    """`flashmirror seed`, whose disk speaks to the first flush of that file of the state folder."""
    words = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        str(pair.folder / "west/state" / where),
        "-e",
        "inject=fsync:error=EIO:when=1",
        str(FLASHMIRROR),
        "seed",
        str(pair.toml("west")),
    ]
    return subprocess.run(words, check=False, capture_output=True, timeout=60)


@pytest.mark.parametrize("where", some(["ledger.new", "."]))
def test_what_the_record_of_a_seed_hears_of_its_disk_is_heard_of_the_seed(
    pair: Handmade, where: str
) -> None:
    """The copy was brought first, and is not flushed when the command is given.  Given again it
    asks for the copy."""
    pair.create("west")
    toml = str(pair.toml("west"))
    assert record_of_a_seed(pair, where).returncode == 1
    with pytest.raises(CommandFailed, match="copy it again, and seed it with --force"):
        pair.run("seed", toml)
    pair.run("seed", "--force", toml)


def create_with(pair: Handmade, site: str, *options: str) -> subprocess.CompletedProcess[str]:
    role = "source" if site == "east" else "target"
    pair.write(site)
    words = [
        "strace",
        "-f",
        "-qq",
        *options,
        str(FLASHMIRROR),
        "create",
        str(pair.toml(site)),
        "--role",
        role,
    ]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("site", ["west", "east"])
def test_a_creation_flushes_what_was_brought_before_any_record(
    pair: Handmade, scratch: Path, site: str
) -> None:
    """A source's volume, or a seed, is copied there first: of one disk, which says once what it has
    lost, the stores hear before the state folder."""
    calls = scratch / "calls"
    done = create_with(pair, site, "-y", "-o", str(calls), "-e", "trace=fsync,fdatasync")
    assert done.returncode == 0, done
    flushed = re.findall(r"sync\(\d+<(.*?)>", calls.read_text())
    stores_of = [pair.store(site, part) for part in ("data", "intermediate")]
    assert flushed[:2] == stores_of and f"{pair.folder}/{site}/state/ledger.new" in flushed[2:]


@pytest.mark.parametrize(
    "where", some(["disk.img", "disk.intermediate.img", "", "state/ledger.new", "state"])
)
@pytest.mark.parametrize("site", ["west", "east"])
def test_what_a_creation_hears_of_its_disk_is_heard_of_what_was_brought(
    pair: Handmade, site: str, where: str
) -> None:
    """Whichever flush of it is told: nothing is created, and its person is to bring that again, for
    whoever tries again is told that all is well."""
    pair.write(site)
    path = str(pair.folder / site / where)
    fault = ("-o", "/dev/null", "-P", path, "-e", "inject=fsync,fdatasync:error=EIO:when=1")
    done = create_with(pair, site, *fault)
    assert done.returncode == 1, done
    assert "not all be on their disks" in done.stderr and "put it there again" in done.stderr, done
    assert not (pair.folder / site / "state/ledger").exists()
    pair.create(site)


@needs_loops
@pytest.mark.parametrize("where", some(["state/ledger.new", "state"]))
def test_what_a_creation_hears_of_another_disk_is_nothing_of_what_was_brought(
    apart: Handmade, where: str
) -> None:
    """A record that stands at the second try is one, and one that does not asks for nothing else
    than another try."""
    apart.write("west")
    path = str(apart.folder / "west" / where)
    fault = ("-o", "/dev/null", "-P", path, "-e", "inject=fsync:error=EIO:when=1")
    done = create_with(apart, "west", *fault)
    assert done.returncode == (0 if where == "state" else 1), done
    assert "there again" not in done.stderr, done
    if done.returncode:
        apart.create("west")


def test_an_adoption_s_failed_flush_is_one_of_all_stores_of_the_site(pair: Handmade) -> None:
    """They may stand on one disk, which tells it once."""
    pair.create()
    pair.start()
    direct.sync(pair)
    pair.stop("east", "west")
    where = Path(pair.store("east", "intermediate"))
    where.rename(where.with_suffix(".old"))
    where.write_bytes(os.urandom(pair.size))
    words = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        str(where),
        "-e",
        "inject=fdatasync:error=EIO:when=1",
        str(FLASHMIRROR),
        "adopt",
        "--yes",
        str(pair.toml("east")),
        "disk",
        "intermediate",
    ]
    assert subprocess.run(words, check=False, capture_output=True, timeout=60).returncode == 1
    pair.run("adopt", "--yes", str(pair.toml("east")), "disk", "intermediate")
    with pytest.raises(CommandFailed, match=r"a flush of what was put there .* has failed"):
        pair.start("east")


@pytest.mark.parametrize("calls", some(["1", "1..3", "folder", "1+"], 3))
@pytest.mark.parametrize(
    ("site", "part"), [("west", "data"), ("west", "intermediate"), ("east", "data")]
)
def test_what_a_start_hears_that_finds_a_store_smaller_is_heard_of_the_stores(
    pair: Handmade, site: str, part: str, calls: str
) -> None:
    """That it is smaller is the first record of such a start, before any store is flushed.  Both
    are said, also where neither can be recorded, and the next start refuses what was put back."""
    pair.create()
    pair.start()
    direct.sync(pair)
    pair.stop("east", "west")
    cut, whole = Path(pair.store(site, part)), Path(pair.store(site, part)).read_bytes()
    os.truncate(cut, pair.size - BLOCK)
    where = pair.folder / site / ("state" if calls == "folder" else "state/ledger.new")
    said = start_with(pair, where, "fsync", site, when="1" if calls == "folder" else calls)
    assert f"but the volume has {pair.size}: put the right store back" in said, said
    with cut.open("ab") as file:
        file.write(whole[-BLOCK:])
    if calls == "1+":
        assert "nor can that be recorded, so adopt it" in said, said
        return
    assert "a later flush does not tell: then adopt them" in said, said
    volume = ledger.load(pair.folder / site / "state").volumes[0]
    assert ledger.is_harmed(getattr(volume, part))
    with pytest.raises(CommandFailed, match=r"a flush of what was put there .* has failed"):
        pair.start(site)


class SpeaksAt(Platform):
    """Tells the sync of the state folder of that number that its disk has lost something."""

    def __init__(self, number: int) -> None:
        self._left = number

    def _sync(self, fd: int, since: int, *, data_only: bool) -> None:
        self._left -= 1
        if self._left == 0:
            self.heard_losses += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super()._sync(fd, since, data_only=data_only)

    @property
    def has_spoken(self) -> bool:
        return self._left <= 0


def flushed_late(monkeypatch: pytest.MonkeyPatch, platform: SpeaksAt) -> list[bool]:
    """Of each flush of a store from now on, whether the disk had spoken before."""
    late: list[bool] = []
    flush = stores.Opened.flush

    def noted(one: stores.Opened) -> None:
        late.append(platform.has_spoken)
        flush(one)

    monkeypatch.setattr(stores.Opened, "flush", noted)
    return late


def each_sync(do: Callable[[SpeaksAt], object]) -> Iterator[SpeaksAt]:
    """Does it with a disk that speaks to its first sync, its second, and so on to its last."""
    for number in itertools.count(1):
        platform = SpeaksAt(number)
        with contextlib.suppress(MirrorError):
            do(platform)
        if not platform.has_spoken:
            assert number > 2, "of the ledger and its folder"
            return
        yield platform


@pytest.mark.parametrize("harmed", some([True, False]))
@pytest.mark.parametrize("site", ["west", "east"])
def test_whichever_record_of_a_start_hears_of_its_disk_counts(
    pair: Handmade, monkeypatch: pytest.MonkeyPatch, site: str, harmed: bool
) -> None:
    """Each sync of the state folder that comes before the flush of what was put back, of whichever
    file: a new one that is not listened to fails here."""
    pair.create()
    pair.start()
    direct.sync(pair)
    pair.stop("east", "west")
    state = pair.folder / site / "state"
    before, data = (state / "ledger").read_bytes(), Path(pair.store(site, "data"))
    if harmed:
        os.truncate(data, pair.size - BLOCK)
    late: list[bool] = []

    def start(platform: SpeaksAt) -> None:
        (state / "ledger").write_bytes(before)
        late[:] = []
        with monkeypatch.context() as patched:
            flushes = flushed_late(patched, platform)
            try:
                begun = Site(config.load(str(pair.toml(site))), platform=platform)
                begun.stop()
            finally:
                late[:] = flushes or [harmed]

    for platform in each_sync(start):
        doubted = set(ledger.load(state).unflushed)
        assert doubted or not any(late), platform.__dict__


@pytest.mark.parametrize(
    ("site", "part"), [("west", "data"), ("west", "intermediate"), ("east", "data")]
)
def test_whichever_record_of_an_adoption_hears_of_its_disk_counts(
    pair: Handmade, site: str, part: str
) -> None:
    """Of the other stores, which are flushed by none of it."""
    pair.create()
    pair.start()
    direct.sync(pair)
    pair.stop("east", "west")
    settings, state = config.load(str(pair.toml(site))), pair.folder / site / "state"
    before = {path.name: path.read_bytes() for path in state.iterdir() if path.is_file()}
    record = ledger.load(state).volumes[0]
    other = record.intermediate if part == "data" else record.data

    def adopt(platform: SpeaksAt) -> None:
        for name, data in before.items():
            (state / name).write_bytes(data)
        adoption.adopt(settings, "disk", part, lambda _: True, platform=platform)

    for platform in each_sync(adopt):
        doubted = ledger.load(state).unflushed
        assert f"file {other.identity}" in doubted, platform.__dict__


class Speaks(Platform):
    """Tells the first flush of a file or folder once that the disk has lost something."""

    def __init__(self, where: Path) -> None:
        self._where: Path | None = where

    def fsync(self, fd: int, since: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(self._where):
            self._where = None
            self.heard_losses += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(fd, since)


@pytest.fixture
def apart(pair: Handmade, scratch: Path) -> Iterator[Handmade]:
    """West's state folder has a disk of its own: what is in its folder stands there."""
    disk = LosingDisk(pair.folder / "west", scratch / "space")
    for part in ("data", "intermediate"):
        pair.stores["west", part] = str(scratch / part)
    yield pair
    pair.kill()
    disk.close()


def open_west(pair: Handmade, speaks: str) -> None:
    """As a start does, when its state folder's disk speaks to this file's flush."""
    where = pair.folder / "west/state" / speaks
    site = Site(config.load(str(pair.toml("west"))), platform=Speaks(where))
    site.stop()


@needs_loops
@pytest.mark.parametrize("speaks", some(["ledger.new", ""]))
def test_what_a_state_folder_hears_of_its_own_disk_is_nothing_of_the_stores(
    apart: Handmade, speaks: str
) -> None:
    """They stand on another one, for certain: a record that does not stand refuses that start, and
    none after it."""
    apart.create()
    apart.start()
    direct.sync(apart)
    apart.stop("east", "west")
    with pytest.raises(LedgerError, match="written, m") if speaks else contextlib.nullcontext():
        open_west(apart, speaks)
    assert not ledger.load(apart.folder / "west/state").unflushed
    apart.start("west")


@needs_loops
@pytest.mark.parametrize("speaks", some(["ledger.new", ""]))
def test_what_a_state_folder_hears_is_heard_of_the_stores_on_its_disk_alone(
    apart: Handmade, speaks: str
) -> None:
    """The data stands there, and the intermediate on another one."""
    del apart.stores["west", "data"]
    apart.create()
    apart.start()
    direct.sync(apart)
    apart.stop("east", "west")
    with pytest.raises(StoreError, match="a later one does not tell"):
        open_west(apart, speaks)
    book = ledger.load(apart.folder / "west/state")
    assert book.unflushed == (f"file {book.volumes[0].data.identity}",)
    with pytest.raises(CommandFailed, match=r"disk.img: a flush of what was put there .* failed"):
        apart.start("west")


@needs_loops
@pytest.mark.parametrize("where", some(["ledger.new", "."]))
def test_what_the_record_of_a_seed_hears_of_another_disk_is_nothing_of_the_seed(
    apart: Handmade, where: str
) -> None:
    """Given again, the command asks for nothing; nor does a start whose log hears the like."""
    data = random.Random(4).randbytes(apart.size)
    apart.create()
    apart.start("east")
    with apart.client() as client:
        client.write(0, data)
    Path(apart.store("west", "data")).write_bytes(data)
    done = record_of_a_seed(apart, where)
    assert done.returncode == (0 if where == "." else 1)
    apart.run("seed", str(apart.toml("west")))
    with pytest.raises(LedgerError, match="Input/output error"):
        open_west(apart, "")
    apart.start("west")
    direct.sync(apart)
    assert int(value(scrape(apart, "east"), 'equal_bytes_total{volume="disk"}')) == apart.size


def test_what_was_put_back_is_flushed_before_a_blank_intermediate_is_asked_for(
    pair: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which flushes it, where a file system does not tell of holes: of one disk, which speaks once,
    what counts hears first."""
    pair.create("east")
    opened: list[str] = []
    at_the_flush: list[str] = []
    flush = stores.flush_put_back

    def open_store(where: str, timeout_s: float) -> stores.Opened:
        opened.append(where)
        return stores.open_store(where, timeout_s)

    def flushed(*rest: Any, **named: Any) -> None:
        at_the_flush.extend(opened)
        flush(*rest, **named)

    monkeypatch.setattr(stores, "flush_put_back", flushed)
    site = Site(config.load(str(pair.toml("east"))), open_store=open_store)
    site.start()
    site.ending()
    site.stop()
    assert at_the_flush == [pair.store("east", "data")]
    assert opened == [pair.store("east", part) for part in ("data", "intermediate")]


def test_a_check_says_of_a_flush_in_another_boot_what_a_start_does(pair: Handmade) -> None:
    """A flush that was under way when the machine went down has told nobody anything."""
    pair.create()
    pair.start("west")
    pair.stop("west")
    state = pair.folder / "west/state"
    book = ledger.load(state)
    names = tuple(
        f"file {v.identity}" for v in (book.volumes[0].data, book.volumes[0].intermediate)
    )
    ledger.save(state, replace(book, flushing=names, flushing_boot="another"))
    rows = flashmirror("check", str(pair.toml("west"))).stdout
    assert "a start was killed" not in rows, rows
    pair.start("west")
