"""Where a source's maps outlive its process: files in memory, one a volume and run.

    FOLDER/SITE-VOLUME-RUN.maps     a page that says what it is (site, lineage, run, boot, shape,
                                    and the last commit), then the maps (native/volume.h)

A killed process leaves them as they were at its last instruction, so the next one knows exactly
which blocks may differ.  A machine that went down takes them along: then the intent log decides.

Invariants.  Maps count only for the run that the ledger names.  They tell all, so that the intent
log is not asked, only in the boot that they were made in, for certain (platform.py), and if they
hold every bit (the last number of the first page); else what they hold is sent besides.  What
a commit holds they forget after the ledger names the commit, and they too: with a ledger of another
commit, one that was put back, they do not count, nor does the intent log beside that one:
everything may differ.  A new run makes new files; the old ones stand until the ledger names it.
Without memory for them a site runs all the same, and after a kill the intent log decides.

Left out: a target's maps.  What it needs is durable (ledger, log of hardenings).
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mirror_core import age, native
from mirror_core.ledger import Ledger, VolumeRecord
from mirror_core.platform import HERE

_PAGE = 4096
# magic, version, site, lineage, run, boot, size, block size
_HEAD = struct.Struct("<8sI32s32s32s36sQQ")
_BOOT = slice(108, 144)
_CRC = struct.Struct("<I")
_COMMIT = struct.Struct("<Q32s")  # sequence and token
_WHOLE = struct.Struct("<Q")
_COMMIT_AT = _PAGE - _WHOLE.size - _COMMIT.size
_MAGIC = b"fmMAPS\0\0"
_VERSION = 3


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


def _name(site: str, volume: str, run: str) -> str:
    return f"{site}-{volume}-{run}.maps"


def _head(book: Ledger, record: VolumeRecord, run: str, boot: bytes) -> bytes:
    lineage = book.lineage.id if book.lineage else ""
    head = _HEAD.pack(
        _MAGIC, _VERSION, book.site.encode(), lineage.encode(), run.encode(),
        boot, record.size, record.block_size,
    )  # fmt: skip
    return (head + _CRC.pack(zlib.crc32(head))).ljust(_COMMIT_AT, b"\0")


def _boot() -> bytes:
    """Of now, as it stands in a head.  Zeroes: it is not known."""
    return age.boot_of(HERE).encode().ljust(_BOOT.stop - _BOOT.start, b"\0")


def _commit(book: Ledger) -> bytes:
    return _COMMIT.pack(book.committed, book.committed_token.encode())


class Kept:
    """The maps of a volume, as long as its site runs."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd

    def go_with(self, book: Ledger) -> None:
        """They count with this ledger, and no other.  If that cannot be said, they are no more."""
        try:
            os.pwrite(self._fd, _commit(book), _COMMIT_AT)
        except OSError:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)


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
            head = _head(book, record, run, _boot())
            os.pwrite(fd, head + _commit(book) + _WHOLE.pack(1), 0)
            os.ftruncate(fd, volume.shared_bytes())
            volume.share(os.dup(fd))
            return Kept(path, fd)
        except OSError as error:
            path.unlink()
            os.close(fd)
            failure = error
    raise failure


def restore(book: Ledger, record: VolumeRecord, volume: native.Volume) -> bool:
    """Mark what the maps of the run before hold, whatever the boot was that they are of, and
    whatever it is now, known or not; False: that may not be all.  If the ledger is one that was put
    back, everything is marked: the intent log is as old.  If only that log is, they know more."""
    commit, now = _commit(book), _boot()
    for folder in folders():
        with contextlib.suppress(OSError):
            path = folder / _name(book.site, record.name, book.run)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                page = os.pread(fd, _PAGE, 0)
                boot = page[_BOOT]
                if len(page) < _PAGE or page[:_COMMIT_AT] != _head(book, record, book.run, boot):
                    continue
                # A kill between the record of a commit and this one leaves the ledger the newer.
                if page[_COMMIT_AT : -_WHOLE.size] != commit:
                    if _COMMIT.unpack_from(page, _COMMIT_AT)[0] >= book.committed:
                        volume.mark(0, volume.blocks)
                    continue
                if os.fstat(fd).st_size == volume.shared_bytes():
                    volume.mark_shared(fd)
                    same_boot = any(now) and boot == now
                    return same_boot and page[-_WHOLE.size :] == _WHOLE.pack(1)
            finally:
                os.close(fd)
    return False


def remove(site: str, run: str) -> None:
    """The site's maps of that run are no more."""
    _remove(site, lambda of_run: of_run == run)


def remove_others(site: str, run: str) -> None:
    """Of all other runs."""
    _remove(site, lambda of_run: of_run != run)


def _remove(site: str, which: Callable[[str], bool]) -> None:
    for folder in folders():
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{site}-*.maps"):
                if which(path.stem.rpartition("-")[2]):
                    path.unlink()
