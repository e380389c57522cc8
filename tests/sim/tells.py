"""What a site says of itself must be so: `status`, whenever the oracle looks.

- A control thread that has ended is never `mirroring` or `initial`, nor without a reason.
- `committed` and `hardened_sequence` of a source are never ahead of what the target's disk holds.
- Exposure is never 0 on a source with bytes that no committed point holds (Shape.exposure: not
  yet kept by production).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror_core import status
from sim.sched import Violation
from sim.sites import Machine

if TYPE_CHECKING:
    from sim.world import World


def check(world: World, machine: Machine) -> None:
    life = machine.life
    if not (life and life.site and life.control) or life.stopping:
        return
    told = status.of(life.site)
    if life.control._ended and (told["state"] in ("mirroring", "initial") or not told["reason"]):
        raise Violation(f"{machine.name} says {told['state']}, but its control has ended")
    if life.source:
        _of_source(world, machine, told)


def _of_source(world: World, machine: Machine, told: dict[str, Any]) -> None:
    other = world.other(machine)
    assert machine.life and machine.life.site
    history = world.histories[told["lineage"]]
    committed, hardened = told["committed"]["sequence"] or 0, told["hardened_sequence"] or 0
    if other.follows is history and committed > history.given_up:
        book = other.book_on_disk(other.fs)
        if book.role == "target" and (committed > book.committed or hardened > book.hardened):
            raise Violation(f"{machine.name} says that {committed} is committed and {hardened} "
                            f"hardened, but {other.name} has {book.committed} and {book.hardened}"
                            )  # fmt: skip
    # Of the ledger's commit: a thread that stands still may not have said yet that it is made.
    points = history.of(machine.life.site.book.current.committed)
    if world.shape.exposure and len(points) == 1 and machine.content and not machine.is_mixed:
        model = tuple(bytes(volume) for volume in machine.content.model)
        if model != points[0] and not told["data_exposure_seconds"]:
            raise Violation(f"{machine.name} has unsent bytes, but says that its exposure is "
                            f"{told['data_exposure_seconds']}")  # fmt: skip
