"""Rewards over real HTTP: protocols, retries and late judges."""

import threading
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action, named
from oyer.manager import RewardManager
from tests.support.scripted_backend import DEAD_JUDGE, by_response, sibling, user_text
from tests.support.served_app import Answer, Served, served


@pytest.fixture
def judge_says() -> str:
    return "Final score: 10"


def body(tag: str, n: int = 1) -> dict[str, Any]:
    """What OpenRLHF posts."""
    return {
        "query": [f"{tag}?{tag} {i}.</s>" for i in range(n)],
        "prompts": [f"{tag}?"] * n,
        "labels": ["42"] * n,
    }


def rollouts(tag: str, lengths: list[int], **fields: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"{tag}?",
            "response": f"{tag} {i}.",
            "group_id": tag,
            "base_score": 1.0,
            "response_tokens": n,
            **fields,
        }
        for i, n in enumerate(lengths)
    ]


def test_openrlhf_gets_lists_of_one_length(server: Served, judge: JudgeServer) -> None:
    judge.set_plan(by_response({"rlhf 0.": 10, "rlhf 1.": 1}))
    answer = server.post("/get_reward", body("rlhf", 2))
    assert answer.status == 200
    result = answer.json()
    assert result["rewards"] == pytest.approx([1.0, 0.1])
    assert result["scores"] == [1.0, 0.0]
    assert {len(values) for values in result["extra_logs"].values()} == {2}


def test_openrlhf_gets_empty_lists_for_an_empty_query(server: Served, judge: JudgeServer) -> None:
    """OpenRLHF 0.11.0 sends all rollouts to the first server, and empty lists to the others."""
    answer = server.post("/get_reward", {"query": [], "prompts": [], "labels": []})
    assert answer.status == 200
    assert answer.json()["rewards"] == answer.json()["scores"] == []
    assert set(map(tuple, answer.json()["extra_logs"].values())) == {()}


def test_slime_gets_a_number_or_a_dict(server: Served, judge: JudgeServer) -> None:
    sample = {"prompt": "slime?", "response": "slime.", "label": "42"}
    assert server.post("/rm", sample).json() == pytest.approx(1.0)
    assert server.post("/rm?key=score", sample).json() == {
        "score": pytest.approx(1.0),
        "judge_score": 10.0,
        "judge_status": "scored",
        "missing": False,
        "oyer/q": 10.0,
        "oyer/q_present": 1.0,
    }
    chat = {"prompt": [{"role": "user", "content": "chat?"}], "response": "yes", "label": None}
    assert server.post("/rm", chat).json() == pytest.approx(1.0)


def test_a_batch_is_answered_in_columns(backend: RewardManager, judge: JudgeServer) -> None:
    banded = sibling(backend, length={"method": "median_band"})
    judge.set_plan(
        {
            "rules": [{"when": {"matches": "columns 1\\."}, "then": "not_found"}],
            "default": {"text": "Final score: 5"},
        }
    )
    with served(banded) as server:
        request = {"rollouts": rollouts("columns", [10, 10, 10, 16]), "run": "http", "step": 2}
        result = server.post("/v1/score", request).json()
    assert result["rewards"] == [pytest.approx(1.5), None, pytest.approx(1.5), pytest.approx(0.5)]
    assert result["judge_scores"] == [5.0, None, 5.0, 5.0]
    assert result["mask"] == [True, False, True, True]
    assert result["statuses"] == ["scored", "rejected", "scored", "scored"]
    assert result["terms"]["length_penalty"] == pytest.approx([0, 0, 0, -1])
    assert list(result["errors"]) == ["rejected"]
    assert len(set(result["batch_ids"])) == 1


def test_a_repeated_request_joins_the_one_in_progress_and_later_gets_its_answer(
    server: Served, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 10", hold=True))
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.post("/get_reward", body("again"))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    judge.wait_until(lambda log: len(log) == 1)
    judge.release()
    for thread in threads:
        thread.join()
    answers.append(server.post("/get_reward", body("again")))
    assert {answer.body for answer in answers} == {answers[0].body}
    assert answers[0].json()["rewards"] == pytest.approx([1.0])
    assert len(judge.requests) == 1


def test_an_incomplete_answer_is_not_reused(server: Served, judge: JudgeServer) -> None:
    judge.set_plan(named("not_found"))
    first = server.post("/get_reward", body("repaired")).json()
    assert first["extra_logs"]["oyer_missing"] == [1.0]
    judge.set_plan(Action(text="Final score: 10"))
    again = server.post("/get_reward", body("repaired")).json()
    assert again["rewards"] == pytest.approx([1.0])


def test_a_text_that_cannot_be_scored_gets_a_missing_score(
    backend: RewardManager, judge: JudgeServer
) -> None:
    """After an error, OpenRLHF retries five times, and then trains without a reward."""
    sample = {"prompt": "p", "response": "long" * 1000, "label": None}
    with served(sibling(backend, max_rollout_bytes=1024)) as server:
        answer = server.post("/get_reward", body("long" * 1000))
        one = server.post("/rm?key=r", sample)
        batch = server.post("/v1/score", {"rollouts": [{"prompt": "p", "response": "r" * 2000}]})
    assert answer.status == 200
    assert answer.json()["extra_logs"]["oyer_missing"] == [1.0]
    assert one.json()["judge_status"] == "rejected"
    assert batch.status == 422


@pytest.mark.parametrize("failure", ["rate_limited", "dead"])
def test_a_failing_judge_gives_the_stand_in_and_a_mark(
    backend: RewardManager, judge: JudgeServer, failure: str
) -> None:
    judge.set_plan(named("rate_limited", retry_after_s=0))
    manager = sibling(backend, judges=[DEAD_JUDGE]) if failure == "dead" else backend
    with served(manager, stand_in=-1.0) as server:
        answer = server.post("/get_reward", body(f"failing {failure}"))
        dict_answer = server.post(
            "/rm?key=r", {"prompt": "p", "response": f"failing {failure}", "label": None}
        )
    assert answer.status == dict_answer.status == 200
    assert answer.json()["rewards"] == [-1.0]
    assert answer.json()["extra_logs"]["oyer_missing"] == [1.0]
    assert dict_answer.json()["r"] == -1.0
    assert dict_answer.json()["missing"] is True
    assert dict_answer.json()["judge_score"] is None


def test_a_late_judge_is_answered_in_time(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(Action(text="Final score: 10", hold=True))
    with served(backend, timeout_s=0.5, stand_in=0.25) as server:
        answer = server.post("/get_reward", body("late")).json()
        batch = server.post("/v1/score", {"rollouts": rollouts("late batch", [10])}).json()
        judge.release()
    assert answer["rewards"] == [0.25]
    assert answer["extra_logs"]["oyer_missing"] == [1.0]
    assert batch["rewards"] == [None]
    assert batch["statuses"] == ["expired"]


def test_a_retry_waits_for_a_late_judge(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(Action(text="Final score: 10", hold=True))
    with served(backend, timeout_s=0.5, on_late="retry") as server:
        first = server.post("/get_reward", body("retried"))
        assert first.status == 503
        assert first.headers["retry-after"] == "1"
        assert "late" in first.json()["error"]
        judge.release()
        while (again := server.post("/get_reward", body("retried"))).status == 503:
            judge.release()
    assert again.json()["rewards"] == pytest.approx([1.0])
    assert len(judge.requests) == 1


def test_the_failure_policy_raise_gives_503(backend: RewardManager, judge: JudgeServer) -> None:
    judge.set_plan(named("not_found"))
    with served(sibling(backend, reward={"on_missing": "raise"})) as server:
        answer = server.post("/get_reward", body("raised"))
    assert answer.status == 503
    assert "on_missing" in answer.json()["error"]


def test_an_outage_gives_503_and_a_single_failure_does_not(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(named("not_found"))
    with served(sibling(backend, reward={"max_failed_fraction": 0.5})) as server:
        single = server.post("/get_reward", body("outage alone"))
        outage = server.post("/get_reward", body("outage", 40))
    assert single.status == 200
    assert outage.status == 503
    assert "max_failed_fraction" in outage.json()["error"]


@pytest.mark.parametrize(
    ("path", "sent", "message"),
    [
        ("/get_reward", b"{", "Invalid JSON"),
        ("/get_reward", {"prompts": []}, "query"),
        ("/get_reward", {"query": ["a"], "prompts": ["p", "p"]}, "1, 2 and 1 entries"),
        ("/v1/score", {"rollouts": [{"prompt": "p", "response": "r", "scores": 1}]}, "scores"),
        ("/v1/score", {"rollouts": [{"prompt": "p"}]}, "response"),
        ("/v1/score", {"rollouts": [{"prompt": "p", "response": "r", "response_tokens": -1}]}, "response_tokens"),
        ("/rm", {"prompt": "p"}, "response"),
    ],
)  # fmt: skip
def test_an_invalid_request_is_refused_with_the_field(
    server: Served, judge: JudgeServer, path: str, sent: Any, message: str
) -> None:
    answer = server.post(path, sent)
    assert answer.status == 422
    assert message in answer.json()["error"]
    assert judge.requests == []


def test_messages_tools_truncation_and_split_are_taken(
    backend: RewardManager, judge: JudgeServer
) -> None:
    response = [
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "search", "arguments": "{}"}}]},
        {"role": "tool", "content": "A PAGE"},
        {"role": "assistant", "content": "Four.", "reasoning_content": "two and two"},
    ]  # fmt: skip
    rollout = {
        "prompt": "2+2?", "response": response, "group_id": "m", "response_tokens": 5,
        "finish_reason": "length",
        "tools": [{"type": "function", "function": {"name": "search", "parameters": {}}}],
    }  # fmt: skip
    judges = [{"name": "q", "endpoint": "fake", "model": "m", "view": "each_turn"}]
    masked = sibling(backend, length={"method": "median_band", "truncated": "mask"}, judges=judges)
    with served(masked) as server:
        request = {"rollouts": [rollout], "split": "eval", "step": 3, "run": "messages"}
        result = server.post("/v1/score", request).json()
        told = server.post("/rm", {"prompt": "p?", "response": "r", "label": None})
    assert result["mask"] == [False]
    assert result["components"]["q"] == [10.0]
    assert result["turn_scores"] == [[10.0, 10.0]]
    assert told.status == 422
    shown = max(map(user_text, judge.requests), key=len)
    assert "A PAGE" in shown
    assert "two and two" in shown
