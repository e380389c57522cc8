"""pki: what proves to each site that the other one is its peer."""

from __future__ import annotations

import re
from pathlib import Path

import click

from mirror_core import limits
from mirror_core.address import HOST_PATTERN, no_tls_host
from mirror_core.cli.common import json_option, show
from mirror_core.config import whole
from mirror_core.errors import ConfigError

_HERE = ("localhost", "127.0.0.1", "::1")


def _site(text: str) -> tuple[str, tuple[str, ...]]:
    """NAME or NAME=HOST,HOST.  ConfigError."""
    name, _, hosts = text.partition("=")
    if not re.fullmatch(limits.NAME_PATTERN, name) or set(name) == {"."} or name == "ca":
        raise ConfigError(f"--site: {name!r} is not a name of a site: use A-Z a-z 0-9 _ . -")
    found = tuple(hosts.split(",")) if hosts else (name, *_HERE)
    for host in found:
        if not re.fullmatch(HOST_PATTERN, host):
            raise ConfigError(f"--site: {host!r} is no host: write NAME=west.example.com,10.0.0.2")
        if hosts and (why := no_tls_host(host)):
            raise ConfigError(f"--site: {why}")
    return name, found


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="NAME[=HOST,...]",
    help="A site's name, and the hosts and addresses by which its peer reaches it; give "
    "the option twice.  [default: east and west, reached by their names and as localhost]",
)
@click.option(
    "--days",
    type=click.IntRange(1, 36500),
    default=limits.PKI_DAYS,
    show_default=True,
    help="For how many days the certificates are valid.",
)
@json_option
def pki(folder: Path, sites: tuple[str, ...], days: int, as_json: bool) -> None:
    """Create a private CA and the certificates of both sites.

    The command makes DIR/ca and a folder for each site (DIR/east and DIR/west), which you copy to
    that site.  Keep DIR/ca away from both: whoever has its key can pretend to be either of them.
    """
    from mirror_core import pki as making  # noqa: PLC0415 (it takes long, and only this needs it)

    named = dict(_site(text) for text in sites or ("east", "west"))
    if len(named) != 2 or len(sites) > 2:
        raise ConfigError("--site: a mirror has two sites: give it twice, with two names")
    folder = whole(folder)
    making.make(folder, named, days)
    record = {"ca": str(folder / "ca"), "sites": {name: str(folder / name) for name in named}}
    show(
        record,
        as_json,
        lambda: "\n".join(
            [
                *(
                    f"{name}: copy {folder / name} there, and name it in its [tls] certificates"
                    for name in named
                ),
                f"keep {folder / 'ca'} away from both: who has its key can be either of them",
            ]
        ),
    )


COMMANDS = [pki]
