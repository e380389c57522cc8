"""What an intermediate's server shows and has lost stays in doubt over changes of role, of history.

Each test ends alike: the source loses its power and compares what was hot; then that server ends.
Its disk holds what the commit says, also where a block was found equal (I9).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import direct
import durable
import pytest
from handmade import Handmade, eventually, kill
from nbd_client import NbdClient
from served import Faulty
from test_link import lose_power
from test_lost_flush import BLOCK, SIZE, Lab, wrong_blocks


@pytest.fixture
def lab(scratch: Path, handmade: Handmade, site: str) -> Iterator[Lab]:
    handmade.size = SIZE
    server = Faulty(scratch / "faulty.img")
    yield Lab(handmade, server, site, "intermediate")
    handmade.kill()
    server.stop()


def device_of_west(pair: Handmade) -> NbdClient:
    return NbdClient(f"nbd+unix:///disk?socket={pair.folder}/west.sock")


def lacks_after_a_comparison(lab: Lab, source: str, target: str) -> list[int]:
    """Of the target's intermediate, when its server has ended."""
    pair = lab.pair
    direct.stop(pair, target)
    client = pair.client() if source == "east" else device_of_west(pair)
    with client:
        client.write(BLOCK, b"x" * BLOCK)  # the region is hot
    lose_power(pair, source)
    pair.start()
    pair.run("sync", str(pair.toml(source)))
    lab.server.stop()
    return wrong_blocks(lab.server.image.read_bytes(), lab.image(source))


def write_what_was_lost(lab: Lab, held: bytes) -> None:
    """To the west, whose turn it is to be the source: no comparison is to find anything else."""
    with device_of_west(lab.pair) as client:
        client.write(0, held)
        client.flush()


@pytest.mark.parametrize("site", ["west"])
def test_a_promotion_forgets_no_doubt(lab: Lab) -> None:
    """The target has met the loss, is promoted, and becomes a target again, with a seed."""
    pair, west = lab.pair, str(lab.pair.toml("west"))
    lab.begin(loses="lose-later", mend=False)
    held = lab.image("east")
    pair.run("promote", west, "--force")
    write_what_was_lost(lab, held)
    direct.stop(pair, "west")
    direct.stop(pair, "east")
    lab.server.mend()
    pair.run("resync", "--full", "--force", west)
    pair.run("seed", west)
    pair.start()
    lab.check()
    lost = lacks_after_a_comparison(lab, "east", "west")
    assert [at for at in lost if at // BLOCK % 3 == 0] == []


@pytest.mark.parametrize("site", ["west"])
@pytest.mark.parametrize("end", [direct.stop, kill])
def test_a_loss_in_a_first_cycle_may_be_of_what_was_there_before(
    lab: Lab, end: Callable[..., None]
) -> None:
    """A seeded target ends while it is compared, and the flush of that end, or of the next start,
    is the first one of what another role had written to its intermediate, and fails.  Nothing is
    sent: after a failed flush that comes later, as that of the commit, everything would be."""
    pair = lab.pair
    data = random.Random(9).randbytes(SIZE)
    seed = Faulty(pair.image("west"))
    pair.stores["west", "intermediate"] = lab.server.store(SIZE)
    pair.stores["west", "data"] = seed.store(SIZE)
    (pair.folder / "east").mkdir(exist_ok=True)
    for site in ("east", "west"):
        pair.image(site).write_bytes(data)
    try:
        pair.create()
        with NbdClient(lab.server.uri) as client:
            client.write(0, data)
        pair.run("seed", str(pair.toml("west")))
        pair.start("west")
        seed.fail("ESHUTDOWN", "pread")  # each session compares once more
        pair.start("east")
        eventually(lambda: "cannot compare" in pair.log("west"), "the comparison")
        lab.server.fail("lose-later", "flush")
        end(pair, "west")
        pair.start("west")
        lab.server.mend()
        seed.mend()
        lab.check()
        assert lacks_after_a_comparison(lab, "east", "west") == []
    finally:
        pair.kill()
        seed.stop()


@pytest.mark.soak
@pytest.mark.parametrize("site", ["east"])
def test_a_run_in_order_after_a_kill_forgets_no_doubt(lab: Lab) -> None:
    """A source that was killed does not know what its first intermediate has lost; it runs and
    stops in order, and becomes a target, with a seed."""
    pair, east = lab.pair, str(lab.pair.toml("east"))
    lab.begin(loses="lose-later", mend=False)
    held = lab.image("east")
    direct.stop(pair, "west")
    kill(pair, "east")
    lab.server.mend()
    pair.start("east")
    direct.stop(pair, "east")
    pair.start("west")
    pair.run("promote", str(pair.toml("west")), "--force")
    write_what_was_lost(lab, held)
    pair.run("resync", "--full", "--force", east)
    pair.run("seed", east)
    pair.start("east")
    pair.run("sync", str(pair.toml("west")))
    lost = lacks_after_a_comparison(lab, "west", "east")
    assert [at for at in lost if at // BLOCK % 3 == 0] == []


@pytest.mark.parametrize("site", ["west"])
def test_a_server_that_was_adopted_is_in_doubt(lab: Lab) -> None:
    """What it has lost while somebody else used it nobody here has met."""
    pair = lab.pair
    pair.stores["west", "intermediate"] = lab.server.store(SIZE)
    pair.create()
    assert not durable.load_book(pair).doubtful_before
    pair.run("adopt", str(pair.toml("west")), "disk", "intermediate", "--yes")
    assert durable.load_book(pair).doubtful_before
