"""The task of a chunk that no judge reads: its rollouts go on record."""

from typing import Any

from oyer.tasks.judging.judgements import judge_result
from oyer.tasks.record import note_submission, record_chunk
from oyer.tasks.worker import context
from oyer.tasks.worker.patience import patiently


def record_unjudged(batch_id: str, chunk: int) -> dict[str, Any]:
    """Put one chunk on record; returns its `JudgePart` without verdicts in wire form."""
    exchange = context.exchange()
    manifest = patiently(lambda: exchange.manifest(batch_id))
    rollouts = patiently(lambda: exchange.rollouts(batch_id, chunk))
    if chunk == 0:
        note_submission(manifest)
    start, _ = manifest.chunks[chunk]
    record_chunk(manifest, (), rollouts, start, [], [])
    return judge_result(chunk, {}).to_wire()
