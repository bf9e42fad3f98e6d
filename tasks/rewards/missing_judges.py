"""Fills in missing scores of one of several judges; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oyer.config.reward import JudgeConfig
from oyer.protocol.status import SETTLED, Status

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdicts:
    """One judge's verdicts on a batch, `[N]` each."""

    scores: Floats
    """On `JudgeConfig.counted_scale`; NaN where missing."""
    statuses: list[str]


def completed(
    judges: Sequence[JudgeConfig], verdicts: Mapping[str, Verdicts], min_valid: int | None
) -> dict[str, Verdicts]:
    """Fill in missing scores of rollouts that at least `min_valid` judges scored.

    Scores are first mapped to 0..1 on their judge's scale, from worst to best: the best score of a
    judge of negative weight is its lowest. A missing score becomes the weighted mean of the others,
    mapped to its own judge's scale, so that the judges' total weight stays the same.

    Args:
        verdicts: by judge; `[N]` each.
        min_valid: None requires the score of every judge.
    """
    if min_valid is None:
        return dict(verdicts)
    worst, best = np.array(
        [judge.counted_scale[:: -1 if judge.weight < 0 else 1] for judge in judges]
    ).T[:, :, None]
    weights = np.array([abs(judge.weight) for judge in judges])[:, None]
    weights = weights if weights.any() else np.ones_like(weights)
    scores = np.stack([verdicts[judge.name].scores for judge in judges])
    statuses = np.array([verdicts[judge.name].statuses for judge in judges])
    # An empty view has a score of its own: it is a decision, as a gated rollout is, and not a failure.
    valid = np.isin(statuses, (Status.SCORED, Status.EMPTY)) & np.isfinite(scores)
    total = np.where(valid, weights, 0.0).sum(axis=0)
    # A judge of weight 0 is only recorded: it neither counts nor is filled in.
    enough = (valid & (weights > 0)).sum(axis=0) >= min_valid
    places = np.where(valid, weights * (scores - worst) / (best - worst), 0.0).sum(axis=0)
    means = np.divide(places, total, out=np.full_like(places, np.nan), where=total > 0)
    filled = enough & ~np.isin(statuses, list(SETTLED)) & (weights > 0)
    scores = np.where(filled, worst + means * (best - worst), scores)
    statuses = np.where(filled, Status.SCORED.value, statuses)
    return {
        judge.name: Verdicts(scores[j], [str(status) for status in statuses[j]])
        for j, judge in enumerate(judges)
    }
