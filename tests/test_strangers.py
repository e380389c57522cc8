"""Whoever else finds the port of a site: refused, logged once with where it came from, bounded in
memory, and mirroring goes on as if nobody were there.

All against a target, whose port the source uses all the time, and from the source's own address
where that is harder.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import direct
import pytest
from handmade import as_somebody_else, kill
from nbd_client import READ, NbdClient, NbdError
from remote import (
    REFUSED,
    MakeRemote,
    RemoteClient,
    RemotePair,
    peer_of,
    trusting,
    undisturbed,
)

from mirror_core import config, connections, door, limits, pki, protocol
from mirror_core.errors import PeerError, Refused
from mirror_core.journal import Journal

MIB = 1 << 20
STRANGER = "127.0.0.9"  # another address of this machine


@pytest.fixture
def pair(make_remote: MakeRemote) -> RemotePair:
    """Mirroring over TLS."""
    pair = make_remote("--size", "1M")
    pair.start()
    direct.sync(pair)
    return pair


def connect(pair: RemotePair, origin: str = STRANGER) -> socket.socket:
    return socket.create_connection(("127.0.0.1", pair.port["west"]), 20, (origin, 0))


def is_ended(connection: socket.socket, timeout_s: float = 20.0) -> bool:
    """Whether the site ends it; what it says before is read."""
    connection.settimeout(timeout_s)
    with contextlib.suppress(ConnectionError):
        try:
            while connection.recv(65536):
                pass
        except TimeoutError:
            return False
    return True


def wait_refusal(pair: RemotePair, text: str, origin: str = STRANGER) -> None:
    """Exactly one line, with the address."""
    direct.wait_for(lambda: bool(pair.refusals("west", text, origin)), f"a line with {text!r}")
    assert len(pair.refusals("west", text, origin)) == 1


# ---- the wrong credentials


def no_certificate(pair: RemotePair) -> ssl.SSLContext:
    return trusting(pair.credentials("east"), own=None)


def wrong_authority(pair: RemotePair) -> ssl.SSLContext:
    folder = pair.folder / "others"
    if not folder.exists():
        pki.make(folder, {"east": ("localhost",), "west": ("localhost",)}, days=1)
    return trusting(pair.credentials("east"), own=folder / "east")


def no_tls(_pair: RemotePair) -> None:
    return None


@pytest.mark.parametrize(
    ("credentials", "why"),
    [
        (no_certificate, "certificate"),
        (wrong_authority, "certificate"),
        (no_tls, "came over TCP without TLS"),
    ],
    ids=["no-certificate", "wrong-authority", "no-tls"],
)
def test_without_the_mirrors_certificate_nothing_opens(
    pair: RemotePair, credentials: Callable[[RemotePair], ssl.SSLContext | None], why: str
) -> None:
    """Not the control, not the device, not a session's intermediate; as often as it is tried,
    the log has one line with the address."""
    with undisturbed(pair):
        for export in ("/control", "disk", "disk/intermediate/1") * 3:
            with pytest.raises(REFUSED):
                client = RemoteClient(pair.port["west"], export, credentials(pair), STRANGER)
                client.read(0, 512)  # TLS 1.3: the server's refusal comes after our handshake
        wait_refusal(pair, why)


def test_a_peer_may_not_open_the_device(pair: RemotePair) -> None:
    """With the peer's own certificates: a device is on the Unix socket only, whether a volume
    exists is not told, and an intermediate is that of its session."""
    with undisturbed(pair):
        for site in ("east", "west"):
            for export in ("disk", "", "disk/", "/", "nothing", "/Control", "x" * 4000):
                with pytest.raises(NbdError):
                    peer_of(pair, site, export)
            for export in ("disk/intermediate/1", "disk/intermediate", "disk/intermediate/"):
                with pytest.raises(NbdError):
                    peer_of(pair, site, export)
            assert len(pair.refusals(site, "'disk' is on the Unix socket only")) == 1


@pytest.mark.parametrize("session", ["0", "1", "", "00", "-1"])
def test_before_there_is_a_session_no_intermediate_opens(
    make_remote: MakeRemote, session: str
) -> None:
    """A target that has just started has none, and 0 is none: one block that was written there
    would be owed for good, by a source that knows nothing of it."""
    pair = make_remote("--size", "1M")
    pair.start("west")
    with pytest.raises(NbdError):
        peer_of(pair, "west", f"disk/intermediate/{session}")


def test_a_peer_may_not_use_the_local_control(pair: RemotePair) -> None:
    """What commands ask is answered on the Unix socket only; logged once, however often."""
    requests: list[protocol.Record] = [
        *({"op": op} for op in ("status", "sync", "resume", "settled")),
        {"op": "wait", "sequence": 1},
        {"op": "pause", "now": True},
        {"op": "promote", "force": True},
    ]
    for site in ("east", "west"):
        with undisturbed(pair):
            for record in requests * 2:
                with (
                    peer_of(pair, site) as client,
                    pytest.raises(PeerError, match="is asked on the Unix socket only"),
                ):
                    client.exchange(protocol.encode(record))
        for record in requests:
            assert len(pair.refusals(site, f"{record['op']} is asked on the Unix socket only")) == 1


LOCAL_STRANGER = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(20)
connection.connect(sys.argv[1])
print(len(connection.recv(100)))
"""


@pytest.mark.root("becomes another user")
def test_a_stranger_on_the_unix_socket_is_refused(pair: RemotePair) -> None:
    """Another user cannot connect; not even if somebody has opened the socket's permissions: then
    the site ends the connection and says which user it was."""

    def tries() -> subprocess.CompletedProcess[str]:
        words = [*as_somebody_else(), sys.executable, "-c", LOCAL_STRANGER]
        return subprocess.run(
            [*words, str(pair.folder / "west.sock")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    for folder in (pair.folder.parent, pair.folder):
        folder.chmod(0o755)
    assert "Permission denied" in tries().stderr
    (pair.folder / "west.sock").chmod(0o666)
    with undisturbed(pair):
        for _ in range(3):
            assert tries().stdout == "0\n"
    wait_refusal(pair, "the Unix socket is for its owner only", "user 65534")


# ---- floods


@contextlib.contextmanager
def bounded_memory(pair: RemotePair, most: int) -> Iterator[None]:
    before = pair.memory("west")
    yield
    grown = pair.memory("west") - before
    assert grown < most
    print(f"memory: {before / MIB:.0f} MiB, grown by {grown / MIB:.1f} MiB")


@pytest.mark.parametrize("origin", [STRANGER, "127.0.0.1"], ids=["own-address", "peers-address"])
def test_500_half_open_and_slow_connections(pair: RemotePair, origin: str) -> None:
    """Half of them say nothing, half say what NBD wants, byte by byte: no more than STRANGERS_MAX
    stay, and those no longer than OPENING_S.  The source goes on meanwhile, connections that it
    opens anew included, even if the flood comes from its own address."""
    slow = struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 4000) + b"x" * 3000
    before = peak = pair.memory("west")
    with undisturbed(pair), contextlib.ExitStack() as open_ones:
        crowd = [open_ones.enter_context(connect(pair, origin)) for _ in range(500)]
        began = time.monotonic()
        gone: set[socket.socket] = set()
        said = 0
        while len(gone) < len(crowd):
            assert time.monotonic() < began + 3 * limits.OPENING_S, f"{len(gone)} have gone"
            for connection in crowd[::2]:
                if connection not in gone:
                    with contextlib.suppress(OSError):
                        connection.sendall(slow[said : said + 1])
            said += 1
            if said % 10 == 1:
                direct.sync(pair)
            left = [connection for connection in crowd if connection not in gone]
            for connection in select.select(left, [], [], 0.1)[0]:
                with contextlib.suppress(ConnectionError):
                    if connection.recv(65536):
                        continue
                gone.add(connection)
            peak = max(peak, pair.memory("west"))
        assert said > 10, "none was let stay"
        assert peak - before < 64 * MIB
        print(f"memory: {before / MIB:.0f} MiB, at most {peak / MIB:.0f} MiB")
    wait_refusal(pair, f"opened nothing within {limits.OPENING_S:g} s", origin)
    wait_refusal(pair, f"one of more than {limits.STRANGERS_MAX} clients", origin)


@pytest.mark.parametrize("origin", [STRANGER, "127.0.0.1"], ids=["own-address", "peers-address"])
def test_who_has_the_peers_certificate_keeps_nobody_out(pair: RemotePair, origin: str) -> None:
    """Connections with the control export open that ask for no session count as those that open
    nothing: who asks nothing for OPENING_S is put out.  The session goes on, and a source that
    comes back meanwhile has its own."""
    own = pair.credentials("east")
    context = trusting(own, own=own)
    with contextlib.ExitStack() as open_ones:
        with undisturbed(pair):
            crowd = [
                open_ones.enter_context(
                    RemoteClient(pair.port["west"], "/control", context, origin)
                )
                for _ in range(50)
            ]
        kill(pair, "east")
        pair.start("east")
        direct.sync(pair)
        asks, silent = crowd[-1], crowd[:-1]
        who = protocol.encode({"op": "who"})
        began = time.monotonic()
        for connection in silent:
            while not is_ended(connection.socket, 0.5):
                assert asks.exchange(who)["role"] == "target"
                assert time.monotonic() < began + 3 * limits.OPENING_S
        assert asks.exchange(who)["role"] == "target"
    wait_refusal(pair, f"did nothing for {limits.OPENING_S:g} s", origin)


def test_who_has_gone_is_forgotten_though_the_session_goes_on(
    pair: RemotePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source asks in its session on one connection after another (its pulse hangs up and comes
    again): those that have ended take no places."""

    class Nobody:
        def look(self) -> dict[door.Address, int]:
            return {}

    monkeypatch.setattr(door, "_whole_server", lambda: None)
    monkeypatch.setattr(connections, "callers", lambda _site: Nobody())
    monkeypatch.setattr(limits, "DOOR_LOOK_S", 0.0)
    settings = config.load(str(pair.toml("west")))
    one = door.Door(settings, Journal(), lambda: 5)
    address = ("10.0.0.2", 4000)
    guest = one._guests[address] = door._Guest(one._lock, one._news)
    visitor = door.Visitor(False, address[0], address, guest)
    one.entered(visitor, intermediate=False)
    with guest.asks():
        guest.session = 5
    one.look()
    assert address in one._guests
    one.left(visitor, intermediate=False)
    one.look()
    assert not one._guests


def test_no_address_takes_all_places() -> None:
    """And all together no more than there are."""
    one, other = "203.0.113.9", "10.0.0.2"
    most = limits.TCP_CLIENTS_MAX - limits.STRANGERS_MAX
    guests = [(one, port) for port in range(most)]
    assert not door._is_full(guests[1:], one) and door._is_full(guests, one)
    assert not door._is_full(guests, other)
    guests += [(other, port) for port in range(limits.STRANGERS_MAX)]
    assert door._is_full(guests, other) and door._is_full(guests, "10.0.0.3")


def test_100_clients_that_reset_with_replies_pending(pair: RemotePair) -> None:
    """A peer that loses its power does just that, and Debian's nbdkit would end for everybody if a
    connection had several threads: it lives, and the next one is served."""
    pid = direct.status(pair, "west")["pid"]
    with undisturbed(pair), bounded_memory(pair, 64 * MIB):
        for _ in range(100):
            client = peer_of(pair, "west")
            for _ in range(64):
                client.send(READ, 0, limits.CONTROL_BYTES)
            client.reset()
    assert direct.status(pair, "west")["pid"] == pid


def garbage() -> list[bytes]:
    rng = random.Random(4)
    head = struct.pack(">I", 3)
    option = b"IHAVEOPT"
    return [
        b"GET / HTTP/1.1\r\nHost: west\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS without STARTTLS
        b"SSH-2.0-OpenSSH_9.2\r\n",
        head + option + struct.pack(">II", 5, 0) + b"no TLS at all" * 99,
        head + option + struct.pack(">II", 7, 0xFFFFFFFF) + b"x" * 9999,
        head + option + struct.pack(">II", 0xFFFFFFFF, 12) + b"x" * 12,
        head + option + struct.pack(">II", 1, 4) + b"disk" + bytes(200),  # NBD_OPT_EXPORT_NAME
        *(rng.randbytes(rng.randrange(1, 4000)) for _ in range(60)),
        *(
            head + option + struct.pack(">II", rng.randrange(12), n) + rng.randbytes(n)
            for n in (rng.randrange(300) for _ in range(60))
        ),
    ]


def test_garbage_on_the_port(pair: RemotePair) -> None:
    """Other protocols, broken NBD, noise, in plain and within TLS: each connection ends, the
    address is in the log once, and nobody else notices."""
    pieces = garbage()
    with undisturbed(pair), bounded_memory(pair, 64 * MIB):
        for data in pieces:
            with connect(pair) as connection:
                with contextlib.suppress(OSError):  # it may have ended already
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                assert is_ended(connection)
        wait_refusal(pair, "went before it opened anything")
        for data in pieces:
            with contextlib.suppress(*REFUSED, OSError), peer_of(pair, "west") as client:
                client.socket.sendall(data)  # where it should be a request
    assert "Traceback" not in pair.log("west")


def test_bad_control_records_over_tcp(pair: RemotePair) -> None:
    """Too long, at the wrong place, cut, nested, of wild values, noise: each is answered with an
    error, the address is in the log once for each kind, and nothing was changed."""
    rng = random.Random(7)
    sample = {
        "op": "handshake",
        "name": "east",
        "lineage": "a" * 32,
        "session": 5,
        "volumes": [],
        "site": "b" * 32,
    }
    values = [-1, 2**63, 1e308, "x" * 9000, None, [], {"a": 1}, True, "\ud800"]
    committed = direct.status(pair, "west")["committed"]["sequence"]
    with undisturbed(pair), bounded_memory(pair, 64 * MIB):
        for offset, data in (
            (4096, b"{}"),
            (0, bytes(limits.CONTROL_BYTES + 1)),
            (0, bytes(32 * MIB)),
            (2**62, b"{}"),
        ):
            client = peer_of(pair, "west")
            # nbdkit 1.32 skips the data of a write beyond the end as if there were no TLS, and
            # waits for more: a client that does so waits for ever, and harms itself only.
            client.socket.settimeout(1)
            with pytest.raises((*REFUSED, TimeoutError)):
                client.write(offset, data)
            client.reset()
        records = [
            *(
                json.dumps({"flashmirror": protocol.VERSION, **sample, key: value}).encode()
                for key in sample
                for value in values
            ),
            *(rng.randbytes(rng.randrange(1, 2000)) for _ in range(60)),
            b"[" * limits.CONTROL_BYTES,
            b"",
            b"null",
            json.dumps(sample).encode(),
        ]
        with peer_of(pair, "west") as client:
            for data in records:
                with pytest.raises((PeerError, Refused)):
                    client.exchange(data + bytes(limits.CONTROL_BYTES - len(data)))
    assert (direct.status(pair, "west")["committed"]["sequence"] or 0) >= committed
    lines = pair.refusals("west", "malformed control record")
    assert lines and len(lines) == len({line.split("refused: ", 1)[1] for line in lines})
    assert "Traceback" not in pair.log("west")


ODD = [
    "%FF%FE",
    "a" * 4096,
    "disk%0A%1B[31mred",
    "disk/intermediate/%FF%0A",
    "d%E2%80%AEisk",
    "disk/intermediate/" + "f" * 4000,
    "%ED%A0%80",
    "/control%FF",
    "//",
    "disk/x/" + "%0A" * 500,
]


def test_an_export_name_may_be_any_bytes(pair: RemotePair) -> None:
    """No text, control characters, very long: whoever asks for it is told that there is no such
    export, over either socket of either site; the log has a short line for it, once from us if it
    came over the network."""
    for site in ("east", "west"):
        for name in ODD * 2:
            escaped = name.replace("/", "%2F")
            with pytest.raises(NbdError):
                NbdClient(f"nbd+unix:///{escaped}?socket={pair.folder}/{site}.sock")
            with pytest.raises(NbdError):
                peer_of(pair, site, name)
        lines = pair.log(site).splitlines()
        assert max(map(len, lines)) < 400 and "Traceback" not in pair.log(site)
        assert all(line.isprintable() for line in lines)
        assert len(pair.refusals(site, "")) == len(ODD)
    with undisturbed(pair):
        pass


def test_an_idle_port_costs_nothing(pair: RemotePair) -> None:
    """When the flood is over no trace of it is left: neither threads nor descriptors."""

    def counted() -> tuple[int, int]:
        pid = direct.status(pair, "west")["pid"]
        return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))

    direct.sync(pair)
    direct.pause(pair)
    threads, descriptors = counted()
    for _ in range(3):
        with contextlib.ExitStack() as open_ones:
            for _ in range(100):
                open_ones.enter_context(connect(pair))
    direct.wait_for(
        lambda: counted()[0] <= threads + 2 and counted()[1] <= descriptors + 2, "all to be gone"
    )
    direct.resume(pair)
