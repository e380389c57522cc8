"""Stores behind servers that take blocks of some sizes only: nbdkit's blocksize-policy filter,
which answers everything else with EINVAL."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, flashmirror, kill, refused, scrape, value
from nbd_client import TRIM, ZEROES, NbdClient, NbdError
from pair import some
from served import Server

from mirror_core import config

SIZE = (8 << 20) + 3 * 4096  # no multiple of many blocks, nor of its samples
LEAST, MOST = 4096, 65536
PARTS = [(site, part) for site in ("east", "west") for part in ("data", "intermediate")]
POLICY = ("blocksize-preferred=16384", "blocksize-error-policy=error")
ONLY_BLOCKS = (f"blocksize-minimum={LEAST}", f"blocksize-maximum={MOST}", *POLICY)


def strict(image: Path, *sizes: str) -> Server:
    """A server of an empty image that refuses requests of other sizes; it runs."""
    image.write_bytes(bytes(SIZE))
    server = Server(image)
    server.start("blocksize-policy", parameters=sizes)
    return server


@contextlib.contextmanager
def all_behind(pair: Handmade, folder: Path) -> Iterator[dict[tuple[str, str], Server]]:
    servers = {}
    try:
        for site, part in PARTS:
            server = servers[site, part] = strict(folder / f"{site}-{part}.img", *ONLY_BLOCKS)
            pair.stores[site, part] = server.uri
        yield servers
    finally:
        pair.kill()
        for server in servers.values():
            server.stop()


def promised(path: Path, export: str) -> tuple[int, int, int]:
    """The block sizes that the server of a Unix socket names (NBD_INFO_BLOCK_SIZE)."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answers:
        connection.connect(str(path))
        answers.read(18)
        name = export.encode()
        option = struct.pack(f">I{len(name)}sHH", len(name), name, 1, 3)
        connection.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 6, len(option)) + option)
        while True:
            _, _, kind, length = struct.unpack(">QIII", answers.read(20))
            body = answers.read(length)
            assert kind == 3, (kind, body)
            if body[:2] == b"\0\3":
                return struct.unpack(">III", body[2:])


def change(client: NbdClient, seed: int) -> None:
    """Writes, zeroes and trims of whole blocks of the server's, of many sizes."""
    dice = random.Random(seed)
    for _ in range(300):
        first = dice.randrange(SIZE // LEAST)
        count = min(SIZE // LEAST - first, dice.choice((1, 2, 5, 16, 40, 300)))
        if dice.random() < 0.3:
            client.send(dice.choice((ZEROES, TRIM)), first * LEAST, count * LEAST)
            client.receive()
        else:
            client.write(first * LEAST, dice.randbytes(64) * (count * LEAST // 64))
    client.flush()


def test_the_device_promises_what_the_servers_of_its_stores_take(
    handmade: Handmade, scratch: Path
) -> None:
    """The smallest request and the best one are those of the data's server, or larger where the
    site's blocks are; and what is promised is done."""
    with all_behind(handmade, scratch):
        handmade.create()
        handmade.start()
        path = config.load(str(handmade.toml("east"))).socket
        assert promised(path, "disk") == (LEAST, 16384, 32 << 20)
        with handmade.client() as client:
            client.write(LEAST, b"\x5a" * LEAST)
            assert client.read(LEAST, LEAST) == b"\x5a" * LEAST
            with pytest.raises(NbdError) as refusal:
                client.write(512, b"\1" * 512)
            assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("block_size", some(["4K", "1M"]))
def test_it_mirrors_between_servers_that_take_whole_blocks_only(
    handmade: Handmade, scratch: Path, block_size: str
) -> None:
    """All four stores: copies in the background and for writers, flushes, comparisons by checksums
    after a kill, fingerprints at a stop, with blocks smaller and larger than a request may be; both
    images are equal at the end."""
    handmade.more = f'block_size = "{block_size}"\n'
    with all_behind(handmade, scratch) as servers:
        handmade.create()
        handmade.start()
        with handmade.client() as client:
            for seed in range(3):
                change(client, seed)
                direct.sync(handmade, 30)
            east = str(handmade.toml("east"))
            handmade.run("pause", east)  # nbdkit 1.32 dies of a client that goes in a request
            change(client, 4)
        kill(handmade, "east")
        handmade.start("east")
        handmade.run("resume", east)
        direct.sync(handmade, 30)
        for site in ("east", "west"):
            handmade.stop(site)
        for site in ("west", "east"):
            handmade.start(site)
        with handmade.client() as client:
            change(client, 5)
        direct.sync(handmade, 30)
        handmade.stop("east")
        handmade.run("adopt", east, "disk", "data", "--yes")
        handmade.start("east")
        direct.sync(handmade, 30)
        equal = value(scrape(handmade), 'equal_bytes_total{volume="disk"}')
        assert equal > SIZE // 2  # it could be read
        held = servers["east", "data"].image.read_bytes()
        assert servers["west", "data"].image.read_bytes() == held != bytes(SIZE)
        with handmade.client() as client:
            assert client.read(0, SIZE) == held


def test_a_site_whose_blocks_are_no_requests_of_a_server_is_refused(
    handmade: Handmade, scratch: Path
) -> None:
    """`create` and `check` say what the server takes and which setting fits it; nothing is made."""
    server = strict(scratch / "large.img", "blocksize-minimum=8192", *POLICY)
    handmade.stores["east", "intermediate"] = server.uri
    handmade.size = SIZE
    try:
        handmade.write("east")
        east = str(handmade.toml("east"))
        words = "takes requests of 8192 bytes or multiples of them, and block_size is 4096"
        assert words in refused("create", east, "--role", "source")
        assert words in flashmirror("check", east).stdout
        assert not (handmade.folder / "east" / "state" / "ledger").exists()
    finally:
        server.stop()


def test_a_server_that_comes_back_with_other_blocks_after_a_stop_is_the_same(
    handmade: Handmade, scratch: Path
) -> None:
    """The bytes that its store is known by are the same, whatever it takes for a request: of a
    target's store, too, whose image would be given up else."""
    servers = {}
    for site in ("east", "west"):
        server = servers[site] = Server(scratch / f"{site}.img")
        server.image.write_bytes(bytes(SIZE))
        server.start()
        handmade.stores[site, "data"] = server.uri
    handmade.size = SIZE
    try:
        handmade.create()
        handmade.start()
        with handmade.client() as client:
            client.write(0, random.Random(7).randbytes(SIZE))
        for sizes in (("blocksize-minimum=512", *POLICY), ONLY_BLOCKS, ()):
            direct.sync(handmade, 30)
            for site, server in servers.items():
                handmade.stop(site)
                server.stop()
                server.start(*(["blocksize-policy"] if sizes else []), parameters=sizes)
            for site in ("west", "east"):
                handmade.start(site)
        direct.sync(handmade, 30)
    finally:
        handmade.kill()
        for server in servers.values():
            server.stop()


def test_a_server_that_comes_back_with_larger_blocks_is_not_used(
    handmade: Handmade, scratch: Path
) -> None:
    """What the device has promised holds as long as its site runs: such a server is refused as one
    that has become smaller is, and the first one is taken again."""
    server = strict(scratch / "changes.img", "blocksize-minimum=512", *POLICY)
    handmade.stores["east", "data"] = server.uri
    handmade.size = SIZE
    try:
        handmade.create()
        handmade.start()
        with handmade.client() as client:
            client.write(0, b"\1" * 512)
            client.flush()
            server.stop()
            server.start("blocksize-policy", parameters=(f"blocksize-minimum={LEAST}", *POLICY))
            with pytest.raises(NbdError):
                client.write(0, b"\2" * LEAST)
            server.stop()
            server.start("blocksize-policy", parameters=("blocksize-minimum=512", *POLICY))
            client.write(512, b"\3" * 512)
            client.flush()
    finally:
        handmade.kill()
        server.stop()
