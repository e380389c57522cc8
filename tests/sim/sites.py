"""A simulated machine with production's Site on it: boots, stops, crashes, and its disks.

The Site is production's own, constructor, stop and all; only what opens a store, what locks the
folder, and the exec at the end of a promotion, is replaced.  Its control thread becomes a task.
A store is a file, or behind a server, which may go with what was not flushed and come back, while
the site runs or not; whether it can be known again (server_instance.py) is drawn (Shape), and in
which boot of the machine a life is (platform.py).

A site that stops does as nbdkit has it do: no connection is taken, those there are end, and when
no request is left it closes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mirror_core import (
    adoption,
    below,
    config,
    driver,
    hardlog,
    ledger,
    mapfile,
    native,
    protocol,
    resync,
    site,
    stores,
    target,
)
from mirror_core.errors import LedgerError, MirrorError, StoreError
from mirror_core.identity import Identity
from sim import simos
from sim.content import Content, Point
from sim.core import ffi, lib
from sim.oracle import NO_POINT, History
from sim.sched import NS, Life, SiteDead, bytes_at, current
from sim.shape import sectors_in
from sim.stalls import stalls

if TYPE_CHECKING:
    from sim.world import World

_PATHS = {name: Path(name) for name in ("sim.toml", "east", "west", "north", "state")}
PARTS = ("data", "intermediate")
_DISKS = {
    "east": 10,
    "west": 20,
    "east*": 50,
    "west*": 60,
    "north": 70,
}  # the number of its first one
STOP_S = 20.0  # of clients, whose writes may wait, of the control thread, and of slow stores
REGION = 1024  # of the intent log, bytes: a few blocks, so that there are several regions


@functools.lru_cache(64)
def load(data: bytes) -> ledger.Ledger:
    """The oracle's: it finds the same ledger again and again."""
    return ledger.decode(data, "ledger")


class SimConfig(config.SiteConfig):
    def peer_uri(self, export: str) -> str:
        return f"{self.peer}/{export.lstrip('/')}" if export != "/control" else f"{self.peer}/"


class SimMaps:
    """What a kill leaves of a source's maps, and a power loss takes: Machine.maps.  With which
    ledgers they count is one for all volumes of a life, of which some may have no memory for them.
    A life after a kill may look in another folder (RUNTIME_DIRECTORY), and one after that in the
    first again."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.counts = mapfile.Counts("", "", b"", b"")
        self.of: set[str] = set()

    def share(
        self, book: ledger.Ledger, record: ledger.VolumeRecord, run: str, volume: native.Volume
    ) -> SimMaps:
        """They are read where they are (Machine.crash)."""
        if self._machine.world.random.random() < self._machine.no_memory:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.counts = mapfile.new(book, run)
        self.of.add(record.name)
        return self

    def may_go_with(self, book: ledger.Ledger) -> None:
        self.counts = self.counts.before(book)

    def go_with(self, book: ledger.Ledger) -> None:
        self.counts = self.counts.after(book)

    def close(self) -> None:
        pass

    def look(self, book: ledger.Ledger) -> mapfile.Found:
        found = self._machine.look_for_maps(book)
        if found is mapfile.Found.LATER:
            self._machine.world.reach("maps of a later ledger")
        return found

    def restore(
        self, book: ledger.Ledger, record: ledger.VolumeRecord, volume: native.Volume
    ) -> bool:
        kept = self._machine.kept(book)
        if kept is None or record.name not in kept.runs:
            return False
        self._machine.world.counts["maps outlived a kill"] += 1
        for first, count in kept.runs[record.name]:
            volume.mark(first, count)
        return not kept.contained and not self._machine.contained

    def remove(self, site: str, run: str) -> None:
        if run in self._machine.maps and self._machine.maps[run].folder == self._machine.folder:
            del self._machine.maps[run]

    def remove_others(self, site: str, run: str) -> None:
        folder = self._machine.folder
        for other, kept in [*self._machine.maps.items()]:
            if other != run and kept.folder == folder:
                del self._machine.maps[other]


@dataclass(frozen=True)
class KeptMaps:
    counts: mapfile.Counts
    commits: frozenset[Point]  # of the ledgers that stood at the kill: on the disk, in memory
    begun: int  # of them
    was_up: bool  # so that a ledger has named the run
    runs: dict[str, list[tuple[int, int]]]  # by volume, of those that had memory for them
    folder: int  # in which they stand
    contained: bool  # they do not say in which boot they were made


@dataclass(frozen=True)
class Stood:
    """Files of a state folder that are gone, or older ones stand there (files.py)."""

    files: Mapping[str, bytes]  # what stood there
    as_before: Callable[[], None]  # the oracle is told that it is put back


class Incarnation(Life):
    """A site from its boot to its end, or a command on a site that does not run."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.name)
        self.machine = machine
        self.stores: list[tuple[str, native.Store]] = []  # that it has opened, by what name
        self.site: site.Site | None = None
        self.up = False
        self.is_first = False  # the first since it became a source in which clients were served
        self.promoters = 0  # who have asked for it
        self.is_resuming = False  # a person has asked for it, and has no answer yet
        self.anew = False  # the process is to begin again
        self.contained = machine.contained
        machine.was_contained |= self.contained
        self.refused: MirrorError | None = None  # it did not start, or did not stop in order

    def open_stores(self, where: str | None = None) -> list[native.Store]:
        """Those that it has not closed; of that name."""
        wanted = (store for name, store in self.stores if where in (None, name))
        return [store for store in wanted if store._handle != ffi.NULL]

    @property
    def has_volumes(self) -> bool:
        """An orderly stop closes them, and then calls the platform still."""
        return self.site is not None and all(
            member.native._handle != ffi.NULL for member in self.site.members
        )

    @property
    def control(self) -> driver.Driver | target.Target | None:
        """Of a site that is up."""
        return self.site.control if self.site and self.up else None

    @property
    def source(self) -> driver.Driver | None:
        return self.control if isinstance(self.control, driver.Driver) else None

    @property
    def target(self) -> target.Target | None:
        return self.control if isinstance(self.control, target.Target) else None


class SimStore(native.Store):
    """A disk as its machine has it: a file, or behind a server."""

    def __init__(self, machine: Machine, volume: str, part: str) -> None:
        key = volume, part
        disk, served = machine.disks[key], key in machine.served
        handle = lib.sim_server_open(disk, machine.lazy) if served else lib.sim_file_open(disk)
        super().__init__(handle, "nbd" if served else "file")
        self._number = list(machine.disks).index(key)
        self._disk = machine.disks[key]

    def drop_cache(self) -> None:
        lib.sim_disk_drop(self._disk)

    def server_socket(self) -> int:
        """In place of a descriptor: which store it is (Machine.served_by)."""
        try:
            return super().server_socket()
        except OSError as error:
            if error.errno != errno.ENOTCONN or not lib.fm_store_has_anchor(self._handle):
                raise
            return self._number


class SimFile(stores.Opened):
    """One that our own kernel alone caches, and drops when it is told to."""

    def drop_cache(self) -> None:
        cast(SimStore, self.store).drop_cache()


class Machine:
    """A site's disks and state folder, which outlive its incarnations."""

    def __init__(self, world: World, name: str, peer: str, volumes: dict[str, int]) -> None:
        self.world, self.name, self.peer = world, name, peer
        self.site = name.rstrip("*")  # as it calls itself: a copy (copies.py) has the same name
        self.lazy = world.random.choice((0, 0, 1, 3))
        self.fs = simos.SimFs()
        self.life: Incarnation | None = None
        self.disks: dict[tuple[str, str], Any] = {}
        self.sizes = volumes
        self.was_slow = False  # a store of it, at any time
        self.bomb: simos.Bomb | None = None  # exceptions at calls of the platform
        self.maps: dict[str, KeptMaps] = {}  # by run
        self.passed_over: set[str] = set()  # runs whose maps a later one has not found
        self.no_memory = world.random.choice((0.0, 0.0, 0.5))  # the chance, of a volume's
        self.folder = 0  # in which a life has its maps, and looks for those before
        self.boots = 0  # of the machine itself
        self.booted_ns = 0
        self.was_killed = False  # how its last life has ended
        self.served: dict[tuple[str, str], int] = {}  # by a server: which one of those so far
        self.apart: set[tuple[str, str]] = set()  # that stand on a disk of their own
        self.local: set[tuple[str, str]] = set()  # whose cache the own kernel has, and drops
        self.content: Content | None = None  # of a source: what its clients know
        self.follows: History | None = None  # of a target, and of a source that was one
        self.away = False  # its intermediates cannot be opened
        self.went_back = False  # something of it was put back to an older copy, or it is one
        self.contained = self._is_contained()  # its next life does not know in which boot it is
        self.was_contained = False  # a life of it did not know in which boot it was
        self.forgot_servers = False  # what it knew of its stores' servers was lost, or made older
        self.was_source = False  # so its last life was that came up
        self.lost_copy = (
            False  # a flush, at a start, of what a person had put there may have failed
        )
        self.is_mixed = False  # its state went back without its data, and it does not know
        self.is_copy = False  # its state folder came back file by file, and it knows that
        self.cut_image, self.cut_data = NO_POINT, False  # of which some was cut off (cuts.py)
        self.cut_later = NO_POINT  # or may have been, as it was about to be committed
        self.unjudged = NO_POINT  # an image that is a mixture, and known to be (copies.py)
        self.stood: Stood | None = None  # what a person can put back, while it has not been up
        # Not 0: the disks of its files, but those that stand apart, and of its state folder, are
        # one, which loses as one.
        self.below = _DISKS[name] if world.shape.one_disk else 0
        for volume, size in volumes.items():
            for part in PARTS:
                number = len(self.disks) + _DISKS[name]
                disk = lib.sim_disk_new(number, size)
                self.disks[volume, part] = ffi.gc(disk, lib.sim_disk_free)
                if world.random.random() < 0.3:
                    lib.sim_disk_emulate(disk)
                if world.random.random() < world.shape.served:
                    self.served[volume, part] = 1
                    continue
                if self.below and world.random.random() < 0.2:
                    self.apart.add((volume, part))
                elif self.below:
                    lib.sim_disk_share(disk, self.below)
                if world.random.random() < world.shape.local:
                    self.local.add((volume, part))
                    lib.sim_disk_ours(disk)

    def config_for(self) -> SimConfig:
        is_older = self.world.shape.older and current().random.random() < self.world.shape.older
        volumes = tuple(
            config.VolumeConfig(v, f"{v}/data", f"{v}/intermediate") for v in self.sizes
        )
        return SimConfig(
            _PATHS["sim.toml"], self.site, _PATHS[self.site], _PATHS[self.peer],
            _PATHS["state"], None, volumes,
            preserve=self.world.shape.preserve, block_size=self.world.block,
            intent_region=REGION, on_link_loss=self.world.shape.on_link_loss,
            protocol=protocol.OLDEST if is_older else protocol.VERSION,
        )  # fmt: skip

    def create(self, role: ledger.Role, *, seeded: bool = False, lineage: str = "1" * 32) -> None:
        """As `flashmirror create`, and `seed`."""
        records = tuple(
            ledger.VolumeRecord(
                v, size, self.world.block,
                *(ledger.StoreRecord("file", f"{v}/{part}") for part in PARTS),
            )
            for v, size in self.sizes.items()
        )  # fmt: skip
        history = ledger.Lineage(lineage) if role == "source" else None
        first = ledger.Ledger(
            self.name, self.name, role, history, records, seeded=seeded,
            since=1e9 + lib.sim_clock_ns / NS,
        )  # fmt: skip
        self.fs.put("ledger", ledger.encode(first))

    def all_disks(self) -> list[Any]:
        """Of the volumes, and of the files of the state folder that the core writes."""
        logs = [inode.disk for inode in self.fs.names.values() if inode.disk is not None]
        return [*self.disks.values(), *logs]

    def heal(self) -> None:
        self.away = False
        self.fs.failing, self.fs.failing_name, self.fs.failing_syncs = 0, "", False
        if self.bomb:
            self.bomb.spent = True
        for disk in self.all_disks():
            lib.sim_disk_fail(disk, 0, 0, 0)
            lib.sim_disk_slow(disk, 0, 0)

    # ---- what the disks hold

    def images(self, part: str) -> tuple[bytes, ...]:
        return tuple(
            bytes_at(lib.sim_disk_now(self.disks[volume, part]), size)
            for volume, size in self.sizes.items()
        )

    def safe(self) -> tuple[bytes, ...]:
        """Of the data: after a power loss that takes all that was not flushed."""
        return tuple(
            bytes_at(lib.sim_disk_safe(self.disks[volume, "data"]), size)
            for volume, size in self.sizes.items()
        )

    def stale(self) -> set[tuple[int, int]]:
        """Of the data: volumes and sectors that a cache shows and no flush will write."""
        return {
            (number, sector)
            for number, (volume, size) in enumerate(self.sizes.items())
            for sector, is_stale in enumerate(
                bytes_at(lib.sim_disk_stale(self.disks[volume, "data"]), sectors_in(size))
            )
            if is_stale
        }

    def evict(self) -> None:
        for volume in self.sizes:
            lib.sim_disk_evict(self.disks[volume, "data"])

    def is_doubted(self, number: int) -> bool:
        """Of a data store: a kill may have made its clients' flushes fail, because nobody knows
        whether its server is the one that it was, nor in which boot that was; that of a copy is
        another one.  Nor does a start of a site that was promoted, after one that was killed, know
        that nobody was served yet."""
        is_served = (list(self.sizes)[number], "data") in self.served
        first = self.life is not None and self.life.is_first
        known = self.world.shape.known and not self.forgot_servers and not first
        return self.went_back or self.was_contained or (is_served and not known)

    def survivors(self, part: str, keep: float) -> tuple[tuple[bytes, ...], int]:
        """After a power loss; and how many writes of sectors are lost."""
        images, lost = [], 0
        for volume, size in self.sizes.items():
            out = ffi.new("char[]", size)
            lost += lib.sim_disk_survivors(self.disks[volume, part], int(256 * keep), out)
            images.append(bytes_at(out, size))
        return tuple(images), lost

    def fill(self, part: str, images: tuple[bytes, ...], *, flushed: bool = True) -> None:
        fill = lib.sim_disk_reset if flushed else lib.sim_disk_fill
        for volume, image in zip(self.sizes, images, strict=True):
            fill(self.disks[volume, part], image)

    # ---- its lives

    def _begin(self, what: str, work: Callable[[Incarnation], None]) -> None:
        assert self.life is None
        life = self.life = Incarnation(self)

        def run() -> None:
            try:
                work(life)
            except MirrorError as error:
                current().trace(f"does not {what}: {error}")
                life.refused = error
            except Exception as error:
                if not (self.bomb and self.bomb.thrown):
                    raise
                current().trace(f"ends in its {what}: {error!r}")
                life.refused = MirrorError(repr(error))

        current().spawn(life, f"{self.name}: {what}", run)

    def boot(self) -> None:
        self._begin("boot", self._boot)

    def _open_store(self, life: Incarnation, where: str, _timeout_s: float) -> stores.Opened:
        volume, _, part = where.partition("/")
        if self.away and part == "intermediate":
            if self.content:
                self.world.reach("a source without its intermediate")
            raise StoreError(f"{where}: No such file or directory", errno.ENOENT)
        store = SimStore(self, volume, part)
        life.stores.append((where, store))
        ours = (volume, part) in self.local
        kind, size = SimFile if ours else stores.Opened, self.sizes[volume]
        return kind(where, store, size, Identity("file", where), None, cached_here=ours)

    def served_by(self, number: int) -> str | None:
        """In place of server_instance.identify."""
        instance = self.served.get(list(self.disks)[number])
        return f"server {instance}" if instance and self.world.shape.known else None

    def _stands_on(self, key: tuple[str, str]) -> int:
        return 0 if key in self.served or key in self.apart else self.below

    def _boot(self, life: Incarnation) -> None:
        platform = simos.SimPlatform(self, life)
        life.site = site.Site(
            self.config_for(),
            platform=platform,
            open_store=functools.partial(self._open_store, life),
            maps=SimMaps(self),
            shares=lambda opened: below.Numbers({key: self._stands_on(key) for key in opened}),
            served_by=self.served_by,
            refuse_anew=lambda _config, _book: None,
            begin_anew=lambda _config: platform.abort(),
        )
        self.world.opened(self, life)
        try:
            life.site.start()
        except Exception:
            life.site = None  # it has closed what it had opened
            raise

    def is_up(self, life: Incarnation) -> None:
        """Its control thread has begun."""
        life.up, self.stood = True, None
        self.passed_over |= self.maps.keys()
        assert life.site
        source = life.site.book.current.role == "source"
        life.is_first, self.was_source = source and not self.was_source, source
        current().trace("is up")
        self.world.started(self, life)

    def stop(self) -> None:
        """In order: the life ends, unless something comes in between."""
        life = self.life
        assert life and life.up
        life.stopping = True
        scheduler = current()

        def run() -> None:
            site_now, began = life.site, lib.sim_clock_ns
            assert site_now
            site_now.ending()
            wait_ns = NS // 1000
            not_clients = f"{self.name}: control", f"{self.name}: stop"
            while any(t.life is life and t.name not in not_clients for t in scheduler.tasks):
                scheduler.wait(lib.sim_clock_ns + wait_ns)
                wait_ns = min(2 * wait_ns, NS // 4)
            try:
                site_now.stop()
            except MirrorError as error:
                scheduler.trace(f"does not stop in order: {error}")
                life.refused = error
                return
            except Exception as error:
                if not (self.bomb and self.bomb.thrown):
                    raise
                life.refused = MirrorError(repr(error))
                return
            self.world.took(life, "stop", began, STOP_S)
            scheduler.trace("stopped")
            life.dead, self.life = True, None
            self.world.stopped(self)

        scheduler.spawn(life, f"{self.name}: stop", run)

    def resync(self) -> None:
        """As `flashmirror resync --full --force`."""

        def work(life: Incarnation) -> None:
            resync.resync_full(
                self.config_for(), force=True, platform=simos.SimPlatform(self, life)
            )
            current().trace("gives up its history")
            self.cut_image = self.cut_later = self.unjudged = NO_POINT
            self.cut_data = self.is_copy = False  # its numbers begin anew
            life.dead, self.life, self.stood = True, None, None

        self._begin("resync", work)

    def adopt(self, *stores_of: str, unchanged: bool = False) -> None:
        """As `flashmirror adopt --yes` of a volume and a part, and perhaps of more."""

        def work(life: Incarnation) -> None:
            for volume, part in zip(stores_of[::2], stores_of[1::2], strict=True):
                look = adoption.adopt(
                    self.config_for(), volume, part, lambda _: True, unchanged=unchanged,
                    platform=simos.SimPlatform(self, life),
                    open_store=functools.partial(self._open_store, life),
                    look_for_maps=self.look_for_maps,
                )  # fmt: skip
                current().trace(f"adopts {volume} {part}: {look.effect}")
                self.stood = None
            life.dead, self.life = True, None

        self._begin("adopt", work)

    def look_for_maps(self, book: ledger.Ledger) -> mapfile.Found:
        """As mapfile.look."""
        here = [kept.counts for kept in self.maps.values() if kept.folder == self.folder]
        return mapfile.judge(book, here)

    def kept(self, book: ledger.Ledger) -> KeptMaps | None:
        """The maps that a life with this ledger finds."""
        found = self.maps.get(book.run)
        return found if found and found.folder == self.folder else None

    def _is_contained(self) -> bool:
        chance = self.world.shape.contained
        return chance > 0 and self.world.random.random() < chance

    def crash(self) -> None:
        """The process ends here; its disks and files stay as they are at this instant."""
        life = self.life
        assert life
        life.dead, self.life = True, None
        if life.site and life.has_volumes and life.site.book.current.role == "source":
            assert isinstance(life.site._maps, SimMaps)
            if runs := self._maps_of(life.site):
                books = (life.site.book.current, self.book_on_disk(self.fs))
                commits = frozenset((book.committed, book.committed_token) for book in books)
                self.maps[life.site._run] = KeptMaps(
                    life.site._maps.counts, commits, books[0].begun, life.up, runs,
                    self.folder, life.contained,
                )  # fmt: skip
            self.folder = int(self.world.random.random() < 0.15)
        self.contained = self._is_contained()
        for store in life.open_stores():
            lib.sim_store_kill(store._handle)

        def end_waits() -> None:
            """Nobody is left who could end a writer's wait; a freeze that was under way may
            have begun another cycle since the last time."""
            if life.site and life.has_volumes:
                life.site.copier.fail(errno.EIO)

        current().unwind(life, end_waits)
        if life.site:
            life.site._maps_count = True  # nobody removes them
            if life.has_volumes:
                life.site.copier.fail(errno.EIO)
                life.site.copier.unlink()
            with contextlib.suppress(SiteDead):  # the memory is freed, no file is touched
                life.site._undo.close()

    @staticmethod
    def _maps_of(opened: site.Site) -> dict[str, list[tuple[int, int]]]:
        """As they are at this instant in shared memory (mapfile.py), all in one."""
        assert isinstance(opened._maps, SimMaps)
        return {
            member.name: [
                run for which in range(native.STABLE + 1) for run in member.native.runs(which)
            ]
            for member in opened.members
            if member.name in opened._maps.of
        }

    def lose_power(self, keep: float) -> tuple[int, int]:
        """After a crash: what was not flushed is lost; (writes lost, files torn)."""
        lost = 0
        self.maps.clear()
        self.boots += 1
        self.booted_ns = lib.sim_clock_ns
        for key in self.served:
            self.served[key] += 1
        for part in PARTS:
            images, gone = self.survivors(part, keep)
            self.fill(part, images)
            lost += gone
        self.fs, torn = self.fs.survivors(current().random, keep)
        return lost, torn

    def restart_server(self, number: int, part: str, keep: float) -> int:
        """The server of a store goes with what was not flushed, and comes back; writes lost."""
        volume, size = list(self.sizes.items())[number]
        disk = self.disks[volume, part]
        out = ffi.new("char[]", size)
        lost = int(lib.sim_disk_survivors(disk, int(256 * keep), out))
        lib.sim_disk_reset(disk, bytes_at(out, size))
        self.served[volume, part] += 1
        for store in self.life.open_stores(f"{volume}/{part}") if self.life else ():
            lib.sim_store_restart(store._handle)
        return lost

    def holds_mixture(self) -> bool:
        """A target whose image is of two moments (copies.py), and which does not know that."""
        book = self.book_on_disk(self.fs)
        return not self.is_copy and (book.committed, book.committed_token) == self.unjudged

    def book_on_disk(self, fs: simos.SimFs) -> ledger.Ledger:
        """What a boot now would find; of files that are lost, once they are put back.
        LedgerError."""
        reader = simos.Reader(fs, self.stood.files if self.stood else {})
        book = load(reader.read(_PATHS["state"] / "ledger"))
        if book.role != "target" or book.clean:
            return book
        try:
            with stalls.none():
                return hardlog.recover(_PATHS["state"], book, reader)
        except LedgerError:
            if (book.committed, book.committed_token) != self.unjudged:
                raise
            return book  # an older one, whose log is gone
