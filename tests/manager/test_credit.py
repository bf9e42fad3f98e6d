"""The credit of a rollout's tokens from the scores of its turns."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.manager.credit import turn_credit
from oyer.protocol.errors import InvalidInput

SCORES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6)


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[list[float | None], list[int]]:
    """Draw turn scores, some missing, and tokens with tool results between the turns."""
    scores: list[float | None] = [
        draw(st.one_of(st.none(), st.floats(-1e3, 1e3))) for _ in range(draw(st.integers(1, 6)))
    ]
    tokens = []
    for turn in range(len(scores)):
        tokens += [turn] * draw(st.integers(1, 5)) + [-1] * draw(st.integers(0, 3))
    return scores, tokens


def by_hand(scores: list[float | None], tokens: list[int]) -> list[float]:
    """Compute the credit token by token."""
    found = []
    for turn in tokens:
        if turn <= 0:
            found.append(0.0)
            continue
        now, before = scores[turn], scores[turn - 1]
        missing = now is None or before is None
        found.append(float("nan") if missing else (now - before) / tokens.count(turn))  # type: ignore[operator]  # neither is None
    return found


@given(rollouts())
def test_each_turn_shares_its_change_among_its_tokens(
    rollout: tuple[list[float | None], list[int]],
) -> None:
    np.testing.assert_allclose(turn_credit(*rollout), by_hand(*rollout), atol=1e-12)


@given(SCORES, st.data())
def test_the_credit_telescopes_to_last_minus_first(
    scores: list[float], data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(1, 9), min_size=len(scores), max_size=len(scores)))
    tokens = np.repeat(np.arange(len(scores)), counts)
    assert turn_credit(scores, tokens).sum() == pytest.approx(scores[-1] - scores[0], abs=1e-8)


def test_a_missing_score_leaves_two_turns_without_credit() -> None:
    credit = turn_credit([1.0, None, 5.0, 7.0], [0, 1, -1, 2, 3, 3])
    np.testing.assert_array_equal(credit, [0.0, np.nan, 0.0, np.nan, 1.0, 1.0])


def test_a_response_of_one_turn_has_no_credit_to_spread() -> None:
    assert turn_credit([7.0], [0, 0]).tolist() == [0.0, 0.0]
    assert turn_credit([None], []).tolist() == []


@pytest.mark.parametrize(
    ("scores", "tokens", "message"),
    [
        ([], [0], "turn_scores: has the shape"),
        ([[1.0], [2.0]], [0], "turn_scores: has the shape"),
        ([[1.0], [2.0, 3.0]], [0], "turn_scores: must be one rollout's"),
        (["good"], [0], "turn_scores: must be one rollout's"),
        ([1.0, float("inf")], [0, 1], "turn_scores: must be finite"),
        ([1.0, 2.0], [[0, 1]], "turn_of_token: has the shape"),
        ([1.0, 2.0], [0.0, 1.0], "type float64"),
        ([1.0, 2.0], [0, 2], "from 0 to 2; the rollout has 2 turns: give -1 to 1"),
        ([1.0, 2.0], [-2, 1], "from -2 to 1"),
        ([1.0, 2.0, 3.0], [0, 2, 2], "turn 1 has no token"),
    ],
)
def test_what_does_not_fit_is_refused(scores: Any, tokens: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        turn_credit(scores, tokens)
