"""What a person says of a stopped target's stores: that they count for nothing, or hold a copy.

    resync_full   the way out when histories disagree: the site becomes, or stays, a target
                  without a history, and the next source that fits is taken and sends everything
    seed          the data stores hold a copy of the source's that came by other means: what it
                  holds already, by checksums (compare.py), is not sent

Stores are not touched here.  A seed need not be exact, nor of one moment: what differs is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mirror_core import durable, ledger
from mirror_core.config import SiteConfig
from mirror_core.errors import LedgerError, MirrorError
from mirror_core.lock import lock_state
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
    """A target without a history: what its stores hold counts for nothing."""
    return replace(
        book,
        role="target",
        lineage=None,
        committed=0,
        committed_token="",
        consistency_point=None,
        runs=(),
        source_run="",
        hardened=0,
        whole=False,
        seeded=False,
        maps={},
    )


def seed(config: SiteConfig) -> ledger.Ledger:
    """The new ledger.  MirrorError: the site runs, is a source, or has an image."""

    def seeded(book: ledger.Ledger) -> ledger.Ledger:
        if book.role == "source":
            raise MirrorError(f"{book.name} is a source: seed the target")
        if book.whole:
            raise MirrorError(
                f"{book.name} has an image, of sequence {book.committed}: only what changes is "
                "sent (to give it up: 'flashmirror resync --full')"
            )
        # What a cycle under way has sent or found equal here was beside another copy.
        return replace(give_up(book), seeded=True)

    return _changed(config, seeded, HERE)


def _changed(
    config: SiteConfig, change: Callable[[ledger.Ledger], ledger.Ledger], platform: Platform
) -> ledger.Ledger:
    """The ledger of a stopped site, changed and saved.  MirrorError: as before."""
    lock = lock_state(config, platform)
    try:
        fresh = change(ledger.load(config.state, platform))
        ledger.save(config.state, fresh, platform)
    except OSError as error:
        raise LedgerError(f"{config.state}: {error.strerror}: mend that") from error
    except durable.Doubt as doubt:
        raise LedgerError(f"{doubt}: mend that, and give the command again") from doubt
    finally:
        platform.close(lock)
    return fresh
