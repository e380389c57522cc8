"""A refusal that comes in the middle of a cycle is told as every other one, and as long as it
stands."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import Any

import direct
import pytest
from handmade import Handmade
from pair import MakePair
from test_link import kill, poll_readable
from test_went_back import BLOCK, BLOCKS, images, state_of, write

from mirror_core.errors import Refused


@pytest.mark.soak
def test_a_target_that_is_refused_in_a_cycle_leaves_an_exposure(make_pair: MakePair) -> None:
    """The cycle (here an empty one, which `sync` has asked for) has lost its link, and the target
    that comes back was put back by one commit: from the refusal on something is exposed."""
    pair = make_pair("--size", str(BLOCKS * BLOCK))
    pair.start()
    write(pair, b"first")
    aside = pair.folder / "west-before"
    kill(pair, "west")
    shutil.copytree(state_of(pair, "west"), aside / "state")
    for image in images(pair, "west"):
        shutil.copy(image, aside / image.name)
    pair.start("west")
    write(pair, b"later")
    for _ in range(8):  # the idle control may be asking just now: then it is no cycle that fails
        direct.sync(pair)
        pid = direct.status(pair, "west")["pid"]
        handle = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)
        direct.ask(pair, {"op": "sync"})
        direct.wait_status(pair, state="degraded")
        in_cycle = direct.status(pair)["cycle"]["phase"] != "idle"
        os.kill(pid, signal.SIGKILL)
        poll_readable(handle)
        os.close(handle)
        if in_cycle:
            break
        pair.start("west")
    assert in_cycle
    shutil.rmtree(state_of(pair, "west"))
    shutil.copytree(aside / "state", state_of(pair, "west"))
    for image in images(pair, "west"):
        image.write_bytes((aside / image.name).read_bytes())
    until = time.monotonic() + 12
    direct.wait_for(lambda: time.monotonic() > until, "pauses between two tries that are long")
    pair.start("west")
    seen: dict[str, Any] = {}

    def told() -> bool:
        seen.update(direct.status(pair))
        return "went back" in str(seen["reason"])

    direct.wait_for(told, "the refusal")
    assert seen["data_exposure_seconds"] > 0, "it holds one commit less than was told"
    assert seen["state"] == "refused"


def test_a_refusal_is_told_as_long_as_its_source_asks(handmade: Handmade) -> None:
    """A source of another history that is gone does not leave its target refusing for ever."""
    handmade.more = 'link_timeout = "500ms"'
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    direct.stop(handmade, "east")
    direct.wait_status_of_peer(handmade, "west", "disconnected")
    stranger = {**direct.hello(handmade, 77), "name": "north", "lineage": "f" * 32}
    with pytest.raises(Refused, match="mirrors another history"):
        direct.ask(handmade, stranger, "west")
    found = direct.status(handmade, "west")
    assert found["state"] == "refused" and "another history" in found["reason"], found
    found = direct.wait_status(handmade, "west", state="degraded")
    assert found["reason"] == "no word from the source"


def test_a_target_that_is_being_promoted_is_not_refused(handmade: Handmade) -> None:
    """Whatever a wrong source was told shortly before."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    direct.stop(handmade, "east")
    direct.wait_status_of_peer(handmade, "west", "disconnected")
    stranger = {**direct.hello(handmade, 77), "name": "north", "lineage": "f" * 32}
    with pytest.raises(Refused, match="mirrors another history"):
        direct.ask(handmade, stranger, "west")
    assert direct.status(handmade, "west")["state"] == "refused"
    direct.ask(handmade, {"op": "promote", "force": True, "wait": 0.0}, "west")
    found = direct.status(handmade, "west")
    assert (found["state"], found["reason"]) == ("degraded", "is being promoted")
