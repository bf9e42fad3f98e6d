"""Methods that compare lengths with those of a group's correct rows.

Lengths are int64[N] in one unit, group_ids int64[N], flags bool[N]; every function returns
float64[N]. Equal lengths and single rows are neutral unless `eps` selects the rule of a published code.
"""

from typing import Literal

from oyer.tasks.lengths.arrays import Array, bound, double, filled, namespace, select, sigmoid
from oyer.tasks.lengths.groups import Groups, ratio
from oyer.tasks.lengths.methods.absolute import pass_rate


def kimi_length_reward(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    *,
    weight: float,
    eps: float,
    singleton: Literal["neutral", "min0_max1"],
) -> Array:
    """`0.5 - (L - min) / (max - min)`, at most 0 for a wrong row; min and max over all rows."""
    groups = Groups(group_ids)
    term = _kimi(lengths, groups, None, eps)
    if singleton == "min0_max1":
        term = select(groups.spread(groups.sizes) > 1, term, 0.5 - double(lengths) / (1 + eps))
    return weight * select(correct, term, bound(term, max=0))


def _kimi(
    lengths: Array, groups: Groups, where: Array | None, eps: float, tolerance: int = 0
) -> Array:
    """Kimi's term over the lengths in the mask; 0 for a group without a range and eps.

    Rows up to `tolerance` above the shortest are given its 0.5.
    """
    low = groups.spread(groups.min(lengths, where))
    span = groups.spread(groups.max(lengths, where)) - low + eps
    share = ratio(lengths - low, span)
    if tolerance:
        share = select(lengths > low + tolerance, share, 0.0)
    return select(span > 0, 0.5 - share, 0.0)


def short_rl(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    *,
    length_tolerance: int,
    acc_tolerance: float,
    max_acc_so_far: float,
    eps: float,
) -> Array:
    """Kimi's term among correct rows, 0.5 near the shortest; all 0 at low batch accuracy."""
    accuracy = float(namespace(correct).mean(double(correct))) if len(correct) else 0.0
    if accuracy < max_acc_so_far - acc_tolerance:
        return filled(lengths, 0.0)
    term = _kimi(lengths, Groups(group_ids), correct, eps, length_tolerance)
    return select(correct, term, 0.0)


def diet_token_score(
    lengths: Array, correct: Array, group_ids: Array, *, weight: float, adaptive: bool
) -> Array:
    """Kimi's term over the range of correct rows, on every row, times the pass rate."""
    groups = Groups(group_ids)
    term = weight * _kimi(lengths, groups, correct, 0.0)
    return term * pass_rate(correct, groups) if adaptive else term


def jet(
    lengths: Array, correct: Array, group_ids: Array, *, alpha: float, delta: float, eps: float
) -> Array:
    """`alpha (1 - delta) (max - L) / (max - min) + delta` among correct rows."""
    groups = Groups(group_ids)
    low, high = groups.min(lengths, correct), groups.max(lengths, correct)
    brevity = ratio(groups.spread(high) - lengths, groups.spread(high - low + eps))
    return select(correct, alpha * (1 - delta) * brevity + delta, 0.0)


def sigmoid_length(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    truncated: Array | None = None,
    *,
    alpha: float,
    ddof: int,
    eps: float,
    singleton: Literal["neutral", "mean0_std1"],
    check_eos: bool,
) -> Array:
    """`1 - alpha * sigmoid(z)` for correct rows and 0 for wrong ones, arXiv:2502.04463."""
    if check_eos and truncated is not None:
        correct = correct & ~truncated
    groups = Groups(group_ids)
    z = groups.z_score(lengths, ddof, eps, correct)
    if singleton == "mean0_std1":
        alone = groups.spread(groups.count(correct)) == 1
        z = select(~alone, z, double(lengths) / (1 + eps))
    return select(correct, 1 - alpha * sigmoid(z), 0.0)


def grpo_lead_length(
    lengths: Array,
    correct: Array,
    group_ids: Array,
    *,
    alpha: float,
    ddof: int,
    eps: float,
    skip_if_mean_of_3_shortest_le: float | None,
) -> Array:
    """`exp(-alpha z)` for correct rows and 1 for wrong ones, arXiv:2504.09696."""
    groups = Groups(group_ids)
    factor = namespace(lengths).exp(-alpha * groups.z_score(lengths, ddof, eps, correct))
    active = correct
    if skip_if_mean_of_3_shortest_le is not None:
        shortest = groups.mean(lengths, groups.smallest(lengths, 3))
        active = correct & groups.spread(shortest > skip_if_mean_of_3_shortest_le)
    return select(active, factor, 1.0)


def shorterbetter(
    lengths: Array, correct: Array, group_ids: Array, *, alpha: float, beta: float
) -> Array:
    """`alpha c - beta |L - S|`, S the shortest correct length, or the mean length without one."""
    groups = Groups(group_ids)
    solved = groups.count(correct) > 0
    optimum = select(solved, groups.min(lengths, correct), groups.mean(lengths))
    return alpha * double(correct) - beta * abs(lengths - groups.spread(optimum))


def alp(lengths: Array, correct: Array, group_ids: Array, *, beta: float, norm: float) -> Array:
    """`-(beta / norm) max(pass rate, 1/K) L`, arXiv:2506.05256."""
    return -beta / norm * pass_rate(correct, Groups(group_ids), "1/K") * lengths


def dast(lengths: Array, correct: Array, group_ids: Array, *, max_len: int) -> Array:
    """Distance to a budget between the correct rows' mean and `max_len`, arXiv:2503.04472."""
    groups = Groups(group_ids)
    rate = groups.mean(correct)
    budget = rate * groups.mean(lengths, correct) + (1 - rate) * max_len
    over = lengths / groups.spread(bound(budget, min=1)) - 1
    right = bound(0.5 - 0.5 * over, min=0.1)
    return select(correct, right, bound(0.9 * over - 0.1, max=-0.1))


def shortest_correct_bonus(
    lengths: Array, correct: Array, group_ids: Array, *, bonus: float
) -> Array:
    """`bonus` for every shortest row of a group that is all correct (prime-rl)."""
    groups = Groups(group_ids)
    solved = groups.spread(groups.mean(correct)) == 1
    shortest = lengths == groups.spread(groups.min(lengths))
    return bonus * double(solved & shortest)
