"""Alembic migrations of the record's schema, and functions that run them.

- Migrations are linear and numbered; each names its predecessor.
- An upgrade is one transaction; concurrent upgrades wait for a lock (`env.py`).
"""

import contextlib
from collections.abc import Iterator

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from oyer.migrations.describing import describe
from oyer.models.engine import has_database, open_engine, reading


def upgrade(url: str, revision: str = "head") -> None:
    """Upgrade the record at `url` to a revision; no change if it is already there."""
    with _locked(url) as config:
        command.upgrade(config, revision)
        describe(config.attributes["connection"])


def downgrade(url: str, revision: str) -> None:
    """Downgrade the record at `url` to a revision, e.g. `0001`, `-1` or `base`."""
    with _locked(url) as config:
        command.downgrade(config, revision)


def check(url: str) -> None:
    """Compare the record at `url` with the models.

    Raises:
        alembic.util.CommandError: it is not at the newest revision, or differs from the models.
    """
    with _locked(url) as config:
        command.check(config)


def current(url: str) -> str | None:
    """Return the revision of the record at `url`, or None if there is no record."""
    if not has_database(url):
        return None
    engine = open_engine(url)
    try:
        return current_of(engine)
    finally:
        engine.dispose()


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
def _locked(url: str) -> Iterator[Config]:
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            yield _config(connection)
    finally:
        engine.dispose()
