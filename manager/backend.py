"""One broker as the trainer reaches it: sends chords, reads results and progress.

Connections belong to a process: after a fork, `backend` gives the child its own.
"""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import redis
from celery import Celery, chord, group
from celery.canvas import Signature
from kombu.exceptions import OperationalError

from oyer.manager.submission import Submission
from oyer.tasks import names
from oyer.tasks.app import make_app
from oyer.tasks.errors import BackendUnavailable
from oyer.tasks.exchange import Exchange
from oyer.tasks.payloads import WIRE_VERSION, Manifest


class Backend:
    """Sends batches to one broker and reads what comes back."""

    def __init__(self, url: str, expires_s: int) -> None:
        self.url = url
        self._app: Celery = make_app(url, result_expires_s=expires_s)
        self._redis = redis.Redis.from_url(url, socket_connect_timeout=5, socket_keepalive=True)
        self.exchange = Exchange(self._redis, expires_s=expires_s)

    def submit(self, submission: Submission) -> None:
        """Post a batch's payloads, then send its chord.

        Raises:
            BackendUnavailable: the broker cannot be reached; nothing was sent.
        """
        try:
            self.exchange.post(submission.manifest, submission.columns, submission.chunks)
            self.send(submission.manifest)
        except (redis.RedisError, OperationalError) as error:
            raise BackendUnavailable(
                f"broker {_host(self.url)} cannot be reached ({error}); start it with `oyer up`,"
                " or set broker.url to the one that the workers use"
            ) from error

    def send(self, manifest: Manifest) -> None:
        """Send a batch's chord; its payloads are in Redis already."""
        args = {"v": WIRE_VERSION, "batch_id": manifest.batch_id}
        judges = [self._task(names.JUDGE_TASK, {**args, "chunk": k}) for k in _chunks(manifest)]
        length = self._task(names.LENGTH_TASK, args)
        combine = self._task(names.COMBINE_TASK, args)
        header = [*judges, length] if manifest.plan["length"] else judges
        # A result left by an earlier submission of this batch would end it before its time.
        self._redis.delete(self._result_key(manifest.batch_id))
        with self._app.producer_or_acquire() as producer, producer.batch():
            chord(group(header, app=self._app), app=self._app)(
                combine.set(ignore_result=False), task_id=manifest.batch_id, producer=producer
            )

    def results(self, batch_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Read the Celery result of each batch; None where it has not ended."""
        blobs = self._redis.mget([self._result_key(batch_id) for batch_id in batch_ids])
        return [None if blob is None else json.loads(blob) for blob in blobs]

    def _task(self, name: str, kwargs: dict[str, Any]) -> Signature[Any]:
        queue = names.QUEUE_OF_TASK[name]
        immutable = name != names.COMBINE_TASK
        return self._app.signature(
            name,
            kwargs=kwargs,
            immutable=immutable,
            # What a message says of itself goes into logs: say which, not what.
            options={"queue": queue, "ignore_result": True, "argsrepr": "", "kwargsrepr": ""},
        )

    def _result_key(self, batch_id: str) -> Any:
        return self._app.backend.get_key_for_task(batch_id)


def _chunks(manifest: Manifest) -> range:
    return range(len(manifest.chunks))


def _host(url: str) -> str:
    """Name a broker without its password."""
    return url.rpartition("@")[2] if "@" in url else url


@lru_cache(maxsize=64)
def _backend_of(pid: int, url: str, expires_s: int) -> Backend:
    return Backend(url, expires_s)


def backend(url: str, expires_s: int) -> Backend:
    """Return this process's connection to a broker."""
    return _backend_of(os.getpid(), url, expires_s)
