"""`LimiterState` with the real `limiter.lua`, one step at a time; no thread, no waiting."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oyer.protocol.redis_client import connect
from oyer.tasks.coordination.adaptive import CUT, START_LIMIT, Control, Evidence
from tests.support.limiter_exchange import LIMITS, SharedEndpoint, Worker, names


@pytest.fixture
def shared(redis_url: str) -> Iterator[SharedEndpoint]:
    with connect(redis_url) as client:
        yield SharedEndpoint(client, "limits")


def test_a_worker_that_waits_gets_its_fair_share_as_the_others_calls_end(
    shared: SharedEndpoint,
) -> None:
    first, second = shared.worker(), shared.worker()
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


def test_a_worker_that_wants_less_than_its_share_leaves_the_rest(shared: SharedEndpoint) -> None:
    first, second = shared.worker(), shared.worker()
    second.waiting = [1] * 2
    second.exchange()
    first.waiting = [1] * 20
    first.exchange()
    assert (first.begin(), second.begin()) == (6, 2)


def test_more_workers_than_slots_never_hold_more_than_there_are(shared: SharedEndpoint) -> None:
    workers = [shared.worker(max_in_flight=2) for _ in range(5)]
    for worker in workers:
        worker.waiting = [1]
    begun = 0
    for worker in workers * 4:
        worker.exchange()
        begun += worker.begin()
    assert begun == 2


def test_slots_reported_idle_serve_another_worker(shared: SharedEndpoint) -> None:
    first, second = shared.worker(), shared.worker()
    first.waiting = [1] * 8
    first.exchange()
    assert first.begin() == 8
    for _ in range(8):
        first.end()
    assert first.state.idle(first.now_s)
    second.waiting = [1] * 8
    for worker in (first, first, second):
        worker.exchange()
    assert second.begin() == 8


def test_an_unused_block_is_returned_when_it_expires(shared: SharedEndpoint) -> None:
    first, second = (shared.worker(max_in_flight=100, requests=5) for _ in range(2))
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


def test_a_worker_that_leaves_returns_everything(shared: SharedEndpoint) -> None:
    first, second = shared.worker(requests=5), shared.worker(requests=5)
    first.waiting = [0] * 5
    first.exchange()
    first.exchange(leave=True)
    second.waiting = [0] * 5
    second.exchange()
    assert second.begin() == 5


def test_the_retry_after_and_the_cut_of_a_worker_that_leaves_reach_the_others(
    shared: SharedEndpoint,
) -> None:
    first, second = (shared.worker(adaptive=True, max_in_flight=100) for _ in range(2))
    first.waiting = [0]
    first.exchange()
    first.begin()
    first.end(cool_s=30.0, evidence=Evidence(rate_limited=True))
    first.exchange(leave=True)
    second.waiting = [0]
    second.exchange()
    assert second.begin() == 0
    # What is left of it is measured by the clock of Redis.
    assert second.now_s < second.state.cool_until_s <= second.now_s + 30
    assert adaptive_limit(shared) == START_LIMIT * CUT


def test_unused_tokens_return_and_overused_tokens_are_charged(shared: SharedEndpoint) -> None:
    worker = shared.worker(tokens=1000)
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


def test_a_call_larger_than_the_limit_takes_the_whole_window(shared: SharedEndpoint) -> None:
    worker = shared.worker(tokens=1000)
    worker.waiting = [5000, 1]
    worker.exchange()
    assert worker.begin() == 1


def test_tokens_too_few_for_the_next_call_serve_a_smaller_one(shared: SharedEndpoint) -> None:
    first, large, small = (shared.worker(tokens=1000) for _ in range(3))
    begun = []
    for worker, tokens in ((first, 600), (large, 700), (small, 400)):
        worker.waiting = [tokens]
        worker.exchange()
        begun.append(worker.begin())
    assert begun == [1, 0, 1]


def test_a_retry_after_reaches_the_other_worker_and_does_not_grow(
    shared: SharedEndpoint,
) -> None:
    first, second = shared.worker(), shared.worker()
    first.waiting = [1]
    first.exchange()
    first.begin()
    first.end(cool_s=30.0)
    for _ in range(50):
        for worker in (first, second):
            worker.exchange()
    assert first.state.cool_until_s == pytest.approx(first.now_s + 30, abs=1e-6)
    # What is left of it is measured by the clock of Redis.
    assert second.now_s < second.state.cool_until_s <= second.now_s + 30


def test_after_redis_lost_its_state_charges_are_reported_again(shared: SharedEndpoint) -> None:
    first, second = shared.worker(requests=6), shared.worker(requests=6)
    for worker in (first, second):
        worker.waiting = [0] * 3
        worker.exchange()
        assert worker.begin() == 3
    first.exchange()
    shared.redis.flushall()
    for worker in (first, second, first, second):
        worker.waiting = [0] * 3
        worker.exchange()
        # The share of each is used up.
        assert worker.begin() == 0
    for worker in (first, second):
        worker.now_s += LIMITS.worker_ttl_s
        worker.exchange()
        worker.exchange()
        assert worker.begin() == 0


def test_a_worker_whose_slots_expired_uses_its_share(shared: SharedEndpoint) -> None:
    first, second = shared.worker(), shared.worker()
    second.exchange()
    first.waiting = [1] * 20
    first.exchange()
    first.now_s += LIMITS.worker_ttl_s * 0.95
    assert first.begin() == 4
    # Another worker may have its unused slots by now.
    assert first.state.ask(first.now_s, [])["held"] == 4


def adaptive_limit(shared: SharedEndpoint) -> int:
    control = shared.redis.hget(shared.key, "control")
    assert isinstance(control, bytes)
    return Control.decode(control.decode()).limit


def test_a_429_counts_even_if_another_worker_changed_the_adaptive_state_first(
    shared: SharedEndpoint,
) -> None:
    first, second = (shared.worker(adaptive=True, max_in_flight=100) for _ in range(2))
    for worker in (first, second, first):
        worker.waiting = [0]
        worker.exchange()
        worker.begin()
    first.end(evidence=Evidence(transient=True))
    second.end(evidence=Evidence(rate_limited=True))
    for worker in (first, second):
        worker.exchange()
    assert adaptive_limit(shared) == START_LIMIT
    second.exchange()
    assert adaptive_limit(shared) == START_LIMIT * CUT


@pytest.mark.parametrize(("by_each", "limit"), [(10, 2 * START_LIMIT), (7, START_LIMIT)])
def test_the_adaptive_limit_grows_where_all_workers_together_use_it(
    shared: SharedEndpoint, by_each: int, limit: int
) -> None:
    pair = [shared.worker(adaptive=True, max_in_flight=100) for _ in range(2)]
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
    grown = adaptive_limit(shared)
    assert grown == limit


def test_the_adaptive_limit_survives_a_redis_that_lost_its_state_and_bounds_the_share(
    shared: SharedEndpoint,
) -> None:
    worker = shared.worker(adaptive=True, max_in_flight=100)
    worker.waiting = [0] * 100
    worker.exchange()
    assert worker.begin() == START_LIMIT
    worker.end(evidence=Evidence(rate_limited=True))
    worker.exchange()
    shared.redis.flushall()
    worker.exchange()
    for _ in range(START_LIMIT - 1):
        worker.end()
    assert worker.begin() == START_LIMIT * CUT
    worker.exchange()
    assert adaptive_limit(shared) == START_LIMIT * CUT


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
    # One Redis serves all examples, each with a separate key.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=OPERATIONS)
def test_no_limit_is_exceeded_whatever_messages_are_lost(
    shared: SharedEndpoint, operations: list[tuple[int, str, int]]
) -> None:
    key = f"limits{next(names)}"
    changed = replace(LIMITS, requests=20, tokens=900)
    workers = [Worker(shared.redis, key, changed) for _ in range(3)]
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
        assert sum(w.state.in_use for w in workers) <= 8
        assert begun <= 20
        assert used + sum(permit.tokens for w in workers for permit in w.calls) <= 900


def test_a_worker_knows_that_others_want_its_unused_slots(shared: SharedEndpoint) -> None:
    first, second = shared.worker(), shared.worker()
    first.waiting = [1] * 8
    first.exchange()
    assert first.begin() == 8
    first.end()
    first.exchange()
    assert not first.state.holds_wanted_slots()
    second.waiting = [1] * 8
    second.exchange()
    first.waiting = [1]
    first.exchange()
    first.waiting = []
    first.end()
    assert first.state.holds_wanted_slots()
    for worker in (first, first, second):
        worker.exchange()
    assert not first.state.holds_wanted_slots()
    assert second.begin() == 2
