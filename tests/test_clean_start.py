"""A process that outlives its starter begins the same, whatever that has left it: descriptors and
the locks on them, closed standard ones, blocked and ignored signals, a locale, a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from handmade import Handmade, east, eventually, record, refused, state_of
from pair import FLASHMIRROR, MakePair, Pair
from test_promotion_waits import has_ended

from mirror_core import launch
from mirror_core.errors import MirrorError

# A starter that leaves behind whatever it can: it locks a file, closes some of 0 to 2, and blocks
# and ignores every signal that it may; then it becomes the command.
STARTER = """
import fcntl, os, signal, sys
lock, closed, *words = sys.argv[1:]
fd = os.open(lock, os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
for place in (fd, 63):
    os.dup2(fd, place, inheritable=True)
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
for digit in closed:
    os.close(int(digit))
os.execv(words[0], words)
"""
HARMLESS = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def dirty(lock: Path, closed: str = "") -> tuple[str, ...]:
    """Words before a command."""
    return (sys.executable, "-c", STARTER, str(lock), closed)


def answers(pair: Pair) -> bool:
    with contextlib.suppress(MirrorError):
        return bool(state_of(pair))
    return False


@contextlib.contextmanager
def started(pair: Pair, prefix: tuple[str, ...]) -> Iterator[int]:
    """`start`: the site's process."""
    words = [*prefix, str(FLASHMIRROR), "start", east(pair)]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    yield state_of(pair)["pid"]
    assert record("stop", east(pair))["in_order"]


@contextlib.contextmanager
def in_the_foreground(pair: Pair, prefix: tuple[str, ...]) -> Iterator[int]:
    """As systemd has it, or a person."""
    words = [*prefix, str(FLASHMIRROR), "start", "--foreground", east(pair)]
    with subprocess.Popen(words) as site:
        try:
            eventually(lambda: answers(pair), "the site answers")
            yield site.pid
            assert record("stop", east(pair))["in_order"]
            assert site.wait(20) == 0
        finally:
            site.kill()


HOLDER = """
import sys
from mirror_core import attach, config
class Holder:
    index = 0
    def __init__(self, device, say): pass
    def attach(self): pass
    def hold(self):
        print("holds", file=sys.stderr, flush=True)
        for line in sys.stdin:
            print("says", line, file=sys.stderr, flush=True)
attach.Holder = Holder
attach.stay(attach.Device(config.load(sys.argv[1]), "disk", ""))
"""


@contextlib.contextmanager
def a_holder(pair: Pair, prefix: tuple[str, ...]) -> Iterator[int]:
    """Of a device, but for what the kernel has to do with it."""
    words = [*prefix, sys.executable, "-c", HOLDER, east(pair)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stderr=pipe, text=True, cwd=pair.folder) as holder:
        try:
            assert holder.stderr
            eventually(lambda: holder.stderr and "holds" in holder.stderr.readline(), "it holds")
            yield holder.pid
        finally:
            holder.kill()


Way = Callable[[Pair, tuple[str, ...]], contextlib.AbstractContextManager[int]]
WAYS = pytest.mark.parametrize("way", [started, in_the_foreground, a_holder])


def signals(pid: int, row: str) -> set[int]:
    """Of a process: SigIgn, SigBlk, ShdPnd (proc_pid_status(5))."""
    return in_mask(Path(f"/proc/{pid}/status").read_text(), row)


def in_mask(text: str, row: str) -> set[int]:
    (mask,) = (int(line.split()[1], 16) for line in text.splitlines() if line.startswith(row))
    return {int(one) for one in signal.valid_signals() if mask >> (one - 1) & 1}


@WAYS
def test_what_its_starter_has_open_is_free_again(
    make_pair: MakePair, tmp_path: Path, way: Way
) -> None:
    """`flock LOCK -c 'flashmirror start ...'`, a job server's pipe: nothing of it is held for as
    long as the process runs."""
    pair, lock = make_pair("--size", "1M"), tmp_path / "lock"
    with way(pair, dirty(lock)) as pid, lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if int(fd.name) > 2]
        assert str(lock) not in held, held


@WAYS
def test_signals_are_as_if_nobody_had_touched_them(
    make_pair: MakePair, tmp_path: Path, way: Way
) -> None:
    """Those that end it do, though its starter blocked and ignored them; and its folder is one that
    nobody wants to unmount."""
    pair = make_pair("--size", "1M")
    with way(pair, dirty(tmp_path / "lock")) as pid:
        assert signals(pid, "SigIgn") == {signal.SIGPIPE, signal.SIGXFSZ}
        blocked = signals(pid, "SigBlk")
        assert blocked == (HARMLESS - {signal.SIGHUP} if way is a_holder else HARMLESS | ENDING)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"


@WAYS
def test_signals_that_mean_something_else_end_nothing(
    make_pair: MakePair, tmp_path: Path, way: Way
) -> None:
    """Nor do they hang it: a site still answers, and ends in order."""
    pair = make_pair("--size", "1M")
    with way(pair, ()) as pid:
        for number in HARMLESS:
            os.kill(pid, number)
        eventually(lambda: signal.SIGHUP not in signals(pid, "ShdPnd"), "it has taken one")
        if way is not a_holder:
            assert record("status", east(pair))["pid"] == pid
        assert not has_ended(pid)


def test_none_ends_a_process_that_has_just_begun(tmp_path: Path) -> None:
    """Whatever it does before it can take them."""
    log = tmp_path / "log"
    with log.open("wb") as out:
        pid = launch.spawn(["/bin/cat", "/proc/self/status"], launch.environment(), [], out)
    assert os.waitpid(pid, 0)[1] == 0
    assert in_mask(log.read_text(), "SigBlk") == HARMLESS


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "012"])
def test_a_site_starts_whatever_its_starter_has_closed(
    make_pair: MakePair, tmp_path: Path, closed: str
) -> None:
    """Of 0 to 2: no file of the site's, its listening socket for one, has such a number."""
    pair = make_pair("--size", "1M")
    with started(pair, dirty(tmp_path / "lock", closed)) as pid:
        kept = [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)]
        assert kept == [os.devnull, os.devnull, str(pair.folder / "east/state/site.log")]
    with in_the_foreground(pair, dirty(tmp_path / "lock", closed)) as pid:
        for digit in closed:
            assert os.readlink(f"/proc/{pid}/fd/{digit}") == os.devnull


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_the_names_of_files_are_utf_8_whatever_the_locale(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, locale: dict[str, str]
) -> None:
    """As they are in the configuration: under cron's locale, and under one (here by force) in which
    the command itself would take the bytes of a name for other characters."""
    for name, value in locale.items():
        monkeypatch.setenv(name, value)
    pair = Handmade(scratch / "Spiegel-ü")
    pair.environment = {**os.environ, "NOT": "in this process"}
    try:
        pair.create()
        pair.start()
        with pair.client() as client:
            client.write(0, b"here")
        pair.sync()
        assert pair.image("west").read_bytes()[:4] == b"here"
    finally:
        pair.kill()


def test_a_start_that_fails_says_why_whoever_began_it(make_pair: MakePair, tmp_path: Path) -> None:
    """One that ignores the end of its children leaves that to `start`, which waits for its own."""
    pair = make_pair("--size", "1M")
    pair.image("east").unlink()
    line = refused("start", east(pair), prefix=dirty(tmp_path / "lock"))
    assert f"{pair.image('east')}: No such file or directory" in line, line
