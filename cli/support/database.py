"""The record as the commands open it: what a database driver raises becomes one line and a fix."""

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
        InvalidConfig: the URL is wrong, or the database refuses; the message holds its reason.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from oyer.models.engine import redacted_url

    try:
        yield
    except DBAPIError as error:
        raise InvalidConfig(f"{redacted_url(url)}: {_line(error.orig)}{_fix(error)}") from error
    except (SQLAlchemyError, CommandError, OSError) as error:
        raise InvalidConfig(f"{redacted_url(url)}: {_line(error)}; is store.url right?") from error
    except ValueError as error:
        # The URL itself is wrong, and the message names store.url and a right one.
        raise InvalidConfig(str(error)) from error


@contextlib.contextmanager
def existing(url: str) -> "Iterator[Engine]":
    """Open the record that is at `url`; where there is none, none is made.

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


NO_RECORD = "there is no record yet; `oyer up` makes one, and so does `oyer db upgrade`"


def _fix(error: "DBAPIError") -> str:
    """Say what to do, as far as what the driver raised says what is wrong."""
    import sqlite3

    import psycopg

    cause = error.orig
    if isinstance(cause, psycopg.errors.UndefinedTable) or "no such table" in str(cause):
        return "; `oyer db current` says whether the record is of this release"
    # Of SQLite's, the general one is about the statement, and the others are about the file.
    about_statement = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    if isinstance(cause, (sqlite3.OperationalError, psycopg.OperationalError)):
        return "" if about_statement else "; is store.url right, and does the database run?"
    return ""


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())
