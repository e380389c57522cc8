"""sync, pause, resume, bandwidth, promote: what a person asks of a running site's control."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from mirror_core import config, ledger, limits, peer, process, protocol
from mirror_core.cli.common import Bar, Duration, ask, json_option, show, site_argument, wait_until
from mirror_core.errors import LINK_ERRNOS, Answered, ConfigError, MirrorError, PeerError
from mirror_core.units import format_size, parse_rate


@click.command()
@site_argument
@click.option("--timeout", type=Duration(), default="60s", show_default=True,
              help="Give up waiting.")  # fmt: skip
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
    show(record, as_json, lambda: f"{settings.name}: paused, {_point_of(status)}")


def _point_of(status: dict[str, Any]) -> str:
    """What the target has: a cycle that was under way may have been given up, and a target that is
    not connected may have been put back since."""
    point = status["committed"]["consistency_point"]
    if point is None:
        return "and the time of what is whole at the target is not known"
    has = "has" if status["peer"]["state"] == "connected" else "had, when it was connected last,"
    return f"and the target {has} the writes until {datetime.fromtimestamp(point).astimezone()}"


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
    request = {"op": "promote", "force": force}
    moment = _wait_promoted(settings, request, ask(settings, request))
    status = process.status(settings)
    record = {"site": settings.name, "role": status["role"], "lineage": status["lineage"], **moment}
    show(record, as_json, lambda: _promoted(settings.name, record))


def _wait_promoted(
    settings: config.SiteConfig, request: protocol.Record, answer: protocol.Record
) -> dict[str, Any]:
    """Until the site has begun anew as a source; meanwhile it is away for a moment.  The point that
    it is promoted at: the last one before, as no source has a session."""
    bar, away_since, pid = Bar(), None, 0
    moment: dict[str, Any] = answer["status"]["committed"]
    with contextlib.ExitStack() as watched:
        watched.callback(bar.end)
        while not answer["done"]:
            if pid != (pid := answer["status"]["pid"]):  # which it keeps when it begins anew
                ended = _process_of(watched, pid)
            bar.update(answer["status"])
            moment = answer["status"]["committed"]
            try:
                answer = peer.ask(settings.control_uri(), request, limits.CONTROL_TIMEOUT_S)
                away_since = None
            except PeerError as error:
                if isinstance(error, Answered) or error.code not in LINK_ERRNOS:
                    raise MirrorError(f"{settings.name}: {error}", error.code) from error
                if ended():
                    _refuse_stopped(settings)
                away_since = away_since or time.monotonic()
                if time.monotonic() >= away_since + limits.START_TIMEOUT_S:
                    raise MirrorError(
                        f"{settings.name}: does not come back as a source ({error}): see "
                        f"{settings.state}/site.log, then start it"
                    ) from error
                time.sleep(0.02)  # a process that starts has no event to wait on but its answer
    return moment


def _process_of(watched: contextlib.ExitStack, pid: int) -> Callable[[], bool]:
    """Whether this process, which runs, has ended (pidfd_open(2))."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return lambda: True
    watched.callback(os.close, handle)
    return lambda: bool(select.select([handle], [], [], 0)[0])


def _refuse_stopped(settings: config.SiteConfig) -> None:
    """Its process has ended.  MirrorError: in order, so it does not come back by itself."""
    book = ledger.load(settings.state)
    if book.clean and not process.running(settings):
        raise MirrorError(
            f"{settings.name}: was stopped: "
            + ("it is a source from its next start on" if book.role == "source"
               else "start it and promote it again")
        )  # fmt: skip


def _promoted(name: str, record: dict[str, Any]) -> str:
    if record["consistency_point"] is None:
        return f"{name}: is the source"
    at = datetime.fromtimestamp(record["consistency_point"]).astimezone()
    return (
        f"{name}: is the source now, as of consistency point {record['sequence']}, "
        f"{at.isoformat(' ', 'seconds')}"
    )


COMMANDS = [sync, pause, resume, bandwidth, promote]
