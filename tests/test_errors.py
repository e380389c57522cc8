"""A client gets the errno of what went wrong, and mirroring goes on with what went right."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import MIB, Handmade, MountedDisk, ServedDisk, eventually, scrape, state_of, value
from nbd_client import FAST_ZERO, FUA, TRIM, ZEROES, NbdClient, NbdError
from pair import MakePair, Pair
from served import Server

from mirror_core import config

SIZE = 4 * MIB
BLOCK = 4096
ERRNOS = {name: getattr(errno, name) for name in ("EIO", "ENOSPC", "EPERM")}


@pytest.fixture
def handmade(scratch: Path) -> Iterator[Handmade]:
    """A pair of 4 MiB that the test writes and creates itself."""
    pair = Handmade(scratch / "h", SIZE)
    yield pair
    pair.kill()


@contextlib.contextmanager
def error_of(code: int) -> Iterator[None]:
    """The request inside fails with this errno."""
    with pytest.raises(NbdError) as caught:
        yield
    assert caught.value.errno == code, caught.value


def write_errors(pair: Pair) -> int:
    return int(value(scrape(pair), 'write_errors_total{volume="disk"}'))


@pytest.mark.parametrize("error", sorted(ERRNOS))
def test_the_store_s_error_reaches_the_client(
    scratch: Path, handmade: Handmade, error: str
) -> None:
    """Writes and zeroes that fail at the data store fail at the client with that errno and are
    counted; other blocks are not disturbed, and both sites are equal afterwards."""
    disk = ServedDisk(scratch / "disk", error)
    handmade.stores["east", "data"] = disk.store(SIZE)
    try:
        handmade.create()
        handmade.start()
        with handmade.client() as client:
            client.write(0, b"good" * 1024)
            client.write(MIB, b"also" * 1024)
            disk.fill()
            with error_of(ERRNOS[error]):
                client.write(0, b"lost" * 1024)
            with error_of(ERRNOS[error]):
                client.write(100, b"lost", FUA)
            with error_of(ERRNOS[error]):
                client.zero(MIB, BLOCK)
            assert client.read(0, BLOCK) == b"good" * 1024
            assert write_errors(handmade) == 3
            disk.empty()
            client.write(2 * MIB, b"again" * 1000)
            handmade.sync()
            held = client.read(0, SIZE)
        assert held[MIB : MIB + BLOCK] == b"also" * 1024
        assert handmade.image("west").read_bytes() == held
        assert state_of(handmade)["state"] == "mirroring"
    finally:
        handmade.kill()
        disk.close()


@pytest.mark.root("mounts a file system")
def test_a_full_data_store_is_enospc(scratch: Path, handmade: Handmade) -> None:
    """A thin image on a full disk: ENOSPC to the client, every time, reads go on; what was
    written before and after is mirrored."""
    disk = MountedDisk(scratch / "disk", 2 * MIB)
    handmade.stores["east", "data"] = disk.store(SIZE)
    try:
        handmade.create()
        handmade.start()
        with handmade.client() as client:
            client.write(0, b"first" * 1000)
            disk.fill()
            for at in (MIB, 2 * MIB):
                with error_of(errno.ENOSPC):
                    client.write(at, b"x" * 65536)
            client.write(0, b"there is room where there was")
            assert write_errors(handmade) == 2
            disk.empty()
            client.write(MIB, b"y" * 65536)
            handmade.sync()
            held = client.read(0, SIZE)
        assert handmade.image("west").read_bytes() == held
    finally:
        handmade.kill()
        disk.close()


def test_a_store_that_cannot_be_read_is_eio_and_degrades(scratch: Path, handmade: Handmade) -> None:
    """Reads that fail at the data store: the client gets EIO, mirroring says which store, and both
    recover by themselves."""
    server, trigger = Server(scratch / "served.img"), scratch / "trigger"
    server.image.touch()
    os.truncate(server.image, SIZE)
    rules = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}")
    server.start("error", parameters=rules)
    handmade.stores["east", "data"] = server.uri
    try:
        handmade.create()
        handmade.start()
        handmade.pause()
        with handmade.client() as client:
            client.write(0, b"x" * BLOCK)
            trigger.touch()
            with error_of(errno.EIO):
                client.read(0, BLOCK)
            handmade.resume()
            reason = eventually(lambda: state_of(handmade)["reason"], "a reason")
            assert f"data store {server.uri}: volume disk: Input/output error" in reason
            assert "look into that store" in reason and write_errors(handmade) == 0
            trigger.unlink()
            handmade.sync()
        assert handmade.image("west").read_bytes()[:BLOCK] == b"x" * BLOCK
    finally:
        handmade.kill()
        server.stop()


def test_a_data_store_whose_server_ends_is_an_error_and_no_hang(
    scratch: Path, handmade: Handmade
) -> None:
    """A store's server that dies: requests fail within the link's time-out, and a restarted server
    is used again without a command."""
    server = Server(scratch / "served.img")
    server.image.touch()
    os.truncate(server.image, SIZE)
    server.start()
    handmade.stores["east", "data"] = server.uri
    try:
        handmade.create()
        handmade.start()
        with handmade.client() as client:
            client.write(0, b"x" * BLOCK)
            handmade.sync()
            server.stop()
            for _ in range(2):
                with pytest.raises(NbdError):
                    client.write(0, b"y" * BLOCK)
                with pytest.raises(NbdError):
                    client.read(0, BLOCK)
            server.start()

            def written() -> bool:
                with contextlib.suppress(NbdError):
                    client.write(0, b"z" * BLOCK)
                    return True
                return False

            eventually(written, "the store is back")
            handmade.sync()
        assert handmade.image("west").read_bytes()[:BLOCK] == b"z" * BLOCK
    finally:
        handmade.kill()
        server.stop()


# ---- requests that cannot be meant


@pytest.fixture
def small(make_pair: MakePair) -> Pair:
    """A pair whose volume ends in a block of 123 bytes."""
    pair = make_pair("--size", str(3 * BLOCK + 123))
    pair.start()
    return pair


def test_requests_outside_the_volume_are_refused(small: Pair) -> None:
    """Past the end: ENOSPC for writes, EINVAL for reads and trims, as NBD has it; the connection
    and the volume live on."""
    with small.client() as client:
        end = client.size
        assert end == 3 * BLOCK + 123
        client.write(end - 1, b"z")
        for at, length in ((end, 1), (end - 1, 2), (1 << 62, 1), (2**64 - 1, 1)):
            with error_of(errno.ENOSPC):
                client.write(at, b"x" * length)
            with error_of(errno.ENOSPC):
                client.zero(at, length)
            with error_of(errno.EINVAL):
                client.trim(at, length)
            with error_of(errno.EINVAL):
                client.read(at, length)
        assert client.read(end - 1, 1) == b"z"
        assert write_errors(small) == 0, "these never reached the store"


def test_requests_that_make_no_sense_are_einval(small: Pair) -> None:
    """No bytes, an unknown command, unknown flags: EINVAL, and the next request is answered."""
    with small.client() as client:
        for kind, length, flags in ((TRIM, 0, 0), (99, 1, 0), (TRIM, 1, FAST_ZERO), (5, 1, 1 << 9)):
            client.send(kind, 0, length, flags=flags)
            with error_of(errno.EINVAL):
                client.receive()
        client.write(0, b"next")
        assert client.read(0, 4) == b"next"


def test_the_control_export_takes_requests_only(small: Pair) -> None:
    """Writes elsewhere than at 0, and zeroes: EINVAL; a read before a request is answered."""
    with NbdClient(config.load(str(small.toml("east"))).control_uri()) as client:
        for at in (1, 512, BLOCK):
            with error_of(errno.EINVAL):
                client.write(at, b"x")
        assert client.read(0, 512) == bytes(512)
        client.write(0, b"noise")
        assert b"malformed control record" in client.read(0, 512)
        client.send(ZEROES, 0, 512)
        assert error_number(client) in (0, errno.EINVAL)


def error_number(client: NbdClient) -> int:
    try:
        client.receive()
    except NbdError as error:
        return error.errno or 0
    return 0


def test_the_short_last_block_is_a_block(small: Pair) -> None:
    """The last 123 bytes are written, zeroed, trimmed and mirrored like any others, and nothing is
    written past them."""
    with small.client() as client:
        end = client.size
        for data in (b"last", b"bytes"):
            client.write(end - len(data), data, FUA)
            small.sync()
            held = small.image("west").read_bytes()
            assert len(held) == end and held.endswith(data)
        client.zero(end - 3, 3)
        small.sync()
        assert small.image("west").read_bytes().endswith(b"by" + bytes(3))
        client.write(end - 123, b"q" * 123)
        client.trim(end - 123, 123)
        assert client.read(end - 123, 123) == bytes(123)
        small.sync()
        assert state_of(small)["volumes"][0]["next_bytes"] == 0
    assert small.image("west").read_bytes() == small.image("east").read_bytes()
    for image in small.folder.rglob("*.img"):
        assert image.stat().st_size == end
