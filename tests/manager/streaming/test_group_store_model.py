"""Processes that meet in any order, against what must hold of every group."""

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

from oyer.manager.streaming import group_store
from oyer.manager.streaming.group_store import Place, Seen
from tests.support.group_parts import HOURS_S, bring, look, meeting_on

PROCESSES = 3


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


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
        monkeypatch.setattr(group_store, "LEASE_S", lease_s)
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Model,
            settings=settings(
                max_examples=60,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
