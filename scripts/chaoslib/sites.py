"""A site, driven as a person drives it: by the `flashmirror` command, signals and its files.

A site of this run has two volumes: the stores of `one` are files, those of `two` are behind NBD
servers if the run has faults of servers, else files, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from chaoslib.record import ChaosFailure, Record
from chaoslib.servers import Server
from chaoslib.statedisk import StateDisk

PARTS = ("data", "intermediate")
# Seconds that each command may take, as it promises, and for a machine that is busy.
BOUNDS_S = {"start": 30.0, "stop": 60.0, "status": 10.0, "promote": 60.0}
MARGIN_S = 60.0


class CommandFailed(Exception):
    """The line that a command printed."""


class Site:
    def __init__(
        self, folder: Path, name: str, program: Path, record: Record, sizes: dict[str, int]
    ) -> None:
        self.base, self.name, self.folder = folder, name, folder / name
        self._program, self._record, self._sizes = program, record, sizes
        self.toml = folder / f"{name}.toml"
        self.disk = StateDisk(self.folder / "state")
        self.servers: dict[str, Server] = {}  # of part: of volume two
        self.maps = folder / "run" / name  # where the maps of a source outlive its process
        self.pid = 0  # 0: it does not run
        self.frozen = False
        self.environment = {**os.environ, "RUNTIME_DIRECTORY": str(self.maps)}

    # ---- its files

    def image(self, volume: str, part: str) -> Path:
        return self.folder / f"{volume}.{part}.img"

    def store(self, volume: str, part: str) -> str:
        server = self.servers.get(part) if volume == "two" else None
        return server.uri if server else str(self.image(volume, part))

    def make(self, settings: str, *, served: bool, own_disk: bool) -> None:
        """Its folder, stores, servers and configuration."""
        self.folder.mkdir()
        self.maps.mkdir(parents=True)
        if own_disk:
            self.disk.mount()
        for volume, size in self._sizes.items():
            for part in PARTS:
                with self.image(volume, part).open("wb") as file:
                    file.truncate(size)
        if served:
            for part in PARTS:
                server = Server(self.image("two", part), self.folder / f"two.{part}.log")
                server.command()
                server.start()
                self.servers[part] = server
        self.configure(
            self.toml,
            self.base / f"{self.name}.sock",
            self.base / f"to-{'west' if self.name == 'east' else 'east'}.sock",
            settings,
        )

    def configure(self, toml: Path, socket: Path, peer: Path, settings: str) -> None:
        text = (
            f'name = "{self.name}"\nlisten = ["unix:{socket}"]\npeer = "unix:{peer}"\n'
            f'state = "{self.folder}/state"\n{settings}\n'
        )
        for volume in self._sizes:
            text += f'[[volume]]\nname = "{volume}"\n'
            text += "".join(f'{part} = "{self.store(volume, part)}"\n' for part in PARTS)
        toml.write_text(text)

    # ---- commands

    def run(self, *words: str, bound_s: float, toml: Path | None = None) -> str:
        """What the command prints.  Raises CommandFailed with its line; ChaosFailure if it does not
        end within its bound, or ends otherwise than a command ends."""
        command = [str(self._program), words[0], str(toml or self.toml), *words[1:]]
        began = time.monotonic()
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=bound_s + MARGIN_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ChaosFailure(
                f"{self.name}: '{' '.join(words)}' did not end within {bound_s + MARGIN_S:g} s"
            ) from None
        took = time.monotonic() - began
        self._record.count("commands")
        if words[0] != "status":
            said = f": {done.stderr.strip()}" if done.returncode else ""
            self._record.say(
                f"{self.name}: {' '.join(words)} -> {done.returncode} in {took:.2f} s{said}"
            )
        if done.returncode:
            if "Traceback" in done.stderr or done.returncode != 1:
                raise ChaosFailure(
                    f"{self.name}: '{' '.join(words)}': status {done.returncode}: "
                    f"{done.stderr.strip()}"
                )
            raise CommandFailed(done.stderr.strip())
        return done.stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json", bound_s=BOUNDS_S["status"]))
        return found

    def last_lines(self, count: int) -> list[str]:
        """Of its log."""
        with contextlib.suppress(OSError):
            text = (self.disk.folder / "site.log").read_text(errors="replace")
            return [line for line in text.splitlines() if line][-count:]
        return []

    def uris(self) -> list[str]:
        """Of its devices; it is a source."""
        return [self.run("uri", v, bound_s=BOUNDS_S["status"]).strip() for v in self._sizes]

    def start(self) -> None:
        """Raises CommandFailed."""
        self.mend_servers()
        self.run("start", bound_s=BOUNDS_S["start"])
        self.pid = int(self.status()["pid"])

    def stop(self) -> None:
        self.thaw()
        self.run("stop", bound_s=BOUNDS_S["stop"])
        self.pid = 0

    def kill(self) -> None:
        """SIGKILL.  A server that holds requests of this process back goes first: what a killed
        process had sent to a server that hangs may be done later, as the docs say."""
        if not self.pid:
            return
        for server in self.servers.values():
            if server.fault:
                server.kill()
                server.command()
        handle = os.pidfd_open(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, handle, os.WEXITED)
        while _alive(self.pid):
            time.sleep(0.005)  # it is nobody's child that we could wait for
        os.close(handle)
        self.pid, self.frozen = 0, False
        self.mend_servers()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            os.kill(self.pid, signal.SIGCONT)
            self.frozen = False

    # ---- its servers

    def serve_as(self, *, source: bool) -> None:
        """The disks of a source keep what they have answered: what clients wrote is judged."""
        for server in self.servers.values():
            server.through = source
            server.command(server.fault)
            if source:
                server.write_down()

    def mend_servers(self) -> None:
        for server in self.servers.values():
            if server.fault:
                server.command()
            if server.has_died():
                self._record.count("servers that died by themselves")
                server.kill()
            if not server.runs():
                server.start()

    def end(self) -> None:
        """Whatever state it is in."""
        if self.pid and _alive(self.pid):
            self.kill()
        for server in self.servers.values():
            server.kill()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
