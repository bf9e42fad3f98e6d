"""Renews the leases of a worker's unacknowledged messages, and returns expired messages to queues.

Promises, mechanism, invariants and tests: docs/internals/message_lease.md. Uses kombu's internals
(`QoS.append`, `_delivered`, `_dirty`, `restore_by_tag`), so kombu's version is pinned.
"""

import contextlib
import threading
import time
from collections.abc import Iterable
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker import state
from kombu.transport import redis, virtual
from kombu.utils.json import dumps, loads
from redis import RedisError

from oyer.tasks.coordination.admission import task_id_of

log = get_logger(__name__)

CONNECTION_TIMEOUT_S = 1.0
"""Timeout of a connection to the broker, in seconds; a claim on a chord's callback grows with it."""

_RESTORED_PER_SWEEP = 1000
"""Maximum number of messages that one sweep returns."""


class LeasedQoS(redis.QoS):
    """A channel's unacknowledged messages, leased by the clock of Redis."""

    channel: Any
    _delivered: Any
    _dirty: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ahead_s: float | None = None
        self._unsent_acks: set[str] = set()
        self.leased: set[str] = set()
        """Tags of messages that `take_messages.lua` has leased and that are delivered next."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Lease a message that was just taken from its queue.

        If Redis is down by then, process it without a lease: the queue no longer holds it.
        """
        if delivery_tag in self.leased:
            self.leased.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
            return
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
            log.warning("a message is processed without a lease: %s", error)
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Delete a message and its lease; if Redis is down, `renew` does it later.

        Not in a transaction, which a full Redis refuses. A lease without a message, left by a kill
        between the two commands, is removed by the next sweep.
        """
        self._end_chunk(delivery_tag)
        try:
            self._delete([delivery_tag])
        except RedisError as error:
            log.warning("an acknowledgement is sent later: %s", error)
            self._unsent_acks.add(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def forget(self, message: bytes) -> None:
        """Delete a message that cannot be delivered, and its lease if it has one."""
        with contextlib.suppress(ValueError, TypeError, LookupError):
            self._delete([str(loads(message)["properties"]["delivery_tag"])])

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Return a message to its queue, or delete it."""
        self._end_chunk(delivery_tag)
        super().reject(delivery_tag, requeue)

    def _end_chunk(self, delivery_tag: str) -> None:
        admission, message = self.channel.admission, self._delivered.get(delivery_tag)
        if admission is not None and message is not None:
            admission.end(task_id_of(message.headers))

    def _delete(self, tags: Iterable[str]) -> None:
        with self.channel.conn_or_acquire() as client:
            pipe = client.pipeline(transaction=False)
            for tag in tags:
                pipe.hdel(self.unacked_key, tag)
                pipe.zrem(self.unacked_index_key, tag)
            pipe.execute()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: kombu's sweep uses the clock of the host; `sweep` uses that of Redis."""

    def renew(self) -> None:
        """Renew the leases of all messages that this worker has not acknowledged."""
        self._ahead_s = None
        unsent = list(self._unsent_acks)
        if unsent:
            self._delete(unsent)
            self._unsent_acks.difference_update(unsent)
        tags = set(self._delivered) - set(self._dirty)
        if tags:
            with self.channel.conn_or_acquire() as client:
                leases = dict.fromkeys(tags, self._now_s(client))
                # XX: do not lease a message again that was acknowledged meanwhile.
                client.zadd(self.unacked_index_key, leases, xx=True)

    def sweep(self) -> None:
        """Return messages with an expired lease to their queues."""
        with self.channel.conn_or_acquire() as client:
            expired_s = _server_time_s(client) - self.visibility_timeout
            for tag in client.zrangebyscore(
                self.unacked_index_key, "-inf", expired_s, start=0, num=_RESTORED_PER_SWEEP
            ):
                # Workers sweep concurrently: only the one that removes a message restores it.
                self.restore_by_tag(tag, client)

    def _now_s(self, client: Any) -> float:
        """Return the time of Redis, read once per renewal and extrapolated in between."""
        if self._ahead_s is None:
            self._ahead_s = _server_time_s(client) - time.monotonic()
        return time.monotonic() + self._ahead_s


class MessageLease(bootsteps.StartStopStep):
    """Consumer step that renews leases and sweeps expired ones, four times per visibility timeout."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        # Celery unsets it under gevent. Without it, Celery doubles a worker's claim on a chord's
        # callback, which would then outlive the leases of the worker's messages.
        consumer.app.conf.broker_connection_timeout = CONNECTION_TIMEOUT_S
        self._stopped = threading.Event()
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Start a thread; under gevent it is a greenlet. Does nothing if the broker is not Redis."""
        if consumer.connection.transport.driver_type != "redis":
            return
        # Each new connection stops and starts the step, with a new channel.
        self._stopped = threading.Event()
        threading.Thread(
            target=_keep,
            args=(consumer.task_consumer.channel, self._stopped),
            name="oyer-lease",
            daemon=True,
        ).start()

    def stop(self, consumer: Any) -> None:
        """Stop after a lost connection, but not in a stopping worker: its last calls still run."""
        if state.should_stop is None:
            self._stopped.set()

    def shutdown(self, consumer: Any) -> None:
        """Stop: no call runs any more."""
        self._stopped.set()

    def terminate(self, parent: Any) -> None:
        """Stop: the worker exits at once."""
        self._stopped.set()


def _keep(channel: Any, stopped: threading.Event) -> None:
    period_s = max(0.5, channel.visibility_timeout / 4)
    while not stopped.wait(period_s):
        try:
            channel.qos.renew()
            channel.qos.sweep()
        except Exception as error:  # noqa: BLE001 - if the thread ended, all leases would expire
            # The next round retries. The worst case is a second delivery; tasks are idempotent.
            log.warning("message lease not renewed: %s", type(error).__name__)


def _server_time_s(client: Any) -> float:
    seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6)
