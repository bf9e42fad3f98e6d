"""Methods based on one row's length and fixed thresholds.

Lengths are int64[N] in one unit, flags bool[N]; every function returns float64[N].
"""

import math
from typing import Literal

from oyer.tasks.lengths.arrays import (
    Array,
    bound,
    device,
    double,
    filled,
    isnan,
    namespace,
    select,
)
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import Term, given


def soft_overlong(
    lengths: Array, *, max_len: int, cache_len: int, penalty_factor: float, clamp: bool
) -> Array:
    """Soft overlong punishment, DAPO eq. 13; a step at `max_len` if `cache_len` is 0."""
    if cache_len == 0:
        return -penalty_factor * double(lengths > max_len)
    excess = (double(lengths) - (max_len - cache_len)) / cache_len
    return -penalty_factor * bound(excess, min=0, max=1 if clamp else None)


def stop_properly_penalty(
    truncated: Array, base_reward: Array | None = None, *, coef: float
) -> Term:
    """Multiply truncated rows by `coef`, or replace their reward by a `coef` below 0 (ProRL)."""
    if coef >= 0:
        return Term("multiply", select(~truncated, filled(truncated, 1.0), coef))
    return Term("total", select(~truncated, double(given(base_reward, "base_reward")), coef))


def linear(
    lengths: Array,
    group_ids: Array | None = None,
    correct: Array | None = None,
    quality: Array | None = None,
    *,
    coef: float,
    norm: float | Literal["group_max", "group_mean"],
    scale_by: Literal["none", "pass_rate", "reward"],
    pass_rate_floor: float | Literal["1/K"],
    free_len: int,
    gate_by_correctness: bool,
    cap: float | None,
) -> Array:
    """`-min(coef * scale * (L - free_len)+ / norm, cap)`; ALP, prime-rl, LEASH by parameters."""
    penalty = coef * bound(double(lengths) - free_len, min=0)
    if not isinstance(norm, str):
        penalty = penalty / norm
    if isinstance(norm, str) or scale_by != "none":
        groups = Groups(given(group_ids, "group_ids"))
        if isinstance(norm, str):
            longest = norm == "group_max"
            size = groups.max(lengths) if longest else groups.mean(lengths)
            penalty = penalty / groups.spread(bound(size, min=1))
        if scale_by == "pass_rate":
            penalty = penalty * pass_rate(given(correct, "correct"), groups, pass_rate_floor)
        elif scale_by == "reward":
            score = given(quality, "quality")
            penalty = penalty * groups.spread(groups.mean(score, ~isnan(score)))
    if gate_by_correctness:
        penalty = select(given(correct, "correct"), penalty, 0.0)
    return -bound(penalty, max=math.inf if cap is None else cap)


def pass_rate(correct: Array, groups: Groups, floor: float | Literal["1/K"] = 0.0) -> Array:
    """Share of correct rows in each row's group, at least `floor` or one row's share: [N]."""
    rate = groups.mean(correct)
    least = 1 / double(groups.sizes) if floor == "1/K" else filled(rate, floor)
    return groups.spread(namespace(rate).maximum(rate, least))


def target_range(
    lengths: Array,
    correct: Array | None = None,
    *,
    low: int,
    high: int,
    slope_low: float,
    slope_high: float,
    cap: float | None,
    gate_by_correctness: bool,
) -> Array:
    """A dead band: slopes outside `[low, high]`, capped."""
    short, long = bound(low - lengths, min=0), bound(lengths - high, min=0)
    penalty = slope_low * double(short) + slope_high * double(long)
    if gate_by_correctness:
        penalty = select(given(correct, "correct"), penalty, 0.0)
    return -bound(penalty, max=math.inf if cap is None else cap)


def min_length_ramp(lengths: Array, *, min_len: int, max_len: int, max_penalty: float) -> Array:
    """Full penalty up to `min_len`, none from `max_len`, linear between (ROLL)."""
    missing = double(max_len - lengths) / (max_len - min_len)
    return -max_penalty * bound(missing, min=0, max=1)


def think_length_bonus(
    lengths: Array, *, max_reward_len: int, max: float, min: float, decimals: int
) -> Array:
    """Bonus in proportion to length up to `max_reward_len` (ToolRL)."""
    xp = namespace(lengths)
    # Python's `round`, as in ToolRL: an array's multiplies first, and makes 0 of 0.005.
    rounded = [round(length / max_reward_len, decimals) for length in range(max_reward_len + 1)]
    shares = xp.asarray(rounded, dtype=xp.float64, device=device(lengths))
    share = bound(xp.take(shares, xp.astype(bound(lengths, max=max_reward_len), xp.int64)), max=1)
    return share * (max - min) + min


def concave_effort(lengths: Array, *, k: float, q: float) -> Array:
    """Minus `((1 + k x)^(1 - q) - 1) / (k (1 - q))`, and its limit `log1p(k x) / k` at q = 1.

    `expm1` of the logarithm keeps its digits as q nears 1.
    """
    xp = namespace(lengths)
    growth = xp.log1p(k * double(lengths))
    if q == 1:
        return -growth / k
    return -xp.expm1((1 - q) * growth) / (k * (1 - q))


def lagrangian_over_budget(lengths: Array, *, target: int, lam: float) -> Array:
    """`-lam * max(0, L / target - 1)`, arXiv:2512.21540."""
    return -lam * bound(double(lengths) / target - 1, min=0)
