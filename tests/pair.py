"""A pair of real sites on this machine, driven as a person drives it: by its commands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from nbd_client import NbdClient

from mirror_core import config, process
from mirror_core.cli import cli
from mirror_core.errors import MirrorError

FLASHMIRROR = Path(sys.executable).with_name("flashmirror")
T = TypeVar("T")
SOAK = int(os.environ.get("FLASHMIRROR_SOAK", "1"))  # `make soak`: everything this many times
EVERY_CASE = "FLASHMIRROR_EVERY_CASE" in os.environ  # of `some`


def some(cases: Iterable[T], step: int = 2) -> list[T]:
    """Every `step`-th of them in CI, which has half an hour; all of them in `make soak`, and where
    a planted fault is to be caught."""
    return list(cases) if SOAK > 1 or EVERY_CASE else list(cases)[::step]


@contextlib.contextmanager
def one_not_started() -> Iterator[Pair]:
    """A pair in a folder of its own, which is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-", dir="/dev/shm"))
    pair = Pair(folder / "p", "--size", "1M")
    try:
        yield pair
    finally:
        pair.kill()
        shutil.rmtree(folder)


@contextlib.contextmanager
def one_that_runs() -> Iterator[Pair]:
    """And has committed."""
    with one_not_started() as pair:
        pair.start()
        with pair.client() as client:
            client.write(0, b"x" * 4096)
        pair.sync()
        yield pair


class CommandFailed(Exception):
    def __init__(self, status: int, stderr: str) -> None:
        super().__init__(f"exit status {status}: {stderr.strip()}")
        self.status, self.stderr = status, stderr.strip()


class Pair:
    """`folder` holds east (source) and west (target); environment as for `flashmirror`."""

    def __init__(
        self, folder: Path, *options: str, environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.environment = {**os.environ, **(environment or {})}
        self._do("init", str(folder), *options)

    def run(self, *words: str, timeout_s: float = 120.0) -> str:
        done = subprocess.run(
            [str(FLASHMIRROR), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(done.returncode, done.stderr)
        return done.stdout

    def _do(self, *words: str) -> None:
        """As `run`, but in this process, which takes a tenth of the time: what it prints is not
        wanted."""
        if self.environment != os.environ:
            self.run(*words)
            return
        try:
            cli(words, standalone_mode=False)
        except MirrorError as error:
            raise CommandFailed(1, f"flashmirror: {error}") from error

    def toml(self, site: str) -> Path:
        return self.folder / f"{site}.toml"

    def configure(self, site: str, text: str) -> None:
        """Put settings at the top of a site's TOML file."""
        path = self.toml(site)
        path.write_text(text + "\n" + path.read_text())

    def start(self, *sites: str) -> None:
        for site in sites or ("west", "east"):
            self._do("start", str(self.toml(site)))

    def stop(self, *sites: str) -> None:
        for site in sites or ("east", "west"):
            self._do("stop", str(self.toml(site)))

    def sync(self, timeout: str = "60s") -> None:
        self._do("sync", str(self.toml("east")), "--timeout", timeout)

    def pause(self, *words: str) -> None:
        self._do("pause", str(self.toml("east")), *words)

    def resume(self) -> None:
        self._do("resume", str(self.toml("east")))

    def status(self, site: str = "east") -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.run("status", str(self.toml(site)), "--json"))
        return record

    def uri(self, volume: str = "disk") -> str:
        return config.load(str(self.toml("east"))).device_uri(volume)

    def client(self, volume: str = "disk") -> NbdClient:
        return NbdClient(self.uri(volume))

    def image(self, site: str, volume: str = "disk") -> Path:
        return self.folder / site / f"{volume}.img"

    def log(self, site: str) -> str:
        path = self.folder / site / "state" / "site.log"
        return path.read_text() if path.exists() else ""

    def kill(self) -> None:
        """End both, whatever state they are in; without the command, which costs a process."""
        for site in ("east", "west"):
            with contextlib.suppress(MirrorError):
                process.stop(config.load(str(self.toml(site))))


MakePair = Callable[..., Pair]  # the fixture in conftest.py
