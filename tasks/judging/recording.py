"""Puts a judged chunk on record, in one transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

from oyer.models import record
from oyer.models.rows import (
    AttemptRow,
    BatchRow,
    JudgementRow,
    RolloutRow,
    RubricRow,
    SubmissionRow,
)
from oyer.tasks import process
from oyer.tasks.config import JudgeConfig
from oyer.tasks.judging import rubrics
from oyer.tasks.patience import patiently
from oyer.tasks.payloads import Manifest, Rollout


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
    rows[-1:] = [{**row, "seen_at": now, "worker": process.worker_name()} for row in rows[-1:]]

    def write() -> None:
        with process.engine().begin() as conn:
            record.ensure_run_and_batch(conn, _batch_row(manifest))
            record.record_submissions(conn, manifest.batch_id, rows)

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
        with process.engine().begin() as conn:
            key = record.ensure_run_and_batch(conn, _batch_row(manifest))
            record.record_rubrics(conn, [_rubric_row(judge) for judge in judges])
            return record.record_chunk(
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
        "hash": rubrics.rubric_hash(judge.rubric),
        "name": rubrics.parse(judge.rubric).name or judge.name,
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
