"""Reads the result of a finished batch from the database."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from oyer.config.reward import SENT, RewardConfig
from oyer.models import queries
from oyer.models.rows import StoredJudgement, StoredReward, Usage
from oyer.protocol.batch_result import (
    USAGE,
    BatchResult,
    CriteriaOfRow,
    Float32s,
    number_groups,
    split_recorded,
)
from oyer.protocol.errors import BatchLost
from oyer.protocol.partial_results import Floats, LengthResult
from oyer.protocol.status import SETTLED
from oyer.tasks.judging.judgements import key_of, verdicts_on
from oyer.tasks.rewards.compose import ComposedRewards, batch_result
from oyer.tasks.worker.context import WorkerContext

if TYPE_CHECKING:
    from sqlalchemy import Connection


def recall_batch(context: WorkerContext, batch_id: str) -> dict[str, Any]:
    """Return the result of a batch whose result in Redis has expired, in wire form.

    Raises:
        BatchLost: the batch has not finished, and its payloads are gone.
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


def _equal(score: float | None, recorded: float) -> bool:
    return math.isclose(np.nan if score is None else score, recorded, rel_tol=1e-5, abs_tol=1e-6)


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
    return replace(result, criteria=_criteria(judgements, state["plan"], result.scores))


def _criteria(
    judgements: Sequence[StoredJudgement],
    plan: Mapping[str, Any],
    scores: Mapping[str, Float32s],
) -> list[CriteriaOfRow]:
    """Return the verdicts on criteria of each rollout: the fallback's where its score was used."""
    if not any("criteria" in row for row in judgements):
        return []
    rows = {key_of(row): row for row in judgements}
    found: list[CriteriaOfRow] = [{} for _ in range(len(next(iter(scores.values()))))]
    for judge in RewardConfig.model_validate(plan, context=SENT).judges:
        for i, score in enumerate(scores[judge.name]):
            verdict = verdicts_on(rows, judge, [i])[i]
            substitute = judge.substitute
            if substitute is not None and (i, substitute.name, 0) in rows:
                fallback = verdicts_on(rows, substitute, [i])[i]
                verdict = verdict if _equal(verdict.score, score) else fallback
            if verdict.criteria:
                found[i][judge.name] = verdict.criteria
    return found
