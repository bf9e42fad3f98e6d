"""Alembic migrations of the record's schema, and functions that run them.

- Migrations are linear and numbered; each names its predecessor.
- An upgrade is one transaction; concurrent upgrades wait for a lock.
- On PostgreSQL, it locks all tables before it changes the first. Otherwise a worker or query that uses
  them in another order could deadlock with it.
"""

import contextlib
from collections.abc import Iterator

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from oyer.migrations.describing import describe
from oyer.models.comments import TABLES, VIEWS
from oyer.models.engine import SCHEMA_LOCK_KEY, has_database, open_engine, reading
from oyer.models.partitions import locks


def upgrade(url: str, revision: str = "head") -> None:
    """Upgrade the record at `url` to a revision; no change if it is already there.

    Raises:
        TimeoutError: other transactions hold a lock for long.
    """
    with _changing(url, head() if revision == "head" else revision) as config:
        command.upgrade(config, revision)
        describe(config.attributes["connection"])


def downgrade(url: str, revision: str) -> None:
    """Downgrade the record at `url` to a revision, e.g. `0001`, `-1` or `base`.

    Raises:
        TimeoutError: other transactions hold a lock for long.
    """
    with _changing(url, revision) as config:
        command.downgrade(config, revision)


def check(url: str) -> None:
    """Compare the record at `url` with the models.

    Raises:
        alembic.util.CommandError: it is not at the newest revision, or differs from the models.
    """
    with _opened(url) as engine, engine.begin() as connection:
        command.check(_config(connection))


def current(url: str) -> str | None:
    """Return the revision of the record at `url`, or None if there is no record."""
    if not has_database(url):
        return None
    with _opened(url) as engine:
        return current_of(engine)


def current_of(engine: Engine) -> str | None:
    """Return the revision of a record, or None if there is none; creates no SQLite file."""
    if not has_database(engine.url.render_as_string(hide_password=False)):
        return None
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """Return the newest revision of this installation."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def known() -> set[str]:
    """Return all revisions of this installation."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def schema_problem(revision: str | None) -> str | None:
    """Return why this release cannot use a record at `revision`; None if it can.

    A newer revision can be used: a rolling upgrade migrates before it restarts every host.
    """
    newest = head()
    if revision == newest or (revision is not None and revision not in known()):
        return None
    return "has no schema" if revision is None else f"is at revision {revision}, not {newest}"


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    # With the colon, Alembic finds the folder in editable installs and in wheels.
    config.set_main_option("script_location", "oyer.migrations:")
    return config


@contextlib.contextmanager
def _changing(url: str, revision: str) -> Iterator[Config]:
    """Begin the transaction of an upgrade or downgrade to a revision."""

    def lock(connection: Connection) -> None:
        if connection.dialect.name == "sqlite":  # `begin` took the only write lock
            return
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK_KEY})
        if MigrationContext.configure(connection).get_current_revision() == revision:
            return
        found = inspect(connection)
        relations = [*found.get_table_names(), *found.get_view_names()]
        names = [name for name in _LOCKED if name in relations]
        if names:
            with locks.time_limit(connection):
                locks.lock_exclusively(connection, names)

    with _opened(url) as engine, locks.locked(engine, lock) as connection:
        yield _config(connection)


_LOCKED = ("batches", *VIEWS, *sorted(TABLES.keys() - {"batches"}))
"""What is locked, in order: `batches` first, as in the transactions of workers."""


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()
