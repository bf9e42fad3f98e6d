"""Rollouts submitted one by one: batched, joined to their groups, sent. One stream per manager.

- Reading order of a rollout: `score`, `_add`, `_run`, `_send`, `GroupQueue.join`, `Sender.send`.
- The caller never waits for the broker: one thread of this process does all I/O.
- A rollout of an incomplete group is judged early, in a batch without group judges and length terms.
  The batch of the group reuses that judgement, so each judgement is paid for once.
- A rollout submitted again joins the pending one, in any process.
"""

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Unpack

from oyer.config.reward import RewardConfig
from oyer.manager import validation
from oyer.manager.backend.connection import Broker, backend
from oyer.manager.backend.poller import started
from oyer.manager.requirements import compares, needs_groups, needs_of, scored_metadata
from oyer.manager.score import Score
from oyer.manager.streaming.batching_window import ArrivalRate
from oyer.manager.streaming.group_queue import GroupQueue, GroupUpdates
from oyer.manager.streaming.group_store import GroupStore
from oyer.manager.streaming.identity import (
    ScoreOptions,
    check_group_size,
    check_options,
    closing_of,
    pending_rollouts,
    plan_name,
)
from oyer.manager.streaming.pending import (
    GroupClosing,
    Pending,
    PendingRollout,
    PendingRollouts,
    PendingScores,
)
from oyer.manager.streaming.sender import OpenBatch, OpenBatchKey, Sender
from oyer.protocol.errors import BackendUnavailable, InvalidRollout
from oyer.protocol.rollout import Message, Rollout

MAX_BATCH_ROLLOUTS = 1024
"""A batch with this many rollouts is sent without further delay."""

EARLY_WINDOW_S = 0.25
"""Batching delay of rollouts that are judged early, in seconds. It delays no reward: a group that is
complete before is judged at once, and a later one waits for its last rollout's judgement anyway."""

_IDLE_S = 5.0
"""The sending thread ends after this time without work."""

log = logging.getLogger(__name__)


class Stream:
    """The pending rollouts of one manager. Thread-safe; a forked child starts empty."""

    def __init__(self, config: RewardConfig, broker: Broker, training: str) -> None:
        self._training = training
        self._config = config
        self._broker = broker
        self._needs = needs_of(config)
        self._plan, self._metadata_keys = plan_name(config), scored_metadata(config)
        self._needs_groups = needs_groups(config)
        self._compares = compares(config)
        # Under `reuse: off`, a group's batch would pay for the early judgements again.
        alone = any(judge.kind == "pointwise" for judge in config.judges)
        self._judges_early = alone and config.reuse != "off"
        self.reset()
        _streams.add(self)

    def reset(self) -> None:
        """Start without pending rollouts, as a forked child must."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # Notified only for what is due before the thread wakes by itself, because each wake-up takes
        # the interpreter lock from the caller.
        self._wakes_at_s = math.inf
        self._rate = ArrivalRate()
        self._pending = PendingRollouts()
        self._batches: dict[OpenBatchKey, OpenBatch] = {}
        self._closings: list[GroupClosing] = []
        with_token_ids = any(item.takes_token_ids for item in self._config.length)
        store = GroupStore(self._broker, with_token_ids=with_token_ids)
        self._groups = GroupQueue(store)
        self._sender = Sender(self._config, self._broker, store, self._pending)
        self._outage = False
        self._failure: Exception | None = None

    def score(self, rollout: Rollout, **options: Unpack[ScoreOptions]) -> Pending[Score]:
        """Submit one rollout; see `RewardManager.score`."""
        validation.check([rollout], self._config, self._needs)
        if self._needs_groups and options.get("group_size") is None:
            raise InvalidRollout(
                f"rollouts[0].group_size: is missing; {self._needs_groups} compares the rollouts of"
                " one prompt: give their number, or submit whole groups with `score_many`"
            )
        return self._add([self._named([rollout], options)])[0]

    def score_many(
        self, rollouts: Sequence[Rollout], **options: Unpack[ScoreOptions]
    ) -> PendingScores:
        """Submit several rollouts; see `RewardManager.score_many`."""
        rollouts = list(rollouts)
        validation.check(rollouts, self._config, self._needs)
        named = self._named(rollouts, options)
        if options.get("group_size") is not None or not self._compares:
            return PendingScores(self._add([[one] for one in named]))
        units: dict[int | str, list[int]] = {}
        for i, rollout in enumerate(rollouts):
            key = i if rollout.group_id is None else str(rollout.group_id)
            units.setdefault(key, []).append(i)
        scores = self._add([[named[i] for i in unit] for unit in units.values()])
        by_row = dict(zip([i for unit in units.values() for i in unit], scores, strict=True))
        return PendingScores([by_row[i] for i in range(len(rollouts))])

    def close_groups(
        self,
        group_ids: Iterable[str | int],
        absent: int | Iterable[str] | None,
        prompts: Iterable[str | list[Message]] | None,
        options: ScoreOptions,
    ) -> Pending[None]:
        """Note rollouts that will not come; see `RewardManager.close_groups`."""
        check_options(options, self._config.broker.result_expires_s)
        names = {"plan": self._plan, "training": self._training}
        closing = closing_of(group_ids, absent, prompts, options, **names, now_s=time.monotonic())
        if not self._compares or not closing.groups:
            closing.pending.end(None)
            return closing.pending
        with self._changed:
            self._closings.append(closing)
            self._wake()
        return closing.pending

    def fail_all(self, error: Exception) -> None:
        """Fail every pending rollout, because the broker is stopped for good."""
        with self._changed:
            if self._thread is not None:
                self._failure = error
                self._wake()

    def _named(self, rollouts: Sequence[Rollout], options: ScoreOptions) -> list[PendingRollout]:
        check_options(options, self._config.broker.result_expires_s)
        check_group_size(options, self._config)
        return pending_rollouts(
            rollouts,
            options,
            plan=self._plan,
            training=self._training,
            now_s=time.monotonic(),
            metadata_keys=self._metadata_keys,
        )

    def _add(self, units: Sequence[list[PendingRollout]]) -> list[Pending[Score]]:
        """Add units that are not pending to the next batch; a unit is never split over batches."""
        scores: list[Pending[Score]] = []
        with self._changed:
            now_s = time.monotonic()
            self._rate.seen(sum(map(len, units)), now_s)
            batch = None
            for unit in units:
                pending = self._pending.add(unit)
                if pending is unit:
                    first = unit[0]
                    batch = batch or self._batch(OpenBatchKey.of(first), now_s)
                    joins = self._compares and first.group is not None
                    (batch.joining if joins else batch.members).extend(unit)
                scores += [one.pending for one in pending]
            unsent = bool(self._batches) and self._thread is None  # none could be started
            if unsent or (batch and self._due_at_s(batch, now_s) < self._wakes_at_s):
                self._wake()
        return scores

    def _batch(self, key: OpenBatchKey, now_s: float) -> OpenBatch:
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = OpenBatch(now_s)
        return batch

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = started("oyer-stream", self._run)
        self._wakes_at_s = -math.inf
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                failure, self._failure = self._failure, None
                now_s = time.monotonic()
                key = self._due_key(now_s)
                poll_at_s = self._groups.next_poll_s()
                polls = poll_at_s is not None and poll_at_s <= now_s
                if failure is None and key is None and not polls and not self._closings:
                    if not self._wait(now_s, poll_at_s):
                        self._thread, self._wakes_at_s = None, math.inf
                        return
                    continue
                batch = None if key is None or failure is not None else self._batches.pop(key)
                closings: list[GroupClosing] = []
                if failure is None and not any(it.joining for it in self._batches.values()):
                    closings, self._closings = self._closings, []
            if failure is not None:
                self._fail_all(failure)
                continue
            if polls:
                self._poll_groups()
            if key is not None and batch is not None:
                self._send(key, batch)
            if closings:
                self._groups.close(closings)

    def _wait(self, now_s: float, poll_at_s: float | None) -> bool:
        """Wait until a batch or a poll is due; returns False after a long time with neither."""
        due_s = [self._due_at_s(batch, now_s) for batch in self._batches.values()]
        self._wakes_at_s = min(
            due_s if poll_at_s is None else [*due_s, poll_at_s], default=math.inf
        )
        idle = math.isinf(self._wakes_at_s)
        self._changed.wait(_IDLE_S if idle else self._wakes_at_s - now_s)
        self._wakes_at_s = -math.inf
        # A rollout may arrive just as the wait ends.
        return not idle or bool(self._batches or self._closings) or self._failure is not None

    def _due_key(self, now_s: float) -> OpenBatchKey | None:
        due = [key for key, batch in self._batches.items() if self._due_at_s(batch, now_s) <= now_s]
        return min(due, key=lambda key: self._batches[key].opened_s, default=None)

    def _due_at_s(self, batch: OpenBatch, now_s: float) -> float:
        waiting = len(batch.members) + len(batch.joining)
        if waiting + len(batch.early) >= MAX_BATCH_ROLLOUTS:
            return now_s
        if batch.joining and self._closings:
            return now_s
        if waiting:
            return self._rate.due_at(batch.opened_s, now_s)
        return batch.opened_s + EARLY_WINDOW_S

    def _send(self, key: OpenBatchKey, batch: OpenBatch) -> None:
        """Join rollouts to their groups, and send those that need not wait."""
        updates = GroupUpdates()
        if batch.joining:
            try:
                updates = self._groups.join(batch.joining)
            except Exception as error:  # noqa: BLE001 - the sending thread must survive
                self._pending.end([(one, error) for one in batch.joining])
        batch.early = [one for one in batch.early if not one.group_closed]
        self._apply(updates, {key: batch})

    def _poll_groups(self) -> None:
        try:
            self._apply(self._groups.poll(), {})
            self._outage = False
        except BackendUnavailable as error:
            if not self._outage:
                log.warning("%s; still trying", error)
            self._outage = True
        except Exception as error:  # noqa: BLE001 - the sending thread must survive
            self._pending.end([(one, error) for one in self._groups.clear(error)])

    def _apply(self, updates: GroupUpdates, batches: dict[OpenBatchKey, OpenBatch]) -> None:
        """Send `batches` and the claimed groups, and do what else the updates ask for."""
        self._pending.end(updates.failed)
        for group, members in updates.sent:
            self._sender.wait_for(group, members)
        for claim in updates.claims:
            step, with_length = claim.group.step, claim.group.with_length
            key = OpenBatchKey.of(claim.members[0], with_length=with_length)._replace(step=step)
            batches.setdefault(key, OpenBatch()).claims.append(claim)
        for one, group in updates.late:
            key = OpenBatchKey.of(one, with_length=group.with_length)
            batches.setdefault(key, OpenBatch()).members.append(one)
        for key, batch in batches.items():
            self._groups.wait_again(self._sender.send(key, batch))
        with self._changed:
            now_s = time.monotonic()
            if batches:
                self._rate.sent(backend(*self._broker).waiting_messages)
            for one in updates.gone:
                self._batch(OpenBatchKey.of(one), now_s).joining.append(one)
            for one in updates.incomplete if self._judges_early else ():
                self._batch(OpenBatchKey.of(one, with_length=False), now_s).early.append(one)
        for group in updates.unsent:
            self._sender.resubmit(group)

    def _fail_all(self, error: Exception) -> None:
        """Fail rollouts that wait for a batch or a group; the others fail with their batches."""
        with self._changed:
            batches, self._batches = self._batches, {}
            closings, self._closings = self._closings, []
        self._groups.close(closings)
        waiting = self._groups.clear(error)
        for batch in batches.values():
            waiting += batch.members + batch.joining
        self._pending.end([(one, error) for one in waiting])


def fail_all(broker: Broker, error: Exception) -> None:
    """Fail every pending rollout on a broker that is stopped for good."""
    for stream in list(_streams):
        if stream._broker == broker:
            stream.fail_all(error)


_streams: "weakref.WeakSet[Stream]" = weakref.WeakSet()


def _reset_all() -> None:
    for stream in list(_streams):
        stream.reset()


# A forked child has no thread of its parent, and a lock held at the fork is never released there.
os.register_at_fork(after_in_child=_reset_all)
