"""Writes to the record: idempotent, in bulk, safe from many processes at once.

- Rows are written in key order and tables in a fixed order, so that writers on PostgreSQL cannot
  deadlock. This requires one chunk per transaction, after the batch and its rubrics.
- Texts, rollouts, attempts and rewards are written once and never changed. A judgement is replaced
  only if it has no score.
- Functions use the given connection and leave the commit to the caller.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from oyer.models.base import Base, clean_text
from oyer.models.batch import Batch, BatchSubmission, Run
from oyer.models.columns import (
    JUDGEMENT_KEY,
    attempt_rows,
    judgement_columns,
    not_outdated,
    rollout_rows,
    without_criteria,
)
from oyer.models.judgement import SCORED, Attempt, Judgement, JudgementCriterion, Rubric
from oyer.models.queries import judgements_of, usage_of
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, RolloutImage, Text
from oyer.models.rows import (
    AttemptRow,
    BatchKey,
    BatchRow,
    JudgementRow,
    RewardRow,
    RolloutRow,
    RubricRow,
    StoredJudgement,
    SubmissionRow,
)
from oyer.models.step_total import NO_STEP, StepTotal

SUBMITTED = "submitted"
"""Status of a batch that has not ended."""

FAILED = "failed"
"""Status of a batch that its trainer gave up."""


def ensure_run_and_batch(conn: Connection, batch: BatchRow) -> BatchKey:
    """Record the batch and its run if they are not on record.

    Returns:
        The key of the batch's rows, with the submission time first recorded for its id.
    """
    known = select(Batch.submitted_at).where(Batch.id == batch["id"])
    submitted_at = conn.scalar(known)
    if submitted_at is None:
        _write(conn, Run, [{"name": batch["run"], "created_at": batch["submitted_at"]}])
        run_id = conn.scalar(select(Run.id).where(Run.name == clean_text(batch["run"])))
        columns = {"preliminary": False, "submissions": 1, "status": SUBMITTED, "run_id": run_id}
        columns |= {key: value for key, value in batch.items() if key != "run"}
        _write(conn, Batch, [columns])
        submitted_at = conn.execute(known).scalar_one()
    return BatchKey(submitted_at, batch["id"])


def record_submissions(
    conn: Connection, batch_id: str, submissions: Sequence[SubmissionRow]
) -> None:
    """Record submissions of a batch that is on record."""
    if not _write(conn, BatchSubmission, submissions):
        return
    counted = select(func.count()).where(BatchSubmission.batch_id == batch_id).scalar_subquery()
    conn.execute(update(Batch).where(Batch.id == batch_id).values(submissions=counted))


def record_chunk(
    conn: Connection,
    batch: BatchKey,
    *,
    rollouts: Iterable[RolloutRow] = (),
    judgements: Sequence[JudgementRow] = (),
    attempts: Iterable[AttemptRow] = (),
) -> list[StoredJudgement]:
    """Record a chunk: its rollouts, judgements, and the attempts of the judgements.

    An attempt's text is not stored again if its scored judgement holds the same text.

    Returns:
        An empty list if all judgements were written. If a scored judgement was already on record,
        it stays, and the result is the rows on record for all judgements of the chunk, which the
        caller must return instead of its own.
    """
    texts: dict[str, str] = {}
    made = list(attempts)
    hashed, images = rollout_rows(rollouts, texts)
    plain, verdicts = without_criteria(judgements)
    judged = [judgement_columns(row, texts) for row in plain]
    tried = attempt_rows(made, judged, texts)
    _write_texts(conn, texts)
    _write(conn, Rollout, hashed, batch)
    _write(conn, RolloutImage, images, batch)
    written = _write(conn, Judgement, judged, batch)
    stored: list[StoredJudgement] = []
    if written != len(judgements):
        wanted = {JUDGEMENT_KEY(row) for row in judgements}
        indices = [row["rollout_index"] for row in judgements]
        stored = [
            row
            for row in judgements_of(conn, batch.batch_id, indices)
            if JUDGEMENT_KEY(row) in wanted
        ]
        # The judgement on record is from other attempts and may not hold the texts of these.
        texts = {}
        tried = attempt_rows(made, stored, texts)
        _write_texts(conn, texts)
        verdicts = not_outdated(verdicts, judgements, stored)
    _write(conn, JudgementCriterion, itertools.chain(*verdicts.values()), batch)
    if _write(conn, Attempt, tried, batch):
        _add_late_usage(conn, batch.batch_id)
    return stored


def _add_late_usage(conn: Connection, batch_id: str) -> None:
    """Add the attempts of a worker that was late, after another one had ended the batch."""
    usage = select(Batch.usage).where(Batch.id == batch_id)
    if conn.scalar(usage) is None:
        return
    # The lock keeps two late writers from replacing each other's sum.
    before = conn.execute(usage.with_for_update()).scalar_one() or {}
    now = usage_of(conn, batch_id)
    conn.execute(update(Batch).where(Batch.id == batch_id).values(usage=now))
    calls = now["calls"] - before.get("calls", 0)
    cost_usd = now["cost_usd"] - before.get("cost_usd", 0.0)
    add_to_totals(conn, batch_id, {"cost_usd": (calls, cost_usd, 0.0)})


def record_rewards(conn: Connection, batch: BatchKey, rewards: Sequence[RewardRow]) -> bool:
    """Record the rewards of a batch; the first writer wins.

    Returns:
        Whether these rewards are now on record; if not, `rewards_of` returns those that are.
    """
    return _write(conn, Reward, rewards, batch) == len(rewards)


def add_to_totals(
    conn: Connection, batch_id: str, totals: Mapping[str, tuple[int, float, float]]
) -> None:
    """Add a batch's quantities to those of its step; call it once per batch.

    Args:
        totals: count, sum and sum of squares, by name.
    """
    place = conn.execute(
        select(
            Batch.run_id,
            func.coalesce(Batch.step, NO_STEP).label("step"),
            func.coalesce(Batch.split, "").label("split"),
        ).where(Batch.id == batch_id)
    ).one()
    rows = [
        {**place._mapping, "name": name, "n": n, "total": total, "total_sq": total_sq}
        for name, (n, total, total_sq) in totals.items()
    ]
    _write(conn, StepTotal, rows)


def record_rubrics(conn: Connection, rubrics: Iterable[RubricRow]) -> None:
    """Record the rubrics that judgements refer to by hash."""
    _write(conn, Rubric, rubrics)


def finish_batch(
    conn: Connection,
    batch_id: str,
    *,
    status: str,
    finished_at: datetime,
    counts: Mapping[str, int] | None = None,
    usage: Mapping[str, Any] | None = None,
    ending: str | None = None,
) -> bool:
    """End a batch as `finished`, `cancelled` or `failed`; a later call cannot change this.

    Args:
        counts: rollouts or judgements per status; None while calls may be in flight. A later call
            adds them, and until then readers count the judgements.
        usage: the result of `usage_of` plus further usage; None if `counts` is.
        ending: who cancelled it or marked it as failed, and why.

    Returns:
        Whether this call ended it.
    """
    ended = update(Batch).where(Batch.id == batch_id, Batch.status == SUBMITTED)
    values = {"status": status, "finished_at": finished_at, "counts": counts, "usage": usage}
    if conn.execute(ended.values(values | {"ending": ending})).rowcount == 1:
        return True
    if counts is not None:
        uncounted = update(Batch).where(
            Batch.id == batch_id, Batch.status != SUBMITTED, Batch.counts.is_(None)
        )
        conn.execute(uncounted.values(counts=counts, usage=usage))
    return False


def reopen_batch(conn: Connection, batch_id: str) -> None:
    """Set a failed batch back to `submitted`."""
    used = select(Batch.usage).where(Batch.id == batch_id, Batch.status == FAILED)
    if counted := conn.scalar(used):
        # Its next end adds them again.
        cost = -counted["calls"], -counted["cost_usd"], 0.0
        add_to_totals(conn, batch_id, {"cost_usd": cost})
    given_up = update(Batch).where(Batch.id == batch_id, Batch.status == FAILED)
    nothing = {"finished_at": None, "counts": None, "usage": None, "ending": None}
    conn.execute(given_up.values({"status": SUBMITTED, **nothing}))


def _write_texts(conn: Connection, texts: Mapping[str, str]) -> None:
    _write(conn, Text, [{"hash": key, "body": body} for key, body in texts.items()])


def _write(
    conn: Connection,
    model: type[Base],
    rows: Iterable[Mapping[str, Any]],
    batch: BatchKey | None = None,
) -> int:
    """Write rows in key order; returns how many changed the record.

    Raises:
        ValueError: a row lacks a required column, or has an unknown one.
    """
    table = model.__table__
    assert isinstance(table, Table)
    names = {column.name for column in table.c if column is not table.autoincrement_column}
    common = {column.name: None for column in table.c if column.nullable}
    common |= batch._asdict() if batch else {}
    full = [{**common, **row} for row in rows]
    for row in full:
        if row.keys() != names:
            raise ValueError(f"{table.name}: missing or unknown: {sorted(row.keys() ^ names)}")
    if not full:
        return 0
    if len(full) > 1:  # a run is written alone, and the database assigns its key
        full.sort(key=itemgetter(*(column.name for column in table.primary_key)))
    upsert = _upsert(conn.dialect.name, table)
    return conn.execute(upsert, full, execution_options={"preserve_rowcount": True}).rowcount


@cache
def _upsert(dialect: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Build an upsert that replaces only judgements without a score and verdicts on criteria, and adds to
    totals."""
    statement: sqlite.Insert | postgresql.Insert
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    if table is StepTotal.__table__:
        return statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={c.name: c + statement.excluded[c.name] for c in table.c if not c.primary_key},
        )
    if table not in (Judgement.__table__, JudgementCriterion.__table__):
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={c.name: statement.excluded[c.name] for c in table.c if not c.primary_key},
        where=table.c.status != SCORED if table is Judgement.__table__ else None,
    )
