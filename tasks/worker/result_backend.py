"""Celery's Redis result backend without its subscriptions.

Celery's backend subscribes to each task of a chord, and `get` re-reads every header task after
each message, which is quadratic in the batch. The trainer uses one poller instead
(`oyer.manager.backend.poller`).
"""

from typing import Any

from celery.backends import redis
from celery.utils.log import get_logger
from redis import ResponseError

from oyer.protocol.redis_client import Client
from oyer.tasks.worker.broker_transport import connection_errors

log = get_logger(__name__)


class _NoSubscriptions(redis.ResultConsumer):  # type: ignore[name-defined,misc]  # not in the stubs
    def start(self, *args: Any, **kwargs: Any) -> None:
        """Subscribe to nothing."""

    def consume_from(self, task_id: str) -> None:
        """Subscribe to nothing."""

    def cancel_for(self, task_id: str) -> None:
        """Nothing was subscribed."""


class PollRedis(redis.RedisBackend):
    """Redis results that are read by polling; storing them is retried while Redis is down."""

    ResultConsumer = _NoSubscriptions

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribe to nothing when a task is sent."""

    def _store_result(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
        """Store a result; replace a stored one that cannot be read, e.g. with a foreign signature.

        Celery reads the stored one first. Its error would keep this one from the trainer.
        """
        try:
            return super()._store_result(task_id, *args, **kwargs)  # type: ignore[misc]  # not in the stubs
        except connection_errors(self.connection_errors):  # type: ignore[attr-defined]  # not in the stubs
            raise
        except Exception as error:  # noqa: BLE001 - Celery validates nothing, so any error is possible
            log.warning("a stored result that cannot be read is replaced: %s", type(error).__name__)
            self.delete(self.get_key_for_task(task_id))
            return super()._store_result(task_id, *args, **kwargs)  # type: ignore[misc]  # not in the stubs

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> None:
        """Count a finished header task; retry while Redis is down or refuses commands.

        Celery tries once, and a chord with an uncounted task never fires. Counting is idempotent.

        If the chord's keys have foreign values, the task ends uncounted: an error would leave its
        message leased until the worker restarts. The trainer submits the batch again, as a new chord.
        """
        counted = super().on_chord_part_return
        try:
            self._ensure_retryable(counted, *args, **kwargs)  # type: ignore[attr-defined]  # not in the stubs
        except ResponseError as error:
            log.error(
                "a task of a chord cannot be counted, so that the chord never ends: %s", error
            )

    def _get_client(self) -> type[Client]:
        return Client


class PollSentinel(PollRedis, redis.SentinelBackend):
    """The same on the primary that sentinels name."""
