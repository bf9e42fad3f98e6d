"""The future of a batch: done, progress, result, await, cancel, and a ticket to reopen it.

A batch that fails or stands still is sent again under the same id; what is on record is
read, not repeated. The future of a forked or another process works like the original.
"""

import asyncio
import base64
import concurrent.futures
import contextlib
import json
import os
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from oyer.config.reward import RewardRules, SigningConfig
from oyer.manager.backend.connection import Broker, backend
from oyer.manager.backend.poller import poller
from oyer.manager.backend.prepare import PreparedBatch
from oyer.manager.batch import RewardBatch, failure_of
from oyer.protocol.errors import (
    BackendUnavailable,
    BatchCancelled,
    BatchFailed,
    BatchLost,
    InvalidConfig,
    InvalidInput,
    InvalidLengthCall,
    MessageRefused,
)

_FINAL = tuple(
    kind.__name__ for kind in (BatchLost, InvalidConfig, InvalidLengthCall, MessageRefused)
)
"""Causes that another submission would meet again."""

_TICKET_PREFIX = "oyer1."


class _forked:  # noqa: N801 - a namespace that a fork renews
    lock = threading.Lock()

    @classmethod
    def renew(cls) -> None:
        """Take a new lock in a child, where nobody would release one held at the fork."""
        cls.lock = threading.Lock()


os.register_at_fork(after_in_child=_forked.renew)


class RewardFuture:
    """The rewards of one batch, to come. Made by `RewardManager.submit`."""

    def __init__(
        self,
        *,
        batch_id: str,
        verdicts: int,
        rules: RewardRules,
        broker: Broker,
        stall_timeout_s: float,
        submission: PreparedBatch | None = None,
    ) -> None:
        self.batch_id = batch_id
        self.stall_timeout_s = stall_timeout_s
        self._verdicts = verdicts
        self._rules = rules
        self._broker = broker
        self._submission = submission
        self._pid = 0
        self._inner: concurrent.futures.Future[RewardBatch] = concurrent.futures.Future()
        self._watch()

    def done(self) -> bool:
        """Whether a result, or an error in its place, is there."""
        return self._watch().done()

    def progress(self) -> tuple[int, int]:
        """Return (judged, total): verdicts reached and verdicts that the batch will end with.

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
            timeout_s: longest wait in seconds; None waits as long as the batch takes.

        Raises:
            TimeoutError: not there in time; says what is missing, and the future stays usable.
            MissingScores: rollouts without a score, under `on_missing: raise`.
            JudgeOutage: more rollouts without a score than `max_failed_fraction`.
            BatchCancelled: it was cancelled, here, by another process or by `oyer batches cancel`.
            BatchFailed: the backend gave the batch up.
        """
        try:
            return self._watch().result(timeout_s)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(self._waiting_for(timeout_s)) from None

    def add_done_callback(self, callback: "Callable[[RewardFuture], object]") -> None:
        """Call `callback(future)` once done, at once if it is; on the poller's thread."""
        self._watch().add_done_callback(lambda _: callback(self))

    def cancel(self) -> bool:
        """Begin no further call for this batch; false when it had ended already.

        Raises:
            BackendUnavailable: the broker cannot be reached; the batch goes on.
        """
        if self._watch().done():
            return False
        backend(*self._broker).end(self.batch_id, "cancelled", "by the trainer")
        poller(*self._broker).forget(self)
        self.fail(BatchCancelled(f"batch {self.batch_id} was cancelled"))
        return True

    def __await__(self) -> Generator[Any, None, RewardBatch]:
        """Wait on the running event loop without blocking it."""
        return asyncio.shield(asyncio.wrap_future(self._watch())).__await__()

    @property
    def ticket(self) -> str:
        """A string that reopens this future elsewhere; as secret as the broker's URL."""
        state = [
            self.batch_id,
            self._verdicts,
            self._rules.model_dump(),
            [*self._broker[:2], self._broker.signing and self._broker.signing.model_dump()],
            self.stall_timeout_s,
        ]
        return _TICKET_PREFIX + base64.urlsafe_b64encode(json.dumps(state).encode()).decode()

    @classmethod
    def from_ticket(cls, ticket: str) -> "RewardFuture":
        """Reopen the future of a batch submitted by another process.

        Raises:
            InvalidInput: the text is no ticket of this version.
        """
        if not isinstance(ticket, str) or not ticket.startswith(_TICKET_PREFIX):
            raise InvalidInput(
                "ticket: is not one that `RewardFuture.ticket` of this version gave; pass it on as it"
                " was given, between processes of one release"
            )
        try:
            state = json.loads(base64.urlsafe_b64decode(ticket.removeprefix(_TICKET_PREFIX)))
            batch_id, verdicts, rules, (url, expires_s, signing), stall_timeout_s = state
            rules = RewardRules.model_validate(rules)
            signing = None if signing is None else SigningConfig.model_validate(signing)
        except (TypeError, ValueError) as error:
            raise InvalidInput("ticket: is cut or altered; pass it on as it was given") from error
        return cls(
            batch_id=batch_id,
            verdicts=verdicts,
            rules=rules,
            broker=Broker(url, expires_s, signing),
            stall_timeout_s=stall_timeout_s,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (RewardFuture.from_ticket, (self.ticket,))

    def __repr__(self) -> str:
        state = "done" if self._inner.done() else "pending"
        return f"<RewardFuture {self.batch_id} {state}>"

    def settle(self, meta: dict[str, Any]) -> str | None:
        """Take the Celery result of the batch.

        Returns:
            Why the batch failed, where sending it again may help; otherwise the future has ended.
        """
        if meta["status"] != "SUCCESS":
            cause = _cause(meta)
            if not _is_final(meta, cause):
                return cause
            self._abandon()
            self.fail(
                BatchFailed(
                    f"batch {self.batch_id} failed: {cause}; its workers' logs say more, and"
                    " submitted anew it pays for nothing that is on record"
                )
            )
            return None
        try:
            batch = RewardBatch.from_celery(meta["result"])
        except (MessageRefused, BatchCancelled) as error:
            self.fail(error)
            return None
        with contextlib.suppress(BackendUnavailable):
            backend(*self._broker).settled(self.batch_id)
        failure = failure_of(batch, self._rules)
        if failure is not None:
            self.fail(failure)
            return None
        self._submission = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._inner.set_result(batch)
        return None

    def send_again(self, why: str) -> None:
        """Send the batch again: from memory, or what Redis or the record still hold of it.

        Args:
            why: goes on record.

        Raises:
            BackendUnavailable: the broker cannot be reached; nothing has changed.
        """
        source = backend(*self._broker)
        if self._submission is None:
            source.send_again(self.batch_id, why)
            return
        again = self._submission.again(why)
        source.submit(again)
        self._submission = again

    def give_up(self, why: str) -> None:
        """End with an error, and let the workers begin no further call for the batch."""
        with contextlib.suppress(BackendUnavailable):
            unserved = backend(*self._broker).unserved(self.batch_id)
            why += _no_worker_on(unserved)
            backend(*self._broker).end(self.batch_id, "failed", why)
        self._abandon()
        self.fail(
            BatchFailed(
                f"batch {self.batch_id} {why}; `oyer check` says what is missing, and"
                f" `oyer batches resume {self.batch_id}` finishes it"
            )
        )

    def _abandon(self) -> None:
        """Take the batch out of the backlog; with the broker away, it leaves when it expires."""
        with contextlib.suppress(BackendUnavailable):
            backend(*self._broker).abandon(self.batch_id)

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended: `cancel` and the poller may meet here."""
        self._submission = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._inner.set_exception(error)

    def _watch(self) -> "concurrent.futures.Future[RewardBatch]":
        """Make sure that this process's poller watches; a fork leaves the parent's behind."""
        with _forked.lock:
            if self._pid != os.getpid():
                if not self._inner.done():
                    # The parent's poller may have held the old one's lock at the fork.
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
            missing = (
                f"{total - judged} of {total} verdicts are missing"
                if judged < total
                else "every verdict is there; its length terms or its combination are missing"
            ) + _no_worker_on(unserved)
        return f"batch {self.batch_id} did not end within {timeout_s} s: {missing}"


def _no_worker_on(queues: Sequence[str]) -> str:
    """Say which queues no worker listens on, and how to start one."""
    named = " and ".join(f"`{queue}`" for queue in queues)
    commands = " and ".join(f"`oyer worker {queue}`" for queue in queues)
    return f"; no worker listens on queue {named}: start {commands}" if queues else ""


def _is_final(meta: dict[str, Any], cause: str) -> bool:
    """Whether another submission would fail alike: in `combine`, or in a task of its chord."""
    result = meta.get("result")
    raised = result.get("exc_type") if isinstance(result, dict) else None
    return raised in _FINAL or any(f"raised {name}(" in cause for name in _FINAL)


def _cause(meta: dict[str, Any]) -> str:
    """Name the first error of a failed batch."""
    result = meta.get("result")
    if isinstance(result, dict):
        message = result.get("exc_message")
        text = " ".join(map(str, message)) if isinstance(message, (list, tuple)) else str(message)
        return f"{result.get('exc_type', 'error')}: {text}"
    return str(result)
