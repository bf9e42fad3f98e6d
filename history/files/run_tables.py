"""Reads the tables of one run in pages, in the order of their keys.

- A column with the hash of a text (`prompt_hash`) becomes the text (`prompt`).
- Images are in the table `images`, once each; messages keep `oyer-image:<hash>` in their place.
- A page holds the rows of `PAGE_ROLLOUTS` rollouts at most, found by the primary key.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    select,
    tuple_,
)
from sqlalchemy.types import Double, TypeDecorator, TypeEngine

from oyer.history.files.formats import ColumnKind
from oyer.models.base import JSON_VALUE, Base, BatchPart, Timestamp
from oyer.models.batch import Batch, Run
from oyer.models.judgement import Judgement, Rubric
from oyer.models.pruning.unused_texts import HASHES
from oyer.models.requests import texts_of
from oyer.models.rollout import RolloutImage, Text

PAGE_ROLLOUTS = 500
"""Rollouts per page: 1 MB of texts at 2 kB each, 50 MB at 100 kB."""

PAGE_ROWS = 500
"""Rows per page of tables without rollouts."""

Row = dict[str, Any]


class RunTables:
    """The tables of a run that an export holds, read through one connection."""

    def __init__(self, conn: Connection, run: str) -> None:
        """Find the run.

        Raises:
            LookupError: it is not on record.
        """
        self._conn = conn
        found = conn.scalar(select(Run.id).where(Run.name == run))
        if found is None:
            raise LookupError(run)
        self._run_id = found
        self._run = run

    @property
    def names(self) -> list[str]:
        """The tables, in an order in which references point backwards."""
        left_out = {"runs", "texts"}
        tables = [t.name for t in Base.metadata.sorted_tables if t.name not in left_out]
        return [*tables, "images"]

    def kinds(self, name: str) -> dict[str, ColumnKind]:
        """Return the kind of each column of a table."""
        if name == "images":
            return {"hash": "text", "url": "text"}
        table = Base.metadata.tables[name]
        texts = _text_columns(table)
        names = {**texts, "run_id": "run"}
        kinds = {names.get(column.name, column.name): _kind(column) for column in table.c}
        if "run_id" in table.c:
            kinds["run"] = "text"
        return kinds

    def pages(self, name: str) -> Iterator[list[Row]]:
        """Yield the rows of a table, page by page."""
        if name == "images":
            yield from self._images()
            return
        table = Base.metadata.tables[name]
        if name in _PARTS:
            pages = self._part_pages(table)
        else:
            pages = self._keyset(select(table).where(self._of_run(table)), list(table.primary_key))
        for page in pages:
            yield self._resolved(table, page)

    def _of_run(self, table: Table) -> ColumnElement[bool]:
        """Match the rows of the run in a table that is not divided by rollouts."""
        if "run_id" in table.c:
            return table.c.run_id == self._run_id
        batches = select(Batch.id).where(Batch.run_id == self._run_id)
        if "batch_id" in table.c:
            return table.c.batch_id.in_(batches)
        assert table is Rubric.__table__, table.name
        used = select(Judgement.rubric_hash).where(Judgement.batch_id.in_(batches))
        return table.c.hash.in_(used)

    def _part_pages(self, table: Table) -> Iterator[list[Row]]:
        """Yield the rows that belong to rollouts, batch by batch and some rollouts at a time."""
        batches = select(Batch.submitted_at, Batch.id, Batch.size)
        batches = batches.where(Batch.run_id == self._run_id)
        for page in self._keyset(batches, [Batch.submitted_at, Batch.id]):
            for batch in page:
                of_batch = select(table).where(
                    table.c.submitted_at == batch["submitted_at"], table.c.batch_id == batch["id"]
                )
                for start in range(0, batch["size"], PAGE_ROLLOUTS):
                    some = of_batch.where(
                        table.c.rollout_index.between(start, start + PAGE_ROLLOUTS - 1)
                    )
                    rows = self._conn.execute(some.order_by(*table.primary_key)).mappings()
                    yield [dict(row) for row in rows]

    def _keyset(self, query: Select[*tuple[Any, ...]], key: Sequence[Any]) -> Iterator[list[Row]]:
        """Yield the rows of a query in pages that begin after the last key of the page before."""
        ordered = query.order_by(*key).limit(PAGE_ROWS)
        page = [dict(row) for row in self._conn.execute(ordered).mappings()]
        while page:
            yield page
            last = [page[-1][column.key] for column in key]
            after = ordered.where(tuple_(*key) > tuple(last))
            page = [dict(row) for row in self._conn.execute(after).mappings()]

    def _images(self) -> Iterator[list[Row]]:
        batches = select(Batch.id).where(Batch.run_id == self._run_id)
        used = select(RolloutImage.hash).where(RolloutImage.batch_id.in_(batches))
        query = select(Text.hash, Text.body.label("url")).where(Text.hash.in_(used))
        yield from self._keyset(query, [Text.hash])

    def _resolved(self, table: Table, rows: Sequence[Row]) -> list[Row]:
        """Replace hashes by texts, and the run's number by its name."""
        texts = _text_columns(table)
        hashes = {row[name] for row in rows for name in texts}
        turns = [row["turns"] for row in rows if row.get("turns")]
        hashes |= {one.get("content_hash") for turn in turns for one in turn["added"]}
        bodies = texts_of(self._conn, hashes)
        return [self._resolved_row(row, texts, bodies) for row in rows]

    def _resolved_row(
        self, row: Row, texts: Mapping[str, str], bodies: Mapping[str | None, str]
    ) -> Row:
        found: Row = {}
        for name, value in row.items():
            if name in texts:
                found[texts[name]] = bodies.get(value)
            elif name == "run_id":
                found["run"] = self._run
            elif name == "turns" and value:
                added = [
                    {"role": one["role"], "content": bodies.get(one.get("content_hash"))}
                    for one in value["added"]
                ]
                found[name] = {**value, "added": added}
            else:
                found[name] = value
        return found


_PARTS: dict[str, type[BatchPart]] = {
    str(mapper.local_table.name): mapper.class_  # type: ignore[attr-defined]
    for mapper in Base.registry.mappers
    if issubclass(mapper.class_, BatchPart)
}
"""Tables whose rows belong to rollouts."""


def _text_columns(table: Table) -> dict[str, str]:
    """Return the columns of a table that hold a text by hash, with the name of the text."""
    columns = HASHES.get(_PARTS[table.name], ()) if table.name in _PARTS else ()
    names = (column.key for column in columns)
    return {name: name.removesuffix("_hash") for name in names if name.endswith("_hash")}


def _kind(column: Column[Any]) -> ColumnKind:
    if column.type is JSON_VALUE:
        return "json"
    if isinstance(column.type, Timestamp):
        return "time"
    plain: TypeEngine[Any] = column.type
    if isinstance(plain, TypeDecorator):
        plain = plain.impl_instance
    if isinstance(plain, Boolean):
        return "boolean"
    if isinstance(plain, Integer):
        return "integer"
    return "float" if isinstance(plain, Double) else "text"
