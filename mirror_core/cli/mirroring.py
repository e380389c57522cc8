"""sync, pause, resume, bandwidth, promote: what a person asks of a running site's control."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from mirror_core import config, ledger, limits, process
from mirror_core.cli.common import (
    Bar,
    Deadline,
    Duration,
    ask,
    goes_on,
    json_option,
    load_site,
    not_done,
    say,
    show,
    site_argument,
    wait_until,
)
from mirror_core.errors import LINK_ERRNOS, Answered, ConfigError, MirrorError, PeerError
from mirror_core.units import format_size, format_time, parse_rate


@click.command()
@site_argument
@click.option(
    "--timeout",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Give up waiting after this time.",
)
@json_option
def sync(site: str, timeout: float, as_json: bool) -> None:
    """Wait until every earlier write is in the target's data stores.

    The command makes a consistency point, also on a paused source, and restarts the copying that
    `pause --now` stopped.  If the command gives up waiting, the consistency point is made all the
    same, as soon as possible, even if the source has been paused since.
    """
    settings = load_site(site)
    deadline = Deadline(timeout)
    sequence = ask(settings, {"op": "sync"}, deadline.patience_s())["sequence"]
    see = f"see 'flashmirror status {settings.path}'"
    with goes_on(settings, f"its point is made all the same, as soon as it can be: {see}"):
        whole = wait_until(settings, {"op": "wait", "sequence": sequence}, deadline, "sync")
    record = {key: whole[key] for key in ("sequence", "consistency_point")}
    show(record, as_json, lambda: f"{settings.name}: {record['sequence']} is whole at the target")


@click.command()
@site_argument
@click.option("--now", is_flag=True, help="Also stop the copying that is under way.")
@click.option(
    "--timeout", type=Duration(), help="Give up waiting after this time; the source stays paused."
)
@json_option
def pause(site: str, now: bool, timeout: float | None, as_json: bool) -> None:
    """Stop making consistency points until `resume`.

    The command returns when the last consistency point is whole in the target's data stores; with
    --now, as soon as this site copies nothing more.  The target still copies to its own data stores
    what it has received.  The pause outlasts a restart of the site.

    A `sync` makes a consistency point even now, also a sync that has given up waiting, and restarts
    the copying that --now stopped.  If you copy the target's data stores during a pause, give no
    `sync` before `resume`.
    """
    settings = load_site(site)
    deadline = Deadline(timeout)
    end = f"'flashmirror resume {settings.path}'"
    with goes_on(settings, f"it may be paused all the same, and stays so until {end}"):
        ask(settings, {"op": "pause", "now": now}, deadline.patience_s())
    with goes_on(settings, f"it is paused, and stays so until {end}"):
        status = wait_until(settings, {"op": "settled"}, deadline, "pause")["status"]
    record = {"state": "paused", "committed": status["committed"]}
    show(record, as_json, lambda: f"{settings.name}: paused, {_point_of(status)}")


def _point_of(status: dict[str, Any]) -> str:
    """What the target has: a cycle that was under way may have been given up, and a target that is
    not connected may have been put back since."""
    point = status["committed"]["consistency_point"]
    if status["committed"]["sequence"] is None:
        return "and no image is known to be at the target"
    if point is None:
        return "and the time of what is whole at the target is not known"
    has = "has" if status["peer"]["state"] == "connected" else "had, when it was connected last,"
    # As after --now, which does not wait for it.
    whole = (status["hardened_sequence"] or 0) >= status["committed"]["sequence"]
    yet = "" if whole else "; not all of them are in its data yet, as far as this site knows"
    return f"and the target {has} the writes until {format_time(point)}{yet}"


@click.command()
@site_argument
@json_option
def resume(site: str, as_json: bool) -> None:
    """Make consistency points again after a pause."""
    settings = load_site(site)
    with goes_on(settings, "it may be resumed all the same: see its status"):
        answer = ask(settings, {"op": "resume"})
    status = answer.get("status", {})  # a site of an older version does not say
    record = {key: status.get(key) for key in ("state", "reason")}
    words = ", ".join(filter(None, ("not paused any more", _state_of(record))))
    show(record, as_json, lambda: f"{settings.name}: {words}")


def _state_of(status: dict[str, Any]) -> str:
    return (status["state"] or "") + (f": {status['reason']}" if status["reason"] else "")


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
    """Limit the copying to the peer until the site stops.

    RATE is in bytes a second, such as 20MiB/s; 0 removes the limit.  Copies that a client's write
    waits for are not limited.
    """
    settings = load_site(site)
    ask(settings, {"op": "bandwidth", "rate": rate})
    text = f"{format_size(rate)}/s at most" if rate else "no limit"
    show({"bandwidth": rate}, as_json, lambda: f"{settings.name}: {text}")


@click.command()
@site_argument
@click.option(
    "--force", is_flag=True, help="Promote the target even if its source is connected and healthy."
)
@click.option(
    "--newest", is_flag=True, help="Declare that the state folder, which was copied, is the newest."
)
@click.option("--timeout", type=Duration(), help="Give up waiting after this time.")
@json_option
def promote(site: str, force: bool, newest: bool, timeout: float | None, as_json: bool) -> None:
    """Make a target the source, which serves its image.

    The site refuses its old source from then on.  The old source itself goes on serving its
    clients, and what they write there is lost: take them away from it first.

    The command waits until the image is whole in the target's data stores.  If the command gives up
    (a time-out, an interrupt, a site that does not answer), it takes the promotion back and the
    site is a target as before, unless the ledger already says that the site is the source.  The
    last line that the command prints says which.
    """
    settings = load_site(site)
    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) == signal.SIG_DFL:  # nobody ignores it, as nohup(1) does
            signal.signal(end, signal.default_int_handler)
    try:
        request = {"op": "promote", "force": force, **({"newest": True} if newest else {})}
        moment, status = _wait_promoted(settings, request, Deadline(timeout))
        # It was done before this command began: what it has committed since is another history's.
        point = moment or {"sequence": _forked_at(settings), "consistency_point": None}
    except KeyboardInterrupt:
        raise MirrorError(
            f"{settings.name}: interrupted: {_take_back(settings)}", errno.EINTR
        ) from None
    record = {"site": settings.name, "role": status["role"], "lineage": status["lineage"], **point}
    text = _promoted if moment else _promoted_before
    show(record, as_json, lambda: text(settings.name, record))


def _take_back(settings: config.SiteConfig) -> str:
    """A promotion that is waited for no more; what became of it."""
    try:
        role = ask(settings, {"op": "take_back"}, 2 * limits.CONTROL_WAIT_S)["role"]
    except MirrorError:
        return (
            "whether the promotion goes on is not known: it is taken back as soon as the site "
            f"answers, unless it is recorded by then: see 'flashmirror status {settings.path}'"
        )
    if role == "target":
        return f"the promotion is taken back, and {settings.name} is a target as before"
    return f"the promotion is recorded, and goes on: {settings.name} is the source from now on"


def _wait_promoted(
    settings: config.SiteConfig, request: dict[str, Any], deadline: Deadline
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Until the site has begun anew as a source; meanwhile it is away for a moment.  The point that
    it is promoted at: the last one before, as no source has a session; None: it was one already.
    And its status."""
    bar, away_since, pid, told = Bar(), None, 0, ""
    log = process.log_of(settings)
    try:
        answer = ask(settings, {**request, "wait": deadline.wait_s()}, deadline.patience_s())
    except MirrorError as error:
        if error.code != errno.ETIMEDOUT:
            raise
        raise MirrorError(f"{error}: {_take_back(settings)}", error.code) from error
    if answer["done"]:
        return None, answer["status"]
    moment: dict[str, Any] = answer["status"]["committed"]
    with contextlib.ExitStack() as watched:
        watched.callback(bar.end)
        while not answer["done"]:
            if pid != (pid := answer["status"]["pid"]):  # which it keeps when it begins anew
                ended = _process_of(watched, pid)
            bar.update(answer["status"])
            waits = answer.get("waits", "")
            if waits not in ("", told) and not sys.stderr.isatty():  # where the bar says it
                say(f"{settings.name}: promote waits: {waits}")
                told = waits
            moment = answer["status"]["committed"]
            if not deadline.left_s():
                bar.end()
                late = not_done(settings, answer["status"], deadline, "promote")
                raise MirrorError(f"{late}: {_take_back(settings)}", late.code)
            try:
                asked = {**request, "wait": deadline.wait_s()}
                answer = process.ask(settings, asked, deadline.patience_s())
                away_since = None
            except PeerError as error:
                if isinstance(error, Answered):
                    raise MirrorError(f"{settings.name}: {error}", error.code) from error
                if ended():
                    _refuse_stopped(settings, log)
                away_since = away_since or time.monotonic()
                silent = time.monotonic() >= away_since + limits.START_TIMEOUT_S
                if silent or error.code not in LINK_ERRNOS:
                    raise _given_up(settings, log, error) from error
                time.sleep(0.02)  # a process that starts has no event to wait on but its answer
    return moment, answer["status"]


def _process_of(watched: contextlib.ExitStack, pid: int) -> Callable[[], bool]:
    """Whether this process, which runs, has ended (pidfd_open(2))."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return lambda: True
    watched.callback(os.close, handle)
    return lambda: bool(select.select([handle], [], [], 0)[0])


def _refuse_stopped(settings: config.SiteConfig, log: process.Log) -> None:
    """Its process has ended.  MirrorError: it does not come back by itself, as it was stopped, or
    could not begin anew: its log may say which."""
    if ledger.load(settings.state).clean and not process.running(settings):
        raise MirrorError(f"{settings.name}: has ended{_last_words(log)}: {_now(settings)}")


def _given_up(settings: config.SiteConfig, log: process.Log, error: PeerError) -> MirrorError:
    """No answer, or nobody has started it in time after it was killed.  A process that lives may be
    in the middle of a turn, and would go on."""
    if not process.is_there(settings):
        return MirrorError(
            f"{settings.name}: does not come back ({error}){_last_words(log)}: {_now(settings)} "
            f"(see {log.path})"
        )
    why = f"{settings.name}: {error}"
    if error.code == errno.ETIMEDOUT:
        why = str(process.hangs(settings, "does not answer"))
    return MirrorError(f"{why}: {_take_back(settings)}", error.code)


def _last_words(log: process.Log) -> str:
    said = process.said_since(log)
    return f", and its last words are: {said}" if said else ""


def _now(settings: config.SiteConfig) -> str:
    """What a promotion has made of a site whose process has ended: its ledger knows."""
    try:
        role = ledger.load(settings.state).role
    except MirrorError as error:
        return f"what it is now cannot be read: {error}"
    if role == "source":
        return "it is promoted, and a source from its next start on: start it"
    return "nothing was done, and it is a target as before: start it and promote it again"


def _forked_at(settings: config.SiteConfig) -> int | None:
    """The sequence that a source was promoted at; None: it is not known."""
    try:
        lineage = ledger.load(settings.state).lineage
    except MirrorError:
        return None
    return lineage.forked_at if lineage and lineage.parent else None


def _promoted_before(name: str, record: dict[str, Any]) -> str:
    at = record["sequence"]
    since = f", since it was promoted at consistency point {at}" if at is not None else ""
    return f"{name}: is the source already{since}"


def _promoted(name: str, record: dict[str, Any]) -> str:
    if record["consistency_point"] is None:
        return f"{name}: is the source"
    at = format_time(record["consistency_point"])
    return f"{name}: is the source now, as of consistency point {record['sequence']}, {at}"


COMMANDS = [sync, pause, resume, bandwidth, promote]
