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
class Point:
    """A consistency point, or a cycle: its sequence, and its token if that is known."""

    sequence: int
    token: str

    def same(self, other: Point) -> bool:
        tokens = {self.token, other.token} - {""}
        return self.sequence == other.sequence and len(tokens) < 2


_TAKE = "to take what the source holds now: 'flashmirror resync --full' on {}"


def _costs(target: str) -> str:
    """Of a resync at a target that has an image; and the other way, if its data is wanted."""
    return (
        f"which gives up the image that {target} has; if {target} holds the newer data: "
        "'flashmirror promote --force' there, and it is the source from then on"
    )


def _choose(target: str) -> str:
    """The ways out if either of the two may hold the data that is wanted."""
    return f"{_TAKE.format(target)}, {_costs(target)}"


def apart(source: str, begun: Point, committed: Point, target: str, image: Point) -> str | None:
    """Why the target's image is not of this source's history; None: it may be.

    In a history in which nobody went back the image is the last commit that the source knows of,
    or that of the cycle it has begun last, whose answer was lost.  A source makes a commit durable
    before it forgets what the commit holds."""
    if image.same(committed) or image.same(begun):
        return None
    if not committed.sequence and begun.sequence > image.sequence:
        return (
            f"{source} has met a target without an image last (another one, or {target} before it "
            f"was put back), and {target} holds {image.sequence}: put the right one back, or "
            + _choose(target)
        )
    if image.sequence < committed.sequence:
        return (
            f"{target} went back from sequence {committed.sequence} to {image.sequence} (an older "
            f"copy of it, or another target?): put the newer one back, or {_TAKE.format(target)}, "
            f"which gives up the image that {target} has"
        )
    return (
        f"{source} went back, or is another copy of it: it has begun sequence {begun.sequence} and "
        f"knows of commit {committed.sequence}, and {target} holds "
        + ("another " if image.sequence in (begun.sequence, committed.sequence) else "")
        + f"{image.sequence}: put the newer one back, or {_choose(target)}"
    )


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
        f"source now: the history of {hello.name} ended there: 'flashmirror resync --full --force' "
        f"on {hello.name} makes it the target, and discards what only it has"
    )


def _not_a_target(mine: Ledger, hello: Handshake) -> Decision | None:
    if mine.role == "target":
        return None
    return Decision(
        refused=f"{mine.name} is a {mine.role}, not a target, and so is {hello.name}: correct "
        "'peer', or decide which of the two is right, and run 'flashmirror resync --full --force' "
        "on the other one, which makes it the target, and discards what only it has"
    )


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
        + (f", {_costs(mine.name)}" if mine.whole else "")
    )


def _copied(mine: Ledger, hello: Handshake) -> Decision | None:
    known = mine.whole and mine.source_run and hello.run
    if not known or mine.source_run in hello.runs:
        return None
    return Decision(
        refused=f"{mine.name} was mirrored to by another copy of {hello.name} (its run "
        f"{mine.source_run[:8]}, which {hello.name} does not know): stop that copy, or this one; "
        + _choose(mine.name)
    )


def _went_back(mine: Ledger, hello: Handshake) -> Decision | None:
    if not mine.whole or hello.begun is None or hello.committed is None:
        return None
    reason = apart(
        hello.name, Point(hello.begun, hello.begun_token),
        Point(hello.committed, hello.committed_token),
        mine.name, Point(mine.committed, mine.committed_token),
    )  # fmt: skip
    return Decision(refused=reason) if reason else None


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
        "correct `peer`; or, if both were promoted or created as a source: on the one that is to "
        "be the target `resync --full --force`, which discards what only it has",
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
        "the target was mirrored to by a copy of the source (a clone, or the source itself before "
        "its state was put back)",
        "refuses",
        "stop the copy that is not to go on; if this one is right: `resync --full` on the target",
        _copied,
    ),
    Row(
        "the target's commit is none that the source knows or has begun: one of the two was put "
        "back to an older state",
        "refuses, and says which",
        "put the right state and images back; if what the source holds is right: `resync --full` "
        "on the target",
        _went_back,
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
