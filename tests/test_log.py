"""A log that cannot be written holds up nobody: a full disk, a pipe that nobody reads; one that was
renamed goes on in a new file.

The source's log is made such, then its link is lost and comes back, of which there is much to say.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import direct
import pytest
from handmade import Handmade, MountedDisk, east, eventually, record, state_of, until_state
from pair import FLASHMIRROR, Pair
from remote import MakeRemote
from test_clean_start import HOLDER
from test_taken_away import called

from mirror_core import config, limits, process, rotate
from mirror_core.errors import MirrorError
from mirror_core.journal import Journal
from mirror_core.platform import Platform

BLOCK = 4096


class Unwritable(Platform):
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.lines: list[str] = []

    def write_log(self, line: str) -> None:
        if self.error:
            raise self.error
        self.lines.append(line)


def test_what_cannot_be_said_is_counted_and_said_later() -> None:
    platform = Unwritable()
    journal = Journal(platform)
    for platform.error in (OSError(28, "full"), MemoryError(), ValueError("closed")):
        journal.say("lost")
    platform.error = None
    journal.say("a name that is not text: \udcff\x1b[2J")
    assert platform.lines == [
        "flashmirror: 3 lines before this could not be written",
        "flashmirror: a name that is not text: \\xff\\x1b[2J",
    ]
    journal.say("next")
    assert platform.lines[2:] == ["flashmirror: next"]


@pytest.fixture
def log(scratch: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor whose every write fails, or would wait."""
    with ExitStack() as undo:
        if request.param == "full disk":
            disk = MountedDisk(scratch / "log", 1 << 20)
            undo.callback(disk.close)
            fd = os.open(disk.folder / "site.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            disk.fill()
            while os.fstat(fd).st_size % BLOCK or os.fstat(fd).st_size == 0:
                try:
                    os.write(fd, b"x")
                except OSError:
                    break
        else:
            reader, fd = os.pipe()
            if request.param == "pipe without a reader":
                os.close(reader)
            else:
                undo.callback(os.close, reader)
                os.write(fd, bytes(fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)))
        undo.callback(os.close, fd)
        yield fd


LOGS = pytest.mark.parametrize(
    "log",
    [
        pytest.param("full disk", marks=pytest.mark.root("mounts a file system")),
        "full pipe",
        "pipe without a reader",
    ],
    indirect=True,
)


@LOGS
def test_a_source_mirrors_on_without_its_log(handmade: Handmade, log: int) -> None:
    handmade.create()
    handmade.start("west")
    words = [str(FLASHMIRROR), "start", "--foreground", str(handmade.toml("east"))]
    source = subprocess.Popen(words, stderr=log)
    try:
        eventually(lambda: answers(handmade), "the source answers")
        with handmade.client() as client:
            client.write(0, b"1" * BLOCK)
            direct.sync(handmade)
            handmade.stop("west")
            until_state(handmade, "degraded")
            client.write(0, b"2" * BLOCK)
            handmade.start("west")
            direct.sync(handmade)
            assert state_of(handmade)["state"] == "mirroring"
            assert handmade.image("west").read_bytes() == client.read(0, handmade.size)
        handmade.stop("east")
        assert source.wait(20) == 0
    finally:
        source.kill()
        source.wait(20)


# The real holder, but for the kernel: the test says when a connection dies, by a line, and hears
# what becomes of it.
RENEWER = """
import sys
from pathlib import Path
from mirror_core import attach, config, holders, kernel
site, holders.FOLDER = config.load(sys.argv[1]), Path(sys.argv[2])
backend = [attach.backend(site, "disk")]
class Dead:
    def wait(self, index, timeout_s):
        print("waits", flush=True)
        line = sys.stdin.readline()
        if line == "end\\n":
            backend.clear()
        return line == "dead\\n"
def no_timeout(index, timeout_s):
    raise OSError(95, "not there")
kernel.DeadLinks, kernel.find, kernel.set_request_timeout = Dead, lambda _: 0, no_timeout
kernel.backend_of, kernel.size_of = lambda _: backend[0] if backend else None, lambda _: 1 << 20
kernel.reconfigure = lambda index, fds, backend: print("renewed", flush=True)
attach.stay(attach.Device(site, "disk", backend[0]))
"""


@LOGS
def test_a_holder_renews_connections_without_its_log(
    handmade: Handmade, log: int, scratch: Path
) -> None:
    """The site goes and comes back under a device, of which there is much to say; a holder that
    ended, or waited, would leave a mounted file system without an answer."""
    handmade.create()
    handmade.start()
    words = [sys.executable, "-c", RENEWER, east(handmade), str(scratch / "holders")]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=handmade.folder
    ) as holder:
        try:

            def say(line: str, *answers: str) -> None:
                assert holder.stdin and holder.stdout
                holder.stdin.write(line)
                holder.stdin.flush()
                for answer in answers:
                    assert holder.stdout.readline() == f"{answer}\n"

            # Two rounds of new connections after a death, and one of who finds the device attached.
            say("", "waits")
            say("on\n", "renewed", "waits")
            for _ in range(2):
                handmade.stop("east")
                say("dead\n", "waits")
                say("on\n", "waits")
                handmade.start("east")
                say("on\n", "renewed", "waits")
                say("on\n", "renewed", "waits")
            say("end\n")
            assert holder.wait(20) == 0
        finally:
            holder.kill()


@LOGS
def test_a_port_is_guarded_without_the_log(make_remote: MakeRemote, log: int) -> None:
    """Strangers of all kinds knock, of each of which there is a line to say: the site and its
    source go on, and of a crowd the oldest are still put out."""
    pair = make_remote("--size", "1M")
    pair.start("east")
    words = [str(FLASHMIRROR), "start", "--foreground", str(pair.toml("west"))]
    target = subprocess.Popen(words, stderr=log)
    try:
        direct.wait_for(lambda: answers(pair, "west"), "the target answers")
        direct.sync(pair)
        with ExitStack() as crowd:

            def stranger() -> socket.socket:
                return crowd.enter_context(socket.create_connection(at, 20, ("127.0.0.9", 0)))

            at = ("127.0.0.1", pair.port["west"])
            first = stranger()
            for said in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01" + bytes(600)) * 5:
                with stranger() as one:
                    one.sendall(said)
            for _ in range(limits.STRANGERS_MAX + 10):
                stranger()
            first.settimeout(20)
            with suppress(ConnectionError):
                while first.recv(65536):
                    pass
            with pair.client() as client:
                client.write(0, b"2" * BLOCK)
            direct.sync(pair)
        assert pair.image("west").read_bytes()[:BLOCK] == b"2" * BLOCK
        pair.stop("west")
        assert target.wait(20) == 0
    finally:
        target.kill()
        target.wait(20)


def answers(pair: Pair, site: str = "east") -> bool:
    try:
        return bool(state_of(pair, site))
    except MirrorError:
        return False


def hang_up(pid: int, log: Path) -> Path:
    """Rename a log, and tell the process so, as logrotate(8) does; the old one."""
    old = log.with_name("old.log")
    log.rename(old)
    os.kill(pid, signal.SIGHUP)
    return old


@pytest.mark.parametrize("foreground", [False, True])
def test_a_log_that_was_renamed_goes_on_in_a_new_file(
    handmade: Handmade, tmp_path: Path, foreground: bool
) -> None:
    """After a SIGHUP; of a site that was started, and of one in the foreground whose stderr is a
    file.  Only its owner may read it, and nothing is written to the old one any more."""
    handmade.create()
    handmade.start("west")
    log = tmp_path / "err" if foreground else handmade.folder / "east/state/site.log"
    words = [str(FLASHMIRROR), "start", east(handmade), *(["--foreground"] if foreground else [])]
    with (tmp_path / "err").open("wb") as err:
        source = subprocess.Popen(words, stderr=err)
    try:
        eventually(lambda: answers(handmade), "the source answers")
        direct.sync(handmade)
        old = hang_up(state_of(handmade)["pid"], log)
        eventually(log.exists, "there is a new one")
        assert log.stat().st_mode & 0o777 == 0o600
        said = old.read_bytes()
        handmade.stop("west")
        until_state(handmade, "degraded")
        eventually(lambda: "flashmirror: peer at" in log.read_text(), "it goes on there")
        assert old.read_bytes() == said
        handmade.stop("east")
        assert source.wait(20) == 0
    finally:
        source.kill()
        source.wait(20)


def renamed(log: Path) -> Path:
    return log.rename(log.with_name("old.log"))


def test_reopen_returns_when_the_site_has_left_its_old_log(handmade: Handmade) -> None:
    """So that the old one can be compressed; said again it does no harm, and of a site that does
    not run there is nothing to do."""
    handmade.create()
    handmade.start("east")
    log, pid = handmade.folder / "east/state/site.log", state_of(handmade)["pid"]
    for _ in range(5):
        old = renamed(log)
        assert record("reopen", east(handmade)) == {"site": "east", "pid": pid}
        assert os.path.samestat(log.stat(), os.stat(f"/proc/{pid}/fd/2"))
        assert not os.path.samestat(log.stat(), old.stat())
    assert record("reopen", east(handmade))["pid"] == pid
    assert record("stop", east(handmade))["in_order"]
    assert record("reopen", east(handmade)) == {"site": "east", "pid": None}


def test_reopen_waits_for_a_log_that_was_moved_to_another_folder(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As logrotate's `olddir` does: while the old one goes on there, nothing is said to be done."""
    monkeypatch.setattr(limits, "CONTROL_TIMEOUT_S", 0.5)
    handmade.create()
    handmade.start("east")
    settings = config.load(east(handmade))
    log, elsewhere = settings.state / "site.log", handmade.folder / "old"
    elsewhere.mkdir()
    log.rename(elsewhere / "site.log.1")
    log.symlink_to(handmade.folder / "victim")  # which it does not open
    with pytest.raises(MirrorError, match="has not opened its log again"):
        rotate.reopen(settings)
    log.unlink()
    pid = rotate.reopen(settings)
    assert os.path.samestat(log.stat(), os.stat(f"/proc/{pid}/fd/2"))


def test_reopen_returns_where_a_person_s_own_file_is_called_alike(
    handmade: Handmade, tmp_path: Path
) -> None:
    """`2>FILE`, or systemd's StandardError=append: it is opened again where it is."""
    handmade.create()
    log = tmp_path / "site.log"
    with log.open("ab") as err:
        words = [str(FLASHMIRROR), "start", "--foreground", east(handmade)]
        source = subprocess.Popen(words, stderr=err)
    try:
        eventually(lambda: answers(handmade), "the source answers")
        log.rename(tmp_path / "site.log.1")
        assert record("reopen", east(handmade)) == {"site": "east", "pid": source.pid}
        assert os.path.samestat(log.stat(), os.stat(f"/proc/{source.pid}/fd/2"))
    finally:
        source.terminate()
        source.wait(20)


def test_reopen_signals_nobody_but_the_site(handmade: Handmade) -> None:
    """root gives it, and the owner of the folder has written another's number into the lock's
    file; a process that is not there yet is not signalled before it takes it."""
    handmade.create()
    handmade.start("east")
    pid, lock = state_of(handmade)["pid"], handmade.folder / "east/state/lock"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        lock.write_text(f"{stranger.pid}\n")
        try:
            assert record("reopen", east(handmade)) == {"site": "east", "pid": pid}
            handmade.stop("east")
            lock.write_text(f"{stranger.pid}\n")
            assert record("reopen", east(handmade)) == {"site": "east", "pid": None}
            assert stranger.poll() is None, "it was ended"
        finally:
            stranger.kill()


def test_reopen_leaves_alone_who_only_begins_the_site(
    handmade: Handmade, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not take signals yet, and would be ended."""
    monkeypatch.setattr(limits, "CONTROL_TIMEOUT_S", 0.5)
    handmade.create()
    toml = str(handmade.toml("east"))
    with called(scratch, "flashmirror", "start", "--foreground", toml) as begins:
        with pytest.raises(MirrorError, match=f"process {begins} does not serve within 0.5 s"):
            rotate.reopen(config.load(toml))
        assert "(zombie)" not in Path(f"/proc/{begins}/status").read_text(), "it was ended"


def test_reopen_fails_where_the_log_goes_on_as_before(
    handmade: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTROL_TIMEOUT_S", 0.5)
    handmade.create()
    handmade.start("west")
    settings = config.load(str(handmade.toml("west")))
    log, pid = settings.state / "site.log", state_of(handmade, "west")["pid"]
    renamed(log)
    log.symlink_to(handmade.folder / "victim")
    with pytest.raises(MirrorError, match=f"process {pid} has not opened its log again in 0.5 s"):
        rotate.reopen(settings)
    log.unlink()
    assert rotate.reopen(settings) == pid


def test_a_holders_log_that_was_renamed_goes_on_in_a_new_file(
    handmade: Handmade, tmp_path: Path
) -> None:
    handmade.create()
    log = tmp_path / "log"
    words = [sys.executable, "-c", HOLDER, str(handmade.toml("east"))]
    with log.open("wb") as err:
        holder = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=err, stderr=err, cwd=handmade.folder
        )
    with holder:
        eventually(lambda: "holds" in log.read_text(), "it holds")
        hang_up(holder.pid, log)
        eventually(log.exists, "there is a new one")
        holder.communicate(b"on\n", timeout=20)
    assert "says on" in log.read_text()


# In the middle of the line that says what it holds comes the signal: and the log cannot be opened
# again, of which there is a line to say.
INTERRUPTED = """
import os, signal, sys
from mirror_core.platform import Platform
write, signals = Platform.write_log, [signal.SIGHUP]
def interrupted(self, line):
    while signals and " is /dev/nbd" in line:
        os.rename(sys.argv[2], sys.argv[2] + ".old")
        os.mkdir(sys.argv[2])
        os.kill(os.getpid(), signals.pop())
    write(self, line)
Platform.write_log = interrupted
"""


def test_a_signal_in_the_middle_of_a_line_holds_up_no_holder(
    handmade: Handmade, tmp_path: Path
) -> None:
    handmade.create()
    log, old = tmp_path / "log", tmp_path / "log.old"
    words = [sys.executable, "-c", INTERRUPTED + HOLDER, str(handmade.toml("east")), str(log)]
    with log.open("wb") as err:
        holder = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=err, cwd=handmade.folder)
    with holder:
        try:
            eventually(lambda: old.exists() and "holds" in old.read_text(), "it holds")
            eventually(lambda: f"{log}: Is a directory" in old.read_text(), "it says why")
            holder.communicate(b"on\n", timeout=20)
        finally:
            holder.kill()
    assert "says on" in old.read_text()


def test_a_log_that_cannot_be_opened_again_goes_on_where_it_was(handmade: Handmade) -> None:
    """It says why: its owner has put a link in its place, which root is not to follow, or a pipe,
    which would be waited for; and a signal to end is taken all the same."""
    handmade.create()
    handmade.start("west")
    log, victim = handmade.folder / "west/state/site.log", handmade.folder / "victim"
    victim.touch()
    old = log.with_name("old.log")
    log.rename(old)
    log.symlink_to(victim)
    os.kill(state_of(handmade, "west")["pid"], signal.SIGHUP)
    eventually(lambda: f"{log}: Too many levels of symbolic links" in old.read_text(), "it says so")
    log.unlink()
    assert not victim.read_bytes()
    os.mkfifo(log)
    os.kill(state_of(handmade, "west")["pid"], signal.SIGHUP)
    eventually(lambda: f"{log}: No such device or address" in old.read_text(), "it says so")
    log.unlink()
    assert record("stop", str(handmade.toml("west")))["in_order"]


def test_what_a_new_log_says_is_found_by_whoever_waits(tmp_path: Path) -> None:
    """A command notes how long the log is; it is begun anew meanwhile, and shorter then."""
    path = tmp_path / "site.log"
    path.write_text("flashmirror: before\n" * 100)
    log = process.Log(path, path.stat().st_size)
    path.rename(tmp_path / "old.log")
    path.write_text("flashmirror: after\n")
    assert process.said_since(log) == "after"
