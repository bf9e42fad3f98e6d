"""Rows of judgements and attempts, and a chunk's result built from the record."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from oyer.config.reward import JudgeConfig, Price, RewardRules
from oyer.models.rows import StoredJudgement
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.judging.judgements import (
    Answer,
    AttemptRecord,
    attempt_rows,
    cost_usd,
    judgement_row,
    recorded_result,
    settled_rows,
)
from oyer.tasks.judging.requests import JudgeRequest, requests_of
from oyer.tasks.parsing.parser import PARSER_VERSION, parse_score

START = datetime(2026, 3, 31, 23, 59, 58, tzinfo=UTC)
PRICE = Price(prompt_usd=2.0, completion_usd=8.0)
JUDGE = JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m", "samples": 2})


def job() -> JudgeRequest:
    rollout = Rollout(prompt="p", response="r")
    return list(requests_of({5: rollout}, [JUDGE], RewardRules(), {}))[1]


def attempt(number: int, **fields: Any) -> AttemptRecord:
    plain: dict[str, Any] = {
        "number": number,
        "started_at": START,
        "url_index": 0,
        "http_status": 200,
        "error_class": None,
        "latency_ms": 12.5,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "retry_wait_s": None,
    }
    return AttemptRecord(**{**plain, **fields})


def answered(text: str = "Final score: 7", **fields: Any) -> Answer:
    parsed = parse_score(text, scale=(1, 10))
    plain: dict[str, Any] = {
        "source": "called",
        "status": parsed.status,
        "text": text,
        "parsed": parsed,
        "model": "m-2026",
        "attempts": (attempt(1),),
        "started_at": START,
        "finished_at": START + timedelta(milliseconds=1500),
    }
    return Answer(**{**plain, **fields})


def row(answer: Answer, price: Price | None = PRICE) -> dict[str, Any]:
    return dict(judgement_row(job(), answer, worker="host:1", price=price))


def test_a_scored_judgement_is_written_with_its_parse_and_its_origin() -> None:
    written = row(answered())
    assert (written["rollout_index"], written["judge"], written["sample"]) == (5, "q", 1)
    assert (written["status"], written["score"]) == (Status.SCORED, 7.0)
    assert written["reply"] == "Final score: 7"
    assert "7" in written["parsed_span"]
    assert written["parsed_layer"]
    assert written["parser_version"] == PARSER_VERSION
    assert (written["model"], written["endpoint"]) == ("m-2026", "e")
    assert written["rubric_hash"] == job().rubric_hash
    assert written["request_hash"] == job().key
    assert written["latency_ms"] == 1500
    assert (written["source"], written["worker"], written["error"]) == ("called", "host:1", None)


def test_a_reply_without_a_score_is_written_with_nan() -> None:
    written = row(answered("I like it.", error="no score: none"))
    assert written["status"] == Status.UNPARSEABLE
    assert math.isnan(written["score"])
    assert written["reply"] == "I like it."
    assert written["error"] == "no score: none"


def test_a_failure_is_written_without_a_reply() -> None:
    failed = Answer(source="called", status=Status.TIMEOUT, error="no answer within 60 s")
    written = row(failed)
    assert written["status"] == Status.TIMEOUT
    assert written["model"] == "m"
    nothing = ("score", "reply", "parsed_layer", "parsed_span", "parser_version", "latency_ms")
    assert [written[name] for name in nothing] == [None] * 6
    assert written["attempts"] == 0


def test_tokens_and_cost_are_sums_over_all_attempts() -> None:
    attempts = (attempt(1, http_status=500, completion_tokens=0), attempt(2))
    written = row(answered(attempts=attempts))
    assert (written["prompt_tokens"], written["completion_tokens"]) == (200, 10)
    assert written["cost_usd"] == pytest.approx((200 * 2 + 10 * 8) / 1e6)
    assert written["attempts"] == 2


def test_a_reply_without_usage_costs_what_the_budget_counted() -> None:
    unknown = attempt(2, prompt_tokens=0, completion_tokens=0, billed=(50, 4))
    found = answered(attempts=(attempt(1), unknown))
    written = row(found)
    assert (written["prompt_tokens"], written["completion_tokens"]) == (100, 10)
    costs = [one["cost_usd"] or 0.0 for one in attempt_rows(job(), found, price=PRICE)]
    assert costs == pytest.approx([(100 * 2 + 10 * 8) / 1e6, (50 * 2 + 4 * 8) / 1e6])
    assert written["cost_usd"] == pytest.approx(sum(costs))


def test_a_cached_reply_costs_nothing() -> None:
    written = row(answered(source="cache", attempts=()))
    assert (written["cost_usd"], written["prompt_tokens"], written["source"]) == (0, 0, "cache")


def test_a_duplicate_shares_the_answer_without_its_cost() -> None:
    first = answered()
    written = row(first.joined)
    assert (written["source"], written["score"], written["reply"]) == ("joined", 7.0, first.text)
    assert (written["attempts"], written["cost_usd"], written["latency_ms"]) == (0, 0.0, None)
    assert first.attempts


def test_without_a_price_the_cost_is_zero() -> None:
    assert row(answered(), price=None)["cost_usd"] == 0.0
    assert cost_usd(None, 10**6, 10**6) == 0.0


def test_prices_are_per_million_tokens() -> None:
    assert cost_usd(PRICE, 1_000_000, 0) == 2.0
    assert cost_usd(PRICE, 0, 500_000) == 4.0


def test_every_http_request_is_a_separate_row() -> None:
    attempts = (
        attempt(1, http_status=429, error_class="RateLimitError", retry_wait_s=2.0, url_index=1),
        attempt(2),
    )
    rows = attempt_rows(job(), answered(attempts=attempts), price=PRICE)
    assert [one["number"] for one in rows] == [1, 2]
    assert len({one["id"] for one in rows}) == 2
    first, second = rows
    assert (first["http_status"], first["error_class"]) == (429, "RateLimitError")
    assert (first["retry_wait_s"], first["url_index"]) == (2.0, 1)
    assert (second["rollout_index"], second["judge"], second["sample"]) == (5, "q", 1)
    total = sum(one["cost_usd"] or 0 for one in rows)
    assert total == pytest.approx(row(answered(attempts=attempts))["cost_usd"])


def test_without_a_request_there_are_no_rows() -> None:
    answer = Answer(source="none", status=Status.EXPIRED, error="late")
    assert attempt_rows(job(), answer, price=PRICE) == []


def judge(name: str = "q", **fields: Any) -> JudgeConfig:
    return JudgeConfig.model_validate({"name": name, "endpoint": "e", "model": "m", **fields})


def recorded(
    index: int, score: float | None, status: str = "scored", **fields: Any
) -> StoredJudgement:
    place = {"rollout_index": index, "judge": "q", "sample": 0, "source": "called"}
    return cast(StoredJudgement, {**place, "score": score, "status": status, **fields})


def test_recorded_judgements_become_a_result_in_order() -> None:
    rows = settled_rows([recorded(5, 3.0), recorded(4, None, "gated"), recorded(6, 8.0)])
    result = recorded_result(2, range(4, 7), [judge()], rows)
    assert result is not None
    assert (result.chunk, result.scores) == (2, {"q": [None, 3.0, 8.0]})
    assert result.statuses == {"q": ["gated", "scored", "scored"]}


def test_recorded_judgements_keep_their_latencies_and_the_replies_of_the_sample() -> None:
    first = recorded(4, 3.0, latency_ms=41.6, reply="good")
    rows = [
        first,
        recorded(5, 5.0, source="record", reply="fair"),
        recorded(6, 1.0, latency_ms=9.0),
    ]
    result = recorded_result(2, range(4, 6), [judge()], settled_rows(rows), [6, 5, 4])
    assert result is not None
    assert (result.latencies_ms, result.reasons) == ([42], {5: "fair", 4: "good"})


def test_recorded_samples_are_aggregated() -> None:
    rows = settled_rows([recorded(0, 4.0), recorded(0, 8.0, sample=1)])
    result = recorded_result(0, range(1), [judge(samples=2)], rows)
    assert result is not None
    assert result.scores == {"q": [6.0]}


def test_a_missing_or_failed_judgement_leaves_the_chunk_unfinished() -> None:
    assert recorded_result(0, range(2), [judge()], settled_rows([recorded(0, 4.0)])) is None
    failed = settled_rows([recorded(0, 4.0), recorded(1, None, "timeout")])
    assert recorded_result(0, range(2), [judge()], failed) is None
    one_of_two = settled_rows([recorded(0, 4.0)])
    assert recorded_result(0, range(1), [judge(), judge("other")], one_of_two) is None


def test_without_judges_the_record_does_not_show_whether_a_chunk_ended() -> None:
    assert recorded_result(0, range(2), [], {}) is None
