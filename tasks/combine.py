"""The callback of a batch's chord: turns verdicts and length terms into recorded rewards.

Results of header tasks may arrive in any order and repeatedly; verdicts that did not arrive are read
from the database. If some are missing there as well, the batch fails, and its trainer resubmits it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.config.plan import Plan
from oyer.models import queries
from oyer.protocol.batch import Columns, Manifest
from oyer.protocol.batch_result import BatchResult, sampled_rows
from oyer.protocol.errors import BatchFailed
from oyer.protocol.partial_results import (
    JudgeResult,
    LengthResult,
    check_results,
    missing_chunks,
    read_results,
)
from oyer.tasks.judging.judgements import key_of, recorded_result
from oyer.tasks.recall import stored_result, usage_amounts
from oyer.tasks.record import check_schema, record_rewards
from oyer.tasks.rewards.compose import (
    RewardInputs,
    batch_result,
    compose,
    criteria_of,
    missing,
    turn_scores_of,
    verdicts_of,
)
from oyer.tasks.rewards.length_columns import length_statuses
from oyer.tasks.worker.context import WorkerContext
from oyer.tasks.worker.storage_retry import retry_storage
from oyer.telemetry import tracing

log = get_logger(__name__)


def warm_up(context: WorkerContext) -> None:
    """Check and open the database before the first batch arrives."""
    check_schema(context)
    _ = context.engine


def combine_batch(
    context: WorkerContext, batch_id: str, parts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Compose a batch's rewards, record them, and return its `BatchResult` in wire form.

    Args:
        parts: results of the header tasks, in wire form.

    Raises:
        BatchFailed: results are missing; the trainer resubmits the batch.
    """
    manifest, plan = context.manifest(batch_id)
    columns = retry_storage(context.batches.columns, batch_id)
    arrived = read_results(parts)
    for remark in arrived.remarks:
        log.warning("batch %s: %s", batch_id, remark)
    judged = {**arrived.judges, **_recorded_results(context, manifest, plan, arrived.judges)}
    check_results(manifest, judged, arrived.length)
    if plan.length and arrived.length is None:
        raise BatchFailed(f"batch {batch_id}: its length terms did not arrive; submit it again")
    inputs = RewardInputs(
        columns=columns,
        judges=plan.judges,
        verdicts=verdicts_of(judged, plan.judges),
        rules=plan.reward,
    )
    length = arrived.length or LengthResult()
    return combine(context, manifest, plan, inputs, judged, length).to_wire()


def combine(
    context: WorkerContext,
    manifest: Manifest,
    plan: Plan,
    inputs: RewardInputs,
    judged: Mapping[int, JudgeResult],
    length: LengthResult,
) -> BatchResult:
    """Compose a batch's rewards, record them, and delete its payloads."""
    labels = {**manifest.labels, "rollouts": manifest.size}
    with tracing.span("oyer.combine", "consumer", labels):
        return _combined(context, manifest, plan, inputs, judged, length)


def _combined(
    context: WorkerContext,
    manifest: Manifest,
    plan: Plan,
    inputs: RewardInputs,
    judged: Mapping[int, JudgeResult],
    length: LengthResult,
) -> BatchResult:
    batch_id = manifest.batch_id
    status, why = retry_storage(context.batches.ending, batch_id) or ("finished", None)
    result = batch_result(
        batch_id,
        compose(inputs, length),
        length,
        usage={},
        first_errors=_first_errors(judged),
        cancelled=why if status == "cancelled" else None,
        criteria=criteria_of(judged, manifest.size),
        turn_scores=turn_scores_of(judged, manifest.size),
    )
    recorded = _recorded(context, manifest, plan, inputs.columns, result, status, why)
    retry_storage(context.batches.discard, manifest)
    _log_end(manifest, recorded, retry_storage(context.clock.now_s) - manifest.submitted_at)
    return with_joined_observations(recorded, judged.values())


def with_joined_observations(result: BatchResult, judged: Collection[JudgeResult]) -> BatchResult:
    """Add what the trainer's metrics and samples show and the record derives from judgements."""
    latencies_ms = [latency for part in judged for latency in part.latencies_ms]
    quantiles = np.percentile(latencies_ms, (50, 95)).tolist() if latencies_ms else ()
    return replace(
        result,
        judge_latency_ms=dict(zip(("p50", "p95"), quantiles, strict=False)),
        reasons={row: text for part in judged for row, text in part.reasons.items()},
    )


def _recorded_results(
    context: WorkerContext, manifest: Manifest, plan: Plan, arrived: Mapping[int, JudgeResult]
) -> dict[int, JudgeResult]:
    """Read missing chunks from the database; skip chunks that it holds only in part."""
    late = missing_chunks(manifest, arrived)
    if not late:
        return {}
    found = context.read(lambda conn: queries.judgements_of(conn, manifest.batch_id))
    rows = {key_of(row): row for row in found}
    sample = sampled_rows(manifest.batch_id, manifest.size)
    parts: dict[int, JudgeResult] = {}
    for k in late:
        start, count = manifest.chunks[k]
        part = recorded_result(k, range(start, start + count), plan.judges, rows, sample)
        if part is not None:
            parts[k] = part
    log.warning(
        "batch %s: chunks %s did not arrive; %s read from the record",
        manifest.batch_id,
        late,
        "all" if len(parts) == len(late) else f"{sorted(parts)} of them",
    )
    return parts


def _first_errors(judged: Mapping[int, JudgeResult]) -> dict[str, str]:
    first_errors: dict[str, str] = {}
    for part in judged.values():
        first_errors = {**part.errors, **first_errors}
    return first_errors


def _group_sizes(group_ids: Sequence[str | None]) -> list[int | None]:
    """Return the number of rollouts in each rollout's group; None without a group."""
    counts = Counter(group_ids)
    return [None if group is None else counts[group] for group in group_ids]


def _recorded(
    context: WorkerContext,
    manifest: Manifest,
    plan: Plan,
    columns: Columns,
    result: BatchResult,
    status: str,
    why: str | None,
) -> BatchResult:
    """Record a result; return the recorded one if an earlier run of this task recorded one."""
    sizes = _group_sizes(columns.group_ids)
    compared = length_statuses(plan.length, columns)
    usage, stored = record_rewards(context, manifest, result, sizes, compared, status, why)
    gaps = len(missing(result.statuses))
    if gaps:
        log.warning("batch %s: %d of %d without a score", result.batch_id, gaps, manifest.size)
    if not stored:
        return replace(result, usage=usage_amounts(usage))
    log.warning("batch %s: keeps the rewards that are already on record", result.batch_id)
    kept = stored_result(
        result.batch_id, stored, columns.group_ids, usage, result.first_errors, result.cancelled
    )
    return replace(kept, criteria=result.criteria, turn_scores=result.turn_scores)


def _log_end(manifest: Manifest, result: BatchResult, duration_s: float) -> None:
    """Log one line for a finished batch."""
    fields = {
        "batch_id": manifest.batch_id,
        "run": manifest.run,
        "step": manifest.step,
        "rollouts": len(result.rewards),
        "statuses": result.counts,
        "calls": int(result.usage["calls"]),
        "cost_usd": round(result.usage["cost_usd"], 6),
        "seconds": round(duration_s, 3),
    }
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items())
    log.info(
        "batch %s of run %s, step %s, has ended: %d rollouts (%s), %d calls, $%.4f, %.1f s",
        *(fields[name] for name in ("batch_id", "run", "step", "rollouts")),
        counts,
        *(fields[name] for name in ("calls", "cost_usd", "seconds")),
        extra={"fields": fields},
    )
