"""Length terms that compare the lengths of a group, whoever is correct.

Lengths are int64[N] in one unit, group_ids int64[N], flags bool[N], scores float64[N] with
NaN for a missing one; every function returns float64[N]. Equal lengths and single rows are
neutral, and a divisor is at least one token.
"""

from typing import Literal

import torch
from torch import Tensor

from oyer.tasks.lengths.groups import Groups, ratio


def median_band(
    lengths: Tensor,
    group_ids: Tensor,
    *,
    peak_ratio: float,
    outer_ratio: float,
    max_penalty: float,
    penalty_scale: float,
) -> Tensor:
    """Nothing within `peak_ratio` of the group's median, full beyond `outer_ratio`."""
    groups = Groups(group_ids)
    median = groups.spread(groups.quantile(lengths, 0.5))
    distance = (lengths - median).abs()
    ramp = (distance - peak_ratio * median) / ((outer_ratio - peak_ratio) * median.clamp(min=1))
    return -penalty_scale * max_penalty * ramp.clamp(min=0, max=1)


def gr3(lengths: Tensor, group_ids: Tensor, *, alpha: float) -> Tensor:
    """`1 / (1 + alpha * L / mean L)`, arXiv:2603.10535."""
    groups = Groups(group_ids)
    mean = groups.spread(groups.mean(lengths).clamp(min=1))
    return 1 / (1 + alpha * (lengths / mean))


def brevity_bonus(lengths: Tensor, group_ids: Tensor, quality: Tensor) -> Tensor:
    """`1 + clip(1 - L / mean L, 0, 1)` on the group's best rows, over whom the mean is taken."""
    groups = Groups(group_ids)
    best = quality == groups.spread(groups.max(quality, ~quality.isnan()))
    mean = groups.spread(groups.mean(lengths, best).clamp(min=1))
    return torch.where(best, 1 + (1 - lengths / mean).clamp(min=0, max=1), 1.0)


def linear_pass_rate(
    lengths: Tensor,
    group_ids: Tensor,
    quality: Tensor,
    total_tokens: Tensor | None = None,
    turns: Tensor | None = None,
    *,
    norm: Literal["group_max", "max_seq_len"],
    coef: float,
    max_seq_len: int,
    gate_by_correctness: bool,
    w_output: float,
    w_input: float,
    w_turns: float,
) -> Tensor:
    """prime-rl's penalty: the group's mean reward times weighted output, input and turns.

    Input is what `total_tokens` holds beyond `lengths`; parts that are not given cost nothing.
    """
    groups = Groups(group_ids)
    if norm == "max_seq_len":
        effort = coef * lengths.double() / max_seq_len
    else:
        effort = w_output * _share_of_max(lengths, groups)
        if total_tokens is not None:
            effort = effort + w_input * _share_of_max(total_tokens - lengths, groups)
        if turns is not None:
            effort = effort + w_turns * _share_of_max(turns, groups)
    penalty = groups.spread(groups.mean(quality, ~quality.isnan())) * effort
    return -(penalty.where(quality == 1, 0.0) if gate_by_correctness else penalty)


def _share_of_max(amount: Tensor, groups: Groups) -> Tensor:
    return amount / groups.spread(groups.max(amount).clamp(min=1))


def grlc(
    think_lengths: Tensor,
    answer_lengths: Tensor,
    group_ids: Tensor,
    quality: Tensor,
    *,
    lambda_think: float,
    lambda_answer: float,
    beta_think: float,
    beta_answer: float,
    percentile: float,
) -> Tensor:
    """Centred brevity of thinking and answer, arXiv:2512.20848 section 3.3.

    The group's shortest, the first of equals, also gets a bonus if its score is at or above
    the percentile of the group's scores.
    """
    groups = Groups(group_ids)
    threshold = groups.quantile(quality, percentile / 100, ~quality.isnan())
    good = quality >= groups.spread(threshold)
    term = torch.zeros_like(quality)
    for lengths, weight, bonus in (
        (think_lengths, lambda_think, beta_think),
        (answer_lengths, lambda_answer, beta_answer),
    ):
        brevity = 1 - share_of_range(lengths, groups)
        centred = brevity - groups.spread(groups.mean(brevity))
        shortest = groups.first_smallest(lengths)
        term = term + weight * centred + bonus * (shortest & good).double()
    return term


def share_of_range(
    lengths: Tensor, groups: Groups, where: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """`(L - min) / (max - min + eps)` of the group's rows in the mask; 0 without a range.

    Rows outside the mask may lie outside [0, 1].
    """
    low, high = groups.min(lengths, where), groups.max(lengths, where)
    return ratio(lengths - groups.spread(low), groups.spread(high - low + eps))


def o1_pruner(
    lengths: Tensor,
    correct: Tensor,
    group_ids: Tensor,
    reference_lengths: Tensor | None = None,
    reference_accuracy: Tensor | None = None,
    *,
    lambda_: float,
    clip: tuple[float, float] | None,
) -> Tensor:
    """`L_ref / L - 1 + lambda (A - A_ref)`, arXiv:2501.12570; without a reference, the group's."""
    groups = Groups(group_ids)
    if reference_lengths is None:
        reference_lengths = groups.spread(groups.mean(lengths))
    if reference_accuracy is None:
        reference_accuracy = groups.spread(groups.mean(correct))
    gain = lambda_ * (correct.double() - reference_accuracy)
    value = reference_lengths / lengths.clamp(min=1) - 1 + gain
    return value if clip is None else value.clamp(*clip)


def lc_r1_length(
    lengths: Tensor, correct: Tensor, group_ids: Tensor, *, coef: float, eps: float
) -> Tensor:
    """`coef * (1 - L / longest correct)` on every row; 0 where nobody is correct."""
    groups = Groups(group_ids)
    longest = groups.spread(groups.max(lengths, correct))
    divisor = longest + eps if eps else longest.clamp(min=1)
    term = coef * (1 - lengths / divisor)
    return term.where(groups.spread(groups.count(correct)) > 0, 0.0)
