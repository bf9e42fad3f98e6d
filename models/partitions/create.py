"""Makes tables partitioned, and creates the partitions of the coming months."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, func, select, text

from oyer.models.batch import Batch
from oyer.models.partitions import locks
from oyer.models.partitions.catalog import (
    Month,
    dependent_views,
    lock,
    part_tables,
    partitions,
    unpartitioned,
)

_MARGIN = timedelta(days=2)
"""The first partition ends at least this much later, because workers' clocks may differ."""


def create_partitions(engine: Engine, ahead: int, now: datetime | None = None) -> list[str]:
    """Make every table partitioned, and create its partitions up to `ahead` months from now.

    It is one transaction with exclusive locks: the whole conversion is there, or nothing of it. A
    conversion reads each table once, to check that all its rows belong to the first partition.

    Returns:
        The names of the new partitions.

    Raises:
        ValueError: an object of the database's user depends on a table and cannot be kept.
        TimeoutError: other transactions hold a lock for long.
    """
    now = now or datetime.now(UTC)
    with locks.locked(engine, lock) as conn:
        plain = unpartitioned(conn)
        made = _convert(conn, plain, now) if plain else []
        last = Month.of(now).later(ahead)
        for table in part_tables():
            ends = [p.end for p in partitions(conn) if p.table == table.name and p.end is not None]
            month = Month.of(max(ends)) if ends else Month.of(now)
            while month <= last:
                made.append(_create_month(conn, table.name, month))
                month = month.later()
    # PostgreSQL does so for partitions, not for parents. One by one: other commands lock in other orders.
    for table in part_tables():
        with engine.begin() as conn:
            _run(conn, f"ANALYZE {table.name}")
    return made


def _convert(conn: Connection, tables: Sequence[str], now: datetime) -> list[str]:
    """Turn tables into the first partitions of new tables with their names."""
    latest = conn.scalar(select(func.max(Batch.submitted_at)))
    end = Month.of(max(now + _MARGIN, latest or now)).later()
    views = _kept_views(conn, tables)
    made = [_convert_table(conn, table, end) for table in tables]
    for view, definition in views:
        _run(conn, f"CREATE OR REPLACE VIEW {view} AS {definition}")
    return made


def _convert_table(conn: Connection, table: str, end: Month) -> str:
    first = f"{table}_until_{end}"
    constraints = _pairs(
        conn,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = CAST(:name AS regclass) AND contype IN ('p', 'f') ORDER BY contype, conname",
        table,
    )
    indexes = _pairs(
        conn,
        "SELECT index.relname, pg_get_indexdef(indexrelid) FROM pg_index"
        " JOIN pg_class AS index ON index.oid = indexrelid"
        " WHERE indrelid = CAST(:name AS regclass) AND NOT indisprimary ORDER BY 1",
        table,
    )
    for index, _ in [*indexes, (f"pk_{table}", "")]:
        _run(conn, f"ALTER INDEX {index} RENAME TO {index}_until_{end}")
    _run(conn, f"ALTER TABLE {table} RENAME TO {first}")
    _run(
        conn,
        f"CREATE TABLE {table} (LIKE {first} INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
        " INCLUDING COMMENTS INCLUDING STORAGE) PARTITION BY RANGE (submitted_at)",
    )
    for name, definition in constraints:
        _run(conn, f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    for _, definition in indexes:
        _run(conn, definition)
    comment = conn.scalar(text("SELECT obj_description(CAST(:t AS regclass))"), {"t": first})
    if comment is not None:
        quoted = comment.replace("'", "''")
        _run(conn, f"COMMENT ON TABLE {table} IS '{quoted}'")
    _copy_grants(conn, first, table)
    bounds = f"FROM (MINVALUE) TO ('{end.start:%Y-%m-%d}Z')"
    _run(conn, f"ALTER TABLE {table} ATTACH PARTITION {first} FOR VALUES {bounds}")
    _run(conn, f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    _copy_grants(conn, table, f"{table}_default")
    return first


def _create_month(conn: Connection, table: str, month: Month) -> str:
    """Create a partition, and move the rows of its month that the default one holds into it."""
    name = f"{table}_{month}"
    start, end = (f"'{at.start:%Y-%m-%d}Z'" for at in (month, month.later()))
    _run(conn, f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    _copy_grants(conn, table, name)
    _run(
        conn,
        f"WITH moved AS (DELETE FROM {table}_default WHERE submitted_at >= {start}"
        f" AND submitted_at < {end} RETURNING *) INSERT INTO {name} SELECT * FROM moved",
    )
    _run(conn, f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({start}) TO ({end})")
    return name


def _kept_views(conn: Connection, tables: Sequence[str]) -> list[tuple[str, str]]:
    """Return the views that read the tables, with their definitions.

    Raises:
        ValueError: a materialized view or a trigger would be left on the first partition alone.
    """
    found = dependent_views(conn, tables)
    triggers = conn.execute(
        text(
            "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
            " AND tgrelid = ANY(CAST(CAST(:tables AS text[]) AS regclass[]))"
        ),
        {"tables": list(tables)},
    )
    others = [f"materialized view {view.name}" for view in found if view.materialized]
    others += [f"trigger {row[0]}" for row in triggers]
    if others:
        raise ValueError(
            f"{others[0]}: would see the rows so far only; drop it, run this again, and create it again"
        )
    return [(view.name, view.definition) for view in found]


def _copy_grants(conn: Connection, source: str, made: str) -> None:
    """Give a new table the owner and the grants of another, instead of default privileges."""
    owner = conn.scalar(
        text(
            "SELECT CAST(CAST(relowner AS regrole) AS text) FROM pg_class"
            " WHERE oid = CAST(:name AS regclass)"
        ),
        {"name": source},
    )
    _run(conn, f"ALTER TABLE {made} OWNER TO {owner}")
    for who in dict.fromkeys(who for who, _, _ in _grants(conn, made)):
        _run(conn, f"REVOKE ALL ON {made} FROM {who}")
    for who, what, further in _grants(conn, source):
        option = " WITH GRANT OPTION" if further else ""
        _run(conn, f"GRANT {what} ON {made} TO {who}{option}")


def _grants(conn: Connection, table: str) -> list[tuple[str, str, bool]]:
    """Return grantee, privilege and grant option of each grant, without the owner's."""
    rows = conn.execute(
        text(
            "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE CAST(CAST(grantee AS regrole) AS text) END,"
            " privilege_type, is_grantable FROM pg_class, aclexplode(relacl)"
            " WHERE pg_class.oid = CAST(:name AS regclass) AND grantee <> relowner"
        ),
        {"name": table},
    )
    return [(row[0], row[1], row[2]) for row in rows]


def _pairs(conn: Connection, query: str, table: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in conn.execute(text(query), {"name": table})]


def _run(conn: Connection, statement: str) -> None:
    conn.exec_driver_sql(statement.replace("%", "%%"))
