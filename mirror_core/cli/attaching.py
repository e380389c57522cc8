"""attach, detach: a volume as the kernel's /dev/nbdN.

What speaks to the kernel is imported when it is wanted: pyroute2 would more than double the time
that every command takes to start.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from mirror_core import config, limits
from mirror_core.cli.common import (
    NotRunning,
    ask,
    json_option,
    one_volume,
    show,
    site_argument,
)
from mirror_core.errors import ConfigError, MirrorError


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
@click.option("--foreground", is_flag=True, help="Stay, as the device's holder (for systemd).")
@click.option(
    "--connections",
    type=click.IntRange(1, limits.ATTACH_CONNECTIONS_MAX),
    default=limits.ATTACH_CONNECTIONS,
    show_default=True,
    help="From the kernel to the site; see docs/attach.md before you take more than one.",
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
    """Connect a volume to the kernel as /dev/nbdN; it survives a restart of the site."""
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
    help="First unmount what is mounted on it; who uses that is waited for.",
)
@click.option(
    "--going-down",
    is_flag=True,
    help="With --unmount: also what is mounted below or over that, though its files be in memory.",
)
@click.option("--force", is_flag=True, help="Though it is in use: what waits gets I/O errors.")
@json_option
def detach(
    site_or_device: str,
    volume: str | None,
    *,
    unmount: bool,
    going_down: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Disconnect a volume from the kernel, when nobody uses it; without its name, all of a site."""
    from mirror_core import attach as attaching  # noqa: PLC0415
    from mirror_core import kernel, unmounting  # noqa: PLC0415

    if unmount and force:
        raise ConfigError("detach: --unmount waits for who uses the device, --force does not")
    if going_down and not unmount:
        raise ConfigError("detach: --going-down says what --unmount unmounts: add that")
    if site_or_device.startswith("/dev/") and not Path(site_or_device).is_file():
        if volume is not None:
            raise ConfigError(f"{site_or_device}: a device has no volume {volume}")
        indices = [attaching.index_of(site_or_device)]
    elif volume is None:
        indices = attaching.devices_of(config.load(site_or_device))
    else:
        settings = config.load(site_or_device)
        found = kernel.find(attaching.backend(settings, one_volume(settings, volume)))
        indices = [found] if found is not None else []
    if indices or volume:
        _may_use_kernel()
    if unmount:  # of all, before one of them refuses
        numbers = map(kernel.number_of, indices)
        unmounting.everything_on(numbers, others=going_down)
    devices, refusals = [], []
    for index in indices:
        try:
            attaching.detach(index, force=force)
            devices.append(attaching.path_of(index))
        except MirrorError as error:
            refusals.append(str(error))
    said = [f"{path}: detached" for path in devices]
    if refusals:
        raise MirrorError("; ".join([*refusals, *said]))
    said = said or ["was not attached"]
    show({"devices": devices}, as_json, lambda: "\n".join(said))


COMMANDS = [attach, detach]
