"""The way out for a person when histories disagree: give up what a site holds, take the peer's.

The site becomes, or stays, a target without a history: the next source that fits is taken, and
sends everything.  Its stores are not touched until then.

Left out: sending only what differs (that needs the two histories to be compared).
"""

from __future__ import annotations

import os
from dataclasses import replace

from mirror_core import ledger
from mirror_core.config import SiteConfig
from mirror_core.errors import LedgerError, MirrorError
from mirror_core.site import lock_state


def resync_full(config: SiteConfig, *, force: bool) -> ledger.Ledger:
    """The new ledger.  MirrorError: the site runs, or is a source and `force` is not given."""
    lock = lock_state(config)
    try:
        book = ledger.load(config.state)
        if book.role == "source" and not force:
            raise MirrorError(
                f"{book.name} is a source: --force makes it a target and discards what only it has"
            )
        fresh = replace(
            book,
            role="target",
            lineage=None,
            committed=0,
            consistency_point=None,
            hardened=0,
            whole=False,
            maps={},
        )
        ledger.save(config.state, fresh)
    except OSError as error:
        raise LedgerError(f"{config.state}: {error.strerror}: mend that") from error
    finally:
        os.close(lock)
    return fresh
