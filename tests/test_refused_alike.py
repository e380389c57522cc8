"""What `start` refuses, `check` refuses in the same words, and before anything is begun: a table of
what may be wrong around a site.

The commands are given by one who may do no more than a file's owner: root may write anything.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import direct
import pytest
from handmade import Handmade, east, edit, flashmirror, state_of, without_capabilities
from pair import Pair
from remote import MakeRemote, RemotePair
from test_hangs import bounded

from mirror_core import config, pki, process
from mirror_core.errors import ConfigError

OWNER = without_capabilities()
Spoil = Callable[[Handmade, contextlib.ExitStack], object]
SpoilRemote = Callable[[RemotePair], object]


def state(pair: Pair) -> Path:
    return pair.folder / "east" / "state"


def listen(pair: Pair, at: str) -> None:
    edit(pair, f"unix:{pair.folder}/east.sock", f"unix:{at}")


def metrics(pair: Pair, at: str) -> None:
    edit(pair, "127.0.0.1:0", at)


def made(path: Path, mode: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


def runtime(undo: contextlib.ExitStack, path: Path) -> Path:
    """A user's own, as a login makes it."""
    undo.enter_context(pytest.MonkeyPatch.context()).setenv("XDG_RUNTIME_DIR", str(path))
    return path


def a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def in_the_way(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def taken(undo: contextlib.ExitStack, path: Path) -> None:
    """Somebody listens there."""
    one = undo.enter_context(socket.socket(socket.AF_UNIX))
    one.bind(str(path))
    one.listen()


def taken_port(undo: contextlib.ExitStack) -> int:
    one = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    return int(one.getsockname()[1])


def listen_to(pair: Pair, port: int) -> None:
    edit(pair, 'east.sock"]\npeer', f'east.sock", "tcp:127.0.0.1:{port}"]\ninsecure = true\npeer')


def a_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/nowhere")


LONG = "x" * 120
ROWS: dict[str, tuple[Spoil, str]] = {
    "no state": (lambda p, _: shutil.rmtree(state(p)), "there is no ledger"),
    "a state that is a file": (
        lambda p, _: a_file(state(p)),
        "state/lock: Not a directory",
    ),
    "another site's state": (
        lambda p, _: edit(p, "east/state", "west/state"),
        "of the site west, not east",
    ),
    "a state that nobody may write to": (
        lambda p, _: state(p).chmod(0o500),
        "state: this user may not write there",
    ),
    "a state that nobody may enter": (lambda p, _: state(p).chmod(0), "lock: Permission denied"),
    "a ledger that nobody may read": (
        lambda p, _: (state(p) / "ledger").chmod(0),
        "ledger: Permission denied",
    ),
    "a lock that nobody may write": (
        lambda p, _: (state(p) / "lock").chmod(0o400),
        "lock: Permission denied",
    ),
    "a lock that is a folder": (lambda p, _: in_the_way(state(p) / "lock"), "lock: is no file"),
    "a lock that is a link": (lambda p, _: a_link(state(p) / "lock"), "lock: Too many levels"),
    "a log that nobody may write": (
        lambda p, _: (state(p) / "site.log").touch(mode=0o400),
        "site.log: Permission denied",
    ),
    "a log that is a folder": (
        lambda p, _: in_the_way(state(p) / "site.log"),
        "site.log: Is a directory",
    ),
    "a log that is a link": (lambda p, _: a_link(state(p) / "site.log"), "site.log: Too many lev"),
    "a socket with a long path": (
        lambda p, _: listen(p, f"{p.folder}/{LONG}"),
        "listen: .*: longer than a socket's path",
    ),
    "a socket in no folder": (
        lambda p, _: listen(p, f"{p.folder}/no/no/x"),
        "no/no: no such folder for the socket",
    ),
    "a socket in a folder that cannot be made": (
        lambda p, undo: listen(p, f"{runtime(undo, made(p.folder / 'ro', 0o500))}/no/x"),
        "not write to .*/ro, or",
    ),
    "a socket in a folder that nobody may write to": (
        lambda p, _: listen(p, f"{made(p.folder / 'ro', 0o500)}/x"),
        "not write to .*/ro, or",
    ),
    "a socket in a folder that nobody may enter": (
        lambda p, _: listen(p, f"{made(p.folder / 'ro', 0)}/x"),
        "ro/x: Permission denied: mend",
    ),
    "a socket below a file": (
        lambda p, _: listen(p, f"{p.toml('west')}/x"),
        "west.toml: no such folder for the socket",
    ),
    "a file in the place of a socket": (
        lambda p, _: (p.folder / "east.sock").touch(),
        "is in the way, and no socket",
    ),
    "a socket that somebody has": (
        lambda p, undo: taken(undo, p.folder / "east.sock"),
        "another process listens there",
    ),
    "a port that somebody has": (
        lambda p, undo: listen_to(p, taken_port(undo)),
        "listen: .* already in use: free it",
    ),
    "a port of metrics that somebody has": (
        lambda p, undo: metrics(p, f"127.0.0.1:{taken_port(undo)}"),
        "metrics: .* already in use",
    ),
    "a socket of metrics with a long path": (
        lambda p, _: metrics(p, f"unix:{p.folder}/{LONG}"),
        "metrics: .*: longer than a socket's",
    ),
    "a socket of metrics in a folder that nobody may write to": (
        lambda p, _: metrics(p, f"unix:{made(p.folder / 'ro', 0o500)}/x"),
        "not write to .*/ro, or",
    ),
    "no data": (lambda p, _: p.image("east").unlink(), "disk.img: No such file"),
    "a data store that nobody may write": (
        lambda p, _: p.image("east").chmod(0o400),
        "disk.img: Permission denied: give this user",
    ),
}


def refused_alike(pair: Pair) -> str:
    """The line with which `start` refuses the source, and `check` in a row of its own, or as it
    refuses the whole; no process is left."""
    with bounded(20):
        done = flashmirror("start", east(pair), prefix=OWNER)
        said = flashmirror("check", east(pair), prefix=OWNER)
    assert done.returncode in (1, 2) and said.returncode, (done.stderr, said.stdout)
    line = done.stderr.removeprefix("flashmirror: ").rstrip("\n")
    assert "\n" not in line, line
    rows = [re.sub(r"^failed +(\S+ )*\S*  +", "", row) for row in said.stdout.splitlines()]
    assert any(row.endswith(line) for row in rows) or said.stderr == done.stderr, (line, said)
    return line


@pytest.mark.parametrize("row", ROWS)
def test_what_a_start_refuses_a_check_refuses_in_the_same_words(
    handmade: Handmade, row: str
) -> None:
    handmade.create()
    spoil, words = ROWS[row]
    with contextlib.ExitStack() as undo:
        spoil(handmade, undo)
        try:
            assert re.search(words, line := refused_alike(handmade)), line
            assert process.found(config.load(str(handmade.toml("east")))) is None
        except ConfigError:
            pass  # which no process is begun with
        finally:
            for folder in (state(handmade), handmade.folder / "ro"):
                with contextlib.suppress(FileNotFoundError):
                    folder.chmod(0o700)


def foreign(pair: RemotePair, part: str) -> None:
    """As of a folder that is put together of two authorities'."""
    other = pair.folder / "other"
    if not other.exists():
        pki.make(other, {"east": ("localhost",), "west": ("localhost",)}, days=1)
    for name in (f"{part}-cert.pem", f"{part}-key.pem"):
        if (pair.folder / "other/east" / name).exists():  # an authority's key is not there
            shutil.copy(pair.folder / "other/east" / name, pair.credentials("east") / name)


def foreign_authority(pair: RemotePair) -> None:
    foreign(pair, "server")
    foreign(pair, "ca")


def spoil_file(name: str, text: str | None = None, mode: int = 0o600) -> SpoilRemote:
    def spoil(pair: RemotePair) -> None:
        path = pair.credentials("east") / name
        if text is not None:
            path.write_text(text)
        path.chmod(mode)

    return spoil


TLS_ROWS: dict[str, tuple[SpoilRemote, str]] = {
    "no folder": (
        lambda p: p.credentials("east").rename(p.folder / "gone"),
        "ca-cert.pem: No such file",
    ),
    "a key that is gone": (
        lambda p: (p.credentials("east") / "client-key.pem").unlink(),
        "client-key.pem: No such",
    ),
    "a key that nobody may read": (
        spoil_file("server-key.pem", mode=0),
        "server-key.pem: Permission denied",
    ),
    "a key that everybody may read": (
        spoil_file("client-key.pem", mode=0o644),
        "client-key.pem: everybody may read this key",
    ),
    "a key that is none": (spoil_file("server-key.pem", "no"), "server-key.pem: is not PEM"),
    "a key that is damaged": (
        spoil_file("client-key.pem", "-----BEGIN PRIVATE KEY-----\nMII\n"),
        "client-key.pem: is not the key of client-cert.pem",
    ),
    "an authority that is damaged": (
        spoil_file("ca-cert.pem", "-----BEGIN CERTIFICATE-----\nMII\n"),
        "ca-cert.pem: is no certificate",
    ),
    "a foreign server's certificate": (
        lambda p: foreign(p, "server"),
        "server-cert.pem: is not of the authority of ca-cert.pem",
    ),
    "a foreign client's certificate": (
        lambda p: foreign(p, "client"),
        "client-cert.pem: is not of the authority of ca-cert.pem",
    ),
    "a foreign authority": (
        foreign_authority,
        "client-cert.pem: is not of the authority of ca-cert.pem",
    ),
}


@pytest.mark.parametrize("row", TLS_ROWS)
def test_what_tls_lacks_is_refused_in_the_same_words(make_remote: MakeRemote, row: str) -> None:
    pair = make_remote("--size", "1M")
    spoil, words = TLS_ROWS[row]
    spoil(pair)
    assert re.search(words, line := refused_alike(pair)), line


def test_a_shared_key_that_nobody_may_read_is_refused(make_remote: MakeRemote) -> None:
    pair = make_remote("--size", "1M", kind="psk")
    (pair.folder / "key").chmod(0)
    assert "key: Permission denied: run as the user" in refused_alike(pair)


@pytest.mark.parametrize("when", ["expired", "not yet"])
def test_a_source_with_a_certificate_that_is_not_in_force_is_served(
    make_remote: MakeRemote, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Nothing is wrong but the time: `check` refuses, `start` says it in the same words, and so
    does the log of one in the foreground; clients, whom it does not concern, do not go without."""
    pair = make_remote("--size", "1M")
    days = {"expired": -1, "not yet": 2}[when]
    monkeypatch.setattr(pki, "_SKEW", datetime.timedelta(days=2) if days < 0 else -_days(1))
    pki.make(pair.folder / "wrong", {"east": ("localhost",), "west": ("localhost",)}, days=days)
    shutil.rmtree(pair.credentials("east"))
    (pair.folder / "wrong/east").rename(pair.credentials("east"))
    done, said = flashmirror("start", east(pair)), flashmirror("check", east(pair))
    line = done.stderr.removeprefix("flashmirror: ").rstrip("\n")
    words = {"expired": "ca-cert.pem: expired on", "not yet": "ca-cert.pem: not valid before"}
    assert done.returncode == 0 and words[when] in line, done
    assert said.returncode == 1 and f"tls                    {line}\n" in said.stdout, said
    with pair.client() as client:
        client.write(0, b"x" * 4096)
    pair.stop("east")


def _days(days: int) -> datetime.timedelta:
    return datetime.timedelta(days=days)


def test_certificates_of_a_chain_and_of_two_authorities_are_taken(make_remote: MakeRemote) -> None:
    """While an authority is exchanged, both stand in ca-cert.pem (docs/network.md)."""
    pair = make_remote("--size", "1M")
    pki.make(pair.folder / "next", {"east": ("localhost",), "west": ("localhost",)}, days=1)
    for site in ("east", "west"):
        path = pair.credentials(site) / "ca-cert.pem"
        path.write_bytes((pair.folder / "next/ca/ca-cert.pem").read_bytes() + path.read_bytes())
    pair.start()
    direct.sync(pair)
    assert state_of(pair)["state"] == "mirroring"
