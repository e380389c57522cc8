"""Boots a real Linux kernel for one command, as an ordinary process: user-mode Linux.

The idea: the guest's root is this machine's own file tree (hostfs) below a tmpfs (overlay), so
every program, the checkout and its virtual environment are there at their own paths and nothing is
installed or built. ``guest_init`` is its PID 1. Two channels leave the guest: the first console
carries the kernel's messages, among them PID 1's word on how the command ended; the second is the
command's terminal: what it prints, and what the test says to it.

``run_guest`` runs a command to its end. A ``Guest`` is one that the test talks with meanwhile and
whose power it can cut; it can have disks that outlive it (files here, /dev/ubda ... there) and a
cable to another guest (``Cable`` here, vec0 there).

What a power cut is: every process of the guest is killed at once, so all that only its memory held
is gone, the page cache above all. Its disks have no cache of their own: what its kernel had written
to one is in the file, and stands, flushed or not. So a cut loses what was not written back, and
never a flush; a disk that forgets what it took before a flush is left out.

Invariants:
* What the guest writes is gone when it ends, but for the folder ``share`` (same path in both) and
  the disks.
* A guest outlives neither its time limit nor this process: a watcher kills it.
* What the guest did not bring to an end is never taken for a success: ``DIED``, ``TIMED_OUT``,
  ``POWER_CUT``.
* Once a guest's output is at its end, none of its processes is left: each of them holds it open.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels import OWN, Kernel, for_this_processor

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {str(OWN.program): "user-mode-linux", "modprobe": "kmod"}  # program: its package
GUEST_INIT = Path(__file__).with_name("guest_init.py")

DIED = 97  # the guest ended without a word: panic, out of memory, PID 1 failed
POWER_CUT = 99  # as the test wanted, before the command had ended
TIMED_OUT = 124
# What a kernel says of a connection that died and was replaced, and of what it sent again.
DEAD_CONNECTION = (
    "Receive control failed",
    "Send control failed",
    "Send data failed",
    "Request send failed, requeueing",
    "failed to find a fallback",
    "Connection timed out, retrying",
    "Possible stuck request",
    "Send disconnect failed",
)
LINES_REPORTED = 60
FRAME_BYTES = 1 << 16
BOOT_AND_HALT_SECONDS = 60  # a generous bound on what is not the command itself

_RESULT = re.compile(r"guest_init: status (\d+)")
_COMPLAINT = re.compile(
    r"Kernel panic|BUG:|Oops|WARNING:|Call Trace|I/O error|blocked for more"
    r"|Out of memory|segfault|EXT4-fs error|XFS.*[Cc]orrupt|nbd.*(timed out|failed|stuck)"
)


@dataclass(frozen=True)
class GuestResult:
    """How the guest's command ended, what it printed, and what the kernel said meanwhile."""

    status: int
    output: str
    kernel_log: str

    @property
    def complaints(self) -> list[str]:
        """The kernel's lines that say that something is wrong."""
        return [line for line in self.kernel_log.splitlines() if _COMPLAINT.search(line)]

    @property
    def beside_dead_connections(self) -> list[str]:
        """Its complaints but for those of a site that was killed under a device."""
        return [c for c in self.complaints if not any(known in c for known in DEAD_CONNECTION)]

    def report(self) -> str:
        """All that a person needs to understand a failed run."""
        output = "\n".join(self.output.splitlines()[-LINES_REPORTED:])
        kernel = "\n".join(self.kernel_log.splitlines()[-LINES_REPORTED:])
        return f"guest status {self.status}\n{output}\n--- kernel ---\n{kernel}"


def missing(packages: dict[str, str]) -> str:
    """What to install, in one line, so that these programs are there too; empty if nothing."""
    needed = PACKAGES | packages
    absent = [program for program in needed if shutil.which(program, path=PATH) is None]
    install = " ".join(sorted({needed[program] for program in absent}))
    return f"{', '.join(absent)} missing: apt-get install {install}" if absent else ""


@dataclass(frozen=True)
class Plug:
    """One end of a cable; the guest that it is in has this address on vec0."""

    end: socket.socket
    address: str

    def shake(self) -> None:
        """What came while no guest was there to take it is lost."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.end.recv(FRAME_BYTES, socket.MSG_DONTWAIT)


class Cable:
    """An Ethernet cable between two guests, that one can be taken from and put back to.

    A thread carries each way. A frame that the other guest, or the one that is not there, has no
    room for is lost; with one pair of sockets the sender would have to wait for that, and after
    half a second of it the driver of this kernel dies (BUG in dql_completed).
    """

    def __init__(self, one: str, other: str) -> None:
        ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self.plugs = Plug(ends[0][0], one), Plug(ends[1][0], other)
        self._inner = ends[0][1], ends[1][1]
        self._threads = [
            threading.Thread(target=self._carry, args=pair, daemon=True)
            for pair in (self._inner, self._inner[::-1])
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _carry(here: socket.socket, there: socket.socket) -> None:
        while frame := here.recv(FRAME_BYTES):
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                there.send(frame, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """After the guests."""
        for inner in self._inner:
            inner.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (*self._inner, *(plug.end for plug in self.plugs)):
            end.close()


class GuestEnded(Exception):
    """It says no more; the report."""


class Guest:
    """A running guest, from the constructor on; as a context it is killed at the end.

    The command runs as root with ``share`` as its folder.  It has ``timeout`` seconds; then the
    kernel's blocked tasks are at the end of its log.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        share: Path,
        timeout: float,
        *,
        kernel: Kernel,
        modules: Sequence[str] = (),
        memory: str = "512M",
        disks: Sequence[Path] = (),
        plug: Plug | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="guest.")
        run = Path(self._folder.name)
        conf = {
            "command": [str(word) for word in command],
            "share": str(share.resolve()),
            "modules": list(modules),
            "modules_folder": str(kernel.modules),
            "timeout": timeout,
            "address": plug.address if plug else "",
            "environment": {
                **{"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"},
                **({"PYTHONPATH": sources} if (sources := os.environ.get("PYTHONPATH")) else {}),
                **(environment or {}),
            },
        }
        (run / "guest.json").write_text(json.dumps(conf))
        devices = [f"ubd{i}={disk.resolve()}" for i, disk in enumerate(disks)]
        if plug:
            plug.shake()
            last = int(plug.address.rpartition(".")[2])
            devices.append(
                f"vec0:transport=fd,fd={plug.end.fileno()},mac=02:00:00:00:00:{last:02x}"
            )
        fds = (plug.end.fileno(),) if plug else ()
        self._process = _boot(kernel, run, memory, devices, fds)
        self._watcher = _watch(self._process.pid, timeout + BOOT_AND_HALT_SECONDS)
        self._log = run / "kernel.log"
        self._result: GuestResult | None = None
        self._cut = False
        self._said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            if line.endswith("\n"):  # or the power was cut in the middle of it
                self._lines.put(line)
        self._lines.put(None)

    def say(self, line: str) -> None:
        """A line for the command to read."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # ``line`` tells that it has ended, and how
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def line(self, timeout: float) -> str:
        """The command's next line, without its end.  GuestEnded; TimeoutError with the report."""
        try:
            found = self._lines.get(timeout=timeout)
        except queue.Empty:
            self._kill()
            raise TimeoutError(f"no word within {timeout} s\n{self.result().report()}") from None
        if found is None:
            self._lines.put(None)
            raise GuestEnded(self.result().report())
        return found.rstrip("\n")

    def cut_power(self) -> None:
        """Now.  What the guest had said until then can still be read with ``line``."""
        self._cut = True
        self._kill()

    def result(self) -> GuestResult:
        """Of the whole run, when it has ended."""
        if not self._result:
            self._listener.join()
            os.killpg(self._watcher.pid, signal.SIGKILL)  # before the guest's number is free
            self._watcher.wait()
            self._process.wait()
            kernel_log = self._log.read_text(errors="replace")
            said = _RESULT.search(kernel_log)
            without = POWER_CUT if self._cut else DIED
            status = int(said[1]) if said else without
            self._result = GuestResult(status, "".join(self._said), kernel_log)
        return self._result

    def _kill(self) -> None:
        if self._process.returncode is None:  # not collected yet: the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._kill()
        self.result()
        for pipe in self._process.stdin, self._process.stdout, self._watcher.stdin:
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._folder.cleanup()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_guest(
    command: Sequence[str | Path],
    share: Path,
    timeout: float,
    *,
    kernel: Kernel,
    modules: Sequence[str] = (),
    memory: str = "512M",
    disks: Sequence[Path] = (),
) -> GuestResult:
    """Boot a guest, run the command in it to its end, and halt it."""
    with Guest(
        command, share, timeout, kernel=kernel, modules=modules, memory=memory, disks=disks
    ) as guest:
        return guest.result()


def _boot(
    kernel: Kernel, run: Path, memory: str, devices: Sequence[str], fds: Sequence[int]
) -> subprocess.Popen[str]:
    """Boot with the folder ``run``: the process that leads the guest's process group."""
    words = [
        *(str(kernel.program), f"mem={memory}", f"uml_dir={run}/", "umid=guest"),
        *("rootfstype=hostfs", "rootflags=/", "ro"),
        *("con=null", "con0=null,fd:2", "con1=fd:0,fd:1"),
        *("loglevel=7", "panic=-1", "noreboot", *devices),
        *(f"GUEST_CONF={run}/guest.json", "init=/usr/bin/python3", "--", "-IS", f'"{GUEST_INIT}"'),
    ]
    with open(run / "kernel.log", "wb") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=kernel.folder,
            env={**os.environ, **for_this_processor(), **kernel.environment},
            pass_fds=fds,
            start_new_session=True,  # or it makes a group of its own, which nobody would know
            text=True,
            errors="replace",
        )


def _watch(guest: int, limit: float) -> subprocess.Popen[bytes]:
    """A process that kills the guest after so many seconds, or once this process has ended."""
    script = f"timeout {limit} cat; kill -KILL -{guest}"
    return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)
