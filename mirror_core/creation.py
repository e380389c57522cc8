"""Makes a site: its first ledger, with stores that belong to nobody yet.

All is looked at before anything is written; a refusal leaves nothing behind.

A person brings a copy first, a source's volume or a seed, which is in the kernel's memory still.
So the stores are flushed before anything in the state folder is, which may stand on their disk and
hear, once, what that has lost (heard.py).

Left out: a kill in that flush; and a person who gives the command again without having brought the
copy again, as the line says: no ledger is there in which the next try could read of it, and the
disk's own cache may show what is lost for a while.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from mirror_core import age, durable, heard, ledger, stores
from mirror_core.config import SiteConfig
from mirror_core.errors import LedgerError, StoreError
from mirror_core.lock import lock_state, no_state
from mirror_core.platform import HERE


def create(
    config: SiteConfig, role: ledger.Role, say: Callable[[str], None] = lambda _: None
) -> ledger.Ledger:
    """The first ledger of a site; `say`: what its owner should know of the stores.  StoreError,
    LedgerError: nothing was written."""
    try:
        flush_names = durable.make_folder(config.state, HERE)
    except OSError as error:
        raise no_state(config, error) from error
    site = os.urandom(16).hex()
    with contextlib.ExitStack() as undo:
        lock = lock_state(config)
        undo.callback(os.close, lock)
        if ledger.path_in(config.state).exists():
            raise LedgerError(
                f"{config.state}: holds a site already: name another 'state', or, to begin again, "
                "move it away (not more: its image, or what it knows of changes, is lost with it)"
            )
        ledger.refuse_lost(config.state)
        stores.refuse_twice(config)
        opened = []
        records = []
        for volume in config.volumes:
            pair = []
            for part in ("data", "intermediate"):
                one = stores.open_store(getattr(volume, part), config.link_timeout)
                undo.callback(one.store.close)
                one.refuse_another_owner()
                pair.append(one)
                place = stores.Place(site, volume.name, part, str(config.path))
                opened.append((one, place.mark))
            data, intermediate = pair
            _refuse_pair(data, intermediate)
            for one in pair:
                stores.refuse_unfit(one, data.size, config.block_size)
            records.append(
                ledger.VolumeRecord(
                    volume.name,
                    data.size,
                    config.block_size,
                    data.record(),
                    intermediate.record(),
                )
            )
        ones = [one for one, _ in opened]
        stores.refuse_one_disk(ones)
        first = ledger.Ledger(
            site=site,
            name=config.name,
            role=role,
            lineage=ledger.Lineage(os.urandom(16).hex()) if role == "source" else None,
            volumes=tuple(records),
            since=time.time(),
            known_boot=age.boot_of(HERE),
            known_uptime=HERE.uptime(),
        )

        def near() -> set[str]:
            return heard.names_near(lock, [(one.identity, one.fd) for one in ones])

        try:
            with stores.flushed_first(ones, near):
                _record(config, first, flush_names)
            for one, mark in opened:
                one.set_mark(mark)
        except Exception:
            for one in ones:
                one.clear_mark()
            durable.remove(ledger.path_in(config.state), HERE)
            raise
        for one in ones:
            if few := one.few_connections():
                say(f"{one.where}: {few}")
    return first


def _record(config: SiteConfig, first: ledger.Ledger, flush_names: Callable[[], None]) -> None:
    """`flush_names`: of the state folder.  LedgerError: the ledger may stand, or not."""
    try:
        flush_names()
        ledger.save(config.state, first)
    except OSError as error:
        raise no_state(config, error) from error
    except durable.Doubt as error:
        raise LedgerError(f"{error}: fix the cause, and run the command again") from error


def _refuse_pair(data: stores.Opened, intermediate: stores.Opened) -> None:
    if data.size == 0:
        raise StoreError(f"{data.where}: is empty: give it the size of the volume")
    if intermediate.size != data.size:
        raise StoreError(
            f"{intermediate.where}: {intermediate.size} bytes, and {data.where} has {data.size}: "
            "make them equal"
        )
