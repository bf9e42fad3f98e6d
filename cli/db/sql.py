"""`oyer db sql`: runs one read-only statement on the record, and prints its rows as they arrive."""

import contextlib
import sys
from collections.abc import Generator, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from oyer.cli.support import options
from oyer.cli.support.output import notes
from oyer.cli.support.rows import Rows, print_csv, print_json_rows, print_rows
from oyer.protocol.errors import InvalidConfig, InvalidInput

if TYPE_CHECKING:
    import sqlite3

    import psycopg
    from sqlalchemy import Connection

_STEPS_BETWEEN_LOOKS = 100_000
"""SQLite instructions between two checks for Ctrl-C; about a millisecond."""


def sql(
    query: Annotated[
        str | None,
        typer.Argument(help="One read-only statement; `-` reads it from standard input."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="File with the statement.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Maximum number of rows to print.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    config: options.Config = None,
    url: options.RecordUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Query the record with one SQL statement; the database refuses statements that write.

    `--json` prints one object per row, with JSON columns as objects, and `--csv` prints an
    empty field for NULL. Ctrl-C stops the query. Tables and columns are in docs/record.md.

    Example: `oyer db sql "SELECT judge, status, count(*) FROM judge_history WHERE run = 'first'
    GROUP BY 1, 2"`
    """
    if as_json and as_csv:
        raise InvalidInput("--json and --csv: give one of them")
    statement = _statement(query, file)
    show = print_json_rows if as_json else print_csv if as_csv else print_rows
    with _rows_of(options.record_url(config, url), statement) as (columns, rows):
        shown = Rows(columns, rows if limit is None else islice(rows, limit))
        show(shown)
        if shown.count == 0 and not as_json:
            notes.print("0 rows")
        if limit is not None and next(rows, None) is not None:
            notes.print(f"the first {limit} rows; there are more", highlight=False)


def _statement(query: str | None, file: Path | None) -> str:
    """Return the statement from the argument, the file or standard input."""
    if (query is None) == (file is None):
        raise InvalidInput("give the statement as an argument, as `-` for stdin, or as --file FILE")
    if file is not None:
        try:
            return file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"--file {file}: cannot be read: {error}") from error
    return sys.stdin.read() if query == "-" else str(query)


@contextlib.contextmanager
def _rows_of(url: str, query: str) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Run one statement in a read-only transaction."""
    from oyer.cli.support.database import existing
    from oyer.models.engine import reading

    with existing(url) as engine, reading(engine) as conn:
        if engine.dialect.name == "postgresql":
            with _from_postgres(conn, query) as found:
                yield found
        else:
            yield _from_sqlite(conn, query)


def _from_sqlite(conn: "Connection", query: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    # Without parameters, so that % and : are passed to the database.
    conn = conn.execution_options(no_parameters=True, stream_results=True)
    conn.exec_driver_sql("PRAGMA query_only = ON")
    driver: sqlite3.Connection = conn.connection.driver_connection  # type: ignore[assignment]
    # Python runs no signal handlers during SQLite's C code. Ctrl-C raises KeyboardInterrupt in this
    # Python function, and SQLite then interrupts the statement. The handler stays set: SQLAlchemy
    # closes the connection if Ctrl-C arrives while its own code runs.
    driver.set_progress_handler(lambda: 0, _STEPS_BETWEEN_LOOKS)
    with _interruptible():
        result = conn.exec_driver_sql(query)
    columns = list(result.keys())

    def rows() -> Iterator[tuple[Any, ...]]:
        while True:
            with _interruptible():
                some = result.fetchmany(1000)
            if not some:
                return
            yield from map(tuple, some)

    return columns, rows()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Convert SQLite's errors about a statement that is interrupted, or that writes.

    Raises:
        KeyboardInterrupt: Ctrl-C interrupted the block.
        InvalidInput: the statement writes.
    """
    import sqlite3

    from sqlalchemy.exc import OperationalError

    try:
        yield
    except OperationalError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        if code == sqlite3.SQLITE_READONLY:
            raise InvalidInput(
                "the query is refused: it writes, and `oyer db sql` is read-only"
            ) from error
        raise


@contextlib.contextmanager
def _from_postgres(
    conn: "Connection", query: str
) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Stream a query by PostgreSQL's extended protocol, which takes one statement.

    With several, `COMMIT; DELETE …` would leave the read-only transaction. psycopg cancels the query
    on Ctrl-C, and if the stream is closed early.
    """
    import psycopg

    conn = conn.execution_options(postgresql_readonly=True)
    driver = conn.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        # An open stream holds the lock of its connection, so the rollback would wait forever.
        with (
            driver.cursor() as cursor,
            contextlib.closing(_stream(cursor, query)) as rows,
        ):
            first = next(rows, None)
            yield _columns(cursor, driver), rows if first is None else chain([first], rows)
    except psycopg.Error as error:
        raise InvalidConfig(f"the query is refused: {' '.join(str(error).split())}") from error


def _stream(cursor: "psycopg.Cursor[Any]", query: str) -> Generator[tuple[Any, ...], None, None]:
    # `Cursor.stream` is a generator, but is declared as an iterator, which has no `close`.
    return cast("Generator[tuple[Any, ...], None, None]", cursor.stream(query.encode()))


def _columns(cursor: "psycopg.Cursor[Any]", driver: "psycopg.Connection[Any]") -> list[str]:
    """Return the column names of a stream whose first row was fetched."""
    if cursor.description is not None:
        return [column.name for column in cursor.description]
    # psycopg drops the description of a result without rows; the query is still the server's
    # unnamed statement.
    described = driver.pgconn.describe_prepared(b"")
    names = (described.fname(place) for place in range(described.nfields))
    return [name.decode() for name in names if name is not None]
