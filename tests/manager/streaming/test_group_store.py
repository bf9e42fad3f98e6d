"""A group has one claim at a time and one batch, in whatever order processes act.

Times are those of Redis: tests use timeouts of zero or of hours, not sleeps.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from oyer.manager.streaming import group_store
from oyer.manager.streaming.group_store import GroupStore
from oyer.manager.streaming.identity import pack
from oyer.manager.streaming.pending import TimeoutPolicy
from oyer.protocol.batch_store import Backlog
from oyer.protocol.names import BACKLOG_ENDS_KEY, BACKLOG_KEY, group_key
from oyer.protocol.rollout import Rollout
from tests.support.group_parts import join, rows_of, states_of, store_on


@pytest.fixture
def claims_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every claim expire at once."""
    monkeypatch.setattr(group_store, "CLAIM_S", 0.0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def here(redis_url: str) -> GroupStore:
    return store_on(redis_url)


@pytest.fixture
def there(redis_url: str) -> GroupStore:
    return store_on(redis_url)


def test_the_process_that_completes_a_group_claims_it_and_gets_all_rollouts(
    here: GroupStore, there: GroupStore
) -> None:
    assert join(here, "a")[0].group.state == "open"
    assert there.changed() == set()
    joined = join(there, "b", "c")
    group = joined[0].group
    assert (group.state, list(group.ids), group.late) == ("claimed", ["a", "b", "c"], False)
    assert [part[0] for part in group.packed] == [b"a", b"b,c"]
    assert rows_of(joined) == [(1, True), (2, True)]
    key = group.key
    assert here.read([key])[0].state == "claimed_elsewhere"
    assert there.publish({key: 16}, "batch", 64) == []
    assert here.read([key])[0].state == "claimed_elsewhere"
    assert here.changed() == set()
    there.mark_sent([key])
    assert here.changed() == {"g"}
    assert there.changed() == set()
    found = here.read([key])[0]
    assert (found.state, found.batch, found.start, found.verdicts) == ("sent", "batch", 16, 64)


@pytest.mark.usefixtures("claims_expire")
def test_a_process_that_adds_a_whole_group_does_not_read_it_back_but_its_successor_does(
    here: GroupStore, there: GroupStore
) -> None:
    group = join(here, "a", "b", "c")[0].group
    assert (group.state, list(group.ids), list(group.packed)) == ("claimed", ["a", "b", "c"], [])
    successor = there.read([group.key])[0]
    assert (successor.state, [part[0] for part in successor.packed]) == ("claimed", [b"a,b,c"])


def test_a_change_of_several_groups_is_notified_for_each(
    here: GroupStore, there: GroupStore
) -> None:
    for name in "gh":
        join(there, f"{name}1", group=name)
    keys = [join(here, f"{g}2", f"{g}3", group=g)[0].group.key for g in "gh"]
    assert here.publish({keys[0]: 0, keys[1]: 3}, "batch", 6) == []
    here.mark_sent(keys)
    assert there.changed() == {"g", "h"}
    assert [group.start for group in there.read(keys)] == [0, 3]


def test_a_rollout_submitted_again_keeps_its_row_and_counts_once(
    here: GroupStore, there: GroupStore, redis_url: str
) -> None:
    first = join(here, "a", "b")[0].group
    again = join(there, "a")
    assert (again[0].group.key, rows_of(again)) == (first.key, [(0, False)])
    assert (again[0].group.state, again[0].group.n) == ("open", 2)
    key = join(here, "c")[0].group.key
    here.publish({key: 0}, "batch", 3)
    here.mark_sent([key])
    assert there.changed() == {"g"}
    here.finish([key])
    late = join(store_on(redis_url), "b")
    assert (late[0].group.key, rows_of(late), late[0].group.batch) == (key, [(1, False)], "batch")


def test_a_further_rollout_of_a_complete_group_starts_another(here: GroupStore) -> None:
    first = join(here, "a", "b", "c")[0].group
    more = join(here, "d")
    assert more[0].group.key != first.key
    assert (rows_of(more), more[0].group.state, more[0].group.n) == ([(0, True)], "open", 1)
    # The rollouts of the complete group are still found.
    again = join(here, "b")
    assert (again[0].group.key, rows_of(again)) == (first.key, [(1, False)])


def test_more_rollouts_than_a_group_has_are_two_groups(here: GroupStore) -> None:
    joined = join(here, "a", "b", "c", "d")
    assert [row for row, _ in rows_of(joined)] == [0, 1, 2, 0]
    assert [one.group.state for one in joined] == ["claimed"] * 3 + ["open"]


@pytest.mark.parametrize("policy", ["partial", "neutral"])
def test_the_process_that_finds_a_group_overdue_claims_it(
    here: GroupStore, there: GroupStore, policy: TimeoutPolicy
) -> None:
    group = join(here, "a", "b", timeout_s=0, on_timeout=policy)[0].group
    assert (group.state, group.late, group.policy, list(group.ids)) == (
        "claimed", True, policy, ["a", "b"],
    )  # fmt: skip
    assert there.read([group.key])[0].state == "claimed_elsewhere"
    # A rollout that arrives later does not wait again; one of another step is of another group.
    later = join(there, "c")
    assert (later[0].group.key, rows_of(later)) == (group.key, [(-1, True)])
    assert rows_of(join(there, "c", step=2)) == [(0, True)]


def test_an_overdue_group_can_fail_in_every_process(here: GroupStore, there: GroupStore) -> None:
    key = join(there, "a", on_timeout="error", timeout_s=0.001)[0].group.key
    group = here.read([key])[0]
    while group.state == "open":
        group = here.read([key])[0]
    assert (group.state, group.n) == ("failed", 1)
    assert there.changed() == {"g"}
    assert there.read([key])[0].state == "failed"


def test_a_group_whose_processes_died_is_not_joined_by_their_successors(
    here: GroupStore, there: GroupStore, client: redis.Redis
) -> None:
    """A training that is resumed under its run numbers its groups as before."""
    dead = join(here, "a", "b")[0].group.key
    waits = join(here, "c", group="other")[0].group
    for name, s_ago in (("g", group_store.ABANDONED_S), ("other", group_store.ABANDONED_S - 20)):
        generation = dead[1] if name == "g" else waits.key[1]
        due_ms = 1000 * (client.time()[0] - s_ago)
        client.hset(f"{group_key(name)}:{generation}", "due", int(due_ms))
    # Overdue, but perhaps not yet closed by the process that waits.
    assert join(there, "d", group="other")[0].group.key == waits.key
    # The first response came out as before the death.
    joined = join(there, "a", "x", "y")
    assert rows_of(joined) == [(0, True), (1, True), (2, True)]
    assert joined[0].group.key != dead
    assert (joined[0].group.state, list(joined[0].group.ids)) == ("claimed", ["a", "x", "y"])
    # A process that was only cut off from Redis still submits its own.
    late = here.read([dead])[0]
    assert (late.state, late.late, list(late.ids)) == ("claimed", True, ["a", "b"])


@pytest.mark.usefixtures("claims_expire")
def test_an_expired_claim_is_taken_over_and_publishes_nothing(
    here: GroupStore, there: GroupStore
) -> None:
    key = join(here, "a", "b", "c")[0].group.key
    group = there.read([key])[0]
    assert (group.state, list(group.ids)) == ("claimed", ["a", "b", "c"])
    assert here.publish({key: 0}, "void", 3) == [key]
    assert there.publish({key: 0}, "batch", 3) == []
    assert here.read([key])[0].batch == "batch"


@pytest.mark.usefixtures("claims_expire")
def test_a_batch_published_by_a_dead_process_is_sent_by_another_under_its_id(
    here: GroupStore, there: GroupStore
) -> None:
    key = join(here, "a", "b", "c")[0].group.key
    assert here.publish({key: 0}, "batch", 3) == []
    group = there.read([key])[0]
    assert (group.state, group.batch) == ("published", "batch")
    there.mark_sent([key])
    assert here.read([key])[0].state == "sent"


def test_groups_of_one_batch_are_published_together_or_not_at_all(
    here: GroupStore, there: GroupStore
) -> None:
    mine = join(here, "a", "b", "c")[0].group.key
    theirs = join(there, "d", "e", "f", group="h")[0].group.key
    assert here.publish({mine: 0, theirs: 3}, "batch", 6) == [theirs]
    assert here.read([mine])[0].state == "claimed"


def test_a_released_claim_is_taken_over(here: GroupStore, there: GroupStore) -> None:
    key = join(there, "a")[0].group.key
    join(here, "b", "c")
    here.release([key])
    assert there.changed() == {"g"}
    assert there.read([key])[0].state == "claimed"
    assert here.read([key])[0].state == "claimed_elsewhere"


def test_every_key_expires_and_a_finished_group_soon(
    here: GroupStore, there: GroupStore, client: redis.Redis
) -> None:
    def times_left() -> dict[str, int]:
        keys: list[Any] = client.keys("oyer:*")
        return {key.decode(): client.ttl(key) for key in keys}

    key = join(there, "a")[0].group.key
    generation = group_key(":".join(key))
    assert {BACKLOG_KEY, BACKLOG_ENDS_KEY} < set(times_left())
    assert all(0 < left <= 600 for left in times_left().values())
    join(here, "b", "c")
    assert set(times_left()) == {group_key("g"), generation, f"{generation}:rows"}
    assert all(0 < left <= 600 for left in times_left().values())
    here.publish({key: 0}, "batch", 3)
    here.mark_sent([key])
    assert f"{generation}:rows" not in times_left()
    assert all(0 < left <= 600 for left in times_left().values())
    assert there.changed() == {"g"}
    here.finish([key])
    assert all(0 < left <= group_store.MEMORY_S for left in times_left().values())
    assert set(times_left()) == {group_key("g"), generation}


def test_the_backlog_counts_the_rollouts_of_open_groups(
    here: GroupStore, there: GroupStore, client: redis.Redis
) -> None:
    backlog = Backlog(client, expires_s=600)

    def size_of(name: str) -> int:
        packed = pack({name: Rollout(prompt="p", response=name)}, with_token_ids=False)
        return sum(map(len, packed))

    join(here, "a")
    assert backlog.held_bytes() == size_of("a")
    join(there, "a")
    assert backlog.held_bytes() == size_of("a"), "a rollout submitted again is counted once"
    join(there, "b")
    join(here, "d", group="h", on_timeout="error", timeout_s=0.001)
    key = join(here, "e", group="i", timeout_s=0.001)[0].group.key
    assert backlog.held_bytes() == sum(map(size_of, "abde"))
    join(here, "c")
    while here.read([key])[0].state == "open":
        pass
    assert backlog.held_bytes() == size_of("d")
    while join(there, "d", group="h")[0].group.state == "open":
        pass
    assert backlog.held_bytes() == 0
    join(here, "f", "g", "h", group="whole")
    assert backlog.held_bytes() == 0
    join(here, "x", group="expired")
    members: list[Any] = client.zrange(BACKLOG_ENDS_KEY, 0, 0)
    client.zadd(BACKLOG_ENDS_KEY, {members[0]: 1})
    assert backlog.held_bytes() == 0
    assert not client.exists(BACKLOG_KEY, BACKLOG_ENDS_KEY)


def test_a_group_that_redis_lost_is_gone_and_its_generation_is_not_reused(
    here: GroupStore, client: redis.Redis
) -> None:
    key = join(here, "a")[0].group.key
    client.flushall()
    client.script_flush()
    assert here.read([key])[0].state == "gone"
    assert states_of(join(here, "b"))[0].key != key
    assert here.read([key])[0].state == "gone"
