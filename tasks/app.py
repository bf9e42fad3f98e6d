"""The Celery app of trainers and workers: queues, acknowledgement, results.

A trainer may hold several apps. Each setting that differs from Celery's default says what fails
without it, as measured with Celery 5.7 on Redis.
"""

import time
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.app.utils import Settings
from celery.loaders.app import AppLoader
from celery.signals import before_task_publish
from kombu import Exchange, Queue

from oyer.config.reward import SigningConfig
from oyer.protocol import names
from oyer.protocol.redis_url import celery_url
from oyer.tasks.worker.broker_transport import BrokerConnection
from oyer.tasks.worker.message_lease import CONNECTION_TIMEOUT_S, MessageLease
from oyer.tasks.worker.signing import register

VISIBILITY_TIMEOUT_S = 10
"""Lease time of an unacknowledged message, in seconds; it returns to its queue when the lease expires.

At a worker's death, at least three quarters of it are left. That must exceed the 5 s of its claim on
a chord's callback, or the redelivered part would be acknowledged without firing the callback."""

_CONNECTIONS_PER_PROCESS = 300
"""Maximum Redis connections of a process. With kombu's default of 10, acks fail under load."""

_SILENCE_S = 20.0
"""Time without an expected reply after which a Redis connection counts as lost, in seconds."""


@before_task_publish.connect
def _note_time(sender: Any = None, headers: Any = None, **_: Any) -> None:
    """Note when a task is sent, from which its worker computes the wait in the queue."""
    if sender in names.QUEUE_OF_TASK:
        headers[names.SENT_AT_HEADER] = time.time()


class _Loader(AppLoader):
    """Reads no configuration module: `CELERY_CONFIG_MODULE` belongs to another program."""

    def read_configuration(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return nothing; `make_app` sets everything."""
        return {}


class _Settings(Settings):
    """Celery's settings without the overrides from environment variables.

    `CELERY_BROKER_URL` and the like belong to another Celery program on the same host.
    """

    @property
    def broker_url(self) -> str:
        """The broker of `make_app`."""
        return str(self.get("broker_url"))

    @property
    def broker_read_url(self) -> str:
        """The same."""
        return self.broker_url

    @property
    def broker_write_url(self) -> str:
        """The same."""
        return self.broker_url

    @property
    def result_backend(self) -> str:
        """The result backend of `make_app`."""
        return str(self.get("result_backend"))


class _AMQP(AMQP):
    """Connects by `oyer.tasks.worker.broker_transport`."""

    Connection = BrokerConnection


class _App(Celery):
    """A Celery app that only `make_app` configures."""

    amqp_cls = _AMQP  # type: ignore[assignment]  # the stubs know its name only

    def __init__(self) -> None:
        super().__init__("oyer", set_as_current=False, include=[], loader=_Loader, fixups=[])
        read: Any = self._conf  # type: ignore[has-type]  # not in the stubs
        self._conf = _Settings(read.changes, read.defaults, read._keys, prefix=read.prefix)


def make_app(
    broker_url: str, *, result_expires_s: int = 86_400, signing: SigningConfig | None = None
) -> Celery:
    """Build the app for one broker.

    Args:
        broker_url: as of `broker.url`.
        result_expires_s: lifetime of results and chord state in Redis, in seconds.
        signing: sign all messages, and accept only signed ones.

    Raises:
        InvalidConfig: the signing configuration is invalid.
    """
    serializer = "json" if signing is None else register(signing)
    app = _App()
    app.conf.update(
        **_broker_settings(broker_url),
        **_task_settings(serializer),
        **_result_settings(broker_url, serializer, result_expires_s),
        **_worker_settings(),
    )
    app.steps["consumer"].add(MessageLease)
    return app


def _broker_settings(broker_url: str) -> dict[str, Any]:
    url, options = celery_url(broker_url)
    return {
        "broker_url": f"redis+{url}" if url.startswith("socket:") else url,
        "broker_transport_options": {
            **options,
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "max_connections": _CONNECTIONS_PER_PROCESS,
            "health_check_interval": 10,
            "socket_keepalive": True,
            # Without it, a hanging Redis or a cut network blocks a worker for ever.
            "socket_timeout": _SILENCE_S,
        },
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "broker_connection_timeout": CONNECTION_TIMEOUT_S,
        "broker_connection_retry_on_startup": True,
        # With a limit, a worker exits for good after 100 attempts during a long outage.
        "broker_connection_max_retries": None,
    }


def _task_settings(serializer: str) -> dict[str, Any]:
    return {
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in names.QUEUES],
        "task_default_queue": names.COMBINE_QUEUE,
        "task_routes": {task: {"queue": queue} for task, queue in names.QUEUE_OF_TASK.items()},
        "task_create_missing_queues": False,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_publish_retry_policy": {
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.2,
        },
        "task_serializer": serializer,
        "accept_content": [serializer],
        "task_store_errors_even_if_ignored": True,
    }


def _result_settings(broker_url: str, serializer: str, expires_s: int) -> dict[str, Any]:
    url, options = celery_url(broker_url)
    backend = "PollSentinel" if url.startswith("sentinel:") else "PollRedis"
    return {
        "result_backend": f"oyer.tasks.worker.result_backend:{backend}+{url}",
        "result_backend_transport_options": {
            **options,
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
        },
        # With the connection timeout, this keeps the claim on a chord's callback at 5 s.
        "result_chord_join_timeout": 2.5,
        # Without it, each greenlet opens its own result backend and connection.
        "result_backend_thread_safe": True,
        "redis_max_connections": _CONNECTIONS_PER_PROCESS,
        "redis_backend_health_check_interval": 10,
        "redis_socket_timeout": _SILENCE_S,
        # Without it, a Redis restart while tasks finish fails their chords.
        "result_backend_always_retry": True,
        "result_backend_max_retries": 30,
        "result_expires": expires_s,
        "result_chord_expires": expires_s,
        "result_serializer": serializer,
        "result_accept_content": [serializer],
        "result_extended": False,
    }


def _worker_settings() -> dict[str, Any]:
    return {
        # Celery's default of 0 counts as set; `oyer.tasks.celery` sets it by the pool.
        "worker_concurrency": None,
        # With 1, the Redis poll sleeps 2 s whenever the window is full.
        "worker_prefetch_multiplier": 2,
        # Deduplication by task id leaves a chord unfinished if its worker died between storing a
        # result and counting it.
        "worker_deduplicate_successful_tasks": False,
        "worker_send_task_events": False,
        # Celery's own consumer exits on a message that is not from Oyer.
        "worker_consumer": "oyer.tasks.worker.foreign_messages:OyerConsumer",
        # Any Celery program on the same Redis could stop the workers by it; Oyer does not use it.
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "enable_utc": True,
    }
