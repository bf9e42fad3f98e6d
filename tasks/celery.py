"""The workers' Celery app (`celery -A oyer.tasks worker -Q judge -P gevent`) and its tasks.

Each task imports its body on first use, so that a judge worker loads no torch and a length worker
no HTTP client.
"""

import contextlib
import os
import time
import warnings
from importlib import import_module
from typing import Any

from celery import Celery
from celery.exceptions import Reject, SecurityWarning, WorkerShutdown
from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    setup_logging,
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_ready,
    worker_shutdown,
)
from celery.utils.log import get_logger
from redis import RedisError

from oyer.config.loading import load_config
from oyer.protocol import names
from oyer.protocol.batch_store import ENDED_S
from oyer.protocol.errors import MessageRefused, OyerError
from oyer.protocol.measuring import measured
from oyer.protocol.packing import WIRE_VERSION
from oyer.protocol.redis_client import refuse_cluster
from oyer.tasks.app import VISIBILITY_TIMEOUT_S, make_app
from oyer.tasks.worker.broker_transport import Channel
from oyer.tasks.worker.context import WorkerContext
from oyer.tasks.worker.heartbeat import Heartbeat
from oyer.tasks.worker.logging import configure_logging, forget_log_values, log_format
from oyer.tasks.worker.open_files import raise_limit
from oyer.tasks.worker.pools import DEFAULT_CONCURRENCY
from oyer.tasks.worker.shutdown import HandedBack
from oyer.telemetry import tracing

log = get_logger(__name__)

_heartbeat: Heartbeat | None = None
"""Set once this worker is ready."""

_SERVICE = "oyer-worker"
"""`service.name` of the spans, unless the environment names one."""

_BODIES = {
    names.JUDGE_QUEUE: "oyer.tasks.small_batch",
    names.LENGTH_QUEUE: "oyer.tasks.length",
    names.COMBINE_QUEUE: "oyer.tasks.combine",
}


context = WorkerContext(load_config())
"""The context of this process. The command line imports this module after gevent has patched."""


def _worker_app() -> Celery:
    broker, url = context.config.broker, context.broker_url
    log_format()
    raise_limit()
    context.shutdown.install()
    return make_app(url, result_expires_s=broker.result_expires_s, signing=broker.signing)


app = _worker_app()


@app.task(name=names.JUDGE_TASK, shared=False, ignore_result=True)
def judge_chunk(*none: Any, **message: Any) -> dict[str, Any]:
    """Judge one chunk of a batch; returns a verdict for each rollout."""
    batch_id, chunk = _read(message, none, "chunk")
    from oyer.tasks.judge import judge_chunk as body

    try:
        load = context.admission.load(str(judge_chunk.request.id))
        return body(context, batch_id, chunk, load)
    except HandedBack as error:
        context.shutdown.handed_back += 1
        raise Reject(error, requeue=True) from error


@app.task(name=names.SMALL_BATCH_TASK, shared=False)
def judge_batch(*none: Any, **message: Any) -> dict[str, Any]:
    """Judge, shape and reward a small batch, all in this task."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.small_batch import judge_batch as body

    try:
        return body(context, batch_id, context.admission.load(str(judge_batch.request.id)))
    except HandedBack as error:
        context.shutdown.handed_back += 1
        raise Reject(error, requeue=True) from error


@app.task(name=names.LENGTH_TASK, shared=False, ignore_result=True)
def length_batch(parts: Any = None, *none: Any, **message: Any) -> Any:
    """Compute the length terms of a batch, beside the judge tasks or from their verdicts."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.length import length_batch as body

    return body(context, batch_id, parts)


@app.task(name=names.COMBINE_TASK, shared=False)
def combine_batch(parts: Any = None, *none: Any, **message: Any) -> dict[str, Any]:
    """Turn verdicts and length terms into recorded rewards."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.combine import combine_batch as body

    return body(context, batch_id, parts)


@app.task(name=names.RECORD_TASK, shared=False, ignore_result=True)
def record_chunk(*none: Any, **message: Any) -> dict[str, Any]:
    """Record one chunk of a batch without judges."""
    batch_id, chunk = _read(message, none, "chunk")
    from oyer.tasks.record import record_unjudged as body

    return body(context, batch_id, chunk)


@app.task(name=names.RECALL_TASK, shared=False)
def recall_batch(*none: Any, **message: Any) -> dict[str, Any]:
    """Return a finished batch's result from the database."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.recall import recall_batch as body

    return body(context, batch_id)


@app.task(name=names.END_TASK, shared=False, ignore_result=True)
def end_batch(*none: Any, **message: Any) -> None:
    """Record that a batch was cancelled or failed."""
    (batch_id,) = _read(message, none)
    from oyer.tasks.record import end_batch as body

    body(context, batch_id)


def _read(message: dict[str, Any], further: tuple[Any, ...], *counts: str) -> list[Any]:
    """Return a message's batch id and the given counts.

    Raises:
        MessageRefused: it is of another version, or another program.
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


@task_prerun.connect
def _begin_task(task: Any = None, **_: Any) -> None:
    """Count how long the message waited in its queue. Trainers of earlier releases note no time."""
    forget_log_values()
    sent_at = task.request.get(names.SENT_AT_HEADER)
    queue = names.QUEUE_OF_TASK.get(task.name)
    if queue is not None and isinstance(sent_at, float):
        context.measurements.observe(measured.QUEUE_WAIT_SECONDS, time.time() - sent_at, queue)


@task_postrun.connect
def _expire_result(task: Any = None, task_id: str = "", **_: Any) -> None:
    """Expire the result of a batch that ended early: no trainer reads it and then deletes it."""
    if task is None or task.name not in (names.COMBINE_TASK, names.SMALL_BATCH_TASK):
        return
    # If Redis is down, the result expires later.
    with contextlib.suppress(RedisError):
        if context.batches.ending(task_id) is not None:
            backend: Any = app.backend
            context.redis.expire(backend.get_key_for_task(task_id), ENDED_S)


@task_prerun.connect
def _continue_trace(task: Any = None, **_: Any) -> None:
    """Make the span that sent the message the parent of this task's spans."""
    if tracing.tracer() is not None and task is not None:
        tracing.continue_from(task.request.get(tracing.HEADER))


@worker_process_init.connect
def _trace_in_child(**_: Any) -> None:
    """Trace in each process of a prefork pool, whose parent has been checked."""
    tracing.start(context.config.tracing, _SERVICE)


@celeryd_init.connect
def _set_up_worker(conf: Any = None, options: Any = None, **_: Any) -> None:
    """Set the concurrency of a worker of Celery's command line as `oyer worker` does."""
    # The warning is about pickle as root. `make_app` refuses pickle, and root is usual in containers.
    warnings.simplefilter("ignore", SecurityWarning)
    pool = options.get("pool") or options.get("pool_cls")
    if not options.get("concurrency") and getattr(pool, "is_green", False):
        conf.worker_concurrency = DEFAULT_CONCURRENCY[names.JUDGE_QUEUE]


@celeryd_after_setup.connect
def _refuse_cluster(**_: Any) -> None:
    """End at once on a Redis cluster; its errors would look like those of an outage."""
    # If Redis is down, the worker waits for it.
    with contextlib.suppress(RedisError):
        try:
            refuse_cluster(context.redis)
        except OyerError as error:
            log.critical("this worker cannot work and ends: %s", error)
            raise SystemExit(os.EX_CONFIG) from error


@setup_logging.connect
def _set_up_logging(loglevel: int = 0, **_: Any) -> None:
    configure_logging(loglevel)


@worker_ready.connect
def _start_heartbeat(sender: Any, **_: Any) -> None:
    """Load the task bodies of this worker's queues, then announce it."""
    global _heartbeat
    queues = [name for name in names.QUEUES if name in sender.app.amqp.queues.consume_from]
    try:
        # Here gevent has patched the standard library, and the pool has forked.
        tracing.start(context.config.tracing, _SERVICE)
        for queue in queues:
            import_module(_BODIES[queue]).warm_up(context)
        if names.JUDGE_QUEUE in queues:
            context.slots = sender.pool.num_processes
            Channel.admission = context.admission
        _heartbeat = Heartbeat(context, queues, VISIBILITY_TIMEOUT_S)
        _heartbeat.start()
    except OyerError as error:
        # Celery would only log it, and the broken worker would take messages.
        log.critical("this worker cannot work and ends: %s", error)
        raise WorkerShutdown(os.EX_CONFIG) from error
    except Exception as error:
        log.critical("this worker cannot work and ends", exc_info=True)
        raise WorkerShutdown(1) from error


@worker_shutdown.connect
def _stop(**_: Any) -> None:
    if _heartbeat is not None:
        _heartbeat.stop()
    context.close()
    tracing.stop()
    handed_back = context.shutdown.handed_back
    log.info("worker stopped; %d chunks handed back to other workers", handed_back)
