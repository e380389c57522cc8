"""The plugin of a site whose machine raises on command: `nbdkit python injected.py site=FILE.toml`.

Production's plugin, with a platform that looks before each call at FILE.inject, if it is there: one
line "METHOD ERROR N", of which the N-th call of that method from then on raises the error, once.
Then FILE.injected holds the same line.  Run by test_injected.py.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

from mirror_core import platform, site
from mirror_core.process import plugin_path

CALLS = (
    "monotonic",
    "time",
    "uniform",
    "random_bits",
    "token",
    "spawn",
    "exists",
    "names",
    "read",
    "open",
    "close",
    "pwrite",
    "ftruncate",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "flock",
    "file_store",
    "control_channel",
    "peer_store",
    "write_log",
)


class Injecting(platform.Platform):
    def __init__(self, config: Any) -> None:
        self._order, self._done = (
            config.path.with_suffix(suffix) for suffix in (".inject", ".injected")
        )
        self._lock = threading.Lock()
        self._told, self._left = "", 0

    def look(self, method: str) -> None:
        with self._lock:
            try:
                told = self._order.read_text()
            except FileNotFoundError:
                self._told = ""
                return
            wanted, error, number = told.split()
            if told != self._told:
                self._told, self._left = told, int(number)
            if method != wanted or not self._left:
                return
            self._left -= 1
            if self._left:
                return
            self._done.write_text(told)
        raise made(error)


def made(error: str) -> Exception:
    code = getattr(errno, error, None)
    if code is not None:
        return OSError(code, os.strerror(code))
    return MemoryError() if error == "MemoryError" else AssertionError("injected")


def _raising(method: str) -> Any:
    def call(self: Injecting, *args: Any) -> Any:
        self.look(method)
        return getattr(platform.Platform, method)(self, *args)

    return call


for _method in CALLS:
    setattr(Injecting, _method, _raising(_method))


class InjectedSite(site.Site):
    def __init__(self, config: Any, *, held: int | None = None) -> None:
        super().__init__(config, platform=Injecting(config), held=held)


if "nbdkit" in sys.builtin_module_names or "nbdkit" in sys.modules:
    site.Site = InjectedSite  # type: ignore[assignment,misc]
    _path: Path = plugin_path()
    exec(compile(_path.read_text(), str(_path), "exec"), globals())
