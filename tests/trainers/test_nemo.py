"""NeMo-Gym's resources server and NeMo-RL's environment, against copies of their interfaces."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nemo_interfaces
import pytest
import torch
from fastapi.testclient import TestClient
from storms import authors, splits, stormy
from trainer_backend import Backend, load_example, score_of

from oyer.protocol.errors import InvalidConfig

TWO_JUDGES = [
    {"name": name, "endpoint": "fake", "model": "m", "reasks": 0} for name in ("quality", "style")
]


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    nemo_interfaces.install(monkeypatch)


@pytest.fixture
def server(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start the example's server."""
    opened: list[TestClient] = []

    def start(file: str, changes: dict[str, Any] | None = None, **config: Any) -> TestClient:
        path = backend.file(f"{file}.yaml", **(changes or {}))
        monkeypatch.setenv("OYER_CONFIG", str(path))
        example = load_example("nemo_gym_server")
        made = example.OyerServer(config=example.OyerServerConfig(**config))
        client = TestClient(made.setup_webserver())
        client.__enter__()
        opened.append(client)
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


def row(text: str, index: int = 0, output: list[Any] | None = None) -> dict[str, Any]:
    message = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
    response = {
        "id": "r",
        "object": "response",
        "created_at": 0,
        "model": "m",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "output": [*(output or []), message],
    }
    params = {"input": [{"role": "user", "content": "What?"}]}
    return {
        "responses_create_params": params,
        "response": response,
        "expected_answer": "42",
        "_ng_task_index": 7,
        "_ng_rollout_index": index,
    }


def test_gym_has_the_reward_and_components_that_sum_to_it(server: Any, backend: Backend) -> None:
    client = server("gym", {"judges": TWO_JUDGES}, split="eval", run="gym")
    answer = client.post("/verify", json=row("verified")).json()
    # Two judges, whose terms add up.
    assert answer["reward"] == pytest.approx(2 * 0.1 * score_of("verified"))
    assert sum(answer["reward_components"].values()) == pytest.approx(answer["reward"])
    assert answer["oyer/quality"] == answer["oyer/style"] == score_of("verified")
    assert splits(backend, "gym").keys() == {"eval"}


def test_gyms_components_by_judge_for_gdpo(server: Any) -> None:
    client = server("gym", {"judges": TWO_JUDGES}, gdpo=True, run="gym-gdpo")
    answer = client.post("/verify", json=row("by judge")).json()
    assert answer["reward_components"] == {
        name: score_of("by judge") for name in ("quality", "style")
    }
    assert answer["reward"] == 2 * score_of("by judge")


def test_gym_files_a_missing_score_as_a_judge_failure_and_masks_it(
    server: Any, backend: Backend
) -> None:
    backend.judge.set_plan(stormy)
    answer = server("gym", run="gym-storm").post("/verify", json=row("storm")).json()
    assert answer["_ng_failure_class"] == "judge_failed"
    assert "rate_limited" in answer["_ng_failure_judge_error"]
    assert answer["instance_config"] == {"mask_sample": True}


def test_gyms_missing_score_in_a_group_is_its_mean_and_masked(
    server: Any, backend: Backend
) -> None:
    backend.judge.set_plan(stormy)
    client = server("gym", num_rollouts_per_prompt=3, run="gym-group")
    texts = ["first", "second", "storm"]
    with ThreadPoolExecutor() as pool:
        rows = [row(text, i) for i, text in enumerate(texts)]
        answers = list(pool.map(lambda one: client.post("/verify", json=one).json(), rows))
    mean = 0.1 * (score_of("first") + score_of("second")) / 2
    assert [one["reward"] for one in answers] == pytest.approx(
        [0.1 * score_of("first"), 0.1 * score_of("second"), mean]
    )
    assert [one.get("instance_config") for one in answers] == [None, None, {"mask_sample": True}]


def test_gyms_tool_results_have_their_role(server: Any, backend: Backend) -> None:
    search = {"type": "function_call", "call_id": "c", "name": "search", "arguments": "{}"}
    page = {"type": "function_call_output", "call_id": "c", "output": "SECRET PAGE"}
    params = row("it is 42")
    params["responses_create_params"]["input"] = [
        {"role": "user", "content": "What?"},
    ]
    example = load_example("nemo_gym_server")
    shown = example.chat([search, page, *params["response"]["output"]])
    assert [one["role"] for one in shown] == ["assistant", "tool", "assistant"]
    server("gym", run="gym-tools").post("/verify", json=row("it is 42", output=[search])).json()
    (request,) = backend.judge.requests
    assert authors(request, "it is 42") == ["assistant"]
    assert authors(request, '{"name": "search"') == ["assistant"]


def environment(backend: Backend, changes: dict[str, Any] | None = None, **cfg: Any) -> Any:
    path = backend.file("nemo_rl.yaml", **(changes or {}))
    example = load_example("nemo_rl_env")
    return example.JudgedEnvironment({"config": str(path), **cfg})


def logs(texts: list[str]) -> list[list[dict[str, Any]]]:
    return [
        [{"role": "user", "content": "What?"}, {"role": "assistant", "content": text}]
        for text in texts
    ]


def test_rl_has_one_reward_a_rollout_and_a_missing_one_is_the_mean(backend: Backend) -> None:
    backend.judge.set_plan(stormy)
    texts = ["first", "second", "storm"]
    result = environment(backend).step(logs(texts), [{"ground_truth": "42"}] * 3)
    scores = [0.1 * score_of(text) for text in texts[:2]]
    assert result.rewards.tolist() == pytest.approx([*scores, sum(scores) / 2])
    assert result.terminateds.tolist() == [1.0] * 3
    assert len(result.observations) == len(result.next_stop_strings) == 3


def test_rl_refuses_what_it_does_not_say(backend: Backend) -> None:
    length = {"method": "median_band", "unit": "chars", "truncated": "mask"}
    with pytest.raises(InvalidConfig, match="NeMo-RL does not say which rollouts hit"):
        environment(backend, {"length": length})


def test_rl_has_finite_gdpo_advantages_in_an_outage(backend: Backend) -> None:
    backend.judge.set_plan(stormy)
    made = environment(backend, {"judges": TWO_JUDGES}, gdpo=True)
    result = made.step(logs(["first", "second", "third", "storm"]), [{}] * 4)
    assert set(result.rewards) == {"reward/quality", "reward/style"}
    means = [score_of(text) for text in ("first", "second", "third")]
    assert result.rewards["reward/quality"].tolist() == pytest.approx([*means, sum(means) / 3])
    advantages = nemo_interfaces.gdpo_advantages(result.rewards, 4)
    assert torch.isfinite(advantages).all()
    assert advantages[3].item() == pytest.approx(0, abs=1e-5)
    _, metrics = made.global_post_process_and_metrics(dict(result.rewards))
    assert all(map(math.isfinite, metrics.values()))


def test_rl_collects_groups_that_come_one_by_one(backend: Backend) -> None:
    length = {"method": "median_band", "unit": "chars"}
    made = environment(backend, {"length": length}, num_generations=4, run="rl-one", split="train")
    texts = [f"{'x' * n}{i}" for i, n in enumerate((10, 10, 10, 16))]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda log: made.step([log], [{}]), logs(texts)))
    gaps = [
        result.rewards.item() - 0.1 * score_of(text)
        for result, text in zip(results, texts, strict=True)
    ]
    assert [round(gap, 3) == 0 for gap in gaps] == [True, True, True, False]


def test_rl_one_by_one_a_missing_score_is_its_groups_mean(backend: Backend) -> None:
    backend.judge.set_plan(stormy)
    made = environment(backend, {}, num_generations=3, run="rl-one-missing", split="train")
    texts = ["alone 1", "storm 2", "alone 33"]
    with ThreadPoolExecutor() as pool:
        rewards = list(pool.map(lambda log: made.step([log], [{}]).rewards.item(), logs(texts)))
    first, last = 0.1 * score_of(texts[0]), 0.1 * score_of(texts[2])
    assert rewards == pytest.approx([first, (first + last) / 2, last])
