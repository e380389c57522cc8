"""Opens the stores of a site exclusively and makes sure that they are the ones recorded (I7).

A store is recognised by what it is (inode or device number, or URI), by a mark in an extended
attribute where the file system keeps those, and, after an orderly stop, by a fingerprint of
samples of its bytes: another file, another site's, a swapped or a blank one is refused.

Exclusive means: flock(2) on a file, O_EXCL besides on a block device (open(2)): a second site,
or a mounted file system, is refused.  A store behind an NBD URI cannot be locked from here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass

from mirror_core import config, limits, native
from mirror_core.errors import StoreError
from mirror_core.ledger import StoreRecord

_MARK = "user.flashmirror"


@dataclass(frozen=True)
class Opened:
    """A store in use; `store` owns the descriptor and its lock."""

    where: str
    store: native.Store
    size: int
    kind: str
    identity: str
    fd: int | None

    def mark(self) -> str | None:
        """Whose store it is, if it says."""
        if self.fd is None:
            return None
        try:
            return os.getxattr(self.fd, _MARK).decode(errors="replace")
        except OSError:
            return None  # none set, or a file system without them

    def set_mark(self, owner: str) -> None:
        """Best effort: not every file system keeps attributes."""
        if self.fd is not None:
            try:
                os.setxattr(self.fd, _MARK, owner.encode())
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSPC, errno.EPERM):
                    raise StoreError(f"{self.where}: {error.strerror}") from error

    def fingerprint(self, size: int) -> str:
        """A checksum of samples: of the first bytes, where file systems keep what tells them
        apart, and of places spread evenly over the rest.  StoreError: it cannot be read."""
        digest = hashlib.sha256()
        spread = [size * i // limits.SAMPLES for i in range(limits.SAMPLES)]
        for offset in sorted({*range(0, 16 * limits.SAMPLE_BYTES, limits.SAMPLE_BYTES), *spread}):
            length = min(limits.SAMPLE_BYTES, size - offset)
            if length > 0:
                digest.update(self._read(length, offset))
        return digest.hexdigest()

    def _read(self, length: int, offset: int) -> bytes:
        try:
            return self.store.read(length, offset)
        except OSError as error:
            raise StoreError(
                f"{self.where}: {error.strerror}: look into that store", error.errno or errno.EIO
            ) from error

    def record(self, fingerprint_of: int = 0) -> StoreRecord:
        """What to know it again by; with a fingerprint of that many bytes, if not 0."""
        fingerprint = self.fingerprint(fingerprint_of) if fingerprint_of else None
        return StoreRecord(self.kind, self.identity, fingerprint)

    def blank(self) -> bool:
        """Nothing but a hole, as far as the store can tell."""
        return all(hole for _, hole in self.store.extents(0, self.size))


def refuse_twice(site: config.SiteConfig) -> None:
    """Refuse a store that is named twice, whichever way it is written.  StoreError."""
    seen: dict[object, str] = {}
    for where in (w for v in site.volumes for w in (v.data, v.intermediate)):
        try:
            info = None if config.is_uri(where) else os.stat(where)
        except OSError:
            continue  # who opens it says what is wrong
        key: object = where
        if info is not None:
            key = info.st_rdev if stat.S_ISBLK(info.st_mode) else (info.st_dev, info.st_ino)
        if key in seen:
            raise StoreError(f"{where}: the same store as {seen[key]}: each must be its own")
        seen[key] = where


def open_store(where: str, timeout_s: float) -> Opened:
    """Open a path or an NBD URI for this process alone.  StoreError: the line to show."""
    return _open_server(where, timeout_s) if config.is_uri(where) else _open_path(where)


def _open_server(uri: str, timeout_s: float) -> Opened:
    try:
        store = native.Store.nbd(uri, timeout_s)
    except OSError as error:
        raise StoreError(f"{error.strerror}: start its server, or mend the URI") from error
    return Opened(uri, store, store.size, "nbd", uri, None)


def _open_path(where: str) -> Opened:
    fd = _open_fd(where)
    try:
        info = os.fstat(fd)
        _lock(fd, where)
        size = os.lseek(fd, 0, os.SEEK_END)
        if stat.S_ISBLK(info.st_mode):
            kind, identity = "device", f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
        else:
            kind, identity = "file", str(info.st_ino)
        return Opened(where, native.Store.file(fd, size), size, kind, identity, fd)
    except BaseException:
        os.close(fd)
        raise


def _open_fd(where: str) -> int:
    try:
        exclusive = os.O_EXCL if stat.S_ISBLK(os.stat(where).st_mode) else 0
        fd = os.open(where, os.O_RDWR | os.O_CLOEXEC | exclusive)
    except OSError as error:
        advice = {
            errno.ENOENT: "create it, or mend its path in the configuration",
            errno.EACCES: "give this user read and write permission",
            errno.EBUSY: "unmount it, or stop what uses it",
            errno.EISDIR: "name a file or a block device",
        }.get(error.errno or 0, "mend that, then try again")
        raise StoreError(f"{where}: {error.strerror}: {advice}", error.errno or 0) from error
    if not stat.S_ISBLK(os.fstat(fd).st_mode) and not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError(f"{where}: neither a file nor a block device: name one", errno.EINVAL)
    return fd


def _lock(fd: int, where: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StoreError(
            f"{where}: in use by another process: stop that site first", errno.EBUSY
        ) from error


def owner(site: str, volume: str, part: str) -> str:
    """The text of a mark."""
    return f"{site}/{volume}/{part}"


def verify(opened: Opened, record: StoreRecord, mark: str, stopped_size: int) -> None:
    """Refuse a store that is not the one recorded.  StoreError.

    `stopped_size`: the volume's bytes after an orderly stop, whose fingerprint stands; else 0.
    """
    way_out = "put the right one back (or, to begin anew, remove the site's state and create it)"
    if (opened.kind, opened.identity) != (record.kind, record.identity):
        raise StoreError(
            f"{opened.where}: not the store that this site was created with: {way_out}"
        )
    if opened.mark() not in (None, mark):
        raise StoreError(f"{opened.where}: belongs to another site or volume: {way_out}")
    known = record.fingerprint if stopped_size else None
    if known and opened.fingerprint(stopped_size) != known:
        raise StoreError(
            f"{opened.where}: its content changed while the site was stopped: {way_out}"
        )
