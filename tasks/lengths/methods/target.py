"""Length terms that measure against a stated length, mode or history.

Lengths and targets are int64[N] in one unit, flags bool[N], references float64[N]; every
function returns float64[N], and one with state returns a `Term` that holds the new state.
"""

import math
from typing import Literal

from oyer.tasks.lengths.arrays import Array, bound, double, isnan, namespace, select
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import Term


def lcpo_exact(lengths: Array, target_lengths: Array, *, alpha: float, cap: float | None) -> Array:
    """`-min(alpha |target - L|, cap)`, arXiv:2503.04697."""
    penalty = alpha * double(abs(target_lengths - lengths))
    return -bound(penalty, max=math.inf if cap is None else cap)


def lcpo_max(
    lengths: Array, correct: Array, target_lengths: Array, *, alpha: float, delta: float
) -> Array:
    """`clip(alpha (target - L) + delta, 0, 1)` for correct rows, 0 for wrong ones."""
    room = alpha * double(target_lengths - lengths) + delta
    return select(correct, bound(room, min=0, max=1), 0.0)


def lcpo_max_code(
    lengths: Array, correct: Array, target_lengths: Array, *, alpha: float, multiplier: bool
) -> Array:
    """Correctness times, or plus, `(clip(alpha (target - L), -1, 1) + 1) / 2`."""
    room = bound(alpha * double(target_lengths - lengths), min=-1, max=1)
    share = (room + 1) / 2
    return correct * share if multiplier else correct + share


def lcpo_clip(lengths: Array, correct: Array, target_lengths: Array) -> Array:
    """1 for correct rows within the target, 0 for all others (INTELLECT-2)."""
    return double(correct & (lengths <= target_lengths))


def hapo(
    lengths: Array,
    correct: Array,
    history_lengths: Array,
    group_ids: Array | None = None,
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
    ratio = lengths / bound(history_lengths, min=1)
    if shape == "cosine":
        f = namespace(ratio).cos(bound(math.pi / 2 * ratio, max=math.pi))
    else:
        f = bound(1 - ratio, min=0) + bound(1 + tolerance - ratio, max=0)
    term = select(correct, bound(f, min=clip_correct), bound(f, min=clip_wrong, max=0))
    term = select(~isnan(history_lengths), w * term, 0.0)
    return Term("add", term, _shortest(lengths, correct, history_lengths, group_ids))


def _shortest(lengths: Array, correct: Array, history: Array, group_ids: Array | None) -> Array:
    """The new history: float64[N], NaN where no row was ever correct."""
    own = select(correct, double(lengths), math.inf)
    best = namespace(own).minimum(own, select(isnan(history), math.inf, history))
    best = select(best < math.inf, best, math.nan)
    if group_ids is None:
        return best
    groups = Groups(group_ids)
    return groups.spread(groups.min(best, ~isnan(best), empty=math.nan))


def adaptthink(
    correct: Array, no_think: Array, reference_accuracy: Array, *, delta: float
) -> Array:
    """`c - reference accuracy + delta [no thinking]` (AdaptThink)."""
    return double(correct) - reference_accuracy + delta * double(no_think)
