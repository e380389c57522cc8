"""Block devices as stores: whatever is written, zeroed and trimmed there in disorder, both images
are a model's, byte by byte; and what was to be on the disk is below the device.

On loop devices of both sector sizes, with a discard and without; every store of both sites is one.
`test_equality` has the same operations on files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import direct
import pytest
from handmade import Handmade, kill
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import Loop, needs_loops
from nbd_client import FAST_ZERO, FUA, NbdError
from pair import SOAK
from test_equality import EXAMPLES, Change, Subject, steps

pytestmark = [needs_loops, pytest.mark.timeout(300 * SOAK)]

KIB = 1 << 10
SIZE = 256 * KIB
_SET_BLOCK_SIZE = 0x4C09  # linux/loop.h: LOOP_SET_BLOCK_SIZE
# (bytes of a sector, block size, whether it takes a discard)
SHAPES = [
    (512, 4 * KIB, True),
    (4096, 4 * KIB, True),
    (4096, 512, True),
    (512, 16 * KIB, False),
]


class Device:
    """A loop device with such sectors."""

    def __init__(self, file: Path, sector: int, *, discards: bool) -> None:
        self.loop = Loop(file, SIZE)
        self.queue = Path(f"/sys/block/loop{self.loop.number}/queue")
        fd = os.open(self.loop.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _set_sector(fd, sector)
        finally:
            os.close(fd)
        assert int(self._said("logical_block_size")) == sector
        if discards:
            assert int(self._said("discard_granularity")) >= sector
        else:
            (self.queue / "discard_max_bytes").write_text("0")
        assert (self._said("discard_max_bytes") != "0") == discards

    def _said(self, name: str) -> str:
        return (self.queue / name).read_text().strip()

    def read(self) -> bytes:
        """As whoever has the device open reads it."""
        return self.loop.path.read_bytes()

    def below(self, offset: int = 0, length: int = SIZE) -> bytes:
        """What has reached the disk: nothing of it is in the device's cache only."""
        with self.loop.file.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def _set_sector(fd: int, sector: int) -> None:
    """The kernel says EAGAIN while what it has read of the device is not written."""
    deadline = time.monotonic() + 20
    while True:
        try:
            fcntl.ioctl(fd, _SET_BLOCK_SIZE, sector)
            return
        except BlockingIOError:
            assert time.monotonic() < deadline
        time.sleep(0.01)


class OnDevices(Subject):
    def __init__(self, folder: Path, sector: int, block: int, discards: bool) -> None:
        self.size, self.block, self.servers = SIZE, block, []
        self.pair = pair = Handmade(folder, SIZE, f'block_size = "{block}"')
        self.devices = {
            (site, part): Device(folder / f"{site}-{part}.raw", sector, discards=discards)
            for site in ("east", "west")
            for part in ("data", "intermediate")
        }
        pair.stores = {place: str(one.loop.path) for place, one in self.devices.items()}
        pair.create()
        self.running, self.client, self.model = set(), None, bytearray(SIZE)

    def do(self, step: Change | str) -> None:
        if step == "flush":
            self.connected().flush()
            assert self.devices["east", "data"].below() == self.model
            return
        super().do(step)
        if isinstance(step, Change) and step.flags & FUA:
            end = step.offset + step.length
            below = self.devices["east", "data"].below(step.offset, step.length)
            assert below == self.model[step.offset : end], f"{step} is acknowledged"

    def check_equal(self) -> None:
        direct.sync(self.pair)
        assert self.connected().read(0, SIZE) == self.model
        for site in ("east", "west"):
            assert self.devices[site, "data"].read() == self.model, site
        assert self.devices["west", "data"].below() == self.model, "not on the target's disk"

    def zero_fast(self, offset: int, length: int) -> None:
        """It is zeroed, or nothing is changed."""
        client = self.connected()
        with contextlib.suppress(NbdError):
            client.zero(offset, length, FAST_ZERO)
            self.model[offset : offset + length] = bytes(length)
        assert client.read(0, SIZE) == self.model

    def end(self) -> None:
        super().end()
        for device in self.devices.values():
            device.loop.close()


def shape_name(shape: tuple[int, int, bool]) -> str:
    return f"{shape[0]}B-{shape[1]}" + ("" if shape[2] else "-no-discard")


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Iterator[OnDevices]:
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-", dir="/dev/shm"))
    try:
        subject = OnDevices(folder / "pair", *request.param)
        yield subject
        subject.end()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("subject", SHAPES, indirect=True, ids=shape_name)
@settings(EXAMPLES, max_examples=5 * SOAK)
@given(data=st.data())
def test_both_devices_are_the_model_and_what_is_flushed_is_below(
    subject: OnDevices, data: st.DataObject
) -> None:
    """Writes, zeroes and trims of any alignment, with FUA and without, over bytes that are flushed
    or not, with flushes and syncs in between; `make soak` also stops and starts the target."""
    restart = [["stop west", "start west"]] if SOAK > 1 else []
    todo = steps(data, subject, [["sync"], ["flush", "flush"], ["pause", "resume"], *restart])
    subject.begin()
    for step in todo:
        if step == "sync":
            subject.do("start west")
        subject.do(step)
    subject.do("flush")
    subject.do("start west")
    subject.check_equal()


@pytest.mark.parametrize("subject", SHAPES, indirect=True, ids=shape_name)
def test_a_zero_or_trim_is_over_what_was_not_flushed(subject: OnDevices) -> None:
    """Of every alignment near the edges of sectors and pages: the bytes beside it stay, those
    below it do not come back from the device's cache, and with FUA all of it is on the disk.  A
    zero that is to be fast is done, or is refused and has changed nothing.  An end in order leaves
    nothing in the cache, and the next start finds the devices as they were."""
    subject.begin()
    ranges = [
        (at + a, n + b)
        for at in (0, 8192)
        for n in (512, 4096, 8192)
        for a in (0, 1, 511, 512)
        for b in (0, 1, 512)
    ]
    for number, (offset, length) in enumerate(ranges):
        subject.do(Change("write", 0, 32 * KIB, number, 0))
        fua = FUA if number % 3 else 0
        subject.do(Change("trim" if number % 2 else "zero", offset, length, 0, fua))
        assert subject.connected().read(0, 32 * KIB) == subject.model[: 32 * KIB]
        subject.zero_fast(32 * KIB + offset, length)
    subject.do("flush")
    subject.check_equal()
    subject.do("stop east")
    assert subject.devices["east", "data"].below() == subject.model
    subject.do("start east")
    subject.check_equal()


@pytest.mark.parametrize("killed", ["before-the-first-commit", "with-a-trim-to-send"])
def test_what_a_client_has_trimmed_of_a_thin_device_stays_free(scratch: Path, killed: str) -> None:
    """What a killed source copies it writes back first: of zeroes a device cannot tell whether they
    take space, and so none is taken for them."""
    loop = Loop(scratch / "thin.raw", 256 * SIZE)
    pair = Handmade(scratch / "pair", 256 * SIZE)
    pair.stores["east", "data"] = str(loop.path)
    try:
        pair.create()
        if killed == "with-a-trim-to-send":
            pair.start()
            direct.sync(pair)
            direct.pause(pair)
        else:
            pair.start("east")
        with pair.client() as client:
            for at in range(0, 64 * SIZE, SIZE):
                client.write(at, os.urandom(SIZE))
            client.flush()
            client.trim(SIZE, 63 * SIZE)
            client.flush()
        taken = loop.file.stat().st_blocks
        kill(pair, "east")
        pair.start(*(("east",) if killed == "with-a-trim-to-send" else ("west", "east")))
        direct.resume(pair)
        direct.sync(pair)
        os.sync()
        assert loop.file.stat().st_blocks <= 2 * taken
        assert pair.image("west").read_bytes() == loop.path.read_bytes()
    finally:
        pair.kill()
        loop.detach()
