"""One judge call: HTTP requests until one brings a reply, each under a permit and a reservation.

The promises are listed in docs/internals/limiter.md and docs/internals/single_flight.md.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from oyer.config.reward import EndpointConfig, JudgeConfig
from oyer.protocol.rollout import Message
from oyer.protocol.status import Status
from oyer.tasks.coordination.budget import Refusal, Reservation, RunBudget
from oyer.tasks.coordination.fair_queue import ANY_FLOW, Flow
from oyer.tasks.coordination.held_permit import HeldPermit
from oyer.tasks.coordination.lessons import Lessons
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.reply_cache import CachedReply, ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.tasks.endpoint.retry import decide
from oyer.tasks.endpoint.types import ChatClient, ChatRequest, Failure, Reply
from oyer.tasks.judging.judgements import AttemptRecord, cost_usd
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

_RANDOM = random.Random()


@dataclass(frozen=True, slots=True)
class NotCalled:
    """Why an attempt was not made."""

    status: Status
    reason: str


DEADLINE_PASSED = NotCalled(Status.EXPIRED, "the batch's deadline has passed")
CANCELLED = NotCalled(Status.EXPIRED, "the batch was cancelled")
TAKEN_OVER = NotCalled(Status.EXPIRED, "another worker has taken over this request")
"""This worker's claim was lost: the other worker's reply is awaited."""

_BUDGET_REFUSALS: dict[Refusal, NotCalled] = {
    "soft": NotCalled(
        Status.OVER_BUDGET,
        "the run's spending has passed the soft mark of its budget: one sample for each judgement",
    ),
    "hard": NotCalled(
        Status.OVER_BUDGET,
        "the run's budget is spent: raise budget.usd, or continue without judges",
    ),
    "expired": DEADLINE_PASSED,
}


@dataclass(frozen=True, kw_only=True)
class EndpointServices:
    """What a call to one endpoint needs."""

    config: EndpointConfig
    client: ChatClient
    limiter: Limiter | None
    """None sets no limit, for scoring in the trainer's process."""
    lessons: Lessons


@dataclass(frozen=True, slots=True)
class Claim:
    """This worker's claim on one request: it alone makes the call and caches the reply."""

    key: str
    single_flight: SingleFlight
    reply_cache: ReplyCache


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """How a call ended: with a reply, with its last failure, or without an attempt."""

    status: Status
    """With a reply, what was parsed from it; else why there is none."""
    attempts: tuple[AttemptRecord, ...]
    reply: Reply | None = None
    parsed: ParsedScore | None = None
    """Set with a reply."""
    failure: Failure | None = None
    stop_reason: str = ""
    """Why no further attempt was made; empty with a reply."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    started_at: datetime
    result: Reply | Failure
    parsed: ParsedScore | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeCaller:
    """Makes the calls of one batch's chunk."""

    endpoints: Mapping[str, EndpointServices]
    problems: Mapping[str, str]
    """By endpoint name, why this worker cannot call an endpoint."""
    deadline: float
    """Epoch seconds; no attempt begins later, and one under way may end later."""
    cancelled: Callable[[], bool]
    """Looked at before each attempt."""
    budget: RunBudget | None = None
    flow: Flow = ANY_FLOW
    """The batch's run and priority, which share the endpoints' permits with others."""

    def call(self, job: JudgeRequest, request: ChatRequest, claim: Claim | None) -> CallResult:
        """Call until a reply arrives, or until another attempt cannot help or would be late.

        Args:
            request: the request of `job`, or one derived from it.
            claim: None makes the call without single flight and reply cache.
        """
        config = self.endpoints[job.judge.endpoint].config
        failures: list[Failure] = []
        attempts: list[AttemptRecord] = []
        while True:
            attempt = self._attempt(job, request, claim, first=not failures)
            if isinstance(attempt, NotCalled):
                if attempt is DEADLINE_PASSED and failures:
                    return _failed(failures[-1], attempts, attempt.reason)
                return CallResult(
                    status=attempt.status, attempts=tuple(attempts), stop_reason=attempt.reason
                )
            if isinstance(attempt.result, Reply):
                assert attempt.parsed is not None
                attempts.append(_record(len(attempts) + 1, request, attempt, None))
                return CallResult(
                    status=attempt.parsed.status,
                    attempts=tuple(attempts),
                    reply=attempt.result,
                    parsed=attempt.parsed,
                )
            failures.append(attempt.result)
            remaining_s = self.deadline - time.time()
            retry = decide(
                failures, max_attempts=config.max_attempts, remaining_s=remaining_s, rng=_RANDOM
            )
            attempts.append(_record(len(attempts) + 1, request, attempt, retry.wait_s))
            if retry.wait_s is None:
                return _failed(attempt.result, attempts, retry.reason)
            time.sleep(retry.wait_s)

    def _attempt(
        self, job: JudgeRequest, request: ChatRequest, claim: Claim | None, *, first: bool
    ) -> _Attempt | NotCalled:
        """Make one HTTP request, unless the call may not be made any more."""
        endpoint = self.endpoints[job.judge.endpoint]
        prompt_tokens, reply_tokens = estimate_tokens(request)
        price = endpoint.config.prices.get(request.model)
        estimated_usd = cost_usd(price, prompt_tokens, reply_tokens)
        with self._permit(endpoint, prompt_tokens + reply_tokens) as permit:
            if permit is None:
                return DEADLINE_PASSED
            if self.cancelled():
                return CANCELLED
            if claim is not None and not claim.single_flight.holds(claim.key):
                return TAKEN_OVER
            with self._reservation(estimated_usd, first_sample=job.first_sample) as reservation:
                if reservation.refusal is not None:
                    return _BUDGET_REFUSALS[reservation.refusal]
                if time.time() >= self.deadline:
                    return DEADLINE_PASSED
                permit.start()
                started_at = datetime.fromtimestamp(time.time(), UTC)
                result = endpoint.client.complete(request, timeout_s=endpoint.config.timeout_s)
                permit.settle(result, first_attempt=first)
                reservation.spent_usd = cost_usd(price, *_billed_tokens(result, prompt_tokens))
                if isinstance(result, Failure):
                    return _Attempt(started_at, result)
                parsed = job.reading.read(result)
                endpoint.lessons.report(job.judge.model, result.model)
                if claim is not None and parsed.status is Status.SCORED:
                    # Before the permit is released: a worker killed between the two would cost
                    # a call more than may be in flight.
                    claim.reply_cache.keep(claim.key, _cached_reply(result, parsed, job.judge))
                return _Attempt(started_at, result, parsed)

    def _permit(
        self, endpoint: EndpointServices, tokens: int
    ) -> AbstractContextManager[HeldPermit | None]:
        if endpoint.limiter is None:
            return nullcontext(HeldPermit())
        return endpoint.limiter.permit(tokens, self.deadline, self.flow)

    def _reservation(
        self, usd: float, *, first_sample: bool
    ) -> AbstractContextManager[Reservation]:
        if self.budget is None:
            return nullcontext(Reservation())
        return self.budget.reservation(usd, first_sample=first_sample, deadline=self.deadline)


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


def _billed_tokens(result: Reply | Failure, prompt_tokens: int) -> tuple[int, int]:
    """Return prompt and completion tokens as reported, or estimated for a reply without usage."""
    if isinstance(result, Reply) and not result.usage_reported:
        return prompt_tokens, round(_bytes(result.text) / BYTES_PER_TOKEN)
    return result.prompt_tokens, result.completion_tokens


def _cached_reply(reply: Reply, parsed: ParsedScore, judge: JudgeConfig) -> CachedReply:
    return CachedReply(
        text=reply.text if parsed.reply is None else parsed.reply,
        finish_reason="stop",
        model=reply.model or judge.model,
        usage={
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        },
        at_s=time.time(),
        expected_score=parsed.score if parsed.layer == LOGPROBS else None,
        reasoning=reply.reasoning,
    )


def _failed(failure: Failure, attempts: Sequence[AttemptRecord], stop_reason: str) -> CallResult:
    return CallResult(
        status=failure.status, attempts=tuple(attempts), failure=failure, stop_reason=stop_reason
    )


def _record(
    number: int, request: ChatRequest, attempt: _Attempt, wait_s: float | None
) -> AttemptRecord:
    result = attempt.result
    failure = result if isinstance(result, Failure) else None
    reply = result if isinstance(result, Reply) else None
    return AttemptRecord(
        number=number,
        started_at=attempt.started_at,
        url_index=result.url_index,
        http_status=result.http_status,
        error_class=failure.error_class if failure else None,
        latency_ms=result.latency_ms,
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        retry_wait_s=wait_s,
        messages=request.messages,
        sent=result.sent,
        text=reply.text if reply else None,
        reasoning=reply.reasoning if reply else None,
        error=failure.message if failure else None,
    )
