"""Least-privilege PostgreSQL roles: workers add to the record, analysts read it.

- A worker may insert, and update what `models/writes.py` updates: judgements without a score, their
  verdicts on criteria, and the state of batches. It may not delete or change the schema; migrations run as the owner.
- Existing grants are revoked first, so that a role has exactly these after each run.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from oyer.models.base import Base
from oyer.models.engine import open_engine

_UPDATED = ("batches", "criteria", "judgements", "step_totals")
"""Tables whose rows workers update."""

VIEWS = ("criterion_history", "judge_history")


def _quoted(name: str) -> str:
    return postgresql.dialect().identifier_preparer.quote_identifier(name)  # type: ignore[no-untyped-call]


def statements(
    workers: Sequence[str], analysts: Sequence[str], schema: str = "public"
) -> list[str]:
    """Return the SQL that grants these roles their privileges on the record's schema."""
    found = [f"REVOKE CREATE ON SCHEMA {_quoted(schema)} FROM PUBLIC"]
    tables = sorted(Base.metadata.tables)
    for role in [*workers, *analysts]:
        found += _none(role, schema)
    for role in workers:
        found += [
            _grant("SELECT", [*tables, *VIEWS, "alembic_version"], schema, role),
            _grant("INSERT", tables, schema, role),
            _grant("UPDATE", _UPDATED, schema, role),
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {_quoted(schema)} TO {_quoted(role)}",
            # For tables of later migrations, until this is run again after them.
            _later("SELECT, INSERT, UPDATE ON TABLES", schema, role),
            _later("USAGE ON SEQUENCES", schema, role),
        ]
    for role in analysts:
        found += [
            # `oyer view` and `oyer metrics` check the revision.
            _grant("SELECT", [*tables, *VIEWS, "alembic_version"], schema, role),
            _later("SELECT ON TABLES", schema, role),
        ]
    return found


def apply(url: str, workers: Sequence[str], analysts: Sequence[str]) -> list[str]:
    """Grant these roles their privileges; returns the statements.

    Raises:
        ValueError: the record is not on PostgreSQL, or a role does not exist or is too powerful.
    """
    engine = open_engine(url)
    try:
        if engine.dialect.name != "postgresql":
            raise ValueError(
                "store.url: SQLite has no roles; anyone who can write the file can change the record;"
                " set the file's permissions, or use PostgreSQL"
            )
        with engine.begin() as conn:
            for role in [*workers, *analysts]:
                _check(conn, role)
            schema = conn.scalar(text("SELECT current_schema()"))
            found = statements(workers, analysts, str(schema))
            for statement in found:
                conn.exec_driver_sql(statement)
            return found
    finally:
        engine.dispose()


def _check(conn: Connection, role: str) -> None:
    found = conn.execute(
        text(
            "SELECT rolsuper OR pg_has_role(rolname, (SELECT nspowner FROM pg_namespace"
            " WHERE nspname = current_schema()), 'MEMBER') FROM pg_roles WHERE rolname = :role"
        ),
        {"role": role},
    ).first()
    if found is None:
        raise ValueError(
            f"role {role!r}: does not exist; CREATE ROLE {_quoted(role)} LOGIN PASSWORD '…' first"
        )
    if found[0]:
        raise ValueError(
            f"role {role!r}: is a superuser or a member of the record's owner, so grants cannot limit"
            " it; use a separate role"
        )


def _none(role: str, schema: str) -> list[str]:
    named, place = _quoted(role), _quoted(schema)
    return [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {place} FROM {named}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {place} FROM {named}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} REVOKE ALL ON TABLES FROM {named}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} REVOKE ALL ON SEQUENCES FROM {named}",
        f"REVOKE ALL ON SCHEMA {place} FROM {named}",
        f"GRANT USAGE ON SCHEMA {place} TO {named}",
    ]


def _grant(what: str, names: Sequence[str], schema: str, role: str) -> str:
    places = ", ".join(f"{_quoted(schema)}.{_quoted(name)}" for name in names)
    return f"GRANT {what} ON {places} TO {_quoted(role)}"


def _later(what: str, schema: str, role: str) -> str:
    return f"ALTER DEFAULT PRIVILEGES IN SCHEMA {_quoted(schema)} GRANT {what} TO {_quoted(role)}"
