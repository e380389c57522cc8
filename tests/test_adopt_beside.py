"""What a person has put back beside a store that was adopted is on the disk before it counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import direct
import pytest
from handmade import MountedDisk, flashmirror, record
from loops import Loop, needs_loops
from pair import MakePair
from served import create_anew

MIB = 1 << 20


@needs_loops
@pytest.mark.timeout(120)
def test_what_stands_beside_an_adopted_store_is_on_the_disk(
    make_pair: MakePair, scratch: Path
) -> None:
    """Two volumes of a source were put back while it was stopped.  One lost its mark and is
    adopted; the other one's bytes are the recorded ones, but only in the kernel's cache, because
    its disk is full.  The start says so, as without an adoption, or the target is sent what the
    disk holds; never does the site go on with bytes that the target does not have."""
    pair = make_pair("--size", "1M", "--volumes", "2")
    disk = MountedDisk(scratch / "small", 2 * MIB)
    loop = Loop(disk.folder / "data.raw", MIB)
    try:
        text = pair.toml("east").read_text()
        assert str(pair.image("east", "disk2")) in text
        pair.toml("east").write_text(
            text.replace(f'"{pair.image("east", "disk2")}"', f'"{loop.path}"')
        )
        create_anew(pair, "east", "source")
        pair.run("resync", "--full", str(pair.toml("west")))
        pair.start()
        for volume in ("disk", "disk2"):
            with pair.client(volume) as client:
                client.write(0, os.urandom(MIB))
        direct.sync(pair)
        pair.stop()
        image = loop.file.read_bytes()
        assert image == pair.image("west", "disk2").read_bytes()
        loop.empty()
        disk.fill()
        with loop.path.open("r+b", buffering=0) as device:
            device.write(image)
            path = pair.image("east")
            shutil.copy(path, path.with_suffix(".copy"))
            path.with_suffix(".copy").rename(path)  # without its mark
            record("adopt", str(pair.toml("east")), "disk", "data", "--yes")
            done = flashmirror("start", str(pair.toml("east")))
            if done.returncode:
                assert "Input/output error" in done.stderr
                return
            pair.start("west")
            direct.sync(pair)
            with pair.client("disk2") as client:
                ours = client.read(0, MIB)
            theirs = pair.image("west", "disk2").read_bytes()
            wrong = sum(
                ours[at : at + 4096] != theirs[at : at + 4096] for at in range(0, MIB, 4096)
            )
            assert wrong == 0, f"{wrong} of 256 blocks differ after a sync"
    finally:
        pair.kill()
        loop.close()
        disk.close()
