"""What was opened just now is closed if the next step fails, for want of memory, say: a file would
be locked by this very process for as long as it runs, and a server have a client the more."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from served import Server

from mirror_core import native, server_instance, stores
from mirror_core.session import Session

MIB = 1 << 20


def without(*_: Any, **__: Any) -> None:
    raise MemoryError


class Unmade(native.Store):
    __init__ = without


def sockets() -> int:
    """Of this process."""
    found = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    return sum("socket:" in name for name in found)


@pytest.fixture
def server(scratch: Path) -> Iterator[Server]:
    image = scratch / "served.img"
    image.write_bytes(bytes(MIB))
    one = Server(image)
    one.start()
    yield one
    one.stop()


def unmade(server: Server) -> None:
    Unmade.nbd(server.uri, 5.0)


def unread(server: Server) -> None:
    native.Line(server.uri, 1 << 62, 5.0)


def unopened(server: Server) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "Opened", without)
        stores.open_store(server.uri, 5.0)


def unnoted(server: Server) -> None:
    class Full(list[native.Store]):
        append = without

    def intermediate(_volume: str, _session: int) -> native.Store:
        return native.Store.nbd(server.uri, 5.0)

    session: Any = object.__new__(Session)
    session._stores, session.number, session._ending = Full(), 1, lambda: False
    session._copier = SimpleNamespace(members=[SimpleNamespace(name="disk")])
    session._link = SimpleNamespace(intermediate=intermediate)
    session.connect()


@pytest.mark.parametrize("step", [unmade, unread, unopened, unnoted])
def test_a_server_keeps_no_connection_of_what_was_not_opened(
    server: Server, step: Callable[[Server], None]
) -> None:
    before = sockets()
    with pytest.raises(MemoryError):
        step(server)
    assert sockets() == before


def test_a_file_is_free_again_though_its_store_was_not_made(scratch: Path) -> None:
    path = scratch / "file"
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_RDWR)
    with pytest.raises(MemoryError):
        Unmade.file(fd, MIB)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_connection_that_is_not_looked_at_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, monkeypatch.context() as patch:
        fd = os.dup(ours.fileno())
        patch.setattr(socket, "socket", without)
        with pytest.raises(MemoryError):
            server_instance.identify(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
