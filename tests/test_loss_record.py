"""A record of losses that cannot be written is tried again, and says too much at no time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from handmade import eventually
from served import Faulty
from test_server_instance import BLOCK, SIZE, SOURCE, of_files

from mirror_core import durable, native, server_instance
from mirror_core.platform import Platform
from mirror_core.server_instance import Servers


def full(*_words: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def unknown(*words: object) -> None:
    """It is there, and nobody knows."""
    REPLACE(*words)  # type: ignore[arg-type]
    raise durable.Doubt("servers: cannot be flushed")


REPLACE = durable.replace
Replacing = Callable[[Callable[..., object]], None]


@pytest.fixture
def replacing(monkeypatch: pytest.MonkeyPatch) -> Replacing:
    return lambda replace: monkeypatch.setattr(durable, "replace", replace)


@contextlib.contextmanager
def run(folder: Path, name: str) -> Iterator[tuple[native.Volume, Servers]]:
    """Of a volume of files, one run of a site."""
    stores, volume = of_files(folder)
    volume.set_returning(30.0)
    try:
        yield volume, Servers(folder, SOURCE, name, {"disk": volume})
    finally:
        volume.close()
        for store in stores:
            store.close()


def test_a_start_whose_record_fails_once_tries_again(scratch: Path, replacing: Replacing) -> None:
    """The disk has room again, the ledger names this run, and it is killed."""
    with run(scratch, "1") as (volume, servers):
        assert servers.begin(clean=True, run_before="") == []
        volume.lose_front()
        assert servers.end()
    with run(scratch, "2") as (_, servers):
        replacing(full)
        assert servers.begin(clean=True, run_before="1") == ["disk"]
        servers.note()
        replacing(REPLACE)
        servers.note()
    with run(scratch, "3") as (_, servers):
        assert servers.begin(clean=False, run_before="2") == ["disk"]


@pytest.mark.parametrize("fails", [full, unknown])
def test_a_stop_whose_record_fails_forgets_no_loss(
    scratch: Path, replacing: Replacing, fails: Callable[..., object]
) -> None:
    """Of two volumes: one loss is recorded, the other cannot be.  No server is known: what stands
    says nothing wrong."""
    for name in ("a", "b"):
        (scratch / name).mkdir()
    (stores_a, a), (stores_b, b) = of_files(scratch / "a"), of_files(scratch / "b")
    for volume in (a, b):
        volume.set_returning(30.0)
    servers = Servers(scratch, SOURCE, "1", {"a": a, "b": b})
    servers.begin(clean=True, run_before="")
    a.lose_front()
    servers.note()
    replacing(fails)
    b.lose_front()
    assert not servers.end()
    replacing(REPLACE)
    told = ["a"] if fails is full else ["a", "b"]
    after = Servers(scratch, SOURCE, "2", {"a": a, "b": b})
    assert after.begin(clean=False, run_before="1") == told
    for volume in (a, b):
        volume.close()
    for store in (*stores_a, *stores_b):
        store.close()


@pytest.fixture
def served(scratch: Path) -> Iterator[tuple[Faulty, native.Volume]]:
    """A volume behind a server."""
    server = Faulty(scratch / "faulty.img")
    front = native.Store.nbd(server.store(SIZE), 5.0)
    (scratch / "sink.img").touch()
    os.truncate(scratch / "sink.img", SIZE)
    sink = native.Store.file(os.open(scratch / "sink.img", os.O_RDWR), SIZE)
    volume = native.Volume(front, sink, SIZE, BLOCK, False)
    yield server, volume
    volume.close()
    front.close()
    sink.close()
    server.stop()


@pytest.mark.parametrize("known", [REPLACE, unknown])
def test_a_loss_that_cannot_be_recorded_leaves_no_server_known(
    scratch: Path,
    replacing: Replacing,
    served: tuple[Faulty, native.Volume],
    known: Callable[..., object],
) -> None:
    """Killed then, what was lost is told, though the server is the same."""
    _, volume = served
    servers = Servers(scratch, SOURCE, "1", {"disk": volume})
    replacing(known)
    servers.begin(clean=True, run_before="")
    volume.set_returning(30.0)
    replacing(full)
    volume.lose_front()
    servers.note()
    replacing(REPLACE)
    after = Servers(scratch, SOURCE, "2", {"disk": volume})
    assert after.begin(clean=False, run_before="1") == ["disk"]


def test_a_server_that_could_not_be_recorded_is_later(
    scratch: Path, replacing: Replacing, served: tuple[Faulty, native.Volume]
) -> None:
    """Or the next process would tell a loss that was none."""
    _, volume = served
    servers = Servers(scratch, SOURCE, "1", {"disk": volume})
    replacing(full)
    servers.begin(clean=True, run_before="")
    replacing(REPLACE)
    servers.note()
    after = Servers(scratch, SOURCE, "2", {"disk": volume})
    assert after.begin(clean=False, run_before="1") == []


def test_a_server_in_a_flush_is_looked_at_later(
    scratch: Path, served: tuple[Faulty, native.Volume]
) -> None:
    """What is recorded of one volume waits for no flush of another's: that server is recorded when
    its connection is free."""
    server, volume = served
    volume.set_returning(0.0)
    servers = Servers(scratch, SOURCE, "1", {"disk": volume})
    servers.begin(clean=True, run_before="")
    servers.flushed("disk", failed=True)
    client = native.Client(volume, 0)
    client.zero(BLOCK, 0, 0)
    tried = server.tried("flush")
    server.fail("hang", "flush")
    flushes = threading.Thread(target=volume.flush_front)
    flushes.start()
    eventually(lambda: server.tried("flush") > tried, "a flush")
    servers.flushed("disk", failed=False)
    assert flushes.is_alive() and known(scratch) is None
    server.mend()
    flushes.join()
    servers.note()
    assert known(scratch) == server_instance.identify(volume.front.server_socket())


def known(folder: Path) -> object:
    return json.loads((folder / "servers").read_text())["data"]["disk"]


def test_a_boot_that_cannot_be_read_later_is_no_matter(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not change while a process runs."""
    with run(scratch, "1") as (volume, servers):
        servers.begin(clean=True, run_before="")
        monkeypatch.setattr(Platform, "boot_id", full)
        volume.lose_front()
        servers.note()
        monkeypatch.undo()
    with run(scratch, "2") as (_, servers):
        assert servers.begin(clean=False, run_before="1") == ["disk"]


@pytest.fixture
def one_disk() -> Iterator[native.Store]:
    """All that stands with the state folder stands beside this: no flush of it is good."""
    native.folder_stands_on(1)
    fails = native.Store.file(os.open(os.devnull, os.O_RDWR), SIZE)
    fails.stands_on(1)
    try:
        yield fails
    finally:
        fails.close()
        native.folder_stands_on(0)


def test_who_looks_for_losses_has_the_log_written_anew(
    scratch: Path, one_disk: native.Store
) -> None:
    """A region was hot, a client has written there, and then the log's disk has lost its bit, as a
    flush of something else is told: nobody writes on, and no commit comes."""
    fd = os.open(scratch / "log", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    store = native.Store.file(os.dup(fd), SIZE)
    store.stands_with_folder()
    log = native.Intent(store, 0, SIZE, 16)
    with run(scratch, "1") as (volume, servers):
        volume.set_intent(log)
        servers.begin(clean=True, run_before="")
        log.heat_all()
        hot = os.pread(fd, 2, 0)
        with pytest.raises(OSError, match="Invalid argument"):
            one_disk.flush()
        os.pwrite(fd, b"\0\0", 0)
        servers.renew()
        assert hot == os.pread(fd, 2, 0) == b"\xff\xff"
    log.close()
    os.close(fd)


def test_what_others_have_lost_before_is_no_matter_of_a_record(
    scratch: Path, one_disk: native.Store
) -> None:
    """The data's last flush of a stop fails, on the state folder's disk: that somebody is to be
    told of it is recorded by what comes next, and it is told."""
    with run(scratch, "1") as (volume, servers):
        assert servers.begin(clean=True, run_before="") == []
        volume.lose_front()
        with pytest.raises(OSError, match="Invalid argument"):
            one_disk.flush()
        assert servers.end()
    with run(scratch, "2") as (_, servers):
        assert servers.begin(clean=True, run_before="1") == ["disk"]


def test_a_log_that_cannot_be_written_keeps_no_loss_from_being_recorded(
    scratch: Path, one_disk: native.Store
) -> None:
    """Somebody is to be told of a loss, and the log of hot regions cannot be renewed: the one is
    recorded, and the other is tried no more often than it must be, for each failure is a loss for
    all on its disk."""
    fd = os.open(scratch / "log", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    store = native.Store.file(fd, SIZE)
    store.stands_with_folder()
    log = native.Intent(store, 0, SIZE, 16)
    with run(scratch, "1") as (volume, servers):
        volume.set_intent(log)
        assert servers.begin(clean=True, run_before="") == []
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, fd)
        os.close(null)
        with pytest.raises(OSError, match="Invalid argument"):
            one_disk.flush()
        volume.lose_front()
        before = one_disk.losses
        for _ in range(3):
            servers.renew()
            servers.note()
        assert one_disk.losses == before + 1
        assert json.loads((scratch / "servers").read_text())["untold"] == ["disk"]
    log.close()
