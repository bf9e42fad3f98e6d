"""Spans of attempts, in the exporter of the OpenTelemetry SDK that keeps them in memory."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes, server_attributes

from oyer.config.reward import EndpointConfig, JudgeConfig, RewardRules
from oyer.protocol.rollout import Rollout
from oyer.tasks.judging.judgements import Answer, AttemptRecord, judgement_row
from oyer.tasks.judging.requests import requests_of
from oyer.tasks.monitoring.judge_spans import EVALUATION, record_spans
from oyer.tasks.parsing.parser import parse_score
from oyer.telemetry import tracing

START = datetime(2026, 3, 31, 23, 59, 58, tzinfo=UTC)
JUDGE = JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m"})
ENDPOINTS = {"e": EndpointConfig.model_validate({"base_url": "https://judge.example:8443/v1"})}
SENT = {"temperature": 0.2, "max_tokens": 64, "seed": 3}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Trace into memory."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(tracing._State, "tracer", provider.get_tracer("oyer"))
    yield kept
    provider.shutdown()


def attempt(number: int, **fields: Any) -> AttemptRecord:
    plain: dict[str, Any] = {
        "number": number,
        "started_at": START + timedelta(seconds=number),
        "url_index": 0,
        "http_status": 200,
        "error_class": None,
        "latency_ms": 12.5,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "retry_wait_s": None,
        "messages": [{"role": "user", "content": "the prompt"}],
        "sent": SENT,
        "text": "Final score: 7",
    }
    return AttemptRecord(**{**plain, **fields})


FAILED = {
    "http_status": 503,
    "error_class": "ServerError",
    "error": "overloaded by: the prompt",
    "text": None,
}


def record(*attempts: AttemptRecord, **changed: Any) -> None:
    """Record the spans of one judgement of rollout 5."""
    (request,) = requests_of({5: Rollout(prompt="p", response="r")}, [JUDGE], RewardRules(), {})
    parsed = parse_score("Final score: 7", scale=(1, 10))
    answer = Answer(
        source="called",
        status=parsed.status,
        text="Final score: 7",
        parsed=parsed,
        model="m-2026",
        attempts=attempts,
    )
    answer = replace(answer, **changed)
    row = judgement_row(request, answer, worker="host:1", price=None)
    record_spans([(request, answer, row)], ENDPOINTS)


def test_an_attempt_has_the_attributes_of_the_conventions(exporter: InMemorySpanExporter) -> None:
    record(attempt(1))
    (span,) = exporter.get_finished_spans()
    assert span.name == "chat m"
    assert dict(span.attributes or {}) == {
        gen_ai.GEN_AI_OPERATION_NAME: gen_ai.GenAiOperationNameValues.CHAT.value,
        gen_ai.GEN_AI_PROVIDER_NAME: gen_ai.GenAiProviderNameValues.OPENAI.value,
        gen_ai.GEN_AI_REQUEST_MODEL: "m",
        gen_ai.GEN_AI_RESPONSE_MODEL: "m-2026",
        gen_ai.GEN_AI_REQUEST_TEMPERATURE: 0.2,
        gen_ai.GEN_AI_REQUEST_MAX_TOKENS: 64,
        gen_ai.GEN_AI_REQUEST_SEED: 3,
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: 100,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: 10,
        server_attributes.SERVER_ADDRESS: "judge.example",
        server_attributes.SERVER_PORT: 8443,
        "http.response.status_code": 200,
        "oyer.judge": "q",
        "oyer.endpoint": "e",
        "oyer.rollout": 5,
        "oyer.sample": 0,
        "oyer.attempt": 1,
    }
    began_ns = int((START + timedelta(seconds=1)).timestamp() * 1e9)
    assert (span.start_time, span.end_time) == (began_ns, began_ns + 12_500_000)
    (event,) = span.events
    assert event.name == EVALUATION
    assert dict(event.attributes or {}) == {
        gen_ai.GEN_AI_EVALUATION_NAME: "q",
        gen_ai.GEN_AI_EVALUATION_SCORE_VALUE: 7,
        gen_ai.GEN_AI_EVALUATION_SCORE_LABEL: "scored",
        "oyer.rollout": 5,
        "oyer.source": "called",
    }


def test_a_retry_links_to_a_failed_attempt_without_its_message(
    exporter: InMemorySpanExporter,
) -> None:
    record(attempt(1, **FAILED), attempt(2))
    first, second = exporter.get_finished_spans()
    assert not first.status.is_ok
    assert first.status.description is None
    assert (first.attributes or {})[error_attributes.ERROR_TYPE] == "ServerError"
    assert not first.events
    (link,) = second.links
    assert link.context == first.context
    assert second.status.is_unset


def test_a_hedge_is_told_from_a_retry_and_the_reply_that_counts_has_the_event(
    exporter: InMemorySpanExporter,
) -> None:
    cancelled = {**FAILED, "http_status": None, "error_class": "Cancelled", "hedge": True}
    record(attempt(1), attempt(2, **cancelled), attempt(3))
    first, hedge, retry = exporter.get_finished_spans()
    relations = [(one.links[0].attributes or {})["oyer.link"] for one in (hedge, retry)]
    assert relations == ["hedge", "retry"]
    assert [len(one.events) for one in (first, hedge, retry)] == [0, 0, 1]


def test_texts_are_added_only_if_asked_for(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing._State, "texts", True)
    record(attempt(1, **FAILED), attempt(2))
    first, second = exporter.get_finished_spans()
    assert first.status.description == "overloaded by: the prompt"
    attributes = dict(second.attributes or {})
    assert json.loads(str(attributes[gen_ai.GEN_AI_INPUT_MESSAGES])) == [
        {"role": "user", "parts": [{"type": "text", "content": "the prompt"}]}
    ]
    assert json.loads(str(attributes[gen_ai.GEN_AI_OUTPUT_MESSAGES])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Final score: 7"}]}
    ]
    (event,) = second.events
    assert (event.attributes or {})[gen_ai.GEN_AI_EVALUATION_EXPLANATION] == "Final score: 7"


def test_a_reused_reply_is_an_event_of_the_chunk(exporter: InMemorySpanExporter) -> None:
    with tracing.span("oyer.judge", "consumer", {}):
        record(source="cache")
    (span,) = exporter.get_finished_spans()
    assert span.name == "oyer.judge"
    (event,) = span.events
    assert event.name == EVALUATION
    assert (event.attributes or {})["oyer.source"] == "cache"


def test_without_tracing_nothing_is_recorded() -> None:
    assert tracing.tracer() is None
    record(attempt(1))
