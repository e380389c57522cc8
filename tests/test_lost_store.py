"""A target whose data stands behind an NBD server that dies: linked anew when it is back, and what
it had answered and not flushed is copied again (I9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import direct
import pytest
from pair import MakePair, Pair
from served import Server, create_anew, serve_data

BLOCK = 4096
BLOCKS = 100  # written with gaps, so that each is a run of its own


class Served:
    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.server: Server = serve_data(pair, "west")
        self.before = b""  # what the server's disk held before the test's own writes

    def begin(self, *filters: str, parameters: tuple[str, ...] = ()) -> None:
        """A pair that is in sync, its target's data behind a server with these filters."""
        self.server.start()
        create_anew(self.pair, "west", "target")
        self.pair.start()
        self.write(b"old")
        direct.sync(self.pair)
        direct.stop(self.pair, "west")
        self.server.stop()
        self.server.start(*filters, threads=4, parameters=parameters)
        self.pair.start("west")
        direct.sync(self.pair)
        self.before = self.server.image.read_bytes()

    def write(self, what: bytes) -> None:
        with self.pair.client() as client:
            for i in range(BLOCKS):
                client.write(2 * i * BLOCK, what.ljust(BLOCK, b"."))

    def is_equal(self) -> bool:
        return self.pair.image("east").read_bytes() == self.pair.image("west").read_bytes()

    def west(self) -> dict[str, Any]:
        return direct.status(self.pair, "west")


@pytest.fixture
def served(make_pair: MakePair) -> Iterator[Served]:
    served = Served(make_pair("--size", "4M"))
    try:
        yield served
    finally:
        served.pair.kill()
        served.server.stop()


def blamed(served: Served) -> bool:
    found = served.west()
    return found["state"] == "degraded" and served.server.uri in str(found["reason"])


def test_a_server_that_dies_between_cycles_costs_a_pause(served: Served) -> None:
    """Nothing was written to it since its last flush: the committed image stays claimed, the
    second flashcopy says which store it misses and goes on by itself when the server is back."""
    served.begin()
    before = served.west()["hardened_sequence"]
    served.server.stop()
    served.write(b"new")
    direct.ask(served.pair, {"op": "sync"})
    direct.wait_for(lambda: blamed(served), "a reason that names the store")
    found = served.west()
    assert found["hardened_sequence"] == before
    assert found["committed"]["sequence"] > before
    served.server.start()
    direct.sync(served.pair)
    assert served.west()["reason"] is None
    assert served.is_equal()


def test_a_server_that_dies_with_unflushed_writes_costs_nothing(served: Served) -> None:
    """What it had answered and not flushed may be gone: it is copied again from the
    intermediate, where it was not overwritten, and the image is claimed all the time."""
    served.begin("delay", parameters=("wdelay=60ms",))
    served.write(b"new")
    direct.ask(served.pair, {"op": "sync"})
    direct.wait_for(
        lambda: served.west()["cycle"]["copied_bytes"] >= 8 * BLOCK,
        "the second flashcopy is under way",
    )
    committed = served.west()["committed"]
    direct.ask(served.pair, {"op": "pause", "now": False})
    served.server.stop()
    served.server.image.write_bytes(served.before)  # as after its power was lost
    direct.wait_for(lambda: blamed(served), "a reason that names the store")
    served.server.start()
    found = direct.wait_status(served.pair, "west", hardened_sequence=committed["sequence"])
    assert found["committed"] == committed
    assert served.is_equal()
