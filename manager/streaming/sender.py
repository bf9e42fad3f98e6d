"""Sends what has gathered, and gives the rows of batches to the rollouts that wait for them.

- Groups are published under their batch's id before its tasks are sent: whoever dies in between,
  another process sends the same batch.
- `send`, `send_again` and `report_finished` are for one thread; batches end on the poller's.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from oyer.config.reward import RewardConfig
from oyer.manager.backend.connection import BeforeSending, Broker, Withdrawn, backend
from oyer.manager.future import RewardFuture
from oyer.manager.requirements import compares
from oyer.manager.score import Score, scores_of
from oyer.manager.streaming.group_queue import Bound, GroupClaim, PendingRollout
from oyer.manager.streaming.group_store import GroupStore, Place
from oyer.manager.streaming.pending import ending_together
from oyer.protocol.batch import Manifest
from oyer.protocol.errors import BackendUnavailable, MissingScores, OyerError
from oyer.protocol.rollout import Rollout

log = logging.getLogger(__name__)


class Submit(Protocol):
    """Submits a batch; `before_sending` is called when all of it but its tasks is in Redis."""

    def __call__(
        self,
        rollouts: Sequence[Rollout],
        config: RewardConfig,
        run: str,
        step: int | None,
        before_sending: BeforeSending | None = None,
    ) -> RewardFuture: ...


class Lane(NamedTuple):
    """What may share a batch: a run, a step, and with or without length terms."""

    run: str
    step: int | None
    shaped: bool


@dataclass
class Load:
    """What is sent in one batch."""

    members: list[PendingRollout] = field(default_factory=list)
    claims: list[GroupClaim] = field(default_factory=list)
    ahead: list[PendingRollout] = field(default_factory=list)
    """Judged ahead of their group: nobody waits for these rows."""


@dataclass
class _Awaited:
    """Who waits for a batch."""

    rows: list[tuple[int, PendingRollout]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)


class Sender:
    """The batches of one stream."""

    def __init__(
        self,
        submit: Submit,
        config: RewardConfig,
        broker: Broker,
        on_end: Callable[[Sequence[PendingRollout]], None],
    ) -> None:
        self._submit = submit
        self._config = config
        self._compares = compares(config)
        self._unshaped = config.model_copy(update={"length": ()})
        self._broker = broker
        self._on_end = on_end
        self._lock = threading.Lock()
        self._awaited: dict[str, _Awaited] = {}
        self._finished: list[Place] = []

    @property
    def has_finished(self) -> bool:
        """Whether there is something to report."""
        return bool(self._finished)

    def send(self, lane: Lane, load: Load, meeting: GroupStore) -> list[GroupClaim]:
        """Submit a load.

        Returns:
            Claims that had gone to another process: they are to be waited for.
        """
        lost: list[GroupClaim] = []
        for part in _apart(load) if self._compares and lane.shaped else [load]:
            lost += self._send(lane, part, meeting)
        return lost

    def _send(self, lane: Lane, load: Load, meeting: GroupStore) -> list[GroupClaim]:
        lost: list[GroupClaim] = []
        while load.members or load.claims or load.ahead:
            rollouts, starts = _laid_out(load)
            gone: list[Place] = []
            try:
                before = _publisher(meeting, starts, gone) if starts else None
                config = self._config if lane.shaped else self._unshaped
                future = self._submit(rollouts, config, lane.run, lane.step, before)
            except Withdrawn:
                lost += [claim for claim in load.claims if claim.place in gone]
                load.claims = [claim for claim in load.claims if claim.place not in gone]
                continue
            except Exception as error:  # noqa: BLE001 - a dead thread would leave all others waiting
                rows = [*enumerate(load.members), *_rows(load.claims, starts)]
                self.end([(member, error) for _, member in rows])
                with contextlib.suppress(BackendUnavailable):
                    # With the broker away, the lease ends by itself.
                    meeting.release(list(starts))
                break
            if starts:
                # Not told, the others look when the lease ends, and send the tasks again.
                with contextlib.suppress(BackendUnavailable):
                    meeting.announce(list(starts))
            rows = [*enumerate(load.members), *_rows(load.claims, starts)]
            self._await(future.batch_id, rows, list(starts), future)
            break
        return lost

    def send_again(self, place: Place, batch_id: str, meeting: GroupStore) -> None:
        """Send the tasks of a published group's batch, whose leader may have died before it did.

        With the broker away, the group is found unsent again.
        """
        with contextlib.suppress(BackendUnavailable):
            try:
                backend(*self._broker).send_again(batch_id, "its group's leader fell silent")
            except OyerError as error:
                if isinstance(error, BackendUnavailable):
                    raise
                # Who waits for the batch recovers it, or says why it cannot be.
                log.warning("batch %s could not be sent: %s", batch_id, error)
            meeting.announce([place])

    def bind(self, bound: Bound) -> None:
        """Wait for the batch of another process."""
        self._await(bound.batch, bound.rows, [bound.place], None, bound.verdicts)

    def end(self, outcomes: Sequence[tuple[PendingRollout, Score | Exception]]) -> None:
        """Give members what they came to."""
        self._on_end([member for member, _ in outcomes])
        with ending_together():
            # One that has ended with an error may still be in a group that others complete.
            for member, outcome in outcomes:
                member.pending.end(outcome)

    def report_finished(self, meeting: GroupStore) -> None:
        """Say which groups' batches have ended; unsaid, their keys stay until they expire."""
        with self._lock:
            finished, self._finished = self._finished, []
        with contextlib.suppress(BackendUnavailable):
            meeting.finish(finished)

    def _await(
        self,
        batch_id: str,
        rows: Sequence[tuple[int, PendingRollout]],
        places: Sequence[Place],
        future: RewardFuture | None,
        verdicts: int = 0,
    ) -> None:
        """Give members their rows once the batch ends; one future serves all that wait for it."""
        if not rows and not places:
            return
        with self._lock:
            awaited = self._awaited.get(batch_id)
            known = awaited is not None
            if awaited is None:
                awaited = self._awaited[batch_id] = _Awaited()
            awaited.rows += rows
            awaited.places += places
        if known:
            return
        if future is None:
            future = RewardFuture(
                batch_id=batch_id,
                verdicts=verdicts,
                rules=self._config.reward,
                broker=self._broker,
                stall_timeout_s=self._config.stall_s,
            )
        future.add_done_callback(self._settle)

    def _settle(self, future: RewardFuture) -> None:
        with self._lock:
            awaited = self._awaited.pop(future.batch_id)
            self._finished += awaited.places
        outcomes = _outcomes(future, [row for row, _ in awaited.rows])
        members = [member for _, member in awaited.rows]
        self.end(list(zip(members, outcomes, strict=True)))


def _apart(load: Load) -> list[Load]:
    """Split a load so that no batch holds two groups of one id: it would compare them as one.

    Two calls may bring whole groups with one id, as two trainings that share a server do.
    """
    parts: list[tuple[Load, dict[str | int, Hashable]]] = [(Load(ahead=load.ahead), {})]

    def part_for(group_id: str | int | None, unit: Hashable) -> Load:
        if group_id is None:
            return parts[0][0]
        for part, units in parts:
            if units.setdefault(group_id, unit) == unit:
                return part
        parts.append((Load(), {group_id: unit}))
        return parts[-1][0]

    for member in load.members:
        part_for(member.rollout.group_id, member.key).members.append(member)
    for claim in load.claims:
        part_for(claim.rollouts[0].group_id, claim.place).claims.append(claim)
    return [part for part, _ in parts]


def _laid_out(load: Load) -> tuple[list[Rollout], dict[Place, int]]:
    """Put a load in rows; returns the rollouts and the first row of each group."""
    rollouts = [member.rollout for member in load.members]
    starts = {}
    for claim in load.claims:
        starts[claim.place] = len(rollouts)
        rollouts += claim.rollouts
    return rollouts + [member.rollout for member in load.ahead], starts


def _rows(
    claims: Sequence[GroupClaim], starts: dict[Place, int]
) -> list[tuple[int, PendingRollout]]:
    return [
        (starts[claim.place] + row, one.member)
        for claim in claims
        for row, one in claim.members.items()
    ]


def _publisher(meeting: GroupStore, starts: dict[Place, int], gone: list[Place]) -> BeforeSending:
    def publish(manifest: Manifest) -> None:
        verdicts = manifest.size * len(manifest.plan["judges"])
        gone[:] = meeting.publish(starts, manifest.batch_id, verdicts)
        if gone:
            raise Withdrawn

    return publish


def _outcomes(future: RewardFuture, rows: Sequence[int]) -> list[Score | Exception]:
    """Read rows of a batch; strangers share it, so only rows without a score get its error."""
    try:
        return [*scores_of(future.result(0), rows)]
    except MissingScores as error:
        scores = scores_of(error.batch, rows)
        return [score if score.trainable else error for score in scores]
    except Exception as error:  # noqa: BLE001 - whatever the batch failed with, its rows say so
        return [error] * len(rows)
