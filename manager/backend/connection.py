"""A trainer's connection to one broker: sends batches, reads results and progress.

- Connections belong to a process: after a fork, `backend` returns a new one.
- Celery and redis are loaded by the first `Backend`, because they dominate import time.
- How a failed or stalled batch is resubmitted: docs/internals/recovery.md.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from oyer.config.reward import BrokerConfig, SigningConfig
from oyer.manager.backend.chord import send_chord, small_batch_task, task
from oyer.manager.backend.prepare import PreparedBatch
from oyer.manager.backend.results import read_result, refused
from oyer.manager.backend.submission_spans import traced_submission
from oyer.protocol import names
from oyer.protocol.batch import Manifest, Submission
from oyer.protocol.batch_store import ENDED_S, BatchState, BatchStore
from oyer.protocol.errors import BackendUnavailable
from oyer.protocol.measuring import measured
from oyer.protocol.measuring.live_workers import unserved

if TYPE_CHECKING:
    from redis import Redis

SOCKET_TIMEOUT_S = 5.0
"""Longest wait for one reply of Redis, in seconds, so that a trainer does not hang with its broker."""


class Broker(NamedTuple):
    """What a process needs to connect to a broker."""

    url: str
    expires_s: int
    """How long payloads and results are kept there, in seconds."""
    signing: SigningConfig | None = None

    @classmethod
    def of(cls, url: str, config: BrokerConfig) -> "Broker":
        """Return the broker of a configuration at `url`, which may differ from `broker.url`."""
        return cls(url, config.result_expires_s, config.signing)


class Backend:
    """Sends batches to one broker and reads their results.

    Every method raises `BackendUnavailable` if the broker cannot be reached.
    """

    def __init__(self, url: str, expires_s: int, signing: SigningConfig | None = None) -> None:
        from oyer.protocol import redis_client
        from oyer.protocol.measuring.measurements import Measurements
        from oyer.tasks.app import make_app

        self.url = url
        self._expires_s = expires_s
        self._app = make_app(url, result_expires_s=expires_s, signing=signing)
        self._signed = signing is not None
        self.redis: Redis = redis_client.open_client(
            url,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_keepalive=True,
        )
        self._clock = redis_client.RedisClock(self.redis)
        self._while_refused = redis_client.while_refused
        self._refuse_cluster = lru_cache(lambda: redis_client.refuse_cluster(self.redis))
        self._name = uuid.uuid4().hex
        self.waiting_messages = 0
        """Judge messages that waited for a worker when this process last stored a batch."""
        self._store = BatchStore(self.redis, expires_s=expires_s)
        self.measurements = Measurements(self.redis)

    def now_s(self) -> float:
        """Return the epoch seconds by the clock of Redis, which workers use for deadlines."""
        with self.reached():
            self._while_refused(self._clock.read)
            return self._clock.now_s()

    def submit(self, prepared: PreparedBatch, max_backlog_bytes: int | None = None) -> None:
        """Store a batch's payloads, then send its tasks.

        If it fails, a first submission is withdrawn, so that no batch is half-submitted.

        Raises:
            Overloaded: with this batch, more than `max_backlog_bytes` would be under way.
        """
        self.post(prepared, max_backlog_bytes)
        try:
            self.send(prepared.manifest)
        except BaseException:  # Ctrl-C as well: no future of the batch exists yet.
            if prepared.manifest.submission == 1:
                self.withdraw(prepared.manifest, half_sent=True)
            raise

    def post(self, prepared: PreparedBatch, max_backlog_bytes: int | None = None) -> None:
        """Store a batch's payloads.

        Raises:
            Overloaded: with this batch, more than `max_backlog_bytes` would be under way.
        """
        parts = prepared.manifest, prepared.columns, prepared.chunks, prepared.token_ids
        with self.reached(), traced_submission(prepared.manifest):
            try:
                self._while_refused(lambda: self._post(*parts, max_backlog_bytes))
            except BaseException:
                if prepared.manifest.submission == 1:
                    self.withdraw(prepared.manifest)
                raise

    def _post(self, *args: Any) -> None:
        self._refuse_cluster()
        self.waiting_messages = self._store.post(*args)

    def send(self, manifest: Manifest) -> None:
        """Send the tasks of a batch whose payloads are in Redis."""
        # Safe to repeat: a batch has one result, and its workers reuse recorded judgements.
        with self.reached():
            self._while_refused(lambda: self._send_tasks(manifest))

    def withdraw(self, manifest: Manifest, *, half_sent: bool = False) -> None:
        """Delete a batch's payloads, and cancel it where some of its tasks may be sent.

        If Redis is unreachable, the payloads expire.
        """
        import redis

        with contextlib.suppress(redis.RedisError, BackendUnavailable):
            if half_sent:
                why = f"submit was interrupted ({Submission.now('').host})"
                self._store.end(manifest.batch_id, "cancelled", why)
            self._store.discard(manifest)
            if half_sent:
                self._record_end(manifest.batch_id)

    def resubmit(self, batch_id: str, why: str) -> None:
        """Send the tasks of a batch again; if its payloads are gone, read the result from the record.

        A batch that the record cannot complete either fails with `BatchLost`. If several processes
        resubmit a batch at the same time, one of them sends it.
        """
        with self.reached():
            if not self._store.may_send_again(batch_id, self._name):
                return
            if self._store.holds(batch_id):
                manifest = self._store.manifest(batch_id).again(why)
                with traced_submission(manifest):
                    self._store.replace_manifest(manifest)
                    self._send_tasks(manifest)
            else:
                self.redis.delete(self._result_key(batch_id))
                task(self._app, names.RECALL_TASK, batch_id).apply_async(task_id=batch_id)
                self._count_resubmission(why)

    def resume(self, batch_id: str, why: str) -> bool:
        """Resubmit an ended batch for an operator, with its original time to the deadline.

        Returns:
            Whether Redis still held its payloads; if not, nothing was sent.
        """
        with self.reached():
            if not self._store.holds(batch_id):
                return False
            manifest = self._store.manifest(batch_id).again(why)
            time_s = manifest.deadline - manifest.submitted_at
            manifest = replace(manifest, deadline=self._clock.now_s() + time_s)
            with traced_submission(manifest):
                self._store.replace_manifest(manifest)
                self._store.reopen(batch_id)
                self._send_tasks(manifest)
            return True

    def cancel(self, batch_id: str, why: str) -> str:
        """Stop further calls for a batch and record it as cancelled.

        Returns:
            The recorded reason: `why` and this process.
        """
        return self._end(batch_id, "cancelled", why)

    def fail(self, batch_id: str, why: str) -> str:
        """Stop further calls for a batch and record it as failed; returns the recorded reason."""
        return self._end(batch_id, "failed", why)

    def _end(self, batch_id: str, status: str, why: str) -> str:
        why = f"{why} ({Submission.now(why).host})"
        with self.reached():
            self._store.end(batch_id, status, why)
            self._record_end(batch_id)
        return why

    def _record_end(self, batch_id: str) -> None:
        with self.reached():
            task(self._app, names.END_TASK, batch_id).apply_async()

    def release_backlog(self, batch_id: str) -> None:
        """Remove a failed batch from the backlog; it can be resumed for `ABANDONED_S` more."""
        with self.reached():
            self._store.abandon(batch_id)

    def expire_result(self, batch_id: str) -> None:
        """Keep a result for `ENDED_S` more: its trainer has read it, and it is on record."""
        with self.reached():
            self.redis.expire(self._result_key(batch_id), min(ENDED_S, self._expires_s))

    def waiting(self, limit: int) -> list[Manifest]:
        """Read the manifests of the latest batches under way, newest first."""
        with self.reached():
            return self._store.under_way(limit)

    def manifest(self, batch_id: str) -> Manifest | None:
        """Read a batch's manifest; None if it is not in Redis."""
        with self.reached():
            return self._store.manifest(batch_id) if self._store.holds(batch_id) else None

    def judged(self, batch_id: str) -> int:
        """Count a batch's judgements so far."""
        with self.reached():
            return self._store.judged(batch_id)

    def states(self, batch_ids: Sequence[str]) -> list[BatchState]:
        """Read what Redis holds of each batch, all in one round trip."""
        with self.reached():
            return self._store.states(batch_ids)

    def unserved(self, batch_id: str) -> list[str]:
        """Return the queues that a batch needs and no worker consumes."""
        manifest = self.manifest(batch_id)
        if manifest is None:
            return []
        needed = [names.JUDGE_QUEUE] if manifest.plan["judges"] else []
        if not manifest.one_task:
            needed += [names.LENGTH_QUEUE] if manifest.plan["length"] else []
            needed.append(names.COMBINE_QUEUE)
        with self.reached():
            return unserved(self.redis, needed)

    def results(self, batch_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Read the Celery result of each batch; None where it has not ended."""
        with self.reached():
            blobs = self.redis.mget([self._result_key(batch_id) for batch_id in batch_ids])
        return [None if blob is None else self._read(blob) for blob in blobs]

    def _read(self, blob: bytes | str) -> dict[str, Any]:
        from kombu.exceptions import DecodeError

        if not self._signed:
            return read_result(blob)
        try:
            return dict(self._app.backend.decode(blob))  # type: ignore[arg-type]  # bytes, as asked for
        except DecodeError as error:
            return refused(f"its result is not signed by a key of broker.signing: {error}"[:500])

    def _send_tasks(self, manifest: Manifest) -> None:
        from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined]  # not in the stubs

        if manifest.submission > 1:
            # The result of an earlier submission would end this one at once.
            self.redis.delete(self._result_key(manifest.batch_id))
        if manifest.one_task:
            small_batch_task(self._app, manifest).apply_async(task_id=manifest.batch_id)
        else:
            try:
                with self._app.producer_or_acquire() as producer, producer.batch():
                    send_chord(self._app, manifest, producer)
            except BatchPublishError:
                # Sent one by one, a message is sent again after a lost connection.
                send_chord(self._app, manifest)
        if manifest.submission > 1:
            # Once it is sent: while Redis refuses, `send` tries again.
            self._count_resubmission(manifest.sendings[-1].why)

    def _count_resubmission(self, why: str) -> None:
        self.measurements.count(measured.RESUBMISSIONS, measured.resubmission_reason(why))

    def _result_key(self, batch_id: str) -> bytes:
        key: bytes = self._app.backend.get_key_for_task(batch_id)  # type: ignore[attr-defined]  # not in the stubs
        return key

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Raise `BackendUnavailable` where the broker fails; the message names the fix."""
        import redis
        from kombu.exceptions import KombuError

        from oyer.protocol.redis_client import unreachable

        try:
            yield
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise BackendUnavailable(
                f"broker {_host(self.url)}: {unreachable(error, '')}"
            ) from error
        except (redis.RedisError, KombuError) as error:
            raise BackendUnavailable(
                f"broker {_host(self.url)} cannot be reached ({error}); start it with `oyer up`,"
                " or set broker.url to the one that the workers use"
            ) from error


def _host(url: str) -> str:
    """Return a broker's URL without user, password and options."""
    return url.rpartition("@")[2].partition("?")[0]


@lru_cache(maxsize=64)
def _backend_of(pid: int, broker: Broker) -> Backend:
    return Backend(*broker)


def backend(url: str, expires_s: int, signing: SigningConfig | None = None) -> Backend:
    """Return this process's connection to a broker."""
    return _backend_of(os.getpid(), Broker(url, expires_s, signing))
