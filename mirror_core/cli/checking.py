"""check: whether a configuration, this site's stores and state, and the other site fit together.

It changes nothing.  Of a site that runs it looks at what the next start would find, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from datetime import UTC, datetime
from pathlib import Path

import click

from mirror_core import (
    age,
    config,
    connections,
    hardlog,
    intent,
    lastrun,
    ledger,
    limits,
    lock,
    native,
    peer,
    process,
    protocol,
    sockets,
    stores,
)
from mirror_core.address import Tls
from mirror_core.cli.common import (
    CHANGED,
    json_option,
    live_status,
    load_site,
    show,
    site_argument,
)
from mirror_core.errors import NOT_YET, Answered, MirrorError, PeerError
from mirror_core.platform import HERE
from mirror_core.units import format_size

Row = tuple[str, str, str]

_FS_IOC_FIEMAP = 0xC020660B  # linux/fs.h, linux/fiemap.h
_FIEMAP = struct.Struct("<QQIIII")  # begin, length, flags, found, room for, reserved
_EXTENT = struct.Struct("<Q8xQ16xI12x")  # begin, length, flags
_EXTENT_SHARED = 0x2000
_EXTENTS = 1024  # at a time
_LEDGER_BYTES = 1 << 20  # of a ledger with its maps, and small files beside it


@click.command()
@site_argument
@json_option
def check(site: str, as_json: bool) -> None:
    """Check a site's configuration, its stores and its peer.

    The command changes nothing.  Of a site that runs it checks what the next start would find, too.
    """
    settings = load_site(site)
    rows = [("configuration", "ok", str(settings.path))]
    book: ledger.Ledger | None = None
    live = process.is_there(settings)
    try:
        book = lastrun.load(settings.state)
        lock.check_ledger(settings, book)
        book = stores.in_this_boot(book, age.boot_of(HERE))
        if not live and book.role == "target" and not book.clean:
            book = hardlog.recover(settings.state, book)
        count = len(book.volumes)
        what = f"{book.role}, {count} volume{'s' if count > 1 else ''}"
        if book.copied:
            rows.append(("ledger", "warning", f"{what}: {lastrun.COPIED}"))
        else:
            rows.append(("ledger", "ok", what))
    except MirrorError as error:
        again = ""
        if live and error.code == errno.ENOENT and process.running(settings):
            again = (
                f"{ledger.path_in(settings.state)}: is gone, and this site, which runs, writes it "
                "again with its next commit: 'flashmirror sync' on the source makes one"
            )
        elif live and error.code == errno.ENOENT:
            again = (
                f"{settings.state}: not what the running site has as its state folder: correct "
                "'state' in the configuration, or put the folder back (an empty one, if it is "
                "lost); only then stop the site, which writes its ledger at the stop"
            )
        rows.append(("ledger", "failed", again or str(error)))
    rows.append(("process", "ok", "running" if live else "stopped"))
    if live:
        rows += _check_running(settings, book)
    else:
        rows += [*_check_start(settings), *_check_stores(settings, book)]
    rows += [_check_state(settings, book), _check_space(settings)]
    if settings.tls:
        rows.append(_check_tls(settings.tls))
    rows.append(_check_peer(settings, book))
    record = [{"check": c, "result": r, "detail": d} for c, r, d in rows]
    show(record, as_json, lambda: "\n".join(f"{r:7} {c:22} {d}" for c, r, d in rows))
    failed = [f"{c}: {d}" for c, r, d in rows if r == "failed"]
    if failed:
        raise MirrorError(
            f"{settings.path}: {len(failed)} of {len(rows)} checks failed: {failed[0]}"
        )


def _check_running(settings: config.SiteConfig, book: ledger.Ledger | None) -> list[Row]:
    try:
        status = live_status(settings)
    except MirrorError as error:
        return [("control", "failed", str(error)), *_check_in_use(settings, book, {})]
    changed = status["configuration_changed"]
    rows: list[Row] = [("in force", "warning", f"{settings.path}: {CHANGED}")] if changed else []
    reason = status["reason"]
    # Nothing is wrong: a target has no other reason in that state, and a pause is none at a source.
    its_source_waits = status["role"] == "target" and status["state"] == "paused"
    waits = its_source_waits or reason == NOT_YET
    ok = status["state"] not in ("degraded", "refused") and (not reason or waits)
    rows.append(("mirroring", "ok" if ok else "failed", reason or status["state"]))
    waits_for = {
        v["name"]: reason or "" for v in status["volumes"] if not v.get("has_intermediate", True)
    }
    return [*rows, *_check_folder(settings), *_check_in_use(settings, book, waits_for)]


def _check_folder(settings: config.SiteConfig) -> list[Row]:
    """Whether the running site would find its state folder as usable as it was, at a start or a
    promotion.  Only its own user can say that."""
    try:
        if os.stat(f"/proc/{process.found(settings)}").st_uid != os.geteuid():
            return []
        lock.refuse_unusable(settings, runs=True)
    except OSError:  # it has ended
        return []
    except MirrorError as error:
        return [("folder", "failed", str(error))]
    return [("folder", "ok", str(settings.state))]


def _check_in_use(
    settings: config.SiteConfig, book: ledger.Ledger | None, waits_for: dict[str, str]
) -> list[Row]:
    """Whether the next start would find the files and devices that the running site has open, each
    in its place; of a server nothing can be said without a connection to it.  Of an intermediate
    that the site waits for it says why (`waits_for`, by volume): who opened it here would be in the
    way of the site, which tries to."""
    try:
        opened = _opened_by(process.found(settings))
    except OSError as error:
        return [
            ("stores", "warning", f"what the site has open is not to be seen: {error.strerror}")
        ]
    rows: list[Row] = []
    for volume, part, where, record in stores.listed(settings, book):
        if part == "intermediate" and volume in waits_for:
            why = waits_for[volume]  # of the first that it has tried
            said = why if why.startswith(where) else f"{where}: the site waits for it"
            rows.append((f"{volume} {part}", "failed", said))
        elif not config.is_uri(where):
            rows.append((f"{volume} {part}", *_is_open(where, opened, record, part)))
    return rows


def _opened_by(pid: int | None) -> list[os.stat_result]:
    """OSError: it has ended, or is another user's."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found.append(link.stat())
    return found


def _is_open(
    where: str, opened: list[os.stat_result], record: ledger.VolumeRecord | None, part: str
) -> tuple[str, str]:
    """`record`: of a volume of the running site, which says what that calls the store that it has
    open in this place."""
    try:
        found = os.stat(where)
        name, size = stores.seen(where) if record else ("", 0)
    except OSError as error:
        return (
            "failed",
            f"{where}: {error.strerror}: the running site has it open, and the next start does not "
            "find it: put it back, or correct its path in the configuration",
        )
    device = found.st_rdev if stat.S_ISBLK(found.st_mode) else None
    devices = {one.st_rdev for one in opened if stat.S_ISBLK(one.st_mode)}
    is_open = device in devices or any(os.path.samestat(one, found) for one in opened)
    if is_open and record and size < record.size:
        return (
            "failed",
            f"{where}: {size} bytes, but the volume has {record.size}: it was made smaller under "
            "the running site, what stood behind is gone, and the next start refuses it: see "
            "docs/recovery.md, 'A store was deleted or made smaller under a running site'",
        )
    if is_open and (not record or getattr(record, part).identity == name):
        return "ok", f"{where}: in use by this site"
    return (
        "failed",
        f"{where}: not what the running site has open there: put that back, or correct its path in "
        "the configuration, before the next start",
    )


def _check_state(settings: config.SiteConfig, book: ledger.Ledger | None) -> Row:
    """Room for what a start and a commit write there: a log of hot regions for each volume of a
    source, and another ledger beside the old one."""
    need = _LEDGER_BYTES
    for record in book.volumes if book and book.role == "source" else ():
        shift = intent.region_shift(record, settings.intent_region)
        need += native.Intent.log_bytes(record.size, shift)
    at = settings.state
    while not at.exists():
        at = at.parent
    room = os.statvfs(at)
    free = (room.f_bavail if os.geteuid() else room.f_bfree) * room.f_frsize
    if free >= need:
        return ("state", "ok", f"{at}: {format_size(free)} free")
    return (
        "state",
        "failed",
        f"{at}: {format_size(free)} are free, and a start needs {format_size(need)}: make room",
    )


def _check_start(settings: config.SiteConfig) -> list[Row]:
    """What a start tries before it begins a process."""
    rows: list[Row] = []
    addresses = ", ".join(map(str, (settings.socket, *settings.tcp)))
    for label, refuse, text in (
        ("folder", lock.refuse_unusable, str(settings.state)),
        ("log", process.refuse_log, str(process.log_path(settings))),
        ("open files", connections.refuse_few_descriptors, "as many as the site needs"),
        ("listen", sockets.refuse, addresses),
    ):
        try:
            refuse(settings)
            rows.append((label, "ok", text))
        except MirrorError as error:
            rows.append((label, "failed", str(error)))
    return rows


def _check_stores(settings: config.SiteConfig, book: ledger.Ledger | None) -> list[Row]:
    rows: list[Row] = []
    try:
        stores.refuse_twice(settings)
    except MirrorError as error:
        rows.append(("stores", "failed", str(error)))
    for volume in settings.volumes:
        sizes: dict[str, int] = {}
        for part in ("data", "intermediate"):
            row, size = _check_store(settings, book, volume, part)
            rows.append(row)
            if size is not None:
                sizes[part] = size
        if not book and len({*sizes.values()}) > 1:  # created, they may be larger than the volume
            text = ", ".join(f"{part} has {size} bytes" for part, size in sizes.items())
            rows.append((f"{volume.name} sizes", "failed", f"{text}: make them equal"))
    return rows


def _check_store(
    settings: config.SiteConfig,
    book: ledger.Ledger | None,
    volume: config.VolumeConfig,
    part: str,
) -> tuple[Row, int | None]:
    """One that nobody has open, and its size in bytes."""
    label = f"{volume.name} {part}"
    try:
        one = stores.open_store(getattr(volume, part), settings.link_timeout)
    except MirrorError as error:
        return (label, "failed", str(error)), None
    try:
        if not book:
            stores.refuse_unfit(one, one.size, settings.block_size)
        for record in book.volumes if book else ():
            if book and record.name == volume.name:
                place = stores.place_at_rest(settings, book, volume.name, part)
                _refuse_unfit(one, book, record, place)
                if place.counts:
                    stores.verify(one, getattr(record, part), place, record.size)
                else:
                    stores.is_new(one, getattr(record, part), place, record.size)
        return (label, *_known_by(one)), one.size
    except MirrorError as error:
        return (label, "failed", str(error)), one.size
    finally:
        one.store.close()


def _refuse_unfit(
    one: stores.Opened, book: ledger.Ledger, record: ledger.VolumeRecord, place: stores.Place
) -> None:
    """StoreError.  Nothing is recorded here of one that is too small."""
    try:
        stores.refuse_unfit(one, record.size, record.block_size)
    except stores.Harmed as error:
        if not stores.found_smaller(one, book, record, place):
            raise
        raise stores.Harmed(
            f"{error}; do not make it larger before 'start' or 'adopt' has seen it, which remember "
            "that bytes are gone",
            error.code,
        ) from error


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
    """Sparse files may grow to their whole size: is there room for that?  And for what a target's
    data shares with its intermediate, or anything else: the next write there needs space anew, also
    a client's when that site was promoted."""
    need: dict[int, int] = {}
    free: dict[int, int] = {}
    shared: dict[int, int] = {}
    for volume in settings.volumes:
        for where in (volume.data, volume.intermediate):
            if config.is_uri(where) or not Path(where).is_file():
                continue
            info, room = os.stat(where), os.statvfs(where)
            grow = max(0, info.st_size - info.st_blocks * 512)
            both = _shared_bytes(where) if where == volume.data else 0
            need[info.st_dev] = need.get(info.st_dev, 0) + grow + both
            shared[info.st_dev] = shared.get(info.st_dev, 0) + both
            free[info.st_dev] = room.f_bavail * room.f_frsize
    short = [(need[d], free[d], shared[d]) for d in need if need[d] > free[d]]
    if not short:
        return ("space", "ok", "the stores can grow to their whole size")
    most, left, twice = map(format_size, short[0])
    why = f" ({twice} is shared, and takes space when it is written)" if short[0][2] else ""
    return ("space", "warning", f"the stores may grow by {most}{why}, {left} are free")


def _shared_bytes(where: str) -> int:
    """Of a file, how much lies in extents that another one has, too (Linux' fiemap.rst); 0: none,
    or its file system does not tell."""
    total = at = 0
    with contextlib.suppress(OSError), Path(where).open("rb") as file:
        while True:
            asked = _FIEMAP.pack(at, (1 << 64) - 1 - at, 0, 0, _EXTENTS, 0)
            buffer = bytearray(asked.ljust(_FIEMAP.size + _EXTENTS * _EXTENT.size, b"\0"))
            fcntl.ioctl(file, _FS_IOC_FIEMAP, buffer)
            found = _FIEMAP.unpack_from(buffer)[3]
            for i in range(found):
                begin, length, flags = _EXTENT.unpack_from(buffer, _FIEMAP.size + i * _EXTENT.size)
                total += length if flags & _EXTENT_SHARED else 0
                at = begin + length
            if not found:
                break
    return total


def _check_tls(tls: Tls) -> Row:
    from mirror_core import pki  # noqa: PLC0415 (it takes long, and only this needs it)

    try:
        tls.check()
        if not tls.certificates:
            return ("tls", "ok", f"{tls.psk}: a shared key")
        if lack := tls.not_in_force():
            return ("tls", "failed", lack)
        name, end = pki.first_to_expire(tls.certificates)
    except MirrorError as error:
        return ("tls", "failed", str(error))
    result = "warning" if (end - datetime.now(UTC)).days < limits.PKI_WARN_DAYS else "ok"
    return ("tls", result, f"{tls.certificates / name}: valid until {end:%Y-%m-%d}")


def _check_peer(settings: config.SiteConfig, book: ledger.Ledger | None) -> Row:
    try:
        answer = peer.ask(settings.peer_uri("/control"), {"op": "who"}, settings.link_timeout)
        other = protocol.read(protocol.Who, answer)
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
        return ("peer", "ok", f"{other.site} answers")
    if other.role == book.role:
        promoted = "was one promoted? see 'mirroring' and docs/recovery.md; else "
        why = promoted if book.role == "source" else ""
        return ("peer", "failed", f"{other.site} is a {other.role} too: {why}correct 'peer'")
    own = {v.name: (v.size, v.block_size) for v in book.volumes}
    if own != {v.name: (v.size, v.block_size) for v in other.volumes}:
        return ("peer", "failed", f"{other.site} has other volumes, sizes or block sizes")
    return ("peer", "ok", f"{other.site}: {other.role}")


COMMANDS = [check]
