"""Groups are assembled from rollouts that arrive one by one."""

from oyer.manager.arrivals import FULL_RATE_PER_S, MAX_WINDOW_S, ArrivalRate
from oyer.manager.groups import Groups


def test_a_group_is_handed_over_once_it_is_complete() -> None:
    groups: Groups[str] = Groups()
    key = ("run", "g", 3)
    assert groups.add(key, "a", due_at=10, on_timeout="partial") is None
    assert groups.add(key, "b", due_at=11, on_timeout="partial") is None
    assert groups.add(key, "c", due_at=12, on_timeout="partial") == ["a", "b", "c"]
    assert groups.next_due_at() is None


def test_groups_of_another_run_or_size_are_other_groups() -> None:
    groups: Groups[str] = Groups()
    for key in [("run", "g", 2), ("other", "g", 2), ("run", "g", 3), ("run", "h", 2)]:
        assert groups.add(key, "a", due_at=10, on_timeout="partial") is None
    assert groups.add(("run", "g", 2), "b", due_at=10, on_timeout="partial") == ["a", "b"]


def test_a_late_group_is_given_up_at_the_time_that_its_first_rollout_set() -> None:
    groups: Groups[str] = Groups()
    groups.add(("run", "g", 3), "a", due_at=10, on_timeout="neutral")
    groups.add(("run", "g", 3), "b", due_at=99, on_timeout="error")
    assert groups.next_due_at() == 10
    assert groups.take_late(9.9) == []
    (late,) = groups.take_late(10)
    assert (late.members, late.on_timeout) == (["a", "b"], "neutral")
    assert groups.take_late(99) == []


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
