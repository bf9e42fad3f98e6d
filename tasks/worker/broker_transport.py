"""A subclass of kombu's Redis transport; `oyer.tasks.app` uses it through `BrokerConnection`.

- Drops and logs an entry of a queue that is not a Celery message; kombu would raise and end the worker.
- In a judge worker, sorts judge messages by flow and takes those that `Admission` allows.
- Keeps polling while Redis refuses commands, so that running tasks keep their channel.
- Overrides kombu's `_brpop_read` and `_get_client`. Its version is therefore pinned;
  `tests/fuzz/test_messages.py` and `tests/tasks/worker/test_broker_transport.py` test both.
"""

import time
from queue import Empty
from typing import Any, ClassVar

import kombu
from celery.utils.log import get_logger
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis import RedisError

from oyer.protocol import names
from oyer.protocol.redis_client import Client, RedisRefuses, load_script
from oyer.tasks.coordination.admission import Admission, flow_of, task_id_of
from oyer.tasks.worker.message_lease import LeasedQoS

log = get_logger(__name__)

REFUSED_PAUSE_S = 1.0
"""Pause before the next poll after Redis refused one, in seconds."""


_TAKEN_OF_EACH = 2
"""Messages of a flow that one look takes, so that workers that look at once share them."""

POLL_S = 0.05
"""Pause between two looks at the flows' lists while they hold messages, in seconds."""


class PlainMessage(virtual.Message):
    """A message that is never decompressed: Oyer sends no compressed messages."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            properties = payload["properties"]
            place = properties["delivery_info"]
            named = (properties["delivery_tag"], place["exchange"], place["routing_key"])
            compressed = (payload.get("headers") or {}).get("compression") is not None
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError("not a message") from error
        if compressed or not all(isinstance(name, str) for name in named):
            raise ValueError("compressed, or without an address")
        super().__init__(payload, channel=channel, **kwargs)


class Channel(redis.Channel):
    """Keeps polling while Redis refuses commands, and drops entries that are not messages."""

    Message = PlainMessage
    QoS = LeasedQoS

    admission: ClassVar[Admission | None] = None
    """Set in a judge worker once it is ready."""

    connection: Any
    qos: Any
    _closing: bool
    _refused = False
    _flows_left = 0
    """Flows with messages in Redis, as of the last look."""
    _handle: Any = None
    """Kombu's callback for a judge message that was taken."""
    _script: Any = None

    def _get_client(self) -> type[Client]:
        return Client

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Consume from a queue; messages of queue `judge` pass through the lists of their flows."""
        super().basic_consume(queue, *args, **kwargs)
        if queue == names.JUDGE_QUEUE:
            self._handle = self.connection._callbacks[queue]
            self.connection._callbacks[queue] = self._sort

    def _sort(self, raw: Any) -> None:
        """Put a message into the list of its flow, and take what may start."""
        if self.admission is None:
            self._handle(raw)
            return
        PlainMessage(raw, channel=self)
        try:
            taken = self._look(dumps(raw))
        except RedisError as error:
            log.warning("a message is processed out of turn: %s", error)
            self._handle(raw)
            return
        if taken:
            self._take()

    def _take(self) -> bool:
        """Take messages until none may start; returns whether there were any."""
        taken = False
        while self._look():
            taken = True
        return taken

    def _look(self, message: str = "") -> bool:
        """Take some messages that may start; returns whether there were any.

        Args:
            message: taken from the queue, to be sorted first.
        """
        admission, qos = self.admission, self.qos
        if admission is None or self._handle is None:
            return False
        if self._script is None:
            self._script = load_script(self.client, __package__, "take_messages")
        most = 0 if self._closing else admission.free
        with self.conn_or_acquire() as client:
            self._flows_left, *messages = self._script(
                keys=[names.JUDGE_QUEUE, names.FLOWS_KEY, qos.unacked_index_key, qos.unacked_key],
                args=[names.flow_key(""), most, _TAKEN_OF_EACH, message, *admission.full_flows()],
                client=client,
            )
        for one in messages:
            self._begin(one, admission)
        return bool(messages)

    def _begin(self, message: bytes, admission: Admission) -> None:
        """Deliver a message that `take_messages.lua` has leased; drop one that is not Celery's."""
        try:
            raw = loads(bytes_to_str(message))
            tag = PlainMessage(raw, channel=self).delivery_tag
        except Exception as error:  # noqa: BLE001 - any failure to read it means the same
            log.error("a message was thrown away: it is not from Celery (%s)", type(error).__name__)
            self.qos.forget(message)
            return
        task_id = task_id_of(raw.get("headers"))
        admission.begin(task_id, *flow_of(raw.get("headers")))
        self.qos.leased.add(tag)
        try:
            self._handle(raw)
        except BaseException:
            admission.end(task_id)
            raise

    def _brpop_start(self, timeout: float | None = None) -> None:
        if timeout is None and self._flows_left:
            timeout = POLL_S
        super()._brpop_start(timeout)  # type: ignore[misc]  # not in the stubs

    def _brpop_read(self, **options: Any) -> Any:
        broker = self.connection
        reraised = connection_errors(broker.connection_errors, broker.channel_errors, (Empty,))
        try:
            try:
                read = super()._brpop_read(**options)  # type: ignore[misc]  # not in the stubs
            except Empty:
                read = self._take()
                if not read:
                    self._note_answer()
                    raise
        except RedisRefuses as error:
            if not self._refused:
                log.warning("no messages from Redis: %s; asking again each second", error)
            self._refused = True
            time.sleep(REFUSED_PAUSE_S)
            return True
        except reraised:
            raise
        except Exception as error:  # noqa: BLE001 - kombu validates nothing, so any error is possible
            # It has left its queue and is not registered as delivered, so it needs no reject.
            log.error("a message was thrown away: it is not from Celery (%s)", type(error).__name__)
            return True
        self._note_answer()
        return read

    def _note_answer(self) -> None:
        if self._refused:
            log.warning("Redis hands out messages again")
            self._refused = False


class Transport(redis.Transport):
    """kombu's transport with Oyer's channel."""

    Channel = Channel


class SentinelChannel(Channel, redis.SentinelChannel):
    """The same on the primary that sentinels name."""


class SentinelTransport(redis.SentinelTransport):
    """kombu's transport for Sentinel with Oyer's channel."""

    Channel = SentinelChannel


class BrokerConnection(kombu.Connection):
    """A connection that uses Oyer's transports; logs still show its URL."""

    def get_transport_cls(self) -> type[Transport | SentinelTransport]:
        """Return the transport for any URL: Oyer supports only Redis."""
        return SentinelTransport if self.transport_cls == "sentinel" else Transport


def connection_errors(*kinds: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """Flatten connection errors without KeyError: kombu lists it, but a bad message raises it too."""
    return tuple(kind for group in kinds for kind in group if kind is not KeyError)
