"""Where a source's maps outlive its process: files in memory, one a volume and run.

    FOLDER/SITE-VOLUME-RUN.maps     a page that says what it is (site, lineage, run, boot, shape,
                                    and two points), then the maps (native/volume.h)

A killed process leaves them as they were at its last instruction, so the next one knows exactly
which blocks may differ.  A machine that went down takes them along: then the intent log decides.

    look        beside a ledger, of all volumes: nothing; maps of its run; or maps of a later ledger
    restore     of one volume: what its maps of that run hold

Invariants.  The page names the point (what is begun and committed) of the ledger that stands, and
that of the one which is being recorded, before it is: what a commit holds the maps forget after
both are that one.  So with either ledger they hold all that may differ, whenever the process is
killed, and with any other they tell that it is another than the one which was there: it was put
back.  So do maps of another run of its lineage which a ledger has named, if that had begun more
than this one knows of, or as much, and this one does not know the run, or what it had committed.
Then nothing beside that ledger is believed, of no volume: everything may differ.
Maps tell all, so that the intent log is not asked, only in the boot that they were made in, for
certain (platform.py), and if they hold every bit (the last number of the first page); else what
they hold is sent besides.  A new run makes new files; the old ones stand until the ledger names it.
Without memory for them a site runs all the same, and after a kill the intent log decides.

Left out: a target's maps.  What it needs is durable (ledger, log of hardenings).  Maps in a folder
that this process does not know of (RUNTIME_DIRECTORY): that a ledger was put back is noticed where
it can be, and not promised (docs/recovery.md).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mirror_core import age, native
from mirror_core.errors import LedgerError
from mirror_core.ledger import Ledger, VolumeRecord
from mirror_core.platform import HERE

_PAGE = 4096
# magic, version, site, lineage, run, boot, size, block size
_HEAD = struct.Struct("<8sI32s32s32s36sQQ")
_BOOT_BYTES = 36  # of that
_CRC = struct.Struct("<I")
_POINT = struct.Struct("<Q32sQ32s")  # sequence and token, of what is begun and of what is committed
_WHOLE = struct.Struct("<Q")
_POINTS_AT = _PAGE - _WHOLE.size - 2 * _POINT.size
_MAGIC = b"fmMAPS\0\0"
_VERSION = 4
_NONE = b"\xff" * _POINT.size  # of no ledger


def folders() -> Iterator[Path]:
    """Where maps may be, the best first: $RUNTIME_DIRECTORY is systemd's (systemd.exec(5)).  The
    first that is on tmpfs serves."""
    named = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if named:
        yield Path(named)
    yield Path("/run/flashmirror")
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own:
        yield Path(own) / "flashmirror"
    yield Path(f"/dev/shm/flashmirror-{os.geteuid()}")  # where the others are on a disk


class Found(enum.Enum):
    """Beside a ledger."""

    NOTHING = enum.auto()
    OURS = enum.auto()  # maps of its run
    LATER = enum.auto()  # maps that count with a ledger which came after it


@dataclass(frozen=True)
class Counts:
    """With which ledgers the maps of a run count."""

    lineage: str
    run: str
    stands: bytes  # the point of the ledger that has named the run; _NONE: none has yet
    coming: bytes  # that of the one that is being recorded; or the same

    def before(self, book: Ledger) -> Counts:
        """This ledger is about to be recorded."""
        return replace(self, coming=_point(book))

    def after(self, book: Ledger) -> Counts:
        """It stands."""
        point = _point(book)
        return self if book.run != self.run else replace(self, stands=point, coming=point)


def judge(book: Ledger, found: Iterable[Counts]) -> Found:
    """What there is beside this ledger."""
    answer = Found.NOTHING
    for one in found:
        if one.lineage != _lineage(book):
            continue  # of when this site was another source: the target knows the two apart
        if one.run == book.run:
            if _point(book) not in (one.stands, one.coming):
                return Found.LATER
            answer = Found.OURS
        elif one.stands != _NONE:
            begun, *_ = _POINT.unpack(one.stands)
            earlier = one.run in book.runs and _point(book) in (one.stands, one.coming)
            if begun > book.begun or (begun == book.begun and not earlier):
                return Found.LATER
    return answer


def look(book: Ledger) -> Found:
    """In all folders, of all volumes."""
    return judge(book, (_counts(page) for page in _pages(book.site)))


def _own_folders() -> Iterator[Path]:
    """A folder of somebody else's, who may put there what he likes, is not looked into."""
    for folder in folders():
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.geteuid():
                yield folder


def _pages(site: str) -> Iterator[bytes]:
    """The first one of each file of maps of the site, if it is whole."""
    for folder in _own_folders():
        with contextlib.suppress(OSError):
            for path in [*folder.glob(f"{site}-*.maps")]:
                with contextlib.suppress(OSError), _opened(path) as fd:
                    page = os.pread(fd, _PAGE, 0)
                    if len(page) == _PAGE and _is_right(page):
                        yield page


def _is_right(page: bytes) -> bool:
    magic, version, *_ = _HEAD.unpack_from(page)
    crc = _CRC.pack(zlib.crc32(page[: _HEAD.size]))
    return (magic, version) == (_MAGIC, _VERSION) and page[_HEAD.size :].startswith(crc)


def _counts(page: bytes) -> Counts:
    _, _, _, lineage, run, *_ = _HEAD.unpack_from(page)
    at = _POINTS_AT + _POINT.size
    history = lineage.rstrip(b"\0").decode(errors="replace")
    return Counts(
        history, run.decode(errors="replace"), page[_POINTS_AT:at], page[at : -_WHOLE.size]
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _name(site: str, volume: str, run: str) -> str:
    return f"{site}-{volume}-{run}.maps"


def _head(book: Ledger, record: VolumeRecord, run: str, boot: bytes) -> bytes:
    head = _HEAD.pack(
        _MAGIC, _VERSION, book.site.encode(), _lineage(book).encode(), run.encode(),
        boot, record.size, record.block_size,
    )  # fmt: skip
    return (head + _CRC.pack(zlib.crc32(head))).ljust(_POINTS_AT, b"\0")


def _boot() -> bytes:
    """Of now, as it stands in a head.  Zeroes: it is not known."""
    return age.boot_of(HERE).encode().ljust(_BOOT_BYTES, b"\0")


def _lineage(book: Ledger) -> str:
    return book.lineage.id if book.lineage else ""


def _point(book: Ledger) -> bytes:
    return _POINT.pack(
        book.begun, book.begun_token.encode(), book.committed, book.committed_token.encode()
    )


class Kept:
    """The maps of a volume, as long as its site runs."""

    def __init__(self, path: Path, fd: int, counts: Counts) -> None:
        self._path, self._fd, self._counts = path, fd, counts

    def may_go_with(self, book: Ledger) -> None:
        """They count with this ledger, too."""
        self._say(self._counts.before(book))

    def go_with(self, book: Ledger) -> None:
        """And, if it names their run, with no other."""
        self._say(self._counts.after(book))

    def _say(self, counts: Counts) -> None:
        """If it cannot be said, they are no more."""
        if counts == self._counts:
            return
        self._counts = counts
        try:
            os.pwrite(self._fd, counts.stands + counts.coming, _POINTS_AT)
        except OSError:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)


def new(book: Ledger, run: str) -> Counts:
    """Of a run that no ledger names yet."""
    return Counts(_lineage(book), run, _NONE, _point(book))


def share(book: Ledger, record: VolumeRecord, run: str, volume: native.Volume) -> Kept:
    """The volume's maps of this run are kept.  OSError: nowhere, and the volume has its own."""
    failure = OSError(errno.ENOENT, "no folder")
    for folder in folders():
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.lstat().st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "of another user")
            path = folder / _name(book.site, record.name, run)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            failure = error
            continue
        try:
            head, counts = _head(book, record, run, _boot()), new(book, run)
            os.pwrite(fd, head + counts.stands + counts.coming + _WHOLE.pack(1), 0)
            os.ftruncate(fd, volume.shared_bytes())
            volume.share(os.dup(fd))
            return Kept(path, fd, counts)
        except OSError as error:
            path.unlink()
            os.close(fd)
            failure = error
    raise failure


def restore(book: Ledger, record: VolumeRecord, volume: native.Volume) -> bool:
    """Mark what the maps of the run before hold, whatever the boot was that they are of, and
    whatever it is now, known or not.  False: that may not be all.  If the intent log was put back,
    and the ledger was not, they know more.  LedgerError: they are of a later ledger, and `look`
    could not read them just before; the next start's can."""
    now = _boot()
    for folder in _own_folders():
        path = folder / _name(book.site, record.name, book.run)
        with contextlib.suppress(OSError), _opened(path) as fd:
            page = os.pread(fd, _PAGE, 0).ljust(_PAGE, b"\0")
            *_, boot, _, _ = _HEAD.unpack_from(page)
            if page[:_POINTS_AT] != _head(book, record, book.run, boot):
                continue
            if judge(book, [_counts(page)]) is Found.LATER:
                raise LedgerError(
                    f"{path}: maps of a later ledger, which could not be read at first: start the "
                    "site again"
                )
            if os.fstat(fd).st_size == volume.shared_bytes():
                volume.mark_shared(fd)
                same_boot = any(now) and boot == now
                return same_boot and page[-_WHOLE.size :] == _WHOLE.pack(1)
    return False


def remove(site: str, run: str) -> None:
    """The site's maps of that run are no more."""
    _remove(site, lambda of_run: of_run == run)


def remove_others(site: str, run: str) -> None:
    """Of all other runs."""
    _remove(site, lambda of_run: of_run != run)


def _remove(site: str, which: Callable[[str], bool]) -> None:
    for folder in _own_folders():
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{site}-*.maps"):
                if which(path.stem.rpartition("-")[2]):
                    path.unlink()
