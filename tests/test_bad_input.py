"""Bad input, end to end: every refusal is one line that says what, where and what to do, and
nothing was changed by it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import direct
import pytest
from handmade import (
    MIB,
    Handmade,
    contents,
    east,
    edit,
    flashmirror,
    nothing_changes,
    refused,
    state_of,
    until_state,
    without_capabilities,
)
from pair import MakePair, Pair

from mirror_core import config, native, protocol, stores
from mirror_core.cli import main
from mirror_core.cli.common import show
from mirror_core.errors import MirrorError, PeerError, StoreError
from mirror_core.identity import Identity

Damage = Callable[[Pair], None]


# ---- start


def one_for_both(pair: Pair) -> None:
    intermediate = pair.image("east").with_suffix(".intermediate.img")
    intermediate.unlink()
    intermediate.symlink_to(pair.image("east"))


def swap(pair: Pair) -> None:
    data, intermediate = "data =", "intermediate ="
    text = pair.toml("east").read_text().replace(data, "x =")
    pair.toml("east").write_text(text.replace(intermediate, data).replace("x =", intermediate))


def swap_files(pair: Pair) -> None:
    data, aside = pair.image("east"), pair.image("east").with_suffix(".aside")
    data.rename(aside)
    data.with_suffix(".intermediate.img").rename(data)
    aside.rename(data.with_suffix(".intermediate.img"))


def replace_by_a_copy(pair: Pair) -> None:
    data = pair.image("east")
    shutil.copy(data, data.with_suffix(".copy"))
    data.with_suffix(".copy").rename(data)


def blank(pair: Pair) -> None:
    size = pair.image("east").stat().st_size
    os.truncate(pair.image("east"), 0)
    os.truncate(pair.image("east"), size)


def damage_ledger(pair: Pair) -> None:
    path = pair.folder / "east" / "state" / "ledger"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def in_the_way(pair: Pair) -> None:
    (pair.folder / "east.sock").touch()


DAMAGES: dict[str, tuple[Damage, str, str]] = {  # what is done; the line's parts
    "unknown key": (lambda p: p.configure("east", "colour = 'red'"), "colour", "remove it"),
    "wrong size": (lambda p: p.configure("east", "interval = '5'"), "interval", "write it like"),
    "no ledger": (
        lambda p: (p.folder / "east/state/ledger").unlink(),
        "east/state/ledger",
        "the ledger is lost: put it back",
    ),
    "no state": (
        lambda p: shutil.rmtree(p.folder / "east/state"),
        "east/state/ledger",
        "run 'flashmirror create' first",
    ),
    "damaged ledger": (damage_ledger, "east/state/ledger", "put this very file back"),
    "another name": (lambda p: edit(p, 'name = "east"', 'name = "e"'), "site east", "mend"),
    "another volume": (lambda p: edit(p, 'name = "disk"', 'name = "d"'), "volumes", "mend"),
    "another block size": (lambda p: edit(p, '"4096"', '"8K"'), "block_size", "set that again"),
    "missing image": (lambda p: p.image("east").unlink(), "east/disk.img", "create it"),
    "folder for image": (
        lambda p: edit(p, "disk.img", "state"),
        "east/state",
        "name a file or a block device",
    ),
    "swapped stores": (swap, "disk.intermediate.img: not the store", "put the right one back"),
    "swapped files": (swap_files, "disk.img: not the store", "put the right one back"),
    "a copy": (replace_by_a_copy, "disk.img: not the store", "put the right one back"),
    "one store for both": (one_for_both, "the same store as", "each must be its own"),
    "blanked store": (blank, "disk.img: its content changed", "put the right one back"),
    "something in the socket's place": (in_the_way, "east.sock", "move it away"),
    "no folder for the socket": (
        lambda p: edit(p, "/east.sock", "/no/such/east.sock"),
        "/no/such: no such folder",
        "make it",
    ),
}


@pytest.mark.parametrize(
    ("damage", "what", "advice"), list(DAMAGES.values()), ids=[k.replace(" ", "-") for k in DAMAGES]
)
def test_start_refuses_what_is_not_as_it_was(
    used_pair: Pair, damage: Damage, what: str, advice: str
) -> None:
    """A stopped site whose files or stores were changed does not start, says which and what to
    do, and leaves every ledger and store as it is.  (Of one that was made smaller the ledger says
    so from then on: test_unreadable.)"""
    damage(used_pair)
    with nothing_changes(used_pair.folder):
        line = refused("start", str(used_pair.toml("east")))
    assert what in line and advice in line, line


def test_a_source_starts_whatever_its_intermediate_holds(used_pair: Pair) -> None:
    """Nobody reads there what an earlier cycle left, and nobody flushed it: after an orderly
    stop a power loss may change it."""
    (used_pair.folder / "east/disk.intermediate.img").open("r+b").write(b"\xee" * 4096)
    used_pair.start()
    used_pair.sync()
    assert used_pair.image("east").read_bytes() == used_pair.image("west").read_bytes()


def test_a_store_that_cannot_be_read_is_named() -> None:
    """One line, at a start and at a stop."""

    class Broken:
        block_sizes = native.BlockSizes(1, 1, 1 << 32)

        def gather_all(self, _runs: object, _depth: int) -> bytes:
            raise native.NativeError(errno.EIO, "read: Input/output error")

    one = stores.Opened("disk.img", cast(native.Store, Broken()), 4096, Identity("file", "1"), None)
    with pytest.raises(StoreError, match=r"disk\.img: read: Input/output error: look into"):
        one.record(4096)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A pair that ran, holds data and was stopped, to be used again and again."""
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-", dir="/dev/shm")) / "p"
    pair = Pair(folder, "--size", "1M")
    try:
        pair.start()
        with pair.client() as client:
            client.write(0, b"data" * 4096)
        pair.sync()
        pair.stop()
        yield folder
    finally:
        pair.kill()
        shutil.rmtree(folder.parent)


class Borrowed(Pair):
    """A pair that is there already."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, dict(os.environ)


@pytest.fixture
def used_pair(prepared: Path, scratch: Path) -> Iterator[Pair]:
    """The prepared pair; what the test does to it is undone, inodes and marks included."""
    pair = Borrowed(prepared)
    files = [p for p in sorted(prepared.rglob("*")) if p.suffix in (".img", ".toml")]
    # An older ledger counts with the files of its run only.
    files += [p for p in sorted(prepared.glob("*/state/*")) if p.name not in ("lock", "site.log")]
    kept = [(path, scratch / str(i), path.read_bytes()) for i, path in enumerate(files)]
    for path, keep, _ in kept:
        os.link(path, keep)
    yield pair
    pair.kill()
    (prepared / "east.sock").unlink(missing_ok=True)
    for path, keep, data in kept:
        keep.write_bytes(data)
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        os.link(keep, path)


# ---- start: what others hold


def test_a_busy_port_for_metrics_is_refused(used_pair: Pair) -> None:
    """A port that somebody has: refused by its number; with the port free the site starts clean."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        edit(used_pair, "127.0.0.1:0", f"127.0.0.1:{port}")
        with nothing_changes(used_pair.folder):
            line = refused("start", str(used_pair.toml("east")))
        assert f"metrics: 127.0.0.1:{port}: Address already in use" in line and "free it" in line
    used_pair.start("east")
    assert "not stopped in order" not in used_pair.log("east")


def test_a_busy_socket_is_refused(used_pair: Pair) -> None:
    """A socket on which another process listens is neither taken nor removed, even if that process
    is too busy to accept; a dead one is replaced (test_commands)."""
    path = used_pair.folder / "east.sock"
    for backlog in (8, 0):
        with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as clients:
            other.bind(str(path))
            other.listen(backlog)
            for _ in range(0 if backlog else 2):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect(str(path))
            with nothing_changes(used_pair.folder):
                line = refused("start", str(used_pair.toml("east")))
            assert "east.sock: another process listens there: stop it, or change" in line
            assert path.is_socket()
        path.unlink()


def test_a_store_in_use_is_refused(used_pair: Pair) -> None:
    """A store that another process has locked is refused until it lets go."""
    with used_pair.image("east").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with nothing_changes(used_pair.folder):
            line = refused("start", str(used_pair.toml("east")))
        assert "east/disk.img: in use by another process: stop that site first" in line


@pytest.mark.parametrize("what", ["data", "state", "config"])
def test_without_permission_a_site_does_not_start(handmade: Handmade, what: str) -> None:
    """A store, a state or a file that this user may not open: refused with its name."""
    handmade.create("east")
    folder = handmade.folder
    path = {
        "data": Path(handmade.store("east", "data")),
        "state": folder / "east" / "state",
        "config": handmade.toml("east"),
    }[what]
    for one in (folder.parent, folder, folder / "east", *folder.rglob("*")):
        one.chmod(0o777)
    before = contents(folder)
    path.chmod(0)
    line = refused("start", str(handmade.toml("east")), prefix=without_capabilities())
    advice = "give this user read" if what == "data" else "run as the user that the site belongs to"
    assert str(path) in line and f"Permission denied: {advice}" in line, line
    path.chmod(0o700)
    assert contents(folder) == before


@pytest.mark.root("root is who is refused")
def test_root_does_not_lock_a_site_s_owner_out(handmade: Handmade) -> None:
    """What would write to another user's state folder as root is refused with that user's name, and
    leaves nothing of root's there; root may look, and stop it."""
    handmade.create("west")
    state = handmade.folder / "west/state"
    paths = [state, *state.iterdir()]
    for path in paths:
        os.chown(path, 65534, 65534)
    name, toml = pwd.getpwuid(65534).pw_name, str(handmade.toml("west"))
    said = f"{state}: belongs to {name}, who could not use what root writes there: run this as"
    with nothing_changes(handmade.folder):
        for words in (
            ("start",),
            ("start", "--foreground"),
            ("resync", "--full"),
            ("seed",),
            ("adopt", "disk", "data", "--yes"),
        ):
            assert refused(words[0], toml, *words[1:]).startswith(said)
        assert f"failed  folder                 {said}" in flashmirror("check", toml).stdout
        for command in ("status", "stop"):
            assert flashmirror(command, toml).returncode == 0
    assert sorted(state.iterdir()) == sorted(paths[1:])
    assert {path.stat().st_uid for path in paths} == {65534}


# ---- sites that do not fit


UNEQUAL: dict[str, tuple[int, str, str]] = {
    "size": (2 * MIB, "", f"volume disk has {MIB} bytes at the source and {2 * MIB} at west"),
    "block size": (
        MIB,
        'block_size = "8K"',
        "volume disk has blocks of 4096 bytes at the source and 8192 at west",
    ),
}


@pytest.mark.parametrize(
    ("size", "more", "reason"), list(UNEQUAL.values()), ids=[k.replace(" ", "-") for k in UNEQUAL]
)
def test_unequal_volumes_are_not_mirrored(
    handmade: Handmade, size: int, more: str, reason: str
) -> None:
    """Both sites say the same clear reason; nothing is committed, the source goes on serving, and
    sync fails with that reason."""
    handmade.create("east")
    handmade.size, handmade.more = size, more
    handmade.create("west")
    handmade.start()
    with handmade.client() as client:
        client.write(0, b"served")
        for site in ("east", "west"):
            status = until_state(handmade, "refused", site)
            assert (reason in status["reason"] and "make them equal" in status["reason"]) or more
            assert status["committed"]["sequence"] is None
            assert status["peer"]["state"] == "disconnected"
        line = refused("sync", str(handmade.toml("east")), "--timeout", "300ms")
        assert reason in line
        assert client.read(0, 6) == b"served"
    assert flashmirror("check", str(handmade.toml("east"))).returncode == 1


def test_two_sources_do_not_mirror(handmade: Handmade) -> None:
    """A peer that is a source too is refused, by name, with the two ways out."""
    for site in ("east", "west"):
        handmade.write(site)
        handmade.run("create", str(handmade.toml(site)), "--role", "source")
    handmade.start()
    status = until_state(handmade, "refused")
    assert status["reason"] == (
        "west is a source, not a target, and so is east: correct 'peer', or decide which of the "
        "two is right, and run 'flashmirror resync --full --force' on the other one, which makes "
        "it the target, and discards what only it has"
    )


def test_a_source_of_another_history_is_refused(handmade: Handmade) -> None:
    """A target that mirrors one source refuses another one, and keeps its image."""
    handmade.create()
    handmade.start()
    handmade.sync()
    committed = state_of(handmade, "west")["committed"]
    handmade.stop("east")
    shutil.rmtree(handmade.folder / "east")
    handmade.create("east")
    handmade.start("east")
    for site in ("east", "west"):
        reason = until_state(handmade, "refused", site)["reason"]
        assert "west mirrors another history" in reason and "resync --full" in reason
    assert state_of(handmade, "west")["committed"] == committed


def test_a_handshake_that_comes_twice_is_refused(make_pair: MakePair) -> None:
    """It ends no session, and opens none that was ended (I8)."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")
    first, second = (direct.hello(pair, session) for session in (5, 7))
    for record in (first, second):
        direct.ask(pair, record, "west")
    for record in (second, first):
        with pytest.raises(PeerError, match="a handshake came twice"):
            direct.ask(pair, record, "west")
    direct.ask(pair, {"op": "hardened", "session": 7, "wait": 0.0, "paused": False}, "west")


def test_noise_on_the_control_export_disturbs_nobody(make_pair: MakePair) -> None:
    """Whatever is written to /control is answered with a record, and both sites go on."""
    pair = make_pair("--size", "1M")
    pair.start()
    rng = random.Random(1)
    values: list[Any] = [-1, 2**63, 1e308, "x" * 9_000, "\ud800" * 1_500, None, [], {"a": 1}]
    for site in ("east", "west"):
        uri = config.load(str(pair.toml(site))).control_uri()
        for operation in (
            "status",
            "sync",
            "wait",
            "hardened",
            "handshake",
            "commit",
            "x" * 60_000,
        ):
            for value in values:
                fields = dict.fromkeys(("session", "wait", "sequence", "name", "volumes"), value)
                record = {"flashmirror": protocol.VERSION, **fields, "op": operation}
                answer = native.exchange(uri, json.dumps(record).encode()[:65536], 65536, 5.0)
                assert isinstance(protocol.decode(answer)[0], dict)
        for _ in range(50):
            answer = native.exchange(uri, rng.randbytes(rng.randrange(1, 999)), 65536, 5.0)
            assert "error" in protocol.decode(answer)[0]
    pair.sync()
    assert "Traceback" not in pair.log("east") + pair.log("west")


def test_a_line_on_a_terminal_is_one_line(
    handmade: Handmade, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever name is in it: of a file, a mount point, a process.  So are the lines of a table."""
    handmade.write("east")

    def refuse(_site: str) -> None:
        raise MirrorError("a\x1b]0;b\nc\udcff")

    monkeypatch.setattr(config, "load", refuse)
    monkeypatch.setattr(sys, "argv", ["flashmirror", "status", east(handmade)])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "flashmirror: a\\x1b]0;b\\nc\\xff\n"
    show({}, as_json=False, text=lambda: "one\x1b\ntwo\udcff")
    assert capsys.readouterr().out == "one\\x1b\ntwo\\xff\n"
