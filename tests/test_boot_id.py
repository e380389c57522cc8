"""Whether the machine was started anew since: only the kernel's boot id says that.  A container
that shows one of its own (systemd-nspawn, LXC) has another one after each start of its own, while
the kernel's cache and a server live on: there the boot is not known, and every doubt stays (I9).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import direct
import pytest
from handmade import MIB, Handmade, east, flashmirror, kill, refused
from pair import MakePair
from served import Faulty
from test_ledger import sample
from test_link import kill as kill_site
from test_maps import BOOK, kept, opened, restored
from test_server_instance import SOURCE, faulty, flushes, of_files, write_unflushed

from mirror_core import age, config, identity, ledger, mapfile, native, platform, server_instance
from mirror_core import stores as site_stores
from mirror_core.platform import HERE, Platform
from mirror_core.site import Site

__all__ = ["faulty", "kept"]  # fixtures

root = pytest.mark.root("mounts over the boot id")
KERNEL = platform.BOOT_ID.read_text().strip()
OTHER = "another"
NUMBER = platform.BOOT_ID.parent / "poolsize"  # of random bits: the same in each boot


def in_a_place(*steps: str, alone: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Words before a command that give it mounts of its own, and do these first."""
    own = ("unshare", "--mount", "--propagation=private", *alone)
    return (*own, "sh", "-ec", "\n".join([*steps, 'exec "$0" "$@"']))


def in_a_container(folder: Path) -> tuple[str, ...]:
    """The same: a boot id of its own, as systemd-nspawn and LXC give, another one each time."""
    own = folder / f"boot_id-{uuid.uuid4()}"
    own.write_text(f"{uuid.uuid4()}\n")
    return in_a_place(f"mount --bind {own} {platform.BOOT_ID}")


def unknown(_: Platform) -> str:
    raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))


@pytest.fixture(params=[KERNEL, OTHER, ""], ids=["this-boot", "another-boot", "no-boot"])
def boot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of this process, from now on."""
    found: str = request.param
    monkeypatch.setattr(Platform, "boot_id", (lambda _: found) if found else unknown)
    yield found


def test_only_the_kernel_s_file_says_it(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another file system, whatever is in it, and none, are the boot of no machine."""
    assert age.boot_of(HERE) == HERE.boot_id() == KERNEL
    other = scratch / "boot_id"
    other.write_text(f"{uuid.uuid4()}\n")
    odd = scratch / "odd"
    odd.write_bytes(b"\xff" * 36 + b"\n")
    for path in (other, odd, Path("/dev/zero"), Path("/dev/null"), scratch / "none"):
        monkeypatch.setattr(platform, "BOOT_ID", path)
        with pytest.raises(OSError):
            HERE.boot_id()
        assert age.boot_of(HERE) == ""


# As systemd's ProtectKernelTunables, and a container without a boot id of its own.
READ_ONLY = ("mount --bind /proc/sys /proc/sys", "mount -o remount,bind,ro /proc/sys")


@root
@pytest.mark.parametrize(
    ("steps", "alone", "known"),
    [
        ((), (), True),
        (READ_ONLY, (), True),
        ((), ("--pid", "--fork", "--mount-proc"), True),
        (READ_ONLY, ("--pid", "--fork", "--mount-proc"), True),
        (("own",), (), False),
        (("own", *READ_ONLY), (), False),
        (("own",), ("--pid", "--fork", "--mount-proc"), False),
        (("random",), (), False),
        (("number",), (), False),
        (("pipe",), (), False),
    ],
)
def test_a_container_s_own_boot_id_is_not_the_kernel_s(
    scratch: Path, steps: tuple[str, ...], alone: tuple[str, ...], known: bool
) -> None:
    """With real mounts, also where all of /proc/sys is bound once more above that; neither is
    another file of the kernel's own /proc, or a pipe, which is not opened."""
    own, pipe = scratch / "boot_id", scratch / "pipe"
    own.write_text(f"{uuid.uuid4()}\n")
    os.mkfifo(pipe)
    random = platform.BOOT_ID.parent / "uuid"
    places = {"own": own, "random": random, "number": NUMBER, "pipe": pipe}
    bind = {name: f"mount --bind {place} {platform.BOOT_ID}" for name, place in places.items()}
    steps = tuple(bind.get(step, step.replace("--bind", "--rbind")) for step in steps)
    look = "from mirror_core import age, platform; print(age.boot_of(platform.HERE))"
    words = [*in_a_place(*steps, alone=alone), sys.executable, "-c", look]
    done = subprocess.run(
        words, cwd=scratch, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == (KERNEL if known else "")


@root
def test_how_long_the_machine_is_up_is_the_same_in_each_container(scratch: Path) -> None:
    """Also where its clock begins elsewhere: a point does not grow older by the way to there."""
    look = "from mirror_core import platform; print(platform.HERE.uptime())"
    ups = []
    for shift in ("-0", "1000000", "-1"):
        alone = ("unshare", "--time", "--boottime", shift, "--fork", sys.executable, "-c", look)
        done = subprocess.run(
            alone, cwd=scratch, capture_output=True, text=True, timeout=60, check=True
        )
        ups.append(float(done.stdout))
    assert HERE.uptime() - 120 < min(ups) <= max(ups) <= HERE.uptime()


@pytest.mark.parametrize("before", [KERNEL, OTHER, ""], ids=["this", "another", "none"])
def test_a_flush_is_forgotten_in_another_boot_only_for_certain(before: str, boot: str) -> None:
    """Of what a person had put there, which a killed start has not told anybody of."""
    book = sample(flushing=("file 1",), flushing_boot=before)
    certain = bool(before and boot) and before != boot
    assert site_stores.in_this_boot(book, age.boot_of(HERE)).flushing == (
        () if certain else ("file 1",)
    )


@pytest.mark.parametrize("before", [KERNEL, ""], ids=["this", "none"])
@pytest.mark.parametrize("same", [True, False])
def test_a_server_is_the_same_only_in_a_boot_that_is_the_same(
    scratch: Path, before: str, same: bool, boot: str
) -> None:
    """Its process has the number and the start that were recorded, which another boot may give to
    another one; and only of a reboot it is certain that nobody is left to be told."""
    server = Faulty(scratch / "faulty.img")
    front = native.Store.nbd(server.store(MIB), 5.0)
    (spare, sink), files = of_files(scratch)
    files.close()
    volume = native.Volume(front, sink, MIB, 4096, False)

    def identify(fd: int) -> str:
        os.close(fd)
        return "7 100"

    try:
        servers = server_instance.Servers(scratch, SOURCE, "2", {"disk": volume}, identify=identify)
        record = {
            "version": server_instance.VERSION,
            "site": SOURCE.site,
            "run": "1",
            "boot": before,
            "data": {"disk": "7 100" if same else "7 99"},
        }
        (scratch / "servers").write_text(json.dumps(record))
        told = servers.begin(clean=False, run_before="1")
    finally:
        volume.close()
        for store in (front, sink, spare):
            store.close()
        server.stop()
    if before and boot == OTHER:
        assert told == []
    else:
        assert told == ([] if same and before and before == boot else ["disk"])


@pytest.mark.parametrize("before", [KERNEL, OTHER, ""], ids=["this", "another", "none"])
def test_maps_count_in_a_boot_that_is_the_same(
    scratch: Path, kept: Path, before: str, boot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one that is not known the intent log is asked, too; what they hold, and that a ledger was
    put back, and with it that log, they tell whatever the boot was and is: a start in a container
    after one outside of it, or the other way round, would not send what an older log does not
    know."""
    with opened(scratch, "disk") as (volume, record), monkeypatch.context() as then:
        then.setattr(Platform, "boot_id", (lambda _: before) if before else unknown)
        maps = mapfile.share(BOOK, record, BOOK.run, volume)
        volume.mark(3, 2)
    same = bool(boot) and boot == before
    assert restored(scratch, "disk", BOOK) == (same, [(3, 2)])
    maps.go_with(replace(BOOK, committed=5, committed_token="5" * 32))
    maps.close()
    assert mapfile.look(BOOK) is mapfile.Found.LATER


def test_a_device_s_number_proves_nothing_in_an_unknown_boot(
    boot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a kernel that does not count its disks."""
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: 0)
    assert identity._instance(0, "") == (f"{boot}/0" if boot else "")


def test_a_source_starts_whatever_the_boot_is(handmade: Handmade, boot: str) -> None:
    """Killed, and started in a boot that is not known: what was cached is in doubt, as in the same
    one; and the ledger says that it is not known."""
    handmade.create()
    handmade.start("east")
    kill(handmade, "east")
    site = Site(config.load(east(handmade)))
    assert site.members[0].native.doubts_front() is (boot != OTHER)
    site.start()
    assert site.book.current.known_boot == boot
    site.ending()
    site.stop()


@root
def test_a_container_is_no_machine_that_was_started_anew(
    handmade: Handmade, faulty: Faulty
) -> None:
    """Its source is killed, its data's server is started anew, and then the container: whose
    acknowledged write is gone hears of it, once."""
    write_unflushed(handmade)
    for again in range(2):
        kill(handmade, "east")
        if not again:
            faulty.restart()
        prefix = in_a_container(handmade.folder)
        started = flashmirror("start", str(handmade.toml("east")), prefix=prefix)
        assert started.returncode == 0, started.stderr
        with handmade.client() as client:
            assert not flushes(client), "its acknowledged write is gone"
            assert flushes(client) and client.read(0, 4) == bytes(4)


@root
def test_a_container_forgets_no_flush_of_what_was_put_back(handmade: Handmade) -> None:
    """A start was killed in it: nobody is told again of what that flush has heard."""
    handmade.create()
    handmade.start()
    direct.sync(handmade)
    handmade.stop()
    state = handmade.folder / "east/state"
    book = ledger.load(state)
    names = tuple(identity.names_of(site_stores.known(book.volumes[0].data)))
    ledger.save(state, replace(book, flushing=names, flushing_boot=KERNEL))
    for _ in range(2):
        prefix = in_a_container(handmade.folder)
        said = refused("start", str(handmade.toml("east")), prefix=prefix)
        assert "a start was killed while it flushed" in said, said
        rows = flashmirror("check", str(handmade.toml("east")), prefix=prefix).stdout
        assert "a start was killed while it flushed" in rows, rows


@root
@pytest.mark.parametrize(("before", "now"), [(False, True), (True, False)], ids=["in", "out"])
def test_a_state_folder_that_went_back_is_noticed_in_any_boot(
    make_pair: MakePair, before: bool, now: bool
) -> None:
    """Put back in place (a file system's snapshot) to just before a commit, and started in a
    container after a run outside of one, or the other way round: what was written after that commit
    is not in that log, and is sent."""
    pair = make_pair("--size", "8M")
    path, state = pair.toml("east"), pair.folder / "east/state"
    path.write_text('bandwidth = "2MiB/s"\n' + path.read_text())

    def start(contained: bool) -> None:
        prefix = in_a_container(pair.folder) if contained else ()
        done = flashmirror("start", str(path), prefix=prefix)
        assert done.returncode == 0, done.stderr

    saved: dict[Path, bytes] = {}

    def is_copied() -> bool:
        """The state folder's files of one instant in which a cycle is under way."""
        book = ledger.load(state)
        saved.update({file: file.read_bytes() for file in state.iterdir() if file.is_file()})
        return book.begun > book.committed and ledger.load(state) == book

    pair.start()
    direct.sync(pair)
    direct.stop(pair, "east")  # the log of its next run knows of nothing yet
    start(before)
    direct.sync(pair)
    with pair.client() as client:
        client.write(0, b"A" * MIB)
    direct.wait_for(is_copied, "a cycle")
    begun = ledger.load(state).begun
    direct.wait_for(lambda: ledger.load(state).committed == begun, "its commit")
    kill_site(pair, "west")
    with pair.client() as client:
        client.write(6 * MIB, b"B" * 4096)
        client.flush()
    kill_site(pair, "east")
    for file in state.iterdir():
        if file in saved:
            with file.open("r+b") as found:
                found.write(saved[file])
                found.truncate()
    pair.start("west")
    start(now)
    direct.sync(pair)
    assert pair.image("east").read_bytes() == pair.image("west").read_bytes()
