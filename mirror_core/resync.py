"""What a person says of a stopped target's stores: that they count for nothing, or hold a copy.

    resync_full   the way out when histories disagree: the site becomes, or stays, a target
                  without a history, and the next source that fits is taken and sends everything
    seed          the data stores hold a copy of the source's that came by other means: what it
                  holds already, by checksums (compare.py), is not sent

No byte of a store is touched here.  A seed need not be exact, nor of one moment: what differs is
sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from mirror_core import durable, heard, identity, lastrun, ledger, stores
from mirror_core.config import SiteConfig
from mirror_core.errors import LedgerError, MirrorError
from mirror_core.lock import check_ledger, lock_state
from mirror_core.platform import HERE, Platform


def resync_full(config: SiteConfig, *, force: bool, platform: Platform = HERE) -> ledger.Ledger:
    """The new ledger.  MirrorError: the site runs, or is a source and `force` is not given."""

    def given_up(book: ledger.Ledger) -> ledger.Ledger:
        if book.role == "source" and not force:
            raise MirrorError(
                f"{book.name} is a source: --force makes it a target and discards what only it has"
            )
        return give_up(book)

    return _changed(config, given_up, platform)


def give_up(book: ledger.Ledger) -> ledger.Ledger:
    """A target without a history: what its stores hold counts for nothing.  A flush of its data
    may have failed that was not made good, as nothing says that it was: then what a server shows of
    it is in doubt, until it was all written again, for a commit.  So may one of an intermediate,
    and a first cycle that leaves out what the data has writes little there."""
    wrote = book.role == "source" or book.whole
    sure = book.clean and not any(key.endswith("/pending") for key in book.maps)
    lost = bool(
        book.unflushed or book.flushing
    )  # or not known to be flushed, of what a person had put there
    return replace(
        book,
        role="target",
        lineage=None,
        volumes=tuple(_may_change(volume) for volume in book.volumes),
        committed=0,
        committed_token="",
        consistency_point=None,
        runs=(),
        source_run="",
        source_silence=0.0,
        unsure=False,
        coarse=False,
        hardened=0,
        whole=False,
        seeded=False,
        doubtful_data=book.doubtful_data or (wrote and not sure) or lost,
        doubtful_sent=False,
        doubtful_before=book.doubtful_before or book.doubtful_sent or not book.clean or lost,
        unflushed=(),
        flushing=(),
        copied=False,
        maps={},
    )


def _may_change(volume: ledger.VolumeRecord) -> ledger.VolumeRecord:
    """Other bytes in its data store are none of another store's: a copy may be brought into it.
    But where nothing else tells the store from another one, its bytes have to."""
    data, intermediate = (
        replace(one, fingerprint=None if ledger.is_harmed(one) else one.fingerprint)
        for one in (volume.data, volume.intermediate)  # what is gone counts no more
    )
    volume = replace(volume, data=data, intermediate=intermediate)
    known = data.kind == "nbd" or data.lasting or data.instance
    return replace(volume, data=replace(data, fingerprint=None)) if known else volume


def seed(config: SiteConfig, *, force: bool) -> ledger.Ledger:
    """The new ledger.  MirrorError: the site runs, is a source, or has an image; or what is read
    from its data stores may not be on their disks, and `force` is not given."""

    def seeded(book: ledger.Ledger) -> ledger.Ledger:
        if book.role == "source":
            raise MirrorError(f"{book.name} is a source: seed the target")
        if book.whole:
            raise MirrorError(
                f"{book.name} has an image, of sequence {book.committed}: only what changes is "
                "sent (to give it up: 'flashmirror resync --full')"
            )
        if book.doubtful_data and not force and not _can_drop_caches(config):
            raise MirrorError(
                f"{book.name}: the server or file system of its data may show what its disk has "
                "lost while this site used it: start the site without a seed, and everything is "
                "sent; or, if that server was restarted since (or the machine), or all was copied "
                "to it since, seed it with --force"
            )
        lost = any(_names(volume) & {*book.unflushed} for volume in book.volumes)
        if lost and not force:
            raise MirrorError(
                f"{book.name}: a disk has lost something of what was put there: copy it again, and "
                "seed it with --force"
            )
        # What a cycle under way has sent or found equal here was beside another copy.
        return replace(give_up(book), seeded=True)

    return _changed(config, seeded, HERE, looks=True)


def _names(volume: ledger.VolumeRecord) -> set[str]:
    return identity.names_of(stores.known(volume.data))


def _can_drop_caches(config: SiteConfig) -> bool:
    """Whether the start on the seed drops all that may be read from a data store and is not on its
    disk.  StoreError."""
    return all(stores.is_cached_here(volume.data) for volume in config.volumes)


def _changed(
    config: SiteConfig,
    change: Callable[[ledger.Ledger], ledger.Ledger],
    platform: Platform,
    *,
    looks: bool = False,
) -> ledger.Ledger:
    """The ledger of a stopped site, changed and saved.  MirrorError: as before.  `looks`: at the
    data stores, which answer."""
    lock = lock_state(config, platform)
    try:
        book = lastrun.load(config.state, platform)
        check_ledger(config, book)
        fresh = change(book)
        near = _near(config, book, lock, looks=looks)

        def doubt(names: Collection[str], _: LedgerError) -> None:
            """What was put into these stores, such as a seed, is not known to be there."""
            unflushed = heard.with_names(book.unflushed, names)
            doubted = replace(book, unflushed=unflushed)
            heard.record(lambda: _save(config, doubted, platform), platform)

        with heard.listening(platform, lambda: near, doubt):
            _save(config, fresh, platform)
    finally:
        platform.close(lock)
    return fresh


def _near(config: SiteConfig, book: ledger.Ledger, folder: int, *, looks: bool) -> set[str]:
    """The names of the data stores of which the state folder's disk may speak (heard.py): asked
    before it does, or what it says would wait for a store that hangs."""
    return {
        name
        for volume in book.volumes
        if not (looks and _is_apart(config, volume, folder))
        for name in _names(volume)
    }


def _is_apart(config: SiteConfig, volume: ledger.VolumeRecord, folder: int) -> bool:
    where = config.volume(volume.name).data
    return stores.is_apart(where, stores.known(volume.data), folder)


def _save(config: SiteConfig, book: ledger.Ledger, platform: Platform) -> None:
    """LedgerError: it may not stand."""
    try:
        ledger.save(config.state, book, platform)
    except OSError as error:
        raise LedgerError(
            f"{config.state}: {error.strerror}: mend that", error.errno or 0
        ) from error
    except durable.Doubt as doubt:
        raise LedgerError(f"{doubt}: mend that, and give the command again") from doubt
