"""Planted faults in production's Python, for tests of the simulator: each must be caught.

Named by SIM_PLANT in lower case, put in before the first schedule; those of the core are in
upper case and compiled in (faults.py).  A plant replaces one function by one that
lacks one step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from mirror_core import (
    driver,
    flashcopy,
    guard,
    hardlog,
    mapfile,
    native,
    promotion,
    recovery,
    runlog,
    site,
    target,
    written,
)
from sim import simos
from sim.core import ffi
from sim.sched import current


def _put(where: object, name: str, value: object) -> None:
    setattr(where, name, value)


def commit_without_flush() -> None:
    """No flush of the intermediate by the target before a commit (I3)."""
    _without_flush("commit")


def stable_without_flush() -> None:
    """What is not flushed counts as stable, and is not sent again (I9)."""
    _without_flush("stable")


def _without_flush(wanted: str) -> None:
    flush = target.Target._flush_if_asked

    def flush_if_asked(self: target.Target) -> None:
        if self._flush and self._flush.wanted[0] == wanted:
            self._flush.done = True
            self.changed.notify_all()
        flush(self)

    _put(target.Target, "_flush_if_asked", flush_if_asked)


def stable_not_forgotten() -> None:
    """A target that does not know what was stable gets only what was not (I9)."""
    _put(flashcopy.Flashcopy, "forget_stable", lambda _copier: None)


def stable_of_any_cycle() -> None:
    """What an older cycle made stable counts as written by this one (I3)."""

    def of(log: written.WrittenLog, sequence: int, _token: str, _serial: int = 0) -> Any:
        return log._found.stable if sequence else None

    _put(written.WrittenLog, "of", of)


def compare_trusts_a_cache() -> None:
    """What a failed flush has lost is found equal while a cache holds it (I9)."""
    _put(target.Target, "_may_read_a_cache", lambda _target: False)


def stop_without_flush() -> None:
    """An orderly stop of a source asserts what is not on its disk."""
    flush = native.Volume.flush_front
    _put(native.Volume, "flush_front", lambda volume: volume._intent or flush(volume))


def promoted_too_early() -> None:
    """A target becomes a source while blocks of its image are in the intermediate only."""

    def record(site: site.Site) -> None:
        whole = dataclasses.replace(site.book.current, hardened=site.book.current.committed)
        site.book.current = whole
        recorded(site)

    recorded = promotion._record
    _put(promotion, "_record", record)
    _put(target.Target, "wait_hardened", lambda _target, _timeout_s: True)


def handshake_twice() -> None:
    """A handshake that comes again opens its session again (I8)."""
    _put(target.Target, "_refuse_twice", lambda _target, _session: None)


def marked_not_heated() -> None:
    """What is sent because the target has no image is not in the intent log (I4)."""
    _put(native.Volume, "heat_all", lambda _volume: None)


def kept_intermediate() -> None:
    """A source that was stopped knows its intermediate by its bytes, which nobody flushed."""
    records = site.Site.records
    _put(site.Site, "records", lambda self, _role: records(self, "target"))


def hot_forgotten() -> None:
    """A source that was not stopped in order forgets what its intent log says (I4)."""
    _put(native.Intent, "runs", lambda _log: iter(()))


def record_before_flush() -> None:
    """A hardening's record before the flush of what it asserts (I2)."""

    def harden(self: flashcopy.Flashcopy, record: Callable[[], None]) -> None:
        for member in self.members:
            member.native.harden_begin()
        record()
        self.flush(front_too=False)
        for member in self.members:
            member.native.harden_end()

    _put(flashcopy.Flashcopy, "harden", harden)


def _without_sync(name: str, *, folders: bool, files: bool) -> None:
    sync = getattr(simos.SimPlatform, name)

    def some(self: simos.SimPlatform, fd: int) -> None:
        is_folder = self._open[fd][1] is None
        if (is_folder and folders) or (not is_folder and files):
            sync(self, fd)

    _put(simos.SimPlatform, name, some)


def ledger_not_synced() -> None:
    """The ledger renamed over the old one before its bytes are on the disk."""
    _without_sync("fsync", folders=True, files=False)


def folder_not_synced() -> None:
    """A commit acknowledged while the new ledger's name is not on the disk."""
    _without_sync("fsync", folders=False, files=True)


def log_not_synced() -> None:
    """A hardening's record not synced before writers go on (I2)."""
    _without_sync("fdatasync", folders=True, files=False)


def late_commits() -> None:
    """Commits of an older session are taken (I8)."""
    _put(target.Target, "_check_session", lambda _target, _session: None)


def begun_not_durable() -> None:
    """A sequence is used before it is on the disk (I3)."""

    def begin(self: driver.Driver, sequence: int) -> None:
        fresh = dataclasses.replace(
            self._book.current, begun=sequence, begun_token=self._platform.token()
        )
        for tell in self._book.told:
            tell(fresh)
        self._book.current = fresh
        self._phase("copy", sequence=sequence, copied_bytes=0, total_bytes=0)

    _put(driver.Driver, "_begin", begin)


def freeze_of_one_volume() -> None:
    """Each volume has a moment of its own (I6)."""
    freeze = native.Group.freeze

    def one_by_one(self: native.Group, budget_s: float) -> float:
        held = 0.0
        for i in range(self._n):
            single: Any = object.__new__(native.Group)
            single._array = ffi.new("struct fm_volume *[]", [self._array[i]])
            single._n = 1
            held += freeze(single, budget_s)
            current().pause()
        return held

    _put(native.Group, "freeze", one_by_one)


def stale_pending() -> None:
    """What was hardened stays in the durable pending map (I2)."""
    _put(runlog.RunLog, "append", lambda _log, _sequence, _hardened: None)


def recovery_forgets_log() -> None:
    """A restart takes the ledger's pending map without the log of hardenings (I1)."""
    _put(hardlog, "recover", lambda _state, book, _platform: book)


def failed_flush_believed() -> None:
    """At a target's stop a flush that succeeds counts for what one that failed had covered (I9)."""
    end = target.Target.end

    def believing(self: target.Target) -> bool:
        for member in self._copier.members:
            member.native.harden_end()
            member.native.harden_begin()
            member.native.harden_end()
        return end(self)

    _put(target.Target, "end", believing)


def thrown_is_the_end() -> None:
    """A control thread ends by an exception, and nobody is told."""

    def run(work: Callable[[], None], *_: object) -> None:
        with contextlib.suppress(Exception):
            work()

    _put(guard, "run", run)


def hardened_by_the_ledger() -> None:
    """A commit that is recorded and whose maps do not stand yet is hardened with those of the one
    before (I2)."""

    def is_hardened(self: target.Target) -> bool:
        mine = self._book.current
        return not mine.whole or self.hardened >= mine.committed

    _put(target.Target, "_is_hardened", is_hardened)


def any_image_taken() -> None:
    """A site that went back is mirrored to, or from (I7)."""
    _put(recovery, "apart", lambda *_: None)


def any_copy_taken() -> None:
    """Copies of a source are not told apart (I7)."""
    rows = tuple(row for row in recovery.TABLE if row.judge is not recovery._copied)
    _put(recovery, "TABLE", rows)


def maps_of_any_commit() -> None:
    """Maps in memory count with a ledger that was put back (I7)."""
    _put(mapfile, "_commit", lambda _book: b"")


def install() -> None:
    for name in filter(None, os.environ.get("SIM_PLANT", "").split(",")):
        if not name.isupper():
            globals()[name]()
