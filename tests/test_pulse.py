"""A source that is busy with its own stores is not taken for one that is gone."""

from __future__ import annotations

import time
from pathlib import Path

import direct
from handmade import Handmade, eventually, state_of
from served import Faulty

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
