"""When a call in flight may get a second request."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.judging.hedging.policy import (
    MIN_CALLS,
    SAVED_CALLS,
    WINDOW_CALLS,
    HedgeBudget,
    Latencies,
)


def latencies(*values_s: float) -> Latencies:
    made = Latencies()
    for value_s in values_s:
        made.add(value_s)
    return made


def test_a_quantile_is_the_latency_that_a_part_of_the_calls_does_not_exceed() -> None:
    values_s = list(range(1, 101))
    random.Random(0).shuffle(values_s)
    known = latencies(*values_s)
    assert [known.quantile(q, []) for q in (0.5, 0.95, 0.99)] == [50, 95, 99]


def test_a_quantile_needs_enough_calls() -> None:
    assert latencies(*[1.0] * (MIN_CALLS - 1)).quantile(0.5, []) is None
    assert latencies(*[1.0] * MIN_CALLS).quantile(0.95, []) == 1.0
    assert latencies(*[1.0] * 99).quantile(0.99, []) is None
    assert latencies(*[1.0] * 100).quantile(0.99, []) == 1.0


def test_calls_in_flight_count_as_slower_than_what_they_have_passed() -> None:
    """Of 400 calls sent at once, the first 20 to end are the fastest 5 %."""
    known = latencies(*(i / 100 for i in range(1, 21)))
    assert known.quantile(0.5, [0.2] * 380) is None
    assert known.quantile(0.05, [0.2] * 380) == 0.2
    # Younger calls say nothing about the latency in question.
    assert known.quantile(0.5, [0.05] * 380) == pytest.approx(0.1)


def test_only_recent_calls_count() -> None:
    known = latencies(*[9.0] * WINDOW_CALLS, *[1.0] * WINDOW_CALLS)
    assert known.quantile(0.99, []) == 1.0


@given(
    st.lists(st.floats(0, 100), min_size=MIN_CALLS, max_size=200),
    st.lists(st.floats(0, 100), max_size=50),
    st.sampled_from([0.5, 0.75, 0.9, 0.95]),
)
def test_a_quantile_is_the_smallest_latency_with_enough_calls_below(
    ended_s: list[float], ages_s: list[float], q: float
) -> None:
    def enough(latency_s: float) -> bool:
        older = sum(age_s >= latency_s for age_s in ages_s)
        return sum(value <= latency_s for value in ended_s) >= q * (len(ended_s) + older) - 1e-9

    expected = min(filter(enough, ended_s), default=None)
    assert latencies(*ended_s).quantile(q, sorted(ages_s)) == expected


def hedges_of(budget: HedgeBudget, calls: int) -> int:
    """Return how many second requests `calls` calls may have, if each asks for one."""
    made = 0
    for _ in range(calls):
        budget.call()
        made += budget.take()
    return made


@pytest.mark.parametrize("at_most", [0.01, 0.05, 0.1, 0.29, 0.5, 1.0])
def test_a_part_of_the_calls_is_hedged(at_most: float) -> None:
    assert hedges_of(HedgeBudget(at_most), 2000) == math.floor(at_most * 2000 + 1e-9)


def test_what_was_not_sent_is_given_back() -> None:
    budget = HedgeBudget(0.05)
    for _ in range(20):
        budget.call()
    assert budget.take()
    assert not budget.take()
    budget.give_back()
    assert budget.take()


def test_a_long_time_without_hedges_pays_for_few_of_them() -> None:
    budget = HedgeBudget(0.05)
    for _ in range(100 * SAVED_CALLS):
        budget.call()
    made = 0
    while budget.take():
        made += 1
    assert made == SAVED_CALLS * 0.05
    assert hedges_of(budget, 100) == 5
