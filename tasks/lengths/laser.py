"""LASER's step rewards and what keeps their targets, arXiv:2505.15612.

Lengths and targets are numbers of tokens [N], group_ids int64[N], flags bool[N]; terms are
float64[N].
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from oyer.tasks.lengths.catalogue_laser import LaserType
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import given


def laser(
    lengths: Tensor,
    correct: Tensor,
    target_lengths: Tensor | None = None,
    *,
    target_length: int | None,
    alpha: float,
    type: LaserType,
) -> Tensor:
    """`alpha` for correct rows within the target, minus `alpha` beyond it, as `type` says."""
    if target_length is None:
        within = lengths <= given(target_lengths, "target_lengths")
    else:
        within = lengths <= target_length
    return _step(within, correct, alpha, type)


def _step(within: Tensor, correct: Tensor, alpha: float, type: LaserType) -> Tensor:
    rewarded = correct & within & (type != "penalty")
    charged = correct & ~within & (type != "reward")
    return alpha * (rewarded.double() - charged.double())


def laser_d(
    lengths: Tensor,
    correct: Tensor,
    group_ids: Tensor,
    *,
    target_lengths: Mapping[str, float | None],
    alpha: float,
    type: LaserType,
    bands: tuple[float, float],
) -> Tensor:
    """LASER with the target of the group's band of difficulty."""
    target = _band_target(lengths, correct, group_ids, target_lengths, bands)
    return _step(lengths <= target, correct, alpha, type)


def laser_de(
    lengths: Tensor,
    correct: Tensor,
    group_ids: Tensor,
    repetitive: Tensor | None = None,
    *,
    target_lengths: Mapping[str, float | None],
    alpha: float,
    type: LaserType,
    bands: tuple[float, float],
) -> Tensor:
    """LASER-D plus `alpha` for wrong rows beyond the target that do not repeat themselves."""
    target = _band_target(lengths, correct, group_ids, target_lengths, bands)
    exploring = ~correct & (lengths > target)
    if repetitive is not None:
        exploring = exploring & ~repetitive
    return _step(lengths <= target, correct, alpha, type) + alpha * exploring.double()


def _band_target(
    lengths: Tensor,
    correct: Tensor,
    group_ids: Tensor,
    targets: Mapping[str, float | None],
    bands: tuple[float, float],
) -> Tensor:
    """Each row's target; a band without one takes the longest row of the batch."""
    groups = Groups(group_ids)
    rate = groups.mean(correct)
    longest = float(lengths.max()) if len(lengths) else 0.0
    low, medium, high = (
        longest if (target := targets.get(band)) is None else target
        for band in ("low", "medium", "high")
    )
    chosen = torch.full_like(rate, low)
    chosen = chosen.where(rate < bands[0], medium).where(rate < bands[1], high)
    return groups.spread(chosen)


def laser_choose_target(
    thresholds: Tensor,
    coverage: Mapping[str, Tensor],
    max_response_length: float,
    *,
    n_rollout: int,
    expected_n_correct: float,
    round_method: Literal["floor", "ceil", "round", "none"],
) -> Tensor:
    """Targets of the low, medium and high band: float64[3].

    Args:
        thresholds: lengths to choose from, ascending.
        coverage: per band, the share of correct answers within each threshold.
        max_response_length: the target where no threshold is enough.

    The bands expect 1, n/3 and 2n/3 correct answers of n, rounded down.
    """
    rounding = {"floor": torch.floor, "ceil": torch.ceil, "round": torch.round}
    expected = {"low": 1, "medium": int(n_rollout / 3), "high": int(n_rollout * 2 / 3)}
    targets = []
    for band, answers in expected.items():
        within = coverage[band] * answers
        within = rounding.get(round_method, torch.clone)(within)
        enough = within >= expected_n_correct
        targets.append(float(thresholds[enough][0]) if enough.any() else max_response_length)
    return torch.tensor(targets, dtype=torch.float64)


def laser_clip_ratio_rebalance(
    base_reward: Tensor, *, acc_weight: float, r_c: float, r_w: float
) -> Tensor:
    """Scale scores so that accuracy weighs `acc_weight` against the share of clipped rows.

    A clipped row scores neither `r_c` nor `r_w`. The factor is
    `acc_weight / (1 - acc_weight) * clipped / sum of |score|`; 1 without clipped or scored rows.
    """
    scored = (base_reward == r_c) | (base_reward == r_w)
    total = float(base_reward.abs().where(scored, 0.0).sum())
    clipped = int((~scored).sum())
    if not clipped or math.isclose(total, 0.0):
        return base_reward
    return base_reward * (acc_weight / (1 - acc_weight) * clipped / total)
