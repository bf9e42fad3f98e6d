"""What the reward becomes if a judge has no score, by `reward.on_missing`."""

import numpy as np
import pytest

from oyer.config.reward import RewardRules
from oyer.protocol.status import SETTLED, Status
from oyer.tasks.rewards.compose import RewardInputs, compose, missing
from oyer.tasks.rewards.missing_judges import Verdicts
from tests.support.composed_rewards import columns, composed, judge, verdicts

FAILURES = [status for status in Status if status not in SETTLED]


@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_a_missing_score_is_nan_and_masked(status: Status, policy: str) -> None:
    result = composed(verdicts(8.0, status), on_missing=policy)
    assert np.isnan(result.rewards[1])
    assert np.isnan(result.judge_scores[1])
    assert np.isnan(result.terms["judge"][1])
    assert result.mask.tolist() == [True, False]
    assert result.statuses == ["scored", status]


@pytest.mark.parametrize("status", FAILURES)
def test_on_missing_value_replaces_a_missing_score_in_the_reward_only(status: Status) -> None:
    result = composed(verdicts(8.0, status), on_missing={"value": 5})
    np.testing.assert_allclose(result.rewards, [1.8, 1.5])
    assert np.isnan(result.judge_scores[1])
    assert result.mask.all()
    assert result.statuses[1] == status


def test_on_missing_value_may_be_zero() -> None:
    result = composed(verdicts(Status.TIMEOUT), on_missing={"value": 0})
    assert result.rewards.tolist() == [1.0]


def test_on_missing_group_mean_replaces_a_missing_score() -> None:
    result = composed(
        verdicts(8.0, 4.0, Status.TIMEOUT, 2.0, Status.REFUSED, Status.TIMEOUT),
        groups=["a", "a", "a", "b", "b", "c"],
        on_missing="group_mean",
    )
    np.testing.assert_allclose(result.rewards, [1.8, 1.4, 1.6, 1.2, 1.2, np.nan])
    assert result.mask.tolist() == [True] * 5 + [False]


def test_a_group_mean_takes_the_scores_of_empty_responses_too() -> None:
    judged = Verdicts(
        np.array([8.0, 1.0, np.nan, np.nan]),
        [Status.SCORED, Status.EMPTY, Status.GATED, Status.TIMEOUT],
    )
    result = composed(judged, on_missing="group_mean")
    np.testing.assert_allclose(result.terms["judge"], [0.8, 0.1, 0.0, 0.45])


def test_a_group_mean_takes_scores_only() -> None:
    result = composed(verdicts(Status.GATED, Status.EMPTY, Status.TIMEOUT), on_missing="group_mean")
    assert np.isnan(result.rewards[2])


def test_one_judge_that_failed_makes_the_reward_missing_and_names_its_status() -> None:
    result = composed(
        verdicts(8.0, Status.TIMEOUT, Status.REFUSED),
        verdicts(Status.REJECTED, 4.0, Status.TIMEOUT),
    )
    assert result.statuses == ["rejected", "timeout", "refused"]
    assert np.isnan(result.rewards).all()
    assert np.isnan(result.judge_scores).all()
    assert result.terms["judge:q0"][0] == pytest.approx(0.8)


def test_a_missing_score_of_one_judge_is_filled_beside_the_others_score() -> None:
    result = composed(verdicts(8.0), verdicts(Status.TIMEOUT), on_missing={"value": 5})
    np.testing.assert_allclose(result.rewards, [1 + 0.8 + 0.5])


@pytest.mark.parametrize("status", list(Status))
def test_missing_are_failures_and_neither_scores_nor_decisions(status: Status) -> None:
    assert missing([status]) == ([0] if status in FAILURES else [])


def test_scores_for_conditions_follow_the_failure_policy_and_gated_rows_are_lowest() -> None:
    scores = verdicts(8.0, Status.TIMEOUT, Status.GATED)
    skipped = composed(scores, base=[1.0, 1.0, 0.0])
    np.testing.assert_array_equal(skipped.scores["judge"], [8, np.nan, 1])
    filled = composed(scores, base=[1.0, 1.0, 0.0], on_missing={"value": 5})
    np.testing.assert_array_equal(filled.scores["judge:q0"], [8, 5, 1])
    np.testing.assert_allclose(filled.scores["unshaped_reward"], [1.8, 1.5, 0])
    np.testing.assert_array_equal(filled.judge_scores, [8, np.nan, np.nan])


def test_a_failed_judge_of_weight_zero_does_not_make_the_reward_missing() -> None:
    judges = [judge("counts", weight=0.5), judge("watches", weight=0.0)]
    inputs = RewardInputs(
        columns=columns([1.0]),
        judges=judges,
        verdicts={
            "counts": Verdicts(np.array([6.0]), ["scored"]),
            "watches": Verdicts(np.array([np.nan]), ["timeout"]),
        },
        rules=RewardRules(),
    )
    result = compose(inputs)
    assert result.rewards.tolist() == [4.0]
    assert result.mask.tolist() == [True]
    assert result.statuses == ["scored"]
    assert result.judge_scores.tolist() == [6.0]
