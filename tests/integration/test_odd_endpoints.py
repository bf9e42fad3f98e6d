"""Endpoints that deviate from OpenAI's API: finish reasons, waits, usage, empty replies."""

import json
from typing import Any

import pytest

from oyer.demo.judge_server import JudgeServer
from oyer.demo.responses import Action
from oyer.manager import RewardManager
from tests.integration.test_judging import SIX, MakeManager, attempts_of, scored
from tests.support.rollouts import rollouts_of

SAID = "Rate limit reached for requests. Please try again in 1.5s."
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": SAID}},
        [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [RETRY_INFO]}}],
        {"error": {"code": 429, "metadata": {"headers": {"Retry-After": "1.5"}}}},
    ],
    ids=["in words", "RetryInfo", "quoted headers"],
)
@pytest.mark.parametrize("status", [429, 200])
def test_a_call_waits_as_long_as_the_body_asks(
    judging_backend: RewardManager, judge: JudgeServer, body: Any, status: int
) -> None:
    if status == 200 and isinstance(body, dict):
        body["error"]["code"] = 429
    refusal = {"status": status, "body": json.dumps(body)}
    judge.set_plan({"rules": [{"when": {"first_of_body": 1}, "then": refusal}], "default": SIX})
    batch = scored(judging_backend, f"wait-{status}-{body}", 2)
    assert batch.judge_scores.tolist() == [6.0, 6.0]
    rows = attempts_of(judging_backend, batch)
    assert [row["http_status"] for row in rows] == [status, 200] * 2
    assert all(row["retry_wait_s"] >= 1.5 for row in rows[::2])


@pytest.mark.parametrize("status", [498, 520, 529])
def test_equal_outages_of_a_gateway_are_waited_out(
    judging_backend: RewardManager, judge: JudgeServer, status: int
) -> None:
    outage = {"when": {"first_of_body": 3}, "then": {"status": status, "body": "error code"}}
    judge.set_plan({"rules": [outage], "default": SIX})
    batch = scored(judging_backend, f"outage-{status}", 1)
    assert batch.statuses == ["scored"]
    assert batch.usage.calls == 4


@pytest.mark.parametrize(
    ("choice", "status", "calls"),
    [
        ({"finish_reason": "insufficient_system_resource"}, "unavailable", 4),
        ({"finish_reason": "error", "error": {"code": 502, "message": "died"}}, "unavailable", 4),
        ({"finish_reason": "content_filter: RECITATION"}, "refused", 1),
        ({"finish_reason": "content_filter", "message": None}, "refused", 1),
        ({"finish_reason": "MAX_TOKENS"}, "truncated", 1),
        ({"finish_reason": "odd"}, "truncated", 1),
    ],
)
def test_a_reply_that_did_not_end_by_itself_has_no_score(
    judging_backend: RewardManager,
    judge: JudgeServer,
    choice: dict[str, Any],
    status: str,
    calls: int,
) -> None:
    text = "The arguments look fine so far. Score: 8\nStill open: the second call, which"
    judge.set_plan(Action(text=text, choice=choice))
    batch = scored(judging_backend, f"broken off {choice}", 1)
    assert batch.statuses == [status]
    assert len(judge.requests) == calls


@pytest.mark.parametrize("message", [{"content": ""}, {"content": " \n"}, {"content": None}])
def test_after_an_empty_reply_the_same_request_is_made_again(
    manager_with: MakeManager, judge: JudgeServer, message: dict[str, Any]
) -> None:
    thought = {**message, "reasoning_content": "Is it 3 or 4? Score: 3"}
    empty = Action(message=thought)
    judge.set_plan(lambda arrival: empty if arrival.sequence == 0 else Action(text=SIX["text"]))
    batch = scored(manager_with(reasks=1), f"empty {message}", 1)
    assert batch.judge_scores.tolist() == [6.0]
    first, second = judge.requests
    assert first.body == second.body


# 4 prompt and 2 completion tokens, and 2,000 of thinking; the backend's price is $1,000 a million.
THINKING = [
    {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 2006},
    {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "completion_tokens_details": {"reasoning_tokens": 2000},
    },
    {"input_tokens": 4, "output_tokens": 2002},
]


@pytest.mark.parametrize("usage", THINKING, ids=["total", "details", "anthropic"])
def test_a_budget_holds_for_thinking_in_every_form(
    manager_with: MakeManager, judge: JudgeServer, usage: dict[str, Any]
) -> None:
    choice = {"message": {"content": "Final score: 6"}, "finish_reason": "stop"}
    judge.set_plan(Action(body=json.dumps({"choices": [choice], "usage": usage})))
    manager = manager_with({"budget": {"usd": 10.0}}, max_tokens=2048)
    tag = f"thinking {sorted(usage)}"
    batch = manager.submit(rollouts_of(tag, 16), run=tag).result(timeout_s=90)
    assert batch.usage.calls == len(judge.requests) == 4
    assert batch.usage.cost_usd == pytest.approx(4 * 2.002)
    assert batch.usage.tokens == 4 * 2006
    assert batch.statuses.count("over_budget") == 12
