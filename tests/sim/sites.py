"""A simulated machine with production's Site on it: boots, stops, crashes, and its disks.

The Site is production's own, constructor, stop and all; only what opens a store, what locks the
folder, and the exec at the end of a promotion, is replaced.  Its control thread becomes a task.
A site that stops does as nbdkit has it do: no connection is taken, those there are end, and when
no request is left it closes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from mirror_core import book as book_module
from mirror_core import (
    config,
    driver,
    hardlog,
    journal,
    ledger,
    native,
    promotion,
    resync,
    runlog,
    session,
    site,
    stores,
    target,
)
from mirror_core.errors import LedgerError, MirrorError
from sim import simos
from sim.core import ffi, lib
from sim.oracle import SECTOR, Content, History
from sim.sched import NEVER, NS, Life, bytes_at, current

if TYPE_CHECKING:
    from sim.world import World

_PATHS = {name: Path(name) for name in ("sim.toml", "east", "west")}
PARTS = ("data", "intermediate")
INTENT_BYTES = 4096
REGION_SHIFT = 10  # of the intent log: a few blocks, so that there are several regions


@functools.lru_cache(64)
def _load(data: bytes) -> ledger.Ledger:
    """The oracle's: it finds the same ledger again and again."""
    return ledger.decode(data, "ledger")


class QuietJournal(journal.Journal):
    def say(self, text: str) -> None:
        current().trace(text)


def patch_production() -> None:
    """Once a process: production's modules use the simulated system."""
    for module in (ledger, runlog, site, promotion, resync):
        setattr(module, "os", simos.OS)  # noqa: B010
    for module in (driver, target, book_module):
        setattr(module, "threading", simos.THREADING)  # noqa: B010
    for module in (driver, target, site):
        setattr(module, "time", simos.TIME)  # noqa: B010
    setattr(driver, "random", simos.RANDOM)  # noqa: B010
    for module in (session, target, site):
        setattr(module, "secrets", simos.SECRETS)  # noqa: B010
    setattr(promotion, "process", SimpleNamespace(begin_anew=_begin_anew))  # noqa: B010
    setattr(stores, "_SAMPLE", SECTOR)  # noqa: B010
    setattr(stores, "_SAMPLES", 3)  # noqa: B010
    # A thread that is never started needs nothing of a thread.
    setattr(threading.Thread, "__init__", lambda _thread, name: None)  # noqa: B010
    setattr(site, "Journal", QuietJournal)  # noqa: B010
    for module in (site, resync):
        setattr(module, "lock_state", lambda _config: -1)  # noqa: B010
    setattr(site, "write_pid", lambda _fd: None)  # noqa: B010


def _begin_anew(_config: config.SiteConfig) -> None:
    """An exec: the world kills what runs and boots."""
    scheduler = current()
    life = scheduler.current and scheduler.current.life
    assert isinstance(life, Incarnation)
    life.anew = True
    scheduler.ask_world()
    scheduler.wait(NEVER)


class SimConfig(config.SiteConfig):
    def peer_uri(self, export: str) -> str:
        return f"{self.peer}/{export.lstrip('/')}" if export != "/control" else f"{self.peer}/"


class SimSite(site.Site):
    """Production's Site, whose stores are a machine's disks."""

    def __init__(self, machine: Machine, life: Incarnation) -> None:
        self._machine, self._life = machine, life
        super().__init__(machine.config_for(life))

    def _open_stores(
        self, undo: contextlib.ExitStack, current: ledger.Ledger
    ) -> dict[tuple[str, str], stores.Opened]:
        opened = {}
        for record in current.volumes:
            for part in PARTS:
                handle = lib.sim_store_open(
                    self._machine.disks[record.name, part], self._machine.lazy
                )
                self._life.handles.append(handle)
                store = native.Store(handle, "file")
                undo.callback(store.close)
                where = self._machine.where(record.name, part)
                one = stores.Opened(where, store, record.size, "file", where, None)
                size = record.size if current.clean else 0
                stores.verify(one, getattr(record, part), "", size)
                opened[record.name, part] = one
        return opened

    def _keep_maps(
        self, volume: native.Volume, record: ledger.VolumeRecord, current: ledger.Ledger
    ) -> None:
        """What a kill leaves of them is Machine.maps, which a power loss takes."""

    def _restore_exact(
        self, volume: native.Volume, record: ledger.VolumeRecord, current: ledger.Ledger
    ) -> bool:
        kept = self._machine.maps.get(current.run)
        if kept is None:
            return False
        self._machine.world.counts["maps outlived a kill"] += 1
        for first, count in kept[record.name]:
            volume.mark(first, count)
        return True

    def _remove_maps(self, *, but: str) -> None:
        for run in [run for run in self._machine.maps if run != but]:
            del self._machine.maps[run]

    def maps(self) -> dict[str, list[tuple[int, int]]]:
        """As they are at this instant in shared memory (mapfile.py), all in one."""
        return {
            member.name: [
                run for which in range(native.STABLE + 1) for run in member.native.runs(which)
            ]
            for member in self.members
        }

    def _open_intent(self, record: ledger.VolumeRecord, current: ledger.Ledger) -> native.Intent:
        """On a disk of its own, which loses what was not flushed as the others do."""
        handle = lib.sim_store_open(self._machine.intents[record.name], 0)
        self._life.handles.append(handle)
        shift = max(REGION_SHIFT, record.block_size.bit_length() - 1)
        try:
            return native.Intent(native.Store(handle, "file"), 0, record.size, shift)
        except OSError as error:
            raise LedgerError("intent log", error.errno or 0) from error


class Incarnation(Life):
    """A site from its boot to its end, or a command on a site that does not run."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.handles: list[Any] = []  # its stores
        self.site: SimSite | None = None
        self.up = False
        self.stopping = False
        self.anew = False  # the process is to begin again
        self.refused: MirrorError | None = None  # it did not start, or did not stop in order

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


class Machine:
    """A site's disks and state folder, which outlive its incarnations."""

    def __init__(self, world: World, name: str, peer: str, volumes: dict[str, int]) -> None:
        self.world, self.name, self.peer = world, name, peer
        self.lazy = world.random.choice((0, 0, 1, 3))
        self.fs = simos.SimFs()
        self.life: Incarnation | None = None
        self.disks: dict[tuple[str, str], Any] = {}
        self.intents: dict[str, Any] = {}  # the disks of the intent logs
        self.sizes = volumes
        self.maps: dict[str, dict[str, list[tuple[int, int]]]] = {}  # by run and volume
        self.content: Content | None = None  # of a source: what its clients know
        self.follows: History | None = None  # of a target, and of a source that was one
        for volume, size in volumes.items():
            for part in PARTS:
                number = len(self.disks) + (10 if name == "east" else 20)
                disk = lib.sim_disk_new(number, size)
                self.disks[volume, part] = ffi.gc(disk, lib.sim_disk_free)
            log = lib.sim_disk_new(len(self.disks) + (30 if name == "east" else 40), INTENT_BYTES)
            self.intents[volume] = ffi.gc(log, lib.sim_disk_free)

    def config_for(self, life: Incarnation) -> SimConfig:
        volumes = tuple(config.VolumeConfig(v, f"{v}.img", f"{v}.mid") for v in self.sizes)
        return SimConfig(
            _PATHS["sim.toml"], self.name, _PATHS[self.name], _PATHS[self.peer],
            cast(Path, simos.SimPath(self.fs, life)), None, volumes,
            preserve=self.world.preserve, block_size=self.world.block,
        )  # fmt: skip

    def create(self, role: ledger.Role) -> None:
        """As `flashmirror create`."""
        records = tuple(
            ledger.VolumeRecord(
                v, size, self.world.block,
                *(ledger.StoreRecord("file", self.where(v, part)) for part in PARTS),
            )
            for v, size in self.sizes.items()
        )  # fmt: skip
        lineage = ledger.Lineage("1" * 32) if role == "source" else None
        first = ledger.Ledger(self.name, self.name, role, lineage, records)
        self.fs.put("ledger", ledger.encode(first))

    def where(self, volume: str, part: str) -> str:
        return f"{self.name}/{volume}/{part}"

    # ---- what the disks hold

    def images(self, part: str) -> tuple[bytes, ...]:
        return tuple(
            bytes_at(lib.sim_disk_now(self.disks[volume, part]), size)
            for volume, size in self.sizes.items()
        )

    def survivors(self, part: str, keep: float) -> tuple[tuple[bytes, ...], int]:
        """After a power loss; and how many writes of sectors are lost."""
        images, lost = [], 0
        for volume, size in self.sizes.items():
            out = ffi.new("char[]", size)
            lost += lib.sim_disk_survivors(self.disks[volume, part], int(256 * keep), out)
            images.append(bytes_at(out, size))
        return tuple(images), lost

    def fill(self, part: str, images: tuple[bytes, ...]) -> None:
        for volume, image in zip(self.sizes, images, strict=True):
            lib.sim_disk_reset(self.disks[volume, part], image)

    # ---- its lives

    def _begin(self, what: str, work: Callable[[Incarnation], None]) -> None:
        assert self.life is None
        life = self.life = Incarnation(self.name)

        def run() -> None:
            try:
                work(life)
            except MirrorError as error:
                current().trace(f"does not {what}: {error}")
                life.refused = error
                if life.site is None:
                    life.handles.clear()  # the stores were closed: not to be killed

        current().spawn(life, f"{self.name}: {what}", run)

    def boot(self) -> None:
        self._begin("boot", self._boot)

    def _boot(self, life: Incarnation) -> None:
        scheduler = current()
        opened = SimSite(self, life)
        life.site = opened

        def start() -> None:
            task = scheduler.spawn(life, f"{self.name}: control", opened.control._run)

            def join() -> None:
                while task in scheduler.tasks:
                    scheduler.wait(lib.sim_clock_ns + NS // 1000)

            setattr(opened.control, "join", join)  # noqa: B010
            life.up = True
            scheduler.trace("is up")
            self.world.started(self, life)

        setattr(opened.control, "start", start)  # noqa: B010
        self.world.opened(self, life)
        opened.start()

    def stop(self) -> None:
        """In order: the life ends, unless something comes in between."""
        life = self.life
        assert life and life.up
        life.stopping = True
        scheduler = current()

        def run() -> None:
            site_now = life.site
            assert site_now
            while len([t for t in scheduler.tasks if t.life is life]) > 2:  # its control, and this
                scheduler.wait(lib.sim_clock_ns + NS // 1000)
            try:
                site_now.stop()
            except MirrorError as error:
                scheduler.trace(f"does not stop in order: {error}")
                life.refused = error
                return
            scheduler.trace("stopped")
            life.dead, self.life = True, None
            self.world.stopped(self)

        scheduler.spawn(life, f"{self.name}: stop", run)

    def resync(self) -> None:
        """As `flashmirror resync --full --force`."""

        def work(life: Incarnation) -> None:
            resync.resync_full(self.config_for(life), force=True)
            current().trace("gives up its history")
            life.dead, self.life = True, None

        self._begin("resync", work)

    def crash(self) -> None:
        """The process ends here; its disks and files stay as they are at this instant."""
        life = self.life
        assert life
        life.dead, self.life = True, None
        if life.site and life.site.book.current.role == "source":
            self.maps[life.site._run] = life.site.maps()
        for handle in life.handles:
            lib.sim_store_kill(handle)

        def end_waits() -> None:
            """Nobody is left who could end a writer's wait; a freeze that was under way may
            have begun another cycle since the last time."""
            if life.site:
                life.site.copier.fail(errno.EIO)

        current().unwind(life, end_waits)
        if life.site:
            life.site._maps_count = True  # nobody removes them
            life.site.copier.unlink()
            life.site._undo.close()

    def lose_power(self, keep: float) -> tuple[int, int]:
        """After a crash: what was not flushed is lost; (writes lost, files torn)."""
        lost = 0
        self.maps.clear()
        for part in PARTS:
            images, gone = self.survivors(part, keep)
            self.fill(part, images)
            lost += gone
        for log in self.intents.values():
            out = ffi.new("char[]", INTENT_BYTES)
            lost += lib.sim_disk_survivors(log, int(256 * keep), out)
            lib.sim_disk_reset(log, bytes_at(out, INTENT_BYTES))
        self.fs, torn = self.fs.survivors(current().random, keep)
        return lost, torn

    def restart_server(self, number: int, part: str, keep: float) -> int:
        """The server of a store goes with what was not flushed, and comes back; writes lost."""
        volume, size = list(self.sizes.items())[number]
        disk = self.disks[volume, part]
        out = ffi.new("char[]", size)
        lost = int(lib.sim_disk_survivors(disk, int(256 * keep), out))
        lib.sim_disk_reset(disk, bytes_at(out, size))
        place = len(PARTS) * number + PARTS.index(part)
        if self.life and place < len(self.life.handles):
            lib.sim_store_restart(self.life.handles[place])
        return lost

    def book_on_disk(self, fs: simos.SimFs) -> ledger.Ledger:
        """What a boot now would find.  LedgerError."""
        state = cast(Path, simos.SimPath(fs, Life(self.name)))
        book = _load(ledger.path_in(state).read_bytes())
        return hardlog.recover(state, book) if book.role == "target" and not book.clean else book
