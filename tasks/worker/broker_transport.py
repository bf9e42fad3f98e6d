"""A subclass of kombu's Redis transport; `oyer.tasks.app` uses it through `BrokerConnection`.

- Drops and logs an entry of a queue that is not a Celery message; kombu would raise and end the worker.
- Keeps polling while Redis refuses commands, so that running tasks keep their channel.
- Overrides kombu's `_brpop_read` and `_get_client`. Its version is therefore pinned;
  `tests/fuzz/test_messages.py` and `tests/tasks/worker/test_broker_transport.py` test both.
"""

import time
from queue import Empty
from typing import Any

import kombu
from celery.utils.log import get_logger
from kombu.transport import redis, virtual

from oyer.protocol.redis_client import Client, RedisRefuses
from oyer.tasks.worker.message_lease import LeasedQoS

log = get_logger(__name__)

REFUSED_PAUSE_S = 1.0
"""Pause before the next poll after Redis refused one, in seconds."""


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

    connection: Any
    _refused = False

    def _get_client(self) -> type[Client]:
        return Client

    def _brpop_read(self, **options: Any) -> Any:
        broker = self.connection
        reraised = connection_errors(broker.connection_errors, broker.channel_errors, (Empty,))
        try:
            read = super()._brpop_read(**options)  # type: ignore[misc]  # not in the stubs
        except RedisRefuses as error:
            if not self._refused:
                log.warning("no messages from Redis: %s; asking again each second", error)
            self._refused = True
            time.sleep(REFUSED_PAUSE_S)
            return True
        except Empty:
            self._note_answer()
            raise
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


class BrokerConnection(kombu.Connection):
    """A connection that uses `Transport`; logs still show its URL."""

    def get_transport_cls(self) -> type[Transport]:
        """Return the transport for any URL: Oyer supports only Redis."""
        return Transport


def connection_errors(*kinds: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """Flatten connection errors without KeyError: kombu lists it, but a bad message raises it too."""
    return tuple(kind for group in kinds for kind in group if kind is not KeyError)
