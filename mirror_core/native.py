"""The only file that touches cffi: a typed face of native/, return code -> exception.

Contracts are in the C headers; here are lengths, lifetimes and errors.  A call releases the
GIL for as long as it runs.  Errors are OSError with the errno of the core.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from array import array
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from mirror_core import _native
from mirror_core._native import ffi as _ffi
from mirror_core._native import lib as _lib


def _second_module() -> Any:
    """native/client.c: a module of its own in the shared object of the core, which it calls."""
    spec = cast(ModuleSpec, spec_from_file_location("mirror_core._client", _native.__file__))
    module = module_from_spec(spec)
    cast("Loader", spec.loader).exec_module(module)
    return module


if TYPE_CHECKING:
    from importlib.abc import Loader

    from mirror_core import _client
else:
    _client = _second_module()

FUA = 1
PUNCH = 2
FAST = 4

NEXT, PENDING, UNSENT, SENT, HARDENING, STABLE = range(6)  # the maps of a volume

SINCE_UNKNOWN = int(_lib.FM_SINCE_UNKNOWN)  # of Stats' next_since_ns and cycle_since_ns

_WHY_BYTES = 512
_RUNS = 4096
NS = 1_000_000_000
_LONG_S = 1e6


class NativeError(OSError):
    """An errno of the core, with its reason."""


take_hot_calls = _client.take_hot_calls


def _check(rc: int, what: str, why: str = "") -> int:
    if rc < 0:
        raise NativeError(-rc, f"{what}: {why or os.strerror(-rc)}")
    return rc


def now_s() -> float:
    """The monotonic clock of the core, in seconds."""
    return int(_lib.fm_now_ns()) / NS


def pack_spans(firsts: array[int], ends: array[int]) -> bytes:
    """Runs [first, end) as pairs of first and blocks."""
    assert len(firsts) == len(ends) and firsts.typecode == ends.typecode == "Q"
    pairs = bytearray(16 * len(firsts))
    _lib.fm_pack_spans(
        _ffi.from_buffer("uint64_t[]", firsts), _ffi.from_buffer("uint64_t[]", ends),
        len(firsts), _ffi.from_buffer("uint64_t[]", pairs),
    )  # fmt: skip
    return bytes(pairs)


def _portable(out: Any, size: Any) -> bytes:
    try:
        return bytes(_ffi.buffer(out[0], size[0]))
    finally:
        _lib.fm_portable_free(out[0])


class Runs:
    """A set of a volume's blocks, made of packed runs, millions a call."""

    def __init__(self, blocks: int) -> None:
        """MemoryError."""
        made = _lib.fm_runs_new(blocks)
        if not made:
            raise MemoryError
        self._handle = _ffi.gc(made, _lib.fm_runs_free)

    def add(self, packed: memoryview) -> bool:
        """False: they are not all of these blocks."""
        runs = _ffi.from_buffer(packed)
        return bool(_lib.fm_runs_add(self._handle, runs, len(packed) // 16) == 0)

    def portable(self) -> bytes:
        """As Volume.portable.  MemoryError."""
        out, size = _ffi.new("void **"), _ffi.new("uint64_t *")
        if _lib.fm_runs_portable(self._handle, out, size) < 0:
            raise MemoryError
        return _portable(out, size)


class BlockSizes(NamedTuple):
    """What a store's server takes, in bytes (nbd proto.md, "Block size constraints"): multiples
    of which; what is best; and the most that is read or written at once (the core's affair)."""

    minimum: int
    preferred: int
    maximum: int


class Store:
    """Where bytes live.  Closed by `close`, after every volume that uses it."""

    def __init__(self, handle: Any, kind: str) -> None:
        self._lock = threading.Lock()  # guards the next two, for looks
        self._handle = handle
        self._looks = 0  # under way
        self.kind = kind  # "file" or "nbd"
        self._before = 0  # losses that count anew, of the process before

    @classmethod
    def file(cls, fd: int, size: int) -> Store:
        """A file or block device; the descriptor is taken over, also if that fails."""
        try:
            out = _ffi.new("struct fm_store **")
        except BaseException:
            os.close(fd)
            raise
        _check(_lib.fm_store_open_file(fd, size, out), "open")
        return cls._of(out, "file")

    @classmethod
    def nbd(cls, uri: str, timeout_s: float, *, fenced: bool = False) -> Store:
        """An NBD server; connects once to learn its size and abilities.  `fenced`: it refuses
        itself what was given up (native/late.h)."""
        out = _ffi.new("struct fm_store **")
        why = _ffi.new(f"char[{_WHY_BYTES}]")
        rc = _lib.fm_store_open_nbd(uri.encode(), int(timeout_s * NS), out, why, _WHY_BYTES)
        if rc < 0:
            _check(rc, uri, _ffi.string(why).decode(errors="replace"))
        if fenced:
            _lib.fm_store_set_fenced(out[0])
        return cls._of(out, "nbd")

    @classmethod
    def _of(cls, out: Any, kind: str) -> Self:
        """One that was opened just now; closed if this fails."""
        try:
            return cls(out[0], kind)
        except BaseException:
            _lib.fm_store_close(out[0])
            raise

    def stands_on(self, below: int) -> None:
        """What all stores of this number share (native/below.h), not 0.  Before it is in use."""
        _lib.fm_below_join(self._handle, below)

    def stands_with_folder(self) -> None:
        """The same, of a file of the state folder."""
        _lib.fm_below_join_folder(self._handle)

    def unflushed(self) -> None:
        """Its server may have anything in its cache: the first good flush may take long.  Before
        it is in use."""
        _lib.fm_store_unflushed(self._handle)

    def reserve(self, connections: int) -> tuple[int, int]:
        """Open so many connections to a server, to be shared by who needs one.  How many there
        are now; and the errno, if those are fewer, of the one that could not be had."""
        code = _ffi.new("int *")
        had = int(_lib.fm_store_reserve(self._handle, connections, code))
        return had, -int(code[0])

    def server_socket(self) -> int:
        """Of the connection that unflushed writes to a server count on: a descriptor for the caller
        to close.  OSError: there is none; EBUSY: it is in a flush."""
        return _check(_lib.fm_store_server_fd(self._handle), "connection")

    @property
    def size(self) -> int:
        return int(_lib.fm_store_size(self._handle))

    @property
    def block_sizes(self) -> BlockSizes:
        sizes = _lib.fm_store_block_sizes(self._handle)
        return BlockSizes(int(sizes.minimum), int(sizes.preferred), int(sizes.maximum))

    @property
    def losses(self) -> int:
        """How often what was not flushed may have gone, since it was opened."""
        return int(_lib.fm_store_losses(self._handle)) - self._before

    def cut(self) -> None:
        """It was seen to be smaller than its volume: that is a loss, whatever size it has later.
        OSError: it is closed, as for `cuts`."""
        with self._looked_at() as handle:
            _lib.fm_store_cut(handle)

    @property
    def cuts(self) -> int:
        """How often that was so: what was flushed before may have gone, too.  A server may be asked
        first, for half a second (native/flush.c)."""
        with self._looked_at() as handle:
            return int(_lib.fm_store_cuts(handle))

    @contextlib.contextmanager
    def _looked_at(self) -> Generator[Any, None, None]:
        """The handle, for a look that may come after the end of its site, or end after it: who
        closes the store then leaves that to the look."""
        with self._lock:
            if not self._handle:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            handle, self._looks = self._handle, self._looks + 1
        try:
            yield handle
        finally:
            with self._lock:
                self._looks -= 1
                is_last = not self._handle and not self._looks
            if is_last:
                _lib.fm_store_close(handle)

    def flush(self) -> None:
        """What was written there until now, by whomever, is durable.  OSError: it may not be, which
        is a loss for all that share its disk."""
        _check(_lib.fm_store_flush_now(self._handle), "flush")

    def is_settled(self) -> bool:
        """Whether nothing that was given up may still be done there (native/late.h)."""
        return bool(_lib.fm_late_settled(self._handle))

    def read(self, length: int, offset: int) -> bytes:
        buffer = bytearray(length)
        _check(_lib.fm_store_read(self._handle, _ffi.from_buffer(buffer), length, offset), "read")
        return bytes(buffer)

    def gather(
        self, runs: Sequence[tuple[int, int]], depth: int, seconds: float
    ) -> tuple[bytearray, float, float]:
        """Read these runs (offset, bytes), `depth` at most at once, for about so long: what was
        read of them from the front, at least the first; and how long the quickest read and the
        slowest one took, in seconds.  OSError."""
        buffer = bytearray(sum(length for _, length in runs))
        flat = _ffi.new("uint64_t[]", [number for run in runs for number in run])
        times = _ffi.new("struct fm_gather_times *")
        deadline = int(_lib.fm_now_ns()) + int(seconds * NS)
        done = _check(
            _lib.fm_store_gather(
                self._handle, flat, len(runs), _ffi.from_buffer(buffer), depth, deadline, times
            ),
            "read",
        )
        del buffer[sum(length for _, length in runs[:done]) :]
        return buffer, int(times.quickest_ns) / NS, int(times.slowest_ns) / NS

    def gather_all(self, runs: Sequence[tuple[int, int]], depth: int) -> bytes:
        """The same, all of it, however long that takes.  OSError: some of it cannot be read."""
        data, left = bytearray(), deque(runs)
        while left:
            part, _, _ = self.gather(list(left), depth, _LONG_S)
            data += part
            got = len(part)
            while got > 0:
                got -= left.popleft()[1]
        return bytes(data)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """(bytes, is a hole) from `offset` on, `length` bytes in all."""
        data = _ffi.new("uint64_t *")
        end = offset + length
        while offset < end:
            hole = _lib.fm_store_hole(self._handle, offset, end - offset, data)
            step = int(hole or data[0])
            yield step, bool(hole)
            offset += step

    def close(self) -> None:
        with self._lock:
            handle, self._handle = self._handle, _ffi.NULL
            is_used = self._looks > 0
        if not is_used:
            _lib.fm_store_close(handle)


def folder_stands_on(below: int) -> None:
    """Of this process's state folder, as `Store.stands_on`; 0: it shares with nobody."""
    _lib.fm_below_set_folder(below)


def folder_losses() -> int:
    """How often its disk has lost something: for `sync`."""
    return int(_lib.fm_below_losses())


def sync(fd: int, since: int, *, data_only: bool) -> None:
    """fsync(2), or fdatasync(2), of a file of the state folder, for what was done there since
    `folder_losses` was so many.  OSError."""
    rc = _lib.fm_below_sync(fd, data_only, since)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))


class Intent:
    """The intent log of one volume (native/intent.h); owns the store that it is written to."""

    def __init__(self, store: Store, offset: int, size: int, shift: int) -> None:
        out = _ffi.new("struct fm_intent **")
        _check(_lib.fm_intent_open(store._handle, offset, size, shift, out), "intent log")
        self._handle, self._store, self._size = out[0], store, size

    @staticmethod
    def log_bytes(size: int, shift: int) -> int:
        return int(_lib.fm_intent_log_bytes(size, shift))

    def heat_all(self) -> None:
        _check(_lib.fm_intent_heat_all(self._handle), "intent log")

    def runs(self) -> Iterator[tuple[int, int]]:
        """(offset, bytes) of what is hot, within the volume."""
        at, length = _ffi.new("uint64_t *"), _ffi.new("uint64_t *")
        start = 0
        while _lib.fm_intent_run(self._handle, start, at, length):
            yield int(at[0]), min(int(length[0]), self._size - int(at[0]))
            start = int(at[0]) + int(length[0])

    def close(self) -> None:
        _lib.fm_intent_close(self._handle)
        self._handle = _ffi.NULL
        self._store.close()


class Stats(NamedTuple):
    """Counters of one volume; blocks, bytes and microseconds as in native/volume.h."""

    next_blocks: int
    pending_blocks: int
    unsent_blocks: int
    sent_blocks: int
    next_since_ns: int
    cycle_since_ns: int
    heard_ns: int
    copied_bytes: tuple[int, int]
    wire_bytes: int
    copies_before_write: int
    write_errors: int
    read_errors: int
    wait_us_sum: int
    wait_us: tuple[int, ...]
    abandoned: int
    failed_part: int
    closed_part: int
    second_lost: int
    write_error: int
    read_error: int


class Volume:
    """The gate and the flashcopy relation of one volume (native/volume.h)."""

    def __init__(
        self, front: Store, first: Store | None, size: int, block_size: int, preserve_first: bool
    ) -> None:
        """`first` None: there is none yet (`set_first`)."""
        out = _ffi.new("struct fm_volume **")
        handle = first._handle if first else _ffi.NULL
        rc = _lib.fm_volume_create(front._handle, handle, size, block_size, preserve_first, out)
        _check(rc, "volume")
        self._handle = out[0]
        self.front, self._first, self.size, self.block_size = front, first, size, block_size
        self._intent: Intent | None = None
        self._bucket: object = None  # of its group, which it keeps for as long as it is used
        self.blocks = -(-size // block_size)

    # -- the control: one thread

    @property
    def has_first(self) -> bool:
        return self._first is not None

    @property
    def first(self) -> Store:
        assert self._first is not None
        return self._first

    def set_first(self, first: Store) -> None:
        """Of a volume that was made without, before it is linked."""
        _lib.fm_volume_set_first(self._handle, first._handle)
        self._first = first

    def flush_front(self) -> None:
        _check(_lib.fm_volume_flush_front(self._handle), "flush")

    def link(self, second: Store | None, lanes: int) -> None:
        handle = second._handle if second else _ffi.NULL
        _check(_lib.fm_volume_link(self._handle, handle, lanes), "link")

    def lose_front(self) -> None:
        """What the front has not flushed may be gone: the clients hear of it (news.h).  Before
        the volume is in use."""
        _lib.fm_volume_lose_front(self._handle)
        if self.front.kind == "file":  # nothing of it is cached any more: what it shows it holds
            self.front._before += 1

    def news_is_due(self) -> bool:
        """Whether a client who is there, or may come back, has to hear of a loss of the front."""
        return bool(_lib.fm_news_is_due(self._handle))

    def lose_second(self, code: int) -> None:
        _lib.fm_volume_lose_second(self._handle, -abs(code))

    def leave_second(self) -> None:
        """For good: a link to it, also one that is being made, fails with ESHUTDOWN."""
        _lib.fm_volume_leave_second(self._handle)

    def part(self, lanes: int) -> None:
        """The second sink is lost: copy on to the first.  OSError: that cannot be opened."""
        _check(_lib.fm_volume_part(self._handle, lanes), "link")

    def forget_stable(self) -> None:
        _lib.fm_volume_forget_stable(self._handle)

    def all_sent(self) -> None:
        _lib.fm_volume_all_sent(self._handle)

    def unlink(self) -> None:
        _lib.fm_volume_unlink(self._handle)

    def copy(self, slice_s: float) -> bool:
        """Copy for a while; True when nothing is left that can be copied now.  OSError: the
        cycle is abandoned."""
        return bool(_check(_lib.fm_volume_copy(self._handle, int(slice_s * NS)), "copy"))

    def compare(self, on: bool) -> None:
        """Whether what is unsent is to be compared before it is sent."""
        _lib.fm_volume_compare(self._handle, on)

    def equal(self, first: int, count: int) -> None:
        _lib.fm_volume_equal(self._handle, first, count)

    def adopt(self, session: int, first: int, count: int) -> None:
        _check(_lib.fm_volume_adopt(self._handle, session, first, count), "adopt")

    def flush_sinks(self, front_too: bool) -> None:
        _check(_lib.fm_volume_flush(self._handle, front_too), "flush")

    def settle(self) -> None:
        _lib.fm_volume_settle(self._handle)

    def set_intent(self, intent: Intent) -> None:
        self._intent = intent
        _lib.fm_volume_set_intent(self._handle, intent._handle)

    def heat_all(self) -> None:
        """Of a source: its intent log says that every block may differ.  OSError."""
        if self._intent:
            self._intent.heat_all()

    def heat_next(self) -> None:
        """What is not committed is in hot regions.  OSError: the intent log."""
        _check(_lib.fm_volume_heat_next(self._handle), "intent log")

    def cool(self, after_s: int) -> None:
        _check(_lib.fm_volume_cool(self._handle, after_s), "intent log")

    def renew_intent(self) -> None:
        """What the log's disk may have lost is written anew.  OSError: it is to be asked again."""
        _check(_lib.fm_volume_renew_intent(self._handle), "intent log")

    def set_strict(self) -> None:
        _lib.fm_volume_set_strict(self._handle)

    def set_hold(self) -> None:
        """Without a link writers wait for it, instead of for the first sink alone."""
        _lib.fm_volume_set_hold(self._handle)

    def doubt_front(self) -> None:
        """The front may have lost something before the volume was in use: what the first cycle
        copies is written back to it.  Before the volume is in use."""
        _lib.fm_volume_doubt_front(self._handle)

    def doubts_front(self) -> bool:
        """Whether a cycle that began now would do so."""
        return bool(_lib.fm_volume_doubts_front(self._handle))

    def set_returning(self, seconds: float) -> None:
        """How long it may take a client whose connection has ended to be back.  Before the volume
        is in use."""
        _lib.fm_volume_set_returning(self._handle, int(seconds * NS))

    def set_patience(self, seconds: float) -> None:
        """How long a writer waits for what is not this site's own (volume.h); 0: for ever."""
        _lib.fm_volume_set_patience(self._handle, int(seconds * NS))

    def harden_begin(self) -> None:
        _lib.fm_volume_harden_begin(self._handle)

    def harden_end(self) -> None:
        _lib.fm_volume_harden_end(self._handle)

    def retry(self) -> None:
        _lib.fm_volume_retry(self._handle)

    def forget_next(self) -> None:
        _lib.fm_volume_forget_next(self._handle)

    def fail(self, code: int, part: int) -> None:
        _lib.fm_volume_fail(self._handle, -abs(code), part)

    def abandon(self) -> None:
        _lib.fm_volume_abandon(self._handle)

    def mark(self, first: int, count: int) -> None:
        _lib.fm_volume_mark(self._handle, first, count)

    def share(self, fd: int) -> None:
        """Keep the maps in this file, which is taken over.  OSError: close the volume."""
        _check(_lib.fm_volume_share(self._handle, fd), "maps")

    def shared_bytes(self) -> int:
        return int(_lib.fm_volume_shared_bytes(self._handle))

    def mark_shared(self, fd: int) -> None:
        _check(_lib.fm_volume_mark_shared(self._handle, fd), "maps")

    def mark_pending(self, first: int, count: int) -> None:
        _lib.fm_volume_mark_pending(self._handle, first, count)

    def mark_data(self) -> None:
        _lib.fm_volume_mark_data(self._handle)

    def mark_spans(self, firsts: array[int], ends: array[int], *, pending: bool) -> None:
        """Runs [first, end) at once, in the map of what is pending, or next."""
        assert len(firsts) == len(ends) and firsts.typecode == ends.typecode == "Q"
        _lib.fm_volume_mark_spans(
            self._handle, _ffi.from_buffer("uint64_t[]", firsts),
            _ffi.from_buffer("uint64_t[]", ends), len(firsts), pending,
        )  # fmt: skip

    def portable(self, which: int) -> bytes:
        """One of the maps as a roaring bitmap of 64 bits in its portable form.  OSError."""
        out, size = _ffi.new("void **"), _ffi.new("uint64_t *")
        _check(_lib.fm_volume_portable(self._handle, which, out, size), "map")
        return _portable(out, size)

    def runs(self, which: int) -> Iterator[tuple[int, int]]:
        """The runs (first block, blocks) of one of the maps."""
        for packed in self._packed_runs(which):
            yield from cast("Iterator[tuple[int, int]]", struct.iter_unpack("=QQ", packed))

    def touches(self, which: int, first: int, count: int) -> bool:
        """Whether one of these blocks is in that map."""
        out = _ffi.new("uint64_t[2]")
        n = _lib.fm_volume_runs(self._handle, which, first, out, 1)
        return bool(n) and int(out[0]) < first + count

    def packed_runs(self, which: int) -> bytes:
        """The same as pairs of 64-bit numbers, one after another."""
        return b"".join(self._packed_runs(which))

    def _packed_runs(self, which: int) -> Iterator[bytes]:
        out = _ffi.new("uint64_t[]", 2 * _RUNS)
        n, at = _RUNS, 0
        while n == _RUNS:
            n = _lib.fm_volume_runs(self._handle, which, at, out, _RUNS)
            yield bytes(_ffi.buffer(out, 16 * n))
            at = out[2 * n - 2] + out[2 * n - 1] if n else 0

    def stats(self) -> Stats:
        """OSError: it is closed, as for a look that comes after the end of its site."""
        if not self._handle:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        s = _ffi.new("struct fm_volume_stats *")
        _lib.fm_volume_read_stats(self._handle, s)
        return Stats(
            s.next_blocks, s.pending_blocks, s.unsent_blocks, s.sent_blocks,
            s.next_since_ns, s.cycle_since_ns, s.heard_ns,
            (s.copied_bytes[0], s.copied_bytes[1]), s.wire_bytes, s.copies_before_write,
            s.write_errors, s.read_errors, s.wait_us_sum, tuple(s.wait_us),
            s.abandoned, s.failed_part, s.closed_part, s.second_lost, s.write_error,
            s.read_error,
        )  # fmt: skip

    def close(self) -> None:
        _lib.fm_volume_free(self._handle)
        self._handle = _ffi.NULL


class Client(_client.Client):
    """A volume as a client of one session uses it: one call into the core a request.

    The plugin's worker threads only (native/client.h).  Errors are OSError with the errno for
    the client.  `close` when its connection ends.
    """

    def __new__(cls, volume: Volume, session: int) -> Self:
        address = int(_ffi.cast("uintptr_t", volume._handle))
        return super().__new__(cls, address, session)

    def __init__(self, volume: Volume, session: int) -> None:
        self.volume = volume  # lives as long as its clients

    def zero(self, count: int, offset: int, flags: int) -> None:
        _check(self._zero(count, offset, flags), "zero")

    def flush(self) -> None:
        _check(self._flush(), "flush")


class Group:
    """The volumes of a site: frozen and fenced together, with one limit for what they send."""

    def __init__(self, volumes: Sequence[Volume]) -> None:
        self._array = _ffi.new("struct fm_volume *[]", [v._handle for v in volumes])
        self._n = len(volumes)
        self.held_s = 0.0  # how long the last freeze held writes, whether it was in time or not
        self._bucket = _ffi.new("struct fm_bucket *")
        for volume in volumes:
            volume._bucket = self._bucket
            _lib.fm_volume_set_bucket(volume._handle, self._bucket)

    def limit(self, rate: int) -> None:
        """What the background sends to the second sinks of all, from the thread that copies, bytes
        a second; 0: without limit."""
        _lib.fm_bucket_limit(self._bucket, rate, _lib.fm_now_ns())

    def next_blocks(self) -> int:
        """Blocks written since the last consistency point, of all volumes."""
        return int(_lib.fm_group_next_blocks(self._array, self._n))

    def harden_wanted(self) -> bool:
        """Whether a writer of any waits for a hardening."""
        return bool(_lib.fm_group_harden_wanted(self._array, self._n))

    def freeze(self, budget_s: float) -> float:
        """One consistency point: next -> pending in every volume.  How long writes were held,
        in seconds; OSError(ETIMEDOUT): nothing was changed (I6)."""
        held = _ffi.new("uint64_t *")
        rc = _lib.fm_group_freeze(self._array, self._n, int(budget_s * NS), held)
        self.held_s = int(held[0]) / NS
        _check(rc, "freeze")
        return self.held_s

    @contextlib.contextmanager
    def closed(self, budget_s: float) -> Generator[None, None, None]:
        """With the gates closed.  NativeError: requests did not end."""
        deadline = int(_lib.fm_now_ns()) + int(budget_s * NS)
        _check(_lib.fm_group_close(self._array, self._n, deadline), "freeze")
        try:
            yield
        finally:
            _lib.fm_group_open(self._array, self._n)

    def swap(self) -> None:
        _lib.fm_group_swap(self._array, self._n)

    def fence(self, session: int, budget_s: float) -> None:
        """From now on only requests of `session` enter (I8)."""
        _check(_lib.fm_group_fence(self._array, self._n, session, int(budget_s * NS)), "fence")


class Callers:
    """The connections that others have to a site's sockets (native/callers.h).  To look for them
    needs a descriptor: OSError."""

    def __init__(self, path: str, ports: Sequence[int], most: int) -> None:
        self._path, self._ports, self._most = os.fsencode(path), list(ports), most
        self._found = _ffi.new("struct fm_caller[]", most)

    def look(self) -> dict[tuple[str, int], int]:
        """Those over TCP by their address: a number for `shut`, until the next look."""
        n = self._look()
        return {
            (_ffi.string(c.host).decode(), c.port): i
            for i, c in enumerate(self._found[0:n])
            if c.port
        }

    def shut(self, number: int) -> None:
        """End a connection, both ways."""
        _lib.fm_caller_shut(_ffi.addressof(self._found, number), socket.SHUT_RDWR)

    def end_all(self) -> None:
        """Nothing is received any more from any; requests under way are answered."""
        for i in range(self._look()):
            _lib.fm_caller_shut(_ffi.addressof(self._found, i), socket.SHUT_RD)

    def _look(self) -> int:
        n = len(self._ports)
        return _check(
            _lib.fm_callers(self._path, self._ports, n, self._found, self._most), "connections"
        )


class Line:
    """A connection to a control export: one request at a time, written at 0, its answer read at 0.
    After an error it is of no use."""

    def __init__(self, uri: str, answer_bytes: int, timeout_s: float) -> None:
        out, why = _ffi.new("struct fm_line **"), _ffi.new(f"char[{_WHY_BYTES}]")
        self._answer = bytearray(answer_bytes)  # first: nobody would close the line
        rc = _lib.fm_line_open(uri.encode(), int(timeout_s * NS), out, why, _WHY_BYTES)
        if rc < 0:
            text = cast(bytes, _ffi.string(why)).decode(errors="replace")
            raise NativeError(-rc, text or os.strerror(-rc))
        self._handle: Any = out[0]

    def ask(self, request: bytes) -> None:
        """Begin to."""
        self._checked(_lib.fm_line_ask(self._handle, request, len(request)))

    def hear(self, wait_s: float) -> bytes | None:
        """The answer, or None: it is not there within `wait_s`."""
        answer = _ffi.from_buffer(self._answer)
        wait_ns = int(wait_s * NS)
        rc = _lib.fm_line_hear(self._handle, answer, len(self._answer), wait_ns)
        return bytes(self._answer) if self._checked(rc) else None

    def close(self) -> None:
        handle, self._handle = self._handle, _ffi.NULL
        _lib.fm_line_close(handle)

    @staticmethod
    def _checked(rc: int) -> int:
        if rc < 0:
            raise NativeError(-rc, os.strerror(-rc))
        return rc


def exchange(uri: str, request: bytes, answer_bytes: int, timeout_s: float) -> bytes:
    """One request on a line of its own."""
    line = Line(uri, answer_bytes, timeout_s)
    try:
        line.ask(request)
        while (answer := line.hear(timeout_s)) is None:
            pass
        return answer
    finally:
        line.close()
