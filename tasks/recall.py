"""The recall task: what the record holds of a batch that Redis has forgotten."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from oyer.models import queries
from oyer.models.engine import reading
from oyer.models.rows import StoredReward
from oyer.protocol.batch_result import BatchResult, split_recorded
from oyer.protocol.errors import BatchLost
from oyer.protocol.status import NOT_CALLED, Status
from oyer.tasks.worker import context
from oyer.tasks.worker.patience import patiently


def recall_batch(batch_id: str) -> dict[str, Any]:
    """Return the rewards of a batch that ended, as `combine` did.

    Raises:
        BatchLost: it has not ended, and its payloads are gone.
    """
    return patiently(lambda: _recalled(batch_id)).to_wire()


def recorded_outcome(
    batch_id: str,
    stored: Sequence[StoredReward],
    usage: Mapping[str, float],
    first_errors: Mapping[str, str],
) -> BatchResult:
    """Turn a batch's rewards on record back into what `combine` returned."""

    def floats(values: Iterable[float | None]) -> Any:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float32)

    names = stored[0]["terms"]
    columns = {name: floats(row["terms"].get(name) for row in stored) for name in names}
    terms, advantages, histories = split_recorded(columns)
    return BatchResult(
        batch_id=batch_id,
        rewards=floats(row["reward"] for row in stored),
        unshaped_rewards=floats(row["unshaped_reward"] for row in stored),
        judge_scores=floats(row["judge_score"] for row in stored),
        mask=np.array([row["trainable"] for row in stored], dtype=bool),
        statuses=[row["status"] for row in stored],
        terms=terms,
        usage=dict(usage),
        first_errors=dict(first_errors),
        advantages=advantages,
        history=histories,
    )


def _recalled(batch_id: str) -> BatchResult:
    with reading(context.engine()) as conn:
        state = queries.batch(conn, batch_id)
        if state is None:
            raise BatchLost(
                f"batch {batch_id}: is neither in Redis nor on record; submit its rollouts anew"
            )
        stored = queries.rewards_of(conn, batch_id)
        judgements = queries.judgements_of(conn, batch_id)
        usage = queries.usage_of(conn, batch_id)
    if len(stored) < state["size"]:
        seen = len({row["rollout_index"] for row in judgements})
        raise BatchLost(
            f"batch {batch_id}: is no longer in Redis, and the record holds {seen} of its"
            f" {state['size']} rollouts; submit them anew: what is on record is not paid for again"
        )
    fine = {Status.SCORED, *NOT_CALLED}
    first_errors: dict[str, str] = {}
    for row in judgements:
        error = row.get("error")
        if error and row["status"] not in fine:
            first_errors.setdefault(row["status"], error)
    outcome = recorded_outcome(
        batch_id,
        stored,
        {
            "calls": usage["calls"],
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["completion_tokens"],
            "cost_usd": usage["cost_usd"],
        },
        first_errors,
    )
    cancelled = (state["ending"] or "") if state["status"] == "cancelled" else None
    return replace(outcome, cancelled=cancelled)
