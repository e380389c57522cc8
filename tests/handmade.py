"""Sites whose files tests write themselves, disks that can be full, and refusals of commands."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pair import FLASHMIRROR, Pair
from served import Server

from mirror_core import config, process

MIB = 1 << 20
OTHER = {"east": "west", "west": "east"}
ROLES = {"east": "source", "west": "target"}


def flashmirror(*words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command, whatever comes of it."""
    return subprocess.run(
        [*prefix, str(FLASHMIRROR), *words], capture_output=True, text=True, timeout=60, check=False
    )


def refused(*words: str, prefix: tuple[str, ...] = ()) -> str:
    """The one line with which a command refuses; no traceback, exit status 1 or 2."""
    done = flashmirror(*words, prefix=prefix)
    assert done.returncode in (1, 2), (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("flashmirror: "), done.stderr
    assert not done.stdout, done.stdout
    return lines[0].removeprefix("flashmirror: ")


def as_somebody_else() -> tuple[str, ...]:
    """Words before a command that make another user of root, who may read everything, so also what
    lies in root's home, and nothing else; none if we are not root."""
    if os.geteuid():
        return ()
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reads)


def without_capabilities() -> tuple[str, ...]:
    """Words before a command that leave root what the owner of a file may; none if we are not."""
    if os.geteuid():
        return ()
    return ("setpriv", "--inh-caps=-all", "--bounding-set=-all")


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """The first true answer of `condition`; an AssertionError at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return answer


def state_of(pair: Pair, site: str = "east") -> dict[str, Any]:
    """`status --json` of a running site, without the cost of a process."""
    return process.status(config.load(str(pair.toml(site))))


def until_state(pair: Pair, state: str, site: str = "east") -> dict[str, Any]:
    """The status of a running site once its state is this one."""
    last: dict[str, Any] = {}

    def look() -> bool:
        last.update(state_of(pair, site))
        return bool(last["state"] == state)

    eventually(look, f"{site} {state}; is {last}")
    return last


def scrape(pair: Pair, site: str = "east") -> str:
    address = state_of(pair, site)["metrics_address"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def value(text: str, sample: str) -> float:
    """The value of one sample: its name and labels as they are written, less the prefix."""
    found = re.search(rf"^flashmirror_{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    assert found, f"{sample} is not in\n{text}"
    return float(found[1])


def copied_first(pair: Pair) -> int:
    """Bytes that the source's process has copied out of its only volume."""
    return int(value(scrape(pair), 'copied_bytes_total{copy="first",volume="disk"}'))


def contents(folder: Path) -> dict[str, str]:
    """A checksum of every ledger and every store below."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.name == "ledger" or path.suffix == ".img")
    }


@contextlib.contextmanager
def nothing_changes(folder: Path) -> Iterator[None]:
    """Every ledger and every store below has the same bytes afterwards."""
    before = contents(folder)
    yield
    assert contents(folder) == before


class Handmade(Pair):
    """A pair of one volume; `stores` says where a part of a site is, if not in its folder."""

    def __init__(self, folder: Path, size: int = MIB, more: str = "") -> None:
        self.folder, self.size, self.more = folder, size, more
        self.environment = dict(os.environ)
        self.stores: dict[tuple[str, str], str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def store(self, site: str, part: str) -> str:
        suffix = "img" if part == "data" else "intermediate.img"
        return self.stores.get((site, part), str(self.folder / site / f"disk.{suffix}"))

    def write(self, site: str) -> None:
        """The site's TOML file, and its stores where they are files that are not there."""
        (self.folder / site).mkdir(exist_ok=True)
        self.toml(site).write_text(
            f'name = "{site}"\nlisten = ["unix:{self.folder}/{site}.sock"]\n'
            f'peer = "unix:{self.folder}/{OTHER[site]}.sock"\n'
            f'state = "{self.folder}/{site}/state"\nmetrics = "127.0.0.1:0"\n{self.more}\n'
            f'[[volume]]\nname = "disk"\ndata = "{self.store(site, "data")}"\n'
            f'intermediate = "{self.store(site, "intermediate")}"\n'
        )
        for part in ("data", "intermediate"):
            where = self.store(site, part)
            if not config.is_uri(where) and not Path(where).exists():
                Path(where).touch()
                os.truncate(where, self.size)

    def create(self, *sites: str) -> None:
        for site in sites or ("east", "west"):
            self.write(site)
            self._do("create", str(self.toml(site)), "--role", ROLES[site])


def east(pair: Pair) -> str:
    """The source, as the commands want it."""
    return str(pair.toml("east"))


def record(*words: str) -> Any:
    """What a command prints with --json."""
    done = flashmirror(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kill(pair: Pair, site: str) -> None:
    """SIGKILL, as a crash of the process."""
    handle = os.pidfd_open(state_of(pair, site)["pid"])
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    assert select.select([handle], [], [], 20)[0]
    os.close(handle)


def edit(pair: Pair, old: str, new: str) -> None:
    """Change the source's configuration."""
    text = pair.toml("east").read_text()
    assert old in text
    pair.toml("east").write_text(text.replace(old, new))


class MountedDisk:
    """A small file system in memory; needs root."""

    def __init__(self, folder: Path, free: int) -> None:
        self.folder, self._pad = folder, folder / "pad"
        folder.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={free}", "tmpfs", str(folder)], check=True
        )

    def store(self, size: int) -> str:
        path = self.folder / "disk.img"
        path.touch()
        os.truncate(path, size)
        return str(path)

    def fill(self) -> None:
        """Take what is left of the space."""
        with contextlib.suppress(OSError), self._pad.open("wb", buffering=0) as pad:
            while pad.write(bytes(65536)):
                pass

    def empty(self) -> None:
        self._pad.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class ServedDisk:
    """The same behind an NBD server of somebody else's, which answers with ENOSPC (or another
    error) while it is full."""

    def __init__(self, folder: Path, error: str = "ENOSPC") -> None:
        self.folder, self._error, self._trigger = folder, error, folder / "trigger"
        folder.mkdir(parents=True)
        self._server = Server(folder / "served.img")

    def store(self, size: int) -> str:
        self._server.image.touch()
        os.truncate(self._server.image, size)
        rules = [
            f"error-{call}{rule}"
            for call in ("pwrite", "zero")
            for rule in (f"={self._error}", "-rate=100%", f"-file={self._trigger}")
        ]
        self._server.start("error", parameters=tuple(rules))
        return self._server.uri

    def fill(self) -> None:
        self._trigger.touch()

    def empty(self) -> None:
        self._trigger.unlink()

    def close(self) -> None:
        self._server.stop()


class SlowDisk:
    """An NBD server whose writes take as long as they are told to, three at a time."""

    def __init__(self, folder: Path, delay: str) -> None:
        folder.mkdir(parents=True)
        self._server, self._delay = Server(folder / "slow.img"), delay

    def store(self, size: int) -> str:
        self._server.image.touch()
        os.truncate(self._server.image, size)
        self._server.start("delay", parameters=(f"wdelay={self._delay}",), threads=3)
        return self._server.uri

    def close(self) -> None:
        self._server.stop()
