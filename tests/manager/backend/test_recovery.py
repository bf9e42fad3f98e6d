"""When a batch is sent again, told in seconds of a clock that no test waits for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.manager.backend.recovery import FAILURE_PAUSES_S, GONE_PAUSE_S, MAX_SUBMISSIONS, Recovery


def test_a_failed_batch_is_sent_again_after_pauses_that_grow() -> None:
    recovery, now_s = Recovery(600, 0), 0.0
    pauses_s = []
    while not recovery.exhausted:
        recovery.failed("OSError: disk", now_s)
        assert recovery.due(now_s) is None
        failed_s = now_s
        while recovery.due(now_s) is None:
            now_s += 0.5
        assert recovery.due(now_s) == "failed: OSError: disk"
        pauses_s.append(now_s - failed_s)
        recovery.resubmitted(now_s)
    assert tuple(pauses_s) == FAILURE_PAUSES_S
    assert recovery.submissions == MAX_SUBMISSIONS


def test_what_is_due_stays_due_until_it_was_sent() -> None:
    recovery = Recovery(10, 0)
    recovery.failed("x", 0)
    recovery.failed("x", 100)
    assert recovery.due(FAILURE_PAUSES_S[0])
    assert recovery.due(50)
    recovery.resubmitted(50)
    assert recovery.due(50) is None


def test_a_batch_that_stands_still_is_given_twice_the_time_after_each_submission() -> None:
    recovery = Recovery(10, 0)
    assert recovery.due(9.9) is None
    assert recovery.due(10) == "made no progress for 10 s"
    recovery.resubmitted(10)
    assert recovery.due(29.9) is None
    assert recovery.due(30) == "made no progress for 20 s"


def test_only_more_verdicts_than_ever_are_progress() -> None:
    recovery = Recovery(10, 0)
    recovery.judged(4, 5)
    recovery.judged(0, 8)
    recovery.judged(4, 12)
    assert recovery.due(14.9) is None
    assert recovery.due(15)
    recovery.resubmitted(15)
    recovery.judged(1, 20)
    assert recovery.due(39.9) is None


def test_time_in_which_the_broker_was_away_does_not_count() -> None:
    recovery = Recovery(10, 0)
    recovery.outage(500)
    assert recovery.due(509) is None
    assert recovery.due(510)


def test_a_batch_that_redis_lost_is_sent_again_soon_unless_it_turns_up() -> None:
    recovery = Recovery(600, 0)
    recovery.gone(1)
    assert recovery.due(GONE_PAUSE_S) is None
    assert recovery.due(1 + GONE_PAUSE_S) == "is no longer in Redis"
    recovery.judged(0, 7)
    assert recovery.due(7) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["judged", "failed", "gone", "outage", "look"]),
            st.integers(0, 100),
            st.floats(0, 100),
        )
    )
)
def test_whatever_happens_no_two_submissions_come_at_once(
    events: list[tuple[str, int, float]],
) -> None:
    recovery, now_s, sent_s = Recovery(5, 0), 0.0, [0.0]
    for event, judged, later_s in events:
        now_s += later_s
        if event == "judged":
            recovery.judged(judged, now_s)
        elif event == "failed":
            recovery.failed("x", now_s)
        elif event != "look":
            getattr(recovery, event)(now_s)
        if recovery.due(now_s) and not recovery.exhausted:
            recovery.resubmitted(now_s)
            sent_s.append(now_s)
    least_s = [min(pause_s, 5.0) for pause_s in FAILURE_PAUSES_S]
    gaps_s = [later - earlier for earlier, later in pairwise(sent_s)]
    assert all(gap >= least for gap, least in zip(gaps_s, least_s, strict=False))


@pytest.mark.parametrize("event", ["failed", "gone"])
def test_trouble_is_forgotten_when_the_batch_was_sent_again(event: str) -> None:
    recovery = Recovery(600, 0)
    recovery.failed("x", 0) if event == "failed" else recovery.gone(0)
    recovery.resubmitted(10)
    assert recovery.due(60) is None
