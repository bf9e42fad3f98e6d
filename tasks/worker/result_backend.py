"""Celery's Redis result backend without its subscriptions.

The stock backend subscribes to every task of a chord, and `get` re-reads every header after
every message, which is quadratic in the batch. The trainer holds one poller instead
(`oyer.manager.backend.poller`), so nobody needs the subscriptions.
"""

from typing import Any

from celery.backends import redis

from oyer.protocol.redis_client import Client


class _NoSubscriptions(redis.ResultConsumer):  # type: ignore[name-defined,misc]  # not in the stubs
    def start(self, *args: Any, **kwargs: Any) -> None:
        """Subscribe to nothing."""

    def consume_from(self, task_id: str) -> None:
        """Subscribe to nothing."""

    def cancel_for(self, task_id: str) -> None:
        """Nothing was subscribed."""


class PollRedis(redis.RedisBackend):
    """Redis results that are read by polling, stored as soon as Redis takes them."""

    ResultConsumer = _NoSubscriptions

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribe to nothing when a task is sent."""

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> None:
        """Count a task of a chord, again after a while where Redis is away or refuses.

        Celery tries once, and the chord of a task that is not counted never ends. Counted twice,
        a task counts once.
        """
        counted = super().on_chord_part_return
        self._ensure_retryable(counted, *args, **kwargs)  # type: ignore[attr-defined]  # not in the stubs

    def _get_client(self) -> type[Client]:
        return Client
