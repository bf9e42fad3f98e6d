"""The length task: computes the length terms of a batch."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from oyer.config.plan import Plan
from oyer.protocol.batch import Columns, Manifest
from oyer.protocol.partial_results import (
    JudgeResult,
    LengthResult,
    check_results,
    read_results,
)
from oyer.tasks.rewards.compose import RewardInputs, verdicts_of
from oyer.tasks.rewards.length_columns import LengthInputs, Response
from oyer.tasks.worker.context import WorkerContext
from oyer.tasks.worker.storage_retry import retry_storage
from oyer.telemetry import tracing


def warm_up(context: WorkerContext) -> None:
    """Import the formulas and choose the device before the first batch arrives."""
    import_module("oyer.tasks.rewards.length_terms")
    _ = context.device


def length_batch(
    context: WorkerContext, batch_id: str, parts: Sequence[Mapping[str, Any]] | None
) -> Any:
    """Compute all length terms of a batch.

    Args:
        parts: results of the judge tasks if the length task follows them; None if it runs beside.

    Returns:
        A `LengthResult` in wire form; with `parts`, a list of them and it, for `combine`.

    Raises:
        BatchFailed: a payload or a chunk's verdicts are missing; the trainer resubmits the batch.
        InvalidLengthCall: a required input is missing, which only the judges' scores could show.
    """
    from oyer.tasks.rewards.length_terms import length_part

    manifest, plan = context.manifest(batch_id)
    judged = read_results(parts or ()).judges
    if parts is not None:
        check_results(manifest, judged)
    columns = retry_storage(context.batches.columns, batch_id)
    rewards = reward_inputs(plan, columns, None if parts is None else judged)
    inputs = LengthInputs(
        rewards=rewards,
        read_responses=lambda: _responses(context, manifest),
        read_token_ids=lambda: retry_storage(context.batches.token_ids, manifest),
        tokenizer=plan.tokenizer,
    )
    with tracing.span("oyer.length", "consumer", manifest.labels):
        part = length_part(plan.length, inputs, context.device).to_wire()
    return part if parts is None else [*parts, part]


def reward_inputs(
    plan: Plan, columns: Columns, judged: Mapping[int, JudgeResult] | None
) -> RewardInputs:
    """Return what rewards are composed of; without judges if `judged` is None."""
    judges = () if judged is None else plan.judges
    return RewardInputs(
        columns=columns,
        judges=judges,
        verdicts=verdicts_of(judged or {}, judges),
        rules=plan.reward,
    )


def length_result(plan: Plan, rewards: RewardInputs, responses: Sequence[Response]) -> LengthResult:
    """Compute the length terms of a batch without token ids on the CPU."""
    from oyer.tasks.rewards.length_terms import length_part

    inputs = LengthInputs(
        rewards=rewards,
        read_responses=lambda: responses,
        read_token_ids=lambda: None,
        tokenizer=plan.tokenizer,
    )
    return length_part(plan.length, inputs)


def _responses(context: WorkerContext, manifest: Manifest) -> list[Response]:
    return [
        rollout.response
        for chunk in range(len(manifest.chunks))
        for rollout in retry_storage(context.batches.rollouts, manifest.batch_id, chunk)
    ]
