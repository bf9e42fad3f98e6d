"""The attempts of one judgement, with a scripted client and a clock that only `sleep` moves."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from oyer.protocol.status import Status
from oyer.tasks.endpoint.types import ChatRequest, Failure, Reply, RetryClass
from oyer.tasks.judging.call import CallResult, call, estimate_tokens

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
class Bench:
    """Client, permits and clock in one; every event is written down in order."""

    results: list[Reply | Failure | BaseException]
    attempt_s: float = 1.0
    permits_left: int = 99
    permit_s: float = 0.0
    now_s: float = START_S
    events: list[str] = field(default_factory=list)
    released: list[dict[str, Any]] = field(default_factory=list)

    def complete(self, request: ChatRequest, *, timeout_s: float) -> Reply | Failure:
        self.events.append("call")
        self.now_s += self.attempt_s
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    def acquire(self, estimated_tokens: int, deadline: float) -> str | None:
        self.events.append(f"acquire {estimated_tokens}")
        self.permits_left -= 1
        self.now_s += self.permit_s
        return "permit" if self.permits_left >= 0 else None

    def release(self, permit: str, **how: Any) -> None:
        self.events.append("release")
        self.released.append(how)

    def sleep(self, wait_s: float) -> None:
        self.events.append("sleep")
        self.now_s += wait_s

    def run(self, *, deadline_s: float = 1000.0, max_attempts: int = 4) -> CallResult:
        return call(
            self,
            REQUEST,
            permits=self,
            deadline=START_S + deadline_s,
            timeout_s=60.0,
            max_attempts=max_attempts,
            clock=lambda: self.now_s,
            sleep=self.sleep,
            rng=random.Random(0),
        )


def test_a_reply_ends_it() -> None:
    bench = Bench([REPLY])
    outcome = bench.run()
    assert (outcome.reply, outcome.failure, outcome.status) == (REPLY, None, Status.SCORED)
    assert bench.events == ["acquire 110", "call", "release"]


def test_no_permit_is_held_while_waiting() -> None:
    bench = Bench([UNAVAILABLE, REPLY])
    bench.run()
    once = ["acquire 110", "call", "release"]
    assert bench.events == [*once, "sleep", *once]


def test_the_record_has_a_line_for_each_attempt() -> None:
    outcome = Bench([LIMITED, REPLY]).run()
    first, second = outcome.attempts
    assert (first.number, first.http_status, first.error_class) == (1, 429, "InternalServerError")
    assert first.retry_wait_s is not None
    assert 2.0 <= first.retry_wait_s <= 2.5
    assert first.started_at.timestamp() == START_S
    assert second.started_at.timestamp() == pytest.approx(START_S + 1.0 + first.retry_wait_s)
    assert (second.number, second.http_status, second.error_class) == (2, 200, None)
    assert (second.url_index, second.latency_ms, second.retry_wait_s) == (1, 5.0, None)
    assert (second.prompt_tokens, second.completion_tokens) == (12, 3)


def test_expired_work_is_never_paid_for() -> None:
    bench = Bench([])
    outcome = bench.run(deadline_s=0.0)
    assert (outcome.status, outcome.attempts, bench.events) == (Status.EXPIRED, (), [])


def test_no_permit_before_the_deadline_is_expired() -> None:
    bench = Bench([], permits_left=0)
    assert bench.run().status is Status.EXPIRED
    assert bench.events == ["acquire 110"]


def test_a_permit_that_comes_too_late_is_given_back_unused() -> None:
    bench = Bench([], permit_s=5.0)
    assert bench.run(deadline_s=5.0).status is Status.EXPIRED
    assert bench.events == ["acquire 110", "release"]
    assert bench.released == [{"used_tokens": 0, "clean": False}]


def test_a_deadline_that_passes_between_attempts_keeps_the_failure() -> None:
    bench = Bench([LIMITED, REPLY], permits_left=1)
    outcome = bench.run()
    assert (outcome.status, outcome.failure) == (Status.RATE_LIMITED, LIMITED)
    assert "deadline" in outcome.stop_reason


def test_a_wait_past_the_deadline_is_not_begun() -> None:
    bench = Bench([LIMITED])
    outcome = bench.run(deadline_s=2.5)
    assert (outcome.status, bench.events[-1]) == (Status.RATE_LIMITED, "release")
    assert outcome.attempts[0].retry_wait_s is None


def test_what_cannot_succeed_is_tried_once() -> None:
    outcome = Bench([REJECTED]).run()
    assert (outcome.status, len(outcome.attempts)) == (Status.REJECTED, 1)


def test_attempts_are_counted() -> None:
    outcome = Bench([UNAVAILABLE] * 3).run(max_attempts=3)
    assert (outcome.status, len(outcome.attempts)) == (Status.UNAVAILABLE, 3)
    assert outcome.stop_reason == "3 of 3 attempts made"


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (REPLY, {"used_tokens": 15, "clean": True}),
        (replace(REPLY, usage_reported=False), {"used_tokens": None, "clean": True}),
        (REJECTED, {}),
        (LIMITED, {"rate_limited": True, "retry_after_s": 2.0}),
        (UNAVAILABLE, {"transient": True}),
        (
            replace(UNAVAILABLE, prompt_tokens=9, usage_reported=True),
            {"used_tokens": 9, "transient": True},
        ),
    ],
)
def test_the_limits_are_told_how_the_call_went(
    result: Reply | Failure, expected: dict[str, Any]
) -> None:
    bench = Bench([result])
    bench.run(max_attempts=1)
    silent = {
        "used_tokens": None,
        "rate_limited": False,
        "retry_after_s": None,
        "transient": False,
        "clean": False,
    }
    assert bench.released == [{**silent, **expected}]


def test_a_retried_success_is_no_evidence_for_a_higher_limit() -> None:
    bench = Bench([UNAVAILABLE, REPLY])
    bench.run()
    assert [how["clean"] for how in bench.released] == [False, False]


def test_a_permit_comes_back_when_the_worker_is_interrupted() -> None:
    bench = Bench([KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert bench.events[-1] == "release"


@pytest.mark.parametrize(
    ("content", "max_tokens", "tokens"),
    [
        ("x" * 35, 100, 110),
        ("x" * 35, None, 1034),
        ("评" * 35, 100, 130),
        (None, 100, 100),
        ("\ud800", 1, 1),
    ],
)
def test_tokens_are_estimated_from_the_text_and_the_longest_reply(
    content: str | None, max_tokens: int | None, tokens: int
) -> None:
    request = ChatRequest(
        model="m", messages=[{"role": "user", "content": content}], max_tokens=max_tokens
    )
    assert estimate_tokens(request) == tokens
