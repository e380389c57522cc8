"""create, init, resync, seed: what is done while a site does not run."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Literal, cast

import click

from mirror_core import config, creation, ledger, limits, process
from mirror_core import resync as resyncing
from mirror_core.cli.common import json_option, load_site, show, site_argument
from mirror_core.errors import ConfigError, MirrorError
from mirror_core.units import format_size, parse_size


class Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return parse_size(value) if isinstance(value, str) else int(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


@click.command()
@site_argument
@click.option(
    "--role",
    type=click.Choice(["source", "target"]),
    required=True,
    help="The role in which the site begins.",
)
@json_option
def create(site: str, role: str, as_json: bool) -> None:
    """Create a site from its TOML file.

    The command records the site's stores and writes its first ledger into the state folder.
    """
    settings = config.load(site)
    process.refuse_running(settings, "create it")
    notes: list[str] = []
    first = creation.create(settings, cast(Literal["source", "target"], role), notes.append)
    record = {
        "site": first.name,
        "role": first.role,
        "volumes": [{"name": v.name, "size_bytes": v.size} for v in first.volumes],
        "notes": notes,
    }
    show(record, as_json, lambda: "\n".join([*notes, f"{first.name}: created as {first.role}"]))


@click.command()
@site_argument
@click.option(
    "--full", is_flag=True, required=True, help="Confirm that all that this site holds is given up."
)
@click.option("--force", is_flag=True, help="Do this to a source too, which becomes a target.")
@json_option
def resync(site: str, full: bool, force: bool, as_json: bool) -> None:
    """Discard a stopped site's data and copy all of it from the peer.

    The site gives up its image and every write that its peer has not received.  From its next
    start on it is a target that receives everything again.
    """
    settings = load_site(site)
    process.refuse_running(settings, "resync it")
    fresh = resyncing.resync_full(settings, force=force)
    record = {"site": fresh.name, "role": fresh.role}
    show(record, as_json, lambda: f"{fresh.name}: a target that takes everything from its peer")


@click.command()
@site_argument
@click.option(
    "--force",
    is_flag=True,
    help="Accept data stores whose server or file system may show, from a cache, what its disk has "
    "lost.",
)
@json_option
def seed(site: str, force: bool, as_json: bool) -> None:
    """Declare that a stopped target's data stores hold a copy.

    The sites then compare the data stores with the source, and only what differs is sent.
    """
    settings = load_site(site)
    process.refuse_running(settings, "seed it")
    fresh = resyncing.seed(settings, force=force)
    record = {"site": fresh.name, "role": fresh.role, "seeded": fresh.seeded}
    show(record, as_json, lambda: f"{fresh.name}: what its data stores hold is compared, not sent")


_TEMPLATE = """\
name = "{name}"
listen = ["unix:{folder}/{name}.sock"]
peer = "unix:{folder}/{peer}.sock"
state = "{folder}/{name}/state"
metrics = "127.0.0.1:0"
block_size = "{block_size}"
"""

_VOLUME = """
[[volume]]
name = "{volume}"
data = "{folder}/{name}/{volume}.img"
intermediate = "{folder}/{name}/{volume}.intermediate.img"
"""


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--size", type=Size(), default="1G", show_default=True, help="The size of each volume."
)
@click.option(
    "--volumes",
    type=click.IntRange(1, limits.VOLUMES_MAX),
    default=1,
    show_default=True,
    help="The number of volumes.",
)
@click.option(
    "--block-size",
    type=Size(),
    default="4K",
    show_default=True,
    help="The size of a block, the unit of copying.",
)
@json_option
def init(folder: Path, size: int, volumes: int, block_size: int, as_json: bool) -> None:
    """Create a pair of sites on this machine to try flashmirror with.

    The command writes DIR/east.toml (the source) and DIR/west.toml (the target), makes sparse
    images for their stores, and creates both sites.  They are ready to start.
    """
    folder = config.whole(folder)
    names = [f"disk{i}" if i > 1 else "disk" for i in range(1, volumes + 1)]
    if not 1 <= size <= limits.VOLUME_SIZE_MAX:
        raise ConfigError(
            f"--size: must be more than zero, at most {format_size(limits.VOLUME_SIZE_MAX)}"
        )
    if any(character in str(folder) for character in '"\\\n'):
        raise ConfigError(f"{folder}: a folder's name may not hold quotes or backslashes")
    existed, made = _exists_without_pair(folder), list[Path]()
    try:
        _make_pair(folder, names, size, block_size, made)
    except BaseException:
        _unmake_pair(folder, existed, made)
        raise
    record = {
        "source": str(folder / "east.toml"),
        "target": str(folder / "west.toml"),
        "volumes": names,
    }
    show(
        record,
        as_json,
        lambda: (
            f"source {record['source']}\ntarget {record['target']}\n"
            f"volumes {', '.join(names)}: {format_size(size)} each\n"
            f"start them with: flashmirror start {shlex.quote(str(record['target']))} && "
            f"flashmirror start {shlex.quote(str(record['source']))}"
        ),
    )


def _exists_without_pair(folder: Path) -> bool:
    """Whether the folder is there.  MirrorError: it holds a site, or nobody can say."""
    try:
        for site in ("east", "west"):
            if (folder / f"{site}.toml").exists() or (folder / site).exists():
                raise MirrorError(f"{folder}: holds a site {site} already: name another folder")
        return folder.exists()
    except OSError as error:
        raise MirrorError(f"{error.filename}: {error.strerror}: name another folder") from error


def _make_pair(
    folder: Path, names: list[str], size: int, block_size: int, made: list[Path]
) -> None:
    """`made`: what was, and is no other call's that is under way.  MirrorError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for site, other in (("east", "west"), ("west", "east")):
            (folder / site).mkdir(mode=0o700)
            made.append(folder / site)
            text = _TEMPLATE.format(folder=folder, name=site, peer=other, block_size=block_size)
            text += "".join(_VOLUME.format(folder=folder, name=site, volume=v) for v in names)
            with (folder / f"{site}.toml").open("x") as file:
                made.append(folder / f"{site}.toml")
                file.write(text)
    except OSError as error:
        raise MirrorError(f"{error.filename}: {error.strerror}: name another folder") from error
    roles: tuple[tuple[str, ledger.Role], ...] = (("east", "source"), ("west", "target"))
    for site, role in roles:
        settings = config.load(str(folder / f"{site}.toml"))
        for volume in settings.volumes:
            for where in (volume.data, volume.intermediate):
                _sparse(Path(where), size)
        creation.create(settings, role)


def _unmake_pair(folder: Path, existed: bool, made: list[Path]) -> None:
    """A refused init leaves nothing behind, and takes nothing of another one's."""
    for path in made:
        if path.suffix == ".toml":
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
    if not existed:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _sparse(path: Path, size: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with contextlib.closing(os.fdopen(fd, "wb")):
            os.truncate(fd, size)
    except OSError as error:
        raise MirrorError(f"{path}: {error.strerror}: choose another folder or size") from error


COMMANDS = [create, init, resync, seed]
