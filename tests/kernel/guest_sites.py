"""The pair of sites that a guest's scenario runs on, behind one small face.

``Flashmirror`` is the command line under test, run exactly as a person would. ``PlainServer`` has
the same face and no mirroring: nbdkit's file plugin serves the image that is also the "target", and
a pause stops its process, so that a copy of the image is what a power cut would have left. It is
the control of the tests: whatever they demand of the mirror, an ordinary server passes.

Left out: everything that a scenario does with the device (``guest_volume``).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

COMMAND_SECONDS = 120


def command(*words: str | Path, ok: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; all that it printed is in ``stdout``. Only ``ok`` statuses are."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode not in ok:
        line = " ".join(str(word) for word in words)
        raise RuntimeError(f"{line}: status {done.returncode}\n{done.stdout}")
    return done


class Sites(Protocol):
    """A running pair with one volume, ``disk``."""

    source: Path  # where the source's volume lives
    image: Path  # ... and the target's

    def socket(self) -> tuple[str, str]:
        """The Unix socket and the export name of the source's device."""

    def sync(self) -> None:
        """When this returns, the target holds every write acknowledged before the call."""

    def committed(self) -> int:
        """The sequence of the last committed consistency point, 0 before the first."""

    def pause(self) -> None:
        """From here on the target's image stands still, whole (a ``sync`` still moves it)."""

    def resume(self) -> None: ...

    def stop(self) -> None: ...


class Flashmirror:
    """Two sites of flashmirror on this machine: east is the source, west the target."""

    def __init__(self, program: str, folder: Path, size: str) -> None:
        self.program = program
        self.east, self.west = folder / "east.toml", folder / "west.toml"
        self.source = folder / "east" / "disk.img"
        self.image = folder / "west" / "disk.img"
        self._do("init", folder, "--size", size)
        self._do("start", self.west)
        self._do("start", self.east)

    def _do(self, *words: str | Path) -> str:
        return command(self.program, *words).stdout

    def socket(self) -> tuple[str, str]:
        uri = urlsplit(self._do("uri", self.east, "disk").strip())
        return parse_qs(uri.query)["socket"][0], uri.path.lstrip("/")

    def sync(self) -> None:
        self._do("sync", self.east, "--timeout", "60s")

    def committed(self) -> int:
        status = json.loads(self._do("status", self.east, "--json"))
        return status["committed"]["sequence"] or 0

    def pause(self) -> None:
        self._do("pause", self.east)

    def resume(self) -> None:
        self._do("resume", self.east)

    def stop(self) -> None:
        self._do("stop", self.east)
        self._do("stop", self.west)


class PlainServer:
    """One nbdkit with its file plugin: source and target are the same image."""

    def __init__(self, folder: Path, size: str) -> None:
        folder.mkdir()
        self.source = self.image = folder / "disk.img"
        self.pid_file = folder / "pid"
        command("truncate", "--size", size, self.image)
        command("nbdkit", "-U", folder / "sock", "-P", self.pid_file, "file", self.image)

    def socket(self) -> tuple[str, str]:
        return str(self.image.with_name("sock")), ""

    def sync(self) -> None:
        """The target is the source."""

    def committed(self) -> int:
        return time.monotonic_ns()  # every moment is a consistency point

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        ended = os.pidfd_open(int(self.pid_file.read_text()))
        self._signal(signal.SIGTERM)
        if not select.select([ended], [], [], COMMAND_SECONDS)[0]:
            raise RuntimeError("nbdkit does not stop")

    def _signal(self, number: signal.Signals) -> None:
        os.kill(int(self.pid_file.read_text()), number)
