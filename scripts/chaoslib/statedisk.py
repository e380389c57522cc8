"""A small tmpfs for a site's state, which can be full.  Only root can mount one; without root
there is none, and the fault `full` is left out."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

BYTES = 4 << 20
PAGE = 4096


class StateDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        self.mounted = False

    @staticmethod
    def possible() -> bool:
        return os.geteuid() == 0

    def mount(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={BYTES},mode=700", "chaos", str(self.folder)]
        subprocess.run(words, check=True, timeout=30)
        self.mounted = True

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True, timeout=30)
            self.mounted = False

    def fill(self, leave: int, *, log: bool) -> None:
        """Until `leave` bytes are free.  With `log` the last page of the site's log is full, too:
        the next line of the log is what meets the full disk."""
        if log:
            with contextlib.suppress(OSError), (self.folder / "site.log").open("ab") as file:
                file.write(b"\n" * (-file.tell() % PAGE))
        with self._filler.open("ab") as file:
            room = os.statvfs(self.folder)
            with contextlib.suppress(OSError):
                while (left := room.f_bavail * room.f_frsize - leave) > 0:
                    file.write(bytes(min(left, 1 << 16)))
                    file.flush()
                    room = os.statvfs(self.folder)

    def is_filled(self) -> bool:
        return self._filler.exists()

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)
