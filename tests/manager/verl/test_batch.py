"""The replaced system's class, on data as verl lays it out."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import BackendUnavailable, InvalidConfig, MissingScores
from oyer.manager.verl import LengthPenaltyRewardManager
from tests.support.paths import TESTS
from tests.support.scripted_backend import Running, by_response
from tests.support.verl_batch import manager_of, place_of, rows
from tests.support.verl_data import FakeDataProto, Tokens, base_from_extra_info, data_proto

VECTORS = json.loads((TESTS / "data" / "median_band_vectors.json").read_text())
KEYS = {
    "openai_quality_reward",
    "length_penalty",
    "original_score",
    "response_length",
    "median_length",
    "oyer/quality",
    "oyer/quality_present",
    "oyer/length_penalty",
    "oyer/length_penalty_present",
}


@pytest.fixture
def judge_says() -> str:
    return "最终评分: 5"


@pytest.fixture(params=["workers", "in the process"])
def place(request: pytest.FixtureRequest, running: Running) -> dict[str, Any]:
    """Settings that say where is judged."""
    return place_of(request.param, *running)


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_it_gives_the_rewards_of_the_replaced_code(
    place: dict[str, Any], judge: JudgeServer, number: int
) -> None:
    vector = VECTORS[number]
    names = [f"<{number}-{i}-{place['use_async_io']}>" if "use_async_io" in place else f"<{number}-{i}>" for i in range(len(vector["lengths"]))]  # fmt: skip
    judge.set_plan(by_response(dict(zip(names, vector["judge_scores"], strict=True))))
    tokens = Tokens()
    data = data_proto(
        tokens,
        ["What is it?"] * len(names),
        names,
        vector["lengths"],
        uid=vector["group_ids"],
        extra_info=[{"base": base} for base in vector["base_scores"]],
    )
    manager = manager_of(
        tokens, reward_coefficient=vector["reward_coefficient"], **vector["params"], **place
    )
    result = manager(data, return_dict=True)
    tensor, info = result["reward_tensor"], result["reward_extra_info"]
    at = [length - 1 for length in vector["lengths"]]
    expected = torch.tensor(vector["expected_rewards"])
    torch.testing.assert_close(tensor[range(len(at)), at], expected, atol=1e-5, rtol=0)
    assert tensor.dtype == torch.float32
    assert tensor.count_nonzero() == expected.count_nonzero()
    assert info.keys() == KEYS
    assert {len(column) for column in info.values()} == {len(names)}
    assert info["original_score"] == vector["base_scores"]
    assert info["response_length"] == vector["lengths"]
    judged = sum(base > 0 for base in vector["base_scores"])
    assert len(judge.requests) == judged
    terms = (info[k] for k in ("original_score", "openai_quality_reward", "length_penalty"))
    sums = [base + quality - penalty for base, quality, penalty in zip(*terms, strict=True)]
    np.testing.assert_allclose(sums, vector["expected_rewards"], atol=1e-5)


def test_the_judge_sees_the_request_the_reference_and_the_response(
    place: dict[str, Any], judge: JudgeServer
) -> None:
    tokens = Tokens()
    data = rows(tokens, f"seen {sorted(place)}", 1)
    messages = [{"role": "user", "content": "From the chat?"}]
    data.non_tensor_batch["raw_prompt"] = np.array([None], dtype=object)
    data.non_tensor_batch["raw_prompt"][0] = messages
    manager_of(tokens, **place)(data)
    (arrival,) = judge.requests
    text = "\n".join(content for _, content in arrival.messages())
    assert "From the chat?" in text
    assert "42" in text
    assert f"seen {sorted(place)} answer 0." in text


def test_scores_that_came_along_are_passed_through(place: dict[str, Any]) -> None:
    data = FakeDataProto(
        {"rm_scores": torch.ones(2, 3), "responses": torch.zeros(2, 3)},
        {"acc": np.array([1, 0])},
        {"reward_extra_keys": ["acc"]},
    )
    manager = manager_of(Tokens(), **place)
    assert manager(data) is data.batch["rm_scores"]
    result = manager(data, return_dict=True)
    assert result["reward_tensor"] is data.batch["rm_scores"]
    assert result["reward_extra_info"]["acc"].tolist() == [1, 0]


def test_rows_without_a_prompt_id_are_groups_of_their_own(
    place: dict[str, Any], judge: JudgeServer
) -> None:
    tokens = Tokens()
    data = data_proto(tokens, ["q"] * 2, ["a", "b"], [10, 100], extra_info=[{"base": 1.0}] * 2)
    info = manager_of(tokens, **place)(data, return_dict=True)["reward_extra_info"]
    assert info["length_penalty"] == [0, 0]
    assert info["median_length"] == [10, 100]


def test_a_batch_handed_over_again_is_paid_for_once(
    place: dict[str, Any], judge: JudgeServer
) -> None:
    tokens = Tokens()
    data = rows(tokens, f"again {sorted(place)}")
    first = manager_of(tokens, **place)(data)
    copy = pickle.loads(pickle.dumps(manager_of(tokens, **place)))
    copy.compute_score = base_from_extra_info
    torch.testing.assert_close(copy(data), first)
    assert len(judge.requests) == 4


def test_a_batch_can_be_collected_later(running: Running, judge: JudgeServer) -> None:
    tokens = Tokens()
    judge.set_plan(Action(text="最终评分: 7", hold=True))
    manager = manager_of(
        tokens, use_async_io=True, broker_url=running[0].config.broker.url, endpoint="fake"
    )
    future = manager.submit(rows(tokens, "later"))
    judge.wait_until(lambda log: len(log) == 4)
    judge.release()
    assert future.result().sum() == pytest.approx(4 * 8.0)


@pytest.mark.parametrize("failure", ["rate_limited", "dead"])
def test_a_failing_judge_leaves_the_rest_of_the_reward(
    place: dict[str, Any], judge: JudgeServer, failure: str
) -> None:
    judge.set_plan(named("rate_limited", retry_after_s=0))
    settings = dict(place)
    if failure == "dead" and "endpoint" in settings:
        settings["endpoint"] = "dead"
    elif failure == "dead":
        settings["api_endpoint"] = "http://127.0.0.1:9/v1/chat/completions"
    tokens = Tokens()
    data = data_proto(
        tokens,
        ["q"] * 4,
        [f"{failure} {sorted(place)} {i}" for i in range(4)],
        [100, 100, 100, 160],
        uid=["g"] * 4,
        extra_info=[{"base": base} for base in (1.0, 0.5, 0.0, 1.0)],
    )
    result = manager_of(tokens, **settings)(data, return_dict=True)
    rewards = result["reward_tensor"].sum(-1)
    torch.testing.assert_close(rewards, torch.tensor([1.0, 0.5, 0.0, 0.0]))
    quality = result["reward_extra_info"]["openai_quality_reward"]
    assert quality == [0.0] * 4
    assert result["reward_extra_info"]["oyer/quality_present"] == [0.0] * 4
    strict = manager_of(tokens, **settings, on_missing="raise")
    with pytest.raises(MissingScores, match="3 of 3 rollouts"):
        strict(data)


def test_a_broker_that_is_away_is_an_error_that_names_it(judge: JudgeServer) -> None:
    tokens = Tokens()
    manager = manager_of(
        tokens, use_async_io=True, broker_url="redis://127.0.0.1:9/0", endpoint="fake"
    )
    with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:9"):
        manager(rows(tokens, "away"))


def test_a_key_by_value_is_refused_with_remote_workers(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "oyer.json.yaml"
    endpoints = {"deepseek": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "DEEPSEEK_KEY"}}
    broker = {"url": running[0].config.broker.url}
    file.write_text(json.dumps({"endpoints": endpoints, "broker": broker}))
    with pytest.raises(InvalidConfig, match="set DEEPSEEK_KEY there") as raised:
        manager_of(Tokens(), use_async_io=True, oyer_config=str(file), api_key="sk-secret")
    assert "sk-secret" not in str(raised.value)


def test_a_key_by_value_reaches_workers_that_it_starts_and_no_pickle(
    judge: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OYER_STORE__URL", f"sqlite:///{tmp_path / 'local.db'}")
    tokens = Tokens()
    manager = manager_of(
        tokens, use_async_io=True, api_endpoint=judge.base_url, api_key="sk-by-value"
    )
    try:
        data = rows(tokens, "local")
        rewards = manager(data)
        expected = hashlib.sha256(b"Bearer sk-by-value").hexdigest()
        assert {arrival.authorization_sha256 for arrival in judge.requests} == {expected}
        wire = pickle.dumps(manager)
        assert b"sk-by-value" not in wire
        torch.testing.assert_close(pickle.loads(wire)(data), rewards)
        assert len(judge.requests) == 4
    finally:
        manager.close()


def test_examples_are_printed_with_their_terms(
    place: dict[str, Any], judge: JudgeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = Tokens()
    manager = manager_of(tokens, **place)
    manager.num_examine = 2
    manager(rows(tokens, f"printed {sorted(place)}"))
    printed = capsys.readouterr().out
    assert printed.count("[response]") == 2
    assert f"printed {sorted(place)} answer 1." in printed
    assert printed.count("[openai_quality_reward] 5") == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak_ratio": 0.5}, "outer_ratio"),
        ({"api_key": "sk"}, "api_endpoint: is missing"),
        ({"penalty": 1}, "unknown penalty"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        LengthPenaltyRewardManager(
            Tokens(), 0, base_from_extra_info, length_penalty_config=settings
        )


def test_without_penalty_and_judge_the_base_score_is_the_reward() -> None:
    tokens = Tokens()
    manager = LengthPenaltyRewardManager(tokens, 0, base_from_extra_info)
    result = manager(rows(tokens, "bare", base=0.25), return_dict=True)
    assert result["reward_tensor"].sum(-1).tolist() == [0.25] * 4
    assert result["reward_extra_info"].keys() == {
        "original_score",
        "openai_quality_reward",
        "response_length",
        "median_length",
    }
