"""`check` says what the next start would meet, also of a site that runs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, MountedDisk, east, flashmirror, refused


def row(pair: Handmade, check: str, site: str = "east") -> str:
    """The result and the detail."""
    text = flashmirror("check", str(pair.toml(site))).stdout
    found = [line.split(None, 1) for line in text.splitlines()]
    (result, rest) = next(one for one in found if one[1].startswith(f"{check} "))
    return f"{result}: {rest.removeprefix(check).strip()}"


def test_a_running_site_s_next_start_is_checked(handmade: Handmade) -> None:
    """A store that was moved away, or replaced, under a running site, paths that were exchanged,
    and one that was edited: the site goes on with what it has open, and the next start would not
    find it there."""
    handmade.create()
    handmade.start()
    data = Path(handmade.store("east", "data"))
    assert row(handmade, "disk data") == f"ok: {data}: in use by this site"
    data.rename(data.with_suffix(".away"))
    assert "failed" in (said := row(handmade, "disk data")) and "does not find it" in said
    shutil.copy(data.with_suffix(".away"), data)
    assert "failed" in (said := row(handmade, "disk data")) and "not what the running" in said
    os.replace(data.with_suffix(".away"), data)
    assert row(handmade, "disk data").startswith("ok")
    toml = handmade.toml("east")
    right = toml.read_text()
    names = {"data": "intermediate", "intermediate": "data"}
    toml.write_text(
        re.sub(r"^(data|intermediate) ", lambda m: f"{names[m[1]]} ", right, flags=re.M)
    )
    for part in names:
        assert "failed" in (said := row(handmade, f"disk {part}")) and "open there" in said
    toml.write_text(right.replace("disk.intermediate.img", "disk.intermed.img"))
    assert "disk.intermed.img: No such file" in row(handmade, "disk intermediate")
    assert flashmirror("check", east(handmade)).returncode == 1


@pytest.mark.parametrize("part", ["data", "intermediate"])
def test_a_store_that_was_made_smaller_under_a_running_site_is_noticed(
    handmade: Handmade, part: str
) -> None:
    """The next start refuses it, so that check must not be content with it."""
    handmade.create()
    handmade.start()
    store = handmade.store("east", part)
    os.truncate(store, MIB // 2)
    said = row(handmade, f"disk {part}")
    assert said.startswith(f"failed: {store}: {MIB // 2} bytes, but the volume has {MIB}: "), said
    os.truncate(store, 2 * MIB)
    assert row(handmade, f"disk {part}") == f"ok: {store}: in use by this site"


def test_a_store_that_is_larger_than_its_volume_is_no_fault(handmade: Handmade) -> None:
    """As `start` finds; before there is a volume it is one, with both sizes."""
    handmade.write("east")
    os.truncate(handmade.store("east", "data"), 2 * MIB)
    assert row(handmade, "disk sizes") == (
        f"failed: data has {2 * MIB} bytes, intermediate has {MIB} bytes: make them equal"
    )
    os.truncate(handmade.store("east", "data"), MIB)
    handmade.create()
    os.truncate(handmade.store("east", "data"), 2 * MIB)
    assert "sizes" not in flashmirror("check", east(handmade)).stdout
    handmade.start("east")


@pytest.mark.root("mounts a file system")
def test_a_full_state_folder_fails_the_check(scratch: Path, handmade: Handmade) -> None:
    """And the start; with room both are content."""
    disk = MountedDisk(scratch / "disk", free=4 * MIB)
    try:
        handmade.write("east")
        toml, state = handmade.toml("east"), handmade.folder / "east/state"
        toml.write_text(toml.read_text().replace(str(state), str(disk.folder / "state")))
        handmade.run("create", east(handmade), "--role", "source")
        disk.fill()
        assert "failed" in (said := row(handmade, "state")) and "make room" in said
        assert "No space left on device: make room there" in refused("start", east(handmade))
        disk.empty()
        assert row(handmade, "state").startswith("ok")
        handmade.start("east")
        handmade.stop("east")
    finally:
        handmade.kill()
        disk.close()


def test_a_state_folder_that_is_not_there_is_told_as_that(handmade: Handmade) -> None:
    """Of a site that is not created yet, or whose `state` is mistyped: not as one that this user
    may not write to, of which there is free space."""
    handmade.write("east")
    state = handmade.folder / "east/state"
    said = row(handmade, "folder")
    assert said.startswith(
        f"failed: {state}: is not there: of a new site, run 'flashmirror create'"
    )
    assert row(handmade, "state").startswith(f"ok: {state.parent}: ")


def test_the_other_source_after_a_failover_is_no_wrong_peer(handmade: Handmade) -> None:
    """The old source is told what has become of its target, and where to read on."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.run("promote", str(handmade.toml("west")), "--force")
    said = row(handmade, "peer")
    assert said.startswith("failed: west is a source too: was one promoted? see 'mirroring' and")
