"""Keeps messages that are not ours from ending a worker: each is thrown away, and logged once.

- Celery and kombu take for granted that a queue holds what Celery wrote. What is no JSON, or lacks
  a header, raises inside of their consumer and ends the worker; a body that cannot be read stays
  unacknowledged for as long as its worker lives.
- Overrides kombu's `_brpop_read` and Celery's `create_task_handler`, so their versions are pinned
  and `tests/fuzz/test_messages.py` guards them.
- A log line names the message's digest and what is wrong with it, and nothing that it holds.
"""

import hashlib
from collections.abc import Callable, Container
from queue import Empty
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from kombu.transport import redis, virtual

from oyer.tasks import names

log = get_logger(__name__)

_SHOWN_CHARS = 200
"""How much of a stranger's words a log line shows, in characters."""

_NEVER_SENT = ("compression", "eta", "expires", "shadow")
"""Headers that mean something to Celery and that no message of ours has."""


class ConsumerOfOurs(Consumer):
    """Hands to Celery what is ours, and rejects everything else."""

    # Set by Celery's constructor.
    connection_errors: tuple[type[Exception], ...]
    channel_errors: tuple[type[Exception], ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The consumer's channel is made later, by its first steps.
        redis.Transport.Channel = TolerantChannel
        super().__init__(*args, **kwargs)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Look at each message before Celery does."""
        handle = super().create_task_handler(*args, **kwargs)
        passed_on = _of_broker(self.connection_errors, self.channel_errors)

        def on_message(message: Any) -> None:
            problem = problem_of(message, self.app.amqp.queues.consume_from)
            if problem is None:
                try:
                    handle(message)
                    return
                except passed_on:
                    raise
                except Exception as error:  # noqa: BLE001 - of whatever Celery cannot take, a worker
                    # must not die, or it takes the next worker's life as well.
                    problem = f"cannot be run: {error!r}"[:_SHOWN_CHARS]
            _tell(problem, message)
            if not message.acknowledged:
                message.reject_log_error(log, self.connection_errors)

        return on_message


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


class TolerantChannel(redis.Channel):
    """Throws away what is no message at all."""

    Message = PlainMessage

    connection: Any

    def _brpop_read(self, **options: Any) -> Any:
        broker = self.connection
        passed_on = _of_broker(broker.connection_errors, broker.channel_errors, (Empty,))
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # not in the stubs  # type: ignore[misc]  # not in the stubs
        except passed_on:
            raise
        except Exception as error:  # noqa: BLE001 - kombu checks nothing, so anything may be raised
            # It has left its queue and was not noted as delivered, so there is nothing to reject.
            log.error("a message was thrown away: it is not of Celery (%s)", type(error).__name__)
            return True


def _of_broker(*kinds: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """Errors of the connection; kombu counts KeyError among them, which a message raises as well."""
    return tuple(kind for group in kinds for kind in group if kind is not KeyError)


def problem_of(message: Any, queues: Container[str] = names.QUEUES) -> str | None:
    """Say why a message is not one of ours, for a worker of these queues; None where it is."""
    headers = message.headers
    if not isinstance(headers, dict) or "task" not in headers:
        return "it has no headers of Celery's protocol 2"
    task = headers["task"]
    if not isinstance(task, str) or task not in names.QUEUE_OF_TASK:
        return f"this worker knows no task {_shown(task)}"
    if names.QUEUE_OF_TASK[task] not in queues:
        return f"{task} is not of this worker's queue"
    if not isinstance(headers.get("id"), str) or not headers["id"]:
        return "its task has no id"
    odd = [name for name in _NEVER_SENT if headers.get(name) is not None]
    if odd or headers.get("timelimit") not in (None, [None, None]):
        return f"Oyer sends no task with {_shown(odd or 'a time limit')}"
    try:
        content = message.payload
    except Exception as error:  # noqa: BLE001 - any failure to decode means the same
        return f"its content cannot be decoded ({type(error).__name__})"
    if not isinstance(content, list) or len(content) != 3:
        return "its content is not arguments, keywords and options"
    args, kwargs, options = content
    if not (
        isinstance(args, list) and isinstance(kwargs, dict) and isinstance(options or {}, dict)
    ):
        return "its arguments, keywords or options are of another type"
    return None


def _shown(value: Any) -> str:
    return repr(value)[:_SHOWN_CHARS]


def _tell(problem: str, message: Any) -> None:
    body = message.body if isinstance(message.body, bytes) else repr(message.body).encode()
    digest = hashlib.sha256(body).hexdigest()[:12]
    log.error("message %s was thrown away: %s", digest, problem)
