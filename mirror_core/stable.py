"""Has what was sent made stable at the target, beside the copying (I9).

    due     STABLE_S after the last time, or STABLE_SHARE times as long as it took
    begin   what was sent so far is put aside; the target is asked to flush it and to remember
    look    until it has: what was put aside is not sent again in another session

The copying goes on meanwhile, into a map of its own.  Left out: what becomes of what was put
aside when the session ends (`part`, `abandon`).  Belongs to the control's thread.
"""

from __future__ import annotations

from mirror_core import flashcopy, limits, protocol
from mirror_core.platform import Platform
from mirror_core.session import Session


class Stabilizer:
    def __init__(self, copier: flashcopy.Flashcopy, session: Session, platform: Platform) -> None:
        self._copier, self._session, self._platform = copier, session, platform
        self._due = float("inf")
        self._serial = 0  # of the last request
        self._asked: protocol.Stable | None = None  # the one under way
        self._began = 0.0
        self.done = 0  # the last serial that the target has answered

    @property
    def under_way(self) -> bool:
        return self._asked is not None

    def restart(self) -> None:
        """A cycle or a session begins: what an older one had asked for is nothing any more."""
        self._asked = None
        self._due = self._platform.monotonic() + limits.STABLE_S

    def begin_if_due(self, sequence: int, token: str) -> None:
        """PeerError."""
        if self._asked or self._platform.monotonic() < self._due:
            return
        self._began = self._platform.monotonic()
        self._serial += 1
        asked = protocol.Stable(self._session.number, sequence, self._serial, token)
        self._copier.harden_begin()
        self._session.send(asked)
        self._asked = asked

    def look(self, wait_s: float) -> protocol.Progress | None:
        """Take the answer, if one comes within `wait_s`: it is done, or asked for again.
        PeerError."""
        assert self._asked
        heard = self._session.hear(wait_s)
        if heard is None:
            return None
        answer = protocol.read(protocol.Progress, heard)
        if not answer.done:
            self._session.send(self._asked)
            return answer
        self._copier.harden_end()
        self._asked, self.done = None, self._serial
        now = self._platform.monotonic()
        self._due = now + max(limits.STABLE_S, limits.STABLE_SHARE * (now - self._began))
        return answer
