"""A judge's bias towards long answers: measured once, and taken out of its scores."""

import torch
from torch import Tensor

from oyer.tasks.lengths.inputs import given

FIT_STEPS = 50
"""Newton steps of a fit; it settles in about ten."""

RIDGE = 1e-3
"""Penalty on squared coefficients: below 0.01 points of win rate on 40 comparisons."""


def length_controlled(
    lengths: Tensor,
    quality: Tensor,
    reference_lengths: Tensor | None = None,
    *,
    phi: float,
    scale_len: float,
    reference_len: float | None,
    low: float,
    high: float,
) -> Tensor:
    """What the frozen bias `phi tanh((reference - L) / scale_len)` in logits gave a score.

    float64[N]: added to a score between `low` and `high`, it takes the bias out; the sign is
    that of arXiv:2404.04475, where a judge that likes long answers has a negative `phi`.
    A missing score (NaN) gives 0.
    """
    reference = (
        given(reference_lengths, "reference_lengths") if reference_len is None else reference_len
    )
    share = ((quality - low) / (high - low)).clamp(min=0, max=1)
    bias = phi * torch.tanh((reference - lengths.double()) / scale_len)
    corrected = low + (high - low) * torch.sigmoid(torch.logit(share) - bias)
    return (corrected - quality).where(~quality.isnan(), 0.0)


def length_controlled_winrate(
    preference: Tensor, baseline_lengths: Tensor, lengths: Tensor
) -> Tensor:
    """Win rate in percent, raw and at equal lengths: float64[2].

    Args:
        preference: float64[N] in [0, 1], how often an answer beat the baseline's.
        baseline_lengths: int64[N], in the unit of `lengths`.
    """
    theta, _, _ = fit_length_bias(preference, baseline_lengths - lengths)
    return 100 * torch.stack([preference.mean(), torch.sigmoid(theta)])


def fit_length_bias(preference: Tensor, gap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit `logit P = theta + phi tanh(gap / scale)`, scale the gaps' deviation.

    Returns theta, phi and scale, the last two for a frozen `length_controlled`. `RIDGE` keeps
    the fit finite where every answer wins.
    """
    scale = gap.double().std().nan_to_num().clamp(min=1)
    design = torch.stack([torch.ones_like(preference), torch.tanh(gap.double() / scale)], dim=1)
    ridge = RIDGE * torch.eye(2, dtype=design.dtype, device=design.device)
    weights = torch.zeros(2, dtype=design.dtype, device=design.device)
    for _ in range(FIT_STEPS):
        fitted = torch.sigmoid(design @ weights)
        slope = design.T @ (preference - fitted) - RIDGE * weights
        curvature = (design.T * (fitted * (1 - fitted))) @ design + ridge
        weights = weights + torch.linalg.solve(curvature, slope)
    return weights[0], weights[1], scale
