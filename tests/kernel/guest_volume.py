"""Runs in the guest: a file system and databases on a mirrored /dev/nbd0, and what the target has.

    guest_volume.py FACTS FILE-SYSTEM DEVICE-BLOCK PROGRAM     (PROGRAM: flashmirror, or PLAIN)

It gathers facts and judges nothing: the promises are in ``test_real_kernel``. A step that cannot
be done at all (mkfs, mount, sync ...) ends it with its traceback, which is the failure; nothing is
tidied up then, because the guest ends too.

The target's image is only ever looked at as a copy, taken while mirroring is paused: mounted
through a loop device (the journal is replayed), unmounted, checked with the file system's own fsck,
mounted read-only, read.

Left out: power cuts and restarts of a site, which need disks that outlive the guest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import guest_load
from guest_load import Found, Load
from guest_sites import Flashmirror, PlainServer, Sites, command

DEVICE = "/dev/nbd0"
SCRATCH = Path("/dev/shm")
LOAD_SECONDS = 60.0
TRIM_SECONDS = 30.0
LIBRARY = Path(os.__file__).parent  # a real tree: some of Python's standard library
PACKAGES = "asyncio", "email", "encodings", "importlib", "json", "unittest"
BIG_FILE_MIB = 24
GIVEN_BACK = 0.9  # of a file that was deleted and trimmed, at least
PLAIN = "plain"  # instead of a program: nbdkit's own file plugin, the control
STARTED = time.monotonic()


@dataclass(frozen=True)
class FileSystem:
    """What differs between the file systems."""

    size: str
    make: tuple[str, ...]
    fsck: tuple[str, ...]  # of an image file; changes nothing; 0 is clean
    mount: str  # the options for a copy while the original is mounted


FILE_SYSTEMS = {
    # No lazy initialisation: it would write in the background while the trim is measured.
    "ext4": FileSystem(
        "192M",
        ("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
        ("e2fsck", "-f", "-n"),
        "loop",
    ),
    "xfs": FileSystem("320M", ("mkfs.xfs", "-q"), ("xfs_repair", "-n", "-f"), "loop,nouuid"),
}


@dataclass(frozen=True)
class Target:
    """The target's volume, as a copy of its image shows it."""

    fsck: str  # what it said, if it was not content
    tree: dict[str, str]
    databases: dict[str, Found]


@dataclass(frozen=True)
class Facts:
    """Everything that the promises are judged by."""

    tree: dict[str, str]
    acknowledged_before_sync: int
    acknowledged_at_end: int
    big_file_bytes: int
    allocated_before_trim_bytes: int
    allocated_after_trim_bytes: int
    shared_extents: int  # of the target's data, with its intermediate
    under_load: Target
    at_rest: Target

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Facts:
        facts = json.loads(path.read_text())
        under_load, at_rest = Target(**facts.pop("under_load")), Target(**facts.pop("at_rest"))
        return cls(under_load=under_load, at_rest=at_rest, **facts)


@contextmanager
def attached(sites: Sites, block: int) -> Iterator[None]:
    """The source's volume as /dev/nbd0, over two connections."""
    socket, export = sites.socket()
    name = ("-N", export) if export else ()
    command("nbd-client", "-unix", socket, DEVICE, *name, "-C", "2", "-b", str(block))
    yield
    command("nbd-client", "-d", DEVICE)


@contextmanager
def mounted(what: str | Path, options: str) -> Iterator[Path]:
    at = SCRATCH / "mnt" / Path(what).name
    at.mkdir(parents=True, exist_ok=True)
    command("mount", "-o", options, what, at)
    yield at
    command("umount", at)


def manifest(tree: Path) -> dict[str, str]:
    """Every entry below ``tree``: what it is, and the checksum of what it holds."""
    found = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        facts = f"{status.st_mode:o} {status.st_uid} {status.st_nlink} {status.st_mtime_ns}"
        if path.is_symlink():
            facts += f" -> {path.readlink()}"
        elif path.is_file():
            facts += f" {status.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        found[str(path.relative_to(tree))] = facts
    return found


def make_tree(tree: Path) -> None:
    """A few hundred files of all sizes, and one of each thing that is not a plain file."""
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(LIBRARY / package, tree / package, ignore=ignore)
    (tree / "symbolic").symlink_to("json/decoder.py")
    (tree / "hard").hardlink_to(tree / "json/decoder.py")
    with open(tree / "sparse", "wb") as sparse:
        sparse.seek(5_000_001)
        sparse.write(b"end")


def make_big_file(path: Path) -> None:
    with open(path, "wb") as file:
        for _ in range(BIG_FILE_MIB):
            file.write(os.urandom(1 << 20))


def step(text: str) -> None:
    """Into the guest's output, with the time: where a failed or a slow run stood."""
    print(f"{time.monotonic() - STARTED:6.2f} s  {text}", flush=True)


def look_at_target(sites: Sites, system: FileSystem) -> Target:
    """Copy the target's image while it stands still, and see what can be made of the copy."""
    copy = SCRATCH / "copy.img"
    step("pause and copy the target's image")
    sites.pause()
    command("cp", "--sparse=auto", sites.image, copy)
    sites.resume()
    step("recover and check the copy")
    with mounted(copy, system.mount):
        pass  # the journal is replayed
    fsck = command(*system.fsck, copy, ok=tuple(range(256)))
    with mounted(copy, f"ro,{system.mount}") as at:
        tree = manifest(at / "tree")
        databases = guest_load.examine(at, SCRATCH / "databases")
    copy.unlink()
    return Target(fsck.stdout if fsck.returncode else "", tree, databases)


def allocated_bytes(image: Path) -> int:
    return image.stat().st_blocks * 512


def shared_extents(image: Path) -> int:
    """None where the file system cannot tell."""
    return command("filefrag", "-v", image, ok=tuple(range(256))).stdout.count("shared")


def wait_for_cycles(sites: Sites, load: Load, count: int) -> None:
    """Return when so many more consistency points are committed, beside the load."""
    goal = sites.committed() + count
    deadline = time.monotonic() + LOAD_SECONDS
    while sites.committed() < goal:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {count} cycles in {LOAD_SECONDS} s")
        load.wait_for(1, LOAD_SECONDS)


def trim(sites: Sites, at: Path) -> None:
    """Return when the source has given back what was deleted.  On XFS, since Linux 6.7, fstrim
    leaves out what is only just being freed, and comes back before the device has answered."""
    goal = allocated_bytes(sites.source) - GIVEN_BACK * (BIG_FILE_MIB << 20)
    deadline = time.monotonic() + TRIM_SECONDS
    while allocated_bytes(sites.source) > goal:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the source still holds all, {TRIM_SECONDS} s after its trim")
        os.sync()
        command("fstrim", at)
        time.sleep(0.1)


def scenario(sites: Sites, system: FileSystem, at: Path) -> Facts:
    """From an empty file system to all the facts."""
    load = Load(at)
    load.start()
    make_tree(at / "tree")
    make_big_file(at / "big")
    step(f"tree and big file written beside {load.acknowledged} rows")
    os.sync()  # the tree reaches the device; the file system's journal stays as it is
    wait_for_cycles(sites, load, 3)
    acknowledged_before_sync = load.acknowledged
    step(f"sync beside the load, {acknowledged_before_sync} rows are acknowledged")
    sites.sync()
    under_load = look_at_target(sites, system)

    load.wait_for(20, LOAD_SECONDS)
    load.stop(LOAD_SECONDS)
    os.sync()
    step(f"at rest after {load.acknowledged} rows")
    sites.sync()
    allocated_before_trim = allocated_bytes(sites.image)
    (at / "big").unlink()
    trim(sites, at)
    step("sync after the trim")
    sites.sync()
    return Facts(
        tree=manifest(at / "tree"),
        acknowledged_before_sync=acknowledged_before_sync,
        acknowledged_at_end=load.acknowledged,
        big_file_bytes=BIG_FILE_MIB << 20,
        allocated_before_trim_bytes=allocated_before_trim,
        allocated_after_trim_bytes=allocated_bytes(sites.image),
        shared_extents=shared_extents(sites.image),
        under_load=under_load,
        at_rest=look_at_target(sites, system),
    )


def put_on_xfs(folder: Path) -> None:
    """Where the target's two stores can share extents."""
    disk = SCRATCH / "disk"
    command("truncate", "--size", "2G", disk)
    command("mkfs.xfs", "-q", disk)
    folder.mkdir()
    command("mount", "-o", "loop", disk, folder)


def main(facts: str, name: str, block: str, program: str) -> None:
    system = FILE_SYSTEMS[name]
    folder = SCRATCH / "pair"
    if name == "xfs" and program != PLAIN:
        put_on_xfs(folder)
    sites: Sites = (
        PlainServer(folder, system.size)
        if program == PLAIN
        else Flashmirror(program, folder, system.size)
    )
    step("sites started")
    with attached(sites, int(block)):
        command(*system.make, DEVICE)
        step("file system made")
        with mounted(DEVICE, "defaults") as at:
            found = scenario(sites, system, at)
    step("unmounted")
    sites.stop()
    step("stopped")
    found.save(Path(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
