"""Several judges on one rollout: whether enough have a score, what stands for the others; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oyer.config.reward import JudgeConfig
from oyer.protocol.status import Status

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdicts:
    """One judge's verdicts on a batch, `[N]` each."""

    scores: Floats
    """On the scale that counts; NaN where there is none."""
    statuses: list[str]


def completed(
    judges: Sequence[JudgeConfig], verdicts: Mapping[str, Verdicts], min_valid: int | None
) -> dict[str, Verdicts]:
    """Let a panel with `min_valid` scores stand, though other members have none.

    A member without a score gets the one that stands on its scale where the mean of the others,
    by their weights, stands on theirs: the reward then weighs the panel as much as any other's.

    Args:
        verdicts: by judge; `[N]` each.
        min_valid: None asks for every member's score.
    """
    if min_valid is None:
        return dict(verdicts)
    lows, highs = np.array([judge.counted_scale for judge in judges]).T[:, :, None]
    weights = np.array([abs(judge.weight) for judge in judges])[:, None]
    weights = weights if weights.any() else np.ones_like(weights)
    scores = np.stack([verdicts[judge.name].scores for judge in judges])
    statuses = np.array([verdicts[judge.name].statuses for judge in judges])
    valid = statuses == Status.SCORED
    total = np.where(valid, weights, 0.0).sum(axis=0)
    # A judge of weight 0 is there for the record: it neither counts nor is stood in for.
    enough = (valid & (weights > 0)).sum(axis=0) >= min_valid
    places = np.where(valid, weights * (scores - lows) / (highs - lows), 0.0).sum(axis=0)
    means = np.divide(places, total, out=np.full_like(places, np.nan), where=total > 0)
    filled = enough & ~valid & (weights > 0)
    scores = np.where(filled, lows + means * (highs - lows), scores)
    statuses = np.where(filled, Status.SCORED.value, statuses)
    return {
        judge.name: Verdicts(scores[j], [str(status) for status in statuses[j]])
        for j, judge in enumerate(judges)
    }
