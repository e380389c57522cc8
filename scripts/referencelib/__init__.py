"""What docs/reference/commands.md says of each command, made from the commands themselves: their
arguments, options, defaults and ranges, and the text of `--help`.

Written out by hand here: what an argument is, for which click has no text, and the ranges that a
command looks at by itself.  An argument without a text is an error.

It does without click's own formatting, which differs from one release of click to the next.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from mirror_core import limits
from mirror_core.cli import cli
from mirror_core.units import format_size

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/reference/commands.md"
BEGIN = "<!-- scripts/reference writes from here on -->"
END = "<!-- scripts/reference writes up to here -->"
WIDTH = 100

_VOLUME = "a volume of the site, by its name"
ARGUMENTS = {  # by name; or by command and name
    "site": "the path of a site's TOML file, or the name of one in `/etc/flashmirror/`",
    "volume": _VOLUME,
    "uri volume": f"{_VOLUME}; it may be left out if the site has one only",
    "part": "which store of the volume is meant",
    "device": "the device to connect; without it the kernel takes one that is free",
    "site_or_device": "a site, of which all volumes are meant, or one with this name; or a device",
    "init folder": "the folder of the pair, which is made if it is not there",
    "pki folder": "a folder that is not there yet",
    "rate": "bytes a second",
    "socket": "the Unix socket of a site",
    "name": "the name of the site that is to listen there",
}
RANGES = {  # by command and option: of those whose type has none
    "init --size": f"From 1 byte to {format_size(limits.VOLUME_SIZE_MAX)}.",
    "init --block-size": f"A power of two, from {limits.BLOCK_SIZE_MIN} bytes to "
    f"{format_size(limits.BLOCK_SIZE_MAX)}.",
}
VALUES = {
    "DURATION": "a number and its unit, `ms`, `s`, `m` or `h`: `500ms`, `5s`, `2m`, `1.5h`; at "
    f"most {limits.DURATION_MAX_S / 86_400:g} days",
    "SIZE": "bytes, or a number with `K`, `M`, `G`, `T` or `P` (powers of 1024), with or without "
    "`B` or `iB` behind it: `512`, `4K`, `10GiB`",
    "RATE": "a SIZE and `/s`: `500K/s`, `20MiB/s`; from "
    f"{format_size(limits.RATE_MIN)}/s to {format_size(limits.RATE_MAX)}/s; or `0`: no limit",
}


def page_with(text: str) -> str:
    """The page's text with what the commands say by now between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{PAGE}: has lost its marks"
    return f"{before}{BEGIN}\n\n{_body()}\n{END}{after}"


def _body() -> str:
    known = sorted(cli.commands.items())
    parts = [*_group(), *_values()]
    parts += ["## The commands"]
    for name, command in known:
        if not command.hidden:
            parts += _command(name, command)
    parts += ["## For other programs", _paragraph("`flashmirror --help` does not name these.")]
    for name, command in known:
        if command.hidden:
            parts += _command(name, command)
    return "\n\n".join(parts) + "\n"


def _group() -> Iterator[str]:
    yield "## What all have in common"
    yield "    flashmirror COMMAND [OPTIONS] ARGUMENTS"
    yield from _paragraphs(cli.help)
    yield "\n".join(
        [
            _item("`-h`, `--help`", "Show the command's text and end. Each command has it."),
            *(_item(_option_names(one), _sentence(one.help)) for one in _options(cli)),
        ]
    )


def _values() -> Iterator[str]:
    yield "## Values"
    yield "\n".join(_item(f"`{name}`", f"{said}.") for name, said in VALUES.items())


def _command(name: str, command: click.Command) -> Iterator[str]:
    yield f"### {name}"
    yield _usage(name, command)
    yield from _paragraphs(command.help)
    items = [_item(f"`{_shown(one)}`", _of_argument(name, one)) for one in _arguments(command)]
    items += [_item(_option_names(one), _of_option(name, one)) for one in _options(command)]
    yield "\n".join(items)


def _arguments(command: click.Command) -> list[click.Argument]:
    """One whose metavar is empty is shown as a part of another."""
    found = [one for one in command.params if isinstance(one, click.Argument)]
    return [one for one in found if one.metavar != ""]


def _options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


def _usage(name: str, command: click.Command) -> str:
    options = [
        " ".join([one.opts[0], *_metavar(one)])
        if one.required
        else f"[{' '.join([one.opts[0], *_metavar(one)])}]{'...' if one.multiple else ''}"
        for one in _options(command)
    ]
    arguments = [_shown(one) if one.required else f"[{_shown(one)}]" for one in _arguments(command)]
    begin = f"    flashmirror {name}"
    lines = [begin]
    for word in (*options, *arguments):
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append(" " * len(begin))
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _shown(argument: click.Argument) -> str:
    if isinstance(argument.type, click.Choice):
        return "|".join(argument.type.choices)
    return argument.metavar or (argument.name or "").upper()


def _metavar(option: click.Option) -> list[str]:
    """The word for its value; none: it is a flag."""
    if option.is_flag:
        return []
    if option.metavar:
        return [option.metavar]
    if isinstance(option.type, click.Choice):
        return ["|".join(option.type.choices)]
    return ["N" if isinstance(option.type, click.IntRange) else option.type.name.upper()]


def _option_names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts[:-1])
    last = " ".join([option.opts[-1], *_metavar(option)])
    return f"{names}, `{last}`" if names else f"`{last}`"


def _of_argument(command: str, argument: click.Argument) -> str:
    name = argument.name or ""
    said = getattr(argument, "help", None)  # of a later click
    said = said or ARGUMENTS.get(f"{command} {name}") or ARGUMENTS[name]
    return f"{said}." if argument.required else f"{said}. Optional."


def _of_option(command: str, option: click.Option) -> str:
    assert option.help, f"{command} {option.opts[0]}: has no text"
    words = [_sentence(option.help)]
    kind = option.type
    if isinstance(kind, click.IntRange):
        words.append(f"From {kind.min} to {kind.max}.")
    if said := RANGES.get(f"{command} {option.opts[0]}"):
        words.append(said)
    if isinstance(option.default, (int, float, str)) and not isinstance(option.default, bool):
        words.append(f"Default: `{option.default}`.")
    if option.multiple:
        words.append("It may be given more than once.")
    if option.required:
        words.append("Required.")
    return " ".join(words)


def _sentence(text: str | None) -> str:
    said = re.sub(r"\s+", " ", text or "").strip()
    return said if said.endswith((".", "]")) else f"{said}."


def _item(head: str, said: str) -> str:
    return textwrap.fill(
        f"* {head}: {said}",
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _paragraph(text: str) -> str:
    said = re.sub(r"\s+", " ", text).strip()
    return textwrap.fill(said, WIDTH, break_long_words=False, break_on_hyphens=False)


def _paragraphs(text: str | None) -> Iterator[str]:
    return (_paragraph(one) for one in re.split(r"\n\s*\n", (text or "").strip()))
