"""How large a world is, and how it runs: drawn from its seed, or given."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from mirror_core import limits

SECTOR = 512
_NAMES = "abcd"


def sectors_in(size: int) -> int:
    """The last one may be short."""
    return -(-size // SECTOR)


@dataclass(frozen=True)
class Shape:
    sizes: dict[str, int]
    block: int = SECTOR
    preserve: Literal["both", "first"] = "both"
    on_link_loss: Literal["degrade", "block"] = "degrade"
    clients: int = 1
    think_ns: int = 0  # of a client, now and then: at most that, or as it has to do (clients.py)
    disk_errors: bool = False
    stride: int = 1
    tick_ns: int = 1_000
    laggard: str = ""
    slice_s: float = 2e-7  # of the second flashcopy: small batches of hardening
    lanes: int = 1  # of writers who wait for a copy
    unit: int = SECTOR  # under one checksum, when a source compares
    sums: int = 2048  # in one request
    copy_s: float = 0.5  # of the first flashcopy, between two looks of its control
    stable_s: float = 2.0  # between two records of what is stable
    cool_s: int = 30  # of a region of the intent log
    again: float = 0.0  # the chance that a write is of bytes that were written before
    seeded: bool = False  # the target begins with a copy that is not exact
    pace: float = 1.0  # switches for each that an act lets pass
    early: bool = True  # faults come while the sites boot and shake hands
    rate: int = 0  # of the link, bytes a (virtual) second; 0: without bound
    stalls: bool = False  # threads of the control stand still between statements
    # Each a switch, to be off while production does not survive that kind.
    exceptions: bool = False  # at the N-th call of the platform
    # What a failed flush has lost may be in the cache for a while (SIM_LOSE_LATER).
    later: bool = False
    one_disk: bool = False  # below most that a machine has: what a flush of one has lost, all have
    returning_s: float = 30.0  # a client who comes back so late is told of no loss (news.h)
    wait_s: float = 3.5  # freeze_max + link_timeout are promised (timeouts.py), and looks take time
    served: float = 0.0  # the chance that a store is behind a server (sites.py), not a file
    local: float = 0.0  # the chance that of a file only the own kernel keeps a cache (below.py)
    known: bool = True  # which process that server is (a Unix socket's), not one over TCP
    exposure: bool = True  # its figure is judged (tells.py)
    older: float = 0.0  # the chance that a life speaks the older protocol at most
    contained: float = 0.0  # the chance that a life does not know its machine's boot (platform.py)
    sampled: int = 16  # of a store's first sectors, for its fingerprint

    @classmethod
    def of(cls, rng: random.Random) -> Shape:
        sectors = [rng.randrange(2, 17)]
        if rng.random() < 0.6:
            sectors += [rng.randrange(2, 9) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        elif rng.random() < 0.1:
            sectors = [rng.randrange(65, 140)]  # more than a level of a map
        short = [rng.randrange(1, SECTOR) if rng.random() < 0.2 else 0 for _ in sectors]
        sizes = {_NAMES[i]: SECTOR * n - short[i] for i, n in enumerate(sectors)}
        return cls(
            sizes,
            block=SECTOR
            if sectors[0] > 64
            else rng.choice((512, 512, 512, 1024, 1024, 2048, 4096)),
            preserve=rng.choice(("both", "both", "first")),
            on_link_loss="block" if rng.random() < 0.12 else "degrade",
            clients=rng.randrange(1, 4),
            disk_errors=rng.random() < 0.6,
            stride=rng.choice((1, 2, 4, 8, 16)),
            tick_ns=rng.choice((1_000, 100_000, 3_000_000)),
            laggard=rng.choice(("", "west: control", "west: control", "east: control")),
            slice_s=rng.choice((0.002, 2e-7, 2e-7)),
            lanes=rng.choice((1, 1, 2, 3)),
            unit=rng.choice((512, 1024)),
            sums=rng.choice((2, 2048)),
            copy_s=rng.choice((0.5, 2e-4, 2e-4)),
            stable_s=rng.choice((0.0, 0.0, 0.002, 2.0)),
            cool_s=rng.choice((30, 1, 0, 0)),
            again=rng.choice((0.0, 0.3)),
            seeded=rng.random() < 0.08,
            pace=0.6,
            early=rng.random() < 0.1,
            exceptions=rng.random() < 0.4,
            later=rng.random() < 0.5,
            stalls=rng.random() < 0.15,
            returning_s=rng.choice((0.0, 30.0, 30.0)),
            rate=int(10 ** rng.uniform(5, 7)) if rng.random() < 0.2 else 0,
            one_disk=rng.random() < 0.4,
            served=rng.choice((0.0, 0.5, 1.0)),
            known=rng.random() < 0.6,
            sampled=rng.choice((16, 16, 1)),
            local=rng.choice((0.0, 1.0, 1.0)),
            older=rng.choice((0.0, 0.0, 0.3, 1.0)),
            contained=0.5 if rng.random() < 0.15 else 0.0,
        )

    def set_limits(self) -> None:
        limits.SAMPLE_BYTES, limits.SAMPLES, limits.SAMPLES_FIRST = SECTOR, 3, self.sampled
        limits.HARDEN_SLICE_S = self.slice_s
        limits.PRIORITY_LANES = self.lanes
        limits.COMPARE_UNIT_BYTES, limits.COMPARE_SUMS = self.unit, self.sums
        limits.COMING_BACK_S = self.returning_s
        limits.SLICE_S = limits.SLICE_SHORT_S = self.copy_s
        limits.INTENT_COOL_S = self.cool_s
        limits.STABLE_S, limits.STABLE_SHARE = self.stable_s, 1
