"""The volumes of a group are copied in turns: none waits until another is done."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroaring import BitMap64
from served import Server

from mirror_core import flashcopy, limits, native

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = 4096
NAMES = ("a", "b", "c")
LONE = SIZE // BLOCK // 2  # blocks: each is a copy of its own
SLICE_S = 20e-6  # some of them


class Group:
    """Target volumes, of which every `step`th block is pending, between files; the data store of
    some is behind a server."""

    def __init__(self, folder: Path, block: int, step: int, servers: dict[str, Server]) -> None:
        self.volumes: dict[str, native.Volume] = {}
        self._stores: list[native.Store] = []
        for name in NAMES:
            if server := servers.get(name):
                sink = native.Store.nbd(server.uri, 10.0)
                self._stores.append(sink)
            else:
                sink = self._file(folder / f"{name}.data", b"")
            front = self._file(folder / f"{name}.front", os.urandom(MIB) * (SIZE // MIB))
            volume = native.Volume(front, sink, SIZE, block, False)
            volume.set_strict()
            flashcopy.mark(volume, BitMap64(range(0, volume.blocks, step)), pending=True)
            self.volumes[name] = volume
        self.copier = flashcopy.Flashcopy(
            [flashcopy.Member(name, volume) for name, volume in self.volumes.items()]
        )
        self.copier.link([None] * len(NAMES))

    def _file(self, path: Path, data: bytes) -> native.Store:
        path.write_bytes(data)
        os.truncate(path, SIZE)
        self._stores.append(native.Store.file(os.open(path, os.O_RDWR), SIZE))
        return self._stores[-1]

    def pending(self, name: str) -> int:
        return self.volumes[name].stats().pending_blocks

    def close(self) -> None:
        self.copier.fail(errno.ESHUTDOWN)  # what is left is not copied any more
        self.copier.unlink()
        for volume in self.volumes.values():
            volume.close()
        for store in self._stores:
            store.close()


MakeGroup = Callable[..., Group]


@pytest.fixture
def make_group(scratch: Path) -> Iterator[MakeGroup]:
    groups: list[Group] = []

    def make(block: int, step: int = 2, **servers: Server) -> Group:
        groups.append(Group(scratch, block, step, servers))
        return groups[-1]

    yield make
    for group in groups:
        group.close()


def test_each_volume_has_its_turn(make_group: MakeGroup) -> None:
    """In as many calls as there are volumes some of each is copied; nothing is left only when it
    is so of all, and of all of them it is found out."""
    group = make_group(BLOCK)
    for _ in NAMES:
        assert not group.copier.copy(SLICE_S)
    assert all(0 < group.pending(name) < LONE for name in NAMES)
    calls = 0
    while not group.copier.copy(0.01):
        assert any(group.pending(name) for name in NAMES)
        calls += 1
    assert not any(group.pending(name) for name in NAMES)
    assert calls > 1


def test_a_call_takes_its_time_once(make_group: MakeGroup) -> None:
    """However many volumes there are: the control looks at the world in between."""
    group = make_group(BLOCK)
    assert not group.copier.copy(SLICE_S)
    assert [name for name in NAMES if group.pending(name) < LONE] == ["a"]


@pytest.fixture
def slow_server(scratch: Path) -> Iterator[Server]:
    """Of a store that takes a second for each write."""
    server = Server(scratch / "slow.img")
    server.image.touch()
    os.truncate(server.image, SIZE)
    server.start("delay", parameters=("wdelay=1000ms",), threads=4)
    yield server
    server.stop()


def test_a_writer_of_one_volume_does_not_wait_for_the_copy_of_another(
    slow_server: Server, make_group: MakeGroup
) -> None:
    """A block that is too large for a writer to copy himself is left to the background, which is
    busy with a volume whose data store is slow."""
    group = make_group(MIB, 1, a=slow_server)
    group.volumes["b"].set_patience(0.5)
    stop = threading.Event()
    slice_s = limits.HARDEN_SLICE_S

    def second_flashcopy() -> None:
        nonlocal slice_s
        while not stop.is_set():
            done = group.copier.copy(slice_s)
            if done or group.copier.group.harden_wanted():
                began = time.monotonic()
                group.copier.harden(lambda: None)
                slice_s = max(limits.HARDEN_SLICE_S, time.monotonic() - began)

    thread = threading.Thread(target=second_flashcopy)
    client = native.Client(group.volumes["b"], 0)
    thread.start()
    try:
        while True:
            try:
                client.zero(4096, SIZE - MIB, 0)
                break
            except OSError as error:
                assert error.errno == errno.EPERM, error  # put off: it comes again
        assert group.pending("a"), "the copy of the other volume has ended before"
    finally:
        stop.set()
        thread.join()


def test_the_volumes_of_a_group_have_one_limit(scratch: Path) -> None:
    """What the background sends of all of them together is limited: not of each, however little
    each has to send."""
    rate, names = 4 * MIB, "abcdefgh"
    paths = {name: scratch / name for name in (f"{n}{part}" for n in names for part in "fis")}
    for path in paths.values():
        path.write_bytes(os.urandom(MIB // 4))
    stores = {
        name: native.Store.file(os.open(path, os.O_RDWR), MIB // 4) for name, path in paths.items()
    }
    members = []
    for name in names:
        volume = native.Volume(stores[f"{name}f"], stores[f"{name}i"], MIB // 4, BLOCK, False)
        volume.mark_pending(0, volume.blocks)
        members.append(flashcopy.Member(name, volume))
    copier = flashcopy.Flashcopy(members)
    copier.link([stores[f"{name}s"] for name in names])
    began = time.monotonic()
    copier.group.limit(rate)
    while not copier.copy(limits.SLICE_S):
        pass
    took = time.monotonic() - began
    copier.settle()
    copier.unlink()
    for member in members:
        member.native.close()
    for store in stores.values():
        store.close()
    assert all(paths[f"{n}s"].read_bytes() == paths[f"{n}f"].read_bytes() for n in names)
    # The last run is sent at once, into debt.
    assert took >= (len(names) - 1) * (MIB // 4) / rate
