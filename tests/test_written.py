"""What a cycle made stable at the target is found again after any end, and only that."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64
from test_ledger import sample

from mirror_core import runlog
from mirror_core.flashcopy import packed_runs_of
from mirror_core.ledger import Ledger, Lineage
from mirror_core.platform import Platform
from mirror_core.runlog import History
from mirror_core.written import KIND, Written, WrittenLog, recover

NAMES = [v.name for v in sample().volumes]
BLOCKS = st.lists(st.integers(0, 200), max_size=8).map(BitMap64)
MAPS = st.fixed_dictionaries(dict.fromkeys(NAMES, BLOCKS))


RUN, TOKEN = "r" * 32, "t" * 32
CYCLE = History(KIND, "s" * 32, "l" * 32, 7, TOKEN)


def path_in(state: Path) -> Path:
    return runlog.path_in(state, KIND, RUN)


def book(committed: int) -> Ledger:
    return sample(role="target", lineage=Lineage("l" * 32), committed=committed, maps={}, run=RUN)


@given(MAPS, st.lists(MAPS, min_size=1, max_size=4), st.data())
def test_a_torn_log_gives_what_was_recorded_before_it(
    owed: dict[str, BitMap64], steps: list[dict[str, BitMap64]], data: st.DataObject
) -> None:
    """Cut at any byte: the records before the cut stand, nothing of the torn one counts as
    stable, and all that is known to be written is owed."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        log = WrittenLog(state, RUN, NAMES, Written())
        written: list[dict[str, BitMap64]] = []
        ends: list[int] = []
        now = {name: BitMap64() for name in NAMES}
        for step in steps:
            now = {name: now[name] | step[name] for name in NAMES}
            log.record(CYCLE, 10 + len(written), now, owed)
            written.append(now)
            ends.append(path_in(state).stat().st_size)
        log.close()
        cut = data.draw(st.integers(0, ends[-1]))
        os.truncate(path_in(state), cut)
        whole = sum(end <= cut for end in ends)
        found, still_owed = recover(state, book(committed=6))
        nothing = {name: BitMap64() for name in NAMES}
        expected = written[whole - 1] if whole else nothing
        assert dict(found.stable) in (expected, {})
        assert not whole or found == Written(7, TOKEN, 9 + whole, expected)
        if whole:
            assert still_owed == {name: owed[name] | expected[name] for name in NAMES}


@given(BLOCKS, st.integers(0, 1 << 40))
def test_a_map_is_taken_apart_run_by_run(blocks: BitMap64, offset: int) -> None:
    """The runs of a map are disjoint, do not touch, and make it up again; one of many millions
    of blocks is one run, not as many steps."""
    bitmap = BitMap64(offset + block for block in blocks)
    bitmap.add_range(offset + (1 << 33), offset + (1 << 33) + (1 << 27))
    runs = list(struct.iter_unpack("=QQ", packed_runs_of(bitmap)))
    again = BitMap64()
    for first, count in runs:
        again.add_range(first, first + count)
    assert again == bitmap
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(runs))


def test_a_commit_voids_it(tmp_path: Path) -> None:
    """What the committed cycle had made stable means nothing for the next."""
    log = WrittenLog(tmp_path, RUN, NAMES, Written())
    one = dict.fromkeys(NAMES, BitMap64([1, 2]))
    log.record(CYCLE, 1, one, one)
    log.close()
    assert recover(tmp_path, book(committed=7)) == (Written(), dict.fromkeys(NAMES, BitMap64()))


def test_it_is_known_by_its_cycle_only(tmp_path: Path) -> None:
    """Another sequence, or none, has nothing stable; nor has any after everything was forgotten;
    nor one that lacks a request which the source relies on."""
    log = WrittenLog(tmp_path, RUN, NAMES, Written())
    one = dict.fromkeys(NAMES, BitMap64([1, 2]))
    log.record(CYCLE, 1, one, one)
    assert (log.of(7, TOKEN), log.of(8, TOKEN), log.of(0, TOKEN)) == (one, None, None)
    assert log.of(7, "o" * 32) is None, "another cycle with the same number"
    assert (log.of(7, TOKEN, 1), log.of(7, TOKEN, 2)) == (one, None)
    log.forget()
    assert log.of(7, TOKEN) is None and log.of(0, TOKEN) is None
    log.close()
    assert recover(tmp_path, book(committed=0))[0] == Written()


class LosingDisk(Platform):
    """Its next flush of a file fails, and what that was to cover is gone: it is told once, and a
    flush with nothing changed since is good."""

    def __init__(self) -> None:
        self.fails = False
        self.holds, self._changed = b"", False

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._changed = True
        return super().pwrite(fd, data, offset)

    def ftruncate(self, fd: int, length: int) -> None:
        self._changed |= os.fstat(fd).st_size != length
        super().ftruncate(fd, length)

    def fdatasync(self, fd: int, since: int) -> None:
        if self.fails:
            self._changed = self.fails = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._changed:
            self.holds, self._changed = os.pread(fd, 1 << 20, 0), False


def test_a_log_that_could_not_be_forgotten_is_when_it_is_said(tmp_path: Path) -> None:
    """The flush of the cut failed, and the next one is good: the disk holds nothing of it then."""
    disk = LosingDisk()
    log = WrittenLog(tmp_path, RUN, NAMES, Written(), disk)
    one = dict.fromkeys(NAMES, BitMap64([1, 2]))
    log.record(CYCLE, 1, one, one)
    disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        log.forget()
    log.forget()
    log.close()
    path_in(tmp_path).write_bytes(disk.holds)  # a power loss
    assert recover(tmp_path, book(committed=0))[0] == Written()


def test_a_log_that_cannot_be_forgotten_twice_is_no_damaged_one(tmp_path: Path) -> None:
    """Neither flush of the cut is good, and a power loss comes: what was written stands on the
    disk, and no cut does.  The log is as it was, or forgotten."""
    torn = bytearray()

    class Torn(LosingDisk):
        def pwrite(self, fd: int, data: bytes, offset: int) -> int:
            torn[offset : offset + len(data)] = data
            return super().pwrite(fd, data, offset)

    disk = Torn()
    log = WrittenLog(tmp_path, RUN, NAMES, Written(), disk)
    one, more = (dict.fromkeys(NAMES, BitMap64(blocks)) for blocks in ([1], [1, 2]))
    log.record(CYCLE, 1, one, one)
    log.record(CYCLE, 2, more, one)
    whole = bytes(torn)
    for _ in range(2):
        disk.fails = True
        with pytest.raises(OSError, match="Input/output"):
            log.forget()
    log.close()
    assert bytes(torn) == whole
    path_in(tmp_path).write_bytes(torn)
    assert recover(tmp_path, book(committed=6))[0].stable == more


def test_a_log_that_is_begun_anew_has_nothing_behind_it(tmp_path: Path) -> None:
    """A record has failed, so the next one holds all and stands first.  When it is written the disk
    has nothing of the cycle any more: a power loss that kept older records behind it would leave a
    log that looks damaged, and a target that does not start."""
    behind: list[bytes] = []

    class Watched(LosingDisk):
        def pwrite(self, fd: int, data: bytes, offset: int) -> int:
            if offset == 0:
                behind.append(self.holds)
            return super().pwrite(fd, data, offset)

    disk = Watched()
    log = WrittenLog(tmp_path, RUN, NAMES, Written(), disk)
    maps = [dict.fromkeys(NAMES, BitMap64(range(n))) for n in (3, 6, 9, 12)]
    for serial in (1, 2):
        log.record(CYCLE, serial, maps[serial - 1], maps[0])
    disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        log.record(CYCLE, 3, maps[2], maps[0])
    log.record(CYCLE, 4, maps[3], maps[0])
    log.close()
    assert behind == [b"", b""]


def test_a_record_that_failed_is_made_whole_by_the_next(tmp_path: Path) -> None:
    """After a write that failed nobody knows what of the log stands: the next record holds it
    all."""
    log = WrittenLog(tmp_path, RUN, NAMES, Written())
    maps = [dict.fromkeys(NAMES, BitMap64(range(n))) for n in (3, 6, 9)]
    log.record(CYCLE, 1, maps[0], maps[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path_in(tmp_path).stat().st_size, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            log.record(CYCLE, 2, maps[1], maps[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.of(7, TOKEN) == maps[0]
    log.record(CYCLE, 3, maps[2], maps[0])
    log.close()
    assert recover(tmp_path, book(committed=6))[0] == Written(7, TOKEN, 3, maps[2])


OTHER = {
    "site": replace(CYCLE, site="o" * 32),
    "lineage": replace(CYCLE, lineage="o" * 32),
    "kind": replace(CYCLE, kind="hardened"),
}


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER.keys())
def test_a_record_of_another_history_counts_for_nothing(tmp_path: Path, other: History) -> None:
    """Of a cycle with the same number and token of another site, lineage or kind nothing is
    stable; what its own history has recorded in its place is."""
    log = WrittenLog(tmp_path, RUN, NAMES, Written())
    one = dict.fromkeys(NAMES, BitMap64([1, 2]))
    log.record(other, 1, one, one)
    nothing = dict.fromkeys(NAMES, BitMap64())
    assert recover(tmp_path, book(committed=6)) == (Written(), nothing)
    log.record(CYCLE, 2, one, one)
    log.close()
    assert recover(tmp_path, book(committed=6))[0].stable


def test_a_log_of_another_run_is_none(tmp_path: Path) -> None:
    """The ledger names the run whose log counts."""
    log = WrittenLog(tmp_path, "o" * 32, NAMES, Written())
    one = dict.fromkeys(NAMES, BitMap64([1, 2]))
    log.record(CYCLE, 1, one, one)
    log.close()
    assert recover(tmp_path, book(committed=6))[0] == Written()
