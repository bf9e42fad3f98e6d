"""Consumer step that keeps a worker's unacknowledged messages leased and hands out expired ones.

Kombu's own sweep of expired messages runs only in workers with an event loop; a gevent
worker never gives a killed neighbour's messages back. This step does, on every worker.

- Reads kombu's internals (`qos._delivered`, `unacked_index_key`, `restore_visible`), so the
  kombu version is pinned and a test guards them.
- Redis only; on another broker it does nothing.
"""

import threading
import time
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger

log = get_logger(__name__)

_RESTORED_PER_SWEEP = 1000
"""Messages handed out again by one sweep at most."""


class RedisLease(bootsteps.StartStopStep):
    """Refresh own leases and sweep expired ones, four times per visibility timeout."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Begin refreshing, on a greenlet under gevent and on a thread elsewhere."""
        if consumer.connection.transport.driver_type != "redis":
            return
        channel = consumer.task_consumer.channel
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=_keep, args=(channel, self._stopped), name="oyer-lease", daemon=True
        )
        self._thread.start()

    def stop(self, consumer: Any) -> None:
        """Stop refreshing; what is unacknowledged expires by itself."""
        self._stopped.set()

    terminate = stop


def _keep(channel: Any, stopped: threading.Event) -> None:
    period_s = max(0.5, channel.visibility_timeout / 4)
    while not stopped.wait(period_s):
        try:
            refresh(channel)
        except Exception as error:
            # Redis may be away for a while: the next round tries again, and until then the
            # worst that happens is a second delivery, which the tasks bear.
            log.warning("message lease not refreshed: %s", type(error).__name__)


def refresh(channel: Any) -> None:
    """Stamp this worker's unacknowledged messages with the present, then restore expired ones."""
    qos = channel.qos
    tags = list(qos._delivered)
    if tags:
        with channel.conn_or_acquire() as client:
            client.zadd(qos.unacked_index_key, dict.fromkeys(tags, time.time()), xx=True)
    qos.restore_visible(num=_RESTORED_PER_SWEEP, interval=1)
