"""What is equal to a seed is owed by nobody, also after the target was started again."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import Handmade
from nbd_client import NbdClient
from test_link import kill
from test_seed import until_done

from mirror_core import config, protocol


@pytest.mark.parametrize("how", ["stopped", "killed", "stopped, then killed"])
@pytest.mark.timeout(120)
def test_what_is_equal_to_a_seed_is_not_owed_after_a_restart(handmade: Handmade, how: str) -> None:
    """A cycle that was given up had written a block into the intermediate.  The next one finds the
    seed's equal, and has all that it holds made stable; then the target is started again.  The
    cycle goes on and is committed: it is not begun anew, with a comparison of everything."""
    handmade.create()
    data = random.Random(4).randbytes(handmade.size)
    Path(handmade.store("west", "data")).write_bytes(data)
    handmade.run("seed", str(handmade.toml("west")))
    handmade.start("west")
    west = config.load(str(handmade.toml("west")))
    lineage = direct.hello(handmade, 5)["lineage"]

    def write(session: int, block: int, what: bytes) -> None:
        with NbdClient(west.device_uri(f"disk/intermediate/{session}")) as client:
            client.write(block * 4096, what)

    def hello(session: int, sequence: int, token: str, **more: Any) -> dict[str, Any]:
        mine = {**direct.hello(handmade, session), "begun": sequence, "begun_token": token}
        return direct.ask(handmade, {**mine, **more}, "west")

    assert hello(5, 1, "a" * 32)["seeded"]
    write(5, 1, b"x" * 4096)  # of a cycle that is given up: the source was killed
    if how == "stopped, then killed":  # the ledger names what was owed at the stop
        handmade.stop("west")
        handmade.start("west")
    cycle: dict[str, Any] = {"sequence": 2, "token": "b" * 32}
    assert not hello(6, 2, "b" * 32)["resumed"]
    write(6, 0, data[:4096])
    until_done(handmade, {"op": "stable", "session": 6, "serial": 1, **cycle})
    blocks = handmade.size // 4096
    sums = [hashlib.blake2b(data[i * 4096 :][:4096], digest_size=16) for i in range(1, blocks)]
    asked = protocol.Compare(6, 2, "disk", ((1, blocks - 1),), b"".join(s.digest() for s in sums))
    equal = direct.ask(handmade, protocol.record_of(asked), "west")["equal"]
    assert equal == "1" * (blocks - 1)
    until_done(handmade, {"op": "stable", "session": 6, "serial": 2, **cycle})
    if how == "stopped":
        handmade.stop("west")
    else:
        kill(handmade, "west")
    handmade.start("west")
    assert hello(7, 2, "b" * 32, resumes=2, stable=2)["resumed"]
    until_done(
        handmade,
        {"op": "commit", "session": 7, "lineage": lineage, **cycle, "consistency_point": 1.0},
    )
    direct.wait_for(
        lambda: bool(direct.status(handmade, "west")["hardened_sequence"]), "the image in data"
    )
    assert Path(handmade.store("west", "data")).read_bytes() == data
