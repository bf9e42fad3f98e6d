"""Retries database and Redis work while either is down or full, so that paid replies are not lost."""

import sqlite3
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import redis
from celery.utils.log import get_logger
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses between attempts, in seconds: about a minute in all, enough for a restart or a failover."""

_UNAVAILABLE = (OperationalError, PoolTimeout, redis.ConnectionError, redis.TimeoutError)


def retry_storage(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`; retry it while the database or Redis is unavailable.

    Args:
        work: idempotent: one transaction, or reads and writes of Redis.

    Raises:
        OperationalError: the database was still unavailable, or its disk full, after all retries.
        PoolTimeout: all connections to the database were still in use.
        redis.ConnectionError: Redis was still unavailable, or refused as in `redis_client.PASSING`.
        redis.TimeoutError: Redis still did not answer.
    """
    for pause_s in PAUSES_S:
        try:
            return work(*args, **kwargs)
        except _UNAVAILABLE as error:
            if _is_permanent(error):
                raise
            cause = error.orig if isinstance(error, OperationalError) else error
            what = "Redis" if isinstance(error, redis.RedisError) else "the database"
            log.warning("%s cannot be used, trying again: %s", what, cause)
            time.sleep(pause_s)
    return work(*args, **kwargs)


def _is_permanent(error: Exception) -> bool:
    """Whether SQLite rejects the statement, e.g. because a table is missing.

    PostgreSQL's driver raises another class for that.
    """
    cause = error.orig if isinstance(error, OperationalError) else None
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
