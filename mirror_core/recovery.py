"""What a site does about a source that opens a session.  Pure: a table, each row tested.

Rows are tried from the top; the first that fits decides.  Nothing is guessed (I7): what no row
allows is refused with one line, and direction is never chosen here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mirror_core.ledger import Ledger
from mirror_core.protocol import Handshake, VolumeShape


@dataclass(frozen=True)
class Decision:
    """adopt: take the source's lineage as ours; refused: the reason why not at all."""

    adopt: bool = False
    refused: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of docs/recovery.md: when it fits, what the site does, what a person does."""

    when: str
    does: str
    person: str
    judge: Callable[[Ledger, Handshake], Decision | None]  # None: the row does not fit


def decide(mine: Ledger, hello: Handshake) -> Decision:
    """The answer to a handshake, from the asked site's own ledger alone."""
    return next(found for row in TABLE if (found := row.judge(mine, hello)) is not None)


def _promoted(mine: Ledger, hello: Handshake) -> Decision | None:
    if mine.role == "target" or not mine.lineage or mine.lineage.parent != hello.lineage:
        return None
    return Decision(
        refused=f"{mine.name} was promoted after sequence {mine.lineage.forked_at} and is the "
        f"source now: the history of {hello.name} ended there"
    )


def _not_a_target(mine: Ledger, hello: Handshake) -> Decision | None:
    if mine.role == "target":
        return None
    return Decision(refused=f"{mine.name} is a {mine.role}, not a target: check 'peer'")


def _same_name(mine: Ledger, hello: Handshake) -> Decision | None:
    if hello.name != mine.name:
        return None
    return Decision(refused=f"both sites are named {mine.name}: give each its own name")


def _other_shape(mine: Ledger, hello: Handshake) -> Decision | None:
    mismatch = _shapes_differ(mine, hello.volumes)
    return Decision(refused=mismatch) if mismatch else None


def _first_source(mine: Ledger, hello: Handshake) -> Decision | None:
    return Decision(adopt=True) if mine.lineage is None else None


def _other_history(mine: Ledger, hello: Handshake) -> Decision | None:
    if mine.lineage is None or mine.lineage.id == hello.lineage:
        return None
    return Decision(
        refused=f"{mine.name} mirrors another history (lineage {mine.lineage.id[:8]}, not "
        f"{hello.lineage[:8]}): 'flashmirror resync --full' there takes this one instead"
    )


def _same_history(mine: Ledger, hello: Handshake) -> Decision | None:
    return Decision()


TABLE = (
    Row(
        "the asked site was promoted from the asking site's history",
        "refuses, and says after which sequence",
        "keep the promoted site; on the old source: `resync --full --force`, which discards "
        "what only it has",
        _promoted,
    ),
    Row(
        "the asked site is a source",
        "refuses",
        "correct `peer`, or promote only one of the two",
        _not_a_target,
    ),
    Row("both sites have the same name", "refuses", "give each its own `name`", _same_name),
    Row(
        "the volumes differ: their names, sizes or block sizes",
        "refuses, and names the difference",
        "make the two configurations and the stores the same",
        _other_shape,
    ),
    Row(
        "the target has no history yet (it is new, or was given up by `resync --full`)",
        "takes the source's lineage as its own; everything is sent",
        "nothing",
        _first_source,
    ),
    Row(
        "the target mirrors another history",
        "refuses",
        "find out which data is right; to overwrite the target's: `resync --full` there",
        _other_history,
    ),
    Row(
        "the same history and shape",
        "opens a session; older ones end (I8)",
        "nothing",
        _same_history,
    ),
)


def _shapes_differ(mine: Ledger, theirs: tuple[VolumeShape, ...]) -> str | None:
    own = {v.name: (v.size, v.block_size) for v in mine.volumes}
    other = {v.name: (v.size, v.block_size) for v in theirs}
    if own.keys() != other.keys():
        names = ", ".join(sorted(own.keys() ^ other.keys()))
        return f"the sites' lists of volumes differ ({names}): make them the same"
    for name, (size, block) in own.items():
        if other[name][0] != size:
            return (
                f"volume {name} has {other[name][0]} bytes at the source and {size} at "
                f"{mine.name}: make them equal"
            )
        if other[name][1] != block:
            return (
                f"volume {name} has blocks of {other[name][1]} bytes at the source and {block} "
                f"at {mine.name}: set the same block_size"
            )
    return None
