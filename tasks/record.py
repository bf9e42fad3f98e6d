"""Writes batches to the database: submissions, judged chunks, rewards, endings."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from celery.utils.log import get_logger
from sqlalchemy.exc import SQLAlchemyError

from oyer.config import rubric
from oyer.config.reward import JudgeConfig
from oyer.models import queries, writes
from oyer.models.engine import open_engine, redacted_url
from oyer.models.rows import (
    AttemptRow,
    BatchKey,
    BatchRow,
    JudgementRow,
    RewardRow,
    RolloutRow,
    RubricRow,
    StoredJudgement,
    StoredReward,
    SubmissionRow,
    Usage,
)
from oyer.protocol.batch import Manifest
from oyer.protocol.batch_result import BatchResult
from oyer.protocol.errors import InvalidConfig
from oyer.protocol.measuring import measured
from oyer.protocol.rollout import Rollout
from oyer.tasks.judging.judgements import judge_result
from oyer.tasks.rewards.totals import Total, totals_of
from oyer.tasks.worker.storage_retry import retry_storage

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from oyer.tasks.worker.context import WorkerContext

log = get_logger(__name__)


def check_schema(context: "WorkerContext") -> None:
    """Compare the database's schema revision with that of this release.

    A newer revision only logs a warning: a rolling upgrade migrates before it restarts every host.

    Raises:
        InvalidConfig: the database has no schema, or an older one.
    """
    from oyer import migrations

    url = context.config.store.url
    revision, newest = retry_storage(migrations.current, url), migrations.head()
    state = migrations.schema_problem(revision)
    if state is None:
        if revision != newest:
            log.warning(
                "the record is at revision %s, newer than %s of this release", revision, newest
            )
        return
    raise InvalidConfig(
        f"store.url: the record {redacted_url(url)} {state}; run `oyer db upgrade` with this"
        " configuration, then start the workers"
    )


def record_submission(
    context: "WorkerContext", manifest: Manifest, indices: Sequence[int] = ()
) -> list[StoredJudgement]:
    """Write a batch and all its submissions so far.

    Returns:
        The judgements on record for the rollouts with these indices.
    """
    now = datetime.now(UTC)
    rows: list[SubmissionRow] = [
        {
            "batch_id": manifest.batch_id,
            "sent_at": datetime.fromtimestamp(sending.at, UTC),
            "host": sending.host,
            "why": sending.why,
        }
        for sending in manifest.sendings
    ]
    # Only the last one has reached a worker for certain.
    rows[-1:] = [{**row, "seen_at": now, "worker": context.name} for row in rows[-1:]]

    def write(conn: "Connection") -> list[StoredJudgement]:
        writes.ensure_run_and_batch(conn, _batch_row(manifest))
        writes.record_submissions(conn, manifest.batch_id, rows)
        return queries.judgements_of(conn, manifest.batch_id, indices)

    return context.write(write)


def record_chunk(
    context: "WorkerContext",
    manifest: Manifest,
    chunk: int,
    rollouts: Sequence[Rollout],
    judges: Sequence[JudgeConfig] = (),
    judgements: Sequence[JudgementRow] = (),
    attempts: Sequence[AttemptRow] = (),
) -> Sequence[JudgementRow]:
    """Write a chunk in one transaction; returns its judgements as the database holds them."""
    start, _ = manifest.chunks[chunk]
    rows = [_rollout_row(i, rollout) for i, rollout in enumerate(rollouts, start=start)]

    def write(conn: "Connection") -> Sequence[JudgementRow]:
        key = writes.ensure_run_and_batch(conn, _batch_row(manifest))
        writes.record_rubrics(conn, [_rubric_row(judge) for judge in judges])
        return writes.record_chunk(
            conn, key, rollouts=rows, judgements=judgements, attempts=attempts
        )

    return context.write(write) or judgements


def record_unjudged(context: "WorkerContext", batch_id: str, chunk: int) -> dict[str, Any]:
    """Write a chunk of a batch without judges; returns an empty `JudgeResult` in wire form."""
    manifest, _ = context.manifest(batch_id)
    rollouts = retry_storage(context.batches.rollouts, batch_id, chunk)
    if chunk == 0:
        record_submission(context, manifest)
    record_chunk(context, manifest, chunk, rollouts)
    return judge_result(chunk, {}).to_wire()


def record_rewards(
    context: "WorkerContext",
    manifest: Manifest,
    result: BatchResult,
    group_sizes: Sequence[int | None],
    length_statuses: Sequence[str | None],
    status: str,
    why: str | None,
) -> tuple[Usage, list[StoredReward]]:
    """Write a batch's rewards and finish it now by Redis's clock, unless an earlier `combine` did.

    Returns:
        The batch's usage, and the rewards that the database already held.
    """
    now = datetime.fromtimestamp(retry_storage(context.clock.now_s), UTC)
    rows = _reward_rows(result, now, group_sizes, length_statuses)
    key = BatchKey(datetime.fromtimestamp(manifest.submitted_at, UTC), manifest.batch_id)

    def write(conn: "Connection") -> tuple[Usage, list[StoredReward], bool]:
        usage = queries.usage_of(conn, manifest.batch_id)
        if not writes.record_rewards(conn, key, rows):
            return usage, queries.rewards_of(conn, manifest.batch_id), False
        totals = totals_of(
            result,
            requests=usage["calls"],
            cost_usd=usage["cost_usd"],
            judge_ms=Total(*queries.latency_of(conn, manifest.batch_id)),
            duration=now - key.submitted_at,
            preliminary=manifest.preliminary,
        )
        writes.add_to_totals(conn, manifest.batch_id, totals)
        ended = writes.finish_batch(
            conn,
            manifest.batch_id,
            status=status,
            finished_at=now,
            counts=result.counts,
            usage=usage,
            ending=why,
        )
        return usage, [], ended

    usage, stored, ended = context.write(write)
    _measure_end(context, manifest, status if ended else None, None if stored else now)
    return usage, stored


def _measure_end(
    context: "WorkerContext", manifest: Manifest, status: str | None, now: datetime | None
) -> None:
    """Count an end with its status, and the time to new rewards; None if there is neither."""
    context.measurements.note_run(manifest.run)
    if status is not None:
        context.measurements.count(measured.BATCHES_ENDED, status)
    if now is not None:
        duration_s = now.timestamp() - manifest.submitted_at
        context.measurements.observe(measured.BATCH_SECONDS, duration_s)


def end_batch(context: "WorkerContext", batch_id: str) -> None:
    """Record that a batch was cancelled or failed, if the database holds it.

    Its calls may still run: `combine` adds counts and usage later.
    """
    ending = retry_storage(context.batches.ending, batch_id)
    # None if the batch was resumed meanwhile.
    if ending is None:
        return
    status, why = ending
    now = datetime.now(UTC)
    if context.write(
        lambda conn: writes.finish_batch(conn, batch_id, status=status, finished_at=now, ending=why)
    ):
        context.measurements.count(measured.BATCHES_ENDED, status)


def end_batches(endings: Mapping[str, tuple[str, str]], store_url: str) -> str:
    """Record the ending of batches whose broker and workers have stopped.

    Args:
        endings: status and reason by batch id.

    Returns:
        How many batches were ended, or why none could be, for the log.
    """
    try:
        engine = open_engine(store_url)
        try:
            with engine.begin() as conn:
                ended = sum(_end(conn, batch_id, *how) for batch_id, how in endings.items())
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        return f"batches in flight stay `submitted` on record: {error}"
    return f"{ended} batches in flight ended on record"


def _end(conn: "Connection", batch_id: str, status: str, why: str) -> bool:
    usage = queries.usage_of(conn, batch_id)
    state = queries.batch(conn, batch_id)
    if state is not None and state["usage"] is None and usage["calls"]:
        cost = Total(usage["calls"], usage["cost_usd"], 0.0)
        writes.add_to_totals(conn, batch_id, {"cost_usd": cost})
    return writes.finish_batch(
        conn,
        batch_id,
        status=status,
        finished_at=datetime.now(UTC),
        counts=queries.counts_of(conn, batch_id),
        usage=usage,
        ending=why,
    )


def _reward_rows(
    result: BatchResult,
    now: datetime,
    group_sizes: Sequence[int | None],
    length_statuses: Sequence[str | None],
) -> list[RewardRow]:
    columns = result.recorded
    return [
        {
            "rollout_index": i,
            "status": result.statuses[i],
            "trainable": bool(result.mask[i]),
            "terms": {name: _number(values[i]) for name, values in columns.items()},
            "created_at": now,
            "reward": float(result.rewards[i]),
            "unshaped_reward": float(result.unshaped_rewards[i]),
            "judge_score": float(result.judge_scores[i]),
            "group_size": group_sizes[i],
            "length_status": length_statuses[i],
        }
        for i in range(len(result.rewards))
    ]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _batch_row(manifest: Manifest) -> BatchRow:
    return {
        "id": manifest.batch_id,
        "run": manifest.run,
        "step": manifest.step,
        "size": manifest.size,
        "plan": manifest.plan,
        "oyer_version": _version(),
        "submitted_at": datetime.fromtimestamp(manifest.submitted_at, UTC),
        "split": manifest.split,
        "preliminary": manifest.preliminary,
    }


@cache
def _version() -> str:
    return version("oyer")


def _rubric_row(judge: JudgeConfig) -> RubricRow:
    return {
        "hash": rubric.rubric_hash(judge.rubric),
        "name": rubric.parse(judge.rubric).name or judge.name,
        "text": judge.rubric,
    }


def _rollout_row(index: int, rollout: Rollout) -> RolloutRow:
    return {
        "rollout_index": index,
        "prompt": rollout.prompt,
        "response": rollout.response,
        "reference": rollout.reference,
        "group_id": rollout.group_id,
        "base_score": rollout.base_score,
        "correct": rollout.correct,
        "truncated": rollout.truncated,
        "response_tokens": rollout.response_tokens,
        "metadata": rollout.metadata,
        "tools": rollout.tools,
    }
