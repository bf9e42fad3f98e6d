"""Queries on batches; each finds a batch's rows by key, so that table size does not matter."""

from collections.abc import Iterable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Executable, Select, bindparam, func, select

from oyer.models.base import BatchPart, clean_text
from oyer.models.batch import Batch, BatchSubmission, Run
from oyer.models.judgement import Attempt, Judgement, JudgementCriterion
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout
from oyer.models.rows import (
    StoredBatch,
    StoredJudgement,
    StoredReward,
    SubmissionRow,
    Usage,
    WorkRow,
)
from oyer.models.step_total import StepTotal

IN_LIST = 1000
"""Most values in one IN list; SQLite allows 32,766."""

_UUID_RANGE = tuple("-".join(digit * n for n in (8, 4, 4, 4, 12)) for digit in "0f")
"""The least and the greatest UUID, as text."""


def judgements_of(
    conn: Connection, batch_id: str, indices: Sequence[int] | None = None
) -> list[StoredJudgement]:
    """Return the judgements of a batch's rollouts, of all or of those with these indices."""
    query = select(Judgement.__table__).where(_of(Judgement, batch_id))
    query = query.order_by(Judgement.rollout_index, Judgement.judge, Judgement.sample)
    if indices is None:
        return _with_criteria(conn, batch_id, _rows(conn, query))
    if not indices:
        return []
    # A chunk's indices are contiguous, so a key range is cheaper than a long IN list.
    query = query.where(Judgement.rollout_index.between(min(indices), max(indices)))
    wanted = set(indices)
    rows = [row for row in _rows(conn, query) if row["rollout_index"] in wanted]
    return _with_criteria(conn, batch_id, rows)


def _with_criteria(
    conn: Connection, batch_id: str, rows: list[dict[str, Any]]
) -> list[StoredJudgement]:
    """Add the verdicts on criteria to the judgements of a batch."""
    query = (
        select(JudgementCriterion.__table__)
        .where(_of(JudgementCriterion, batch_id))
        .order_by(JudgementCriterion.position)
    )
    found = [row["rollout_index"] for row in rows] or [0]
    query = query.where(JudgementCriterion.rollout_index.between(min(found), max(found)))
    key = itemgetter("rollout_index", "judge", "sample")
    by_judgement = {key(row): row for row in rows}
    for one in _rows(conn, query) if rows else ():
        if (row := by_judgement.get(key(one))) is not None:
            columns = {name: one[name] for name in _CRITERION_COLUMNS}
            row.setdefault("criteria", []).append(columns)
    return cast(list[StoredJudgement], rows)


_CRITERION_COLUMNS = (
    *("position", "name", "weight", "required", "verdict", "value", "reason", "span"),
)


def scored_by_request(
    conn: Connection, request_hashes: Iterable[str], run: str | None = None
) -> dict[str, StoredJudgement]:
    """Return the latest scored judgement of each request that has one.

    The latest, because an earlier one may come from a model that was later replaced under its name.

    Args:
        run: only consider this run's batches.
    """
    found: dict[str, StoredJudgement] = {}
    hashes = sorted(set(request_hashes))
    for start in range(0, len(hashes), IN_LIST):
        values = {"hashes": hashes[start : start + IN_LIST], "run": run and clean_text(run)}
        for row in conn.execute(_last_scored(run is not None), values).mappings():
            found[row["request_hash"]] = cast(StoredJudgement, dict(row))
    return found


@cache
def _last_scored(of_one_run: bool) -> Select[Any]:
    """Build the query of `scored_by_request`; cached, because building is slower than running."""
    judgements = Judgement.__table__
    # The status is not a condition here, because planners would then scan its index.
    nth = func.row_number().over(
        partition_by=Judgement.request_hash,
        order_by=[Judgement.status != "scored", *(key.desc() for key in judgements.primary_key)],
    )
    ranked = select(judgements, nth.label("nth"))
    ranked = ranked.where(Judgement.request_hash.in_(bindparam("hashes", expanding=True)))
    if of_one_run:
        batches = select(Batch.id).join(Run).where(Run.name == bindparam("run"))
        ranked = ranked.where(Judgement.batch_id.in_(batches))
    table = ranked.subquery()
    columns = [table.c[column.name] for column in judgements.c]
    return select(*columns).where(table.c.nth == 1, table.c.status == "scored")


def rewards_of(conn: Connection, batch_id: str) -> list[StoredReward]:
    """Return the rewards of a batch, in the order submitted."""
    query = select(Reward.__table__).where(_of(Reward, batch_id)).order_by(Reward.rollout_index)
    return cast(list[StoredReward], _rows(conn, query))


def group_ids_of(conn: Connection, batch_id: str) -> list[str | None]:
    """Return the group ids of a batch's rollouts, in the order submitted."""
    query = select(Rollout.group_id).where(_of(Rollout, batch_id)).order_by(Rollout.rollout_index)
    return list(conn.scalars(query))


def usage_of(conn: Connection, batch_id: str) -> Usage:
    """Return the usage of a batch's attempts, including those of replaced judgements."""
    columns = Attempt.prompt_tokens, Attempt.completion_tokens, Attempt.cost_usd
    sums = [func.coalesce(func.sum(column), 0).label(column.key) for column in columns]
    query = select(func.count().label("calls"), *sums).where(_of(Attempt, batch_id))
    return cast(Usage, _rows(conn, query.select_from(Attempt))[0])


def latency_of(conn: Connection, batch_id: str) -> tuple[int, float, float]:
    """Return count, sum and sum of squares of the latencies of a batch's called judgements, in ms."""
    ms = Judgement.latency_ms
    query = select(
        func.count(ms), func.coalesce(func.sum(ms), 0.0), func.coalesce(func.sum(ms * ms), 0.0)
    ).where(_of(Judgement, batch_id), Judgement.source == "called")
    n, total, total_sq = conn.execute(query).one()
    return int(n), float(total or 0.0), float(total_sq or 0.0)


def cost_of_run(conn: Connection, run: str) -> float:
    """Return the cost of all attempts of a run, in US dollars."""
    cost = select(func.coalesce(func.sum(Attempt.cost_usd), 0.0)).select_from(Batch).join(Run)
    cost = cost.join(
        Attempt, (Attempt.submitted_at == Batch.submitted_at) & (Attempt.batch_id == Batch.id)
    )
    return float(conn.scalar(cost.where(Run.name == clean_text(run))) or 0.0)


def latest_groups(
    conn: Connection, runs: Iterable[str], splits: Iterable[str | None]
) -> dict[str, tuple[int, int]]:
    """Return the groups of each run's latest step, and those without spread, from `step_totals`.

    Args:
        splits: the splits that count; None for batches without one.
    """
    found: dict[str, tuple[int, int]] = {}
    counted = [split or "" for split in splits]
    for run in runs:
        run_id = conn.scalar(select(Run.id).where(Run.name == clean_text(run)))
        query = (
            select(func.sum(StepTotal.n), func.sum(StepTotal.total))
            .where(StepTotal.run_id == run_id, StepTotal.name == "groups")
            .where(StepTotal.split.in_(counted))
            .group_by(StepTotal.step)
            .order_by(StepTotal.step.desc())
            .limit(1)
        )
        for n, without_spread in conn.execute(query):
            found[run] = int(n), int(without_spread)
    return found


def batch(conn: Connection, batch_id: str) -> StoredBatch | None:
    """Return one batch with its counts, or None."""
    found = _states(conn, _batches().where(Batch.id == batch_id))
    return found[0] if found else None


def ids_starting(conn: Connection, prefix: str, limit: int) -> list[str]:
    """Return the ids of batches that start with `prefix`, latest first."""
    query = select(Batch.id).where(id_starts_with(prefix))
    return list(conn.scalars(query.order_by(Batch.submitted_at.desc()).limit(limit)))


def id_starts_with(prefix: str) -> ColumnElement[bool]:
    """Match the batches whose id, a UUID, starts with `prefix`, by the primary key."""
    prefix = prefix.lower()
    # A range of UUIDs goes by the key in every collation, a LIKE alone does not.
    least, most = (prefix + fill[len(prefix) :] for fill in _UUID_RANGE)
    return Batch.id.between(least, most) & Batch.id.startswith(prefix, autoescape=True)


def list_batches(
    conn: Connection, *, run: str | None = None, status: str | None = None, limit: int = 50
) -> list[StoredBatch]:
    """Return batches, newest first."""
    query = _batches().order_by(Batch.submitted_at.desc(), Batch.id).limit(limit)
    if run is not None:
        query = query.where(Run.name == run)
    if status is not None:
        query = query.where(Batch.status == status)
    return _states(conn, query)


def missing_from_record(conn: Connection, batch_ids: Sequence[str]) -> set[str]:
    """Return the ids that are not on record."""
    missing = set(batch_ids)
    for start in range(0, len(batch_ids), IN_LIST):
        some = batch_ids[start : start + IN_LIST]
        missing -= set(conn.scalars(select(Batch.id).where(Batch.id.in_(some))))
    return missing


def submissions_of(conn: Connection, batch_id: str) -> list[SubmissionRow]:
    """Return the submissions of a batch, oldest first."""
    query = select(BatchSubmission.__table__).where(BatchSubmission.batch_id == batch_id)
    return cast(list[SubmissionRow], _rows(conn, query.order_by(BatchSubmission.sent_at)))


def work_of(conn: Connection, batch_id: str) -> list[WorkRow]:
    """Return the worker processes that judged a batch, by start time."""
    first = func.min(Judgement.started_at).label("first_at")
    last = func.max(Judgement.finished_at).label("last_at")
    query = select(Judgement.worker, func.count().label("judgements"), first, last)
    query = query.where(_of(Judgement, batch_id)).group_by(Judgement.worker)
    return cast(list[WorkRow], _rows(conn, query.order_by(first, Judgement.worker)))


def first_errors_of(conn: Connection, batch_id: str) -> dict[str, str]:
    """Return one error for each status of a batch's failed judgements."""
    query = select(Judgement.status, func.min(Judgement.error))
    query = query.where(_of(Judgement, batch_id), Judgement.error.is_not(None))
    found = conn.execute(query.group_by(Judgement.status))
    return {status: error for status, error in found if error is not None}


def counts_of(conn: Connection, batch_id: str) -> dict[str, int]:
    """Return the number of a batch's judgements by status."""
    query = select(Judgement.status, func.count()).where(_of(Judgement, batch_id))
    return dict(conn.execute(query.group_by(Judgement.status)).all())


def _batches() -> Select[Any]:
    columns = [column for column in Batch.__table__.c if column.name != "run_id"]
    return select(*columns, Run.name.label("run")).join_from(Batch, Run)


def _states(conn: Connection, query: Executable) -> list[StoredBatch]:
    """Run a query on batches, and count the judgements of those without stored counts."""
    rows = _rows(conn, query)
    for row in rows:
        if row["counts"] is None:
            row["counts"] = counts_of(conn, row["id"])
    return cast(list[StoredBatch], rows)


def _of(model: type[BatchPart], batch_id: str) -> ColumnElement[bool]:
    """Match a batch by the first two key columns, so that only its partition is read."""
    submitted = select(Batch.submitted_at).where(Batch.id == batch_id).scalar_subquery()
    return (model.submitted_at == submitted) & (model.batch_id == batch_id)


def _rows(conn: Connection, query: Executable) -> list[dict[str, Any]]:
    return [dict(row) for row in conn.execute(query).mappings()]
