"""One broker as the trainer reaches it: sends chords, reads results and progress.

- Connections belong to a process: after a fork, `backend` gives the child its own.
- Celery and redis load with the first `Backend`: they are most of what an import would cost.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from oyer.config.reward import BrokerConfig, SigningConfig
from oyer.manager.backend import chord as layout
from oyer.manager.backend import stored
from oyer.manager.backend.prepare import PreparedBatch
from oyer.manager.streaming.group_store import GroupStore
from oyer.protocol import names
from oyer.protocol.batch import Manifest, Submission
from oyer.protocol.batch_store import ENDED_S, BatchStore
from oyer.protocol.errors import BackendUnavailable
from oyer.protocol.live_workers import unserved

SOCKET_TIMEOUT_S = 5.0
"""Longest wait for one answer of Redis, in seconds: a trainer must not hang with its broker."""


class Broker(NamedTuple):
    """What reaches a broker, from any process."""

    url: str
    expires_s: int
    """How long payloads and results stay there, in seconds."""
    signing: SigningConfig | None = None

    @classmethod
    def of(cls, url: str, config: BrokerConfig) -> "Broker":
        """Name the broker of a configuration, which may have found its URL elsewhere."""
        return cls(url, config.result_expires_s, config.signing)


class Withdrawn(Exception):
    """The batch is not to be sent."""


BeforeSending = Callable[[Manifest], None]
"""Called when all of a batch but its tasks is in Redis; may raise `Withdrawn`."""


class Backend:
    """Sends batches to one broker and reads what comes back.

    Every method raises `BackendUnavailable` when the broker cannot be reached.
    """

    def __init__(self, url: str, expires_s: int, signing: SigningConfig | None = None) -> None:
        from oyer.protocol.redis_client import Client, while_refused
        from oyer.tasks.app import make_app

        self.url = url
        self._expires_s = expires_s
        self._app = make_app(url, result_expires_s=expires_s, signing=signing)
        self._signed = signing is not None
        self._redis = Client.from_url(
            url,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_keepalive=True,
        )
        self._while_refused = while_refused
        self._name = uuid.uuid4().hex
        self._exchange = BatchStore(self._redis, expires_s=expires_s)

    def submit(
        self,
        submission: PreparedBatch,
        max_backlog_bytes: int | None = None,
        before_sending: "BeforeSending | None" = None,
    ) -> None:
        """Post a batch's payloads, then send its chord.

        Raises:
            Overloaded: with it, more than `max_backlog_bytes` would be under way.
            Withdrawn: by `before_sending`; the payloads are gone again.
        """
        # Nothing is half-submitted, unless it was submitted or told to others before.
        withdraws, sending = submission.manifest.submission == 1, False
        with self._reached():
            try:
                self._while_refused(
                    lambda: self._exchange.post(
                        submission.manifest,
                        submission.columns,
                        submission.chunks,
                        submission.token_ids,
                        max_backlog_bytes,
                    )
                )
                if before_sending is not None:
                    withdraws = False
                    before_sending(submission.manifest)
                sending = True
                # Sent twice, a batch has one result: what is on record is read, not repeated.
                self._while_refused(lambda: self._send(submission.manifest))
            except BaseException as error:
                # Ctrl-C as well: nobody would have the future of what is half sent.
                if withdraws or isinstance(error, Withdrawn):
                    self._withdraw(submission.manifest, half_sent=sending)
                raise

    def _withdraw(self, manifest: Manifest, *, half_sent: bool) -> None:
        import redis

        # With Redis away, what it has of the batch expires.
        with contextlib.suppress(redis.RedisError, BackendUnavailable):
            if half_sent:
                why = f"submit was interrupted ({Submission.now('').host})"
                self._exchange.end(manifest.batch_id, "cancelled", why)
            self._exchange.discard(manifest)
            if half_sent:
                self._put_end_on_record(manifest.batch_id)

    def meeting(self) -> GroupStore:
        """Return a part of its own in the groups of this broker."""
        return GroupStore(self._redis, self._reached, self._expires_s)

    def send_again(self, batch_id: str, why: str) -> None:
        """Send the chord of a batch whose payloads are in Redis; else ask for what is on record.

        A batch that the record cannot finish either fails with `BatchLost`. Several processes may
        watch a batch and find it standing still at one time: one of them sends it.
        """
        with self._reached():
            if not self._exchange.may_send_again(batch_id, self._name):
                return
            if self._exchange.holds(batch_id):
                again = self._exchange.manifest(batch_id).again(why)
                self._exchange.replace_manifest(again)
                self._send(again)
            else:
                self._redis.delete(self._result_key(batch_id))
                recall = layout.task(self._app, names.RECALL_TASK, batch_id)
                recall.apply_async(task_id=batch_id)

    def resume(self, batch_id: str, why: str) -> bool:
        """Send a batch again for an operator, with as long to its deadline as it had at first.

        Returns:
            Whether Redis still held its payloads; if not, nothing was sent.
        """
        with self._reached():
            if not self._exchange.holds(batch_id):
                return False
            again = self._exchange.manifest(batch_id).again(why)
            again = replace(again, deadline=time.time() + again.deadline - again.submitted_at)
            self._exchange.replace_manifest(again)
            self._exchange.reopen(batch_id)
            self._send(again)
            return True

    def end(self, batch_id: str, status: str, why: str) -> str:
        """Ask the workers to begin no further call for a batch, and to put its end on record.

        Args:
            status: `cancelled` or `failed`.
            why: for the record.

        Returns:
            What goes on record: why, and which process ended it.
        """
        why = f"{why} ({Submission.now(why).host})"
        with self._reached():
            self._exchange.end(batch_id, status, why)
        self._put_end_on_record(batch_id)
        return why

    def _put_end_on_record(self, batch_id: str) -> None:
        with self._reached():
            layout.task(self._app, names.END_TASK, batch_id).apply_async()

    def waiting(self, limit: int) -> list[Manifest]:
        """Read the manifests of the latest batches under way, newest first."""
        with self._reached():
            return self._exchange.under_way(limit)

    def manifest(self, batch_id: str) -> Manifest | None:
        """Read a batch's manifest; None where Redis does not hold it."""
        with self._reached():
            return self._exchange.manifest(batch_id) if self._exchange.holds(batch_id) else None

    def abandon(self, batch_id: str) -> None:
        """Count out a batch that has failed for good."""
        with self._reached():
            self._exchange.abandon(batch_id)

    def settled(self, batch_id: str) -> None:
        """Let a result go soon: its trainer has it, and the record as well."""
        with self._reached():
            self._redis.expire(self._result_key(batch_id), min(ENDED_S, self._expires_s))

    def judged(self, batch_id: str) -> int:
        """Count the verdicts that a batch has reached."""
        with self._reached():
            return self._exchange.judged(batch_id)

    def progress(self, batch_id: str) -> int | None:
        """Count a batch's verdicts; None where Redis no longer holds the batch itself."""
        with self._reached():
            return self._exchange.judged(batch_id) if self._exchange.holds(batch_id) else None

    def cancelled(self, batch_id: str) -> str | None:
        """Say why a batch was cancelled, and by which process; None where it was not."""
        with self._reached():
            status, why = self._exchange.ending(batch_id) or ("", None)
        return why if status == "cancelled" else None

    def verdicts(self, batch_id: str) -> int | None:
        """Count the verdicts that a batch is to end with; None where Redis no longer holds it."""
        with self._reached():
            if not self._exchange.holds(batch_id):
                return None
            manifest = self._exchange.manifest(batch_id)
        return manifest.size * len(manifest.plan["judges"])

    def unserved(self, batch_id: str) -> list[str]:
        """Return the queues that a batch needs and no worker listens on."""
        with self._reached():
            if not self._exchange.holds(batch_id):
                return []
            plan = self._exchange.manifest(batch_id).plan
            needed = [names.JUDGE_QUEUE] if plan["judges"] else []
            needed += [names.LENGTH_QUEUE] if plan["length"] else []
            return unserved(self._redis, [*needed, names.COMBINE_QUEUE])

    def results(self, batch_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Read the Celery result of each batch; None where it has not ended."""
        with self._reached():
            blobs = self._redis.mget([self._result_key(batch_id) for batch_id in batch_ids])
        return [None if blob is None else self._read(blob) for blob in blobs]

    def _read(self, blob: bytes | str) -> dict[str, Any]:
        """Read what Celery stored for a batch; under signing, what a stranger did is a failure."""
        from kombu.exceptions import DecodeError

        if not self._signed:
            return stored.read_result(blob)
        try:
            return dict(self._app.backend.decode(blob))  # type: ignore[arg-type]  # bytes, as asked for
        except DecodeError as error:
            return stored.failure(
                f"its result is not signed by a key of broker.signing: {error}"[:500]
            )

    def _send(self, manifest: Manifest) -> None:
        from celery import chord, group

        header, callback = layout.header_and_callback(self._app, manifest)
        # A result left by an earlier submission of this batch would end it before its time.
        self._redis.delete(self._result_key(manifest.batch_id))
        with self._app.producer_or_acquire() as producer, producer.batch():
            chord(group(header, app=self._app), app=self._app)(
                callback, task_id=manifest.batch_id, producer=producer
            )

    def _result_key(self, batch_id: str) -> bytes:
        key: bytes = self._app.backend.get_key_for_task(batch_id)  # type: ignore[attr-defined]  # not in the stubs
        return key

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Say what to do where the broker is away."""
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
    """Name a broker without its password."""
    return url.rpartition("@")[2] if "@" in url else url


@lru_cache(maxsize=64)
def _backend_of(pid: int, broker: Broker) -> Backend:
    return Backend(*broker)


def backend(url: str, expires_s: int, signing: SigningConfig | None = None) -> Backend:
    """Return this process's connection to a broker."""
    return _backend_of(os.getpid(), Broker(url, expires_s, signing))
