"""The chord's callback: verdicts and length terms become rewards, on record before they return.

It takes parts in any order and more than once, reads verdicts that did not arrive from the record,
and logs each of these. What is nowhere fails the batch, which is then submitted again.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.config.plan import Plan, read_plan
from oyer.models import queries, writes
from oyer.models.engine import reading
from oyer.models.rows import BatchKey, RewardRow, StoredJudgement, StoredReward, Usage
from oyer.protocol.batch import Columns, Manifest
from oyer.protocol.batch_result import BatchResult, Float32s
from oyer.protocol.errors import BatchFailed
from oyer.protocol.partial_results import (
    Floats,
    JudgeResult,
    LengthResult,
    check_results,
    missing_chunks,
    read_results,
)
from oyer.tasks.judging.judgements import recorded_result, settled_rows
from oyer.tasks.recall import recorded_outcome
from oyer.tasks.rewards.compose import ComposedRewards, compose, missing, verdicts_of
from oyer.tasks.worker import context
from oyer.tasks.worker.patience import patiently
from oyer.tasks.worker.record_state import check_record

log = get_logger(__name__)


def warm_up() -> None:
    """Check and open the record, so that the first batch does not wait for it."""
    check_record()
    context.engine()


def combine_batch(batch_id: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Compose a batch's rewards, record them, and return them in their wire form.

    Raises:
        BatchFailed: parts of the batch are missing; it is to be submitted again.
    """
    exchange = context.exchange()
    manifest = patiently(lambda: exchange.manifest(batch_id))
    columns = patiently(lambda: exchange.columns(batch_id))
    plan = read_plan(manifest)
    arrived = read_results(parts)
    for remark in arrived.remarks:
        log.warning("batch %s: %s", batch_id, remark)
    judge_parts = {**arrived.judges, **_recorded_parts(manifest, plan, arrived.judges)}
    check_results(manifest, judge_parts, arrived.length)
    if plan.length and arrived.length is None:
        raise BatchFailed(f"batch {batch_id}: its length terms did not arrive; submit it again")
    composed = _compose(plan, columns, judge_parts, arrived.length)
    status, why = patiently(lambda: exchange.ending(batch_id)) or ("finished", None)
    outcome = _outcome(batch_id, composed, judge_parts, arrived.length or LengthResult())
    outcome = replace(outcome, cancelled=why if status == "cancelled" else None)
    sizes = _group_sizes(columns.group_ids)
    recorded = _record(manifest, outcome, sizes, status, why)
    patiently(lambda: exchange.discard(manifest))
    _tell(manifest, recorded)
    return recorded.to_wire()


def _recorded_parts(
    manifest: Manifest, plan: Plan, arrived: Mapping[int, JudgeResult]
) -> dict[int, JudgeResult]:
    """Read the chunks that did not arrive from the record, as far as it holds them whole."""
    late = missing_chunks(manifest, arrived)
    if not late:
        return {}

    def read() -> list[StoredJudgement]:
        with reading(context.engine()) as conn:
            return queries.judgements_of(conn, manifest.batch_id)

    rows = settled_rows(patiently(read))
    spans = {k: manifest.chunks[k] for k in late}
    found = {
        k: part
        for k, (start, count) in spans.items()
        if (part := recorded_result(k, range(start, start + count), plan.judges, rows))
    }
    log.warning(
        "batch %s: chunks %s did not arrive; %s read from the record",
        manifest.batch_id,
        late,
        "all" if len(found) == len(late) else f"{sorted(found)} of them",
    )
    return found


def _compose(
    plan: Plan,
    columns: Columns,
    judge_parts: Mapping[int, JudgeResult],
    length_part: LengthResult | None,
) -> ComposedRewards:
    shaped = length_part or LengthResult()
    return compose(
        base_score=np.array(columns.base_score, dtype=float),
        group_ids=columns.group_ids,
        judges=plan.judges,
        verdicts=verdicts_of(judge_parts, plan.judges),
        rules=plan.reward,
        correct=columns.correctness,
        added=shaped.added,
        multiplied=shaped.multiplied,
        changed=shaped.changed,
        kept=shaped.kept,
    )


def _outcome(
    batch_id: str,
    composed: ComposedRewards,
    judge_parts: Mapping[int, JudgeResult],
    length_part: LengthResult,
) -> BatchResult:
    usage: dict[str, float] = {}
    first_errors: dict[str, str] = {}
    for part in judge_parts.values():
        for name, amount in part.usage.items():
            usage[name] = usage.get(name, 0) + amount
        first_errors = {**part.errors, **first_errors}
    return BatchResult(
        batch_id=batch_id,
        rewards=composed.rewards.astype(np.float32),
        unshaped_rewards=composed.unshaped_rewards.astype(np.float32),
        judge_scores=composed.judge_scores.astype(np.float32),
        mask=composed.mask,
        statuses=composed.statuses,
        terms=_float32s(composed.terms),
        usage=usage,
        first_errors=first_errors,
        advantages=_float32s(length_part.advantages),
        history=_float32s(length_part.history),
    )


def _float32s(arrays: Mapping[str, Floats]) -> dict[str, Float32s]:
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _group_sizes(group_ids: Sequence[str | None]) -> list[int | None]:
    """Count the rollouts of each one's group in this batch; none where it has no group."""
    counts = Counter(group_ids)
    return [None if group is None else counts[group] for group in group_ids]


def _record(
    manifest: Manifest,
    outcome: BatchResult,
    group_sizes: Sequence[int | None],
    status: str,
    why: str | None,
) -> BatchResult:
    """Put rewards on record; where an earlier run of this task did, its rewards stand."""
    now = datetime.now(UTC)
    columns = outcome.recorded
    rows = [_reward_row(outcome, columns, i, now) for i in range(len(outcome.rewards))]
    for row, size in zip(rows, group_sizes, strict=True):
        row["group_size"] = size
    key = BatchKey(datetime.fromtimestamp(manifest.submitted_at, UTC), manifest.batch_id)
    counts = {s: outcome.statuses.count(s) for s in sorted(set(outcome.statuses))}

    def write() -> tuple[Usage, list[StoredReward]]:
        with context.engine().begin() as conn:
            usage = queries.usage_of(conn, manifest.batch_id)
            if not writes.record_rewards(conn, key, rows):
                return usage, queries.rewards_of(conn, manifest.batch_id)
            writes.finish_batch(
                conn,
                manifest.batch_id,
                status=status,
                finished_at=now,
                counts=counts,
                usage=usage,
                ending=why,
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
    if not stored:
        return outcome
    log.warning("batch %s: has rewards on record already, which stand", manifest.batch_id)
    again = recorded_outcome(outcome.batch_id, stored, outcome.usage, outcome.first_errors)
    return replace(again, cancelled=outcome.cancelled)


def _tell(manifest: Manifest, outcome: BatchResult) -> None:
    """Log one line for a batch that has ended."""
    statuses = {s: outcome.statuses.count(s) for s in sorted(set(outcome.statuses))}
    fields = {
        "batch_id": manifest.batch_id,
        "run": manifest.run,
        "step": manifest.step,
        "rollouts": len(outcome.rewards),
        "statuses": statuses,
        "calls": int(outcome.usage["calls"]),
        "cost_usd": round(outcome.usage["cost_usd"], 6),
        "seconds": round(time.time() - manifest.submitted_at, 3),
    }
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    log.info(
        "batch %s of run %s, step %s, has ended: %d rollouts (%s), %d calls, $%.4f, %.1f s",
        *(fields[name] for name in ("batch_id", "run", "step", "rollouts")),
        counts,
        *(fields[name] for name in ("calls", "cost_usd", "seconds")),
        extra={"fields": fields},
    )


def _reward_row(
    outcome: BatchResult, columns: Mapping[str, Float32s], i: int, now: datetime
) -> RewardRow:
    return {
        "rollout_index": i,
        "status": outcome.statuses[i],
        "trainable": bool(outcome.mask[i]),
        "terms": {name: _number(values[i]) for name, values in columns.items()},
        "created_at": now,
        "reward": float(outcome.rewards[i]),
        "unshaped_reward": float(outcome.unshaped_rewards[i]),
        "judge_score": float(outcome.judge_scores[i]),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
