"""One process's rollouts whose groups are made with other processes: brought, waited for, found.

Used by one thread; what it finds is for its caller to act upon.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oyer.manager.score import Score
from oyer.manager.streaming import identity
from oyer.manager.streaming.group_store import Bringing, GroupStore, Place, Seen
from oyer.manager.streaming.identity import TimeoutPolicy
from oyer.manager.streaming.pending import Pending
from oyer.protocol.errors import BackendUnavailable
from oyer.protocol.rollout import Rollout

log = logging.getLogger(__name__)

MAIL_PAUSE_S = 0.02
"""Pause between two looks into the mailbox, in seconds; also how late a group may be noticed."""

LOOK_PAUSE_S = 5.0
"""A group waited for is looked at this often even if nothing is told of it, in seconds."""

OUTAGE_PAUSE_S = 0.5
"""Pause after the broker could not be reached, in seconds."""


@dataclass(eq=False)
class PendingRollout:
    """A rollout under way in this process."""

    rollout: Rollout
    id: str
    """The same in every process."""
    key: tuple[str, ...] = ()
    """What it is found by when it is handed over again: the ids of all that must share its batch."""
    pending: Pending[Score] = field(default_factory=Pending)
    grouped: bool = False
    """Its group needs no waiting for any more, and it no judging ahead of it."""


@dataclass(frozen=True)
class GroupRequest:
    """A member to bring to its group."""

    member: PendingRollout
    run: str
    scope: str
    """What may share its group; see `groups.scope_of`."""
    step: int | None
    size: int
    due_at: float
    """When its group is late, if the group begins with it, in seconds of `time.monotonic`."""
    on_timeout: TimeoutPolicy


@dataclass(frozen=True, kw_only=True)
class GroupClaim:
    """A group that this process is to submit."""

    place: Place
    run: str
    step: int | None
    shaped: bool
    """Whether it gets length terms."""
    rollouts: Sequence[Rollout]
    members: dict[int, GroupRequest]
    """This process's, by their rows in the group."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A group that is in a batch."""

    place: Place
    batch: str
    verdicts: int
    """Of the whole batch."""
    rows: Sequence[tuple[int, PendingRollout]]
    """This process's members and their rows in the batch."""


@dataclass
class Found:
    """What there is to do."""

    claims: list[GroupClaim] = field(default_factory=list)
    unsent: list[tuple[Place, str]] = field(default_factory=list)
    """Groups in a batch whose leader may have died before it sent the tasks."""
    bound: list[Bound] = field(default_factory=list)
    ended: list[tuple[PendingRollout, Exception]] = field(default_factory=list)
    ahead: list[GroupRequest] = field(default_factory=list)
    """Members of incomplete groups."""
    strays: list[tuple[GroupRequest, bool]] = field(default_factory=list)
    """Members that came after their group was closed late, and whether they get length terms."""
    lost: list[GroupRequest] = field(default_factory=list)
    """Members that Redis has forgotten: to be brought again."""
    late: list[str] = field(default_factory=list)
    """What there is to say of groups that were closed before all had come."""

    def warn(self) -> None:
        """Log that groups are compared as far as they are there: their length terms are others."""
        if self.late:
            log.warning(
                "groups that group_timeout_s closed before all their rollouts had come: %d; the first:"
                " %s. Processes gather groups together if they name the same `run`, or have the same"
                " launcher",
                len(self.late),
                self.late[0],
            )


@dataclass
class _Waiting:
    """A group that this process waits for."""

    members: dict[int, GroupRequest] = field(default_factory=dict)
    """By their rows in the group."""
    look_at: float = 0.0


class GroupQueue:
    """The groups that one process has members in and that have no batch yet."""

    def __init__(self, make: Callable[[], GroupStore], plan: str, *, with_token_ids: bool) -> None:
        self._make = make
        self._plan = plan
        self._with_token_ids = with_token_ids
        self._meeting: GroupStore | None = None
        self._waiting: dict[Place, _Waiting] = {}
        self._mail_at = 0.0

    @property
    def meeting(self) -> GroupStore:
        """This process's part in the meeting; made by the thread that uses it."""
        if self._meeting is None:
            self._meeting = self._make()
        return self._meeting

    def next_at(self) -> float | None:
        """When to `look` next, in seconds of `time.monotonic`; None while nothing is waited for."""
        return self._mail_at if self._waiting else None

    def bring(self, candidates: Sequence[GroupRequest]) -> Found:
        """Bring members to their groups.

        Raises:
            BackendUnavailable: the broker is away; nobody knows whether they were brought.
        """
        now = time.monotonic()
        by_group: dict[tuple[Any, ...], dict[str, GroupRequest]] = defaultdict(dict)
        for one in candidates:
            group_id = str(one.member.rollout.group_id)
            by_group[one.run, one.scope, group_id, one.size, one.step][one.member.id] = one
        bringings = [
            self._bringing(
                identity.group_name(self._plan, run, scope, group_id, size), step, members, now
            )
            for (run, scope, group_id, size, step), members in by_group.items()
        ]
        brought, _ = self.meeting.look(bringings)
        found = Found()
        for members, answer in zip(by_group.values(), brought, strict=True):
            views = {view.generation: view for view in answer.seen}
            for candidate, (generation, row, fresh) in zip(
                members.values(), answer.places, strict=True
            ):
                view = views[generation]
                self._put(candidate, row, view, found)
                if fresh and row >= 0 and view.state == "open":
                    found.ahead.append(candidate)
            self._sort(answer.seen, found)
        found.warn()
        return found

    def look(self) -> Found:
        """Look after the groups that something was told of, and those whose time has come.

        Raises:
            BackendUnavailable: the broker is away; everything is looked at once it is back.
        """
        now = time.monotonic()
        self._mail_at = now + MAIL_PAUSE_S
        found = Found()
        try:
            told = self.meeting.told()
            due = [
                place
                for place, waiting in self._waiting.items()
                if place[0] in told or waiting.look_at <= now
            ]
            _, seen = self.meeting.look(places=due)
        except BackendUnavailable:
            self._mail_at = now + OUTAGE_PAUSE_S
            for waiting in self._waiting.values():
                waiting.look_at = now
            raise
        self._sort(seen, found)
        found.warn()
        return found

    def wait_again(self, claims: Iterable[GroupClaim]) -> None:
        """Wait for groups that another process has claimed meanwhile."""
        for claim in claims:
            self._waiting[claim.place] = _Waiting(claim.members)

    def abandon(self) -> list[PendingRollout]:
        """Wait for nothing any more; returns who waited."""
        waiting, self._waiting = self._waiting, {}
        return [one.member for group in waiting.values() for one in group.members.values()]

    def _bringing(
        self, name: str, step: int | None, members: Mapping[str, GroupRequest], now: float
    ) -> Bringing:
        first = next(iter(members.values()))
        rollouts = {member_id: one.member.rollout for member_id, one in members.items()}
        return Bringing(
            group=name,
            size=first.size,
            step=step,
            timeout_s=max(0.0, first.due_at - now),
            on_timeout=first.on_timeout,
            ids=list(members),
            parts=identity.pack(rollouts, with_token_ids=self._with_token_ids),
        )

    def _put(self, candidate: GroupRequest, row: int, view: Seen, found: Found) -> None:
        """Wait for a member's group, unless that was closed late before the member came."""
        if row >= 0:
            self._waiting.setdefault(view.place, _Waiting()).members[row] = candidate
        elif view.policy == "error":
            found.ended.append((candidate.member, _too_late(candidate, view)))
        else:
            found.strays.append((candidate, view.policy == "partial"))

    def _sort(self, seen: Iterable[Seen], found: Found) -> None:
        """Say what is to be done about each group."""
        for view in seen:
            waiting = self._waiting.get(view.place)
            if waiting is None:
                continue
            if view.state in ("open", "led"):
                waiting.look_at = time.monotonic() + min(view.wait_s, LOOK_PAUSE_S)
            elif view.state == "published":
                # Looked at again once its tasks are sent.
                waiting.look_at = time.monotonic()
                found.unsent.append((view.place, view.batch))
            else:
                del self._waiting[view.place]
                self._close(view, waiting, found)

    def _close(self, view: Seen, waiting: _Waiting, found: Found) -> None:
        """Say what is to be done about a group that needs no waiting for any more."""
        candidates = waiting.members.values()
        for one in candidates:
            one.member.grouped = view.state != "gone"
        if view.state == "gone":
            found.lost += candidates
        elif view.state == "failed":
            found.ended += [(one.member, _too_late(one, view)) for one in candidates]
        elif view.state == "sent":
            rows = [(view.start + row, one.member) for row, one in waiting.members.items()]
            found.bound.append(
                Bound(place=view.place, batch=view.batch, verdicts=view.verdicts, rows=rows)
            )
        else:
            known = {one.member.id: one.member.rollout for one in candidates}
            try:
                rollouts = identity.unpack(view.ids, view.parts, known)
            except Exception as error:  # noqa: BLE001 - the group's members are told; others go on
                found.ended += [(one.member, error) for one in candidates]
                return
            if view.late:
                found.late.append(str(_too_late(next(iter(candidates)), view)))
            found.claims.append(
                GroupClaim(
                    place=view.place,
                    run=next(iter(candidates)).run,
                    step=view.step,
                    shaped=not view.late or view.policy == "partial",
                    rollouts=rollouts,
                    members=waiting.members,
                )
            )


def _too_late(one: GroupRequest, view: Seen) -> TimeoutError:
    return TimeoutError(
        f"group {one.member.rollout.group_id!r} of run {one.run!r}: {view.n} of {one.size} rollouts"
        " came in time"
    )
