"""Opens the SQL record by URL: SQLite (WAL) or PostgreSQL through psycopg 3.

- One engine per process, opened after the fork, because processes must not share connections.
- No yield inside a transaction: under gevent, a greenlet that waits for HTTP between `begin` and
  `commit` holds SQLite's only write lock and blocks all other greenlets.
- `engine.begin()` is for writes. On SQLite it takes the write lock immediately, so that writers queue
  instead of failing. `reading(engine)` takes no write lock.
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
"""Longest wait for SQLite's write lock or a pooled connection, in seconds."""

_LOCK_PAUSE_S = 0.001, 0.005
"""Shortest and longest pause between attempts to take SQLite's write lock, in seconds."""

POOL_SIZE = 8
"""PostgreSQL connections per process; a chunk uses one for milliseconds, never during a call."""

SCHEMA_LOCK_KEY = 0x6F796572
"""The advisory lock on PostgreSQL of what changes tables, i.e. migrations and `oyer db partitions`:
`oyer` in ASCII."""


def open_engine(url: str) -> Engine:
    """Open the record; creates the folder of a SQLite file.

    Args:
        url: `sqlite:///file.db` or `postgresql://user@host/db`; `~` is the home folder, and
            `postgres:` means `postgresql:`.

    Raises:
        ValueError: the URL cannot be used as a record.
        OSError: the folder of the SQLite file cannot be created.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "postgresql":
        engine = create_engine(
            parsed,
            json_serializer=dump_json,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=LOCK_TIMEOUT_S,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10},
        )
        event.listen(engine, "connect", _prepare_postgres)
        return engine
    assert parsed.database is not None
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed, json_serializer=dump_json, connect_args={"timeout": LOCK_TIMEOUT_S}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def has_database(url: str) -> bool:
    """Whether the database exists, checked without creating a SQLite file.

    Raises:
        ValueError: the URL cannot be used as a record.
    """
    parsed = _parsed(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


def checkpoint(url: str) -> None:
    """Move the content of SQLite's `-wal` into the file, so that a copy of the file is complete.

    SQLite does this when the last connection closes, but a killed process closes none.
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
    """Write a compact copy of a SQLite record to a new file, and check it.

    Raises:
        sqlalchemy.exc.DBAPIError: reading or writing failed; no file is left.
        OSError: the copy is damaged; no file is left.
    """
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        with engine.connect().execution_options(sqlite_begin="") as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(part),))
        _check_copy(part)
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)


def _check_copy(file: Path) -> None:
    """Write a copy through to the disk, and read all of it again."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    with contextlib.closing(sqlite3.connect(file)) as copy:
        try:
            found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise OSError(f"the copy is damaged: {found}; is the disk sound?")


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Connect for reads; on SQLite, concurrently with a writer."""
    with engine.connect() as connection:
        yield connection.execution_options(sqlite_begin="BEGIN")


def redacted_url(url: str) -> str:
    """Return a URL for logs and messages, without secrets."""
    parsed = _parsed(url)
    hidden = {key: "***" for key in parsed.query if "password" in key.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def client_url(url: str) -> str:
    """Return a PostgreSQL URL for `psql` and `pg_dump`, without a password."""
    parsed = _parsed(url)
    hidden = [key for key in parsed.query if "password" in key.lower()]
    plain = parsed.difference_update_query(hidden).set(drivername="postgresql", password=None)
    return plain.render_as_string(hide_password=False)


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
            "store.url: workers cannot share an in-memory SQLite; name a file: `sqlite:///file.db`"
        )
    return parsed.set(drivername="sqlite", database=os.path.expanduser(str(parsed.database)))


def _prepare_postgres(connection: Any, _record: Any) -> None:
    # psycopg reads times in no other style, and server, database or role may set another one.
    if not connection.info.parameter_status("DateStyle").startswith("ISO"):
        connection.execute("SET DateStyle TO ISO")
        connection.commit()


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # Turns the driver's own BEGIN off, as SQLAlchemy advises; `_begin_sqlite` emits it.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    begin = connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE")
    if not begin:  # for statements that SQLite runs only outside transactions
        return
    if begin != "BEGIN IMMEDIATE":
        connection.exec_driver_sql(begin)
        return
    # SQLite's own wait for the write lock sleeps in C and would block all greenlets; this one yields.
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
        # Try again through SQLAlchemy, which raises the failure as its own error.
        connection.exec_driver_sql(begin)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_S * 1000}")
