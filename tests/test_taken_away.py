"""What a running site is known by can be taken away: it is found and stopped all the same.

A cleaner of /run or /tmp removes a lock or a socket; somebody empties a state folder, moves it, or
edits the configuration; or deletes a store, which only the site's process has then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, as_somebody_else, east, flashmirror, record, refused
from nbd_client import NbdClient
from pair import some
from test_hangs import bounded

from mirror_core import config, lock, process
from mirror_core.config import SiteConfig


def settings(pair: Handmade) -> SiteConfig:
    return config.load(str(pair.toml("east")))


def remove_the_lock(pair: Handmade) -> None:
    (pair.folder / "east/state/lock").unlink()


def empty_the_folder(pair: Handmade) -> None:
    for path in (pair.folder / "east/state").iterdir():
        path.unlink()


def move_the_folder(pair: Handmade) -> None:
    (pair.folder / "east/state").rename(pair.folder / "east/elsewhere")


def remove_the_folder(pair: Handmade) -> None:
    shutil.rmtree(pair.folder / "east/state")


def edit_the_setting(pair: Handmade) -> None:
    """As an editor does: another file takes the place of the old one."""
    path = pair.toml("east")
    fresh = path.with_name("fresh")
    fresh.write_text(path.read_text().replace(str(pair.folder / "east/state"), "/nowhere/state"))
    assert "/nowhere/state" in fresh.read_text()
    fresh.rename(path)


TAKEN = [remove_the_lock, empty_the_folder, move_the_folder, remove_the_folder, edit_the_setting]


@pytest.fixture
def pid(handmade: Handmade) -> int:
    """Of a source that runs."""
    handmade.create()
    handmade.start("east")
    return int(record("status", str(handmade.toml("east")))["pid"])


@pytest.mark.parametrize("take", TAKEN)
def test_a_site_that_runs_is_never_called_stopped(
    handmade: Handmade, pid: int, take: Callable[[Handmade], None]
) -> None:
    """`status` shows it, `start` finds it, nothing that is for a stopped site is done to it, and
    `stop` ends it."""
    site = east(handmade)
    take(handmade)
    with bounded(30):
        assert record("status", site)["pid"] == pid
        assert record("start", site)["pid"] == pid
        for words in (
            ("resync", site, "--full", "--force"),
            ("seed", site),
            ("adopt", site, "disk", "data", "--yes"),
            ("create", site, "--role", "source"),
        ):
            assert "east: runs: stop it with 'flashmirror stop" in refused(*words), words
        done = flashmirror("stop", site)
    said = done.stdout + done.stderr
    assert process.found(settings(handmade)) is None, said
    known = "east: stopped" in said or "whether in order is not known" in said
    assert known and (done.returncode == 0) == ("east: stopped" in said), said


def test_a_site_whose_socket_was_removed_is_said_to_run(handmade: Handmade, pid: int) -> None:
    """`start` does not wait for it to answer: nothing can reach it; `stop` ends it in order."""
    site = east(handmade)
    settings(handmade).socket.unlink()
    with bounded(8):
        line = refused("start", site)
    assert "east: runs, and its socket" in line and "stop it and start it" in line
    assert "does not listen on" in refused("status", site)
    assert record("stop", site) == {"site": "east", "in_order": True}


def test_another_site_of_the_same_name_is_not_this_one(
    handmade: Handmade, pid: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Who looks for a site whose lock is gone knows it by its configuration, and not by words that
    look alike."""
    other = Handmade(tmp_path_factory.mktemp("other"))
    other.create("east")
    assert process.found(settings(other)) is None
    (handmade.folder / "east/state/lock").unlink()
    assert process.found(settings(handmade)) == pid
    with bounded(20):
        assert record("stop", str(other.toml("east")))["in_order"]
    assert process.found(settings(handmade)) == pid
    handmade.stop("east")


def test_a_stranger_with_the_same_words_is_not_the_site(handmade: Handmade) -> None:
    """As `make stop site=...`, or a shell on another machine: no site of this one runs."""
    handmade.create()
    toml = str(handmade.toml("east"))
    stranger = [sys.executable, "-c", "input()"]
    for words in ([f"site={toml}"], ["start", "--foreground", toml]):
        with subprocess.Popen([*stranger, *words], stdin=subprocess.PIPE) as one:
            try:
                assert process.found(settings(handmade)) is None
                with bounded(20):
                    assert record("stop", toml)["in_order"]
                assert one.poll() is None, "it was ended"
            finally:
                one.kill()


def test_no_second_process_is_begun_beside_the_first(handmade: Handmade, pid: int) -> None:
    """Neither its lock nor its socket is there, and its stores might be servers, which nobody can
    lock."""
    (handmade.folder / "east/state/lock").unlink()
    settings(handmade).socket.unlink()
    with bounded(30):
        assert "has let go of its state" in refused("start", east(handmade))
        line = refused("start", "--foreground", east(handmade))
    assert f"runs already, process {pid}" in line
    with bounded(20):
        assert record("stop", east(handmade))["in_order"]


@contextlib.contextmanager
def called(folder: Path, program: str, *words: str, before: tuple[str, ...] = ()) -> Iterator[int]:
    """The number of a process of this name that was begun with these words, and waits."""
    script = folder / program
    script.write_text(f"#!{sys.executable}\nimport os, signal\nos.write(1, b'!')\nsignal.pause()\n")
    script.chmod(0o755)
    with subprocess.Popen([*before, str(script), *words], stdout=subprocess.PIPE) as one:
        assert one.stdout and one.stdout.read(1)
        try:
            yield one.pid
        finally:
            one.kill()


def test_a_start_that_waits_does_not_hide_the_process_that_serves(
    handmade: Handmade, scratch: Path
) -> None:
    """Whichever of the two has the lower number, and who asks is never the one that is found."""
    handmade.create()
    toml = scratch / "east.toml"  # not yet the site's
    with called(scratch, "flashmirror", "start", "--foreground", str(toml)) as waits:
        handmade.start("east")
        toml.symlink_to(handmade.toml("east"))
        pid = process.found(settings(handmade))
        remove_the_lock(handmade)
        assert process.found(settings(handmade)) == pid != waits


@pytest.mark.root("becomes another user")
def test_a_site_of_the_owner_of_its_state_folder_is_found_by_root(
    handmade: Handmade, scratch: Path
) -> None:
    """Though its configuration is root's."""
    handmade.create()
    toml = str(handmade.toml("east"))
    with called(scratch, "nbdkit", f"site={toml}", before=as_somebody_else()) as pid:
        assert process.found(settings(handmade)) is None
        os.chown(handmade.folder / "east/state", 65534, -1)
        assert process.found(settings(handmade)) == pid


def test_a_link_in_the_place_of_the_lock_is_not_followed(
    handmade: Handmade, tmp_path: Path
) -> None:
    """The owner of a site has put it there: what it leads to is somebody else's, who has it locked
    and whose number stands in it; and a pipe would be waited for without end."""
    handmade.create()
    lock = handmade.folder / "east/state/lock"
    other = tmp_path / "other.pid"
    with other.open("w") as file, bounded(20):
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        lock.unlink(missing_ok=True)
        lock.symlink_to(other)
        assert "lock: Too many levels of symbolic links" in refused("stop", east(handmade))
        file.truncate(4)
        fcntl.flock(file, fcntl.LOCK_UN)
        foreground = refused("start", "--foreground", east(handmade))
        assert "lock: Too many levels of symbolic links" in foreground
        assert other.stat().st_size == 4
        lock.unlink()
        os.mkfifo(lock)
        assert "lock: is no file" in refused("status", east(handmade))
        lock.unlink()


@pytest.mark.parametrize(
    "name", some(["ledger", "ledger.new", "servers", "servers.new", "site.log"])
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_in_a_state_folder_is_followed(
    handmade: Handmade, tmp_path: Path, name: str, kind: str
) -> None:
    """The owner of a site has put it there, and root starts and stops it: the file of root's that
    it leads to stays as it is, and nobody waits for the other end of a pipe."""
    handmade.create()
    path, other = handmade.folder / "east/state" / name, tmp_path / "root's"
    other.write_bytes(b"of root\n" * 1000)
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(other)
    else:
        os.mkfifo(path)
    with bounded(30):
        for word in ("start", "stop"):
            flashmirror(word, east(handmade))
    assert other.read_bytes() == b"of root\n" * 1000
    handmade.kill()


def test_a_state_that_is_exchanged_during_a_start_is_refused(
    handmade: Handmade, tmp_path: Path
) -> None:
    """Who starts has locked the one before: the site would run on one that nobody has locked."""
    handmade.create()
    words, environment = process.command(settings(handmade))
    with (tmp_path / "lock").open("w") as before:
        done = subprocess.run(
            words,
            env={**environment, lock.HANDED: str(before.fileno())},
            pass_fds=[before.fileno()],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.returncode == 1
    assert "'state' was changed while the site started: start it again" in done.stderr


@pytest.mark.parametrize("how", ["deleted", "made smaller"])
def test_an_image_is_promoted_without_a_store_that_holds_none_of_it(
    handmade: Handmade, how: str
) -> None:
    """The source is lost, and all of the image is in the target's data: what has become of its
    intermediate keeps nobody from that, as a source is served without one."""
    handmade.create()
    handmade.start()
    with handmade.client() as client:
        client.write(0, b"A" * handmade.size)
    direct.sync(handmade)
    status = direct.status(handmade, "west")
    assert status["hardened_sequence"] == status["committed"]["sequence"]
    handmade.stop("east")
    where = Path(handmade.store("west", "intermediate"))
    if how == "deleted":
        where.unlink()
    else:
        os.truncate(where, 4096)
    assert f"was {how}" in direct.status(handmade, "west")["reason"]
    handmade.run("promote", "--force", str(handmade.toml("west")))
    with NbdClient(handmade.run("uri", str(handmade.toml("west"))).strip()) as client:
        assert client.read(0, handmade.size) == b"A" * handmade.size


@pytest.mark.parametrize(
    ("site", "part"), [("east", "data"), ("west", "data"), ("west", "intermediate")]
)
def test_a_store_that_was_deleted_is_not_lost_by_a_stop_or_a_promotion(
    handmade: Handmade, site: str, part: str
) -> None:
    """Only the process still has it: status says so, and where it can be copied from; `stop` and
    `promote`, of what it makes the volume, refuse.  What was copied so is taken for the store, and
    the sites are equal."""
    handmade.create()
    handmade.start()
    toml, store = str(handmade.toml(site)), handmade.store(site, part)
    with handmade.client() as client:
        client.write(0, os.urandom(handmade.size))
        held = client.read(0, handmade.size)
    direct.pause(handmade)
    os.unlink(store)
    found = direct.status(handmade, site)
    only = f"{store}: was deleted, and only process {found['pid']} still has it: "
    assert found["reason"].startswith(only), found
    assert found["state"] == ("paused" if site == "east" else "degraded")
    said = refused("stop", toml)
    assert said.startswith(only) and f"flashmirror stop --force {toml}" in said
    if (site, part) == ("west", "data"):
        assert only in refused("promote", "--force", toml)
    kept = re.search(r"/proc/[0-9]+/fd/[0-9]+", said)
    assert kept
    words = ["cp", "--sparse=always", "--preserve=all", kept[0], store]
    subprocess.run(words, check=True)
    handmade.run("stop", "--force", toml)
    handmade.start(site)
    direct.resume(handmade)
    direct.sync(handmade)
    handmade.stop()
    for name in ("east", "west"):
        assert handmade.image(name).read_bytes() == held


@pytest.mark.parametrize("made", [False, True], ids=["all-gone", "an-empty-folder"])
def test_a_store_that_was_deleted_with_the_ledger_is_not_lost_by_a_stop(
    handmade: Handmade, *, made: bool
) -> None:
    """`rm -rf` of a site's folder takes both, and the last word of the image is the process: also
    when the state folder is there again, as the status advises."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    folder, toml = handmade.folder / "west", str(handmade.toml("west"))
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".toml":
            path.unlink()
    if not made:
        shutil.rmtree(folder / "state")
    said = refused("stop", toml)
    assert "was deleted, and only process" in said and f"stop --force {toml}" in said, said
    assert direct.status(handmade, "west")["pid"]


def test_a_source_s_deleted_intermediate_does_not_keep_it_from_stopping(handmade: Handmade) -> None:
    """Nobody needs what it holds: a blank one is as good."""
    handmade.create()
    handmade.start("east")
    os.unlink(handmade.store("east", "intermediate"))
    assert flashmirror("stop", east(handmade)).returncode == 0
