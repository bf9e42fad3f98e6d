"""A worker's account against the real `lease.lua`, one step at a time; no thread, no waiting."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from oyer.protocol.redis_client import connect, load_script
from oyer.tasks.coordination.adaptive import CUT, START_LIMIT, Control, Evidence
from oyer.tasks.coordination.limiter_state import LimiterState, Limits, Permit

LIMITS = Limits(
    max_in_flight=8,
    requests=0,
    tokens=0,
    adaptive=False,
    share=0.5,
    window_s=60.0,
    lease_s=3600.0,
    delay_s=1.0,
)
_names = count()


@dataclass
class Worker:
    """An account, the calls that it made, and a clock that only the test moves."""

    redis: Redis
    key: str
    limits: Limits
    now_s: float = 1000.0
    waiting: list[int] = field(default_factory=list)
    calls: list[Permit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.account = LimiterState(self.limits, f"w{next(_names)}", clock_s=0.0)
        self.account.open(self.now_s)
        self.script = load_script(self.redis, "lease")

    def exchange(self, *, heard: bool = True, answered: bool = True, leave: bool = False) -> Any:
        """Exchange with Redis, which may not hear the question or not be heard."""
        self.account.want(len(self.waiting))
        ask = self.account.ask(self.now_s, self.waiting, leave=leave)
        reply = json.loads(self.script(keys=[self.key], args=[json.dumps(ask)])) if heard else None
        if heard and answered:
            return leave or self.account.take(reply, self.now_s, self.now_s)
        return self.account.fail()

    def begin(self) -> int:
        """Begin as many of the waiting calls as may; return how many."""
        begun = 0
        while self.waiting:
            permit = self.account.begin(self.now_s, self.waiting[0])
            if permit is None:
                break
            del self.waiting[0]
            self.calls.append(permit)
            begun += 1
        return begun

    def end(
        self,
        used_tokens: int | None = None,
        cool_s: float = 0.0,
        evidence: Evidence = Evidence(),  # noqa: B008 - frozen
    ) -> None:
        self.account.end(self.now_s, self.calls.pop(), used_tokens, evidence, cool_s)


@dataclass
class Office:
    """Workers that share one endpoint."""

    redis: Redis
    key: str

    def worker(self, **changed: Any) -> Worker:
        return Worker(self.redis, self.key, replace(LIMITS, **changed))


@pytest.fixture
def office(redis_url: str) -> Iterator[Office]:
    with connect(redis_url) as client:
        yield Office(client, "limits")


def test_a_worker_that_waits_gets_its_fair_share_as_the_others_calls_end(office: Office) -> None:
    first, second = office.worker(), office.worker()
    first.waiting = [1] * 20
    first.exchange()
    assert first.begin() == 8
    second.waiting = [1] * 20
    second.exchange()
    assert second.begin() == 0
    first.exchange()
    for _ in range(8):
        first.end()
    assert first.begin() == 4
    first.exchange()
    second.exchange()
    assert second.begin() == 4


def test_a_worker_that_wants_less_than_its_share_leaves_the_rest(office: Office) -> None:
    first, second = office.worker(), office.worker()
    second.waiting = [1] * 2
    second.exchange()
    first.waiting = [1] * 20
    first.exchange()
    assert (first.begin(), second.begin()) == (6, 2)


def test_more_workers_than_slots_never_hold_more_than_there_are(office: Office) -> None:
    workers = [office.worker(max_in_flight=2) for _ in range(5)]
    for worker in workers:
        worker.waiting = [1]
    begun = 0
    for worker in workers * 4:
        worker.exchange()
        begun += worker.begin()
    assert begun == 2


def test_slots_reported_idle_serve_another_worker(office: Office) -> None:
    first, second = office.worker(), office.worker()
    first.waiting = [1] * 8
    first.exchange()
    assert first.begin() == 8
    for _ in range(8):
        first.end()
    assert first.account.idle(first.now_s)
    second.waiting = [1] * 8
    for worker in (first, first, second):
        worker.exchange()
    assert second.begin() == 8


def test_an_unused_block_is_handed_back_when_its_time_is_over(office: Office) -> None:
    first, second = (office.worker(max_in_flight=100, requests=5) for _ in range(2))
    first.waiting = [0] * 5
    first.exchange()
    first.waiting = []
    second.waiting = [0] * 5
    second.exchange()
    assert second.begin() == 0
    first.now_s += LIMITS.use_s
    first.exchange()
    second.exchange()
    assert second.begin() == 5


def test_a_worker_that_leaves_hands_everything_back(office: Office) -> None:
    first, second = office.worker(requests=5), office.worker(requests=5)
    first.waiting = [0] * 5
    first.exchange()
    first.exchange(leave=True)
    second.waiting = [0] * 5
    second.exchange()
    assert second.begin() == 5


def test_tokens_not_used_return_and_tokens_overused_are_charged(office: Office) -> None:
    worker = office.worker(tokens=1000)
    worker.waiting = [600, 600]
    worker.exchange()
    assert worker.begin() == 1
    worker.end(used_tokens=100)
    worker.exchange()
    assert worker.begin() == 1
    worker.end(used_tokens=950)
    worker.now_s += LIMITS.use_s
    worker.waiting = [1]
    worker.exchange()
    assert worker.begin() == 0


def test_a_call_larger_than_the_limit_takes_the_whole_window(office: Office) -> None:
    worker = office.worker(tokens=1000)
    worker.waiting = [5000, 1]
    worker.exchange()
    assert worker.begin() == 1


def test_tokens_too_few_for_the_next_call_are_left_to_a_smaller_one(office: Office) -> None:
    first, large, small = (office.worker(tokens=1000) for _ in range(3))
    begun = []
    for worker, tokens in ((first, 600), (large, 700), (small, 400)):
        worker.waiting = [tokens]
        worker.exchange()
        begun.append(worker.begin())
    assert begun == [1, 0, 1]


def test_a_retry_after_reaches_the_other_worker_and_does_not_grow_by_being_passed_on(
    office: Office,
) -> None:
    first, second = office.worker(), office.worker()
    first.waiting = [1]
    first.exchange()
    first.begin()
    first.end(cool_s=30.0)
    for _ in range(50):
        for worker in (first, second):
            worker.exchange()
    assert first.account.cool_until_s == pytest.approx(first.now_s + 30, abs=1e-6)
    assert second.now_s + 25 < second.account.cool_until_s <= second.now_s + 30


def test_a_redis_that_lost_its_state_is_told_again_what_was_used(office: Office) -> None:
    first, second = office.worker(requests=6), office.worker(requests=6)
    for worker in (first, second):
        worker.waiting = [0] * 3
        worker.exchange()
        assert worker.begin() == 3
    first.exchange()
    office.redis.flushall()
    for worker in (first, second, first, second):
        worker.waiting = [0] * 3
        worker.exchange()
        # Its share is used up.
        assert worker.begin() == 0
    for worker in (first, second):
        worker.now_s += LIMITS.lease_s
        worker.exchange()
        worker.exchange()
        assert worker.begin() == 0


def test_a_worker_whose_lease_is_over_keeps_to_its_share(office: Office) -> None:
    first, second = office.worker(), office.worker()
    second.exchange()
    first.waiting = [1] * 20
    first.exchange()
    first.now_s += LIMITS.lease_s * 0.95
    assert first.begin() == 4
    # The slots that it does not use may be another's by now.
    assert first.account.ask(first.now_s, [])["held"] == 4


def adaptive_limit(office: Office) -> int:
    control = office.redis.hget(office.key, "control")
    assert isinstance(control, bytes)
    return Control.decode(control.decode()).limit


def test_the_429_of_a_worker_counts_though_another_changed_the_adaptive_state_first(
    office: Office,
) -> None:
    first, second = (office.worker(adaptive=True, max_in_flight=100) for _ in range(2))
    for worker in (first, second, first):
        worker.waiting = [0]
        worker.exchange()
        worker.begin()
    first.end(evidence=Evidence(transient=True))
    second.end(evidence=Evidence(rate_limited=True))
    for worker in (first, second):
        worker.exchange()
    assert adaptive_limit(office) == START_LIMIT
    second.exchange()
    assert adaptive_limit(office) == START_LIMIT * CUT


@pytest.mark.parametrize(("by_each", "limit"), [(10, 2 * START_LIMIT), (7, START_LIMIT)])
def test_the_adaptive_limit_grows_where_all_workers_together_use_it(
    office: Office, by_each: int, limit: int
) -> None:
    pair = [office.worker(adaptive=True, max_in_flight=100) for _ in range(2)]
    for _ in range(4):
        for worker in pair:
            worker.waiting = [0] * by_each
            worker.exchange()
            worker.begin()
        for worker in pair:
            while worker.calls:
                worker.end(evidence=Evidence(clean=1))
            worker.waiting = []
    pair[0].exchange()
    grown = adaptive_limit(office)
    assert grown == limit


def test_the_adaptive_limit_survives_a_redis_that_lost_its_state_and_bounds_the_share(
    office: Office,
) -> None:
    worker = office.worker(adaptive=True, max_in_flight=100)
    worker.waiting = [0] * 100
    worker.exchange()
    assert worker.begin() == START_LIMIT
    worker.end(evidence=Evidence(rate_limited=True))
    worker.exchange()
    office.redis.flushall()
    worker.exchange()
    for _ in range(START_LIMIT - 1):
        worker.end()
    assert worker.begin() == START_LIMIT * CUT
    worker.exchange()
    assert adaptive_limit(office) == START_LIMIT * CUT


OPERATIONS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["call", "end", "exchange", "exchange", "unheard", "unanswered", "later"]),
        st.integers(1, 8),
    ),
    min_size=80,
    max_size=120,
)


@settings(
    max_examples=100,
    deadline=None,
    # One Redis serves all examples, each under a key of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=OPERATIONS)
def test_whatever_is_lost_on_the_way_no_limit_is_passed(
    office: Office, operations: list[tuple[int, str, int]]
) -> None:
    key = f"limits{next(_names)}"
    changed = replace(LIMITS, requests=20, tokens=900)
    workers = [Worker(office.redis, key, changed) for _ in range(3)]
    begun = used = 0
    for who, what, n in operations:
        worker = workers[who]
        if what == "call":
            worker.waiting += [n * 30] * n
        elif what == "end" and worker.calls:
            used += n
            worker.end(used_tokens=n)
        elif what == "later":
            worker.now_s += n / 4
        elif what != "end":
            worker.exchange(heard=what != "unheard", answered=what != "unanswered")
        begun += worker.begin()
        assert sum(w.account.in_use for w in workers) <= 8
        assert begun <= 20
        assert used + sum(permit.tokens for w in workers for permit in w.calls) <= 900
