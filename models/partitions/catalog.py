"""Reads which partitions exist, and takes the locks that changing them needs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, Table, text

from oyer.models.base import Base, BatchPart
from oyer.models.engine import SCHEMA_LOCK_KEY
from oyer.models.partitions import locks

_WRITTEN_FIRST = ("rollouts", "rollout_images", "judgements", "criteria", "attempts", "rewards")
"""The order in which writers lock the tables (`models/writes.py`); another one could deadlock."""

DETACHED = "Detached by `oyer db partitions`, which deletes it."
"""The comment of a detached partition; other tables with such a name are not ours."""

_BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|'[^']+')\) TO \('([^']+)'\)")

_NAME = re.compile(r"(until_)?(\d{4})_(\d{2})")


class Month(NamedTuple):
    """A calendar month in UTC."""

    year: int
    number: int
    """1 to 12."""

    @classmethod
    def of(cls, moment: datetime) -> "Month":
        """Return the month that holds a time."""
        utc = moment.astimezone(UTC)
        return cls(utc.year, utc.month)

    @property
    def start(self) -> datetime:
        """The first moment of the month."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    def later(self, months: int = 1) -> "Month":
        """Return the month that follows after `months`."""
        years, index = divmod(self.year * 12 + self.number - 1 + months, 12)
        return Month(years, index + 1)

    def __str__(self) -> str:
        return f"{self.year:04}_{self.number:02}"


@dataclass(frozen=True)
class Partition:
    """A partition of one table for the rows from `start`, inclusive, to `end`."""

    table: str
    name: str
    start: datetime | None
    """None: from the beginning."""
    end: datetime | None
    """None for the default partition, which holds all times without a partition."""
    size_bytes: int = 0


def part_tables() -> list[Table]:
    """Return the tables to partition, in the order in which writers lock them."""
    found = {
        str(mapper.local_table.name)  # type: ignore[attr-defined]
        for mapper in Base.registry.mappers
        if issubclass(mapper.class_, BatchPart)
    }
    names = [*_WRITTEN_FIRST, *sorted(found - set(_WRITTEN_FIRST))]
    return [Base.metadata.tables[name] for name in names]


class View(NamedTuple):
    """A view that reads the tables to partition."""

    name: str
    materialized: bool
    definition: str


def dependent_views(conn: Connection, tables: Sequence[str]) -> list[View]:
    """Return the views that read the tables themselves, also those of users."""
    rows = conn.execute(
        text(
            "SELECT DISTINCT CAST(CAST(view.oid AS regclass) AS text), view.relkind = 'm',"
            " pg_get_viewdef(view.oid) FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid"
            " JOIN pg_class AS view ON view.oid = ev_class"
            " WHERE classid = CAST('pg_rewrite' AS regclass) AND view.oid <> refobjid"
            " AND refobjid = ANY(CAST(CAST(:tables AS text[]) AS regclass[]))"
        ),
        {"tables": list(tables)},
    )
    return [View(row[0], row[1], row[2].rstrip().rstrip(";")) for row in rows]


def unpartitioned(conn: Connection) -> list[str]:
    """Return the tables that are not partitioned."""
    query = text("SELECT relkind FROM pg_class WHERE oid = CAST(:name AS regclass)")
    return [t.name for t in part_tables() if conn.scalar(query, {"name": t.name}) != "p"]


def partitions(conn: Connection) -> list[Partition]:
    """Return the partitions of all tables, oldest first, the default ones last."""
    conn.execute(text("SET LOCAL TimeZone = 'UTC'"))  # for the times in the bounds
    rows = conn.execute(
        text(
            "SELECT parent.relname, child.relname, pg_get_expr(child.relpartbound, child.oid),"
            " pg_total_relation_size(child.oid) FROM pg_inherits"
            " JOIN pg_class AS child ON child.oid = inhrelid"
            " JOIN pg_class AS parent ON parent.oid = inhparent"
            " WHERE parent.relnamespace = CAST(current_schema() AS regnamespace)"
            " AND parent.relname = ANY(:tables)"
        ),
        {"tables": [table.name for table in part_tables()]},
    )
    found = [Partition(row[0], row[1], *_bounds(row[2]), size_bytes=row[3]) for row in rows]
    last = datetime.max.replace(tzinfo=UTC)
    return sorted(found, key=lambda one: (one.end or last, one.table))


def detached(conn: Connection) -> list[Partition]:
    """Return the partitions that an interrupted drop has detached, but not deleted."""
    found = []
    names = conn.scalars(
        text(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT relispartition"
            " AND relnamespace = CAST(current_schema() AS regnamespace)"
            " AND obj_description(oid, 'pg_class') = :mark"
        ),
        {"mark": DETACHED},
    ).all()
    for table in part_tables():
        for name in names:
            matched = _NAME.fullmatch(name.removeprefix(f"{table.name}_"))
            if name.startswith(f"{table.name}_") and matched:
                month = Month(int(matched[2]), int(matched[3]))
                start, end = (None, month) if matched[1] else (month.start, month.later())
                found.append(Partition(table.name, name, start, end.start))
    return found


def lock(conn: Connection) -> None:
    """Lock all tables, and those that they refer to, or fail after `locks.LOCK_TIMEOUT_S`.

    `batches` is first, as in the transactions of workers. Foreign keys of partitions need the exclusive
    lock. The views that a conversion replaces are locked before the tables, as queries do: a query holds
    the lock of its view while it waits for a table.
    """
    with locks.time_limit(conn):
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK_KEY})
        views = [v.name for v in dependent_views(conn, unpartitioned(conn)) if not v.materialized]
        tables = (table.name for table in part_tables())
        locks.lock_exclusively(conn, ["batches", *views, "texts", *tables])


def _bounds(bound: str) -> tuple[datetime | None, datetime | None]:
    """Return start and end of a partition, from its definition in UTC."""
    if bound == "DEFAULT":
        return None, None
    found = _BOUNDS.fullmatch(bound)
    assert found is not None, bound
    start = None if found[1] == "MINVALUE" else datetime.fromisoformat(found[1].strip("'"))
    return start, datetime.fromisoformat(found[2])
