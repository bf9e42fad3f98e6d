"""Length terms from one row's length and fixed thresholds.

Lengths are int64[N] in one unit, flags bool[N]; every function returns float64[N].
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import PackedTokens, Term
from oyer.tasks.lengths.repetition import repetition


def soft_overlong(
    lengths: Tensor, *, max_len: int, cache_len: int, penalty_factor: float, clamp: bool
) -> Tensor:
    """Soft overlong punishment, DAPO eq. 13; a step at `max_len` where `cache_len` is 0."""
    if cache_len == 0:
        return -penalty_factor * (lengths > max_len).double()
    excess = (lengths.double() - (max_len - cache_len)) / cache_len
    return -penalty_factor * excess.clamp(min=0, max=1 if clamp else None)


def stop_properly_penalty(
    truncated: Tensor, base_reward: Tensor | None = None, *, coef: float
) -> Term:
    """Multiply truncated rows by `coef`, or replace their reward by a `coef` below 0 (ProRL)."""
    if coef >= 0:
        return Term("multiply", torch.where(truncated, coef, 1.0).double())
    assert base_reward is not None
    return Term("total", base_reward.double().where(~truncated, coef))


def linear(
    lengths: Tensor,
    group_ids: Tensor | None = None,
    correct: Tensor | None = None,
    quality: Tensor | None = None,
    *,
    coef: float,
    norm: float | Literal["group_max", "group_mean"],
    scale_by: Literal["none", "pass_rate", "reward"],
    pass_rate_floor: float | Literal["1/K"],
    free_len: int,
    gate_by_correctness: bool,
    cap: float | None,
) -> Tensor:
    """`-coef * scale * (L - free_len)+ / norm`, capped; ALP, prime-rl and LEASH by parameters."""
    groups = None if group_ids is None else Groups(group_ids)
    penalty = coef * (lengths.double() - free_len).clamp(min=0)
    if norm == "group_max":
        penalty = penalty / groups.spread(groups.max(lengths).clamp(min=1))
    elif norm == "group_mean":
        penalty = penalty / groups.spread(groups.mean(lengths).clamp(min=1))
    else:
        penalty = penalty / norm
    if scale_by == "pass_rate":
        rate = groups.mean(correct.double())
        floor = 1 / groups.sizes if pass_rate_floor == "1/K" else pass_rate_floor
        penalty = penalty * groups.spread(rate.clamp(min=floor))
    elif scale_by == "reward":
        penalty = penalty * groups.spread(groups.mean(quality, ~quality.isnan()))
    if gate_by_correctness:
        penalty = penalty.where(correct, 0.0)
    return -penalty.clamp(max=cap)
