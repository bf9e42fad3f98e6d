"""Spans of the HTTP requests of a chunk, made from what is recorded of them.

Attributes and the event `gen_ai.evaluation.result` follow OpenTelemetry's semantic conventions for
generative AI (opentelemetry-semantic-conventions 0.66b2, status: development).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from oyer.config.reward import EndpointConfig
from oyer.models.rows import JudgementRow
from oyer.protocol.content import content_text
from oyer.protocol.rollout import Message
from oyer.tasks.judging.judgements import Answer, AttemptRecord
from oyer.tasks.judging.requests import JudgeRequest
from oyer.telemetry import tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

EVALUATION = "gen_ai.evaluation.result"
"""Name of the event with a judgement's score."""


def record_spans(
    judged: Iterable[tuple[JudgeRequest, Answer, JudgementRow]],
    endpoints: Mapping[str, EndpointConfig],
) -> None:
    """Add a span for each attempt to the current span, and an event for each judgement.

    A retry or a hedge links to the attempt before it. The event is in the span of the attempt that
    decided; for a reused reply, in the current span. Does nothing if tracing is off.
    """
    tracer = tracing.tracer()
    if tracer is None:
        return
    from opentelemetry.trace import get_current_span

    for request, answer, row in judged:
        if answer.attempts:
            _record_attempts(tracer, request, answer, row, endpoints.get(request.judge.endpoint))
        else:
            get_current_span().add_event(EVALUATION, _evaluation(row))


def _record_attempts(
    tracer: "Tracer",
    request: JudgeRequest,
    answer: Answer,
    row: JudgementRow,
    endpoint: EndpointConfig | None,
) -> None:
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode

    before: Span | None = None
    # Of two calls of which the first reply counts, the later one may have been cancelled.
    decisive = [one for one in answer.attempts if one.error_class is None] or answer.attempts
    for attempt in answer.attempts:
        began_ns = int(attempt.started_at.timestamp() * 1e9)
        ended_ns = began_ns + int(attempt.latency_ms * 1e6)
        relation = {"oyer.link": "hedge" if attempt.hedge else "retry"}
        span = tracer.start_span(
            f"chat {request.judge.model}",
            kind=SpanKind.CLIENT,
            attributes=_attributes(request, attempt, endpoint),
            links=[] if before is None else [Link(before.get_span_context(), relation)],
            start_time=began_ns,
        )
        if attempt.error_class is not None:
            # The endpoint's message may quote the prompt.
            span.set_status(
                Status(StatusCode.ERROR, attempt.error if tracing.with_texts() else None)
            )
        if attempt is decisive[-1]:
            if answer.model is not None:
                span.set_attribute("gen_ai.response.model", answer.model)
            span.add_event(EVALUATION, _evaluation(row), timestamp=ended_ns)
        span.end(ended_ns)
        before = span


def _attributes(
    request: JudgeRequest, attempt: AttemptRecord, endpoint: EndpointConfig | None
) -> dict[str, Any]:
    sent = attempt.sent
    found = {
        "gen_ai.operation.name": "chat",
        # The protocol's name: endpoints are OpenAI-compatible, and `server.address` is theirs.
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": request.judge.model,
        "gen_ai.request.temperature": sent.get("temperature"),
        "gen_ai.request.max_tokens": sent.get("max_completion_tokens", sent.get("max_tokens")),
        "gen_ai.request.seed": sent.get("seed"),
        "gen_ai.usage.input_tokens": attempt.prompt_tokens,
        "gen_ai.usage.output_tokens": attempt.completion_tokens,
        "http.response.status_code": attempt.http_status,
        "error.type": attempt.error_class,
        "oyer.judge": request.judge.name,
        "oyer.endpoint": request.judge.endpoint,
        "oyer.rollout": request.index,
        "oyer.sample": request.sample,
        "oyer.attempt": attempt.number,
    }
    if endpoint is not None and attempt.url_index < len(endpoint.servers):
        url = urlsplit(endpoint.servers[attempt.url_index].url)
        found |= {"server.address": url.hostname, "server.port": url.port}
    if tracing.with_texts():
        found["gen_ai.input.messages"] = _messages(attempt.messages)
        if attempt.text is not None:
            reply = {"role": "assistant", "content": attempt.text}
            found["gen_ai.output.messages"] = _messages([reply])
    return {name: value for name, value in found.items() if value is not None}


def _evaluation(row: JudgementRow) -> dict[str, Any]:
    found = {
        "gen_ai.evaluation.name": row["judge"],
        "gen_ai.evaluation.score.value": row.get("score"),
        "gen_ai.evaluation.score.label": str(row["status"]),
        "gen_ai.evaluation.explanation": row.get("reply") if tracing.with_texts() else None,
        "oyer.rollout": row["rollout_index"],
        "oyer.source": row["source"],
    }
    return {name: value for name, value in found.items() if value is not None}


def _messages(messages: Sequence[Message]) -> str:
    """Return messages as JSON in the form of the conventions; images as placeholders."""
    return json.dumps(
        [
            {
                "role": one.get("role"),
                "parts": [{"type": "text", "content": content_text(one.get("content") or "")}],
            }
            for one in messages
        ],
        ensure_ascii=False,
    )
