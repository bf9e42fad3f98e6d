"""The replaced system's class at its edges: its surface, empty responses, scorers that fail."""

import inspect
import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import InvalidConfig, InvalidRollout
from oyer.manager.verl import LengthPenaltyConfig, LengthPenaltyRewardManager
from tests.support.scripted_backend import Running
from tests.support.verl_batch import manager_of, place_of, rows
from tests.support.verl_data import Tokens, base_from_extra_info, data_proto

SURFACE = {
    "use_async_io": False,
    "api_key": None,
    "model_name": "deepseek-v3",
    "api_endpoint": None,
    "max_concurrent_requests": 10,
    "reward_coefficient": 1.0,
    "penalty_scale": 1.0,
    "max_penalty": 1.0,
    "peak_ratio": 0.3,
    "outer_ratio": 0.5,
    "enable": True,
}
"""The replaced system's settings with the defaults that it read them with."""


@pytest.fixture
def judge_says() -> str:
    return "最终评分: 5"


@pytest.fixture(params=["workers", "in the process"])
def place(request: pytest.FixtureRequest, running: Running) -> dict[str, Any]:
    """Settings that say where is judged."""
    return place_of(request.param, *running)


def test_it_is_made_as_the_replaced_class_was() -> None:
    parameters = inspect.signature(LengthPenaltyRewardManager).parameters
    assert [*parameters][:5] == [
        "tokenizer", "num_examine", "compute_score", "reward_fn_key", "length_penalty_config",
    ]  # fmt: skip
    assert parameters["reward_fn_key"].default == "data_source"
    assert parameters["compute_score"].default is None
    defaults = {field.name: field.default for field in fields(LengthPenaltyConfig)}
    assert {name: defaults[name] for name in SURFACE} == SURFACE


def test_an_empty_response_has_its_reward_in_the_last_column(
    place: dict[str, Any], judge: JudgeServer
) -> None:
    """As verl's own managers have it: its last valid token is at index -1."""
    tokens = Tokens()
    tag = f"empty {sorted(place)}"
    data = data_proto(
        tokens,
        ["q"] * 3,
        [f"{tag} 0", "", f"{tag} 2"],
        [10, 0, 10],
        uid=["g"] * 3,
        extra_info=[{"base": 1.0}] * 3,
    )
    result = manager_of(tokens, **place)(data, return_dict=True)
    tensor, info = result["reward_tensor"], result["reward_extra_info"]
    assert tensor.nonzero().tolist() == [[0, 9], [1, tensor.shape[1] - 1], [2, 9]]
    # Base score, the lowest score of the scale for a response that holds nothing, full penalty.
    assert tensor[1, -1] == pytest.approx(1 + 1 - 1)
    assert info["response_length"] == [10, 0, 10]
    assert info["length_penalty"][1] == 1.0
    assert len(judge.requests) == 2


@pytest.mark.parametrize("result", [None, {"acc": 1.0}, "seven"])
def test_a_score_that_is_none_is_refused_before_anything_is_paid(
    place: dict[str, Any], judge: JudgeServer, result: Any
) -> None:
    tokens = Tokens()
    manager = manager_of(tokens, **place)
    manager.compute_score = lambda **_: result
    with pytest.raises(InvalidRollout, match="compute_score: returned"):
        manager(rows(tokens, "no score"))
    assert judge.requests == []


def test_a_dict_with_a_score_is_a_score(place: dict[str, Any], judge: JudgeServer) -> None:
    tokens = Tokens()
    manager = manager_of(tokens, **place)
    manager.compute_score = lambda **_: {"score": 0.5, "acc": True}
    info = manager(rows(tokens, f"dict {sorted(place)}"), return_dict=True)["reward_extra_info"]
    assert info["original_score"] == [0.5] * 4


def test_a_future_travels_with_its_batch(place: dict[str, Any], judge: JudgeServer) -> None:
    tokens = Tokens()
    judge.set_plan(Action(text="最终评分: 7"))
    future = manager_of(tokens, **place).submit(rows(tokens, f"travels {sorted(place)}"))
    copy = pickle.loads(pickle.dumps(future))
    torch.testing.assert_close(copy.result(), future.result())
    assert copy.result().sum() == pytest.approx(4 * 8.0)
    assert len(judge.requests) == 4


@pytest.mark.parametrize("suffix", ["", "/", "/chat/completions", "/chat/completions/"])
def test_an_endpoint_is_a_base_or_a_full_url(
    running: Running, judge: JudgeServer, suffix: str
) -> None:
    tokens = Tokens()
    manager = manager_of(tokens, api_endpoint=judge.base_url + suffix)
    assert manager(rows(tokens, f"url {suffix}", 1)).sum() == pytest.approx(6.0)


def test_no_more_calls_are_under_way_than_allowed(judge: JudgeServer) -> None:
    tokens = Tokens()
    judge.set_plan(Action(text="最终评分: 5", latency_s=0.05))
    manager = manager_of(tokens, api_endpoint=judge.base_url, max_concurrent_requests=2)
    manager(rows(tokens, "limited", 8))
    assert len(judge.requests) == 8
    assert max(arrival.in_flight for arrival in judge.requests) <= 2


def test_a_key_by_value_names_the_variable_also_where_nothing_is_known_of_the_workers(
    running: Running,
) -> None:
    with pytest.raises(InvalidConfig, match="set OYER_JUDGE_API_KEY there"):
        manager_of(
            Tokens(),
            use_async_io=True,
            broker_url=running[0].config.broker.url,
            api_endpoint="http://127.0.0.1:9/v1/chat/completions",
            api_key="sk-secret",
        )


def test_another_url_than_the_workers_have_is_refused(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "oyer.yaml"
    broker = {"url": running[0].config.broker.url}
    endpoints = {"own": {"base_url": "http://127.0.0.1:9/v1"}}
    file.write_text(json.dumps({"endpoints": endpoints, "broker": broker}))
    settings = {"use_async_io": True, "oyer_config": str(file)}
    manager_of(Tokens(), **settings, api_endpoint="http://127.0.0.1:9/v1/chat/completions")
    with pytest.raises(
        InvalidConfig, match=r"api_endpoint: is not a URL of the workers' endpoints\.own"
    ):
        manager_of(Tokens(), **settings, api_endpoint="http://127.0.0.1:8/v1/chat/completions")


def test_settings_come_one_by_one_or_as_any_object_s_attributes() -> None:
    """verl hands `reward_kwargs` over one by one; the replaced class read attributes."""

    class Settings:
        enable = True
        peak_ratio = 0.2

    for given in ({"length_penalty_config": Settings()}, {"enable": True, "peak_ratio": 0.2}):
        kwargs: dict[str, Any] = given
        manager = LengthPenaltyRewardManager(Tokens(), 0, base_from_extra_info, **kwargs)
        assert manager.length_penalty_config == LengthPenaltyConfig(peak_ratio=0.2)
