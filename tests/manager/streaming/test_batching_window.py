"""How long a batch waits for more rollouts."""

from oyer.manager.streaming.batching_window import (
    FULL_RATE_PER_S,
    MAX_BUSY_WINDOW_S,
    MAX_WINDOW_S,
    ArrivalRate,
)


def test_a_single_rollout_is_hardly_delayed() -> None:
    rate = ArrivalRate()
    rate.seen(1, now_s=100.0)
    assert rate.window_s(100.0) <= MAX_WINDOW_S / 20


def test_the_window_grows_with_the_arrival_rate_up_to_its_limit() -> None:
    slow, fast = ArrivalRate(), ArrivalRate()
    for i in range(400):
        slow.seen(1, now_s=i * 4 / FULL_RATE_PER_S)
        fast.seen(1, now_s=i / FULL_RATE_PER_S)
    assert slow.window_s(399 * 4 / FULL_RATE_PER_S) < fast.window_s(399 / FULL_RATE_PER_S)
    assert fast.window_s(399 / FULL_RATE_PER_S) == MAX_WINDOW_S


def test_the_window_shrinks_when_nothing_arrives() -> None:
    rate = ArrivalRate()
    rate.seen(1000, now_s=0.0)
    assert rate.window_s(0.0) == MAX_WINDOW_S
    assert rate.window_s(5.0) < MAX_WINDOW_S / 100


def test_a_burst_is_one_batch_and_its_last_rollout_waits_at_most_one_window() -> None:
    rate = ArrivalRate()
    for i in range(1000):
        now = i * 0.00005
        rate.seen(1, now)
        assert rate.due_at(0.0, now) > now, "the burst continues"
    last_s = 999 * 0.00005
    assert last_s < rate.due_at(0.0, last_s) <= last_s + MAX_WINDOW_S


def test_endless_arrivals_are_sent_in_several_batches() -> None:
    rate = ArrivalRate()
    now = 0.0
    rate.seen(100, now)
    while rate.due_at(0.0, now) > now:
        now += 0.0005
        rate.seen(1, now)
    assert MAX_WINDOW_S < now <= 6 * MAX_WINDOW_S


def test_the_batch_of_a_single_rollout_is_due_soon() -> None:
    rate = ArrivalRate()
    rate.seen(1, now_s=100.0)
    assert rate.due_at(100.0, 100.0) - 100.0 <= MAX_WINDOW_S / 20


def test_the_window_grows_with_the_messages_that_wait_for_workers() -> None:
    rate = ArrivalRate()
    rate.seen(1, now_s=0.0)
    windows = []
    for waiting in (0, 4, 8, 100):
        rate.sent(waiting)
        windows.append(rate.window_s(0.0))
    assert windows == sorted(set(windows))
    assert windows[-1] == MAX_BUSY_WINDOW_S
    rate.sent(0)
    assert rate.window_s(0.0) == windows[0]


def test_waiting_messages_are_forgotten_when_nothing_arrives() -> None:
    rate = ArrivalRate()
    rate.seen(1, now_s=0.0)
    rate.sent(100)
    assert rate.window_s(5.0) < MAX_WINDOW_S / 100


def test_a_batch_is_sent_within_the_busy_window_even_if_rollouts_keep_arriving() -> None:
    rate = ArrivalRate()
    rate.sent(1000)
    now = 0.0
    rate.seen(1, now)
    while rate.due_at(0.0, now) > now:
        now += 0.001
        rate.seen(1, now)
    assert MAX_WINDOW_S < now <= MAX_BUSY_WINDOW_S + 0.002
