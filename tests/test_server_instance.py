"""A source that is killed while the server of its data store is restarted: what was acknowledged
and not flushed is gone, and no connection has noticed (I9).  Each client hears of it, once; and
hears nothing when the server is known to be the same process.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, kill, refused
from nbd_client import NbdClient, NbdError
from served import NBDKIT, Faulty

from mirror_core import native, server_instance
from mirror_core.ledger import Ledger
from mirror_core.platform import HERE

SIZE = 1 << 20
BLOCK = 4096
SOURCE = Ledger(site="1" * 32, name="east", role="source", lineage=None, volumes=())


@pytest.fixture
def faulty(scratch: Path, handmade: Handmade) -> Iterator[Faulty]:
    """The server of the source's data, whose cache goes with it; the target does not run."""
    server = Faulty(scratch / "faulty.img")
    handmade.stores["east", "data"] = server.store(SIZE)
    handmade.create()
    handmade.start("east")
    yield server
    handmade.kill()
    server.stop()


def write_unflushed(pair: Handmade) -> None:
    with pair.client() as client:
        client.write(0, b"lost" * (BLOCK // 4))


def flushes(client: NbdClient) -> bool:
    try:
        client.flush()
    except NbdError as error:
        assert error.errno == errno.EIO
        return False
    return True


def test_a_kill_while_the_server_is_restarted_is_told(handmade: Handmade, faulty: Faulty) -> None:
    """Each client that comes back hears so at its first flush, once, and the log says why."""
    write_unflushed(handmade)
    kill(handmade, "east")
    faulty.restart()
    handmade.start("east")
    with handmade.client() as one, handmade.client() as other:
        assert not flushes(one) and not flushes(other), "acknowledged writes are gone"
        assert flushes(one) and flushes(other)
        assert one.read(0, BLOCK) == bytes(BLOCK)
    assert "the first flush of each client fails once" in handmade.log("east")


def test_a_stranger_hears_for_nobody_else(handmade: Handmade, faulty: Faulty) -> None:
    """Who has written nothing connects first, and is told; whose writes are gone comes back after
    that, twice even, and is told too.  Killed meanwhile, he is told by the next process, though
    the server is the same then."""
    write_unflushed(handmade)
    kill(handmade, "east")
    faulty.restart()
    for _ in range(2):
        handmade.start("east")
        with handmade.client() as stranger:
            assert not flushes(stranger) and flushes(stranger)
        for _ in range(2):
            with handmade.client() as device:
                assert not flushes(device), "its acknowledged writes are gone"
                assert flushes(device)
        kill(handmade, "east")


def test_a_server_that_is_the_same_costs_no_flush(handmade: Handmade, faulty: Faulty) -> None:
    """It still has what was written: two kills, and nothing fails."""
    for _ in range(2):
        write_unflushed(handmade)
        kill(handmade, "east")
        handmade.start("east")
    with handmade.client() as client:
        assert flushes(client)
        assert client.read(0, 4) == b"lost"


def test_a_socket_of_somebody_s_with_any_name_is_no_matter(
    handmade: Handmade, faulty: Faulty
) -> None:
    """Its bytes are no text, and the kernel lists it among those of the server."""
    with socket.socket(socket.AF_UNIX) as somebody:
        somebody.bind(b"\0\xff" + os.urandom(8).hex().encode())
        write_unflushed(handmade)
        kill(handmade, "east")
        handmade.start("east")
        with handmade.client() as client:
            assert flushes(client) and client.read(0, 4) == b"lost"


def test_what_nobody_has_heard_of_survives_another_kill(handmade: Handmade, faulty: Faulty) -> None:
    """Killed again before a client has flushed: it is told by the next process."""
    write_unflushed(handmade)
    kill(handmade, "east")
    faulty.restart()
    for _ in range(2):
        handmade.start("east")
        write_unflushed(handmade)
        kill(handmade, "east")
    handmade.start("east")
    with handmade.client() as client:
        assert not flushes(client)
        assert flushes(client)


def test_a_server_is_known_again_when_nobody_is_left_to_be_told(scratch: Path) -> None:
    """It is so when a flush is good, and who could come back had the time to."""
    server = Faulty(scratch / "faulty.img")
    front = native.Store.nbd(server.store(SIZE), 5.0)
    sink = scratch / "sink.img"
    sink.touch()
    os.truncate(sink, SIZE)
    first = native.Store.file(os.open(sink, os.O_RDWR), SIZE)
    volume = native.Volume(front, first, SIZE, BLOCK, False)
    volume.set_returning(0.5)
    servers = server_instance.Servers(scratch, SOURCE, "run", {"disk": volume})

    def known() -> object:
        return json.loads((scratch / "servers").read_text())["data"]["disk"]

    def flush(client: native.Client) -> bool:
        try:
            client.flush()
        except OSError:
            servers.flushed("disk", failed=True)
            return False
        servers.flushed("disk", failed=False)
        return True

    try:
        assert servers.begin(clean=False, run_before="before") == ["disk"]
        idle, busy = native.Client(volume, 0), native.Client(volume, 0)
        assert known() is None and not flush(busy) and flush(busy)
        until = native.now_s() + 0.6
        while native.now_s() < until:
            assert flush(busy) and known() is None, "one that is idle has not heard"
        assert not flush(idle) and flush(idle)
        assert flush(busy) and known() == server_instance.identify(front.server_socket())
        server.fail("EIO", "flush")
        busy.zero(BLOCK, 0, 0)
        assert not flush(busy) and known() is None, "it has lost something"
    finally:
        volume.close()
        front.close()
        first.close()
        server.stop()


def test_an_orderly_stop_has_flushed_all(handmade: Handmade, faulty: Faulty) -> None:
    """Then the server may go and come back: nothing is lost, no flush fails."""
    write_unflushed(handmade)
    handmade.stop("east")
    faulty.restart()
    handmade.start("east")
    with handmade.client() as client:
        assert flushes(client)
        assert client.read(0, 4) == b"lost"


def test_a_flush_that_fails_at_a_stop_is_told(handmade: Handmade, faulty: Faulty) -> None:
    """Nobody was told: the server is alive, and known, when the next process starts."""
    write_unflushed(handmade)
    faulty.fail("lose", "flush")
    direct.stop(handmade, "east")
    faulty.mend()
    handmade.start("east")
    with handmade.client() as client:
        assert not flushes(client), "its acknowledged writes are gone"
        assert flushes(client)


def of_files(folder: Path) -> tuple[list[native.Store], native.Volume]:
    """A volume and its stores, the front first."""
    stores = []
    for name in ("front.img", "sink.img"):
        (folder / name).touch()
        os.truncate(folder / name, SIZE)
        stores.append(native.Store.file(os.open(folder / name, os.O_RDWR), SIZE))
    return stores, native.Volume(stores[0], stores[1], SIZE, BLOCK, False)


def test_a_loss_of_a_file_is_told_after_a_stop(scratch: Path) -> None:
    """What has no server is told, too; once all have heard nothing is."""
    heard = []
    for run, before in (("1", ""), ("2", "1"), ("3", "2")):
        stores, volume = of_files(scratch)
        servers = server_instance.Servers(scratch, SOURCE, run, {"disk": volume})
        heard.append(servers.begin(clean=True, run_before=before))
        if run == "1":
            volume.set_returning(30.0)
            volume.lose_front()  # as a flush of the control's that fails
        servers.end()
        volume.close()
        for store in stores:
            store.close()
    assert heard == [[], ["disk"], []]


def test_a_start_that_fails_forgets_no_loss(handmade: Handmade, faulty: Faulty) -> None:
    """It fails at its last step, and so was nobody's process: the next one tells what it was to."""
    write_unflushed(handmade)
    faulty.fail("lose", "flush")
    with handmade.client() as client:
        assert not flushes(client)
        faulty.mend()
    handmade.start("west")
    handmade.sync()  # so that the control has heard of it, and the stop is one in order
    handmade.stop("east")
    in_the_way = handmade.folder / "east" / "state" / "ledger.new"
    in_the_way.mkdir()
    assert "ledger" in refused("start", str(handmade.toml("east")))
    in_the_way.rmdir()
    handmade.start("east")
    with handmade.client() as client:
        assert not flushes(client), "acknowledged writes are gone"
        assert flushes(client)


def test_a_loss_of_a_file_survives_a_start_that_fails(scratch: Path) -> None:
    """The same without a server: the ledger still names the first run."""
    heard = []
    for run, before in (("1", ""), ("2", "1"), ("3", "1"), ("4", "3")):
        stores, volume = of_files(scratch)
        volume.set_returning(30.0)
        servers = server_instance.Servers(scratch, SOURCE, run, {"disk": volume})
        heard.append(servers.begin(clean=run != "4", run_before=before))
        if run == "1":
            volume.lose_front()  # as a flush of the control's that fails
            servers.end()
        volume.close()
        for store in stores:
            store.close()
    assert heard == [[], ["disk"], ["disk"], ["disk"]]


@pytest.mark.parametrize("told", [False, True])
def test_what_a_client_has_heard_of_a_file_is_told_to_others_after_a_kill(
    scratch: Path, *, told: bool
) -> None:
    """A flush of one client has failed, and the site is killed before another has flushed; killed
    after that, nothing is told."""
    heard = []
    for run, before in (("1", ""), ("2", "1")):
        stores, volume = of_files(scratch)
        volume.set_returning(0.1)
        servers = server_instance.Servers(scratch, SOURCE, run, {"disk": volume})
        heard.append(servers.begin(clean=run == "1", run_before=before))
        if run == "1":
            volume.lose_front()  # as his flush that fails
            servers.flushed("disk", failed=True)
            until = native.now_s() + 20
            while told and volume.news_is_due():
                assert native.now_s() < until
            servers.flushed("disk", failed=False)
        volume.close()
        for store in stores:
            store.close()
    assert heard == [[], [] if told else ["disk"]]


@pytest.mark.parametrize("told", [False, True])
def test_a_loss_of_a_file_survives_a_kill(scratch: Path, *, told: bool) -> None:
    """Killed before all have heard of what the process before it had met, the next one tells it
    again; killed after that, nothing."""
    heard = []
    for run, before in (("1", ""), ("2", "1"), ("3", "2")):
        stores, volume = of_files(scratch)
        volume.set_returning(30.0 if run == "1" else 0.1)
        servers = server_instance.Servers(scratch, SOURCE, run, {"disk": volume})
        heard.append(servers.begin(clean=run != "3", run_before=before))
        assert not stores[0].losses, "of this run, whose end has a fingerprint of it"
        if run == "1":
            volume.lose_front()  # as a flush of the control's that fails
            servers.end()
        elif told:
            until = native.now_s() + 20
            while volume.news_is_due():
                assert native.now_s() < until
            servers.flushed("disk", failed=False)
        volume.close()
        for store in stores:
            store.close()
    assert heard == [[], ["disk"], [] if told else ["disk"]]


def test_a_server_over_tcp_is_never_known(handmade: Handmade, scratch: Path) -> None:
    """Each kill costs one failed flush, which docs/attach.md says."""
    image = scratch / "tcp.img"
    image.touch()
    os.truncate(image, SIZE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [NBDKIT, "--foreground", "--ipaddr=127.0.0.1", f"--port={port}", "file", str(image)]
    with subprocess.Popen(words) as server:
        try:
            deadline = time.monotonic() + 20
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < deadline
            handmade.stores["east", "data"] = f"nbd://127.0.0.1:{port}"
            handmade.create()
            handmade.start("east")
            with handmade.client() as client:
                client.write(0, b"here" * 1024)
                assert flushes(client)
            kill(handmade, "east")
            handmade.start("east")
            with handmade.client() as client:
                assert not flushes(client)
                assert flushes(client)
        finally:
            handmade.kill()
            server.terminate()


def test_only_who_holds_the_connections_is_known(scratch: Path) -> None:
    """A process that listens and leaves the clients to others (systemd, or one that forks for each)
    outlives the server: it is not taken for it."""
    path = str(scratch / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        assert server_instance.identify(os.dup(client.fileno())) is None, "nobody has accepted it"
        accepted, _ = listener.accept()
        found = server_instance.identify(os.dup(client.fileno()))
        assert found and found.startswith(f"{os.getpid()} ")
        with subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, pass_fds=[accepted.fileno()]
        ) as child:
            accepted.close()  # the child has it
            assert server_instance.identify(os.dup(client.fileno())) is None
        assert child.returncode == 0
        assert server_instance.identify(os.dup(client.fileno())) is None, "it has ended"
    with socket.socket() as over_tcp:
        assert server_instance.identify(os.dup(over_tcp.fileno())) is None


RECORD = {
    "version": server_instance.VERSION,
    "site": SOURCE.site,
    "run": "before",
    "data": {},
    "untold": ["disk"],
}


def without(key: str) -> str:
    return json.dumps({name: value for name, value in RECORD.items() if name != key})


DAMAGE = {
    "right": (json.dumps(RECORD), ["disk"]),
    "without a version": (without("version"), []),
    "of another version": (json.dumps({**RECORD, "version": 99}), []),
    "without a site": (without("site"), []),
    "of another site": (json.dumps({**RECORD, "site": "2" * 32}), []),
    "without a run": (without("run"), []),
    "of another run": (json.dumps({**RECORD, "run": "other"}), []),
    "of a start that failed": (json.dumps({**RECORD, "run": "x", "follows": ["before"]}), ["disk"]),
    "of another start that failed": (json.dumps({**RECORD, "run": "x", "follows": ["y"]}), []),
    "of this boot": (json.dumps({**RECORD, "boot": HERE.boot_id()}), ["disk"]),
    "of another boot": (json.dumps({**RECORD, "boot": "another"}), []),
    "without data": (without("data"), []),
    "of another shape": (json.dumps({**RECORD, "data": ["disk"]}), []),
    "with nobody to tell": (without("untold"), []),
    "with a word to tell": (json.dumps({**RECORD, "untold": "disk"}), []),
    "torn": (json.dumps(RECORD)[:-9], []),
}


def test_docs_recovery_has_the_fields_of_servers(scratch: Path) -> None:
    """docs/recovery.md has a row for each field of the file, in its order, and none else; and its
    version."""
    stores, volume = of_files(scratch)
    servers = server_instance.Servers(scratch, SOURCE, "run", {"disk": volume})
    assert servers.begin(clean=True, run_before="before") == []
    servers.flushed("disk", failed=True)
    record = json.loads((scratch / "servers").read_text())
    volume.close()
    for store in stores:
        store.close()
    assert record == {
        "version": 2,
        "site": SOURCE.site,
        "run": "run",
        "boot": HERE.boot_id(),
        "follows": ["before"],
        "data": {},
        "untold": ["disk"],
    }
    page = (Path(__file__).parent.parent / "docs/recovery.md").read_text()
    table = page.partition("| field of `servers` | since |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE)
    assert [key for key, _ in rows] == list(record)
    assert max(int(since) for _, since in rows) == server_instance.VERSION
    assert f"This is version {server_instance.VERSION}" in page


def test_a_start_beside_an_older_ledger_that_fails_forgets_no_loss_of_the_newer_one(
    scratch: Path,
) -> None:
    """It takes the place of the record that the newer run has made, before its ledger stands; then
    a person puts the newer ledger back."""
    (scratch / "servers").write_text(json.dumps({**RECORD, "run": "newer"}))
    stores, volume = of_files(scratch)
    for run, before, went_back in (
        ("a", "before", True),
        ("b", "before", True),
        ("c", "newer", False),
    ):
        servers = server_instance.Servers(scratch, SOURCE, run, {"disk": volume})
        assert servers.begin(clean=False, run_before=before, went_back=went_back) == ["disk"], run
    assert json.loads((scratch / "servers").read_text())["follows"] == ["newer"]
    volume.close()
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("text", "told"), DAMAGE.values(), ids=[k.replace(" ", "-") for k in DAMAGE]
)
def test_a_record_of_servers_counts_for_its_site_and_run(
    scratch: Path, text: str, told: list[str]
) -> None:
    """One that does not fit says nothing: no server is known, and no older loss."""
    (scratch / "servers").write_text(text)
    stores, volume = of_files(scratch)
    servers = server_instance.Servers(scratch, SOURCE, "run", {"disk": volume})
    assert servers.begin(clean=True, run_before="before") == told
    volume.close()
    for store in stores:
        store.close()
