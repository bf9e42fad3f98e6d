"""Submits batches of pending rollouts and sets each rollout's result when its batch ends.

- A group is published with its batch's id before the batch's tasks are sent: if this process dies in
  between, another one sends the same batch.
- One thread uses `send`, `resubmit` and `wait_for`; batches end on the poller's thread.
"""

import contextlib
import logging
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from oyer.config.reward import RewardConfig
from oyer.manager.backend.connection import Broker, backend
from oyer.manager.backend.prepare import PreparedBatch, prepare
from oyer.manager.future import RewardFuture
from oyer.manager.requirements import compares, without_groups
from oyer.manager.score import Score, scores_of
from oyer.manager.streaming.group_queue import GroupClaim
from oyer.manager.streaming.group_store import GroupKey, GroupState, GroupStore
from oyer.manager.streaming.pending import PendingRollout, PendingRollouts
from oyer.protocol.batch import Priority
from oyer.protocol.errors import BackendUnavailable, MissingScores, OyerError
from oyer.protocol.rollout import Rollout

log = logging.getLogger(__name__)

SUBMITTER_STOPPED = "the process that submitted its group stopped"
"""The recorded reason of a resubmission; `measured.resubmission_reason` labels it."""


class OpenBatchKey(NamedTuple):
    """What the rollouts of a batch have in common."""

    run: str
    step: int | None
    split: str | None
    with_length: bool = True
    """Whether their rewards get length terms and scores of group judges."""
    priority: Priority = "training"

    @classmethod
    def of(cls, one: PendingRollout, *, with_length: bool = True) -> Self:
        """Return the key of the batches that a rollout may be in."""
        return cls(one.run, one.step, one.split, with_length, one.priority)


@dataclass
class OpenBatch:
    """Rollouts collected for one batch."""

    opened_s: float = 0.0
    joining: list[PendingRollout] = field(default_factory=list)
    """Join their groups when the batch is due; they are sent with their groups."""
    members: list[PendingRollout] = field(default_factory=list)
    claims: list[GroupClaim] = field(default_factory=list)
    early: list[PendingRollout] = field(default_factory=list)
    """Judged before their groups are complete; their scores come from the batches of the groups."""


class Sender:
    """The batches of one stream."""

    def __init__(
        self, config: RewardConfig, broker: Broker, store: GroupStore, pending: PendingRollouts
    ) -> None:
        self._config = config
        self._compares = compares(config)
        self._of_one = without_groups(config)
        self._broker = broker
        self._store = store
        self._pending = pending
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[list[tuple[int, PendingRollout]], list[GroupKey]]] = {}
        """By batch id: rollouts with their rows, and groups."""

    def send(self, key: OpenBatchKey, batch: OpenBatch) -> list[GroupClaim]:
        """Submit a batch; returns the claims that other processes have taken over by now."""
        early = OpenBatch(early=batch.early)
        batch.early = []
        parts = _split(batch) if self._compares and key.with_length else [batch]
        parts.append(early)
        return [claim for part in parts for claim in self._send(key, part)]

    def _send(self, key: OpenBatchKey, batch: OpenBatch) -> list[GroupClaim]:
        config = self._config if key.with_length else self._of_one
        lost: list[GroupClaim] = []
        while batch.members or batch.claims or batch.early:
            rollouts, starts = _layout(batch)
            rows = [*enumerate(batch.members), *_rows(batch.claims, starts)]
            try:
                prepared = prepare(
                    rollouts,
                    config,
                    run=key.run,
                    step=key.step,
                    split=key.split,
                    preliminary=bool(batch.early),
                    priority=key.priority,
                    incomplete=_incomplete(batch, starts),
                    now_s=backend(*self._broker).now_s(),
                )
                taken = self._submit(prepared, starts)
                if not taken:
                    future = RewardFuture.of(prepared, config, self._broker)
                    self._add_waiting(future.batch_id, rows, list(starts))
                    future.add_done_callback(self._batch_ended)
                    break
            except Exception as error:  # noqa: BLE001 - the sending thread must survive
                self._pending.end([(one, error) for _, one in rows])
                with contextlib.suppress(BackendUnavailable):  # the claims expire
                    self._store.release(list(starts))
                break
            lost += [claim for claim in batch.claims if claim.group.key in taken]
            batch.claims = [claim for claim in batch.claims if claim.group.key not in taken]
        return lost

    def _submit(self, prepared: PreparedBatch, starts: dict[GroupKey, int]) -> list[GroupKey]:
        """Submit a batch unless another process has claimed one of its groups; returns those."""
        source = backend(*self._broker)
        max_backlog_bytes = self._config.broker.max_backlog_bytes
        if not starts:
            source.submit(prepared, max_backlog_bytes)
            return []
        source.post(prepared, max_backlog_bytes)
        taken = self._store.publish(starts, prepared.manifest.batch_id, prepared.verdicts)
        if taken:
            source.withdraw(prepared.manifest)
            return taken
        source.send(prepared.manifest)
        # Otherwise another process sends the tasks again when the claim expires.
        with contextlib.suppress(BackendUnavailable):
            self._store.mark_sent(list(starts))
        return []

    def resubmit(self, group: GroupState) -> None:
        """Send the tasks of a published group's batch, whose process may have died before it did.

        If the broker cannot be reached, the next read of the group finds it unsent again.
        """
        with contextlib.suppress(BackendUnavailable):
            try:
                backend(*self._broker).resubmit(group.batch, SUBMITTER_STOPPED)
            except BackendUnavailable:
                raise
            except OyerError as error:
                # The futures of the batch recover it or report why they cannot.
                log.warning("batch %s could not be sent: %s", group.batch, error)
            self._store.mark_sent([group.key])

    def wait_for(self, group: GroupState, members: Sequence[PendingRollout]) -> None:
        """Wait for the batch of another process that a group is in."""
        rows = [(group.start + one.row, one) for one in members]
        if self._add_waiting(group.batch, rows, [group.key]):
            future = RewardFuture(
                batch_id=group.batch,
                verdicts=group.verdicts,
                rules=self._config.reward,
                broker=self._broker,
                stall_timeout_s=self._config.stall_s,
            )
            future.add_done_callback(self._batch_ended)

    def _add_waiting(
        self, batch_id: str, rows: Sequence[tuple[int, PendingRollout]], groups: Sequence[GroupKey]
    ) -> bool:
        """Note who waits for a batch; returns whether it needs a future."""
        with self._lock:
            is_new = batch_id not in self._waiting
            waiting_rows, waiting_groups = self._waiting.setdefault(batch_id, ([], []))
            waiting_rows += rows
            waiting_groups += groups
            return is_new

    def _batch_ended(self, future: RewardFuture) -> None:
        with self._lock:
            rows, groups = self._waiting.pop(future.batch_id)
        outcomes = _outcomes(future, [row for row, _ in rows])
        self._pending.end([(one, out) for (_, one), out in zip(rows, outcomes, strict=True)])
        with contextlib.suppress(BackendUnavailable):  # the groups expire later
            self._store.finish(groups)


def _split(batch: OpenBatch) -> list[OpenBatch]:
    """Split a batch so that none has two groups of one id, whose lengths would be compared as one.

    Two trainings that share a server may use the same group ids.
    """
    parts: list[tuple[OpenBatch, dict[str | int, Hashable]]] = [(OpenBatch(), {})]

    def part_for(group_id: str | int | None, unit: Hashable) -> OpenBatch:
        if group_id is None:
            return parts[0][0]
        for part, units in parts:
            if units.setdefault(group_id, unit) == unit:
                return part
        parts.append((OpenBatch(), {group_id: unit}))
        return parts[-1][0]

    for one in batch.members:
        part_for(one.rollout.group_id, one.unit).members.append(one)
    for claim in batch.claims:
        part_for(claim.rollouts[0].group_id, claim.group.key).claims.append(claim)
    return [part for part, _ in parts]


def _layout(batch: OpenBatch) -> tuple[list[Rollout], dict[GroupKey, int]]:
    """Return a batch's rollouts by row, and the first row of each group."""
    rollouts = [one.rollout for one in batch.members]
    starts = {}
    for claim in batch.claims:
        starts[claim.group.key] = len(rollouts)
        rollouts += claim.rollouts
    return rollouts + [one.rollout for one in batch.early], starts


def _incomplete(batch: OpenBatch, starts: dict[GroupKey, int]) -> list[int]:
    """Return the rows that are compared without some rollouts of their groups."""
    rows = [row for row, one in enumerate(batch.members) if one.is_late]
    for claim in batch.claims:
        if claim.group.late:
            start = starts[claim.group.key]
            rows += range(start, start + len(claim.rollouts))
    return rows


def _rows(
    claims: Sequence[GroupClaim], starts: dict[GroupKey, int]
) -> list[tuple[int, PendingRollout]]:
    return [(starts[claim.group.key] + one.row, one) for claim in claims for one in claim.members]


def _outcomes(future: RewardFuture, rows: Sequence[int]) -> list[Score | Exception]:
    """Return the scores of some rows. An error for missing scores affects only rows without one."""
    try:
        return [*scores_of(future.outcome(), rows)]
    except MissingScores as error:
        scores = scores_of(error.batch, rows)
        return [score if score.trainable else error for score in scores]
    except Exception as error:  # noqa: BLE001 - it is the result of every row
        return [error] * len(rows)
