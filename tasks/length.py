"""The length task: a batch's token counts in, its length terms out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from celery.utils.log import get_logger

from oyer.tasks import process
from oyer.tasks.config import LengthConfig
from oyer.tasks.lengths.device import device
from oyer.tasks.parts import LengthPart
from oyer.tasks.payloads import Columns, Manifest
from oyer.tasks.plan import Plan, read_plan

log = get_logger(__name__)

TERM_NAMES = {"median_band": "length_penalty"}
"""Terms that go by another name than their method: the replaced system's."""


def warm_up() -> None:
    """Load torch and choose the device before the first batch arrives."""
    device()


def length_batch(batch_id: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute every length term of a batch; returns a `LengthPart` in wire form."""
    exchange = process.exchange()
    manifest, columns = exchange.manifest(batch_id), exchange.columns(batch_id)
    plan = read_plan(manifest)
    lengths = _lengths(manifest, plan, columns)
    added, multiplied = {}, {}
    for item, name in zip(plan.length, term_names(plan.length), strict=True):
        kind, values = _term(item, lengths, columns)
        if kind == "multiply":
            multiplied[name] = values
        else:
            added[name] = item.weight * values
    return LengthPart(added=added, multiplied=multiplied).to_wire()


def term_names(items: Sequence[LengthConfig]) -> list[str]:
    """Name each method's term; the second of one method is `…_2`."""
    names: list[str] = []
    for item in items:
        name = TERM_NAMES.get(item.method, item.method)
        earlier = sum(other.method == item.method for other in items[: len(names)])
        names.append(f"{name}_{earlier + 1}" if earlier else name)
    return names


def _lengths(manifest: Manifest, plan: Plan, columns: Columns) -> list[int]:
    """Take the counts that came along, and count the others."""
    lengths = columns.response_tokens
    if plan.tokenizer is None or None not in lengths:
        return [int(n or 0) for n in lengths]
    from oyer.tasks.lengths.tokens import count_tokens

    responses = [
        rollout.response
        for chunk in range(len(manifest.chunks))
        for rollout in process.exchange().rollouts(manifest.batch_id, chunk)
    ]
    open_rows = [i for i, n in enumerate(lengths) if n is None]
    counted = dict(
        zip(open_rows, count_tokens([responses[i] for i in open_rows], plan.tokenizer), strict=True)
    )
    return [counted[i] if n is None else n for i, n in enumerate(lengths)]


def _term(
    item: LengthConfig, lengths: Sequence[int], columns: Columns
) -> tuple[str, np.ndarray[Any, np.dtype[np.float64]]]:
    import torch

    from oyer.tasks.lengths import Inputs, compute

    where = device()
    numbers = {group_id: i for i, group_id in enumerate(dict.fromkeys(columns.group_ids))}
    groups = [numbers[group_id] for group_id in columns.group_ids]
    base = [np.nan if score is None else score for score in columns.base_score]
    with torch.inference_mode():
        inputs = Inputs(
            lengths=torch.tensor(lengths, dtype=torch.int64, device=where),
            group_ids=torch.tensor(groups, dtype=torch.int64, device=where),
            base_reward=torch.tensor(base, dtype=torch.float64, device=where),
            correct=_correct(columns, where),
            truncated=torch.tensor(columns.truncated, dtype=torch.bool, device=where),
        )
        term = compute(item.method, item.params, inputs)
    return term.kind, term.values.cpu().numpy()


def _correct(columns: Columns, where: Any) -> Any:
    """Correctness as stated, else whether the base score is positive; None where unknown."""
    import torch

    known = [
        (None if base is None else base > 0) if correct is None else correct
        for correct, base in zip(columns.correct, columns.base_score, strict=True)
    ]
    if None in known:
        return None
    return torch.tensor(known, dtype=torch.bool, device=where)
