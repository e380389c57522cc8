"""Opens the stores of a site exclusively and makes sure that they are the ones recorded (I7).

A store is recognised by its identity (identity.py), by a mark in an extended attribute where the
file system keeps those, and, from an orderly stop until the next start, by a fingerprint of
samples of its bytes: another file, another site's, a swapped or a blank one is refused.  Where
the identity leaves a doubt, the fingerprint decides; without one, a person does (adoption.py).

Exclusive means: flock(2) on a file, O_EXCL besides on a block device (open(2)): a second site,
or a mounted file system, is refused; so is one that somebody locks otherwise, or has under a loop
device, and who comes later and locks as QEMU does (elsewhere.py); and one disk by two ways.  A
store behind an NBD URI cannot be locked from here; as many connections as it needs are opened with
it, so that a server which takes fewer is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from mirror_core import age, below, config, elsewhere, hardlog, heard, limits, native
from mirror_core import identity as identities
from mirror_core.errors import LINK_ERRNOS, LedgerError, MirrorError, StoreError
from mirror_core.identity import Identity, Verdict
from mirror_core.ledger import (
    FOUND_SMALLER,
    HARMED,
    UNREADABLE,
    Ledger,
    StoreRecord,
    VolumeRecord,
    is_harmed,
    with_harmed,
)
from mirror_core.platform import HERE, Platform

_MARK = "user.flashmirror"


class Harmed(StoreError):
    """Bytes of a store are gone, or (Unreadable) cannot be read where it is looked at; nobody knows
    which."""


class Unreadable(Harmed):
    def __init__(self, where: str, error: OSError) -> None:
        super().__init__(
            f"{where}: {error.strerror}: look into that store", error.errno or errno.EIO
        )
        self.where = where


@dataclass(frozen=True)
class Place:
    """Which store of which site is meant."""

    site: str  # the site's random id
    volume: str
    part: str  # data or intermediate
    config: str  # the path of the site's configuration, for what a person is told
    counts: bool = True  # what it holds does: not so for a source's intermediate
    heals: bool = False  # what may differ in it is compared: a source's data
    image: int = 0  # the sequence of a target's image, part of which it holds; 0: there is none
    spare: bool = False  # of the image it is known that no byte is in it
    unflushed: frozenset[str] = frozenset()  # names of stores (identity.py) whose flush has failed
    flushing: frozenset[str] = frozenset()  # or has not ended: what a person put there may be lost
    copied: bool = False  # the state folder was: whether a byte of the image is in it is not known
    unchanged: bool = False  # a person says that nothing was put there

    @property
    def mark(self) -> str:
        return f"{self.site}/{self.volume}/{self.part}"

    def way_out(self, kind: str, *, fits: bool) -> str:
        """What a person does about a store that is refused, and what that costs.  `kind`: of what
        is there (identity.py); only a file is taken for blank.  `fits`: its adoption costs
        nothing."""
        adopt = (
            "put the right one back, or, if this is the right one, run 'flashmirror adopt "
            f"{self.config} {self.volume} {self.part}'"
        )
        if not self.image or fits:
            return adopt
        stead = "of that size, named as 'intermediate' in its stead,"
        here = "here" if kind == "file" else stead
        blank = (
            "no byte of it is in this store, unless the state folder was put back from a backup: a "
            f"blank file {here} keeps it; "
            if self.spare
            else "if the state folder, which was copied, is the newest, adopt a blank file "
            f"{here} with --newest; "
            if self.copied
            else ""
        )
        return (
            f"{adopt}, which gives up the image of sequence {self.image}: until everything is "
            f"copied from the source again nothing can be promoted; {blank}{SOURCE_LOST}"
        )


UNCHANGED = " (was nothing put there? then adopt it with --unchanged, which keeps all)"
RESTORED = (
    " (was it being restored, and holds now what it held when the site ended? then adopt it with "
    "--unchanged, which keeps all)"
)
TARGET_HAS = (
    " (the target has what stood there as of its last consistency point: if that is wanted, "
    "promote the target; an adoption compares everything, and sends what is here)"
)
A_WHOLE_COPY = (
    " (is it a copy of what that one held before it was smaller? then adopt it with --unchanged, "
    "which keeps all)"
)
A_COPY = (
    " (is it a copy of that one, which could not be read when the site was stopped, and the source "
    "lost? then adopt it with --unchanged, which keeps all that it holds)"
)
SOURCE_LOST = "if the source is lost, do not: first copy the state folder and all stores elsewhere"


def in_this_boot(book: Ledger, boot: str) -> Ledger:
    """The same, without the flushes of what is another boot for certain: no cache shows what they
    have lost, and a power loss that came before them would have done no less."""
    return replace(book, flushing=()) if age.is_another(book.flushing_boot, boot) else book


def listed(
    site: config.SiteConfig, book: Ledger | None
) -> Iterator[tuple[str, str, str, VolumeRecord | None]]:
    """Each store of a site: of which volume it is which part, its path or URI, and what the ledger
    records of that volume; None: nothing."""
    records = {record.name: record for record in book.volumes} if book else {}
    for volume in site.volumes:
        yield volume.name, "data", volume.data, records.get(volume.name)
        yield volume.name, "intermediate", volume.intermediate, records.get(volume.name)


def place_of(
    site: config.SiteConfig, book: Ledger, volume: str, part: str, *, newest: bool = False
) -> Place:
    """What a source's intermediate holds does not count: nobody reads there what an earlier cycle
    left, and a power loss may change it.  Of a target that was not stopped in order `book` is as
    `hardlog.recover` gives it: what it names as pending is all of the image that is not in data.
    `newest`: a person says that a state folder which was copied is."""
    counts = part == "data" or book.role == "target"
    has_image = book.role == "target" and book.whole
    spare = (
        has_image
        and part == "intermediate"
        and book.run != ""
        and (newest or not book.copied)  # which may not know what came later
        and not book.maps.get(f"{volume}/pending")
    )
    image = book.committed if has_image else 0
    copied = book.copied and not newest and part == "intermediate" and has_image
    holds = counts and (part == "data" or book.lineage is not None)  # something that may be lost
    unflushed, flushing = (frozenset(f if holds else ()) for f in (book.unflushed, book.flushing))
    heals = part == "data" and book.role == "source"
    return Place(
        book.site, volume, part, str(site.path), counts, heals, image, spare, unflushed, flushing,
        copied=copied,
    )  # fmt: skip


def place_at_rest(
    site: config.SiteConfig,
    book: Ledger,
    volume: str,
    part: str,
    platform: Platform = HERE,
    *,
    newest: bool = False,
) -> Place:
    """The same, of a site that is stopped, whichever way that ended."""
    if book.role == "target" and not book.clean:
        try:
            book = hardlog.recover(site.state, book, platform)
        except LedgerError:  # what is pending is not known: any block may be
            return replace(place_of(site, book, volume, part), spare=False)
    return place_of(site, book, volume, part, newest=newest)


@dataclass(frozen=True)
class Opened:
    """A store in use; `store` owns the descriptor and its lock."""

    where: str
    store: native.Store
    size: int
    identity: Identity
    fd: int | None
    cached_here: bool = False  # by this machine's kernel alone (below.py): a server keeps its own

    def mark(self) -> str | None:
        """Whose store it is, if it says."""
        if self.fd is None:
            return None
        try:
            return os.getxattr(self.fd, _MARK).decode(errors="replace")
        except OSError:
            return None  # none set, or a file system without them

    def refuse_another_owner(self, own: str | None = None) -> None:
        """StoreError: it is marked, and not as `own`."""
        if self.mark() not in (None, own):
            raise StoreError(
                f"{self.where}: belongs to another site or volume (attribute {_MARK}): use "
                "another store, or, if that site is gone and nothing of it is wanted, for its "
                "image or data goes with this store, free it with "
                f"'setfattr -x {_MARK} {self.where}' (package attr)"
            )

    def set_mark(self, owner: str) -> None:
        """Best effort: not every file system keeps attributes, or has room for one."""
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.setxattr(self.fd, _MARK, owner.encode())

    def clear_mark(self) -> None:
        """If there is one, and it can be."""
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.removexattr(self.fd, _MARK)

    def fingerprint(self, size: int) -> str:
        """Checksums of samples: of the first bytes, where file systems keep what tells them apart,
        and of places spread evenly over the rest; and of the last bytes, which whoever cuts
        anything off cuts off.  They are the same whatever a server takes for a request at the
        least: that may be another one at the next start.  `size`: a multiple of that.  StoreError:
        it cannot be read."""
        sample, least = limits.SAMPLE_BYTES, self.store.block_sizes.minimum
        spread = (size * i // limits.SAMPLES for i in range(limits.SAMPLES))
        at = sorted(
            {i for i in (*range(0, limits.SAMPLES_FIRST * sample, sample), *spread) if i < size}
        )
        at.append(max(0, size - sample))
        ranges = [(i // least * least, -(-min(i + sample, size) // least) * least) for i in at]
        try:  # together: a slow store takes its time for each
            data = self.store.gather_all(
                [(first, end - first) for first, end in ranges], limits.COMPARE_DEPTH
            )
        except OSError as error:
            raise Unreadable(self.where, error) from error
        samples, before = [], 0
        for i, (first, end) in zip(at, ranges, strict=True):
            start = before + i - first
            samples.append(data[start : before + min(i + sample, size) - first])
            before += end - first
        *spread_out, last = samples
        return ":".join(hashlib.sha256(part).hexdigest() for part in (b"".join(spread_out), last))

    def has(self, fingerprint: str, size: int) -> bool | None:
        """Whether that is its fingerprint, or one of an older version, which has none of the last
        bytes; None: it cannot be read there.  StoreError: its server does not answer."""
        try:
            now = self.fingerprint(size)
        except Unreadable as error:
            if error.code in LINK_ERRNOS:
                raise
            return None
        return fingerprint in (now, now.partition(":")[0])

    def _left(self, size: int) -> int:
        """How many bytes somebody has left of it since it was opened; of a server `size`, as that
        is not to be seen."""
        return size if self.fd is None else os.lseek(self.fd, 0, os.SEEK_END)

    def refuse_smaller(self, size: int) -> None:
        """Harmed: somebody has made it smaller than its volume, of which all hear that use it.
        StoreError: it is away."""
        left = self._left(size)
        if not left and self.identity.kind != "file":
            raise StoreError(f"{self.where}: has no size: the device is away", errno.ENXIO)
        if left < size:
            self.store.cut()
            raise Harmed(
                f"{self.where}: was made smaller, {left} bytes, but the volume has {size}: what "
                "stood behind is gone",
                errno.EIO,
            )

    def deleted(self) -> str | None:
        """That somebody has, under this site; None: nobody.  OSError: it is closed."""
        if self.fd is None:
            return None
        info = os.fstat(self.fd)
        gone = stat.S_ISREG(info.st_mode) and not info.st_nlink
        return deleted(self.where, os.getpid(), self.fd) if gone else None

    def record(self, fingerprint_of: int = 0) -> StoreRecord:
        """What to know it again by; with a fingerprint of that many bytes, if not 0."""
        fingerprint = self.fingerprint(fingerprint_of) if fingerprint_of else None
        it = self.identity
        instance = it.instance or (identities.MARKED if self.mark() else "")
        return StoreRecord(it.kind, it.name, fingerprint, it.lasting, instance)

    def flush(self) -> None:
        """What was put there, by whomever, is on the disk, where this machine's kernel caches it;
        what a server caches, the first cycle flushes.  StoreError: it may not be.  The kernel tells
        that once, and takes what it has in memory for what is on the disk then: so the core drops
        that, or whoever tries again would be answered that all is well."""
        if self.store.kind == "nbd":
            return
        try:
            self.store.flush()
        except OSError as error:
            raise StoreError(
                f"{self.where}: {error.strerror}: look into that store", error.errno or errno.EIO
            ) from error

    def is_one_of(self, names: frozenset[str]) -> bool:
        """Or may be."""
        return not names.isdisjoint(identities.names_of(self.identity))

    def is_called(self, identity: Identity) -> bool:
        """One of its names is one of that identity's."""
        return self.is_one_of(frozenset(identities.names_of(identity)))

    def drop_cache(self) -> None:
        """Of a process before this one a flush may have failed: what it has lost is not read any
        more, where that is up to us (posix_fadvise(2))."""
        if self.fd is not None:
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def refuse_unsettled(self) -> None:
        """StoreError: its server may still do a write that was given up (native/late.h)."""
        if not self.store.is_settled():
            raise StoreError(
                f"{self.where}: a write to it that was given up may still be done: restart its "
                "server"
            )

    def stopped(self, size: int, *, counts: bool) -> StoreRecord:
        """The same, when nobody writes to it until the next start.  A source's intermediate
        (`counts` is False) has a fingerprint only where a device's number is all there is: its
        bytes are flushed before.  A store that has lost something in this run has none: what is
        read from it now may be a cache's, and other bytes come back later.  (One that has lost it
        in a run before, and shows it still, is refused later: not to notice one that was put back
        would be worse.)  StoreError: as `refuse_unsettled`.  Unreadable: what counts cannot be
        read, whatever it has lost."""
        self.refuse_unsettled()
        if counts:
            known = self.record(size)
            return replace(known, fingerprint=None) if self.store.losses else known
        if self.store.losses:
            return self.record()
        if self.fd is None or self.identity.kind != "device" or self.identity.lasting:
            return self.record()
        self.flush()
        return self.record(size)

    def stopped_or_unread(self, size: int, *, counts: bool) -> StoreRecord:
        """The same; if it cannot be read there it has no fingerprint: one sector is in the way of
        nothing.  StoreError: also if its server does not answer, or nothing of it can be read."""
        try:
            return self.stopped(size, counts=counts)
        except Unreadable as error:
            if error.code in LINK_ERRNOS or not self._reads(size):
                raise
            return self.record()

    def _reads(self, size: int) -> bool:
        """Whether one of a few places can be read: it is not a disk that has gone."""
        least = self.store.block_sizes.minimum
        for at in (0, size // 2, size - least):
            with contextlib.suppress(OSError):
                self.store.read(least, at // least * least)
                return True
        return False

    def few_connections(self) -> str | None:
        """Of a server that takes few clients: how many, and what more would help.  Asked when
        every store of the site has those that it needs: they may share a server."""
        if self.identity.kind != "nbd":
            return None
        had, _ = self.store.reserve(limits.STORE_CONNECTIONS_GOOD)
        if had >= limits.STORE_CONNECTIONS_GOOD:
            return None
        return (
            f"its server takes {had} clients at a time, on which requests wait for each other: "
            f"{limits.STORE_CONNECTIONS_GOOD} or more are faster"
        )

    def blank(self) -> bool:
        """Nothing but a hole, as far as the store can tell."""
        return all(hole for _, hole in self.store.extents(0, self.size))

    def blank_once_flushed(self) -> bool:
        """The same of a file, also where a file system takes for a hole what is cached only
        (native/store_file.c).  StoreError: it cannot be flushed."""
        if self.blank():
            return True
        if not self._is_hole():  # what shows data has some; to flush another's file takes a while
            return False
        self.flush()
        return self._is_hole()

    def _is_hole(self) -> bool:
        """So its file system says."""
        try:
            return self.fd is not None and os.lseek(self.fd, 0, os.SEEK_DATA) < 0
        except OSError as error:
            return error.errno == errno.ENXIO


def refuse_twice(site: config.SiteConfig) -> None:
    """Refuse a store that is named twice, whichever way it is written.  StoreError."""
    seen: dict[object, str] = {}
    for where in (w for v in site.volumes for w in (v.data, v.intermediate)):
        try:
            info = None if config.is_uri(where) else os.stat(where)
        except OSError:
            continue  # who opens it says what is wrong
        key: object = elsewhere.where(where) if info is None else where
        if info is not None:
            key = info.st_rdev if stat.S_ISBLK(info.st_mode) else (info.st_dev, info.st_ino)
        if key in seen:
            raise StoreError(f"{where}: the same store as {seen[key]}: each must be its own")
        seen[key] = where


def refuse_one_disk(opened: Iterable[Opened]) -> None:
    """Refuse two devices that are one disk by two ways, or a disk and a partition of it, as of a
    SAN without multipath: what is written by one is not in the cache of the other.  StoreError."""
    seen: list[Opened] = []
    for one in opened:
        for other in seen if one.identity.kind == "device" else ():
            if identities.overlap(other.identity, one.identity) and not _are_two_files(one, other):
                raise StoreError(
                    f"{one.where}: {' '.join(one.identity.lasting)}, of the disk of {other.where}: "
                    "one disk by two ways, of which each store needs its own; or, if they are two "
                    "disks that nothing tells apart, use a partition of each (GPT)"
                )
        seen.append(one)


def _are_two_files(one: Opened, other: Opened) -> bool:
    """Of two loop devices that are called alike: what is behind them is on two mounted file systems
    or subvolumes, where an inode number and a generation may be the same.  (Without a generation
    their names say of which file system they are.)"""
    if not any(re.match(r"loop:\d+\.", name) for name in one.identity.lasting):
        return False
    assert one.fd is not None and other.fd is not None
    try:
        return identities.loop_status(one.fd)[:2] != identities.loop_status(other.fd)[:2]
    except OSError:
        return False


def open_store(where: str, timeout_s: float) -> Opened:
    """Open a path or an NBD URI for this process alone.  StoreError: the line to show."""
    return _open_server(where, timeout_s) if config.is_uri(where) else _open_path(where)


def _open_server(uri: str, timeout_s: float) -> Opened:
    try:
        store = native.Store.nbd(uri, timeout_s)
    except OSError as error:
        raise StoreError(f"{error.strerror}: start its server, or mend the URI") from error
    try:
        had, code = store.reserve(limits.STORE_CONNECTIONS_MIN)
        if had < limits.STORE_CONNECTIONS_MIN:
            raise StoreError(
                f"{uri}: its server takes only {had} client at a time ({os.strerror(code)}): have "
                f"it take {limits.STORE_CONNECTIONS_GOOD} or more ({limits.STORE_CONNECTIONS_MIN} "
                "at the least), such as 'qemu-nbd --shared=16'",
                code,
            )
        return Opened(uri, store, store.size, identities.of_server(uri), None)
    except BaseException:
        store.close()
        raise


def refuse_unfit(one: Opened, size: int, block_size: int) -> None:
    """StoreError: it cannot hold a volume of so many bytes (Harmed), in such blocks."""
    if one.size < size:
        raise Harmed(
            f"{one.where}: {one.size} bytes, but the volume has {size}: put the right store back"
        )
    least = one.store.block_sizes.minimum
    if block_size % least:
        raise StoreError(
            f"{one.where}: its server takes requests of {least} bytes or multiples of them, and "
            f"block_size is {block_size}: a site with block_size = {least} or more fits it, or a "
            "server that takes smaller requests"
        )
    if size % least:
        raise StoreError(
            f"{one.where}: its server takes requests of {least} bytes or multiples of them, and "
            f"the volume has {size} bytes: make its size such a multiple"
        )


def found_smaller(
    opened: Opened, book: Ledger, record: VolumeRecord, place: Place
) -> dict[str, Any]:
    """What the ledger is to say of a store that is smaller than its volume: what stood behind its
    end may be gone, whatever size it has later.  Empty: nothing, for it is another store, a device
    that is not ready, does not count, or has its word."""
    known: StoreRecord = getattr(record, place.part)
    ready = opened.size or opened.identity.kind != "device"
    unread = known.fingerprint == UNREADABLE  # which a source starts with
    if not place.counts or not ready or (is_harmed(known) and not unread):
        return {}
    if not is_known(opened, known, place):
        return {}
    word = f"{FOUND_SMALLER} {'' if unread else known.fingerprint or ''}".strip()
    return {
        "volumes": with_harmed(book.volumes, {(record.name, place.part): word}),
        "clean": book.clean and book.role == "target",
    }


def _open_path(where: str) -> Opened:
    fd = _open_fd(where)
    try:
        elsewhere.refuse(fd, where)  # before our own lock, which is one of those on NFS
        _lock(fd, where)
        elsewhere.lock(fd, where)
        size = os.lseek(fd, 0, os.SEEK_END)
        identity = identities.of_path(fd)
        cached_here = below.cached_here(fd)
    except BaseException:
        os.close(fd)
        raise
    store = native.Store.file(fd, size)
    try:
        return Opened(where, store, size, identity, fd, cached_here)
    except BaseException:
        store.close()
        raise


def _open_fd(where: str) -> int:
    try:
        exclusive = os.O_EXCL if stat.S_ISBLK(os.stat(where).st_mode) else 0
        fd = os.open(where, os.O_RDWR | os.O_CLOEXEC | exclusive)
    except OSError as error:
        advice = {
            errno.ENOENT: "mount or put back what holds it, or mend its path in the configuration "
            "(of a new site: create it)",
            errno.EACCES: "give this user read and write permission",
            errno.EBUSY: "unmount it, or stop what uses it",
            errno.EISDIR: "name a file or a block device",
        }.get(error.errno or 0, "mend that, then try again")
        raise StoreError(f"{where}: {error.strerror}: {advice}", error.errno or 0) from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
            raise StoreError(f"{where}: neither a file nor a block device: name one", errno.EINVAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, where: str) -> None:
    """A block device is locked by udev, too, for as long as that looks at it, after whoever had it
    open for writing has closed it (systemd.io/BLOCK_DEVICE_LOCKING): that is waited for."""
    until = time.monotonic()
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        until += limits.DEVICE_BUSY_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise StoreError(
                    f"{where}: in use by another process: stop that site first", errno.EBUSY
                ) from error
        time.sleep(limits.DEVICE_LOCK_S)


def flush_put_back(
    ones: Iterable[Opened],
    beside: Iterable[Identity],
    book: Ledger,
    boot: str,
    save: Callable[..., object],
    *,
    near: heard.Near,
    platform: Platform,
) -> None:
    """What a person may have put into `ones` while the site was stopped is on their disks.

    A failure is told once, perhaps to a process that is killed then, and whoever tries again in
    this boot is told that all is well.  So the ledger says before (`save`, of what changes) that it
    is not known of them, nor of the stores `beside`, which may stand on the same disk; until all
    are flushed.  The state folder may stand there, too, and hear of it first (`near`: heard.py).
    StoreError: one is not, and no fingerprint, which is of samples, counts any more.  LedgerError.
    """
    ones = [one for one in ones if one.store.kind != "nbd"]
    if not ones:
        return
    doubted = [*(one.identity for one in ones), *(it for it in beside if it.kind != "nbd")]
    names = {name for identity in doubted for name in identities.names_of(identity)}
    flushed = {name for one in ones for name in identities.names_of(one.identity)}
    before = in_this_boot(book, boot).flushing

    def doubt(lost: Collection[str], error: MirrorError) -> NoReturn:
        _drop_caches(ones)
        text = (
            f"{error}; what this flush has lost a later one does not tell: then adopt it "
            "('flashmirror adopt'), or put the copy into another file or device"
        )
        try:
            unflushed = heard.with_names(book.unflushed, lost)
            heard.record(lambda: save(unflushed=unflushed, flushing=before), platform)
        except LedgerError as again:
            text += f"; nor can that be recorded, so do it before the machine boots: {again}"
        raise StoreError(text, error.code) from error

    def are_near() -> set[str]:
        return names.intersection(near())

    with _told_to_end_later():
        with heard.listening(platform, are_near, doubt):
            flushing = tuple(sorted(names.union(before)))[-limits.UNFLUSHED_MAX :]
            save(flushing=flushing, flushing_boot=boot)
        try:
            for one in ones:
                one.flush()
        except StoreError as error:
            doubt(names, error)
        with heard.listening(platform, lambda: are_near() - flushed, doubt):
            save(flushing=before)


@contextlib.contextmanager
def flushed_first(ones: Collection[Opened], near: heard.Near) -> Iterator[None]:
    """The same before the first record of a site: what a person has brought into `ones` is on their
    disks before any record is made durable, and what those hear is heard of them, too.  There is no
    ledger in which the next try could read that.  StoreError, LedgerError."""

    def doubt(_: Collection[str], error: MirrorError) -> NoReturn:
        _drop_caches(ones)
        raise StoreError(
            f"{error}; what was put into its stores may not all be on their disks, whatever they "
            "show now, and the next try is not told: put it there again, then give the command "
            "again",
            error.code,
        ) from error

    with _told_to_end_later(), heard.listening(HERE, near, doubt):
        try:
            for one in ones:
                one.flush()
        except StoreError as error:
            doubt((), error)
        yield


def _drop_caches(ones: Iterable[Opened]) -> None:
    for one in ones:
        with contextlib.suppress(OSError):
            one.drop_cache()


@contextlib.contextmanager
def _told_to_end_later() -> Iterator[None]:
    """A stop of a site that is starting, or an interrupt, waits for the disk as the flush does, and
    then for the ledger too: after a kill in here each of these stores is refused."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def deleted(where: str, pid: int, fd: object) -> str:
    """The line for a file that has no name any more."""
    return (
        f"{where}: was deleted, and only process {pid} still has it: a stop, or a kill, is its "
        f"end: first copy it from /proc/{pid}/fd/{fd} (docs/recovery.md, 'A store was deleted or "
        "made smaller under a running site')"
    )


def seen(where: str) -> tuple[str, int]:
    """What a running site calls a file or device of this machine, in its ledger; and its size in
    bytes, as it is now.  OSError."""
    fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return identities.of_path(fd).name, os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def is_apart(where: str, known: Identity, folder: int) -> bool:
    """Whether that store is there, which nobody opens now, and has no disk in common with the state
    folder, for certain (below.apart)."""
    if config.is_uri(where):
        return False
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        is_there = identities.names_of(identities.of_path(fd)) & identities.names_of(known)
        return bool(is_there) and below.apart(folder, fd)
    finally:
        os.close(fd)


def is_cached_here(where: str) -> bool:
    """As Opened says, of a store that nobody opens now.  StoreError."""
    if config.is_uri(where):
        return False
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{where}: {error.strerror}: mend that", error.errno or 0) from error
    try:
        return below.cached_here(fd)
    finally:
        os.close(fd)


def is_new(one: Opened, record: StoreRecord, place: Place, size: int) -> bool:
    """Whether a store whose content does not count (a source's intermediate) is not the recorded
    one, but a blank file, which is as good.  StoreError: anything else may be somebody's."""
    try:
        verify(one, record, place, size)
    except StoreError:
        if (
            one.mark() not in (None, place.mark)
            or one.identity.kind != "file"
            or not one.blank_once_flushed()
        ):
            raise
        return True
    return False


def known(record: StoreRecord) -> Identity:
    return Identity(record.kind, record.identity, record.lasting, record.instance)


def verify(opened: Opened, record: StoreRecord, place: Place, size: int) -> None:
    """Refuse a store that is not the one recorded.  StoreError.  `size`: the volume's bytes."""
    if opened.mark() not in (None, place.mark):
        raise StoreError(
            f"{opened.where}: not the store that was recorded, it is marked as the store of "
            "another site or volume: put the right one back"
        )
    reason = refusal(opened, record, place, size)
    if reason:
        way_out = place.way_out(opened.identity.kind, fits=fits(opened, record, place, size))
        raise StoreError(f"{opened.where}: {reason}: {way_out}")


def fits(opened: Opened, record: StoreRecord, place: Place, size: int) -> bool:
    """Whether a store holds what an orderly stop left in the recorded one; or nothing, in the place
    of one in which no byte of the image is.  (Other bytes than were left there may tell that not
    the store went back, but the ledger, which then names the wrong blocks.)  StoreError."""
    known = "" if is_harmed(record) else _bytes_of(record)  # which what is left may have, too
    if (
        known
        and opened.size >= size
        and not opened.is_one_of(place.unflushed | place.flushing)
        and opened.has(known, size)
    ):
        return True
    return place.spare and opened.blank()


def refusal(opened: Opened, record: StoreRecord, place: Place, size: int) -> str | None:
    """Why a store is not known to be the one recorded; None: it is.  StoreError."""
    marked = opened.mark() == place.mark
    verdict = identities.judge(known(record), opened.identity, marked=marked)
    if place.unchanged and _hint_of_copy(record):
        verdict = Verdict.SAME
    if verdict is Verdict.OTHER:
        hint = "" if place.heals else _hint_of_copy(record)
        return f"not the store that was recorded ({known(record)}) but {opened.identity}{hint}"
    if lost := _may_be_lost(opened, place) or _gone(record, place):
        return lost
    before = _bytes_of(record)
    if before:
        return _changed(place, has=opened.has(before, size))
    if verdict is Verdict.UNSURE and (place.counts or not marked):
        return _doubt(record, marked=marked)
    return None


def _hint_of_copy(record: StoreRecord) -> str:
    """What makes a copy of that store, in its place, what it was; empty: no word does."""
    if record.fingerprint == UNREADABLE:
        return A_COPY
    found_smaller = (record.fingerprint or "").startswith(FOUND_SMALLER)
    return A_WHOLE_COPY if found_smaller and _bytes_of(record) else ""


def _changed(place: Place, *, has: bool | None) -> str | None:
    if has is not None:
        return None if has else "its content changed while the site was stopped"
    hint = "" if place.heals else UNCHANGED
    text = f"it cannot be read where its content is looked at, and may have changed{hint}"
    return None if place.unchanged else text


def _bytes_of(record: StoreRecord) -> str:
    """The fingerprint of an orderly stop; empty: there is none."""
    text = (record.fingerprint or "").removeprefix(FOUND_SMALLER).strip()
    return "" if text in (HARMED, UNREADABLE) else text


def is_known(opened: Opened, record: StoreRecord, place: Place) -> bool:
    """By its names and its mark, whatever it holds."""
    marked = opened.mark() == place.mark
    return identities.judge(known(record), opened.identity, marked=marked) is Verdict.SAME


def _gone(record: StoreRecord, place: Place) -> str | None:
    """What of it is not what it was, whatever is there now.  A source sends its target none of that
    unasked: what it lacks may be there alone."""
    known_there = TARGET_HAS if place.heals else ""
    if record.fingerprint == HARMED:
        if record.kind == "file":
            return (
                "was made smaller than its volume: what stood behind is gone, whatever is there now"
                f"{known_there}"
            )
        if not place.unchanged:  # a logical volume may have the same extents again, a server a file
            return (
                "was made smaller than its volume: what stood behind may be gone"
                f"{known_there}{RESTORED}"
            )
    if record.fingerprint == UNREADABLE and not (place.heals or place.unchanged):
        return f"it could not be read when the site was stopped, and may have changed{UNCHANGED}"
    found = (record.fingerprint or "").startswith(FOUND_SMALLER)
    if found and not place.unchanged:  # samples that fit say nothing of all that was cut
        return (
            "a start found it smaller than its volume: what stood behind may be gone"
            f"{known_there}{RESTORED}"
        )
    return None


def _may_be_lost(opened: Opened, place: Place) -> str | None:
    """What a person put there, since a flush of it has failed, or did not end in this boot."""
    if opened.is_one_of(place.unflushed):
        return (
            "a flush of what was put there while the site was stopped has failed, so its disk may "
            f"lack some of it{UNCHANGED}"
        )
    if opened.is_one_of(place.flushing):
        return (
            "a start was killed while it flushed what was put there, and what that flush has lost, "
            f"if it lost any, a later one does not tell{UNCHANGED}"
        )
    return None


def _doubt(record: StoreRecord, *, marked: bool) -> str:
    if record.kind == "device":
        return (
            f"nothing but its number {record.identity} tells this device from another one, the "
            "number may mean another one since a restart, and there is no fingerprint of an "
            "orderly stop"
        )
    if not marked:
        return (
            "its mark (attribute user.flashmirror) is gone, so it may be another file that was "
            "given the inode number, and there is no fingerprint of an orderly stop"
        )
    return (
        "marked as the recorded store, but another file (a copy, or restored), and there is no "
        "fingerprint of an orderly stop"
    )
