"""One store under two names is refused, and so is one that somebody else has open, where the kernel
tells: with who that is."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import stat
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import Handmade, east, eventually, flashmirror, record, refused
from loops import Loop, gpt, needs_loops

from mirror_core import apart, elsewhere, identity, limits, stores
from mirror_core.errors import StoreError

# Spellings of one server's export, in lines; each line's is another store.
SPELLINGS = [
    "nbd://host nbd://host/ nbd://HOST:10809 NBD://Host.:10809// nbds://host nbd://user@h%6Fst/",
    "nbd://host:10810",
    "nbd://host/a nbd://host/%61 nbd://host/a/",
    "nbd://host/A",
    "nbd://localhost nbd://127.0.0.1/ nbd://[::1] nbds://[0:0::1]:10809/",
    "nbd://127.0.0.2",
    "nbd://[fd00::1]/x nbd://[FD00:0::1]:10809/x",
    "nbd+unix:///?socket=/r/a.sock nbd+unix://?socket=/r/../r//a.sock "
    "nbds+unix:///?socket=%2Fr%2Fa%2Esock nbd+unix:///?x=1;socket=/r/a.sock",
    "nbd+unix:///?socket=/r/b+c.sock",
    "nbd+unix:///?socket=/r/b%20c.sock",
    "nbd+unix:///e?socket=/r/a.sock nbd+unix:///%65/?x=y&socket=/r/./a.sock",
    "nbd+vsock://2 nbd+vsock://2:10809/",
    "nbd+vsock://3",
    "nbd://host:1x/",
]


def test_however_a_server_is_written_it_is_one_store() -> None:
    keys = [{elsewhere.where(one) for one in line.split()} for line in SPELLINGS]
    assert [len(found) for found in keys] == [1] * len(SPELLINGS), keys
    assert len(set().union(*keys)) == len(SPELLINGS)


def test_a_socket_by_two_names_is_one_store(tmp_path: Path) -> None:
    one, other = tmp_path / "one.sock", tmp_path / "folder"
    other.symlink_to(tmp_path)
    names = [f"nbd+unix:///?socket={path}" for path in (one, other / "one.sock")]
    assert elsewhere.where(names[0]) == elsewhere.where(names[1])  # before it is there
    one.touch()
    os.link(one, tmp_path / "two.sock")
    names.append(f"nbd+unix:///?socket={tmp_path}/two.sock")
    assert len({elsewhere.where(name) for name in names}) == 1


def test_one_server_for_both_stores_is_refused(handmade: Handmade) -> None:
    """Before either is opened: nobody listens there."""
    socket = f"{handmade.folder}/served.sock"
    handmade.stores["east", "data"] = f"nbd+unix:///?socket={socket}"
    handmade.stores["east", "intermediate"] = f"nbd+unix://?socket={handmade.folder}/./served.sock"
    handmade.write("east")
    line = refused("create", east(handmade), "--role", "source")
    assert "the same store as nbd+unix:" in line and "each must be its own" in line
    assert line in flashmirror("check", east(handmade)).stdout


# ---- who else has it


OFD = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
kind = struct.pack("hhqqi4x", getattr(fcntl, sys.argv[2]), 0, 100, 1, 0)
fcntl.fcntl(fd, fcntl.F_OFD_SETLK, kind)
print("locked", flush=True)
sys.stdin.read()
"""
POSIX = OFD.replace("F_OFD_SETLK", "F_SETLK")


@contextlib.contextmanager
def locked(path: Path, script: str, kind: str) -> Iterator[str]:
    """Another process locks a byte of the file; who it is, as a line says it."""
    words = [sys.executable, "-c", script, str(path), kind]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as one:
        try:
            assert one.stdout and one.stdout.readline() == "locked\n"
            yield rf"process {one.pid} \(python3?(\.\d+)?\)"
        finally:
            one.kill()


@contextlib.contextmanager
def by_qemu(path: Path) -> Iterator[str]:
    """qemu-nbd serves it."""
    socket = path.with_suffix(".sock")
    words = ["qemu-nbd", "--format=raw", "--persistent", f"--socket={socket}", str(path)]
    with subprocess.Popen(words) as one:
        try:
            eventually(socket.exists, "qemu-nbd listens")
            yield rf"process {one.pid} \(qemu-nbd\)"
        finally:
            one.kill()


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("OFD write", "data"),
        ("OFD read", "data"),
        ("POSIX write", "data"),
        ("qemu-nbd", "data"),
        ("qemu-nbd", "intermediate"),
    ],
)
def test_a_file_that_another_server_has_locked_is_refused(
    handmade: Handmade, how: str, part: str
) -> None:
    """By `create`, `check` and `start`, with who has it; a source starts without its intermediate,
    and says so.  When that server has ended it is as if nothing had been."""
    handmade.write("east")
    path = Path(handmade.store("east", part))
    kind = "F_RDLCK" if "read" in how else "F_WRLCK"
    script = POSIX if "POSIX" in how else OFD
    with by_qemu(path) if how == "qemu-nbd" else locked(path, script, kind) as who:
        line = rf"{re.escape(str(path))}: in use by {who}: stop that first"
        said = refused("create", east(handmade), "--role", "source")
        assert re.fullmatch(line, said), said
    handmade._do("create", east(handmade), "--role", "source")
    with by_qemu(path) if how == "qemu-nbd" else locked(path, script, kind) as who:
        line = rf"{re.escape(str(path))}: in use by {who}: stop that first"
        assert re.search(line, flashmirror("check", east(handmade)).stdout)
        if part == "data":
            assert re.fullmatch(line, refused("start", east(handmade)))
        else:
            handmade.start("east")
            volumes = record("status", east(handmade))["volumes"]
            assert [one["has_intermediate"] for one in volumes] == [False]
            handmade.stop("east")
    handmade.start("east")
    assert [one["has_intermediate"] for one in record("status", east(handmade))["volumes"]] == [
        True
    ]


def test_what_another_process_only_reads_is_free(tmp_path: Path) -> None:
    """Nobody locks it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    with path.open("rb") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0))
        stores.open_store(str(path), 1.0).store.close()


def test_a_loop_device_on_another_disk_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file may be on a server that is away, and who looks at it waits for that: only what is on
    the file system of our store is asked whether it is our store."""
    loops, ours = tmp_path / "block", tmp_path / "store"
    ours.touch()
    looked = []
    for name, path, read_only in (
        ("loop1", "/proc/self/nothing", "0"),
        ("loop2", str(tmp_path / "other"), "0"),
        ("loop3", str(ours), "1"),
    ):
        (loops / name / "loop").mkdir(parents=True)
        (loops / name / "loop/backing_file").write_text(f"{path}\n")
        (loops / name / "ro").write_text(f"{read_only}\n")
    monkeypatch.setattr(elsewhere, "_LOOPS", loops)
    monkeypatch.setattr(elsewhere, "_stands_on", lambda disk, _fd: looked.append(disk.name))
    with ours.open("r+b") as file:
        elsewhere.refuse(file.fileno(), "ours")
    assert looked == ["loop2"]


# In a mount namespace of its own, where /sys/module is another file system.  As in a container, a
# file is there by a bind mount, and a device has another node.
ELSEWHERE = """
at=/sys/module/elsewhere
mount -t tmpfs none /sys/module && mkdir $at &&
if test -b "$1/$2"; then cp -a "$1/$2" $at; else mount --bind "$1" $at; fi &&
losetup --find --show "$at/$2" && read wait
"""


@contextlib.contextmanager
def loop_elsewhere(path: Path) -> Iterator[str]:
    """A loop device over it that somebody has set up in another mount namespace, by a path which
    leads nowhere here, and to no file system where a store may be."""
    words = ["unshare", "--mount", "--propagation=private", "sh", "-c", ELSEWHERE, "sh"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*words, path.parent, path.name], stdin=pipe, stdout=pipe) as one:
        assert one.stdout
        device = one.stdout.readline().decode().strip()
        try:
            behind = Path("/sys/block", Path(device).name, "loop/backing_file").read_text().strip()
            assert behind == f"/sys/module/elsewhere/{path.name}"
            yield device
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)
            one.kill()


@pytest.mark.parametrize("kind", ["file", pytest.param("device", marks=needs_loops)])
def test_who_comes_later_and_locks_as_qemu_does_is_kept_out(handmade: Handmade, kind: str) -> None:
    """A virtual machine that is started on the image of a running site: what it wrote there would
    be known to nobody, and both sites would differ."""
    handmade.create("east")
    path = Path(handmade.store("east", "data"))
    device = Loop(handmade.folder / "disk", handmade.size) if kind == "device" else None
    try:
        if device:
            path = Path(f"/dev/loop{device.number}")
            stores.open_store(str(path), 1.0).store.close()
        one = stores.open_store(str(path), 1.0)
        words = ["qemu-io", "-f", "raw", "-c", "write -P 0xab 0 4096", str(path)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode and "lock" in done.stderr, done
        finally:
            one.store.close()
        subprocess.run(words, capture_output=True, check=True)
    finally:
        if device:
            device.close()


@needs_loops
def test_one_disk_by_two_ways_is_refused(handmade: Handmade) -> None:
    """Two paths of a SAN without multipath, or here two loop devices over one file: what goes in by
    one is not in the cache of the other, and comes out over what went in by that later."""
    one = Loop(handmade.folder / "disk", handmade.size)
    words = ["losetup", "--find", "--show", str(one.file)]
    other = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    try:
        handmade.stores["east", "data"] = f"/dev/loop{one.number}"
        handmade.stores["east", "intermediate"] = other
        handmade.write("east")
        line = refused("create", east(handmade), "--role", "source")
        assert f"{other}: loop:" in line and "one disk by two ways" in line
    finally:
        subprocess.run(["losetup", "--detach", other], check=True)
        one.close()


@needs_loops
def test_two_files_that_are_called_alike_are_two_disks(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first files of two subvolumes of a btrfs, or a file and its copy in a snapshot, have one
    inode number and one generation: loop devices over them are no disk by two ways, unless they
    are over one of them."""
    loops = [Loop(scratch / name, 1 << 20) for name in ("one", "two")]
    words = ["losetup", "--find", "--show", str(loops[0].file)]
    again = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(identity, "of_file", lambda *_: "257.7")
    names = [*(f"/dev/loop{loop.number}" for loop in loops), again]
    opened = [stores.open_store(name, 1.0) for name in names]
    try:
        assert [one.identity.lasting for one in opened] == [("loop:257.7@0+0",)] * 3
        stores.refuse_one_disk(opened[:2])
        stores.refuse_one_disk(opened[1:])
        with pytest.raises(StoreError, match="one disk by two ways"):
            stores.refuse_one_disk([opened[0], opened[2]])
    finally:
        for each in opened:
            each.store.close()
        subprocess.run(["losetup", "--detach", again], check=True)
        for loop in loops:
            loop.close()


@needs_loops
def test_nor_is_a_disk_a_store_beside_a_partition_of_it(scratch: Path) -> None:
    """By another way, which knows of no partitions: the one lies in the other."""
    size = 4 << 20
    disk = Loop(scratch / "disk", size)
    disk.detach()
    parts = [(2048, 4095, uuid.uuid4()), (4096, 6143, uuid.uuid4())]
    for offset, data in gpt(size, parts).items():
        disk.write(data, offset)
    disk.attach()
    words = ["losetup", "--find", "--show", str(disk.file)]
    other = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    opened = [stores.open_store(name, 1.0) for name in [*disk.scan(), other]]
    try:
        stores.refuse_one_disk(opened[:2])
        for one, two in itertools.permutations((opened[0], opened[2])):
            with pytest.raises(StoreError, match="one disk by two ways"):
                stores.refuse_one_disk([one, two])
    finally:
        for each in opened:
            each.store.close()
        subprocess.run(["losetup", "--detach", other], check=True)
        disk.close()


@needs_loops
def test_a_loop_device_of_another_mount_namespace_is_noticed(scratch: Path) -> None:
    """As of a container, over a file or a device: what is behind it decides, not its path."""
    path = scratch / "file"
    below = Loop(scratch / "below", 1 << 20)
    try:
        path.write_bytes(bytes(4096))
        for ours in (path, Path(f"/dev/loop{below.number}")):
            with (
                loop_elsewhere(ours) as device,
                pytest.raises(StoreError, match=f"in use by the loop device {device}: stop that"),
            ):
                stores.open_store(str(ours), 1.0)
            stores.open_store(str(ours), 1.0).store.close()
    finally:
        below.close()


@needs_loops
def test_nor_does_a_site_start_on_one(handmade: Handmade) -> None:
    """It is asked for in the site's own process, too."""
    handmade.create("east")
    with loop_elsewhere(Path(handmade.store("east", "data"))) as device:
        assert f"in use by the loop device {device}: " in refused("start", east(handmade))
    handmade.start("east")


@needs_loops
@pytest.mark.parametrize("losetup", ["missing", "silent", "refused"])
def test_without_an_answer_of_losetup_a_loop_device_is_found_by_its_path(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, losetup: str
) -> None:
    """It is missing, a loop device keeps it waiting whose file is on a site that is away, or it may
    open none.  For one that does not answer all stores of a start wait but once."""
    loop = Loop(scratch / "file", 1 << 20)
    one = {"maj:min": f"7:{loop.number}", "back-ino": None, "back-maj:min": None}
    does = f"echo '{json.dumps({'loopdevices': [one]})}'"
    tools, begun = scratch / "tools", scratch / "begun"
    tools.mkdir()
    if losetup == "silent":
        does = "exec sleep 600"
        monkeypatch.setattr(limits, "DEVICE_BUSY_S", 0.5)
    if losetup != "missing":
        (tools / "losetup").write_text(f"#!/bin/sh\necho >> {begun}\n{does}\n")
        (tools / "losetup").chmod(0o755)
    path = str(tools) if losetup == "missing" else f"{tools}:{os.environ['PATH']}"
    try:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", path)
            for _ in range(3):
                with pytest.raises(StoreError, match=f"the loop device /dev/loop{loop.number}"):
                    stores.open_store(str(scratch / "file"), 1.0)
        assert losetup != "silent" or begun.read_text() == "\n"
    finally:
        for child in apart._left.values():
            child.kill()
            child.wait()
        loop.close()


@needs_loops
def test_what_is_under_a_loop_device_is_refused(handmade: Handmade) -> None:
    """The file of the site's own other store, too, and whatever name it has by now; a device that
    is read-only is one of who looks."""
    handmade.write("east")
    path = Path(handmade.store("east", "data"))
    loop = Loop(path, handmade.size)
    try:
        line = rf"in use by the loop device /dev/loop{loop.number}: stop that first"
        assert re.search(line, refused("create", east(handmade), "--role", "source"))
        path.rename(path.with_suffix(".moved"))
        with pytest.raises(StoreError, match=line):
            stores.open_store(str(path.with_suffix(".moved")), 1.0)
        path.with_suffix(".moved").rename(path)
        stores.open_store(str(loop.path), 1.0).store.close()  # nobody has that
        loop.detach()
        with contextlib.closing(ReadOnly(path)):
            stores.open_store(str(path), 1.0).store.close()
    finally:
        loop.close()


class ReadOnly:
    def __init__(self, path: Path) -> None:
        words = ["losetup", "--find", "--show", "--read-only", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        self._device = done.stdout.strip()

    def close(self) -> None:
        subprocess.run(["losetup", "--detach", self._device], check=True)


@needs_loops
def test_a_loop_device_that_is_mounted_is_named_with_its_place(scratch: Path) -> None:
    path, at = scratch / "file", scratch / "mounted"
    loop = Loop(path, 1 << 20)
    at.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", str(loop.path)], check=True)
        subprocess.run(["mount", str(loop.path), str(at)], check=True)
        try:
            with pytest.raises(StoreError, match=rf"loop{loop.number}, mounted on {at}: stop"):
                stores.open_store(str(path), 1.0)
        finally:
            subprocess.run(["umount", str(at)], check=True)
    finally:
        loop.close()


@needs_loops
def test_a_loop_device_is_found_whatever_the_folders_above_are_called(scratch: Path) -> None:
    """The store is on a file system that is mounted at a name which is no text, and the loop device
    over it is mounted at one that ends in a blank."""
    disk, over = Loop(scratch / "disk", 8 << 20), None
    at, there = scratch / os.fsdecode(b"gr\xfcn"), scratch / "\x1b[2J "
    at.mkdir()
    there.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(disk.path)], check=True)
    subprocess.run(["mount", str(disk.path), at], check=True)
    try:
        over = Loop(at / "file", 2 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(over.path)], check=True)
        subprocess.run(["mount", str(over.path), there], check=True)
        line = rf"loop{over.number}, mounted on {scratch}/\\x1b\[2J : stop"
        with pytest.raises(StoreError, match=line):
            stores.open_store(str(at / "file"), 1.0)
    finally:
        subprocess.run(["umount", there], check=False)
        if over:
            over.close()
        subprocess.run(["umount", at], check=True)
        disk.close()


@needs_loops
def test_a_device_under_a_loop_device_is_refused(scratch: Path) -> None:
    """By its number, whatever its node is called."""
    below = Loop(scratch / "below", 1 << 20)
    words = ["losetup", "--find", "--show", f"/dev/loop{below.number}"]
    above = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    node = Path(f"/dev/flashmirror-test-{os.getpid()}")
    os.mknod(node, 0o600 | stat.S_IFBLK, below.path.stat().st_rdev)
    try:
        for name in (below.path, node):
            with pytest.raises(StoreError, match=f"in use by the loop device {above}: stop that"):
                stores.open_store(str(name), 1.0)
    finally:
        node.unlink()
        subprocess.run(["losetup", "--detach", above], check=True)
        below.close()


def test_a_name_that_a_terminal_would_obey_is_made_harmless(tmp_path: Path) -> None:
    """Any user may call a process so, and root reads the line."""
    path = tmp_path / "store"
    path.write_bytes(b"x" * 4096)
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); "
        r"open('/proc/self/comm', 'wb').write(b'a\x1b[2J\nb\xd0'); print(flush=True); input()"
    )
    words = [sys.executable, "-c", script, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as one, path.open("r+b") as file:
        try:
            assert one.stdout and one.stdout.readline() == b"\n"
            who = rf"in use by process {one.pid} \(a\\x1b\[2J\\nb"
            with pytest.raises(StoreError, match=who) as said:
                elsewhere.refuse(file.fileno(), "store")
            assert str(said.value).isprintable()
        finally:
            one.kill()
