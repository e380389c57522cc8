"""What the commands share: arguments, tables or JSON, waiting with progress."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from mirror_core import config, limits, lock, process, protocol, timeouts
from mirror_core.errors import (
    LINK_ERRNOS,
    Answered,
    ConfigError,
    MirrorError,
    PeerError,
    printable,
)
from mirror_core.units import format_size, parse_duration

site_argument = click.argument("site")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def load_site(site: str) -> config.SiteConfig:
    """What every command begins with that acts on a site that there is.  ConfigError; MirrorError:
    the state folder is another site's, or hangs."""
    settings = config.load(site)
    process.refuse_hung(settings)
    lock.refuse_other_site(settings)
    return settings


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


class Deadline:
    """Of a command; without a time-out there is none."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._at = math.inf if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float:
        return max(0.0, self._at - time.monotonic())

    def wait_s(self) -> float:
        """How long the site may wait before it answers."""
        return min(limits.CONTROL_WAIT_S, self.left_s())

    def patience_s(self) -> float:
        """How long its answer may take: no site that lives needs more than it was told to wait."""
        return min(limits.CONTROL_TIMEOUT_S, self.left_s() + limits.CONTROL_WAIT_S)


class NotRunning(MirrorError):
    """The site has no process."""

    def __init__(self, site: config.SiteConfig) -> None:
        super().__init__(
            f"{site.name}: not running: start it with 'flashmirror start {site.path}'", errno.ESRCH
        )


def ask(
    site: config.SiteConfig,
    record: protocol.Record,
    patience_s: float = limits.CONTROL_TIMEOUT_S,
) -> protocol.Record:
    """Ask the running site; one that begins anew is waited for.  NotRunning; MirrorError: it fails,
    or does not answer, with what to do."""
    until = time.monotonic() + patience_s
    while True:
        try:
            left_s = max(until - time.monotonic(), limits.CONTROL_WAIT_S)
            return process.ask(site, record, left_s)
        except PeerError as error:
            if isinstance(error, Answered):
                raise MirrorError(f"{site.name}: {error}", error.code) from error
            if not process.is_there(site):
                raise NotRunning(site) from error
            if error.code == errno.ETIMEDOUT:
                raise process.hangs(site, "does not answer (does it start, or hang?)") from error
            if error.code not in LINK_ERRNOS:
                raise MirrorError(f"{site.name}: {error}", error.code) from error
            if time.monotonic() >= until and not site.socket.exists():
                raise process.does_not_listen(site) from error
            if time.monotonic() >= until:
                raise MirrorError(
                    f"{site.name}: runs, and cannot be asked ({error}): see "
                    f"{site.state}/site.log, then stop it and start it",
                    error.code,
                ) from error
        time.sleep(0.02)  # a process that starts has no event to wait on but its answer


def live_status(site: config.SiteConfig) -> dict[str, Any]:
    """Of a site that runs; whether its file has changed is for who has just read that to say.  As
    `ask`."""
    record = ask(site, {"op": "status"})
    known = record.pop("configuration", None)  # a site of an older version does not say
    record["configuration_changed"] = None if known is None else known != site.digest
    return record


CHANGED = (
    "changed since the start, and not in force until the site is stopped and started, or promoted"
)


def say(text: str) -> None:
    """What is wrong, as the one line on stderr."""
    click.echo(f"flashmirror: {printable(text)}", err=True)


def show(record: Any, as_json: bool, text: Callable[[], str]) -> bool:
    """What came of a command; whether somebody reads it.  MirrorError: it cannot be printed, which
    is no failure of what was asked."""
    if as_json:
        words = json.dumps(record, indent=2)
    else:
        words = "\n".join(map(printable, text().split("\n")))
    try:
        click.echo(words)
    except OSError as error:
        # What is left in the buffer would be tried again at the end of the process, and fail that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # as `head` leaves it
            return False
        raise MirrorError(
            f"standard output: {error.strerror}: what was asked is done, and cannot be said",
            error.errno or 0,
        ) from error
    return True


class Bar:
    """One line on a terminal that says what is being waited for, and above it what is in the way,
    when that changes; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._reason = ""  # that stands above

    def update(self, status: dict[str, Any]) -> None:
        if not self._shown:
            return
        cycle = status["cycle"]
        total, copied = cycle["total_bytes"], cycle["copied_bytes"]
        share = copied / total if total else 0.0
        filled = "#" * round(share * 30)
        reason = f"{status['state']}: {status['reason']}" if status["reason"] else ""
        if reason not in ("", self._reason):
            click.echo(f"\r\033[K{printable(reason)}", err=True)
        self._reason = reason
        line = (
            f"cycle {cycle['sequence']} {cycle['phase']:6} [{filled:30}] "
            f"{format_size(copied)} of {format_size(total)}"
        )
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        click.echo(f"\r\033[K{line[: columns - 1]}", nl=False, err=True)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)


def wait_until(
    site: config.SiteConfig, record: protocol.Record, deadline: Deadline, what: str
) -> dict[str, Any]:
    """Ask until the answer is done, which has a status.  MirrorError: timeout, or the source is
    refused, which a person ends: not only by an answer of before this command, since when its
    target may have been told to take it."""
    bar = Bar()
    again = time.monotonic() + timeouts.asks_again_s(timeouts.silence_s(site.link_timeout))
    try:
        while True:
            answer = ask(site, {**record, "wait": deadline.wait_s()}, deadline.patience_s())
            status: dict[str, Any] = protocol.field(answer, "status", dict)
            if answer["done"]:
                return answer
            bar.update(status)
            if not deadline.left_s():
                raise not_done(site, status, deadline, what)
            if status["state"] == "refused" and time.monotonic() >= again:
                why = f"{site.name}: {what} not done: {status['reason']}"
                raise MirrorError(why, errno.ETIMEDOUT)  # nor will it be, for as long as one waits
    finally:
        bar.end()


@contextlib.contextmanager
def goes_on(site: config.SiteConfig, what: str) -> Iterator[None]:
    """Whoever waits no more for what was asked is told `what` comes of it without them.
    MirrorError."""
    try:
        yield
    except KeyboardInterrupt:
        raise MirrorError(f"{site.name}: interrupted: {what}", errno.EINTR) from None
    except MirrorError as error:
        if error.code != errno.ETIMEDOUT:
            raise
        raise MirrorError(f"{error}; {what}", error.code) from error


def not_done(
    site: config.SiteConfig, status: dict[str, Any], deadline: Deadline, what: str
) -> MirrorError:
    why = status["reason"] or _under_way(status)
    return MirrorError(
        f"{site.name}: {what} not done in {deadline.timeout_s:g} s: {why}", errno.ETIMEDOUT
    )


def _under_way(status: dict[str, Any]) -> str:
    """What is waited for where nothing is in the way."""
    if status["role"] == "target":
        return "the image is still being copied to the data stores"
    cycle = status["cycle"]
    name, phase = f"cycle {cycle['sequence']}", cycle["phase"]
    if phase == "copy":
        done, total = format_size(cycle["copied_bytes"]), format_size(cycle["total_bytes"])
        how = "stands still" if cycle["stands_still"] else "is still being copied"
        return f"{name} {how}, {done} of {total}"
    if phase == "flush":
        return f"{name} is copied, and the stores of this site are still being flushed"
    if phase == "commit":
        return (
            f"{name} is copied, and the target has not committed it yet: it hardens the one "
            "before, or flushes"
        )
    if phase == "idle" and (status["hardened_sequence"] or 0) < (
        status["committed"]["sequence"] or 0
    ):
        return f"{name} is committed, and the target still hardens it (copies it to its data)"
    return "the next consistency point is not made yet"
