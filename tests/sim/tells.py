"""What a site says of itself must be so: `status` and the metrics, whenever the oracle looks.

- A control thread that has ended is never `mirroring` or `initial`, nor without a reason.
- `committed` and `hardened_sequence` of a source are never ahead of what the target's disk holds.
- Of a target that was refused a source tells no commit that this one has not, nor less exposure
  than the age of any point that it lacks.
- A source that has noticed that its ledger may be an older one tells no commit before it has met a
  target.
- Exposure is never 0 on a source with bytes that no committed point holds; a target, which cannot
  know, says none.
- A target of whose image some was cut is not `mirroring`, and says why.
- The metrics have the figures of `status`, and none where that has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mirror_core import metrics, status
from sim.core import lib
from sim.sched import Violation
from sim.sites import Machine

_RECENT_S = 1.0

if TYPE_CHECKING:
    from sim.oracle import History
    from sim.world import World


def check(world: World, machine: Machine) -> None:
    """Between two turns of the schedule, when nothing is written."""
    life = machine.life
    if not (life and life.site and life.control) or life.stopping:
        return
    lib.sim_clock_ns += 1  # what was written just now is older than the look
    looks, life.site._lost_stores = life.site._lost_stores, life.site._look_at_stores
    try:
        life.site._look_at_stores()  # a server that is asked for its size takes its time, once
        _check(world, machine)
    finally:
        life.site._lost_stores = looks


def _check(world: World, machine: Machine) -> None:
    life = machine.life
    assert life and life.site and life.control
    told = status.of(life.site)
    if life.control._ended and (told["state"] in ("mirroring", "initial") or not told["reason"]):
        raise Violation(f"{machine.name} says {told['state']}, but its control has ended")
    _of_metrics(machine, told)
    if life.source:
        _of_source(world, machine, told)
    elif told["data_exposure_seconds"] is not None:
        raise Violation(f"{machine.name} is a target, and says what is exposed")
    elif life.target:
        _of_target(world, machine, told)


def _of_metrics(machine: Machine, told: dict[str, Any]) -> None:
    assert machine.life and machine.life.site
    families = metrics.SiteCollector(machine.life.site).collect()
    found = {one.name: one.value for family in families for one in family.samples}
    for name, value in (
        ("data_exposure_seconds", told["data_exposure_seconds"]),
        ("image_age_seconds", told["image_age_seconds"]),
        ("committed_sequence", told["committed"]["sequence"] or 0),
    ):
        if found.get(f"flashmirror_{name}") != value:
            raise Violation(f"{machine.name}: status says {value}, and the metrics "
                            f"{found.get(f'flashmirror_{name}')} of {name}")  # fmt: skip


def _of_target(world: World, machine: Machine, told: dict[str, Any]) -> None:
    """A source that has its session, and was heard of just now, is connected, whoever else asks."""
    life, other = machine.life, world.other(machine).life
    assert life and life.target
    book = life.target._book.current
    is_cut = (book.committed, book.committed_token) == machine.cut_image
    is_cut &= machine.cut_data or life.target.hardened < book.committed
    if is_cut and (told["state"] == "mirroring" or not told["reason"]):
        raise Violation(f"{machine.name} says {told['state']}, and some of its image is gone")
    control, driver = life.target, other.source if other and not other.stopping else None
    if driver is None or not driver.connected or driver._session.number != control.session:
        return
    is_heard = control._platform.monotonic() - control.heard < _RECENT_S
    if is_heard and control._knocked <= control.heard and control._uses_session():
        if told["peer"]["state"] != "connected" or told["state"] == "refused":
            raise Violation(f"{machine.name} says {told['state']}, {told['peer']}, but its source "
                            "has its session")  # fmt: skip
        if control.source != driver._book.current.name:
            raise Violation(f"{machine.name} says that {control.source} is its source")


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
    driver = machine.life.source
    assert driver
    went_back = machine.life.site._went_back and not driver._met
    if went_back and (committed or told["data_exposure_seconds"] == 0):
        raise Violation(f"{machine.name} knows that its ledger may be an older one, and says that "
                        f"{committed} is committed, {told['data_exposure_seconds']} s are exposed"
                        )  # fmt: skip
    if told["state"] == "refused":
        _of_refused(machine, other, history, told)
    # Of the ledger's commit: a thread that stands still may not have said yet that it is made.
    points = history.of(machine.life.site.book.current.committed)
    if world.shape.exposure and len(points) == 1 and machine.content and not machine.is_mixed:
        machine.content.settle(machine.images("data"))
        model = tuple(bytes(volume) for volume in machine.content.model)
        if model != points[0] and not told["data_exposure_seconds"]:
            raise Violation(f"{machine.name} has unsent bytes, but says that its exposure is "
                            f"{told['data_exposure_seconds']}")  # fmt: skip


def _of_refused(machine: Machine, other: Machine, history: History, told: dict[str, Any]) -> None:
    assert machine.life and machine.life.site
    now, committed = machine.life.site.platform.monotonic(), told["committed"]["sequence"]
    book = other.book_on_disk(other.fs)
    ours = book.lineage is not None and book.lineage.id == told["lineage"]
    held = book.committed if ours and book.role == "target" and book.whole else 0
    if (committed or 0) > held:
        raise Violation(f"{machine.name} says that {committed} is committed at a target that was "
                        f"refused, and holds {held}")  # fmt: skip
    lacks = [when for sequence, when in history.named.items() if sequence > held]
    if committed is None and lacks and told["data_exposure_seconds"] < now - min(lacks):
        raise Violation(f"{machine.name} says that {told['data_exposure_seconds']} s are exposed, "
                        f"and its target lacks what was there at {min(lacks)}")  # fmt: skip
