"""Locks whole tables on PostgreSQL while workers write, without a query being cancelled for it.

Another transaction may hold a lock and wait for one that this one has already: a deadlock. Then this
transaction gives up before PostgreSQL looks for deadlocks, and tries again later.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

LOCK_TIMEOUT_S = 0.5
"""Longest time to get all locks in s, during which writers wait as well. It is less than PostgreSQL's
`deadlock_timeout` of 1 s, after which a query that waits in a deadlock is cancelled."""

LOCK_TRIES = 60
"""Attempts to get the locks, one `LOCK_PAUSE_S` apart."""

LOCK_PAUSE_S = 1.0

_BUSY = (
    "a transaction holds the record's tables for long, such as a query of minutes or a prune; try"
    " again when it has ended (SELECT pid, query FROM pg_stat_activity shows it)"
)

_REFUSED = psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected


@contextmanager
def locked(engine: Engine, lock: Callable[[Connection], None]) -> Iterator[Connection]:
    """Begin a transaction in which `lock` has taken its locks; tries it again if it takes long.

    Raises:
        TimeoutError: other transactions hold a lock for long.
    """
    with engine.connect() as conn:
        for number in range(LOCK_TRIES):
            transaction = conn.begin()
            try:
                lock(conn)
                break
            except DBAPIError as error:
                transaction.rollback()
                if not isinstance(error.orig, _REFUSED):
                    raise
                if number == LOCK_TRIES - 1:
                    raise TimeoutError(_BUSY) from error
                time.sleep(LOCK_PAUSE_S)
        with transaction:
            yield conn


@contextmanager
def time_limit(conn: Connection) -> Iterator[None]:
    """Let the statements of the block fail after `LOCK_TIMEOUT_S` each.

    `lock_timeout` would limit the wait for each table, and so not the time that other tables are held.
    """
    conn.execute(text(f"SET LOCAL statement_timeout = '{LOCK_TIMEOUT_S}s'"))
    yield
    conn.execute(text("SET LOCAL statement_timeout TO DEFAULT"))


def lock_exclusively(conn: Connection, names: Sequence[str]) -> None:
    """Lock tables and views in this order, with the tables that the views read."""
    conn.execute(text(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE"))
