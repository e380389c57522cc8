"""A store that cannot be read at one of the places where a fingerprint looks: a failover needs none
of them, and each other deed has a way that a person is told (I7)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, kill, refused
from nbd_client import NbdClient
from pair import some
from served import Faulty
from test_unreadable import written

BLOCK = 4096


class Disk(Faulty):
    """Of which one of the first sectors cannot be read while `is_bad`."""

    def begin(self, pair: Handmade, site: str) -> None:
        pair.stores[site, "data"] = self.store(pair.size)
        pair.create()

    def is_bad(self) -> None:
        self.fail(f"EIO {4 * BLOCK}", "pread")

    def is_good(self) -> None:
        self.mend()


@pytest.fixture
def disk(scratch: Path) -> Iterator[Disk]:
    disk = Disk(scratch / "served.img")
    yield disk
    disk.stop()


def promoted(pair: Handmade, image: bytes) -> None:
    with NbdClient(pair.run("uri", str(pair.toml("west"))).strip()) as client:
        assert b"".join(client.read(at, MIB) for at in range(0, pair.size, MIB)) == image


def keep(pair: Handmade) -> None:
    words = ("adopt", str(pair.toml("west")), "disk", "data", "--yes", "--json", "--unchanged")
    assert json.loads(pair.run(*words))["effect"] == "keep"


@pytest.mark.parametrize("how", some(["running", "stopped", "bad-since-its-stop"]))
def test_a_sector_that_cannot_be_read_keeps_no_image_from_its_promotion(
    handmade: Handmade, disk: Disk, how: str
) -> None:
    """Its source is lost.  Whoever has stopped that site is told what keeps the image, which the
    start needs then, and it can be done."""
    disk.begin(handmade, "west")
    written(handmade)
    image, west = handmade.image("east").read_bytes(), str(handmade.toml("west"))
    kill(handmade, "east")
    if how == "bad-since-its-stop":
        direct.stop(handmade, "west")
    disk.is_bad()
    if how == "stopped":
        direct.stop(handmade, "west")
    if how != "running":
        assert "adopt it with --unchanged, which keeps all" in refused("start", west)
        keep(handmade)
        handmade.start("west")
    handmade.run("promote", west, "--force")
    disk.is_good()
    promoted(handmade, image)


@pytest.mark.parametrize("unchanged", some([True, False]))
def test_a_copy_of_a_store_that_could_not_be_read_is_what_a_person_says(
    handmade: Handmade, disk: Disk, *, unchanged: bool
) -> None:
    """The source is lost, and the disk was copied to another one as far as it could be read."""
    disk.begin(handmade, "west")
    written(handmade)
    image, toml = handmade.image("east").read_bytes(), handmade.toml("west")
    kill(handmade, "east")
    disk.is_bad()
    direct.stop(handmade, "west")
    rescued = disk.image.with_name("rescued.img")
    shutil.copyfile(disk.image, rescued)
    toml.write_text(toml.read_text().replace(disk.uri, str(rescued)))
    said = refused("start", str(toml))
    assert "is it a copy of that one" in said and "--unchanged" in said
    if not unchanged:
        words = ("adopt", str(toml), "disk", "data", "--yes", "--json")
        assert json.loads(handmade.run(*words))["effect"] == "give up"
        return
    keep(handmade)
    handmade.start("west")
    handmade.run("promote", str(toml), "--force")
    promoted(handmade, image)


def test_a_source_with_a_sector_that_cannot_be_read_serves_the_others(
    handmade: Handmade, disk: Disk
) -> None:
    """It went bad while the site was stopped: once a person has adopted the store clients are
    served, and all is compared."""
    disk.begin(handmade, "east")
    written(handmade)
    direct.stop(handmade, "east")
    disk.is_bad()
    east = str(handmade.toml("east"))
    assert "'flashmirror adopt" in refused("start", east)
    words = ("adopt", east, "disk", "data", "--yes", "--json")
    assert json.loads(handmade.run(*words))["effect"] == "compare"
    handmade.start("east")
    with handmade.client() as client:
        client.write(0, os.urandom(BLOCK))
    disk.is_good()
    direct.sync(handmade)
    handmade.stop()
    assert handmade.image("west").read_bytes() == disk.image.read_bytes()


def test_a_sector_of_a_seed_that_cannot_be_read_is_sent(handmade: Handmade, disk: Disk) -> None:
    """A comparison of it does not keep the mirror from its first point for ever; the log names the
    store."""
    disk.begin(handmade, "west")
    image = os.urandom(handmade.size)
    disk.image.write_bytes(image)
    Path(handmade.store("east", "data")).write_bytes(image)
    handmade.run("seed", str(handmade.toml("west")))
    handmade.start("west")
    disk.is_bad()
    handmade.start("east")
    direct.sync(handmade)
    direct.pause(handmade)
    assert disk.image.read_bytes() == image
    assert f"cannot compare: data store {disk.uri}" in handmade.log("west")
