"""The peer: QEMU's storage daemon, idle, and with continuous incremental backup.

The backup is QEMU's own answer to asynchronous mirroring: a dirty bitmap on the volume, and
`blockdev-backup sync=incremental` to an NBD target served by a second daemon, the next one started
as soon as the last has ended. Everything is at QEMU's defaults (aio=threads, 64 KiB bitmap and copy
clusters): io_uring, a 4 KiB bitmap and nbdkit as the target were tried and made no difference that
stood out of the noise. Unlike flashmirror's, its target is a mixture of two moments while a backup
runs.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchlib.contenders import Contender, Facts
from benchlib.lab import BenchError, fill, require_same, serve

_QMP_SECONDS = 120.0
_NOTHING_DIRTY_SECONDS = 0.02


@contextmanager
def storage_daemon(image: Path, monitor: Path | None = None) -> Iterator[Path]:
    """Export an image as `disk`, writable; the block gets the socket."""
    listening = image.with_suffix(".sock")
    command = [
        "qemu-storage-daemon",
        *("--blockdev", f"driver=file,node-name=file,filename={image}"),
        *("--blockdev", "driver=raw,node-name=disk,file=file"),
        *("--nbd-server", f"addr.type=unix,addr.path={listening}"),
        *("--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on"),
    ]
    if monitor:
        command += ["--chardev", f"socket,id=qmp,path={monitor},server=on,wait=off"]
        command += ["--monitor", "chardev=qmp"]
    with serve(command, listening):
        yield listening


def _uri(listening: Path) -> str:
    return f"nbd+unix:///disk?socket={listening}"


class QemuIdle(Contender):
    """The peer without any backup."""

    name = "qemu-idle"

    def start(self, stack: ExitStack) -> None:
        self.lab.require_images(1)
        image = self.lab.folder / "qemu-idle.img"
        fill(image, self.lab.size_bytes)
        self.uri = _uri(stack.enter_context(storage_daemon(image)))


class QemuBackup(Contender):
    """The peer while one incremental backup follows another."""

    name = "qemu-backup"

    def start(self, stack: ExitStack) -> None:
        self.lab.require_images(2)
        self.source = self.lab.folder / "qemu-source.img"
        self.target = self.lab.folder / "qemu-target.img"
        fill(self.source, self.lab.size_bytes)
        with self.target.open("wb") as file:
            file.truncate(self.lab.size_bytes)
        monitor = self.lab.folder / "qmp.sock"
        target = stack.enter_context(storage_daemon(self.target))
        self.uri = _uri(stack.enter_context(storage_daemon(self.source, monitor)))
        self.backups = Backups(stack.enter_context(Qmp(monitor)), target)

    @contextmanager
    def working(self) -> Iterator[Facts]:
        facts: Facts = {}
        stopping = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.backups.repeat, stopping)
            try:
                yield facts
            finally:
                stopping.set()
        facts.update(done.result().facts())

    def prove(self) -> None:
        require_same(self.source, self.target, self.name)


@dataclass
class BackupLog:
    """What a run of backups did: per backup its start, its end (monotonic) and its bytes."""

    runs: list[tuple[float, float, int]] = field(default_factory=list)

    def facts(self) -> Facts:
        busy = [(start, end, size) for start, end, size in self.runs if size]
        # A write just after the bitmap was taken is on the target when the *next* backup ends.
        exposures = [after[1] - before[0] for before, after in pairwise(busy)]
        return {
            "cycles": len(busy),
            "copied_bytes": sum(size for _, _, size in busy),
            "cycle_seconds_max": max((end - start for start, end, _ in busy), default=None),
            "exposure_seconds_max": max(exposures, default=None),
        }


class Backups:
    """Incremental backups of `disk`, one at a time."""

    def __init__(self, qmp: Qmp, target: Path) -> None:
        """Begin with a full one: bitmap first, so that no write is missed."""
        self._qmp = qmp
        self._count = 0
        server = {"type": "unix", "path": str(target)}
        node = {"node-name": "target", "driver": "nbd", "server": server, "export": "disk"}
        qmp.execute("blockdev-add", node)
        qmp.execute("block-dirty-bitmap-add", {"node": "disk", "name": "dirty"})
        self._backup({"sync": "full"})

    def repeat(self, stopping: threading.Event) -> BackupLog:
        """Back up again and again; when told to stop, once more, for what the load wrote last."""
        log = BackupLog()
        while not stopping.is_set():
            start = time.monotonic()
            copied_bytes = self._incremental()
            log.runs.append((start, time.monotonic(), copied_bytes))
            if copied_bytes == 0:
                stopping.wait(_NOTHING_DIRTY_SECONDS)
        self._incremental()
        return log

    def _incremental(self) -> int:
        return self._backup({"sync": "incremental", "bitmap": "dirty"})

    def _backup(self, how: dict[str, str]) -> int:
        self._count += 1
        job = f"backup-{self._count}"
        what = {"job-id": job, "device": "disk", "target": "target"}
        self._qmp.execute("blockdev-backup", what | how)
        done = self._qmp.event("BLOCK_JOB_COMPLETED")
        if done["device"] != job or "error" in done:
            raise BenchError(f"qemu: {job} failed: {done}")
        copied_bytes: int = done["offset"]
        return copied_bytes


class Qmp:
    """QEMU's monitor: commands, and the events that come between."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Qmp:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_QMP_SECONDS)
        self._socket.connect(str(self._path))
        self._lines = self._socket.makefile("rb")
        self._events: list[dict[str, Any]] = []
        self._receive()  # the greeting
        self.execute("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        request = {"execute": command, "arguments": arguments or {}}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while "event" in (answer := self._receive()):
            self._events.append(answer)
        if "error" in answer:
            raise BenchError(f"qemu: {command}: {answer['error']['desc']}")

    def event(self, name: str) -> dict[str, Any]:
        """The next event of this name; those before it are dropped."""
        while True:
            event = self._events.pop(0) if self._events else self._receive()
            if event["event"] == name:
                data: dict[str, Any] = event["data"]
                return data

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise BenchError(f"qemu: no answer on the monitor in {_QMP_SECONDS:.0f} s") from None
        if not line:
            raise BenchError("qemu: the storage daemon closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message
