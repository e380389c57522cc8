"""What a running site is known by can be taken away: it is found and stopped all the same.

A cleaner of /run or /tmp removes a lock or a socket; somebody empties a state folder, moves it, or
edits the configuration.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from handmade import Handmade, flashmirror, record, refused
from test_hangs import bounded

from mirror_core import config, process
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
    east = str(handmade.toml("east"))
    take(handmade)
    with bounded(30):
        assert record("status", east)["pid"] == pid
        assert record("start", east)["pid"] == pid
        for words in (
            ("resync", east, "--full", "--force"),
            ("seed", east),
            ("adopt", east, "disk", "data", "--yes"),
            ("create", east, "--role", "source"),
        ):
            assert "east: runs: stop it with 'flashmirror stop" in refused(*words), words
        done = flashmirror("stop", east)
    said = done.stdout + done.stderr
    assert process.found(settings(handmade)) is None, said
    known = "east: stopped" in said or "whether in order is not known" in said
    assert known and (done.returncode == 0) == ("east: stopped" in said), said


def test_a_site_whose_socket_was_removed_is_said_to_run(handmade: Handmade, pid: int) -> None:
    """`start` does not wait for it to answer: nothing can reach it; `stop` ends it in order."""
    east = str(handmade.toml("east"))
    settings(handmade).socket.unlink()
    with bounded(8):
        line = refused("start", east)
    assert "east: runs, and its socket" in line and "stop it and start it" in line
    assert "cannot be asked" in refused("status", east)
    assert record("stop", east) == {"site": "east", "in_order": True}


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
