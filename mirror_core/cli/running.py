"""start, stop, reopen: a site's process."""

from __future__ import annotations

from typing import Any

import click

from mirror_core import config, process, rotate
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
from mirror_core.errors import MirrorError


@click.command()
@site_argument
@click.option("--foreground", is_flag=True, help="Stay, as the site's process (for systemd).")
@json_option
def start(site: str, foreground: bool, as_json: bool) -> None:
    """Start a site; returns when its device opens, whether the peer is there or not."""
    settings = load_site(site)
    if foreground:
        process.start_foreground(settings)
    if settings.tls and (lack := settings.tls.not_in_force()):
        click.echo(f"flashmirror: {lack}", err=True)  # clients do not need it
    process.start(settings)
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


@click.command()
@site_argument
@json_option
def stop(site: str, as_json: bool) -> None:
    """Stop a site in order; returns when its process has ended, and says if it was not in order."""
    settings = load_site(site)
    wait, again = (f"'flashmirror {word} {settings.path}'" for word in ("stop", "start"))
    with goes_on(settings, f"it goes on stopping: wait with {wait}, or have it again with {again}"):
        in_order = process.stop(settings)
    how = "stopped" if in_order else (
        f"stopped, but not in order: see {settings.state}/site.log; the next start recovers it"
    )  # fmt: skip
    show({"site": settings.name, "in_order": in_order}, as_json, lambda: f"{settings.name}: {how}")


@click.command()
@site_argument
@json_option
def reopen(site: str, as_json: bool) -> None:
    """Have a site open its log again (after logrotate); returns when it has."""
    settings = load_site(site)
    pid = rotate.reopen(settings)
    how = f"process {pid} has opened its log again" if pid else "not running: it has no log open"
    show({"site": settings.name, "pid": pid}, as_json, lambda: f"{settings.name}: {how}")


COMMANDS = [start, stop, reopen]
