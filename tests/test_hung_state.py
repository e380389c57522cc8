"""A state folder that does not answer, as of a disk or a server of files that hangs: it keeps
nobody who needs nothing of it, and every command says so in its time.

Here FUSE hangs: a file system whose server was stopped is mounted over the folder, so that what a
site has open there is as before, and whoever looks for a name waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import direct
import pytest
from click.testing import CliRunner
from handmade import Handmade, eventually, kill, record, refused, scrape
from loops import Loop, needs_loops
from made_devices import Devices
from pair import FLASHMIRROR, MakePair
from test_hangs import bounded

from mirror_core import attach, config, ledger, limits, process
from mirror_core.cli import attaching, mirroring, running, seeing
from mirror_core.errors import MirrorError

SERVER = Path(__file__).with_name("fuse_cache.py")

pytestmark = pytest.mark.root("mounts a FUSE file system", "/dev/fuse")


@contextlib.contextmanager
def hung(folder: Path) -> Iterator[None]:
    """Whoever looks for a name in there waits until the end of this, or for 15 s."""
    behind = folder.with_name("behind")
    behind.touch()
    words = [sys.executable, str(SERVER), str(behind), str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and server.stdout.readline() == "mounted\n"
        (folder / "disk").lstat()  # it has answered the kernel's first question
        server.send_signal(signal.SIGSTOP)
        late = threading.Timer(15, server.kill)
        late.start()
        try:
            yield
        finally:
            late.cancel()
            server.kill()
            server.wait(20)
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("site", ["east", "west"])
def test_a_store_that_hangs_holds_up_no_question(handmade: Handmade, site: str) -> None:
    """Its file server does not even answer how large it is: status and metrics come in their time
    all the same, and say so; the other site hears of this one, and once the server answers a pause
    and a stop come to their end."""
    other = "west" if site == "east" else "east"
    with served(handmade, site) as (server, _):
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        with bounded(20):
            server.send_signal(signal.SIGSTOP)
            for _ in range(2):
                assert "has no answer" in (direct.status(handmade, site)["reason"] or "")
            assert direct.status(handmade, other)["peer"]["state"] == "connected"
            server.send_signal(signal.SIGCONT)
            direct.pause(handmade)
            eventually(lambda: "answer" not in str(direct.status(handmade, site)), "well")
            handmade.stop()


@needs_loops
def test_a_hung_server_of_an_intermediate_holds_up_no_flush_of_data(
    handmade: Handmade, scratch: Path
) -> None:
    """Nothing tells what that server stands on.  It may be the disk of the data, which loses what
    a flush there loses; but a client's flush of data does not wait for the server's answer."""
    disk = Loop(scratch / "disk", handmade.size)
    try:
        with served(handmade, "east", "intermediate") as (_, behind):
            handmade.stores["east", "data"] = str(disk.path)
            handmade.create()
            handmade.start()
            direct.sync(handmade)
            hangs = behind.with_name(f"{behind.name}.hangs")
            hangs.touch()
            with handmade.client() as client:
                client.write(0, b"a" * 4096)  # whose cycle has a flush of the intermediate
                eventually(lambda: "answer" in str(direct.status(handmade)["reason"]), "it hangs")
                client.write(handmade.size - 4096, b"b" * 4096)
                with bounded(10):
                    client.flush()
            hangs.unlink()
            direct.sync(handmade)
    finally:
        disk.close()


def test_a_cut_is_remembered_while_a_store_hangs(handmade: Handmade) -> None:
    """No look at the stores comes to its end; the source is told of the cut, and so the next start
    of its target knows it, though that was killed in the same moment (I1)."""
    with served(handmade, "west") as (server, _):
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        before = direct.status(handmade)["committed"]["sequence"]
        server.send_signal(signal.SIGSTOP)
        with handmade.client() as client:
            client.write(0, os.urandom(handmade.size - 4096))
            eventually(
                lambda: direct.status(handmade)["committed"]["sequence"] > before, "a commit"
            )
            os.truncate(handmade.store("west", "intermediate"), 4096)
            client.write(handmade.size - 4096, b"x" * 4096)
            words = "was made smaller while it held some of the image"
            eventually(lambda: words in str(direct.status(handmade)["reason"]), "it is told")
        handle = os.pidfd_open(direct.status(handmade, "west")["pid"])
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        server.send_signal(signal.SIGCONT)  # what hangs there ends no sooner
        assert select.select([handle], [], [], 20)[0]
        os.close(handle)
        assert "gives up the image" in refused("start", str(handmade.toml("west")))


def test_a_promotion_waits_for_a_file_server_and_says_so(handmade: Handmade) -> None:
    """Its source is lost, and for a moment that server does not answer.  The command ends neither
    then nor without a word."""
    with served(handmade, "west") as (server, _):
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        kill(handmade, "east")
        server.send_signal(signal.SIGSTOP)
        words = (FLASHMIRROR, "promote", "--force", str(handmade.toml("west")))
        with bounded(30), subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as promotes:
            assert promotes.stderr
            said = promotes.stderr.readline()
            assert "promote waits: a look at its stores has no answer yet" in said
            server.send_signal(signal.SIGCONT)
            promotes.communicate()
            assert promotes.returncode == 0


@pytest.mark.timeout(120)
def test_an_image_is_had_without_the_file_server_of_its_intermediate(handmade: Handmade) -> None:
    """The source is lost, the image is whole in data, and that server does not come back: what the
    line refers to (docs/recovery.md) can be done, and has the promotion go on."""
    with served(handmade, "west", "intermediate") as (server, _):
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        kill(handmade, "east")
        server.send_signal(signal.SIGSTOP)
        words = (FLASHMIRROR, "promote", "--force", str(handmade.toml("west")))
        with bounded(60), subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as promotes:
            assert promotes.stderr
            assert "docs/recovery.md, 'A file server hangs" in promotes.stderr.readline()
            subprocess.run(["umount", "--force", str(handmade.folder / "served")], check=False)
            promotes.communicate()
            assert promotes.returncode == 0


@pytest.mark.timeout(120)
def test_a_promotion_gets_on_where_each_look_is_late(handmade: Handmade) -> None:
    """A file server answers, but takes longer for each question how large a store is than a look
    has time, and does so for good."""
    with served(handmade, "west") as (_, behind):
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        kill(handmade, "east")
        slow = behind.with_name(f"{behind.name}.slow")
        slow.write_text("0.6")
        words = (FLASHMIRROR, "promote", "--force", str(handmade.toml("west")))
        with bounded(60), subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as promotes:
            book = handmade.folder / "west/state"
            eventually(lambda: ledger.load(book).role == "source", "its record")
            slow.unlink()
            assert "is the source now" in promotes.communicate()[0]


@pytest.mark.parametrize("site", ["east", "west"])
def test_a_stop_of_a_start_that_flushes_costs_no_store(handmade: Handmade, site: str) -> None:
    """The disk takes its time for a flush of what was put there while the site was stopped.  Who
    ends that start ends it behind the flush, and the next one finds all as it was."""
    with served(handmade, site) as (_, behind):
        handmade.create()
        handmade.start()
        direct.sync(handmade)
        handmade.stop(site)
        hangs, toml = behind.with_name(f"{behind.name}.hangs"), str(handmade.toml(site))
        hangs.touch()
        with bounded(30), subprocess.Popen([FLASHMIRROR, "start", toml], stderr=-1) as starts:
            book = handmade.folder / site / "state"
            eventually(lambda: bool(ledger.load(book).flushing), "a flush")
            with subprocess.Popen([FLASHMIRROR, "stop", toml]) as stops:
                eventually(lambda: told_to_end(site, handmade), "a signal")
                hangs.unlink()
                assert stops.wait(20) == 0
            starts.communicate()
        handmade.start(site)
        direct.sync(handmade)
        handmade.stop()


def told_to_end(site: str, pair: Handmade) -> bool:
    """Whether a SIGTERM is pending (proc_pid_status(5)), or the process has ended by it."""
    pid = process.found(config.load(str(pair.toml(site))))
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return True
    pending = next(line.split()[1] for line in lines if line.startswith("ShdPnd"))
    return bool(int(pending, 16) >> (signal.SIGTERM - 1) & 1)


@contextlib.contextmanager
def served(
    pair: Handmade, site: str, part: str = "data"
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """This store of it is on a file system of this server, over this file; nothing is remembered of
    its attributes."""
    folder, behind = pair.folder / "served", pair.folder / "behind"
    folder.mkdir()
    behind.touch()
    os.truncate(behind, pair.size)
    words = [sys.executable, str(SERVER), str(behind), str(folder)]
    always = {**os.environ, "FUSE_ATTRIBUTES_S": "0"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=always) as server:
        assert server.stdout and server.stdout.readline() == "mounted\n"
        pair.stores[site, part] = str(folder / "disk")
        try:
            yield server, behind
        finally:
            server.send_signal(signal.SIGCONT)
            for what in ("hangs", "slow"):
                behind.with_name(f"{behind.name}.{what}").unlink(missing_ok=True)
            pair.kill()
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            server.kill()


def test_a_target_says_that_its_state_folder_hangs(make_pair: MakePair) -> None:
    """Its status and its metrics come in their time; once the folder answers, all is as before."""
    pair = make_pair("--size", "1M")
    pair.start()
    direct.sync(pair)
    with bounded(10):
        with hung(pair.folder / "west/state"):
            found = [direct.status(pair, "west") for _ in range(3)][-1]
            assert found["state"] == "degraded", found
            assert f"{pair.folder}/west/state: does not answer" in found["reason"]
            assert "flashmirror_committed_sequence" in scrape(pair, "west")
        eventually(lambda: not direct.status(pair, "west")["reason"], "well again")
        assert direct.status(pair, "west")["state"] == "mirroring"


def test_a_hung_state_folder_keeps_no_command(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the folder, and the process that serves, which goes on; and what ends that.  Once
    the folder answers the site is stopped in order."""
    pair = make_pair("--size", "1M")
    pair.start("east")
    pid, site = direct.status(pair)["pid"], str(pair.toml("east"))
    commands: list[Callable[[], object]] = [
        lambda: running.stop.callback(site, force=False, as_json=True),  # type: ignore[misc]
        lambda: seeing.status.callback(site, watch=False, as_json=True),  # type: ignore[misc]
        lambda: mirroring.resume.callback(site, as_json=True),  # type: ignore[misc]
    ]
    with monkeypatch.context() as patch, bounded(10), hung(pair.folder / "east/state"):
        patch.setattr(limits, "CONTROL_TIMEOUT_S", 0.3)
        for command in commands:
            with pytest.raises(MirrorError) as refused:
                command()
            assert f"{pair.folder}/east/state does not answer" in str(refused.value)
            assert f"'kill -9 {pid}'" in str(refused.value)
    with bounded(20):
        assert record("stop", site) == {"site": "east", "in_order": True}


def test_a_state_folder_that_hangs_keeps_no_device_when_the_machine_goes_down(
    handmade: Handmade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor otherwise: nobody can say which history is today's, and what is mounted on the site's
    devices is unmounted and they are detached in the time that there is."""
    handmade.create()
    devices = Devices(tmp_path / "block", monkeypatch)
    site = config.load(str(handmade.toml("east")))
    devices.make(0, attach.backend(site, "disk"))
    monkeypatch.setattr(limits, "CONTROL_TIMEOUT_S", 0.5)
    with hung(site.state), bounded(8):
        done = CliRunner().invoke(attaching.detach, ["--unmount", "--going-down", str(site.path)])
        assert "every device is meant" in done.output and "does not answer" in done.output
        assert devices.unmounted == [["43:0"]] and devices.tried == [0]
        assert devices.patience[0] < limits.UNMOUNT_S - 0.4  # systemd has begun to count
        done = CliRunner().invoke(attaching.detach, [str(site.path)])
        assert devices.tried == [0, 0] and not done.exception
        refusal = CliRunner().invoke(attaching.attach, [str(site.path), "disk"]).exception
        assert "does not answer" in str(refusal)
