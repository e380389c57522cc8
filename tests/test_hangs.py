"""A site whose process hangs, or a server of somebody else's files: every command is back in its
time, and says what to do."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, east, flashmirror, record, refused
from pair import MakePair, Pair
from served import Faulty

from mirror_core import config, ledger, limits, process
from mirror_core.errors import MirrorError

MARGIN_S = 3.0  # of a busy machine, beside the second that an answer may take


@contextlib.contextmanager
def hung(pair: Pair, site: str) -> Iterator[int]:
    pid: int = direct.status(pair, site)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """A wait in the system ends with the test, not with the run."""

    def late(*_: object) -> None:
        raise TimeoutError(f"nothing in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("is_young", [True, False], ids=["young", "in-doubt"])
def test_a_target_starts_whose_server_answers_all_but_a_flush(
    handmade: Handmade, scratch: Path, is_young: bool
) -> None:
    """It was stopped in order, and has no commit yet, or another history's intermediate: nothing
    that a flush could tell before the first cycle.  When the server goes on, so does the mirror."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["west", "intermediate"] = server.store(MIB)
    handmade.create()
    handmade.start("east")
    if not is_young:
        handmade.start("west")
        direct.sync(handmade)
        handmade.stop("west")
        state = handmade.folder / "west/state"
        ledger.save(state, replace(ledger.load(state), doubtful_before=True))
    try:
        server.fail("hang", "flush")
        began = time.monotonic()
        started = flashmirror("start", str(handmade.toml("west")))
        assert started.returncode == 0, started.stderr
        assert time.monotonic() - began < 5 + MARGIN_S
        assert direct.status(handmade, "west")["role"] == "target"
        server.mend()
        with handmade.client() as client:
            client.write(0, b"a" * 4096)
            client.flush()
        direct.sync(handmade)
    finally:
        server.mend()
        handmade.kill()
        server.stop()


@pytest.mark.soak
def test_a_hung_process_keeps_no_command_longer_than_its_time(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the process, its log, and what ends it."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    with hung(pair, "east") as pid:
        words = rf"process {pid} does not .*: see \S+/east/state/site.log; .*'kill -9 {pid}'"
        for command in ("sync", "pause"):
            begin = time.monotonic()
            said = refused(command, str(pair.toml("east")), "--timeout", "2s")
            assert time.monotonic() - begin < 2 + 1 + MARGIN_S, said
            assert re.search(words, said), said
        assert re.search(words, refused("status", str(pair.toml("east"))))
        monkeypatch.setattr(limits, "STOP_TIMEOUT_S", 0.5)
        with pytest.raises(MirrorError, match=words):
            process.stop(config.load(str(pair.toml("east"))))
    with hung(pair, "west") as pid:
        begin = time.monotonic()
        said = refused("promote", str(pair.toml("west")), "--force", "--timeout", "2s")
        assert time.monotonic() - begin < 2 + 1 + 2 + MARGIN_S, said
        assert f"process {pid} does not answer" in said


def test_a_start_waits_for_another_one_no_longer_than_that_may_take(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that was stopped at a terminal: its process is named, and what ends it."""
    settings = config.load(str(make_pair("--size", "1M").toml("east")))
    monkeypatch.setattr(limits, "START_TIMEOUT_S", 0.2)
    script = "import fcntl, os, sys; fd = os.open(sys.argv[1], 0); fcntl.flock(fd, 2); print(1)"
    words = [sys.executable, "-c", f"{script}; sys.stdout.flush(); input()", str(settings.state)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        words_of_it = rf"process {other.pid} starts it, .*'kill -9 {other.pid}'"
        with bounded(10), pytest.raises(MirrorError, match=words_of_it):
            process.start(settings)
        other.kill()
    monkeypatch.undo()
    process.start(settings)
    assert process.running(settings)


NOT_SEEN = r"east: runs, but its process is not to be seen from here .* stop it there"


def test_a_stop_signals_nobody_but_who_has_the_state(make_pair: MakePair) -> None:
    """The number in the lock file may be another process's here: the folder is shared with a
    container, whose processes have numbers of their own."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    lock = pair.folder / "east/state/lock"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lock.write_text(f"{stranger.pid}\n")
        try:
            with bounded(20):
                assert record("stop", str(pair.toml("east"))) == {"site": "east", "in_order": True}
            assert stranger.poll() is None, "it was ended"
        finally:
            stranger.kill()
    assert process.found(config.load(str(pair.toml("east")))) is None


OPEN = """
import fcntl, os, sys
hung = os.open(sys.argv[1], os.O_PATH)
own = os.open(sys.argv[2], os.O_RDWR if os.path.isfile(sys.argv[2]) else 0)
eval(sys.argv[3])
open("/proc/self/comm", "w").write(sys.argv[4])
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def beside_a_hung_server(folder: Path, own: Path, lock: str, name: str = "x") -> Iterator[int]:
    """A process of this name that has a folder open of a file system whose server answers nothing;
    and `own`, after that, which it locks.  FUSE without a server hangs as one whose server does."""
    folder.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    how = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    libc, pipe = ctypes.CDLL(None, use_errno=True), subprocess.PIPE
    assert libc.mount(b"hung", str(folder).encode(), b"fuse", 0, how) == 0, ctypes.get_errno()
    try:
        words = [sys.executable, "-c", OPEN, str(folder), str(own), lock, name]
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
            assert other.stdout and other.stdout.readline() == "open\n"
            try:
                yield other.pid
            finally:
                other.kill()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        os.close(device)  # whoever waits there waits no more


@pytest.mark.root("mounts a FUSE file system", "/dev/fuse")
def test_a_hung_server_of_others_is_in_no_command_s_way(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has locked a store, who keeps a start waiting and who has a site's state is looked for
    among the open files of others, one of which may be on a server that hangs: that is not asked
    for it."""
    handmade.write("east")
    path, hung = Path(handmade.store("east", "data")), handmade.folder / "hung"
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    lock = f"fcntl.fcntl(own, fcntl.F_OFD_SETLK, {whole!r})"
    with beside_a_hung_server(hung, path, lock) as pid, bounded(10):
        said = refused("create", east(handmade), "--role", "source")
        assert f"{path}: in use by process {pid} (x): stop that first" in said
    handmade.create("east")
    settings = config.load(east(handmade))
    hung.rmdir()
    monkeypatch.setattr(limits, "START_TIMEOUT_S", 0.2)
    flock = "fcntl.flock(own, 2)"
    begun = pytest.raises(MirrorError, match=r"process \d+ starts it")
    with beside_a_hung_server(hung, settings.state, flock), bounded(10), begun:
        process.start(settings)
    hung.rmdir()
    has_state = settings.state / "lock"
    with beside_a_hung_server(hung, has_state, flock, "nbdkit") as pid, bounded(10):
        has_state.write_text(f"{pid}\n")
        assert flashmirror("stop", east(handmade)).stdout == "east: stopped\n"


def test_a_site_whose_nbdkit_has_capabilities_of_its_own_is_no_riddle(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets its user see that it is there, and not what it has open: so `stop` says what
    may be so, and what stops it.  It was "another user's, or on another machine", which it was not.
    """
    pair = make_pair("--size", "1M")
    pair.start("east")
    settings = config.load(str(pair.toml("east")))
    pid = process.holder(settings)
    with monkeypatch.context() as closed:
        closed.setattr(process, "_has_lock", lambda *_: False)
        closed.setattr(process, "_is_begun_with", lambda *_, **__: False)
        with bounded(20), pytest.raises(MirrorError, match=rf"\(setcap\): 'kill {pid}' stops it"):
            process.stop(settings)
    assert pid
    os.kill(pid, signal.SIGTERM)
    assert process.stop(settings)  # waits for the end


def pid_namespace() -> tuple[str, ...]:
    return ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.mark.root("makes a namespace of processes")
def test_a_stop_in_another_container_says_where_to_stop(make_pair: MakePair) -> None:
    """The site's process has no number there."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    line = refused("stop", str(pair.toml("east")), prefix=pid_namespace())
    assert re.search(NOT_SEEN, line), line
    pair.stop("east")
