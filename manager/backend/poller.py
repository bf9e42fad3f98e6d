"""One thread per process and broker that polls the results and progress of all pending batches.

- One round trip reads all results, so the cost does not grow with the number of futures.
- A forked process starts its own poller. The thread ends when no future is pending.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from oyer.config.reward import SigningConfig
from oyer.manager.backend.connection import Backend, Broker, backend
from oyer.manager.backend.recovery import MAX_SUBMISSIONS, Recovery
from oyer.protocol.batch_store import BatchState
from oyer.protocol.errors import BackendUnavailable, BatchCancelled

log = logging.getLogger(__name__)

_POLL_S = 0.02
"""Pause between two reads of the results; also the maximum delay of a result."""

_PROGRESS_S = 1.0
"""Pause between two reads of a batch's progress."""

_OUTAGE_S = 0.5
"""Pause after the broker could not be reached."""


def started(name: str, run: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread.

    Raises:
        RuntimeError: the system allows no further thread; the next call tries again.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


class WatchedFuture(Protocol):
    """The part of `RewardFuture` that the poller uses."""

    batch_id: str
    stall_timeout_s: float

    def finish(self, meta: dict[str, Any]) -> str | None:
        """Take a Celery result; returns the cause if the batch is to be resubmitted."""

    def resubmit(self, why: str) -> None:
        """Submit the batch again."""

    def give_up(self, why: str) -> None:
        """Fail the batch: it was resubmitted `MAX_SUBMISSIONS` times."""

    def fail(self, error: Exception) -> None:
        """End the future with an error."""


class Poller:
    """Polls the pending batches of one broker."""

    def __init__(self, source: Backend) -> None:
        self._source = source
        self._watched: dict[str, list[_WatchedBatch]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._outage = False

    def watch(self, future: WatchedFuture) -> None:
        """End a future when its batch ends."""
        with self._changed:
            self._watched.setdefault(future.batch_id, []).append(_WatchedBatch(future))
            if self._thread is None:
                self._thread = started("oyer-poller", self._run)
            self._changed.notify()

    def forget(self, future: WatchedFuture) -> None:
        """Stop watching a future."""
        with self._changed:
            kept = [w for w in self._watched.get(future.batch_id, ()) if w.future is not future]
            if kept:
                self._watched[future.batch_id] = kept
            else:
                self._watched.pop(future.batch_id, None)

    def fail_all(self, error: Exception) -> None:
        """Fail every watched future, because the broker is stopped for good."""
        with self._changed:
            watched, self._watched = self._watched, {}
        for batches in watched.values():
            for batch in batches:
                batch.future.fail(error)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watched and not self._changed.wait(timeout=5):
                    self._thread = None
                    return
                batches = [w for group in self._watched.values() for w in group]
            if not batches:
                continue
            try:
                self._poll(batches)
                self._outage = False
                pause_s = _POLL_S
            except BackendUnavailable as error:
                # After `fail_all`, no future waits for the broker.
                if self._watched and not self._outage:
                    log.warning("%s; still trying", error)
                self._outage = True
                pause_s = _OUTAGE_S
                for batch in batches:
                    batch.recovery.outage(time.monotonic())
            time.sleep(pause_s)

    def _poll(self, batches: "list[_WatchedBatch]") -> None:
        metas = self._source.results([batch.future.batch_id for batch in batches])
        now_s = time.monotonic()
        due = [b for b, meta in zip(batches, metas, strict=True) if meta is None and b.due(now_s)]
        read = self._source.states([batch.future.batch_id for batch in due]) if due else ()
        states = dict(zip(due, read, strict=True))
        for batch, meta in zip(batches, metas, strict=True):
            try:
                if batch.ended(meta, states.get(batch)):
                    self.forget(batch.future)
            except BackendUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - the future gets it: without this thread,
                # all futures would wait for ever.
                batch.future.fail(error)
                self.forget(batch.future)


class _WatchedBatch:
    """A future and the recovery of its batch."""

    def __init__(self, future: WatchedFuture) -> None:
        self.future = future
        self._read_s = time.monotonic()
        self.recovery = Recovery(future.stall_timeout_s, self._read_s)

    def due(self, now_s: float) -> bool:
        """Whether to read the batch's state, which is every `_PROGRESS_S`."""
        return now_s - self._read_s >= min(_PROGRESS_S, self.future.stall_timeout_s / 4)

    def ended(self, meta: dict[str, Any] | None, state: BatchState | None) -> bool:
        """End the future or resubmit its batch where due; returns whether the future has ended.

        Raises:
            BackendUnavailable: the broker cannot be reached; the next poll does what was due.
        """
        if state is not None:
            self._note_progress(state)
            status, why = state.ending or ("", "")
            if status == "cancelled":
                self.future.fail(
                    BatchCancelled(f"batch {self.future.batch_id} was cancelled: {why}")
                )
                return True
        elif meta is not None:
            cause = self.future.finish(meta)
            if cause is None:
                return True
            self.recovery.failed(cause, time.monotonic())
        due = self.recovery.due(time.monotonic())
        return due is not None and self._recover(due)

    def _note_progress(self, state: BatchState) -> None:
        self._read_s = time.monotonic()
        if state.judged is None:
            self.recovery.gone(self._read_s)
        else:
            self.recovery.judged(state.judged, self._read_s)

    def _recover(self, why: str) -> bool:
        """Resubmit the batch, or give it up; returns whether the future has ended."""
        if self.recovery.exhausted:
            self.future.give_up(f"{why}; given up after {self.recovery.submissions} submissions")
            return True
        self.future.resubmit(why)
        self.recovery.resubmitted(time.monotonic())
        log.warning(
            "batch %s %s; resubmitted (%d of %d)",
            self.future.batch_id,
            why,
            self.recovery.submissions,
            MAX_SUBMISSIONS,
            extra={"fields": {"batch_id": self.future.batch_id}},
        )
        return False


@lru_cache(maxsize=64)
def _poller_of(pid: int, broker: Broker) -> Poller:
    return Poller(backend(*broker))


def poller(url: str, expires_s: int, signing: SigningConfig | None = None) -> Poller:
    """Return this process's poller for a broker."""
    return _poller_of(os.getpid(), Broker(url, expires_s, signing))
