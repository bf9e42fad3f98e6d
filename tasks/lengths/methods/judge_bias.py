"""A judge's bias towards long answers: measured once, and taken out of its scores."""

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
from oyer.tasks.lengths.inputs import given

FIT_STEPS = 50
"""Newton steps of a fit; it settles in about ten."""

RIDGE = 1e-3
"""Penalty on squared coefficients: below 0.01 points of win rate on 40 comparisons."""


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
    """What the frozen bias `phi tanh((reference - L) / scale_len)` in logits gave a score.

    float64[N]: added to a score between `low` and `high`, it takes the bias out; the sign is
    that of arXiv:2404.04475, where a judge that likes long answers has a negative `phi`.
    A missing score (NaN) gives 0.
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
    """Win rate in percent, raw and at equal lengths: float64[2].

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
    the fit finite where every answer wins.
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
