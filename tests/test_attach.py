"""attach and detach without the kernel's module: the handshake against real servers, and what is
refused before the kernel is asked.  With a kernel: tests/kernel/test_attached.py."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from handmade import as_somebody_else, eventually, refused
from loops import Loop, needs_loops
from made_devices import Devices
from pair import FLASHMIRROR, MakePair, Pair
from served import NBDKIT

from mirror_core import attach as attaching
from mirror_core import (
    attached,
    config,
    handshake,
    holders,
    kernel,
    ledger,
    limits,
    opener,
    process,
    protocol,
)
from mirror_core.cli import attaching as commands
from mirror_core.errors import ConfigError, MirrorError, OtherVersion, PeerError

SECONDS = 20.0
DETACH = attaching.detach


def without_module() -> tuple[str, ...]:
    """Words before a command that take the kernel's nbd away, if it has it: its netlink family is
    of the first network namespace only."""
    return ("unshare", "--net") if os.geteuid() == 0 else ()


def socket_of(pair: Pair, site: str = "east") -> Path:
    return config.load(str(pair.toml(site))).socket


# ---- the handshake


def test_a_socket_is_handed_over_where_requests_begin(running: Pair) -> None:
    """After the handshake the next bytes on the socket are a request and its simple reply."""
    opened = handshake.open_export(socket_of(running), "disk", SECONDS)
    with opened.socket:
        assert opened.size == 1 << 20 and opened.block_size == 1
        assert opened.flags & handshake.MULTI_CONN and not opened.flags & handshake.READ_ONLY
        assert opened.socket.getblocking()
        opened.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 77, 0, 4))
        reply = opened.socket.recv(20, socket.MSG_WAITALL)
        assert reply == struct.pack(">IIQ4s", 0x67446698, 0, 77, b"xxxx")


@pytest.mark.parametrize("export", ["nothing", "disk/intermediate", "", "x" * 300])
def test_an_export_that_does_not_open_is_refused_in_the_servers_words(
    running: Pair, export: str
) -> None:
    """An unknown name, and on a target any: PeerError, one line, nothing left open."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(PeerError, match="the server refuses: "):
        handshake.open_export(socket_of(running, "west"), export or "disk", SECONDS)
    assert set(os.listdir("/proc/self/fd")) == before


def test_nobody_there_is_said_with_its_errno(scratch: Path) -> None:
    """No socket, and one that nobody listens on: what a holder tries again after."""
    with pytest.raises(PeerError, match="No such file") as missing:
        handshake.open_export(scratch / "none.sock", "disk", SECONDS)
    assert missing.value.code == errno.ENOENT
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(scratch / "deaf.sock"))
        with pytest.raises(PeerError) as refusal:
            handshake.open_export(scratch / "deaf.sock", "disk", SECONDS)
    assert refusal.value.code == errno.ECONNREFUSED


@contextlib.contextmanager
def answering(path: Path, data: bytes, *, end: bool = True) -> Iterator[Path]:
    """A server that says this to whoever comes, and then nothing more."""
    ended = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            ended.wait(SECONDS)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield path
        finally:
            ended.set()
            server.join()


HELLO = b"NBDMAGICIHAVEOPT\0\3"


def answer(kind: int, body: bytes, magic: int = 0x3E889045565A9, option: int = 7) -> bytes:
    return struct.pack(">QIII", magic, option, kind, len(body)) + body


EXPORT = answer(3, struct.pack(">HQH", 0, 1 << 20, 1))
WRONG = {
    "other protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "old handshake": struct.pack(">8sQQI124x", b"NBDMAGIC", 0x420281861253, 1 << 20, 1),
    "no fixed newstyle": b"NBDMAGICIHAVEOPT\0\2",
    "wrong magic": HELLO + answer(3, bytes(12), magic=1),
    "another option": HELLO + answer(3, bytes(12), option=6),
    "no size": HELLO + answer(1, b""),
    "a kind that nobody asked for": HELLO + answer(2, b"1234"),
    "an acknowledgement with a body": HELLO + EXPORT + answer(1, b"x"),
    "an answer without end": HELLO + EXPORT * (limits.HANDSHAKE_ANSWERS + 1),
    "an answer too large": HELLO + struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 30),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_what_is_not_as_agreed_is_refused(scratch: Path, data: bytes) -> None:
    """Whatever else a server says: PeerError, and never a size that it did not tell."""
    with answering(scratch / "s", data) as path, pytest.raises(PeerError, match="not the NBD"):
        handshake.open_export(path, "disk", SECONDS)


@pytest.mark.parametrize("said", [0, 5, 18, 30, 50])
def test_a_server_that_ends_early_or_says_no_more_is_refused(scratch: Path, said: int) -> None:
    """Cut off anywhere: at once if it closes, within the time limit if it is silent."""
    data = (HELLO + EXPORT + answer(1, b""))[:said]
    with answering(scratch / "a", data) as path, pytest.raises(PeerError, match="closed"):
        handshake.open_export(path, "disk", SECONDS)
    with answering(scratch / "b", data, end=False) as path, pytest.raises(PeerError) as silent:
        handshake.open_export(path, "disk", 0.1)
    assert silent.value.code == errno.ETIMEDOUT


def test_a_read_only_server_of_somebody_elses_is_understood(scratch: Path) -> None:
    """nbdkit's own: size, flags and block size as it says them."""
    path = scratch / "other.sock"
    words = [NBDKIT, "-f", "-r", "-U", str(path), "--filter=blocksize-policy", "memory", "3M"]
    with subprocess.Popen([*words, "blocksize-minimum=4096"]) as server:
        try:
            eventually(path.exists, "nbdkit listens")
            opened = handshake.open_export(path, "", SECONDS)
            opened.socket.close()
        finally:
            server.terminate()
    assert (opened.size, opened.block_size) == (3 << 20, 4096)
    assert opened.flags & handshake.READ_ONLY


# ---- what is refused before the kernel is asked


def test_without_the_module_attach_says_how_to_load_it(running: Pair) -> None:
    """One line, exit status 1, and nothing is left running."""
    words = ("attach", str(running.toml("east")), "disk")
    line = refused(*words, prefix=without_module())
    if os.geteuid() == 0:
        assert line == "the kernel has no nbd devices: load the module with 'modprobe nbd'"
    detach = refused("detach", "/dev/nbd0", prefix=without_module())
    assert "modprobe nbd" in detach or "root" in detach


def test_only_root_may(running: Pair) -> None:
    """Somebody else is told so."""
    assert "only root" in refused("detach", "/dev/nbd0", prefix=as_somebody_else())


def test_what_cannot_be_attached_is_refused_with_the_reason(
    running: Pair, make_pair: MakePair
) -> None:
    """A volume that is not there, a target, a site that does not run, a name that is no device."""
    east, west = str(running.toml("east")), str(running.toml("west"))
    assert "east has no volume nothing: it has disk" in refused("attach", east, "nothing")
    assert "west: is a target" in refused("attach", west, "disk")
    assert "west: is a target" in refused("detach", west, "disk")
    for name in ("/dev/sda", "/dev/nbd0p1", "nbd0", "/dev/nbd"):
        assert "write it like /dev/nbd0" in refused("attach", east, "disk", name)
    assert "write it like /dev/nbd0" in refused("detach", "/dev/sda")
    assert "a device has no volume" in refused("detach", "/dev/nbd0", "disk")
    assert "--force does not" in refused("detach", east, "--unmount", "--force")
    assert "--unmount unmounts" in refused("detach", east, "--going-down")
    assert "--held-by is not" in refused("detach", east, "--unmount", "--held-by", "")
    refused("attach", east, "disk", "--connections", "0")
    stopped = make_pair("--size", "1M")
    line = refused("attach", str(stopped.toml("east")), "disk")
    assert line.startswith("east: not running: start it with 'flashmirror start ")


@pytest.mark.parametrize(
    "name", ["nbd\u0661", "nbd\uff11", "nbd1\u00b2", "nbd01", "nbd1_0", "nbd 1", "nbd", "nbd1\n"]
)
def test_what_only_looks_like_a_device_s_name_is_none(devices: Devices, name: str) -> None:
    """Digits of another script, or more of them than it has: it names nothing of ours, and is in
    the way of nothing."""
    with pytest.raises(ConfigError, match="write it like /dev/nbd0"):
        attaching.index_of(f"/dev/{name}")
    (devices.folder / name).mkdir(parents=True)
    devices.make(1, BACKEND)
    assert kernel.backends() == {1: BACKEND}


@pytest.mark.parametrize("site", ["east", "west"])
def test_of_a_site_without_devices_none_is_detached(running: Pair, site: str) -> None:
    """Also without the module, and of a target: a unit that stops has no reason to fail."""
    words = [*without_module(), str(FLASHMIRROR), "detach", "--unmount", str(running.toml(site))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("was not attached\n", "")


# ---- what is said of a device, without one


BACKEND = "flashmirror/east/disk/" + "a" * 32


def test_a_device_of_another_history_is_freed_before_it_is_unmounted(
    running: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests wait for a history that does not come back, and so would an unmount."""
    monkeypatch.setattr(holders, "take", lambda *_: -1)
    monkeypatch.setattr(kernel, "DeadLinks", lambda: None)
    site = config.load(str(running.toml("east")))
    holder = attaching.Holder(attaching.Device(site, "disk", BACKEND), print)
    with pytest.raises(MirrorError, match=r"another history .*: attach it again"):
        holder._connect()
    holder.index = 7
    said: list[str] = []
    monkeypatch.setattr(holder, "_say", said.append)
    assert not holder._renew()
    assert "another history" in said[0] and "'flashmirror detach --force /dev/nbd7'" in said[0]
    assert said[0].endswith("then unmount it")


def test_a_detach_that_the_kernel_refuses_says_that_the_holder_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device is connected still, and nobody replaces what dies of it."""
    ended: list[str] = []

    def refuse(_: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(kernel, "backend_of", lambda _: BACKEND)
    monkeypatch.setattr(kernel, "disconnect", refuse)
    monkeypatch.setattr(holders, "end", ended.append)
    with pytest.raises(MirrorError, match="Cannot allocate memory: it has no holder any more"):
        attaching.detach(attached.at(7), force=True)
    assert ended == [BACKEND]


OTHERS = BACKEND.replace("/east/", "/other/")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """To the kernel's devices and their holders."""
    found: list[object] = []
    monkeypatch.setattr(kernel, "disconnect", found.append)
    monkeypatch.setattr(holders, "end", found.append)
    return found


@pytest.mark.parametrize("force", [False, True])
def test_a_number_that_was_given_to_another_volume_is_not_detached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[object], *, force: bool
) -> None:
    """It was, while one waited for who used the device: so it was detached before, and attached."""
    monkeypatch.setattr(kernel, "_BLOCK_DEVICES", tmp_path)
    name = tmp_path / "nbd0/backend"
    name.parent.mkdir()
    name.write_text(BACKEND)
    device = attached.at(0)

    @contextlib.contextmanager
    def alone(_: int) -> Iterator[None]:
        name.write_text(OTHERS)
        yield

    monkeypatch.setattr(attaching, "_alone", alone)
    if force:
        name.write_text(OTHERS)
    with pytest.raises(MirrorError, match="/dev/nbd0: was detached meanwhile, and is another"):
        attaching.detach(device, force=force)
    assert done == []


@needs_loops
def test_what_was_written_to_a_device_is_on_it_before_it_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[object]
) -> None:
    """A program has written and closes it just when `detach` has opened it: so it is not the last
    to close it, for whom the kernel writes what it has in memory."""
    loop = Loop(tmp_path / "disk", 1 << 20)
    monkeypatch.setattr(attaching, "path_of", lambda _: str(loop.path))
    monkeypatch.setattr(kernel, "backend_of", lambda _: BACKEND)
    monkeypatch.setattr(kernel, "is_connected", lambda _: False)
    data = os.urandom(1 << 20)
    on_it: list[bool] = []
    try:
        with loop.path.open("r+b") as writer:
            writer.write(data)
            writer.flush()

            def nobody(_: int) -> str:
                writer.close()
                return ""

            monkeypatch.setattr(attaching, "_by", nobody)
            disconnect = lambda _: on_it.append(loop.file.read_bytes() == data)  # noqa: E731
            monkeypatch.setattr(kernel, "disconnect", disconnect)
            attaching.detach(attached.at(7))
    finally:
        loop.close()
    assert on_it == [True]


@pytest.mark.parametrize("said", [str(errno.EIO), ""], ids=["fails", "does not end"])
def test_what_cannot_be_written_keeps_a_device_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[object], said: str
) -> None:
    """Nothing was done to it, and the line says what may be."""
    program = tmp_path / "opener.py"
    program.write_text(f"print({said!r}, end='')" if said else "import time; time.sleep(60)")
    monkeypatch.setattr(opener, "__file__", str(program))
    monkeypatch.setattr(limits, "UNMOUNT_S", 5.0 if said else 0.1)
    monkeypatch.setattr(kernel, "backend_of", lambda _: BACKEND)
    monkeypatch.setattr(attaching, "_alone", contextlib.nullcontext)
    with pytest.raises(MirrorError, match="nbd7: what was written to it is not on its volume: "):
        attaching.detach(attached.at(7))
    assert done == []


def test_what_is_not_ours_is_not_unmounted(devices: Devices) -> None:
    """Nor what has become another volume's while one waits for who uses it: each round of the
    unmounting asks anew."""
    devices.make(0, BACKEND)
    devices.make(1, "/east/disk")
    devices.make(2, OTHERS)
    for index in (0, 1, 2):
        assert detach("--unmount", "--going-down", f"/dev/nbd{index}").exit_code == 0
    assert devices.unmounted == [["43:0"], [], ["43:2"]]
    numbers = commands._Numbers([attached.at(0), attached.at(2)])
    assert list(numbers) == ["43:0", "43:2"]
    devices.name(0, OTHERS)
    assert list(numbers) == ["43:2"]


@pytest.fixture
def older(running: Pair, monkeypatch: pytest.MonkeyPatch) -> attaching.Holder:
    """A holder of /dev/nbd7, of a version none of whose protocols its site speaks any more."""
    monkeypatch.setattr(holders, "take", lambda *_: -1)
    monkeypatch.setattr(kernel, "DeadLinks", lambda: None)
    monkeypatch.setattr(protocol, "OLDEST", 1)
    monkeypatch.setattr(protocol, "VERSION", 1)
    site = config.load(str(running.toml("east")))
    with pytest.raises(OtherVersion):
        process.status(site)
    lineage = ledger.load(site.state).lineage
    assert lineage
    backend = f"flashmirror/east/disk/{lineage.id}"
    holder = attaching.Holder(attaching.Device(site, "disk", backend), print)
    holder.index = 7
    return holder


def test_a_holder_outlives_an_update_of_its_site_to_other_protocols(
    older: attaching.Holder,
) -> None:
    """It has the program that is installed by now ask; and meets no other history that way."""
    with older._connections() as opened:
        assert opened[0].size == 1 << 20
    older._device = dataclasses.replace(older._device, backend=BACKEND)
    with pytest.raises(MirrorError, match="another history"), older._connections():
        pass


@pytest.mark.parametrize("program", ["/bin/false", "/bin/echo", "/nothing/bin/flashmirror"])
def test_a_holder_that_nobody_can_ask_for_makes_way_for_another(
    older: attaching.Holder, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """It waits for a while, as the program may be being installed; then it ends with what to do,
    so that `attach`, or systemd, begins one that can."""
    said: list[str] = []
    monkeypatch.setattr(older, "_say", said.append)
    monkeypatch.setattr(attaching, "_PROGRAM", Path(program))
    assert not older._renew()
    (line,) = said
    assert line.startswith("/dev/nbd7: requests wait: east: speaks control protocol 3,"), line
    assert program in line and "'flashmirror attach " in line
    monkeypatch.setattr(attaching, "_OUTLIVED_S", 0.0)
    with pytest.raises(MirrorError, match="/dev/nbd7: requests wait, and its holder ends: east: "):
        older._renew()


def test_a_holder_finds_a_site_that_listens_elsewhere_since(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `listen` was changed and it was started again, under its device: requests would wait for
    ever, and `attach` says that there is a holder.  What the file says counts when nobody is where
    the site was; while it says nothing, that place does, and no history but the device's."""
    monkeypatch.setattr(holders, "take", lambda *_: -1)
    monkeypatch.setattr(kernel, "DeadLinks", lambda: None)
    pair = make_pair("--size", "1M")
    toml = pair.toml("east")
    site = config.load(str(toml))
    name = attaching.backend(site, "disk")
    holder = attaching.Holder(attaching.Device(site, "disk", name), print)
    moved = toml.read_text().replace("east.sock", "moved.sock")
    toml.write_text(moved)
    pair.start("east")
    try:
        for text in (moved, "nonsense"):
            toml.write_text(text)
            with holder._connections() as opened:
                assert opened[0].size == 1 << 20
        toml.write_text(moved)
        elsewhere = dataclasses.replace(site, socket=pair.folder / "nobody.sock")
        stranger = attaching.Holder(attaching.Device(elsewhere, "disk", BACKEND), print)
        with pytest.raises(MirrorError, match="another history"), stranger._connections():
            pass
    finally:
        toml.write_text(moved)
        pair.stop("east")


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Devices:
    monkeypatch.setattr(holders, "FOLDER", tmp_path / "holders")
    return Devices(tmp_path / "block", monkeypatch)


def test_a_device_of_somebody_elses_whose_name_is_no_text_hides_none(devices: Devices) -> None:
    """As of another program, which calls it by a path."""
    devices.make(0, b"/srv/gr\xfcn")
    devices.make(1, BACKEND)
    assert kernel.find(BACKEND) == 1


@pytest.fixture
def begun(running: Pair, devices: Devices, monkeypatch: pytest.MonkeyPatch) -> attaching.Device:
    """Its holder is a program that waits for a moment and ends with a line."""
    program = devices.folder.parent / "flashmirror"
    program.write_text("#!/bin/sh\nsleep 0.5; echo 'flashmirror: /run: No space' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(attaching, "_PROGRAM", program)
    site = config.load(str(running.toml("east")))
    return attaching.Device(site, "disk", attaching.backend(site, "disk"))


def test_an_attach_whose_holder_ends_is_not_said_to_have_begun_one(
    devices: Devices, begun: attaching.Device
) -> None:
    """Of a device that is connected, and has no holder: as where /run is full.  It works, and would
    not come back with its site: the line says why.  One that another attach has begun counts."""
    devices.make(0, begun.backend)
    with pytest.raises(MirrorError, match="/run: No space"):
        attaching.start(begun)
    fd = holders.take(begun.backend)
    try:
        attaching._launch(begun)
    finally:
        os.close(fd)


def test_an_attach_that_takes_long_says_who_goes_on_with_it(
    devices: Devices, begun: attaching.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what may be done: it is begun in a session of its own, and ends by itself, or not."""
    monkeypatch.setattr(limits, "START_TIMEOUT_S", 0.1)
    with pytest.raises(MirrorError) as refusal:
        attaching.start(begun)
    line = str(refusal.value)
    found = re.search("process ([0-9]+) goes on", line)
    assert found, line
    child = int(found[1])
    os.kill(child, 0)
    log, site = holders.log_path(begun.backend), begun.site.path
    assert line == (
        f"disk: not attached in 0.1 s: process {child} goes on with it, and says in {log} what "
        f"comes of it: 'flashmirror attach {site} disk' later on to be told, or 'kill {child}' to "
        "give it up"
    )
    assert os.waitpid(child, 0)[1] >> 8 == 1
    assert "/run: No space" in log.read_text()


def test_an_attach_whose_holder_is_killed_says_so(
    devices: Devices, begun: attaching.Device
) -> None:
    """It has said nothing then, and the last words in its log are another's, if any."""
    program = attaching._PROGRAM
    program.write_text("#!/bin/sh\necho 'flashmirror: earlier' >&2; kill $$\n")
    with pytest.raises(MirrorError, match=r"^disk: not attached: process \d+ was ended \S+ \("):
        attaching.start(begun)


def test_a_stranger_does_not_say_that_a_device_is_attached(
    devices: Devices, begun: attaching.Device
) -> None:
    """Every user sees the socket on which `attach` waits for that, and may send to it."""
    mine = re.compile(rf"@(flashmirror-attach-{os.getpid()}-[0-9a-f]+)$", re.MULTILINE)

    def say() -> None:
        found = eventually(lambda: mine.search(Path("/proc/net/unix").read_text()), "it waits")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"READY=1", f"\0{found[1]}")

    saying = threading.Thread(target=say)
    saying.start()
    with pytest.raises(MirrorError, match="/run: No space"):
        attaching.start(begun)
    saying.join()


def test_a_device_that_is_detached_as_it_is_attached_is_not_said_to_be(
    devices: Devices, begun: attaching.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and no traceback."""
    monkeypatch.setattr(attaching, "_launch", lambda _: None)
    with pytest.raises(MirrorError, match="east: disk was detached as soon as it was attached"):
        attaching.start(begun)


def test_ready_is_said_to_a_socket_whatever_its_folder_is_called(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sd_notify(3): an @ means a name that is in no folder where it is the first character, and
    nothing elsewhere (systemd@east/notify)."""
    for address, place in ((str(scratch / "systemd@east"), None), (f"@{scratch}@x", "\0")):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(f"{place}{address[1:]}" if place else address)
            attaching._notify_ready()
            assert ready.recv(100) == b"READY=1"


# ---- which devices are a site's


def detach(*words: str) -> Result:
    return CliRunner().invoke(commands.detach, list(words))


def given_another_history(pair: Pair) -> None:
    pair.run("resync", "--full", "--force", str(pair.toml("east")))


def created_anew(pair: Pair, role: str = "source") -> None:
    """As docs/recovery.md says it."""
    shutil.rmtree(config.load(str(pair.toml("east"))).state)
    for store in (pair.folder / "east").glob("*.img"):
        os.removexattr(store, "user.flashmirror")
    pair.run("create", str(pair.toml("east")), "--role", role)


def created_anew_as_a_target(pair: Pair) -> None:
    created_anew(pair, "target")


def lost_its_ledger(pair: Pair) -> None:
    (config.load(str(pair.toml("east"))).state / "ledger").unlink()


@pytest.mark.parametrize(
    "become", [given_another_history, created_anew, created_anew_as_a_target, lost_its_ledger]
)
@pytest.mark.parametrize("volume", [[], ["disk"]])
def test_a_device_of_an_earlier_history_is_its_site_s_and_is_named(
    make_pair: MakePair, devices: Devices, become: Callable[[Pair], None], volume: list[str]
) -> None:
    """It is connected still, whatever the site has become since, and what is mounted there would
    wait for ever; others' devices are not touched."""
    pair = make_pair("--size", "1M")
    site = str(pair.toml("east"))
    before = attaching.backend(config.load(site), "disk")
    devices.make(0, before)
    devices.make(1, before.replace("/east/", "/east2/"))
    devices.make(2, "/east/disk")
    become(pair)
    done = detach(site, *volume)
    assert done.exit_code == 0 and devices.tried == [0], (done.output, done.exception)
    assert done.output.startswith(
        f"/dev/nbd0: detached (disk of east, lineage {before.split('/')[3][:8]}"
    )
    devices.in_use = {0}
    assert "/dev/nbd0: in use (disk of east, lineage " in str(detach(site, *volume).exception)


def test_a_device_of_another_site_of_the_same_name_is_not_touched(
    make_pair: MakePair, devices: Devices
) -> None:
    """Each pair of `init` has an `east`: whose a device is says the configuration that its holder
    had, as long as that is there."""
    one, other = (make_pair("--size", "1M") for _ in range(2))
    theirs = config.load(str(other.toml("east")))
    backend = attaching.backend(theirs, "disk")
    devices.make(0, backend)
    os.close(holders.take(backend, theirs.path))
    assert detach(str(one.toml("east"))).output == "was not attached\n"
    given_another_history(other)
    assert "/dev/nbd0: detached (disk of east" in detach(str(other.toml("east"))).output
    theirs.path.unlink()  # it may be this one that has moved
    assert "/dev/nbd0: detached (disk of east" in detach(str(one.toml("east"))).output
    assert devices.tried == [0, 0]


def as_it_was(_: Path) -> None:
    pass


def misspelt(toml: Path) -> None:
    toml.write_text('intervall = "5s"\n' + toml.read_text())


def no_toml(toml: Path) -> None:
    toml.write_bytes(toml.read_bytes() + b"\xff[[")


def gone(toml: Path) -> None:
    toml.unlink()


def with_a_volume_more(toml: Path) -> None:
    more = '[[volume]]\nname = "b"\ndata = "b"\nintermediate = "bi"\n'
    toml.write_text(toml.read_text() + more)


def with_other_blocks(toml: Path) -> None:
    toml.write_text('block_size = "8K"\n' + re.sub("block_size.*\n", "", toml.read_text()))


def with_another_name(toml: Path) -> None:
    toml.write_text(toml.read_text().replace('name = "east"', 'name = "else"', 1))


def without_ledger(toml: Path) -> None:
    (toml.parent / "east/state/ledger").unlink()


def with_a_ledger_of_nonsense(toml: Path) -> None:
    (toml.parent / "east/state/ledger").write_bytes(b"flashmirror-ledger 5 \xff\n{{{")


NAME_IS_KNOWN = (as_it_was, with_a_volume_more, with_other_blocks)
NAME_IS_NOT = (
    misspelt,
    no_toml,
    gone,
    with_another_name,
    without_ledger,
    with_a_ledger_of_nonsense,
)


@pytest.mark.parametrize("change", [*NAME_IS_KNOWN, *NAME_IS_NOT])
def test_nothing_in_a_configuration_or_ledger_keeps_a_device_when_the_machine_goes_down(
    running: Pair, devices: Devices, change: Callable[[Path], None]
) -> None:
    """A site that runs needs neither, so what is wrong there shows when it is too late.  Where they
    do not say what the site is called, all devices of ours are unmounted that may be its, and
    nobody else's."""
    site = running.toml("east")
    devices.make(0, attaching.backend(config.load(str(site)), "disk"))
    devices.make(1, BACKEND.replace("/east/", "/other/"))
    devices.make(2, "/east/disk")
    theirs = BACKEND.replace("/east/", "/west/")
    devices.make(3, theirs)
    os.close(holders.take(theirs, running.toml("west")))
    good, book = site.read_bytes(), (running.folder / "east/state/ledger").read_bytes()
    change(site)
    done = detach("--unmount", "--going-down", str(site))
    site.write_bytes(good)
    (running.folder / "east/state/ledger").write_bytes(book)
    assert done.exit_code == 0, (done.output, done.exception)
    meant = [0] if change in NAME_IS_KNOWN else [0, 1]
    unmounted = [number for group in devices.unmounted for number in group]
    assert sorted(unmounted) == [f"43:{index}" for index in meant]
    assert sorted(devices.tried) == meant
    assert ("every device is meant" in done.output) == (change in NAME_IS_NOT)


def test_a_history_that_nobody_serves_takes_no_time_from_the_one_of_today(
    make_pair: MakePair, devices: Devices
) -> None:
    """Who unmounts what is mounted there may wait for ever: it comes after, with what is left."""
    pair = make_pair("--size", "1M")
    site = str(pair.toml("east"))
    devices.make(0, BACKEND)
    devices.make(1, BACKEND.replace("a" * 32, "b" * 32))
    devices.make(2, attaching.backend(config.load(site), "disk"))
    devices.mounted = {"43:0", "43:2"}
    done = detach("--unmount", "--going-down", site)
    assert devices.unmounted == [["43:2"], ["43:0"], ["43:1"]] and devices.tried == [1]
    full = limits.UNMOUNT_S
    for patience, most in zip(devices.patience, (full, full / 2, full), strict=True):
        assert most - SECONDS < patience <= most
    assert "/dev/nbd1: detached (disk of east, lineage bbbbbbbb; its lineage is " in str(
        done.exception
    )


# ---- the holder's own folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own = tmp_path / "holders"
    monkeypatch.setattr(holders, "FOLDER", own)
    return own


def a_folder_of_somebody_else(at: Path) -> None:
    at.mkdir(mode=0o700)
    os.chown(at, 65534, 65534)


def one_that_all_may_write_to(at: Path) -> None:
    at.mkdir()
    at.chmod(0o777)


def a_link(at: Path) -> None:
    (at.parent / "elsewhere").mkdir(mode=0o700)
    at.symlink_to(at.parent / "elsewhere")


def a_file(at: Path) -> None:
    at.touch(mode=0o600)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(a_folder_of_somebody_else, marks=pytest.mark.root("gives a folder away")),
        one_that_all_may_write_to,
        a_link,
        a_file,
    ],
)
def test_a_holder_writes_where_nobody_else_can(folder: Path, made: Callable[[Path], None]) -> None:
    """A folder that is another user's, or open to one, or a link: nothing is opened in it, for a
    link there would be followed with root's rights."""
    made(folder)
    with pytest.raises(MirrorError, match="root's alone"):
        holders.take("flashmirror/east/disk/0")
    assert folder.is_file() or os.listdir(folder) == []


def test_one_process_holds_a_device(folder: Path) -> None:
    """It is named while it holds it, and no longer: the number may be another process's after."""
    name = "flashmirror/east/disk/0"
    assert holders.process_of(name) is None
    fd = holders.take(name)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert holders.process_of(name) == os.getpid()
    with pytest.raises(MirrorError, match=f"process {os.getpid()} holds it.*detach SITE VOLUME"):
        holders.take(name)
    os.close(fd)
    assert holders.process_of(name) is None
    os.close(holders.take(name))


def test_who_is_ended_is_the_holder(folder: Path) -> None:
    """A number that stands in a lock which nobody holds is nobody's to signal."""
    name = "flashmirror/east/disk/0"
    os.close(holders.take(name))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        holders.lock_path(name).write_text(f"{stranger.pid}\n")
        holders.end(name)
        assert stranger.poll() is None
        stranger.kill()


def test_a_process_that_ends_is_in_no_detach_s_way(
    devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are looked at, and when the machine goes down many end: here one in the middle of
    the look."""
    devices.make(0, BACKEND)
    with subprocess.Popen(["sleep", "60"]) as ending:

        def at_its_end(of: Callable[[str], object]) -> Callable[[str], object]:
            def look(path: str) -> object:
                if str(path) == f"/proc/{ending.pid}/fd":
                    ending.kill()
                    ending.wait()
                return of(path)

            return look

        with monkeypatch.context() as patch:
            for name in ("listdir", "scandir"):
                patch.setattr(os, name, at_its_end(getattr(os, name)))
            assert attaching._by(0) == ""
        assert ending.returncode is not None, "it was looked at"


@needs_loops
def test_who_has_a_device_is_found_whatever_it_calls_it(devices: Devices, tmp_path: Path) -> None:
    """As in a container, which has nodes of its own: what it has not written yet would be lost."""
    loop, node = Loop(tmp_path / "disk", 1 << 20), Path(f"/dev/flashmirror-test-{os.getpid()}")
    number = loop.path.stat().st_rdev
    devices.make(0, BACKEND, f"{os.major(number)}:{os.minor(number)}")
    assert attaching._by(0) == ""
    os.mknod(node, 0o600 | stat.S_IFBLK, number)
    try:
        with node.open("rb") as device, subprocess.Popen(["sleep", "60"], stdin=device) as one:
            assert attaching._by(0) == f" (by process {one.pid}, sleep)"
            one.kill()
    finally:
        node.unlink()
        loop.close()


THREAD = """
import ctypes, signal, threading

def another():
    main = f"/proc/self/task/{os.getpid()}/stat"
    while ") Z " not in open(main).read():  # a zombie
        pass
    os.write(1, b"!")
    signal.sigwait([])

threading.Thread(target=another).start()
ctypes.CDLL(None).pthread_exit(None)  # of the main thread alone
"""


@needs_loops
def test_who_has_a_device_is_found_whatever_has_become_of_its_main_thread(
    devices: Devices, tmp_path: Path
) -> None:
    """It has ended before the others: then /proc/PID/fd is empty, and the device is open still."""
    loop = Loop(tmp_path / "disk", 1 << 20)
    number = loop.path.stat().st_rdev
    devices.make(0, BACKEND, f"{os.major(number)}:{os.minor(number)}")
    words = [sys.executable, "-c", "import os\n" + THREAD]
    with loop.path.open("rb") as device:
        one = subprocess.Popen(words, stdin=device, stdout=subprocess.PIPE)
    try:
        assert one.stdout and one.stdout.read(1)
        assert attaching._by(0) == f" (by process {one.pid}, {Path(sys.executable).name})"
    finally:
        one.kill()
        one.communicate()
        loop.close()


def test_what_was_made_of_a_device_is_named(
    devices: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume of LVM, or swap, has no process, and is in no table of mounts."""
    devices.make(0, BACKEND)
    swaps = tmp_path / "swaps"
    monkeypatch.setattr(attaching, "_SWAPS", swaps)
    swaps.write_text("Filename Type Size\n/dev/nbd01 partition 8\n/dev/nbd0p2 partition 8\n")
    assert attaching._by(0) == " (as swap)"
    for part in ("", "nbd0p1"):
        made = devices.folder / "nbd0" / part / "holders/dm-3/dm"
        made.mkdir(parents=True)
        made.joinpath("name").write_text(f"vg-db{part}\n")
    assert attaching._by(0) == " (by vg-db, vg-dbnbd0p1)"


def test_what_cannot_be_looked_at_of_one_device_leaves_no_other_attached(
    running: Pair, devices: Devices
) -> None:
    """Nor mounted: whatever the machine says of it is told, and the next one is tried."""
    today = attaching.backend(config.load(str(running.toml("east"))), "disk")
    devices.make(0, today)
    devices.make(1, today)
    devices.fails[0] = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/sys/nbd0")
    done = detach(str(running.toml("east")))
    assert devices.tried == [0, 1]
    assert isinstance(done.exception, MirrorError), done.exception
    assert str(done.exception) == (
        "/dev/nbd0: /sys/nbd0: No such file or directory; /dev/nbd1: detached"
    )


TAKES = """
import os, signal, sys
from pathlib import Path

from mirror_core import holders
holders.FOLDER = Path(sys.argv[1])
holders.take(sys.argv[2])
"""
HOLDS = """
os.write(1, b"!")
signal.pause()
"""


@contextlib.contextmanager
def held(
    folder: Path, name: str, *before: str, holds: str = HOLDS
) -> Iterator[subprocess.Popen[bytes]]:
    """By a process of its own."""
    words = [*before, sys.executable, "-c", TAKES + holds, str(folder), name]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as one:
        assert one.stdout and one.stdout.read(1)
        try:
            yield one
        finally:
            one.kill()


def test_a_holder_that_is_stopped_is_ended(folder: Path) -> None:
    """Else it would be in the way of the next one, and no `detach` would find it any more."""
    name = "flashmirror/east/disk/0"
    with held(folder, name) as holder:
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        assert holders.is_held(name)
        holders.end(name)
        assert not holders.is_held(name) and holder.wait(SECONDS) == -signal.SIGTERM


def test_a_holder_whose_main_thread_has_ended_is_ended(folder: Path) -> None:
    """By the process that it still is."""
    name = "flashmirror/east/disk/0"
    with held(folder, name, holds=THREAD) as holder:
        holders.end(name)
        assert not holders.is_held(name) and holder.wait(SECONDS) == -signal.SIGTERM


def test_a_number_of_another_container_is_nobody_s_to_signal(folder: Path) -> None:
    """Which shares /run: the holder has written its number there, and here another process has
    that."""
    name = "flashmirror/east/disk/0"
    with held(folder, name), subprocess.Popen(["sleep", "60"]) as stranger:
        holders.lock_path(name).write_text(f"{stranger.pid}\n")
        holders.end(name)
        assert stranger.poll() is None and holders.is_held(name)
        stranger.kill()


@pytest.mark.root("makes a process namespace")
def test_a_holder_in_a_container_of_this_machine_is_ended_from_outside(folder: Path) -> None:
    """By the number that it has here."""
    name = "flashmirror/east/disk/0"
    inside = ("unshare", "--pid", "--fork", "--kill-child", "sh", "-c", '"$@"; exit 7', "sh")
    with held(folder, name, *inside) as container:
        assert holders.process_of(name) != container.pid
        holders.end(name)
        assert container.wait(SECONDS) == 7
    assert not holders.is_held(name)


@pytest.mark.parametrize("volume", [[], ["disk"]])
def test_detach_ends_who_is_attaching_and_has_no_device_yet(
    running: Pair, devices: Devices, volume: list[str]
) -> None:
    """The next holder is told to have him detached; and the device would come after 'was not
    attached'.  One that has its device is ended only when that can be detached."""
    site = running.toml("east")
    name = attaching.backend(config.load(str(site)), "disk")
    with held(holders.FOLDER, name) as holder:
        done = detach(str(site), *volume)
        assert done.output == (
            f"disk: process {holder.pid}, its holder without a device, has been ended\n"
        )
        assert done.exit_code == 0 and holder.wait(SECONDS) == -signal.SIGTERM
    assert detach(str(site), *volume).output == "was not attached\n"
    devices.make(0, name)
    devices.in_use = {0}
    with held(holders.FOLDER, name) as holder:
        assert "in use" in str(detach(str(site), *volume).exception)
        assert holders.is_held(name)


@pytest.fixture
def detached(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By the command itself, which nobody uses; the kernel has those no more."""
    found: list[int] = []

    def disconnect(index: int) -> None:
        found.append(index)
        shutil.rmtree(devices.folder / f"nbd{index}")

    monkeypatch.setattr(attaching, "detach", DETACH)
    monkeypatch.setattr(attaching, "_alone", contextlib.nullcontext)
    monkeypatch.setattr(attaching, "_write_out", lambda _: None)
    monkeypatch.setattr(kernel, "disconnect", disconnect)
    return found


def test_a_unit_that_ends_leaves_alone_what_was_attached_by_hand_since(
    running: Pair, devices: Devices, detached: list[int]
) -> None:
    """systemd runs ExecStop= after a `detach` by hand, too, which has ended its holder; by then
    somebody may have attached the volume again, or be just about to."""
    site = str(running.toml("east"))
    name = attaching.backend(config.load(site), "disk")
    with held(devices.folder.parent / "holders", name) as holder:
        assert detach("--held-by", "", site, "disk").output == "was not attached\n"
        devices.make(0, name)
        for main in ("", "1"):
            done = detach("--held-by", main, site, "disk")
            line = f"/dev/nbd0: process {holder.pid} holds it by now: left attached\n"
            assert (done.exit_code, done.output) == (0, line)
        assert holders.is_held(name) and not detached
        done = detach("--held-by", str(holder.pid), site, "disk")
        assert done.output == "/dev/nbd0: detached\n" and not holders.is_held(name)
    devices.make(0, name)
    assert detach("--held-by", "", site, "disk").output == "/dev/nbd0: detached\n"
    assert detached == [0, 0]


def test_a_holder_that_comes_while_a_unit_s_detach_waits_is_left_alone(
    devices: Devices, detached: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what was written, or who looks at the device."""
    devices.make(0, BACKEND)
    fds: list[int] = []
    ended: list[str] = []
    monkeypatch.setattr(attaching, "_write_out", lambda _: fds.append(holders.take(BACKEND)))
    monkeypatch.setattr(holders, "end", ended.append)
    with pytest.raises(attaching.HeldByAnother):
        attaching.detach(attached.at(0), held_by="")
    os.close(fds[0])
    assert not detached and not ended


ALONE = """
import os
from pathlib import Path

from mirror_core import attach, limits
attach.path_of = lambda _: {device!r}
limits.DEVICE_BUSY_S = 0.3
for _ in range(3):
    try:
        attach._open_alone(0)
    except attach.MirrorError as error:
        print(error)
children = Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()
print(len(children), "left")
"""


def test_who_waits_for_a_device_holds_no_output(tmp_path: Path) -> None:
    """The process that is left behind in the kernel, by a device whose site is away (here a name
    on a file system that does not answer), keeps nobody waiting who reads what `detach` prints; and
    it is one, however often is asked."""
    device = tmp_path / "device"
    os.mkfifo(device)
    words = [sys.executable, "-c", ALONE.format(device=str(device))]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True
    )
    os.close(os.open(device, os.O_WRONLY | os.O_NONBLOCK))  # it comes to its end
    assert done.stdout.count("does not answer (is its site away?)") == 3
    assert "\n1 left\n" in done.stdout


def test_all_devices_of_a_site_are_detached_whichever_refuses(
    running: Pair, devices: Devices
) -> None:
    """The line names each that has refused, and those that are detached."""
    today = attaching.backend(config.load(str(running.toml("east"))), "disk")
    for index in (3, 4, 5, 6):
        devices.make(index, today)
    devices.in_use = {3, 5}
    done = CliRunner().invoke(commands.detach, [str(running.toml("east"))])
    assert devices.tried == [3, 4, 5, 6]
    assert str(done.exception) == (
        "/dev/nbd3: in use; /dev/nbd5: in use; /dev/nbd4: detached; /dev/nbd6: detached"
    )
