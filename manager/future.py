"""The future of a batch: done, progress, result, await, cancel, and a ticket to reopen it.

A batch that fails or stalls is resubmitted under its id; recorded judgements are reused, not repeated
(docs/internals/recovery.md). A future works in a forked child and, by its ticket, in any process.
"""

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from oyer.config.reward import RewardConfig, RewardRules
from oyer.manager.backend.connection import Broker, backend
from oyer.manager.backend.poller import poller
from oyer.manager.backend.prepare import PreparedBatch
from oyer.manager.backend.results import cause_of, is_final, no_worker_on, what_is_missing
from oyer.manager.backend.tickets import TicketState, read_ticket, write_ticket
from oyer.manager.batch import RewardBatch, failure_of
from oyer.protocol.errors import (
    BackendUnavailable,
    BatchCancelled,
    BatchFailed,
    MessageRefused,
)
from oyer.protocol.measuring import measured
from oyer.protocol.rollout import Rollout


class _Watching:
    """The lock of `RewardFuture._watch`."""

    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        """Replace the lock in a forked child, where a lock held at the fork is never released."""
        cls.lock = threading.Lock()


os.register_at_fork(after_in_child=_Watching.renew)


class RewardFuture:
    """The future rewards of one batch. Returned by `RewardManager.submit`."""

    def __init__(
        self,
        *,
        batch_id: str,
        verdicts: int,
        rules: RewardRules,
        broker: Broker,
        stall_timeout_s: float,
        prepared: PreparedBatch | None = None,
        rollouts: Sequence[Rollout] = (),
    ) -> None:
        self.batch_id = batch_id
        self.stall_timeout_s = stall_timeout_s
        self._verdicts = verdicts
        self._rules = rules
        self._broker = broker
        self._prepared = prepared
        self._rollouts = tuple(rollouts)
        self._waited_s = 0.0
        self._awaited: RewardBatch | None = None
        self._pid = 0
        self._inner: concurrent.futures.Future[RewardBatch] = concurrent.futures.Future()
        self._watch()

    @classmethod
    def of(
        cls,
        prepared: PreparedBatch,
        config: RewardConfig,
        broker: Broker,
        rollouts: Sequence[Rollout] = (),
    ) -> "RewardFuture":
        """Return the future of a batch that this process has submitted.

        Args:
            rollouts: put into the batch; a stream leaves them out.
        """
        return cls(
            batch_id=prepared.manifest.batch_id,
            verdicts=prepared.verdicts,
            rules=config.reward,
            broker=broker,
            stall_timeout_s=config.stall_s,
            prepared=prepared,
            rollouts=rollouts,
        )

    def done(self) -> bool:
        """Whether the batch has a result or an error."""
        return self._watch().done()

    def progress(self) -> tuple[int, int]:
        """Return (judged, total): judgements so far, and judgements of the finished batch.

        Raises:
            BackendUnavailable: the broker cannot be reached.
        """
        inner = self._watch()
        if inner.done() and inner.exception() is None:
            return self._verdicts, self._verdicts
        judged = backend(*self._broker).judged(self.batch_id)
        return min(judged, self._verdicts), self._verdicts

    def result(self, timeout_s: float | None = None) -> RewardBatch:
        """Wait for the rewards.

        Args:
            timeout_s: longest wait in seconds; None waits until the batch ends.

        Raises:
            TimeoutError: not done in time; names what is missing. The future stays usable.
            MissingScores: rollouts without a score, under `on_missing: raise`.
            JudgeOutage: more rollouts without a score than `max_failed_fraction`.
            BatchCancelled: cancelled here, by another process or by `oyer batches cancel`.
            BatchFailed: the batch failed.
        """
        try:
            with self._timed():
                batch = self._watch().result(timeout_s)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(self._waiting_for(timeout_s)) from None
        return self._waited_for(batch)

    def outcome(self) -> RewardBatch:
        """Return the rewards of a batch that has ended, without counting a wait for them.

        For callbacks and others that did not wait in `result`. Raises what `result` raises.
        """
        return self._inner.result(0)

    def add_done_callback(self, callback: "Callable[[RewardFuture], object]") -> None:
        """Call `callback(future)` once done: now if it is done already, else on the poller's thread."""
        self._watch().add_done_callback(lambda _: callback(self))

    def cancel(self) -> bool:
        """Start no further call for this batch; returns False if it had ended already.

        Raises:
            BackendUnavailable: the broker cannot be reached; the batch continues.
        """
        if self._watch().done():
            return False
        backend(*self._broker).cancel(self.batch_id, "by the trainer")
        poller(*self._broker).forget(self)
        self.fail(BatchCancelled(f"batch {self.batch_id} was cancelled"))
        return True

    def __await__(self) -> Generator[Any, None, RewardBatch]:
        """Wait on the running event loop without blocking it."""
        import asyncio

        with self._timed():
            batch = yield from asyncio.shield(asyncio.wrap_future(self._watch())).__await__()
        return self._waited_for(batch)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the time of the block, also if the wait is given up, until the batch was returned once."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            if self._awaited is None:
                self._waited_s += time.monotonic() - began_s

    def _waited_for(self, batch: RewardBatch) -> RewardBatch:
        """Return the batch with the time that this future was waited for until it was there."""
        if self._awaited is None:
            self._awaited = replace(batch, trainer_wait_s=self._waited_s)
            measurements = backend(*self._broker).measurements
            measurements.observe(measured.TRAINER_WAIT_SECONDS, self._waited_s)
        return self._awaited

    @property
    def ticket(self) -> str:
        """A string that reopens this future in another process; as secret as the broker's URL."""
        state = (self.batch_id, self._verdicts, self._rules, self._broker, self.stall_timeout_s)
        return write_ticket(TicketState(*state))

    @classmethod
    def from_ticket(cls, ticket: str) -> "RewardFuture":
        """Reopen the future of a batch submitted by another process.

        Raises:
            InvalidInput: the text is not a ticket of this version.
        """
        return cls(**read_ticket(ticket)._asdict())

    def __reduce__(self) -> tuple[Any, ...]:
        return (RewardFuture.from_ticket, (self.ticket,))

    def __repr__(self) -> str:
        state = "done" if self._inner.done() else "pending"
        return f"<RewardFuture {self.batch_id} {state}>"

    def finish(self, meta: dict[str, Any]) -> str | None:
        """End with the Celery result of the batch, unless resubmitting the batch may help.

        Returns:
            Why the batch failed, if it is to be resubmitted; None if the future has ended.
        """
        if meta["status"] != "SUCCESS":
            cause = cause_of(meta)
            if not is_final(meta, cause):
                return cause
            self._release_backlog()
            self.fail(
                BatchFailed(
                    f"batch {self.batch_id} failed: {cause}; see the logs of its workers. A new"
                    " submission reuses recorded judgements"
                )
            )
            return None
        try:
            batch = RewardBatch.from_celery(meta["result"])
        except (MessageRefused, BatchCancelled) as error:
            self.fail(error)
            return None
        with contextlib.suppress(BackendUnavailable):
            backend(*self._broker).expire_result(self.batch_id)
        failure = failure_of(batch, self._rules)
        if failure is not None:
            self.fail(failure)
            return None
        self._prepared = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._inner.set_result(replace(batch, rollouts=self._rollouts))
        return None

    def resubmit(self, why: str) -> None:
        """Submit the batch again: from memory, else from Redis, else its result from the record.

        Args:
            why: is recorded.

        Raises:
            BackendUnavailable: the broker cannot be reached; nothing has changed.
        """
        source = backend(*self._broker)
        if self._prepared is None:
            source.resubmit(self.batch_id, why)
            return
        prepared = self._prepared.resubmission(why)
        source.submit(prepared)
        self._prepared = prepared

    def give_up(self, why: str) -> None:
        """Fail the batch: its workers start no further call."""
        with contextlib.suppress(BackendUnavailable):
            unserved = backend(*self._broker).unserved(self.batch_id)
            why += no_worker_on(unserved)
            backend(*self._broker).fail(self.batch_id, why)
        self._release_backlog()
        self.fail(
            BatchFailed(
                f"batch {self.batch_id} {why}; `oyer check` says what is missing, and"
                f" `oyer batches resume {self.batch_id}` finishes it"
            )
        )

    def _release_backlog(self) -> None:
        """Remove the batch from the backlog; if the broker is unreachable, its entry expires."""
        with contextlib.suppress(BackendUnavailable):
            backend(*self._broker).release_backlog(self.batch_id)

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended: `cancel` and the poller may race."""
        self._prepared = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._inner.set_exception(error)

    def _watch(self) -> "concurrent.futures.Future[RewardBatch]":
        """Make sure that this process's poller watches the batch, also after a fork."""
        with _Watching.lock:
            if self._pid != os.getpid():
                if not self._inner.done():
                    # The parent's poller may have held the lock of the old one at the fork.
                    self._inner = concurrent.futures.Future()
                    poller(*self._broker).watch(self)
                self._pid = os.getpid()
        return self._inner

    def _waiting_for(self, timeout_s: float | None) -> str:
        try:
            judged, total = self.progress()
            unserved = backend(*self._broker).unserved(self.batch_id)
        except BackendUnavailable as error:
            missing = str(error)
        else:
            missing = what_is_missing(judged, total, unserved)
        return f"batch {self.batch_id} did not end within {timeout_s} s: {missing}"
