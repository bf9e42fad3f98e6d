"""Two requests for one call, on greenlets, with an endpoint that answers when a test says so."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult, Event

from oyer.config.endpoint import EndpointConfig, Hedge
from oyer.config.reward import Budget, JudgeConfig, RewardRules
from oyer.protocol.redis_client import connect
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.coordination.budget import RunBudget
from oyer.tasks.coordination.fair_queue import ANY_FLOW, Flow
from oyer.tasks.coordination.lessons import Lessons
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.limiter_state import Permit
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply
from oyer.tasks.judging.call import CallResult, Claim, EndpointServices, JudgeCaller
from oyer.tasks.judging.hedging.race import Hedger
from oyer.tasks.judging.requests import requests_of
from tests.support.resolver_doubles import FAILURE, REPLY, MemoryCache, MemoryFlight

AFTER_S = 0.02
PRICES = {"m": {"prompt_usd": 1000.0, "completion_usd": 1000.0}}
LONGER = replace(REPLY, prompt_tokens=99)


@dataclass
class Endpoint(Limiter):
    """Client and limiter in one; `replies` has the outcome of each request in the order sent."""

    replies: list[AsyncResult] = field(default_factory=list)
    sent: Any = field(default_factory=Event)
    ended: list[int] = field(default_factory=list)
    open_permits: int = 0
    released: list[dict[str, Any]] = field(default_factory=list)
    spare: int = 99
    healthy: bool = True
    urls: list[int] = field(default_factory=list)
    on_spare: Callable[[], None] = lambda: None

    def pick_url(self) -> int:
        return 0

    def other_url(self, url_index: int) -> int | None:
        return url_index + 1 if self.healthy else None

    def complete(
        self, request: ChatRequest, *, timeout_s: float, url_index: int | None = None
    ) -> Reply | Failure:
        number = len(self.replies)
        self.replies.append(AsyncResult())
        self.urls.append(url_index or 0)
        if number:
            self.sent.set()
        try:
            result: Reply | Failure = self.replies[number].get()
            return result
        finally:
            self.ended.append(number)

    def acquire(self, estimated_tokens: int, deadline: float, flow: Flow = ANY_FLOW) -> Permit:
        self.open_permits += 1
        return Permit(0, estimated_tokens)

    def acquire_spare(self, estimated_tokens: int, flow: Flow = ANY_FLOW) -> Permit | None:
        self.on_spare()
        if not self.spare:
            return None
        self.spare -= 1
        self.open_permits += 1
        return Permit(0, estimated_tokens)

    def release(self, permit: Permit, **report: Any) -> None:
        self.open_permits -= 1
        self.released.append(report)


class Bench:
    """One call on its own greenlet, hedged after `AFTER_S`."""

    def __init__(self, budget: RunBudget | None = None, **endpoint: Any) -> None:
        hedge = Hedge.model_validate({"after": AFTER_S, "at_most": 1.0})
        config = EndpointConfig.model_validate(
            {"base_url": "http://h/v1", "max_attempts": 1, "hedge": hedge, "prices": PRICES}
        )
        self.endpoint = Endpoint(**endpoint)
        self.hedger = Hedger(hedge, self.endpoint, lambda: True)
        services = EndpointServices(
            config=config,
            client=self.endpoint,
            limiter=self.endpoint,
            lessons=Lessons("e", config),
            hedger=self.hedger,
        )
        self.cache = MemoryCache()
        self.flight = MemoryFlight(self.cache)
        self.cancelled = False
        self.caller = JudgeCaller(
            endpoints={"e": services},
            problems={},
            deadline=time.time() + 600,
            cancelled=lambda: self.cancelled,
            budget=budget,
        )
        judge = JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m"})
        rollouts = {0: Rollout(prompt="p", response="r")}
        (self.job,) = requests_of(rollouts, [judge], RewardRules(), {})

    def start(self) -> gevent.Greenlet:
        assert self.job.request is not None
        claim = Claim("key", self.flight, self.cache)
        return gevent.spawn(self.caller.call, self.job, self.job.request, claim)

    def sent_twice(self) -> gevent.Greenlet:
        """Start the call, and wait until its second request is in flight."""
        call = self.start()
        assert self.endpoint.sent.wait(30)
        return call

    def check_ended(self) -> None:
        """Wait until both requests and the watcher have ended, and every permit is back."""
        with gevent.Timeout(30):
            while len(self.endpoint.ended) < len(self.endpoint.replies):
                gevent.sleep(0.001)
            while self.endpoint.open_permits or self.hedger._watching:
                gevent.sleep(0.001)
        assert sorted(self.endpoint.ended) == list(range(len(self.endpoint.replies)))


def kinds(result: CallResult) -> list[tuple[bool, str | None]]:
    return [(attempt.hedge, attempt.error_class) for attempt in result.attempts]


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_complete_reply_counts_and_the_other_request_ends(winner: int) -> None:
    bench = Bench()
    call = bench.sent_twice()
    bench.endpoint.replies[winner].set(REPLY)
    result = call.get(timeout=30)
    assert result.status is Status.SCORED
    assert kinds(result) == [
        (False, None if winner == 0 else "Cancelled"),
        (True, None if winner == 1 else "Cancelled"),
    ]
    assert [attempt.url_index for attempt in result.attempts][1 - winner] == 1 - winner
    assert [attempt.number for attempt in result.attempts] == [1, 2]
    # The cancelled request counts with the tokens of the reply.
    assert [attempt.prompt_tokens for attempt in result.attempts] == [REPLY.prompt_tokens] * 2
    assert list(bench.cache.replies) == ["key"]
    bench.check_ended()
    # The tokens of the cancelled request remain charged by estimate, and it is no evidence.
    reports = sorted(bench.endpoint.released, key=lambda report: report["used_tokens"] is None)
    assert [report["used_tokens"] for report in reports] == [15, None]
    assert [report["evidence"].clean for report in reports] == [1, 0]
    assert not any(report["evidence"].transient for report in reports)


def test_of_two_replies_at_once_the_first_counts_once() -> None:
    bench = Bench()
    call = bench.sent_twice()
    bench.endpoint.replies[0].set(REPLY)
    bench.endpoint.replies[1].set(LONGER)
    result = call.get(timeout=30)
    assert result.reply is not None
    assert result.reply.prompt_tokens == 12
    assert kinds(result) == [(False, None), (True, "Cancelled")]
    # Its usage is known.
    assert result.attempts[1].prompt_tokens == 99
    assert result.attempts[1].http_status == 200
    bench.check_ended()
    assert sorted(report["used_tokens"] for report in bench.endpoint.released) == [15, 102]


@pytest.mark.parametrize(("second", "tokens"), [(None, 15 + 15), (LONGER, 15 + 102)])
def test_the_budget_pays_for_both_requests_what_the_record_says(
    redis_url: str, second: Reply | None, tokens: int
) -> None:
    budget = RunBudget(
        connect(redis_url), "r", Budget(usd=100.0), holder="w", recorded_usd=lambda: 0.0, call_s=60,
        keep_s=60,
    )  # fmt: skip
    bench = Bench(budget=budget)
    call = bench.sent_twice()
    bench.endpoint.replies[0].set(REPLY)
    if second is not None:
        bench.endpoint.replies[1].set(second)
    result = call.get(timeout=30)
    bench.check_ended()
    assert sum(one.prompt_tokens + one.completion_tokens for one in result.attempts) == tokens
    budget.report()
    with connect(redis_url) as client:
        assert int(client.hgetall("oyer:budget:1:r")[b"spent"]) == tokens * 1_000_000


@pytest.mark.parametrize("first_fails_first", [True, False])
def test_a_failure_of_one_request_leaves_the_other_one_alone(first_fails_first: bool) -> None:
    bench = Bench()
    call = bench.sent_twice()
    failing, other = (0, 1) if first_fails_first else (1, 0)
    bench.endpoint.replies[failing].set(FAILURE)
    gevent.sleep(0)
    bench.endpoint.replies[other].set(REPLY)
    result = call.get(timeout=30)
    assert result.status is Status.SCORED
    assert [attempt.error_class for attempt in result.attempts][failing] == FAILURE.error_class
    bench.check_ended()


def test_a_call_fails_if_both_requests_fail() -> None:
    bench = Bench()
    call = bench.sent_twice()
    bench.endpoint.replies[1].set(FAILURE)
    bench.endpoint.replies[0].set(FAILURE)
    result = call.get(timeout=30)
    assert result.status is Status.UNAVAILABLE
    assert kinds(result) == [(False, FAILURE.error_class), (True, FAILURE.error_class)]
    bench.check_ended()


def test_both_requests_end_if_the_call_is_killed() -> None:
    bench = Bench()
    call = bench.sent_twice()
    call.kill()
    bench.check_ended()
    assert not bench.cache.replies


def test_a_second_request_that_gets_no_permit_is_tried_again() -> None:
    tried = Event()
    bench = Bench(spare=0, on_spare=tried.set)
    call = bench.start()
    assert tried.wait(30)
    bench.endpoint.spare = 1
    assert bench.endpoint.sent.wait(30)
    bench.endpoint.replies[1].set(REPLY)
    assert call.get(timeout=30).status is Status.SCORED
    assert not bench.hedger._budget.take()
    bench.check_ended()


def test_a_second_request_is_not_sent_once_the_first_one_has_ended() -> None:
    """The reply comes while the second request waits for its permit."""
    bench = Bench()

    def reply() -> None:
        bench.endpoint.replies[0].set(REPLY)
        gevent.sleep(0.01)

    bench.endpoint.on_spare = reply
    result = bench.start().get(timeout=30)
    assert kinds(result) == [(False, None)]
    bench.check_ended()
    assert len(bench.endpoint.replies) == 1


@pytest.mark.parametrize("obstacle", ["breaker", "cancelled", "claim", "deadline"])
def test_no_second_request_is_sent_when_no_request_may_begin(obstacle: str) -> None:
    bench = Bench()
    looks: list[None] = []
    refused = Event()
    look = bench.hedger.not_sent

    def not_sent() -> None:
        look()
        looks.append(None)
        if len(looks) == 3:
            refused.set()

    bench.hedger.not_sent = not_sent  # type: ignore[method-assign]  # to see that it was tried
    call = bench.start()
    with gevent.Timeout(30):
        while not bench.endpoint.replies:
            gevent.sleep(0)
    if obstacle == "deadline":
        # The second request may take as long as the first one has: more than is left.
        object.__setattr__(bench.caller, "deadline", time.time() + 0.9 * AFTER_S)
    bench.endpoint.healthy = obstacle != "breaker"
    bench.cancelled = obstacle == "cancelled"
    bench.flight.taken_over = {"key"} if obstacle == "claim" else set()
    assert refused.wait(30)
    bench.endpoint.replies[0].set(REPLY)
    assert kinds(call.get(timeout=30)) == [(False, None)]
    bench.check_ended()
