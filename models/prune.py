"""Deletes of what the record need not keep, in short transactions beside the workers' writes.

- Only batches that have ended are pruned; workers write to no other.
- A transaction covers about `SLICE_ROLLOUTS` rollouts, so that writers wait for milliseconds. A
  batch goes last, after its rows: a prune that was interrupted is finished by the next one.
- On PostgreSQL, texts are deleted under a lock that no writer of texts holds at the same time. A
  worker that finds its text on record, while it is deleted here, would refer to a row that is gone.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect

from oyer.models.base import BatchPart
from oyer.models.batch import Batch, BatchSubmission, Run
from oyer.models.engine import reading
from oyer.models.judgement import Attempt, Judgement
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, Text
from oyer.models.unused_texts import HASHES, delete_unused, hashes_in, lock_texts
from oyer.models.writes import SUBMITTED

SLICE_ROLLOUTS = 2000
"""Rollouts per transaction: about 0.1 s of work, 0.5 s at most, measured at 200,000 judgements."""

_CACHE_KIB = 256 * 1024
"""Memory that SQLite may use for pages: hashes lie all over their indexes."""

_WAL_PAGES = 50_000
"""Pages of 4 KiB that gather in SQLite's `-wal` before they are written into the file."""

PRUNED_TEXT = "[pruned]"
"""The text that a rollout points to once its own were dropped."""

_PRUNED_HASH = sha256(PRUNED_TEXT.encode()).hexdigest()

_WORDS: dict[type[BatchPart], tuple[str, ...]] = {
    Judgement: ("reply", "reasoning", "parsed_span", "messages_hash"),
    Attempt: ("reply_hash", "reasoning_hash", "turns", "error"),
}
"""Columns that hold words of the judge or were shown to it, by table; cleared with the texts."""


@dataclass(frozen=True)
class Selection:
    """Which batches to prune; conditions that are set must all hold."""

    before: datetime | None = None
    """Submitted before this moment."""
    runs: Sequence[str] = ()
    """Of one of these runs; of any run if empty."""
    keep_runs: Sequence[str] = ()
    """Of none of these runs."""


@dataclass(frozen=True)
class Pruned:
    """What a selection holds, or a transaction deleted."""

    batches: int
    rollouts: int


@dataclass(frozen=True)
class _Part:
    """Rollouts of one batch, from `start` up to before `end`; the last part ends the batch."""

    submitted_at: datetime
    batch_id: str
    start: int
    end: int
    last: bool

    def rows_of(self, model: type[BatchPart]) -> ColumnElement[bool]:
        return (
            (model.submitted_at == self.submitted_at)
            & (model.batch_id == self.batch_id)
            & (model.rollout_index >= self.start)
            & (model.rollout_index < self.end)
        )


def unknown_runs(conn: Connection, names: Sequence[str]) -> list[str]:
    """Tell which of these names no run on record has."""
    known = set(conn.scalars(select(Run.name).where(Run.name.in_(names))))
    return [name for name in names if name not in known]


def selected(conn: Connection, selection: Selection) -> Pruned:
    """Count the ended batches of a selection and their rollouts."""
    ended = _batches(selection, func.count(), func.coalesce(func.sum(Batch.size), 0))
    batches, rollouts = conn.execute(ended.where(Batch.status != SUBMITTED)).one()
    return Pruned(batches, int(rollouts))


def not_ended(conn: Connection, selection: Selection) -> int:
    """Count the batches of a selection that have not ended, which are kept."""
    open_ones = _batches(selection, func.count()).where(Batch.status == SUBMITTED)
    return int(conn.scalar(open_ones) or 0)


def prune(engine: Engine, selection: Selection, *, texts_only: bool) -> Iterator[Pruned]:
    """Delete the ended batches of a selection; yields what each transaction deleted.

    Args:
        texts_only: keep the batches, and drop prompts, responses, references and replies.
    """
    keys = _batches(selection, Batch.submitted_at, Batch.id, Batch.size)
    with reading(engine) as conn:
        found = conn.execute(
            keys.where(Batch.status != SUBMITTED).order_by(Batch.submitted_at, Batch.id)
        ).all()
    with engine.connect() as conn, _prepared(conn):
        for parts in _slices([(row[0], row[1], row[2]) for row in found]):
            with conn.begin():
                if texts_only:
                    _drop_texts(conn, parts)
                else:
                    _delete_parts(conn, parts)
            rollouts = sum(part.end - part.start for part in parts)
            yield Pruned(sum(part.last for part in parts), rollouts)


@contextlib.contextmanager
def _prepared(conn: Connection) -> Iterator[None]:
    """Set SQLite up for deletes all over its indexes.

    Pages of an index are written back once in a while, and not after each transaction. References
    are not checked again: the order of the deletes keeps them, and a text is deleted only after
    its references were looked up.
    """
    driver = conn.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield
        return
    driver.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    driver.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        conn.invalidate()  # the next user of the engine gets a connection that checks


def _batches(selection: Selection, *columns: Any) -> Select[Any]:
    query = select(*columns).select_from(Batch).join(Run)
    if selection.before is not None:
        query = query.where(Batch.submitted_at < selection.before)
    if selection.runs:
        query = query.where(Run.name.in_(selection.runs))
    if selection.keep_runs:
        query = query.where(Run.name.not_in(selection.keep_runs))
    return query


def _slices(batches: Sequence[tuple[datetime, str, int]]) -> Iterator[list[_Part]]:
    """Put small batches together, and cut large ones, into parts for one transaction each."""
    parts: list[_Part] = []
    filled = 0
    for submitted_at, batch_id, size in batches:
        for start in range(0, max(size, 1), SLICE_ROLLOUTS):
            end = min(start + SLICE_ROLLOUTS, size)
            if parts and filled + end - start > SLICE_ROLLOUTS:
                yield parts
                parts, filled = [], 0
            parts.append(_Part(submitted_at, batch_id, start, end, last=end == size))
            filled += end - start
    if parts:
        yield parts


def _delete_parts(conn: Connection, parts: Sequence[_Part]) -> None:
    """Delete rows in the order of their references, then the texts that nothing holds any more."""
    # Before any row of theirs goes: a chunk that is judged twice waits here, or this for it.
    ended = [part.batch_id for part in parts if part.last]
    conn.execute(select(Batch.id).where(Batch.id.in_(ended)).with_for_update()).all()
    hashes = _lock_and_read_hashes(conn, parts)
    for part in parts:
        for model in (Attempt, Judgement, Reward, Rollout):
            conn.execute(delete(model).where(part.rows_of(model)))
    conn.execute(delete(BatchSubmission).where(BatchSubmission.batch_id.in_(ended)))
    conn.execute(delete(Batch).where(Batch.id.in_(ended)))
    delete_unused(conn, hashes)


def _drop_texts(conn: Connection, parts: Sequence[_Part]) -> None:
    """Point rollouts to `PRUNED_TEXT`, clear the replies, and delete the texts left over."""
    hashes = _lock_and_read_hashes(conn, parts)
    insert = sqlite_dialect.insert if conn.dialect.name == "sqlite" else postgresql.insert
    pruned = {"hash": _PRUNED_HASH, "body": PRUNED_TEXT}
    conn.execute(insert(Text).values(pruned).on_conflict_do_nothing())
    for part in parts:
        rollouts = update(Rollout).where(
            part.rows_of(Rollout), Rollout.response_hash != _PRUNED_HASH
        )
        conn.execute(
            rollouts.values(
                prompt_hash=_PRUNED_HASH, response_hash=_PRUNED_HASH, reference_hash=None
            )
        )
        for model, names in _WORDS.items():
            rows = update(model).where(part.rows_of(model))
            filled = or_(*(getattr(model, name).is_not(None) for name in names))
            conn.execute(rows.where(filled).values(dict.fromkeys(names)))
    delete_unused(conn, hashes - {_PRUNED_HASH})


def _lock_and_read_hashes(conn: Connection, parts: Sequence[_Part]) -> set[str]:
    """Read which texts these rows hold, with every writer of texts kept waiting."""
    lock_texts(conn)
    return hashes_in(conn, ({model: part.rows_of(model) for model in HASHES} for part in parts))
