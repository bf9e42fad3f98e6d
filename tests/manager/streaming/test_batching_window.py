"""How long a rollout is held back for others to come."""

from oyer.manager.streaming.batching_window import FULL_RATE_PER_S, MAX_WINDOW_S, ArrivalRate


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


def test_a_burst_is_one_batch_and_nobody_who_comes_last_waits_longer_for_it() -> None:
    rate = ArrivalRate()
    for i in range(1000):
        now = i * 0.00005
        rate.seen(1, now)
        assert rate.due_at(0.0, now) > now, "it is still going on"
    last_s = 999 * 0.00005
    assert last_s < rate.due_at(0.0, last_s) <= last_s + MAX_WINDOW_S


def test_what_goes_on_and_on_is_sent_in_parts() -> None:
    rate = ArrivalRate()
    now = 0.0
    rate.seen(100, now)
    while rate.due_at(0.0, now) > now:
        now += 0.0005
        rate.seen(1, now)
    assert MAX_WINDOW_S < now <= 6 * MAX_WINDOW_S


def test_the_window_of_one_that_comes_alone_is_short() -> None:
    rate = ArrivalRate()
    rate.seen(1, now=100.0)
    assert rate.due_at(100.0, 100.0) - 100.0 <= MAX_WINDOW_S / 20
