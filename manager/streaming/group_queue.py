"""The rollouts of this process whose groups have no batch yet. Used by one thread."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from oyer.manager.streaming.group_store import GroupKey, GroupState, GroupStore
from oyer.manager.streaming.identity import unpack
from oyer.manager.streaming.pending import GroupClosing, PendingRollout
from oyer.protocol.errors import BackendUnavailable
from oyer.protocol.rollout import Rollout

log = logging.getLogger(__name__)

POLL_S = 0.02
"""Pause between two reads of the mailbox, in seconds; also the maximum delay of a change."""

READ_PAUSE_S = 5.0
"""Maximum pause between two reads of a group, in seconds, in case its message was lost."""

OUTAGE_PAUSE_S = 0.5
"""Pause after the broker could not be reached, in seconds."""


@dataclass(frozen=True)
class GroupClaim:
    """A group that this process is to submit."""

    group: GroupState
    rollouts: Sequence[Rollout]
    """All of the group, by row."""
    members: Sequence[PendingRollout]
    """The group's rollouts that are pending in this process."""


@dataclass
class GroupUpdates:
    """What is to be done for rollouts and groups."""

    claims: list[GroupClaim] = field(default_factory=list)
    """To submit."""
    sent: list[tuple[GroupState, list[PendingRollout]]] = field(default_factory=list)
    """In batches of other processes: their results are to be waited for."""
    unsent: list[GroupState] = field(default_factory=list)
    """In batches whose tasks may not be sent: to resubmit."""
    failed: list[tuple[PendingRollout, Exception]] = field(default_factory=list)
    incomplete: list[PendingRollout] = field(default_factory=list)
    """New rollouts of open groups: to judge early."""
    late: list[tuple[PendingRollout, GroupState]] = field(default_factory=list)
    """Rollouts that arrived after their group was closed late: to score alone."""
    gone: list[PendingRollout] = field(default_factory=list)
    """Rollouts whose group is no longer in Redis: to join it again."""


@dataclass
class _WaitingGroup:
    """This process's rollouts in a group without a batch."""

    members: list[PendingRollout] = field(default_factory=list)
    read_at_s: float = 0.0


class GroupQueue:
    """Joins rollouts to their groups, and finds the groups that are ready."""

    def __init__(self, store: GroupStore) -> None:
        self._store = store
        self._waiting: dict[GroupKey, _WaitingGroup] = {}
        self._closings: list[GroupClosing] = []
        self._poll_at_s = 0.0

    def next_poll_s(self) -> float | None:
        """When to `poll` next, in seconds of `time.monotonic`; None if there is nothing to do."""
        return self._poll_at_s if self._waiting or self._closings else None

    def join(self, rollouts: Sequence[PendingRollout]) -> GroupUpdates:
        """Add rollouts to their groups.

        Raises:
            BackendUnavailable: the broker cannot be reached; the rollouts may have joined or not.
        """
        by_group: dict[tuple[str | None, int | None], list[PendingRollout]] = defaultdict(list)
        for one in rollouts:
            by_group[one.group, one.step].append(one)
        updates = GroupUpdates()
        joined = self._store.join(list(by_group.values()))
        for one, group, row, is_new in joined:
            if row >= 0:
                one.row = row
                self._waiting.setdefault(group.key, _WaitingGroup()).members.append(one)
                if is_new and group.state == "open":
                    updates.incomplete.append(one)
            elif group.policy == "error":
                updates.failed.append((one, _overdue(one, group)))
            else:
                one.is_late = True
                updates.late.append((one, group))
        self._update({place.group.key: place.group for place in joined}.values(), updates)
        return updates

    def close(self, closings: Iterable[GroupClosing]) -> None:
        """Note with the next `poll` that rollouts will not come."""
        self._closings += closings
        self._poll_at_s = 0.0

    def poll(self) -> GroupUpdates:
        """Close groups, and read those that may have changed and those that are due.

        Raises:
            BackendUnavailable: the broker cannot be reached; all groups are read when it is back.
        """
        now_s = time.monotonic()
        self._poll_at_s = now_s + POLL_S
        try:
            closed = self._close()
            changed = self._store.changed() | closed
            due = [
                key
                for key, waiting in self._waiting.items()
                if key[0] in changed or waiting.read_at_s <= now_s
            ]
            groups = self._store.read(due)
        except BackendUnavailable:
            self._poll_at_s = now_s + OUTAGE_PAUSE_S
            for waiting in self._waiting.values():
                waiting.read_at_s = now_s
            self._give_up_closings(now_s)
            raise
        updates = GroupUpdates()
        self._update(groups, updates)
        return updates

    def _close(self) -> set[str]:
        """Close groups; returns their names."""
        self._store.close(self._closings)
        closings, self._closings = self._closings, []
        for closing in closings:
            closing.pending.end(None)
        return {group for closing in closings for group in closing.groups}

    def _give_up_closings(self, now_s: float) -> None:
        error = BackendUnavailable("the broker could not be reached before the groups were overdue")
        for closing in self._closings:
            if closing.expires_s <= now_s:
                closing.pending.end(error)
        self._closings = [closing for closing in self._closings if now_s < closing.expires_s]

    def wait_again(self, claims: Iterable[GroupClaim]) -> None:
        """Wait for groups that another process has claimed meanwhile."""
        for claim in claims:
            self._waiting[claim.group.key] = _WaitingGroup(list(claim.members))

    def clear(self, error: Exception) -> list[PendingRollout]:
        """Stop waiting for all groups, and fail what was to be closed; returns the rollouts that waited."""
        for closing in self._closings:
            closing.pending.end(error)
        self._closings = []
        waiting, self._waiting = self._waiting, {}
        return [one for group in waiting.values() for one in group.members]

    def _update(self, groups: Iterable[GroupState], updates: GroupUpdates) -> None:
        """Note what is to be done for each group."""
        for group in groups:
            waiting = self._waiting.get(group.key)
            if waiting is None:
                continue
            if group.state in ("open", "claimed_elsewhere"):
                waiting.read_at_s = time.monotonic() + min(group.wait_s, READ_PAUSE_S)
            elif group.state == "published":
                waiting.read_at_s = time.monotonic()  # to find it sent
                updates.unsent.append(group)
            else:
                del self._waiting[group.key]
                self._remove(group, waiting.members, updates)
        _log_late(updates.claims)

    def _remove(
        self, group: GroupState, members: list[PendingRollout], updates: GroupUpdates
    ) -> None:
        """Note what is to be done for a group that this process no longer waits for."""
        for one in members:
            one.group_closed = group.state != "gone"
        if group.state == "gone":
            updates.gone += members
        elif group.state == "failed":
            updates.failed += [(one, _overdue(one, group)) for one in members]
        elif group.state == "sent":
            updates.sent.append((group, members))
        else:
            try:
                rollouts = unpack(group.ids, group.packed, {one.id: one.rollout for one in members})
            except Exception as error:  # noqa: BLE001 - it fails this group only
                updates.failed += [(one, error) for one in members]
            else:
                updates.claims.append(GroupClaim(group, rollouts, members))


def _overdue(one: PendingRollout, group: GroupState) -> TimeoutError:
    return TimeoutError(
        f"group {one.rollout.group_id!r} of run {one.run!r}: {group.n} of {one.group_size} rollouts"
        f" arrived within {group.waited_s:.1f} s"
    )


def _log_late(claims: Sequence[GroupClaim]) -> None:
    """Log incomplete groups, because their length terms differ from those of whole groups."""
    for claim in claims:
        if not claim.group.late:
            continue
        overdue = _overdue(claim.members[0], claim.group)
        if claim.group.told:
            log.info("%s; the others were reported as absent", overdue)
        else:
            log.warning(
                "%s; it is scored without the others. If they never come, report them by"
                " `close_groups` or correct `group_size`; if they come later, raise"
                " `group_timeout_s`; if another process submits them, pass the same `run` or start"
                " both with one launcher",
                overdue,
            )
