"""A target whose data stands behind an NBD server that dies: linked anew when it is back, and the
image is claimed only while no answered write can have been lost with it (I9)."""

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
    log = (served.pair.folder / "west/state/site.log").read_text()
    assert "image is lost" not in log


def test_a_server_that_dies_with_unflushed_writes_costs_the_image(served: Served) -> None:
    """What it had answered and not flushed may be gone, and its old bytes may be overwritten in
    the intermediate: when it is back the target claims no image until everything was sent."""
    served.begin("delay", parameters=("wdelay=60ms",))
    served.write(b"new")
    direct.ask(served.pair, {"op": "sync"})
    direct.wait_for(
        lambda: served.west()["cycle"]["copied_bytes"] >= 8 * BLOCK,
        "the second flashcopy is under way",
    )
    direct.ask(served.pair, {"op": "pause", "now": False})
    served.server.stop()
    direct.wait_for(lambda: blamed(served), "a reason that names the store")
    served.server.start()
    found = direct.wait_status(served.pair, "west", state="initial")
    assert found["committed"]["sequence"] is None
    direct.resume(served.pair)
    direct.sync(served.pair)
    assert served.west()["state"] == "mirroring"
    assert served.is_equal()
