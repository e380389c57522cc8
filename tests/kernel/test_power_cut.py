"""Real power cuts: what was flushed is there, and the target has an image of one moment.

Rounds in user-mode Linux, each cutting the power of the source site, of the target site, or of
both, while dependent writers work and cycle follows cycle (``power``; ``uml`` says what such a cut
loses). The rounds gather facts; each test here judges one promise by all of them, so that a
failure says which one does not hold, and in which round. The last tests are of the checks
themselves: stores that forget what they flushed, and images made by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import power
import pytest
from dependent import content
from kernels import Kernel
from pair import SOAK
from power import CUTS, History, Round
from power_load import REGION, VOLUME_BYTES, VOLUMES, write_of

ROUNDS = 3 if SOAK == 1 else 5 * SOAK  # `make soak` cuts fifty times
FLASHMIRROR = Path(sys.executable).with_name("flashmirror")

pytestmark = pytest.mark.timeout(300 * SOAK)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if not FLASHMIRROR.exists():
        pytest.fail(f"{FLASHMIRROR}: run make build", pytrace=False)


@pytest.fixture(scope="module")
def rounds(kernel: Kernel) -> Iterator[list[Round]]:
    """All rounds, on one pair: each goes on from what the one before has left."""
    played = []
    with power.rig(kernel, seed=ROUNDS) as rig:
        for number in range(ROUNDS):
            played.append(rig.play(number, list(CUTS)[number % len(CUTS)]))
            print(played[-1])
    yield played


def test_the_target_has_an_image_of_one_moment_after_every_cut(rounds: list[Round]) -> None:
    """The target's durable state alone gives the image of the consistency point that it says: of
    each writer the writes up to one, and all that were acknowledged before the point."""
    assert {r.number: r.image_trouble for r in rounds if r.image_trouble} == {}


def test_no_flushed_write_is_lost_on_the_source(rounds: list[Round]) -> None:
    """After every cut the source holds each write that was flushed, or had FUA, and was
    acknowledged: that or a later one, sector by sector, and nothing that was never written."""
    assert {r.number: r.lost_flushed[:5] for r in rounds if r.lost_flushed} == {}


def test_a_sync_after_every_cut_makes_both_sites_equal(rounds: list[Round]) -> None:
    """With nothing done but to start the sites, a sync makes every byte of the volumes equal."""
    assert {r.number: r.differences for r in rounds if r.differences} == {}


def test_commits_never_go_back(rounds: list[Round]) -> None:
    """After a cut the target has the last commit that the source knew of, or a later one; the
    next one is later still."""
    for r in rounds:
        assert r.committed_before <= r.committed_after < r.committed_at_end, str(r)


def test_the_kernels_that_were_cut_have_no_complaint(rounds: list[Round]) -> None:
    """Each mount after a cut, and all work before one: no I/O error, no file system error."""
    assert {r.number: r.complaints for r in rounds if r.complaints} == {}


def test_the_cuts_lose_what_was_not_flushed(rounds: list[Round]) -> None:
    """Cuts of the source did lose acknowledged writes: otherwise all this would prove nothing."""
    assert sum(r.lost_unflushed_sectors for r in rounds) > 0
    assert not any(r.lost_unflushed_sectors for r in rounds if r.cut == "target")


@pytest.mark.soak
def test_the_checks_notice_stores_that_forget_what_they_flushed(kernel: Kernel) -> None:
    """The same round, on stores whose flush does nothing: flushed writes are missing on the
    source, and the target has no image of one moment.  Both checks say so."""
    with power.rig(kernel, seed=0, options=["liar"]) as rig:
        found = rig.play_to_recovery(0, "both")
    assert found.lost_flushed
    assert found.image_trouble


def images(*held: int) -> list[bytes]:
    """What writer 1 leaves if just these of its writes reach the disk."""
    made = [bytearray(VOLUME_BYTES) for _ in VOLUMES]
    for number in held:
        write = write_of(1, number)
        at = REGION + write.offset
        data = content(1, write.volume, number, write.offset, write.length)
        made[write.volume][at : at + write.length] = data
    return [bytes(image) for image in made]


@pytest.fixture
def history() -> History:
    """Writer 1: 3 writes and a flush, then write 4, write 5 with FUA, write 6."""
    history = History()
    for line in ("wrote 1 1 1", "wrote 1 2 1", "wrote 1 3 1", "flushed 1 3 2"):
        history.hear(line)
    for line in ("wrote 1 4 3", "fua 1 5 3", "wrote 1 6 3"):
        history.hear(line)
    return history


def test_the_check_allows_any_of_the_unflushed_writes_to_be_lost(history: History) -> None:
    """Writes 4 and 6 may be there or not, in whichever mixture."""
    assert history.missing(images(1, 2, 3, 4, 5, 6)) == ([], 0)
    for held in (1, 2, 3, 5), (1, 2, 3, 4, 5), (1, 2, 3, 5, 6):
        lines, lost = history.missing(images(*held))
        assert lines == []
        assert lost > 0


@pytest.mark.parametrize("gone", [1, 2, 3, 5])
def test_the_check_notices_each_stable_write_that_is_lost(history: History, gone: int) -> None:
    """Writes 1 to 3, which were flushed, and 5, which had FUA, must be there."""
    lines, _ = history.missing(images(*(n for n in range(1, 7) if n != gone)))
    assert lines
    assert all(f"flushed was {gone}" in line for line in lines)


def test_the_check_notices_bytes_that_nobody_wrote(history: History) -> None:
    """A sector that only looks like one of a later write is found by its bytes."""
    held = images(1, 2, 3, 4, 5, 6)
    write = write_of(1, 6)
    at = REGION + write.offset
    for change in at + 100, at - 512 if write.offset else at:
        changed = bytearray(held[write.volume])
        changed[change : change + 8] = (7).to_bytes(8, "little")
        both = [bytes(changed) if v == write.volume else held[v] for v in range(len(VOLUMES))]
        assert history.missing(both)[0]
