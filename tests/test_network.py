"""Two sites over TCP: with certificates, with a shared key, in plain; what is needed for it, and
what is refused when it is not as it must be."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import direct
import pytest
from handmade import flashmirror, nothing_changes, refused, until_state
from nbd_client import NbdClient
from pair import MakePair
from remote import (
    EPHEMERAL,
    MakeRemote,
    RemoteClient,
    RemotePair,
    free_ports,
    peer_of,
    trusting,
    undisturbed,
)
from served import Server

from mirror_core import config, limits, pki, protocol
from mirror_core.errors import Refused


@pytest.mark.parametrize("kind", ["certificates", "psk", "plain"])
def test_a_pair_over_the_network_mirrors(make_remote: MakeRemote, kind: str) -> None:
    """Whatever proves the peer: two volumes arrive whole, the sites find each other after either
    was restarted, and `check` is content."""
    pair = make_remote("--size", "8M", "--volumes", "2", kind=kind)
    pair.start()
    for turn, restarted in enumerate((None, "west", "east")):
        if restarted:
            pair.stop(restarted)
            pair.start(restarted)
        for volume in ("disk", "disk2"):
            with pair.client(volume) as client:
                for i in range(16):
                    client.write(i * 262144 + turn * 4096, bytes([turn + 1]) * 65536)
        pair.sync()
        for volume in ("disk", "disk2"):
            assert (
                pair.image("east", volume).read_bytes() == pair.image("west", volume).read_bytes()
            )
    for site in ("east", "west"):
        assert flashmirror("check", str(pair.toml(site))).returncode == 0
        assert "Traceback" not in pair.log(site) and not pair.refusals(site, "")


def test_both_sockets_are_one_process(make_remote: MakeRemote) -> None:
    """The device and the commands are on the Unix socket, which only its owner may open; the
    port is free again when the site has stopped, and so is the socket's name."""
    pair = make_remote("--size", "1M")
    pair.start()
    path = pair.folder / "east.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pair.client() as client:
        client.write(0, b"x" * 512)
    pair.stop()
    assert not path.exists()
    socket.create_server(("127.0.0.1", pair.port["east"])).close()


def test_a_promoted_target_listens_again(make_remote: MakeRemote) -> None:
    """Its process begins anew on both sockets, and the old source hears over TCP that its history
    has ended."""
    pair = make_remote("--size", "1M")
    pair.start()
    pair.sync()
    pair.run("promote", str(pair.toml("west")), "--force")
    assert "west was promoted after sequence" in until_state(pair, "refused")["reason"]
    assert direct.status(pair, "west")["role"] == "source"


# ---- what TLS needs


def take_away(pair: RemotePair) -> None:
    (pair.credentials("east") / "client-key.pem").unlink()


def name_the_folder_of_both(pair: RemotePair) -> None:
    text = pair.toml("east").read_text()
    folder = pair.credentials("east")
    pair.toml("east").write_text(text.replace(f'"{folder}"', f'"{folder.parent}"'))


def hide(pair: RemotePair) -> None:
    path = pair.credentials("east") / "client-key.pem"
    path.unlink()
    path.symlink_to(path)


def show_everybody(pair: RemotePair) -> None:
    (pair.credentials("east") / "server-key.pem").chmod(0o644)


def spoil(pair: RemotePair) -> None:
    (pair.credentials("east") / "server-cert.pem").write_text("no certificate")


def short_key(pair: RemotePair) -> None:
    pair.rewrite("east", "psk")
    text = pair.toml("east").read_text().split("[tls]\ncertificates")[0]
    pair.toml("east").write_text(f'{text}\n[tls]\npsk = "{pair.folder}/key"\n')
    (pair.folder / "key").write_text("flashmirror:12\n")


def busy_port(pair: RemotePair) -> None:
    text = pair.toml("east").read_text()
    holder = socket.create_server(("127.0.0.1", 0))
    HELD.append(holder)
    port = holder.getsockname()[1]
    pair.toml("east").write_text(text.replace(f":{pair.port['east']}", f":{port}"))


def no_such_address(pair: RemotePair) -> None:
    text = pair.toml("east").read_text()
    pair.toml("east").write_text(text.replace("tcp:127.0.0.1", "tcp:192.0.2.1"))


HELD: list[socket.socket] = []
NEEDS: list[tuple[Callable[[RemotePair], None], str, str]] = [
    (take_away, "client-key.pem: No such file", "'flashmirror pki' makes"),
    (name_the_folder_of_both, "pki/ca-cert.pem: No such file", "name the folder of this site"),
    (hide, "client-key.pem: Too many levels of symbolic links", "mend that"),
    (show_everybody, "server-key.pem: everybody may read", "chmod 600"),
    (spoil, "server-cert.pem: is not PEM", "'flashmirror pki' makes"),
    (short_key, "key: holds no line 'flashmirror:KEY'", "docs/network.md"),
    (busy_port, "Address already in use", "free it, or change 'listen'"),
    (no_such_address, "Cannot assign requested address", "or change 'listen'"),
]


@pytest.mark.parametrize(("damage", "what", "advice"), NEEDS, ids=[n[0].__name__ for n in NEEDS])
def test_a_site_without_what_the_network_needs_does_not_start(
    make_remote: MakeRemote, damage: Callable[[RemotePair], None], what: str, advice: str
) -> None:
    """It says in one line what is missing, or in the way, and has changed nothing."""
    pair = make_remote("--size", "1M")
    damage(pair)
    with nothing_changes(pair.folder):
        line = refused("start", str(pair.toml("east")))
    assert what in line and advice in line, line
    while HELD:
        HELD.pop().close()


def test_a_port_of_a_test_is_nobody_elses_while_its_site_is_stopped() -> None:
    """No connection is given it, and no other process of the tests takes it."""
    ports = free_ports(4)
    lowest = int(EPHEMERAL.read_text().split()[0])
    assert len({*ports}) == 4 and max(ports) < lowest
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        socket.create_server(("127.0.0.1", port)).close()


def test_a_peer_of_another_authority_is_told_from_one_that_is_away(
    make_remote: MakeRemote,
) -> None:
    """Each side says so: the source in its status, the target in its log, with the address; when
    the certificates are put right the pair mirrors without a restart of the source."""
    pair = make_remote("--size", "1M")
    shutil.move(pair.folder / "pki" / "west", pair.folder / "right")
    pki.make(pair.folder / "pki2", {"east": ("localhost",), "west": ("localhost",)}, days=1)
    shutil.move(pair.folder / "pki2" / "west", pair.folder / "pki" / "west")
    pair.start()
    direct.wait_for(
        lambda: "certificate" in (direct.status(pair)["reason"] or ""), "the reason at the source"
    )
    assert f"peer at nbds://localhost:{pair.port['west']}: " in direct.status(pair)["reason"]
    direct.wait_for(lambda: bool(pair.refusals("west", "certificate")), "a line at the target")
    pair.stop("west")
    shutil.rmtree(pair.folder / "pki" / "west")
    shutil.move(pair.folder / "right", pair.folder / "pki" / "west")
    pair.start("west")
    pair.sync()


def test_check_tells_how_long_a_certificate_lasts(make_remote: MakeRemote) -> None:
    """A warning when it is short, a failure when a key is missing; of a shared key that it is."""
    pair = make_remote("--size", "1M")  # for one day
    pair.start()

    def row() -> dict[str, str]:
        done = flashmirror("check", str(pair.toml("east")), "--json")
        return next(r for r in json.loads(done.stdout) if r["check"] == "tls")

    assert row()["result"] == "warning" and "valid until" in row()["detail"]
    shutil.rmtree(pair.folder / "pki")
    pki.make(pair.folder / "pki", {site: ("localhost",) for site in ("east", "west")}, days=90)
    assert row()["result"] == "ok"
    (pair.credentials("east") / "client-key.pem").unlink()
    assert row()["result"] == "failed" and "client-key.pem" in row()["detail"]


def test_the_peers_name_is_checked(make_remote: MakeRemote) -> None:
    """A certificate of the right authority for another host is not the peer's."""
    pair = make_remote("--size", "1M")
    shutil.rmtree(pair.folder / "pki")
    hosts: dict[str, tuple[str, ...]] = {"east": ("localhost",), "west": ("west.example.com",)}
    pki.make(pair.folder / "pki", hosts, days=1)
    pair.start()
    direct.wait_for(
        lambda: "certificate" in (direct.status(pair)["reason"] or ""), "the reason at the source"
    )


# ---- flashmirror pki


def test_pki_makes_what_both_sites_need(scratch: Path) -> None:
    """Two folders and the authority's own; keys are their owner's only, and nothing is ever
    overwritten."""
    folder = scratch / "pki"
    done = flashmirror("pki", str(folder), "--site", "a=10.0.0.1,a.example.com", "--site", "b")
    assert done.returncode == 0, done.stderr
    for site in ("a", "b"):
        names = {path.name for path in (folder / site).iterdir()}
        assert names == {
            "ca-cert.pem",
            "server-cert.pem",
            "server-key.pem",
            "client-cert.pem",
            "client-key.pem",
        }
    keys = list(folder.rglob("*-key.pem"))
    assert len(keys) == 5 and {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    before = {path: path.read_bytes() for path in folder.rglob("*.pem")}
    assert "exists: name a new folder" in refused("pki", str(folder))
    assert {path: path.read_bytes() for path in folder.rglob("*.pem")} == before
    again = json.loads(flashmirror("pki", str(scratch / "other"), "--json").stdout)
    assert set(again["sites"]) == {"east", "west"}


def test_a_strict_verifier_accepts_both_sites_certificates(scratch: Path) -> None:
    """As RFC 5280 has it, whichever side of a connection a site is on."""
    pki.make(scratch / "pki", {"east": ("localhost",), "west": ("localhost",)}, days=1)
    server = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=scratch / "pki/west/ca-cert.pem"
    )
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(
        scratch / "pki/west/server-cert.pem", scratch / "pki/west/server-key.pem"
    )
    client = trusting(scratch / "pki/east", own=scratch / "pki/east")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
    ]
    for _ in range(3):  # rounds: TLS 1.3 has one and a half, and the server's tickets
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert all(side.getpeercert() for side in sides)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("--site", "east"), "give it twice"),
        (("--site", "east", "--site", "east"), "two names"),
        (("--site", "a/b", "--site", "west"), "name of a site"),
        (("--site", "ca", "--site", "west"), "name of a site"),
        (("--site", "east=a b", "--site", "west"), "is no host"),
        (("--site", "east=a_b", "--site", "west"), "a_b: TLS takes no host but"),
        (("--days", "0"), "--help"),
    ],
)
def test_pki_refuses_what_makes_no_mirror(
    scratch: Path, words: tuple[str, ...], advice: str
) -> None:
    """In one line, and makes nothing."""
    assert advice in refused("pki", str(scratch / "pki"), *words)
    assert not (scratch / "pki").exists()


# ---- the handshake


def test_a_second_source_is_refused_while_the_first_is_connected(make_remote: MakeRemote) -> None:
    """Even of the same history: with a reason, and the first one goes on.  The first one is let
    in again whenever it comes."""
    pair = make_remote("--size", "1M")
    pair.start()
    direct.sync(pair)
    other = {**direct.hello(pair, 77), "name": "north", "site": "f" * 32}
    with (
        undisturbed(pair),
        peer_of(pair, "west") as client,
        pytest.raises(Refused, match="west mirrors east, which is connected: stop it first"),
    ):
        client.exchange(protocol.encode(other))
    assert len(pair.refusals("west", "west mirrors east, which is connected")) == 1
    pair.stop("east")
    pair.start("east")
    pair.sync()


OLDER = '{"flashmirror": 1, "name": "west"}'


def test_a_site_of_another_version_is_refused_with_the_same_words(make_remote: MakeRemote) -> None:
    """By the target that hears it, by the source that is answered so: both name both versions,
    say what to do, and go on serving."""
    words = "control protocols 1 and 3 do not go together: run the same version"
    pair = make_remote("--size", "1M")
    pair.start("west")
    with peer_of(pair, "west") as client, pytest.raises(Refused, match=words):
        client.exchange(b'{"flashmirror": 1, "op": "handshake"}')
    status = direct.status(pair, "west")
    assert status["state"] == "refused" and words in status["reason"]
    assert len(pair.refusals("west", words)) == 1
    pair.stop("west")

    older = Server(
        pair.folder / "older.img",
        "eval",
        f"get_size=echo {limits.CONTROL_BYTES}",
        "can_write=exit 0",
        "pwrite=cat > /dev/null",
        f"pread={{ printf %s '{OLDER}'; head -c $3 /dev/zero; }} | head -c $3",
    )
    older.start()
    try:
        text = pair.toml("east").read_text()
        peer = f"nbds://localhost:{pair.port['west']}"
        pair.toml("east").write_text(text.replace(peer, f"unix:{older.socket}"))
        pair.start("east")
        assert words in until_state(pair, "refused")["reason"]
        with pair.client() as device:
            device.write(0, b"served")
    finally:
        older.stop()


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_an_old_version_of_tls_is_refused(
    make_remote: MakeRemote, version: ssl.TLSVersion, taken: bool
) -> None:
    """1.2 at least (RFC 8996)."""
    pair = make_remote("--size", "1M")
    pair.start()
    own = pair.credentials("west")
    context = trusting(own, own=own)
    context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would not offer it
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = version
    if taken:
        with RemoteClient(pair.port["east"], "/control", context) as client:
            assert client.exchange(protocol.encode({"op": "who"}))["site"] == "east"
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            RemoteClient(pair.port["east"], "/control", context)


def test_a_peer_is_served_what_a_session_needs_only(make_remote: MakeRemote) -> None:
    """Over TCP and with the peer's certificates: `who` tells what is needed to compare the two
    sites; the next test file says what is refused."""
    pair = make_remote("--size", "1M")
    pair.start()
    own = pair.credentials("west")
    with RemoteClient(pair.port["east"], "/control", trusting(own, own=own)) as client:
        answer = client.exchange(protocol.encode({"op": "who"}))
    assert answer == {
        "site": "east",
        "role": "source",
        "volumes": [{"name": "disk", "size_bytes": 1 << 20, "block_size_bytes": 4096}],
    }


@pytest.mark.parametrize("older", ["east", "west"])
def test_a_site_of_an_older_version_is_mirrored_with(make_pair: MakePair, older: str) -> None:
    """A site that is held to the older protocol, and one of this version, agree on the older one:
    whichever of the two is the source, before and after a change of sides."""
    pair = make_pair("--size", "1M")
    pair.configure(older, "protocol = 2")
    pair.start()
    with pair.client() as client:
        client.write(0, b"before" * 100)
    direct.sync(pair)
    assert pair.image("west").read_bytes()[:6] == b"before"
    direct.stop(pair, "east")
    pair.run("promote", str(pair.toml("west")), "--force")
    pair.run("resync", "--full", "--force", str(pair.toml("east")))
    pair.start("east")
    with NbdClient(config.load(str(pair.toml("west"))).device_uri("disk")) as client:
        client.write(0, b"after!" * 100)
    pair.run("sync", str(pair.toml("west")))
    assert pair.image("east").read_bytes()[:6] == b"after!"


@pytest.mark.parametrize("older", ["east", "west"])
def test_after_a_while_in_the_older_protocol_both_go_on_in_the_newer(
    make_pair: MakePair, older: str
) -> None:
    """The older one does not tell the target of the source's runs: the source goes on naming those
    of before, or it would be taken for a copy of itself."""
    pair = make_pair("--size", "1M")
    pair.start()
    with pair.client() as client:
        client.write(0, b"before" * 100)
    direct.sync(pair)
    toml = pair.toml(older)
    text = toml.read_text()
    for settings in ("protocol = 2\n" + text, text):
        pair.stop()
        toml.write_text(settings)
        pair.start()
        with pair.client() as client:
            client.write(0, b"after!" * 100)
        direct.sync(pair)
