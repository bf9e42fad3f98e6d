"""GDPO advantages of rollouts (`batch.advantages_gdpo`), and credit of tokens by the scores of turns."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.manager.batch import RewardBatch
from oyer.manager.credit import gdpo_advantages, turn_credit
from oyer.protocol.errors import InvalidInput
from tests.manager.conftest import outcome_of

NAN = math.nan
VALUES = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.1, 1.0, -2.5, 7.0, 1e3]))
WEIGHTS = st.sampled_from([0.0, 1.0, 0.3, -2.0])


def batch_of(groups: Sequence[int], components: Mapping[str, Sequence[float]]) -> RewardBatch:
    columns = {
        name: np.array(values, dtype=np.float32).reshape(-1) for name, values in components.items()
    }
    batch = RewardBatch.of(outcome_of("b", len(groups), groups=list(groups)))
    return replace(batch, components=columns)


def expected(
    groups: Sequence[int], components: Mapping[str, Sequence[float]], weights: Mapping[str, float]
) -> list[float]:
    """The formula row by row, with the standard library."""
    n = len(groups)
    sums: list[float | None] = [None] * n
    for name, weight in weights.items():
        values = [float(np.float32(value)) for value in components[name]]
        for i, value in enumerate(values):
            if math.isnan(value) or not weight:
                continue
            peers = [
                values[j]
                for j in range(n)
                if (j == i or (groups[j] == groups[i] >= 0)) and not math.isnan(values[j])
            ]
            score = 0.0
            if len(set(peers)) > 1:
                score = (value - statistics.mean(peers)) / (statistics.stdev(peers) + 1e-6)
            sums[i] = (sums[i] or 0.0) + weight * score
    known = [value for value in sums if value is not None]
    if len(known) < 2:
        return [0.0] * n
    mean, scale = statistics.mean(known), math.sqrt(statistics.variance(known) + 1e-8)
    return [0.0 if value is None else (value - mean) / scale for value in sums]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], dict[str, list[float]], dict[str, float]]:
    n = draw(st.integers(1, 12))
    groups = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    names = ["a", "b/c", "d"][: draw(st.integers(1, 3))]
    components = {name: draw(st.lists(VALUES, min_size=n, max_size=n)) for name in names}
    return groups, components, {name: draw(WEIGHTS) for name in names}


@given(batches())
def test_the_formula_holds_for_every_batch(
    drawn: tuple[list[int], dict[str, list[float]], dict[str, float]],
) -> None:
    groups, components, weights = drawn
    columns = {name: np.array(values, dtype=np.float32) for name, values in components.items()}
    found = gdpo_advantages(columns, groups, weights)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected(groups, components, weights), atol=1e-6)


@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_the_rollouts_does_not_matter(
    drawn: tuple[list[int], dict[str, list[float]], dict[str, float]], random: Any
) -> None:
    groups, components, weights = drawn
    order = list(range(len(groups)))
    random.shuffle(order)
    columns = {name: np.array(values) for name, values in components.items()}
    shuffled = gdpo_advantages(
        {name: values[order] for name, values in columns.items()},
        [groups[i] for i in order],
        weights,
    )
    np.testing.assert_allclose(
        shuffled, gdpo_advantages(columns, groups, weights)[order], atol=1e-9
    )


def test_a_large_component_does_not_hide_a_small_one() -> None:
    batch = batch_of([0] * 4, {"small": [0, 0, 0.01, 0.01], "large": [100, 0, 100, 0]})
    assert batch.advantages_gdpo({"small": 1, "large": 1}) == pytest.approx(
        [0, -math.sqrt(1.5), math.sqrt(1.5), 0], rel=1e-3, abs=1e-3
    )
    weighted = batch.advantages_gdpo({"small": 3, "large": 1})
    assert weighted.dtype == np.float32
    assert list(np.argsort(weighted, kind="stable")) == [1, 0, 3, 2]


def test_a_missing_component_is_left_out_and_a_rollout_without_any_has_no_advantage() -> None:
    batch = batch_of([0, 0, 0, 0], {"q": [1, 3, NAN, NAN], "length": [0, 1, 1, NAN]})
    found = batch.advantages_gdpo({"q": 1, "length": 1})
    assert found[3] == 0
    without = batch_of([0, 0, 0], {"q": [1, 3, NAN], "length": [0, 1, 1]})
    assert found[:3] == pytest.approx(without.advantages_gdpo({"q": 1, "length": 1}))
    assert found.sum() == pytest.approx(0, abs=1e-6)
    assert found[2] > 0


@pytest.mark.parametrize(
    ("groups", "values"),
    [
        ([0, 1, 2], [1.0, 2.0, 3.0]),
        ([0, 0, 0], [0.1, 0.1, 0.1]),
        ([0, 0, 0], [NAN, NAN, NAN]),
        ([0, 0, -1], [NAN, 5.0, 1.0]),
    ],
    ids=["groups of one", "no spread", "all missing", "one value a group"],
)
def test_without_a_comparison_all_advantages_are_0(groups: list[int], values: list[float]) -> None:
    assert list(batch_of(groups, {"q": values}).advantages_gdpo({"q": 1})) == [0, 0, 0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"qualty": 1}, "there is no component 'qualty'; this batch has q, rubric/steps"),
        ({"oyer/q": 1}, "there is no component 'oyer/q'"),
        ({"q": NAN}, r"weights\['q'\]: is nan; give a finite number"),
        ({"q": True}, r"weights\['q'\]: is True"),
        ({"q": "1"}, r"weights\['q'\]: is '1'"),
        ({}, "no component has a weight other than 0; this batch has q, rubric/steps"),
        ({"q": 0}, "no component has a weight other than 0"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, Any], message: str) -> None:
    batch = batch_of([0, 0], {"rubric/steps": [0, 1], "q": [1, 2]})
    with pytest.raises(InvalidInput, match=message):
        batch.advantages_gdpo(weights)


@pytest.mark.parametrize("groups", [[], [-1, -1]], ids=["of an earlier release", "without groups"])
def test_a_batch_without_groups_is_refused(groups: list[int]) -> None:
    batch = replace(batch_of([0, 0], {"q": [1, 2]}), groups=groups)
    with pytest.raises(InvalidInput, match=r"no rollout has a group.*`group_id`"):
        batch.advantages_gdpo({"q": 1})


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
