"""attach, detach: a volume as the kernel's /dev/nbdN.

What speaks to the kernel is imported when it is wanted: pyroute2 would more than double the time
that every command takes to start.
"""

from __future__ import annotations

import os

import click

from mirror_core import config, limits
from mirror_core.cli.common import ask, json_option, one_volume, show, site_argument
from mirror_core.errors import ConfigError, MirrorError


def _may_use_kernel() -> None:
    from mirror_core import kernel  # noqa: PLC0415

    if os.geteuid():
        raise MirrorError("/dev/nbdN: only root may connect and disconnect the kernel's devices")
    kernel.check_module()


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
        ask(settings, {"op": "status"})
    _may_use_kernel()
    wanted = attaching.Device(settings, name, backend, index, connections)
    if foreground:
        attaching.stay(wanted)
        return
    path = attaching.path_of(attaching.start(wanted))
    show({"site": settings.name, "volume": name, "device": path}, as_json, lambda: path)


@click.command()
@click.argument("site_or_device", metavar="SITE VOLUME | /dev/nbdN")
@click.argument("volume", metavar="", required=False)
@click.option("--force", is_flag=True, help="Though it is in use: what waits gets I/O errors.")
@json_option
def detach(site_or_device: str, volume: str | None, force: bool, as_json: bool) -> None:
    """Disconnect a volume from the kernel, when nobody uses it."""
    from mirror_core import attach as attaching  # noqa: PLC0415
    from mirror_core import kernel  # noqa: PLC0415

    if volume is None and not site_or_device.startswith("/dev/"):
        raise ConfigError(f"{site_or_device}: name its volume too, or a device like /dev/nbd0")
    if volume is None:
        index: int | None = attaching.index_of(site_or_device)
    else:
        settings = config.load(site_or_device)
        index = kernel.find(attaching.backend(settings, one_volume(settings, volume)))
    _may_use_kernel()
    path = attaching.path_of(index) if index is not None else None
    if index is not None:
        attaching.detach(index, force=force)
    show({"device": path}, as_json, lambda: f"{path}: detached" if path else "was not attached")


COMMANDS = [attach, detach]
