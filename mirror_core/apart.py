"""A process of its own, or a thread of a site's, for what may wait in the kernel for as long as
somebody else is away, and cannot be ended meanwhile.  One that does not answer in time is left
alone; until it has ended, nobody begins another one for the same.  What a thread has found too late
for who had asked is the answer for whoever asks soon after: what it looks at may be slow for good.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mirror_core import limits

T = TypeVar("T")
_OLD = 10  # bounds of a look: what it has seen first, if it took longer than that, is old


@dataclass
class Answer:
    said: bytes = b""
    fds: list[int] = field(default_factory=list)  # for whoever asked, to close

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


# One at most for the same words.  No guard: a command has one thread, and of a site's only one at a
# time opens stores (its start, then the control).
_left: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}


def ask(*words: str, wait_s: float = limits.DEVICE_BUSY_S) -> Answer:
    """What a process with these words prints, and the descriptors it sends over its output.
    OSError: ETIMEDOUT, it does not end in time; or it cannot be begun."""
    if words in _left:
        if _left[words].poll() is None:
            raise _no_answer()
        del _left[words]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=theirs.fileno(), stderr=subprocess.DEVNULL
        )
        theirs.close()
        try:
            answer = _read(ours, wait_s)
        except OSError:
            _left[words] = child
            raise
        child.wait()
        return answer


def _read(ours: socket.socket, wait_s: float) -> Answer:
    """Until it has ended."""
    deadline = time.monotonic() + wait_s
    answer = Answer()
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            ours.settimeout(left_s)
            said, fds, _, _ = socket.recv_fds(ours, limits.ANSWER_BYTES, 1)
            answer.fds += fds
            if not said:
                return answer
            answer.said += said
        raise TimeoutError
    except OSError as error:
        answer.close()
        raise _no_answer() if isinstance(error, TimeoutError) else error from None


@dataclass
class _Under(Generic[T]):
    """A look under way, or what it has found."""

    began: float
    answer: Future[T] = field(default_factory=Future)
    ended: float = math.inf


class Look(Generic[T]):
    """A question that a site is asked again and again, whose threads may share what it knows.  Who
    asks waits for `wait_s` at most, and for nothing that has been under way for twice as long."""

    def __init__(self, work: Callable[[], T], wait_s: float) -> None:
        self._work, self._wait_s = work, wait_s
        self._lock = threading.Lock()  # held while one asks
        self._late: _Under[T] | None = None  # has not answered in time.  Guard: `_lock`
        self._was_old = False  # what the one before had found.  Guard: `_lock`

    def ask(self) -> T:
        """What `work` returns or raises by now, or has a moment ago.  OSError: ETIMEDOUT, it does
        not answer; or there can be no thread."""
        with self._lock:
            late, now = self._late, time.monotonic()
            recent = late and (not late.answer.done() or self._counts(late, now))
            one = late if late and recent else self._begin()
            left_s = one.began + 2 * self._wait_s - time.monotonic()
            wait([one.answer], min(self._wait_s, max(0.0, left_s)))
            if not one.answer.done():
                self._late = one
                raise _no_answer()
            self._late = late if recent else None
            self._was_old = self._was_old and bool(recent)
            return one.answer.result()

    def _counts(self, late: _Under[T], now: float) -> bool:
        """What it has found: it has ended just now, and what it has seen first is not old; or that
        of the one before was, too: where a look takes so long nobody has anything newer."""
        is_old, was_old = now - late.began > _OLD * self._wait_s, self._was_old
        self._was_old = is_old
        return now - late.ended <= 2 * self._wait_s and (was_old or not is_old)

    def _begin(self) -> _Under[T]:
        """OSError."""
        one: _Under[T] = _Under(time.monotonic())
        try:
            threading.Thread(target=self._run, args=(one,), name="look", daemon=True).start()
        except (RuntimeError, MemoryError):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        return one

    def _run(self, one: _Under[T]) -> None:
        try:
            one.answer.set_result(self._work())
        except Exception as error:
            one.answer.set_exception(error)
        one.ended = time.monotonic()


def _no_answer() -> OSError:
    return OSError(errno.ETIMEDOUT, "does not answer")
