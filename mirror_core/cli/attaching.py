"""attach, detach: a volume as the kernel's /dev/nbdN.

What speaks to the kernel is imported when it is wanted: pyroute2 would more than double the time
that every command takes to start.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror_core import config, limits, peer
from mirror_core.cli.common import (
    NotRunning,
    ask,
    json_option,
    one_volume,
    say,
    show,
    site_argument,
)
from mirror_core.errors import ConfigError, MirrorError

if TYPE_CHECKING:
    from mirror_core.attached import Attached


def _may_use_kernel() -> None:
    from mirror_core import kernel  # noqa: PLC0415

    if os.geteuid():
        raise MirrorError("/dev/nbdN: only root may connect and disconnect the kernel's devices")
    kernel.check_module()


def _ask_whether_it_runs(site: config.SiteConfig, patience_s: float) -> None:
    """MirrorError: it does not.  (systemd starts it just before its devices.)"""
    until = time.monotonic() + patience_s
    while True:
        try:
            ask(site, {"op": "status"})
        except NotRunning:
            if time.monotonic() >= until:
                raise
        else:
            return
        time.sleep(0.1)  # that a process begins is no event


@click.command()
@site_argument
@click.argument("volume")
@click.argument("device", required=False)
@click.option(
    "--foreground",
    is_flag=True,
    help="Stay in the foreground as the device's holder (for systemd).",
)
@click.option(
    "--connections",
    type=click.IntRange(1, limits.ATTACH_CONNECTIONS_MAX),
    default=limits.ATTACH_CONNECTIONS,
    show_default=True,
    help="The number of connections from the kernel to the site; read docs/attach.md before you "
    "use more than one.",
)
@json_option
def attach(
    site: str,
    volume: str,
    device: str | None,
    *,
    foreground: bool,
    connections: int,
    as_json: bool,
) -> None:
    """Connect a volume to the kernel as /dev/nbdN.

    The device survives a restart of the site: requests wait until the site is back.  The command
    chooses a free device unless DEVICE is given, and prints its path.
    """
    from mirror_core import attach as attaching  # noqa: PLC0415
    from mirror_core import kernel  # noqa: PLC0415

    settings = config.load(site)
    index = attaching.index_of(device) if device else None
    name = one_volume(settings, volume)
    backend = attaching.backend(settings, name)
    if kernel.find(backend) is None:  # attached already, the site may be gone for now
        _ask_whether_it_runs(settings, limits.ATTACH_SITE_S if foreground else 0)
    _may_use_kernel()
    wanted = attaching.Device(settings, name, backend, index, connections)
    if foreground:
        attaching.stay(wanted)
        return
    path = attaching.path_of(attaching.start(wanted))
    show({"site": settings.name, "volume": name, "device": path}, as_json, lambda: path)


@click.command()
@click.argument("site_or_device", metavar="SITE [VOLUME] | /dev/nbdN")
@click.argument("volume", metavar="", required=False)
@click.option(
    "--unmount",
    is_flag=True,
    help="First unmount what is mounted on the device, and wait for those who use that.",
)
@click.option(
    "--going-down",
    is_flag=True,
    help="The machine shuts down: with --unmount, also unmount what is mounted below or over that, "
    "even if its files are in memory only.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Disconnect even if the device is in use: what waits gets I/O errors.",
)
@click.option(
    "--held-by",
    metavar="PROCESS",
    help="Disconnect only what this process holds, or nobody (for systemd).",
)
@json_option
def detach(
    site_or_device: str,
    volume: str | None,
    *,
    unmount: bool,
    going_down: bool,
    force: bool,
    held_by: str | None,
    as_json: bool,
) -> None:
    """Disconnect volumes of a site from the kernel.

    Without VOLUME the command disconnects every device of the site.  It refuses a device that is in
    use.
    """
    from mirror_core import attach as attaching  # noqa: PLC0415
    from mirror_core import unmounting  # noqa: PLC0415

    _refuse_mixed(unmount=unmount, going_down=going_down, force=force, held_by=held_by)
    until = time.monotonic() + limits.UNMOUNT_S
    said = [] if going_down or held_by is not None else _given_up(site_or_device, volume)
    groups = _meant(site_or_device, volume, going_down=going_down)
    if any(groups) or (volume and not going_down):
        _may_use_kernel()
    devices, refusals = [], []
    for number, group in enumerate(groups):
        if unmount and group:  # of all of them, before one refuses
            left_s = max(0.0, until - time.monotonic()) / (len(groups) - number if number else 1)
            try:
                unmounting.everything_on(_Numbers(group), left_s, others=going_down)
            except (MirrorError, OSError) as error:
                why = _words(error) if isinstance(error, OSError) else error
                refusals.append(f"{why}{', '.join(group.values())}")
                continue
        for device, whose in group.items():
            path = attaching.path_of(device.index)
            try:
                attaching.detach(device, force=force, held_by=held_by)
            except attaching.HeldByAnother as error:
                said.append(f"{error}{whose}")
            except MirrorError as error:
                refusals.append(f"{error}{whose}")
            except OSError as error:  # whatever it is, there may be others
                refusals.append(f"{path}: {_words(error)}{whose}")
            else:
                devices.append(path)
                said.append(f"{path}: detached{whose}")
    if refusals:
        raise MirrorError("; ".join([*refusals, *said]))
    said = said or ["was not attached"]
    show({"devices": devices}, as_json, lambda: "\n".join(said))


def _refuse_mixed(*, unmount: bool, going_down: bool, force: bool, held_by: str | None) -> None:
    """ConfigError."""
    if unmount and force:
        raise ConfigError("detach: --unmount waits for who uses the device, --force does not")
    if going_down and not unmount:
        raise ConfigError("detach: --going-down says what --unmount unmounts: add that")
    if unmount and held_by is not None:
        raise ConfigError("detach: --unmount is for whatever holds the device, --held-by is not")


class _Numbers:
    """MAJOR:MINOR of those of these devices that are what they were: each time they are asked for,
    as one may be detached while a user of another is waited for, and its number be given away."""

    def __init__(self, devices: Iterable[Attached]) -> None:
        self._devices = list(devices)

    def __iter__(self) -> Iterator[str]:
        from mirror_core import attach as attaching  # noqa: PLC0415
        from mirror_core import kernel  # noqa: PLC0415

        for one in self._devices:
            with contextlib.suppress(MirrorError):  # its detach says it
                attaching.refuse_another(one)
                yield kernel.number_of(one.index)


def _words(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


@click.command("lineage-at", hidden=True)
@click.argument("socket", type=click.Path(path_type=Path))
@click.argument("name")
def lineage_at(socket: Path, name: str) -> None:
    """Which history the site NAME serves, that listens on SOCKET.

    A holder of another version asks this, which knows neither this version's configuration nor its
    protocol: so its words and its answer, one line, are never to change.
    """
    record = {"op": "status", "to": name}
    answer = peer.ask(config.unix_uri(socket, "/control"), record, limits.CONTROL_TIMEOUT_S)
    click.echo(answer["lineage"])


def _is_device(word: str) -> bool:
    path = Path(word)
    return word.startswith("/dev/") and path.suffix != ".toml" and not path.is_file()


def _given_up(site_or_device: str, volume: str | None) -> list[str]:
    """What is to be said of each volume that somebody was attaching.  Before its devices are looked
    for: it may have one just now.  ConfigError; MirrorError."""
    from mirror_core import attach as attaching  # noqa: PLC0415
    from mirror_core import attached  # noqa: PLC0415

    if _is_device(site_or_device):
        return []
    settings = config.load(site_or_device)
    named = None if volume is None else one_volume(settings, volume)
    today, said = attached.lineage_of(settings), list[str]()
    if not today:
        return said
    for name in (v.name for v in settings.volumes if named in (None, v.name)):
        number = attaching.give_up(attached.backend_of(settings.name, name, today))
        if number:
            said.append(f"{name}: process {number}, its holder without a device, has been ended")
    return said


def _meant(
    site_or_device: str, volume: str | None, *, going_down: bool
) -> list[dict[Attached, str]]:
    """Devices, each with what is to be said of it behind its name.  First those that a site serves
    today; then those of each other history, which may keep who unmounts them waiting for ever.
    ConfigError; MirrorError."""
    from mirror_core import attach as attaching  # noqa: PLC0415
    from mirror_core import attached  # noqa: PLC0415

    if _is_device(site_or_device):
        if volume is not None:
            raise ConfigError(f"{site_or_device}: a device has no volume {volume}")
        return [{attached.at(attaching.index_of(site_or_device)): ""}]
    if going_down:
        found = attached.going_down(site_or_device, volume)
        devices, today = found.devices, found.lineage
        if found.doubt and devices:
            meant = "so every device is meant that flashmirror has attached, but another site's"
            say(f"{found.doubt}: {meant}")
    else:
        settings = config.load(site_or_device)
        name = one_volume(settings, volume) if volume is not None else None
        devices, today = attached.of(settings, name), attached.lineage_of(settings)
        if name is not None and not devices:
            attaching.backend(settings, name)  # says why there can be none
    groups: dict[str, dict[Attached, str]] = {today or "": {}}
    for one in devices:
        whose = f" ({one.volume} of {one.site}, lineage {one.lineage[:8]}"
        whose += f"; its lineage is {today[:8]} by now)" if today else ")"
        group = groups.setdefault(one.lineage, {})
        group[one] = "" if one.lineage == today else whose
    return list(groups.values())


COMMANDS = [attach, detach]
HIDDEN = [lineage_at]
