"""Deletes old batches or their texts in short transactions, while workers write.

- Only ended batches are pruned, to which workers no longer write.
- A transaction covers about `SLICE_ROLLOUTS` rollouts, so that writers wait only briefly. A batch's
  own row is deleted last, so that the next prune completes an interrupted one.
- On PostgreSQL, a lock excludes writers of texts while texts are deleted. Otherwise a worker could
  reference a text that is being deleted.
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
    exists,
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
from oyer.models.human_verdict import HumanVerdict
from oyer.models.judgement import Attempt, Judgement, JudgementCriterion
from oyer.models.pruning.unused_texts import HASHES, delete_unused, hashes_in, lock_texts
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, RolloutImage, Text
from oyer.models.step_total import NO_STEP, StepTotal
from oyer.models.writes import SUBMITTED

SLICE_ROLLOUTS = 2000
"""Rollouts per transaction: about 0.1 s of work, 0.5 s at most, measured at 200,000 judgements."""

_CACHE_KIB = 256 * 1024
"""SQLite's page cache, in KiB; deletes by hash touch pages all over the indexes."""

_WAL_PAGES = 50_000
"""Pages of 4 KiB in SQLite's `-wal` before a checkpoint writes them to the file."""

PRUNED_TEXT = "[pruned]"
"""The text that rollouts refer to after their own texts were dropped."""

_PRUNED_HASH = sha256(PRUNED_TEXT.encode()).hexdigest()

_TEXT_COLUMNS: dict[type[BatchPart], tuple[str, ...]] = {
    JudgementCriterion: ("reason", "span"),
    Judgement: ("reply", "reasoning", "parsed_span", "messages_hash"),
    Attempt: ("reply_hash", "reasoning_hash", "turns", "error"),
}
"""Columns with texts from or for the judge, by table; cleared together with the texts."""


@dataclass(frozen=True)
class Selection:
    """Which batches to prune; all conditions that are set must hold."""

    before: datetime | None = None
    """Submitted before this time."""
    runs: Sequence[str] = ()
    """In one of these runs; in any run if empty."""
    keep_runs: Sequence[str] = ()
    """In none of these runs."""


@dataclass(frozen=True)
class Pruned:
    """Number of batches and rollouts that are selected or were deleted."""

    batches: int
    rollouts: int


@dataclass(frozen=True)
class _Part:
    """Rollouts `start` to `end - 1` of one batch; `last` marks the batch's last part."""

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
    """Return the names that no run on record has."""
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
    """Delete the ended batches of a selection; yields the counts of each transaction.

    Args:
        texts_only: keep the batches, but delete prompts, responses, references and replies.
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
    """Configure SQLite for deletes all over its indexes.

    Index pages are written back less often than after each transaction. Foreign keys are not checked:
    the order of the deletes preserves them, and texts are deleted only if no row refers to them.
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
        conn.invalidate()  # the engine's next connection checks foreign keys again


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
    """Yield the parts for each transaction: small batches combined, large ones divided."""
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
    """Delete rows in the order of their references, then the texts that no row refers to."""
    # Texts and then batches, as a worker that writes a chunk; both before the deletes, so that a chunk
    # that is judged twice and this exclude each other.
    lock_texts(conn)
    ended = [part.batch_id for part in parts if part.last]
    conn.execute(select(Batch.id).where(Batch.id.in_(ended)).with_for_update())
    hashes = _hashes_of(conn, parts)
    for part in parts:
        for model in (Attempt, JudgementCriterion, Judgement, Reward, RolloutImage, Rollout):
            conn.execute(delete(model).where(part.rows_of(model)))
    delete_batches(conn, ended)
    delete_unused(conn, hashes)


def delete_batches(conn: Connection, ids: Sequence[str]) -> None:
    """Delete batches without rollouts, and what belongs to them and to their steps."""
    run_ids = set(conn.scalars(select(Batch.run_id).where(Batch.id.in_(ids)).with_for_update()))
    conn.execute(delete(BatchSubmission).where(BatchSubmission.batch_id.in_(ids)))
    conn.execute(delete(HumanVerdict).where(HumanVerdict.batch_id.in_(ids)))
    conn.execute(delete(Batch).where(Batch.id.in_(ids)))
    conn.execute(delete(StepTotal).where(StepTotal.run_id.in_(run_ids), ~_step_has_batch()))


def _step_has_batch() -> ColumnElement[bool]:
    step = func.coalesce(Batch.step, NO_STEP) == StepTotal.step
    split = func.coalesce(Batch.split, "") == StepTotal.split
    return exists().where(Batch.run_id == StepTotal.run_id, step, split)


def _drop_texts(conn: Connection, parts: Sequence[_Part]) -> None:
    """Replace the rollouts' texts by `PRUNED_TEXT`, clear replies, and delete unused texts."""
    lock_texts(conn)
    hashes = _hashes_of(conn, parts)
    insert = sqlite_dialect.insert if conn.dialect.name == "sqlite" else postgresql.insert
    pruned = {"hash": _PRUNED_HASH, "body": PRUNED_TEXT}
    conn.execute(insert(Text).values(pruned).on_conflict_do_nothing())
    for part in parts:
        rollouts = update(Rollout).where(
            part.rows_of(Rollout), Rollout.response_hash != _PRUNED_HASH
        )
        conn.execute(
            rollouts.values(
                prompt_hash=_PRUNED_HASH,
                response_hash=_PRUNED_HASH,
                reference_hash=None,
                tools_hash=None,
            )
        )
        conn.execute(delete(RolloutImage).where(part.rows_of(RolloutImage)))
        for model, names in _TEXT_COLUMNS.items():
            rows = update(model).where(part.rows_of(model))
            filled = or_(*(getattr(model, name).is_not(None) for name in names))
            conn.execute(rows.where(filled).values(dict.fromkeys(names)))
    delete_unused(conn, hashes - {_PRUNED_HASH})


def _hashes_of(conn: Connection, parts: Sequence[_Part]) -> set[str]:
    """Return the hashes of the texts that these rows refer to; requires `lock_texts`."""
    return hashes_in(conn, ({model: part.rows_of(model) for model in HASHES} for part in parts))
