"""A source that is busy with its own stores is not taken for one that is gone."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import direct
import pytest
from handmade import Handmade, eventually, state_of
from served import Faulty

from mirror_core import ledger, limits, peer, protocol, pulse
from mirror_core.journal import Journal
from mirror_core.platform import Platform

MIB = 1 << 20
LINK_TIMEOUT_S = 0.5
HANGS_S = 4.0  # within what a flush of 8 MiB may take (docs/timeouts.md)


def test_a_source_is_heard_while_its_own_store_flushes(scratch: Path, handmade: Handmade) -> None:
    """For several times as long as a source may be silent its cycle waits for its own store: the
    target knows that it is there."""
    server = Faulty(scratch / "faulty.img")
    handmade.size, handmade.more = 16 * MIB, f'link_timeout = "{LINK_TIMEOUT_S}s"'
    handmade.stores["east", "data"] = server.store(handmade.size)
    try:
        handmade.create()
        handmade.start("east")
        handmade.start("west")
        direct.sync(handmade)
        direct.pause(handmade)
        with handmade.client() as client:
            for at in range(0, 8 * MIB, MIB):
                client.write(at, b"x" * MIB)
        tried = server.tried("flush")
        server.fail("hang", "flush")
        direct.resume(handmade)
        eventually(lambda: server.tried("flush") > tried, "the flush of the cycle")
        ends = time.monotonic() + HANGS_S
        while time.monotonic() < ends:
            assert state_of(handmade, "west")["peer"]["state"] == "connected"
            time.sleep(0.02)
        assert state_of(handmade)["cycle"]["phase"] == "flush"
        server.mend()
        direct.sync(handmade)
    finally:
        handmade.kill()
        server.stop()


# Until when there is which session, and whether the control asks meanwhile.
STORY = (
    (102.75, 0, False),  # it has knocked at 102.35, and looked since
    (106.0, 7, False),  # from its beginning on it waits for its own store
    (120.0, 7, True),
    (123.0, 7, False),
    (130.0, 8, True),
    (133.0, 8, False),
    (136.0, 0, False),
)


class World(Platform):
    """The clock of a pulse, its control, and its line."""

    def __init__(self) -> None:
        self.now = 100.0
        self.line: int | None = None  # the session that was asked in on it last
        self.signs: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def heard(self) -> tuple[int, float]:
        begins = 100.0
        for ends, session, asks in STORY:
            if self.now < ends:
                return session, self.now if asks else begins
            begins = ends
        return 0, begins

    def ask(self, sign: protocol.Look, _patience_s: float) -> None:
        self.line = sign.session
        self.signs.append(self.now)

    def hang_up(self) -> None:
        self.line = None

    def is_over(self, wait_s: float) -> bool:
        """A line that is of no session, or of another one, is put out some time (door.py)."""
        assert self.line in (None, self.heard()[0])
        self.now += wait_s + 0.001
        return self.now > STORY[-1][0]


def test_the_line_of_a_pulse_is_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target puts out no line of a source that is well, and tells of no client that does
    nothing; and the source is heard in time when its control falls silent, on a line that is not
    dead."""
    world = World()
    monkeypatch.setattr(peer, "Link", lambda *_: world)
    mine = SimpleNamespace(name="east", lineage=ledger.Lineage("5" * 32), paused=False)
    of_site: Any = SimpleNamespace(link_timeout=LINK_TIMEOUT_S)
    book: Any = SimpleNamespace(current=mine)
    pulse.Pulse(of_site, book, Journal(), world, world.heard)._run(world.is_over)
    assert world.line is None
    begins = 100.0
    for ends, session, asks in STORY:
        signs = [sign for sign in world.signs if begins < sign < ends]
        if asks:
            assert not signs
        else:
            gap_s = limits.PULSE_S if session else limits.KNOCK_S
            times = [begins, *signs, ends]
            gaps = [b - a for a, b in itertools.pairwise(times)]
            assert max(gaps) < gap_s + 0.1, (session, gaps)
        begins = ends
