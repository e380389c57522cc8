"""Stores behind servers that take few clients at a time: real ones, qemu-nbd.

Two connections are enough for each store; more are used if they can be had; one that cannot be had
costs nobody anything; a server that takes fewer is refused with what it must offer.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, eventually, flashmirror, kill, record, refused
from nbd_client import NbdClient
from pair import some
from served import Limited, Server

SIZE = 8 << 20
BLOCK = 4096
PARTS = [(site, part) for site in ("east", "west") for part in ("data", "intermediate")]
LINK_TIMEOUT_S = 2.0


@contextlib.contextmanager
def limited(
    pair: Handmade, scratch: Path, clients: int
) -> Iterator[dict[tuple[str, str], Limited]]:
    """Every store of the pair behind a server of its own that takes so many clients."""
    servers = {}
    try:
        for site, part in PARTS:
            server = servers[site, part] = Limited(scratch / f"{site}-{part}.img", clients, SIZE)
            server.start()
            pair.stores[site, part] = server.uri
        yield servers
    finally:
        pair.kill()
        for server in servers.values():
            server.stop()


class Writers:
    """Clients that write all over the volume until they are told to stop."""

    def __init__(self, pair: Handmade, count: int) -> None:
        self._stop = threading.Event()
        self.longest_s, self.written = 0.0, 0
        self.failure: Exception | None = None
        self._threads = [
            threading.Thread(target=self._write, args=(pair.client(), i)) for i in range(count)
        ]

    def _write(self, client: NbdClient, number: int) -> None:
        i = number
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                client.write(i * 7919 % (SIZE // BLOCK) * BLOCK, i.to_bytes(4, "big") * 1024)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.written += 1
                i += 3
            client.flush()
        except Exception as error:
            self.failure = error
        finally:
            client.close()

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.failure is None, self.failure


@pytest.mark.parametrize("clients", some([2, 3, 16], 3))
def test_it_mirrors_over_as_many_connections_as_there_are(
    handmade: Handmade, scratch: Path, clients: int
) -> None:
    """All four stores behind such servers: writers on several connections beside the mirroring, a
    target that is killed and comes back, a source that is restarted; nothing fails, no write waits
    for a connection that hangs, and both sites are equal."""
    with limited(handmade, scratch, clients) as servers:
        handmade.create()
        handmade.start()
        with Writers(handmade, 3) as writers:
            for _ in range(3):
                direct.sync(handmade, 30)
            kill(handmade, "west")
            handmade.start("west")
            direct.sync(handmade, 30)
        assert writers.written > 100
        assert writers.longest_s < LINK_TIMEOUT_S
        handmade.stop("east")
        handmade.start("east")
        with Writers(handmade, 3):
            direct.sync(handmade, 30)
        direct.sync(handmade, 30)
        for site in ("east", "west"):
            assert direct.status(handmade, site)["reason"] is None
        held = servers["east", "data"].image.read_bytes()
        assert servers["west", "data"].image.read_bytes() == held != bytes(SIZE)


def test_create_and_check_say_what_a_server_must_offer(handmade: Handmade, scratch: Path) -> None:
    """Of a server that takes three clients both say so; of one that takes many they say nothing."""
    few, many = Limited(scratch / "few.img", 3, SIZE), Limited(scratch / "many.img", 16, SIZE)
    handmade.stores = {("east", "data"): few.uri, ("east", "intermediate"): many.uri}
    try:
        few.start()
        many.start()
        handmade.write("east")
        east = str(handmade.toml("east"))
        notes = record("create", east, "--role", "source")["notes"]
        assert len(notes) == 1 and few.uri in notes[0]
        assert "takes 3 clients at a time" in notes[0] and "8 or more" in notes[0]
        found = json.loads(flashmirror("check", east, "--json").stdout)  # it misses the peer
        rows = {row["check"]: row["detail"] for row in found}
        assert "takes 3 clients" in rows["disk data"] and "clients" not in rows["disk intermediate"]
    finally:
        few.stop()
        many.stop()


def test_a_server_that_takes_one_client_is_refused(handmade: Handmade, scratch: Path) -> None:
    """At once when it is created, with what the server must offer."""
    server = Limited(scratch / "one.img", 1, SIZE)
    handmade.stores["east", "data"] = server.uri
    try:
        server.start()
        handmade.write("east")
        text = refused("create", str(handmade.toml("east")), "--role", "source")
        assert server.uri in text and "multi-conn" in text
    finally:
        server.stop()


def test_a_server_that_refuses_a_second_client_is_refused(
    handmade: Handmade, scratch: Path
) -> None:
    """The same of one that offers multi-conn and takes a single client all the same (nbdkit with
    its limit filter): what is missing is the number, and so it is said."""
    server = Server(scratch / "one.img")
    server.image.touch()
    os.truncate(server.image, SIZE)
    handmade.stores["east", "data"] = server.uri
    try:
        server.start("limit", parameters=("limit=1",))
        handmade.write("east")
        create = ("create", str(handmade.toml("east")), "--role", "source")
        # The one that has just looked whether it answers may count for an instant yet.
        text = eventually(lambda: answered(refused(*create)), "an answer of the server")
        assert f"{server.uri}: its server takes only 1 client at a time" in text
        assert "have it take 8 or more (2 at the least)" in text
    finally:
        server.stop()


def answered(text: str) -> str:
    return "" if "start its server" in text or "takes only 0" in text else text
