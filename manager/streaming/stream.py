"""Single rollouts as they finish, coalesced into chords; groups are assembled on the way.

- The caller never waits for the broker: a thread of this process brings and sends what has gathered.
- A rollout whose group is incomplete is judged at once, in a batch without length terms; the
  whole group's batch then reads those judgements, so they are paid for once.
- A rollout handed over again joins the one that is under way, in whichever process it is.
"""

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from oyer.config.reward import RewardConfig
from oyer.manager import validation
from oyer.manager.backend.connection import Broker, backend
from oyer.manager.requirements import compares, needs_of
from oyer.manager.score import Score
from oyer.manager.streaming import identity
from oyer.manager.streaming.batching_window import ArrivalRate
from oyer.manager.streaming.group_queue import Found, GroupQueue, GroupRequest, PendingRollout
from oyer.manager.streaming.intake import Where, candidates_of, members_of
from oyer.manager.streaming.pending import Pending, PendingScores
from oyer.manager.streaming.sender import Lane, Load, Sender, Submit
from oyer.protocol.errors import BackendUnavailable, InvalidRollout
from oyer.protocol.rollout import Rollout

MAX_BATCH_ROLLOUTS = 1024
"""A batch is sent without further waiting once it has this many rollouts."""

AHEAD_WINDOW_S = 0.25
"""How long a rollout whose group is incomplete waits for others to be judged ahead with, in seconds.
It costs no reward any time: a group that is complete before is judged at once, and one that is
complete after has its last rollout's judgement to wait for."""

_IDLE_S = 5.0
"""The sending thread ends after this long without work."""

log = logging.getLogger(__name__)


@dataclass
class _Gathered:
    """What a lane holds until it is sent."""

    since: float
    members: list[PendingRollout] = field(default_factory=list)
    candidates: list[GroupRequest] = field(default_factory=list)
    """Brought to their groups first."""
    ahead: list[PendingRollout] = field(default_factory=list)
    """Judged ahead of their groups."""


class Stream:
    """The rollouts of one manager that arrive one by one. Thread-safe; a fork begins anew."""

    def __init__(self, submit: Submit, config: RewardConfig, broker: Broker, training: str) -> None:
        self._training = training
        self._submit = submit
        self._config = config
        self._broker = broker
        self._needs = needs_of(config)
        self._plan = identity.plan_name(config)
        self._needs_groups = any("group_ids" in item.needs for item in config.length)
        self._compares = compares(config)
        # Under `reuse: off` nothing is read from the record: judging ahead would be paid twice.
        self._judges_ahead = bool(config.judges) and config.reuse != "off"
        self.renew()
        _streams.add(self)

    def renew(self) -> None:
        """Begin without anything under way, as a forked child must."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # When the thread looks by itself. It is woken only for what is due before: each waking takes
        # the interpreter from the caller.
        self._wakes_at = math.inf
        self._rate = ArrivalRate()
        self._under_way: dict[tuple[str, ...], list[PendingRollout]] = {}
        self._lanes: dict[Lane, _Gathered] = {}
        self._dispatch = Sender(self._submit, self._config, self._broker, self._ended)
        self._assembly = GroupQueue(
            lambda: backend(*self._broker).meeting(),
            self._plan,
            with_token_ids=any(item.takes_token_ids for item in self._config.length),
        )
        self._outage = False
        self._dropped: Exception | None = None

    def score(self, rollout: Rollout, **where: Unpack[Where]) -> Pending[Score]:
        """Take one rollout; see `RewardManager.score`."""
        validation.check([rollout], self._config, self._needs)
        if self._needs_groups and where.get("group_size") is None:
            raise InvalidRollout(
                "rollouts[0].group_size: is missing; the length method compares the rollouts of one"
                " prompt: say how many they are, or hand over whole groups with `score_many`"
            )
        return self._take([members_of([rollout], where)], where)[0]

    def score_many(self, rollouts: Sequence[Rollout], **where: Unpack[Where]) -> PendingScores:
        """Take several rollouts; see `RewardManager.score_many`."""
        rollouts = list(rollouts)
        validation.check(rollouts, self._config, self._needs)
        members = members_of(rollouts, where)
        if where.get("group_size") is not None or not self._compares:
            return PendingScores(self._take([[one] for one in members], where))
        units: dict[Hashable, list[int]] = {}
        for i, rollout in enumerate(rollouts):
            alone = rollout.group_id is None
            units.setdefault(("row", i) if alone else ("group", rollout.group_id), []).append(i)
        taken = self._take([[members[i] for i in unit] for unit in units.values()], where)
        order = [i for unit in units.values() for i in unit]
        places = dict(zip(order, taken, strict=True))
        return PendingScores([places[i] for i in range(len(rollouts))])

    def drop_all(self, error: Exception) -> None:
        """End every rollout under way with an error: the broker goes for good."""
        with self._changed:
            if self._thread is not None:
                self._dropped = error
                self._wake()

    def _take(self, units: Sequence[list[PendingRollout]], where: Where) -> list[Pending[Score]]:
        """Queue units that are not under way yet; a unit is never spread over two batches."""
        lane = Lane(where.get("run", "default"), where.get("step"), True)
        make = candidates_of(where, self._config.broker.result_expires_s, self._training)
        if not self._compares:
            make = None
        taken: list[Pending[Score]] = []
        with self._changed:
            now = time.monotonic()
            self._rate.seen(sum(map(len, units)), now)
            gathered = None
            for unit in units:
                key = tuple([member.id for member in unit])
                members = self._under_way.setdefault(key, unit)
                if members is unit:
                    for member in unit:
                        member.key = key
                    gathered = gathered or self._gathered(lane, now)
                    if make is None or unit[0].rollout.group_id is None:
                        gathered.members += unit
                    else:
                        gathered.candidates += [make(member, now) for member in unit]
                taken += [member.pending for member in members]
            if gathered is not None and self._due_at(gathered, now) < self._wakes_at:
                self._wake()
        return taken

    def _gathered(self, lane: Lane, now: float) -> _Gathered:
        gathered = self._lanes.get(lane)
        if gathered is None:
            gathered = self._lanes[lane] = _Gathered(now)
        return gathered

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="oyer-stream", daemon=True)
            self._thread.start()
        self._wakes_at = -math.inf
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                dropped, self._dropped = self._dropped, None
                now = time.monotonic()
                lane = self._due_lane(now)
                look_at = self._assembly.next_at()
                looks = look_at is not None and look_at <= now
                if (
                    dropped is None
                    and lane is None
                    and not looks
                    and not self._dispatch.has_finished
                ):
                    if not self._wait(now, look_at):
                        self._thread, self._wakes_at = None, math.inf
                        return
                    continue
                gathered = None if lane is None else self._lanes.pop(lane)
            if dropped is not None:
                self._drop(dropped, gathered)
                continue
            if looks:
                self._look()
            if lane is not None and gathered is not None:
                self._bring(lane, gathered)
            if self._dispatch.has_finished:
                self._dispatch.report_finished(self._assembly.meeting)

    def _drop(self, error: Exception, due: _Gathered | None) -> None:
        """End what waits in lanes and for groups; what is in batches ends with their futures."""
        with self._changed:
            held, self._lanes = [*self._lanes.values()], {}
        waiting = [*self._assembly.abandon()]
        for gathered in held if due is None else [due, *held]:
            waiting += gathered.members
            waiting += [one.member for one in gathered.candidates]
        self._dispatch.end([(member, error) for member in waiting])

    def _wait(self, now: float, look_at: float | None) -> bool:
        """Wait for the next lane or look to be due; false after a long time with neither."""
        dues = [self._due_at(gathered, now) for gathered in self._lanes.values()]
        self._wakes_at = min(dues if look_at is None else [*dues, look_at], default=math.inf)
        idle = math.isinf(self._wakes_at)
        self._changed.wait(_IDLE_S if idle else self._wakes_at - now)
        self._wakes_at = -math.inf
        # A rollout may come in just as the wait ends.
        return not idle or bool(self._lanes) or self._dispatch.has_finished

    def _due_lane(self, now: float) -> Lane | None:
        due = [lane for lane, gathered in self._lanes.items() if self._due_at(gathered, now) <= now]
        return min(due, key=lambda lane: self._lanes[lane].since, default=None)

    def _due_at(self, gathered: _Gathered, now: float) -> float:
        waiting = len(gathered.members) + len(gathered.candidates)
        if waiting + len(gathered.ahead) >= MAX_BATCH_ROLLOUTS:
            return now
        return (
            self._rate.due_at(gathered.since, now) if waiting else gathered.since + AHEAD_WINDOW_S
        )

    def _bring(self, lane: Lane, gathered: _Gathered) -> None:
        """Bring members to their groups, and send what need not wait."""
        found = Found()
        if gathered.candidates:
            try:
                found = self._assembly.bring(gathered.candidates)
            except Exception as error:  # noqa: BLE001 - a dead thread would leave all others waiting
                self._dispatch.end([(one.member, error) for one in gathered.candidates])
        ahead = [member for member in gathered.ahead if not member.grouped]
        self._act(found, {lane: Load(members=gathered.members, ahead=ahead)})

    def _look(self) -> None:
        """See what became of the groups that this process waits for."""
        try:
            self._act(self._assembly.look(), {})
            self._outage = False
        except BackendUnavailable as error:
            if not self._outage:
                log.warning("%s; still trying", error)
            self._outage = True
        except Exception as error:  # noqa: BLE001 - a dead thread would leave all others waiting
            self._dispatch.end([(member, error) for member in self._assembly.abandon()])

    def _act(self, found: Found, loads: dict[Lane, Load]) -> None:
        def load(run: str, step: int | None, shaped: bool) -> Load:
            return loads.setdefault(Lane(run, step, shaped), Load())

        self._dispatch.end(found.ended)
        for bound in found.bound:
            self._dispatch.bind(bound)
        for claim in found.claims:
            load(claim.run, claim.step, claim.shaped).claims.append(claim)
        for one, shaped in found.strays:
            load(one.run, one.step, shaped).members.append(one.member)
        for lane, loaded in loads.items():
            self._assembly.wait_again(self._dispatch.send(lane, loaded, self._assembly.meeting))
        with self._changed:
            now = time.monotonic()
            for one in found.lost:
                self._gathered(Lane(one.run, one.step, True), now).candidates.append(one)
            for one in found.ahead if self._judges_ahead else ():
                self._gathered(Lane(one.run, one.step, False), now).ahead.append(one.member)
        for place, batch_id in found.unsent:
            self._dispatch.send_again(place, batch_id, self._assembly.meeting)

    def _ended(self, members: Sequence[PendingRollout]) -> None:
        with self._changed:
            for member in members:
                self._under_way.pop(member.key, None)
            if self._dispatch.has_finished:
                self._wake()


def drop_all(broker: Broker, error: Exception) -> None:
    """End every rollout under way on a broker that goes for good."""
    for stream in list(_streams):
        if stream._broker == broker:
            stream.drop_all(error)


_streams: "weakref.WeakSet[Stream]" = weakref.WeakSet()


def _renew_all() -> None:
    for stream in list(_streams):
        stream.renew()


# A child has none of its parent's threads, and a lock held at the fork stays held.
os.register_at_fork(after_in_child=_renew_all)
