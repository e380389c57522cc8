"""A thread beside the control, which does not wait for it: it works until it is to stop.

`work` is handed `is_over`, on which it waits between two turns.  An error that it lets through ends
the thread, with a word in the log, and all else goes on.

Guard: `changed` guards the fields below its line.
"""

from __future__ import annotations

from collections.abc import Callable

from mirror_core.journal import Journal
from mirror_core.platform import Platform, Thread

IsOver = Callable[[float], bool]  # waits for so many seconds, or until the thread is to stop: True


class Beside:
    def __init__(
        self, name: str, work: Callable[[IsOver], None], journal: Journal, platform: Platform
    ) -> None:
        self._name, self._work, self._journal, self._platform = name, work, journal, platform
        self._thread: Thread | None = None
        # -- guarded by `changed`
        self.changed = platform.condition()
        self.stopping = False
        self._ended = True  # the thread

    def start(self) -> None:
        self._ended = False
        try:
            self._thread = self._platform.spawn(self._name, self._run_to_end)
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
            self._work(self._is_over)
        except Exception as error:
            self._journal.trouble(error)
        finally:
            with self.changed:
                self._ended = True
                self.changed.notify_all()

    def _is_over(self, wait_s: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.stopping, wait_s)
