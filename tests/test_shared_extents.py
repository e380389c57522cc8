"""A source shares no extents between its stores: a write to its data needs no space anew.

An owner who allocates both stores in full counts on that.  What a target has shared stays so when
it is promoted, until it is written: `check` counts it.  Which file systems share: XFS, Btrfs.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade
from loops import needs_loops
from test_check import row

SIZE = 16 * MIB


@pytest.fixture
def folder(scratch: Path) -> Iterator[Path]:
    """Of an XFS."""
    disk, at = scratch / "xfs.img", scratch / "xfs"
    with disk.open("wb") as file:
        file.truncate(400 * MIB)
    at.mkdir()
    subprocess.run(["mkfs.xfs", "-q", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(at)], check=True)
    yield at
    subprocess.run(["umount", "--lazy", str(at)], check=True)


def shares(file: Path) -> bool:
    words = ["filefrag", "-v", "-s", str(file)]
    return "shared" in subprocess.run(words, capture_output=True, text=True, check=True).stdout


@needs_loops
def test_a_source_shares_nothing(folder: Path, scratch: Path) -> None:
    """Not with one copy only (`preserve = "first"`), of which long runs could be shared."""
    one, other = folder / "one", folder / "other"
    one.write_bytes(b"A" * MIB)
    subprocess.run(["cp", "--reflink=always", str(one), str(other)], check=True)
    assert shares(other), "this file system does share"
    pair = Handmade(scratch / "pair", SIZE, 'preserve = "first"')
    for part in ("data", "intermediate"):
        pair.stores["east", part] = str(folder / part)
        (folder / part).write_bytes(bytes(SIZE))
    try:
        pair.create()
        pair.start()
        with pair.client() as client:
            client.write(0, b"A" * SIZE)
        direct.sync(pair)
        direct.stop(pair, "east")
        assert (folder / "intermediate").read_bytes().count(b"A") == SIZE
        assert not shares(folder / "intermediate")
        assert not shares(folder / "data")
    finally:
        pair.kill()


@needs_loops
def test_what_a_target_shares_is_counted_as_what_may_grow(folder: Path, scratch: Path) -> None:
    """Both stores were allocated in full, and yet a client of the promoted site would find no space
    for a write: it is said before, and after."""
    pair = Handmade(scratch / "pair", SIZE)
    for part in ("data", "intermediate"):
        pair.stores["west", part] = str(folder / part)
        (folder / part).write_bytes(bytes(SIZE))
    try:
        pair.create()
        pair.start()
        with pair.client() as client:
            client.write(0, b"A" * SIZE)
        direct.sync(pair)
        direct.stop(pair, "east")
        assert row(pair, "space", "west").startswith("ok")
        with contextlib.suppress(OSError), (folder / "others").open("wb", buffering=0) as file:
            while file.write(bytes(MIB)):
                pass
        assert shares(folder / "data")
        for _ in ("target", "promoted"):
            said = row(pair, "space", "west")
            assert re.match(r"warning: the stores may grow by 1\S+ MiB \(1\S+ MiB is shared", said)
            pair.run("promote", str(pair.toml("west")), "--force")
    finally:
        pair.kill()
