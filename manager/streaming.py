"""Single rollouts as they finish, coalesced into chords; groups are assembled on the way.

- The caller never waits for the broker: a thread of this process sends what has gathered.
- A rollout whose group is incomplete is judged at once, in a batch without length terms; the
  whole group's batch then reads those judgements, so they are paid for once.
- A rollout handed over again while it is under way joins itself.
"""

import json
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from oyer.manager import validation
from oyer.manager.arrivals import ArrivalRate
from oyer.manager.future import RewardFuture
from oyer.manager.groups import Gathering, Groups, TimeoutPolicy
from oyer.manager.pending import Pending, PendingScores
from oyer.manager.score import Score, scores_of
from oyer.tasks.config import RewardConfig
from oyer.tasks.errors import InvalidInput, InvalidRollout, MissingScores
from oyer.tasks.payloads import Rollout

MAX_BATCH_ROLLOUTS = 1024
"""A batch is sent without further waiting once it has this many rollouts."""

GROUP_TIMEOUT_S = 60.0
"""How long a group waits for its last rollout unless told otherwise, in seconds."""

_IDLE_S = 5.0
"""The sending thread ends after this long without work."""

Submit = Callable[[list[Rollout], RewardConfig, str, int | None], RewardFuture]


class Where(TypedDict, total=False):
    """What a rollout handed over alone belongs to."""

    run: str
    """The training run; `default` when left out."""
    step: int | None
    """The training step, for the record."""
    group_size: int | None
    """Rollouts of its group; left out, a whole group is handed over in one call."""
    sample_id: str | None
    """Tells two samples with the same text in one group from one sample handed over twice."""
    group_timeout_s: float
    """How long its group waits for the last rollout; the group's first rollout decides."""
    on_group_timeout: TimeoutPolicy
    """`partial` (default), `neutral` or `error`; the group's first rollout decides."""


Identity = tuple[Hashable, ...]


@dataclass(eq=False)
class _Member:
    """A rollout under way."""

    rollout: Rollout
    key: tuple[Identity, ...]
    """What it is found by when it is handed over again."""
    future: "Future[Score]" = field(default_factory=Future)
    grouped: bool = False
    """Its group is complete, or late: it needs no judging ahead of the group any more."""


@dataclass(frozen=True)
class _Lane:
    """What may share a batch: a run, a step, and with or without length terms."""

    run: str
    step: int | None
    shaped: bool


@dataclass
class _Gathered:
    """What a lane holds until it is sent."""

    since: float
    members: list[_Member] = field(default_factory=list)
    ahead: list[_Member] = field(default_factory=list)
    """Judged ahead of their group: nobody waits for this batch."""


class Stream:
    """The rollouts of one manager that arrive one by one. Thread-safe; a fork begins anew."""

    def __init__(self, submit: Submit, config: RewardConfig) -> None:
        self._submit = submit
        self._config = config
        self._unshaped = config.model_copy(update={"length": ()})
        self._needs_groups = any("group_ids" in item.needs for item in config.length)
        self._compares = self._needs_groups or config.reward.on_missing == "group_mean"
        # Under `reuse: off` nothing is read from the record: judging ahead would be paid twice.
        self._judges_ahead = bool(config.judges) and config.reuse != "off"
        self.renew()
        _streams.add(self)

    def renew(self) -> None:
        """Begin without anything under way, as a forked child must."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._rate = ArrivalRate()
        self._under_way: dict[tuple[Identity, ...], list[_Member]] = {}
        self._groups: Groups[tuple[_Member, _Lane]] = Groups()
        self._lanes: dict[_Lane, _Gathered] = {}

    def score(self, rollout: Rollout, **where: Unpack[Where]) -> Pending[Score]:
        """Take one rollout; see `RewardManager.score`."""
        group_size = where.get("group_size")
        validation.check([rollout], self._config)
        if self._needs_groups and group_size is None:
            raise InvalidRollout(
                "rollouts[0].group_size: is missing; the length method compares the rollouts of one"
                " prompt: say how many they are, or hand over whole groups with `score_many`"
            )
        return self._take([[((*identity_of(rollout, where), 1), rollout)]], where)[0]

    def score_many(self, rollouts: Sequence[Rollout], **where: Unpack[Where]) -> PendingScores:
        """Take several rollouts; see `RewardManager.score_many`."""
        rollouts = list(rollouts)
        validation.check(rollouts, self._config)
        seen: Counter[Identity] = Counter()
        named = []
        for rollout in rollouts:
            identity = identity_of(rollout, where)
            seen[identity] += 1
            named.append(((*identity, seen[identity]), rollout))
        if where.get("group_size") is not None or not self._compares:
            return PendingScores(self._take([[one] for one in named], where))
        units: dict[Hashable, list[int]] = {}
        for i, rollout in enumerate(rollouts):
            alone = rollout.group_id is None
            units.setdefault(("row", i) if alone else ("group", rollout.group_id), []).append(i)
        taken = self._take([[named[i] for i in unit] for unit in units.values()], where)
        order = [i for unit in units.values() for i in unit]
        places = dict(zip(order, taken, strict=True))
        return PendingScores([places[i] for i in range(len(rollouts))])

    def _take(
        self, units: Sequence[list[tuple[Identity, Rollout]]], where: Where
    ) -> list[Pending[Score]]:
        """Queue units that are not under way yet; a unit is never spread over two batches."""
        lane = _Lane(where.get("run", "default"), where.get("step"), True)
        size = _checked_size(where) if self._compares else None
        taken: list[Pending[Score]] = []
        with self._changed:
            now = time.monotonic()
            self._rate.seen(sum(len(unit) for unit in units), now)
            for unit in units:
                key = tuple(identity for identity, _ in unit)
                members = self._under_way.get(key)
                if members is None:
                    members = [_Member(rollout, key) for _, rollout in unit]
                    self._under_way[key] = members
                    if size is None or unit[0][1].group_id is None:
                        self._queue(lane, now).members.extend(members)
                    else:
                        self._gather(members[0], lane, size, where, now)
                taken += [Pending(member.future) for member in members]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="oyer-stream", daemon=True)
                self._thread.start()
            self._changed.notify()
        return taken

    def _gather(self, member: _Member, lane: _Lane, size: int, where: Where, now: float) -> None:
        """Put a rollout to its group; the complete group is queued, else judging begins."""
        group = self._groups.add(
            (lane.run, str(member.rollout.group_id), size),
            (member, lane),
            due_at=now + where.get("group_timeout_s", GROUP_TIMEOUT_S),
            on_timeout=where.get("on_group_timeout", "partial"),
        )
        if group is not None:
            self._queue_group([member for member, _ in group], lane, now)
        elif self._judges_ahead:
            self._queue(_Lane(lane.run, lane.step, False), now).ahead.append(member)

    def _queue(self, lane: _Lane, now: float) -> _Gathered:
        return self._lanes.setdefault(lane, _Gathered(now))

    def _queue_group(self, members: list[_Member], lane: _Lane, now: float) -> None:
        for member in members:
            member.grouped = True
        self._queue(lane, now).members.extend(members)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                late = self._groups.take_late(now)
                due = self._due_lane(now)
                if not late and due is None:
                    if not self._wait(now):
                        self._thread = None
                        return
                    continue
                gathered = None if due is None else self._lanes.pop(due)
            for gathering in late:
                self._give_up(gathering)
            if due is not None and gathered is not None:
                self._send(due, gathered)

    def _wait(self, now: float) -> bool:
        """Wait for the next lane or group to be due; false after a long time with neither."""
        dues = [self._due_at(gathered, now) for gathered in self._lanes.values()]
        group_due_at = self._groups.next_due_at()
        due_at = min(dues if group_due_at is None else [*dues, group_due_at], default=None)
        if due_at is not None:
            self._changed.wait(due_at - now)
            return True
        # A rollout may come in just as the wait ends.
        return self._changed.wait(_IDLE_S) or bool(self._lanes)

    def _due_lane(self, now: float) -> _Lane | None:
        due = [lane for lane, gathered in self._lanes.items() if self._due_at(gathered, now) <= now]
        return min(due, key=lambda lane: self._lanes[lane].since, default=None)

    def _due_at(self, gathered: _Gathered, now: float) -> float:
        full = len(gathered.members) + len(gathered.ahead) >= MAX_BATCH_ROLLOUTS
        return now if full else gathered.since + self._rate.window_s(now)

    def _give_up(self, late: Gathering[tuple[_Member, _Lane]]) -> None:
        """Do with a late group what its policy says."""
        members = [member for member, _ in late.members]
        lane = late.members[0][1]
        if late.on_timeout == "error":
            run, group_id, size = late.key
            error = TimeoutError(
                f"group {group_id!r} of run {run!r}: {len(members)} of {size} rollouts came in time"
            )
            self._end(members, [error] * len(members))
        else:
            shaped = late.on_timeout == "partial"
            with self._changed:
                where = _Lane(lane.run, lane.step, shaped)
                self._queue_group(members, where, time.monotonic())

    def _send(self, lane: _Lane, gathered: _Gathered) -> None:
        """Submit what a lane holds; with nobody waiting for it, whatever comes of it is fine."""
        waiting = gathered.members
        ahead = [member for member in gathered.ahead if not member.grouped]
        rollouts = [member.rollout for member in (*waiting, *ahead)]
        if not rollouts:
            return
        config = self._config if lane.shaped else self._unshaped
        try:
            future = self._submit(rollouts, config, lane.run, lane.step)
        except Exception as error:  # noqa: BLE001 - a dead thread would leave all others waiting
            self._end(waiting, [error] * len(waiting))
            return
        future.add_done_callback(lambda done: self._end(waiting, _outcomes(done, len(waiting))))

    def _end(self, members: Sequence[_Member], outcomes: Sequence[Score | Exception]) -> None:
        with self._changed:
            for member in members:
                self._under_way.pop(member.key, None)
        for member, outcome in zip(members, outcomes, strict=True):
            if isinstance(outcome, Score):
                member.future.set_result(outcome)
            else:
                member.future.set_exception(outcome)


_streams: "weakref.WeakSet[Stream]" = weakref.WeakSet()


def _renew_all() -> None:
    for stream in list(_streams):
        stream.renew()


# A child has none of its parent's threads, and a lock held at the fork stays held.
os.register_at_fork(after_in_child=_renew_all)


def _outcomes(future: RewardFuture, rows: int) -> list[Score | Exception]:
    """Read a batch's first rows; strangers share it, so only rows without a score get its error."""
    try:
        return [*scores_of(future.result(0))[:rows]]
    except MissingScores as error:
        scores = scores_of(error.batch)[:rows]
        return [score if score.trainable else error for score in scores]
    except Exception as error:  # noqa: BLE001 - whatever the batch failed with, its rows say so
        return [error] * rows


def identity_of(rollout: Rollout, where: Where) -> Identity:
    """What makes two rollouts the same: run, step, group, and all that scores them."""
    prompt = rollout.prompt if isinstance(rollout.prompt, str) else json.dumps(rollout.prompt)
    return (
        where.get("run", "default"),
        where.get("step"),
        rollout.group_id,
        where.get("group_size"),
        where.get("sample_id"),
        prompt,
        rollout.response,
        rollout.reference,
        rollout.base_score,
        rollout.correct,
        rollout.truncated,
        rollout.response_tokens,
    )


def _checked_size(where: Where) -> int | None:
    size = where.get("group_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InvalidInput(f"group_size: is {size!r}; give the number of rollouts of one prompt")
    policy = where.get("on_group_timeout", "partial")
    if policy not in ("partial", "neutral", "error"):
        raise InvalidInput(f"on_group_timeout: is {policy!r}; give partial, neutral or error")
    return size
