"""Reads the result of a finished batch from the database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from oyer.config.plan import sent_config
from oyer.config.reward import JudgeConfig
from oyer.models import queries
from oyer.models.rows import StoredJudgement, StoredReward, Usage
from oyer.protocol.batch_result import (
    USAGE,
    BatchResult,
    CriteriaOfRow,
    number_groups,
    split_recorded,
)
from oyer.protocol.errors import BatchLost
from oyer.protocol.partial_results import Floats, LengthResult
from oyer.protocol.status import SETTLED
from oyer.tasks.judging.aggregate import Verdict, chunk_groups, with_fallback
from oyer.tasks.judging.judgements import key_of, verdicts_on
from oyer.tasks.judging.requests import JudgementKey
from oyer.tasks.rewards.compose import ComposedRewards, batch_result
from oyer.tasks.worker.context import WorkerContext

if TYPE_CHECKING:
    from sqlalchemy import Connection


def recall_batch(context: WorkerContext, batch_id: str) -> dict[str, Any]:
    """Return the result of a batch whose result in Redis has expired, in wire form.

    Raises:
        BatchLost: the batch has not finished, and its payloads are gone.
        MessageRefused: its criteria or turns cannot be read, because its plan is of another release.
    """
    return context.read(lambda conn: _recalled(conn, batch_id)).to_wire()


def stored_result(
    batch_id: str,
    stored: Sequence[StoredReward],
    group_ids: Sequence[str | None],
    usage: Usage,
    first_errors: Mapping[str, str],
    cancelled: str | None,
) -> BatchResult:
    """Build a batch's result from the rewards in the database.

    Args:
        stored: its rewards, in the order submitted.
        group_ids: of its rollouts, in the order submitted.
    """
    names = stored[0]["terms"]
    columns = {name: _floats(row["terms"].get(name) for row in stored) for name in names}
    values = split_recorded(columns)
    composed = ComposedRewards(
        rewards=_floats(row["reward"] for row in stored),
        unshaped_rewards=_floats(row["unshaped_reward"] for row in stored),
        judge_scores=_floats(row["judge_score"] for row in stored),
        mask=np.array([row["trainable"] for row in stored], dtype=bool),
        statuses=[row["status"] for row in stored],
        terms=values.terms,
        raw_scores=values.scores,
        groups=number_groups(group_ids),
    )
    return batch_result(
        batch_id,
        composed,
        LengthResult(advantages=values.advantages, history=values.history),
        usage=usage_amounts(usage),
        first_errors=first_errors,
        cancelled=cancelled,
    )


def usage_amounts(usage: Usage) -> dict[str, float]:
    """Return a batch's usage by the names of a `BatchResult`."""
    return {name: usage[name] for name in USAGE}  # type: ignore[literal-required]


def _floats(values: Iterable[float | None]) -> Floats:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _recalled(conn: "Connection", batch_id: str) -> BatchResult:
    state = queries.batch(conn, batch_id)
    if state is None:
        raise BatchLost(
            f"batch {batch_id}: is neither in Redis nor in the database; submit its rollouts again"
        )
    stored = queries.rewards_of(conn, batch_id)
    judgements = queries.judgements_of(conn, batch_id)
    if len(stored) < state["size"]:
        judged = len({row["rollout_index"] for row in judgements})
        raise BatchLost(
            f"batch {batch_id}: is no longer in Redis, and the database holds {judged} of its"
            f" {state['size']} rollouts; submit them again: recorded judgements are not paid for again"
        )
    first_errors: dict[str, str] = {}
    for row in judgements:
        error = row.get("error")
        if error and row["status"] not in SETTLED:
            first_errors.setdefault(row["status"], error)
    cancelled = (state["ending"] or "") if state["status"] == "cancelled" else None
    usage = queries.usage_of(conn, batch_id)
    group_ids = queries.group_ids_of(conn, batch_id)
    result = stored_result(batch_id, stored, group_ids, usage, first_errors, cancelled)
    if not any("criteria" in row or row.get("turn") is not None for row in judgements):
        return result
    judges = sent_config(state["plan"], batch_id).judges
    criteria, turn_scores = _details(judgements, judges, group_ids)
    return replace(result, criteria=criteria, turn_scores=turn_scores)


def _details(
    judgements: Sequence[StoredJudgement],
    judges: Sequence[JudgeConfig],
    group_ids: Sequence[str | None],
) -> tuple[list[CriteriaOfRow], list[list[float | None]]]:
    """Return the verdicts on criteria and the turn scores of each rollout; empty if there are none."""
    rows = {key_of(row): row for row in judgements}
    indices = range(len(group_ids))
    found: list[CriteriaOfRow] = [{} for _ in indices]
    turns: list[list[float | None]] = [[] for _ in indices]
    for judge in judges:
        for i, verdict in _counted_verdicts(rows, judge, group_ids).items():
            if verdict.criteria:
                found[i][judge.name] = verdict.criteria
            if verdict.turn_scores:
                turns[i] = verdict.turn_scores
    return (found if any(found) else []), (turns if any(turns) else [])


def _counted_verdicts(
    rows: Mapping[JudgementKey, StoredJudgement],
    judge: JudgeConfig,
    group_ids: Sequence[str | None],
) -> dict[int, Verdict]:
    """Return the verdicts of a judge, or of its fallback, as the judge tasks chose them."""
    verdicts = verdicts_on(rows, judge, range(len(group_ids)))
    if judge.substitute is None:
        return verdicts
    name = judge.substitute.name
    groups = chunk_groups(group_ids, 0, ()).whole
    judged_again = [group for group in groups if all((i, name, 0) in rows for i in group)]
    indices = [i for group in judged_again for i in group]
    return with_fallback(verdicts, verdicts_on(rows, judge.substitute, indices), judged_again)
