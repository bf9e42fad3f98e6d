"""Without a timeout of its own, a group waits for a small multiple of what earlier groups needed.

Times are those of Redis: tests make groups older instead of sleeping.
"""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import redis

from oyer.config.loading import validate
from oyer.manager.streaming.group_store import GroupKey, GroupStore
from oyer.manager.streaming.identity import ScoreOptions, pending_rollouts, plan_name
from oyer.protocol.names import group_key
from oyer.protocol.rollout import Rollout
from tests.support.group_parts import join, rows_of, store_on

DELAY_S = 3.0
"""Redis and the test take time between two calls, and 4 times that counts. The waits that a test tells
apart differ by more."""


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(redis_url: str) -> GroupStore:
    return store_on(redis_url)


def make_older(client: redis.Redis, key: GroupKey, age_s: float) -> None:
    """Let a group have been opened earlier than it was."""
    for field in ("opened", "due"):
        client.hincrby(group_key(":".join(key)), field, -int(age_s * 1000))


class Groups:
    """Groups that are opened by one rollout and complete with two."""

    def __init__(self, store: GroupStore, client: redis.Redis) -> None:
        self.store, self.client, self.names = store, client, 0

    def open(self, step: int | None, **where: Any) -> tuple[str, GroupKey, float]:
        """Return the group's name, its key and how long it waits, in seconds."""
        self.names += 1
        name = f"group {self.names}"
        group = self._join("a", name, step, **where)[0].group
        assert group.state == "open"
        return name, group.key, group.wait_s

    def complete(self, step: int | None, needed_s: float, **where: Any) -> None:
        """Open a group and complete it."""
        name, key, _ = self.open(step, **where)
        make_older(self.client, key, needed_s)
        assert self._join("b", name, step, **where)[0].group.state == "claimed"

    def wait_s(self, step: int | None, **where: Any) -> float:
        """Return how long a new group waits."""
        return self.open(step, **where)[2]

    def _join(self, rollout: str, group: str, step: int | None, **where: Any) -> Any:
        where = {"timeout_s": None, "size": 2} | where
        return join(self.store, rollout, group=group, step=step, **where)


@pytest.fixture
def groups(store: GroupStore, client: redis.Redis) -> Groups:
    return Groups(store, client)


def about(wait_s: float, delay_s: float = DELAY_S) -> Any:
    return pytest.approx(wait_s, abs=delay_s)


def test_a_group_waits_for_a_multiple_of_the_slowest_of_earlier_steps(groups: Groups) -> None:
    assert groups.wait_s(0) == about(60)
    for needed_s in (1, 5, 3):
        groups.complete(0, needed_s)
    # In its own step, the groups that are seen first are the fast ones.
    assert groups.wait_s(0) == about(60)
    assert groups.wait_s(1) == about(20)
    groups.complete(1, 2)
    assert groups.wait_s(1) == about(20)
    # The latest two steps count, since the latest may not have ended.
    assert groups.wait_s(2) == about(20)
    groups.complete(2, 1)
    assert groups.wait_s(3) == about(8)


@pytest.mark.parametrize(("needed_s", "wait_s"), [(0, 2), (30, 60)])
def test_the_wait_has_bounds(groups: Groups, needed_s: float, wait_s: float) -> None:
    groups.complete(0, needed_s)
    assert groups.wait_s(1) == about(wait_s, 1.0)


def test_without_steps_the_latest_groups_count(groups: Groups) -> None:
    for _ in range(7):
        groups.complete(None, 10)
    assert groups.wait_s(None) == about(60)
    groups.complete(None, 1)
    assert groups.wait_s(None) == about(40)
    for _ in range(56 + 64 + 1):
        groups.complete(None, 2)
    assert groups.wait_s(None) == about(8)


def test_a_timeout_that_is_given_is_used_and_teaches_nothing(groups: Groups) -> None:
    groups.complete(0, 100, timeout_s=200)
    assert groups.wait_s(1) == about(60)
    groups.complete(1, 1)
    assert groups.wait_s(2, timeout_s=30) == about(30)


def test_groups_of_another_run_or_split_do_not_count(groups: Groups) -> None:
    groups.complete(0, 1)
    assert groups.wait_s(1, spread="another") == about(60)


def test_a_group_waits_longer_if_others_needed_longer_meanwhile(
    groups: Groups, store: GroupStore, client: redis.Redis
) -> None:
    groups.complete(0, 1)
    _, key, wait_s = groups.open(1)
    assert wait_s == about(4)
    groups.complete(1, 3)
    make_older(client, key, 5)
    group = store.read([key])[0]
    assert (group.state, group.wait_s) == ("open", about(12 - 5))
    make_older(client, key, 8)
    group = store.read([key])[0]
    assert (group.state, group.late, group.waited_s) == ("claimed", True, about(13))


def test_rollouts_that_come_late_make_later_groups_wait_longer(
    groups: Groups, store: GroupStore, client: redis.Redis
) -> None:
    groups.complete(0, 1)
    name, key, _ = groups.open(1)
    make_older(client, key, 6)
    assert store.read([key])[0].late
    assert rows_of(join(store, "late", group=name, step=1, size=2)) == [(-1, True)]
    assert groups.wait_s(2) == about(24)


def test_processes_of_a_run_and_split_share_the_times() -> None:
    plan = plan_name(validate({"length": {"method": "median_band"}}))
    rollouts = [Rollout(prompt="p", response="r", group_id="q")]

    def spread_of(training: str, **options: Any) -> str:
        options["group_size"] = 2
        named = pending_rollouts(
            rollouts, cast(ScoreOptions, options), plan=plan, training=training, now_s=0.0
        )
        assert named[0].group_due_s is None
        return named[0].spread

    assert spread_of("a") == spread_of("a", step=3)
    assert spread_of("a", run="r") == spread_of("b", run="r")
    assert len({spread_of("a"), spread_of("b"), spread_of("a", split="eval")}) == 3
