"""The second flashcopy's record of what is hardened, when the log of it cannot be written."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import Handmade, SlowDisk
from pair import MakePair
from pyroaring import BitMap64

from mirror_core import config, cut, flashcopy, hardlog, lastrun, ledger, native, runlog, second
from mirror_core.book import Book
from mirror_core.errors import MirrorError
from mirror_core.journal import Journal
from mirror_core.platform import HERE, Platform

SIZE = 16 << 20
BLOCK = 4096
OWED = BitMap64(range(0, SIZE // BLOCK, 2))  # lone blocks: each is a copy of its own
SLICE_S = 20e-6


class Target:
    """A target's stores and ledger, in the middle of a second flashcopy, and no thread."""

    def __init__(self, pair: Handmade) -> None:
        self.config = config.load(str(pair.toml("west")))
        self.front, self.data = (
            self._open(pair.store("west", part)) for part in ("intermediate", "data")
        )
        self.volume = native.Volume(self.front, self.data, SIZE, BLOCK, False)
        self.volume.set_strict()
        for block in OWED:
            self.volume.mark_pending(block, 1)
        self.copier = flashcopy.Flashcopy([flashcopy.Member("disk", self.volume)])
        self.copier.link([None])
        state, run = self.config.state, "0" * 32
        self.book = Book(state, ledger.load(state), HERE, Journal())
        self.book.update(committed=1, whole=True, clean=False, run=run, maps={"disk/pending": OWED})
        self.log = runlog.RunLog(state, hardlog.KIND, run)
        self.cuts = cut.Cuts(self.copier.members)
        self.second = second.SecondFlashcopy(
            self.config, self.book, self.copier, self.log, HERE, refuse_lost=self._refuse_lost
        )

    @staticmethod
    def _open(where: str) -> native.Store:
        if config.is_uri(where):
            return native.Store.nbd(where, 30.0)
        return native.Store.file(os.open(where, os.O_RDWR), SIZE)

    def _refuse_lost(self) -> None:
        if found := list(self.cuts.of_image()):
            raise cut.ImageLost(str(found))

    def copy_some(self) -> None:
        before = self.volume.stats().sent_blocks
        while self.volume.stats().sent_blocks == before:
            self.copier.copy(SLICE_S)
        assert self.volume.stats().pending_blocks

    def pending(self) -> BitMap64:
        """What is pending on disk, as the next process finds it."""
        state = self.config.state
        return hardlog.recover(state, ledger.load(state)).maps["disk/pending"]

    def close(self) -> None:
        self.log.close()
        self.copier.fail(errno.ESHUTDOWN)  # what is left is not copied any more
        self.copier.unlink()
        self.volume.close()
        self.front.close()
        self.data.close()


@pytest.fixture
def target(handmade: Handmade) -> Iterator[Target]:
    handmade.size = SIZE
    handmade.create()
    one = Target(handmade)
    yield one
    one.close()


@contextmanager
def no_room() -> Iterator[None]:
    """No file may grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_copied_beside_a_hardening_stays_pending(
    target: Target, handmade: Handmade
) -> None:
    """A record that could not be appended is replaced by a new ledger.  What was copied after that
    hardening had begun is not flushed, and so pending in it: a target that is killed then, and
    whose disk loses what was not flushed, finds it in the intermediate."""
    record = target.second._record_batch
    target.copy_some()
    with no_room(), pytest.raises(MirrorError, match="File too large"):
        target.copier.harden(record)
    assert target.pending() == OWED, "a hardening counts that was not recorded"
    target.copier.fail(errno.EIO)
    target.copier.retry()
    target.copy_some()
    target.copier.harden_begin()
    target.copy_some()  # as a writer who waits has it copied
    late = flashcopy.bitmap_of(target.volume, native.SENT)
    target.copier.flush(front_too=False)
    record()
    assert late and late <= target.pending() < OWED
    target.copier.harden_end()
    target.copier.harden(record)
    assert not late & target.pending()


@pytest.mark.parametrize("record", ["_record_all", "_record_batch"])
def test_what_was_cut_while_it_was_copied_is_hardened_nowhere(target: Target, record: str) -> None:
    """Somebody hears of the cut after all of it was read: the holes of the intermediate are in the
    data by then.  What is durable goes on saying that all of it is pending."""
    while not target.copier.copy(1.0):
        pass
    target.copier.harden_begin()
    target.copier.flush(front_too=False)
    target.front.cut()
    with pytest.raises(cut.ImageLost, match="intermediate"):
        getattr(target.second, record)()
    assert target.pending() == OWED


def test_a_cut_of_an_intermediate_costs_what_was_in_it(target: Target) -> None:
    """The image, if some of that was pending; else what was written in the session, which another
    one writes again, or which a commit has found whole.  Of data it costs the image, but for what a
    first commit writes."""
    cuts = target.cuts
    target.front.cut()
    assert list(cuts.of_image()) == [("disk", "intermediate")]
    cuts.begin(cuts.now())
    assert list(cuts.of_image()) == [("disk", "intermediate")], "no session brings it back"
    while not target.copier.copy(1.0):
        pass
    assert list(cuts.of_image()) == [("disk", "intermediate")], "it is copied, and not hardened"
    target.copier.harden(lambda: None)
    assert not list(cuts.of_image()) and cuts.met("disk", "intermediate")
    cuts.begin(cuts.now())
    assert not cuts.met("disk", "intermediate")
    assert cuts.in_session(cuts.now(), seeded=False) is None
    target.front.cut()
    assert cuts.in_session(cuts.now(), seeded=False) == ("disk", "intermediate")
    target.data.cut()
    cuts.begin(cuts.now())
    assert list(cuts.of_image()) == [("disk", "data")]
    cuts.commit(cuts.now(), first=False)
    assert list(cuts.of_image()) == [("disk", "data")], "it is not written again"
    cuts.commit(cuts.now(), first=True)
    assert not list(cuts.of_image())
    target.data.cut()
    assert cuts.in_session(cuts.now(), seeded=False) is None
    assert cuts.in_session(cuts.now(), seeded=True) == ("disk", "data")


def test_a_copy_in_the_place_of_the_log_costs_no_more_than_a_hardening(target: Target) -> None:
    """Somebody has put an older copy where the log of a running target was.  A target that is
    killed after the next hardening finds pending what is not hardened, and nothing else: what the
    next cycle writes over in the intermediate is not taken for the image."""
    record, path = target.second._record_batch, target.log.path
    target.copy_some()
    target.copier.harden(record)
    older = path.read_bytes()
    target.copy_some()
    target.copier.harden(record)
    path.with_name("copy").write_bytes(older)
    path.with_name("copy").rename(path)
    target.copy_some()
    target.copier.harden(record)
    left = flashcopy.bitmap_of(target.volume, native.PENDING, native.SENT)
    assert target.pending() == left < OWED
    target.copy_some()
    target.copier.harden(record)
    left = flashcopy.bitmap_of(target.volume, native.PENDING, native.SENT)
    assert target.pending() == left


class Killed(BaseException):
    """Nothing that a process does comes after a kill."""


class Killing(Platform):
    """Killed in the place of such a call, `left` of them later."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def open(self, path: Path, flags: int) -> int:
        self._count()
        return super().open(path, flags)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def fsync(self, fd: int, since: int) -> None:
        self._count()
        super().fsync(fd, since)

    def fdatasync(self, fd: int, since: int) -> None:
        self._count()
        super().fdatasync(fd, since)


def test_a_ledger_that_is_older_than_its_log_was_put_back(target: Target) -> None:
    """It is one of the same run, put back alone, beside a log that tells of a later commit: its
    image may be a mixture.  At no instant at which a target may be killed is its own such a one."""
    state, path = target.config.state, ledger.path_in(target.config.state)
    target.book.update(logs=target.log.ids)
    target.copy_some()
    target.copier.harden(target.second._record_batch)
    older, steps = path.read_bytes(), 0
    while True:
        target.log._platform = target.book._platform = HERE
        target.second._record_batch()  # the log is whole, and the next record goes into it
        platform = Killing(steps)
        target.log._platform = target.book._platform = platform
        with suppress(Killed):
            target.book.update(committed=target.book.current.committed + 1)
            target.copy_some()
            target.second._record_batch()
        assert not hardlog.recover(state, lastrun.load(state)).copied, f"killed after {steps} steps"
        if platform.left >= 0:
            break
        steps += 1
    assert steps > 3
    path.write_bytes(older)
    assert hardlog.recover(state, lastrun.load(state)).copied


@pytest.mark.parametrize("anew", ["put_in_place", "_record_batch", "_record_all"])
def test_a_log_that_is_made_anew_is_a_copy_at_no_instant(target: Target, anew: str) -> None:
    """Somebody has taken it away.  A target that is killed while it makes another one either lacks
    its log or has its own: it is never taken for one that was put back."""
    target.copy_some()
    target.book.update(logs=target.log.ids)
    state, steps = target.config.state, 0
    while True:
        target.log.path.unlink(missing_ok=True)
        platform = Killing(steps)
        target.log._platform = target.book._platform = platform
        with suppress(Killed):
            getattr(target.second, anew)()
        book = lastrun.load(state)
        assert not book.copied, f"killed after {steps} steps"
        if platform.left >= 0:
            break
        steps += 1
    assert steps > 3 and book.logs == target.log.ids and target.log.is_in_place()


@pytest.fixture
def slow_target(handmade: Handmade, scratch: Path) -> Iterator[Target]:
    """It takes 14 seconds and more to copy what is owed."""
    disk = SlowDisk(scratch / "slow", "20ms")
    handmade.size = SIZE
    handmade.stores["west", "data"] = disk.store(SIZE)
    handmade.create()
    one = Target(handmade)
    yield one
    one.close()
    disk.close()


def test_a_long_flush_makes_no_long_step(slow_target: Target) -> None:
    """After a hardening of 25 s there may be as much copying, but in short steps, between which the
    thread sees that it is to stop, or that its source has asked for a flush."""
    slow_target.second._batch_s = 25.0
    for _ in range(3):
        began = time.monotonic()
        assert not slow_target.second.step()
        assert time.monotonic() - began < 5.0


def test_a_writer_who_waits_has_a_hardening_after_as_much_copying(slow_target: Target) -> None:
    """At most half of the time goes into hardening, however short the steps are."""
    target = slow_target
    target.copy_some()
    block = next(iter(flashcopy.bitmap_of(target.volume, native.SENT)))
    target.second._batch_s = 3.0
    written, began, done = threading.Event(), [0.0], []

    def second_flashcopy() -> None:
        try:
            direct.wait_for(target.copier.group.harden_wanted, "the writer waits")
            began[0] = time.monotonic()
            while not written.is_set():
                done.append(target.second.step())
                written.wait(0 if target.copier.group.harden_wanted() else 0.1)
        finally:
            if not written.is_set():
                target.copier.fail(errno.ESHUTDOWN)  # or he would wait for ever

    # He is this thread: one that Python ends is none for a client (native/pin.h).
    thread = threading.Thread(target=second_flashcopy)
    thread.start()
    try:
        native.Client(target.volume, 0).zero(BLOCK, block * BLOCK, 0)
        assert 3.0 <= time.monotonic() - began[0] < 10.0
    finally:
        written.set()
        thread.join()
    assert not any(done)
    assert block not in target.pending()


def test_what_is_pending_is_copied_whatever_the_ledger_calls_hardened(make_pair: MakePair) -> None:
    """A target that was stopped between the record of a hardening and its end has blocks pending of
    a commit that its ledger calls hardened: the next run copies them, and all goes on."""
    pair = make_pair("--size", "1M")
    pair.start()
    with pair.client() as client:
        client.write(0, b"x" * 65536)
    direct.sync(pair)
    pair.stop()
    state = pair.folder / "west" / "state"
    book = ledger.load(state)
    assert book.clean and book.hardened == book.committed
    ledger.save(state, replace(book, maps={"disk/pending": BitMap64(range(16))}))
    pair.start()
    with pair.client() as client:
        client.write(0, b"y" * 65536)
    direct.sync(pair)
    pair.stop()
    assert pair.image("west").read_bytes() == pair.image("east").read_bytes()
