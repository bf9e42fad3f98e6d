"""Opens the SQL record by its URL: SQLite (WAL) or PostgreSQL through psycopg 3.

- One engine per process, opened after the fork: connections must not be shared by processes.
- No yield inside a transaction, only before it: under gevent, a greenlet that waits for HTTP between `begin`
  and `commit` holds SQLite's only write lock, and every other greenlet freezes on it.
- `engine.begin()` is for writes. On SQLite it takes the write lock at once, so that two writers
  queue instead of failing; `reading(engine)` takes none.
"""

import contextlib
import os
import random
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from oyer.models.base import dump_json

LOCK_TIMEOUT_S = 30
"""How long a writer waits for SQLite's lock, or a greenlet for a connection, in seconds."""

_LOCK_PAUSE_S = 0.001, 0.005
"""Shortest and longest pause between two looks at SQLite's write lock, in seconds."""

POOL_SIZE = 8
"""PostgreSQL connections per process; a chunk holds one for milliseconds, never during a call."""


def open_engine(url: str) -> Engine:
    """Open the record; the folder of a SQLite file is created.

    Args:
        url: `sqlite:///file.db` or `postgresql://user@host/db`; `~` is the home folder, and
            `postgres:` is `postgresql:`.

    Raises:
        ValueError: the URL cannot be used as a record.
        OSError: the folder of the SQLite file cannot be created.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed,
            json_serializer=dump_json,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=LOCK_TIMEOUT_S,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10},
        )
    assert parsed.database is not None
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed, json_serializer=dump_json, connect_args={"timeout": LOCK_TIMEOUT_S}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def has_database(url: str) -> bool:
    """Whether there is something to open: a SQLite file that is not there is made by opening it.

    Raises:
        ValueError: the URL cannot be used as a record.
    """
    parsed = _parsed(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


def checkpoint(url: str) -> None:
    """Move what SQLite holds in `-wal` into the file itself, so that a copy of the file is whole.

    SQLite does so by itself when the last connection closes, and removes `-wal`; a process that
    was killed closes nothing. While others use the file, they do it when they close it.
    """
    if _parsed(url).get_backend_name() != "sqlite" or not has_database(url):
        return
    engine = open_engine(url)
    try:
        with engine.connect().execution_options(sqlite_begin="") as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        engine.dispose()


def copy_sqlite(engine: Engine, file: Path) -> None:
    """Write what a SQLite record holds at this moment into a new file, without unused space.

    Raises:
        sqlalchemy.exc.DBAPIError: it cannot be read or written; nothing is left behind.
    """
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        with engine.connect().execution_options(sqlite_begin="") as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(part),))
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Connect for reads only: on SQLite, beside whoever writes."""
    with engine.connect() as connection:
        yield connection.execution_options(sqlite_begin="BEGIN")


def redacted_url(url: str) -> str:
    """Render a URL for logs and messages, without what is secret in it."""
    parsed = _parsed(url)
    hidden = {key: "***" for key in parsed.query if "password" in key.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(re.sub(r"^postgres:", "postgresql:", url))
    except ArgumentError:
        raise ValueError("store.url: not a database URL; write `sqlite:///file.db`") from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ValueError(f"store.url: {backend!r} is not supported; use sqlite or postgresql")
    if parsed.database in (None, "", ":memory:"):
        raise ValueError(
            "store.url: workers cannot share a SQLite in memory; name a file: `sqlite:///file.db`"
        )
    return parsed.set(drivername="sqlite", database=os.path.expanduser(str(parsed.database)))


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own BEGIN is off, as SQLAlchemy advises: `_begin_sqlite` says which kind.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    begin = connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE")
    if not begin:  # a statement that SQLite runs outside of transactions only
        return
    if begin != "BEGIN IMMEDIATE":
        connection.exec_driver_sql(begin)
        return
    # SQLite's own wait for the write lock sleeps in C: under gevent it would stop every call
    # in flight of the process. This one yields.
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while time.monotonic() < deadline:
            try:
                driver.execute(begin)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break
                time.sleep(random.uniform(*_LOCK_PAUSE_S))
        # Once more by SQLAlchemy, which raises what is wrong as its own error.
        connection.exec_driver_sql(begin)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_S * 1000}")
