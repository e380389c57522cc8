"""What a site does at a handshake, a commit and a stop does not take longer than anybody waits,
however many lone blocks there are."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64
from test_ledger import sample

from mirror_core import (
    config,
    creation,
    flashcopy,
    hardlog,
    limits,
    native,
    protocol,
    runlog,
    written,
)
from mirror_core.ledger import Lineage, Role
from mirror_core.site import Site
from mirror_core.target import Target

BLOCK = limits.BLOCK_SIZE_DEFAULT
SECTOR = 512
LONE = 8_000_000


@contextmanager
def volume(folder: Path, blocks: int) -> Iterator[native.Volume]:
    """A volume whose stores are holes."""
    opened = []
    for name in ("front", "first"):
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.truncate(fd, blocks * SECTOR)
        opened.append(native.Store.file(fd, blocks * SECTOR))
    made = native.Volume(opened[0], opened[1], blocks * SECTOR, SECTOR, False)
    try:
        yield made
    finally:
        made.close()
        for store in opened:
            store.close()


RUN = st.tuples(
    st.integers(0, 3 << 16) | st.integers((1 << 32) - 70_000, (1 << 32) + 70_000),
    st.integers(1, 3) | st.integers(4_000, 4_200) | st.integers(60_000, 140_000),
)


@settings(deadline=None)
@given(runs=st.lists(RUN, max_size=30), seed=st.none() | st.integers(0, 99))
def test_a_map_goes_out_and_in_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]], seed: int | None
) -> None:
    """Lone blocks, runs, whole containers and their borders, past 2**32 blocks too: what Python
    gets of a map is what was marked, and what it marks is what another volume then holds; packed
    runs make up the same set, in any order and more than once."""
    expected = BitMap64()
    for first, count in runs:
        expected.add_range(first, first + count)
    if seed is not None:  # so dense and so torn that a bitset is the shortest
        expected |= BitMap64(random.Random(seed).sample(range(2 << 16), 1 << 15))
    packed = memoryview(flashcopy.packed_runs_of(expected))
    half = len(packed) // 32 * 16
    made = native.Runs((1 << 32) + (1 << 18))
    assert made.add(packed[half:]) and made.add(packed)
    assert BitMap64.deserialize(made.portable()) == expected
    with volume(tmp_path_factory.mktemp("v"), (1 << 32) + (1 << 18)) as one:
        for pending, which in ((False, native.NEXT), (True, native.PENDING)):
            flashcopy.mark(one, expected, pending=pending)
            assert flashcopy.bitmap_of(one, which) == expected
        assert one.stats().next_blocks == one.stats().pending_blocks == len(expected)
        assert list(one.runs(native.NEXT)) == [
            (first, count) for first, count in zip(*[iter(packed.cast("Q"))] * 2, strict=True)
        ]


def site(folder: Path, name: str, role: Role) -> Site:
    """A site in this process, of one volume with room for so many lone blocks."""
    (folder / name).mkdir()
    for part in ("data", "intermediate"):
        (folder / name / part).touch()
        os.truncate(folder / name / part, 2 * LONE * BLOCK)
    (folder / f"{name}.toml").write_text(
        f'name = "{name}"\nlisten = ["unix:{folder}/{name}.sock"]\n'
        f'peer = "unix:{folder}/other.sock"\nstate = "{folder}/{name}/state"\n'
        f'[[volume]]\nname = "disk"\ndata = "{folder}/{name}/data"\n'
        f'intermediate = "{folder}/{name}/intermediate"\n'
    )
    settings = config.load(str(folder / f"{name}.toml"))
    creation.create(settings, role)
    return Site(settings)


class Clock:
    """How long this machine worked on each of a site's operations: the disk's time, and that of
    other processes, is not counted."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.took[what] = time.thread_time() - began


@pytest.mark.alone
def test_many_millions_of_lone_blocks_are_nothing_to_wait_for(scratch: Path) -> None:
    """A target to which 8 million lone blocks were written answers a handshake, one that goes on
    with what was stable, and a commit, and stops: each within half of link_timeout; it records
    what is stable within link_timeout."""
    lone = BitMap64(array("Q", range(0, 2 * LONE, 2)))
    target = site(scratch, "west", "target")
    target.start()
    control, member = target.control, target.members[0]
    assert isinstance(control, Target)
    clock = Clock()
    shapes = (protocol.VolumeShape("disk", 2 * LONE * BLOCK, BLOCK),)

    def hello(session: int, resumes: int = 0, stable: int = 0) -> protocol.Welcome:
        return control.handshake(
            protocol.Handshake("east", "1" * 32, session, shapes, "2" * 32, resumes, stable)
        )

    hello(1)
    flashcopy.mark(member.native, lone)  # as if the session had written them
    with clock.time("handshake"):
        hello(2)
    flashcopy.mark(member.native, lone)
    with clock.time("stable"):
        while not control.stabilize(protocol.Stable(2, 1, 1)).done:
            pass
    with clock.time("resumed handshake"):
        assert hello(3, resumes=1, stable=1).resumed
    assert member.native.stats().next_blocks == LONE
    with clock.time("commit"):
        while not control.commit(protocol.Commit("1" * 32, 3, 1, 1.0)).done:
            pass
    assert flashcopy.bitmap_of(member.native, native.PENDING, native.SENT) <= lone
    member.native.fail(5, flashcopy.FRONT)  # or the second flashcopy would take its minutes
    with clock.time("stop"):
        target.stop()
    assert clock.took.pop("stable") < limits.LINK_TIMEOUT_S
    slow = {what: s for what, s in clock.took.items() if s > limits.LINK_TIMEOUT_S / 2}
    assert not slow, clock.took


@pytest.mark.parametrize("kind", [written.KIND, hardlog.KIND])
def test_a_start_after_a_kill_needs_little_more_memory_than_its_log(
    tmp_path: Path, kind: str
) -> None:
    """A target that was killed in a cycle, or a second flashcopy, of very many lone blocks finds
    what its log says in no more than twice that log's size: a machine on which it has run starts it
    again, and promotes."""
    lone = BitMap64(array("Q", range(0, 400_000, 2)))
    book = sample(
        role="target", lineage=Lineage("l" * 32), committed=7, maps={"disk/pending": lone}
    )
    history = runlog.History(written.KIND, book.site, "l" * 32, 8, "t" * 32)
    if kind == hardlog.KIND:
        history = hardlog.history_of(book)
    log = runlog.RunLog(tmp_path, kind, book.run)
    log.append(history, {0: flashcopy.packed_runs_of(lone)})
    log.close()
    tracemalloc.start()
    if kind == hardlog.KIND:
        found = lone - hardlog.recover(tmp_path, book).maps["disk/pending"]
    else:
        found = written.recover(tmp_path, book)[1]["disk"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == lone
    size = runlog.path_in(tmp_path, kind, book.run).stat().st_size
    assert peak < 2 * size, f"{peak / size:.1f} times the log"
