"""What the trainers' adapters make of a configuration."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from oyer.config.loading import validate
from oyer.manager import InvalidConfig, JudgeOutage, RewardManager, openrlhf
from oyer.manager.adapters import (
    NeededFields,
    OutageBreaker,
    check_fits,
    component_columns,
    component_names,
    row_metadata,
    with_deadline,
)
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


def test_one_by_one_exactly_the_fraction_is_no_outage() -> None:
    # 0.58 * 50 is 28.999999999999996.
    scored, failed = Score(status="scored"), Score(status="timeout")
    outages = OutageBreaker(0.58, window=50)
    outages.count([*[scored] * 21, *[failed] * 29])
    with pytest.raises(JudgeOutage, match="30 of the latest 50"):
        outages.count([failed])


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


JUDGES = [{"name": "q", "endpoint": "fake", "model": "m"}]


def test_component_columns_have_no_nan_and_the_same_keys_in_every_row() -> None:
    nan = float("nan")
    scores = [
        Score(status="scored", components={"q": 2.0}, component_means={"q": 2.0}),
        Score(status="timeout", components={"q": nan}, component_means={"q": 2.0}),
        Score(status="timeout", components={"q": nan}, component_means={"q": nan}),
        Score(status="unavailable"),
    ]
    assert component_columns(scores) == {
        "oyer/q": [2.0, 2.0, 0.0, 0.0],
        "oyer/q_present": [1.0, 0.0, 0.0, 0.0],
    }
    assert component_columns([], prefix="x-") == {}


def test_an_outage_leaves_the_columns_of_the_configuration() -> None:
    config = validate({"judges": JUDGES, "length": [{"method": "median_band"}]})
    assert component_names(config) == ["q", "length_penalty"]
    columns = component_columns([Score(status="expired")], "", component_names(config))
    assert columns == {
        "q": [0.0],
        "q_present": [0.0],
        "length_penalty": [0.0],
        "length_penalty_present": [0.0],
    }


@pytest.mark.parametrize(
    ("length", "reads"),
    [
        ({"method": "median_band"}, False),
        ({"method": "median_band", "truncated": "mask"}, True),
        ({"method": "median_band", "truncated": "wrong"}, True),
        ({"method": "stop_properly_penalty", "coef": -0.5}, True),
        ({"method": "sigmoid_length", "alpha": 0.2}, True),
        ({"method": "sigmoid_length", "alpha": 0.2, "check_eos": False}, False),
    ],
    ids=str,
)
def test_what_reads_truncation_is_refused_where_nobody_says_it(
    length: dict[str, Any], reads: bool
) -> None:
    config = validate({"length": [length], "tokenizer": "t"})
    assert NeededFields.of(config).truncated is reads
    how: dict[str, Any] = {"who": "X", "base_score": True, "group_size": 4, "how": "n"}
    check_fits(config, truncated=True, **how)
    if reads:
        with pytest.raises(InvalidConfig, match="length: X does not say which rollouts hit"):
            check_fits(config, truncated=False, **how)
    else:
        check_fits(config, truncated=False, **how)


def test_only_a_judge_that_takes_images_needs_them() -> None:
    needed = [
        NeededFields.of(validate({"judges": [{**JUDGES[0], "images": how}]})).images
        for how in ("placeholder", "send", "reject")
    ]
    assert needed == [False, True, True]


def test_the_small_values_of_a_row_are_its_metadata() -> None:
    row: dict[Any, Any] = {
        "data_source": "gsm8k",
        "index": np.int64(3),
        "weight": np.float32(0.5),
        "hard": True,
        "prompt": "x" * 201,
        "images": [1],
        "none": None,
        "nan": float("nan"),
        "broken": "\udc00",
        3: "no text key",
        "extra_info": {"split": "test", "index": 4, "deep": {"a": 1}},
    }
    assert row_metadata(row) == {
        "data_source": "gsm8k",
        "index": 3,
        "weight": 0.5,
        "hard": True,
        "split": "test",
    }
    assert len(row_metadata({f"k{i}": i for i in range(100)})) == 32
