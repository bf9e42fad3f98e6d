"""The attempts of one judgement: permit, deadline, call, decide, wait, again.

- The deadline is looked at before every attempt, before its permit and after: expired work is
  never paid for.
- A permit is held during an attempt and never while waiting for the next.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from oyer.protocol.rollout import Message
from oyer.protocol.status import Status
from oyer.tasks.endpoint.retry import decide
from oyer.tasks.endpoint.types import ChatRequest, Client, Failure, Reply, RetryClass

BYTES_PER_TOKEN = 3.5
"""For the estimate that is reserved before a call, of UTF-8: below the 4 of English prose, for
code and markup, and close to one token for a Chinese character. The reported usage corrects it."""

UNLIMITED_REPLY_TOKENS = 1024
"""Reserved for a reply without `max_tokens`."""


class Permits(Protocol):
    """The right to call an endpoint, under limits shared by all workers and hosts."""

    def acquire(self, estimated_tokens: int, deadline: float) -> Any | None:
        """Wait for a permit until `deadline` (epoch seconds); None when that passes first."""

    def release(
        self,
        permit: Any,
        *,
        used_tokens: int | None,
        rate_limited: bool = False,
        retry_after_s: float | None = None,
        transient: bool = False,
        clean: bool = True,
    ) -> None:
        """Give a permit back, once.

        Args:
            used_tokens: As the endpoint reports; None keeps the estimate.
            rate_limited: The reply was a 429.
            retry_after_s: What the endpoint asked to wait, in seconds.
            transient: It failed by timeout, connection or 5xx.
            clean: It succeeded at its first attempt.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRecord:
    """One HTTP request, for the record."""

    number: int
    """From 1."""
    started_at: datetime
    url_index: int
    http_status: int | None
    error_class: str | None
    """None where the attempt brought a reply."""
    latency_ms: float
    prompt_tokens: int
    completion_tokens: int
    retry_wait_s: float | None
    """How long was waited after it, in seconds; None after the last."""
    messages: Sequence[Message] = ()
    """As sent."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """The body that was sent, without its messages."""
    text: str | None = None
    """The reply's; None where there is none."""
    reasoning: str | None = None
    error: str | None = None
    """What the endpoint or the network said where there is no reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """How a judgement's calls ended: with a reply, or with the last failure, or without a call."""

    reply: Reply | None
    failure: Failure | None
    status: Status
    """`scored` with a reply (the text is still to be read), else why there is none."""
    attempts: tuple[AttemptRecord, ...]
    stop_reason: str
    """Why no further attempt was made; empty with a reply."""


def call(
    client: Client,
    request: ChatRequest,
    *,
    permits: Permits,
    deadline: float,
    timeout_s: float,
    max_attempts: int,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    rng: random.Random,
) -> CallResult:
    """Call until there is a reply, or until another attempt cannot help or comes too late.

    Args:
        deadline: No attempt begins from here on, in epoch seconds; one under way may end later.
        timeout_s: Limit of each attempt, in seconds.
        clock: Epoch seconds.
    """
    estimated_tokens = estimate_tokens(request)
    failures: list[Failure] = []
    records: list[AttemptRecord] = []
    while True:
        permit = permits.acquire(estimated_tokens, deadline) if clock() < deadline else None
        if permit is not None and clock() >= deadline:
            # Permits are handed out in the background: one may come with the last moment gone.
            permits.release(permit, used_tokens=0, clean=False)
            permit = None
        if permit is None:
            return _ended(failures, records, "the batch's deadline has passed")
        started_at = datetime.fromtimestamp(clock(), UTC)
        result = _under_permit(
            client, request, permits, permit, timeout_s=timeout_s, first=not failures
        )
        if isinstance(result, Reply):
            records.append(_record(len(records) + 1, started_at, request, result, None))
            return CallResult(
                reply=result,
                failure=None,
                status=Status.SCORED,
                attempts=tuple(records),
                stop_reason="",
            )
        failures.append(result)
        decision = decide(
            failures, max_attempts=max_attempts, remaining_s=deadline - clock(), rng=rng
        )
        records.append(_record(len(records) + 1, started_at, request, result, decision.wait_s))
        if decision.wait_s is None:
            return _ended(failures, records, decision.reason)
        sleep(decision.wait_s)


def estimate_tokens(request: ChatRequest) -> int:
    """Tokens to reserve for a call: its text, and the longest reply it allows."""
    size_bytes = sum(
        len(str(message.get("content") or "").encode("utf-8", "replace"))
        for message in request.messages
    )
    return int(size_bytes / BYTES_PER_TOKEN) + (request.max_tokens or UNLIMITED_REPLY_TOKENS)


def _under_permit(
    client: Client,
    request: ChatRequest,
    permits: Permits,
    permit: Any,
    *,
    timeout_s: float,
    first: bool,
) -> Reply | Failure:
    result: Reply | Failure | None = None
    try:
        result = client.complete(request, timeout_s=timeout_s)
        return result
    finally:
        failure = result if isinstance(result, Failure) else None
        permits.release(
            permit,
            used_tokens=_used_tokens(result),
            rate_limited=failure is not None and failure.retry is RetryClass.RATE_LIMIT,
            retry_after_s=failure.retry_after_s if failure else None,
            transient=failure is not None and failure.retry is RetryClass.TRANSIENT,
            clean=first and isinstance(result, Reply),
        )


def _used_tokens(result: Reply | Failure | None) -> int | None:
    # Without a report the estimate stands: endpoints count failed requests as well.
    if result is None or not result.usage_reported:
        return None
    return result.prompt_tokens + result.completion_tokens


def _record(
    number: int,
    started_at: datetime,
    request: ChatRequest,
    result: Reply | Failure,
    wait_s: float | None,
) -> AttemptRecord:
    failure = result if isinstance(result, Failure) else None
    reply = result if isinstance(result, Reply) else None
    return AttemptRecord(
        number=number,
        started_at=started_at,
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


def _ended(failures: list[Failure], records: list[AttemptRecord], reason: str) -> CallResult:
    failure = failures[-1] if failures else None
    return CallResult(
        reply=None,
        failure=failure,
        status=failure.status if failure else Status.EXPIRED,
        attempts=tuple(records),
        stop_reason=reason,
    )
