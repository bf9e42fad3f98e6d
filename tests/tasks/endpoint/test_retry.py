"""When a failed call is tried again, and after how long."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.protocol.status import Status
from oyer.tasks.endpoint.retry import BACKOFF_BASE_S, BACKOFF_CAP_S, decide
from oyer.tasks.endpoint.types import Failure, RetryClass

FAILURE = Failure(
    status=Status.UNAVAILABLE,
    retry=RetryClass.TRANSIENT,
    error_class="InternalServerError",
    message="HTTP 500: oops",
    http_status=500,
)
SAME_500 = replace(FAILURE, fingerprint="oops")


def wait_s(
    history: list[Failure], *, max_attempts: int = 9, remaining_s: float = 1e6
) -> float | None:
    return decide(
        history, max_attempts=max_attempts, remaining_s=remaining_s, rng=random.Random(0)
    ).wait_s


@pytest.mark.parametrize(
    ("history", "retried"),
    [
        ([FAILURE], True),
        ([replace(FAILURE, retry=RetryClass.NEVER)], False),
        ([FAILURE, replace(FAILURE, retry=RetryClass.NEVER)], False),
        ([replace(FAILURE, retry=RetryClass.RATE_LIMIT)], True),
        ([FAILURE] * 8, True),
        ([FAILURE] * 9, False),
        ([SAME_500] * 2, True),
        ([SAME_500] * 3, False),
        ([SAME_500, SAME_500, replace(FAILURE, fingerprint="other")], True),
        ([SAME_500, FAILURE, SAME_500, SAME_500], True),
        ([FAILURE, SAME_500, SAME_500, SAME_500], False),
    ],
)
def test_what_is_tried_again(history: list[Failure], retried: bool) -> None:
    assert (wait_s(history) is not None) is retried


def test_a_wait_longer_than_the_batch_has_left_is_not_waited_for() -> None:
    failed = replace(FAILURE, retry_after_s=30.0)
    assert wait_s([failed], remaining_s=29.9) is None
    assert wait_s([failed], remaining_s=31.0) is not None


def test_a_decision_to_stop_has_its_reason() -> None:
    decision = decide([FAILURE] * 3, max_attempts=3, remaining_s=1.0, rng=random.Random(0))
    assert decision.reason == "3 of 3 attempts made"


@given(
    failures=st.integers(1, 40),
    retry_after_s=st.none() | st.floats(0, 1000),
    seed=st.integers(),
)
def test_the_wait_is_jitter_on_top_of_what_was_asked(
    failures: int, retry_after_s: float | None, seed: int
) -> None:
    history = [FAILURE] * (failures - 1) + [replace(FAILURE, retry_after_s=retry_after_s)]
    decision = decide(history, max_attempts=99, remaining_s=1e6, rng=random.Random(seed))
    assert decision.wait_s is not None
    asked_s = retry_after_s or 0.0
    bound_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (failures - 1))
    assert asked_s <= decision.wait_s <= asked_s + bound_s


def test_calls_refused_together_do_not_come_back_together() -> None:
    rng = random.Random(0)
    failed = [replace(FAILURE, retry_after_s=2.0)]
    waits = {decide(failed, max_attempts=9, remaining_s=99, rng=rng).wait_s for _ in range(50)}
    assert len(waits) == 50
