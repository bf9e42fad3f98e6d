"""Puts a judged chunk on record, in one transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

from oyer.config import rubric
from oyer.config.reward import JudgeConfig
from oyer.models import writes
from oyer.models.rows import (
    AttemptRow,
    BatchRow,
    JudgementRow,
    RolloutRow,
    RubricRow,
    SubmissionRow,
)
from oyer.protocol.batch import Manifest
from oyer.protocol.rollout import Rollout
from oyer.tasks.worker import context
from oyer.tasks.worker.patience import patiently


def note_submission(manifest: Manifest) -> None:
    """Put a batch on record as submitted, with every time that it was handed to the workers."""
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
    # Earlier ones may never have reached a worker; one that did is on record by now.
    rows[-1:] = [{**row, "seen_at": now, "worker": context.worker_name()} for row in rows[-1:]]

    def write() -> None:
        with context.engine().begin() as conn:
            writes.ensure_run_and_batch(conn, _batch_row(manifest))
            writes.record_submissions(conn, manifest.batch_id, rows)

    patiently(write)


def record_chunk(
    manifest: Manifest,
    judges: Sequence[JudgeConfig],
    rollouts: Sequence[Rollout],
    start: int,
    judgements: Sequence[JudgementRow],
    attempts: Sequence[AttemptRow],
) -> Sequence[JudgementRow]:
    """Write a chunk; returns its judgements as they are on record.

    Args:
        start: place of the first rollout in its batch.
    """
    rows = [_rollout_row(i, rollout) for i, rollout in enumerate(rollouts, start=start)]

    def write() -> Sequence[JudgementRow]:
        with context.engine().begin() as conn:
            key = writes.ensure_run_and_batch(conn, _batch_row(manifest))
            writes.record_rubrics(conn, [_rubric_row(judge) for judge in judges])
            return writes.record_chunk(
                conn, key, rollouts=rows, judgements=judgements, attempts=attempts
            )

    return patiently(write) or judgements


def _batch_row(manifest: Manifest) -> BatchRow:
    return {
        "id": manifest.batch_id,
        "run": manifest.run,
        "step": manifest.step,
        "size": manifest.size,
        "plan": manifest.plan,
        "oyer_version": _version(),
        "submitted_at": datetime.fromtimestamp(manifest.submitted_at, UTC),
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
    }
