"""LASER's step rewards and the choice of their targets, arXiv:2505.15612.

Lengths and targets are numbers of tokens [N], group_ids int64[N], flags bool[N]; terms are
float64[N].
"""

import math
from collections.abc import Mapping
from typing import Literal

from oyer.config.length_methods.laser import LaserType
from oyer.tasks.lengths.arrays import Array, device, double, filled, namespace, select
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import given


def laser(
    lengths: Array,
    correct: Array,
    target_lengths: Array | None = None,
    *,
    target_length: int | None,
    alpha: float,
    type: LaserType,
) -> Array:
    """`alpha` for correct rows within the target, minus `alpha` beyond it, as `type` says."""
    if target_length is None:
        within = lengths <= given(target_lengths, "target_lengths")
    else:
        within = lengths <= target_length
    return _step(within, correct, alpha, type)


def _step(within: Array, correct: Array, alpha: float, type: LaserType) -> Array:
    rewarded = correct & within & (type != "penalty")
    charged = correct & ~within & (type != "reward")
    return alpha * (double(rewarded) - double(charged))


def laser_d(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    *,
    target_lengths: Mapping[str, float | None],
    alpha: float,
    type: LaserType,
    bands: tuple[float, float],
) -> Array:
    """LASER with the target of the group's band of difficulty."""
    target = _band_target(lengths, correct, group_ids, target_lengths, bands)
    return _step(lengths <= target, correct, alpha, type)


def laser_de(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    repetitive: Array | None = None,
    *,
    target_lengths: Mapping[str, float | None],
    alpha: float,
    type: LaserType,
    bands: tuple[float, float],
) -> Array:
    """LASER-D plus `alpha` for wrong rows beyond the target that do not repeat themselves."""
    target = _band_target(lengths, correct, group_ids, target_lengths, bands)
    exploring = ~correct & (lengths > target)
    if repetitive is not None:
        exploring = exploring & ~repetitive
    return _step(lengths <= target, correct, alpha, type) + alpha * double(exploring)


def _band_target(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    targets: Mapping[str, float | None],
    bands: tuple[float, float],
) -> Array:
    """Each row's target; a band without one takes the longest row of the batch."""
    groups = Groups(group_ids)
    rate = groups.mean(correct)
    longest = float(namespace(lengths).max(lengths)) if len(lengths) else 0.0
    low, medium, high = (
        longest if (target := targets.get(band)) is None else target
        for band in ("low", "medium", "high")
    )
    chosen = filled(rate, low)
    chosen = select(rate < bands[1], select(rate < bands[0], chosen, medium), high)
    return groups.spread(chosen)


def laser_choose_target(
    thresholds: Array,
    coverage: Mapping[str, Array],
    max_response_length: float,
    *,
    n_rollout: int,
    expected_n_correct: float,
    round_method: Literal["floor", "ceil", "round", "none"],
) -> Array:
    """Targets of the low, medium and high band: float64[3].

    Args:
        thresholds: lengths to choose from, ascending.
        coverage: per band, the share of correct answers within each threshold.
        max_response_length: the target if no threshold is large enough.

    The bands expect 1, n/3 and 2n/3 correct answers of n, rounded down.
    """
    xp = namespace(thresholds)
    rounding = {"floor": xp.floor, "ceil": xp.ceil, "round": xp.round}
    expected = {"low": 1, "medium": int(n_rollout / 3), "high": int(n_rollout * 2 / 3)}
    targets = []
    for band, answers in expected.items():
        within = coverage[band] * answers
        if round_method in rounding:
            within = rounding[round_method](within)
        enough = within >= expected_n_correct
        targets.append(float(thresholds[enough][0]) if xp.any(enough) else max_response_length)
    return xp.asarray(targets, dtype=xp.float64, device=device(thresholds))


def laser_clip_ratio_rebalance(
    base_reward: Array, *, acc_weight: float, r_c: float, r_w: float
) -> Array:
    """Scale scores so that accuracy has weight `acc_weight` against the share of clipped rows.

    A clipped row has a score other than `r_c` and `r_w`. The factor is
    `acc_weight / (1 - acc_weight) * clipped / sum of |score|`; 1 without clipped or scored rows.
    """
    xp = namespace(base_reward)
    scored = (base_reward == r_c) | (base_reward == r_w)
    total = float(xp.sum(select(scored, abs(base_reward), 0.0)))
    clipped = int(xp.sum(xp.astype(~scored, xp.int64)))
    if not clipped or math.isclose(total, 0.0):
        return base_reward
    return base_reward * (acc_weight / (1 - acc_weight) * clipped / total)
