"""Rejects and logs messages that Oyer did not send, so that they cannot end a worker.

- Celery does not validate messages. A missing header raises in its consumer and ends the worker; an
  unreadable body stays unacknowledged while its worker runs. `oyer.tasks.worker.broker_transport`
  drops entries that are not JSON.
- Overrides Celery's `create_task_handler`. Its version is therefore pinned;
  `tests/fuzz/test_messages.py` tests it.
- A log line has the message's digest and the reason, but none of its content.
"""

import hashlib
import time
from collections.abc import Callable, Container
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer

from oyer.protocol import names
from oyer.protocol.redis_client import refusal_behind
from oyer.tasks.worker.broker_transport import REFUSED_PAUSE_S, connection_errors

log = get_logger(__name__)

_SHOWN_CHARS = 200
"""Maximum length of quoted header values in a log line, in characters."""

_NEVER_SENT = ("compression", "eta", "expires", "shadow")
"""Headers that Celery acts on and Oyer never sends."""


class OyerConsumer(Consumer):
    """Passes Oyer's messages to Celery, and rejects all others."""

    # Set by Celery's constructor.
    connection_errors: tuple[type[Exception], ...]
    channel_errors: tuple[type[Exception], ...]

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Wait before the next attempt if Redis accepts connections but refuses commands."""
        super().on_connection_error_after_connected(exc)
        if refusal_behind(exc) is not None:
            time.sleep(REFUSED_PAUSE_S)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return a handler that validates each message first."""
        handle = super().create_task_handler(*args, **kwargs)
        reraised = connection_errors(self.connection_errors, self.channel_errors)

        def on_message(message: Any) -> None:
            problem = problem_of(message, self.app.amqp.queues.consume_from)
            if problem is None:
                try:
                    handle(message)
                    return
                except reraised:
                    raise
                except Exception as error:  # noqa: BLE001 - the message would be redelivered
                    # and end the next worker as well.
                    problem = f"cannot be run: {error!r}"[:_SHOWN_CHARS]
            _log_rejection(problem, message)
            if not message.acknowledged:
                message.reject_log_error(log, self.connection_errors)

        return on_message


def problem_of(message: Any, queues: Container[str] = names.QUEUES) -> str | None:
    """Return why a message is not for a worker on these queues; None if it is."""
    headers = message.headers
    if not isinstance(headers, dict) or "task" not in headers:
        return "it has no headers of Celery's protocol 2"
    task = headers["task"]
    if not isinstance(task, str) or task not in names.QUEUE_OF_TASK:
        return f"this worker has no task {_shown(task)}"
    if names.QUEUE_OF_TASK[task] not in queues:
        return f"{task} is not for this worker's queue"
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
        return "its content is not arguments, keyword arguments and options"
    args, kwargs, options = content
    if not (
        isinstance(args, list) and isinstance(kwargs, dict) and isinstance(options or {}, dict)
    ):
        return "its arguments, keyword arguments or options have another type"
    return None


def _shown(value: Any) -> str:
    return repr(value)[:_SHOWN_CHARS]


def _log_rejection(problem: str, message: Any) -> None:
    body = message.body if isinstance(message.body, bytes) else repr(message.body).encode()
    digest = hashlib.sha256(body).hexdigest()[:12]
    log.error("message %s was thrown away: %s", digest, problem)
