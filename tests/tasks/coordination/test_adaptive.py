"""Adaptive concurrency: growth, cuts and bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.coordination.adaptive import COOLDOWN_S, Control, Evidence, initial, step

CLEAN = Evidence(clean=1000)
LIMITED = Evidence(rate_limited=True)
TRANSIENT = Evidence(transient=True)
STATES = st.builds(
    Control,
    limit=st.integers(1, 200),
    clean=st.integers(0, 300),
    slow_start=st.booleans(),
    cooldown_until_s=st.floats(0, 1000),
)
SEEN = st.builds(
    Evidence, clean=st.integers(0, 300), transient=st.booleans(), rate_limited=st.booleans()
)
TIMES_S = st.floats(0, 2000)


def grown(state: Control, seen: Evidence, now_s: float = 100.0) -> Control:
    return step(state, seen, in_use=state.limit, now_s=now_s, max_limit=100)


def test_slow_start_doubles_up_to_the_configured_limit() -> None:
    state, limits = initial(100), []
    for _ in range(4):
        state = grown(state, CLEAN)
        limits.append(state.limit)
    assert limits == [40, 80, 100, 100]


@pytest.mark.parametrize(("before", "after"), [(100, 80), (12, 10), (10, 10), (4, 4)])
def test_a_429_cuts_by_a_fifth_and_not_below_the_floor(before: int, after: int) -> None:
    assert grown(Control(limit=before), LIMITED).limit == after


def test_the_429s_of_one_episode_cut_once() -> None:
    state = grown(Control(limit=100), LIMITED, now_s=100.0)
    assert grown(state, LIMITED, now_s=100 + COOLDOWN_S - 1).limit == 80
    assert grown(state, LIMITED, now_s=100 + COOLDOWN_S).limit == 64


def test_successes_during_the_cool_down_do_not_count() -> None:
    state = grown(Control(limit=100), LIMITED, now_s=100.0)
    assert grown(state, CLEAN, now_s=110.0) == state


def test_after_a_429_a_round_adds_a_twentieth() -> None:
    state = Control(limit=40, slow_start=False)
    state = grown(state, Evidence(clean=39))
    assert state.limit == 40
    assert grown(state, Evidence(clean=1)).limit == 42


def test_a_transient_error_restarts_the_round_without_a_cut() -> None:
    state = grown(Control(limit=40, clean=39), TRANSIENT)
    assert (state.limit, state.clean, state.slow_start) == (40, 0, False)


@pytest.mark.parametrize(("in_use", "limit"), [(31, 40), (32, 80)])
def test_a_limit_less_than_four_fifths_used_does_not_grow(in_use: int, limit: int) -> None:
    state = step(Control(limit=40), CLEAN, in_use=in_use, now_s=0.0, max_limit=100)
    assert state.limit == limit


@given(STATES, SEEN, st.integers(0, 300), TIMES_S, st.integers(1, 200))
def test_the_limit_stays_within_its_bounds(
    state: Control, seen: Evidence, in_use: int, now_s: float, most: int
) -> None:
    after = step(state, seen, in_use=in_use, now_s=now_s, max_limit=most)
    assert 1 <= after.limit <= most
    if after.limit < min(state.limit, most):
        assert seen.rate_limited
    if after.limit > state.limit:
        assert seen == Evidence(clean=seen.clean)


@given(STATES)
def test_the_encoded_state_round_trips_and_has_the_limit_that_the_script_reads(
    state: Control,
) -> None:
    assert Control.decode(state.encode()) == state
    assert json.loads(state.encode())["limit"] == state.limit
