"""The length task: a batch's columns in, its length terms out."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from oyer.config.plan import read_plan
from oyer.protocol.batch import Manifest
from oyer.protocol.partial_results import check_results, read_results
from oyer.protocol.rollout import Rollout
from oyer.tasks.rewards.compose import verdicts_of
from oyer.tasks.rewards.length_columns import LengthInputs
from oyer.tasks.worker import context
from oyer.tasks.worker.device import device
from oyer.tasks.worker.patience import patiently


def warm_up() -> None:
    """Load the formulas and choose the device before the first batch arrives."""
    import_module("oyer.tasks.rewards.length_terms")
    device()


def length_batch(batch_id: str, parts: Sequence[Mapping[str, Any]] | None) -> Any:
    """Compute every length term of a batch.

    Args:
        batch_id: whose payloads are in Redis.
        parts: what the judges said, where the plan is judges, then lengths; None beside them.

    Returns:
        A `LengthPart` in wire form; with `parts`, they come before it in a list, for `combine`.

    Raises:
        BatchFailed: a payload or a chunk's verdicts are missing; it is to be submitted again.
        InvalidLengthCall: a need that only the judges' scores could show is not met.
    """
    from oyer.tasks.rewards.length_terms import length_part

    exchange = context.exchange()
    manifest = patiently(lambda: exchange.manifest(batch_id))
    plan = read_plan(manifest)
    judge_parts = read_results(parts or ()).judges
    if parts is not None:
        check_results(manifest, judge_parts)
    judges = plan.judges if parts is not None else ()
    inputs = LengthInputs(
        columns=patiently(lambda: exchange.columns(batch_id)),
        read_responses=lambda: _responses(manifest),
        read_token_ids=lambda: patiently(lambda: exchange.token_ids(manifest)),
        tokenizer=plan.tokenizer,
        judges=judges,
        verdicts=verdicts_of(judge_parts, judges),
        rules=plan.reward,
    )
    part = length_part(plan.length, inputs, device()).to_wire()
    return part if parts is None else [*parts, part]


def _responses(manifest: Manifest) -> list[str]:
    exchange = context.exchange()

    def rollouts(chunk: int) -> list[Rollout]:
        return patiently(lambda: exchange.rollouts(manifest.batch_id, chunk))

    return [
        rollout.response for chunk in range(len(manifest.chunks)) for rollout in rollouts(chunk)
    ]
