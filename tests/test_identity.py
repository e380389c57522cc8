"""A store is known again by what lasts, and never by an accident alone (I7).

Devices are real loop devices.  One whose file has no name any more has, like many disks of virtual
machines, nothing but its number.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, MountedDisk, east, flashmirror, kill, nothing_changes, refused
from loops import Loop, gpt, mbr, needs_loops
from pair import MakePair, Pair

from mirror_core import config, identity, ledger, stores
from mirror_core.errors import StoreError
from mirror_core.identity import Identity, Verdict, judge

PARTS = ("data", "intermediate")
MakeLoops = Callable[..., tuple[Handmade, dict[tuple[str, str], Loop]]]


@pytest.fixture
def make_loops(scratch: Path) -> Iterator[MakeLoops]:
    """make_loops(*sites, forget=False) -> a created pair, the stores of these sites on devices."""
    with ExitStack() as undo:

        def make(*sites: str, forget: bool = False) -> tuple[Handmade, dict[tuple[str, str], Loop]]:
            pair = Handmade(scratch / "h")
            loops = {
                (site, part): Loop(scratch / f"{site}-{part}.raw", MIB, forget=forget)
                for site in sites
                for part in PARTS
            }
            for loop in loops.values():
                undo.callback(loop.close)
            undo.callback(pair.kill)
            pair.stores.update({key: str(loop.path) for key, loop in loops.items()})
            pair.create()
            return pair, loops

        yield make


def use(pair: Pair) -> None:
    pair.start()
    with pair.client() as client:
        client.write(4096, b"\x5a" * 8192)
    direct.sync(pair)


def equal(pair: Handmade) -> bool:
    """Looked at while both sites are stopped: a device is open exclusively."""
    pair.stop()
    east, west = (Path(pair.store(site, "data")).read_bytes() for site in ("east", "west"))
    return east == west and east[4096:12288] == b"\x5a" * 8192


def pretend_a_reboot(pair: Pair, site: str) -> None:
    """The ledger as a later boot finds it: the recorded instances are of another boot."""
    state = config.load(str(pair.toml(site))).state
    book = ledger.load(state)
    volumes = tuple(
        replace(
            v,
            data=replace(v.data, instance="another-boot/1"),
            intermediate=replace(v.intermediate, instance="another-boot/2"),
        )
        for v in book.volumes
    )
    ledger.save(state, replace(book, volumes=volumes))


def not_taken(pair: Handmade, site: str, part: str) -> str:
    """What a start says of a store that it does not take: it is refused, and changes nothing; a
    source is served without its intermediate, which it does not write to."""
    if (site, part) != ("east", "intermediate"):
        with nothing_changes(pair.folder):
            return refused("start", str(pair.toml(site)))
    before = Path(pair.store(site, part)).read_bytes()
    pair.start()  # the other one, too: without it that is what is waited for first
    waits = "writes go on, and mirroring waits for it"
    direct.wait_for(lambda: waits in (direct.status(pair)["reason"] or ""), waits)
    line: str = direct.status(pair)["reason"]
    pair.stop(site)
    assert Path(pair.store(site, part)).read_bytes() == before
    return line


# ---- block devices


@needs_loops
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_devices_that_got_other_numbers_are_the_same(make_loops: MakeLoops, end: str) -> None:
    """After any end the devices have other numbers, as after a reboot: both sites start."""
    pair, loops = make_loops("east", "west")
    use(pair)
    for site in ("east", "west"):
        kill(pair, site) if end == "killed" else pair.stop(site)
    before = {key: loop.detach() for key, loop in loops.items()}
    keys = list(loops)
    for key, taken in zip(keys, keys[1:] + keys[:1], strict=True):  # each the number of another
        loops[key].attach(before[taken])
    pair.start()
    direct.sync(pair)
    assert equal(pair)


@needs_loops
@pytest.mark.parametrize("site", ["east", "west"])
@pytest.mark.parametrize("part", PARTS)
def test_another_disk_under_the_number_is_refused_after_a_kill(
    make_loops: MakeLoops, scratch: Path, site: str, part: str
) -> None:
    """The number of a store means another disk: it is not taken, with what was found and the
    command, and neither is changed."""
    pair, loops = make_loops(site)
    use(pair)
    kill(pair, site)
    number = loops[site, part].detach()
    other = Loop(scratch / "other.raw", MIB)
    try:
        shutil.copy(scratch / f"{site}-{part}.raw", scratch / "other.raw")  # even with its bytes
        other.detach()
        other.attach(number)
        loops[site, part].path.unlink()
        loops[site, part].path.symlink_to(f"/dev/loop{number}")
        line = not_taken(pair, site, part)
        assert "not the store that was recorded (device 7:" in line, line
        assert f"run 'flashmirror adopt {pair.toml(site)} disk {part}'" in line, line
        assert line.count("gives up the image") == (site == "west"), line
    finally:
        other.close()


@needs_loops
def test_a_number_is_enough_within_one_boot_and_never_after(make_loops: MakeLoops) -> None:
    """Devices that nothing but their number tells apart: a killed site starts again while they are
    the same instances; after a reboot, or with another disk attached in between, it is refused,
    with the reason and the command."""
    pair, loops = make_loops("east", forget=True)
    book = ledger.load(config.load(str(pair.toml("east"))).state)
    assert book.volumes[0].data.lasting == ()
    rows = {
        row["check"]: row for row in json.loads(flashmirror("check", east(pair), "--json").stdout)
    }
    assert rows["disk data"]["result"] == "warning", rows
    assert "nothing but its number" in rows["disk data"]["detail"], rows
    use(pair)
    kill(pair, "east")
    pair.start("east")
    direct.sync(pair)
    kill(pair, "east")
    data = loops["east", "data"]
    data.attach(data.detach())  # the same number and bytes; the kernel counts it as another disk
    line = refused("start", str(pair.toml("east")))
    assert "nothing but its number 7:" in line and "adopt" in line and "disk data'" in line, line


@needs_loops
@pytest.mark.parametrize("site", ["east", "west"])
def test_a_number_and_the_fingerprint_are_enough_after_an_orderly_stop(
    make_loops: MakeLoops, site: str
) -> None:
    """After a reboot such devices are taken for their numbers and their bytes; one whose bytes are
    others is not, a source's intermediate neither, which would be overwritten."""
    pair, loops = make_loops(site, forget=True)
    use(pair)
    pair.stop()
    pretend_a_reboot(pair, site)
    pair.start()
    direct.sync(pair)
    for part in PARTS:
        pair.stop()
        pretend_a_reboot(pair, site)
        loop = loops[site, part]
        number = loop.detach()
        loop.write(b"\xee" * 4096)
        loop.attach(number)
        line = not_taken(pair, site, part)
        assert "its content changed while the site was stopped" in line, line
        assert f"disk {part}'" in line, line
        number = loop.detach()
        loop.write(bytes(4096))
        loop.attach(number)
        pretend_a_reboot(pair, site)
        pair.start()
    direct.sync(pair)
    assert equal(pair)


@needs_loops
def test_a_device_that_udev_looks_at_is_waited_for(scratch: Path) -> None:
    """It has a shared lock meanwhile (systemd.io/BLOCK_DEVICE_LOCKING); whoever keeps a lock is
    another user of the device."""
    loop = Loop(scratch / "disk.raw", MIB)
    look = os.open(loop.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(look, fcntl.LOCK_SH)
        with ThreadPoolExecutor() as pool:
            opening = pool.submit(stores.open_store, str(loop.path), 1.0)
            direct.wait_for(lambda: len(held(loop.path)) > 1, "it is open")
            fcntl.flock(look, fcntl.LOCK_UN)
            opening.result().store.close()
        fcntl.flock(look, fcntl.LOCK_SH)
        with pytest.raises(StoreError, match="in use by another process"):
            stores.open_store(str(loop.path), 1.0)
    finally:
        os.close(look)
        loop.close()


def held(path: Path) -> list[str]:
    """This process's descriptors of a device."""
    device = os.stat(path).st_rdev
    numbers = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.fstat(int(fd)).st_rdev == device:
                numbers.append(fd)
    return numbers


@needs_loops
def test_a_killed_site_on_numbers_alone_is_refused_after_a_reboot(make_loops: MakeLoops) -> None:
    """Nothing proves what the numbers mean now."""
    pair, _ = make_loops("east", forget=True)
    use(pair)
    kill(pair, "east")
    pretend_a_reboot(pair, "east")
    line = refused("start", str(pair.toml("east")))
    assert "and there is no fingerprint of an orderly stop" in line, line


@needs_loops
def test_two_files_with_one_inode_number_behind_loop_devices_are_two(scratch: Path) -> None:
    """The first files of two file systems in memory, which have no generation."""
    disks = [MountedDisk(scratch / name, 2 * MIB) for name in ("a", "b")]
    found = []
    try:
        for disk in disks:
            loop = Loop(disk.folder / "disk.raw", MIB)
            fd = os.open(loop.path, os.O_RDONLY)
            found.append((loop.file.stat().st_ino, identity.of_path(fd)))
            os.close(fd)
            loop.close()
    finally:
        for disk in disks:
            disk.close()
    (inode, one), (same, other) = found
    assert inode == same and one.lasting and judge(one, other, marked=False) is Verdict.OTHER


@needs_loops
@pytest.mark.parametrize("kind", ["gpt", "mbr"])
def test_a_partition_is_known_by_its_uuid(scratch: Path, kind: str) -> None:
    """It is the one that blkid reads, without udev; another table on the same disk is another
    partition, whatever its number and start."""
    size = 8 * MIB
    loop = Loop(scratch / "disk.raw", size)
    found = []
    try:
        for turn in range(2):
            loop.detach()
            table = (
                gpt(size, [(2048, 4095, uuid.uuid4()), (8192, 9999, uuid.uuid4())])
                if kind == "gpt"
                else mbr(0x1234_0000 + turn, [(2048, 2048), (8192, 1800)])
            )
            for offset, data in table.items():
                loop.write(data, offset)
            loop.attach()
            for path in loop.scan():
                oracle = subprocess.run(
                    ["blkid", "-p", "-o", "value", "-s", "PART_ENTRY_UUID", path],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                fd = os.open(path, os.O_RDONLY)
                found.append(identity.of_path(fd))
                os.close(fd)
                assert f"partuuid:{oracle.stdout.strip()}" in found[-1].lasting
    finally:
        loop.close()
    assert len(found) == 4 and len({one.lasting for one in found}) == 4
    for i, one in enumerate(found):
        verdicts = {judge(one, other, marked=False) for other in found[:i] + found[i + 1 :]}
        assert verdicts == {Verdict.OTHER}


# ---- files


def replace_file(path: Path, *, attributes: bool) -> int:
    """As a backup restores it: the same bytes, another inode.  The inode before."""
    before, copy = path.stat().st_ino, path.with_suffix(".restored")
    (shutil.copy2 if attributes else shutil.copy)(path, copy)  # copy2 takes attributes along
    copy.rename(path)
    assert path.stat().st_ino != before
    return before


@pytest.mark.parametrize("site", ["east", "west"])
def test_a_file_restored_with_its_mark_is_the_same_after_an_orderly_stop(
    make_pair: MakePair, site: str
) -> None:
    """Another inode, but the mark and the bytes of the recorded store: the site starts, of any
    store, and knows it by the new inode from then on."""
    pair = make_pair("--size", "1M")
    use(pair)
    pair.stop()
    for path in (pair.image(site), pair.image(site).with_suffix(".intermediate.img")):
        replace_file(path, attributes=True)
    pair.start()
    direct.sync(pair)
    kill(pair, site)
    pair.start(site)
    direct.sync(pair)


@pytest.mark.parametrize("attributes", [True, False], ids=["marked", "unmarked"])
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_copy_is_not_taken_silently(make_pair: MakePair, end: str, *, attributes: bool) -> None:
    """A file with another inode and no mark, and after a kill one with the mark, too, may be an
    older copy: refused, with the reason and the command."""
    pair = make_pair("--size", "1M")
    use(pair)
    kill(pair, "east") if end == "killed" else pair.stop("east")
    replace_file(pair.image("east"), attributes=attributes)
    if attributes and end == "stopped":
        pair.start("east")
        return
    line = refused("start", str(pair.toml("east")))
    assert ("marked as the recorded store, but another file" in line) == attributes, line
    assert line.endswith(f"run 'flashmirror adopt {pair.toml('east')} disk data'"), line


def test_a_source_s_intermediate_with_its_mark_is_taken_after_a_kill(make_pair: MakePair) -> None:
    """What it holds does not count."""
    pair = make_pair("--size", "1M")
    use(pair)
    kill(pair, "east")
    replace_file(pair.image("east").with_suffix(".intermediate.img"), attributes=True)
    pair.start("east")
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()


def test_a_file_that_was_given_the_inode_number_is_not_taken_after_a_kill(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without generations (ZFS, memory), where the recorded store was marked."""
    monkeypatch.setattr(identity, "_FS_IOC_GETVERSION", 0)
    path = scratch / "disk.img"
    path.write_bytes(bytes(MIB))
    place = stores.Place("site", "disk", "data", "east.toml")
    one = stores.open_store(str(path), 1.0)
    one.set_mark(place.mark)
    record = one.record()
    stores.verify(one, record, place, MIB)
    one.clear_mark()
    with pytest.raises(StoreError, match="its mark"):
        stores.verify(one, record, place, MIB)
    one.store.close()


@needs_loops
@pytest.mark.parametrize(
    ("site", "part"), [("east", "data"), ("west", "data"), ("west", "intermediate")]
)
def test_what_a_site_starts_on_is_on_the_disk(make_loops: MakeLoops, site: str, part: str) -> None:
    """What a person has put back while it was stopped is not only in the kernel's cache: a power
    loss right after the start would take away what nobody knows to have been written."""
    pair, loops = make_loops(site)
    use(pair)
    pair.stop()
    loop, put = loops[site, part], b"put back"
    at = slice(MIB - 3 * 4096, MIB - 3 * 4096 + len(put))  # between two samples
    with loop.path.open("r+b", buffering=0) as device:
        device.seek(at.start)
        device.write(put)
        assert loop.file.read_bytes()[at] != put
        pair.start(site)
        assert loop.file.read_bytes()[at] == put


@needs_loops
def test_what_a_disk_has_refused_never_counts(scratch: Path, handmade: Handmade) -> None:
    """A person puts the image back, and the disk is full: a flush says so once, and the kernel has
    the bytes in memory still.  A start is refused, and so is each one after it."""
    pair, disk = handmade, MountedDisk(scratch / "small", MIB)
    loop = Loop(disk.folder / "data.raw", MIB)
    pair.stores["west", "data"] = str(loop.path)
    try:
        pair.create()
        use(pair)
        pair.stop()
        image = loop.file.read_bytes()
        loop.empty()
        disk.fill()
        with loop.path.open("r+b", buffering=0) as device:
            device.write(image)
            assert "Input/output error: look" in refused("start", str(pair.toml("west")))
            assert "a flush of what was put there" in refused("start", str(pair.toml("west")))
            disk.empty()
    finally:
        pair.kill()
        loop.close()
        disk.close()


# ---- the table


def device(name: str = "8:0", *lasting: str, instance: str = "b1/1") -> Identity:
    return Identity("device", name, lasting, instance)


FILE, SERVER = Identity("file", "12.7"), Identity("nbd", "nbd+unix:///?socket=/s")
ROWS: dict[str, tuple[Identity, Identity, bool, Verdict]] = {
    "lasting, another number and boot": (
        device("8:0", "wwid:a"),
        device("8:16", "wwid:a", instance="b2/9"),
        False,
        Verdict.SAME,
    ),
    "another lasting, the same number": (
        device("8:0", "wwid:a"),
        device("8:0", "wwid:b"),
        False,
        Verdict.OTHER,
    ),
    "a cloned partition table": (
        device("8:1", "partuuid:p", "wwid:a#2048"),
        device("8:1", "partuuid:p", "wwid:b#2048"),
        False,
        Verdict.OTHER,
    ),
    "one of two cannot be read now": (
        device("8:1", "partuuid:p", "wwid:a#2048"),
        device("8:17", "wwid:a#2048"),
        False,
        Verdict.SAME,
    ),
    "lasting before, none now, the same instance": (
        device("8:0", "wwid:a"),
        device("8:0"),
        False,
        Verdict.SAME,
    ),
    "lasting before, none now, another boot": (
        device("8:0", "wwid:a"),
        device("8:0", instance="b2/1"),
        False,
        Verdict.UNSURE,
    ),
    "the same instance": (device(), device(), False, Verdict.SAME),
    "another boot": (device(), device(instance="b2/1"), False, Verdict.UNSURE),
    "an older kernel": (device(instance=""), device(instance=""), False, Verdict.UNSURE),
    "another number": (device(), device("8:16", instance="b2/1"), False, Verdict.OTHER),
    "a file in a device's place": (device(), FILE, False, Verdict.OTHER),
    "the same file": (FILE, FILE, True, Verdict.SAME),
    "the same file, its mark is gone": (FILE, FILE, False, Verdict.SAME),
    "the same number without a generation": (
        Identity("file", "12", instance=identity.MARKED),
        Identity("file", "12"),
        True,
        Verdict.SAME,
    ),
    "a number without a generation, its mark is gone": (
        Identity("file", "12", instance=identity.MARKED),
        Identity("file", "12"),
        False,
        Verdict.UNSURE,
    ),
    "a generation, its mark is gone": (
        Identity("file", "12.7", instance=identity.MARKED),
        FILE,
        False,
        Verdict.SAME,
    ),
    "another file": (FILE, Identity("file", "12.8"), False, Verdict.OTHER),
    "another file with the mark": (FILE, Identity("file", "12.8"), True, Verdict.UNSURE),
    "the same URI": (SERVER, SERVER, False, Verdict.SAME),
    "another URI": (SERVER, Identity("nbd", "nbd://x"), False, Verdict.OTHER),
}


@pytest.mark.parametrize(
    ("known", "found", "marked", "verdict"), ROWS.values(), ids=[k.replace(" ", "-") for k in ROWS]
)
def test_judge(known: Identity, found: Identity, verdict: Verdict, *, marked: bool) -> None:
    """What lasts decides; an accident alone neither refuses nor accepts."""
    assert judge(known, found, marked=marked) is verdict
