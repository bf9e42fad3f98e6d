"""Which of several base URLs a call goes to."""

import random
from collections import Counter

from oyer.tasks.endpoint.base_urls import COOL_DOWN_S, FAILURES_TO_COOL, BaseUrlPool


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def choice_of(*weights: float) -> tuple[BaseUrlPool, Clock]:
    clock = Clock()
    return BaseUrlPool(weights, clock=clock, rng=random.Random(0)), clock


def cool(choice: BaseUrlPool, index: int) -> None:
    for _ in range(FAILURES_TO_COOL):
        choice.report(index, answered=False)


def test_calls_follow_the_weights() -> None:
    choice, _ = choice_of(3.0, 1.0)
    picked = Counter(choice.pick() for _ in range(4000))
    assert 0.7 < picked[0] / 4000 < 0.8


def test_a_url_that_keeps_failing_is_left_alone() -> None:
    choice, _ = choice_of(1.0, 1.0)
    cool(choice, 0)
    assert {choice.pick() for _ in range(50)} == {1}


def test_an_answer_in_between_resets_the_count() -> None:
    choice, _ = choice_of(1.0, 1.0)
    for _ in range(5):
        choice.report(0, answered=False)
        choice.report(0, answered=True)
    assert {choice.pick() for _ in range(50)} == {0, 1}


def test_one_call_probes_after_the_cool_down() -> None:
    choice, clock = choice_of(1.0, 1.0)
    cool(choice, 0)
    clock.now_s += COOL_DOWN_S
    assert [choice.pick() for _ in range(20)] == [0] + [1] * 19


def test_a_probe_that_is_answered_brings_the_url_back() -> None:
    choice, clock = choice_of(1.0, 1.0)
    cool(choice, 0)
    clock.now_s += COOL_DOWN_S
    choice.report(choice.pick(), answered=True)
    assert {choice.pick() for _ in range(50)} == {0, 1}


def test_a_probe_that_fails_cools_the_url_again() -> None:
    choice, clock = choice_of(1.0, 1.0)
    cool(choice, 0)
    clock.now_s += COOL_DOWN_S
    choice.report(choice.pick(), answered=False)
    assert {choice.pick() for _ in range(50)} == {1}
    clock.now_s += COOL_DOWN_S
    assert choice.pick() == 0


def test_with_every_url_cooling_the_one_due_first_is_called() -> None:
    choice, clock = choice_of(1.0, 1.0)
    cool(choice, 1)
    clock.now_s += 1
    cool(choice, 0)
    assert choice.pick() == 1


def test_the_only_url_is_always_called() -> None:
    choice, _ = choice_of(1.0)
    cool(choice, 0)
    assert choice.pick() == 0


def test_a_second_request_goes_to_another_healthy_url() -> None:
    choice, clock = choice_of(1.0, 1.0, 1.0)
    assert {choice.pick_other(0) for _ in range(50)} == {1, 2}
    cool(choice, 1)
    assert {choice.pick_other(0) for _ in range(50)} == {2}
    cool(choice, 2)
    assert choice.pick_other(0) is None
    # The probe after the cool-down is left to a first request.
    clock.now_s += COOL_DOWN_S
    assert choice.pick_other(0) is None


def test_the_only_url_gets_the_second_request_while_it_is_healthy() -> None:
    choice, _ = choice_of(1.0)
    assert choice.pick_other(0) == 0
    cool(choice, 0)
    assert choice.pick_other(0) is None
    choice.report(0, answered=True)
    assert choice.pick_other(0) == 0


def test_a_cancelled_call_says_nothing_about_its_url() -> None:
    choice, clock = choice_of(1.0, 1.0)
    for _ in range(FAILURES_TO_COOL):
        choice.report(0, answered=None)
    assert {choice.pick() for _ in range(50)} == {0, 1}
    cool(choice, 0)
    clock.now_s += COOL_DOWN_S
    choice.report(choice.pick(), answered=None)
    # The next call probes instead.
    assert choice.pick() == 0
