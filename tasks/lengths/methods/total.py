"""Methods that make the whole reward from one row's length and fixed thresholds.

Lengths are int64[N] in one unit, flags bool[N]; every function returns float64[N].
"""

import math
from collections.abc import Sequence

from oyer.config.length_methods.repetition import MAX_WINDOWS
from oyer.tasks.lengths.arrays import Array, bound, double, namespace, select, to_kind_of
from oyer.tasks.lengths.inputs import PackedTokens
from oyer.tasks.lengths.methods.repetition import repetition


def cosine(
    lengths: Array,
    correct: Array,
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
) -> Array:
    """Half a cosine from the short to the long reward of a branch, arXiv:2502.03373."""
    progress = double(lengths) / max_len
    falling = _falling(bound(progress, max=1) if clamp else progress)
    right = long_correct + (short_correct - long_correct) * falling
    wrong = long_wrong + (short_wrong - long_wrong) * falling
    if repetition_max_penalty:
        repeated = repetition(
            token_ids,
            texts,
            ngram_size=repetition_ngram_size,
            max_penalty=repetition_max_penalty,
            unit=None,
            dead_zone=0.0,
            max_windows=MAX_WINDOWS,
        )
        wrong = wrong + to_kind_of(repeated, lengths)
    return _unless_exceeding(
        select(correct, right, wrong), lengths, max_len, max_len_margin, exceed_length
    )


def length_scaled_risk(
    lengths: Array,
    correct: Array,
    *,
    risk_factor: float,
    max_len: int,
    exceed_length: float | None,
    max_len_margin: int,
) -> Array:
    """`(k + (1 - k) c)(1 - c)` when correct and `c - 1` when wrong, `c = L / max_len` up to 1."""
    progress = bound(double(lengths) / max_len, max=1)
    right = (risk_factor + (1 - risk_factor) * progress) * (1 - progress)
    total = select(correct, right, progress - 1)
    return _unless_exceeding(total, lengths, max_len, max_len_margin, exceed_length)


def _falling(progress: Array) -> Array:
    """From 1 at progress 0 to 0 at progress 1, along half a cosine."""
    return 0.5 * (1 + namespace(progress).cos(math.pi * progress))


def _unless_exceeding(
    total: Array, lengths: Array, max_len: int, margin: int, exceed: float | None
) -> Array:
    return total if exceed is None else select(lengths + margin < max_len, total, exceed)


def phi4_length_aware(
    lengths: Array, correct: Array, *, max_len: int, pos_control: int, neg_control: int
) -> Array:
    """Correct 1 to 0.5 beyond `pos_control`, wrong -1 to -0.5 up to `neg_control`."""
    over = bound(double(lengths - pos_control) / (max_len - pos_control), min=0, max=1)
    short = bound(double(lengths) / neg_control, max=1)
    return select(correct, 0.5 + 0.5 * _falling(over), -0.5 - 0.5 * _falling(short))


def effort_shaping(
    lengths: Array, base_reward: Array, *, low_weight: float, low_penalty: float, low_ub: int
) -> Array:
    """`r + r * max(e, 0) + low_penalty * min(e, 0)`, `e = min(1, w (1 - L / low_ub))` (NeMo-RL)."""
    ease = bound(low_weight * (1 - double(lengths) / low_ub), max=1)
    return base_reward * (1 + bound(ease, min=0)) + low_penalty * bound(ease, max=0)
