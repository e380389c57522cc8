"""What a target cannot read is not equal to anything: it is sent, and so written anew."""

from __future__ import annotations

import os
import random
from pathlib import Path

import direct
import pytest
from handmade import Handmade
from test_link import lose_power

BLOCK = 4096


@pytest.mark.parametrize("part", ["intermediate", "data"])
@pytest.mark.timeout(120)
def test_a_place_that_cannot_be_read_is_sent(handmade: Handmade, part: str) -> None:
    """The last block of the target's intermediate, or of a seed, is gone, as after a sector of a
    disk that went bad.  A comparison of it does not keep the mirror from its next point for ever;
    the log names the store."""
    image = random.Random(6).randbytes(handmade.size)
    handmade.create()
    for site in ("east", "west"):
        Path(handmade.store(site, "data")).write_bytes(image)
    if part == "data":
        handmade.run("seed", str(handmade.toml("west")))
        handmade.start("west")
    else:
        handmade.start()
        direct.sync(handmade)
        with handmade.client() as client:  # the region is hot
            client.write(handmade.size - BLOCK, b"x" * BLOCK)
        direct.sync(handmade)
        lose_power(handmade, "east")
    os.truncate(handmade.store("west", part), handmade.size - BLOCK)
    handmade.start("east")
    direct.sync(handmade)
    assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()
    assert os.stat(handmade.store("west", part)).st_size == handmade.size
    said = (handmade.folder / "west" / "state" / "site.log").read_text()
    assert f"cannot compare: {part} store {handmade.store('west', part)}" in said
