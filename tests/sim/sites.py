"""A simulated machine with production's Site on it: boots, crashes, and what is on its disks.

The Site is production's own, constructor and all; only what opens a store, and what locks the
folder, is replaced.  Its control thread becomes a task.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mirror_core import book as book_module
from mirror_core import config, driver, hardlog, journal, ledger, native, site, stores, target
from mirror_core.errors import LedgerError, MirrorError
from sim import simos
from sim.core import ffi, lib
from sim.sched import Life, bytes_at, current

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
    for module in (ledger, hardlog, site):
        setattr(module, "os", simos.OS)  # noqa: B010
    for module in (driver, target, book_module):
        setattr(module, "threading", simos.THREADING)  # noqa: B010
    for module in (driver, target, site):
        setattr(module, "time", simos.TIME)  # noqa: B010
    setattr(driver, "random", simos.RANDOM)  # noqa: B010
    setattr(driver, "secrets", simos.SECRETS)  # noqa: B010
    # A thread that is never started needs nothing of a thread.
    setattr(threading.Thread, "__init__", lambda _thread, name: None)  # noqa: B010
    setattr(site, "Journal", QuietJournal)  # noqa: B010
    setattr(site, "lock_state", lambda _config: -1)  # noqa: B010
    setattr(site, "write_pid", lambda _fd: None)  # noqa: B010


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
                where = f"{self._machine.name}/{record.name}/{part}"
                opened[record.name, part] = stores.Opened(
                    where, store, record.size, "file", where, None
                )
        return opened

    def _keep_maps(
        self, volume: native.Volume, record: ledger.VolumeRecord, current: ledger.Ledger
    ) -> None:
        """None: every end of a site is a power loss to its maps."""

    def _restore_exact(
        self, volume: native.Volume, record: ledger.VolumeRecord, current: ledger.Ledger
    ) -> bool:
        return False

    def _remove_maps(self, *, but: str) -> None:
        """There are none."""

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
    """A site from its boot to its end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.handles: list[Any] = []  # its stores
        self.site: SimSite | None = None
        self.up = False
        self.refused: MirrorError | None = None  # it did not start

    @property
    def control(self) -> driver.Driver | target.Target | None:
        """Of a site that is up."""
        return self.site.control if self.site and self.up else None


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
        nothing = ledger.StoreRecord("file", "")
        records = tuple(
            ledger.VolumeRecord(v, size, self.world.block, nothing, nothing)
            for v, size in self.sizes.items()
        )
        lineage = ledger.Lineage("1" * 32) if role == "source" else None
        first = ledger.Ledger(self.name, self.name, role, lineage, records)
        self.fs.put("ledger", ledger.encode(first))

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

    def boot(self) -> None:
        assert self.life is None
        life = self.life = Incarnation(self.name)
        scheduler = current()

        def run() -> None:
            try:
                opened = SimSite(self, life)
                life.site = opened
                setattr(opened.control, "start", start)  # noqa: B010
                self.world.opened(self, life)
                opened.start()
            except MirrorError as error:
                scheduler.trace(f"does not start: {error}")
                life.refused = error

        def start() -> None:
            site_now = life.site
            assert site_now
            scheduler.spawn(life, f"{self.name}: control", site_now.control._run)
            life.up = True
            scheduler.trace("is up")
            self.world.started(self, life)

        scheduler.spawn(life, f"{self.name}: boot", run)

    def crash(self) -> None:
        """The process ends here; its disks and files stay as they are at this instant."""
        life = self.life
        assert life
        life.dead, self.life = True, None
        for handle in life.handles:
            lib.sim_store_kill(handle)
        if life.site:
            life.site.copier.fail(errno.EIO)  # nobody is left who could end a writer's wait
        current().unwind(life)
        if life.site:
            life.site.copier.unlink()
            life.site._undo.close()

    def lose_power(self, keep: float) -> tuple[int, int]:
        """After a crash: what was not flushed is lost; (writes lost, files torn)."""
        lost = 0
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

    def book_on_disk(self, fs: simos.SimFs) -> ledger.Ledger:
        """What a boot now would find.  LedgerError."""
        state = cast(Path, simos.SimPath(fs, Life(self.name)))
        book = _load(ledger.path_in(state).read_bytes())
        return hardlog.recover(state, book) if book.role == "target" and not book.clean else book
