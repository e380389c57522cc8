"""After a sync the target's image is the source's, whatever was written, zeroed and trimmed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import direct
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbd_client import FUA, NO_HOLE, TRIM, ZEROES, NbdClient
from pair import SOAK, Pair
from served import create_anew, serve

pytestmark = pytest.mark.timeout(300 * SOAK)

KIB, MIB = 1 << 10, 1 << 20
# (bytes, block size, whether the data stores are behind NBD servers)
SHAPES = [
    (511, 512, False),
    (100_001, 4 * KIB, True),
    (MIB + 1, 4 * KIB, False),
    (3 * MIB + 511, MIB, False),
    # so far also with restarts
    (1, 512, False),
    (513, 4 * KIB, True),
    (4097, 4 * KIB, False),
    (MIB + 1, 512, False),
    (2 * MIB, 64 * KIB, False),
]
RESTARTED = SHAPES[:4]


@dataclass(frozen=True)
class Change:
    kind: Literal["write", "zero", "trim"]
    offset: int
    length: int
    fill: int
    flags: int

    def apply(self, client: NbdClient, model: bytearray) -> None:
        data = bytes(self.length)
        if self.kind == "write":
            data = bytes((self.fill + i) % 251 for i in range(min(self.length, 251)))
            data = (data * (self.length // 251 + 1))[: self.length]
            client.write(self.offset, data, self.flags & FUA)
        else:
            kind = ZEROES if self.kind == "zero" else TRIM
            client.send(kind, self.offset, self.length, flags=self.flags)
            client.receive()
        model[self.offset : self.offset + self.length] = data


@st.composite
def changes(draw: st.DrawFn, size: int, block: int) -> Change:
    """A change of any size and alignment, often near the edges of blocks and the end."""
    edges = st.builds(
        lambda number, off: min(max(number * block + off, 0), size - 1),
        st.integers(0, size // block + 1),
        st.integers(-2, 2),
    )
    offset = draw(st.one_of(edges, st.integers(0, size - 1), st.just(size - 1)))
    end = draw(st.one_of(edges, st.integers(0, size - 1), st.just(size - 1)))
    low, high = min(offset, end), max(offset, end) + 1
    kind = draw(st.sampled_from(["write", "write", "zero", "trim"]))
    flags = draw(st.sampled_from([0, FUA]))
    if kind == "zero":
        flags |= draw(st.sampled_from([0, NO_HOLE]))
    return Change(kind, low, high - low, draw(st.integers(0, 250)), flags)  # type: ignore[arg-type]


class Subject:
    """A running pair, used by one example after another, and what its source must hold."""

    def __init__(self, folder: Path, size: int, block: int, served: bool) -> None:
        self.size, self.block = size, block
        self.pair = Pair(folder, "--size", str(size), "--block-size", str(block))
        self.servers = []
        if served:
            for site, role in (("east", "source"), ("west", "target")):
                self.servers.append(serve(self.pair, site))
                self.servers[-1].start()
                create_anew(self.pair, site, role)
        self.running: set[str] = set()
        self.model = bytearray(size)
        self.client: NbdClient | None = None

    def connected(self) -> NbdClient:
        if self.client is None:
            self.client = self.pair.client()
        return self.client

    def begin(self) -> None:
        """Both sites run and hold nothing but zeroes, the target perhaps a little later."""
        for site in ("west", "east"):
            self.start(site)
        direct.resume(self.pair)
        Change("trim", 0, self.size, 0, 0).apply(self.connected(), self.model)

    def start(self, site: str) -> None:
        if site not in self.running:
            self.pair.start(site)
            self.running.add(site)

    def stop(self, site: str) -> None:
        if site == "east" and self.client:
            self.client.close()
            self.client = None
        self.pair.stop(site)
        self.running.discard(site)

    def do(self, step: Change | str) -> None:
        match step:
            case Change():
                step.apply(self.connected(), self.model)
            case "sync":
                self.check_equal()
            case "pause":
                direct.pause(self.pair)
            case "resume":
                direct.resume(self.pair)
            case "stop west" | "stop east":
                self.stop(step[5:])
            case "start west" | "start east":
                self.start(step[6:])

    def check_equal(self) -> None:
        direct.sync(self.pair)
        assert self.connected().read(0, self.size) == self.model
        for site in ("east", "west"):
            assert self.pair.image(site).read_bytes() == self.model, site

    def end(self) -> None:
        if self.client:
            self.client.close()
        self.pair.kill()
        for server in self.servers:
            server.stop()


def shape_name(shape: tuple[int, int, bool]) -> str:
    return f"{shape[0]}B-{shape[1]}" + ("-served" if shape[2] else "")


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    folder = Path(tempfile.mkdtemp(prefix="flashmirror-", dir="/dev/shm"))
    try:
        subject = Subject(folder / "pair", *request.param)
        yield subject
        subject.end()
    finally:
        shutil.rmtree(folder)


def steps(data: st.DataObject, subject: Subject, extra: list[list[str]]) -> list[Change | str]:
    """Changes in disorder, with some of the `extra` in between, each in its order."""
    change = changes(subject.size, subject.block)
    result: list[Change | str] = list(data.draw(st.lists(change, min_size=1, max_size=12)))
    for words in extra:
        places = data.draw(
            st.lists(st.integers(0, 13), min_size=len(words), max_size=len(words)).map(sorted)
        )
        for shift, (place, word) in enumerate(zip(places, words, strict=True)):
            result.insert(place + shift, word)
    return result


EXAMPLES = settings(
    max_examples=10 * SOAK,
    deadline=None,
    database=None,
    derandomize=SOAK == 1,  # make soak looks for what these examples do not show
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("subject", SHAPES, indirect=True, ids=shape_name)
@EXAMPLES
@given(data=st.data())
def test_sync_makes_both_images_the_model(subject: Subject, data: st.DataObject) -> None:
    """After writes, zeroes and trims of all sizes and alignments, with syncs and pauses in
    between, a sync makes both images identical to a model; trimmed ranges read as zeroes."""
    todo = steps(data, subject, [["sync"], ["pause", "resume"], ["pause", "sync"]])
    subject.begin()
    for step in todo:
        subject.do(step)
    subject.check_equal()


@pytest.mark.parametrize("subject", RESTARTED, indirect=True, ids=shape_name)
@settings(EXAMPLES, max_examples=2 * SOAK)
@given(data=st.data())
def test_restarts_lose_no_change(subject: Subject, data: st.DataObject) -> None:
    """The same when either site is stopped and started in between, the target with changes
    while it is away."""
    todo = steps(data, subject, [["stop west", "start west"], ["stop east"], ["sync"]])
    subject.begin()
    for step in todo:
        if step == "sync":
            subject.do("start west")
        subject.do(step)
        if step == "stop east":
            subject.do("start east")
    subject.do("start west")
    subject.check_equal()


def occupied(path: Path) -> int:
    """The bytes that a file takes up."""
    return path.stat().st_blocks * 512


@pytest.fixture
def sparse(make_pair: Callable[..., Pair]) -> Iterator[tuple[Pair, NbdClient]]:
    """A pair of 64 MiB with 4 MiB of data at 32 MiB, synced."""
    pair = make_pair("--size", "64M")
    pair.start()
    with pair.client() as client:
        client.write(32 * MIB, b"\xa5" * 4 * MIB)
        direct.sync(pair)
        yield pair, client


def test_what_is_sparse_stays_sparse_at_the_target(sparse: tuple[Pair, NbdClient]) -> None:
    """Neither the target's data store nor an intermediate takes up more than was written."""
    pair, _ = sparse
    for site in ("east", "west"):
        for name in ("disk.img", "disk.intermediate.img"):
            path = pair.folder / site / name
            assert 4 * MIB <= occupied(path) <= 4 * MIB + 64 * KIB, path


def test_a_zero_over_data_arrives_as_a_hole(sparse: tuple[Pair, NbdClient]) -> None:
    """Data that is trimmed or zeroed at the source becomes a hole at the target, even where the
    source keeps the space, and reads as zeroes."""
    pair, client = sparse
    for at, (kind, flags) in enumerate([(TRIM, 0), (ZEROES, 0), (ZEROES, NO_HOLE)]):
        client.send(kind, (32 + at) * MIB, MIB, flags=flags)
        client.receive()
        direct.sync(pair)
        assert occupied(pair.image("west")) <= (3 - at) * MIB + 64 * KIB
        assert client.read((32 + at) * MIB, MIB) == bytes(MIB)
    assert pair.image("west").read_bytes() == pair.image("east").read_bytes()


def test_zeroes_that_are_written_as_data_arrive_as_a_hole(
    sparse: tuple[Pair, NbdClient],
) -> None:
    """A copy rediscovers zeroes: written as data over data, they are a hole at the target."""
    pair, client = sparse
    client.write(32 * MIB, bytes(4 * MIB))
    direct.sync(pair)
    assert occupied(pair.image("west")) <= 64 * KIB
