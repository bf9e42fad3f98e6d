"""Where processes meet: one group, one leader, one batch, whatever order things happen in.

Time is Redis' own, so lateness and the end of a lease are made by timeouts of nothing or of hours.
"""

import contextlib
from collections.abc import Iterator, Sequence

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from oyer.manager import meeting
from oyer.manager.groups import TimeoutPolicy
from oyer.manager.meeting import Bringing, Brought, Meeting, Place, Seen
from oyer.tasks.backlog import Backlog
from oyer.tasks.names import BACKLOG_ENDS_KEY, BACKLOG_KEY, group_key

PROCESSES = 3
HOURS_S = 36000.0


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Let errors of Redis through."""
    yield


def meeting_on(client: redis.Redis) -> Meeting:
    """Take part as a process of its own would."""
    return Meeting(client, reached, 600)


def bring(
    where: Meeting,
    *ids: str,
    group: str = "g",
    size: int = 3,
    step: int | None = 1,
    timeout_s: float = HOURS_S,
    on_timeout: TimeoutPolicy = "partial",
) -> Brought:
    """Bring members whose payload is their name."""
    bringing = Bringing(
        group=group,
        size=size,
        step=step,
        timeout_s=timeout_s,
        on_timeout=on_timeout,
        ids=ids,
        parts=(",".join(ids).encode(), b"rows of " + ",".join(ids).encode(), b""),
    )
    return where.look([bringing])[0][0]


def look(where: Meeting, place: Place) -> Seen:
    """Look at a group."""
    return where.look(places=[place])[1][0]


def place_of(brought: Brought, member: int = 0, group: str = "g") -> Place:
    """Where a member was put."""
    return group, brought.places[member][0]


def rows_of(brought: Brought) -> list[tuple[int, bool]]:
    """The rows that members were put into, and whether they were new."""
    return [(row, fresh) for _, row, fresh in brought.places]


@pytest.fixture
def leases_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every lease end at once."""
    monkeypatch.setattr(meeting, "LEASE_S", 0.0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def here(client: redis.Redis) -> Meeting:
    return meeting_on(client)


@pytest.fixture
def there(client: redis.Redis) -> Meeting:
    return meeting_on(client)


def test_who_completes_a_group_leads_it_and_gets_all_of_it(here: Meeting, there: Meeting) -> None:
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
    here: Meeting, there: Meeting
) -> None:
    brought = bring(here, "a", "b", "c")
    (seen,) = brought.seen
    assert (seen.state, list(seen.ids), list(seen.parts)) == ("claimed", ["a", "b", "c"], [])
    heir = look(there, place_of(brought))
    assert (heir.state, [part[0] for part in heir.parts]) == ("claimed", [b"a,b,c"])


def test_what_is_told_of_several_groups_is_told_of_each(here: Meeting, there: Meeting) -> None:
    for group in "gh":
        bring(there, f"{group}1", group=group)
    places = [place_of(bring(here, f"{g}2", f"{g}3", group=g), group=g) for g in "gh"]
    assert here.publish({places[0]: 0, places[1]: 3}, "batch", 6) == []
    here.announce(places)
    assert there.told() == {"g", "h"}
    assert [look(there, place).start for place in places] == [0, 3]


def test_a_member_handed_over_again_joins_and_counts_once(
    here: Meeting, there: Meeting, client: redis.Redis
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


def test_a_further_rollout_of_a_group_that_is_made_begins_another(here: Meeting) -> None:
    first = bring(here, "a", "b", "c")
    more = bring(here, "d")
    assert place_of(more) != place_of(first)
    assert (rows_of(more), more.seen[0].state, more.seen[0].n) == ([(0, True)], "open", 1)
    # What it was made of before is still found.
    again = bring(here, "b")
    assert (place_of(again), rows_of(again)) == (place_of(first), [(1, False)])


def test_more_than_a_group_brought_at_once_is_two_groups(here: Meeting) -> None:
    brought = bring(here, "a", "b", "c", "d")
    assert [row for row, _ in rows_of(brought)] == [0, 1, 2, 0]
    states = {seen.place: seen.state for seen in brought.seen}
    assert states == {place_of(brought): "claimed", place_of(brought, 3): "open"}


@pytest.mark.parametrize("policy", ["partial", "neutral"])
def test_who_finds_a_group_late_leads_it(
    here: Meeting, there: Meeting, policy: TimeoutPolicy
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


def test_a_late_group_can_be_an_error_for_everyone(here: Meeting, there: Meeting) -> None:
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
    here: Meeting, there: Meeting
) -> None:
    mine = place_of(bring(here, "a", "b", "c"))
    theirs = place_of(bring(there, "d", "e", "f", group="h"), group="h")
    assert here.publish({mine: 0, theirs: 3}, "batch", 6) == [theirs]
    assert look(here, mine).state == "claimed"


def test_a_leader_that_cannot_submit_leaves_the_group_to_the_next(
    here: Meeting, there: Meeting
) -> None:
    place = place_of(bring(there, "a"))
    bring(here, "b", "c")
    here.release([place])
    assert there.told() == {"g"}
    assert look(there, place).state == "claimed"
    assert look(here, place).state == "led"


def test_everything_expires_and_a_made_group_soon(here: Meeting, client: redis.Redis) -> None:
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
    assert all(0 < left <= meeting.MEMORY_S for left in times_left().values())
    assert set(times_left()) == {group_key("g"), generation}


def test_what_an_incomplete_group_holds_is_in_the_backlog_until_it_is_closed(
    here: Meeting, there: Meeting, client: redis.Redis
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
    here: Meeting, client: redis.Redis
) -> None:
    place = place_of(bring(here, "a"))
    client.flushall()
    client.script_flush()
    assert look(here, place).state == "gone"
    assert place_of(bring(here, "b")) != place
    assert look(here, place).state == "gone"


class Model(RuleBasedStateMachine):
    """Processes that bring, die, look and submit in any order, against what must hold."""

    client: redis.Redis
    size = 3

    @initialize()
    def begin(self) -> None:
        """Begin with an empty Redis."""
        self.client.flushall()
        self.parts = [meeting_on(self.client) for _ in range(PROCESSES)]
        self.row: dict[str, tuple[str, int]] = {}
        self.leader: dict[str, int] = {}
        self.published: dict[str, str] = {}
        self.generations = ["none"]
        self.batches = 0

    @rule(
        process=st.integers(0, PROCESSES - 1),
        ids=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True),
        late=st.booleans(),
    )
    def bring(self, process: int, ids: list[str], late: bool) -> None:
        """Hand members over, some of them again."""
        brought = bring(self.parts[process], *ids, size=self.size, timeout_s=0 if late else HOURS_S)
        for name, (generation, row, fresh) in zip(ids, brought.places, strict=True):
            if name in self.row:
                # Wherever and whenever it is handed over again, it is where it was.
                assert ((generation, row), fresh) == (self.row[name], False)
            elif row >= 0:
                assert fresh
                self.row[name] = (generation, row)
        for seen in brought.seen:
            self.note(process, seen, ids)

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def look(self, process: int, which: int) -> None:
        """Look after a group."""
        self.note(process, look(self.parts[process], self.place(which)))

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def publish(self, process: int, which: int) -> None:
        """Submit a group, claimed or not."""
        self.batches += 1
        batch = f"batch {self.batches}"
        place = self.place(which)
        gone = self.parts[process].publish({place: 0}, batch, 1)
        generation = place[1]
        if not gone:
            assert generation not in self.published, "a group is in one batch only"
            assert self.leader[generation] == process, "only its leader publishes it"
            self.published[generation] = batch

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def announce(self, process: int, which: int) -> None:
        """Say that a group's tasks are sent."""
        self.parts[process].announce([self.place(which)])

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def release(self, process: int, which: int) -> None:
        """Fail to submit a group."""
        self.parts[process].release([self.place(which)])

    def place(self, which: int) -> Place:
        """One of the groups begun so far."""
        return "g", self.generations[which % len(self.generations)]

    def note(self, process: int, seen: Seen, brought: Sequence[str] = ()) -> None:
        """Check what a process is told of a group, which may be all that it has just brought."""
        generation = seen.generation
        if generation not in self.generations:
            self.generations.append(generation)
        if seen.state in ("published", "sent"):
            assert seen.batch == self.published[generation]
        elif seen.state == "claimed":
            assert generation not in self.published
            self.leader[generation] = process
            members = {name for name, (where, _) in self.row.items() if where == generation}
            assert set(seen.ids) == members
            assert [self.row[name][1] for name in seen.ids] == list(range(len(seen.ids)))
            packed = b",".join(part[0] for part in seen.parts).decode().split(",")
            assert {*packed, *brought} >= members, "every member's payload is there"
            assert seen.late or len(seen.ids) == self.size

    @invariant()
    def groups_have_their_size(self) -> None:
        """No group has more members than its size, and no two share a row."""
        places = list(self.row.values())
        assert len(set(places)) == len(places)
        assert all(row < self.size for _, row in places)


def test_whatever_happens_a_group_is_made_once(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    Model.client = client
    for lease_s in (0.0, 3600.0):
        monkeypatch.setattr(meeting, "LEASE_S", lease_s)
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Model,
            settings=settings(
                max_examples=60,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
