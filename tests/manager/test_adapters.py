"""What the trainers' adapters make of a configuration."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from oyer.config.loading import validate
from oyer.manager import JudgeOutage, RewardManager, openrlhf
from oyer.manager.adapters import OutageBreaker, with_deadline
from oyer.manager.score import Score
from oyer.manager.trl import reward
from oyer.manager.verl.settings import LengthPenaltyConfig, resolve

ENDPOINT = {"fake": {"base_url": "http://127.0.0.1:9/v1", "timeout_s": 20}}


@pytest.mark.parametrize(
    ("given", "timeout_s", "deadline_s"),
    [
        ({"endpoints": ENDPOINT}, 100, 80),
        ({"endpoints": ENDPOINT}, 30, 15),
        ({"endpoints": ENDPOINT, "deadline_s": 10}, 100, 10),
        # The endpoints are the workers' alone: theirs are taken to be default, 60 s a call.
        ({}, 300, 240),
    ],
)
def test_a_deadline_keeps_time_for_the_calls_under_way(
    given: dict[str, Any], timeout_s: float, deadline_s: float
) -> None:
    assert with_deadline(validate(given), timeout_s).deadline_s == deadline_s


def test_the_replaced_class_gets_what_is_judged_in_its_time() -> None:
    settings = LengthPenaltyConfig(
        use_async_io=True, broker_url="redis://127.0.0.1:9/0", endpoint="fake", timeout_s=300
    )
    assert resolve(settings).config.deadline_s == 240


def test_one_by_one_an_outage_is_seen_among_what_was_to_be_judged() -> None:
    gated, failed = Score(status="gated"), Score(status="unavailable", error="no answer")
    outages = OutageBreaker(0.5, window=4)
    for _ in range(2):
        outages.count([*[gated] * 9, failed])
    with pytest.raises(JudgeOutage, match="3 of the latest 4 rollouts to be judged"):
        outages.count([*[gated] * 9, failed])


@pytest.mark.parametrize("adapter", [reward.reward_function, openrlhf.reward_function])
def test_a_manager_that_only_its_adapter_knows_lives_on(adapter: Callable[..., Any]) -> None:
    """One that `RewardManager.local` gave takes its backend with it."""
    judges = [{"name": "q", "endpoint": "fake", "model": "m"}]
    broker = {"url": "redis://127.0.0.1:9/0"}
    given = RewardManager({"endpoints": ENDPOINT, "judges": judges, "broker": broker})
    alive = weakref.ref(given)
    function = adapter(given, timeout_s=30)
    del given
    gc.collect()
    assert alive() is not None
    del function
