"""Advantages of rollouts by several components (GDPO), and credit of tokens by turn scores; pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oyer.protocol.errors import InvalidInput

GROUP_EPS = 1e-6
"""Added to the standard deviation of a group, as in verl."""

WHITEN_EPS = 1e-8
"""Added to the variance over the batch, as in verl's `masked_whiten`."""

Float64s = NDArray[np.float64]


def gdpo_advantages(
    components: Mapping[str, NDArray[np.floating]],
    groups: Sequence[int],
    weights: Mapping[str, float],
) -> Float64s:
    """Return the GDPO advantage of each rollout, `[N]`, from components of its reward.

    GDPO, arXiv:2601.05242, in the form of verl 0.9 (`compute_gdpo_outcome_advantage`):

    1. `A_k = (r_k - mean) / (std + 1e-6)`, mean and sample standard deviation (n - 1) over the
       values of component k that the rollout's group has.
    2. `A = sum of w_k A_k`.
    3. `(A - mean) / sqrt(var + 1e-8)`, mean and sample variance over the N rollouts of the batch.
       verl takes both over tokens, so that long responses count more; with T tokens in each, its
       result is this one times `sqrt((NT - 1) / (NT - T))`.

    Edge cases, each finite:

    - A missing value (NaN) is left out of step 1 and adds nothing in step 2.
    - A value that its group has only once, or that is equal in the whole group, adds 0. For a group
      of one rollout verl keeps the value itself in place of 0.
    - A rollout without any of the components has the advantage 0 and is left out of step 3.
    - If the sums of step 2 are all equal, or there is only one, all advantages are 0.

    Args:
        components: values by name, `[N]` each; NaN where missing.
        groups: number of each rollout's group; -1 for a rollout without a group, which is a group
            of its own.
        weights: weight of each component, by names of `components`; 0 leaves a component out.
    """
    used = {name: weight for name, weight in weights.items() if weight}
    index = own_groups(np.asarray(groups, dtype=np.int64))
    total = np.zeros(len(index))
    present = np.zeros(len(index), dtype=bool)
    for name, weight in used.items():
        values = np.asarray(components[name], dtype=np.float64)
        total += weight * _group_z_scores(values, index)
        present |= np.isfinite(values)
    return _whitened(total, present)


def own_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the groups from 0; each row without a group gets a group of its own."""
    alone = groups < 0
    numbers = groups.copy()
    numbers[alone] = groups.max(initial=-1) + 1 + np.arange(alone.sum())
    return np.unique(numbers, return_inverse=True)[1]


def _group_z_scores(values: Float64s, index: NDArray[np.int64]) -> Float64s:
    """Return each value's z-score in its group; 0 for a missing value and in a group without spread."""
    known = np.isfinite(values)
    size = int(index.max(initial=-1)) + 1
    counts = np.bincount(index[known], minlength=size)
    means = _sums(values, index, known, size) / np.maximum(counts, 1)
    centred = np.where(known, values - means[index], 0.0)
    deviations = np.sqrt(_sums(centred**2, index, known, size) / np.maximum(counts - 1, 1))
    # A mean is rounded, so that equal values need not be equal to it.
    lowest, highest = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(lowest, index[known], values[known])
    np.maximum.at(highest, index[known], values[known])
    varies = (lowest < highest)[index]
    return np.where(varies, centred / (deviations[index] + GROUP_EPS), 0.0)


def _sums(values: Float64s, index: NDArray[np.int64], where: NDArray[np.bool_], n: int) -> Float64s:
    sums = np.bincount(index[where], weights=values[where], minlength=n)
    return sums.astype(np.float64)  # NumPy counts nothing in whole numbers


def _whitened(total: Float64s, present: NDArray[np.bool_]) -> Float64s:
    kept = total[present]
    if len(kept) < 2 or kept.min() == kept.max():
        return np.zeros_like(total)
    white = (total - kept.mean()) / np.sqrt(kept.var(ddof=1) + WHITEN_EPS)
    return np.where(present, white, 0.0)


def turn_credit(turn_scores: Sequence[float | None], turn_of_token: ArrayLike) -> Float64s:
    """Return the credit of each token for what its turn changed in the score.

    Turn t has the credit s_t - s_(t-1), spread evenly over its tokens, and the first turn 0. The sum
    over all tokens is therefore the last score minus the first. It is potential-based shaping (Ng,
    Harada and Russell, ICML 1999) with the score as the potential and no discount.

    Args:
        turn_scores: `[T]`, an entry of `batch.turn_scores`.
        turn_of_token: `[L]` whole numbers: the turn of each token from 0, or -1 for a token that the
            policy did not write, e.g. of a tool's result.

    Returns:
        `[L]`. 0 for a token without a turn; NaN after the first turn if the score of the token's turn or
        of the turn before is missing.

    Raises:
        InvalidInput: the shapes or numbers do not fit, or a turn after the first has no token.
    """
    scores = _scores(turn_scores)
    turns = _turns(turn_of_token, len(scores))
    counts = np.bincount(turns[turns >= 0], minlength=len(scores))
    if (empty := np.flatnonzero(counts[1:] == 0) + 1).size:
        raise InvalidInput(
            f"turn_of_token: turn {empty[0]} has no token, so that its credit would be lost; give each"
            " turn after the first at least one"
        )
    credit = np.diff(scores, prepend=scores[:1])
    credit[0] = 0.0
    per_token = credit / np.maximum(counts, 1)
    return np.where(turns >= 0, per_token[turns], 0.0)


def _scores(turn_scores: Sequence[float | None]) -> Float64s:
    try:
        scores = np.array(turn_scores, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"turn_scores: must be one rollout's list of numbers: {error}"
        ) from error
    if scores.ndim != 1 or not scores.size:
        raise InvalidInput(
            f"turn_scores: has the shape {scores.shape}; give the scores of one rollout, one per turn"
        )
    if np.isinf(scores).any():
        raise InvalidInput("turn_scores: must be finite, or None where missing")
    return scores


def _turns(turn_of_token: ArrayLike, count: int) -> NDArray[np.int64]:
    turns = np.asarray(turn_of_token)
    if turns.ndim != 1 or (turns.size and turns.dtype.kind not in "iu"):
        raise InvalidInput(
            f"turn_of_token: has the shape {turns.shape} and the type {turns.dtype}; give one whole"
            " number per token"
        )
    turns = turns.astype(np.int64)
    if turns.size and not (turns.min() >= -1 and turns.max() < count):
        raise InvalidInput(
            f"turn_of_token: has numbers from {turns.min()} to {turns.max()}; the rollout has"
            f" {count} turns: give -1 to {count - 1}"
        )
    return turns
