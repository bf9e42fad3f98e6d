"""Bounded, read-only access to the record."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from oyer.models.engine import reading
from oyer.protocol.errors import OyerError

TIMEOUT_S = 10.0
"""Longest time that the queries of one page may take, in seconds."""

_STEPS_BETWEEN_CHECKS = 100_000
"""SQLite instructions between two checks of the time; about a millisecond."""


class QueryTooSlow(OyerError):
    """The queries of a page took longer than `TIMEOUT_S`; narrow the filters."""


@contextlib.contextmanager
def bounded(engine: Engine, timeout_s: float = TIMEOUT_S) -> Iterator[Connection]:
    """Connect for reads that end after `timeout_s`.

    Raises:
        QueryTooSlow: the time is over.
    """
    with reading(engine) as conn:
        driver = conn.connection.driver_connection
        limited: contextlib.AbstractContextManager[None]
        if isinstance(driver, sqlite3.Connection):
            limited = _sqlite(driver, timeout_s)
        else:
            limited = contextlib.nullcontext()
            conn.exec_driver_sql("SET TRANSACTION READ ONLY")
            conn.exec_driver_sql(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}")
        with limited:
            try:
                yield conn
            except DBAPIError as error:
                if _is_timeout(error.orig):
                    raise QueryTooSlow(
                        f"the record did not answer within {timeout_s:g} s: narrow the filters, e.g. to"
                        " one run and step"
                    ) from error
                raise


def _is_timeout(cause: BaseException | None) -> bool:
    # Not by its text, which PostgreSQL writes in the language of its `lc_messages`.
    code = getattr(cause, "sqlite_errorcode", None)
    return isinstance(cause, psycopg.errors.QueryCanceled) or code == sqlite3.SQLITE_INTERRUPT


@contextlib.contextmanager
def _sqlite(driver: sqlite3.Connection, timeout_s: float) -> Iterator[None]:
    end_s = time.monotonic() + timeout_s
    driver.set_progress_handler(lambda: int(time.monotonic() > end_s), _STEPS_BETWEEN_CHECKS)
    driver.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)
        driver.execute("PRAGMA query_only = OFF")
