"""One judge call: HTTP requests until one brings a reply, each under a permit and a reservation.

The promises are listed in docs/internals/limiter.md and docs/internals/single_flight.md.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from oyer.config.reward import EndpointConfig
from oyer.protocol.status import Status
from oyer.tasks.coordination.budget import Refusal, Reservation, RunBudget
from oyer.tasks.coordination.fair_queue import ANY_FLOW, Flow
from oyer.tasks.coordination.held_permit import HeldPermit
from oyer.tasks.coordination.lessons import Lessons
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.reply_cache import ReplyCache
from oyer.tasks.coordination.single_flight import SingleFlight
from oyer.tasks.endpoint.retry import decide
from oyer.tasks.endpoint.types import ChatClient, ChatRequest, Failure, Reply
from oyer.tasks.judging.attempt import (
    AttemptResult,
    billed_tokens,
    cached_reply,
    estimate_tokens,
    records_of,
)
from oyer.tasks.judging.hedging.race import Hedger, Race
from oyer.tasks.judging.judgements import AttemptRecord, cost_usd
from oyer.tasks.judging.requests import JudgeRequest
from oyer.tasks.parsing.parser import ParsedScore

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
    hedger: Hedger | None = None
    """None sends no second requests."""


@dataclass(frozen=True, slots=True)
class Claim:
    """This worker's claim on one request: it alone makes the call and caches the reply."""

    key: str
    single_flight: SingleFlight
    reply_cache: ReplyCache
    batch_id: str = ""
    """The batch that pays for the call."""


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


class _Call:
    """What the requests of one attempt share."""

    def __init__(
        self,
        job: JudgeRequest,
        request: ChatRequest,
        claim: Claim | None,
        endpoint: EndpointServices,
        first: bool,
    ) -> None:
        self.job, self.request, self.claim, self.endpoint = job, request, claim, endpoint
        self.first = first
        """Whether no attempt came before."""
        self.prompt_tokens, reply_tokens = estimate_tokens(request)
        self.tokens = self.prompt_tokens + reply_tokens
        self.price = endpoint.config.prices.get(request.model)
        self.estimated_usd = cost_usd(self.price, self.prompt_tokens, reply_tokens)


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
                attempts += records_of(len(attempts) + 1, request, attempt, None)
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
            attempts += records_of(len(attempts) + 1, request, attempt, retry.wait_s)
            if retry.wait_s is None:
                return _failed(attempt.result, attempts, retry.reason)
            time.sleep(retry.wait_s)

    def _attempt(
        self, job: JudgeRequest, request: ChatRequest, claim: Claim | None, *, first: bool
    ) -> AttemptResult | NotCalled:
        """Make one HTTP request, or two if it is hedged, unless it may not be made any more."""
        call = _Call(job, request, claim, self.endpoints[job.judge.endpoint], first)
        hedger = call.endpoint.hedger
        if hedger is None:
            return self._first(call, None)
        race: Race[AttemptResult | NotCalled] = hedger.race(
            request.model, lambda race: self._second(call, race)
        )
        made, second = race.run(lambda: self._first(call, race))
        if not (isinstance(made, AttemptResult) and isinstance(second, AttemptResult)):
            return made
        if isinstance(second.result, Reply):
            return replace(second, other=made)
        return replace(made, other=second)

    def _first(
        self, call: _Call, race: Race[AttemptResult | NotCalled] | None
    ) -> AttemptResult | NotCalled:
        """Make the first request of a call."""
        with self._permit(call.endpoint, call.tokens) as permit:
            if permit is None:
                return DEADLINE_PASSED
            if (ended := self._ended(call.claim)) is not None:
                return ended
            first_sample = call.job.first_sample
            with self._reservation(call.estimated_usd, first_sample=first_sample) as reservation:
                if reservation.refusal is not None:
                    return _BUDGET_REFUSALS[reservation.refusal]
                if time.time() >= self.deadline:
                    return DEADLINE_PASSED
                complete = race.first if race else call.endpoint.client.complete
                return self._send(call, permit, reservation, complete, race)

    def _second(self, call: _Call, race: Race[AttemptResult | NotCalled]) -> AttemptResult | None:
        """Make the second request of a call, if limits, budget and deadline have room for it now."""
        limiter, url_index = call.endpoint.limiter, race.other_url()
        # Its reply is expected within the time that the first request has taken so far.
        too_late = time.time() + race.age_s >= self.deadline
        if limiter is None or url_index is None or too_late or self._ended(call.claim):
            return None
        with limiter.spare_permit(call.tokens, self.flow) as permit:
            if permit is None or race.over:
                return None
            # Past the soft mark of the budget, only first samples are paid.
            with self._reservation(
                call.estimated_usd, first_sample=False, deadline=time.time()
            ) as reservation:
                if reservation.refusal is not None or race.over:
                    return None
                complete = partial(race.second, url_index=url_index)
                return self._send(call, permit, reservation, complete, race, hedge=True)

    def _ended(self, claim: Claim | None) -> NotCalled | None:
        """Return why no request may be made any more."""
        if self.cancelled():
            return CANCELLED
        if claim is not None and not claim.single_flight.holds(claim.key):
            return TAKEN_OVER
        return None

    def _send(
        self,
        call: _Call,
        permit: HeldPermit,
        reservation: Reservation,
        complete: Callable[..., Reply | Failure],
        race: Race[AttemptResult | NotCalled] | None,
        *,
        hedge: bool = False,
    ) -> AttemptResult:
        """Send a request, settle its permit and reservation, and read and cache its reply."""
        permit.start()
        started_at = datetime.fromtimestamp(time.time(), UTC)
        result = complete(call.request, timeout_s=call.endpoint.config.timeout_s)
        billed = result
        if race is not None and race.winner is not None and not result.usage_reported:
            billed = race.winner
        tokens = billed_tokens(billed, call.prompt_tokens)
        reservation.spent_usd = cost_usd(call.price, *tokens)
        permit.settle(result, first_attempt=call.first)
        if isinstance(result, Failure):
            return AttemptResult(started_at, result, tokens, hedge=hedge)
        parsed = call.job.reading.read(result)
        made = AttemptResult(started_at, result, tokens, parsed, hedge)
        claim = call.claim
        call.endpoint.lessons.report(call.job.judge.model, result.model)
        if claim is not None and parsed.status is Status.SCORED:
            # Before the permit is released: a worker killed between the two would cost a call more
            # than may be in flight.
            kept = cached_reply(call.job, call.request, made, claim.batch_id)
            claim.reply_cache.keep(claim.key, kept)
        return made

    def _permit(
        self, endpoint: EndpointServices, tokens: int
    ) -> AbstractContextManager[HeldPermit | None]:
        if endpoint.limiter is None:
            return nullcontext(HeldPermit())
        return endpoint.limiter.permit(tokens, self.deadline, self.flow)

    def _reservation(
        self, usd: float, *, first_sample: bool, deadline: float | None = None
    ) -> AbstractContextManager[Reservation]:
        if self.budget is None:
            return nullcontext(Reservation())
        deadline = self.deadline if deadline is None else deadline
        return self.budget.reservation(usd, first_sample=first_sample, deadline=deadline)


def _failed(failure: Failure, attempts: Sequence[AttemptRecord], stop_reason: str) -> CallResult:
    return CallResult(
        status=failure.status, attempts=tuple(attempts), failure=failure, stop_reason=stop_reason
    )
