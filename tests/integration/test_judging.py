"""Judging over a real endpoint: calls, retries, limits, reuse and the record."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from oyer.demo.judge_server import JudgeServer
from oyer.demo.request_log import RequestEntry, max_in_any_window, max_in_flight
from oyer.demo.responses import Action, named
from oyer.manager import RewardBatch, RewardManager
from tests.integration.test_main_job import read
from tests.support.rollouts import rollouts_of

MakeManager = Callable[..., RewardManager]

SIX = {"text": "Final score: 6"}


def scored(manager: RewardManager, tag: str, n: int = 8, run: str = "judging") -> RewardBatch:
    return manager.submit(rollouts_of(tag, n), run=run).result(timeout_s=90)


def attempts_of(manager: RewardManager, batch: RewardBatch) -> list[dict[str, Any]]:
    return read(
        manager,
        "SELECT * FROM attempts WHERE batch_id = :id ORDER BY rollout_index, number",
        id=batch.id,
    )


@pytest.mark.parametrize("form", ["seconds", "date", "ms", "reset_requests", "reset_tokens"])
def test_a_call_waits_as_long_as_the_endpoint_asks(
    judging_backend: RewardManager, judge: JudgeServer, form: str
) -> None:
    refusal = {"name": "rate_limited", "retry_after_s": 1.5, "retry_after_form": form}
    judge.set_plan({"rules": [{"when": {"first_of_body": 1}, "then": refusal}], "default": SIX})
    batch = scored(judging_backend, f"wait-{form}", 2)
    assert batch.judge_scores.tolist() == [6.0, 6.0]
    rows = attempts_of(judging_backend, batch)
    assert [row["http_status"] for row in rows] == [429, 200] * 2
    # A date counts from the whole second, so a part of one may be gone on arrival.
    asked_s = 0.5 if form == "date" else 1.4
    assert all(row["retry_wait_s"] >= asked_s for row in rows[::2])


def test_a_burst_of_500s_costs_retries_and_no_scores(
    judging_backend: RewardManager, judge: JudgeServer
) -> None:
    burst = {"when": {"sequence": [0, 12]}, "then": "server_error"}
    judge.set_plan({"rules": [burst], "default": SIX})
    batch = scored(judging_backend, "burst", 16)
    assert batch.judge_scores.tolist() == [6.0] * 16
    assert batch.usage.calls == 16 + 12


def test_an_endpoint_that_repeats_the_same_500_is_called_three_times(
    judging_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(named("server_error"))
    batch = scored(judging_backend, "broken", 2)
    assert batch.statuses == ["unavailable"] * 2
    assert batch.usage.calls == 6


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        ("reset", "ReadError"),
        ("close", "RemoteProtocolError"),
        ("reset_mid_body", "ReadError"),
        ("short_body", "RemoteProtocolError"),
        ("half_json", "NotJson"),
        ("html", "NotJson"),
        ("error_body", "ErrorBody"),
        ("black_hole", "ReadTimeout"),
        ({"name": "drip", "drip_bytes": 8, "drip_pause_s": 0.2}, "ReadTimeout"),
        ("request_timeout", "APIStatusError"),
        ("conflict", "ConflictError"),
        ("bad_gateway", "InternalServerError"),
    ],
    ids=str,
)
def test_a_transient_fault_is_on_record_and_retried(
    judging_backend: RewardManager,
    manager_with: MakeManager,
    judge: JudgeServer,
    fault: Any,
    error_class: str,
) -> None:
    judge.set_plan({"rules": [{"when": {"first_of_body": 1}, "then": fault}], "default": SIX})
    endpoint = "impatient" if error_class == "ReadTimeout" else "fake"
    batch = scored(manager_with(endpoint=endpoint), f"fault-{fault}", 1)
    assert batch.judge_scores.tolist() == [6.0]
    first, second = attempts_of(judging_backend, batch)
    assert (first["number"], first["error_class"]) == (1, error_class)
    assert (second["number"], second["http_status"], second["error_class"]) == (2, 200, None)
    assert first["retry_wait_s"] is not None
    assert second["retry_wait_s"] is None


def test_a_reply_that_drips_in_time_is_a_reply(
    judging_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(named("drip", text="Final score: 6"))
    assert scored(judging_backend, "drip", 2).usage.calls == 2


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("refusal", "refused"),
        ("content_filter", "refused"),
        ("cut_reply", "truncated"),
        ("unauthorized", "rejected"),
        ("insufficient_quota", "rejected"),
        ("context_length_exceeded", "context_overflow"),
    ],
)
def test_a_permanent_fault_is_not_retried(
    judging_backend: RewardManager, judge: JudgeServer, action: str, status: str
) -> None:
    judge.set_plan(named(action))
    batch = scored(judging_backend, f"once-{action}", 2)
    assert batch.statuses == [status] * 2
    assert len(judge.requests) == 2


def test_a_reply_without_usage_is_scored(
    judging_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(named("no_usage", text="Final score: 6"))
    batch = scored(judging_backend, "no usage", 2)
    assert batch.statuses == ["scored"] * 2
    assert batch.usage.tokens == 0


def test_an_endpoint_that_refuses_response_format_gets_no_further_one(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    refusal = {"when": {"has": "response_format"}, "then": "response_format_unsupported"}
    judge.set_plan({"rules": [refusal], "default": SIX})
    manager = manager_with(structured=True, model="plain")
    first = scored(manager, "words", 64)
    assert first.judge_scores.tolist() == [6.0] * 64
    query = "SELECT worker, attempts FROM judgements WHERE batch_id = :id"
    knowing = {row["worker"] for row in read(manager, query, id=first.id)}
    second = read(manager, query, id=scored(manager, "more words", 64).id)
    assert {row["attempts"] for row in second if row["worker"] in knowing} == {1}


def test_structured_replies_are_parsed(manager_with: MakeManager, judge: JudgeServer) -> None:
    judge.set_plan(Action(text='{"reasoning": "Good.", "score": 8}'))
    batch = scored(manager_with(structured=True), "json", 2)
    assert batch.judge_scores.tolist() == [8.0] * 2
    formats = [arrival.json()["response_format"]["type"] for arrival in judge.requests]
    assert formats == ["json_schema"] * 2


def test_an_unparseable_reply_is_reasked_once(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    def plan(arrival: RequestEntry) -> Action:
        again = any(role == "assistant" for role, _ in arrival.messages())
        return Action(text="Final score: 6" if again else "I like it.")

    judge.set_plan(plan)
    batch = scored(manager_with(reasks=1), "reask", 2)
    assert batch.judge_scores.tolist() == [6.0] * 2
    assert batch.usage.calls == 4
    judge.set_plan(Action(text="I like it."))
    batch = scored(manager_with(reasks=1), "reask in vain", 2)
    assert batch.statuses == ["unparseable"] * 2
    assert batch.usage.calls == 4


def test_an_expected_score_is_reused_without_its_reply(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(named("logprobs", text="Final score: 8", top_logprobs={"8": -0.5, "6": -1.5}))
    manager = manager_with(expected_score=True)
    expected = (8 * np.exp(-0.5) + 6 * np.exp(-1.5)) / (np.exp(-0.5) + np.exp(-1.5))
    assert scored(manager, "expected", 1).judge_scores == pytest.approx([expected])
    cached = scored(manager, "expected", 1)
    flush_replies(manager)
    recorded = scored(manager, "expected", 1)
    assert len(judge.requests) == 1
    for batch in (cached, recorded):
        assert batch.judge_scores == pytest.approx([expected])


def test_the_same_rollouts_in_several_batches_at_once_cost_one_call_each(
    judging_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 6", hold=True))
    futures = [judging_backend.submit(rollouts_of("twins", 16), run=f"twin-{i}") for i in range(4)]
    judge.wait_until(lambda log: len(log) == 16)
    judge.set_plan(Action(text="Final score: 6"))
    judge.release()
    batches = [future.result(timeout_s=60) for future in futures]
    assert len(judge.requests) == 16
    assert [batch.judge_scores.tolist() for batch in batches] == [[6.0] * 16] * 4
    assert sum(batch.usage.calls for batch in batches) == 16


@pytest.mark.parametrize(
    ("reuse", "same_run", "other_run"), [("store", 0, 0), ("run", 0, 4), ("off", 4, 4)]
)
@pytest.mark.parametrize("forgets", [False, True], ids=["from redis", "from sql"])
def test_a_judgement_is_reused_within_the_configured_scope(
    manager_with: MakeManager,
    judge: JudgeServer,
    reuse: str,
    same_run: int,
    other_run: int,
    forgets: bool,
) -> None:
    judge.set_plan(Action(text="Final score: 6"))
    manager = manager_with({"reuse": reuse})
    tag = f"reuse-{reuse}-{forgets}"
    calls = []
    for run in (f"{tag}-a", f"{tag}-a", f"{tag}-b"):
        if forgets:
            flush_replies(manager)
        calls.append(scored(manager, tag, 4, run).usage.calls)
    assert calls == [4, same_run, other_run]
    assert len(judge.requests) == sum(calls)


def flush_replies(manager: RewardManager) -> None:
    """Empty Redis, as a restart without persistence does."""
    assert manager.config.broker.url is not None
    with redis.Redis.from_url(manager.config.broker.url) as client:
        client.flushall()


@pytest.mark.parametrize(("configured", "score"), [({}, 1.0), ({"empty_score": -2.0}, -2.0)])
def test_a_rollout_with_nothing_to_judge_is_not_sent_to_a_judge(
    manager_with: MakeManager, judge: JudgeServer, configured: dict[str, float], score: float
) -> None:
    openers = [
        "",
        "Thought process:",
        "**Solution**",
        "…",
        "解：",
        "Ｓｏｌｕｔｉｏｎ：",
        "思考过程：",
    ]
    rollouts = [rollouts_of("empty", 1, response=opener)[0] for opener in openers]
    manager = manager_with(**configured)
    batch = manager.submit(rollouts).result(timeout_s=60)
    assert batch.statuses == ["empty"] * len(openers)
    assert batch.judge_scores.tolist() == [score] * len(openers)
    assert judge.requests == []


def test_no_call_starts_after_the_deadline(manager_with: MakeManager, judge: JudgeServer) -> None:
    batch = scored(manager_with({"deadline_s": 0.001}), "late", 4)
    assert batch.statuses == ["expired"] * 4
    assert judge.requests == []


def test_a_dead_base_url_is_not_called(manager_with: MakeManager, judge: JudgeServer) -> None:
    judge.set_plan(Action(text="Final score: 6"))
    manager = manager_with(endpoint="half_dead")
    batch = scored(manager, "half dead", 64)
    assert batch.statuses == ["scored"] * 64
    to_the_dead = [row for row in attempts_of(manager, batch) if row["url_index"] == 1]
    assert 3 <= len(to_the_dead) <= 20
    assert {row["error_class"] for row in to_the_dead} == {"ConnectError"}


def test_requests_per_minute_hold_over_two_processes(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 6"))
    manager = manager_with({"deadline_s": 10}, endpoint="slow")
    # More calls than one process takes at a time.
    batch = scored(manager, "per minute", 256)
    assert 27 <= max_in_any_window(judge.requests, 60) <= 30
    assert batch.statuses.count("scored") == len(judge.requests)
    assert batch.statuses.count("expired") == 256 - len(judge.requests)
    # Both asked for permits; the first to ask may have got all of them.
    query = "SELECT DISTINCT worker FROM judgements WHERE batch_id = :id"
    assert len(read(manager, query, id=batch.id)) == 2


def test_calls_in_flight_never_exceed_their_limit(
    manager_with: MakeManager, judge: JudgeServer
) -> None:
    judge.set_plan(Action(text="Final score: 6", latency_s=0.05))
    batch = scored(manager_with(endpoint="narrow"), "narrow", 96)
    assert batch.statuses == ["scored"] * 96
    assert 4 <= max_in_flight(judge.requests) <= 5


def test_every_attempt_is_tied_to_its_judgement(
    judging_backend: RewardManager, judge: JudgeServer
) -> None:
    judge.set_plan(
        {"rules": [{"when": {"first_of_body": 1}, "then": "unavailable"}], "default": SIX}
    )
    batch = scored(judging_backend, "tied", 4)
    rows = read(
        judging_backend,
        """
        SELECT j.attempts, j.cost_usd, count(a.id) AS n, sum(a.cost_usd) AS cost
        FROM judgements j JOIN attempts a USING (batch_id, rollout_index, judge, sample)
        WHERE batch_id = :id GROUP BY rollout_index
        """,
        id=batch.id,
    )
    assert len(rows) == 4
    for row in rows:
        assert row["n"] == row["attempts"] == 2
        assert row["cost"] == pytest.approx(row["cost_usd"])
        assert row["cost"] > 0
    assert batch.usage.cost_usd == pytest.approx(sum(row["cost"] for row in rows))
