"""Sites that cannot be created: one line that says what, where and what to do, and nothing made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import (
    MIB,
    Handmade,
    MountedDisk,
    as_somebody_else,
    edit,
    flashmirror,
    nothing_changes,
    refused,
)
from pair import Pair

PARTS = ("data", "intermediate")


def path_of(pair: Handmade, part: str = "data") -> Path:
    return Path(pair.store("east", part))


def symlink(pair: Handmade) -> None:
    path_of(pair).unlink()
    path_of(pair).symlink_to(path_of(pair, "intermediate"))


def hardlink(pair: Handmade) -> None:
    path_of(pair).unlink()
    path_of(pair).hardlink_to(path_of(pair, "intermediate"))


CREATIONS: dict[str, tuple[Callable[[Handmade], None], str, str]] = {
    "missing image": (lambda h: path_of(h).unlink(), "disk.img: No such file", "create it"),
    "empty image": (lambda h: os.truncate(path_of(h), 0), "disk.img: is empty", "give it the size"),
    "unequal sizes": (
        lambda h: os.truncate(path_of(h), MIB - 1),
        f"disk.intermediate.img: {MIB} bytes, and",
        "make them equal",
    ),
    "a symbolic link to the other": (
        symlink,
        "the same store as",
        "each must be its own",
    ),
    "a hard link to the other": (
        hardlink,
        "the same store as",
        "each must be its own",
    ),
    "the other, written otherwise": (
        lambda h: edit(h, "east/disk.img", "east/../east/disk.intermediate.img"),
        "the same store as",
        "each must be its own",
    ),
    "a character device": (
        lambda h: edit(h, str(path_of(h)), "/dev/null"),
        "/dev/null: neither a file nor a block device",
        "name one",
    ),
    "another site's store": (
        lambda h: edit(h, "east/disk.img", "west/disk.img"),
        "west/disk.img: belongs to another site or volume (attribute user.flashmirror)",
        "disk.img' (package attr)",
    ),
    "a server that is not there": (
        lambda h: edit(h, str(path_of(h)), "nbd+unix:///x?socket=/no/such.sock"),
        "/no/such.sock",
        "start its server, or mend the URI",
    ),
    "unknown key": (lambda h: h.configure("east", "colour = 1"), "colour", "remove it"),
}


@pytest.mark.parametrize(
    ("damage", "what", "advice"),
    list(CREATIONS.values()),
    ids=[k.replace(" ", "-") for k in CREATIONS],
)
def test_create_refuses_stores_that_cannot_be_a_site(
    handmade: Handmade, damage: Callable[[Handmade], None], what: str, advice: str
) -> None:
    """A site is not created on missing, unequal, shared or foreign stores; there is no ledger
    afterwards."""
    handmade.create("west")
    handmade.write("east")
    damage(handmade)
    with nothing_changes(handmade.folder):
        line = refused("create", str(handmade.toml("east")), "--role", "source")
    assert what in line and advice in line, line


def test_a_site_is_created_once(handmade: Handmade) -> None:
    """A second create, of either role, is refused and changes nothing."""
    handmade.create("east")
    for role in ("source", "target"):
        with nothing_changes(handmade.folder):
            line = refused("create", str(handmade.toml("east")), "--role", role)
        assert "holds a site already: name another" in line


@pytest.mark.root("mounts file systems")
def test_two_stores_with_one_inode_number_are_two_stores(scratch: Path) -> None:
    """The first files of two file systems may share an inode number and are two stores."""
    disks = [MountedDisk(scratch / name, 2 * MIB) for name in ("a", "b")]
    pair = Handmade(scratch / "h")
    try:
        for disk, part in zip(disks, ("data", "intermediate"), strict=True):
            pair.stores["east", part] = disk.store(MIB)
        inodes = {os.stat(where).st_ino for where in pair.stores.values()}
        assert len(inodes) == 1
        pair.create("east")
        pair.start("east")
    finally:
        pair.kill()
        for disk in disks:
            disk.close()


@pytest.mark.root("mounts file systems")
def test_a_full_disk_under_the_state_refuses_to_create(scratch: Path) -> None:
    """No room for the ledger: no site, no mark on its stores, and one line."""
    disk = MountedDisk(scratch / "state", MIB)
    pair = Handmade(scratch / "h")
    try:
        pair.write("east")
        edit(pair, f"{pair.folder}/east/state", str(disk.folder / "state"))
        disk.fill()
        with nothing_changes(scratch):
            line = refused("create", str(pair.toml("east")), "--role", "source")
        assert str(disk.folder / "state") in line and "No space left on device" in line, line
        disk.empty()
        pair.run("create", str(pair.toml("east")), "--role", "source")
    finally:
        disk.close()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("fsync:error=EIO:when=1", "east/state: Input/output error: mend that"),
        ("fsync:error=EIO:when=3+", "state/ledger: [Errno 5] Input/output error: fix the cause"),
    ],
)
def test_a_creation_that_fails_half_way_leaves_nothing(
    handmade: Handmade, fault: str, text: str
) -> None:
    """The ledger may not be durable: no site is there, no store is anybody's, and the same command
    works when that is mended."""
    pair = handmade
    pair.write("east")
    words = ("create", str(pair.toml("east")), "--role", "source")
    call = fault.partition(":")[0]
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e")
    assert text in refused(*words, prefix=(*strace, f"inject={fault}"))
    assert not (pair.folder / "east" / "state" / "ledger").exists()
    for part in PARTS:
        assert not os.listxattr(path_of(pair, part))
    pair.run(*words)


INITS: dict[str, tuple[tuple[str, ...], str]] = {
    "no size": (("--size", "0"), "--size: must be more than zero"),
    "size without meaning": (("--size", "banana"), "write it like 4096, 4K or 10G"),
    "size below zero": (("--size", "-1"), "--size"),
    "size past all files": (("--size", "9000P"), "at most 4 EiB"),
    "odd block size": (("--block-size", "3000"), "block_size: 3000 is not a power of two"),
    "no volumes": (("--volumes", "0"), "--volumes"),
    "unknown option": (("--colour", "red"), "--colour"),
}


@pytest.mark.parametrize(
    ("words", "text"), list(INITS.values()), ids=[k.replace(" ", "-") for k in INITS]
)
def test_init_refuses_what_cannot_be_and_leaves_nothing(
    scratch: Path, words: tuple[str, ...], text: str
) -> None:
    """After a refused init the folder is as it was, so that the right command works."""
    assert text in refused("init", str(scratch / "pair"), *words)
    assert not (scratch / "pair").exists()


def test_init_refuses_a_folder_that_cannot_hold_a_pair(scratch: Path) -> None:
    """A folder that holds a pair, has too long a name for a socket, or cannot be written."""
    pair = Pair(scratch / "pair", "--size", "1M")
    with nothing_changes(scratch):
        assert "holds a site east already" in refused("init", str(pair.folder))
        assert "107 bytes" in refused("init", str(scratch / ("x" * 100)))
        assert "quotes" in refused("init", str(scratch / 'a"b'))
        (scratch / "file").touch()
        assert "Not a directory" in refused("init", str(scratch / "file" / "pair"))
        for mode in 0o555, 0:
            scratch.chmod(mode)
            line = refused("init", str(scratch / "new"), prefix=as_somebody_else())
            scratch.chmod(0o700)
            named = line.replace("/new/east.toml:", "/new:")
            assert f"{scratch}/new: Permission denied: name another" in named
    assert sorted(path.name for path in scratch.iterdir()) == ["file", "pair"]


@pytest.mark.parametrize(
    "words", [("frob",), ("start",), ("create", "x.toml", "--role", "king"), ("sync", "--x", "y")]
)
def test_wrong_usage_is_one_line_and_exit_status_2(words: tuple[str, ...]) -> None:
    """An unknown command, a missing argument, a wrong option: one line with where to read more."""
    assert "--help'" in refused(*words)
    assert flashmirror(*words).returncode == 2
