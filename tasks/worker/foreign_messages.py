"""Keeps messages that are not ours from ending a worker: each is thrown away, and logged once.

- Celery takes for granted that a queue holds what Celery wrote. What lacks a header raises inside of
  its consumer and ends the worker; a body that cannot be read stays unacknowledged for as long as
  its worker lives. What is no JSON, `oyer.tasks.worker.broker_transport` throws away.
- Overrides Celery's `create_task_handler`, so its version is pinned and
  `tests/fuzz/test_messages.py` guards it.
- A log line names the message's digest and what is wrong with it, and nothing that it holds.
"""

import hashlib
import time
from collections.abc import Callable, Container
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer

from oyer.protocol import names
from oyer.protocol.redis_client import refusal_behind
from oyer.tasks.worker.broker_transport import REFUSED_PAUSE_S, of_broker

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

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Wait before the next attempt where Redis can be connected to and refuses commands."""
        super().on_connection_error_after_connected(exc)
        if refusal_behind(exc) is not None:
            time.sleep(REFUSED_PAUSE_S)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Look at each message before Celery does."""
        handle = super().create_task_handler(*args, **kwargs)
        passed_on = of_broker(self.connection_errors, self.channel_errors)

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
