"""Keeps a worker's unacknowledged messages leased, and hands out those of the dead.

Kombu's own sweep of expired messages runs only in workers with an event loop; a gevent
worker never gives a killed neighbour's messages back. This consumer step does, on every worker.

- Leases go by the clock of Redis. Kombu stamps them with the host's: one host 30 s ahead would
  take every other host's messages while they are worked on, and keep its own 30 s too long.
- Reads kombu's internals (`QoS.append`, `_delivered`, `_dirty`, `restore_by_tag`), so the
  kombu version is pinned and tests guard them.
- Redis only; on another broker it does nothing.
"""

import threading
import time
from collections.abc import Iterable
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker import state
from kombu.transport import redis, virtual
from kombu.utils.json import dumps
from redis import RedisError

log = get_logger(__name__)

CONNECTION_TIMEOUT_S = 1.0
"""Longest wait for a connection to the broker, in seconds; the callback's claim grows with it."""

_RESTORED_PER_SWEEP = 1000
"""Messages handed out again by one sweep at most."""


class LeasedQoS(redis.QoS):
    """A channel's unacknowledged messages, with leases by the clock of Redis."""

    channel: Any
    _delivered: Any
    _dirty: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ahead_s: float | None = None
        self._unsent_acks: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Lease a message that was just taken from its queue.

        It has left the queue, so it is worked on without a lease where Redis goes away meanwhile.
        """
        place = message.delivery_info
        entry = dumps([message._raw, place["exchange"], place["routing_key"]])
        try:
            with self.channel.conn_or_acquire() as client:
                stamp_s = self._now_s(client)
                pipe = client.pipeline()
                pipe.zadd(self.unacked_index_key, {delivery_tag: stamp_s})
                pipe.hset(self.unacked_key, delivery_tag, entry)
                pipe.execute()
        except RedisError as error:
            log.warning("a message is worked on without a lease: %s", error)
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Give a message up, also to a full Redis, which refuses every command of a transaction.

        Died between the two, it leaves a lease of nothing, which the next sweep removes. What
        cannot be sent now, `renew` sends: the task has ended either way.
        """
        try:
            self._give_up([delivery_tag])
        except RedisError as error:
            log.warning("an acknowledgement is sent later: %s", error)
            self._unsent_acks.add(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def _give_up(self, tags: Iterable[str]) -> None:
        with self.channel.conn_or_acquire() as client:
            pipe = client.pipeline(transaction=False)
            for tag in tags:
                pipe.hdel(self.unacked_key, tag)
                pipe.zrem(self.unacked_index_key, tag)
            pipe.execute()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: kombu's sweep goes by the host's clock, `sweep` by that of Redis."""

    def renew(self) -> None:
        """Lease for another visibility timeout what this worker has not acknowledged."""
        self._ahead_s = None
        unsent = list(self._unsent_acks)
        if unsent:
            self._give_up(unsent)
            self._unsent_acks.difference_update(unsent)
        tags = set(self._delivered) - set(self._dirty)
        if tags:
            with self.channel.conn_or_acquire() as client:
                leases = dict.fromkeys(tags, self._now_s(client))
                # XX: one that was acknowledged meanwhile must not come back.
                client.zadd(self.unacked_index_key, leases, xx=True)

    def sweep(self) -> None:
        """Put messages whose lease has run out back into their queues."""
        with self.channel.conn_or_acquire() as client:
            expired_s = _server_time_s(client) - self.visibility_timeout
            for tag in client.zrangebyscore(
                self.unacked_index_key, "-inf", expired_s, start=0, num=_RESTORED_PER_SWEEP
            ):
                # Several workers may sweep at once: the first to remove a message restores it.
                self.restore_by_tag(tag, client)

    def _now_s(self, client: Any) -> float:
        """Return the time of Redis; asked for once per renewal, counted on in between."""
        if self._ahead_s is None:
            self._ahead_s = _server_time_s(client) - time.monotonic()
        return time.monotonic() + self._ahead_s


class RedisLease(bootsteps.StartStopStep):
    """Renew own leases and sweep expired ones, four times per visibility timeout."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        # Celery has just unset it under gevent, and in its absence doubles a worker's claim on a
        # chord's callback, which would then outlive the lease of the worker's messages.
        consumer.app.conf.broker_connection_timeout = CONNECTION_TIMEOUT_S
        self._stopped = threading.Event()
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Begin, on a greenlet under gevent and on a thread elsewhere."""
        if consumer.connection.transport.driver_type != "redis":
            return
        # Stopped and started again with each new connection, each with a channel of its own.
        self._stopped = threading.Event()
        threading.Thread(
            target=_keep,
            args=(consumer.task_consumer.channel, self._stopped),
            name="oyer-lease",
            daemon=True,
        ).start()

    def stop(self, consumer: Any) -> None:
        """End with a lost connection; in a worker that stops, its last calls are under way."""
        if state.should_stop is None:
            self._stopped.set()

    def shutdown(self, consumer: Any) -> None:
        """End: no call is under way any more."""
        self._stopped.set()

    def terminate(self, parent: Any) -> None:
        """End as well when the worker is stopped at once."""
        self._stopped.set()


def _keep(channel: Any, stopped: threading.Event) -> None:
    period_s = max(0.5, channel.visibility_timeout / 4)
    while not stopped.wait(period_s):
        try:
            channel.qos.renew()
            channel.qos.sweep()
        except Exception as error:  # noqa: BLE001 - a thread that ended would lose every lease
            # Redis may be away for a while: the next round tries again, and until then the
            # worst that happens is a second delivery, which the tasks bear.
            log.warning("message lease not renewed: %s", type(error).__name__)


def _server_time_s(client: Any) -> float:
    seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6)
