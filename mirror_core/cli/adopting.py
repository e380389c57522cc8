"""adopt: a person has looked at a store, and a stopped site takes it in again."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from mirror_core import adoption, stores
from mirror_core.cli.common import json_option, load_site, one_volume, show, site_argument
from mirror_core.errors import MirrorError


@click.command()
@site_argument
@click.argument("volume")
@click.argument("part", type=click.Choice(["data", "intermediate"]))
@click.option(
    "--yes", is_flag=True, help="Do not ask for confirmation: a person has looked at the store."
)
@click.option(
    "--unchanged",
    is_flag=True,
    help="Declare that the store holds what it held when the site ended: no failed flush, no end "
    "that was cut off and no place that could not be read has cost any of it.",
)
@click.option(
    "--newest", is_flag=True, help="Declare that the state folder, which was copied, is the newest."
)
@json_option
def adopt(
    site: str, volume: str, part: str, *, yes: bool, unchanged: bool, newest: bool, as_json: bool
) -> None:
    """Accept the store that is there now as a stopped site's store.

    This is for a store that got another identity because it was restored, moved or renumbered.
    After that of a source's data the whole volume is compared with the target.  A target whose
    store is not as the site left it gives up its image, but not for a blank intermediate in whose
    place no byte of the image was.  The command changes no store.
    """
    settings = load_site(site)
    one_volume(settings, volume)

    seen = (
        None
        if yes
        else _ask(adoption.look(settings, volume, part, unchanged=unchanged, newest=newest))
    )
    look = adoption.adopt(
        settings,
        volume,
        part,
        lambda found: yes or found == seen,
        unchanged=unchanged,
        newest=newest,
    )
    show(
        asdict(look),
        as_json,
        lambda: f"{look.site}: {look.where} is {part} of {volume}; {_then(look)}",
    )


def _ask(look: adoption.Look) -> adoption.Look:
    """MirrorError: there is nobody to ask, or they do not agree."""
    if not sys.stdin.isatty() and look.refusal is None:
        raise MirrorError(
            f"{look.where}: is the recorded store: nothing to adopt, unless its bytes were "
            f"changed by somebody: if they were, add --yes, and {_if_agreed(look)}"
        )
    if not sys.stdin.isatty():
        raise MirrorError(
            f"{look.where}: found {look.found}, recorded {look.recorded}; if it is adopted, "
            f"{_if_agreed(look)}: to adopt it add --yes, or run this on a terminal"
        )
    click.echo(_shown(look), err=True)
    if not click.confirm(f"Adopt it as {look.part} of {look.volume}?", default=False, err=True):
        raise MirrorError(f"{look.site}: nothing was changed")
    return look


def _shown(look: adoption.Look) -> str:
    why = look.refusal or (
        "it is the recorded store: nothing to adopt, unless its bytes were changed by somebody"
    )
    return (
        f"store     {look.where}\nrecorded  {look.recorded}\nfound     {look.found}\n"
        f"today     {why}\nadopted   {_if_agreed(look)}"
    )


def _if_agreed(look: adoption.Look) -> str:
    """What follows, and what cannot be done then, for a person who has not agreed yet."""
    if look.effect != "give up" or not look.sequence:
        return _then(look)
    return f"{_then(look)}; until then nothing can be promoted here: {stores.SOURCE_LOST}"


def _then(look: adoption.Look) -> str:
    if look.effect == "compare":
        return f"all of {look.volume} is compared with the target, and what differs is sent"
    if look.effect == "keep":
        return f"the image of sequence {look.sequence} stands"
    if look.effect == "give up":
        image = f"the image of sequence {look.sequence}" if look.sequence else "what was copied"
        return f"{image} is given up on {look.site}, and everything is taken from the source again"
    return "nothing else changes"


COMMANDS = [adopt]
