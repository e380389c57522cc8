"""Looks at both sites again and again: nothing may hang, and `status` may not say that all is
well while nothing goes on.

A source lies if it says `mirroring` for longer than `patience_s` while it has something to send
and neither its last commit, nor what is whole at the target, nor the copied bytes move.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from chaoslib.record import ChaosFailure, Record
from chaoslib.sites import CommandFailed, Site
from chaoslib.writers import Clients

LOOK_S = 1.0
STATUS_EVERY = 3  # looks: the command costs a process


class Watch(threading.Thread):
    def __init__(
        self, sites: list[Site], clients: Clients, record: Record, patience_s: float
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._sites, self._clients, self._record = sites, clients, record
        self._patience_s = patience_s
        self._since: dict[str, tuple[object, float]] = {}
        self._states: dict[str, str] = {}
        self._end = threading.Event()

    def run(self) -> None:
        looks = 0
        while not self._end.wait(LOOK_S):
            self._clients.look()
            looks += 1
            if looks % STATUS_EVERY == 0:
                self._look_at(self._sites[looks // STATUS_EVERY % len(self._sites)])

    def end(self) -> None:
        self._end.set()
        self.join()

    def _look_at(self, site: Site) -> None:
        pid = site.pid
        if not pid or site.frozen:
            self._since.pop(site.name, None)
            return
        try:
            status = site.status()
        except CommandFailed:
            return  # it was killed, stopped or frozen just now; else its clients will tell
        except ChaosFailure as error:
            if site.pid == pid and not site.frozen:
                self._record.fail(str(error))
            return
        if site.pid == pid and not site.frozen and status.get("pid") == pid:
            self._note(site.name, status)

    def _note(self, name: str, status: dict[str, Any]) -> None:
        now = time.monotonic()
        said = f"{status['role']} {status['state']}: {status['reason']}"
        if self._states.get(name) != said:
            self._states[name] = said
            self._record.say(f"{name} says: {said}")
        left = sum(v["next_bytes"] + v["pending_bytes"] for v in status["volumes"])
        moving = (
            status["committed"]["sequence"],
            status["hardened_sequence"],
            status["pid"],
            status["cycle"]["sequence"],
            status["cycle"]["copied_bytes"],
        )
        if status["role"] != "source" or status["state"] != "mirroring" or not left:
            self._since.pop(name, None)
        elif self._since.get(name, (None, 0.0))[0] != moving:
            self._since[name] = (moving, now)
        elif now - self._since[name][1] > self._patience_s:
            self._record.fail(
                f"{name}: status says `mirroring` without a reason, and for "
                f"{now - self._since[name][1]:.1f} s nothing has moved: {status}"
            )
