"""What a target does about a source that opens a session.  Pure: a table, each row tested.

Rows are tried from the top; the first that fits decides.  Nothing is guessed (I7): what no row
allows is refused with one line, and direction is never chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirror_core.ledger import Ledger
from mirror_core.protocol import Handshake, VolumeShape


@dataclass(frozen=True)
class Decision:
    """adopt: take the source's lineage as ours; refused: the reason why not at all."""

    adopt: bool = False
    refused: str | None = None


def decide(mine: Ledger, hello: Handshake) -> Decision:
    """The target's answer to a handshake, from its own ledger alone."""
    if mine.role != "target":
        return Decision(refused=_not_a_target(mine, hello))
    if hello.name == mine.name:
        return Decision(refused=f"both sites are named {mine.name}: give each its own name")
    mismatch = _shapes_differ(mine, hello.volumes)
    if mismatch:
        return Decision(refused=mismatch)
    if mine.lineage is None:
        return Decision(adopt=True)
    if mine.lineage.id != hello.lineage:
        return Decision(
            refused=f"{mine.name} mirrors another history (lineage {mine.lineage.id[:8]}, not "
            f"{hello.lineage[:8]}): create the target anew to overwrite it"
        )
    return Decision()


def _not_a_target(mine: Ledger, hello: Handshake) -> str:
    if mine.lineage and mine.lineage.parent == hello.lineage:
        return (
            f"{mine.name} was promoted after sequence {mine.lineage.forked_at} and is the source "
            f"now: the history of {hello.name} ended there"
        )
    return f"{mine.name} is a {mine.role}, not a target: check 'peer'"


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
