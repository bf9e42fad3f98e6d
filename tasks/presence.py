"""Living workers announce themselves in Redis, so that a check can say which queue has none."""

import json
import os
import socket
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import redis
from celery.utils.log import get_logger

from oyer.tasks import names, process

log = get_logger(__name__)

_TTL_S = 15
"""A worker that has not announced itself for this long counts as gone."""

_stopped = threading.Event()
_announced: list[str] = []


def announce(queues: Sequence[str]) -> None:
    """Announce this process on its queues, and keep doing so in the background."""
    worker = process.worker_name()
    _announced[:] = [names.worker_key(queue, worker) for queue in queues]
    entry = json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("oyer"),
            "device": _device() if names.LENGTH_QUEUE in queues else None,
        }
    )
    _write(entry)
    threading.Thread(target=_keep, args=(entry,), name="oyer-presence", daemon=True).start()


def withdraw() -> None:
    """Take the announcement back when the worker stops."""
    _stopped.set()
    try:
        process.redis_client().delete(*_announced) if _announced else None
    except redis.RedisError as error:
        log.info("announcement left to expire: %s", error)


def workers(client: redis.Redis) -> dict[str, list[dict[str, Any]]]:
    """Read who is there, by queue."""
    found: dict[str, list[dict[str, Any]]] = {queue: [] for queue in names.QUEUES}
    for queue in names.QUEUES:
        for key in client.scan_iter(match=names.worker_key(queue, "*"), count=1000):
            entry = client.get(key)
            if entry is not None:
                found[queue].append(json.loads(entry))
    return found


def _keep(entry: str) -> None:
    while not _stopped.wait(_TTL_S / 3):
        try:
            _write(entry)
        except redis.RedisError as error:
            log.warning("presence not announced: %s", type(error).__name__)


def _write(entry: str) -> None:
    client = process.redis_client()
    for key in _announced:
        client.set(key, entry, ex=_TTL_S)


def _device() -> str:
    from oyer.tasks.lengths.device import describe

    return describe()
