"""Requests on record: each as it was sent, with the text of every attempt."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from oyer.demo.judge_server import JudgeServer
from oyer.history.recorded_requests import shown
from oyer.manager import RewardBatch, RewardManager, Rollout
from oyer.models.engine import open_engine, reading
from oyer.models.queries import judgements_of
from oyer.models.requests import attempts_of
from oyer.models.rollout import Text
from tests.support.rollouts import rollouts_of

MakeManager = Callable[..., RewardManager]
SIX = {"text": "Final score: 6"}
VAGUE = {"text": "I like it."}


def requests_of(manager: RewardManager, batch: RewardBatch, index: int = 0) -> list[dict[str, Any]]:
    """Read what `oyer history request` shows of a rollout."""
    engine = open_engine(manager.config.store.url)
    with reading(engine) as conn:
        rows = [shown(conn, row) for row in judgements_of(conn, batch.id, [index])]
    engine.dispose()
    return rows


def sent(judge: JudgeServer) -> list[Any]:
    """Return the bodies that arrived at the judge, in order."""
    return [json.loads(arrival.body or b"") for arrival in judge.requests]


def made_again(row: dict[str, Any]) -> list[Any]:
    assert row["problem"] is None
    return [attempt["request"] for attempt in row["attempts"]]


def test_a_request_on_record_is_the_one_that_was_sent(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan({"default": SIX})
    batch = backend.submit(rollouts_of("as-sent", 1)).result(timeout_s=90)
    (row,) = requests_of(backend, batch)
    assert made_again(row) == sent(judge)
    assert row["attempts"][0]["reply"] == row["reply"] == "Final score: 6"


@pytest.mark.parametrize(
    "rollout",
    [
        {"prompt": "nul \0", "response": "\0 and \0", "reference": "\0"},
        {"prompt": '[{"role": "user", "content": "text that looks like messages"}]'},
        {
            "prompt": [
                {"role": "system", "content": "Use tools.\0"},
                {
                    "tool_calls": [{"type": "function", "function": {"name": "f", "a": 1}}],
                    "role": "assistant",
                    "content": None,
                },
                {"role": "tool", "name": "f", "content": [{"type": "text", "text": "42"}]},
            ],
            "reference": "````\n42",
        },
    ],
    ids=["unstorable", "looks-like-messages", "tool-calls"],
)
def test_what_a_database_cannot_store_is_on_record_as_sent(
    backend: RewardManager, judge: JudgeServer, rollout: dict[str, Any]
) -> None:
    judge.set_plan({"default": SIX})
    row = {"response": "It is 42.", "group_id": "g", "response_tokens": 9, **rollout}
    batch = backend.submit([Rollout(**row)]).result(timeout_s=90)
    (shown_row,) = requests_of(backend, batch)
    assert made_again(shown_row) == sent(judge)


def test_a_reask_and_the_reply_it_replaced_are_on_record(
    backend: RewardManager, sibling: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan({"rules": [{"when": {"sequence": 0}, "then": VAGUE}], "default": SIX})
    asked = {"name": "q", "endpoint": "fake", "model": "m", "reasks": 1}
    batch = sibling(judges=[asked]).submit(rollouts_of("reask", 1)).result(timeout_s=90)
    (row,) = requests_of(backend, batch)
    assert made_again(row) == sent(judge)
    assert [attempt["reply"] for attempt in row["attempts"]] == ["I like it.", "Final score: 6"]
    assert len(row["attempts"][1]["request"]["messages"]) > len(row["messages"])


def test_the_form_that_an_endpoint_refused_is_on_record_with_its_error(
    backend: RewardManager, sibling: MakeManager, judge: JudgeServer
) -> None:
    refused = {"when": {"sequence": 0}, "then": "response_format_unsupported"}
    judge.set_plan({"rules": [refused], "default": SIX})
    asked = {"name": "q", "endpoint": "fake", "model": "words-only", "structured": True}
    batch = sibling(judges=[asked]).submit(rollouts_of("form", 1)).result(timeout_s=90)
    (row,) = requests_of(backend, batch)
    first, second = made_again(row)
    assert [first, second] == sent(judge)
    assert ("response_format" in first, "response_format" in second) == (True, False)
    assert "'response_format' is not supported" in row["attempts"][0]["error"]


def test_attempts_of_a_judgement_that_failed_keep_their_texts(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan({"rules": [{"when": {"sequence": 0}, "then": "server_error"}], "default": VAGUE})
    batch = backend.submit(rollouts_of("failed", 1)).result(timeout_s=90)
    (row,) = requests_of(backend, batch)
    assert row["status"] == "unparseable"
    failed, replied = row["attempts"]
    assert failed["error"].startswith("HTTP 500: ")
    assert (failed["reply"], replied["reply"], replied["error"]) == (None, "I like it.", None)
    assert made_again(row) == sent(judge)


def test_parameters_of_another_release_are_a_problem_of_the_judgement(
    backend: RewardManager, sibling: MakeManager, judge: JudgeServer
) -> None:
    """An attempt has parameters of its own if its body differs from that of the last one."""
    refused = {"when": {"sequence": 0}, "then": "response_format_unsupported"}
    judge.set_plan({"rules": [refused], "default": SIX})
    asked = {"name": "q", "endpoint": "fake", "model": "other-words-only", "structured": True}
    batch = sibling(judges=[asked]).submit(rollouts_of("foreign", 1)).result(timeout_s=90)
    engine = open_engine(backend.config.store.url)
    with reading(engine) as conn:
        (row,) = judgements_of(conn, batch.id, [0])
        attempts = attempts_of(conn, row)
    own = {one["parameters_hash"] for one in attempts if one["parameters_hash"]}
    assert own
    with engine.begin() as conn:
        foreign = update(Text).where(Text.hash.in_(own)).values(body='{"key": "0"}')
        assert conn.execute(foreign).rowcount == len(own)
    engine.dispose()
    (shown_row,) = requests_of(backend, batch)
    assert "cannot read the request's parameters" in shown_row["problem"]
    assert "key: " in shown_row["problem"]
    assert [attempt["request"] is None for attempt in shown_row["attempts"]] == [True, False]


def test_a_reused_reply_names_the_batch_that_called(
    backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan({"default": SIX})
    same = rollouts_of("reused request", 1)
    first = backend.submit(same).result(timeout_s=90)
    second = backend.submit(same).result(timeout_s=90)
    (row,) = requests_of(backend, second)
    assert (row["attempts"], row["problem"]) == ([], None)
    assert row["messages"] == sent(judge)[0]["messages"]
    assert f"{first.id}/0" in row["note"]


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "Maybe. Final score: 2"},
        {"reasoning": "Maybe. Final score: 2"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "Maybe. Final score: 2"}]},
        {
            "content": [
                {
                    "type": "thinking",
                    "thinking": [{"type": "text", "text": "Maybe. Final score: 2"}],
                },
                {"type": "text", "text": "Final score: 6"},
            ]
        },
        {"content": "<think>Maybe. Final score: 2</think>Final score: 6"},
    ],
    ids=["reasoning_content", "reasoning", "reasoning_details", "part", "tags"],
)
def test_reasoning_is_on_record_and_not_parsed(
    backend: RewardManager, judge: JudgeServer, message: dict[str, Any]
) -> None:
    judge.set_plan({"default": {**SIX, "message": message}})
    batch = backend.submit(rollouts_of(f"thinks-{sorted(message)}{message}", 1)).result(
        timeout_s=90
    )
    assert batch.judge_scores.tolist() == [6.0]
    (row,) = requests_of(backend, batch)
    assert row["reasoning"] == row["attempts"][0]["reasoning"] == "Maybe. Final score: 2"
