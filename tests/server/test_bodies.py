"""Unusual request bodies: lone surrogates, byte order marks, deep nesting."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.manager import RewardManager
from tests.support.scripted_backend import sibling, user_text
from tests.support.served_app import Served, served


@pytest.fixture
def judge_says() -> str:
    return "Final score: 10"


@pytest.fixture
def server(backend: RewardManager) -> Iterator[Served]:
    with served(backend) as server:
        yield server


@pytest.mark.parametrize("path", ["/get_reward", "/v1/score"])
@pytest.mark.parametrize("where", ["prompt", "response", "label"])
def test_only_the_rollout_with_a_lone_surrogate_gets_a_missing_score(
    server: Served, judge: JudgeServer, path: str, where: str
) -> None:
    """Python's `json.dumps` writes lone surrogates, which truncated labels may have."""
    rows = [{"prompt": "Q", "response": f"{where} {path} {i}", "label": "42"} for i in range(2)]
    rows[0][where] = "cut \ud83d"
    if path == "/v1/score":
        rollouts = [
            {"prompt": r["prompt"], "response": r["response"], "reference": r["label"],
             "base_score": 1.0}
            for r in rows
        ]  # fmt: skip
        sent: dict[str, Any] = {"rollouts": rollouts}
    else:
        sent = {
            "query": [r["prompt"] + r["response"] for r in rows],
            "prompts": [r["prompt"] for r in rows],
            "labels": [r["label"] for r in rows],
        }
    answer = server.post(path, json.dumps(sent).encode())
    assert answer.status == 200, answer.json()
    said = answer.json()
    if path == "/v1/score":
        assert said["mask"] == [False, True]
        assert said["statuses"] == ["rejected", "scored"]
        assert "lone surrogate" in said["errors"]["rejected"]
    else:
        assert said["extra_logs"]["oyer_missing"] == [1.0, 0.0]
    assert len(judge.requests) == 1


def test_a_single_rollout_with_a_lone_surrogate_gets_a_missing_score(server: Served) -> None:
    sent = {"prompt": "Q", "response": "cut \ud83d"}
    answer = server.post("/rm?key=score", json.dumps(sent).encode())
    assert answer.status == 200
    assert (answer.json()["missing"], answer.json()["judge_status"]) == (True, "rejected")


def test_another_invalid_row_is_named_by_its_number(server: Served) -> None:
    rows = [{"prompt": "Q", "response": text} for text in ("cut \ud83d", "fine", "wrong")]
    rows[2]["response_tokens"] = -1  # type: ignore[assignment]
    answer = server.post("/v1/score", json.dumps({"rollouts": rows}).encode())
    assert answer.status == 422
    assert "rollouts[2].response_tokens" in answer.json()["error"]


def test_a_byte_order_mark_is_ignored_and_deep_nesting_is_an_error(server: Served) -> None:
    sent = json.dumps({"prompt": "Q", "response": "with a mark"}).encode()
    assert server.post("/rm", b"\xef\xbb\xbf" + sent).status == 200
    deep = b'{"prompt": "p", "response": "r", "label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = server.post("/rm", deep)
    assert answer.status == 422
    assert "nests too deep" in answer.json()["error"]
    key = json.dumps({"rollouts": [{"prompt": "p", "response": "r", "\ud83d": 1}]}).encode()
    assert server.post("/v1/score", key).status == 422


@pytest.mark.parametrize("query", ["step=-1", "step=x", "split=", "step=1.5"])
def test_a_wrong_url_is_an_error_like_all_others(server: Served, query: str) -> None:
    answer = server.post(f"/rm?{query}", {"prompt": "p", "response": "r"})
    assert answer.status == 422
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].startswith(f"query.{query.partition('=')[0]}: ")


def test_token_counts_and_metadata_of_a_request_are_used(
    backend: RewardManager, judge: JudgeServer
) -> None:
    (q,) = backend.config.model_dump(mode="json")["judges"]
    topical = {**q, "rubric": "{metadata.topic} {prompt} {response} Final score: 0 to 10"}
    counting = {"method": "soft_overlong", "max_len": 10, "cache_len": 5}
    manager = sibling(backend, judges=[topical], length=counting)
    sent = {"prompt": "Q", "response": "r", "truncated": False}
    full = {**sent, "response_tokens": 10, "metadata": {"topic": "owls"}}
    lists: dict[str, Any] = {"query": ["Q r"], "prompts": ["Q"], "response_tokens": [10]}
    lists["metadata"] = [{"topic": "owls"}]
    with served(manager) as server:
        assert server.post("/rm", full).json() == pytest.approx(0.0)
        assert server.post("/get_reward", lists).json()["rewards"] == pytest.approx([0.0])
        # The client sends metadata, but not all of one rollout.
        partial = server.post("/rm?key=score", {**full, "metadata": {}}).json()
        assert (partial["missing"], partial["judge_status"]) == (True, "rejected")
        refused = server.post("/rm", sent)
    assert refused.status == 422
    assert "response_tokens" in refused.json()["error"] or "topic" in refused.json()["error"]
    assert all("owls" in user_text(request) for request in judge.requests)


def test_a_rollout_that_is_answered_without_a_reward_is_logged(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    sent = {"prompt": "Q", "response": "r", "response_tokens": -1}
    assert server.post("/rm?key=score", sent).json()["judge_status"] == "rejected"
    assert "answered without a reward: rollouts[0].response_tokens" in caplog.text
