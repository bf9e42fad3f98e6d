"""Methods that compare the lengths of a group, correct or not.

Lengths are int64[N] in one unit, group_ids int64[N], flags bool[N], scores float64[N] with
NaN for a missing one; every function returns float64[N]. Equal lengths and single rows are
neutral, and a divisor is at least one token.
"""

from typing import Literal

from oyer.tasks.lengths.arrays import Array, bound, double, filled, isnan, select
from oyer.tasks.lengths.groups import Groups, ratio


def median_band(
    lengths: Array,
    group_ids: Array,
    *,
    peak_ratio: float,
    outer_ratio: float,
    max_penalty: float,
    penalty_scale: float,
) -> Array:
    """Nothing within `peak_ratio` of the group's median, full beyond `outer_ratio`."""
    groups = Groups(group_ids)
    median = groups.spread(groups.quantile(lengths, 0.5))
    distance = abs(lengths - median)
    ramp = (distance - peak_ratio * median) / ((outer_ratio - peak_ratio) * bound(median, min=1))
    return -penalty_scale * max_penalty * bound(ramp, min=0, max=1)


def gr3(lengths: Array, group_ids: Array, *, alpha: float) -> Array:
    """`1 / (1 + alpha * L / mean L)`, arXiv:2603.10535."""
    groups = Groups(group_ids)
    mean = groups.spread(bound(groups.mean(lengths), min=1))
    return 1 / (1 + alpha * (lengths / mean))


def brevity_bonus(lengths: Array, group_ids: Array, quality: Array) -> Array:
    """`1 + clip(1 - L / mean L, 0, 1)` on the group's best rows, which also give the mean."""
    groups = Groups(group_ids)
    best = quality == groups.spread(groups.max(quality, ~isnan(quality)))
    mean = groups.spread(bound(groups.mean(lengths, best), min=1))
    return select(best, 1 + bound(1 - lengths / mean, min=0, max=1), 1.0)


def linear_pass_rate(
    lengths: Array,
    group_ids: Array,
    quality: Array,
    total_tokens: Array | None = None,
    turns: Array | None = None,
    *,
    norm: Literal["group_max", "max_seq_len"],
    coef: float,
    max_seq_len: int,
    gate_by_correctness: bool,
    w_output: float,
    w_input: float,
    w_turns: float,
) -> Array:
    """prime-rl's penalty: the group's mean reward times weighted output, input and turns.

    Input is what `total_tokens` holds beyond `lengths`; parts that are not given cost nothing.
    """
    groups = Groups(group_ids)
    if norm == "max_seq_len":
        effort = coef * double(lengths) / max_seq_len
    else:
        effort = w_output * _share_of_max(lengths, groups)
        if total_tokens is not None:
            effort = effort + w_input * _share_of_max(total_tokens - lengths, groups)
        if turns is not None:
            effort = effort + w_turns * _share_of_max(turns, groups)
    penalty = groups.spread(groups.mean(quality, ~isnan(quality))) * effort
    return -(select(quality == 1, penalty, 0.0) if gate_by_correctness else penalty)


def _share_of_max(amount: Array, groups: Groups) -> Array:
    return amount / groups.spread(bound(groups.max(amount), min=1))


def grlc(
    think_lengths: Array,
    answer_lengths: Array,
    group_ids: Array,
    quality: Array,
    *,
    lambda_think: float,
    lambda_answer: float,
    beta_think: float,
    beta_answer: float,
    percentile: float,
) -> Array:
    """Centred brevity of thinking and answer, arXiv:2512.20848 section 3.3.

    The group's shortest, the first of equals, also gets a bonus if its score is at or above
    the percentile of the group's scores.
    """
    groups = Groups(group_ids)
    threshold = groups.quantile(quality, percentile / 100, ~isnan(quality))
    good = quality >= groups.spread(threshold)
    term = filled(quality, 0.0)
    for lengths, weight, bonus in (
        (think_lengths, lambda_think, beta_think),
        (answer_lengths, lambda_answer, beta_answer),
    ):
        brevity = 1 - share_of_range(lengths, groups)
        centred = brevity - groups.spread(groups.mean(brevity))
        shortest = groups.first_smallest(lengths)
        term = term + weight * centred + bonus * double(shortest & good)
    return term


def share_of_range(
    lengths: Array, groups: Groups, where: Array | None = None, eps: float = 0.0
) -> Array:
    """`(L - min) / (max - min + eps)` of the group's rows in the mask; 0 without a range.

    Rows outside the mask may lie outside [0, 1].
    """
    low, high = groups.min(lengths, where), groups.max(lengths, where)
    return ratio(lengths - groups.spread(low), groups.spread(high - low + eps))


def o1_pruner(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    reference_lengths: Array | None = None,
    reference_accuracy: Array | None = None,
    *,
    lambda_: float,
    clip: tuple[float, float] | None,
) -> Array:
    """`L_ref / L - 1 + lambda (A - A_ref)`, arXiv:2501.12570; without a reference, the group's."""
    groups = Groups(group_ids)
    if reference_lengths is None:
        reference_lengths = groups.spread(groups.mean(lengths))
    if reference_accuracy is None:
        reference_accuracy = groups.spread(groups.mean(correct))
    gain = lambda_ * (double(correct) - reference_accuracy)
    value = reference_lengths / bound(lengths, min=1) - 1 + gain
    return value if clip is None else bound(value, *clip)


def lc_r1_length(
    lengths: Array, correct: Array, group_ids: Array, *, coef: float, eps: float
) -> Array:
    """`coef * (1 - L / longest correct)` on every row; 0 if no row is correct."""
    groups = Groups(group_ids)
    longest = groups.spread(groups.max(lengths, correct))
    divisor = longest + eps if eps else bound(longest, min=1)
    term = coef * (1 - lengths / divisor)
    return select(groups.spread(groups.count(correct)) > 0, term, 0.0)
