"""The quantities of a batch that are added up per step, for curves; pure."""

from datetime import timedelta
from typing import NamedTuple

import numpy as np

from oyer.protocol.batch_result import (
    BatchResult,
    Float32s,
    components_of,
    equal_groups,
    split_recorded,
)


class Total(NamedTuple):
    """Count, sum and sum of squares of some values."""

    n: int
    total: float
    total_sq: float


def totals_of(
    result: BatchResult,
    *,
    requests: int,
    cost_usd: float,
    judge_ms: Total,
    duration: timedelta,
    preliminary: bool,
) -> dict[str, Total]:
    """Return a batch's quantities by their names in `step_totals`.

    `reward` counts trainable rollouts; `component/NAME` is a judge's score or a length term where
    present; `status/STATUS` counts rollouts; `groups` counts the groups of two or more trainable
    rollouts, and its sum counts those whose rewards are all equal.

    Args:
        requests: HTTP requests to judges, and `cost_usd` their cost.
        judge_ms: latencies of called judgements, in ms.
        duration: from submission to the end.
        preliminary: whether the rollouts are scored again, so that only the cost counts.
    """
    found = {"cost_usd": Total(requests, cost_usd, 0.0), "judge_ms": judge_ms}
    if not preliminary:
        found |= _rewards(result)
        found["batch_s"] = Total(1, duration.total_seconds(), 0.0)
    return {name: total for name, total in found.items() if total.n}


def _rewards(result: BatchResult) -> dict[str, Total]:
    found = {"reward": _total(result.rewards[result.mask])}
    for name, values in components_of(split_recorded(result.recorded)).items():
        found[f"component/{name}"] = _total(values)
    for status, count in result.counts.items():
        found[f"status/{status}"] = Total(count, 0.0, 0.0)
    found["groups"] = _groups(result)
    return found


def _total(values: Float32s) -> Total:
    finite = values[np.isfinite(values)].astype(np.float64)
    return Total(len(finite), float(finite.sum()), float((finite**2).sum()))


def _groups(result: BatchResult) -> Total:
    groups, equal = equal_groups(result.groups, result.rewards, result.mask)
    return Total(groups, float(equal), 0.0)
