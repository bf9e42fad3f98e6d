"""The page of one step: its groups as rows, their rollouts as cells."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import pstdev
from typing import Any

from sqlalchemy import Connection, Select, func, select

from oyer.history.pages.judges import (
    judge_name,
    sample_scores,
    scales_of,
    scores_rollouts,
    share_of_scale,
)
from oyer.history.pages.step_filters import Filters, step_sql
from oyer.models.batch import Batch, Run
from oyer.models.judgement import Judgement
from oyer.models.reward import Reward
from oyer.models.rollout import Rollout, Text
from oyer.models.step_total import NO_STEP
from oyer.protocol.batch_result import components_of, split_recorded
from oyer.protocol.errors import InvalidInput

MAX_ROLLOUTS = 4096
"""Most rollouts on one page."""

SORTS = ("order", "best", "worst", "spread", "disagreement", "cost", "latency")


@dataclass
class Cell:
    """One rollout of the step."""

    batch_id: str
    index: int
    group_id: str | None
    reward: float | None
    status: str
    trainable: bool
    tokens: int | None
    components: dict[str, float | None]
    cost_usd: float = 0.0
    latency_ms: float = 0.0
    judge_scores: list[float] = field(default_factory=list)
    """Scores of each judge and sample, scaled to [0, 1]."""
    shade: int | None = None
    """From 0, the step's lowest reward, to 9, its highest."""

    @property
    def disagreement(self) -> float:
        """Difference between the highest and the lowest score of its judges."""
        return max(self.judge_scores) - min(self.judge_scores) if self.judge_scores else 0.0


@dataclass
class Group:
    """Rollouts of one group, or one rollout without a group."""

    group_id: str | None
    cells: list[Cell]

    @property
    def rewards(self) -> list[float]:
        """The rewards that exist."""
        return [cell.reward for cell in self.cells if cell.reward is not None]

    @property
    def mean(self) -> float | None:
        """The mean reward."""
        return sum(self.rewards) / len(self.rewards) if self.rewards else None

    @property
    def spread(self) -> float:
        """Standard deviation of the rewards."""
        return pstdev(self.rewards) if len(self.rewards) > 1 else 0.0

    @property
    def cost_usd(self) -> float:
        """Cost of the calls for its rollouts."""
        return sum(cell.cost_usd for cell in self.cells)

    @property
    def latency_ms(self) -> float:
        """The longest judgement."""
        return max((cell.latency_ms for cell in self.cells), default=0.0)

    @property
    def disagreement(self) -> float:
        """The largest disagreement between judges on one of its rollouts."""
        return max((cell.disagreement for cell in self.cells), default=0.0)


_ORDER: dict[str, Callable[[Group], float]] = {
    "best": lambda group: -(group.mean if group.mean is not None else float("-inf")),
    "worst": lambda group: group.mean if group.mean is not None else float("inf"),
    "spread": lambda group: -group.spread,
    "disagreement": lambda group: -group.disagreement,
    "cost": lambda group: -group.cost_usd,
    "latency": lambda group: -group.latency_ms,
}


def step_page(
    conn: Connection, run_id: int, step: int, split: str | None, filters: Filters
) -> dict[str, Any] | None:
    """Return the groups of a step; None if the run is not on record.

    Raises:
        InvalidInput: the order is unknown.
    """
    if filters.sort not in SORTS:
        raise InvalidInput(f"sort: is {filters.sort!r:.40}; give one of {', '.join(SORTS)}")
    name = conn.scalar(select(Run.name).where(Run.id == run_id))
    if name is None:
        return None
    chosen = _batches(run_id, step, split)
    cells = _cells(conn, chosen, filters.text)
    truncated = len(cells) > MAX_ROLLOUTS
    cells = cells[:MAX_ROLLOUTS]
    _add_judgements(conn, chosen, cells)
    _shade(cells)
    components = {name for cell in cells for name in cell.components}
    statuses = {cell.status for cell in cells}
    shown = [cell for cell in cells if _matches(cell, filters)]
    groups = _groups(shown)
    if filters.sort != "order":
        groups.sort(key=_ORDER[filters.sort])
    return {
        "run": {"id": run_id, "name": name},
        "step": step,
        "split": split,
        "filters": filters,
        "sql": step_sql(name, step, split, filters),
        "groups": groups,
        "rollouts": _count(conn, chosen) if filters.text else len(cells),
        "shown": len(shown),
        "truncated": truncated,
        "most": MAX_ROLLOUTS,
        # With those filtered by, so that the form keeps them where no rollout fits.
        "statuses": sorted(statuses | {one for one in [filters.status] if one}),
        "components": sorted(components | {one for one in [filters.component] if one}),
        "sorts": SORTS,
    }


def _batches(run_id: int, step: int, split: str | None) -> Select[*tuple[Any, ...]]:
    step_is = Batch.step.is_(None) if step == NO_STEP else Batch.step == step
    query = select(Batch.id, Batch.submitted_at).where(
        Batch.run_id == run_id, step_is, Batch.preliminary.is_(False)
    )
    if split is not None:
        query = query.where(func.coalesce(Batch.split, "") == split)
    return query


def _cells(conn: Connection, batches: Select[*tuple[Any, ...]], text: str | None) -> list[Cell]:
    chosen = batches.subquery()
    query = (
        select(
            Reward.batch_id, Reward.rollout_index, Rollout.group_id, Reward.reward, Reward.status,
            Reward.trainable, Rollout.response_tokens, Reward.terms,
        )
        .join_from(
            chosen,
            Reward,
            (Reward.batch_id == chosen.c.id) & (Reward.submitted_at == chosen.c.submitted_at),
        )
        .join(
            Rollout,
            (Rollout.submitted_at == Reward.submitted_at)
            & (Rollout.batch_id == Reward.batch_id)
            & (Rollout.rollout_index == Reward.rollout_index),
        )
        .order_by(Reward.submitted_at, Reward.batch_id, Reward.rollout_index)
        .limit(MAX_ROLLOUTS + 1)
    )  # fmt: skip
    if text:
        query = query.join(Text, Text.hash == Rollout.response_hash).where(
            Text.body.icontains(text, autoescape=True)
        )
    found = []
    for row in conn.execute(query):
        values: list[Any] = [*row[:-1], components_of(split_recorded(row[-1]))]
        found.append(Cell(*values))
    return found


def _count(conn: Connection, batches: Select[*tuple[Any, ...]]) -> int:
    """Return the number of rollouts with a reward or the reason why there is none."""
    chosen = batches.subquery()
    same = (Reward.batch_id == chosen.c.id) & (Reward.submitted_at == chosen.c.submitted_at)
    return conn.scalar(select(func.count()).select_from(chosen).join(Reward, same)) or 0


def _add_judgements(
    conn: Connection, batches: Select[*tuple[Any, ...]], cells: Sequence[Cell]
) -> None:
    """Add cost, latency and the judges' scores to the cells."""
    by_key = {(cell.batch_id, cell.index): cell for cell in cells}
    # Not of batches beyond the rollouts that are shown.
    chosen = batches.where(Batch.id.in_({cell.batch_id for cell in cells})).subquery()
    query = select(
        Judgement.batch_id, Judgement.rollout_index, Judgement.judge, Judgement.sample,
        Judgement.score, Judgement.cost_usd, Judgement.latency_ms,
    ).join_from(
        chosen,
        Judgement,
        (Judgement.batch_id == chosen.c.id) & (Judgement.submitted_at == chosen.c.submitted_at),
    )  # fmt: skip
    # The step's first batch tells how its judges are configured.
    plan = conn.scalar(batches.with_only_columns(Batch.plan).limit(1)) or {}
    scores: dict[Any, list[tuple[int, float | None]]] = defaultdict(list)
    for batch_id, index, judge, sample, score, cost_usd, latency_ms in conn.execute(query):
        cell = by_key.get((batch_id, index))
        if cell is None:
            continue
        cell.cost_usd += cost_usd or 0.0
        cell.latency_ms = max(cell.latency_ms, latency_ms or 0.0)
        if score is not None and scores_rollouts(judge):
            scores[batch_id, index, judge].append((sample, score))
    scales = scales_of(plan)
    for (batch_id, index, judge), rows in scores.items():
        scale = scales.get(judge_name(judge))
        found = [share_of_scale(one, scale) for one in sample_scores(rows, plan, judge)]
        by_key[batch_id, index].judge_scores += found


def _shade(cells: Iterable[Cell]) -> None:
    rewards = [cell.reward for cell in cells if cell.reward is not None]
    if not rewards:
        return
    low, high = min(rewards), max(rewards)
    for cell in cells:
        if cell.reward is not None:
            share = (cell.reward - low) / (high - low) if high > low else 0.5
            cell.shade = min(9, int(share * 10))


def _matches(cell: Cell, filters: Filters) -> bool:
    if filters.status and cell.status != filters.status:
        return False
    if filters.low is None and filters.high is None:
        return True
    value = cell.components.get(filters.component) if filters.component else cell.reward
    if value is None:
        return False
    return (filters.low is None or value >= filters.low) and (
        filters.high is None or value <= filters.high
    )


def _groups(cells: Sequence[Cell]) -> list[Group]:
    members: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        alone = cell.group_id is None
        members[cell.batch_id, cell.index if alone else cell.group_id, alone].append(cell)
    return [Group(cells[0].group_id, cells) for cells in members.values()]
