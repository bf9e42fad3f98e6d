"""Retries work on the record or Redis while either is away or full, so that paid replies are not lost."""

import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from celery.utils.log import get_logger
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = get_logger(__name__)

T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Waits between attempts: about a minute in all, as a restart or a failover may take, in seconds."""

_AWAY = (OperationalError, PoolTimeout, redis.ConnectionError, redis.TimeoutError)


def patiently(work: Callable[[], T]) -> T:
    """Run `work`, again after a while where the record or Redis cannot be used.

    Args:
        work: a transaction of its own, or reads and writes of Redis that may be repeated.

    Raises:
        OperationalError: the record was still away, or its disk full, after the last wait.
        PoolTimeout: every connection was still waiting for it.
        redis.ConnectionError: Redis was still away, or refused as in `redis_client.PASSING`.
        redis.TimeoutError: Redis still did not answer.
    """
    for pause_s in PAUSES_S:
        try:
            return work()
        except _AWAY as error:
            if _is_defect(error):
                raise
            why = error.orig if isinstance(error, OperationalError) else error
            what = "Redis" if isinstance(error, redis.RedisError) else "the record"
            log.warning("%s cannot be used, trying again: %s", what, why)
            time.sleep(pause_s)
    return work()


def _is_defect(error: Exception) -> bool:
    """Whether SQLite cannot run the statement at all, e.g. without its table; PostgreSQL's driver
    raises another class for that."""
    cause = error.orig if isinstance(error, OperationalError) else None
    code = getattr(cause, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_ERROR
