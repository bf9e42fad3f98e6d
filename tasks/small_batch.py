"""The only task of a small batch: judges its chunk, computes length terms, records the rewards.

A chord costs three messages and their round trips, more than the work of a few rollouts. The steps
and their records are those of the chord's tasks, so that a batch that is submitted again continues
from the record.
"""

from importlib import import_module
from typing import Any

from oyer.protocol.partial_results import LengthResult, check_results
from oyer.tasks import judge
from oyer.tasks.combine import combine
from oyer.tasks.coordination.admission import ChunkLoad
from oyer.tasks.length import length_result, reward_inputs
from oyer.tasks.worker.context import WorkerContext
from oyer.tasks.worker.storage_retry import retry_storage


def warm_up(context: WorkerContext) -> None:
    """Import the formulas, and check what judge tasks need, before the first batch arrives."""
    import_module("oyer.tasks.rewards.length_terms")
    judge.warm_up(context)


def judge_batch(context: WorkerContext, batch_id: str, load: ChunkLoad) -> dict[str, Any]:
    """Judge a batch of one chunk and return its `BatchResult` in wire form.

    Args:
        load: kept at the number of calls that have not ended.

    Raises:
        BatchFailed: a payload is missing; the trainer resubmits the batch.
        InvalidLengthCall: a required input is missing, which only the judges' scores could show.
        HandedBack: this worker stops; another one finishes the batch.
    """
    manifest, plan = context.manifest(batch_id)
    columns, rollouts = retry_storage(context.batches.only_chunk, batch_id)
    judged = {0: judge.judged_chunk(context, manifest, plan, 0, rollouts, load)}
    check_results(manifest, judged)
    length = LengthResult()
    if plan.length:
        known = judged if manifest.length_follows_judges else None
        length = length_result(
            plan, reward_inputs(plan, columns, known), [row.response for row in rollouts]
        )
    inputs = reward_inputs(plan, columns, judged)
    return combine(context, manifest, plan, inputs, judged, length).to_wire()
