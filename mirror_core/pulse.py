"""A source's sign of life while its control's thread is busy with what is its own.

That thread flushes this site's stores, writes its ledger and waits until writes have drained, for
as long as these take, and asks the target for nothing meanwhile.  The target is not to take the
source for gone.  So another thread asks it what an idle look asks (driver.py), over a line of its
own, whenever the control has asked for nothing for PULSE_S.  Without a session, as while a start
flushes what the process before had written, or after a refusal, it says who is there: a target is
not to be promoted beside a source that lives, unless a person says so.

Invariants.  Nothing depends on an answer: a link that is lost is noticed by the control.  Nobody
waits for this thread but a stop.  Without it, as after an error that nobody foresaw, all goes on.
It touches neither stores nor the state folder, which may hang.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mirror_core import beside, limits, peer, protocol, timeouts
from mirror_core.book import Book
from mirror_core.config import SiteConfig
from mirror_core.errors import Answered, MirrorError, Refused
from mirror_core.journal import Journal
from mirror_core.platform import Platform


class Pulse(beside.Beside):
    """`heard`: the session, 0 if there is none, and when the control has asked in it last."""

    def __init__(
        self,
        config: SiteConfig,
        book: Book,
        journal: Journal,
        platform: Platform,
        heard: Callable[[], tuple[int, float]],
    ) -> None:
        super().__init__("pulse", self._run, journal, platform)
        self._book, self._heard = book, heard
        self._patience_s = timeouts.look_s(config.link_timeout)
        self._link = peer.Link(config, platform, lambda: self.stopping)
        # The target did, when it was asked last; None: not yet.  Others look, and forget it.
        self.answers: bool | None = None

    def _run(self, is_over: beside.IsOver) -> None:
        of, beaten, wait_s = 0, 0.0, limits.PULSE_S
        while not is_over(wait_s):
            session, asked = self._heard()
            if session != of:  # a line of no session, or of another, is put out there (door.py)
                self._link.hang_up()
                of = session
            pause_s = limits.PULSE_S if session else limits.KNOCK_S
            due = max(asked + limits.PULSE_S, beaten + pause_s)
            wait_s = min(due - self._platform.monotonic(), limits.PULSE_S)
            if wait_s <= 0:
                self._beat(session)
                beaten, wait_s = self._platform.monotonic(), limits.PULSE_S
        self._link.hang_up()

    def _beat(self, session: int) -> None:
        mine = self._book.current
        sign = protocol.Look(session, 0.0, mine.paused)
        if not session and mine.lineage:
            sign = replace(sign, name=mine.name, lineage=mine.lineage.id)
        try:
            self._link.ask(sign, self._patience_s)
            self.answers = True
        except (Answered, Refused):
            self.answers = True  # the session is over, as who does not know this sign says too
        except (MirrorError, OSError, MemoryError):
            self.answers = False
            self._link.hang_up()
