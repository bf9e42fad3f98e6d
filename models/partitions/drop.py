"""Drops whole months: detaches their partitions, then deletes batches and texts in short transactions.

- Detaching takes moments, however many rows there are. What then remains of the batches is deleted as
  `pruning` does, and the detached tables last. So the next call completes an interrupted drop.
- A month with a batch that has not ended, or of a kept run, is not dropped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Select,
    Table,
    func,
    select,
    text,
    tuple_,
)

from oyer.models.base import Base
from oyer.models.batch import Batch, Run
from oyer.models.judgement import Attempt
from oyer.models.partitions import locks
from oyer.models.partitions.catalog import (
    DETACHED,
    Partition,
    detached,
    lock,
    part_tables,
    partitions,
)
from oyer.models.pruning.prune import delete_batches
from oyer.models.pruning.unused_texts import HASHES, delete_unused, lock_texts, turn_hashes
from oyer.models.writes import SUBMITTED

SLICE_ROWS = 5000
"""Rows whose texts are looked up in one transaction; batches that are deleted in one."""


@dataclass(frozen=True)
class Expired:
    """Partitions that end at the same time, and whether they can be dropped."""

    start: datetime | None
    end: datetime
    names: Sequence[str]
    batches: int
    rollouts: int
    not_ended: int
    """Batches that have not ended."""
    kept: int
    """Batches of runs to keep."""

    @property
    def droppable(self) -> bool:
        """Whether no batch keeps the partitions."""
        return not (self.not_ended or self.kept)


def expired(conn: Connection, before: datetime, keep_runs: Sequence[str] = ()) -> list[Expired]:
    """Return the partitions that end before a time, in groups that can be dropped together.

    A group ends where a partition of every table ends.
    """
    found = partitions(conn)
    ends = [{p.end for p in found if p.table == table.name} for table in part_tables()]
    groups: list[Expired] = []
    start: datetime | None = None
    for end in sorted(end for end in set.intersection(*ends) if end is not None):
        if end > before:
            break
        names = [p.name for p in found if p.end and p.end <= end and (not start or p.end > start)]
        groups.append(_expired(conn, start, end, names, keep_runs))
        start = end
    return groups


def _expired(
    conn: Connection,
    start: datetime | None,
    end: datetime,
    names: Sequence[str],
    keep_runs: Sequence[str],
) -> Expired:
    counts = select(
        func.count(),
        func.coalesce(func.sum(Batch.size), 0),
        func.count().filter(Batch.status == SUBMITTED),
        func.count().filter(Run.name.in_(keep_runs)),
    ).join_from(Batch, Run)
    batches, rollouts, open_ones, kept = conn.execute(counts.where(_between(start, end))).one()
    return Expired(start, end, names, batches, int(rollouts), open_ones, kept)


def drop_partitions(
    engine: Engine, before: datetime, keep_runs: Sequence[str] = ()
) -> Iterator[str]:
    """Complete an interrupted drop, and drop the partitions that end before a time.

    Yields:
        The name of each dropped partition, and an empty text after each transaction.

    Raises:
        TimeoutError: other transactions hold a lock for long.
    """
    yield from complete_drop(engine)
    with engine.connect() as conn:
        groups = [group for group in expired(conn, before, keep_runs) if group.droppable]
    for group in groups:
        with locks.locked(engine, lock) as conn:
            # Again, now that no batch can be submitted again.
            if not _expired(conn, group.start, group.end, group.names, keep_runs).droppable:
                continue
            for one in partitions(conn):
                if one.name in group.names:
                    _detach(conn, one)
        yield from complete_drop(engine)


def complete_drop(engine: Engine) -> Iterator[str]:
    """Delete detached partitions with their batches and texts; yields as `drop_partitions` does."""
    with engine.connect() as conn:
        leftover = detached(conn)
    if not leftover:
        return
    starts, ends = [p.start for p in leftover], [p.end for p in leftover if p.end]
    start = None if None in starts else min(at for at in starts if at is not None)
    yield from _delete_batches(engine, start, max(ends))
    for one in leftover:
        for _ in _delete_texts(engine, one):
            yield ""
    with engine.begin() as conn:
        for one in leftover:
            conn.exec_driver_sql(f"DROP TABLE {one.name}")
    yield from (one.name for one in leftover)


def _detach(conn: Connection, partition: Partition) -> None:
    """Detach a partition, and drop its foreign keys, so that batches and texts can be deleted."""
    conn.exec_driver_sql(f"ALTER TABLE {partition.table} DETACH PARTITION {partition.name}")
    keys = text(
        "SELECT conname FROM pg_constraint WHERE contype = 'f'"
        " AND conrelid = CAST(:name AS regclass)"
    )
    for key in conn.scalars(keys, {"name": partition.name}).all():
        conn.exec_driver_sql(f"ALTER TABLE {partition.name} DROP CONSTRAINT {key}")
    conn.exec_driver_sql(f"COMMENT ON TABLE {partition.name} IS '{DETACHED}'")


def _delete_batches(engine: Engine, start: datetime | None, end: datetime) -> Iterator[str]:
    """Delete the ended batches of a time that no row refers to any more."""
    held = [
        select(t.c.batch_id).where(t.c.batch_id == Batch.id, t.c.submitted_at == Batch.submitted_at)
        for t in part_tables()
    ]
    unheld = [~query.exists() for query in held]
    query = select(Batch.id).where(_between(start, end), Batch.status != SUBMITTED, *unheld)
    while True:
        with engine.begin() as conn:
            ids = conn.scalars(query.limit(SLICE_ROWS).with_for_update(of=Batch)).all()
            delete_batches(conn, ids)
        if not ids:
            return
        yield ""


def _delete_texts(engine: Engine, partition: Partition) -> Iterator[None]:
    """Delete the texts that only a detached table refers to, some rows at a time."""
    model = next((m for m in HASHES if _name(m) == partition.table), None)
    if model is None:
        return
    table = Base.metadata.tables[partition.table].to_metadata(MetaData(), name=partition.name)
    columns = [table.c[column.key] for column in HASHES[model]]
    key = list(table.primary_key)
    last: tuple[Any, ...] | None = None
    while True:
        with engine.begin() as conn:
            page = select(*key, *columns).order_by(*key).limit(SLICE_ROWS)
            if last is not None:
                page = page.where(tuple_(*key) > last)
            rows = conn.execute(page).all()
            if not rows:
                return
            hashes = {value for row in rows for value in row[len(key) :] if value is not None}
            if model is Attempt:
                hashes |= _hashes_of_turns(conn, table, last, tuple(rows[-1][: len(key)]))
            lock_texts(conn)
            delete_unused(conn, hashes)
            last = tuple(rows[-1][: len(key)])
        yield


def _hashes_of_turns(
    conn: Connection, table: Table, after: tuple[Any, ...] | None, last: tuple[Any, ...]
) -> set[str]:
    """Return the hashes in the turns of the rows of one page."""
    key = tuple_(*table.primary_key)
    query: Select[tuple[str]] = turn_hashes(conn, table).where(key <= last)
    return set(conn.scalars(query if after is None else query.where(key > after)))


def _name(model: type[Any]) -> str:
    return str(model.__tablename__)


def _between(start: datetime | None, end: datetime) -> ColumnElement[bool]:
    inside = Batch.submitted_at < end
    return inside if start is None else inside & (Batch.submitted_at >= start)
