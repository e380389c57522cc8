"""Stores behind a real NBD server, whose filters make them slow or say what reached them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import direct
from nbd_client import NbdClient
from pair import Pair

NBDKIT = "/usr/sbin/nbdkit" if Path("/usr/sbin/nbdkit").exists() else "nbdkit"


class Server:
    """nbdkit's file plugin over an image.  `stop` ends it; `start` again with other filters."""

    def __init__(self, image: Path, *plugin: str) -> None:
        self.image = image
        self._plugin = plugin or ("file", str(image))
        self.socket = image.with_suffix(".sock")
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *filters: str, parameters: tuple[str, ...] = (), threads: int = 16) -> None:
        self.socket.unlink(missing_ok=True)
        words = [NBDKIT, "--foreground", "--unix", str(self.socket), f"--threads={threads}"]
        words += [f"--filter={name}" for name in filters]
        self._process = subprocess.Popen([*words, *self._plugin, *parameters])
        self._until_it_answers()

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                NbdClient(self.uri).close()
                return
            except (FileNotFoundError, ConnectionError):
                assert time.monotonic() < deadline and not self.has_died()
            time.sleep(0.01)  # a process that starts has no event to wait on but its answer

    def has_died(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL)  # its writes are in the file already
            self._process.wait(20)
            self._process = None


class Faulty(Server):
    """A disk with a cache that is lost when the server is killed, and with faults on command
    (faulty.py)."""

    def __init__(self, image: Path) -> None:
        script = Path(__file__).with_name("faulty.py")
        super().__init__(image, "python", str(script), f"image={image}")
        self._faults, self._calls = Path(f"{image}.faults"), Path(f"{image}.calls")

    def store(self, size: int) -> str:
        """Begin with an empty image of this size; its URI."""
        self._faults.mkdir(parents=True)
        self.image.touch()
        os.truncate(self.image, size)
        self.start()
        return self.uri

    def fail(self, error: str, *calls: str) -> None:
        """These calls end with this error, or "hang"; a flush may "lose" or
        "lose-later"."""
        for call in calls:
            fresh = self._faults / f"{call}.new"
            fresh.write_text(error)
            fresh.rename(self._faults / call)

    def hold(self, call: str) -> None:
        """Of what hangs: it hangs on until `release`, but what is asked from now on does not."""
        (self._faults / call).rename(self._faults / "held")

    def release(self) -> None:
        (self._faults / "held").unlink()

    def mend(self) -> None:
        for path in self._faults.iterdir():
            path.unlink()

    def tried(self, *calls: str) -> int:
        """How often these were asked of it."""
        found = self._calls.read_text().split() if self._calls.exists() else []
        return sum(found.count(call) for call in calls)

    def restart(self) -> None:
        """What it had answered and not flushed is lost."""
        self.stop()
        self.start()


def serve(pair: Pair, site: str, volume: str = "disk", part: str = "data") -> Server:
    """Rewrite a fresh pair's site so that a volume's store is behind a server, not started."""
    image = pair.image(site, volume)
    if part == "intermediate":
        image = image.with_name(f"{volume}.intermediate.img")
    server = Server(image)
    path = pair.toml(site)
    path.write_text(path.read_text().replace(f'{part} = "{image}"', f'{part} = "{server.uri}"'))
    return server


def create_anew(pair: Pair, site: str, role: str) -> None:
    """`flashmirror create` of a site whose configuration has changed, on blank stores; its
    servers run."""
    for path in (pair.folder / site / "state").iterdir():
        path.unlink()
    for path in (pair.folder / site).glob("*.img"):
        path_size = path.stat().st_size
        for attribute in os.listxattr(path):
            os.removexattr(path, attribute)
        os.truncate(path, 0)
        os.truncate(path, path_size)
    pair.run("create", str(pair.toml(site)), "--role", role)


class SlowPair:
    """A running pair of two volumes whose target's data stores take 15 ms for each write of a
    connection, one after another: nbdkit before 1.33.10 may abort if a client is killed while
    several threads of a connection still sleep and reply."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.servers = [serve(pair, "west", volume) for volume in ("disk", "disk2")]

    def begin(self) -> None:
        for site in ("east", "west"):
            self.pair.configure(site, 'link_timeout = "20s"')  # slow is not lost here
        for server in self.servers:
            server.start()
        create_anew(self.pair, "west", "target")
        self.pair.start()
        direct.sync(self.pair)
        self.change_speed(slow=True)

    def change_speed(self, *, slow: bool) -> None:
        """With other servers before the stores; the target is stopped and started for it."""
        direct.stop(self.pair, "west")
        for server in self.servers:
            server.stop()
            if slow:
                server.start("delay", parameters=("wdelay=15ms",), threads=1)
            else:
                server.start()
        self.pair.start("west")

    def end(self) -> None:
        self.pair.kill()
        for server in self.servers:
            server.stop()


class Limited(Server):
    """qemu-nbd, which lets clients beyond this number wait for others to go."""

    def __init__(self, image: Path, clients: int, size: int) -> None:
        super().__init__(image)
        self._clients = clients
        image.touch()
        os.truncate(image, size)

    def start(self, *filters: str, parameters: tuple[str, ...] = (), threads: int = 0) -> None:
        assert not filters and not parameters and not threads
        self.socket.unlink(missing_ok=True)
        words = ["qemu-nbd", "--persistent", f"--shared={self._clients}", "--format=raw"]
        self._process = subprocess.Popen([*words, f"--socket={self.socket}", str(self.image)])
        self._until_it_answers()
