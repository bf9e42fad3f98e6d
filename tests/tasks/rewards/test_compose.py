"""Rewards are the sum of their terms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from oyer.protocol.partial_results import Floats, LengthResult
from oyer.protocol.status import SETTLED, Status
from oyer.tasks.rewards.compose import (
    batch_result,
)
from oyer.tasks.rewards.missing_judges import Verdicts
from tests.support.composed_rewards import composed, verdicts

FAILED = [status for status in Status if status not in SETTLED]
NUMBERS = st.floats(-100, 100, width=32)


def arrays(n: int, elements: st.SearchStrategy[float] = NUMBERS) -> st.SearchStrategy[Floats]:
    return npst.arrays(np.float64, n, elements=elements)


@given(st.data(), st.integers(1, 12), st.integers(0, 3), st.integers(0, 3))
def test_terms_add_up_to_the_reward(data: st.DataObject, n: int, judges: int, lengths: int) -> None:
    judged = [
        verdicts(*data.draw(st.lists(NUMBERS | st.sampled_from(FAILED), min_size=n, max_size=n)))
        for _ in range(judges)
    ]
    added = {f"length_{k}": data.draw(arrays(n)) for k in range(lengths)}
    base = data.draw(arrays(n))
    weights = data.draw(st.lists(NUMBERS, min_size=judges, max_size=judges))
    result = composed(*judged, base=list(base), weights=weights, lengths=LengthResult(added=added))
    total = sum(result.terms[name] for name in ("base_score", "judge", *added))
    np.testing.assert_allclose(result.rewards, total, atol=1e-9)
    np.testing.assert_array_equal(
        result.unshaped_rewards, result.terms["base_score"] + result.terms["judge"]
    )
    np.testing.assert_array_equal(result.mask, np.isfinite(result.rewards))
    if judges > 1:
        parts = sum(result.terms[f"judge:q{k}"] for k in range(judges))
        np.testing.assert_allclose(result.terms["judge"], parts, atol=1e-9)


def test_the_default_is_base_plus_a_tenth_of_the_score_minus_the_penalty() -> None:
    result = composed(
        verdicts(8.0, 3.0),
        base=[1.0, 0.5],
        lengths=LengthResult(added={"length_penalty": np.array([-0.25, 0.0])}),
    )
    np.testing.assert_allclose(result.rewards, [1.55, 0.8])
    np.testing.assert_allclose(result.unshaped_rewards, [1.8, 0.8])
    np.testing.assert_allclose(result.judge_scores, [8, 3])
    assert result.statuses == ["scored", "scored"]
    assert list(result.terms) == ["base_score", "judge", "length_penalty"]


def test_multipliers_scale_base_and_judges_but_no_added_term() -> None:
    result = composed(
        verdicts(10.0),
        base=[1.0],
        lengths=LengthResult(
            multiplied={"stop": np.array([0.5]), "gr3": np.array([0.1])},
            added={"length_penalty": np.array([-1.0])},
        ),
    )
    np.testing.assert_allclose(result.rewards, [2.0 * 0.5 * 0.1 - 1.0])
    np.testing.assert_allclose(result.unshaped_rewards, [2.0])
    assert result.terms["stop"].tolist() == [0.5]


def test_a_gated_rollout_keeps_its_base_score_and_has_no_judge_score() -> None:
    result = composed(
        verdicts(Status.GATED),
        base=[-1.0],
        lengths=LengthResult(added={"length_penalty": np.array([-0.5])}),
        on_missing={"value": 5},
    )
    assert result.rewards.tolist() == [-1.5]
    assert np.isnan(result.judge_scores[0])
    assert result.mask.all()
    assert result.statuses == ["gated"]


def test_an_empty_response_has_the_score_that_its_judge_gives_it() -> None:
    empty = Verdicts(scores=np.array([1.0]), statuses=[Status.EMPTY])
    result = composed(empty, on_missing={"value": 5})
    np.testing.assert_allclose(result.rewards, [1.1])
    assert result.judge_scores.tolist() == [1.0]


def test_several_judges_add_up_by_their_weights_and_show_their_weighted_mean() -> None:
    result = composed(verdicts(8.0), verdicts(2.0), weights=[0.3, -0.1])
    np.testing.assert_allclose(result.rewards, [1 + 2.4 - 0.2])
    np.testing.assert_allclose(result.judge_scores, [(0.3 * 8 + 0.1 * 2) / 0.4])
    assert result.terms["judge:q0"] == pytest.approx([2.4])
    assert result.terms["judge:q1"] == pytest.approx([-0.2])


def test_judges_without_weight_show_their_plain_mean() -> None:
    result = composed(verdicts(8.0), verdicts(2.0), weights=[0, 0])
    assert result.judge_scores.tolist() == [5.0]
    assert result.rewards.tolist() == [1.0]


def test_without_judges_there_are_base_scores_and_lengths() -> None:
    lengths = LengthResult(added={"length_penalty": np.array([-0.5, -0.25])})
    result = composed(base=[1.0, np.nan], lengths=lengths)
    assert result.rewards.tolist() == [0.5, -0.25]
    assert np.isnan(result.judge_scores).all()
    assert result.statuses == ["scored", "scored"]


def test_without_a_base_score_the_reward_is_the_judges_share() -> None:
    assert composed(verdicts(8.0), base=[np.nan]).rewards.tolist() == pytest.approx([0.8])


def test_an_undefined_length_term_makes_the_reward_missing() -> None:
    lengths = LengthResult(added={"length_penalty": np.array([np.nan, 0.0])})
    result = composed(verdicts(8.0, 8.0), lengths=lengths)
    assert result.mask.tolist() == [False, True]
    assert np.isnan(result.rewards[0])
    assert result.unshaped_rewards.tolist() == pytest.approx([1.8, 1.8])


def test_compose_does_not_modify_its_inputs() -> None:
    scores = verdicts(8.0, Status.TIMEOUT, Status.GATED)
    before = scores.scores.copy()
    composed(scores, on_missing={"value": 5})
    np.testing.assert_array_equal(scores.scores, before)


def test_a_gate_zeroes_base_score_and_judges_but_not_length_terms() -> None:
    scores = verdicts(6.0, 5.0, Status.TIMEOUT, Status.GATED)
    lengths = LengthResult(added={"bonus": np.full(4, 0.25)})
    result = composed(scores, lengths=lengths, zero_unless="judge >= 6")
    np.testing.assert_allclose(result.rewards, [1.85, 0.25, np.nan, 0.25])
    np.testing.assert_array_equal(result.terms["gate"], [1, 0, np.nan, 0])
    np.testing.assert_allclose(result.unshaped_rewards, [1.6, 1.5, np.nan, 1.0])
    assert result.mask.tolist() == [True, True, False, True]


def test_a_gate_on_correctness_is_missing_where_correctness_is_unknown() -> None:
    result = composed(
        base=[np.nan] * 3,
        correct=[True, False, None],
        lengths=LengthResult(added={"bonus": np.full(3, 0.25)}),
        zero_unless="correct",
    )
    np.testing.assert_array_equal(result.terms["gate"], [1, 0, np.nan])
    np.testing.assert_array_equal(result.rewards, [0.25, 0.25, np.nan])


def test_multipliers_scale_changes_of_the_whole_reward() -> None:
    lengths = LengthResult(
        changed={"cosine": np.array([-0.5, 1.0])}, multiplied={"gr3": np.array([0.5, 0.5])}
    )
    result = composed(base=[1.0, 1.0], lengths=lengths)
    assert result.rewards.tolist() == [0.25, 1.0]
    assert result.unshaped_rewards.tolist() == [1.0, 1.0]
    assert result.terms["cosine"].tolist() == [-0.5, 1.0]
    assert result.summands["cosine"].tolist() == [-0.25, 0.5]


def test_a_row_excluded_from_training_still_has_a_reward() -> None:
    result = composed(base=[1.0, 1.0], lengths=LengthResult(kept=np.array([True, False])))
    assert result.rewards.tolist() == [1.0, 1.0]
    assert result.mask.tolist() == [True, False]


@given(st.data(), st.integers(1, 8))
def test_summands_add_up_to_the_reward_with_gate_and_multipliers(
    data: st.DataObject, n: int
) -> None:
    judged = [verdicts(*data.draw(st.lists(NUMBERS, min_size=n, max_size=n))) for _ in range(2)]
    added, multiplied = ({kind: data.draw(arrays(n))} for kind in ("added", "multiplied"))
    lengths = LengthResult(added=added, multiplied=multiplied)
    result = composed(*judged, zero_unless="judge >= 0", lengths=lengths)
    np.testing.assert_allclose(result.rewards, sum(result.summands.values()), atol=1e-9)
    factor = result.terms["gate"] * result.terms["multiplied"]
    expected = factor * result.unshaped_rewards + result.terms["added"]
    np.testing.assert_allclose(result.rewards, expected, rtol=1e-6, atol=1e-6)


def test_no_term_is_negative_zero() -> None:
    lengths = LengthResult(added={"length_penalty": np.array([-0.0])})
    out = composed(verdicts(8.0), base=[1.0], lengths=lengths)
    for values in (*out.terms.values(), *out.summands.values()):
        assert not np.signbit(values[values == 0]).any()


def test_a_batch_result_holds_the_rewards_and_the_length_outputs_as_float32() -> None:
    lengths = LengthResult(
        added={"length_penalty": np.array([-0.25])},
        advantages={"grpo": np.array([0.5])},
        history={"laser": np.array([7.0])},
    )
    composed_rewards = composed(verdicts(8.0), base=[1.0], lengths=lengths)
    usage = {"calls": 1, "prompt_tokens": 2, "completion_tokens": 3, "cost_usd": 0.5}
    result = batch_result("b", composed_rewards, lengths, usage=usage, first_errors={})
    np.testing.assert_allclose(result.rewards, [1.55], rtol=1e-6)
    assert result.rewards.dtype == result.terms["length_penalty"].dtype == np.float32
    assert set(result.recorded) == {
        *composed_rewards.terms,
        "advantage:grpo",
        "history:laser",
        "score:q0",
    }
    assert (result.usage, result.cancelled) == (usage, None)


def test_equal_scores_of_several_judges_reach_a_condition_at_that_score() -> None:
    three = [verdicts(5.0, 4.0)] * 3
    result = composed(*three, weights=[0.1] * 3, zero_unless="judge >= 5")
    np.testing.assert_allclose(result.terms["gate"], [1.0, 0.0])
    np.testing.assert_allclose(result.rewards, [2.5, 0.0])
