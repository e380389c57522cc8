"""The command line: one file for each family of commands.

Exit status: 0 done, 1 failed (one line on stderr: what, where, what to do), 2 wrong usage.
"""

from __future__ import annotations

import sys

import click

from mirror_core import launch
from mirror_core.cli import (
    adopting,
    attaching,
    checking,
    creating,
    mirroring,
    running,
    securing,
    seeing,
)
from mirror_core.cli.common import say
from mirror_core.errors import ConfigError, MirrorError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flashmirror", prog_name="flashmirror")
def cli() -> None:
    """Mirror block volumes to another site, consistent at every instant.

    SITE is the path of a site's TOML file, or the NAME of the file /etc/flashmirror/NAME.toml.
    Exit status: 0 done, 1 failed (one line on stderr says what, where and what to do), 2 wrong
    usage or configuration.
    """


for family in (creating, checking, adopting, running, seeing, mirroring, attaching, securing):
    for command in family.COMMANDS:
        cli.add_command(command)
for command in attaching.HIDDEN:
    cli.add_command(command)


def main() -> None:
    launch.command_begins()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("flashmirror: interrupted", err=True)
        sys.exit(1)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        context: click.Context | None = getattr(error, "ctx", None)
        path = context.command_path if context else "flashmirror"
        text = " ".join(error.format_message().split()).rstrip(".")
        say(f"{text}: see '{path} --help'")
        sys.exit(2)
    except ConfigError as error:
        say(str(error))
        sys.exit(2)
    except MirrorError as error:
        say(str(error))
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""  # none: what is printed to
        say(f"{where}{error.strerror}")
        sys.exit(1)
