"""What a target cannot read is not equal to anything: it is sent, and so written anew; and what a
source cannot read at its stop says that anything may have changed.  A target of which a store was
made smaller has no image, whatever size that has later."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, kill, refused
from loops import BEGINS_AT, needs_loops, set_bound
from nbd_client import NbdClient
from pair import some
from served import Faulty, Server
from test_link import lose_power

from mirror_core import ledger, stores
from mirror_core.ledger import is_harmed

BLOCK = 4096


@pytest.mark.timeout(120)
def test_a_place_that_cannot_be_read_is_sent(handmade: Handmade) -> None:
    """The last block of the target's intermediate is gone, as after a sector of a disk that went
    bad (of a seed: test_bad_sector.py).  A comparison of it does not keep the mirror from its next
    point for ever; the log names the store."""
    image = random.Random(6).randbytes(handmade.size)
    handmade.create()
    for site in ("east", "west"):
        Path(handmade.store(site, "data")).write_bytes(image)
    handmade.start()
    direct.sync(handmade)
    with handmade.client() as client:  # the region is hot
        client.write(handmade.size - BLOCK, b"x" * BLOCK)
    direct.sync(handmade)
    lose_power(handmade, "east")
    with open(handmade.store("east", "data"), "r+b") as file:  # or it is equal in data
        file.seek(handmade.size - BLOCK)
        file.write(b"y" * BLOCK)
    store = handmade.store("west", "intermediate")
    os.truncate(store, handmade.size - BLOCK)
    handmade.start("east")
    direct.sync(handmade)
    assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()
    assert os.stat(store).st_size == handmade.size
    said = (handmade.folder / "west" / "state" / "site.log").read_text()
    # If the site has looked first, or a flush has met it, nothing of that intermediate is compared.
    seen = (f"{store}: was made smaller", f"cannot flush: intermediate store {store}")
    assert any(text in said for text in (*seen, f"cannot compare: intermediate store {store}"))


@pytest.mark.parametrize("harm", ["smaller", "unreadable"])
def test_a_source_whose_store_was_harmed_compares_everything_at_its_next_start(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest, harm: str
) -> None:
    """Its end is cut off while it runs, or a sample of it cannot be read at the stop: the maps of
    the run that ends know nothing of what else has changed, so that nothing rests on them.  Of one
    that was cut a person says so."""
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
    if harm == "smaller":
        adopted_after(handmade, "the target has what stood there")
    handmade.start("east")
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == data.read_bytes()
    said = (handmade.folder / "east" / "state" / "site.log").read_text()
    if harm == "unreadable":
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


def adopted_after(pair: Handmade, said: str) -> None:
    """A person takes a source's data for what it is to be, once its start has refused it."""
    assert said in refused("start", str(pair.toml("east")))
    words = ("adopt", str(pair.toml("east")), "disk", "data", "--yes", "--json")
    assert json.loads(pair.run(*words))["effect"] == "compare"


WAYS = ("stopped", "seen", "unasked", "found", "found-after-a-stop")


def made_smaller(pair: Handmade, site: str, store: str, how: str) -> None:
    """And large again.  `stopped`: somebody saw it while the site ran, which was stopped in order;
    `seen`: was killed.  `unasked`: that site looked by itself.  `found`: a start did after a kill,
    or after an orderly stop."""
    toml = str(pair.toml(site))
    if how == "found-after-a-stop":
        direct.stop(pair, site)
    os.truncate(store, pair.size - 3 * BLOCK)
    if how in ("stopped", "seen"):
        assert "was made smaller" in direct.status(pair, site)["reason"]
        os.truncate(store, pair.size)
        assert "was made smaller" in direct.status(pair, site)["reason"]
        if how == "seen":
            kill(pair, site)
        else:
            assert "the next start refuses a store" in pair.run("stop", toml)
        return
    if how == "unasked":
        direct.wait_for(lambda: f"{store}: was made smaller" in pair.log(site), "a word in the log")
        os.truncate(store, pair.size)
        kill(pair, site)
        return
    if how == "found":
        kill(pair, site)
    assert "put the right store back" in refused("start", toml)
    os.truncate(store, pair.size)


@pytest.mark.parametrize("how", some(WAYS))
def test_a_source_s_store_that_is_large_again_is_not_as_it_was(
    handmade: Handmade, how: str
) -> None:
    """None of its zeroes is sent over what the target alone has, before a person says so.  Then
    everything is compared."""
    handmade.create()
    written(handmade)
    store = handmade.store("east", "data")
    made_smaller(handmade, "east", store, how)
    adopted_after(handmade, "the target has what stood there")
    handmade.start("east")
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == Path(store).read_bytes()


@pytest.mark.parametrize("part", ["data", "intermediate"])
@pytest.mark.parametrize("how", some(WAYS, 3))
def test_a_target_s_store_that_is_large_again_is_no_image(
    handmade: Handmade, part: str, how: str
) -> None:
    """None is promoted that has zeroes where there were bytes.  (Of an intermediate that held none
    of the image an orderly stop makes that good: test_cut.py.)"""
    if (part, how) == ("intermediate", "stopped"):
        how = "seen"
    handmade.create()
    written(handmade)
    store, west = handmade.store("west", part), str(handmade.toml("west"))
    direct.pause(handmade)
    made_smaller(handmade, "west", store, how)
    said = refused("start", west)
    assert f"{store}: was made smaller" in said or f"{store}: a start found it smaller" in said
    handmade.run("resync", "--full", west)
    handmade.start("west")
    direct.resume(handmade)
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()


@pytest.mark.parametrize("killed", some([True, False]))
def test_a_store_that_was_being_restored_is_what_a_person_says(
    handmade: Handmade, *, killed: bool
) -> None:
    """A supervisor starts the site in the middle of a copy into that file.  The copy comes to its
    end, a person says so, and the image stands."""
    handmade.create()
    written(handmade)
    handmade.stop("east")
    if killed:
        kill(handmade, "west")
    else:
        direct.stop(handmade, "west")
    store, west = Path(handmade.store("west", "data")), str(handmade.toml("west"))
    held = store.read_bytes()
    os.truncate(store, 0)
    assert "put the right store back" in refused("start", west)
    words = ("adopt", west, "disk", "data", "--yes", "--json", "--unchanged")
    with store.open("r+b") as file:
        file.write(held)
    assert "a start found it smaller" in refused("start", west)
    assert json.loads(handmade.run(*words))["effect"] == "keep"
    handmade.start("west")
    handmade.run("promote", west, "--force")
    with NbdClient(handmade.run("uri", west).strip()) as client:
        assert client.read(0, handmade.size) == held


def cut_under_a_cycle(pair: Handmade) -> str:
    """The target's intermediate, of which most of what the cycle has brought is gone: some of that
    was stable there."""
    pair.size = 8 * MIB
    pair.create()
    written(pair)
    found = direct.status(pair)["committed"]["sequence"]
    direct.wait_for(  # before that the intermediate holds some of the image
        lambda: direct.status(pair, "west")["hardened_sequence"] == found, "the image in data"
    )
    direct.ask(pair, {"op": "bandwidth", "rate": 2 * MIB})
    direct.pause(pair)  # all of the volume is one cycle: its own writes make that store large again
    with pair.client() as client:
        for at in range(0, pair.size, MIB):
            client.write(at, os.urandom(MIB))
    direct.resume(pair)
    store = pair.store("west", "intermediate")
    log = pair.folder / "west" / "state"
    before = {path: path.stat().st_size for path in log.glob("written.*")}

    def some_is_stable() -> bool:
        grown = any(path.stat().st_size > size for path, size in before.items())
        return grown and direct.status(pair)["cycle"]["copied_bytes"] >= 3 * MIB

    direct.wait_for(some_is_stable, "some of a cycle is stable")
    os.truncate(store, BLOCK)
    return store


@pytest.mark.parametrize("again", some(["and-stopped", "by-a-person", "by-the-cycle"]))
def test_a_cycle_is_sent_again_whose_store_was_cut(handmade: Handmade, again: str) -> None:
    """What it had brought is gone, also what was stable.  It is not committed before all of it is
    there again: whether the cycle's own writes make the store large again, or a person does after
    somebody saw it; or after one of them, and the target is stopped then."""
    store = cut_under_a_cycle(handmade)
    if again == "by-a-person":
        assert "was made smaller" in direct.status(handmade, "west")["reason"]
        os.truncate(store, handmade.size)
    if again == "and-stopped":
        direct.wait_for(lambda: os.stat(store).st_size > BLOCK, "a write of the cycle")
        os.truncate(store, handmade.size)
        direct.stop(handmade, "west")
        handmade.start("west")
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    direct.sync(handmade)
    direct.pause(handmade)
    assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()
    log = (handmade.folder / "west" / "state" / "site.log").read_text()
    assert "flush at stop failed" in log or f"cannot flush: intermediate store {store}" in log


def test_who_uses_a_store_hears_that_a_look_found_it_smaller(tmp_path: Path) -> None:
    """Whatever size it has by the next flush."""
    path = tmp_path / "store"
    path.touch()
    os.truncate(path, MIB)
    one = stores.open_store(str(path), 1)
    try:
        one.refuse_smaller(MIB)
        assert (one.store.cuts, one.store.losses) == (0, 0)
        os.truncate(path, MIB - 1)
        with pytest.raises(stores.Harmed, match="was made smaller"):
            one.refuse_smaller(MIB)
        os.truncate(path, MIB)
        one.refuse_smaller(MIB)
        assert (one.store.cuts, one.store.losses) == (1, 1)
    finally:
        one.store.close()


def test_a_store_that_stays_too_small_is_not_committed_into(handmade: Handmade) -> None:
    """Though nothing of the cycle belongs behind its end: with the reason, until it is large."""
    handmade.create()
    written(handmade)
    store = handmade.store("west", "intermediate")
    os.truncate(store, handmade.size - BLOCK)
    with handmade.client() as client:
        client.write(0, b"x" * BLOCK)
    direct.wait_for(
        lambda: (
            f"cannot flush: intermediate store {store}" in str(direct.status(handmade)["reason"])
        ),
        "the source says why",
    )
    os.truncate(store, handmade.size)
    direct.sync(handmade)
    direct.pause(handmade)
    assert handmade.image("west").read_bytes() == handmade.image("east").read_bytes()


@pytest.mark.parametrize("killed", some([True, False]))
def test_a_cut_of_what_is_sent_again_costs_no_image(handmade: Handmade, *, killed: bool) -> None:
    """Nothing of the image was in the intermediate when it was made smaller: the blocks of the
    cycle under way were, all of which came again.  With the next session nothing is left of that:
    what is pending later was written since."""
    store, image = cut_under_a_cycle(handmade), handmade.image("east").read_bytes()
    assert f"{store}: was made smaller" in direct.status(handmade, "west")["reason"]
    os.truncate(store, handmade.size)
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    direct.sync(handmade)
    state = handmade.folder / "west" / "state"
    direct.wait_for(
        lambda: not any(is_harmed(one.intermediate) for one in ledger.load(state).volumes),
        "the ledger says no word of it any more",
    )
    if killed:
        kill(handmade, "west")
        handmade.start("west")
    handmade.run("promote", str(handmade.toml("west")), "--force")
    with NbdClient(handmade.run("uri", str(handmade.toml("west"))).strip()) as client:
        assert b"".join(client.read(at, MIB) for at in range(0, handmade.size, MIB)) == image


def test_a_source_sends_no_zeroes_of_an_intermediate_that_was_emptied(handmade: Handmade) -> None:
    """A cycle has lost its session: what it copied stands in the source's intermediate alone, and a
    person empties that, who has read that a blank one is as good."""
    handmade.size = 8 * MIB
    handmade.create()
    written(handmade)
    direct.ask(handmade, {"op": "bandwidth", "rate": 2 * MIB})
    image = random.Random(13).randbytes(handmade.size)
    direct.pause(handmade)  # one cycle is of all of it
    with handmade.client() as client:
        for at in range(0, handmade.size, MIB):
            client.write(at, image[at : at + MIB])
    direct.resume(handmade)
    direct.wait_for(
        lambda: direct.status(handmade)["cycle"]["copied_bytes"] >= MIB, "some of a cycle"
    )
    kill(handmade, "west")
    direct.ask(handmade, {"op": "bandwidth", "rate": 0})
    store = Path(handmade.store("east", "intermediate"))
    direct.wait_for(lambda: store.read_bytes() == image, "what the cycle is of, here alone")
    os.truncate(store, 0)
    direct.status(handmade)  # somebody looks
    os.truncate(store, handmade.size)
    handmade.start("west")
    direct.sync(handmade)
    direct.stop(handmade, "west")
    assert handmade.image("west").read_bytes() == image
    assert f"intermediate store {store}: volume disk: Input/output error" in handmade.log("east")


@pytest.mark.parametrize("unchanged", some([True, False]))
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


def test_each_store_that_could_not_be_read_at_a_stop_is_doubted(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest
) -> None:
    """One disk may be below several, and who mends it may change any of them."""
    trigger, parts = scratch / "trigger", ("data", "intermediate")
    for part in parts:
        server = Server(scratch / f"{part}.img")
        request.addfinalizer(server.stop)
        server.image.touch()
        os.truncate(server.image, handmade.size)
        rules = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}")
        server.start("error", parameters=rules)
        handmade.stores["west", part] = server.uri
    handmade.create()
    written(handmade)
    trigger.touch()
    direct.stop(handmade, "west")
    [record] = ledger.load(handmade.folder / "west/state").volumes
    assert {getattr(record, part).fingerprint for part in parts} == {ledger.UNREADABLE}


@pytest.mark.parametrize("site", ["west", "east"])
@pytest.mark.parametrize("lost", [False, True], ids=["at-the-stop", "before"])
def test_a_store_that_could_neither_be_flushed_nor_read_is_doubted(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest, site: str, *, lost: bool
) -> None:
    """At the stop; or its flush has failed before, and was made good.  A failed flush says nothing
    of what a person does to the disk then."""
    server = Faulty(scratch / "served.img")
    request.addfinalizer(server.stop)
    handmade.stores[site, "data"] = server.store(handmade.size)
    handmade.create()
    written(handmade)
    server.fail("EIO", "flush")
    with handmade.client() as client:
        client.write(0, os.urandom(BLOCK))
    if lost:
        direct.wait_for(lambda: direct.status(handmade, site)["state"] == "degraded", "EIO")
        server.mend()
        direct.sync(handmade)
    server.fail("EIO", "pread")
    direct.stop(handmade, site)
    server.mend()
    [record] = ledger.load(handmade.folder / site / "state").volumes
    assert record.data.fingerprint == ledger.UNREADABLE
    if site == "west":
        said = refused("start", str(handmade.toml("west")))
        assert "could not be read when the site was stopped" in said
        return
    handmade.start("east")
    direct.sync(handmade)
    said = (handmade.folder / "east" / "state" / "site.log").read_text()
    assert "its data store was harmed: everything is compared" in said


def test_a_stop_waits_for_a_server_that_hangs_not_once_for_each_store(
    scratch: Path, handmade: Handmade, request: pytest.FixtureRequest
) -> None:
    """One that answers neither a flush nor the look that comes after it keeps the stop no longer
    than that."""
    servers = [Faulty(scratch / f"{part}.img") for part in ("data", "intermediate")]
    for part, server in zip(("data", "intermediate"), servers, strict=True):
        request.addfinalizer(server.stop)
        handmade.stores["west", part] = server.store(handmade.size)
    handmade.more = 'link_timeout = "1s"'
    handmade.create()
    written(handmade)
    for server in servers:
        server.fail("hang", "flush", "pread")
    before = servers[1].tried("pread")
    direct.stop(handmade, "west")
    assert servers[1].tried("pread") == before
    assert not ledger.load(handmade.folder / "west/state").clean


@needs_loops
def test_a_device_that_is_away_was_not_made_smaller(handmade: Handmade) -> None:
    """The kernel says of a disk that was taken out that it has no bytes.  The site is stopped, the
    disk is there again, with every byte; and so is the image."""
    file = handmade.folder / "disk"
    file.touch()
    os.truncate(file, handmade.size)
    made = subprocess.run(
        ["losetup", "--find", "--show", str(file)], check=True, capture_output=True, text=True
    )
    handmade.stores["west", "data"] = device = made.stdout.strip()
    try:
        handmade.create()
        written(handmade)
        set_bound(device, BEGINS_AT, handmade.size)  # behind its end
        assert "smaller" not in (direct.status(handmade, "west")["reason"] or "")
        assert "the device is away" in refused("promote", str(handmade.toml("west")), "--force")
        assert direct.status(handmade, "west")["role"] == "target"
        direct.stop(handmade, "west")
        assert "put the right store back" in refused("start", str(handmade.toml("west")))
        set_bound(device, BEGINS_AT, 0)
        said = refused("start", str(handmade.toml("west")))
        assert "could not be read" in said and "--unchanged" in said, said
        words = ("adopt", str(handmade.toml("west")), "disk", "data", "--yes", "--unchanged")
        assert "the image of sequence" in handmade.run(*words)
    finally:
        handmade.kill()
        subprocess.run(["losetup", "-d", device], check=True)


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
