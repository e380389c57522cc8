"""The states that matter: what a site has come to, seen where production's objects meet.

Each of STATES is counted once a schedule.  Faults wait for some of them (trouble.py), and
`scripts/simulate` prints how many schedules had each, because a simulator that never comes to a
state says nothing about it.  The watchers look on and change nothing.

"Asked for what was owed": a commit is refused with ESTALE because it leaves out what an abandoned
cycle had sent.  An honest source comes to it in two ways: its intent log has refused writes whose
blocks that cycle sent, and a power loss made it forget them; or it went back.  In any other
schedule it is a violation (network.py).

Left out, because it cannot be without a peer that breaks the protocol: gates that do not close at a
commit (a source asks for it when all that it sent is answered).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mirror_core.driver import Driver
from mirror_core.errors import LedgerError, PeerError
from mirror_core.flashcopy import CopyError
from mirror_core.native import STABLE
from mirror_core.target import Target
from sim import copies, cuts, files, strangers
from sim.sites import Incarnation

if TYPE_CHECKING:
    from sim.world import World

STATES = (
    "crash of a target that owes blocks", "stop of a target that owes blocks",
    "stop of a target after a failed step", "power loss after an orderly stop",
    "crash while a commit is asked", "crash of a source without its link",
    "crash in recovery", "crash of a target while it is promoted",
    "failed step of the second flashcopy", "failed flush of a hardening", "failed append",
    "ledger in place of the log", "failed flush before a commit", "failed record of written",
    "failed ledger save", "failed flush in a cycle", "failed flush at a source's stop",
    "failed flush at a target's stop", "failed compare", "failed cooling",
    "compared what cannot be read",
    "commit asked again", "asked for what was owed", "stable asked again", "missed freeze",
    "fence timed out",
    "cycle lost its link", "own store failed without the link", "cycle gone on with",
    "stable cycle gone on with", "stable blocks that the target forgot",
    "abandoned cycle", "abandon at a stop", "consistency point on what a cache shows",
    "promotion begun under fault", "promoted", "promoted a second time",
    "exception at a call of the platform",
    "resync --full under fault", "paused", "commit whose answer was lost",
    "a source without its intermediate",
    "a server went while its site was down", "told of what went while the site was down",
    "a server is known again after a kill", "a server is not known again after a kill",
    *copies.STATES, *cuts.STATES, *files.STATES, *strangers.STATES,
)  # fmt: skip


def _around(where: Any, name: str, look: Callable[[Any, BaseException | None], None]) -> None:
    """`look` sees each result of this method, or what it raised."""
    method = getattr(where, name)

    def watched(*args: Any, **more: Any) -> Any:
        try:
            result = method(*args, **more)
        except Exception as error:
            look(None, error)
            raise
        look(result, None)
        return result

    setattr(where, name, watched)


def watch(world: World, life: Incarnation) -> None:
    """Of a site that is open and has not begun."""
    site = life.site
    assert site

    def failed(where: Any, name: str, state: str, kind: type[BaseException] = OSError) -> None:
        def look(_: Any, error: BaseException | None) -> None:
            if isinstance(error, kind):
                world.reach(state)

        _around(where, name, look)

    failed(site.book, "update", "failed ledger save", LedgerError)
    failed(site.copier.group, "freeze", "missed freeze")
    failed(site.copier.group, "fence", "fence timed out")
    if isinstance(site.control, Target):
        _watch_target(world, life, site.control, site.copier, failed)
    else:
        _watch_source(world, site.control, site.copier, failed)

        def flushed(_: Any, error: BaseException | None) -> None:
            if error and life.stopping:
                world.reach("failed flush at a source's stop")

        for member in site.members:
            _around(member.native, "flush_front", flushed)


def _watch_target(
    world: World, life: Incarnation, control: Target, copier: Any, failed: Any
) -> None:
    def stepped(done: Any, error: BaseException | None) -> None:
        if error:
            world.reach("failed step of the second flashcopy")
        elif done and world.shape.stalls:
            world.look_at(life.machine)

    def committed(answer: Any, _: BaseException | None) -> None:
        if answer and not answer.done:
            world.reach("commit asked again")

    def stabilized(answer: Any, _: BaseException | None) -> None:
        if answer and not answer.done:
            world.reach("stable asked again")

    def flushed(_: Any, error: BaseException | None) -> None:
        if isinstance(error, CopyError):
            stopping = control.stopping
            world.reach("failed flush at a target's stop" if stopping
                        else "failed flush of a hardening")  # fmt: skip

    def recorded(_: Any, error: BaseException | None) -> None:
        world.counts["hardening records"] += error is None
        if error:
            world.reach("failed append")

    _around(control.second, "step", stepped)
    _around(control.second.log, "append", recorded)
    restart = control.second.log.restart

    def restarted(of: Any) -> None:
        if not control.second._log_is_whole:
            world.reach("ledger in place of the log")
        restart(of)

    setattr(control.second.log, "restart", restarted)  # noqa: B010
    _around(control, "commit", committed)
    _around(control, "stabilize", stabilized)
    _around(copier, "flush", flushed)
    failed(control._written, "record", "failed record of written")
    failed(control, "compare", "failed compare", PeerError)

    def compared(found: Any, _: BaseException | None) -> None:
        if found is not None and "compare" in control._troubles:
            world.reach("compared what cannot be read")

    _around(control, "_equal", compared)

    def asked(_: Any, __: BaseException | None) -> None:
        if control._flush_error:
            world.reach("failed flush before a commit")

    def shaken(welcome: Any, _: BaseException | None) -> None:
        if welcome and welcome.resumed:
            world.reach("stable cycle gone on with")

    _around(control, "_flush_if_asked", asked)
    _around(control, "handshake", shaken)


def _watch_source(world: World, control: Driver, copier: Any, failed: Any) -> None:
    def lost(_: Any, error: BaseException | None) -> None:
        world.reach("own store failed without the link" if error else "cycle lost its link")

    def resumed(result: Any, error: BaseException | None) -> None:
        if error is None and result.done and not result.error:
            world.reach("commit whose answer was lost" if result.committed
                        else "cycle gone on with")  # fmt: skip
        elif error is not None and control._copier._parted:
            world.reach("own store failed without the link")

    def ended(_: Any, __: BaseException | None) -> None:
        world.reach("abandon at a stop" if control.stopping else "abandoned cycle")

    forget = copier.forget_stable

    def forgotten() -> None:
        if any(member.native.packed_runs(STABLE) for member in copier.members):
            world.reach("stable blocks that the target forgot")
        forget()

    setattr(copier, "forget_stable", forgotten)  # noqa: B010
    failed(copier, "flush", "failed flush in a cycle", CopyError)
    failed(copier, "cool", "failed cooling")
    _around(control, "_lose_session", lost)
    _around(control, "_resume", resumed)
    _around(copier, "abandon", ended)
