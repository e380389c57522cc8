"""Where the demo plays: a pair of sites, their device in the kernel, a file system on it.

Each thing that is put up is a context manager that takes it down again, whatever happened inside;
what is still busy then is tried again for a while, and at last let go of lazily.

A Ctrl-C never cuts a step short: it is noticed between steps and in waits (Interrupt). So no step
needs to know what half of it would leave behind. Programs get a session of their own, or a
terminal would send its Ctrl-C to them too.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from mirror_core import config, process
from mirror_core.errors import MirrorError

GIB = 1 << 30
FLASHMIRROR = Path(sys.executable).with_name("flashmirror")
VOLUME = "disk"

_COMMAND_S = 30.0
_STOP_S = 70.0  # a site takes 60 at most
_READY_S = 10.0
_BUSY_S = 10.0
_LOOK_S = 0.02  # between looks at what tells nobody when it changes


class DemoError(Exception):
    """One line for a person: what failed, and what to do."""


class Interrupted(Exception):
    """The person wants it to end."""


class Interrupt:
    """SIGINT, SIGTERM and SIGHUP, remembered until somebody looks.

    Python writes each signal's number to the pipe, and nobody reads it: once readable, it stays so.
    """

    def __init__(self) -> None:
        self._seen, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def wait(self, seconds: float | None) -> None:
        """Sleep; None: for ever.  Interrupted."""
        if select.select([self._seen], [], [], seconds)[0]:
            raise Interrupted

    def step(self, text: str) -> None:
        """Say what comes next, unless it is not wanted any more.  Interrupted."""
        self.wait(0)
        print(text, flush=True)


def attempt(*words: str | Path, timeout_s: float = _COMMAND_S) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever that is.  DemoError: it does not end."""
    try:
        return subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DemoError(f"{_named(words)}: not done in {timeout_s:.0f} s") from None


def run(*words: str | Path, timeout_s: float = _COMMAND_S) -> str:
    """What a program prints.  DemoError: it fails, or does not end."""
    done = attempt(*words, timeout_s=timeout_s)
    if done.returncode:
        raise DemoError(f"{_named(words)} failed: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def _named(words: Sequence[str | Path]) -> str:
    return " ".join((Path(words[0]).name, *map(str, words[1:2])))


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def take_down(*words: str | Path, at_last: Sequence[str | Path] = ()) -> None:
    """Run it until it works, for a while; then, if there is one, the other way.  DemoError."""
    began = time.monotonic()
    told = False
    while True:
        try:
            run(*words)
            return
        except DemoError as error:
            waited = time.monotonic() - began
            if waited >= _BUSY_S:
                if not at_last:
                    raise
                break
            if waited >= 1 and not told:
                print(f"demo: {error}: tried again for a while", file=sys.stderr, flush=True)
                told = True
        time.sleep(0.1)
    run(*at_last)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, if there is some to spare; gone afterwards."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free >= 3 * GIB
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-demo-", dir=memory if roomy else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Sites:
    """A pair made by `flashmirror init`, driven as a person drives it; `with` stops it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "east.toml", folder / "west.toml"
        self.source_image = folder / "east" / f"{VOLUME}.img"
        self.target_image = folder / "west" / f"{VOLUME}.img"
        self.do("init", folder, "--size", "1G")
        self._settings = {path: config.load(str(path)) for path in (self.source, self.target)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as both:
            both.callback(self._stop, self.target)
            both.callback(self._stop, self.source)

    def _stop(self, site: Path) -> None:
        try:
            run(FLASHMIRROR, "stop", site, timeout_s=_STOP_S)
        except DemoError:
            settings = self._settings[site]
            if process.running(settings):
                os.kill(int((settings.state / "lock").read_text()), signal.SIGKILL)
            raise

    def do(self, *words: str | Path) -> str:
        """One command, shown as a person would type it."""
        print("  $ flashmirror", *words, flush=True)
        return run(FLASHMIRROR, *words)

    def uri(self) -> str:
        return run(FLASHMIRROR, "uri", self.source, VOLUME).strip()

    def look(self) -> dict[str, Any]:
        """The source's status, without the cost of a command.  DemoError: no answer."""
        try:
            return process.status(self._settings[self.source])
        except MirrorError as error:
            log = self._settings[self.source].state / "site.log"
            raise DemoError(f"{error}; its last word was: {last_line(log.read_text())}") from error

    def target_status(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(run(FLASHMIRROR, "status", self.target, "--json"))
        return record


def require() -> Path | None:
    """Refuse in one line what could not work.  A free /dev/nbdN, if the kernel has one."""
    if os.geteuid() != 0:
        raise DemoError("mounting a file system needs root: run 'sudo make demo'")
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if not FLASHMIRROR.exists():
        raise DemoError(f"{FLASHMIRROR} is not there: run 'make build'")
    nbd = _free_nbd()
    packages = {
        "mkfs.ext4": "e2fsprogs",
        "e2fsck": "e2fsprogs",
        "dumpe2fs": "e2fsprogs",
        "mount": "mount",
        "losetup": "mount",
        "fsfreeze": "util-linux",
        **({"nbd-client": "nbd-client"} if nbd else {"nbdfuse": "libnbd-bin"}),
    }
    missing = {package for program, package in packages.items() if not shutil.which(program)}
    if missing:
        raise DemoError(f"missing programs: apt-get install {' '.join(sorted(missing))}")
    if not nbd and not Path("/dev/fuse").exists():
        raise DemoError("this kernel has neither nbd nor fuse: load one, with 'modprobe nbd'")
    return nbd


def _free_nbd() -> Path | None:
    if not Path("/sys/block/nbd0").exists() and shutil.which("modprobe"):
        attempt("modprobe", "nbd")
    for block in sorted(Path("/sys/block").glob("nbd*")):
        if not (block / "pid").exists() and Path("/dev", block.name).is_block_device():
            return Path("/dev", block.name)
    return None


@contextmanager
def attached(uri: str, nbd: Path | None, folder: Path) -> Iterator[Path]:
    """The volume as a block device of the kernel: `nbd`, or else a loop device."""
    with ExitStack() as undo:
        if nbd:
            [socket] = parse_qs(urlsplit(uri).query)["socket"]
            run("nbd-client", "-unix", socket, nbd, "-N", VOLUME, "-C", "4")
            undo.callback(take_down, "nbd-client", "-d", nbd)
            yield nbd
        else:
            file = undo.enter_context(_fused(uri, folder / "fuse"))
            loop = run("losetup", "--find", "--show", "--direct-io=on", file).strip()
            undo.callback(take_down, "losetup", "--detach", loop)
            yield Path(loop)


@contextmanager
def _fused(uri: str, at: Path) -> Iterator[Path]:
    """The volume as a file."""
    at.mkdir()
    pid, log = at.with_suffix(".pid"), at.with_suffix(".log")
    with log.open("wb") as out:
        server = subprocess.Popen(
            ["nbdfuse", "--pidfile", str(pid), str(at / VOLUME), uri],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _READY_S
        while not pid.exists():
            if server.poll() is not None or time.monotonic() >= deadline:
                raise DemoError(f"nbdfuse does not serve: {last_line(log.read_text())}")
            time.sleep(_LOOK_S)
        yield at / VOLUME
    finally:
        if str(at) in Path("/proc/self/mountinfo").read_text():
            take_down("umount", at, at_last=("umount", "--lazy", at))
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """It ends by itself when nothing is mounted any more; or else it is ended."""
    try:
        server.wait(_READY_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@contextmanager
def mounted(device: Path, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    run("mount", *(("-o", ",".join(options)) if options else ()), device, at)
    try:
        yield at
    finally:
        take_down("umount", at, at_last=("umount", "--lazy", at))


@contextmanager
def frozen(at: Path) -> Iterator[None]:
    """Everything written is on the device, and nothing more is written."""
    run("fsfreeze", "--freeze", at)
    try:
        yield
    finally:
        take_down("fsfreeze", "--unfreeze", at)
