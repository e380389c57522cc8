"""What a target cannot read is not equal to anything: it is sent, and so written anew; and what a
source cannot read at its stop says that anything may have changed.  A target of which a store was
made smaller has no image, whatever size that has later."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, kill, refused
from served import Server
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


@pytest.mark.parametrize("harm", ["smaller", "unreadable"])
def test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest, harm: str
) -> None:
    """Its end is cut off while it runs, or a sample of it cannot be read at the stop: the maps of
    the run that ends know nothing of what else has changed, so that nothing rests on them."""
    server, trigger = Server(scratch / "served.img"), scratch / "trigger"
    request.addfinalizer(server.stop)
    handmade.size = 4 * MIB
    data = Path(handmade.store("east", "data"))
    if harm == "unreadable":
        data = server.image
        data.touch()
        os.truncate(data, handmade.size)
        rules = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}")
        server.start("error", parameters=rules)
        handmade.stores["east", "data"] = server.uri
    handmade.create()
    handmade.start()
    with handmade.client() as client:
        client.write(0, b"x" * BLOCK)
    direct.sync(handmade)
    direct.stop(handmade, "east")
    handmade.start("east")  # nothing is hot any more
    if harm == "smaller":
        os.truncate(data, handmade.size - BLOCK)
    trigger.touch()
    direct.stop(handmade, "east")
    trigger.unlink()
    with data.open("r+b") as file:
        file.truncate(handmade.size)
        file.seek(2 * MIB + BLOCK)
        file.write(b"y" * BLOCK)
    handmade.start("east")
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == data.read_bytes()
    said = (handmade.folder / "east" / "state" / "site.log").read_text()
    assert "at stop: the next start compares everything with the target" in said
    assert "its data store was harmed: everything is compared" in said


@pytest.mark.parametrize("part", ["data", "intermediate"])
def test_a_target_whose_store_was_made_smaller_has_no_image_when_it_is_large_again(
    handmade: Handmade, part: str
) -> None:
    """Zeroes stand where the image had bytes: the next start refuses the store, a person gives the
    image up, and everything is sent."""
    handmade.create()
    handmade.start()
    with handmade.client() as client:
        client.write(0, os.urandom(handmade.size))
    direct.sync(handmade)
    direct.pause(handmade)
    store, west = handmade.store("west", part), str(handmade.toml("west"))
    os.truncate(store, handmade.size - BLOCK)
    assert f"{store}: was made smaller" in direct.status(handmade, "west")["reason"]
    direct.stop(handmade, "west")
    os.truncate(store, handmade.size)
    assert f"{store}: was made smaller than its volume" in refused("start", west)
    assert "is given up" in handmade.run("adopt", west, "disk", part, "--yes")
    handmade.start("west")
    direct.resume(handmade)
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()


@pytest.mark.parametrize("killed", [False, True], ids=["while-it-runs", "found-by-a-start"])
def test_a_source_s_store_that_is_large_again_is_not_as_it_was(
    handmade: Handmade, *, killed: bool
) -> None:
    """It was made smaller under the running site, which somebody was told, or a start found it so
    after a kill; and it has its size again by the next start, which compares everything."""
    handmade.create()
    written(handmade)
    store = handmade.store("east", "data")
    os.truncate(store, handmade.size // 4)
    if killed:
        kill(handmade, "east")
        assert "put the right store back" in refused("start", str(handmade.toml("east")))
    else:
        assert "was made smaller" in direct.status(handmade)["reason"]
    os.truncate(store, handmade.size)
    if not killed:
        assert "was made smaller" in direct.status(handmade)["reason"]
        direct.stop(handmade, "east")
    handmade.start("east")
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == Path(store).read_bytes()


@pytest.mark.parametrize("part", ["data", "intermediate"])
@pytest.mark.parametrize("killed", [False, True], ids=["while-it-runs", "found-by-a-start"])
def test_a_target_s_store_that_is_large_again_is_no_image(
    handmade: Handmade, part: str, *, killed: bool
) -> None:
    """The same; and no image is promoted that has zeroes where there were bytes."""
    handmade.create()
    written(handmade)
    store, west = handmade.store("west", part), str(handmade.toml("west"))
    direct.pause(handmade)
    os.truncate(store, handmade.size // 4)
    if killed:
        kill(handmade, "west")
        assert "put the right store back" in refused("start", west)
        os.truncate(store, handmade.size)
    else:
        assert "was made smaller" in direct.status(handmade, "west")["reason"]
        os.truncate(store, handmade.size)
        assert "was made smaller" in refused("promote", west, "--force")
        assert "the next start refuses a store" in handmade.run("stop", west)
    assert f"{store}: was made smaller than its volume" in refused("start", west)
    handmade.run("resync", "--full", west)
    handmade.start("west")
    direct.resume(handmade)
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()


@pytest.mark.parametrize("unchanged", [True, False])
def test_a_target_s_store_that_could_not_be_read_at_its_stop_is_asked_about(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest, *, unchanged: bool
) -> None:
    """Who mends a disk may leave zeroes where it could not be read.  A person says that nothing was
    changed, and the image stands; or it is given up."""
    server, trigger = Server(scratch / "served.img"), scratch / "trigger"
    request.addfinalizer(server.stop)
    server.image.touch()
    os.truncate(server.image, handmade.size)
    rules = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}")
    server.start("error", parameters=rules)
    handmade.stores["west", "data"] = server.uri
    handmade.create()
    written(handmade)
    trigger.touch()
    direct.stop(handmade, "west")
    trigger.unlink()
    west = str(handmade.toml("west"))
    assert "could not be read when the site was stopped" in refused("start", west)
    words = ("adopt", west, "disk", "data", "--yes", "--json")
    done = handmade.run(*words, *(["--unchanged"] if unchanged else []))
    assert json.loads(done)["effect"] == ("keep" if unchanged else "give up")
    handmade.start("west")
    direct.sync(handmade)
    handmade.stop()
    assert server.image.read_bytes() == handmade.image("east").read_bytes()


def test_another_store_that_is_too_small_harms_nothing(handmade: Handmade) -> None:
    """A path that was mistyped: the right store, named again, is as it was."""
    handmade.create()
    written(handmade)
    kill(handmade, "west")
    other, toml = handmade.folder / "other.img", handmade.toml("west")
    other.write_bytes(b"x" * BLOCK)
    right = toml.read_text()
    toml.write_text(right.replace(handmade.store("west", "data"), str(other)))
    assert "put the right store back" in refused("start", str(toml))
    toml.write_text(right)
    handmade.start("west")
    assert direct.status(handmade, "west")["committed"]["sequence"]


def written(handmade: Handmade) -> None:
    """Both hold what a client has written, and nothing of it is hot at the source."""
    handmade.start()
    with handmade.client() as client:
        client.write(0, os.urandom(handmade.size))
    direct.sync(handmade)
    direct.stop(handmade, "east")
    handmade.start("east")
    direct.sync(handmade)
