"""sync, pause, resume: what a person asks of a source's control."""

from __future__ import annotations

import click

from mirror_core import config
from mirror_core.cli.common import Duration, ask, json_option, show, site_argument, wait_until


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


COMMANDS = [sync, pause, resume]
