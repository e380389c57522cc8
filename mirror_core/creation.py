"""Makes a site: its first ledger, with stores that belong to nobody yet.

All is looked at before anything is written; a refusal leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from mirror_core import age, durable, ledger, stores
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
        durable.make_folder(config.state, HERE)
    except OSError as error:
        raise no_state(config, error) from error
    site = os.urandom(16).hex()
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, lock_state(config))
        if ledger.path_in(config.state).exists():
            raise LedgerError(
                f"{config.state}: holds a site already: name another 'state', or, to begin anew, "
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
                    volume.name, data.size, config.block_size,
                    data.record(), intermediate.record(),
                )
            )  # fmt: skip
        stores.refuse_one_disk(one for one, _ in opened)
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
        _write(config, first, opened)
        for one, _ in opened:
            if few := one.few_connections():
                say(f"{one.where}: {few}")
    return first


def _write(
    config: SiteConfig, first: ledger.Ledger, opened: list[tuple[stores.Opened, str]]
) -> None:
    """The ledger, and the marks of the stores; or neither.  LedgerError."""
    try:
        ledger.save(config.state, first)
        for one, mark in opened:
            one.set_mark(mark)
    except Exception as error:
        for one, _ in opened:
            one.clear_mark()
        durable.remove(ledger.path_in(config.state), HERE)
        if isinstance(error, OSError):
            raise no_state(config, error) from error
        if isinstance(error, durable.Doubt):
            raise LedgerError(f"{error}: mend that, and give the command again") from error
        raise


def _refuse_pair(data: stores.Opened, intermediate: stores.Opened) -> None:
    if data.size == 0:
        raise StoreError(f"{data.where}: is empty: give it the size of the volume")
    if intermediate.size != data.size:
        raise StoreError(
            f"{intermediate.where}: {intermediate.size} bytes, and {data.where} has {data.size}: "
            "make them equal"
        )
