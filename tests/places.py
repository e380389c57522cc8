"""Two places with a network between them: a site in each of two network namespaces, over TLS.

Unix sockets are of the file system, so commands and clients reach both sites from here.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pair import FLASHMIRROR, Pair

from mirror_core import pki

ADDRESS = {"east": "10.77.0.1", "west": "10.77.0.2"}
OTHER = {"east": "west", "west": "east"}
PORT, RELAY_PORT = 10809, 10900
_numbers = itertools.count()
needs_networks = pytest.mark.root("makes networks of its own")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Places(Pair):
    """`way_ms`: there and back, through a relay; 0: the sites talk to each other themselves."""

    def __init__(self, folder: Path, *options: str, way_ms: float = 0, settings: str = "") -> None:
        super().__init__(folder, *options)
        number = f"{os.getpid()}-{next(_numbers)}"
        self.space = {site: f"fm-{site}-{number}" for site in ADDRESS}
        self._relay: subprocess.Popen[str] | None = None
        self._lay_cable()
        pki.make(folder / "pki", {site: (ADDRESS[site],) for site in ADDRESS}, days=1)
        for site in ADDRESS:
            self._rewrite(site, RELAY_PORT if way_ms and site == "east" else PORT, settings)
        if way_ms:
            self._begin_relay(way_ms / 2)

    def _lay_cable(self) -> None:
        for site in ADDRESS:
            ip("netns", "add", self.space[site])
        ip(
            "-n",
            self.space["east"],
            "link",
            "add",
            "way",
            "type",
            "veth",
            "peer",
            "name",
            "way",
            "netns",
            self.space["west"],
        )
        for site, address in ADDRESS.items():
            ip("-n", self.space[site], "addr", "add", f"{address}/24", "dev", "way")
            for device in ("lo", "way"):
                ip("-n", self.space[site], "link", "set", device, "up")

    def _rewrite(self, site: str, port: int, settings: str) -> None:
        text = self.toml(site).read_text()
        listen = f'listen = ["unix:{self.folder}/{site}.sock", "tcp:{ADDRESS[site]}:{PORT}"]'
        peer = f'peer = "nbds://{ADDRESS[OTHER[site]]}:{port}"'
        text = re.sub("^listen = .*$", listen, text, flags=re.MULTILINE)
        text = re.sub("^peer = .*$", peer, text, flags=re.MULTILINE)
        text = re.sub("^metrics = .*$", "", text, flags=re.MULTILINE)
        tls = f'\n[tls]\ncertificates = "{self.folder}/pki/{site}"\n'
        self.toml(site).write_text(f"{settings}\n{text}{tls}")

    def _begin_relay(self, delay_ms: float) -> None:
        script = Path(__file__).with_name("relay.py")
        words = [
            sys.executable,
            str(script),
            ADDRESS["west"],
            str(RELAY_PORT),
            ADDRESS["west"],
            str(PORT),
            str(delay_ms),
        ]
        self._relay = subprocess.Popen(self._in("west", words), stdout=subprocess.PIPE, text=True)
        assert self._relay.stdout and self._relay.stdout.readline() == "ready\n"

    def _in(self, site: str, words: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.space[site], *words]

    def start(self, *sites: str) -> None:
        for site in sites or ("west", "east"):
            words = [str(FLASHMIRROR), "start", str(self.toml(site))]
            subprocess.run(self._in(site, words), check=True, timeout=60)

    def get(self, site: str, url: str) -> str:
        """What a web server of that place answers."""
        code = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=10).read().decode())"
        words = self._in(site, [sys.executable, "-c", code])
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    # ---- what happens to the network

    def cable(self, state: str) -> None:
        """up or down"""
        ip("-n", self.space["east"], "link", "set", "way", state)

    def drop(self, what: str) -> None:
        """Packets that match, into the target's place; nothing is answered for them."""
        chain = f"type filter hook input priority 0\n{what} drop\n"
        self._nft(f"table ip fm {{\nchain c {{\n{chain}}}\n}}")

    def drop_nothing(self) -> None:
        self._nft("delete table ip fm")

    def _nft(self, rules: str) -> None:
        subprocess.run(self._in("west", ["nft", rules]), check=True)

    def narrow(self, rate: str) -> None:
        """What the source's place may send a second, as tc(8) writes it; with a queue of 300 ms."""
        words = [
            "tc",
            "qdisc",
            "replace",
            "dev",
            "way",
            "root",
            "tbf",
            "rate",
            rate,
            "burst",
            "256k",
            "latency",
            "300ms",
        ]
        subprocess.run(self._in("east", words), check=True)

    def wire_bytes(self) -> int:
        """Of all that the source's place has sent, with every protocol's own."""
        statistics = Path("/sys/class/net/way/statistics/tx_bytes")
        words = self._in("east", ["cat", str(statistics)])
        return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    def end(self) -> None:
        self.kill()
        if self._relay:
            self._relay.kill()
            self._relay.wait(20)
        for space in self.space.values():
            subprocess.run(["ip", "netns", "del", space], check=False)
