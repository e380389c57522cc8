"""A write, or a read, that a store refuses is told by the site whose store it is."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, MountedDisk, ServedDisk, scrape, value
from nbd_client import NbdError
from pair import CommandFailed
from served import Server

from mirror_core import timeouts

SIZE = 4 * MIB
LINK_TIMEOUT_S = 0.5
MOUNTED = pytest.param("mounted", marks=pytest.mark.root("mounts a file system"))
Disk = MountedDisk | ServedDisk


@pytest.fixture(params=["served", MOUNTED])
def disk(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Disk]:
    """A disk that can be filled: an NBD server that says so, or a small file system."""
    mounted = request.param == "mounted"
    one = MountedDisk(scratch / "disk", 6 * MIB) if mounted else ServedDisk(scratch / "disk")
    yield one
    one.close()


@pytest.fixture
def pair(scratch: Path) -> Iterator[Handmade]:
    """Two sites that are not patient; the test says where a store is, and creates them."""
    one = Handmade(scratch / "pair", SIZE, f'link_timeout = "{LINK_TIMEOUT_S}s"')
    yield one
    one.kill()


@pytest.mark.soak
def test_a_target_whose_intermediate_is_full_says_so_until_it_is_written(
    pair: Handmade, disk: Disk
) -> None:
    """Status and log name the store, from one try of its source to the next; the source, which is
    there, is not taken for gone; and it ends by itself."""
    pair.stores["west", "intermediate"] = store = disk.store(SIZE)
    pair.create()
    pair.start()
    with pair.client() as client:
        client.write(0, b"before" * 1000)
        direct.sync(pair)
        disk.fill()
        for at in range(0, SIZE, MIB):
            client.write(at, os.urandom(MIB))
    trouble = f"intermediate store {store}: volume disk: No space left on device: free some space"
    direct.wait_for(lambda: trouble in (direct.status(pair, "west")["reason"] or ""), trouble)
    until = time.monotonic() + 2 * timeouts.asks_again_s(timeouts.silence_s(LINK_TIMEOUT_S))

    def still() -> bool:
        found = direct.status(pair, "west")
        assert found["state"] == "degraded" and trouble in (found["reason"] or ""), found
        assert found["peer"]["state"] == "connected", found["peer"]
        assert found["volumes"][0]["write_error"] == "No space left on device"
        return time.monotonic() > until

    direct.wait_for(still, "a few tries of the source", 60)
    assert pair.log("west").count(trouble) == 1
    disk.empty()
    direct.wait_status(pair, "west", state="mirroring", reason=None)
    direct.sync(pair)
    assert direct.status(pair, "west")["volumes"][0]["write_error"] is None


def test_a_source_whose_data_store_is_full_says_that_writes_fail(
    pair: Handmade, disk: Disk
) -> None:
    """Mirroring goes on, and what the clients meet is told with it, until all that failed is
    written well, in whatever pieces: others, which have space already, are no sign of that."""
    pair.stores["east", "data"] = store = disk.store(SIZE)
    pair.create()
    pair.start()
    with pair.client() as client:
        client.write(0, b"before" * 1000)
        direct.sync(pair)
        assert direct.status(pair)["volumes"][0]["write_error"] is None
        disk.fill()
        with pytest.raises(NbdError) as caught:
            client.write(MIB, os.urandom(2 * MIB))
        assert caught.value.errno == errno.ENOSPC
        found = direct.status(pair)
        reason = f"a write failed: data store {store}: volume disk: No space left on device"
        assert found["reason"].startswith(reason) and "free some space" in found["reason"]
        assert found["volumes"][0]["write_error"] == "No space left on device"
        with pytest.raises(CommandFailed, match="mirroring: a write failed"):
            pair.run("check", str(pair.toml("east")))
        disk.empty()
        for at, length in ((0, 4096), (MIB, MIB)):
            client.write(at, os.urandom(length))
            direct.sync(pair)
            found = direct.status(pair)
            assert found["state"] == "mirroring" and found["reason"].startswith(reason)
        client.write(2 * MIB, os.urandom(MIB))
        found = direct.status(pair)
        assert (found["state"], found["reason"]) == ("mirroring", None)
        assert found["volumes"][0]["write_error"] is None


def test_a_source_whose_data_store_cannot_be_read_says_that_reads_fail(
    scratch: Path, pair: Handmade, request: pytest.FixtureRequest
) -> None:
    """As of a disk with a bad sector, while nothing is copied from there: what clients meet is in
    `status`, in the metrics and in `check`, until there is a good read, or write, where one failed.
    """
    server, trigger = Server(scratch / "served.img"), scratch / "trigger"
    request.addfinalizer(server.stop)
    server.image.touch()
    os.truncate(server.image, SIZE)
    rules = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}")
    server.start("error", parameters=rules)
    pair.stores["east", "data"] = server.uri
    pair.create()
    pair.start()
    with pair.client() as client:
        client.write(0, b"before" * 1000)
        direct.sync(pair)
        trigger.touch()
        for _ in range(2):
            with pytest.raises(NbdError) as caught:
                client.read(3 * MIB, 512)
            assert caught.value.errno == errno.EIO
        trigger.unlink()
        assert value(scrape(pair), 'read_errors_total{volume="disk"}') == 2
        client.read(0, 4096)
        found = direct.status(pair)
        reason = f"a read failed: data store {server.uri}: volume disk: Input/output error"
        assert found["state"] == "mirroring" and found["reason"].startswith(reason), found
        assert found["volumes"][0]["read_error"] == "Input/output error"
        with pytest.raises(CommandFailed, match="mirroring: a read failed"):
            pair.run("check", str(pair.toml("east")))
        client.read(3 * MIB, 512)
        found = direct.status(pair)
        assert (found["reason"], found["volumes"][0]["read_error"]) == (None, None), found
