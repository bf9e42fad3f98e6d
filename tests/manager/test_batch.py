"""What a batch comes back as, and when its missing scores are too many."""

import json
from typing import Any

import numpy as np
import pytest

from oyer.config.reward import RewardRules
from oyer.manager.batch import BatchUsage, RewardBatch, failure_of
from oyer.manager.score import scores_of
from oyer.protocol.batch_result import BatchResult
from oyer.protocol.errors import JudgeOutage, MessageRefused, MissingScores
from tests.manager.conftest import outcome_of


def batch_of(*statuses: str, **changed: Any) -> RewardBatch:
    return RewardBatch.of(outcome_of("b", len(statuses), statuses=list(statuses), **changed))


def rules(**keys: Any) -> RewardRules:
    return RewardRules.model_validate(keys)


def test_a_batch_holds_what_combine_returned() -> None:
    outcome = outcome_of("b", 3)
    batch = RewardBatch.of(outcome)
    assert len(batch) == 3
    assert batch.id == "b"
    assert batch.rewards is outcome.rewards
    assert batch.terms is outcome.terms
    assert batch.usage == BatchUsage(calls=3, prompt_tokens=40, completion_tokens=8, cost_usd=0.5)


def test_usage_reads_by_name_and_adds_its_tokens() -> None:
    usage = BatchUsage(calls=2, prompt_tokens=40, completion_tokens=8, cost_usd=0.5)
    assert usage.tokens == usage["tokens"] == 48
    assert usage["calls"] == 2


@pytest.mark.parametrize("policy", [{}, {"on_missing": "raise"}, {"max_failed_fraction": 0}])
def test_a_batch_without_failures_passes_every_policy(policy: dict[str, Any]) -> None:
    assert failure_of(batch_of("scored", "gated", "empty"), rules(**policy)) is None


@pytest.mark.parametrize("policy", [{}, {"on_missing": {"value": 5}}, {"on_missing": "group_mean"}])
def test_failures_pass_where_the_policy_fills_or_skips_them(policy: dict[str, Any]) -> None:
    assert failure_of(batch_of("timeout", "timeout"), rules(**policy)) is None


def test_under_raise_one_failure_is_an_error_that_holds_the_batch() -> None:
    batch = batch_of("scored", "timeout", first_errors={"timeout": "no answer within 60 s"})
    failure = failure_of(batch, rules(on_missing="raise"))
    assert type(failure) is MissingScores
    assert failure.batch is batch
    assert str(failure) == (
        "batch b: 1 of 2 rollouts to be judged have no score (1 timeout);"
        " first errors: no answer within 60 s; reward.on_missing is `raise`: the error's `batch`"
        " has the other rewards"
    )


def test_rollouts_that_were_not_to_be_judged_do_not_hide_an_outage() -> None:
    """At a low pass rate nearly all are gated: the two that were to be judged failed."""
    batch = batch_of(*["gated"] * 30, *["empty"] * 8, "unavailable", "unavailable")
    failure = failure_of(batch, rules(max_failed_fraction=0.1))
    assert isinstance(failure, JudgeOutage)
    assert "2 of 2 rollouts to be judged have no score (2 unavailable)" in str(failure)
    half = batch_of(*["gated"] * 8, "scored", "timeout")
    assert failure_of(half, rules(max_failed_fraction=0.5)) is None


def test_an_outage_is_more_failures_than_the_fraction_and_names_the_errors() -> None:
    batch = batch_of(
        "timeout", "rejected", "timeout", "scored", first_errors={"rejected": "no key"}
    )
    failure = failure_of(batch, rules(max_failed_fraction=0.5))
    assert isinstance(failure, JudgeOutage)
    assert failure.batch is batch
    assert "3 of 4 rollouts to be judged have no score (1 rejected, 2 timeout)" in str(failure)
    assert "first errors: no key; more than reward.max_failed_fraction = 0.5" in str(failure)


def test_as_many_failures_as_the_fraction_are_no_outage() -> None:
    assert failure_of(batch_of("timeout", "scored"), rules(max_failed_fraction=0.5)) is None
    assert failure_of(batch_of("timeout", "timeout"), rules(max_failed_fraction=1)) is None
    assert failure_of(batch_of("timeout", "scored"), rules(max_failed_fraction=0.49)) is not None
    # 0.58 * 50 is 28.999999999999996.
    exactly = batch_of(*["timeout"] * 29, *["scored"] * 21)
    assert failure_of(exactly, rules(max_failed_fraction=0.58)) is None


def test_an_outage_under_raise_is_reported_as_the_outage() -> None:
    failure = failure_of(batch_of("timeout"), rules(on_missing="raise", max_failed_fraction=0.5))
    assert isinstance(failure, JudgeOutage)
    assert isinstance(failure, MissingScores)


def test_arrays_are_single_precision_and_the_mask_is_boolean() -> None:
    batch = batch_of("scored")
    assert batch.rewards.dtype == batch.judge_scores.dtype == np.float32
    assert batch.mask.dtype == np.bool_


def test_components_are_every_judge_and_every_length_term() -> None:
    scores = {"q": [1.0, np.nan, 3.0], "style": [4.0, 5.0, 6.0]}
    batch = batch_of(
        *["scored"] * 3,
        scores={name: np.array(values, dtype=np.float32) for name, values in scores.items()},
        terms={
            name: np.full(3, value, dtype=np.float32)
            for name, value in {
                "base_score": 1.0,
                "judge": 2.0,
                "judge:q": 1.0,
                "judge:style": 1.0,
                "gate": 1.0,
                "length_penalty": -0.5,
            }.items()
        },
        advantages={"grpo": np.full(3, 0.25, dtype=np.float32)},
        groups=[0, 0, -1],
    )
    assert list(batch.components) == ["q", "style", "length_penalty", "grpo"]
    assert all(values.dtype == np.float32 for values in batch.components.values())
    means = batch.component_means
    np.testing.assert_array_equal(means["q"], [1.0, 1.0, 3.0])
    np.testing.assert_array_equal(means["style"], [4.5, 4.5, 6.0])
    first, second, _ = scores_of(batch)
    assert first.components == {"q": 1.0, "style": 4.0, "length_penalty": -0.5, "grpo": 0.25}
    assert np.isnan(second.components["q"])
    assert second.component_means["q"] == 1.0


def test_a_group_without_a_score_has_no_mean() -> None:
    nan = np.full(2, np.nan, dtype=np.float32)
    for groups in ([0, 0], [-1, -1], []):
        batch = batch_of("timeout", "timeout", scores={"q": nan}, groups=groups)
        assert np.isnan(batch.component_means["q"]).all()


def test_scores_and_groups_travel_and_earlier_results_have_none() -> None:
    scores = {"q": np.array([1.0, np.nan], dtype=np.float32)}
    wire = outcome_of("b", 2, scores=scores, groups=[0, -1]).to_wire()
    back = BatchResult.from_wire(json.loads(json.dumps(wire)))
    np.testing.assert_array_equal(back.scores["q"], scores["q"])
    assert back.groups == [0, -1]
    earlier = {name: value for name, value in wire.items() if name not in ("scores", "groups")}
    assert (BatchResult.from_wire(earlier).scores, BatchResult.from_wire(earlier).groups) == (
        {},
        [],
    )
    with pytest.raises(MessageRefused, match="1 group numbers for 2 rollouts"):
        BatchResult.from_wire({**wire, "groups": [0]})
