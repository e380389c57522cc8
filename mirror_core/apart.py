"""A process of its own for what may wait in the kernel for as long as a site is away, and cannot be
ended meanwhile.  One that does not answer in time is left alone; until it has ended, nobody begins
another one for the same."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field

from mirror_core import limits


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


def ask(*words: str) -> Answer:
    """What a process with these words prints, and the descriptors it sends over its output.
    OSError: ETIMEDOUT, it does not end; or it cannot be begun."""
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
            answer = _read(ours)
        except OSError:
            _left[words] = child
            raise
        child.wait()
        return answer


def _read(ours: socket.socket) -> Answer:
    """Until it has ended."""
    deadline = time.monotonic() + limits.DEVICE_BUSY_S
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


def _no_answer() -> OSError:
    return OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
