"""Processes that act on groups in any order, against the invariants of every group."""

from collections.abc import Sequence

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
from oyer.manager.streaming.group_store import GroupKey, GroupState
from tests.support.group_parts import HOURS_S, close, join, states_of, store_on

PROCESSES = 3


class Model(RuleBasedStateMachine):
    """Processes that join, close, read, publish, release and die in any order."""

    url: str
    size = 3

    @initialize()
    def begin(self) -> None:
        """Start with an empty Redis."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        self.stores = [store_on(self.url) for _ in range(PROCESSES)]
        self.row: dict[str, tuple[str, int]] = {}
        self.claimed_by: dict[str, int] = {}
        self.published: dict[str, str] = {}
        self.generations = ["none"]
        self.batches = 0

    @rule(
        process=st.integers(0, PROCESSES - 1),
        ids=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True),
        late=st.booleans(),
    )
    def join(self, process: int, ids: list[str], late: bool) -> None:
        """Add rollouts, some of them again."""
        store = self.stores[process]
        joined = join(store, *ids, size=self.size, timeout_s=0 if late else HOURS_S)
        for name, (_, group, row, is_new) in zip(ids, joined, strict=True):
            generation = group.key[1]
            if name in self.row:
                # Submitted again by any process at any time, a rollout keeps its row.
                assert ((generation, row), is_new) == (self.row[name], False)
            elif row >= 0:
                assert is_new
                self.row[name] = (generation, row)
        for group in states_of(joined):
            self.note(process, group, ids)

    @rule(
        process=st.integers(0, PROCESSES - 1),
        absent=st.none() | st.lists(st.sampled_from("xyz"), max_size=3),
    )
    def close(self, process: int, absent: list[str] | None) -> None:
        """Note rollouts that will not come."""
        close(self.stores[process], absent, size=self.size)

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def read(self, process: int, which: int) -> None:
        """Read a group."""
        self.note(process, self.stores[process].read([self.key(which)])[0])

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def publish(self, process: int, which: int) -> None:
        """Publish a group, claimed or not."""
        self.batches += 1
        batch = f"batch {self.batches}"
        key = self.key(which)
        generation = key[1]
        if not self.stores[process].publish({key: 0}, batch, 1):
            assert generation not in self.published, "a group is in one batch only"
            assert self.claimed_by[generation] == process, "only a process with the claim publishes"
            self.published[generation] = batch

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def mark_sent(self, process: int, which: int) -> None:
        """Note that a group's tasks are sent."""
        self.stores[process].mark_sent([self.key(which)])

    @rule(process=st.integers(0, PROCESSES - 1), which=st.integers(0, 4))
    def release(self, process: int, which: int) -> None:
        """Release a claim, held or not."""
        self.stores[process].release([self.key(which)])

    def key(self, which: int) -> GroupKey:
        """Return one of the groups so far."""
        return "g", self.generations[which % len(self.generations)]

    def note(self, process: int, group: GroupState, added: Sequence[str] = ()) -> None:
        """Check the state of a group as a process reads it; it may have just added all rollouts."""
        generation = group.key[1]
        if generation not in self.generations:
            self.generations.append(generation)
        if group.state in ("published", "sent"):
            assert group.batch == self.published[generation]
        elif group.state == "claimed":
            assert generation not in self.published
            self.claimed_by[generation] = process
            members = {name for name, (where, _) in self.row.items() if where == generation}
            assert set(group.ids) == members
            assert [self.row[name][1] for name in group.ids] == list(range(len(group.ids)))
            packed = b",".join(part[0] for part in group.packed).decode().split(",")
            assert {*packed, *added} >= members, "the payload of every rollout is stored"
            assert group.late or len(group.ids) == self.size

    @invariant()
    def groups_have_their_size(self) -> None:
        """No group has more rollouts than its size, and no two share a row."""
        rows = list(self.row.values())
        assert len(set(rows)) == len(rows)
        assert all(row < self.size for _, row in rows)


def test_in_any_order_of_events_a_group_is_published_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Model.url = redis_url
    for claim_s in (0.0, 3600.0):
        monkeypatch.setattr(group_store, "CLAIM_S", claim_s)
        run_state_machine_as_test(
            Model,
            settings=settings(
                max_examples=60,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
