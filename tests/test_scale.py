"""A volume of 64 TiB costs what is written to it, not what it could hold."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from handmade import eventually, state_of
from nbd_client import NbdClient
from pair import MakePair, Pair

TIB64 = 64 << 40
BLOCK = 4096
MEMORY_MAX_KIB = 200 * 1024
BLOCKS = 1000
SITES = ("east", "west")


def memory_kib(pair: Pair, site: str) -> int:
    """The most memory that the site's process ever held."""
    text = Path(f"/proc/{state_of(pair, site)['pid']}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found
    return int(found[1])


def assert_small(pair: Pair) -> None:
    for site in SITES:
        assert memory_kib(pair, site) <= MEMORY_MAX_KIB, site


def read_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), length, offset)


def test_64_tib_start_cycle_and_restart_in_200_mib(make_pair: MakePair) -> None:
    """The device has its size; both ends and the middle reach the target, before and after a
    restart; neither process holds more than 200 MiB, and holes stay holes."""
    pair = make_pair("--size", "64T")
    begin = time.monotonic()
    pair.start()
    assert time.monotonic() - begin < 20  # the bench asks for 2 s each
    places = {0: b"first", 1 << 45: b"middle", TIB64 - 5: b"last!"}
    with pair.client() as client:
        assert client.size == TIB64
        for offset, data in places.items():
            client.write(offset, data)
        client.zero(1 << 30, 1 << 20)
        client.trim(2 << 30, 1 << 20)
        pair.sync()
        assert_small(pair)
        pair.pause()
        places[TIB64 - BLOCK - 3] = b"over a block's edge"[:6]
        client.write(TIB64 - BLOCK - 3, places[TIB64 - BLOCK - 3])
    pair.stop()
    pair.start()
    assert state_of(pair)["volumes"][0]["next_bytes"] == 2 * BLOCK, "the maps came through"
    pair.sync()
    with pair.client() as client:
        for offset, data in places.items():
            assert client.read(offset, len(data)) == data
            assert read_at(pair.image("west"), offset, len(data)) == data
    assert_small(pair)
    for path in pair.folder.rglob("*.img"):
        assert path.stat().st_blocks * 512 < 4 << 20, path


@dataclass(frozen=True)
class Cost:
    """Of one cycle at one site: minor page faults, and calls of read(2) and write(2)'s kind."""

    faults: int
    calls: int

    @classmethod
    def now(cls, pid: int) -> Cost:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        calls = re.findall(r"sysc[rw]: (\d+)", Path(f"/proc/{pid}/io").read_text())
        return cls(int(fields[7]), sum(map(int, calls)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.faults - other.faults, self.calls - other.calls)


def dirty(client: NbdClient, first: int, stride: int) -> None:
    for i in range(BLOCKS):
        client.write(first + i * stride, os.urandom(8))


def costs(pair: Pair, first: int, stride: int) -> dict[str, Cost]:
    """What a cycle of 1,000 dirty blocks costs each site, once both maps were in use."""
    pids = {site: state_of(pair, site)["pid"] for site in SITES}
    found = {}
    with pair.client() as client:
        for _ in range(3):
            pair.pause()
            dirty(client, first, stride)
            before = {site: Cost.now(pids[site]) for site in SITES}
            pair.sync()
            found = {site: Cost.now(pids[site]) - before[site] for site in SITES}
    return found


def test_a_cycle_costs_what_changed_not_what_the_volume_holds(make_pair: MakePair) -> None:
    """1,000 dirty blocks at the end of 64 TiB: at most 4 times the page faults, and the same
    system calls, as at the end of 1 GiB; spread over all of it, a few pages a block."""
    large, small = make_pair("--size", "64T"), make_pair("--size", "1G")
    large.start()
    small.start()
    here = costs(large, TIB64 - 2 * BLOCKS * BLOCK, 2 * BLOCK)
    there = costs(small, (1 << 30) - 2 * BLOCKS * BLOCK, 2 * BLOCK)
    for site in SITES:
        assert here[site].faults <= 4 * there[site].faults + 200, (site, here, there)
        assert here[site].calls <= 1.5 * there[site].calls + 200, (site, here, there)
    stride = TIB64 // BLOCKS // BLOCK * BLOCK
    pids = {site: state_of(large, site)["pid"] for site in SITES}
    with large.client() as client:
        before = {site: Cost.now(pids[site]) for site in SITES}
        dirty(client, 0, stride)  # every block in pages of its own
        large.sync()
        for site in SITES:
            assert (Cost.now(pids[site]) - before[site]).faults <= 20 * BLOCKS, site
    assert_small(large)


def test_memory_follows_the_blocks_that_are_dirty(make_pair: MakePair) -> None:
    """Writes to the same regions all over 64 TiB, cycle after cycle, do not add up."""
    pair = make_pair("--size", "64T")
    pair.start()
    sizes = []
    with pair.client() as client:
        for turn in range(6):
            dirty(client, turn * BLOCK, TIB64 // BLOCKS // BLOCK * BLOCK)
            pair.sync()
            eventually(lambda: state_of(pair)["volumes"][0]["next_bytes"] == 0, "all is mirrored")
            sizes.append([memory_kib(pair, site) for site in SITES])
    assert max(sizes[-1]) <= max(sizes[2]) + 8 * 1024, sizes
    assert_small(pair)
