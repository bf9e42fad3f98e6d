"""Reaches an answer for every request of a chunk: cached, on record, joined, or called for.

Identical requests are answered once, whoever asks: within the chunk by grouping, over all
processes by single flight. Nothing here raises for what an endpoint does.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

from oyer.models.rows import StoredJudgement
from oyer.tasks.config import EndpointConfig, JudgeConfig
from oyer.tasks.judging.attempts import AttemptRecord, Client, Outcome, Permits, call
from oyer.tasks.judging.cache import CachedReply
from oyer.tasks.judging.calls import ChatRequest, Reply
from oyer.tasks.judging.jobs import Job
from oyer.tasks.judging.judged import Answer
from oyer.tasks.judging.reading import Reading, read_score
from oyer.tasks.judging.reask import reask
from oyer.tasks.statuses import Status

Record = Callable[[Sequence[str]], Mapping[str, StoredJudgement]]
"""Looks scored judgements up by request hash."""


class Cache(Protocol):
    """`oyer.tasks.judging.cache.ReplyCache`."""

    def get_many(self, keys: Sequence[str]) -> dict[str, CachedReply]:
        """Return the replies there are."""

    def put(self, key: str, reply: CachedReply) -> None:
        """Keep a reply."""


class Flight(Protocol):
    """`oyer.tasks.judging.flight.SingleFlight`."""

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        """Say of each request whether the caller is to pay for it."""

    def done(self, key: str) -> None:
        """Give a claimed request up."""

    def wait(self, key: str, deadline: float) -> str:
        """Wait for a request that somebody else has claimed."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What calling one endpoint takes."""

    config: EndpointConfig
    client: Client
    permits: Permits


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Answers the requests of one batch's chunk."""

    endpoints: Mapping[str, Endpoint]
    problems: Mapping[str, str]
    """Why an endpoint that a judge names cannot be called from this worker."""
    cache: Cache
    flight: Flight
    record: Record
    scope: str
    """Reply sharing ends at this name: empty for the whole store, else the run or the batch."""
    deadline: float
    """Epoch seconds after which no call is begun."""
    cancelled: Callable[[], bool]

    def known(self, jobs: Sequence[Job]) -> dict[str, Answer]:
        """Look up what needs no call, in two round trips for the whole chunk."""
        judges = {job.key: job.judge for job in jobs if job.key}
        shared = {self._shared(key): key for key in judges}
        cached = self.cache.get_many(list(shared))
        answers: dict[str, Answer] = {}
        for name, reply in cached.items():
            key = shared[name]
            answer = _kept(reply, judges[key], "cache")
            if answer is not None:
                answers[key] = answer
        rest = [key for key in judges if key not in answers]
        for key, row in self.record(rest).items() if rest else ():
            answer = _recorded(row, judges[key])
            if answer is not None:
                answers[key] = answer
        return answers

    def claim(self, keys: Sequence[str]) -> dict[str, bool]:
        """Say which of these requests this worker pays for."""
        claims = self.flight.claim([self._shared(key) for key in keys])
        return {key: claims[self._shared(key)] for key in keys}

    def answer(self, job: Job, *, claimed: bool) -> Answer:
        """Call for a claimed request; for another's, wait, and take over if its owner is gone."""
        assert job.key is not None
        shared = self._shared(job.key)
        while not claimed:
            if self.flight.wait(shared, self.deadline) == "expired":
                return _none(Status.EXPIRED, "the batch's deadline has passed")
            reply = self.cache.get_many([shared]).get(shared)
            answer = _kept(reply, job.judge, "joined") if reply else None
            if answer is not None:
                return answer
            claimed = self.flight.claim([shared])[shared]
        try:
            answer = self._called(job)
            if answer.reading is not None and answer.reading.status is Status.SCORED:
                self.cache.put(shared, _to_keep(answer))
            return answer
        finally:
            self.flight.done(shared)

    def _called(self, job: Job) -> Answer:
        assert job.request is not None
        endpoint = self.endpoints.get(job.judge.endpoint)
        if endpoint is None:
            return _none(Status.REJECTED, self.problems[job.judge.endpoint])
        answer = self._ask(endpoint, job.request, job.judge, ())
        for _ in range(job.judge.reasks):
            if answer.reading is None or answer.reading.status is not Status.UNPARSEABLE:
                break
            again = reask(job.request, answer.text or "", job.judge)
            retry = self._ask(endpoint, again, job.judge, answer.attempts)
            started_at = answer.started_at
            # A re-ask that failed leaves the reply that was there, unread as it is.
            kept = retry if retry.reading is not None else answer
            answer = replace(
                kept,
                attempts=retry.attempts,
                started_at=started_at,
                finished_at=retry.finished_at,
            )
        return answer

    def _ask(
        self,
        endpoint: Endpoint,
        request: ChatRequest,
        judge: JudgeConfig,
        before: Sequence[AttemptRecord],
    ) -> Answer:
        outcome = self._call(endpoint, request)
        failure = outcome.failure
        attempts = [*before, *_renumbered(outcome.attempts, len(before))]
        if failure is not None and failure.structured_refused:
            outcome = self._call(endpoint, replace(request, response_format=None))
            attempts += _renumbered(outcome.attempts, len(attempts))
        return _read(outcome, judge, attempts)

    def _call(self, endpoint: Endpoint, request: ChatRequest) -> Outcome:
        return call(
            endpoint.client,
            request,
            permits=_UnlessCancelled(endpoint.permits, self.cancelled),
            deadline=self.deadline,
            timeout_s=endpoint.config.timeout_s,
            max_attempts=endpoint.config.max_attempts,
            clock=time.time,
            sleep=time.sleep,
            rng=_RANDOM,
        )

    def _shared(self, key: str) -> str:
        return sha256(f"{self.scope}\n{key}".encode()).hexdigest() if self.scope else key


@dataclass(frozen=True)
class _UnlessCancelled:
    """Permits for a batch that may be cancelled while its calls wait for them."""

    permits: Permits
    cancelled: Callable[[], bool]

    def acquire(self, estimated_tokens: int, deadline: float) -> object | None:
        permit = self.permits.acquire(estimated_tokens, deadline)
        if permit is None or not self.cancelled():
            return permit
        self.permits.release(
            permit, used_tokens=0, rate_limited=False, retry_after_s=None, clean=False
        )
        return None

    def release(self, permit: object, **usage: Any) -> None:
        self.permits.release(permit, **usage)


_RANDOM = random.Random()


def _renumbered(attempts: Sequence[AttemptRecord], after: int) -> list[AttemptRecord]:
    return [replace(attempt, number=attempt.number + after) for attempt in attempts]


def _read(outcome: Outcome, judge: JudgeConfig, attempts: Sequence[AttemptRecord]) -> Answer:
    started_at = attempts[0].started_at if attempts else None
    now = datetime.now(UTC)
    if outcome.reply is None:
        error = outcome.failure.message if outcome.failure else outcome.stop_reason
        return replace(
            _none(outcome.status, error),
            source="called" if attempts else "none",
            attempts=attempts,
            started_at=started_at,
            finished_at=now,
        )
    reading = _reading(outcome.reply, judge)
    return Answer(
        source="called",
        status=reading.status,
        text=outcome.reply.text,
        reading=reading,
        model=outcome.reply.model or judge.model,
        error=None if reading.status is Status.SCORED else f"no score: {reading.layer}",
        attempts=attempts,
        started_at=started_at,
        finished_at=now,
    )


def _reading(reply: Reply, judge: JudgeConfig) -> Reading:
    return read_score(
        reply.text, scale=judge.scale, finish_reason=reply.finish_reason, refusal=reply.refusal
    )


def _kept(reply: CachedReply, judge: JudgeConfig, source: str) -> Answer | None:
    """Read a kept reply anew; one that today's parser cannot read is no answer."""
    reading = read_score(reply.text, scale=judge.scale, finish_reason=reply.finish_reason)
    if reading.status is not Status.SCORED:
        return None
    return Answer(
        source="cache" if source == "cache" else "joined",
        status=Status.SCORED,
        text=reply.text,
        reading=reading,
        model=reply.model,
    )


def _recorded(row: StoredJudgement, judge: JudgeConfig) -> Answer | None:
    text = row.get("reply")
    if not text:
        return None
    reading = read_score(text, scale=judge.scale)
    if reading.status is not Status.SCORED:
        return None
    return Answer(
        source="record", status=Status.SCORED, text=text, reading=reading, model=row.get("model")
    )


def _to_keep(answer: Answer) -> CachedReply:
    return CachedReply(
        text=answer.text or "",
        finish_reason="stop",
        model=answer.model or "",
        usage={
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
        },
        at_s=time.time(),
        attempt_id="",
    )


def _none(status: Status, error: str) -> Answer:
    return Answer(source="none", status=status, error=error)
