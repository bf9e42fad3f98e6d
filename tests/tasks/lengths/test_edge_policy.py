"""Equal, single, empty and missing rows have the values that docs and papers define."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch

from oyer.tasks.lengths import Inputs, compute, evaluate
from tests.support.length_inputs import BY_ROW, NEEDED, make_batch, pick

NEUTRAL: dict[str, float] = {
    "median_band": 0.0,
    "kimi_length_reward": 0.0,
    "short_rl": 0.0,
    "diet_token_score": 0.0,
    "lc_r1_length": 0.0,
    "o1_pruner": 0.0,
    "brevity_bonus": 1.0,
    "grpo_lead": 1.0,
    "sigmoid_length": 1 - 0.1 / 2,
    "gr3": 1 / 1.33,
    "jet": 0.05,
    "qglas": 0.0,
    "gfpo": 0.0,
    "aggregate": 0.0,
    "trl_aggregate": 0.0,
    "gdpo": 0.0,
}
"""The term of a correct row in a group of equal rows: 0 for an added term, the formula's constant for a
factor."""


def equal_rows(count: int, length: int = 70) -> Inputs:
    ones = torch.ones(count, dtype=torch.float64)
    return Inputs(
        lengths=torch.full((count,), length),
        group_ids=torch.zeros(count, dtype=torch.int64),
        correct=ones.bool(),
        quality=0.3 * ones,
        components=torch.stack([0.1 * ones, 0.7 * ones], dim=1),
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NEUTRAL)
def test_equal_and_single_rows_are_neutral(name: str, count: int) -> None:
    term = compute(name, {}, equal_rows(count))
    assert term.values.tolist() == pytest.approx([NEUTRAL[name]] * count, abs=1e-15)


def test_equal_scores_have_an_advantage_of_exactly_zero() -> None:
    inputs = Inputs(
        lengths=torch.tensor([5, 6, 7]),
        quality=torch.full((3,), 0.1, dtype=torch.float64),
        group_ids=torch.zeros(3, dtype=torch.int64),
    )
    assert compute("qglas", {}, inputs).values.tolist() == [0.0, 0.0, 0.0]


def test_equal_rows_keep_their_advantages() -> None:
    inputs = replace(equal_rows(3), advantages=torch.tensor([0.5, 0.25, -0.75]).double())
    term = compute("advantage_reweight", {}, inputs)
    assert term.values.tolist() == [0.5, 0.25, -0.75]


@pytest.mark.parametrize("name", BY_ROW)
def test_empty_answers_give_finite_values(name: str) -> None:
    zeros = torch.zeros(6, dtype=torch.int64)
    inputs = replace(
        make_batch(2, 3),
        lengths=zeros,
        think_lengths=zeros,
        answer_lengths=zeros,
        target_lengths=zeros,
        total_tokens=zeros,
        turns=zeros,
        history_lengths=zeros.double(),
        reference_lengths=zeros.double(),
    )
    assert compute(name, NEEDED.get(name, {}), inputs).values.isfinite().all()


@pytest.mark.parametrize("name", BY_ROW)
def test_an_empty_batch_gives_an_empty_term(name: str) -> None:
    nobody = pick(make_batch(), torch.tensor([], dtype=torch.int64))
    assert compute(name, NEEDED.get(name, {}), nobody).values.shape == (0,)


@pytest.mark.filterwarnings("error")
def test_an_empty_batch_has_no_accuracy_and_no_warning() -> None:
    assert evaluate("short_rl", {}, {"lengths": [], "correct": [], "group_ids": []}) == []


@pytest.mark.parametrize("name", ["laser", "jet", "short_rl", "lc_r1_length", "grpo_lead"])
def test_groups_without_a_correct_row_are_left_alone(name: str) -> None:
    inputs = replace(make_batch(), correct=torch.zeros(20, dtype=torch.bool))
    neutral = 1.0 if name == "grpo_lead" else 0.0
    assert set(compute(name, NEEDED.get(name, {}), inputs).values.tolist()) == {neutral}


@pytest.mark.parametrize("name", ["qglas", "gfpo", "aggregate", "gdpo", "advantage_reweight"])
def test_a_missing_score_leaves_the_statistics_and_has_no_advantage(name: str) -> None:
    params = {"k": 3} if name == "gfpo" else {}
    whole = replace(make_batch(1, 6), advantages=None)
    assert whole.quality is not None
    assert whole.components is not None
    known = torch.tensor([0, 1, 3, 4, 5])
    gap = replace(
        whole,
        quality=whole.quality.index_fill(0, torch.tensor([2]), math.nan),
        components=whole.components.index_fill(0, torch.tensor([2]), math.nan),
    )
    found = compute(name, params, gap).values
    assert found[2] == 0
    without = compute(name, params, pick(whole, known)).values
    assert found[known].tolist() == pytest.approx(without.tolist())


def test_one_missing_reward_of_several_adds_nothing() -> None:
    rewards: list[list[Any]] = [[1.0, None], [0.0, 2.0], [3.0, 4.0]]
    inputs = {"rewards_per_func": rewards, "group_ids": [0, 0, 0]}
    found = evaluate("aggregate", {"mode": "sum", "baseline": "none"}, inputs)
    assert found == [1.0, 2.0, 7.0]


def test_soft_overlong_is_clamped_by_default() -> None:
    params = {"max_len": 100, "cache_len": 20}
    assert evaluate("soft_overlong", params, {"lengths": [120]}) == [-1.0]
    assert evaluate("soft_overlong", {**params, "clamp": False}, {"lengths": [120]}) == [-2.0]


def test_cosine_stays_at_its_end_value_by_default() -> None:
    inputs = {"lengths": [2000], "correct": [1]}
    assert evaluate("cosine", {"max_len": 1000}, inputs) == [0.5]
    assert evaluate("cosine", {"max_len": 1000, "clamp": False}, inputs) == [1.0]


def test_of_equally_short_rows_the_first_gets_grlcs_bonus() -> None:
    inputs = {
        "base_reward": [1.0, 1.0],
        "think_lengths": [5, 5],
        "answer_lengths": [9, 9],
        "group_ids": ["a", "a"],
    }
    assert evaluate("grlc", {}, inputs) == [2.0, 1.0]


def test_truncated_rows_count_as_wrong_and_leave_the_statistics() -> None:
    rows = {"lengths": [100, 300, 900], "correct": [1, 1, 1], "group_ids": [0, 0, 0]}
    short = {name: values[:2] for name, values in rows.items()}
    found = evaluate("sigmoid_length", {}, {**rows, "truncated": [0, 0, 1]})
    assert found == [*evaluate("sigmoid_length", {}, short), 0.0]


def test_hapo_keeps_the_shortest_correct_length_of_each_prompt() -> None:
    inputs = Inputs(
        lengths=torch.tensor([50, 40, 30, 20, 10]),
        correct=torch.tensor([True, True, False, False, True]),
        history_lengths=torch.tensor([45.0, 45.0, 45.0, math.nan, math.nan]).double(),
        group_ids=torch.tensor([0, 0, 0, 1, 2]),
    )
    term = compute("hapo", {}, inputs)
    assert term.history is not None
    assert term.history.tolist() == pytest.approx([40, 40, 40, math.nan, 10], nan_ok=True)
    assert term.values[3:].tolist() == [0.0, 0.0]
    alone = compute("hapo", {}, replace(inputs, group_ids=None))
    assert alone.history is not None
    assert alone.history.tolist() == pytest.approx([45, 40, 45, math.nan, 10], nan_ok=True)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("base", [0.0, 0.1, 0.2, 0.5, 4.0])
def test_a_row_at_the_mean_has_no_advantage_and_no_bonus(
    base: float, order: tuple[int, ...]
) -> None:
    # The middle row's advantage is 0, so that only the best row is positive, and its length is L_ref.
    inputs = {
        "base_reward": [base + (1 + i) / 10 for i in order],
        "lengths": [(400, 10, 300)[i] for i in order],
        "group_ids": [0, 0, 0],
    }
    found = evaluate("qglas", {}, inputs)
    assert found == pytest.approx([(-0.1, 0.0, 0.1)[i] for i in order])
    assert found[order.index(1)] == 0.0


@pytest.mark.parametrize(
    ("method", "components"),
    [
        ("aggregate", [[0.1, 0.2], [0.3, 0.0], [0.0, 0.3]]),
        ("aggregate", [[1000.1, -1000.0], [0.1, 0.0], [0.1, 0.0]]),
        # The second component's z-scores are those of the first with the other sign.
        ("gdpo", [[0.1, 0.9], [0.3, 0.7], [0.7, 0.3]]),
    ],
)
def test_rewards_that_are_equal_but_for_rounding_have_no_advantage(
    method: str, components: list[list[float]]
) -> None:
    inputs = {"rewards_per_func": components, "group_ids": [0, 0, 0]}
    assert evaluate(method, {}, inputs) == [0.0, 0.0, 0.0]


def test_intern_s2_changes_a_group_whose_positive_rows_are_exactly_the_least_share() -> None:
    inputs = {
        "advantages": [1.0] * 11 + [-1.0] * 9,
        "lengths": [*range(11), *range(9)],
        "group_ids": [0] * 20,
    }
    # Weights 1, 0.95, …, 0.5 sum to 8.25; the positive advantages' sum of 11 is kept.
    weighed = [(1 - 0.05 * i) * 11 / 8.25 for i in range(11)]
    found = evaluate("advantage_reweight", {"tau": 0.55}, inputs)
    assert found == pytest.approx(weighed + [-1.0] * 9)


def test_toolrls_share_is_rounded_from_its_decimal_value() -> None:
    lengths = [5, 15, 25, 45, 285, 1005, 4]
    found = evaluate("think_length_bonus", {"max_reward_len": 1000}, {"lengths": lengths})
    # `min(round(length / max_length, 2), 1)`
    assert found == [0.01, 0.01, 0.03, 0.04, 0.28, 1.0, 0.0]
