"""The target's thread, which stands still for a moment where a busy machine may let it stand."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from handmade import Handmade
from pyroaring import BitMap64

from mirror_core import (
    config,
    cycle,
    flashcopy,
    hardlog,
    ledger,
    limits,
    native,
    protocol,
    runlog,
    target,
    written,
)
from mirror_core.book import Book
from mirror_core.driver import Driver
from mirror_core.errors import PeerError
from mirror_core.journal import Journal
from mirror_core.ledger import Lineage
from mirror_core.platform import HERE
from mirror_core.site import Site

SIZE, BLOCK, SESSION = 1 << 20, 4096, 5


def test_a_commit_is_not_hardened_before_its_maps_stand(handmade: Handmade) -> None:
    """The thread looks for work after the flush of a commit: between the record of the commit and
    the swap of the maps it must not take the empty maps of the commit before for its own, or it
    records that nothing is pending, and the image is lost."""
    handmade.size = SIZE
    handmade.create()
    with Path(handmade.store("west", "data")).open("r+b") as file:
        file.write(b"old")
    settings = config.load(str(handmade.toml("west")))
    front, data = (
        native.Store.file(os.open(handmade.store("west", part), os.O_RDWR), SIZE)
        for part in ("intermediate", "data")
    )
    volume = native.Volume(front, data, SIZE, BLOCK, False)
    volume.set_strict()
    copier = flashcopy.Flashcopy([flashcopy.Member("disk", volume)])
    copier.link([None])
    state, run = settings.state, "0" * 32
    book = Book(state, ledger.load(state), HERE, Journal())
    book.update(clean=False, run=run, lineage=Lineage("1" * 32))
    one = target.Target(
        settings,
        book,
        copier,
        Journal(),
        runlog.RunLog(state, hardlog.KIND, run),
        platform=HERE,
        blank=False,
        doubtful_sent=False,
        doubtful_before=False,
        owed={"disk": BitMap64()},
        remember_cut=lambda _: None,
        short_data=lambda: None,
        written=written.WrittenLog(state, run, ["disk"], written.Written()),
    )
    copier.group.fence(SESSION, 1.0)
    one.session = SESSION
    steps: list[bool] = []
    flush, step, swap = one._flush_if_asked, one.second.step, copier.group.swap

    def until(condition: Any) -> None:
        deadline = time.monotonic() + 1.0
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.001)

    def flush_and_stall() -> None:
        flush()
        until(lambda: book.current.committed)

    def step_seen() -> bool:
        done = step()
        steps.append(done)
        return done

    def swap_later() -> None:
        until(lambda: steps)
        swap()

    one._flush_if_asked, one.second.step = flush_and_stall, step_seen  # type: ignore[method-assign]
    copier.group.swap = swap_later  # type: ignore[method-assign]
    one.start()
    try:
        client = native.Client(volume, SESSION)
        client.zero(BLOCK, 0, 0)
        answer = one.commit(protocol.Commit("1" * 32, SESSION, 1, time.time(), "2" * 32))
        assert answer.done
        assert one.wait_hardened(5.0)
        assert Path(handmade.store("west", "data")).read_bytes()[:3] == bytes(3), "not in the image"
    finally:
        one.stop()
        one.join(5.0)
        copier.fail(5)
        copier.unlink()
        volume.close()


def test_a_commit_is_answered_within_the_time_of_one_wait(handmade: Handmade) -> None:
    """A commit waits for the hardening of the one before, and then for a flush: for both together
    no longer than a request may wait inside, or a source whose link_timeout is short takes a target
    that is busy for one that is gone (docs/timeouts.md)."""
    handmade.create()
    site = Site(config.load(str(handmade.toml("west"))))
    one = site.control
    assert isinstance(one, target.Target)
    site.book.update(lineage=Lineage("1" * 32), committed=1, whole=True)
    one.session, one._pending_of = SESSION, 1

    def harden() -> None:
        with one.changed:
            one.hardened = 1
            one.changed.notify_all()

    slow = threading.Timer(0.9 * limits.CONTROL_WAIT_S, harden)
    slow.start()
    began = time.monotonic()
    answer = one.commit(protocol.Commit("1" * 32, SESSION, 2, time.time(), "2" * 32))
    took = time.monotonic() - began
    slow.join()
    site._undo.close()
    assert answer.done is False
    assert took < 1.5 * limits.CONTROL_WAIT_S


class _Late(threading.Condition):
    """A thread of this name gets the lock only once it may."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self.came, self.may = name, threading.Event(), threading.Event()

    def __enter__(self) -> bool:
        if threading.current_thread().name == self._name:
            self.came.set()
            assert self.may.wait(10)
        return super().__enter__()


def test_what_a_pause_holds_a_resume_lets_go(handmade: Handmade) -> None:
    """`pause --now` beside `resume`, and stalled between its two steps: a site whose ledger says
    that it is not paused copies."""
    handmade.create()
    site = Site(config.load(str(handmade.toml("east"))))
    one = site.control
    assert isinstance(one, Driver)
    one.changed = late = _Late("pause")
    pause = threading.Thread(name="pause", target=lambda: one.pause(now=True))
    resume = threading.Thread(name="resume", target=one.resume)
    pause.start()
    assert late.came.wait(10)
    resume.start()
    resume.join(0.5)  # with the fault it ends; without it waits for the other
    late.may.set()
    for thread in (pause, resume):
        thread.join()
    paused = site.book.current.paused
    site._undo.close()
    assert not paused and not one.halted


def test_what_the_peer_says_is_whole_is_committed(handmade: Handmade) -> None:
    """A number of the peer's that is too high must not tell a `sync` of later, nor of the next run,
    that it is done."""
    handmade.create()
    site = Site(config.load(str(handmade.toml("east"))))
    one = site.control
    assert isinstance(one, Driver)
    one._set_hardened((1 << 63) - 1)
    assert not one.wait_whole(one.request_point(), 0.0)
    welcome = protocol.Welcome("west", "2" * 32, 0, 7, True, False, False, 0.0, False)
    one._set_connected(welcome)
    site._undo.close()
    assert one.hardened == 0


@contextmanager
def lost_link(handmade: Handmade) -> Iterator[tuple[Driver, native.Store]]:
    """A source with a cycle that has lost its link; and what its target's intermediate is."""
    handmade.create()
    site = Site(config.load(str(handmade.toml("east"))))
    one, copier = site.control, site.copier
    assert isinstance(one, Driver)
    path = handmade.folder / "second.img"
    path.write_bytes(bytes(SIZE))
    second = native.Store.file(os.open(path, os.O_RDWR), SIZE)
    copier.link([second])
    copier.part(errno.ETIMEDOUT)
    one._session.open = lambda *_: protocol.Welcome(  # type: ignore[method-assign]
        "west", "2" * 32, 0, 0, False, False, False, 0.0, True
    )
    try:
        yield one, second
    finally:
        copier.unlink()
        second.close()
        site._undo.close()


def test_a_stop_that_comes_while_lanes_are_opened_is_not_forgotten(handmade: Handmade) -> None:
    """A cycle that goes on in another session gets lanes to the target again: of a site that was
    told to stop meanwhile no write may wait for it."""
    with lost_link(handmade) as (one, second):

        def connect() -> None:
            one.stop()  # between two connections
            one._copier.link([second])

        one._session.connect = connect  # type: ignore[method-assign]
        with pytest.raises(flashcopy.CopyError) as failed:
            one._resume(1)
        assert failed.value.code == errno.ESHUTDOWN
        assert one._copier.stats()["disk"].second_lost, "no write waits for it"


@pytest.mark.parametrize("step", ["open", "connect"])
def test_a_stop_is_no_trouble_with_the_peer(handmade: Handmade, step: str) -> None:
    """It comes while a cycle that has lost its link is being connected again: neither log nor
    status says of a site that a person has stopped that it resumes by itself."""
    with lost_link(handmade) as (one, _):

        def cut_off(*_: object) -> None:
            one.stop()
            raise PeerError("what is under way is cut off", errno.ESHUTDOWN)

        setattr(one._session, step, cut_off)
        before = one.reason
        assert one._resume(1) == cycle.Result(done=False)
        assert one.reason == before
