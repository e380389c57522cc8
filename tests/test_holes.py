"""A file system that asks somebody else: what it takes for a hole is mirrored, and what it shows is
on its disk before that.

Which one does: FUSE.  The kernel keeps what was written for a while, and its server, who does not
have it yet, is asked for the holes; and the server may keep, too, what its disk has not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import direct
import pytest
from handmade import Handmade, kill, refused

from mirror_core import stores

MIB = 1 << 20
SIZE = 16 * MIB
SERVER = Path(__file__).with_name("fuse_cache.py")

pytestmark = pytest.mark.root("mounts a FUSE file system", "/dev/fuse")


@contextmanager
def cached_file(scratch: Path, *cache: Path) -> Iterator[Path]:
    behind, folder = scratch / "behind", scratch / "fuse"
    behind.touch()
    os.truncate(behind, SIZE)
    folder.mkdir()
    words = [sys.executable, str(SERVER), str(behind), str(folder), *map(str, cache)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and server.stdout.readline() == "mounted\n"
        try:
            yield folder / "disk"
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            server.wait(20)


def test_such_a_file_system_is_here(scratch: Path) -> None:
    """Without it the test below would show nothing."""
    with cached_file(scratch) as path:
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"A" * MIB, MIB)
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(fd, 0, os.SEEK_DATA)
        os.fsync(fd)
        assert os.lseek(fd, 0, os.SEEK_DATA) == MIB
        os.close(fd)


def test_a_blank_file_is_known_there_too(scratch: Path) -> None:
    """It stands in for a source's intermediate that was lost; what is in a cache is not blank."""
    with cached_file(scratch) as path:
        one = stores.open_store(str(path), 1.0)
        try:
            assert one.blank_once_flushed()
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), b"A", MIB)
                assert not one.blank_once_flushed()
        finally:
            one.store.close()


@pytest.mark.parametrize("part", ["data", "intermediate"])
def test_what_is_in_a_cache_only_is_no_hole(scratch: Path, part: str) -> None:
    """A source's data, and the intermediate that it copies from (`preserve = "first"`): what was
    written a moment ago is at the target."""
    with cached_file(scratch) as path:
        pair = Handmade(scratch / "pair", SIZE, 'preserve = "first"')
        pair.stores["east", part] = str(path)
        try:
            pair.create()
            pair.start()
            direct.sync(pair)
            with pair.client() as client:
                client.write(4 * MIB, b"A" * MIB)
                direct.sync(pair)
            for site in ("west", "east"):
                direct.stop(pair, site)
            data = Path(pair.store("west", "data")).read_bytes()
            assert data.count(b"A") == MIB
        finally:
            pair.kill()


def test_a_killed_source_brings_to_its_disk_what_its_file_system_shows(scratch: Path) -> None:
    """A flush has failed, and was told once, as to a process that was killed before it knew; and
    the server of the file system still shows what it lost: the start drops what our own kernel has,
    but not that.  So it is written back before it is copied, or the target would have what the
    source loses when that server goes.
    """
    cache = scratch / "cache"
    fails = scratch / "cache.fails"
    with cached_file(scratch, cache) as path:
        pair = Handmade(scratch / "pair", SIZE)
        pair.stores["east", "data"] = str(path)
        try:
            pair.create()
            pair.start()
            direct.sync(pair)
            direct.pause(pair)
            with path.open("r+b") as file:
                with pair.client() as client:
                    client.write(4 * MIB, b"A" * MIB)
                fails.touch()
                kill(pair, "east")
                with pytest.raises(OSError, match="Input/output error"):
                    os.fsync(file.fileno())
                fails.unlink()
            pair.start("east")
            direct.resume(pair)
            direct.sync(pair)
            for site in ("west", "east"):
                direct.stop(pair, site)
            data = Path(pair.store("west", "data")).read_bytes()
            assert data == (scratch / "behind").read_bytes()
        finally:
            pair.kill()


def test_what_a_site_wrote_on_such_a_file_system_is_no_seed(scratch: Path) -> None:
    """As behind an NBD server: after a kill it may show what its disk has not."""
    with cached_file(scratch) as path:
        pair = Handmade(scratch / "pair", SIZE)
        pair.stores["west", "data"] = str(path)
        try:
            pair.create()
            pair.start()
            direct.sync(pair)
            kill(pair, "west")
            pair.run("resync", "--full", str(pair.toml("west")))
            assert "may show what its disk has lost" in refused("seed", str(pair.toml("west")))
            pair.run("seed", "--force", str(pair.toml("west")))
        finally:
            pair.kill()
