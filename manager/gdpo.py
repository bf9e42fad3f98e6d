"""Advantages of several rewards that are normalised apart, as GDPO does; pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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
