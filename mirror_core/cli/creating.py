"""create, init, check, resync, seed: what is done while a site does not run."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import click

from mirror_core import config, creation, ledger, limits, lock, peer, process, stores
from mirror_core import resync as resyncing
from mirror_core.address import Tls
from mirror_core.cli.common import ask, json_option, show, site_argument
from mirror_core.errors import NOT_YET, Answered, ConfigError, MirrorError, PeerError
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
@click.option("--role", type=click.Choice(["source", "target"]), required=True,
              help="What the site begins as.")  # fmt: skip
@json_option
def create(site: str, role: str, as_json: bool) -> None:
    """Write the first ledger of a site from its TOML file."""
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
@click.option("--full", is_flag=True, required=True, help="Give up all that this site holds.")
@click.option("--force", is_flag=True, help="Also if it is a source: it becomes a target.")
@json_option
def resync(site: str, full: bool, force: bool, as_json: bool) -> None:
    """Have a stopped site take everything from its peer, whatever it holds now."""
    settings = config.load(site)
    process.refuse_running(settings, "resync it")
    fresh = resyncing.resync_full(settings, force=force)
    record = {"site": fresh.name, "role": fresh.role}
    show(record, as_json, lambda: f"{fresh.name}: a target that takes everything from its peer")


@click.command()
@site_argument
@click.option(
    "--force", is_flag=True, help="Although a server of the data may show what its disk has lost."
)
@json_option
def seed(site: str, force: bool, as_json: bool) -> None:
    """Have a stopped target take its data stores for a copy: only what differs is sent."""
    settings = config.load(site)
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
@click.option("--size", type=Size(), default="1G", show_default=True, help="Of each volume.")
@click.option("--volumes", type=click.IntRange(1, limits.VOLUMES_MAX), default=1,
              show_default=True, help="How many.")  # fmt: skip
@click.option("--block-size", type=Size(), default="4K", show_default=True,
              help="The unit of what is copied.")  # fmt: skip
@json_option
def init(folder: Path, size: int, volumes: int, block_size: int, as_json: bool) -> None:
    """Make a pair of sites on this machine, ready to start: DIR/east.toml, DIR/west.toml."""
    folder = folder.absolute()
    names = [f"disk{i}" if i > 1 else "disk" for i in range(1, volumes + 1)]
    if not 1 <= size <= limits.VOLUME_SIZE_MAX:
        raise ConfigError(
            f"--size: must be more than zero, at most {format_size(limits.VOLUME_SIZE_MAX)}"
        )
    if any(character in str(folder) for character in '"\\\n'):
        raise ConfigError(f"{folder}: a folder's name may not hold quotes or backslashes")
    existed = _exists_without_pair(folder)
    try:
        _make_pair(folder, names, size, block_size)
    except BaseException:
        _unmake_pair(folder, existed)
        raise
    record = {"source": str(folder / "east.toml"), "target": str(folder / "west.toml"),
              "volumes": names}  # fmt: skip
    show(record, as_json, lambda: (
        f"source {record['source']}\ntarget {record['target']}\n"
        f"start them with: flashmirror start {record['target']} && "
        f"flashmirror start {record['source']}"))  # fmt: skip


def _exists_without_pair(folder: Path) -> bool:
    """Whether the folder is there.  MirrorError: it holds a site, or nobody can say."""
    try:
        for site in ("east", "west"):
            if (folder / f"{site}.toml").exists() or (folder / site).exists():
                raise MirrorError(f"{folder}: holds a site {site} already: name another folder")
        return folder.exists()
    except OSError as error:
        raise MirrorError(f"{error.filename}: {error.strerror}: name another folder") from error


def _make_pair(folder: Path, names: list[str], size: int, block_size: int) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for site, other in (("east", "west"), ("west", "east")):
            (folder / site).mkdir(mode=0o700)
            text = _TEMPLATE.format(folder=folder, name=site, peer=other, block_size=block_size)
            text += "".join(_VOLUME.format(folder=folder, name=site, volume=v) for v in names)
            (folder / f"{site}.toml").write_text(text)
    except OSError as error:
        raise MirrorError(f"{error.filename}: {error.strerror}: name another folder") from error
    roles: tuple[tuple[str, ledger.Role], ...] = (("east", "source"), ("west", "target"))
    for site, role in roles:
        settings = config.load(str(folder / f"{site}.toml"))
        for volume in settings.volumes:
            for where in (volume.data, volume.intermediate):
                _sparse(Path(where), size)
        creation.create(settings, role)


def _unmake_pair(folder: Path, existed: bool) -> None:
    """A refused init leaves nothing behind."""
    for site in ("east", "west"):
        shutil.rmtree(folder / site, ignore_errors=True)
        with contextlib.suppress(OSError):
            (folder / f"{site}.toml").unlink()
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


@click.command()
@site_argument
@json_option
def check(site: str, as_json: bool) -> None:
    """Check a configuration, this site's stores, and that both sites fit together."""
    settings = config.load(site)
    rows = [("configuration", "ok", str(settings.path))]
    book: ledger.Ledger | None = None
    live = process.is_there(settings)
    try:
        book = ledger.load(settings.state)
        lock.check_ledger(settings, book)
        count = len(book.volumes)
        rows.append(("ledger", "ok", f"{book.role}, {count} volume{'s' if count > 1 else ''}"))
    except MirrorError as error:
        again = ""
        if live and error.code == errno.ENOENT:
            again = (
                f"{ledger.path_in(settings.state)}: is gone, and this site, which runs, writes it "
                "again with its next commit: 'flashmirror sync' on the source makes one"
            )
        rows.append(("ledger", "failed", again or str(error)))
    rows.append(("process", "ok", "running" if live else "stopped"))
    rows += _check_running(settings) if live else _check_stores(settings, book)
    rows.append(_check_space(settings))
    if settings.tls:
        rows.append(_check_tls(settings.tls))
    rows.append(_check_peer(settings, book))
    record = [{"check": c, "result": r, "detail": d} for c, r, d in rows]
    show(record, as_json, lambda: "\n".join(f"{r:7} {c:22} {d}" for c, r, d in rows))
    failed = [f"{c}: {d}" for c, r, d in rows if r == "failed"]
    if failed:
        raise MirrorError(f"{settings.path}: {len(failed)} of {len(rows)} checks failed: "
                          f"{failed[0]}")  # fmt: skip


Row = tuple[str, str, str]


def _check_running(settings: config.SiteConfig) -> list[Row]:
    try:
        status = ask(settings, {"op": "status"})
    except MirrorError as error:
        return [("control", "failed", str(error))]
    reason = status["reason"]
    # Nothing is wrong: a target has no other reason in that state, and a pause is none at a source.
    its_source_waits = status["role"] == "target" and status["state"] == "paused"
    waits = its_source_waits or reason == NOT_YET
    ok = status["state"] not in ("degraded", "refused") and (not reason or waits)
    return [("mirroring", "ok" if ok else "failed", reason or status["state"])]


def _check_stores(settings: config.SiteConfig, book: ledger.Ledger | None) -> list[Row]:
    rows: list[Row] = []
    for volume in settings.volumes:
        sizes = set()
        for part in ("data", "intermediate"):
            label = f"{volume.name} {part}"
            try:
                one = stores.open_store(getattr(volume, part), settings.link_timeout)
            except MirrorError as error:
                rows.append((label, "failed", str(error)))
                continue
            sizes.add(one.size)
            try:
                for record in book.volumes if book else ():
                    if book and record.name == volume.name:
                        place = stores.place_of(settings, book, volume.name, part)
                        stores.verify(one, getattr(record, part), place, record.size)
                rows.append((label, *_known_by(one)))
            except MirrorError as error:
                rows.append((label, "failed", str(error)))
            finally:
                one.store.close()
        if len(sizes) > 1:
            rows.append((f"{volume.name} sizes", "failed", "data and intermediate differ in size"))
    return rows


def _known_by(one: stores.Opened) -> tuple[str, str]:
    few = one.few_connections()
    text = f"{one.where}: {format_size(one.size)}" + (f"; {few}" if few else "")
    if one.identity.kind != "device" or one.identity.lasting:
        return "ok", text
    return (
        "warning",
        f"{text}; nothing but its number tells it from another device: after a kill and a reboot "
        "it must be adopted; give the disk a serial number",
    )


def _check_space(settings: config.SiteConfig) -> Row:
    """Sparse files may grow to their whole size: is there room for that?"""
    need: dict[int, int] = {}
    free: dict[int, int] = {}
    for volume in settings.volumes:
        for where in (volume.data, volume.intermediate):
            if config.is_uri(where) or not Path(where).is_file():
                continue
            info, room = os.stat(where), os.statvfs(where)
            grow = max(0, info.st_size - info.st_blocks * 512)
            need[info.st_dev] = need.get(info.st_dev, 0) + grow
            free[info.st_dev] = room.f_bavail * room.f_frsize
    short = [(need[d], free[d]) for d in need if need[d] > free[d]]
    if not short:
        return ("space", "ok", "the stores can grow to their whole size")
    return (
        "space", "warning",
        f"the stores may grow by {format_size(short[0][0])}, {format_size(short[0][1])} are free",
    )  # fmt: skip


def _check_tls(tls: Tls) -> Row:
    from mirror_core import pki  # noqa: PLC0415 (it takes long, and only this needs it)

    try:
        tls.check()
        if not tls.certificates:
            return ("tls", "ok", f"{tls.psk}: a shared key")
        name, end = pki.first_to_expire(tls.certificates)
    except MirrorError as error:
        return ("tls", "failed", str(error))
    left = (end - datetime.now(UTC)).days
    result = "failed" if left < 0 else "warning" if left < limits.PKI_WARN_DAYS else "ok"
    return ("tls", result, f"{tls.certificates / name}: valid until {end:%Y-%m-%d}")


def _check_peer(settings: config.SiteConfig, book: ledger.Ledger | None) -> Row:
    try:
        other = peer.ask(settings.peer_uri("/control"), {"op": "who"}, settings.link_timeout)
    except PeerError as error:
        advice = "see docs/network.md, 'What each failure looks like'"
        if isinstance(error, Answered):
            advice = "see its status and its log"
        elif peer.does_not_run(settings.peer, error):
            advice = "start it"
        return ("peer", "failed", f"{settings.peer}: {error}: {advice}")
    except MirrorError as error:  # refused, with what to do
        return ("peer", "failed", f"{settings.peer}: {error}")
    if book is None:
        return ("peer", "ok", f"{other['site']} answers")
    if other["role"] == book.role:
        return ("peer", "failed", f"{other['site']} is a {other['role']} too: check 'peer'")
    own = {v.name: (v.size, v.block_size) for v in book.volumes}
    theirs = {v["name"]: (v["size_bytes"], v["block_size_bytes"]) for v in other["volumes"]}
    if own != theirs:
        return ("peer", "failed", f"{other['site']} has other volumes, sizes or block sizes")
    return ("peer", "ok", f"{other['site']}: {other['role']}")


COMMANDS = [create, init, check, resync, seed]
