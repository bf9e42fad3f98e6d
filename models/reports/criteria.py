"""Which criteria of a run tell the rollouts of a group apart."""

from typing import Any, NamedTuple, TypedDict

from sqlalchemy import Connection, RowMapping, Select, Subquery, case, func, select

from oyer.models.batch import Batch, Run
from oyer.models.judgement import JudgementCriterion
from oyer.models.rollout import Rollout

FALLBACK = "/fallback"
"""End of the name under which the judgements of a judge's fallback are recorded."""

TRAIN = "train"
"""The split of batches without one."""

_SAME = 1e-9
"""Values that differ by less are equal: the mean of samples is rounded."""


class CriterionStatistics(TypedDict):
    """The verdicts on one criterion of a judge. A rollout's value is the mean of its samples."""

    judge: str
    name: str
    min_weight: float
    max_weight: float
    """Equal unless rollouts bring criteria of their own."""
    rollouts: int
    """Rollouts that were to be judged by the criterion."""
    missing: int
    """Those of them without a verdict."""
    mean_value: float | None
    """Mean over the rollouts with a verdict, from 0 to 1; for true and false the share of true."""
    met: float | None
    """Share of the rollouts with a verdict whose value is 1."""
    groups: int
    """Groups with at least two verdicts."""
    deciding_groups: int
    """Those of them in which the values differ."""


class CriteriaReport(NamedTuple):
    """Criteria, and the batches that they were counted in."""

    batches: int
    first_step: int | None
    last_step: int | None
    """None if no batch has a step."""
    older_batches: bool
    """Whether the run has more batches."""
    criteria: list[CriterionStatistics]
    """By judge and name."""
    more_criteria: bool
    """Whether there are more criteria."""


def criteria_report(
    conn: Connection, run: str, *, split: str = TRAIN, batches: int, criteria: int
) -> CriteriaReport | None:
    """Return the statistics of each criterion in the latest batches of a run, or None without the run.

    A group is the rollouts of one step with the same `group_id`; without a step, those of one batch.
    Batches that are scored again with their groups (`batches.preliminary`) are left out.

    Args:
        split: purpose of the batches; those without one are `train`.
        batches: the most batches to read, from the latest.
        criteria: the most criteria to return.
    """
    run_id = conn.scalar(select(Run.id).where(Run.name == run))
    if run_id is None:
        return None
    latest = _latest(run_id, split, batches)
    n, first, last = conn.execute(
        select(func.count(), func.min(latest.c.step), func.max(latest.c.step))
    ).one()
    beyond = conn.execute(_latest_query(run_id, split, 1).offset(batches)).first()
    rows = conn.execute(_statistics(latest).limit(criteria + 1)).mappings().all()
    found = [_of_row(row) for row in rows[:criteria]]
    return CriteriaReport(
        int(n), first, last, beyond is not None, found, more_criteria=len(rows) > criteria
    )


def _of_row(row: RowMapping) -> CriterionStatistics:
    known = int(row["known"])
    return {
        "judge": row["judge"],
        "name": row["name"],
        "min_weight": row["min_weight"],
        "max_weight": row["max_weight"],
        "rollouts": int(row["rollouts"]),
        "missing": int(row["rollouts"]) - known,
        "mean_value": row["total"] / known if known else None,
        "met": int(row["met"]) / known if known else None,
        "groups": int(row["compared"]),
        "deciding_groups": int(row["varies"]),
    }


def _latest_query(run_id: int, split: str, limit: int) -> Select[*tuple[Any, ...]]:
    return (
        select(Batch.id, Batch.submitted_at, Batch.step)
        .where(
            Batch.run_id == run_id,
            Batch.preliminary.is_(False),
            func.coalesce(Batch.split, TRAIN) == split,
        )
        .order_by(Batch.submitted_at.desc(), Batch.id)
        .limit(limit)
    )


def _latest(run_id: int, split: str, limit: int) -> Subquery:
    return _latest_query(run_id, split, limit).subquery("latest")


def _values(latest: Subquery) -> Subquery:
    """Build the query of each rollout's value of each criterion, over the samples and the fallback."""
    given, rollouts = JudgementCriterion, Rollout
    judge = func.replace(given.judge, FALLBACK, "")
    alone = case((latest.c.step.is_(None), latest.c.id))
    keys = judge, given.name, latest.c.step, alone, rollouts.group_id
    return (
        select(
            judge.label("judge"),
            given.name,
            latest.c.step,
            alone.label("alone"),
            rollouts.group_id,
            func.avg(given.value).label("value"),
            func.min(given.weight).label("min_weight"),
            func.max(given.weight).label("max_weight"),
        )
        .join_from(
            latest,
            given,
            (given.submitted_at == latest.c.submitted_at) & (given.batch_id == latest.c.id),
        )
        .join(
            rollouts,
            (rollouts.submitted_at == given.submitted_at)
            & (rollouts.batch_id == given.batch_id)
            & (rollouts.rollout_index == given.rollout_index),
        )
        .group_by(*keys, given.batch_id, given.rollout_index)
        .subquery("per_rollout")
    )


def _statistics(latest: Subquery) -> Select[Any]:
    values = _values(latest)
    value = values.c.value
    compared = values.c.group_id.is_not(None) & (func.count(value) > 1)
    groups = (
        select(
            values.c.judge,
            values.c.name,
            func.count().label("rollouts"),
            func.count(value).label("known"),
            func.sum(value).label("total"),
            func.sum(case((value >= 1, 1), else_=0)).label("met"),
            func.min(values.c.min_weight).label("min_weight"),
            func.max(values.c.max_weight).label("max_weight"),
            case((compared, 1), else_=0).label("compared"),
            case((compared & (func.max(value) - func.min(value) > _SAME), 1), else_=0).label(
                "varies"
            ),
        )
        .group_by(values.c.judge, values.c.name, values.c.step, values.c.alone, values.c.group_id)
        .subquery("per_group")
    )
    sums = "rollouts", "known", "total", "met", "compared", "varies"
    return (
        select(
            groups.c.judge,
            groups.c.name,
            func.min(groups.c.min_weight).label("min_weight"),
            func.max(groups.c.max_weight).label("max_weight"),
            *(func.sum(groups.c[name]).label(name) for name in sums),
        )
        .group_by(groups.c.judge, groups.c.name)
        .order_by(groups.c.judge, groups.c.name)
    )
