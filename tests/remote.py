"""A pair whose sites reach each other over TCP, as two machines do, and clients of that port."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import SplitResult

import direct
from nbd_client import NbdClient, NbdError
from pair import Pair

from mirror_core import limits, pki, protocol
from mirror_core.peer import answer_of

HOSTS = ("localhost", "127.0.0.1")
OTHER = {"east": "west", "west": "east"}
STARTTLS, ACK = 5, 1


EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of connections: ip(7)
_kept: list[socket.socket] = []  # until this process ends


def free_ports(count: int) -> list[int]:
    """Of this process alone, as long as it runs: a site that is stopped finds its port free when it
    is started again.  So none that the kernel may give to a connection meanwhile; and a UDP socket
    of its number keeps each from the other processes of these tests."""
    lowest = int(EPHEMERAL.read_text().split()[0])
    found: list[int] = []
    below = range(max(1024, lowest - 8192), lowest)
    for port in random.SystemRandom().sample(below, len(below)):
        with contextlib.ExitStack() as undo, contextlib.suppress(OSError):
            mark = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            mark.bind(("127.0.0.1", port))
            socket.create_server(("127.0.0.1", port)).close()
            undo.pop_all()
            _kept.append(mark)
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} ports are free below {lowest}")


class RemotePair(Pair):
    """`kind`: certificates, psk, or plain."""

    def __init__(self, folder: Path, *options: str, kind: str = "certificates") -> None:
        super().__init__(folder, *options)
        self.port = dict(zip(("east", "west"), free_ports(2), strict=True))
        pki.make(folder / "pki", {site: (site, *HOSTS) for site in ("east", "west")}, days=1)
        (folder / "key").write_text(f"flashmirror:{'5e' * 32}\n")
        (folder / "key").chmod(0o600)
        for site in ("east", "west"):
            self.rewrite(site, kind)

    def rewrite(self, site: str, kind: str) -> None:
        text = self.toml(site).read_text()
        listen = f'listen = ["unix:{self.folder}/{site}.sock", "tcp:127.0.0.1:{self.port[site]}"]'
        scheme = "nbd" if kind == "plain" else "nbds"
        peer = f'peer = "{scheme}://localhost:{self.port[OTHER[site]]}"'
        text = re.sub("^listen = .*$", listen, text, flags=re.MULTILINE)
        text = re.sub("^peer = .*$", peer, text, flags=re.MULTILINE)
        if kind == "plain":
            text = "insecure = true\n" + text
        elif kind == "psk":
            text += f'\n[tls]\npsk = "{self.folder}/key"\n'
        else:
            text += f'\n[tls]\ncertificates = "{self.folder}/pki/{site}"\n'
        self.toml(site).write_text(text)

    def credentials(self, site: str, folder: str = "pki") -> Path:
        return self.folder / folder / site

    def memory(self, site: str) -> int:
        """Resident bytes of a running site."""
        pid = direct.status(self, site)["pid"]
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def refusals(self, site: str, text: str, origin: str = "127.0.0.1") -> list[str]:
        """The lines with which the site refused somebody from there, for that reason."""
        return [
            line
            for line in self.log(site).splitlines()
            if f"flashmirror: refused: {origin}: " in line and text in line
        ]


MakeRemote = Callable[..., RemotePair]


class RemoteClient(NbdClient):
    """A client over TCP, from an address of this machine; with TLS if it has a context."""

    def __init__(
        self, port: int, export: str, context: ssl.SSLContext | None, origin: str = "127.0.0.1"
    ) -> None:
        self._port, self._context, self._origin = port, context, origin
        super().__init__(f"nbd://localhost/{export.replace('/', '%2F')}")

    def _connect(self, uri: SplitResult, timeout_s: float) -> socket.socket:
        return socket.create_connection(
            ("127.0.0.1", self._port), timeout_s, source_address=(self._origin, 0)
        )

    def _greet(self) -> None:
        super()._greet()
        if self._context is None:
            return
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", STARTTLS, 0))
        _, option, kind, _ = struct.unpack(">QIII", self._receive(20))
        assert (option, kind) == (STARTTLS, ACK)
        self.socket = self._context.wrap_socket(self.socket, server_hostname="localhost")

    def close(self) -> None:
        """A server that has ended it is told nothing: with OpenSSL 3.5 nothing can be sent once its
        end was read, and with 3.0 it is sent to nobody."""
        with contextlib.suppress(ssl.SSLEOFError):
            super().close()

    def reset(self) -> None:
        """End the connection at once, whatever is under way."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def exchange(self, data: bytes) -> protocol.Record:
        """One request of the control export.  As peer.ask."""
        self.write(0, data)
        return answer_of(self.read(0, limits.CONTROL_BYTES))


def trusting(folder: Path, *, own: Path | None) -> ssl.SSLContext:
    """TLS as of a site whose certificates are in this folder; showing those of `own`.  Strict about
    RFC 5280, as Python is from 3.13 on."""
    context = ssl.create_default_context(cafile=folder / "ca-cert.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if own:
        context.load_cert_chain(own / "client-cert.pem", own / "client-key.pem")
    return context


def peer_of(pair: RemotePair, site: str, export: str = "/control") -> RemoteClient:
    """Connected to a site with the certificates of the other one."""
    own = pair.credentials(OTHER[site])
    return RemoteClient(pair.port[site], export, trusting(own, own=own))


@contextlib.contextmanager
def undisturbed(pair: RemotePair) -> Iterator[None]:
    """What happens meanwhile neither ends the session nor holds up a sync, then or afterwards."""
    before = [direct.status(pair, site)["peer"] for site in ("east", "west")]
    yield
    with pair.client() as client:
        client.write(0, b"\x5a" * 65536)
    direct.sync(pair)
    assert [direct.status(pair, site)["peer"] for site in ("east", "west")] == before
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


REFUSED = (NbdError, ConnectionError, ssl.SSLError)
