"""Reasoning models as judges: refused request fields, and reasoning before the answer."""

import json
from collections.abc import Callable
from typing import Any

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.manager import RewardManager
from tests.integration.test_judging import attempts_of, scored

MakeManager = Callable[..., RewardManager]

SIX = Action(text="Final score: 6")


def refusal(param: str, code: str, message: str) -> Action:
    kind = "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Action(status=400, body=json.dumps({"error": error}))


NO_MAX_TOKENS = refusal(
    "max_tokens",
    "unsupported_parameter",
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
    " 'max_completion_tokens' instead.",
)
NO_TEMPERATURE = refusal(
    "temperature",
    "unsupported_value",
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1)"
    " value is supported.",
)


def reasoning_model(arrival: RequestEntry) -> Action:
    """Answer as OpenAI's reasoning models do: one refusal at a time."""
    body = arrival.json()
    if "max_tokens" in body:
        return NO_MAX_TOKENS
    return NO_TEMPERATURE if "temperature" in body else SIX


def test_a_reasoning_model_works_with_the_defaults_and_refuses_the_first_calls_only(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(reasoning_model)
    manager = manager_with(model="o-test", max_tokens=77)
    first = scored(manager, "o", 32)
    assert first.judge_scores.tolist() == [6.0] * 32
    statuses = {row["http_status"] for row in attempts_of(manager, first)}
    assert statuses == {200, 400}
    judge.reset()
    # A worker that had no call of the first batch knows as well.
    second = scored(manager, "more o", 64)
    assert second.judge_scores.tolist() == [6.0] * 64
    assert second.usage.calls == 64
    for arrival in judge.requests:
        body = arrival.json()
        assert body.keys() == {"model", "messages", "max_completion_tokens"}
        assert body["max_completion_tokens"] == 77


def test_samples_have_a_seed_each_until_the_endpoint_refuses_seeds(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(SIX)
    batch = scored(manager_with(model="seeded", samples=3), "seeds", 2)
    assert batch.judge_scores.tolist() == [6.0] * 2
    assert len({arrival.json()["seed"] for arrival in judge.requests}) == 6

    def plan(arrival: RequestEntry) -> Action:
        unknown = refusal("seed", "unknown_parameter", "Unknown parameter: 'seed'.")
        return unknown if "seed" in arrival.json() else SIX

    judge.set_plan(plan)
    manager = manager_with(model="unseeded", samples=3)
    assert scored(manager, "no seeds", 2).judge_scores.tolist() == [6.0] * 2
    assert scored(manager, "no more seeds", 2).usage.calls == 6


def test_a_budget_spent_on_thinking_is_truncated_and_says_so(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    message = {"content": None, "reasoning_content": "Final score: 9? Let me see"}
    judge.set_plan(Action(message=message, choice={"finish_reason": "length"}))
    batch = scored(manager_with(model="thinker", reasoning_effort="high"), "thinking", 2)
    assert batch.statuses == ["truncated"] * 2
    assert "on thinking" in batch.first_errors["truncated"]
    assert judge.requests[0].json()["reasoning_effort"] == "high"


def test_a_field_of_the_users_own_body_stays_refused(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(refusal("provider", "unknown_parameter", "Unknown parameter: 'provider'."))
    own: dict[str, Any] = {"extra_body": {"provider": {"only": ["x"]}}}
    batch = scored(manager_with(model="strict", **own), "own", 2)
    assert batch.statuses == ["rejected"] * 2
    assert "'provider'" in batch.first_errors["rejected"]
    assert batch.usage.calls == 2
