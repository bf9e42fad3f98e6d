"""Living workers announce themselves in Redis, so that a check can say which queue has none.

A supervisor, which only reads, loads neither Celery nor SQLAlchemy: the announcing functions import them.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Sequence
from importlib.metadata import version

import redis

from oyer.protocol import names
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.live_workers import workers

__all__ = ["announce", "withdraw", "workers"]

log = logging.getLogger(__name__)

_TTL_S = 15
"""A worker that has not announced itself for this long counts as gone."""

_stopped = threading.Event()
_announced: list[str] = []


def announce(queues: Sequence[str]) -> None:
    """Announce this process on its queues, and keep doing so in the background.

    Raises:
        InvalidConfig: the workers that are there lease their messages for another time.
    """
    from oyer.tasks.worker import context
    from oyer.tasks.worker.patience import patiently

    patiently(_agree)
    worker = context.worker_name()
    _announced[:] = [names.worker_key(queue, worker) for queue in queues]
    entry = json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("oyer"),
            "device": _device() if names.LENGTH_QUEUE in queues else None,
        }
    )
    patiently(lambda: _write(entry))
    threading.Thread(target=_keep, args=(entry,), name="oyer-presence", daemon=True).start()


def withdraw() -> None:
    """Take the announcement back when the worker stops."""
    _stopped.set()
    if not _announced:
        return
    try:
        _client().delete(*_announced)
    except redis.RedisError as error:
        log.info("announcement left to expire: %s", error)


def _agree() -> None:
    """Refuse to work beside workers with another lease.

    Every worker sweeps every worker's messages, so the shortest lease of any of them would
    hand out again what the others are working on.
    """
    from oyer.tasks.app import VISIBILITY_TIMEOUT_S

    client = _client()
    client.set(names.LEASE_KEY, VISIBILITY_TIMEOUT_S, nx=True, ex=_TTL_S)
    agreed = client.get(names.LEASE_KEY)
    if agreed is not None and int(agreed) != VISIBILITY_TIMEOUT_S:
        raise InvalidConfig(
            f"the workers on this broker lease messages for {int(agreed)} s, this one for"
            f" {VISIBILITY_TIMEOUT_S} s; run the same release on all of them, or stop the others"
            f" and wait {_TTL_S} s"
        )


def _keep(entry: str) -> None:
    while not _stopped.wait(_TTL_S / 3):
        try:
            _write(entry)
        except redis.RedisError as error:
            log.warning("presence not announced: %s", type(error).__name__)


def _write(entry: str) -> None:
    from oyer.tasks.app import VISIBILITY_TIMEOUT_S

    client = _client()
    client.set(names.LEASE_KEY, VISIBILITY_TIMEOUT_S, ex=_TTL_S)
    for key in _announced:
        client.set(key, entry, ex=_TTL_S)


def _client() -> redis.Redis:
    from oyer.tasks.worker import context

    return context.redis_client()


def _device() -> str:
    from oyer.tasks.worker.device import describe

    return describe()
