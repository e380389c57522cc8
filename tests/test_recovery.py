"""The table of what a target does about a source: every row, and which row comes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_core.ledger import Ledger, Lineage, Role, StoreRecord, VolumeRecord
from mirror_core.protocol import Handshake, VolumeShape
from mirror_core.recovery import TABLE, Decision, Point, apart, decide

STORE = StoreRecord("file", "1")
MINE = Ledger(
    site="w",
    name="west",
    role="target",
    lineage=Lineage("a" * 32),
    volumes=(VolumeRecord("disk", 8192, 4096, STORE, STORE),),
)
HELLO = Handshake("east", "a" * 32, 1, (VolumeShape("disk", 8192, 4096),), "e" * 32)


def test_the_same_history_and_shape_is_admitted() -> None:
    """A source of the lineage that the target mirrors is welcome."""
    assert decide(MINE, HELLO) == Decision()


def test_a_target_without_a_history_takes_the_source_s() -> None:
    """A new target adopts the lineage of the first source that fits."""
    assert decide(replace(MINE, lineage=None), HELLO) == Decision(adopt=True)


REFUSALS: list[tuple[str, Ledger, Handshake, str]] = [
    (
        "role",
        replace(MINE, role="source"),
        HELLO,
        "west is a source, not a target, and so is east: correct",
    ),
    ("name", MINE, replace(HELLO, name="west"), "both sites are named west: give each its own"),
    (
        "missing volume",
        MINE,
        replace(HELLO, volumes=()),
        "lists of volumes differ (disk): make them the same",
    ),
    (
        "more volumes",
        MINE,
        replace(HELLO, volumes=(*HELLO.volumes, VolumeShape("b", 8192, 4096))),
        "lists of volumes differ (b): make them the same",
    ),
    (
        "size",
        MINE,
        replace(HELLO, volumes=(VolumeShape("disk", 8193, 4096),)),
        "volume disk has 8193 bytes at the source and 8192 at west: make them equal",
    ),
    (
        "block size",
        MINE,
        replace(HELLO, volumes=(VolumeShape("disk", 8192, 512),)),
        "volume disk has blocks of 512 bytes at the source and 4096 at west: set the same",
    ),
    (
        "lineage",
        MINE,
        replace(HELLO, lineage="b" * 32),
        "west mirrors another history (lineage aaaaaaaa, not bbbbbbbb): 'flashmirror resync",
    ),
]

GIVES_UP = ", which gives up the image that west has"
NEWER = "if west holds the newer data: 'flashmirror promote --force' there"


def test_docs_recovery_says_what_the_table_does() -> None:
    """docs/recovery.md has the table's rows, in its order, and none else."""
    text = (Path(__file__).parent.parent / "docs/recovery.md").read_text()
    rows = [f"| {row.when} | {row.does} | {row.person} |" for row in TABLE]
    assert [line for line in text.splitlines() if line in rows] == rows
    asked = text.partition("## A source opens a session")[2].partition("\n## ")[0]
    assert asked.count("\n| ") == len(rows) + 2


def test_a_promoted_site_says_so_to_the_history_that_it_left() -> None:
    """The old source hears that the other site was promoted, and after which sequence."""
    mine = replace(MINE, role="source", lineage=Lineage("b" * 32, "a" * 32, 7))
    assert "west was promoted after sequence 7" in (decide(mine, HELLO).refused or "")


@pytest.mark.parametrize(
    ("mine", "hello", "text"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_what_does_not_fit_is_refused_with_what_to_do(
    mine: Ledger, hello: Handshake, text: str
) -> None:
    """Each row that refuses says in one line what is wrong and what to do, and adopts nothing."""
    decision = decide(mine, hello)
    assert decision.refused is not None and text in decision.refused
    assert decision.refused.isprintable()
    assert not decision.adopt


@pytest.mark.parametrize("earlier", range(len(REFUSALS) - 1))
def test_the_first_row_that_fits_decides(earlier: int) -> None:
    """With two things wrong the reason is that of the upper row."""
    _, mine, hello, text = REFUSALS[earlier]
    both = replace(hello, lineage="b" * 32)
    assert text in (decide(mine, both).refused or "")


def test_a_shape_is_looked_at_before_a_history_is_adopted() -> None:
    """A new target does not take the history of a source that does not fit."""
    hello = replace(HELLO, volumes=(VolumeShape("disk", 1, 4096),))
    decision = decide(replace(MINE, lineage=None), hello)
    assert decision.refused and not decision.adopt


def test_a_source_that_has_met_a_wrong_target_did_not_go_back() -> None:
    """It knows of no commit since: the words say what happened, and the way out."""
    words = apart("east", Point(9, "b"), Point(0, ""), "west", Point(7, "a")) or ""
    assert "east has met a target without an image" in words and "went back" not in words
    assert f"'flashmirror resync --full' on west{GIVES_UP}" in words and NEWER in words
    for begun in (Point(6, "b"), Point(7, "b")):
        assert "went back" in (apart("east", begun, Point(0, ""), "west", Point(7, "a")) or "")


def test_a_refused_history_names_what_each_way_out_costs() -> None:
    """The image, where there is one; and that a target which holds the newer data is promoted."""
    image = replace(MINE, whole=True, committed=7, committed_token="a", source_run="c" * 32)
    known = replace(HELLO, begun=7, begun_token="a", committed=7, committed_token="a", run="d" * 32)
    rows = {
        "another copy": known,
        "another history": replace(known, lineage="b" * 32),
        "went back": replace(known, runs=("c" * 32,), begun=5, committed=5),
    }
    for words, hello in rows.items():
        refused = decide(image, hello).refused or ""
        assert words in refused and GIVES_UP in refused and NEWER in refused, refused
    older = replace(known, runs=("c" * 32,), begun=9, begun_token="b", committed=8)
    refused = decide(image, older).refused or ""
    assert "west went back" in refused and GIVES_UP in refused and "promote" not in refused
    empty = decide(MINE, replace(HELLO, lineage="b" * 32)).refused or ""
    assert "resync --full' there" in empty and "image" not in empty and "promote" not in empty


SHAPES = st.lists(
    st.builds(
        VolumeShape, st.sampled_from(["disk", "b"]), st.integers(1, 2), st.sampled_from([512, 1024])
    ),
    max_size=3,
    unique_by=lambda shape: shape.name,
).map(tuple)


@given(
    role=st.sampled_from(["source", "target"]),
    lineage=st.sampled_from([None, "a", "b"]),
    own=SHAPES,
    theirs=SHAPES,
    name=st.sampled_from(["east", "west"]),
)
def test_only_a_fitting_source_of_the_same_history_gets_in(
    role: Role,
    lineage: str | None,
    own: tuple[VolumeShape, ...],
    theirs: tuple[VolumeShape, ...],
    name: str,
) -> None:
    """Over all combinations: admitted is exactly a target with the same volumes and history."""
    volumes = tuple(VolumeRecord(v.name, v.size, v.block_size, STORE, STORE) for v in own)
    mine = replace(MINE, role=role, lineage=Lineage(lineage) if lineage else None, volumes=volumes)
    decision = decide(mine, Handshake(name, "a", 1, theirs, "e" * 32))
    fits = role == "target" and name == "east" and set(own) == set(theirs) and lineage != "b"
    assert (decision.refused is None) == fits
    assert decision.adopt == (fits and lineage is None)
