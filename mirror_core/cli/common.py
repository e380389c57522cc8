"""What the commands share: arguments, tables or JSON, waiting with progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from mirror_core import config, limits, peer, process, protocol
from mirror_core.errors import ConfigError, MirrorError, PeerError
from mirror_core.units import format_size, parse_duration

site_argument = click.argument("site")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return parse_duration(value) if isinstance(value, str) else float(value)
        except MirrorError as error:
            self.fail(str(error), param, ctx)


def one_volume(site: config.SiteConfig, volume: str | None) -> str:
    """The volume that is meant; it may be left out if there is one only.  ConfigError."""
    names = [v.name for v in site.volumes]
    if volume is None and len(names) > 1:
        raise ConfigError(f"{site.name} has several volumes: name one of {', '.join(names)}")
    name = volume or names[0]
    if name not in names:
        raise ConfigError(f"{site.name} has no volume {name}: it has {', '.join(names)}")
    return name


def ask(site: config.SiteConfig, record: protocol.Record) -> protocol.Record:
    """Ask the running site.  MirrorError says how to start it if it does not run."""
    try:
        return peer.ask(site.control_uri(), record, limits.CONTROL_TIMEOUT_S)
    except PeerError as error:
        if not process.running(site):
            raise MirrorError(
                f"{site.name}: not running: start it with 'flashmirror start {site.path}'"
            ) from error
        raise MirrorError(f"{site.name}: {error}") from error


def show(record: Any, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(json.dumps(record, indent=2) if as_json else text())


class Bar:
    """One line on a terminal that says what is being waited for; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def update(self, status: dict[str, Any]) -> None:
        if not self._shown:
            return
        cycle = status["cycle"]
        total, copied = cycle["total_bytes"], cycle["copied_bytes"]
        share = copied / total if total else 0.0
        filled = "#" * round(share * 30)
        line = (
            f"\r\033[Kcycle {cycle['sequence']} {cycle['phase']:6} [{filled:30}] "
            f"{format_size(copied)} of {format_size(total)}"
        )
        reason = f"  {status['state']}: {status['reason']}" if status["reason"] else ""
        click.echo((line + reason)[:200], nl=False, err=True)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)


def wait_until(
    site: config.SiteConfig, record: protocol.Record, timeout_s: float | None, what: str
) -> dict[str, Any]:
    """Ask until the answer is done; the status that came with it.  MirrorError: timeout."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    bar = Bar()
    try:
        while True:
            answer = ask(site, record)
            status: dict[str, Any] = protocol.field(answer, "status", dict)
            if answer["done"]:
                return status
            bar.update(status)
            if deadline is not None and time.monotonic() >= deadline:
                why = status["reason"] or f"cycle {status['cycle']['phase']} is still under way"
                raise MirrorError(f"{site.name}: {what} not done in {timeout_s:g} s: {why}")
    finally:
        bar.end()
