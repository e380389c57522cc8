"""A source store that is slow: how long writes are held for a consistency point that is missed, and
what the site says of itself meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import direct
import pytest
from handmade import Handmade, eventually, scrape, state_of, until_state, value
from served import Faulty

SIZE = 1 << 20
BLOCK = 4096
FREEZE_MAX_S = 1.0
LOOK_S = 0.02


@pytest.fixture
def faulty(scratch: Path) -> Iterator[Faulty]:
    server = Faulty(scratch / "faulty.img")
    yield server
    server.stop()


def mirror(pair: Handmade, part: str, server: Faulty) -> None:
    """A pair that has committed; the source's part is behind the server."""
    pair.stores["east", part] = server.store(SIZE)
    pair.create()
    pair.start("east")
    pair.start("west")
    until_state(pair, "mirroring")
    direct.sync(pair)


@contextmanager
def hung_write(pair: Handmade, server: Faulty) -> Iterator[None]:
    """A client's write of block 0 hangs in the source's data store; others do not."""
    tried = server.tried("pwrite")
    server.fail("hang", "pwrite")
    with pair.client() as client:
        writer = threading.Thread(target=client.write, args=(0, b"x" * BLOCK))
        writer.start()
        try:
            eventually(lambda: server.tried("pwrite") > tried, "the write is in the store")
            server.hold("pwrite")
            yield
        finally:
            server.mend()
            writer.join()


class Writer(threading.Thread):
    """Writes one block again and again; what its writes waited."""

    def __init__(self, pair: Handmade, block: int) -> None:
        super().__init__()
        self._pair, self._block = pair, block
        self.end = threading.Event()
        self.waits_s: list[float] = []

    def run(self) -> None:
        with self._pair.client() as client:
            while not self.end.wait(0.005):
                began = time.monotonic()
                client.write(BLOCK * self._block, b"y" * BLOCK)
                self.waits_s.append(time.monotonic() - began)


def test_a_slow_write_holds_up_others_for_one_freeze_at_a_time(
    handmade: Handmade, faulty: Faulty
) -> None:
    """While one write hangs, others are held for each freeze that is missed, by freeze_max at most,
    and go on between two for as long; the figure of how long writes were held counts these."""
    handmade.more = 'link_timeout = "20s"'
    mirror(handmade, "data", faulty)
    writers = [Writer(handmade, block) for block in range(1, 25)]
    with hung_write(handmade, faulty):
        for writer in writers:
            writer.start()
        eventually(
            lambda: value(scrape(handmade), 'cycles_total{result="missed"}') >= 2,
            "the longest hold, twice",
            30.0,
        )
        for writer in writers:
            writer.end.set()
        for writer in writers:
            writer.join()
        figures = scrape(handmade)
    longest = max(max(writer.waits_s) for writer in writers)
    assert longest < 1.9 * FREEZE_MAX_S, f"a write waited {longest:.2f} s"
    assert longest > FREEZE_MAX_S / 2, "no freeze has held a write"
    missed = value(figures, 'cycles_total{result="freeze_missed"}')
    assert missed >= 6  # from 50 ms to 1 s, and again
    held = value(figures, "cycle_freeze_seconds_sum")
    assert held > 0.05 * (1 + 2 + 4 + 8 + 16) + 2 * FREEZE_MAX_S, f"{missed} freezes held {held} s"


def test_a_missed_point_is_said_until_one_is_made(handmade: Handmade, faulty: Faulty) -> None:
    """Whatever the idle looks at the peer find, and no cycle is told of that has not begun; and it
    is tried again soon, however long the interval between two points is."""
    handmade.more = 'link_timeout = "20s"\ninterval = "10m"'
    mirror(handmade, "data", faulty)
    direct.pause(handmade)
    direct.stop(handmade, "east")
    handmade.start("east")  # so that the interval is over
    with hung_write(handmade, faulty):
        direct.resume(handmade)
        eventually(lambda: "drain" in (state_of(handmade)["reason"] or ""), "it is said")
        seen, ends = state_of(handmade), time.monotonic() + 3.0
        while time.monotonic() < ends:
            seen = state_of(handmade)
            assert seen["state"] == "degraded" and "drain" in seen["reason"], seen
            assert seen["cycle"]["sequence"] == 0, "no cycle since the start"
            time.sleep(LOOK_S)
    before = seen["committed"]["sequence"]
    eventually(lambda: state_of(handmade)["committed"]["sequence"] > before, "a point is made")
    until_state(handmade, "mirroring")


def test_an_own_store_that_is_silent_is_not_taken_for_the_link(
    handmade: Handmade, faulty: Faulty
) -> None:
    """A cycle that fails for it is tried again with back-off: until one is committed the site says
    so, and never that it mirrors."""
    handmade.more = 'link_timeout = "300ms"'
    mirror(handmade, "intermediate", faulty)
    faulty.fail("hang", "flush")
    with handmade.client() as client:
        client.write(0, b"x" * BLOCK)
    seen: dict[str, object] = {}

    def abandoned() -> float:
        return value(scrape(handmade), 'cycles_total{result="abandoned"}')

    eventually(abandoned, "the first cycle fails")
    until_state(handmade, "degraded")
    while abandoned() < 4:
        seen = state_of(handmade)
        assert seen["state"] == "degraded" and "intermediate store" in str(seen["reason"]), seen
        time.sleep(LOOK_S)
    faulty.mend()
    until_state(handmade, "mirroring")
    direct.sync(handmade)


def test_a_target_that_answers_with_an_error_is_not_taken_for_a_lost_link(
    handmade: Handmade,
) -> None:
    """Whatever the error is called: its state folder is not there, and each commit fails.  No
    session in between says that all is well, be it for a moment, which only the log shows."""
    handmade.create()
    handmade.start("east")
    handmade.start("west")
    direct.sync(handmade)
    state = handmade.folder / "west" / "state"
    well = handmade.log("east").count("mirroring to")
    state.rename(state.with_name("aside"))
    with handmade.client() as client:
        client.write(0, b"x" * BLOCK)
    eventually(lambda: state_of(handmade)["state"] == "degraded", "it is said")
    ends = set()  # of sessions

    def tried_again() -> bool:
        seen = state_of(handmade)
        assert seen["state"] == "degraded" and "ledger" in seen["reason"], seen
        assert "start it" not in seen["reason"], "it runs"
        if seen["peer"]["state"] == "disconnected":
            ends.add(seen["peer"]["since"])
        return len(ends) > 2

    eventually(tried_again, "two more sessions")
    assert handmade.log("east").count("mirroring to") == well
    state.with_name("aside").rename(state)
    until_state(handmade, "mirroring")
    direct.sync(handmade)
