"""Length terms from one row's length and fixed thresholds.

Lengths are int64[N] in one unit, flags bool[N]; every function returns float64[N].
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from oyer.tasks.lengths.catalogue_repetition import MAX_WINDOWS
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import PackedTokens, Term, given
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
        return Term(
            "multiply", torch.ones_like(truncated, dtype=torch.float64).where(~truncated, coef)
        )
    return Term("total", given(base_reward, "base_reward").double().where(~truncated, coef))


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
    """`-min(coef * scale * (L - free_len)+ / norm, cap)`; ALP, prime-rl, LEASH by parameters."""
    penalty = coef * (lengths.double() - free_len).clamp(min=0)
    if not isinstance(norm, str):
        penalty = penalty / norm
    if isinstance(norm, str) or scale_by != "none":
        groups = Groups(given(group_ids, "group_ids"))
        if isinstance(norm, str):
            longest = norm == "group_max"
            size = groups.max(lengths) if longest else groups.mean(lengths)
            penalty = penalty / groups.spread(size.clamp(min=1))
        if scale_by == "pass_rate":
            penalty = penalty * pass_rate(given(correct, "correct"), groups, pass_rate_floor)
        elif scale_by == "reward":
            score = given(quality, "quality")
            penalty = penalty * groups.spread(groups.mean(score, ~score.isnan()))
    if gate_by_correctness:
        penalty = penalty.where(given(correct, "correct"), 0.0)
    return -penalty.clamp(max=math.inf if cap is None else cap)


def pass_rate(correct: Tensor, groups: Groups, floor: float | Literal["1/K"] = 0.0) -> Tensor:
    """Share of correct rows in each row's group, at least `floor` or one row's share: [N]."""
    rate = groups.mean(correct)
    least = 1 / groups.sizes.double() if floor == "1/K" else torch.full_like(rate, floor)
    return groups.spread(torch.maximum(rate, least))


def target_range(
    lengths: Tensor,
    correct: Tensor | None = None,
    *,
    low: int,
    high: int,
    slope_low: float,
    slope_high: float,
    cap: float | None,
    gate_by_correctness: bool,
) -> Tensor:
    """A dead band: slopes outside `[low, high]`, capped."""
    short, long = (low - lengths).clamp(min=0), (lengths - high).clamp(min=0)
    penalty = slope_low * short.double() + slope_high * long.double()
    if gate_by_correctness:
        penalty = penalty.where(given(correct, "correct"), 0.0)
    return -penalty.clamp(max=math.inf if cap is None else cap)


def min_length_ramp(lengths: Tensor, *, min_len: int, max_len: int, max_penalty: float) -> Tensor:
    """Full penalty up to `min_len`, none from `max_len`, linear between (ROLL)."""
    missing = (max_len - lengths).double() / (max_len - min_len)
    return -max_penalty * missing.clamp(min=0, max=1)


def think_length_bonus(
    lengths: Tensor, *, max_reward_len: int, max: float, min: float, decimals: int
) -> Tensor:
    """Bonus in proportion to length up to `max_reward_len` (ToolRL)."""
    share = torch.round(lengths.double() / max_reward_len, decimals=decimals).clamp(max=1)
    return share * (max - min) + min


def cosine(
    lengths: Tensor,
    correct: Tensor,
    token_ids: PackedTokens | None = None,
    texts: Sequence[str] | None = None,
    *,
    short_correct: float,
    long_correct: float,
    short_wrong: float,
    long_wrong: float,
    max_len: int,
    clamp: bool,
    exceed_length: float | None,
    max_len_margin: int,
    repetition_max_penalty: float,
    repetition_ngram_size: int,
) -> Tensor:
    """Half a cosine from the short to the long reward of a branch, arXiv:2502.03373."""
    progress = lengths.double() / max_len
    falling = _falling(progress.clamp(max=1) if clamp else progress)
    right = long_correct + (short_correct - long_correct) * falling
    wrong = long_wrong + (short_wrong - long_wrong) * falling
    if repetition_max_penalty:
        wrong = wrong + repetition(
            token_ids,
            texts,
            ngram_size=repetition_ngram_size,
            max_penalty=repetition_max_penalty,
            unit=None,
            dead_zone=0.0,
            max_windows=MAX_WINDOWS,
        ).to(lengths.device)
    return _unless_exceeding(
        right.where(correct, wrong), lengths, max_len, max_len_margin, exceed_length
    )


def length_scaled_risk(
    lengths: Tensor,
    correct: Tensor,
    *,
    risk_factor: float,
    max_len: int,
    exceed_length: float | None,
    max_len_margin: int,
) -> Tensor:
    """`(k + (1 - k) c)(1 - c)` when correct and `c - 1` when wrong, `c = L / max_len` up to 1."""
    progress = (lengths.double() / max_len).clamp(max=1)
    right = (risk_factor + (1 - risk_factor) * progress) * (1 - progress)
    total = right.where(correct, progress - 1)
    return _unless_exceeding(total, lengths, max_len, max_len_margin, exceed_length)


def _falling(progress: Tensor) -> Tensor:
    """From 1 at progress 0 to 0 at progress 1, along half a cosine."""
    return 0.5 * (1 + torch.cos(math.pi * progress))


def _unless_exceeding(
    total: Tensor, lengths: Tensor, max_len: int, margin: int, exceed: float | None
) -> Tensor:
    return total if exceed is None else total.where(lengths + margin < max_len, exceed)


def phi4_length_aware(
    lengths: Tensor, correct: Tensor, *, max_len: int, pos_control: int, neg_control: int
) -> Tensor:
    """Correct 1 to 0.5 beyond `pos_control`, wrong -1 to -0.5 up to `neg_control`."""
    over = ((lengths - pos_control).double() / (max_len - pos_control)).clamp(min=0, max=1)
    short = (lengths.double() / neg_control).clamp(max=1)
    return (0.5 + 0.5 * _falling(over)).where(correct, -0.5 - 0.5 * _falling(short))


def effort_shaping(
    lengths: Tensor, base_reward: Tensor, *, low_weight: float, low_penalty: float, low_ub: int
) -> Tensor:
    """`r + r * max(e, 0) + low_penalty * min(e, 0)`, `e = min(1, w (1 - L / low_ub))` (NeMo-RL)."""
    ease = (low_weight * (1 - lengths.double() / low_ub)).clamp(max=1)
    return base_reward * (1 + ease.clamp(min=0)) + low_penalty * ease.clamp(max=0)


def concave_effort(lengths: Tensor, *, k: float, q: float) -> Tensor:
    """Minus `((1 + k x)^(1 - q) - 1) / (k (1 - q))`, and its limit `log1p(k x) / k` at q = 1.

    `expm1` of the logarithm keeps its digits as q nears 1.
    """
    growth = torch.log1p(k * lengths.double())
    if q == 1:
        return -growth / k
    return -torch.expm1((1 - q) * growth) / (k * (1 - q))


def lagrangian_over_budget(lengths: Tensor, *, target: int, lam: float) -> Tensor:
    """`-lam * max(0, L / target - 1)`, arXiv:2512.21540."""
    return -lam * (lengths.double() / target - 1).clamp(min=0)
