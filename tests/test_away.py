"""A source whose intermediate is away, replaced or another one at its start serves its own data:
mirroring waits for the intermediate, and says so; clients do not (I9)."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import MIB, Handmade, east, edit, eventually, flashmirror, kill, refused
from loops import Loop, needs_loops
from pair import MakePair
from served import Server
from test_check import row
from test_hangs import bounded

from mirror_core import below, config, ledger, limits, native, process, stores
from mirror_core import site as site_
from mirror_core.cli import checking
from mirror_core.errors import StoreError

WAITS = "writes go on, and mirroring waits for it"


def intermediate(pair: Handmade) -> Path:
    return Path(pair.store("east", "intermediate"))


def reason(pair: Handmade, words: str) -> str:
    """Once it holds these words, and that mirroring waits."""
    found = ""

    def holds() -> bool:
        nonlocal found
        found = direct.status(pair)["reason"] or ""
        return words in found and WAITS in found

    direct.wait_for(holds, f"{words} in the reason")
    return found


def write(pair: Handmade, byte: bytes) -> None:
    """All over the volume, durably."""
    with pair.client() as client:
        client.write(0, byte * pair.size, flags=1)
        assert client.read(0, 4096) == byte * 4096


def equal(pair: Handmade) -> None:
    direct.sync(pair)
    direct.wait_status(pair, "east", reason=None)
    for site in ("east", "west"):
        pair.stop(site)
    held = pair.image("east").read_bytes()
    assert pair.image("west").read_bytes() == held != bytes(pair.size)


def test_clients_are_served_while_it_is_away_and_mirroring_goes_on_with_it(
    handmade: Handmade,
) -> None:
    """Also after a stop, and a kill, without it: nothing that was written meanwhile is
    forgotten."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop("east")
    away = intermediate(handmade).rename(intermediate(handmade).with_suffix(".away"))
    handmade.start("east")
    assert str(intermediate(handmade)) in reason(handmade, "No such file or directory")
    write(handmade, b"1")
    assert direct.status(handmade)["data_exposure_seconds"] > 0
    handmade.stop("east")
    handmade.start("east")
    with handmade.client() as client:
        client.write(4096, b"2" * 4096, flags=1)
    kill(handmade, "east")
    handmade.start("east")
    reason(handmade, "No such file or directory")
    away.rename(intermediate(handmade))
    equal(handmade)


@pytest.mark.parametrize("running", [False, True])
def test_a_blank_file_is_taken_for_it(handmade: Handmade, running: bool) -> None:
    """As a new disk has one; it is the store that is recorded from then on."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop("east")
    intermediate(handmade).unlink()
    if running:
        handmade.start("east")
        reason(handmade, "No such file or directory")
    fresh = intermediate(handmade).with_suffix(".fresh")
    with fresh.open("wb") as file:
        file.truncate(handmade.size)
    fresh.rename(intermediate(handmade))
    if not running:
        rows = flashmirror("check", east(handmade)).stdout
        assert re.search(r"^ok +disk intermediate", rows, re.MULTILINE), rows
        assert "user.flashmirror" not in os.listxattr(intermediate(handmade))
        handmade.start("east")
    write(handmade, b"3")
    direct.sync(handmade)
    assert b"/disk/intermediate" in os.getxattr(intermediate(handmade), "user.flashmirror")
    kill(handmade, "east")
    handmade.start("east")
    equal(handmade)


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EACCES, errno.EIO])
def test_a_blank_file_that_takes_no_mark_is_taken_all_the_same(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As with quotas of btrfs that are used up: the clients have their device.  The file is known
    again by what else is recorded of it."""
    handmade.create()
    fresh = intermediate(handmade).with_suffix(".fresh")
    with fresh.open("wb") as file:
        file.truncate(handmade.size)
    fresh.rename(intermediate(handmade))

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "setxattr", refuse)
    settings = config.load(east(handmade))
    for _ in range(2):
        site = site_.Site(settings)
        site.start()
        waits = site.without_intermediate()
        site.stop()
        assert not waits
    assert ledger.load(settings.state).clean


def somebody_s(pair: Handmade) -> None:
    intermediate(pair).unlink()
    intermediate(pair).write_bytes(b"\x77" * pair.size)


def short(pair: Handmade) -> None:
    os.truncate(intermediate(pair), MIB // 2)


def marked(pair: Handmade) -> None:
    intermediate(pair).unlink()
    intermediate(pair).touch()
    os.truncate(intermediate(pair), pair.size)
    os.setxattr(intermediate(pair), "user.flashmirror", b"another/disk/data")


OTHERS: dict[str, tuple[Callable[[Handmade], None], str]] = {
    "somebody's": (somebody_s, "'flashmirror adopt"),
    "short": (short, "put the right store back"),
    "marked": (marked, "it is marked as the store of another site or volume"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_one_is_not_written_to(handmade: Handmade, what: str) -> None:
    """What is not known may be somebody's: it is left as it is, and what to do is said."""
    put, words = OTHERS[what]
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop("east")
    put(handmade)
    before = intermediate(handmade).read_bytes()
    handmade.start("east")
    write(handmade, b"4")
    reason(handmade, words)
    handmade.stop("east")
    assert intermediate(handmade).read_bytes() == before
    if what == "somebody's":
        handmade.run("adopt", east(handmade), "disk", "intermediate", "--yes")
        handmade.start("east")
        equal(handmade)


def test_its_server_may_come_later(handmade: Handmade, scratch: Path) -> None:
    """The server is started after the site."""
    server = Server(scratch / "later.img")
    server.image.write_bytes(bytes(handmade.size))
    handmade.stores["east", "intermediate"] = server.uri
    try:
        server.start()
        handmade.create()
        server.stop()
        handmade.start()
        write(handmade, b"5")
        reason(handmade, server.uri)
        server.start()
        equal(handmade)
    finally:
        handmade.kill()
        server.stop()


def test_it_hears_that_its_target_was_promoted(handmade: Handmade) -> None:
    """That comes first: what it waits for would help nobody."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop("east")
    intermediate(handmade).unlink()
    handmade.run("promote", str(handmade.toml("west")), "--force")
    handmade.start("east")
    direct.wait_status(handmade, "east", state="refused")
    assert "west was promoted after sequence" in direct.status(handmade)["reason"]


def test_its_target_never_calls_it_connected(handmade: Handmade) -> None:
    """It opens a session again and again, to hear what the target has become, and makes no use of
    it: the target says that it is there and has none, and since when."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop("east")
    intermediate(handmade).rename(intermediate(handmade).with_suffix(".away"))
    direct.wait_for(lambda: west(handmade)["peer"]["state"] == "disconnected", "it has gone")
    since = west(handmade)["peer"]["since"]
    handmade.start("east")
    end = time.monotonic() + 2 * limits.BACKOFF_MAX_S  # it has tried twice at least by then
    while time.monotonic() < end:
        found = west(handmade)
        assert (found["state"], found["peer"]["state"]) == ("degraded", "disconnected"), found
        assert found["peer"]["since"] == pytest.approx(since, abs=0.1), found
    assert "is there, and has no session" in found["reason"]


@pytest.mark.soak
def test_nor_does_it_when_the_intermediate_of_a_source_that_runs_has_gone(
    handmade: Handmade, scratch: Path
) -> None:
    """Its server ends under writes, and it opens a session again and again, and connects to the
    target's intermediate, before it finds that out."""
    server = Server(scratch / "first.img")
    server.image.write_bytes(bytes(handmade.size))
    handmade.stores["east", "intermediate"] = server.uri
    server.start()
    try:
        handmade.create()
        handmade.start()
        direct.sync(handmade)
    finally:
        server.stop()
    is_over = threading.Event()

    def writes() -> None:
        with handmade.client() as client:
            while not is_over.is_set():
                client.write(0, os.urandom(4096))

    writer = threading.Thread(target=writes)
    writer.start()
    try:
        direct.wait_for(lambda: west(handmade)["peer"]["state"] == "disconnected", "it has none")
        since = west(handmade)["peer"]["since"]
        end = time.monotonic() + 3 * limits.BACKOFF_MAX_S
        while time.monotonic() < end:
            found = west(handmade)
            assert (found["state"], found["peer"]["state"]) == ("degraded", "disconnected"), found
            assert found["peer"]["since"] == pytest.approx(since, abs=0.1), found
    finally:
        is_over.set()
        writer.join()
    server.start()
    equal(handmade)
    server.stop()


def west(pair: Handmade) -> dict[str, Any]:
    return direct.status(pair, "west")


def test_a_server_that_hangs_keeps_no_client_waiting(handmade: Handmade, scratch: Path) -> None:
    """It takes the connection, and says nothing, for ever."""
    server = Server(scratch / "hangs.img")
    server.image.write_bytes(bytes(handmade.size))
    handmade.stores["east", "intermediate"] = server.uri
    handmade.more = 'link_timeout = "30s"\n'
    server.start()
    try:
        handmade.create()
    finally:
        server.stop()
    server.socket.unlink()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(server.socket))
        silent.listen()
        handmade.start("west")
        with bounded(8):
            handmade.start("east")
            write(handmade, b"6")
        handmade.kill()


def clients(servers: list[Server]) -> int:
    """How many are connected to them (unix(7): not those that listen)."""
    sockets = {str(server.socket) for server in servers}
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return sum(line[3] == "00000000" and line[-1] in sockets for line in lines)


def test_a_stop_waits_for_one_slow_server_at_most(make_pair: MakePair, scratch: Path) -> None:
    """Not for those of the other volumes: then it would end as if killed (limits.JOIN_S)."""
    pair = make_pair("--size", "1M", "--volumes", "3")
    servers = []
    for image in sorted((pair.folder / "east").glob("*.intermediate.img")):
        servers.append(Server(scratch / f"slow-{image.name}", "file", str(image)))
        edit(pair, f'"{image}"', f'"{servers[-1].uri}"')
    pair.configure("east", 'link_timeout = "30s"')
    shutil.rmtree(pair.folder / "east" / "state")
    for image in (pair.folder / "east").glob("*.img"):
        os.truncate(image, 0)  # their marks go with their names
        image.unlink()
        image.touch()
        os.truncate(image, MIB)
    try:
        for server in servers:
            server.start()
        pair.run("create", east(pair), "--role", "source")
        for server in servers:
            server.stop()
            server.start("delay", parameters=("delay-open=3",))
        eventually(lambda: not clients(servers), "who has asked whether they answer has gone")
        pair.start()
        eventually(lambda: clients(servers), "it opens the first")
        begin = time.monotonic()
        pair.run("stop", east(pair))
        assert time.monotonic() - begin < 3 * 3 + 5  # a volume's connections, one after the other
        assert "as if killed" not in (pair.folder / "east/state/site.log").read_text()
    finally:
        pair.kill()
        for server in servers:
            server.stop()


def test_a_start_that_is_refused_marks_no_store(make_pair: MakePair) -> None:
    """A blank file was to be taken for the intermediate of one volume, and then the data of another
    one could not be opened."""
    pair = make_pair("--size", "1M", "--volumes", "2")
    blank, data = (pair.folder / "east" / name for name in ("disk.intermediate.img", "disk2.img"))
    blank.unlink()
    blank.touch()
    os.truncate(blank, MIB)
    away = data.rename(data.with_suffix(".away"))
    assert "disk2.img: No such file" in refused("start", east(pair))
    assert os.listxattr(blank) == []
    away.rename(data)
    pair.start()
    direct.sync(pair)
    assert os.listxattr(blank) == ["user.flashmirror"]


def test_check_says_what_it_waits_for(handmade: Handmade) -> None:
    """In the words of the site, which tries it; check opens nothing that the site may want."""
    handmade.create()
    away = intermediate(handmade).rename(intermediate(handmade).with_suffix(".away"))
    handmade.start("east")
    where = intermediate(handmade)
    assert row(handmade, "disk intermediate").startswith(f"failed: {where}: ")
    handmade.start("west")
    tells(handmade, "No such file")
    where.write_bytes(b"somebody's".ljust(handmade.size, b"."))
    tells(handmade, "not the store that was recorded")
    where.unlink()
    away.rename(where)
    direct.sync(handmade)
    assert row(handmade, "disk intermediate") == f"ok: {where}: in use by this site"


def tells(pair: Handmade, words: str) -> None:
    direct.wait_for(lambda: words in row(pair, "disk intermediate"), words)


def test_check_opens_nothing_that_a_running_site_waits_for(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the site would find it in use, and its server's only client there."""
    handmade.create()
    opened: list[str] = []
    monkeypatch.setattr(process, "found", lambda _: os.getpid())
    monkeypatch.setattr(stores, "open_store", lambda where, _: opened.append(where))
    settings = config.load(str(handmade.toml("east")))
    where = settings.volumes[0].intermediate
    for why, said in (
        (f"{where}: gone", f"{where}: gone"),
        ("", f"{where}: the site waits for it"),
    ):
        rows = checking._check_in_use(settings, None, {"disk": why})
        assert ("disk intermediate", "failed", said) in rows
    assert opened == []


def test_data_that_is_away_refuses_the_start(handmade: Handmade) -> None:
    """That is what clients read and write; and each store of a target, which is its image."""
    handmade.create()
    for path in (handmade.image("east"), handmade.image("west").with_suffix(".intermediate.img")):
        path.rename(path.with_suffix(".away"))
    for site in ("east", "west"):
        assert "No such file or directory" in refused("start", str(handmade.toml(site)))


def open_files() -> list[str]:
    return [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (os, "fstat"),
        (stores, "Opened"),
        (native.Store, "__init__"),
        (stores, "refuse_unfit"),
        (stores, "is_new"),
        (native.Store, "unflushed"),
        (site_.Site, "_mark_new"),
        (site_.Site, "_name_intermediate"),
        (None, "callback"),
    ],
)
def test_a_want_of_memory_while_it_is_taken_in_is_tried_again(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    """And not refused as in use: what was opened for that is closed."""
    handmade.create()
    away = intermediate(handmade).rename(intermediate(handmade).with_suffix(".away"))
    site = site_.Site(config.load(str(handmade.toml("east"))))
    try:
        away.rename(intermediate(handmade))

        def without(*_: Any, **__: Any) -> None:
            raise MemoryError

        with monkeypatch.context() as once, pytest.raises(MemoryError):
            once.setattr(owner or site._late, step, without)
            site._take_intermediates()
        assert str(intermediate(handmade)) not in open_files()
        assert site.without_intermediate() == {"disk"}
        site._take_intermediates()
        assert not site.without_intermediate()
    finally:
        site.stop()


def test_what_a_new_one_is_told_of_its_disk_counts_for_the_data_there(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is flushed before it is known to be blank, and that flush may be told what the disk has
    lost of the data: no client would hear of it."""
    handmade.create()
    intermediate(handmade).unlink()
    settings = config.load(str(handmade.toml("east")))
    site = site_.Site(settings, shares=lambda parts: below.Numbers(dict.fromkeys(parts, 1)))
    try:
        intermediate(handmade).touch()
        os.truncate(intermediate(handmade), handmade.size)
        data = site._opened["disk", "data"].store
        assert not data.losses

        def fails(one: stores.Opened, *_: Any) -> bool:
            with Path("/dev/null").open("r+b") as null:
                os.dup2(null.fileno(), one.fd or 0)
            one.flush()
            return True

        with monkeypatch.context() as once, pytest.raises(StoreError, match="Invalid argument"):
            once.setattr(stores, "is_new", fails)
            site._take_intermediates()
        assert data.losses
        site._take_intermediates()
        assert not site.without_intermediate()
    finally:
        site.stop()


@needs_loops
@pytest.mark.parametrize("same", [True, False], ids=["the data's disk", "another one"])
def test_what_was_away_at_the_start_stands_where_it_is_found(
    handmade: Handmade, scratch: Path, monkeypatch: pytest.MonkeyPatch, *, same: bool
) -> None:
    """Until then it was on any disk, perhaps: each hears what the other one's flush has lost, now
    as before.  Their flushes wait for each other once it is known to be on the data's."""
    numbers: list[int] = []
    stands_on = native.Store.stands_on

    def noted(store: native.Store, number: int) -> None:
        numbers.append(number)
        stands_on(store, number)

    disk, folder = Loop(scratch / "disk", 16 * MIB), scratch / "mounted"
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(disk.path)], check=True)
    subprocess.run(["mount", str(disk.path), str(folder)], check=True)
    try:
        handmade.stores["east", "data"] = str(folder / "data")
        if same:
            handmade.stores["east", "intermediate"] = str(folder / "intermediate")
        handmade.create()
        away = intermediate(handmade).rename(intermediate(handmade).with_suffix(".away"))
        monkeypatch.setattr(native.Store, "stands_on", noted)
        site = site_.Site(config.load(str(handmade.toml("east"))))
        try:
            away.rename(intermediate(handmade))
            site._take_intermediates()
        finally:
            site.stop()
        data, late = numbers
        assert max(data, late) < 0 and (data == late) is same
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        disk.close()


def test_a_file_that_shows_data_is_not_flushed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source is served only after it has looked whether an intermediate that is not the recorded
    one is blank: somebody's file of many GB that has just been copied there would take minutes."""
    path = scratch / "file"
    path.write_bytes(b"A" * 4096)
    one = stores.open_store(str(path), 1.0)
    try:
        monkeypatch.setattr(stores.Opened, "flush", lambda _: pytest.fail("it is flushed"))
        assert not one.blank_once_flushed()
    finally:
        one.store.close()
