"""One cycle as a generator of effects: what follows what, and what never does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_core import limits
from mirror_core.cycle import (
    Abandon,
    Begin,
    Commit,
    Copy,
    Effect,
    Flush,
    Freeze,
    Holds,
    Outcome,
    Result,
    Resume,
    Settle,
    cycle,
)

OK = Result()
AGAIN = Result(done=False)


def played(answers: list[Result]) -> tuple[list[Effect], Outcome]:
    """The effects of cycle 7 when the world answers so (and well after that), and its end."""
    run = cycle(7, 0.05)
    effects = [next(run)]
    for answer in itertools.chain(answers, itertools.repeat(OK)):
        try:
            effects.append(run.send(answer))
        except StopIteration as end:
            return effects, end.value
    raise AssertionError("unreachable")


WHOLE = [Freeze(0.05), Begin(7), Copy(), Flush(), Commit(7), Settle(7)]


def test_a_cycle_is_frozen_begun_copied_flushed_committed_and_settled() -> None:
    """Without an error the order is that of claim 1, each once."""
    assert played([]) == (WHOLE, Outcome("committed"))


@pytest.mark.parametrize("at", [2, 3, 4])
def test_an_effect_that_is_not_done_is_asked_for_again(at: int) -> None:
    """Copy, flush and commit are repeated until they are done, and then the next follows."""
    effects, outcome = played([OK] * at + [AGAIN] * 3)
    assert effects == WHOLE[:at] + [WHOLE[at]] * 3 + WHOLE[at:]
    assert outcome == Outcome("committed")


@pytest.mark.parametrize("at", [2, 3, 4])
@pytest.mark.parametrize("before", [0, 2])
def test_an_error_abandons_the_cycle(at: int, before: int) -> None:
    """After a failed copy, flush or commit comes Abandon, with the reason, and nothing more."""
    effects, outcome = played([OK] * at + [AGAIN] * before + [Result(error="broken", code=5)])
    assert effects == [*WHOLE[:at], *[WHOLE[at]] * (before + 1), Abandon("broken", 5)]
    assert outcome == Outcome("abandoned", "broken", 5)


LOST = Result(error="the link is lost", code=107, lost=True)


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_lost_link_is_resumed_and_the_cycle_goes_on(at: int) -> None:
    """After a copy, flush or commit that lost the peer the session is resumed, asked for until it
    is, and then all that leads to the commit is done again: as often as the link is lost."""
    effects, outcome = played([OK] * at + [LOST, AGAIN, OK, LOST, OK])
    assert effects == [*WHOLE[: at + 1], *[Resume(7)] * 2, Copy(), Resume(7), *WHOLE[2:]]
    assert outcome == Outcome("committed")


def test_a_commit_whose_answer_was_lost_is_settled() -> None:
    """The peer says that it has committed the cycle: nothing is copied or committed again."""
    effects, outcome = played([*[OK] * 4, LOST, Result(committed=True)])
    assert effects == [*WHOLE[:5], Resume(7), Settle(7)]
    assert outcome == Outcome("committed")


def test_what_cannot_be_resumed_is_abandoned() -> None:
    """A resumption that is refused, or our own intermediate that fails, ends the cycle."""
    effects, outcome = played([OK, OK, LOST, Result(error="refused", code=1)])
    assert effects == [*WHOLE[:3], Resume(7), Abandon("refused", 1)]
    assert outcome == Outcome("abandoned", "refused", 1)


def test_a_begin_that_fails_abandons_the_cycle() -> None:
    """Without a durable sequence the target is asked for nothing (I3)."""
    effects, outcome = played([OK, Result(error="disk full", code=28)])
    assert effects == [*WHOLE[:2], Abandon("disk full", 28)]
    assert outcome == Outcome("abandoned", "disk full", 28)


def test_a_missed_freeze_ends_its_cycle() -> None:
    """Nothing was changed, and nothing is to be abandoned."""
    effects, outcome = played([Result(error="slow", code=110)])
    assert effects == [Freeze(0.05)]
    assert outcome == Outcome("missed", "slow", 110)


def test_a_missed_freeze_is_tried_again_with_twice_the_patience() -> None:
    """Up to freeze_max; in between writes go on for as long as they were held, and then longer and
    longer, up to a bound; it begins anew once a freeze was in time."""
    holds = Holds(0.05, 1.0)
    tries: list[tuple[float, float, bool]] = []
    for _ in range(9):
        budget = holds.budget_s
        longest = holds.missed(budget + 0.001)
        tries.append((budget, holds.rest_s - budget, longest))
    assert [budget for budget, _, _ in tries] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
    assert [longest for *_, longest in tries] == [False] * 5 + [True] * 4
    assert all(more >= 0.001 for _, more, _ in tries)
    assert [more for *_, more, _ in tries[:5]] == pytest.approx([0.001] * 5)
    assert holds.rest_s == limits.BACKOFF_MAX_S
    holds.made()
    assert (holds.budget_s, holds.rest_s) == (0.05, 0.0)


@pytest.mark.parametrize("held_s", [7.0, 10.0])
def test_after_a_long_hold_writes_go_on_for_as_long(held_s: float) -> None:
    """Also where freeze_max is above the bound of the pauses."""
    holds = Holds(10.0, 10.0)
    for _ in range(3):
        assert holds.missed(held_s)
        assert holds.rest_s == held_s


ANSWERS = st.lists(
    st.sampled_from([OK, AGAIN, LOST, Result(error="e", code=5), Result(committed=True)]),
    max_size=20,
)


@given(ANSWERS)
def test_no_commit_follows_a_failure(answers: list[Result]) -> None:
    """Whatever the world answers: a commit only after a whole copy and flush of this cycle, a
    settle only after its commit, and after an error nothing but Abandon (or Resume; or nothing at
    all, after a missed freeze)."""
    effects, outcome = played(answers)
    results = dict(enumerate(answers))
    for i, effect in enumerate(effects[:-1]):
        result, follower = results.get(i, OK), effects[i + 1]
        failed = result.error is not None
        assert not (failed and isinstance(effect, Freeze))
        if result.lost and isinstance(effect, Copy | Flush | Commit | Resume):
            assert isinstance(follower, Resume)
        elif failed and not isinstance(effect, Abandon):
            assert isinstance(follower, Abandon)
        if isinstance(effect, Abandon):
            raise AssertionError("something followed Abandon")
    kinds = [type(effect) for effect in effects]
    settled = kinds[-1] is Settle  # one that failed is abandoned: nothing was forgotten
    assert settled == (outcome.result == "committed")
    assert (Abandon in kinds) == (outcome.result == "abandoned")
    for i, kind in enumerate(kinds):
        if kind in (Flush, Commit, Settle) and kinds[i - 1] is not kind:
            before, result = kinds[i - 1], results.get(i - 1, OK)
            assert result.done and not result.error
            if kind is Settle and before is Resume:
                assert result.committed
            else:
                assert before is {Flush: Copy, Commit: Flush, Settle: Commit}[kind]


def test_a_cycle_ends_with_its_last_effect() -> None:
    """The generator asks for nothing after Settle or Abandon, whatever it is sent."""
    for answers in ([OK] * 5, [OK, OK, Result(error="e")]):
        effects, _ = played([*answers, Result(error="late")])
        assert isinstance(effects[-1], Settle | Abandon)
