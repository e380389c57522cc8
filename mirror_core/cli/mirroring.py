"""sync, pause, resume, bandwidth, promote: what a person asks of a running site's control."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from mirror_core import config, limits, peer, process, protocol
from mirror_core.cli.common import Bar, Duration, ask, json_option, show, site_argument, wait_until
from mirror_core.errors import ConfigError, MirrorError, PeerError
from mirror_core.units import format_size, parse_rate


@click.command()
@site_argument
@click.option("--timeout", type=Duration(), default="60s", show_default=True)
@json_option
def sync(site: str, timeout: float, as_json: bool) -> None:
    """Have every write acknowledged before this command whole at the target."""
    settings = config.load(site)
    sequence = ask(settings, {"op": "sync"})["sequence"]
    status = wait_until(settings, {"op": "wait", "sequence": sequence}, timeout, "sync")
    record = {"sequence": status["committed"]["sequence"],
              "consistency_point": status["committed"]["consistency_point"]}  # fmt: skip
    show(record, as_json, lambda: f"{settings.name}: {record['sequence']} is whole at the target")


@click.command()
@site_argument
@click.option("--now", is_flag=True, help="Stop copying where it is.")
@click.option("--timeout", type=Duration(), help="Give up waiting; it stays paused.")
@json_option
def pause(site: str, now: bool, timeout: float | None, as_json: bool) -> None:
    """Make no new consistency point; returns when the last one is whole at the target."""
    settings = config.load(site)
    ask(settings, {"op": "pause", "now": now})
    status = wait_until(settings, {"op": "settled"}, timeout, "pause")
    record = {"state": "paused", "committed": status["committed"]}
    show(record, as_json, lambda: f"{settings.name}: paused")


@click.command()
@site_argument
@json_option
def resume(site: str, as_json: bool) -> None:
    """Make consistency points again."""
    settings = config.load(site)
    ask(settings, {"op": "resume"})
    show({"state": "mirroring"}, as_json, lambda: f"{settings.name}: mirroring goes on")


class Rate(click.ParamType[int]):
    name = "rate"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return parse_rate(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


@click.command()
@site_argument
@click.argument("rate", type=Rate())
@json_option
def bandwidth(site: str, rate: int, as_json: bool) -> None:
    """Limit what the background sends to the peer (20MiB/s; 0: no limit), until SITE stops."""
    settings = config.load(site)
    ask(settings, {"op": "bandwidth", "rate": rate})
    text = f"{format_size(rate)}/s at most" if rate else "no limit"
    show({"bandwidth": rate}, as_json, lambda: f"{settings.name}: {text}")


@click.command()
@site_argument
@click.option("--force", is_flag=True, help="Even if its source is connected and healthy.")
@json_option
def promote(site: str, force: bool, as_json: bool) -> None:
    """Make a target the source: its image, read and write.  The old source is refused then."""
    settings = config.load(site)
    moment = ask(settings, {"op": "status"})["committed"]
    ask(settings, {"op": "promote", "force": force})  # refused here, or not at all
    _wait_promoted(settings, {"op": "promote", "force": force})
    status = process.status(settings)
    record = {"site": settings.name, "role": status["role"], "lineage": status["lineage"], **moment}
    show(record, as_json, lambda: _promoted(settings.name, record))


def _wait_promoted(settings: config.SiteConfig, request: protocol.Record) -> None:
    """Until the site has begun anew as a source; meanwhile it is away for a moment."""
    bar, away_since = Bar(), None
    try:
        while True:
            try:
                answer = peer.ask(settings.control_uri(), request, limits.CONTROL_TIMEOUT_S)
                if answer["done"]:
                    return
                away_since = None
                bar.update(answer["status"])
            except PeerError as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() >= away_since + limits.START_TIMEOUT_S:
                    raise MirrorError(
                        f"{settings.name}: does not come back as a source ({error}): see "
                        f"{settings.state}/site.log, then start it"
                    ) from error
                time.sleep(0.02)  # a process that starts has no event to wait on but its answer
    finally:
        bar.end()


def _promoted(name: str, record: dict[str, Any]) -> str:
    if record["consistency_point"] is None:
        return f"{name}: is the source"
    at = datetime.fromtimestamp(record["consistency_point"]).astimezone()
    return (
        f"{name}: is the source now, as of consistency point {record['sequence']}, "
        f"{at.isoformat(' ', 'seconds')}"
    )


COMMANDS = [sync, pause, resume, bandwidth, promote]
