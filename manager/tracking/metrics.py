"""The metrics of a batch under stable names; pure."""

import math
from typing import TYPE_CHECKING

import numpy as np

from oyer.protocol.batch_result import Float32s, equal_groups
from oyer.protocol.status import SETTLED, Status

if TYPE_CHECKING:
    from oyer.manager.batch import RewardBatch

PREFIX = "oyer/"
"""Prefix of the names, unless the caller gives another one."""


def batch_metrics(batch: "RewardBatch", prefix: str = PREFIX) -> dict[str, float]:
    """Return the metrics of a batch; see `RewardBatch.metrics`."""
    trained = batch.rewards[batch.mask]
    rollouts = max(1, len(batch))
    found = {
        "rollouts": float(len(batch)),
        "reward_mean": _mean(trained),
        "reward_std": float(np.std(trained, dtype=np.float64)) if len(trained) else math.nan,
        "judge_score": _mean(batch.judge_scores),
        "missing": 1.0 - len(trained) / rollouts,
        "calls": float(batch.usage.calls),
        "prompt_tokens": float(batch.usage.prompt_tokens),
        "completion_tokens": float(batch.usage.completion_tokens),
        "cost_usd": batch.usage.cost_usd,
    }
    for status in Status:
        if status not in SETTLED:
            found[f"missing/{status}"] = batch.statuses.count(status) / rollouts
    for name, values in batch.components.items():
        found[name] = _mean(values)
        found[f"{name}_present"] = float(np.isfinite(values).mean()) if len(values) else 0.0
    groups, equal = equal_groups(batch.groups, batch.rewards, batch.mask)
    if groups:
        found["zero_spread_groups"] = equal / groups
    for quantile, latency_ms in batch.judge_latency_ms.items():
        found[f"judge_latency_{quantile}_s"] = latency_ms / 1000
    if batch.trainer_wait_s is not None:
        found["trainer_wait_s"] = batch.trainer_wait_s
    return {prefix + name: value for name, value in found.items() if math.isfinite(value)}


def _mean(values: Float32s) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else math.nan
