"""When a batch is resubmitted, by a clock that is passed in."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.manager.backend.recovery import FAILURE_PAUSES_S, GONE_PAUSE_S, MAX_SUBMISSIONS, Recovery


def test_a_failed_batch_is_resubmitted_after_growing_pauses() -> None:
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


def test_a_due_resubmission_stays_due_until_it_is_made() -> None:
    recovery = Recovery(10, 0)
    recovery.failed("x", 0)
    recovery.failed("x", 100)
    assert recovery.due(FAILURE_PAUSES_S[0])
    assert recovery.due(50)
    recovery.resubmitted(50)
    assert recovery.due(50) is None


def test_the_stall_timeout_doubles_with_each_submission() -> None:
    recovery = Recovery(10, 0)
    assert recovery.due(9.9) is None
    assert recovery.due(10) == "made no progress for 10 s"
    recovery.resubmitted(10)
    assert recovery.due(29.9) is None
    assert recovery.due(30) == "made no progress for 20 s"


def test_only_a_new_maximum_of_judgements_is_progress() -> None:
    recovery = Recovery(10, 0)
    recovery.judged(4, 5)
    recovery.judged(0, 8)
    recovery.judged(4, 12)
    assert recovery.due(14.9) is None
    assert recovery.due(15)
    recovery.resubmitted(15)
    recovery.judged(1, 20)
    assert recovery.due(39.9) is None


def test_an_outage_of_the_broker_does_not_count_as_a_stall() -> None:
    recovery = Recovery(10, 0)
    recovery.outage(500)
    assert recovery.due(509) is None
    assert recovery.due(510)


def test_a_batch_whose_payloads_are_gone_is_resubmitted_soon_unless_they_reappear() -> None:
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
def test_in_any_order_of_events_submissions_keep_their_minimum_distance(
    events: list[tuple[str, int, float]],
) -> None:
    recovery, now_s, submitted_s = Recovery(5, 0), 0.0, [0.0]
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
            submitted_s.append(now_s)
    least_s = [min(pause_s, 5.0) for pause_s in FAILURE_PAUSES_S]
    gaps_s = [later - earlier for earlier, later in pairwise(submitted_s)]
    assert all(gap >= least for gap, least in zip(gaps_s, least_s, strict=False))


@pytest.mark.parametrize("event", ["failed", "gone"])
def test_a_resubmission_clears_the_failure(event: str) -> None:
    recovery = Recovery(600, 0)
    recovery.failed("x", 0) if event == "failed" else recovery.gone(0)
    recovery.resubmitted(10)
    assert recovery.due(60) is None
