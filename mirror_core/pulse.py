"""A source's sign of life while its control's thread is busy with what is its own.

That thread flushes this site's stores, writes its ledger and waits until writes have drained, for
as long as these take, and asks the target for nothing meanwhile.  The target is not to take the
source for gone.  So another thread asks it what an idle look asks (driver.py), over a line of its
own, whenever the control has asked for nothing for PULSE_S.

Invariants.  Nothing depends on an answer: a link that is lost is noticed by the control.  Nobody
waits for this thread but a stop.  Without it, as after an error that nobody foresaw, all goes on.

Guard: `changed` guards the fields below its line.
"""

from __future__ import annotations

from collections.abc import Callable

from mirror_core import limits, peer, timeouts
from mirror_core.config import SiteConfig
from mirror_core.errors import MirrorError
from mirror_core.journal import Journal
from mirror_core.platform import Platform, Thread


class Pulse:
    """`heard`: the session, 0 if there is none, and when the control has asked in it last."""

    def __init__(
        self,
        config: SiteConfig,
        journal: Journal,
        platform: Platform,
        heard: Callable[[], tuple[int, float]],
    ) -> None:
        self._journal, self._platform, self._heard = journal, platform, heard
        self._patience_s = timeouts.look_s(config.link_timeout)
        self._link = peer.Link(config, platform, lambda: self.stopping)
        self._thread: Thread | None = None
        # -- guarded by `changed`
        self.changed = platform.condition()
        self.stopping = False
        self._ended = True  # the thread

    def start(self) -> None:
        self._ended = False
        try:
            self._thread = self._platform.spawn("pulse", self._run_to_end)
        except Exception:
            self._ended = True
            raise

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended."""
        with self.changed:
            if not self.changed.wait_for(lambda: self._ended, timeout_s):
                return False
        if self._thread:
            self._thread.join()
        return True

    def _run_to_end(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._journal.trouble(error)
        finally:
            with self.changed:
                self._ended = True
                self.changed.notify_all()

    def _run(self) -> None:
        wait_s = limits.PULSE_S
        while not self._is_over(wait_s):
            session, asked = self._heard()
            wait_s = asked + limits.PULSE_S - self._platform.monotonic()
            if wait_s <= 0:
                wait_s = limits.PULSE_S
                if session:
                    self._beat(session)
                else:
                    self._link.hang_up()
        self._link.hang_up()

    def _is_over(self, wait_s: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.stopping, wait_s)

    def _beat(self, session: int) -> None:
        try:
            self._link.ask({"op": "hardened", "session": session, "wait": 0.0}, self._patience_s)
        except (MirrorError, OSError, MemoryError):
            self._link.hang_up()
