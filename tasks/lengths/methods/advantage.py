"""Methods that select rows, reshape advantages, or turn several rewards into one advantage.

Lengths are int64[N] in one unit, group_ids int64[N], flags bool[N], scores and advantages
float64[N]; a NaN score leaves the statistics and has advantage 0.
"""

import math
from collections.abc import Sequence
from functools import partial
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
    without_nan,
)
from oyer.tasks.lengths.groups import Groups, ratio
from oyer.tasks.lengths.inputs import given
from oyer.tasks.lengths.methods.absolute import pass_rate
from oyer.tasks.lengths.methods.group import share_of_range


def centred(quality: Array, groups: Groups) -> Array:
    """Score minus the group's mean; 0 for a missing score, and exactly 0 for one at the mean.

    Otherwise rounding would decide whether a row like the middle one of 0.1, 0.2, 0.3 is positive.
    """
    known = ~isnan(quality)
    height = quality - groups.spread(groups.min(quality, known))
    gap = height - groups.spread(groups.mean(height, known))
    least = groups.spread(groups.resolution(quality, known))
    return select(known & (abs(gap) > least), gap, 0.0)


def _advantages(advantages: Array | None, quality: Array | None, groups: Groups) -> Array:
    """The given advantages, or the centred score; 0 for a missing one."""
    if advantages is None:
        return centred(given(quality, "advantages"), groups)
    return without_nan(advantages)


def qglas(
    lengths: Array,
    quality: Array,
    group_ids: Array,
    *,
    beta_min: float,
    beta_max: float,
    clip: float,
    eps: float,
    std_normalised: bool,
    ddof: int,
) -> Array:
    """Centred score plus a bonus for short rows of positive advantage, QGLAS eqs. 1-8.

    The bonus is `beta * (Q100 - Q25) * clip((L_ref - L) / L_ref, 0, clip) / clip`, L_ref the
    positive rows' mean length, and beta falls as their scores spread over the group's range.
    """
    groups = Groups(group_ids)
    known = ~isnan(quality)
    advantage = centred(quality, groups)
    positive = advantage > 0
    reference = groups.spread(groups.mean(lengths, positive))
    divisor = reference + eps if eps else bound(reference, min=1)
    saving = bound((reference - lengths) / divisor, min=0, max=clip) / clip
    s_all = groups.max(quality, known) - groups.quantile(quality, 0.25, known)
    s_positive = groups.max(quality, positive) - groups.min(quality, positive)
    share = bound(ratio(s_positive, s_all + eps), min=0, max=1)
    weight = s_all * (beta_min + (beta_max - beta_min) * (1 - share))
    total = advantage + select(positive, groups.spread(weight) * saving, 0.0)
    if not std_normalised:
        return total
    return ratio(total, groups.spread(groups.moments(quality, ddof, known)[1] + eps))


def advantage_reweight(
    lengths: Array,
    group_ids: Array,
    advantages: Array | None = None,
    quality: Array | None = None,
    *,
    alpha: float,
    gamma: float,
    tau: float,
    eps: float,
) -> Array:
    """Weigh positive advantages by brevity and restore their sum, Intern-S2 eqs. 14-17.

    The weight is `alpha + (1 - alpha) (1 - share)^gamma` with the length's share of the
    positive rows' range; a group with fewer than `tau` of them positive is left alone.
    """
    groups = Groups(group_ids)
    advantages = _advantages(advantages, quality, groups)
    positive = advantages > 0
    share = bound(share_of_range(lengths, groups, positive, eps), min=0, max=1)
    weighed = advantages * (alpha + (1 - alpha) * (1 - share) ** gamma)
    mass, after = groups.sum(advantages, positive), groups.sum(weighed, positive)
    weighed = weighed * groups.spread(mass / (select(after > 0, after, 1.0) + eps))
    enough = groups.mean(positive) >= tau  # 11 / 20 is 0.55, but 0.55 * 20 is above 11
    return select(positive & groups.spread(enough & (after > 0)), weighed, advantages)


def gfpo_mask(
    lengths: Array,
    group_ids: Array,
    quality: Array | None = None,
    *,
    k: int,
    metric: Literal["short", "efficiency"],
) -> Array:
    """1 for the `k` rows of each group that are shortest or have most reward per token.

    Ties go to the earlier row; a missing score is not kept while another row is left.
    """
    if metric == "short":
        cost = double(lengths)
    else:
        cost = -given(quality, "quality") / bound(lengths, min=1)
    if quality is not None:
        cost = select(~isnan(quality), cost, math.inf)
    return double(Groups(group_ids).smallest(cost, k))


def gfpo(
    lengths: Array,
    quality: Array,
    group_ids: Array,
    *,
    k: int,
    metric: Literal["short", "efficiency"],
    ddof: int,
) -> Array:
    """z-score among the rows that `gfpo_mask` keeps; 0 for the others, arXiv:2508.09726."""
    mask = gfpo_mask(lengths, group_ids, quality, k=k, metric=metric)
    kept = (mask > 0) & ~isnan(quality)
    return select(kept, Groups(group_ids).z_score(quality, ddof, 0.0, kept), 0.0)


def difficulty_weight(
    correct_ratio: Array,
    *,
    A: float,  # noqa: N803 - the paper's names
    B: float,  # noqa: N803 - the paper's names
    rho0: float,
    k: float,
) -> Array:
    """`A + (B - A) / (1 + exp(k (rho - rho0)))`, arXiv:2504.09696."""
    return A + (B - A) * sigmoid(-k * (correct_ratio - rho0))


def grpo_lead_advantage(
    correct: Array,
    group_ids: Array,
    advantages: Array | None = None,
    quality: Array | None = None,
    *,
    A: float,  # noqa: N803 - the paper's names
    B: float,  # noqa: N803 - the paper's names
    rho0: float,
    k: float,
) -> Array:
    """Positive advantages times the weight of the pass rate, others times that of its rest."""
    groups = Groups(group_ids)
    advantages = _advantages(advantages, quality, groups)
    rate = pass_rate(correct, groups)
    side = select(advantages > 0, rate, 1 - rate)
    return advantages * difficulty_weight(side, A=A, B=B, rho0=rho0, k=k)


def aggregate(
    components: Array,
    group_ids: Array,
    lengths: Array | None = None,
    *,
    mode: Literal["sum", "sum_then_normalize", "normalize_then_sum"],
    weights: tuple[float, ...] | None,
    eps: float,
    ddof: int,
    float32_bessel: bool,
    baseline: Literal["group_mean", "length_weighted", "none"],
) -> Array:
    """Advantages float64[N] of the rewards `components` float64[N, R].

    sum: weighted sum less the baseline. sum_then_normalize: that over the group's standard
    deviation. normalize_then_sum: z-scores in the group, summed with weights, then a z-score
    over the batch (GDPO). A missing reward (NaN) adds nothing; a row with none has advantage 0
    and leaves the statistics.
    """
    groups, single = Groups(group_ids), Groups.single(group_ids)
    xp = namespace(components)
    scale = _row_of(components, weights or (1.0,) * components.shape[1])
    known = ~isnan(components)
    row, rewards = xp.any(known, axis=1), without_nan(components)
    z_score = partial(Groups.z_score, ddof=ddof, eps=eps, float32_bessel=float32_bessel)
    if mode == "normalize_then_sum":
        scores = [
            select(known[:, i], z_score(groups, rewards[:, i], where=known[:, i]), 0.0)
            for i in range(components.shape[1])
        ]
        weighed = xp.stack(scores, axis=1) * scale
        total, parts = xp.sum(weighed, axis=1), xp.sum(abs(weighed), axis=1)
        return select(row, z_score(single, total, where=row, parts=parts), 0.0)
    weighed = rewards * scale
    total, parts = xp.sum(weighed, axis=1), xp.sum(abs(weighed), axis=1)
    advantage = total - groups.spread(_baseline(total, groups, lengths, row, baseline))
    if mode == "sum_then_normalize":
        _, deviation = groups.moments(total, ddof, row, float32_bessel=float32_bessel, parts=parts)
        advantage = ratio(advantage, groups.spread(deviation + eps))
    return select(row, advantage, 0.0)


def _baseline(
    total: Array,
    groups: Groups,
    lengths: Array | None,
    row: Array,
    kind: Literal["group_mean", "length_weighted", "none"],
) -> Array:
    if kind == "none":
        return filled(groups.sizes, 0.0)
    if kind == "group_mean":
        return groups.mean(total, row)
    return length_weighted_mean(total, given(lengths, "lengths"), groups, row)


def length_weighted_mean(total: Array, lengths: Array, groups: Groups, where: Array) -> Array:
    """OPO's baseline `sum(L r) / sum(L)` of each group; lengths are at least one token."""
    tokens = double(bound(lengths, min=1))
    return groups.sum(tokens * total, where) / bound(groups.sum(tokens, where), min=1)


def brpo(
    budget_scores: Array,
    group_ids: Array,
    *,
    budget_probs: tuple[float, ...],
    discount: float,
) -> Array:
    """Advantage of each of S thinking segments: float64[N, S], AnytimeReasoner's BRPO.

    With the expected score from segment s on, `R_s = sum_{t >= s} P_t score_t`, the baseline is
    `(s V1 + (S - s) V2) / S`: V1 the discounted mean of the scores before s times the
    probability that is left, V2 the group's mean of R_s.
    """
    xp, groups = namespace(budget_scores), Groups(group_ids)
    probs = _row_of(budget_scores, budget_probs)
    count = len(budget_probs)
    weighted = probs * budget_scores
    columns = []
    for s in range(count):
        rest = xp.sum(weighted[:, s:], axis=1)
        peers = groups.spread(groups.mean(rest))
        decay = _row_of(probs, [discount**i for i in range(s)])
        past = ratio(xp.sum(budget_scores[:, :s] * decay, axis=1), xp.sum(decay))
        own = past * xp.sum(probs[s:])
        columns.append(rest - (s * own + (count - s) * peers) / count)
    return xp.stack(columns, axis=1)


def _row_of(like: Array, values: Sequence[float]) -> Array:
    """float64[R] on the device of `like`."""
    xp = namespace(like)
    return xp.asarray(list(values), dtype=xp.float64, device=device(like))
