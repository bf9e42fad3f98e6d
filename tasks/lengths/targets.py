"""Length terms that measure against a stated length, mode or history.

Lengths and targets are int64[N] in one unit, flags bool[N], references float64[N]; every
function returns float64[N], and one with state returns a `Term` that holds the new state.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import Term


def lcpo_exact(
    lengths: Tensor, target_lengths: Tensor, *, alpha: float, cap: float | None
) -> Tensor:
    """`-min(alpha |target - L|, cap)`, arXiv:2503.04697."""
    penalty = alpha * (target_lengths - lengths).abs().double()
    return -penalty.clamp(max=math.inf if cap is None else cap)


def lcpo_max(
    lengths: Tensor, correct: Tensor, target_lengths: Tensor, *, alpha: float, delta: float
) -> Tensor:
    """`clip(alpha (target - L) + delta, 0, 1)` for correct rows, 0 for wrong ones."""
    room = alpha * (target_lengths - lengths).double() + delta
    return room.clamp(min=0, max=1).where(correct, 0.0)


def lcpo_max_code(
    lengths: Tensor, correct: Tensor, target_lengths: Tensor, *, alpha: float, multiplier: bool
) -> Tensor:
    """Correctness times, or plus, `(clip(alpha (target - L), -1, 1) + 1) / 2`."""
    room = (alpha * (target_lengths - lengths).double()).clamp(min=-1, max=1)
    share = (room + 1) / 2
    return correct * share if multiplier else correct + share


def lcpo_clip(lengths: Tensor, correct: Tensor, target_lengths: Tensor) -> Tensor:
    """1 for correct rows within the target, 0 for all others (INTELLECT-2)."""
    return (correct & (lengths <= target_lengths)).double()


def hapo(
    lengths: Tensor,
    correct: Tensor,
    history_lengths: Tensor,
    group_ids: Tensor | None = None,
    *,
    shape: Literal["cosine", "linear"],
    w: float,
    clip_correct: float,
    clip_wrong: float,
    tolerance: float,
) -> Term:
    """HAPO's term against the prompt's shortest correct answer so far; NaN is none, and neutral.

    cosine: `f = cos(min(pi/2 L/h, pi))`. linear: `f = 1 - L/h` up to h, 0 within the tolerance,
    then falling again. Correct rows get at least `clip_correct`, wrong ones at most 0. The new
    history is the minimum of the old one and the group's correct lengths; without group ids,
    of the row's own.
    """
    ratio = lengths / history_lengths.clamp(min=1)
    if shape == "cosine":
        f = torch.cos((math.pi / 2 * ratio).clamp(max=math.pi))
    else:
        f = (1 - ratio).clamp(min=0) + (1 + tolerance - ratio).clamp(max=0)
    term = f.clamp(min=clip_correct).where(correct, f.clamp(min=clip_wrong, max=0))
    term = (w * term).where(~history_lengths.isnan(), 0.0)
    return Term("add", term, _shortest(lengths, correct, history_lengths, group_ids))


def _shortest(
    lengths: Tensor, correct: Tensor, history: Tensor, group_ids: Tensor | None
) -> Tensor:
    """The new history: float64[N], NaN where no row was ever correct."""
    best = torch.fmin(lengths.double().where(correct, math.nan), history)
    if group_ids is None:
        return best
    groups = Groups(group_ids)
    return groups.spread(groups.min(best, ~best.isnan(), empty=math.nan))


def adaptthink(
    correct: Tensor, no_think: Tensor, reference_accuracy: Tensor, *, delta: float
) -> Tensor:
    """`c - reference accuracy + delta [no thinking]` (AdaptThink)."""
    return correct.double() - reference_accuracy + delta * no_think.double()
