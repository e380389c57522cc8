"""start, stop, reopen: a site's process."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

import click

from mirror_core import config, ledger, process, rotate, stores
from mirror_core.cli.common import (
    CHANGED,
    NotRunning,
    goes_on,
    json_option,
    live_status,
    load_site,
    show,
    site_argument,
)
from mirror_core.errors import LedgerError, MirrorError


@click.command()
@site_argument
@click.option(
    "--foreground", is_flag=True, help="Stay in the foreground as the site's process (for systemd)."
)
@json_option
def start(site: str, foreground: bool, as_json: bool) -> None:
    """Start a site and wait until it answers.

    A source answers when its volumes can be opened, whether its peer is there or not.  A site that
    runs already is left as it is.
    """
    settings = load_site(site)
    if foreground:
        process.start_foreground(settings)
    if settings.tls and (lack := settings.tls.not_in_force()):
        click.echo(f"flashmirror: {lack}", err=True)  # clients do not need it
    ran = process.is_there(settings)
    process.start(settings)
    try:
        record, words = _look(settings)
    except NotRunning:
        if not ran:
            raise
        process.start(settings)  # the one that ran was being stopped, and has ended since
        record, words = _look(settings)
    show(record, as_json, lambda: f"{settings.name}: running{words}")


def _look(settings: config.SiteConfig) -> tuple[dict[str, Any], str]:
    """At a site that was started, whatever comes of the look.  NotRunning: it has ended since."""
    record: dict[str, Any] = {"site": settings.name, "pid": None, "configuration_changed": None}
    try:
        status = live_status(settings)
    except NotRunning:
        raise
    except MirrorError as error:
        return record, f"; more is not known: {error}"
    record = {key: status[key] for key in record}
    changed = f"; {settings.path} was {CHANGED}" if record["configuration_changed"] else ""
    return record, f", process {record['pid']}{changed}"


def _refuse_deleted(settings: config.SiteConfig) -> None:
    """MirrorError: the end of its process would be the end of a store that counts.  The process is
    looked at, and not asked: it may hang."""
    pid = process.found(settings)
    try:
        deleted = _deleted_of(pid)
    except OSError:
        return  # nothing is to be seen
    try:
        book = ledger.load(settings.state)
    except LedgerError:  # which has gone with them, perhaps: by their paths, and all count
        counts = {
            os.path.realpath(where): where
            for volume in settings.volumes
            for where in (volume.data, volume.intermediate)
        }
    else:
        counts = {
            getattr(record, part).identity: where
            for volume, part, where, record in stores.listed(settings, book)
            if record and stores.place_of(settings, book, volume, part).counts
        }
    for link, names in deleted:
        if where := next((counts[name] for name in names if name in counts), None):
            lost = stores.deleted(where, pid or 0, link.name)
            force = f"'flashmirror stop --force {settings.path}'"
            raise MirrorError(f"{lost}; to lose it: {force}")


def _what_is_next(settings: config.SiteConfig) -> str:
    """Of a site that was not stopped in order."""
    with contextlib.suppress(LedgerError):
        book = ledger.load(settings.state)
        gone = [
            getattr(record, part)
            for record in book.volumes
            for part in ("data", "intermediate")
            if ledger.is_harmed(getattr(record, part))
        ]
        heals = book.role == "source"  # of one that could not be read all is compared
        if [one for one in gone if not (heals and one.fingerprint == ledger.UNREADABLE)]:
            return "the next start refuses a store, and says what to do"
    return "the next start recovers it"


def _deleted_of(pid: int | None) -> list[tuple[Path, tuple[str, str]]]:
    """The files of a process that have no name any more: what a site calls each, and the path that
    it had.  Only such a one is looked at: the server of another may hang.  OSError."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed since
            path = os.readlink(link)
            if path.endswith(" (deleted)"):
                info = link.stat()
                if stat.S_ISREG(info.st_mode) and not info.st_nlink:
                    name = stores.seen(str(link))[0]
                    found.append((link, (name, path.removesuffix(" (deleted)"))))
    return found


@click.command()
@site_argument
@click.option(
    "--force",
    is_flag=True,
    help="Stop the site even if one of its stores was deleted and is lost by that.",
)
@json_option
def stop(site: str, force: bool, as_json: bool) -> None:
    """Stop a site and wait until its process has ended.

    The command says if the shutdown was not clean.  The next start then recovers the site.
    """
    settings = load_site(site)
    if not force:
        _refuse_deleted(settings)
    wait, again = (f"'flashmirror {word} {settings.path}'" for word in ("stop", "start"))
    with goes_on(settings, f"it goes on stopping: wait with {wait}, or have it again with {again}"):
        in_order = process.stop(settings)
    how = (
        "stopped"
        if in_order
        else f"stopped, but not cleanly: see {settings.state}/site.log; {_what_is_next(settings)}"
    )
    show({"site": settings.name, "in_order": in_order}, as_json, lambda: f"{settings.name}: {how}")


@click.command()
@site_argument
@json_option
def reopen(site: str, as_json: bool) -> None:
    """Make a site open its log file again (after logrotate).

    The command returns when the site has done so.  A site that does not run is left as it is.
    """
    settings = load_site(site)
    pid = rotate.reopen(settings)
    how = f"process {pid} has opened its log again" if pid else "not running: it has no log open"
    show({"site": settings.name, "pid": pid}, as_json, lambda: f"{settings.name}: {how}")


COMMANDS = [start, stop, reopen]
