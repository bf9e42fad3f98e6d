"""The attempts of one call, with a scripted client and a clock that only `sleep` moves."""

import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from oyer.config.reward import Budget, EndpointConfig, JudgeConfig, RewardRules
from oyer.protocol.redis_client import connect
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.coordination.adaptive import Evidence
from oyer.tasks.coordination.budget import RunBudget
from oyer.tasks.coordination.fair_queue import ANY_FLOW, Flow
from oyer.tasks.coordination.lessons import Lessons
from oyer.tasks.coordination.limiter import Limiter
from oyer.tasks.coordination.limiter_state import Permit
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply, RetryClass
from oyer.tasks.judging import call
from oyer.tasks.judging.attempt import estimate_tokens
from oyer.tasks.judging.call import CallResult, EndpointServices, JudgeCaller
from oyer.tasks.judging.requests import requests_of

START_S = 1_700_000_000.0
REQUEST = ChatRequest(model="m", messages=[{"role": "user", "content": "x" * 35}], max_tokens=100)
REPLY = Reply(
    text="Final score: 8",
    finish_reason="stop",
    refusal=None,
    prompt_tokens=12,
    completion_tokens=3,
    usage_reported=True,
    model="m",
    latency_ms=5.0,
    url_index=1,
)
UNAVAILABLE = Failure(
    status=Status.UNAVAILABLE,
    retry=RetryClass.TRANSIENT,
    error_class="InternalServerError",
    message="HTTP 502",
    http_status=502,
)
LIMITED = replace(
    UNAVAILABLE,
    status=Status.RATE_LIMITED,
    retry=RetryClass.RATE_LIMIT,
    http_status=429,
    retry_after_s=2.0,
)
REJECTED = replace(UNAVAILABLE, status=Status.REJECTED, retry=RetryClass.NEVER, http_status=401)


@dataclass
class Bench(Limiter):
    """Client, limiter and clock in one; records every event in order."""

    results: list[Reply | Failure | BaseException]
    attempt_s: float = 1.0
    permits_left: int = 99
    permit_s: float = 0.0
    now_s: float = START_S
    events: list[str] = field(default_factory=list)
    released: list[dict[str, Any]] = field(default_factory=list)
    budget: RunBudget | None = None

    def complete(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        self.events.append("call")
        self.now_s += self.attempt_s
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    def acquire(
        self, estimated_tokens: int, deadline: float, flow: Flow = ANY_FLOW
    ) -> Permit | None:
        self.events.append(f"acquire {estimated_tokens}")
        self.permits_left -= 1
        self.now_s += self.permit_s
        return Permit(0, estimated_tokens) if self.permits_left >= 0 else None

    def release(self, permit: Permit, **how: Any) -> None:
        self.events.append("release")
        self.released.append(how)

    def sleep(self, wait_s: float) -> None:
        self.events.append("sleep")
        self.now_s += wait_s

    def run(self, *, deadline_s: float = 1000.0, max_attempts: int = 4) -> CallResult:
        config = EndpointConfig.model_validate(
            {
                "base_url": "http://h/v1",
                "max_attempts": max_attempts,
                "prices": {"m": {"prompt_usd": 1000.0, "completion_usd": 1000.0}},
            }
        )
        endpoint = EndpointServices(
            config=config, client=self, limiter=self, lessons=Lessons("e", config)
        )
        caller = JudgeCaller(
            endpoints={"e": endpoint},
            problems={},
            deadline=START_S + deadline_s,
            cancelled=lambda: False,
            budget=self.budget,
        )
        judge = JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m"})
        [job] = requests_of({0: Rollout(prompt="p", response="r")}, [judge], RewardRules(), {})
        with pytest.MonkeyPatch.context() as patch:
            clock = SimpleNamespace(time=lambda: self.now_s, sleep=self.sleep)
            patch.setattr(call, "time", clock)
            return caller.call(job, REQUEST, None)


def test_a_reply_ends_the_call() -> None:
    bench = Bench([REPLY])
    result = bench.run()
    assert (result.reply, result.failure, result.status) == (REPLY, None, Status.SCORED)
    assert bench.events == ["acquire 110", "call", "release"]


def test_no_permit_is_held_while_waiting() -> None:
    bench = Bench([UNAVAILABLE, REPLY])
    bench.run()
    once = ["acquire 110", "call", "release"]
    assert bench.events == [*once, "sleep", *once]


def test_every_attempt_is_recorded() -> None:
    result = Bench([LIMITED, REPLY]).run()
    first, second = result.attempts
    assert (first.number, first.http_status, first.error_class) == (1, 429, "InternalServerError")
    assert first.retry_wait_s is not None
    assert 2.0 <= first.retry_wait_s <= 2.5
    assert first.started_at.timestamp() == START_S
    assert second.started_at.timestamp() == pytest.approx(START_S + 1.0 + first.retry_wait_s)
    assert (second.number, second.http_status, second.error_class) == (2, 200, None)
    assert (second.url_index, second.latency_ms, second.retry_wait_s) == (1, 5.0, None)
    assert (second.prompt_tokens, second.completion_tokens) == (12, 3)


def test_without_a_permit_before_the_deadline_the_status_is_expired() -> None:
    bench = Bench([], permits_left=0)
    assert bench.run().status is Status.EXPIRED
    assert bench.events == ["acquire 110"]


@pytest.mark.parametrize("deadline_s", [0.0, 5.0])
def test_a_permit_granted_after_the_deadline_is_released_unused(deadline_s: float) -> None:
    bench = Bench([], permit_s=5.0)
    result = bench.run(deadline_s=deadline_s)
    assert (result.status, result.attempts) == (Status.EXPIRED, ())
    assert bench.events == ["acquire 110", "release"]
    assert bench.released == [{"used_tokens": 0, "evidence": Evidence(), "retry_after_s": None}]


def test_a_deadline_that_passes_between_attempts_keeps_the_failure() -> None:
    bench = Bench([LIMITED, REPLY], permits_left=1)
    result = bench.run()
    assert (result.status, result.failure) == (Status.RATE_LIMITED, LIMITED)
    assert "deadline" in result.stop_reason


def test_a_retry_past_the_deadline_is_not_waited_for() -> None:
    bench = Bench([LIMITED])
    result = bench.run(deadline_s=2.5)
    assert (result.status, bench.events[-1]) == (Status.RATE_LIMITED, "release")
    assert result.attempts[0].retry_wait_s is None


def test_a_failure_that_would_repeat_is_not_retried() -> None:
    result = Bench([REJECTED]).run()
    assert (result.status, len(result.attempts)) == (Status.REJECTED, 1)


def test_attempts_end_at_max_attempts() -> None:
    result = Bench([UNAVAILABLE] * 3).run(max_attempts=3)
    assert (result.status, len(result.attempts)) == (Status.UNAVAILABLE, 3)
    assert result.stop_reason == "3 of 3 attempts made"


@pytest.mark.parametrize(
    ("result", "used_tokens", "evidence"),
    [
        (REPLY, 15, Evidence(clean=1)),
        (replace(REPLY, usage_reported=False), None, Evidence(clean=1)),
        (REJECTED, None, Evidence()),
        (LIMITED, None, Evidence(rate_limited=True)),
        (UNAVAILABLE, None, Evidence(transient=True)),
        (
            replace(UNAVAILABLE, prompt_tokens=9, usage_reported=True),
            9,
            Evidence(transient=True),
        ),
    ],
)
def test_the_limiter_receives_the_calls_outcome(
    result: Reply | Failure, used_tokens: int | None, evidence: Evidence
) -> None:
    bench = Bench([result])
    bench.run(max_attempts=1)
    retry_after_s = 2.0 if result is LIMITED else None
    assert bench.released == [
        {"used_tokens": used_tokens, "evidence": evidence, "retry_after_s": retry_after_s}
    ]


def test_a_retried_success_is_no_evidence_for_a_higher_limit() -> None:
    bench = Bench([UNAVAILABLE, REPLY])
    bench.run()
    assert [how["evidence"].clean for how in bench.released] == [0, 0]


def test_an_interrupted_call_releases_its_permit_and_keeps_its_estimate_charged() -> None:
    bench = Bench([KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert bench.events[-1] == "release"
    assert bench.released[0]["used_tokens"] is None


def run_budget(url: str, recorded_usd: float = 0.0) -> RunBudget:
    return RunBudget(
        connect(url),
        "r",
        Budget(usd=1.0),
        holder="w",
        recorded_usd=lambda: recorded_usd,
        call_s=60,
        keep_s=60,
    )


@pytest.mark.parametrize(
    ("result", "spent_usd"),
    [
        (REPLY, 0.015),
        # 10 estimated prompt tokens and 14 bytes of reply.
        (replace(REPLY, usage_reported=False, prompt_tokens=0, completion_tokens=0), 0.014),
        # The reported part counts if it is larger.
        (replace(REPLY, usage_reported=False, prompt_tokens=0, completion_tokens=9), 0.019),
        (REJECTED, 0.0),
        (replace(REJECTED, prompt_tokens=9, usage_reported=True), 0.009),
        (KeyboardInterrupt(), 0.0),
    ],
)
def test_every_reservation_is_settled_with_what_the_call_cost(
    redis_url: str, result: Reply | Failure | BaseException, spent_usd: float
) -> None:
    budget = run_budget(redis_url)
    bench = Bench([result], budget=budget, now_s=time.time())
    try:
        bench.run(deadline_s=time.time() - START_S + 600)
    except KeyboardInterrupt:
        assert isinstance(result, KeyboardInterrupt)
    budget.report()
    with connect(redis_url) as client:
        state = client.hgetall("oyer:budget:1:r")
    assert int(state[b"spent"]) == round(spent_usd * 1e9)
    assert b"h:w:1000000000:900000000" not in state


def test_a_call_that_the_budget_refuses_releases_its_permit_unused(redis_url: str) -> None:
    bench = Bench([], budget=run_budget(redis_url, recorded_usd=1.0), now_s=time.time())
    result = bench.run(deadline_s=time.time() - START_S + 600)
    assert (result.status, result.attempts) == (Status.OVER_BUDGET, ())
    assert "raise budget.usd" in result.stop_reason
    assert bench.events == ["acquire 110", "release"]
    assert bench.released[0]["used_tokens"] == 0


@pytest.mark.parametrize(
    ("content", "max_tokens", "tokens"),
    [
        ("x" * 35, 100, (10, 100)),
        ("x" * 35, None, (10, 1024)),
        ("评" * 35, 100, (30, 100)),
        (None, 100, (0, 100)),
        ("\ud800", 1, (0, 1)),
    ],
)
def test_tokens_are_estimated_from_the_text_and_the_longest_reply(
    content: str | None, max_tokens: int | None, tokens: tuple[int, int]
) -> None:
    request = ChatRequest(
        model="m", messages=[{"role": "user", "content": content}], max_tokens=max_tokens
    )
    assert estimate_tokens(request) == tokens


def test_an_image_is_estimated_by_its_tokens_and_not_by_its_bytes() -> None:
    url = "data:image/png;base64," + "A" * 10**6
    parts = [{"type": "text", "text": "x" * 35}, {"type": "image_url", "image_url": {"url": url}}]
    request = ChatRequest(model="m", messages=[{"role": "user", "content": parts}], max_tokens=5)
    assert estimate_tokens(request) == (1610, 5)
