"""Methods that measure against a stated length, mode, history, or a judge's length bias.

Lengths and targets are int64[N] in one unit, flags bool[N], references float64[N]; every
function returns float64[N], and one with state returns a `Term` that holds the new state.
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
    sigmoid,
)
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import Term, given

FIT_STEPS = 50
"""Newton steps of a fit; about ten are enough."""

RIDGE = 1e-3
"""Penalty on squared coefficients: below 0.01 points of win rate on 40 comparisons."""


def lcpo_exact(lengths: Array, target_lengths: Array, *, alpha: float, cap: float | None) -> Array:
    """`-min(alpha |target - L|, cap)`, arXiv:2503.04697."""
    penalty = alpha * double(abs(target_lengths - lengths))
    return -bound(penalty, max=math.inf if cap is None else cap)


def lcpo_max(
    lengths: Array, correct: Array, target_lengths: Array, *, alpha: float, delta: float
) -> Array:
    """`clip(alpha (target - L) + delta, 0, 1)` for correct rows, 0 for wrong ones."""
    room = alpha * double(target_lengths - lengths) + delta
    return select(correct, bound(room, min=0, max=1), 0.0)


def lcpo_max_code(
    lengths: Array, correct: Array, target_lengths: Array, *, alpha: float, multiplier: bool
) -> Array:
    """Correctness times, or plus, `(clip(alpha (target - L), -1, 1) + 1) / 2`."""
    room = bound(alpha * double(target_lengths - lengths), min=-1, max=1)
    share = (room + 1) / 2
    return correct * share if multiplier else correct + share


def lcpo_clip(lengths: Array, correct: Array, target_lengths: Array) -> Array:
    """1 for correct rows within the target, 0 for all others (INTELLECT-2)."""
    return double(correct & (lengths <= target_lengths))


def hapo(
    lengths: Array,
    correct: Array,
    history_lengths: Array,
    group_ids: Array | None = None,
    *,
    shape: Literal["cosine", "linear"],
    w: float,
    clip_correct: float,
    clip_wrong: float,
    tolerance: float,
) -> Term:
    """HAPO's term against the prompt's shortest correct answer so far; NaN is none, and neutral.

    cosine: `f = cos(min(pi/2 L/h, pi))`. linear: `f = 1 - L/h` up to h, 0 within the tolerance,
    then falling again. Correct rows get at least `clip_correct`, wrong ones at most 0. The new
    history is the minimum of the old one and the group's correct lengths; without group ids,
    of the row's own.
    """
    ratio = lengths / bound(history_lengths, min=1)
    if shape == "cosine":
        f = namespace(ratio).cos(bound(math.pi / 2 * ratio, max=math.pi))
    else:
        f = bound(1 - ratio, min=0) + bound(1 + tolerance - ratio, max=0)
    term = select(correct, bound(f, min=clip_correct), bound(f, min=clip_wrong, max=0))
    term = select(~isnan(history_lengths), w * term, 0.0)
    return Term("add", term, _shortest(lengths, correct, history_lengths, group_ids))


def _shortest(lengths: Array, correct: Array, history: Array, group_ids: Array | None) -> Array:
    """The new history: float64[N], NaN where no row was ever correct."""
    own = select(correct, double(lengths), math.inf)
    best = namespace(own).minimum(own, select(isnan(history), math.inf, history))
    best = select(best < math.inf, best, math.nan)
    if group_ids is None:
        return best
    groups = Groups(group_ids)
    return groups.spread(groups.min(best, ~isnan(best), empty=math.nan))


def adaptthink(
    correct: Array, no_think: Array, reference_accuracy: Array, *, delta: float
) -> Array:
    """`c - reference accuracy + delta [no thinking]` (AdaptThink)."""
    return double(correct) - reference_accuracy + delta * double(no_think)


def length_controlled(
    lengths: Array,
    quality: Array,
    reference_lengths: Array | None = None,
    *,
    phi: float,
    scale_len: float,
    reference_len: float | None,
    low: float,
    high: float,
) -> Array:
    """Return the correction of a frozen length bias, `phi tanh((reference - L) / scale_len)` in logits.

    float64[N]: added to a score between `low` and `high`, it removes the bias. The sign is that of
    arXiv:2404.04475: a judge that prefers long answers has a negative `phi`. A missing score (NaN)
    gives 0.
    """
    xp = namespace(lengths)
    reference = (
        given(reference_lengths, "reference_lengths") if reference_len is None else reference_len
    )
    share = bound((quality - low) / (high - low), min=0, max=1)
    bias = phi * xp.tanh((reference - double(lengths)) / scale_len)
    corrected = low + (high - low) * sigmoid(xp.log(share) - xp.log1p(-share) - bias)
    return select(~isnan(quality), corrected - quality, 0.0)


def length_controlled_winrate(preference: Array, baseline_lengths: Array, lengths: Array) -> Array:
    """Return the win rate in percent, raw and at equal lengths: float64[2].

    Args:
        preference: float64[N] in [0, 1], how often an answer beat the baseline's.
        baseline_lengths: int64[N], in the unit of `lengths`.
    """
    xp = namespace(preference)
    theta, _, _ = fit_length_bias(preference, baseline_lengths - lengths)
    return 100 * xp.stack([xp.mean(preference), sigmoid(theta)])


def fit_length_bias(preference: Array, gap: Array) -> tuple[Array, Array, Array]:
    """Fit `logit P = theta + phi tanh(gap / scale)`, scale the gaps' deviation.

    Returns theta, phi and scale, the last two for a frozen `length_controlled`. `RIDGE` keeps
    the fit finite if every answer wins.
    """
    xp = namespace(preference)
    deviation = xp.std(double(gap), correction=1) if len(gap) > 1 else filled(gap[0], 0.0)
    scale = bound(deviation, min=1)
    design = xp.stack([filled(preference, 1.0), xp.tanh(double(gap) / scale)], axis=1)
    ridge = RIDGE * xp.eye(2, dtype=design.dtype, device=device(design))
    weights = xp.zeros(2, dtype=design.dtype, device=device(design))
    for _ in range(FIT_STEPS):
        fitted = sigmoid(design @ weights)
        slope = design.T @ (preference - fitted) - RIDGE * weights
        curvature = (design.T * (fitted * (1 - fitted))) @ design + ridge
        weights = weights + xp.linalg.solve(curvature, slope)
    return weights[0], weights[1], scale
