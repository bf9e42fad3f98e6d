"""One thread that watches every pending batch of a broker: results, progress, stalls.

It reads all results in one round trip, so a thousand futures cost what one costs. A process
that forks gets a poller of its own, and a poller with nothing to watch ends its thread.
"""

import logging
import os
import threading
import time
from functools import lru_cache
from typing import Any, Protocol

from oyer.config.reward import SigningConfig
from oyer.manager.backend.connection import Backend, Broker, backend
from oyer.manager.backend.recovery import MAX_SUBMISSIONS, Recovery
from oyer.protocol.errors import BackendUnavailable, BatchCancelled

log = logging.getLogger(__name__)

_POLL_S = 0.02
"""Pause between two looks for results; also how late a result may be noticed."""

_PROGRESS_S = 1.0
"""Pause between two looks at a batch's progress."""

_OUTAGE_S = 0.5
"""Pause after the broker could not be reached."""


class Watched(Protocol):
    """What the poller needs of a future."""

    batch_id: str
    stall_timeout_s: float

    def settle(self, meta: dict[str, Any]) -> str | None:
        """Take a Celery result; returns the cause where the batch is to be sent again."""

    def send_again(self, why: str) -> None:
        """Send the batch again."""

    def give_up(self, why: str) -> None:
        """End with an error, since sending it again has not helped."""

    def fail(self, error: Exception) -> None:
        """End with an error."""


class Poller:
    """Watches the pending batches of one broker."""

    def __init__(self, source: Backend) -> None:
        self._source = source
        self._watched: dict[str, list[_Watch]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._outage = False

    def watch(self, future: Watched) -> None:
        """Settle a future when its batch ends."""
        with self._changed:
            self._watched.setdefault(future.batch_id, []).append(_Watch(future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="oyer-poller", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, future: Watched) -> None:
        """Watch a future no longer."""
        with self._changed:
            kept = [w for w in self._watched.get(future.batch_id, ()) if w.future is not future]
            if kept:
                self._watched[future.batch_id] = kept
            else:
                self._watched.pop(future.batch_id, None)

    def drop_all(self, error: Exception) -> None:
        """End every watched future with an error: the broker goes for good."""
        with self._changed:
            watched, self._watched = self._watched, {}
        for watches in watched.values():
            for watch in watches:
                watch.future.fail(error)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watched and not self._changed.wait(timeout=5):
                    self._thread = None
                    return
                watches = [w for group in self._watched.values() for w in group]
            if not watches:
                continue
            try:
                self._look(watches)
                self._outage = False
                pause_s = _POLL_S
            except BackendUnavailable as error:
                # Those that `drop_all` took away wait no more.
                if self._watched and not self._outage:
                    log.warning("%s; still trying", error)
                self._outage = True
                pause_s = _OUTAGE_S
                for watch in watches:
                    watch.recovery.unknown(time.monotonic())
            time.sleep(pause_s)

    def _look(self, watches: "list[_Watch]") -> None:
        if not watches:
            return
        metas = self._source.results([w.future.batch_id for w in watches])
        for watch, meta in zip(watches, metas, strict=True):
            try:
                if watch.ended(meta, self._source):
                    self.forget(watch.future)
            except BackendUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - it becomes the future's, whose waiters
                # would wait for ever if this thread ended with it.
                watch.future.fail(error)
                self.forget(watch.future)


class _Watch:
    """A watched future and what its batch has gone through."""

    def __init__(self, future: Watched) -> None:
        self.future = future
        self._looked_at = time.monotonic()
        self.recovery = Recovery(future.stall_timeout_s, self._looked_at)

    def ended(self, meta: dict[str, Any] | None, source: Backend) -> bool:
        """Settle the future, or send its batch again; true when there is no more to watch.

        Raises:
            BackendUnavailable: the broker went away; whatever was due stays due.
        """
        if meta is None:
            why = self._look_for_progress(source)
            if why is not None:
                self.future.fail(
                    BatchCancelled(f"batch {self.future.batch_id} was cancelled: {why}")
                )
                return True
        else:
            cause = self.future.settle(meta)
            if cause is None:
                return True
            self.recovery.failed(cause, time.monotonic())
        why = self.recovery.due(time.monotonic())
        return why is not None and self._recover(why)

    def _look_for_progress(self, source: Backend) -> str | None:
        """Look once in a while; returns why the batch was cancelled, if it was."""
        now = time.monotonic()
        if now - self._looked_at < min(_PROGRESS_S, self.future.stall_timeout_s / 4):
            return None
        judged = source.progress(self.future.batch_id)
        self._looked_at = now
        if judged is None:
            self.recovery.gone(now)
        else:
            self.recovery.judged(judged, now)
        return source.cancelled(self.future.batch_id)

    def _recover(self, why: str) -> bool:
        """Send the batch again, or give it up; true when there is no more to watch."""
        if self.recovery.exhausted:
            self.future.give_up(f"{why}; given up after {self.recovery.submissions} submissions")
            return True
        self.future.send_again(why)
        self.recovery.sent(time.monotonic())
        log.warning(
            "batch %s %s; submitted again (%d of %d)",
            self.future.batch_id,
            why,
            self.recovery.submissions,
            MAX_SUBMISSIONS,
        )
        return False


@lru_cache(maxsize=64)
def _poller_of(pid: int, broker: Broker) -> Poller:
    return Poller(backend(*broker))


def poller(url: str, expires_s: int, signing: SigningConfig | None = None) -> Poller:
    """Return this process's poller for a broker."""
    return _poller_of(os.getpid(), Broker(url, expires_s, signing))
