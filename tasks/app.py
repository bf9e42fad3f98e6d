"""The Celery app: queues, acknowledgement, results. One function, so that a trainer can hold several.

Each setting that is not Celery's default says what went wrong without it, as measured with
Celery 5.7 on Redis.
"""

from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.app.utils import Settings
from celery.loaders.app import AppLoader
from kombu import Exchange, Queue

from oyer.config.reward import SigningConfig
from oyer.protocol import names
from oyer.tasks.worker.broker_transport import Connection
from oyer.tasks.worker.message_lease import CONNECTION_TIMEOUT_S, RedisLease
from oyer.tasks.worker.signing import register

VISIBILITY_TIMEOUT_S = 10
"""An unacknowledged message is handed out again after this long without a lease refresh.

Three quarters of it, the least that is left at a worker's death, are longer than the 5 s for
which its claim on a chord's callback holds, or the redelivered part would be acknowledged
without firing it."""

_CONNECTIONS_PER_PROCESS = 300
"""Redis connections a process may open. Kombu's default of 10 makes acks fail under load."""

_SILENCE_S = 20.0
"""A connection to Redis on which an answer is overdue for this long counts as lost."""


class _Loader(AppLoader):
    """Reads no configuration module: `CELERY_CONFIG_MODULE` names that of another program."""

    def read_configuration(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return nothing; `make_app` sets everything."""
        return {}


class _Settings(Settings):
    """Celery's settings without the environment variables that Celery puts over them.

    `CELERY_BROKER_URL` and the like are meant for another Celery program on the same host.
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
    """Connects by Oyer's transport."""

    Connection = Connection


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
        broker_url: `redis://…` or `rediss://…`.
        result_expires_s: how long results and chord state stay in Redis, in seconds.
        signing: sign what is sent, and take only what is signed.

    Raises:
        InvalidConfig: there is no signing in that way.
    """
    serializer = "json" if signing is None else register(signing)
    app = _App()
    app.conf.update(
        broker_url=broker_url,
        result_backend=f"oyer.tasks.worker.result_backend:PollRedis+{broker_url}",
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in names.QUEUES],
        task_default_queue=names.COMBINE_QUEUE,
        task_routes={task: {"queue": queue} for task, queue in names.QUEUE_OF_TASK.items()},
        task_create_missing_queues=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # Celery's default of 0 counts as chosen; `oyer.tasks.celery` sets it by the pool.
        worker_concurrency=None,
        # 1 makes the Redis poll sleep 2 s whenever the window is full.
        worker_prefetch_multiplier=2,
        # Deduplication by task id leaves a chord hanging when its worker died between
        # storing a result and counting it.
        worker_deduplicate_successful_tasks=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "max_connections": _CONNECTIONS_PER_PROCESS,
            "health_check_interval": 10,
            "socket_keepalive": True,
            # A Redis that answers nothing, or a cut network, must not hold a worker for ever.
            "socket_timeout": _SILENCE_S,
        },
        result_backend_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT_S},
        visibility_timeout=VISIBILITY_TIMEOUT_S,
        # Together these keep the claim on a chord's callback at 5 s.
        result_chord_join_timeout=2.5,
        broker_connection_timeout=CONNECTION_TIMEOUT_S,
        task_publish_retry_policy={
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.2,
        },
        broker_connection_retry_on_startup=True,
        # After 100 attempts a worker would end for good while its broker is only away.
        broker_connection_max_retries=None,
        # Without it every greenlet opens a result backend and a connection of its own.
        result_backend_thread_safe=True,
        redis_max_connections=_CONNECTIONS_PER_PROCESS,
        redis_backend_health_check_interval=10,
        redis_socket_timeout=_SILENCE_S,
        # Without it a Redis restart while tasks finish fails their chords.
        result_backend_always_retry=True,
        result_backend_max_retries=30,
        result_expires=result_expires_s,
        result_chord_expires=result_expires_s,
        task_serializer=serializer,
        result_serializer=serializer,
        accept_content=[serializer],
        result_accept_content=[serializer],
        result_extended=False,
        task_store_errors_even_if_ignored=True,
        worker_send_task_events=False,
        # What is no message of ours would end the worker in Celery's own consumer.
        worker_consumer="oyer.tasks.worker.foreign_messages:ConsumerOfOurs",
        # Any Celery program on the same Redis could stop the workers by it; nothing here uses it.
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        enable_utc=True,
    )
    app.steps["consumer"].add(RedisLease)
    return app
