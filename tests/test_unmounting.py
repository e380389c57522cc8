"""detach --unmount: what stands on a device is unmounted, and who uses it is waited for."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from click.testing import CliRunner
from handmade import eventually
from loops import SECTOR, Loop, gpt, needs_loops
from made_devices import Devices

from mirror_core import limits, unmounting
from mirror_core import mounted as mounts
from mirror_core.cli import attaching
from mirror_core.errors import MirrorError
from mirror_core.platform import Platform

MIB = 1 << 20
USER = "import os, sys; os.chdir(sys.argv[1]); print('in', flush=True); input()"

pytestmark = needs_loops


def run(*words: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(words, check=True, capture_output=True, cwd=cwd)


def number(loop: Loop) -> str:
    device = loop.path.resolve().stat().st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def points(loop: Loop) -> list[str]:
    """Where something is mounted that stands on it, in the order in which it is unmounted."""
    return [mount.point for mount in mounts.stack({number(loop)}).order]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path / "disk", 32 * MIB)
    yield made
    made.close()


@pytest.fixture
def mounted(loop: Loop, tmp_path: Path) -> Iterator[Path]:
    """A file system on it, and where that is."""
    at = tmp_path / "folder" / "at"
    at.mkdir(parents=True)
    run("mkfs.ext4", "-q", loop.path)
    run("mount", loop.path, at)
    yield at
    subprocess.run(["umount", "-R", at], capture_output=True, check=False)


def test_everything_that_stands_on_a_device_is_unmounted(
    loop: Loop, mounted: Path, tmp_path: Path
) -> None:
    """Its file system, a bind mount of it, and one in a file on it, by way of another device."""
    bound, inner = tmp_path / "a folder", tmp_path / "inner"
    bound.mkdir()
    inner.mkdir()
    run("mount", "--bind", mounted, bound)
    other = Loop(mounted / "image", 8 * MIB)
    try:
        run("mkfs.ext4", "-q", other.path)
        run("mount", other.path, inner)
        assert points(loop) == [str(inner), str(bound), str(mounted)]
        with pytest.raises(MirrorError, match="target is busy"):  # `other` has its file open
            unmounting.everything_on([number(loop)], 0.5)
        assert points(loop) == [str(mounted)]
    finally:
        subprocess.run(["umount", inner, bound], capture_output=True, check=False)
        other.close()
    unmounting.everything_on([number(loop)], 10)
    assert points(loop) == []


def test_a_partition_stands_on_its_disk(loop: Loop, tmp_path: Path) -> None:
    """By the number of the whole disk."""
    loop.detach()
    first, last = 2048, 32 * MIB // SECTOR - 2048
    for offset, data in gpt(32 * MIB, [(first, last, uuid.uuid4())]).items():
        loop.write(data, offset)
    loop.attach()
    (partition,) = loop.scan()
    at = tmp_path / "at"
    at.mkdir()
    run("mkfs.ext4", "-q", partition)
    run("mount", partition, at)
    assert points(loop) == [str(at)] and mounts.held({number(loop)}) == [partition]
    unmounting.everything_on([number(loop)], 10)
    assert points(loop) == [] and mounts.held({number(loop)}) == []


def test_who_uses_what_is_mounted_is_waited_for_and_no_longer_than_said(
    loop: Loop, mounted: Path
) -> None:
    """It keeps it, and is named neither dead nor gone: when the time is over the line says why, and
    what was written is on the device."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, mounted], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin and user.stdout and user.stdout.readline()
        data = unsynced(mounted)
        with pytest.raises(MirrorError, match=f"not unmounted: .*{mounted}.* busy"):
            unmounting.everything_on([number(loop)], 0.5)
        assert points(loop) == [str(mounted)]
        assert data in loop.file.read_bytes()
        ends_while(lambda: unmounting.everything_on([number(loop)], 30), user)
    assert points(loop) == []


@pytest.mark.parametrize("name", [b"gr\xfcn", "grün".encode(), b" ", b"a\nb\t\\011", b"\x1b[2Jc\r"])
def test_whatever_the_folder_is_called_it_is_written_and_unmounted(
    loop: Loop, tmp_path: Path, name: bytes
) -> None:
    """A name is bytes, of any encoding, and what is said of it is harmless to a terminal."""
    at = tmp_path / os.fsdecode(name)
    at.mkdir()
    run("mkfs.ext4", "-q", loop.path)
    run("mount", loop.path, at)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", USER, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as user:
            assert user.stdin and user.stdout and user.stdout.readline()
            data = unsynced(at)
            with pytest.raises(MirrorError, match=r"not unmounted: .* busy") as refusal:
                unmounting.everything_on([number(loop)], 0.5)
            assert str(refusal.value).isprintable()
            assert data in loop.file.read_bytes()
            ends_while(lambda: unmounting.everything_on([number(loop)], 30), user)
        assert points(loop) == [] and not os.path.ismount(at)
    finally:
        subprocess.run(["umount", at], capture_output=True, check=False)


def test_a_folder_whose_name_is_no_text_is_named_as_a_shell_takes_it(
    loop: Loop, mounted: Path
) -> None:
    at = mounted / os.fsdecode(b"gr\xfcn")
    at.mkdir()
    run("mount", "-t", "tmpfs", "none", at)
    try:
        with pytest.raises(MirrorError, match=r"not unmounted: /\S+/gr\\xfcn: mounted below"):
            unmounting.everything_on([number(loop)], 10)
    finally:
        run("umount", at)


def ends_while(waits: Callable[[], None], user: subprocess.Popen[bytes]) -> None:
    """`user` ends half a second after the waiting has begun."""

    def end() -> None:
        time.sleep(0.5)  # that it is still there when the waiting begins is the point
        assert user.stdin
        user.stdin.write(b"\n")
        user.stdin.close()

    ending = threading.Thread(target=end)
    ending.start()
    waits()
    ending.join()


def test_a_device_in_use_keeps_no_other_one_mounted(
    loop: Loop, mounted: Path, tmp_path: Path
) -> None:
    """All of a site's devices are unmounted in the time that there is, whichever refuses."""
    other, at = Loop(tmp_path / "other", 16 * MIB), tmp_path / "there"
    at.mkdir()
    try:
        run("mkfs.ext4", "-q", other.path)
        run("mount", other.path, at)
        with subprocess.Popen(
            [sys.executable, "-c", USER, mounted], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as user:
            assert user.stdin and user.stdout and user.stdout.readline()
            with pytest.raises(MirrorError, match=f"not unmounted: .*{mounted}.* busy"):
                unmounting.everything_on([number(loop), number(other)], 0.5)
            assert points(other) == []
            user.stdin.close()
    finally:
        subprocess.run(["umount", at], capture_output=True, check=False)
        other.close()


def test_what_is_another_s_by_now_is_not_unmounted(loop: Loop, mounted: Path) -> None:
    """While somebody who uses it is waited for, its number may be given away."""
    meant = [number(loop)]
    with subprocess.Popen(
        [sys.executable, "-c", USER, mounted], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin and user.stdout and user.stdout.readline()
        given_away = threading.Timer(0.5, meant.clear)  # in the middle of the waiting
        given_away.start()
        unmounting.everything_on(meant, 30)
        given_away.join()
        user.stdin.close()
    assert points(loop) == [str(mounted)]


MEANWHILE = """#!/bin/sh
if mkdir {once} 2>/dev/null; then
    {what}
    mount -t tmpfs none {at} && touch {at}/precious
fi
exec /usr/bin/sync "$@"
"""


@pytest.mark.parametrize("what", ["over", "over a folder above", "in its place"])
def test_what_is_mounted_in_between_is_not_taken_for_it(
    loop: Loop, mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """While it was written, others have mounted something where its path leads by now: files in
    memory, which would be lost.  In its place, if a folder above was renamed: then it is unmounted
    where it is."""
    at = mounted.parent if what == "over a folder above" else mounted
    moves = f"mv {at.parent} {tmp_path}/moved; mkdir -p {at}" if what == "in its place" else ":"
    sync = tmp_path / "sync"
    sync.write_text(MEANWHILE.format(once=tmp_path / "once", what=moves, at=at))
    sync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    try:
        if what == "in its place":
            unmounting.everything_on([number(loop)], 10)
        else:
            with pytest.raises(MirrorError, match=f"not unmounted: {at}: mounted below or over"):
                unmounting.everything_on([number(loop)], 10)
        assert (at / "precious").exists()
        assert (points(loop) == []) == (what == "in its place")
    finally:
        subprocess.run(["umount", at], capture_output=True, check=False)
        subprocess.run(["umount", loop.path.resolve()], capture_output=True, check=False)


def test_what_is_unmounted_as_the_time_ends_is_done(loop: Loop, mounted: Path) -> None:
    """It takes no time at all to see that nobody uses it."""
    unmounting.everything_on([number(loop)], 0)
    assert points(loop) == []


def test_what_is_mounted_again_and_again_is_given_up(
    loop: Loop, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an automount."""

    def mount_again(_: float) -> None:
        run("mount", loop.path, mounted)

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=mount_again)
    monkeypatch.setattr(unmounting, "time", clock)
    with pytest.raises(MirrorError, match=f"{mounted}: it is mounted again and again"):
        unmounting.everything_on([number(loop)], 0)


SYNC = """#!/bin/sh
case $3 in
    {away}) echo $$ >>{begun}; exec sleep 60;;
    *) sleep 1; exec /usr/bin/sync "$@";;
esac
"""


def test_a_file_system_that_does_not_answer_takes_no_time_from_the_others(
    loop: Loop, mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store's server has died, perhaps.  The others have all the time that there is, and it has
    one process that waits for it."""
    other, at, begun = Loop(tmp_path / "other", 16 * MIB), tmp_path / "there", tmp_path / "begun"
    at.mkdir()
    (tmp_path / "bin").mkdir()
    sync = tmp_path / "bin/sync"
    sync.write_text(SYNC.format(away=at, begun=begun))
    sync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sync.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(limits, "DEVICE_BUSY_S", 0.2)
    try:
        run("mkfs.ext4", "-q", other.path)
        run("mount", other.path, at)
        both = [number(loop), number(other)]
        working = threading.Thread(target=unmounting.everything_on, args=(both, 30))
        working.start()
        eventually(lambda: points(loop) == [], "the other one is unmounted", 10)
        assert points(other) == [str(at)]
        (waits,) = begun.read_text().split()
        os.kill(int(waits), signal.SIGKILL)
        working.join()
        assert points(other) == []
    finally:
        subprocess.run(["umount", at], capture_output=True, check=False)
        other.close()


def test_what_could_not_be_written_is_said(
    loop: Loop, mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of it once, to who syncs; then the file system can be unmounted."""
    sync = tmp_path / "sync"
    sync.write_text(
        "#!/bin/sh\necho \"sync: error syncing '$3': Input/output error\" >&2; exit 1\n"
    )
    sync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MirrorError, match=r"unmounted, and not all was written: .* Input/output"):
        unmounting.everything_on([number(loop)], 10)
    assert points(loop) == []


def test_an_overlay_of_a_folder_there_is_unmounted_before_it(
    loop: Loop, mounted: Path, tmp_path: Path
) -> None:
    """Though it writes elsewhere: its file system would live on with it."""
    here, there = mounted / "a:b", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    over, memory = overlay(tmp_path, f"{there}:{str(here).replace(':', chr(92) + ':')}")
    try:
        assert points(loop) == [str(over), str(mounted)]
        unmounting.everything_on([number(loop)], 10)
        assert points(loop) == [] and not mounts.held({number(loop)})
    finally:
        subprocess.run(["umount", over, memory], capture_output=True, check=False)


def overlay(folder: Path, lower: str, cwd: Path | None = None) -> tuple[Path, Path]:
    """Where an overlay is that reads `lower`, and the memory that it writes to."""
    over, memory = folder / "over", folder / "memory"
    over.mkdir()
    memory.mkdir()
    run("mount", "-t", "tmpfs", "none", memory)
    (memory / "upper").mkdir()
    (memory / "work").mkdir()
    options = f"lowerdir={lower},upperdir={memory}/upper,workdir={memory}/work"
    run("mount", "-t", "overlay", "none", "-o", options, over, cwd=cwd)
    return over, memory


def unsynced(mounted: Path) -> bytes:
    """What was written there a moment ago, and is nowhere but in memory."""
    data = os.urandom(MIB)
    (mounted / uuid.uuid4().hex).write_bytes(
        data
    )  # new: ext4 writes an older one when it is closed
    return data


def test_a_file_system_that_lives_on_has_written_and_is_not_said_to_be_gone(
    loop: Loop, mounted: Path, tmp_path: Path
) -> None:
    """Under an overlay whose option names no path that leads to it from everywhere."""
    (mounted / "low").mkdir()
    data = unsynced(mounted)
    over, memory = overlay(tmp_path, "low", cwd=mounted)
    try:
        with pytest.raises(
            MirrorError, match=f"{loop.path.resolve()}: in use: a file system there lives"
        ):
            unmounting.everything_on([number(loop)], 0.5)
        assert points(loop) == []
        assert data in loop.file.read_bytes()
    finally:
        subprocess.run(["umount", over, memory], capture_output=True, check=False)
    unmounting.everything_on([number(loop)], 10)


def test_what_was_unmounted_with_files_open_is_waited_for(loop: Loop, mounted: Path) -> None:
    """`umount -l` takes the mount away, not the file system: that ends with who has files open."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, mounted], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin and user.stdout and user.stdout.readline()
        data = unsynced(mounted)
        run("umount", "--lazy", mounted)
        with pytest.raises(MirrorError, match="unmounted with files open"):
            unmounting.everything_on([number(loop)], 0.5)
        ends_while(lambda: unmounting.everything_on([number(loop)], 30), user)
    assert data in loop.file.read_bytes()


CONTAINER = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", USER]


def test_a_mount_of_another_namespace_is_waited_for_and_named(loop: Loop, mounted: Path) -> None:
    """A container's, which has a copy of its own: what was written there is on the device, before
    that is unmounted here and after, and it ends with its process."""
    with subprocess.Popen(
        [*CONTAINER, "/"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as container:
        assert container.stdin and container.stdout and container.stdout.readline()
        words = f"{mounted}: still mounted for process {container.pid} "
        for at in (mounted, Path(f"/proc/{container.pid}/root/{mounted}")):
            data = unsynced(at)
            with pytest.raises(MirrorError, match=words):
                unmounting.everything_on([number(loop)], 0.5)
            assert data in loop.file.read_bytes() and points(loop) == []
        ends_while(lambda: unmounting.everything_on([number(loop)], 30), container)
    assert not mounts.held({number(loop)})


@pytest.mark.parametrize("where", ["below", "over", "over a folder above"])
def test_what_others_have_mounted_there_is_unmounted_only_when_that_is_asked_for(
    loop: Loop, mounted: Path, tmp_path: Path, where: str
) -> None:
    """A file system in memory, whose files would be lost: it is named, and nothing is changed; as
    the machine goes down it keeps nothing mounted."""
    (mounted / "sub").mkdir()
    at = {"below": mounted / "sub", "over": mounted, "over a folder above": mounted.parent}[where]
    run("mount", "-t", "tmpfs", "none", at)
    try:
        (at / "precious").touch()
        with pytest.raises(MirrorError, match=f"not unmounted: {at}: mounted below or over"):
            unmounting.everything_on([number(loop)], 10)
        assert (at / "precious").exists()
        unmounting.everything_on([number(loop)], 10, others=True)
        assert points(loop) == [] and not (at / "precious").exists()
    finally:
        subprocess.run(["umount", at], capture_output=True, check=False)


def test_what_stands_on_a_file_that_a_mount_has_hidden_stays(loop: Loop, tmp_path: Path) -> None:
    """The path of the file means one on the device by now, if any; the file is elsewhere."""
    folder, inner = tmp_path / "folder", tmp_path / "inner"
    folder.mkdir()
    inner.mkdir()
    run("mkfs.ext4", "-q", loop.path)
    other = Loop(folder / "image", 8 * MIB)
    try:
        run("mkfs.ext4", "-q", other.path)
        run("mount", other.path, inner)
        run("mount", loop.path, folder)
        assert points(loop) == [str(folder)]
        unmounting.everything_on([number(loop)], 10)
        assert points(loop) == [] and points(other) == [str(inner)]
    finally:
        subprocess.run(["umount", folder], capture_output=True, check=False)
        subprocess.run(["umount", inner], capture_output=True, check=False)
        other.close()


def test_an_overlay_of_a_folder_that_a_mount_has_hidden_stays(loop: Loop, tmp_path: Path) -> None:
    """What its path means was looked up before the device was mounted over it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    run("mkfs.ext4", "-q", loop.path)
    over, memory = overlay(tmp_path, str(folder))
    try:
        run("mount", loop.path, folder)
        assert points(loop) == [str(folder)]
    finally:
        subprocess.run(["umount", folder, over, memory], capture_output=True, check=False)


class TwoPools(Platform):
    """A root of btrfs which the kernel calls by a name that no device has, and another one."""

    FILES: ClassVar = {
        "/proc/self/mountinfo": (
            "22 1 0:20 / / rw - btrfs /dev/root rw\n"
            "23 22 0:20 /home /home rw - btrfs /dev/root rw\n"
            "24 22 0:31 / /srv/db rw - btrfs /dev/nbd0 rw\n"
        ),
        "/sys/fs/btrfs/A/devices/vda1/dev": "254:1\n",
        "/sys/fs/btrfs/B/devices/nbd0/dev": "43:0\n",
    }

    def read(self, path: Path) -> bytes:
        if str(path) not in self.FILES:
            raise FileNotFoundError(path)
        return self.FILES[str(path)].encode()

    def names(self, folder: Path) -> list[str]:
        inside = [file for file in self.FILES if file.startswith(f"{folder}/")]
        return sorted({file.removeprefix(f"{folder}/").split("/")[0] for file in inside})

    def stat(self, path: Path) -> os.stat_result:
        if str(path) != "/dev/nbd0":
            raise FileNotFoundError(path)
        fields = (stat.S_IFBLK, 7, 0, *[0] * 7)
        return os.stat_result(fields, {"st_rdev": os.makedev(43, 0)})


def test_a_file_system_whose_disks_nobody_knows_is_not_the_device_s() -> None:
    """Or the root of the machine would be in use for ever."""
    assert [mount.point for mount in mounts.on({"43:0"}, TwoPools())] == ["/srv/db"]


def test_a_configuration_with_a_mistake_keeps_nothing_mounted_when_the_machine_goes_down(
    loop: Loop, mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop device stands for the kernel's nbd, of a site that runs and whose file was edited."""
    unmount = unmounting.everything_on
    devices = Devices(tmp_path / "block", monkeypatch)
    monkeypatch.setattr(unmounting, "everything_on", unmount)
    devices.make(0, "flashmirror/east/disk/" + "a" * 32, number(loop))
    toml = tmp_path / "east.toml"
    toml.write_text('name = "east"\nintervall = "5s"\n')
    data = unsynced(mounted)
    words = ["--unmount", "--going-down", str(toml)]
    done = CliRunner().invoke(attaching.detach, words)
    assert done.exit_code == 0 and "intervall: no such setting" in done.output
    assert points(loop) == [] and devices.tried == [0]
    assert data in loop.file.read_bytes()


def test_who_has_nothing_mounted_has_nothing_unmounted(loop: Loop, mounted: Path) -> None:
    """A mount of another device stays."""
    unmounting.everything_on(["43:77"], 1)
    assert points(loop) == [str(mounted)]
