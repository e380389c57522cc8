"""status, uri: what there is to see."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import click

from mirror_core import config, lastrun, ledger, process
from mirror_core.cli.common import (
    CHANGED,
    NotRunning,
    json_option,
    live_status,
    load_site,
    one_volume,
    say,
    show,
    site_argument,
)
from mirror_core.errors import MirrorError
from mirror_core.units import format_size, format_time


def stopped_status(settings: config.SiteConfig) -> dict[str, Any]:
    """The status of a site that does not run, from its ledger."""
    book = lastrun.load(settings.state)
    claims = not book.unsure if book.role == "source" else book.whole
    return {
        "site": book.name,
        "role": book.role,
        "lineage": book.lineage.id if book.lineage else None,
        "pid": None,
        "configuration_changed": None,
        "metrics_address": None,
        "data_exposure_seconds": None,
        "image_age_seconds": _age(book.consistency_point if claims else None),
        "volumes": [
            {
                "name": v.name,
                "size_bytes": v.size,
                "block_size_bytes": v.block_size,
                "next_bytes": None,
                "pending_bytes": None,
                "copies_before_write": None,
                "write_error": None,
                "read_error": None,
                "has_intermediate": None,
            }
            for v in book.volumes
        ],
        "state": "stopped",
        "reason": _how_it_ended(book),
        "paused": book.paused if book.role == "source" else None,
        "peer": {
            "state": "disconnected",
            "since": None,
            "heard": None,
            "reason": "this site is stopped",
        },
        "cycle": {
            "sequence": book.begun if book.role == "source" else book.committed,
            "phase": "idle",
            "stands_still": False,
            "copied_bytes": 0,
            "total_bytes": 0,
            "estimated_end": None,
        },
        "committed": {
            "sequence": book.committed or None if claims else None,
            "consistency_point": book.consistency_point if claims else None,
        },
        "hardened_sequence": book.hardened or None if claims else None,
        "last_cycle": None,
    }


def _how_it_ended(book: ledger.Ledger) -> str | None:
    """None: in order, and nothing was done to it since."""
    if ledger.is_adopted(book):
        return "its data was adopted: what may differ is compared after the next start"
    words = [] if ledger.ended_in_order(book) else ["it was not shut down cleanly"]
    return "; ".join(words + ([lastrun.COPIED] if book.copied else [])) or None


def _age(point: float | None) -> float | None:
    """By the wall clock alone; None: there is no point, or the clock was set back behind it."""
    age = time.time() - point if point else -1.0
    return age if age > 0 else None


def get_status(settings: config.SiteConfig) -> dict[str, Any]:
    if process.is_there(settings):
        with contextlib.suppress(NotRunning):  # it has ended meanwhile
            return live_status(settings)
    return stopped_status(settings)


def _end_of(cycle: dict[str, Any]) -> str:
    if cycle["stands_still"]:
        return ", stands still"
    end = cycle["estimated_end"]
    return f", until about {format_time(end)}" if end else ""


def _cycle_of(status: dict[str, Any]) -> str:
    """Of a source its cycle; of a target the second copy, and what it receives meanwhile."""
    cycle, target = status["cycle"], status["role"] == "target"
    if status["pid"] is None:
        return "none: the site is stopped"
    received = target and sum(v["next_bytes"] for v in status["volumes"])
    receives = status["peer"]["state"] == "connected"  # or it has, from one that is gone
    size = format_size(received)
    came = (f"receiving, {size} so far" if receives else f"{size} received") if received else ""
    idle = cycle["phase"] == "idle"
    if idle and came:
        return came
    if idle and not (cycle["total_bytes"] if target else cycle["sequence"]):
        return "none under way" if target else "none since the start"
    row = (
        f"{cycle['sequence']} {cycle['phase']}, {format_size(cycle['copied_bytes'])} "
        f"of {format_size(cycle['total_bytes'])}{_end_of(cycle)}"
    )
    return f"{row}; {came}" if came else row


def _state_of(status: dict[str, Any]) -> str:
    also = ", paused" if status["paused"] and status["state"] != "paused" else ""
    return f"{status['state']}{also}" + (f": {status['reason']}" if status["reason"] else "")


def _seconds(figure: float | None, unknown: str) -> str:
    return unknown if figure is None else f"{figure:.1f} s"


def as_text(status: dict[str, Any]) -> str:
    point = status["committed"]["consistency_point"]
    when = format_time(point) if point else "an unknown time"
    sequence = status["committed"]["sequence"]
    peer = status["peer"]
    unknown = "the source knows" if status["role"] == "target" else "-"
    rows = [
        ("site", f"{status['site']} ({status['role']})"),
        ("state", _state_of(status)),
        (
            "peer",
            "is there, without a session"
            if peer["heard"] and peer["state"] != "connected"
            else peer["state"],
        ),
        ("committed", f"{sequence} at {when}" if sequence else "none known"),
        ("cycle", _cycle_of(status)),
        ("data exposure", _seconds(status["data_exposure_seconds"], unknown)),
        ("image age", _seconds(status["image_age_seconds"], "-")),
    ]
    if status["configuration_changed"]:
        rows.append(("configuration", CHANGED))
    if status["last_cycle"]:
        last = status["last_cycle"]
        rows.append(
            (
                "last cycle",
                f"{last['duration_seconds']:.2f} s, "
                f"{format_size(last['bytes'])}, held writes for "
                f"{last['freeze_seconds'] * 1000:.2f} ms",
            )
        )
    text = "\n".join(f"{name:14} {value}" for name, value in rows)
    came = "received" if status["role"] == "target" else "changed"
    for v in status["volumes"]:
        text += f"\n{'volume ' + v['name']:14} {format_size(v['size_bytes'])}"
        if v["next_bytes"] is not None:
            text += (
                f", {format_size(v['next_bytes'])} {came}, "
                f"{format_size(v['pending_bytes'])} to copy, "
                f"{v['copies_before_write']} copies before write"
            )
    return text


def _show_once(settings: config.SiteConfig, *, as_json: bool) -> bool:
    """Of many: a site that does not answer is what one watches for.  Whether somebody watches."""
    try:
        record, failure = get_status(settings), None
    except MirrorError as error:
        failure = error
    if not as_json:
        click.clear()
    if failure:
        say(str(failure))
        return True
    return show(record, as_json, lambda: as_text(record))


@click.command()
@site_argument
@click.option("--watch", is_flag=True, help="Show the status every second, until Ctrl-C.")
@json_option
def status(site: str, watch: bool, as_json: bool) -> None:
    """Show the role, the state and the progress of a site.

    The status of a site that does not run comes from its ledger; its state is `stopped`.
    """
    settings = load_site(site)
    if not watch:
        record = get_status(settings)
        show(record, as_json, lambda: as_text(record))
        return
    with contextlib.suppress(KeyboardInterrupt):  # the regular end
        while _show_once(settings, as_json=as_json):
            time.sleep(1)


@click.command()
@site_argument
@click.argument("volume", required=False)
@json_option
def uri(site: str, volume: str | None, as_json: bool) -> None:
    """Print the NBD URI of a source's volume.

    VOLUME may be left out if the site has only one.
    """
    settings = load_site(site)
    name = one_volume(settings, volume)
    if ledger.load(settings.state).role != "source":
        raise MirrorError(
            f"{settings.name}: is a target, whose device is refused: ask the source for its URI"
        )
    record = {"uri": settings.device_uri(name)}
    show(record, as_json, lambda: record["uri"])


COMMANDS = [status, uri]
