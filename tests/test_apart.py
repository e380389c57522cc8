"""What a look has found too late for who had asked is the answer for whoever asks soon after."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from mirror_core import apart


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is for a look."""
    now = [time.monotonic()]
    monkeypatch.setattr(apart, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def held_look() -> tuple[threading.Event, list[threading.Thread], apart.Look[int]]:
    """One that answers how often it was begun, once it may go on; and by which threads it was."""
    goes_on, begun = threading.Event(), list[threading.Thread]()

    def work() -> int:
        begun.append(threading.current_thread())
        goes_on.wait(20)
        return len(begun)

    return goes_on, begun, apart.Look(work, wait_s=0.05)


def test_what_a_late_look_has_found_counts_for_a_while(clock: list[float]) -> None:
    """A file server that is slow for good has an answer that is late each time: who begins anew
    whenever he asks never hears any.  An hour later it is none; nor does who hears in time hear the
    same again."""
    goes_on, begun, look = held_look()
    for _ in range(2):
        with pytest.raises(OSError, match="does not answer"):
            look.ask()
    goes_on.set()
    begun[0].join()
    assert [look.ask(), look.ask()] == [1, 1]
    clock[0] += 1
    assert [look.ask(), look.ask()] == [2, 3]


def test_what_a_look_saw_long_ago_does_not_count(clock: list[float]) -> None:
    """It hung for an hour, and what it looks at has changed meanwhile."""
    goes_on, begun, look = held_look()
    with pytest.raises(OSError, match="does not answer"):
        look.ask()
    clock[0] += 3600
    goes_on.set()
    begun[0].join()
    assert look.ask() == 2


def test_a_look_that_takes_long_each_time_is_an_answer(clock: list[float]) -> None:
    """Nobody has a newer one.  But what one saw long ago, after one that had an answer in time, is
    old again."""
    goes_on, begun, look = held_look()

    def takes_an_hour() -> None:
        goes_on.clear()
        with pytest.raises(OSError, match="does not answer"):
            look.ask()
        clock[0] += 3600
        goes_on.set()
        begun[-1].join()

    takes_an_hour()
    takes_an_hour()
    assert look.ask() == 2
    clock[0] += 1
    assert look.ask() == 3, "in time"
    takes_an_hour()
    assert look.ask() == 5


def test_nobody_waits_for_a_look_that_hangs(clock: list[float]) -> None:
    """But who begins it, and who asks soon after."""
    goes_on = threading.Event()
    look = apart.Look(lambda: goes_on.wait(60), wait_s=0.5)
    try:
        with pytest.raises(OSError, match="does not answer"):
            look.ask()
        clock[0] += 1
        before = time.monotonic()
        with pytest.raises(OSError, match="does not answer"):
            look.ask()
        assert time.monotonic() - before < 0.4
    finally:
        goes_on.set()
