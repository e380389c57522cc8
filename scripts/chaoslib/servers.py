"""An NBD server (disk.py) in front of one image, as a process that can be told to fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from chaoslib.nbd import NbdClient

PLUGIN = Path(__file__).with_name("disk.py")
START_S = 20.0


class Server:
    def __init__(self, image: Path, log: Path) -> None:
        self.image, self._log = image, log
        self._socket = image.with_suffix(".sock")
        self.uri = f"nbd+unix:///?socket={self._socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.through = False  # nothing stays in its cache: it serves a source
        self.fault = ""

    def command(self, fault: str = "") -> None:
        """What it does from now on; "" is to work as it should."""
        self.fault = fault
        words = f"through {fault}" if self.through else fault
        fresh = Path(f"{self.image}.command.new")
        fresh.write_text(words)
        fresh.rename(f"{self.image}.command")

    def start(self) -> None:
        program = shutil.which("nbdkit", path=os.environ.get("PATH", "") + ":/usr/sbin")
        assert program, "nbdkit is not installed"
        self._socket.unlink(missing_ok=True)
        words = [program, "--foreground", "--unix", str(self._socket), "--threads=16"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*words, "python", str(PLUGIN), f"image={self.image}"], stderr=log, stdout=log
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                NbdClient(self.uri, START_S).close()
                return
            except (FileNotFoundError, ConnectionError):
                assert time.monotonic() < deadline and self._process.poll() is None, self._log
            time.sleep(0.01)  # a process that starts has no event to wait on but its answer

    def kill(self) -> None:
        """What it had answered and not flushed is lost, unless it serves a source."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(START_S)
            self._process = None

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def has_died(self) -> bool:
        """By itself: nbdkit before 1.33.10 may abort when a client resets its connection."""
        return self._process is not None and self._process.poll() is not None

    def write_down(self) -> None:
        """What it holds in its cache is in the image afterwards."""
        if self._process and self._process.poll() is None:
            try:
                with NbdClient(self.uri, START_S) as client:
                    client.flush()
            except ConnectionError:
                self._process.wait(START_S)  # it has died by itself, and its cache with it
