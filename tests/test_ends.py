"""A start that is refused leaves nothing, and an end waits for nobody who is silent."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from handmade import (
    Handmade,
    MountedDisk,
    east,
    edit,
    eventually,
    kill,
    refused,
    state_of,
    until_state,
)
from pair import CommandFailed, MakePair, some
from prometheus_client import CollectorRegistry, generate_latest
from test_link import frozen

from mirror_core import config, ledger, limits, status, stores, timeouts
from mirror_core.errors import LedgerError
from mirror_core.metrics import SiteCollector
from mirror_core.platform import Platform, Thread
from mirror_core.site import Site

BLOCK = 4096


def test_a_start_removes_files_of_its_own_runs_only(handmade: Handmade) -> None:
    """A store that somebody keeps in the state folder stays, whatever its name begins with; what
    another run has left goes."""
    handmade.create()
    state = handmade.folder / "west" / "state"
    kept = [
        state / name for name in ("hardened.img", "written.img", "disk.intent.old", "hardened.")
    ]
    left = [state / f"{name}.{'0' * 32}" for name in ("hardened", "written", "disk.intent")]
    for path in [*kept, *left]:
        path.write_bytes(b"bytes")
    handmade.start("west")
    handmade.stop("west")
    assert [path.name for path in kept if not path.exists()] == []
    assert [path.name for path in left if path.exists()] == []


def files(pair: Handmade, site: str) -> set[str]:
    """Of the state folder, and of the maps that outlive a kill."""
    state = pair.folder / site / "state"
    kept = Path(os.environ["RUNTIME_DIRECTORY"]).glob("*.maps")
    return {str(path) for path in [*state.iterdir(), *kept]}


@pytest.mark.parametrize("site", some(["west", "east"]))
def test_refused_starts_leave_no_file(handmade: Handmade, site: str) -> None:
    """A site is killed, and then its start is refused for a store that is not there, and for a
    port that is taken: its folder holds what it held, and the next start finds all of it."""
    pair = handmade
    pair.create()
    pair.start()
    with pair.client() as client:
        client.write(0, b"x" * BLOCK)
        pair.sync()
        pair.pause()
        client.write(BLOCK, b"y" * BLOCK)
    pid = int(state_of(pair, site)["pid"])
    os.kill(pid, 9)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "it is gone")
    before = files(pair, site)
    text = pair.toml(site).read_text()
    image = Path(pair.store(site, "data" if site == "east" else "intermediate"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        pair.toml(site).write_text(text.replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        for _ in range(3):
            assert str(port) in refused("start", str(pair.toml(site)))
            assert files(pair, site) == before
    pair.toml(site).write_text(text)
    image.rename(image.with_suffix(".away"))
    assert image.name in refused("start", str(pair.toml(site)))
    assert files(pair, site) == before
    image.with_suffix(".away").rename(image)
    pair.start(site)
    pair.resume()
    pair.sync()
    pair.stop()
    assert Path(pair.store("west", "data")).read_bytes()[: 2 * BLOCK] == b"x" * BLOCK + b"y" * BLOCK


@pytest.mark.root("mounts a file system")
def test_a_start_on_a_full_disk_says_so(scratch: Path) -> None:
    """The reason of a start that cannot even say why it ends is the disk of its log."""
    disk = MountedDisk(scratch / "disk", 1 << 20)
    pair = Handmade(scratch / "pair")
    try:
        pair.create()
        state = pair.folder / "west" / "state"
        moved = disk.folder / "state"
        os.rename(state, scratch / "kept")
        moved.mkdir(mode=0o700)
        for path in (scratch / "kept").iterdir():
            (moved / path.name).write_bytes(path.read_bytes())
        state.symlink_to(moved)
        disk.fill()
        said = refused("start", str(pair.toml("west")))
        assert "No space left on device" in said, said
        disk.empty()
        pair.start("west")
    finally:
        pair.kill()
        disk.close()


def test_a_stop_does_not_wait_for_a_silent_target(handmade: Handmade) -> None:
    """With a patient link (60 s) the target's process stands still, idle and then with a cycle
    whose copy waits for its answer: the source stops in order, soon."""
    pair = handmade
    pair.more = 'link_timeout = "60s"'
    pair.create()
    pair.start()
    with pair.client() as client:
        client.write(0, b"x" * BLOCK)
    pair.sync()
    for busy in (False, True):
        until_state(pair, "mirroring")
        with frozen(pair, "west"):
            if busy:
                with pair.client() as client:
                    client.write(BLOCK, b"y" * BLOCK)
                eventually(lambda: state_of(pair)["cycle"]["phase"] == "copy", "the cycle")
            began = time.monotonic()
            pair.stop("east")
            took = time.monotonic() - began
        assert took < timeouts.farewell_s(), f"the stop took {took:.1f} s"
        assert "as if killed" not in pair.log("east")
        pair.start("east")
    pair.sync()


class SlowRelay:
    """A line to `to`, on which connection `slow` comes about once it is let through; the rest come
    about at once, those behind it after it."""

    def __init__(self, near: Path, to: Path, slow: int) -> None:
        self.seen, self.comes, self.let_through = 0, threading.Event(), threading.Event()
        self._to, self._slow, self._listener = to, slow, socket.socket(socket.AF_UNIX)
        self._listener.bind(str(near))
        self._listener.listen(100)
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        while True:
            near, _ = self._listener.accept()
            self.seen += 1
            if self.seen == self._slow:
                self.comes.set()
                self.let_through.wait()
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._to))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._hand_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _hand_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


VOLUMES, CONNECTIONS = 3, 2 + limits.PRIORITY_LANES  # of a volume: one to look, and the lanes


@pytest.mark.parametrize("slow", [2, 2 + VOLUMES, 2 + VOLUMES + CONNECTIONS - 1])
def test_a_stop_waits_for_one_connection_of_a_session_at_most(
    make_pair: MakePair, slow: int
) -> None:
    """A session opens a connection after another: that of its requests, one to each intermediate,
    then the lanes of each volume.  A stop that comes while one of them is slow to come about waits
    for that one, opens no other, and is in order."""
    pair = make_pair("--size", "1M", "--volumes", str(VOLUMES))
    line = SlowRelay(pair.folder / "slow.sock", pair.folder / "west.sock", slow)
    edit(pair, f"unix:{pair.folder}/west.sock", f"unix:{pair.folder}/slow.sock")
    pair.start("west")
    path = config.load(str(pair.toml("east")))
    site = Site(path)
    site.start()
    assert line.comes.wait(20)
    site.ending()
    line.let_through.set()
    site.stop()
    assert line.seen <= slow + 1, "and one of the pulse, perhaps"
    assert ledger.load(path.state).clean


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test"])
def test_what_is_no_name_of_a_host_is_no_error_of_ours(handmade: Handmade, host: str) -> None:
    """A typing error in `peer`: the reason says so, and the source goes on trying."""
    handmade.create("east")
    edit(handmade, f"unix:{handmade.folder}/west.sock", f"nbd://{host}:10809")
    edit(handmade, 'name = "east"', 'insecure = true\nname = "east"')
    site = Site(config.load(east(handmade)))
    site.start()
    try:
        words = f"{host} is no host's name"
        eventually(lambda: words in str(status.of(site)["reason"]), "a reason", timeout_s=5)
    finally:
        site.ending()
        site.stop()


def test_a_stop_does_not_wait_for_a_name_server(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for another resolver, such as systemd-resolved, which may take minutes to find that it
    has no answer: the control gives it up in its time, says so, and the stop is in order."""
    handmade.create("east")
    edit(handmade, f"unix:{handmade.folder}/west.sock", "nbd://hung.test:10809")
    edit(handmade, 'name = "east"', 'insecure = true\nname = "east"')
    asked, answers, real = threading.Event(), threading.Event(), socket.getaddrinfo

    def find(host: str, *rest: Any, **named: Any) -> Any:
        if host == "hung.test":
            asked.set()
            assert answers.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", find)
    monkeypatch.setattr(limits, "CONNECT_S", 0.5)
    settings = config.load(east(handmade))
    site = Site(settings)
    site.start()
    late = threading.Timer(15, answers.set)
    try:
        assert asked.wait(20)
        words = "where hung.test is"
        eventually(lambda: words in str(status.of(site)["reason"]), "a reason", timeout_s=5)
    finally:
        late.start()
        began = time.monotonic()
        site.ending()
        site.stop()
        took = time.monotonic() - began
        late.cancel()
        answers.set()
    assert took < 10, f"the stop took {took:.1f} s"
    assert ledger.load(settings.state).clean


def test_a_scrape_at_the_end_touches_nothing_that_is_gone(handmade: Handmade) -> None:
    """A scrape that comes while, or after, a site stops is answered with what is known: nothing."""
    pair = handmade
    pair.create()
    site = Site(config.load(str(pair.toml("east"))))
    site.start()
    assert site.metrics
    registry = CollectorRegistry()
    registry.register(SiteCollector(site))
    assert b"flashmirror_info" in generate_latest(registry)
    ours = site.metrics.collector
    scrapes: list[int] = []
    stopped = threading.Event()

    def scrape() -> None:
        while not (stopped.is_set() and scrapes[-1] == 0):
            scrapes.append(len(list(ours.collect())))

    thread = threading.Thread(target=scrape)
    thread.start()
    eventually(lambda: any(scrapes), "a scrape")
    site.ending()
    site.stop()
    stopped.set()
    thread.join(20)
    assert not thread.is_alive() and scrapes[-1] == 0


def test_a_peer_that_says_it_may_be_silent_for_ever_is_not_believed(handmade: Handmade) -> None:
    """However long a source says that it may be silent, its target takes it for gone in the end."""
    assert timeouts.silence_s(limits.LINK_TIMEOUT_MAX_S) < 3600
    pair = handmade
    pair.more = f'link_timeout = "{limits.LINK_TIMEOUT_MAX_S + 1:g}s"'
    with pytest.raises(CommandFailed, match=r"link_timeout: .*at most 600s"):
        pair.create()


class _HungLook(Platform):
    """The thread that looks for losses hangs, and the one of the control cannot be begun."""

    def __init__(self) -> None:
        self.hangs, self.aborted = threading.Event(), threading.Event()

    def spawn(self, name: str, work: Callable[[], None]) -> Thread:
        if name == "control":
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        def after_all() -> None:
            self.hangs.wait()
            work()

        return super().spawn(name, after_all)

    def abort(self) -> NoReturn:
        self.aborted.set()
        self.hangs.set()
        raise SystemExit(1)


def test_a_start_that_fails_takes_nothing_from_under_a_thread(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state disk hangs for the thread that looks for losses, and the site cannot go on: what that
    thread uses is not freed, but the process ends."""
    handmade.create()
    monkeypatch.setattr(limits, "JOIN_S", 0.1)
    platform = _HungLook()
    with pytest.raises(SystemExit):
        Site(config.load(str(handmade.toml("east"))), platform=platform).start()
    assert platform.aborted.is_set()


class _NoPid(Platform):
    """A machine on which the lock file cannot be written."""

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if data == f"{os.getpid()}\n".encode():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwrite(fd, data, offset)


def test_a_refused_start_leaves_nobody_who_serves_its_metrics(handmade: Handmade) -> None:
    """What a scrape looks at, the volumes, is gone after a start that was refused."""
    handmade.create()
    site = Site(config.load(str(handmade.toml("east"))), platform=_NoPid())
    with pytest.raises(LedgerError, match="No space"):
        site.start()
    assert site.metrics and site.metrics.address
    host, _, port = site.metrics.address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 5).close()


def test_a_source_that_could_not_drop_what_was_lost_does_not_stop_in_order(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill the cache of its data is to be dropped before anything is copied.  If that
    fails, and the site is stopped, the next process tries again: the ledger says that it must."""
    handmade.create()
    handmade.start("east")
    kill(handmade, "east")
    tried = threading.Event()

    def fail(_: stores.Opened) -> None:
        tried.set()
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    path = config.load(str(handmade.toml("east")))
    with monkeypatch.context() as patch:
        patch.setattr(stores.Opened, "drop_cache", fail)
        site = Site(path)
        site.start()
        assert tried.wait(20)
        site.stop()
    assert not ledger.load(path.state).clean
    site = Site(path)
    site.start()
    site.stop()
    assert ledger.load(path.state).clean
