"""One store goes back in time without its site, or a copy of a whole target takes its place.

What is put back stands under the same name, inode and mark: a snapshot of one disk.  After an
orderly stop the fingerprint tells; after a kill nobody can (docs/recovery.md says so).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import direct
import pytest
from pair import CommandFailed, MakePair, Pair
from test_went_back import BLOCK, BLOCKS, write


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair("--size", str(BLOCKS * BLOCK))
    pair.start()
    write(pair, b"first")
    return pair


def put_back(pair: Pair, site: str, part: str) -> None:
    """The store has the bytes of an orderly stop of before two commits; the site is stopped."""
    image = pair.image(site)
    if part == "intermediate":
        image = image.with_suffix(".intermediate.img")
    direct.stop(pair, site)
    before = image.read_bytes()
    pair.start(site)
    for number in range(2):
        write(pair, b"later %d" % number)
    direct.stop(pair, site)
    assert image.read_bytes() != before
    image.write_bytes(before)


def check_equal(pair: Pair) -> None:
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


@pytest.mark.parametrize(
    ("site", "part"), [("east", "data"), ("west", "data"), ("west", "intermediate")]
)
def test_a_store_alone_that_went_back_is_refused_after_a_stop(
    pair: Pair, site: str, part: str
) -> None:
    """With the reason and the command; and adopted it makes no mixture: the target ends with what
    the source holds then."""
    put_back(pair, site, part)
    toml = str(pair.toml(site))
    with pytest.raises(CommandFailed) as caught:
        pair.run("start", toml)
    assert "its content changed while the site was stopped" in caught.value.stderr
    assert f"'flashmirror adopt {toml} disk {part}'" in caught.value.stderr
    pair.run("adopt", toml, "disk", part, "--yes")
    pair.start(site)
    check_equal(pair)
    text = b"first" if site == "east" else b"later 1"
    assert pair.image("west").read_bytes().startswith(text)


def test_a_source_s_intermediate_that_went_back_changes_nothing(pair: Pair) -> None:
    """What it held counts for nothing between two cycles."""
    put_back(pair, "east", "intermediate")
    pair.start("east")
    check_equal(pair)
    assert pair.image("west").read_bytes().startswith(b"later 1")


def test_a_copy_of_a_target_that_stayed_behind_is_refused(pair: Pair) -> None:
    """The machine was cloned, and its address leads to the clone, which lacks a commit: the source
    does not go on with it; and with the first one it does, which then takes the address again."""
    clone = pair.folder / "clone"
    direct.stop(pair, "west")
    shutil.copytree(pair.folder / "west", clone)  # with the marks of the files
    toml = pair.folder / "clone.toml"
    toml.write_text(pair.toml("west").read_text().replace("west/", "clone/"))
    pair.start("west")
    write(pair, b"later")
    direct.stop(pair, "west")
    held = image_of(clone)
    pair.run("start", str(toml))
    try:
        status = direct.wait_status(pair, state="refused")
        assert "west went back from sequence" in status["reason"]
        assert image_of(clone) == held
    finally:
        pair.run("stop", str(toml))
    pair.start("west")
    write(pair, b"again")
    check_equal(pair)


def image_of(folder: Path) -> bytes:
    return (folder / "disk.img").read_bytes()
