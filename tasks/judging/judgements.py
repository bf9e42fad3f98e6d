"""How one judgement ended, and the rows that say so; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import uuid4

from oyer.config.reward import Price
from oyer.models.rows import AttemptRow, JudgementRow
from oyer.protocol.status import Status
from oyer.tasks.judging.call import AttemptRecord
from oyer.tasks.judging.request_record import parameters_text, seed_of, turns_of
from oyer.tasks.judging.requests import JudgeRequest
from oyer.tasks.parsing.parser import PARSER_VERSION, ParsedScore

Source = Literal["called", "cache", "record", "joined", "none"]
"""Where a judgement's reply came from; `none` where no reply was asked for."""

LOGPROBS = "logprobs"
"""`parsed_layer` of an expected score: the reply's text alone does not give it again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one request: a reply, or a failure in its place."""

    source: Source
    status: Status
    """`scored` with a reply (its text is still to be read), else why there is none."""
    text: str | None = None
    reasoning: str | None = None
    reading: ParsedScore | None = None
    model: str | None = None
    error: str | None = None
    attempts: Sequence[AttemptRecord] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def joined(self) -> "Answer":
        """The same answer for a duplicate: nothing was paid for it."""
        return replace(self, source="joined", attempts=(), started_at=None, finished_at=None)

    @property
    def prompt_tokens(self) -> int:
        """Of all attempts together."""
        return sum(attempt.prompt_tokens for attempt in self.attempts)

    @property
    def completion_tokens(self) -> int:
        """Of all attempts together."""
        return sum(attempt.completion_tokens for attempt in self.attempts)


def cost_usd(price: Price | None, prompt_tokens: int, completion_tokens: int) -> float:
    """Price some tokens; 0 where the model has no price."""
    if price is None:
        return 0.0
    return (prompt_tokens * price.prompt_usd + completion_tokens * price.completion_usd) / 1e6


def judgement_row(
    job: JudgeRequest, answer: Answer, *, worker: str, price: Price | None
) -> JudgementRow:
    """Write a judgement as the record keeps it."""
    reading = answer.reading
    last = answer.attempts[-1] if answer.attempts else None
    latency_ms = None
    if answer.started_at and answer.finished_at:
        latency_ms = (answer.finished_at - answer.started_at).total_seconds() * 1000
    return {
        "rollout_index": job.index,
        "judge": job.judge.name,
        "sample": job.sample,
        "status": reading.status if reading else answer.status,
        "score": reading.score if reading else None,
        "reply": answer.text,
        "reasoning": answer.reasoning,
        "parsed_layer": reading.layer if reading else None,
        "parsed_span": reading.span if reading else None,
        "parser_version": PARSER_VERSION if reading else None,
        "model": answer.model or job.judge.model,
        "endpoint": job.judge.endpoint,
        "rubric_hash": job.rubric_hash,
        "request_hash": job.key,
        "parameters": parameters_text(job, last.sent if last else None) if job.key else None,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "cost_usd": cost_usd(price, answer.prompt_tokens, answer.completion_tokens),
        "latency_ms": latency_ms,
        "attempts": len(answer.attempts),
        "source": answer.source,
        "worker": worker,
        "error": answer.error,
        "started_at": answer.started_at,
        "finished_at": answer.finished_at,
    }


def attempt_rows(job: JudgeRequest, answer: Answer, *, price: Price | None) -> list[AttemptRow]:
    """Write every HTTP request made for a judgement."""
    first = job.request.messages if job.request else ()
    return [
        {
            "rollout_index": job.index,
            "judge": job.judge.name,
            "sample": job.sample,
            "id": str(uuid4()),
            "number": attempt.number,
            "started_at": attempt.started_at,
            "url_index": attempt.url_index,
            "http_status": attempt.http_status,
            "error_class": attempt.error_class,
            "latency_ms": attempt.latency_ms,
            "prompt_tokens": attempt.prompt_tokens,
            "completion_tokens": attempt.completion_tokens,
            "cost_usd": cost_usd(price, attempt.prompt_tokens, attempt.completion_tokens),
            "retry_wait_s": attempt.retry_wait_s,
            "parameters": parameters_text(job, attempt.sent),
            "seed": seed_of(attempt.sent),
            "turns": turns_of(first, attempt.messages),
            "reply": attempt.text,
            "reasoning": attempt.reasoning,
            "error": attempt.error,
        }
        for attempt in answer.attempts
    ]
