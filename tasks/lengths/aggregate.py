"""Several rewards a row to one advantage."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from oyer.tasks.lengths.groups import Groups, ratio
from oyer.tasks.lengths.inputs import given


def aggregate(
    components: Tensor,
    group_ids: Tensor,
    lengths: Tensor | None = None,
    *,
    mode: Literal["sum", "sum_then_normalize", "normalize_then_sum"],
    weights: tuple[float, ...] | None,
    eps: float,
    ddof: int,
    float32_bessel: bool,
    baseline: Literal["group_mean", "length_weighted", "none"],
) -> Tensor:
    """Advantages float64[N] of the rewards `components` float64[N, R].

    sum: weighted sum less the baseline. sum_then_normalize: that over the group's standard
    deviation. normalize_then_sum: z-scores in the group, summed with weights, then a z-score
    over the batch (GDPO). A missing reward (NaN) adds nothing; a row with none has advantage 0
    and leaves the statistics.
    """
    groups, single = Groups(group_ids), Groups.single(group_ids)
    scale = components.new_tensor(weights or (1.0,) * components.shape[1])
    known = ~components.isnan()
    row, rewards = known.any(dim=1), components.nan_to_num()
    z_score = partial(Groups.z_score, ddof=ddof, eps=eps, float32_bessel=float32_bessel)
    if mode == "normalize_then_sum":
        scores = [
            z_score(groups, rewards[:, i], where=known[:, i]).where(known[:, i], 0.0)
            for i in range(components.shape[1])
        ]
        total = (torch.stack(scores, dim=1) * scale).sum(dim=1)
        return z_score(single, total, where=row).where(row, 0.0)
    total = (rewards * scale).sum(dim=1)
    advantage = total - groups.spread(_baseline(total, groups, lengths, row, baseline))
    if mode == "sum_then_normalize":
        _, deviation = groups.moments(total, ddof, row, float32_bessel=float32_bessel)
        advantage = ratio(advantage, groups.spread(deviation + eps))
    return advantage.where(row, 0.0)


def _baseline(
    total: Tensor,
    groups: Groups,
    lengths: Tensor | None,
    row: Tensor,
    kind: Literal["group_mean", "length_weighted", "none"],
) -> Tensor:
    if kind == "none":
        return torch.zeros_like(groups.sizes, dtype=torch.float64)
    if kind == "group_mean":
        return groups.mean(total, row)
    return length_weighted_mean(total, given(lengths, "lengths"), groups, row)


def length_weighted_mean(total: Tensor, lengths: Tensor, groups: Groups, where: Tensor) -> Tensor:
    """OPO's baseline `sum(L r) / sum(L)` of each group; lengths are at least one token."""
    tokens = lengths.clamp(min=1).double()
    return groups.sum(tokens * total, where) / groups.sum(tokens, where).clamp(min=1)


def brpo(
    budget_scores: Tensor,
    group_ids: Tensor,
    *,
    budget_probs: tuple[float, ...],
    discount: float,
) -> Tensor:
    """Advantage of each of S thinking segments: float64[N, S], AnytimeReasoner's BRPO.

    With the expected score from segment s on, `R_s = sum_{t >= s} P_t score_t`, the baseline is
    `(s V1 + (S - s) V2) / S`: V1 the discounted mean of the scores before s times the
    probability that is left, V2 the group's mean of R_s.
    """
    groups = Groups(group_ids)
    probs = budget_scores.new_tensor(budget_probs)
    count = len(budget_probs)
    weighted = probs * budget_scores
    columns = []
    for s in range(count):
        rest = weighted[:, s:].sum(dim=1)
        peers = groups.spread(groups.mean(rest))
        decay = discount ** torch.arange(s, dtype=torch.float64, device=probs.device)
        past = ratio((budget_scores[:, :s] * decay).sum(dim=1), decay.sum())
        own = past * probs[s:].sum()
        columns.append(rest - (s * own + (count - s) * peers) / count)
    return torch.stack(columns, dim=1)
