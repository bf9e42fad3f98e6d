"""Several rewards a row to one advantage."""

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
    without_nan,
)
from oyer.tasks.lengths.groups import Groups, ratio
from oyer.tasks.lengths.inputs import given


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
        total = xp.sum(xp.stack(scores, axis=1) * scale, axis=1)
        return select(row, z_score(single, total, where=row), 0.0)
    total = xp.sum(rewards * scale, axis=1)
    advantage = total - groups.spread(_baseline(total, groups, lengths, row, baseline))
    if mode == "sum_then_normalize":
        _, deviation = groups.moments(total, ddof, row, float32_bessel=float32_bessel)
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
