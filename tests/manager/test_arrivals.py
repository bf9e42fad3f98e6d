"""How long a rollout is held back for others to come."""

from oyer.manager.arrivals import FULL_RATE_PER_S, MAX_WINDOW_S, ArrivalRate


def test_a_rollout_alone_is_hardly_held_back() -> None:
    rate = ArrivalRate()
    rate.seen(1, now=100.0)
    assert rate.window_s(100.0) <= MAX_WINDOW_S / 20


def test_the_window_grows_with_the_rate_of_arrivals_up_to_its_limit() -> None:
    slow, fast = ArrivalRate(), ArrivalRate()
    for i in range(400):
        slow.seen(1, now=i * 4 / FULL_RATE_PER_S)
        fast.seen(1, now=i / FULL_RATE_PER_S)
    assert slow.window_s(399 * 4 / FULL_RATE_PER_S) < fast.window_s(399 / FULL_RATE_PER_S)
    assert fast.window_s(399 / FULL_RATE_PER_S) == MAX_WINDOW_S


def test_the_window_shrinks_again_when_nothing_arrives() -> None:
    rate = ArrivalRate()
    rate.seen(1000, now=0.0)
    assert rate.window_s(0.0) == MAX_WINDOW_S
    assert rate.window_s(5.0) < MAX_WINDOW_S / 100
