"""Where processes meet: one group, one leader, one batch, whatever order things happen in.

Time is Redis' own, so lateness and the end of a lease are made by timeouts of nothing or of hours.
"""

from collections.abc import Iterator

import pytest
import redis

from oyer.manager.streaming import group_store
from oyer.manager.streaming.group_store import GroupStore
from oyer.manager.streaming.identity import TimeoutPolicy
from oyer.protocol.batch_store import Backlog
from oyer.protocol.names import BACKLOG_ENDS_KEY, BACKLOG_KEY, group_key
from tests.support.group_parts import bring, look, meeting_on, place_of, rows_of


@pytest.fixture
def leases_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every lease end at once."""
    monkeypatch.setattr(group_store, "LEASE_S", 0.0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def here(client: redis.Redis) -> GroupStore:
    return meeting_on(client)


@pytest.fixture
def there(client: redis.Redis) -> GroupStore:
    return meeting_on(client)


def test_who_completes_a_group_leads_it_and_gets_all_of_it(
    here: GroupStore, there: GroupStore
) -> None:
    assert bring(here, "a").seen[0].state == "open"
    assert there.told() == set()
    done = bring(there, "b", "c")
    place = place_of(done)
    (seen,) = done.seen
    assert (seen.state, list(seen.ids), seen.late) == ("claimed", ["a", "b", "c"], False)
    assert [part[0] for part in seen.parts] == [b"a", b"b,c"]
    assert rows_of(done) == [(1, True), (2, True)]
    assert look(here, place).state == "led"
    assert there.publish({place: 16}, "batch", 64) == []
    assert look(here, place).state == "led"
    assert here.told() == set()
    there.announce([place])
    assert here.told() == {"g"}
    assert there.told() == set()
    found = look(here, place)
    assert (found.state, found.batch, found.start, found.verdicts) == ("sent", "batch", 16, 64)


@pytest.mark.usefixtures("leases_end")
def test_who_brings_all_of_a_group_does_not_get_it_back_but_its_heir_does(
    here: GroupStore, there: GroupStore
) -> None:
    brought = bring(here, "a", "b", "c")
    (seen,) = brought.seen
    assert (seen.state, list(seen.ids), list(seen.parts)) == ("claimed", ["a", "b", "c"], [])
    heir = look(there, place_of(brought))
    assert (heir.state, [part[0] for part in heir.parts]) == ("claimed", [b"a,b,c"])


def test_what_is_told_of_several_groups_is_told_of_each(
    here: GroupStore, there: GroupStore
) -> None:
    for group in "gh":
        bring(there, f"{group}1", group=group)
    places = [place_of(bring(here, f"{g}2", f"{g}3", group=g), group=g) for g in "gh"]
    assert here.publish({places[0]: 0, places[1]: 3}, "batch", 6) == []
    here.announce(places)
    assert there.told() == {"g", "h"}
    assert [look(there, place).start for place in places] == [0, 3]


def test_a_member_handed_over_again_joins_and_counts_once(
    here: GroupStore, there: GroupStore, client: redis.Redis
) -> None:
    first = bring(here, "a", "b")
    again = bring(there, "a")
    assert (place_of(again), rows_of(again)) == (place_of(first), [(0, False)])
    assert (again.seen[0].state, again.seen[0].n) == ("open", 2)
    place = place_of(bring(here, "c"))
    here.publish({place: 0}, "batch", 3)
    here.announce([place])
    assert there.told() == {"g"}
    here.finish([place])
    late = bring(meeting_on(client), "b")
    assert (place_of(late), rows_of(late), late.seen[0].batch) == (place, [(1, False)], "batch")


def test_a_further_rollout_of_a_group_that_is_made_begins_another(here: GroupStore) -> None:
    first = bring(here, "a", "b", "c")
    more = bring(here, "d")
    assert place_of(more) != place_of(first)
    assert (rows_of(more), more.seen[0].state, more.seen[0].n) == ([(0, True)], "open", 1)
    # What it was made of before is still found.
    again = bring(here, "b")
    assert (place_of(again), rows_of(again)) == (place_of(first), [(1, False)])


def test_more_than_a_group_brought_at_once_is_two_groups(here: GroupStore) -> None:
    brought = bring(here, "a", "b", "c", "d")
    assert [row for row, _ in rows_of(brought)] == [0, 1, 2, 0]
    states = {seen.place: seen.state for seen in brought.seen}
    assert states == {place_of(brought): "claimed", place_of(brought, 3): "open"}


@pytest.mark.parametrize("policy", ["partial", "neutral"])
def test_who_finds_a_group_late_leads_it(
    here: GroupStore, there: GroupStore, policy: TimeoutPolicy
) -> None:
    brought = bring(here, "a", "b", timeout_s=0, on_timeout=policy)
    seen = brought.seen[0]
    assert (seen.state, seen.late, seen.policy, list(seen.ids)) == (
        "claimed", True, policy, ["a", "b"],
    )  # fmt: skip
    assert look(there, place_of(brought)).state == "led"
    # A straggler does not wait once more, but another step's rollout is another group's.
    straggler = bring(there, "c")
    assert (place_of(straggler), rows_of(straggler)) == (place_of(brought), [(-1, True)])
    assert rows_of(bring(there, "c", step=2)) == [(0, True)]


def test_a_late_group_can_be_an_error_for_everyone(here: GroupStore, there: GroupStore) -> None:
    place = place_of(bring(there, "a", on_timeout="error", timeout_s=0.001))
    seen = look(here, place)
    while seen.state == "open":
        seen = look(here, place)
    assert (seen.state, seen.n) == ("failed", 1)
    assert there.told() == {"g"}
    assert look(there, place).state == "failed"


@pytest.mark.usefixtures("leases_end")
def test_a_leader_that_dies_is_replaced_and_its_own_claim_is_void(client: redis.Redis) -> None:
    dead, heir = meeting_on(client), meeting_on(client)
    place = place_of(bring(dead, "a", "b", "c"))
    seen = look(heir, place)
    assert (seen.state, list(seen.ids)) == ("claimed", ["a", "b", "c"])
    assert dead.publish({place: 0}, "void", 3) == [place]
    assert heir.publish({place: 0}, "batch", 3) == []
    assert look(dead, place).batch == "batch"


@pytest.mark.usefixtures("leases_end")
def test_a_batch_published_by_a_dead_leader_is_sent_by_another_under_its_id(
    client: redis.Redis,
) -> None:
    dead, heir = meeting_on(client), meeting_on(client)
    place = place_of(bring(dead, "a", "b", "c"))
    assert dead.publish({place: 0}, "batch", 3) == []
    seen = look(heir, place)
    assert (seen.state, seen.batch) == ("published", "batch")
    heir.announce([place])
    assert look(dead, place).state == "sent"


def test_groups_of_one_batch_are_published_together_or_not_at_all(
    here: GroupStore, there: GroupStore
) -> None:
    mine = place_of(bring(here, "a", "b", "c"))
    theirs = place_of(bring(there, "d", "e", "f", group="h"), group="h")
    assert here.publish({mine: 0, theirs: 3}, "batch", 6) == [theirs]
    assert look(here, mine).state == "claimed"


def test_a_leader_that_cannot_submit_leaves_the_group_to_the_next(
    here: GroupStore, there: GroupStore
) -> None:
    place = place_of(bring(there, "a"))
    bring(here, "b", "c")
    here.release([place])
    assert there.told() == {"g"}
    assert look(there, place).state == "claimed"
    assert look(here, place).state == "led"


def test_everything_expires_and_a_made_group_soon(here: GroupStore, client: redis.Redis) -> None:
    def times_left() -> dict[str, int]:
        return {key.decode(): client.ttl(key) for key in client.keys("oyer:*")}

    other = meeting_on(client)
    place = place_of(bring(other, "a"))
    generation = group_key(":".join(place))
    assert {BACKLOG_KEY, BACKLOG_ENDS_KEY} < set(times_left())
    assert all(0 < left <= 600 for left in times_left().values())
    bring(here, "b", "c")
    assert set(times_left()) == {group_key("g"), generation, f"{generation}:rows"}
    assert all(0 < left <= 600 for left in times_left().values())
    here.publish({place: 0}, "batch", 3)
    here.announce([place])
    assert f"{generation}:rows" not in times_left()
    assert all(0 < left <= 600 for left in times_left().values())
    assert other.told() == {"g"}
    here.finish([place])
    assert all(0 < left <= group_store.MEMORY_S for left in times_left().values())
    assert set(times_left()) == {group_key("g"), generation}


def test_what_an_incomplete_group_holds_is_in_the_backlog_until_it_is_closed(
    here: GroupStore, there: GroupStore, client: redis.Redis
) -> None:
    backlog = Backlog(client, expires_s=600)

    def size_of(*ids: str) -> int:
        return 2 * len(",".join(ids)) + len("rows of ")

    bring(here, "a")
    assert backlog.held_bytes() == size_of("a")
    bring(there, "a")
    assert backlog.held_bytes() == size_of("a"), "one that is brought again is held once"
    bring(there, "b")
    bring(here, "d", group="h", on_timeout="error", timeout_s=0.001)
    place = place_of(bring(here, "e", group="i", timeout_s=0.001), group="i")
    assert backlog.held_bytes() == sum(map(size_of, "abde"))
    bring(here, "c")
    while look(here, place).state == "open":
        pass
    assert backlog.held_bytes() == size_of("d")
    while bring(there, "d", group="h").seen[0].state == "open":
        pass
    assert backlog.held_bytes() == 0
    bring(here, "f", "g", "h", group="whole")
    assert backlog.held_bytes() == 0
    bring(here, "x", group="forgotten")
    client.zadd(BACKLOG_ENDS_KEY, {client.zrange(BACKLOG_ENDS_KEY, 0, -1)[0]: 1})
    assert backlog.held_bytes() == 0
    assert not client.exists(BACKLOG_KEY, BACKLOG_ENDS_KEY)


def test_a_group_that_redis_has_forgotten_is_gone_and_the_next_is_no_namesake(
    here: GroupStore, client: redis.Redis
) -> None:
    place = place_of(bring(here, "a"))
    client.flushall()
    client.script_flush()
    assert look(here, place).state == "gone"
    assert place_of(bring(here, "b")) != place
    assert look(here, place).state == "gone"
