"""Adds the scores of a rollout's samples to what slime and miles log of it."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from celery.utils.log import get_logger

log = get_logger(__name__)

PREFIX = "rollout/oyer/"
"""Of the metrics' names; slime draws `rollout/…` over its own `rollout/step`."""


def log_rollout(
    rollout_id: int,
    args: Any,
    samples: Sequence[Any],
    rollout_extra_metrics: dict[str, Any] | None,
    rollout_time: float,
) -> bool:
    """Add the metrics, for `--custom-rollout-log-function-path`; slime then logs as usual.

    Returns:
        False: slime is not to skip its own logging.
    """
    metrics = rollout_metrics(samples)
    if rollout_extra_metrics is None:  # of a rollout function that returns samples only
        log.info("rollout %s: %s", rollout_id, metrics)
    else:
        rollout_extra_metrics.update(metrics)
    return False


def rollout_metrics(samples: Sequence[Any]) -> dict[str, float]:
    """Return the mean of each judge and length term, the share of samples that have it, and `missing`."""
    if not samples:
        return {}
    found: list[Mapping[str, float | None]] = [
        (sample.metadata or {}).get("oyer") or {} for sample in samples
    ]
    metrics = {"missing": fmean(bool(sample.remove_sample) for sample in samples)}
    for name in dict.fromkeys(name for one in found for name in one):
        known = [value for one in found if (value := one.get(name)) is not None]
        if known:
            metrics[name] = fmean(known)
        metrics[f"{name}_present"] = len(known) / len(samples)
    return {PREFIX + name: value for name, value in metrics.items()}
