"""64 TiB against 1 GiB: nothing may depend on the volume's size but the volume.

Both volumes are empty, sparse files. Each round writes 1,000 distinct 4 KiB blocks at random
offsets of the paused pair, then syncs; and the same blocks once more. The first touch also pays for
new pages, those of the images (on tmpfs, with nodes of its tree for each lone page of 64 TiB) and
of the maps; the second shows the cycle itself. A cycle's time is the source's own `last_cycle`,
because the time of the `sync` command, which the JSON has, is mostly the start of a program. As the
changed bytes are known here, wire bytes over changed bytes needs none of flashmirror's own counts
but the wire's.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass

from benchlib.flashmirror import Pair, cycling, wire_bytes
from benchlib.lab import KIB, MIB, Lab, say
from benchlib.load import Pace, Workload, put_on, write_blocks

SMALL, LARGE = "1G", "64T"

_BLOCKS = 1000
_BLOCK_BYTES = 4 * KIB
_HOLD_LOAD = Workload("randwrite-4k-d32", "randwrite", "4k", 32)
_HOLD_AREA = ("--offset=32T", f"--size={256 * MIB}")


@dataclass(frozen=True)
class Cycle:
    """One sync of the dirty blocks."""

    cycle_seconds: float
    sync_seconds: float
    wire_over_changed: float


@dataclass(frozen=True)
class Scale:
    """What the large volume costs; the cycles of both, by size, in the order of the rounds."""

    first_touch: dict[str, list[Cycle]]
    again: dict[str, list[Cycle]]
    start_seconds: float
    first_sync_seconds: float
    restart_seconds: float
    resident_bytes_source: int
    resident_bytes_target: int
    hold_seconds_p99: float | None
    hold_seconds_mean: float | None

    def all_cycles(self) -> list[Cycle]:
        by_size = (*self.first_touch.values(), *self.again.values())
        return [cycle for cycles in by_size for cycle in cycles]


def measure_scale(lab: Lab, rounds: int, pace: Pace) -> Scale:
    folder = lab.folder / "scale"
    folder.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        small, large = (
            stack.enter_context(Pair(lab.flashmirror, folder / size, size))
            for size in (SMALL, LARGE)
        )
        small.start_both()
        large.start(large.target)
        start_seconds = large.start(large.source)
        first_sync_seconds = large.sync()
        say(f"[scale] {LARGE}: start {start_seconds:.2f} s, first sync {first_sync_seconds:.2f} s")
        small.sync()
        first_touch: dict[str, list[Cycle]] = {SMALL: [], LARGE: []}
        again: dict[str, list[Cycle]] = {SMALL: [], LARGE: []}
        for pair in (small, large):
            pair.pause()
        for seed in range(1, rounds + 1):
            for cycles in (first_touch, again):
                for size, pair in ((SMALL, small), (LARGE, large)):
                    cycles[size].append(_cycle(size, pair, seed))
        resident = {site: large.resident_bytes(site) for site in (large.source, large.target)}
        restart_seconds = _restart(large)
        with cycling(large) as facts:
            put_on(large.uri(), _HOLD_LOAD, pace, seed=1, area=_HOLD_AREA)
    return Scale(
        first_touch=first_touch,
        again=again,
        start_seconds=start_seconds,
        first_sync_seconds=first_sync_seconds,
        restart_seconds=restart_seconds,
        resident_bytes_source=resident[large.source],
        resident_bytes_target=resident[large.target],
        hold_seconds_p99=facts["hold_seconds_p99"],
        hold_seconds_mean=facts["hold_seconds_mean"],
    )


def _cycle(size: str, pair: Pair, seed: int) -> Cycle:
    write_blocks(pair.uri(), _BLOCKS, seed, sparse=size == LARGE)
    before = pair.metrics()
    sync_seconds = pair.sync()
    wire = wire_bytes(before, pair.metrics())
    cycle_seconds: float = pair.status(pair.source)["last_cycle"]["duration_seconds"]
    say(f"[scale] {size}: cycle of {_BLOCKS} blocks {cycle_seconds * 1000:.1f} ms")
    return Cycle(cycle_seconds, sync_seconds, wire / (_BLOCKS * _BLOCK_BYTES))


def _restart(pair: Pair) -> float:
    pair.stop(pair.source)
    seconds = pair.start(pair.source)
    say(f"[scale] {LARGE}: restart {seconds:.2f} s")
    return seconds
