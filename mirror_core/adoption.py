"""Takes a store in again, after a person has looked: 'flashmirror adopt', on a stopped site.

    look     what is recorded, what is there, and what the mirror will believe then
    agree    the person's answer; nothing is locked meanwhile, for they take their time
    look     again: what they have agreed to must be what is there
    record   the store that is there is the recorded one from now on

Whoever adopts a store says that it may hold something else than the site left in it:

    a source's data           everything may differ: the whole volume is hot, and is compared; so
                              is every other one, if maps of a killed run are in memory: they may
                              know of more than the intent logs do, and count no more
    a source's intermediate   nobody reads there what an earlier cycle left
    a target's store          if the fingerprint of an orderly stop is that of its bytes, the image
                              stands; so it does if this is a blank intermediate, and nothing is
                              pending: it is all in data then; otherwise the image is given up, as
                              by 'resync --full'

One whose flush has failed, that a start has found smaller, or that could or cannot be read
(stores.py) fits no fingerprint, unless the person says besides that it holds what it held
(`unchanged`); which they may say of a copy of one that could not be read, too.

Invariants.  No byte of a store is changed, only its mark.  The ledger names a source's adopted
data together with a run of its own, whose intent logs stand already, durably: all of the volume is
hot there, and no other map is of that run; who is still to be told of a loss is told by that run,
too (server_instance.py).  What a cycle had made stable in a target's intermediate is forgotten,
durably, before the ledger names another one.  An end before leaves the site as it was; or that
cycle is sent again.

Left out: a store that carries another store's mark, or that this site records in another place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from mirror_core import (
    age,
    durable,
    heard,
    intent,
    lastrun,
    ledger,
    mapfile,
    process,
    resync,
    server_instance,
    stores,
    written,
)
from mirror_core import identity as identities
from mirror_core.config import SiteConfig
from mirror_core.errors import LedgerError, MirrorError, StoreError
from mirror_core.lock import check_ledger, lock_state, no_state
from mirror_core.platform import HERE, Platform

Effect = Literal["compare", "record", "keep", "give up"]


@dataclass(frozen=True)
class Look:
    """What a person sees before they agree."""

    site: str
    role: ledger.Role
    volume: str
    part: str
    where: str
    recorded: str
    found: str
    refusal: str | None  # why the site would not start with it; None: it would
    effect: Effect
    sequence: int  # of the image that is kept or given up; 0: there is none


@dataclass(frozen=True)
class _Found:
    """The store that is there, open, and what it would be."""

    one: stores.Opened
    book: ledger.Ledger
    place: stores.Place
    look: Look
    folder: int  # the state folder's descriptor


def look(
    config: SiteConfig, volume: str, part: str, *, unchanged: bool = False, newest: bool = False
) -> Look:
    """`unchanged`: a person says that it holds what it held when the site ended; `newest`: that the
    state folder, which was copied, is the newest.
    MirrorError: the site runs, or the store cannot be this one."""
    with _locked(config, volume, part, unchanged=unchanged, newest=newest) as found:
        return found.look


def adopt(
    config: SiteConfig,
    volume: str,
    part: str,
    agreed: Callable[[Look], bool],
    *,
    unchanged: bool = False,
    newest: bool = False,
    platform: Platform = HERE,
    open_store: Callable[[str, float], stores.Opened] = stores.open_store,
    look_for_maps: Callable[[ledger.Ledger], mapfile.Found] = mapfile.look,
) -> Look:
    """`agreed`: whether this is what the person has agreed to; the site and the store are locked
    meanwhile.  MirrorError: it is not, the site runs, or the store cannot be this one; nothing was
    changed, unless the text says otherwise."""
    with _locked(
        config,
        volume,
        part,
        unchanged=unchanged,
        newest=newest,
        platform=platform,
        open_store=open_store,
    ) as found:
        if not agreed(found.look):
            raise MirrorError(
                f"{found.look.where}: changed meanwhile: nothing was changed: give the command "
                "again, and look again"
            )
        _record(config, found, look_for_maps, platform)
    return found.look


@contextlib.contextmanager
def _locked(
    config: SiteConfig,
    volume: str,
    part: str,
    *,
    unchanged: bool,
    newest: bool,
    platform: Platform = HERE,
    open_store: Callable[[str, float], stores.Opened] = stores.open_store,
) -> Iterator[_Found]:
    process.refuse_running(config, "adopt")
    with contextlib.ExitStack() as undo:
        folder = lock_state(config, platform)
        undo.callback(platform.close, folder)
        book = lastrun.load(config.state, platform)
        check_ledger(config, book)
        book = stores.in_this_boot(book, age.boot_of(platform))
        stores.refuse_twice(config)
        where = getattr(config.volume(volume), part)
        record = next(v for v in book.volumes if v.name == volume)
        one = open_store(where, config.link_timeout)
        undo.callback(one.store.close)
        one.drop_cache()  # what counts is what its disk has
        place = stores.place_at_rest(config, book, volume, part, platform, newest=newest)
        if unchanged:
            place = _unchanged(one, record, place)
        if one.size < record.size:
            _remember_smaller(config, one, book, record, place, folder=folder, platform=platform)
        _refuse(one, book, record, place)
        yield _Found(one, book, place, _look(one, book, record, place), folder)


def _unchanged(
    one: stores.Opened, record: ledger.VolumeRecord, place: stores.Place
) -> stores.Place:
    """It holds what it held, a person says: then no flush of it has lost anything, and what was cut
    off, or could not be read, is there.  Unless its bytes say otherwise.  StoreError."""
    said = replace(place, unflushed=frozenset(), flushing=frozenset(), unchanged=True)
    known: ledger.StoreRecord = getattr(record, place.part)
    contradicted = stores.refusal(one, known, said, record.size)
    return place if contradicted else said


def _recorded(book: ledger.Ledger) -> list[identities.Identity]:
    """What the ledger names, but for what servers have."""
    known = [stores.known(getattr(v, p)) for v in book.volumes for p in ("data", "intermediate")]
    return [it for it in known if it.kind != "nbd"]


def _remember_smaller(
    config: SiteConfig,
    one: stores.Opened,
    book: ledger.Ledger,
    record: ledger.VolumeRecord,
    place: stores.Place,
    *,
    folder: int,
    platform: Platform,
) -> None:
    """As a start does: whoever gives it that size is asked.  LedgerError."""
    changes = stores.found_smaller(one, book, record, place)
    fds = [(it, one.fd if one.is_called(it) else None) for it in _recorded(book)]

    def save(**more: Any) -> None:
        with _durably(config):
            ledger.save(config.state, replace(book, **changes, **more), platform)

    def doubt(names: Collection[str], _: LedgerError) -> None:
        lost = heard.with_names(book.unflushed, names)
        heard.record(lambda: save(unflushed=lost), platform)

    if changes:
        with heard.listening(platform, lambda: heard.names_near(folder, fds), doubt):
            save()


def _refuse(
    one: stores.Opened, book: ledger.Ledger, record: ledger.VolumeRecord, place: stores.Place
) -> None:
    """StoreError: no person can mean this store."""
    if one.size < record.size:
        raise StoreError(
            f"{one.where}: {one.size} bytes, but the volume has {record.size}: put the right one "
            "back, or give it that size, which makes zeroes of what is gone"
        )
    one.refuse_another_owner(place.mark)
    for volume in book.volumes:
        for part in ("data", "intermediate"):
            known = stores.known(getattr(volume, part))
            verdict = identities.judge(known, one.identity, marked=True)  # even without a mark
            if verdict is identities.Verdict.SAME and (volume.name, part) != (
                place.volume,
                place.part,
            ):
                raise StoreError(
                    f"{one.where}: recorded as {part} of volume {volume.name}: name it there in "
                    f"{place.config}"
                )


def _look(
    one: stores.Opened, book: ledger.Ledger, record: ledger.VolumeRecord, place: stores.Place
) -> Look:
    before: ledger.StoreRecord = getattr(record, place.part)
    refusal = stores.refusal(one, before, place, record.size)
    effect: Effect = "record"
    if book.role == "source":
        effect = "compare" if place.part == "data" else "record"
    elif book.lineage:  # without one nothing was taken from any source yet
        kept = refusal is None or stores.fits(one, before, place, record.size)
        effect = "keep" if kept else "give up"
    return Look(
        book.name, book.role, place.volume, place.part, one.where, str(stores.known(before)),
        str(one.identity), refusal, effect, book.committed if book.role == "target" else 0,
    )  # fmt: skip


def _record(
    config: SiteConfig,
    found: _Found,
    look_for_maps: Callable[[ledger.Ledger], mapfile.Found],
    platform: Platform,
) -> None:
    """LedgerError, StoreError: as before, unless the text says otherwise."""
    one, book, place = found.one, found.book, found.place
    stands = book

    def put(fresh: ledger.Ledger) -> None:
        nonlocal stands
        with _durably(config):
            ledger.save(config.state, fresh, platform)
        stands = fresh

    def save(**changes: Any) -> None:
        put(replace(stands, **changes))

    def doubt(names: Collection[str], _: LedgerError) -> None:
        """What was put into the others, which are not flushed, is not known to be there."""
        unflushed = heard.with_names(stands.unflushed, names)
        heard.record(lambda: save(unflushed=unflushed), platform)

    others = _recorded(book)

    def near() -> set[str]:
        """The others are not open, and may stand on any disk."""
        each = [(it, one.fd if one.is_called(it) else None) for it in (one.identity, *others)]
        return heard.names_near(found.folder, each)

    stores.flush_put_back(
        [one], others, book, age.boot_of(platform), save, near=near, platform=platform
    )
    names = identities.names_of(one.identity)
    with heard.listening(platform, lambda: near() - names, doubt):
        has_maps = look_for_maps(stands) is not mapfile.Found.NOTHING
        put(_adopted(config, found, stands, platform, has_maps=has_maps))
    one.set_mark(place.mark)


def _adopted(
    config: SiteConfig, found: _Found, book: ledger.Ledger, platform: Platform, *, has_maps: bool
) -> ledger.Ledger:
    """The ledger that names the store, beside which all stands already that it tells of.
    `has_maps`: of a source, of a run that was killed.  LedgerError, StoreError."""
    one, place, effect = found.one, found.place, found.look.effect
    record = next(v for v in book.volumes if v.name == place.volume)
    store = one.stopped_or_unread(record.size, counts=place.counts)
    fresh = (
        replace(record, data=store) if place.part == "data" else replace(record, intermediate=store)
    )
    book = replace(
        book, volumes=tuple(fresh if v.name == place.volume else v for v in book.volumes)
    )
    before, run = book.run, platform.token()
    names = identities.names_of(one.identity)
    unflushed, flushing = (
        tuple(name for name in those if name not in names)
        for those in (book.unflushed, book.flushing)
    )
    book = replace(book, unflushed=unflushed, flushing=flushing)
    doubtful = one.is_one_of(place.unflushed | place.flushing)
    if doubtful and place.part == "data":  # what is read may be a cache's
        book = replace(book, doubtful_data=True)
    if effect == "compare":
        unknown = {v.name for v in book.volumes if has_maps or v.name == record.name}
        if book.clean:  # what one without a fingerprint holds: no start on it flushes it first
            unknown |= {v.name for v in book.volumes if not v.data.fingerprint}
        logs = _make_logs(config, book, unknown, run, platform)
        book = replace(book, clean=False, run=run, logs=logs, maps={})
    elif effect == "give up":
        book = resync.give_up(book)
    if place.part == "intermediate" and (doubtful or not one.cached_here):
        book = replace(book, doubtful_before=True)  # its server may show what its disk has not
    with _durably(config):
        if effect == "keep" and place.part == "intermediate":
            _forget_stable(config, book, platform)
        if effect == "compare":
            server_instance.goes_on(config.state, book.site, before, run, platform)
    return book


@contextlib.contextmanager
def _durably(config: SiteConfig) -> Iterator[None]:
    """LedgerError: what was to be made durable is not, or may not be."""
    try:
        yield
    except OSError as error:
        raise no_state(config, error) from error
    except durable.Doubt as doubt:
        raise LedgerError(f"{doubt}: fix that, and give the command again") from doubt


def _forget_stable(config: SiteConfig, book: ledger.Ledger, platform: Platform) -> None:
    """The source is told that nothing of its cycle is here, and sends it again.  OSError."""
    known = platform.losses()
    with contextlib.suppress(FileNotFoundError):
        platform.unlink(written.path_in(config.state, book))
    durable.sync_folder(config.state, known, platform)


def _make_logs(
    config: SiteConfig,
    book: ledger.Ledger,
    unknown: Collection[str],
    run: str,
    platform: Platform,
) -> tuple[str, ...]:
    """The intent logs of a run in which all of these volumes may differ, and of the others what may
    differ now; what the ledger is to know them again by.  LedgerError."""
    logs: list[str] = []
    for record in book.volumes:
        opened = intent.open_log(
            config.state, book, record, run, region=config.intent_region, platform=platform
        )
        try:
            if record.name in unknown:
                opened.log.heat_all()
        except OSError as error:
            raise no_state(config, error) from error
        finally:
            opened.log.close()
        logs += filter(None, [opened.id])
    return tuple(logs)
