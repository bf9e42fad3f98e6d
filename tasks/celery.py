"""The workers' Celery app (`celery -A oyer.tasks worker -Q judge -P gevent`) and its tasks.

Each task is a thin wrapper: the body's module loads on the workers of its queue only, so
that a judge worker holds no torch and a length worker no HTTP client.
"""

import contextlib
import os
import warnings
from importlib import import_module
from typing import Any

from celery import Celery
from celery.exceptions import Reject, SecurityWarning, WorkerShutdown
from celery.signals import (
    celeryd_init,
    setup_logging,
    task_postrun,
    worker_ready,
    worker_shutdown,
)
from celery.utils.log import get_logger
from redis import RedisError

from oyer.protocol import names
from oyer.protocol.batch_store import ENDED_S
from oyer.protocol.errors import MessageRefused, OyerError
from oyer.protocol.packing import WIRE_VERSION
from oyer.tasks.app import make_app
from oyer.tasks.worker import context, heartbeat, shutdown
from oyer.tasks.worker.logging import configure_logging, log_format
from oyer.tasks.worker.open_files import raise_limit
from oyer.tasks.worker.pools import DEFAULT_CONCURRENCY

log = get_logger(__name__)

_BODIES = {
    names.JUDGE_QUEUE: "oyer.tasks.judge",
    names.LENGTH_QUEUE: "oyer.tasks.length",
    names.COMBINE_QUEUE: "oyer.tasks.combine",
}


def _worker_app() -> Celery:
    config, url = context.config(), context.broker_url()
    log_format()
    raise_limit()
    shutdown.install(config.grace_s)
    return make_app(
        url,
        result_expires_s=config.broker.result_expires_s,
        signing=config.broker.signing,
    )


app = _worker_app()


@app.task(name=names.JUDGE_TASK, shared=False, ignore_result=True)
def judge_chunk(*none: Any, **message: Any) -> dict[str, Any]:
    """Judge one chunk of a batch; returns a verdict for every rollout of it."""
    batch_id, chunk = _read(message, none, "chunk")
    from oyer.tasks.judge import judge_chunk as body

    try:
        return body(batch_id, chunk)
    except shutdown.HandedBack as stopping:
        shutdown.note_hand_back()
        raise Reject(stopping, requeue=True) from stopping


@app.task(name=names.LENGTH_TASK, shared=False, ignore_result=True)
def length_batch(parts: Any = None, *none: Any, **message: Any) -> Any:
    """Compute the length terms of a batch, beside the judges or from what they said."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.length import length_batch as body

    return body(batch_id, parts)


@app.task(name=names.COMBINE_TASK, shared=False)
def combine_batch(parts: Any = None, *none: Any, **message: Any) -> dict[str, Any]:
    """Combine verdicts and length terms into rewards, and put them on record."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.combine import combine_batch as body

    return body(batch_id, parts)


@app.task(name=names.RECORD_TASK, shared=False, ignore_result=True)
def record_chunk(*none: Any, **message: Any) -> dict[str, Any]:
    """Put one chunk of a batch without judges on record."""
    batch_id, chunk = _read(message, none, "chunk")
    from oyer.tasks.chunk_record import record_unjudged as body

    return body(batch_id, chunk)


@app.task(name=names.RECALL_TASK, shared=False)
def recall_batch(*none: Any, **message: Any) -> dict[str, Any]:
    """Return a batch's rewards from the record."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.recall import recall_batch as body

    return body(batch_id)


@app.task(name=names.END_TASK, shared=False, ignore_result=True)
def end_batch(*none: Any, **message: Any) -> None:
    """Put on record that a batch was cancelled or given up."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.ending import end_batch as body

    body(batch_id)


def _read(message: dict[str, Any], further: tuple[Any, ...], *counts: str) -> list[Any]:
    """Read what a message says: the batch's id, and the numbers named.

    Raises:
        MessageRefused: another version of Oyer wrote it, or another program.
    """
    version = message.get("v")
    if version != WIRE_VERSION:
        raise MessageRefused(
            f"message of version {version!r:.40}; this worker reads version {WIRE_VERSION}:"
            " upgrade the older side"
        )
    fields = ("batch_id", *counts)
    values = [message.get(name) for name in fields]
    if (
        further
        or message.keys() != {"v", *fields}
        or not isinstance(values[0], str)
        or not all(type(value) is int and value >= 0 for value in values[1:])
    ):
        raise MessageRefused(
            f"message does not hold {', '.join(fields)} and nothing else: it is not of Oyer"
        )
    return values


@task_postrun.connect
def _let_go(task: Any = None, task_id: str = "", **_: Any) -> None:
    """Let a cancelled batch's result go soon: nobody waits for it, as for the others a trainer does."""
    if task is None or task.name != names.COMBINE_TASK:
        return
    # With Redis away, the result expires later.
    with contextlib.suppress(RedisError):
        if context.exchange().ending(task_id) is not None:
            backend: Any = app.backend
            context.redis_client().expire(backend.get_key_for_task(task_id), ENDED_S)


@celeryd_init.connect
def _set_up_worker(conf: Any = None, options: Any = None, **_: Any) -> None:
    """Give a worker of Celery's own command line what `oyer worker` gives to its kind."""
    # Its advice is about pickle, which `make_app` refuses: root in a container is usual.
    warnings.simplefilter("ignore", SecurityWarning)
    pool = options.get("pool") or options.get("pool_cls")
    if not options.get("concurrency") and getattr(pool, "is_green", False):
        conf.worker_concurrency = DEFAULT_CONCURRENCY[names.JUDGE_QUEUE]


@setup_logging.connect
def _set_up_logging(loglevel: int = 0, **_: Any) -> None:
    configure_logging(loglevel)


@worker_ready.connect
def _announce(sender: Any, **_: Any) -> None:
    """Load what this worker's queues need, then say that it is there."""
    queues = [name for name in names.QUEUES if name in sender.app.amqp.queues.consume_from]
    try:
        for queue in queues:
            import_module(_BODIES[queue]).warm_up()
        heartbeat.announce(queues)
    except OyerError as error:
        # Celery would log it and go on, and a worker that cannot work would take messages.
        log.critical("this worker cannot work and ends: %s", error)
        raise WorkerShutdown(os.EX_CONFIG) from error
    except Exception as error:
        log.critical("this worker cannot work and ends", exc_info=True)
        raise WorkerShutdown(1) from error


@worker_shutdown.connect
def _withdraw(**_: Any) -> None:
    heartbeat.withdraw()
    context.close_record()
    log.info("worker stopped; %d chunks handed back to other workers", shutdown.handed_back())
