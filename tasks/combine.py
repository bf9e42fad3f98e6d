"""The chord's callback: verdicts and length terms become rewards, on record before they return.

It takes parts in any order, more than once, and reads from the record what is missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.models import history, record
from oyer.models.rows import BatchKey, RewardRow, StoredReward, Usage
from oyer.tasks import process
from oyer.tasks.compose import Composed, Verdicts, compose, missing
from oyer.tasks.errors import BatchFailed
from oyer.tasks.outcome import Outcome
from oyer.tasks.parts import JudgePart, LengthPart, read_parts
from oyer.tasks.patience import patiently
from oyer.tasks.payloads import Columns, Manifest
from oyer.tasks.plan import Plan, read_plan

log = get_logger(__name__)


def warm_up() -> None:
    """Open the record, so that the first batch does not wait for it."""
    process.engine()


def combine_batch(batch_id: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Compose a batch's rewards, record them, and return them in their wire form.

    Raises:
        BatchFailed: parts of the batch are missing; it is to be submitted again.
    """
    exchange = process.exchange()
    manifest, columns = exchange.manifest(batch_id), exchange.columns(batch_id)
    plan = read_plan(manifest)
    judge_parts, length_part = read_parts(parts)
    _check_complete(manifest, plan, judge_parts, length_part)
    composed = _compose(plan, columns, judge_parts, length_part)
    outcome = _outcome(batch_id, composed, judge_parts)
    recorded = _record(manifest, outcome)
    exchange.discard(manifest)
    return recorded.to_wire()


def _check_complete(
    manifest: Manifest,
    plan: Plan,
    judge_parts: Mapping[int, JudgePart],
    length_part: LengthPart | None,
) -> None:
    late = [k for k in range(len(manifest.chunks)) if k not in judge_parts]
    what = [f"chunks {late[:10]}"] if late else []
    if plan.length and length_part is None:
        what.append("length terms")
    if what:
        raise BatchFailed(f"batch {manifest.batch_id}: {' and '.join(what)} did not arrive")


def _compose(
    plan: Plan,
    columns: Columns,
    judge_parts: Mapping[int, JudgePart],
    length_part: LengthPart | None,
) -> Composed:
    chunks = [judge_parts[k] for k in sorted(judge_parts)]
    verdicts = {
        judge.name: Verdicts(
            scores=np.array([s for part in chunks for s in part.scores[judge.name]], dtype=float),
            statuses=[s for part in chunks for s in part.statuses[judge.name]],
        )
        for judge in plan.judges
    }
    return compose(
        base_score=np.array(columns.base_score, dtype=float),
        group_ids=columns.group_ids,
        judges=plan.judges,
        verdicts=verdicts,
        added=length_part.added if length_part else {},
        multiplied=length_part.multiplied if length_part else {},
        rules=plan.reward,
    )


def _outcome(batch_id: str, composed: Composed, judge_parts: Mapping[int, JudgePart]) -> Outcome:
    usage: dict[str, float] = {}
    first_errors: dict[str, str] = {}
    for part in judge_parts.values():
        for name, amount in part.usage.items():
            usage[name] = usage.get(name, 0) + amount
        first_errors = {**part.errors, **first_errors}
    return Outcome(
        batch_id=batch_id,
        rewards=composed.rewards.astype(np.float32),
        unshaped_rewards=composed.unshaped_rewards.astype(np.float32),
        judge_scores=composed.judge_scores.astype(np.float32),
        mask=composed.mask,
        statuses=composed.statuses,
        terms={name: term.astype(np.float32) for name, term in composed.terms.items()},
        usage=usage,
        first_errors=first_errors,
    )


def _record(manifest: Manifest, outcome: Outcome) -> Outcome:
    """Put rewards on record; where an earlier run of this task did, its rewards stand."""
    now = datetime.now(UTC)
    rows = [_reward_row(outcome, i, now) for i in range(len(outcome.rewards))]
    key = BatchKey(datetime.fromtimestamp(manifest.submitted_at, UTC), manifest.batch_id)
    counts = {s: outcome.statuses.count(s) for s in sorted(set(outcome.statuses))}

    def write() -> tuple[Usage, list[StoredReward]]:
        with process.engine().begin() as conn:
            usage = history.usage_of(conn, manifest.batch_id)
            if not record.record_rewards(conn, key, rows):
                return usage, history.rewards_of(conn, manifest.batch_id)
            record.finish_batch(
                conn,
                manifest.batch_id,
                status="finished",
                finished_at=now,
                counts=counts,
                usage=usage,
            )
            return usage, []

    usage, stored = patiently(write)
    outcome.usage.update(
        calls=usage["calls"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cost_usd=usage["cost_usd"],
    )
    gaps = len(missing(outcome.statuses))
    if gaps:
        log.warning("batch %s: %d of %d without a score", manifest.batch_id, gaps, len(rows))
    return _as_recorded(outcome, stored) if stored else outcome


def _reward_row(outcome: Outcome, i: int, now: datetime) -> RewardRow:
    return {
        "rollout_index": i,
        "status": outcome.statuses[i],
        "trainable": bool(outcome.mask[i]),
        "terms": {name: _number(term[i]) for name, term in outcome.terms.items()},
        "created_at": now,
        "reward": float(outcome.rewards[i]),
        "unshaped_reward": float(outcome.unshaped_rewards[i]),
        "judge_score": float(outcome.judge_scores[i]),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _as_recorded(outcome: Outcome, stored: Sequence[StoredReward]) -> Outcome:
    def floats(values: Iterable[float | None]) -> Any:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float32)

    return Outcome(
        batch_id=outcome.batch_id,
        rewards=floats(row["reward"] for row in stored),
        unshaped_rewards=floats(row["unshaped_reward"] for row in stored),
        judge_scores=floats(row["judge_score"] for row in stored),
        mask=np.array([row["trainable"] for row in stored], dtype=bool),
        statuses=[row["status"] for row in stored],
        terms={name: floats(row["terms"].get(name) for row in stored) for name in outcome.terms},
        usage=outcome.usage,
        first_errors=outcome.first_errors,
    )
