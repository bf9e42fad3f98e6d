"""Conditions on scores are parsed, and a missing score satisfies none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from oyer.config.condition import Condition, needs_judge


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("judge >= 6", Condition("judge", False, 6.0)),
        (" judge>6 ", Condition("judge", True, 6.0)),
        ("judge:style.v2 > -1.5e0", Condition("judge:style.v2", True, -1.5)),
        ("base_score >= 0.5", Condition("base_score", False, 0.5)),
        ("unshaped_reward > 0", Condition("unshaped_reward", True, 0.0)),
    ],
)
def test_a_condition_is_parsed(text: str, expected: Condition) -> None:
    assert Condition.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "judge", "judge < 6", "judge >= six", "judge >= nan", "judge >= inf", "reward > 1"]
)
def test_an_invalid_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a condition; write e\.g\. `judge >= 6`"):
        Condition.parse(text)


@given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_a_condition_holds_at_its_threshold_unless_strict(threshold: float, strict: bool) -> None:
    scores = np.array([threshold, np.nan])
    held = Condition("judge", strict, threshold).holds(scores)
    np.testing.assert_array_equal(held, [0.0 if strict else 1.0, np.nan])


def test_only_the_base_score_is_known_without_a_judge() -> None:
    sources = ["base_score", "judge", "judge:q", "unshaped_reward"]
    assert [needs_judge(source) for source in sources] == [False, True, True, True]


@pytest.mark.parametrize(
    "scores",
    [
        np.average(np.full((3, 1), 5.0), axis=0, weights=[0.1] * 3),  # 4.999999999999999
        np.nextafter(np.array([5.0]), 6.0),
        np.array([5.0]),
    ],
)
def test_rounding_does_not_decide_a_condition(scores: NDArray[np.float64]) -> None:
    assert Condition.parse("judge >= 5").holds(scores).tolist() == [1.0]
    assert Condition.parse("judge > 5").holds(scores).tolist() == [0.0]


def test_a_score_below_a_large_threshold_does_not_reach_it() -> None:
    scores = np.array([999_999.0, 1_000_000.0, 1_000_001.0])
    assert Condition.parse("base_score >= 1e6").holds(scores).tolist() == [0.0, 1.0, 1.0]
    assert Condition.parse("base_score > 1e6").holds(scores).tolist() == [0.0, 0.0, 1.0]
