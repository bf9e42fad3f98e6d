"""The Redis transport of kombu as Oyer's apps use it, by `Connection` in `app.make_app`.

- What is no message of Celery is thrown away and logged once: kombu takes for granted that a queue
  holds what Celery wrote, and would end the worker.
- While Redis refuses commands, the worker polls on: messages under way keep their channel.
- Overrides kombu's `_brpop_read` and `_get_client`, so its version is pinned and
  `tests/fuzz/test_messages.py` and `tests/tasks/test_transport.py` guard them.
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
"""Pause before Redis is asked again for messages after it refused, in seconds."""


class PlainMessage(virtual.Message):
    """A message of which nothing is unpacked: ours are not compressed, a bomb is."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            properties = payload["properties"]
            place = properties["delivery_info"]
            named = (properties["delivery_tag"], place["exchange"], place["routing_key"])
            compressed = (payload.get("headers") or {}).get("compression") is not None
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError("no message") from error
        if compressed or not all(isinstance(name, str) for name in named):
            raise ValueError("compressed, or without an address")
        super().__init__(payload, channel=channel, **kwargs)


class Channel(redis.Channel):
    """Reads on while Redis refuses, and throws away what is no message."""

    Message = PlainMessage
    QoS = LeasedQoS

    connection: Any
    _refused = False

    def _get_client(self) -> type[Client]:
        return Client

    def _brpop_read(self, **options: Any) -> Any:
        broker = self.connection
        passed_on = of_broker(broker.connection_errors, broker.channel_errors, (Empty,))
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
        except passed_on:
            raise
        except Exception as error:  # noqa: BLE001 - kombu checks nothing, so anything may be raised
            # It has left its queue and was not noted as delivered, so there is nothing to reject.
            log.error("a message was thrown away: it is not of Celery (%s)", type(error).__name__)
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


class Connection(kombu.Connection):
    """A connection that uses `Transport`, and is named by its URL's scheme in logs."""

    def get_transport_cls(self) -> type[Transport]:
        """Return the transport, whatever the URL names: there is Redis only."""
        return Transport


def of_broker(*kinds: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """Errors of the connection; kombu counts KeyError among them, which a message raises as well."""
    return tuple(kind for group in kinds for kind in group if kind is not KeyError)
