"""Alembic environment: one transaction per upgrade, one upgrade at a time, numbered files.

- `oyer.migrations` passes a connection. The `alembic` command, used to write migrations, opens the
  record at `OYER_STORE__URL`.
- On PostgreSQL, upgrades wait for an advisory lock that the transaction holds; on SQLite, for the
  file's write lock.
"""

import os
from typing import Any

from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, text

from oyer.models import Base
from oyer.models.engine import SCHEMA_LOCK_KEY, open_engine

_PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition"
"""Partitions, which `check` compares as part of their table (`oyer db partitions`)."""


def next_number(
    _context: MigrationContext, _revision: Any, directives: list[MigrationScript]
) -> None:
    """Give a new migration the number after the newest."""
    for script in directives:
        newest = context.script.get_current_head() or "0"
        script.rev_id = f"{int(newest) + 1:04d}"


def run(connection: Connection) -> None:
    """Run the requested migrations in the connection's transaction."""
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK_KEY})
    partitions = set() if sqlite else set(connection.scalars(text(_PARTITIONS)))
    context.configure(
        connection=connection,
        include_name=lambda name, kind, _: kind != "table" or name not in partitions,
        target_metadata=Base.metadata,
        render_as_batch=sqlite,
        process_revision_directives=next_number,
    )
    context.run_migrations()


def run_from_command_line() -> None:
    """Run the requested migrations on the record at `OYER_STORE__URL`."""
    url = os.environ.get("OYER_STORE__URL")
    if not url:
        raise CommandError("set OYER_STORE__URL to a record to compare with")
    with open_engine(url).begin() as connection:
        run(connection)


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    run_from_command_line()
