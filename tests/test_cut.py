"""A store that somebody has cut, and made large again, is not what it was: in the middle of a
cycle, behind a server, as a device, and when another one is put in its place (I1, I7)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, kill, refused
from loops import ENDS_AFTER, needs_loops, set_bound
from nbd_client import NbdClient
from served import Server
from test_unreadable import written

from mirror_core import ledger, runlog

BLOCK = 4096


def write_all(pair: Handmade, image: bytes) -> None:
    """In one cycle, which is slow."""
    direct.ask(pair, {"op": "bandwidth", "rate": 2 * MIB})
    direct.pause(pair)
    with pair.client() as client:
        for at in range(0, pair.size, MIB):
            client.write(at, image[at : at + MIB])
    direct.resume(pair)


def cut(pair: Handmade, store: str) -> None:
    """And large again, once a status has said so."""
    os.truncate(store, BLOCK)
    assert f"{store}: was made smaller" in direct.status(pair, "west")["reason"]
    os.truncate(store, pair.size)


def test_a_blank_file_does_not_take_the_place_of_a_cut_intermediate(handmade: Handmade) -> None:
    """Some of the image was in it, and may have been hardened into data as zeroes since.  What the
    cycle had written there is written again."""
    handmade.size = 8 * MIB
    handmade.create()
    written(handmade)
    image, west = random.Random(1).randbytes(handmade.size), str(handmade.toml("west"))
    write_all(handmade, image)
    store = handmade.store("west", "intermediate")
    direct.wait_for(
        lambda: direct.status(handmade)["cycle"]["copied_bytes"] >= 2 * MIB, "some of a cycle"
    )
    cut(handmade, store)
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    direct.sync(handmade)
    assert "was made smaller" in refused("promote", west, "--force")
    direct.pause(handmade)
    handmade.run("stop", west)
    assert handmade.image("west").read_bytes() == image
    Path(store).unlink()
    Path(store).touch()
    os.truncate(store, handmade.size)
    assert "gives up the image" in refused("start", west)
    words = ("adopt", west, "disk", "intermediate", "--yes", "--json")
    assert json.loads(handmade.run(*words))["effect"] == "give up"


@pytest.mark.timeout(120)
def test_what_was_stable_in_a_cut_intermediate_is_sent_again(handmade: Handmade) -> None:
    """The target was started anew in the middle of a cycle: what of that is stable only its log
    knows, until its source goes on with it."""
    handmade.size = 16 * MIB
    handmade.create()
    written(handmade)
    image = random.Random(2).randbytes(handmade.size)
    write_all(handmade, image)
    state, before = handmade.folder / "west/state", direct.status(handmade)["committed"]["sequence"]

    def is_stable() -> bool:
        logs = [one for one in state.iterdir() if one.name.startswith("written.")]
        found = [runlog.history_of(one.read_bytes()) for one in logs]
        return any(one and one.sequence > before for one in found)

    direct.wait_for(is_stable, "some of a cycle to be stable")
    direct.wait_for(
        lambda: direct.status(handmade)["cycle"]["copied_bytes"] >= 8 * MIB, "more of it"
    )
    source = int(direct.status(handmade)["pid"])
    os.kill(source, signal.SIGSTOP)
    try:
        direct.stop(handmade, "west")
        handmade.start("west")
        cut(handmade, handmade.store("west", "intermediate"))
    finally:
        os.kill(source, signal.SIGCONT)
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    direct.sync(handmade)
    handmade.run("stop", str(handmade.toml("west")))
    assert handmade.image("west").read_bytes() == image


def test_a_store_that_was_cut_behind_the_last_sample_is_not_as_it_was(handmade: Handmade) -> None:
    """Nobody has started the site in between: the bytes at its end tell."""
    handmade.create()
    written(handmade)
    direct.stop(handmade, "west")
    os.truncate(handmade.image("west"), handmade.size - 3 * BLOCK)
    os.truncate(handmade.image("west"), handmade.size)
    assert "its content changed" in refused("start", str(handmade.toml("west")))


def test_a_fingerprint_without_the_last_bytes_is_one(handmade: Handmade) -> None:
    """A version before this one has made it."""
    handmade.create()
    written(handmade)
    direct.stop(handmade, "west")
    state = handmade.folder / "west/state"
    book = ledger.load(state)
    words = {
        (one.name, part): str(getattr(one, part).fingerprint).partition(":")[0]
        for one in book.volumes
        for part in ("data", "intermediate")
    }
    ledger.save(state, replace(book, volumes=ledger.with_harmed(book.volumes, words)))
    handmade.start("west")
    direct.stop(handmade, "west")
    [record] = ledger.load(state).volumes
    assert str(record.data.fingerprint).startswith(words["disk", "data"] + ":")


def test_an_exact_copy_stands_for_a_store_that_a_start_found_cut(handmade: Handmade) -> None:
    """It is another file, which nobody has cut: its fingerprint tells."""
    handmade.create()
    written(handmade)
    direct.stop(handmade, "west")
    image, copy = handmade.image("west"), handmade.folder / "copy"
    shutil.copy(image, copy)
    os.truncate(image, BLOCK)
    assert "put the right store back" in refused("start", str(handmade.toml("west")))
    copy.rename(image)
    words = ("adopt", str(handmade.toml("west")), "disk", "data", "--yes", "--json")
    assert json.loads(handmade.run(*words))["effect"] == "keep"


def test_a_source_s_store_whose_samples_fit_is_asked_about(handmade: Handmade) -> None:
    """A supervisor starts it in the middle of a copy into that file.  The copy comes to its end.
    A person says so: all that was cut no sample tells."""
    handmade.create()
    written(handmade)
    handmade.start("east")
    direct.stop(handmade, "east")
    store = Path(handmade.store("east", "data"))
    held = store.read_bytes()
    os.truncate(store, BLOCK)
    assert "put the right store back" in refused("start", str(handmade.toml("east")))
    with store.open("r+b") as file:
        file.write(held)
    assert "the target has what stood there" in refused("start", str(handmade.toml("east")))
    words = ("adopt", str(handmade.toml("east")), "disk", "data", "--yes", "--json", "--unchanged")
    assert json.loads(handmade.run(*words))["effect"] == "compare"
    handmade.start("east")
    direct.sync(handmade)


@pytest.mark.parametrize("killed", [False, True])
def test_a_store_of_a_server_that_was_cut_is_not_as_it_was(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest, *, killed: bool
) -> None:
    """A start has found it so, through its server."""
    server = Server(scratch / "served.img")
    request.addfinalizer(server.stop)
    server.image.touch()
    os.truncate(server.image, handmade.size)
    server.start()
    handmade.stores["west", "data"] = server.uri
    handmade.create()
    written(handmade)
    if killed:
        kill(handmade, "west")
    else:
        direct.stop(handmade, "west")
    for size, said in ((BLOCK, "put the right store"), (handmade.size, "found it smaller")):
        server.stop()
        os.truncate(server.image, size)
        server.start()
        assert said in refused("start", str(handmade.toml("west")))


@needs_loops
def test_a_device_that_shrank_for_a_moment_is_what_a_person_says(handmade: Handmade) -> None:
    """A logical volume was reduced by mistake, and has its extents again, with every byte."""
    file = handmade.folder / "disk"
    file.touch()
    os.truncate(file, handmade.size)
    made = subprocess.run(["losetup", "--find", "--show", str(file)], check=True,
                          capture_output=True, text=True)  # fmt: skip
    handmade.stores["west", "data"] = device = made.stdout.strip()
    west = str(handmade.toml("west"))
    try:
        handmade.create()
        written(handmade)
        held = file.read_bytes()
        set_bound(device, ENDS_AFTER, handmade.size // 2)
        assert f"{device}: was made smaller" in direct.status(handmade, "west")["reason"]
        set_bound(device, ENDS_AFTER, 0)
        handmade.run("stop", west)
        assert "--unchanged" in refused("start", west)
        words = ("adopt", west, "disk", "data", "--yes", "--json", "--unchanged")
        assert json.loads(handmade.run(*words))["effect"] == "keep"
        handmade.start("west")
        handmade.run("promote", west, "--force")
        with NbdClient(handmade.run("uri", west).strip()) as client:
            assert client.read(0, handmade.size) == held
    finally:
        handmade.kill()
        subprocess.run(["losetup", "-d", device], check=True)
