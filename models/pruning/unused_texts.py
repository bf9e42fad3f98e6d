"""Finds the texts that rows refer to by hash, and deletes those that no row refers to any more.

Every column with a hash is listed here and has an index, a partial one if it is mostly NULL. The turns
of re-asked requests are JSON; all are read, through an index of the attempts that have any.
"""

import json
from collections.abc import Iterable, Sequence

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    String,
    delete,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.selectable import TableValuedAlias

from oyer.models.base import BatchPart
from oyer.models.judgement import Attempt, Judgement
from oyer.models.rollout import Rollout, RolloutImage, Text

Column = InstrumentedAttribute[str] | InstrumentedAttribute[str | None]

HASHES: dict[type[BatchPart], tuple[Column, ...]] = {
    Rollout: (
        Rollout.prompt_hash,
        Rollout.response_hash,
        Rollout.reference_hash,
        Rollout.tools_hash,
    ),
    RolloutImage: (RolloutImage.hash,),
    Judgement: (Judgement.parameters_hash, Judgement.messages_hash),
    Attempt: (Attempt.parameters_hash, Attempt.reply_hash, Attempt.reasoning_hash),
}
"""The columns with the hash of a text, by table."""


def lock_texts(conn: Connection) -> None:
    """Block writers of texts until the transaction ends; SQLite has a single writer anyway."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("LOCK TABLE texts IN SHARE ROW EXCLUSIVE MODE"))
        # With few distinct hashes in a column, the planner would scan the whole table for each hash
        # that is not in it.
        conn.execute(text("SET LOCAL enable_seqscan = off"))
        conn.execute(text("SET LOCAL enable_bitmapscan = off"))


def hashes_in(
    conn: Connection, ranges: Iterable[dict[type[BatchPart], ColumnElement[bool]]]
) -> set[str]:
    """Return the hashes of the texts that the rows in these ranges refer to.

    Args:
        ranges: a condition on the rows of each table.
    """
    hashes: set[str] = set()
    for conditions in ranges:
        for model, columns in HASHES.items():
            for row in conn.execute(select(*columns).where(conditions[model])):
                hashes.update(value for value in row if value is not None)
        hashes.update(conn.scalars(turn_hashes(conn).where(conditions[Attempt])))
    return hashes


def delete_unused(conn: Connection, hashes: set[str]) -> None:
    """Delete the texts that no row refers to; requires `lock_texts`."""
    columns = [each for columns in HASHES.values() for each in columns]
    kept = set(conn.scalars(turn_hashes(conn))) if hashes else set()
    listed = _listed(conn, sorted(hashes - kept))
    # Scalar subqueries stop at the first row; one text may be referenced by every rollout.
    held = (
        select(literal_column("1")).where(each == listed.c.value).limit(1).scalar_subquery()
        for each in columns
    )
    unused = conn.scalars(select(listed.c.value).where(func.coalesce(*held).is_(None))).all()
    conn.execute(delete(Text).where(Text.hash.in_(select(_listed(conn, unused).c.value))))


def _listed(conn: Connection, values: Sequence[str]) -> TableValuedAlias:
    """Return a table of values passed as one parameter; thousands of parameters are slow."""
    if conn.dialect.name == "sqlite":
        return func.json_each(json.dumps(values)).table_valued("value")
    return func.unnest(literal(values, ARRAY(String))).table_valued("value").render_derived()


def turn_hashes(conn: Connection, attempts: FromClause = Attempt.__table__) -> Select[tuple[str]]:
    """Select the hashes of the messages that re-asks added to the first request's.

    Args:
        attempts: the table `attempts`, or a part of it.
    """
    found: ColumnElement[str]
    turns = attempts.c.turns
    if conn.dialect.name == "sqlite":
        added = func.json_each(turns, "$.added").table_valued("value")
        found = func.json_extract(added.c.value, "$.content_hash")
    else:
        added = func.jsonb_array_elements(turns.op("->")("added")).table_valued("value")
        found = added.c.value.op("->>")("content_hash")
    joined = select(found).select_from(attempts).join(added, text("true"))
    return joined.where(turns.is_not(None), found.is_not(None))
