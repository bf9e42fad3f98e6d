"""Rewards of whole groups: what a missing score becomes, without a backend."""

import math

import pytest

from oyer.config.loading import validate
from oyer.manager.adapters import response_of
from oyer.manager.group_rewards import neutral_rewards
from oyer.manager.score import Score
from oyer.manager.stand_ins import mean_judge_score, with_group_mean

MISSING = Score(status="rate_limited")


def scored(*rewards: float) -> list[Score]:
    return [Score(status="scored", reward=reward) for reward in rewards]


def test_a_missing_reward_is_the_mean_of_the_others() -> None:
    assert neutral_rewards([*scored(1, 4), MISSING]) == [1, 4, 2.5]


def test_the_sum_with_the_environments_reward_is_neutral() -> None:
    own = [0.0, 1.0, 1.0]
    rewards = neutral_rewards([*scored(1, 4), MISSING], own)
    sums = [reward + plus for reward, plus in zip(rewards, own, strict=True)]
    assert sums == [1, 5, 3]


def test_a_rollout_that_a_length_method_excludes_is_neutral_too() -> None:
    cut = Score(status="scored", reward=9.0, kept=False)
    assert neutral_rewards([*scored(1, 3), cut]) == [1, 3, 2]


def test_a_group_without_any_reward_is_left_unjudged() -> None:
    assert neutral_rewards([MISSING, MISSING], [1.0, 0.0]) == [0, 0]


def test_only_skip_becomes_group_mean() -> None:
    judge = {"name": "q", "endpoint": "e", "model": "m"}
    base = {"endpoints": {"e": {"base_url": "http://localhost:1/v1"}}, "judges": [judge]}
    assert with_group_mean(validate(base)).reward.on_missing == "group_mean"
    raising = validate({**base, "reward": {"on_missing": "raise"}})
    assert with_group_mean(raising).reward.on_missing == "raise"


@pytest.mark.parametrize(
    ("messages", "response"),
    [
        ([], ""),
        ([{"role": "assistant", "content": "4"}], "4"),
        ([{"role": "assistant", "content": "4", "tool_calls": None}], "4"),
        ([{"role": "user", "content": "4"}], [{"role": "user", "content": "4"}]),
    ],
)
def test_a_single_plain_reply_is_text(messages: object, response: object) -> None:
    assert response_of(messages) == response


def test_reasoning_stays_beside_its_reply() -> None:
    message = {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    assert response_of([message]) == [message]


def test_without_judges_nothing_is_missing() -> None:
    by_length = validate({"length": {"method": "median_band"}})
    assert with_group_mean(by_length).reward.on_missing == "skip"


def test_a_missing_judge_score_is_the_weighted_mean_of_what_the_group_has() -> None:
    judges = [
        {"name": name, "endpoint": "e", "model": "m", "weight": weight}
        for name, weight in (("a", 3), ("b", -1), ("unused", 0), ("absent", 5))
    ]
    config = validate({"endpoints": {"e": {"base_url": "http://h/v1"}}, "judges": judges})
    means = {"a": 2.0, "b": 6.0, "unused": 9.0, "absent": math.nan}
    score = Score(status="rate_limited", component_means=means)
    assert mean_judge_score(score, config) == (3 * 2 + 6) / 4
    assert math.isnan(mean_judge_score(MISSING, config))
