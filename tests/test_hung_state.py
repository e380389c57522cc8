"""A state folder that does not answer, as of a disk or a server of files that hangs: it keeps
nobody who needs nothing of it, and every command says so in its time.

Here FUSE hangs: a file system whose server was stopped is mounted over the folder, so that what a
site has open there is as before, and whoever looks for a name waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, eventually, record, scrape
from pair import MakePair
from test_hangs import bounded

from mirror_core import limits
from mirror_core.cli import mirroring, running, seeing
from mirror_core.errors import MirrorError

SERVER = Path(__file__).with_name("fuse_cache.py")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK), reason="needs root and /dev/fuse"
)


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
    folder, behind = handmade.folder / "served", handmade.folder / "behind"
    folder.mkdir()
    behind.touch()
    os.truncate(behind, handmade.size)
    other = "west" if site == "east" else "east"
    words = [sys.executable, str(SERVER), str(behind), str(folder)]
    always = {**os.environ, "FUSE_ATTRIBUTES_S": "0"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=always) as server:
        assert server.stdout and server.stdout.readline() == "mounted\n"
        try:
            handmade.stores[site, "data"] = str(folder / "disk")
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
        finally:
            server.send_signal(signal.SIGCONT)
            handmade.kill()
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
