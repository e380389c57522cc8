"""A state folder, or a file of it, that was put back as a copy: it may be older than the stores.

What the site knows its own files again by outlives a reboot and not a copy (below.file_id).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import flashmirror, refused
from nbd_client import NbdClient
from pair import MakePair, Pair
from test_link import kill, lose_power

from mirror_core import below, config, ledger
from mirror_core.site import Site

MIB = 1 << 20
COPIED = "its state folder was put back, or copied, since its last run"


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    """Both hold A, and nothing of the source is hot."""
    pair = make_pair("--size", "8M")
    pair.start()
    write(pair, 0, b"A" * (8 * MIB))
    direct.stop(pair, "east")
    pair.start("east")
    direct.sync(pair)
    return pair


def write(pair: Pair, at: int, data: bytes) -> None:
    with pair.client() as client:
        client.write(at, data)
    direct.sync(pair)


def state_of(pair: Pair, site: str) -> Path:
    return pair.folder / site / "state"


def copied_back(folder: Path) -> None:
    """As from a backup that was made a moment ago."""
    aside = folder.with_name("aside")
    shutil.copytree(folder, aside)
    shutil.rmtree(folder)
    shutil.copytree(aside, folder)
    shutil.rmtree(aside)


def folder_copied(pair: Pair) -> None:
    copied_back(state_of(pair, "east"))


def log_copied(pair: Pair) -> None:
    [log] = state_of(pair, "east").glob("*.intent.*")
    shutil.copy(log, log.with_suffix(".copy"))
    log.with_suffix(".copy").rename(log)


def are_equal(pair: Pair) -> bool:
    return pair.image("east").read_bytes() == pair.image("west").read_bytes()


@pytest.mark.parametrize("put_back", [folder_copied, log_copied])
def test_what_became_hot_since_a_source_s_log_was_put_back_is_compared(
    pair: Pair, put_back: Callable[[Pair], None]
) -> None:
    """The running source marks what is written in a file that has no name any more: its status says
    so, and after a power loss nothing of the one in its place is believed."""
    put_back(pair)
    said = direct.status(pair)["reason"]
    assert "intent" in said and "whichever, all of it is compared" in said, said
    direct.stop(pair, "west")
    with pair.client() as client:
        client.write(4 * MIB, b"B" * MIB)
        client.flush()
    lose_power(pair, "east")
    pair.start()
    direct.sync(pair)
    assert are_equal(pair)
    assert "a copy of the intent log" in pair.log("east")


@pytest.mark.parametrize("put_back", [None, log_copied], ids=["in-place", "copied"])
def test_only_the_last_run_s_own_folder_tells_in_which_boot_that_was(
    pair: Pair, put_back: Callable[[Pair], None] | None
) -> None:
    """One of an earlier boot that is put back after a kill says that the machine was started since;
    and the kernel may still show what a failed flush of the last run has lost."""
    state = state_of(pair, "east")
    kill(pair, "east")
    if put_back:
        put_back(pair)
    ledger.save(state, replace(ledger.load(state), known_boot="another", known_uptime=1e9))
    site = Site(config.load(str(pair.toml("east"))))
    site.start()
    try:
        assert site.members[0].native.doubts_front() is bool(put_back)
    finally:
        site.stop()


def test_a_source_says_that_its_ledger_was_taken_away(pair: Pair) -> None:
    """An idle one does not write it again before the next cycle, and a kill would cost it."""
    book = state_of(pair, "east") / "ledger"
    book.unlink()
    said = direct.status(pair)["reason"]
    assert said.startswith(f"{book}: was taken away") and "cost this history" in said, said
    direct.stop(pair, "east")
    assert ledger.load(book.parent).clean
    pair.start("east")
    assert not direct.status(pair)["reason"]


def test_a_source_whose_folder_was_moved_in_order_compares_everything(pair: Pair) -> None:
    """It may be an older one, whose `next` lacks what later runs have written."""
    direct.stop(pair, "east")
    copied_back(state_of(pair, "east"))
    pair.start("east")
    direct.sync(pair)
    assert are_equal(pair) and "a copy of the intent log" in pair.log("east")


@pytest.mark.parametrize("restarted", [False, True], ids=["same-run", "restarted"])
def test_an_older_state_folder_of_a_target_is_no_image(pair: Pair, *, restarted: bool) -> None:
    """It was saved while the site ran, and is put back beside stores that went on: nobody promotes
    the mixture, before the source has made a point again, or a person says that it is the last."""
    state, backup, toml = state_of(pair, "west"), pair.folder / "backup", str(pair.toml("west"))
    direct.wait_for(lambda: not ledger.load(state).maps, "hardened")
    shutil.copytree(state, backup)
    if restarted:
        direct.stop(pair, "west")
        pair.start("west")
    write(pair, 0, b"B" * MIB)
    kill(pair, "west")
    direct.stop(pair, "east")
    shutil.rmtree(state)
    shutil.copytree(backup, state)
    pair.start("west")
    for words in ((), ("--force",)):
        said = refused("promote", toml, *words)
        assert COPIED in said and "promote --newest" in said, said
    assert direct.status(pair, "west")["reason"].startswith(COPIED)
    direct.stop(pair, "west")
    assert COPIED in pair.status("west")["reason"]
    assert COPIED in flashmirror("check", toml).stdout
    pair.start("west")
    assert COPIED in refused("promote", toml, "--force")


def test_a_target_whose_folder_was_moved_in_order_goes_on(pair: Pair) -> None:
    """Its image stands, nothing is sent, and the next point ends the doubt; or a person does."""
    direct.stop(pair, "west")
    copied_back(state_of(pair, "west"))
    pair.start("west")
    direct.wait_status_of_peer(pair, "east", "connected")
    assert direct.status(pair, "west")["committed"]["sequence"]
    assert COPIED in direct.status(pair, "west")["reason"]
    write(pair, 0, b"C" * 4096)
    assert not direct.status(pair, "west")["reason"]
    direct.stop(pair, "east")
    direct.stop(pair, "west")
    copied_back(state_of(pair, "west"))
    pair.start("west")
    done = flashmirror("promote", str(pair.toml("west")), "--force", "--newest")
    assert done.returncode == 0, done.stderr
    with NbdClient(pair.run("uri", str(pair.toml("west"))).strip()) as client:
        assert client.read(0, 8192) == b"C" * 4096 + b"A" * 4096


def test_a_blank_intermediate_beside_an_older_state_folder_keeps_no_image(pair: Pair) -> None:
    """Both were on the disk that died.  That nothing of the image was in the intermediate is what
    the folder knew when it was saved."""
    state, backup = state_of(pair, "west"), pair.folder / "backup"
    direct.wait_for(lambda: not ledger.load(state).maps, "hardened")
    shutil.copytree(state, backup)
    write(pair, 0, b"B" * MIB)
    kill(pair, "west")
    shutil.rmtree(state)
    shutil.copytree(backup, state)
    [image] = (pair.folder / "west").glob("*intermediate*")
    image.unlink()
    image.touch()
    os.truncate(image, 8 * MIB)
    words = (str(pair.toml("west")), "disk", "intermediate", "--yes", "--json")
    assert "with --newest" in refused("start", words[0])
    assert '"effect": "give up"' in flashmirror("adopt", *words).stdout


def test_a_blank_intermediate_beside_the_newest_state_folder_keeps_the_image(pair: Pair) -> None:
    """Both were on a disk that was replaced, and the source is lost: a person says that the folder,
    which was moved in order, is the newest."""
    direct.stop(pair, "east")
    direct.wait_for(lambda: not ledger.load(state_of(pair, "west")).maps, "hardened")
    direct.stop(pair, "west")
    copied_back(state_of(pair, "west"))
    [image] = (pair.folder / "west").glob("*intermediate*")
    image.unlink()
    image.touch()
    os.truncate(image, 8 * MIB)
    toml = str(pair.toml("west"))
    words = (toml, "disk", "intermediate", "--yes", "--json", "--newest")
    assert '"effect": "keep"' in flashmirror("adopt", *words).stdout
    pair.start("west")
    pair.run("promote", toml, "--force", "--newest")
    with NbdClient(pair.run("uri", toml).strip()) as client:
        assert client.read(0, 8 * MIB) == b"A" * (8 * MIB)


def test_a_log_that_was_made_anew_is_no_copy(pair: Pair) -> None:
    """A target whose log of hardenings was taken away makes another one at its next hardening."""
    [log] = state_of(pair, "west").glob("hardened.*")
    log.unlink()
    write(pair, 0, b"D" * MIB)
    direct.wait_for(log.exists, "another log")
    kill(pair, "west")
    pair.start("west")
    assert COPIED not in (direct.status(pair, "west")["reason"] or "")


def test_a_file_is_known_from_its_copies_and_under_another_name(tmp_path: Path) -> None:
    """Where the kernel tells; on tmpfs, too."""
    for folder in (tmp_path, Path("/dev/shm")):
        one, copy = folder / f"one-{os.getpid()}", folder / f"copy-{os.getpid()}"
        one.write_bytes(b"x")
        first = id_of(one)
        shutil.copy(one, copy)
        assert id_of(copy) != first or not first
        copy.unlink()
        one.rename(copy)
        assert id_of(copy) == first
        copy.unlink()
    assert first, "a tmpfs gives no number twice"


def id_of(path: Path) -> str:
    with path.open("rb") as file:
        return below.file_id(file.fileno())
