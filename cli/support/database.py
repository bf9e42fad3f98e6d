"""Opens the record, and converts database errors to one line with a fix."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from oyer.protocol.errors import InvalidConfig

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Run a block that uses the record at `url`.

    Raises:
        InvalidConfig: the URL is wrong, or the database reports an error, which the message includes.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from oyer.models.engine import redacted_url

    try:
        yield
    except DBAPIError as error:
        raise InvalidConfig(f"{redacted_url(url)}: {_line(error.orig)}{_fix(error)}") from error
    except TimeoutError as error:
        raise InvalidConfig(f"{redacted_url(url)}: {error}") from error
    except BrokenPipeError:
        # The reader of the output has ended, e.g. `head`.
        raise
    except (SQLAlchemyError, CommandError, OSError) as error:
        raise InvalidConfig(f"{redacted_url(url)}: {_line(error)}; is store.url right?") from error
    except ValueError as error:
        # The URL is invalid; the message names store.url and a valid example.
        raise InvalidConfig(str(error)) from error


@contextlib.contextmanager
def existing(url: str) -> "Iterator[Engine]":
    """Open the record at `url`, without creating one.

    Raises:
        InvalidConfig: as `explained`, or there is no record.
    """
    from oyer.models.engine import has_database, open_engine, redacted_url

    with explained(url):
        if not has_database(url):
            raise InvalidConfig(f"{redacted_url(url)}: {NO_RECORD}")
        engine = open_engine(url)
        try:
            yield engine
        finally:
            engine.dispose()


NO_RECORD = "there is no record yet; create it with `oyer up` or `oyer db upgrade`"


def _fix(error: "DBAPIError") -> str:
    """Return a fix for an error of the driver; empty if none is known."""
    import sqlite3

    import psycopg

    cause = error.orig
    if isinstance(cause, psycopg.errors.UndefinedTable) or "no such table" in str(cause):
        return "; check its revision with `oyer db current`"
    if isinstance(cause, psycopg.errors.UndefinedColumn) or "no such column" in str(cause):
        return "; check the name, or the record's revision with `oyer db current`"
    # SQLITE_ERROR concerns the statement; the other codes concern the file.
    about_statement = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    if isinstance(cause, (sqlite3.OperationalError, psycopg.OperationalError)):
        return "" if about_statement else "; is store.url right, and does the database run?"
    return ""


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
