"""Pages of all runs and of one run: curves by step, and batches under way."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from oyer.history.curves import Chart
from oyer.models.batch import Batch, Run
from oyer.models.step_total import NO_STEP, StepTotal
from oyer.models.writes import SUBMITTED
from oyer.protocol.names import CHECK_RUN
from oyer.protocol.status import SETTLED

RUNS_PER_PAGE = 50
STEPS_PER_PAGE = 100
_UNDER_WAY = 20


class Sum(NamedTuple):
    """Count and sum of a quantity."""

    n: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """The mean, None without values."""
        return self.total / self.n if self.n else None


class Totals(dict[str, Sum]):
    """The quantities of a step or a run, by name; zero where there are none."""

    def __missing__(self, name: str) -> Sum:
        return Sum()

    @property
    def rollouts(self) -> int:
        """Number of rollouts."""
        return sum(one.n for name, one in self.items() if name.startswith("status/"))

    @property
    def statuses(self) -> dict[str, int]:
        """Number of rollouts by status."""
        prefix = "status/"
        return {
            name.removeprefix(prefix): one.n
            for name, one in sorted(self.items())
            if name.startswith(prefix)
        }

    @property
    def missing_share(self) -> float | None:
        """Share of the rollouts without a score that needed one."""
        missing = sum(n for status, n in self.statuses.items() if status not in SETTLED)
        return missing / self.rollouts if self.rollouts else None

    @property
    def zero_spread_share(self) -> float | None:
        """Share of the groups whose rewards are all equal."""
        return self["groups"].mean


def runs_page(conn: Connection, before: int | None) -> dict[str, Any]:
    """List the latest runs with their totals.

    Args:
        before: only runs with smaller ids: the key of the next page.
    """
    last = select(func.max(Batch.submitted_at)).where(Batch.run_id == Run.id).scalar_subquery()
    query = select(Run.id, Run.name, last.label("last")).order_by(Run.id.desc())
    if before is not None:
        query = query.where(Run.id < before)
    rows = conn.execute(query.limit(RUNS_PER_PAGE + 1)).all()
    shown = rows[:RUNS_PER_PAGE]
    totals = _totals_by_run(conn, [row.id for row in shown])
    runs = [{"id": r.id, "name": r.name, "last": r.last, "totals": totals[r.id]} for r in shown]
    return {
        "runs": runs,
        "next": shown[-1].id if len(rows) > RUNS_PER_PAGE else None,
        "under_way": under_way(conn),
    }


def _totals_by_run(conn: Connection, run_ids: list[int]) -> dict[int, Totals]:
    found: dict[int, Totals] = defaultdict(Totals)
    query = select(
        StepTotal.run_id, StepTotal.name, func.sum(StepTotal.n), func.sum(StepTotal.total)
    ).where(StepTotal.run_id.in_(run_ids))
    for run_id, name, n, total in conn.execute(query.group_by(StepTotal.run_id, StepTotal.name)):
        found[run_id][name] = Sum(int(n), float(total))
    return found


def under_way(conn: Connection, run_id: int | None = None) -> list[Mapping[str, Any]]:
    """Return the latest batches that have not ended."""
    query = (
        select(Batch.id, Batch.step, Batch.size, Batch.submissions, Batch.submitted_at, Run.name)
        .join_from(Batch, Run)
        .where(Batch.status == SUBMITTED)
        .order_by(Batch.submitted_at.desc())
        .limit(_UNDER_WAY)
    )
    if run_id is not None:
        query = query.where(Batch.run_id == run_id)
    return [dict(row) for row in conn.execute(query).mappings()]


def run_page(
    conn: Connection, run_id: int, split: str | None, before: int | None
) -> dict[str, Any] | None:
    """Return a run's curves and its latest steps; None if it is not on record.

    Args:
        split: only batches of this split; the empty text means those without one.
        before: only steps before this one in the table: the key of the next page.
    """
    name = conn.scalar(select(Run.name).where(Run.id == run_id))
    if name is None:
        return None
    query = select(StepTotal).where(StepTotal.run_id == run_id)
    rows = conn.execute(query.with_only_columns(*StepTotal.__table__.c)).all()
    splits = sorted({row.split for row in rows})
    if split is None and splits:
        split = next((one for one in ("train", "") if one in splits), splits[0])
    steps: dict[int, Totals] = defaultdict(Totals)
    for row in rows:
        if row.split == split:
            steps[row.step][row.name] = Sum(row.n, row.total)
    ordered = sorted(steps.items())
    latest = [one for one in reversed(ordered) if before is None or one[0] < before]
    budget = None if name == CHECK_RUN else _budget(conn, run_id)
    return {
        "run": {"id": run_id, "name": name},
        "split": split,
        "splits": splits,
        "charts": _charts([one for one in ordered if one[0] != NO_STEP]),
        "steps": latest[:STEPS_PER_PAGE],
        "next": latest[STEPS_PER_PAGE - 1][0] if len(latest) > STEPS_PER_PAGE else None,
        "cost_usd": sum(row.total for row in rows if row.name == "cost_usd"),
        "budget_usd": budget,
        "under_way": under_way(conn, run_id),
    }


def _charts(steps: list[tuple[int, Totals]]) -> list[Chart]:
    names = sorted({name for _, totals in steps for name in totals})
    charts = [Chart("Mean reward", [(step, one["reward"].mean) for step, one in steps])]
    for name in names:
        if name.startswith("component/"):
            title = name.removeprefix("component/")
            charts.append(Chart(title, [(step, one[name].mean) for step, one in steps]))
    charts += [
        Chart("Share without a score", [(step, one.missing_share) for step, one in steps]),
        Chart("Groups with equal rewards", [(step, one.zero_spread_share) for step, one in steps]),
        Chart("Cost", [(step, one["cost_usd"].total) for step, one in steps], " $"),
        Chart("Judge latency", [(step, one["judge_ms"].mean) for step, one in steps], " ms"),
        Chart("Batch duration", [(step, one["batch_s"].mean) for step, one in steps], " s"),
    ]
    for name in names:
        status = name.removeprefix("status/")
        if name.startswith("status/") and status != "scored":
            charts.append(Chart(f"Rollouts {status}", [(step, one[name].n) for step, one in steps]))
    return charts


def _budget(conn: Connection, run_id: int) -> float | None:
    """Return the run's budget in US dollars, as its latest batch gives it."""
    latest = select(Batch.plan).where(Batch.run_id == run_id).order_by(Batch.submitted_at.desc())
    plan = conn.scalar(latest.limit(1))
    budget = (plan or {}).get("budget")
    return None if budget is None else float(budget["usd"])
