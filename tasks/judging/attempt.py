"""One attempt of a judge call: its tokens by estimate, its outcome and its record; no I/O."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from oyer.protocol.rollout import Message
from oyer.tasks.coordination.reply_cache import CachedAttempt, CachedReply
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply
from oyer.tasks.judging.judgements import AttemptRecord
from oyer.tasks.judging.reading import LOGPROBS
from oyer.tasks.judging.requests import JudgeRequest
from oyer.tasks.parsing.parser import ParsedScore

BYTES_PER_TOKEN = 3.5
"""UTF-8 bytes per token, for the estimate reserved before a call: below the 4 of English prose,
because of code and markup, and about one token for a Chinese character."""

IMAGE_TOKENS = 1600
"""Estimated tokens of an image: the most that Claude counts for one; OpenAI's models count about 1,100
for 1024 x 1024 pixels."""

UNLIMITED_REPLY_TOKENS = 1024
"""Tokens reserved for a reply without `max_tokens`."""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The request of an attempt that counts, and what came of it."""

    started_at: datetime
    result: Reply | Failure
    billed: tuple[int, int]
    """Prompt and completion tokens that count for its cost, as of `billed_tokens`."""
    parsed: ParsedScore | None = None
    hedge: bool = False
    """Whether it is the second request of a call."""
    other: "AttemptResult | None" = None
    """The other request of the call, if there were two."""
    id: str = field(default_factory=lambda: str(uuid4()))
    """Of its row on record."""


def estimate_tokens(request: ChatRequest) -> tuple[int, int]:
    """Estimate a call's tokens: those of its messages, and those of the longest reply it allows."""
    size_bytes = sum(_content_bytes(message.get("content") or "") for message in request.messages)
    return int(size_bytes / BYTES_PER_TOKEN), request.max_tokens or UNLIMITED_REPLY_TOKENS


def _content_bytes(content: str | list[Message]) -> float:
    """Return the size of a text, or of parts, with an image as its tokens' worth of text."""
    if isinstance(content, str):
        return _bytes(content)
    texts = [part["text"] for part in content if part["type"] == "text"]
    return sum(map(_bytes, texts)) + BYTES_PER_TOKEN * IMAGE_TOKENS * (len(content) - len(texts))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def billed_tokens(result: Reply | Failure, prompt_tokens: int) -> tuple[int, int]:
    """Return prompt and completion tokens as reported; a reply without usage is estimated.

    Of a number reported in part and its estimate, the larger one counts.
    """
    if isinstance(result, Reply) and not result.usage_reported:
        completion_tokens = round(_bytes(result.text) / BYTES_PER_TOKEN)
        return (
            max(prompt_tokens, result.prompt_tokens),
            max(completion_tokens, result.completion_tokens),
        )
    return result.prompt_tokens, result.completion_tokens


def cached_reply(
    job: JudgeRequest, request: ChatRequest, attempt: AttemptResult, batch_id: str
) -> CachedReply:
    """Return what the reply cache keeps of a scored reply.

    Args:
        request: the request sent for `job`, or for a re-ask.
    """
    reply, parsed, judge = attempt.result, attempt.parsed, job.judge
    assert isinstance(reply, Reply)
    assert parsed is not None
    first = job.request is not None and request.messages is job.request.messages
    return CachedReply(
        text=reply.text if parsed.reply is None else parsed.reply,
        finish_reason="stop",
        model=reply.model or judge.model,
        usage={
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "cached_tokens": reply.cached_tokens,
            "reasoning_tokens": reply.reasoning_tokens,
        },
        at_s=time.time(),
        expected_score=parsed.score if parsed.layer == LOGPROBS else None,
        reasoning=reply.reasoning,
        attempt=_cached_attempt(job, attempt, reply, batch_id) if first else None,
    )


def _cached_attempt(
    job: JudgeRequest, attempt: AttemptResult, reply: Reply, batch_id: str
) -> CachedAttempt:
    return CachedAttempt(
        id=attempt.id,
        batch_id=batch_id,
        place=job.place,
        started_at=attempt.started_at,
        latency_ms=reply.latency_ms,
        http_status=reply.http_status,
        url_index=reply.url_index,
        billed=attempt.billed,
        sent=dict(reply.sent),
        hedge=attempt.hedge,
    )


def restored_attempts(
    reply: CachedReply, job: JudgeRequest, batch_id: str
) -> tuple[AttemptRecord, ...]:
    """Return the attempt of a cached reply that was made for this judgement of this batch.

    Its worker has not recorded the judgement: it died, or it records the same row.
    """
    made = reply.attempt
    if made is None or job.request is None or not batch_id:
        return ()
    if (made.batch_id, made.place) != (batch_id, job.place):
        return ()
    usage = reply.usage
    return (
        AttemptRecord(
            number=1,
            id=made.id,
            restored=True,
            started_at=made.started_at,
            url_index=made.url_index,
            http_status=made.http_status,
            error_class=None,
            latency_ms=made.latency_ms,
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            cached_tokens=usage.get("cached_tokens", 0),
            reasoning_tokens=usage.get("reasoning_tokens", 0),
            retry_wait_s=None,
            messages=job.request.messages,
            sent=made.sent,
            text=reply.text,
            reasoning=reply.reasoning,
            hedge=made.hedge,
            billed=made.billed,
        ),
    )


def records_of(
    number: int, request: ChatRequest, attempt: AttemptResult, wait_s: float | None
) -> list[AttemptRecord]:
    """Return the records of an attempt's requests, the second one of a hedged call last."""
    if attempt.other is None:
        return [_record(number, request, attempt, wait_s)]
    first, second = sorted((attempt, attempt.other), key=lambda one: one.hedge)
    return [
        _record(number, request, first, None),
        _record(number + 1, request, second, wait_s),
    ]


def _record(
    number: int, request: ChatRequest, attempt: AttemptResult, wait_s: float | None
) -> AttemptRecord:
    result = attempt.result
    failure = result if isinstance(result, Failure) else None
    reply = result if isinstance(result, Reply) else None
    return AttemptRecord(
        number=number,
        id=attempt.id,
        started_at=attempt.started_at,
        url_index=result.url_index,
        http_status=result.http_status,
        error_class=failure.error_class if failure else None,
        latency_ms=result.latency_ms,
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        cached_tokens=result.cached_tokens,
        reasoning_tokens=result.reasoning_tokens,
        retry_wait_s=wait_s,
        messages=request.messages,
        sent=result.sent,
        text=reply.text if reply else None,
        reasoning=reply.reasoning if reply else None,
        error=failure.message if failure else None,
        hedge=attempt.hedge,
        billed=attempt.billed,
    )
