"""Whether an image is an exact prefix of every chain, and all prefixes are of one moment.

For each chain the numbers n are found for which the image is exactly what its first n writes
leave.  With old values written again there may be several.  Prefix n is possible at the moments
from the issue of write n to the acknowledgement of write n + 1; the image is right if one moment
is possible for all chains.  It may not lie before the moment of an earlier image, or before the
moment that a command has promised.

Left out: which of the writes in flight an image has, which is free.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from chaoslib.chains import NEVER, Chain
from chaoslib.record import ChaosFailure

Reader = Callable[[int, int, int], bytes]  # volume, offset, length -> bytes


@dataclass(frozen=True)
class Prefix:
    """The first `writes` writes; possible from `begin` to `end`."""

    writes: int
    begin: float
    end: float


@dataclass
class Step:
    """The chain's state after its first `writes` writes, against an image."""

    writes: int
    wrong: int  # units
    begin: float
    end: float
    units: list[list[int]]  # the values of both volumes


def walk(chain: Chain, image: Sequence[Sequence[int]]) -> Iterator[Step]:
    """From prefix to prefix of the chain's history; `units` belongs to the walk."""
    with chain.lock:
        writes = list(chain.writes)
        now = [list(units) for units in chain.base]
    wrong = sum(
        a != b for mine, its in zip(now, image, strict=True) for a, b in zip(mine, its, strict=True)
    )
    begin = 0.0
    for n, write in enumerate(writes):
        yield Step(n, wrong, begin, write.acknowledged, now)
        units, meant = now[write.volume], image[write.volume]
        for i in range(write.first, write.first + write.count):
            wrong += (meant[i] != write.value) - (meant[i] != units[i])
            units[i] = write.value
        begin = write.issued
    yield Step(len(writes), wrong, begin, NEVER, now)


def prefixes(chain: Chain, image: Sequence[Sequence[int]]) -> list[Prefix]:
    """All prefixes of the chain's history that leave this image, the shortest first."""
    return [Prefix(s.writes, s.begin, s.end) for s in walk(chain, image) if not s.wrong]


class Judge:
    def __init__(self, chains: Sequence[Chain]) -> None:
        self._chains = chains
        self._floor = 0.0  # no image is of an earlier moment any more

    def go_back(self) -> None:
        """The source itself has gone back in time, and its images with it."""
        self._floor = 0.0

    def check(self, read: Reader, promised: float = 0.0) -> list[int]:
        """The length of each chain's prefix.  ChaosFailure, unless the image is of one moment
        that is not before `promised`."""
        images = [
            [
                chain.values_of(v, read(v, region.offset, region.units * chain.unit))
                for v, region in enumerate(chain.regions)
            ]
            for chain in self._chains
        ]
        possible = []
        for chain, image in zip(self._chains, images, strict=True):
            found = prefixes(chain, image)
            if not found:
                raise ChaosFailure(_difference(chain, image))
            possible.append(found)
        return self._one_moment(possible, max(self._floor, promised))

    def _one_moment(self, possible: list[list[Prefix]], floor: float) -> list[int]:
        starts = {floor} | {p.begin for found in possible for p in found if p.begin > floor}
        for moment in sorted(starts):  # if any moment is possible, a beginning is
            chosen = []
            for found in possible:
                last = bisect.bisect_right([p.begin for p in found], moment)
                fitting = [p for p in found[:last] if p.end >= moment]
                if not fitting:
                    break
                chosen.append(fitting[0])
            else:
                self._floor = moment
                return [prefix.writes for prefix in chosen]
        text = "; ".join(
            f"chain {chain.number}: {[(p.writes, round(p.begin, 4), round(p.end, 4)) for p in f]}"
            for chain, f in zip(self._chains, possible, strict=True)
        )
        raise ChaosFailure(
            f"the image is not of one moment at or after {floor:.4f}; each chain's prefixes and "
            f"when they are possible: {text}"
        )


def _difference(chain: Chain, image: Sequence[Sequence[int]]) -> str:
    """The prefix that comes nearest, and the first units that are wrong in it."""
    nearest = min(step.wrong for step in walk(chain, image))
    step = next(step for step in walk(chain, image) if step.wrong == nearest)
    wrong = [
        f"volume {volume} unit {i}: holds {holds}, not {meant}"
        for volume, (its, mine) in enumerate(zip(image, step.units, strict=True))
        for i, (holds, meant) in enumerate(zip(its, mine, strict=True))
        if holds != meant
    ]
    return (
        f"wrong bytes: chain {chain.number} (units of {chain.unit} bytes from "
        f"{[region.offset for region in chain.regions]}): no prefix of its {len(chain.writes)} "
        f"writes since the last image leaves this image; nearest are the first {step.writes} with "
        f"{nearest} wrong units: {', '.join(wrong[:8])}"
    )
