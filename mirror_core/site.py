"""Builds a site from its configuration: opens, recovers, starts, stops; and says how it is.

    open    configuration and ledger agree, the state is locked, the stores are the recorded ones,
            the maps stand as they were (or, after a disorderly stop, as is safe)
    start   the control thread runs (source: driver.py, target: target.py)
    stop    the thread is joined, the maps are in the ledger, the stores are flushed

A failed open leaves nothing behind and has changed nothing, but that the ledger names the stores
that could not be flushed.
"""

from __future__ import annotations

import contextlib
import errno
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pyroaring import BitMap64

from mirror_core import (
    age,
    below,
    beside,
    durable,
    flashcopy,
    guard,
    hardlog,
    heard,
    identity,
    intent,
    lastrun,
    ledger,
    limits,
    mapfile,
    native,
    process,
    runlog,
    server_instance,
    stores,
    timeouts,
    written,
)
from mirror_core.book import Book
from mirror_core.config import SiteConfig, is_uri
from mirror_core.driver import Driver
from mirror_core.errors import LINK_ERRNOS, LedgerError, MirrorError, StillLooking, StoreError
from mirror_core.journal import Journal
from mirror_core.lock import check_ledger, lock_state, no_state, write_pid
from mirror_core.platform import HERE, TOKEN, Platform
from mirror_core.target import Target

if TYPE_CHECKING:
    from mirror_core.metrics import MetricsServer


class Kept(Protocol):
    """The maps of a volume of a site that runs (mapfile.Kept)."""

    def may_go_with(self, book: ledger.Ledger) -> None: ...
    def go_with(self, book: ledger.Ledger) -> None: ...
    def close(self) -> None: ...


class Maps(Protocol):
    """Where a source's maps are kept (mapfile.py, which is one)."""

    def share(
        self, book: ledger.Ledger, record: ledger.VolumeRecord, run: str, volume: native.Volume
    ) -> Kept: ...
    def look(self, book: ledger.Ledger) -> mapfile.Found: ...
    def restore(
        self, book: ledger.Ledger, record: ledger.VolumeRecord, volume: native.Volume
    ) -> bool: ...
    def remove(self, site: str, run: str) -> None: ...
    def remove_others(self, site: str, run: str) -> None: ...


Shares = Callable[[Mapping[tuple[str, str], int | None]], below.Numbers[tuple[str, str]]]


class Site:
    """One running site; the constructor opens it.

    What it stands on is handed in: the machine, how stores are opened and maps kept, which of them
    share a disk, which process serves one, the exec at the end of a promotion and what would be in
    its way, and the state folder if it is taken."""

    def __init__(
        self,
        config: SiteConfig,
        *,
        platform: Platform = HERE,
        open_store: Callable[[str, float], stores.Opened] = stores.open_store,
        maps: Maps = mapfile,
        shares: Shares = below.numbers,
        served_by: Callable[[int], str | None] = server_instance.identify,
        refuse_anew: Callable[[SiteConfig, ledger.Ledger], None] = process.refuse_anew,
        begin_anew: Callable[[SiteConfig], None] = process.begin_anew,
        held: int | None = None,
    ) -> None:
        self.config, self.platform, self._begin_anew = config, platform, begin_anew
        self._refuse_anew = refuse_anew
        self._open_store, self._maps, self._shares = open_store, maps, shares
        self.journal = Journal(platform)
        self._run = platform.token()
        self._lost_stores = platform.looker(self._look_and_record, limits.CONTROL_WAIT_S)
        self._short = platform.looker(self._look_for_short_data, limits.IDLE_LOOK_S)
        self._looker = beside.Beside("stores", self._keep_looking, self.journal, platform)
        # Of which bytes that count are gone, and how that was seen.  Of the look, of which there is
        # one at a time.
        self._harmed: dict[tuple[str, str], str] = {}
        self._stops = False  # what a look has still to say comes too late
        self._logs: list[str] = []  # of this run, as the ledger knows them again
        self._maps_count = False  # the maps in memory outlive this process
        self.promotion = platform.lock()  # one turn at a time
        self.takings = 0  # how often one was taken back: no turn asked for before goes on
        self.taking = platform.lock()  # guards `takings`: `promotion` may be held for long
        self._last = platform.lock()  # of an end and a beginning anew, one comes first
        self.is_ending = False  # nbdkit was told to end.  Guard: `_last`
        self._missing = platform.looker(self._missing_file, limits.CONTROL_WAIT_S)  # may hang
        self._late = contextlib.ExitStack()  # closes the intermediates that were taken in later
        self._new: dict[tuple[str, str], str] = {}  # stores that are to be marked, and how
        self._numbers: below.Numbers[tuple[str, str]] | None = None  # of what shares a disk
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            self._lock = lock_state(config, platform) if held is None else held
            undo.callback(platform.close, self._lock)
            current = lastrun.load(config.state, platform)
            check_ledger(config, current)
            current = stores.in_this_boot(current, age.boot_of(platform))
            if current.role == "target" and not current.clean:
                current = hardlog.recover(config.state, current, platform)
            self._coarse = current.coarse  # a source that knows what may differ, not what does
            # A source's ledger was put back, and all that stands beside it may have been, too.
            source = current.role == "source"
            self._went_back = source and maps.look(current) is mapfile.Found.LATER
            self._in_order = current.clean and not self._went_back  # the last run's end
            if self._went_back:  # nor is it known what the target holds
                current = replace(current, unsure=True)
            self.book = Book(config.state, current, platform, self.journal)
            undo.callback(self._end_maps)
            undo.callback(self._remove_files_of_this_run)
            self._opened = self._open_stores(undo, current)
            self._say_what_loses_together(undo)
            self.members = self._build_volumes(undo, current)
            self.copier = flashcopy.Flashcopy(self.members)
            self.servers = server_instance.Servers(
                config.state,
                current,
                self._run,
                {m.name: m.native for m in self.members},
                platform,
                identify=served_by,
            )
            self.metrics = self._metrics_server() if config.metrics else None
            undo.callback(self._look_no_more)
            self.control: Driver | Target = (
                self._driver(current) if current.role == "source" else self._target(current)
            )
            self._undo = undo.pop_all()

    # ---- opening

    def _open_stores(
        self, undo: contextlib.ExitStack, current: ledger.Ledger
    ) -> dict[tuple[str, str], stores.Opened]:
        """Those of a source's intermediates that cannot be had are left out.  They come last, as a
        blank one is flushed: what was put back on the same disk is to hear of that first."""
        source, records = current.role == "source", {one.name: one for one in current.volumes}
        opened: dict[tuple[str, str], stores.Opened] = {}
        stores.refuse_twice(self.config)
        undo.callback(self._late.close)

        harmed: list[stores.Harmed] = []

        def take_in(part: str) -> None:
            for record in current.volumes:
                try:
                    one = self._open_at_start(record, current, part)
                except stores.Harmed as error:  # of each the ledger is told
                    harmed.append(error)
                    continue
                if one:
                    opened[record.name, part] = one
                    undo.callback(one.store.close)
            stores.refuse_one_disk(opened.values())

        take_in("data")
        if not source:
            take_in("intermediate")
        if harmed:
            raise harmed[0]
        for key, one in opened.items():  # not flushed, by each of a supervisor's starts
            if ledger.is_harmed(getattr(records[key[0]], key[1])):
                self._verify(key, one, records[key[0]], current)
        stores.flush_put_back(
            self._put_back(current, records, opened),
            [one.identity for one in opened.values()],
            current,
            age.boot_of(self.platform),
            self.book.update,
            near=lambda: self._near_folder(opened.values()),
            platform=self.platform,
        )
        if source:
            take_in("intermediate")
        for (name, part), one in opened.items():
            self._verify((name, part), one, records[name], current)
            # Only a source's data is flushed by an orderly stop; before the first run, nothing.
            if not (self._in_order and current.run and source and part == "data"):
                one.store.unflushed()
        return opened

    def _verify(
        self,
        key: tuple[str, str],
        one: stores.Opened,
        record: ledger.VolumeRecord,
        current: ledger.Ledger,
    ) -> None:
        """StoreError: it counts, and is not known to be as it was left."""
        place = stores.place_of(self.config, current, *key)
        if place.counts:
            stores.verify(one, getattr(record, key[1]), place, record.size)

    def _open_at_start(
        self, record: ledger.VolumeRecord, current: ledger.Ledger, part: str
    ) -> stores.Opened | None:
        """StoreError.  None: it is a source's intermediate, which is waited for."""
        if part == "data" or current.role == "target":
            return self._open_one(record, part)
        if is_uri(self.config.volume(record.name).intermediate):
            return None  # clients do not wait for a server that does not answer
        try:
            return self._open_intermediate(record, current)
        except StoreError:  # `_take_intermediates` says it
            return None

    def _open_one(self, record: ledger.VolumeRecord, part: str) -> stores.Opened:
        """StoreError."""
        where = getattr(self.config.volume(record.name), part)
        one = self._open_store(where, timeouts.lane_s(self.config.link_timeout))
        try:
            try:
                stores.refuse_unfit(one, record.size, record.block_size)
            except stores.Harmed as harmed:
                self._note_harmed(record, one, part, harmed)
                raise
        except BaseException:  # whoever tries again would find it in use
            one.store.close()
            raise
        return one

    def _note_harmed(
        self, record: ledger.VolumeRecord, one: stores.Opened, part: str, harmed: stores.Harmed
    ) -> None:
        """What stood behind its end may be gone, whatever size it has by the next start: unless it
        is another store, or a device that is not ready yet.  No store is flushed yet, so what the
        ledger hears of its disk is said of those on it (heard.py).  StoreError: it is `harmed`, and
        that is not all."""
        book = self.book.current
        place = stores.place_of(self.config, book, record.name, part)
        changes = stores.found_smaller(one, book, record, place)
        if not changes:
            return
        near = self._near_at_rest(book)

        def doubt(names: Collection[str], error: LedgerError) -> None:
            lost = heard.with_names(book.unflushed, names)
            heard.record(lambda: self.book.update(unflushed=lost, **changes), self.platform)
            raise StoreError(
                f"{harmed}; {error}; what its disk has lost of what was put into its stores a "
                "later flush does not tell: then adopt them ('flashmirror adopt'), or put the copy "
                "into another file or device",
                harmed.code,
            ) from error

        try:
            with heard.listening(self.platform, lambda: near, doubt):
                self.book.update(**changes)
        except LedgerError as error:
            raise StoreError(
                f"{harmed}; nor can that be recorded, so adopt it when it has that size again "
                f"('flashmirror adopt'), and what else was put back: {error}",
                harmed.code,
            ) from error

    def _near_at_rest(self, book: ledger.Ledger) -> set[str]:
        """The same of all stores that count, whether they are open or not.  Asked before its disk
        speaks: a store may hang."""
        return {
            name
            for volume, part, where, record in stores.listed(self.config, book)
            if stores.place_of(self.config, book, volume, part).counts
            for known in [stores.known(getattr(record, part))]
            if known.kind != "nbd" and not stores.is_apart(where, known, self._lock)
            for name in identity.names_of(known)
        }

    def _open_intermediate(
        self,
        record: ledger.VolumeRecord,
        current: ledger.Ledger,
        beside: Collection[stores.Opened] = (),
    ) -> stores.Opened:
        """A source's.  StoreError."""
        one = self._open_one(record, "intermediate")
        try:
            stores.refuse_one_disk([*beside, one])
            numbers, key = self._numbers, (record.name, "intermediate")
            if numbers and (number := numbers.opened(key, one.fd)):  # it was away at the start
                one.store.stands_on(number)  # before it is flushed, as a blank one is
            place = stores.place_of(self.config, current, record.name, "intermediate")
            if stores.is_new(one, record.intermediate, place, record.size):
                self._new[record.name, "intermediate"] = place.mark
        except BaseException:
            one.store.close()
            raise
        return one

    def _take_intermediates(self) -> None:
        """A source is served without its intermediates, none of which it needs for that (I9): the
        control's thread takes in those that it has not, before a session.  StoreError: one of them
        cannot be had yet; or ESHUTDOWN, the site is to stop: each may take `opened_s`.
        LedgerError: it would not be known again."""
        current = self.book.current
        for member, record in zip(self.members, current.volumes, strict=True):
            if member.native.has_first:
                continue
            if self.control.stopping:
                raise StoreError("stopping", errno.ESHUTDOWN)
            try:
                one = self._open_intermediate(record, current, self._opened.values())
            except StoreError as error:
                raise StoreError(
                    f"{error}: writes go on, and mirroring waits for it", error.code
                ) from error
            try:
                one.store.unflushed()
                self._opened[member.name, "intermediate"] = one
                self._mark_new()
                self._name_intermediate(member.name, one.record())
                self._late.callback(one.store.close)
            except BaseException:
                for known in (self._opened, self._new):
                    known.pop((member.name, "intermediate"), None)
                one.store.close()
                raise
            member.native.set_first(one.store)

    def _name_intermediate(self, volume: str, known: ledger.StoreRecord) -> None:
        """LedgerError."""
        self.book.change(
            lambda now: {
                "volumes": tuple(
                    replace(one, intermediate=known) if one.name == volume else one
                    for one in now.volumes
                )
            }
        )

    def _mark_new(self) -> None:
        """Just before the ledger names them: a start that is refused changes no store."""
        while self._new:
            key, mark = self._new.popitem()
            self._opened[key].set_mark(mark)

    def without_intermediate(self) -> set[str]:
        """The volumes of a source that wait for theirs."""
        return {m.name for m in self.members if not m.native.has_first}

    def _put_back(
        self,
        current: ledger.Ledger,
        records: dict[str, ledger.VolumeRecord],
        opened: dict[tuple[str, str], stores.Opened],
    ) -> Iterator[stores.Opened]:
        """Those that a person may have put back: after an orderly stop all that count, also if
        another one was adopted since, from which on the site counts as killed.

        Of a target without an image the data may be a seed, or holes, which are flushed once the
        ledger says that they are in doubt meanwhile (`_begin`): not before, or who starts it again
        would be told that all is well.  Without a history its intermediate, which may stand on the
        same disk, holds nothing that counts."""
        for (name, part), one in opened.items():
            known = getattr(records[name], part)
            counts = stores.place_of(self.config, current, name, part).counts
            if current.role == "target" and not current.whole:
                counts = part == "intermediate" and current.lineage is not None
            if counts and (current.clean or known.fingerprint):
                yield one

    def _near_folder(self, ones: Iterable[stores.Opened]) -> set[str]:
        """Of which of these the state folder's disk may speak, by their names."""
        return heard.names_near(self._lock, [(one.identity, one.fd) for one in ones])

    def _say_what_loses_together(self, undo: contextlib.ExitStack) -> None:
        folder = ("", "state")
        away = {
            (volume.name, "intermediate"): None if is_uri(volume.intermediate) else below.AWAY
            for volume in self.config.volumes
        }
        descriptors = {part: one.fd for part, one in self._opened.items()}
        numbers = self._numbers = self._shares({folder: self._lock, **away, **descriptors})
        for part, one in self._opened.items():
            if numbers[part]:
                one.store.stands_on(numbers[part])
        self.platform.folder_stands_on(numbers[folder])
        undo.callback(self.platform.folder_stands_on, 0)

    def _build_volumes(
        self, undo: contextlib.ExitStack, current: ledger.Ledger
    ) -> list[flashcopy.Member]:
        source = current.role == "source"
        members = []
        for record in current.volumes:
            data = self._opened[record.name, "data"].store
            other = self._opened.get((record.name, "intermediate"))
            intermediate = other.store if other else None
            front, sink = (data, intermediate) if source else (intermediate, data)
            assert front is not None
            volume = native.Volume(
                front, sink, record.size, record.block_size, self.config.preserve == "first"
            )
            undo.callback(volume.close)
            log = None
            if source:
                log = self._open_intent(record, current)
                undo.callback(log.log.close)
                self._keep_maps(undo, volume, record, current)
            self._restore(volume, record, current, log)
            members.append(flashcopy.Member(record.name, volume))
        return members

    def _open_intent(self, record: ledger.VolumeRecord, current: ledger.Ledger) -> intent.Opened:
        opened = intent.open_log(
            self.config.state,
            current,
            record,
            self._run,
            region=self.config.intent_region,
            platform=self.platform,
        )
        if opened.lost:
            self.journal.say(f"{opened.lost}: everything is compared")
        self._logs += filter(None, [opened.id])
        return opened

    def _keep_maps(
        self,
        undo: contextlib.ExitStack,
        volume: native.Volume,
        record: ledger.VolumeRecord,
        current: ledger.Ledger,
    ) -> None:
        try:
            kept = self._maps.share(current, record, self._run, volume)
            undo.callback(kept.close)
            self.book.warned.append(kept.may_go_with)
            self.book.told.append(kept.go_with)
        except OSError as error:
            self.journal.say(
                f"volume {record.name}: no memory for maps that outlive a kill "
                f"({error.strerror}): after one, regions of the intent log are compared"
            )

    def _restore(
        self,
        volume: native.Volume,
        record: ledger.VolumeRecord,
        current: ledger.Ledger,
        opened: intent.Opened | None,
    ) -> None:
        """The maps as they are on disk; of a source, after an end without order, what was hot.
        Where its log tells nothing the ledger may be one that was put back, and maps of its run may
        stand in a folder in which no run since has looked: nor do they.  Where any maps tell that
        it was put back everything may differ, of each volume."""
        volume.set_returning(limits.COMING_BACK_S)
        if opened is None:
            volume.set_strict()
            pending = current.maps.get(f"{record.name}/pending", BitMap64())
            flashcopy.mark(volume, pending, pending=True)
            return
        if self.config.on_link_loss == "block":
            volume.set_hold()  # whoever waits for the link waits for ever
        else:
            volume.set_patience(timeouts.patience_s(self.config.link_timeout))
        volume.set_intent(opened.log)
        # What a failed flush has lost a server shows for long, and a kernel, whatever it is told to
        # let go of, for as long as something beside it is dirty.  In which boot the last run was
        # only its own ledger says.
        ours = self._opened[record.name, "data"].cached_here
        known = not (opened.lost or self._went_back)
        booted = ours and known and age.is_of_another_boot(current, self.platform)
        if current.doubtful_data or not (self._in_order or booted):
            volume.doubt_front()
        if self._went_back:
            self._coarse = True
            volume.mark(0, volume.blocks)
        elif current.clean:
            changed = current.maps.get(f"{record.name}/next", BitMap64())
            flashcopy.mark(volume, changed)
        elif opened.lost or not self._maps.restore(current, record, volume):
            self._coarse = True
            for offset, length in opened.log.runs():
                first = offset // record.block_size
                volume.mark(first, -(-(offset + length) // record.block_size) - first)
        try:
            volume.heat_next()  # the maps of a killed run hold writes that were refused, too
        except OSError as error:
            raise no_state(self.config, error) from error

    def _metrics_server(self) -> MetricsServer:
        # It takes a third of a start to import, and not everybody needs it.
        from mirror_core import metrics  # noqa: PLC0415

        return metrics.MetricsServer(self)

    def _driver(self, current: ledger.Ledger) -> Driver:
        return Driver(
            self.config, self.book, self.copier, self.journal, self.platform,
            clean=self._in_order, drop_caches=self._drop_data_caches,
            take_intermediates=self._take_intermediates, remember_cut=self._remember_cut,
        )  # fmt: skip

    def _flush_past(self) -> None:
        """Of a target: what the process before has left in its intermediates, or another role or
        history.  What they have lost, and what may be compared, is read from the disk then, for a
        kernel drops nothing that is dirty, nor beside it.  Of a server nothing is dropped: after an
        end in order it is not asked, for it may answer all but a flush, and nobody else would be
        answered meanwhile."""
        book = self.book.current
        if book.clean and book.committed and not book.doubtful_before:
            return
        if words := self.copier.flush_past(servers=not book.clean):
            self.journal.say(words)
        for member in self.members:
            self._opened[member.name, "intermediate"].drop_cache()

    def _drop_data_caches(self) -> None:
        for member in self.members:
            self._opened[member.name, "data"].drop_cache()

    def _target(self, current: ledger.Ledger) -> Target:
        young = current.committed == 0 and not current.doubtful_data
        blank = young and all(self._opened[m.name, "data"].blank() for m in self.members)
        ours = all(self._opened[m.name, "intermediate"].cached_here for m in self.members)
        found, owed = written.recover(self.config.state, current, self.platform)
        names = [m.name for m in self.members]
        lineage = current.lineage.id if current.lineage else ""
        cycle = runlog.History(written.KIND, current.site, lineage, found.sequence, found.token)
        with self._listening_for_a_seed():
            try:
                log = runlog.RunLog(self.config.state, hardlog.KIND, self._run, self.platform)
                written_log = written.WrittenLog(
                    self.config.state, self._run, names, found, self.platform
                )
                if found.sequence:  # into the log of this run
                    written_log.record(cycle, found.serial, found.stable, owed)
            except OSError as error:
                raise no_state(self.config, error) from error
        self._logs += log.ids
        return Target(
            self.config, self.book, self.copier, self.journal, log,
            platform=self.platform, written=written_log, remember_cut=self._remember_cut,
            short_data=self._short_data, blank=blank, owed=owed,
            doubtful_sent=current.doubtful_sent or not (current.clean or ours),
            doubtful_before=current.doubtful_before and not ours,
        )  # fmt: skip

    # ---- running

    def start(self) -> None:
        """Threads begin here: after nbdkit's fork.  MirrorError: nothing was changed, or, if that
        came after the ledger had named this run, the site counts as one that was killed."""
        try:
            self._begin()
        except Exception:
            if self.metrics:
                self._tried(self.metrics.stop)  # first: it looks at what goes
            self._undo.close()
            raise

    def _begin(self) -> None:
        if self.metrics:
            self.metrics.start()  # first: a busy port is a refusal
        write_pid(self._lock, self.config, self.platform)
        source = self.book.current.role == "source"
        if self._went_back:
            self.journal.say(
                "maps in memory are of a cycle or a run that its ledger does not know: it may be "
                "an older one that was put back, so everything counts as different"
            )
        elif ledger.is_adopted(self.book.current):
            self.journal.say("its data was adopted: what may differ is compared")
        elif not ledger.ended_in_order(self.book.current):
            self.journal.say(
                "was not stopped in order: "
                + (
                    "the second flashcopy goes on"
                    if not source
                    else "what was hot is compared"
                    if self._coarse
                    else "its maps are whole"
                )
            )
        if not source:
            self.copier.link([None] * len(self.members))
            self._flush_past()
        if self.book.current.seeded:
            self._flush_seed()
        elif isinstance(self.control, Target) and self.control.blank:
            self._flush_holes()
        book = self.book.current
        for name in self.servers.begin(
            clean=self._in_order, run_before=book.run, went_back=self._went_back
        ):
            ours = self._in_order or self._opened[name, "data"].identity.kind != "nbd"
            words = server_instance.UNTOLD if ours else server_instance.MAY_BE_GONE
            if self._went_back:
                words = server_instance.PUT_BACK
            self.journal.say(f"volume {name}: {words}")
        # With the maps as they were recovered: the files of this run stand, those of the one before
        # count no more.
        runs = (*self.book.current.runs, self._run) if source else ()
        if len(runs) > limits.RUNS_KNOWN:  # the first is the one that the target has met
            runs = (runs[0], *runs[1 - limits.RUNS_KNOWN :])
        # A source's maps outlive it elsewhere from now on; those of its last stop would be written
        # again in every cycle.  A target's are what it owes.
        maps = {} if source else self.book.current.maps
        # Nor does the process before say, if it was killed, what its first intermediate has lost.
        before = book.doubtful_before or (source and not self._in_order)
        self._mark_new()
        self.book.update(
            clean=False, run=self._run, runs=runs, volumes=self._in_use(), maps=maps,
            coarse=self._coarse, doubtful_before=before, logs=tuple(self._logs),
            **age.of_this_boot(book, self.platform),
        )  # fmt: skip
        self._maps_count = True
        self._maps.remove_others(self.book.current.site, self._run)
        self._remove_files_of_other_runs()
        self.servers.start(self.journal)
        # Of a server a connection sees it (native/store_nbd.c), and the ledger is to be told.
        if any(one.fd is not None or is_uri(one.where) for one in self._opened.values()):
            self._looker.start()
        self._undo.callback(self._end_looking, limits.JOIN_S)  # if the control does not start
        self.control.start()

    def _listening_for_a_seed(self) -> contextlib.AbstractContextManager[None]:
        """Or holes, which count no more if the state folder's disk may have lost some of them."""
        seeded = self.book.current.seeded

        def doubt(*_: object) -> None:
            book, none = self.book.current, {"seeded": False, "lineage": None, "source_run": ""}
            if book.role == "target" and (seeded or not book.whole):
                words = {**(none if seeded else {}), "doubtful_data": True}
                heard.record(lambda: self.book.update(**words), self.platform)

        return heard.listening(self.platform, self._near_data, doubt)

    def _near_data(self) -> set[str]:
        return self._near_folder(self._opened[m.name, "data"] for m in self.members)

    def _update_first(self, **changes: object) -> None:
        """The ledger, before the data is flushed.  LedgerError."""
        with self._listening_for_a_seed():
            self.book.update(**changes)

    def _flush_holes(self) -> None:
        """A blank target is not sent what the source has as holes, so that it is blank is made
        durable first: somebody may have made it so just now.  What a failed flush has lost may show
        as holes for a while, to the next process too: nothing counts as one then.  StoreError."""
        self._update_first(doubtful_data=True)
        self._flush_data("cannot be flushed", "look into that store, then start again")
        self.book.update(doubtful_data=False)

    def _flush_data(self, what: str, advice: str) -> None:
        try:
            self.copier.flush(front_too=False)
        except flashcopy.CopyError as error:
            where = self.config.volume(error.volume).data
            raise StoreError(
                f"data store {where}: {what}: {error}: {advice}", error.code
            ) from error

    def _flush_seed(self) -> None:
        """What is found equal from now on is durable.  A failure is told once, perhaps to a process
        that is killed, and then the system takes what it has in memory for what is on the disk: so
        that is dropped.  A server's is not ours to drop: this is no seed until it is flushed,
        whatever comes in between.  StoreError."""
        ours = all(self._opened[m.name, "data"].cached_here for m in self.members)
        before = self.book.current.doubtful_data
        if not ours:
            self._update_first(seeded=False, doubtful_data=True)
            self.journal.say(
                "the seed is flushed: if this start does not come to its end, it is given up, and "
                "everything is sent"
            )
        try:
            self._flush_data(
                "the seed cannot be flushed, and is given up",
                "look into that store, then start again, and everything is sent, or copy it again "
                "and run 'flashmirror seed' again",
            )
        except StoreError:
            # Without its history, too: a cycle that has found something equal does not go on.
            self.book.update(seeded=False, lineage=None, source_run="", doubtful_data=True)
            raise
        self._drop_data_caches()
        if not ours:
            self.book.update(seeded=True, doubtful_data=before)

    def _remove_files_of_this_run(self) -> None:
        """And what is written only in part, if its start was refused.  Those of other runs stand:
        whether the ledger that it has found is the one that belongs here is not known."""
        with contextlib.suppress(OSError):
            for name, run in self._files_of_runs():
                ours = run == self._run != self.book.current.run
                if ours or name.endswith(durable.FRESH):
                    durable.remove(self.config.state / name, self.platform)

    def _remove_files_of_other_runs(self) -> None:
        """Once a ledger of this one stands.  They are gone durably before anybody is served: a
        power loss could bring back a log that an older ledger, put back, would believe.
        LedgerError."""
        state, known = self.config.state, self.platform.losses()
        at, failure = state, None
        try:
            for name, run in self._files_of_runs():
                if run != self._run or name.endswith(durable.FRESH):
                    try:
                        self.platform.unlink(state / name)
                    except OSError as error:
                        at, failure = state / name, error
            durable.sync_folder(state, known, self.platform)
        except OSError as error:
            at, failure = state, error
        if failure:
            code = failure.errno or 0
            raise LedgerError(f"{at}: {failure.strerror}: mend that", code) from failure

    def _files_of_runs(self) -> list[tuple[str, str]]:
        """Names of files in the state folder that are named by a run, and the run.  What is not is
        somebody's.  OSError."""
        kinds = {
            hardlog.KIND,
            written.KIND,
            *(f"{v.name}.intent" for v in self.book.current.volumes),
        }
        found = []
        for name in self.platform.names(self.config.state):
            kind, _, run = name.removesuffix(durable.FRESH).rpartition(".")
            if kind in kinds and TOKEN.fullmatch(run):
                found.append((name, run))
        return found

    def ending(self) -> None:
        """nbdkit was told to end, and waits for its clients: no write of theirs may wait for the
        peer any more, and no promotion goes on.  A target's second flashcopy does: a write of its
        source may need it."""
        with self._last:
            self.is_ending = True
        if isinstance(self.control, Driver):
            self.control.stop()

    def refuse_anew(self, *, again: bool = False) -> None:
        """MirrorError: a process that begins anew would end, with that line.  StillLooking; but not
        if it is asked again, and all was well a moment ago: on a slow server a look may take longer
        each time."""
        lost = None
        try:
            lost = self._lost_stores()[1]
        except OSError as error:
            if not again:
                raise StillLooking(
                    f"a look at its stores has no answer yet ({error.strerror}): it goes on once "
                    "there is one; if what they stand on hangs, see docs/recovery.md, 'A file "
                    "server hangs, and the source is lost'",
                    errno.EBUSY,
                ) from error
        if lost:
            raise StoreError(f"cannot begin anew, and so is not promoted: {lost}")
        self._refuse_anew(self.config, self.book.current)

    def begin_anew(self) -> bool:
        """The process becomes the one that the ledger says, and this does not return; False: it was
        told to end before.  OSError: the machine refused it."""
        with self._last:
            if not self.is_ending:
                self._begin_anew(self.config)
            return False

    def _look_no_more(self) -> None:
        """What a look has still to say comes too late, also of a start that fails."""
        self._stops = True

    def stop(self) -> None:
        """No client is left.  The maps go into the ledger; everything is flushed and closed.  Each
        step is tried whatever became of those before; `clean` says that all were right."""
        self._look_no_more()
        right = [
            self._tried(self._end_thread),
            self._tried(self.metrics.stop) if self.metrics else True,
            *(
                self._source_ends(self.control)
                if isinstance(self.control, Driver)
                else self._target_ends(self.control)
            ),
        ]
        self._tried(lambda: self._book_of_end(clean=all(right)))
        self._maps_count = not self.book.current.clean
        self._tried(self._undo.close)

    def _tried(self, step: Callable[[], object], where: str = "") -> bool:
        """Whether a step of the end went well."""
        try:
            return step() is not False
        except Exception as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            self.journal.say(f"at stop: {where}{text or type(error).__name__}")
            if not guard.passes(error):
                self.journal.trouble(error)
            return False

    def _end_thread(self) -> None:
        until = self.platform.monotonic() + limits.JOIN_S
        self.control.stop()
        self._ended_or_abort("the control", ended=self.control.join(limits.JOIN_S))
        # Also if the control has taken all of it: a look of the last second ends by itself.
        self._end_looking(max(3 * limits.CONTROL_WAIT_S, until - self.platform.monotonic()))

    def _end_looking(self, timeout_s: float) -> None:
        self._looker.stop()
        self._ended_or_abort("the look for losses", ended=self.servers.stop(timeout_s))
        self._ended_or_abort("the look at its stores", ended=self._looker.join(timeout_s))

    def _ended_or_abort(self, who: str, *, ended: bool) -> None:
        """Nothing may be taken from under a thread: if it does not end, the process does."""
        if not ended:
            self.journal.say(
                f"{who} does not end within {limits.JOIN_S:g} s: the site ends as if killed"
            )
            self.platform.abort()

    def _source_ends(self, control: Driver) -> list[bool]:
        return [
            self._tried(control.end),
            *(self._tried(m.native.flush_front, self._data_of(m.name)) for m in self.members),
            *(self._tried(m.native.renew_intent) for m in self.members),
            self._tried(self.servers.end),
            self._tried(lambda: self._maps_of_end(control)),
        ]

    def _maps_of_end(self, control: Driver) -> None:
        self.book.update(
            # It may have heard of a commit that the ledger could not be told of.
            hardened=min(control.hardened, self.book.current.committed),
            doubtful_data=any(m.native.doubts_front() for m in self.members),
            doubtful_before=self.book.current.doubtful_before
            or any(m.native.has_first and m.native.first.losses for m in self.members),
            maps={
                f"{m.name}/next": flashcopy.bitmap_of(m.native, native.NEXT) for m in self.members
            },
        )

    def _data_of(self, volume: str) -> str:
        """For the log: what failed there."""
        return f"data store {self.config.volume(volume).data}: "

    def _target_ends(self, control: Target) -> list[bool]:
        right = [self._tried(control.end)]
        self.copier.fail(errno.ESHUTDOWN)  # what is pending is in the ledger
        return [*right, self._tried(self.copier.unlink)]

    def _book_of_end(self, *, clean: bool) -> None:
        """Which stores were harmed is said whatever else was not right.  Of a source all of that is
        compared at the next start; of a target it may be bytes of the image, which a person has to
        know of."""
        role, volumes, unread = self.book.current.role, None, list[tuple[str, str]]()
        try:
            if clean:
                volumes = self.records(role)
            else:  # a flush may have failed for that
                for one in self._opened.values():
                    one.refuse_unsettled()
        except StoreError as error:
            self.journal.say(f"at stop: {error}")
        if not volumes:  # of what else was not right, such as a flush, no start makes anything good
            unread = list(self._unreadable())
        self._look_at_stores()  # last: what was read may have met a cut
        for key in unread:
            if key in self._harmed:
                self.journal.say(f"at stop: {self._harmed[key]}")
        harmed = dict.fromkeys(unread, ledger.UNREADABLE) | self._words_of_harm()
        if role == "source" and ledger.UNREADABLE in harmed.values():
            self.journal.say("at stop: the next start compares everything with the target")
        self.book.update(
            clean=bool(volumes) and not harmed,
            volumes=ledger.with_harmed(volumes or self._in_use(), harmed),
        )

    def _unreadable(self) -> Iterator[tuple[str, str]]:
        """The stores that count and cannot be read where a fingerprint looks: one disk may be below
        several.  Of a target that has taken nothing yet none does.  Once a server has no answer
        none is asked any more: each would be waited for."""
        book, answers = self.book.current, True
        if book.role == "target" and not book.lineage and not book.seeded:
            return
        for key, one, size in self._that_count():
            try:
                if answers or one.fd is not None:
                    one.fingerprint(size)
            except stores.Unreadable as error:
                self.journal.say(f"at stop: {error}")
                if error.code in LINK_ERRNOS:
                    answers = False
                else:
                    yield key

    def _end_maps(self) -> None:
        """Of this run, which was stopped in order or did not begin.  Those of others may be of the
        ledger that belongs here, if this one was put back."""
        if not self._maps_count:
            self._maps.remove(self.book.current.site, self._run)

    def _in_use(self) -> tuple[ledger.VolumeRecord, ...]:
        """The volumes, and what their stores are called now; no fingerprint stands."""
        volumes = tuple(
            replace(
                record,
                data=self._opened[record.name, "data"].record(),
                intermediate=self._intermediate_of(record, lambda one, _size: one.record()),
            )
            for record in self.book.current.volumes
        )
        return ledger.with_harmed(volumes, self._words_of_harm())

    def records(
        self,
        role: ledger.Role,
        look: Callable[..., ledger.StoreRecord] = stores.Opened.stopped,
    ) -> tuple[ledger.VolumeRecord, ...]:
        """The same, with fingerprints: nobody writes to them until the next start.  StoreError.
        The data of a target that has no image and no seed does not count: everything is sent."""
        book = self.book.current
        holds = role == "source" or book.whole or book.seeded
        return tuple(
            replace(
                record,
                data=look(self._opened[record.name, "data"], record.size, counts=holds),
                intermediate=self._intermediate_of(
                    record, lambda one, size: look(one, size, counts=role == "target")
                ),
            )
            for record in self.book.current.volumes
        )

    def _intermediate_of(
        self,
        record: ledger.VolumeRecord,
        look: Callable[[stores.Opened, int], ledger.StoreRecord],
    ) -> ledger.StoreRecord:
        """One that was away all the time is as it was."""
        one = self._opened.get((record.name, "intermediate"))
        return look(one, record.size) if one else record.intermediate

    # ---- how it is

    def taken_away(self) -> str | None:
        """Which store that counts somebody has deleted or made smaller, though it may be large
        again; None: none.  A source's intermediate is told of while it is smaller: one that is
        blank, or was deleted, is as good."""
        try:
            return next(iter(self._lost_stores()[0]), None)
        except OSError as error:  # what they stand on hangs
            return (
                f"a look at its stores has no answer ({error.strerror}): look at what they stand on"
            )

    def _look_and_record(self) -> tuple[list[str], str | None]:
        """The same, while the site runs: a kill is to forget nothing of it.  What others have
        recorded meanwhile it has not seen, and the next look has."""
        before = self.book.current.volumes
        found = self._look_at_stores()
        if not self.harm_is_recorded() and self._maps_count and not self._stops:
            words: dict[tuple[str, str], str | None] = dict.fromkeys(self._opened)
            words |= self._words_of_harm()
            with contextlib.suppress(MirrorError, OSError):  # the next look tries again
                self.book.change(
                    lambda now: {
                        "volumes": ledger.with_harmed(
                            now.volumes, words if now.volumes == before else {}
                        )
                    }
                )
        return found

    def _remember_cut(self, found: Collection[tuple[str, str]]) -> None:
        """The same of these stores, for who refuses because of them: at once, as a look may hang.
        If it cannot be recorded, it can when that refuses again, or by a look."""
        words = dict.fromkeys(found, ledger.HARMED)
        told = ledger.harmed(self.book.current.volumes)
        if words.keys() - told.keys() and self._maps_count and not self._stops:
            with contextlib.suppress(MirrorError, OSError):
                self.book.change(lambda now: {"volumes": ledger.with_harmed(now.volumes, words)})

    def _short_data(self) -> str | None:
        """Which data store is smaller than its volume, and what to do; None: none, as far as that
        is seen at once, and without asking a server."""
        try:
            return self._short()
        except OSError:  # what they stand on hangs
            return None

    def _look_for_short_data(self) -> str | None:
        """OSError."""
        for (_, part), one, size in self._that_count():
            try:
                if part == "data":
                    one.refuse_smaller(size)
            except stores.Harmed:
                return (
                    f"data store {one.where}: is smaller than its volume: give it that size again, "
                    f"{size} bytes, and the first image is committed"
                )
            except StoreError:  # it is away
                pass
        return None

    def harm_is_recorded(self) -> bool:
        """The ledger has the words of what the last look has found."""
        told = ledger.harmed(self.book.current.volumes)
        return {key: told[key] for key in told if key in self._opened} == self._words_of_harm()

    def _words_of_harm(self) -> dict[tuple[str, str], str]:
        """For the ledger: of what counts for a start.  Of a target's data none does before it has
        an image, or a seed."""
        book = self.book.current
        holds = book.role == "source" or book.whole or book.seeded
        harmed = [key for key in self._harmed if holds or key[1] != "data"]
        return dict.fromkeys(harmed, ledger.HARMED)

    def _keep_looking(self, is_over: beside.IsOver) -> None:
        """One that is cut, and large again, before anybody asks for the status is seen, too."""
        known: list[str] = []
        while not is_over(limits.STORES_LOOK_S):
            # What they stand on hangs, and status says so; or there is no memory just now.
            with contextlib.suppress(OSError, MemoryError):
                lost = self._lost_stores()[0]
                for one in lost:
                    if one not in known:
                        self.journal.say(one)
                known = lost

    def _look_at_stores(self) -> tuple[list[str], str | None]:
        """What became of those that count, or that a source's cycle may count on; and of one that
        holds what a promotion makes the volume."""
        deleted: list[str] = []
        image: list[str] = []
        harmed: dict[tuple[str, str], str] = {}
        for key, one, size in self._that_count():
            with contextlib.suppress(OSError):  # closed; else known, whatever the look below meets
                if self.control.was_cut(*key):
                    harmed[key] = self._harmed.get(key) or _was_cut(one)
            try:
                if found := self._look_at(one, size, image if key[1] == "data" else [], deleted):
                    harmed[key] = self._harmed.get(key) or found
            except OSError as error:
                if key in self._harmed:
                    harmed[key] = self._harmed[key]
                if not self._stops and key[1] == "data":  # else it is closed, or holds no volume
                    image.append(f"{one.where}: {error.strerror}: look into that store")
        self._harmed = harmed
        with contextlib.suppress(OSError):  # they are closed
            image += [
                f"{harmed.get(key) or _was_cut(self._opened[key])}; stop this site and start it, "
                "which says what can be kept"
                for key in self.control.lost_stores()
            ]
        lost = [*deleted, *harmed.values(), *self._cut_intermediates()]
        return lost, next(iter(image), None)

    @staticmethod
    def _look_at(one: stores.Opened, size: int, image: list[str], deleted: list[str]) -> str | None:
        """That it is smaller than its volume.  `image`: what none can be begun on.  OSError."""
        if gone := one.deleted():
            deleted.append(gone)
            image.append(gone)
        try:
            one.refuse_smaller(size)
        except stores.Harmed as error:
            return str(error)
        except StoreError as error:
            image.append(str(error))
        return None

    def _cut_intermediates(self) -> Iterator[str]:
        """Of a source.  What a cycle has copied there, and is to send again if its session is lost,
        may be gone: a loss, with which no cycle is committed (native/volume.c).  One that begins
        when it is large again needs nothing of it."""
        sizes = {record.name: record.size for record in self.book.current.volumes}
        for (name, part), one in list(self._opened.items()):
            if part == "intermediate" and self.book.current.role == "source":
                try:
                    one.refuse_smaller(sizes[name])
                except stores.Harmed as error:
                    yield str(error)
                except (OSError, StoreError):
                    pass  # it is closed: the site ends; or it is a device that is away

    def _that_count(self) -> list[tuple[tuple[str, str], stores.Opened, int]]:
        """Each store of which the bytes do, and its volume's size."""
        sizes = {record.name: record.size for record in self.book.current.volumes}
        source = self.book.current.role == "source"
        return [
            ((name, part), one, sizes[name])
            for (name, part), one in list(self._opened.items())
            if part == "data" or not source
        ]

    def file_taken_away(self) -> str | None:
        """Of a source: which file of its state folder is not its own any more, and what to do."""
        try:
            lost = self._missing()
        except OSError as error:
            return f"{self.config.state}: {error.strerror}: mend that"
        except LedgerError as error:
            return str(error)
        if lost is None:
            return None
        what = f"{lost}: was taken away, or another one stands there"
        if lost != ledger.path_in(self.config.state):
            return f"{what}: after the next end of this site, whichever, all of it is compared"
        return (
            f"{what}, and a kill would cost this history now: stop this site, and start it: a stop "
            "in order writes it again"
        )

    def _missing_file(self) -> pathlib.Path | None:
        return lastrun.taken_away(self.config.state, self.book.current, self.platform)

    def statistics(self) -> dict[str, native.Stats]:
        return self.copier.stats()


def _was_cut(one: stores.Opened) -> str:
    return f"{one.where}: was made smaller for a while: what stood behind is gone"
