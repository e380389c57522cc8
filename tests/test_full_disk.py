"""A full disk under a store that mirroring needs: mirroring stops with its reason, the source goes
on serving, and mirroring resumes by itself when there is space."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import (
    MIB,
    Handmade,
    MountedDisk,
    ServedDisk,
    SlowDisk,
    eventually,
    refused,
    state_of,
    until_state,
)
from nbd_client import NbdClient, NbdError

SIZE = 4 * MIB
BLOCK = 4096
NO_ROOM = "No space left on device"
Disk = MountedDisk | ServedDisk
EVERY = [("east", "intermediate"), ("west", "intermediate"), ("west", "data")]
MOUNTED = pytest.param("mounted", marks=pytest.mark.root("mounts a file system"))


@pytest.fixture
def disk(kind: str, scratch: Path) -> Iterator[Disk]:
    """A disk that can be filled: a small file system, or an NBD server that says it is full."""
    mounted = kind == "mounted"
    one = MountedDisk(scratch / "disk", 6 * MIB) if mounted else ServedDisk(scratch / "disk")
    yield one
    one.close()


@contextlib.contextmanager
def pair_with(disk: Disk, scratch: Path, site: str, part: str) -> Iterator[Handmade]:
    pair = Handmade(scratch / "pair", SIZE)
    pair.stores[site, part] = disk.store(SIZE)
    try:
        pair.create()
        pair.start()
        yield pair
    finally:
        pair.kill()


@pytest.mark.parametrize("kind", ["served", MOUNTED])
@pytest.mark.parametrize(("site", "part"), EVERY)
def test_a_full_disk_stops_mirroring_and_nothing_else(
    disk: Disk, scratch: Path, site: str, part: str
) -> None:
    """While it is full the state is degraded, with a reason that names the store and what to do;
    writes and reads go on; with space again both sites become equal without a command."""
    with pair_with(disk, scratch, site, part) as pair:
        with pair.client() as client:
            model = exercise(pair, client, disk, site, part)
        pair.sync()
        pair.stop()
        for one in ("east", "west"):
            assert image(pair, disk, one) == model, f"{one} differs from what was written"


def exercise(pair: Handmade, client: NbdClient, disk: Disk, site: str, part: str) -> bytes:
    """Writes before, while and after the disk is full; what the volume holds at the end."""
    client.write(0, b"before" * 1000)
    pair.sync()
    disk.fill()
    model = bytearray(client.read(0, SIZE))
    rng = random.Random(site + part)
    for _ in range(32):
        at, data = rng.randrange(SIZE - 65536), rng.randbytes(65536)
        client.write(at, data)
        model[at : at + len(data)] = data
    named = pair.store(site, part) if site == "east" or part == "data" else "west.sock"
    # A writer there may meet the failed copy before the target has said why.
    eventually(lambda: named in (state_of(pair)["reason"] or ""), f"a reason that names {named}")
    status = until_state(pair, "degraded")
    assert "No space left on device" in status["reason"]
    assert "free some space" in status["reason"] and status["reason"].isprintable()
    client.write(17, b"still serving")
    model[17:30] = b"still serving"
    assert client.read(0, SIZE) == bytes(model)
    line = refused("sync", str(pair.toml("east")), "--timeout", "300ms")
    assert "sync not done in 0.3 s" in line and "No space left on device" in line
    disk.empty()
    eventually(
        lambda: (
            state_of(pair)["state"] == "mirroring"
            and state_of(pair)["volumes"][0]["next_bytes"] == 0
        ),
        "mirroring resumes by itself",
    )
    return bytes(model)


def image(pair: Handmade, disk: Disk, site: str) -> bytes:
    served = pair.store(site, "data").startswith("nbd")
    path = disk.folder / "served.img" if served else Path(pair.store(site, "data"))
    return path.read_bytes()


@pytest.mark.root("mounts a file system")
def test_a_full_disk_is_an_error_for_who_wrote_alone(scratch: Path) -> None:
    """Also on a file system that is asked for no holes, such as a container's overlay: a client
    that overwrites what it has flushes it, whoever else finds no space."""
    top, merged = scratch / "disk", scratch / "merged"
    disk = MountedDisk(top, 6 * MIB)
    for folder in (top / "lower", top / "upper", top / "work", merged):
        folder.mkdir()
    layers = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
    pair = Handmade(scratch / "pair", 2 * SIZE)
    pair.stores["east", "data"] = str(merged / "data")
    try:
        pair.create("east")
        pair.start("east")
        with pair.client() as one, pair.client() as other:
            one.write(0, b"a" * MIB)
            one.flush()
            disk.fill()
            one.write(0, b"b" * MIB)
            with pytest.raises(NbdError, match="Errno 28"):
                other.write(SIZE, b"c" * MIB)
            one.flush()
    finally:
        pair.kill()
        subprocess.run(["umount", "--lazy", merged], check=True)
        disk.close()


@pytest.mark.root("mounts a file system")
def test_a_target_whose_state_and_log_had_no_room_goes_on_by_itself(scratch: Path) -> None:
    """A hardening cannot be recorded, and nothing said of that, as the log is on that disk as well;
    what waits for the hardening is in the way of no later session."""
    pair, slow = Handmade(scratch / "pair", SIZE), SlowDisk(scratch / "slow", "60ms")
    state = MountedDisk(pair.folder / "west/state", 2 * MIB)
    state.folder.chmod(0o700)
    pair.stores["west", "data"] = slow.store(SIZE)
    lone, log = range(0, SIZE, 16 * BLOCK), state.folder / "site.log"
    try:
        pair.create()
        pair.start()
        with pair.client() as client:
            direct.sync(pair)
            before = direct.pause(pair)["committed"]["sequence"]
            for at in lone:
                client.write(at, b"1" * BLOCK)
            direct.resume(pair)
            direct.wait_commit(pair, before)  # of them all, which takes a second to harden
            with log.open("ab") as file:
                file.write(b"\n" * (-file.tell() % BLOCK))
            state.fill()
            full = log.stat().st_size
            for at in lone:
                client.write(at, b"2" * BLOCK)
            eventually(lambda: NO_ROOM in str(state_of(pair, "west")["reason"]), "west says why")
            eventually(lambda: NO_ROOM in str(state_of(pair)["reason"]), "the source is told")
            assert log.stat().st_size == full, "the log had room"
            state.empty()
            direct.sync(pair, timeout_s=20.0)
            assert state_of(pair)["state"] == "mirroring"
            held = client.read(0, SIZE)
        pair.stop()
        assert (scratch / "slow/slow.img").read_bytes() == held
    finally:
        pair.kill()
        slow.close()
        state.close()
