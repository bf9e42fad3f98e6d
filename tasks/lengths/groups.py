"""Order-independent statistics of groups, deterministic on every device.

- Rows are sorted by group and reduced segment by segment; no floating-point scatter-add,
  whose order on CUDA changes from run to run.
- A mask excludes rows from a statistic; a group without rows gets the given filler.
"""

import math
from typing import Literal, Self

import numpy as np

from oyer.tasks.lengths.arrays import (
    Array,
    bound,
    device,
    double,
    is_torch_array,
    namespace,
    select,
)

Reduction = Literal["sum", "max", "min"]

ROUNDING = 2.0**-40
"""Share of a group's largest value below which a difference is an error of rounding: sums that are
equal on paper, e.g. 0.1 + 0.2 and 0.3, differ by it."""

_UFUNCS = {"sum": np.add, "max": np.maximum, "min": np.minimum}


class Groups:
    """Statistics of rows by group.

    Args:
        group_ids: int64[N], any values, in any order.

    Attributes:
        index: int64[N], each row's group, counted from 0 by ascending id.
        sizes: int64[G], rows in each group.
    """

    def __init__(self, group_ids: Array) -> None:
        xp = self._xp = namespace(group_ids)
        sorted_already = bool(xp.all(group_ids[1:] >= group_ids[:-1]))
        self._order = None if sorted_already else xp.argsort(group_ids, stable=True)
        ids = self._by_group(group_ids)
        changes = ids[1:] != ids[:-1]
        first = xp.concat([xp.ones_like(ids[:1], dtype=xp.bool), changes])
        self.index = index = xp.cumulative_sum(xp.astype(first, xp.int64)) - 1
        if self._order is not None:
            self.index = xp.empty_like(index)
            self.index[self._order] = index
        self._starts = xp.nonzero(first)[0]
        end = xp.full_like(self._starts[:1], len(ids))
        self.sizes = xp.concat([self._starts[1:], end]) - self._starts

    @classmethod
    def single(cls, like: Array) -> Self:
        """All rows in one group."""
        xp = namespace(like)
        return cls(xp.zeros(like.shape[0], dtype=xp.int64, device=device(like)))

    def __len__(self) -> int:
        return int(self.sizes.shape[0])

    def spread(self, per_group: Array) -> Array:
        """Return each row's group value: [G] to [N]."""
        return self._xp.take(per_group, self.index)

    def _by_group(self, values: Array) -> Array:
        """The values by ascending group, in it by input order: [N]; most batches are in that order."""
        return values if self._order is None else self._xp.take(values, self._order)

    def _reduce(self, values: Array, how: Reduction) -> Array:
        """Reduce each group; the array API has no function for it."""
        if not len(self):
            return values[:0]
        ordered = self._by_group(values)
        if not is_torch_array(ordered):
            return _UFUNCS[how].reduceat(ordered, self._starts)
        import torch

        return torch.segment_reduce(ordered, how, lengths=self.sizes, unsafe=True)

    def sum(self, values: Array, where: Array | None = None) -> Array:
        """Sum of each group: [N] to [G]."""
        kept = double(values) if where is None else select(where, double(values), 0.0)
        return self._reduce(kept, "sum")

    def count(self, where: Array) -> Array:
        """Rows of each group in the mask, as float64[G]."""
        return self._reduce(double(where), "sum")

    def mean(self, values: Array, where: Array | None = None, empty: float = 0.0) -> Array:
        """Mean of each group; `empty` for a group without rows."""
        count = double(self.sizes) if where is None else self.count(where)
        return select(count > 0, self.sum(values, where) / bound(count, min=1), empty)

    def max(self, values: Array, where: Array | None = None, empty: float = 0.0) -> Array:
        """Largest value of each group; `empty` for a group without rows."""
        return self._extreme(values, where, empty, "max", -math.inf)

    def min(self, values: Array, where: Array | None = None, empty: float = 0.0) -> Array:
        """Smallest value of each group; `empty` for a group without rows."""
        return self._extreme(values, where, empty, "min", math.inf)

    def _extreme(
        self, values: Array, where: Array | None, empty: float, how: Reduction, beyond: float
    ) -> Array:
        kept = double(values) if where is None else select(where, double(values), beyond)
        found = self._reduce(kept, how)
        return select(found != beyond, found, empty)

    def resolution(self, values: Array, where: Array | None = None) -> Array:
        """Largest difference of each group's values that counts as rounding: [G]."""
        return ROUNDING * self.max(abs(double(values)), where)

    def moments(
        self,
        values: Array,
        ddof: int,
        where: Array | None = None,
        *,
        float32_bessel: bool = False,
        parts: Array | None = None,
    ) -> tuple[Array, Array]:
        """Mean and standard deviation of each group, 0 where rows are too few.

        Measured from the smallest value, so that the deviation of equal values is exactly 0; one
        that rounding explains is 0 too.
        `float32_bessel` rounds n / (n - ddof) to single precision, as TRL does. `parts`, [N], is the
        sum of the absolute summands of values that are sums, and decides how exact they are.
        """
        count = double(self.sizes) if where is None else self.count(where)
        low = self.min(values, where)
        height = values - self.spread(low)
        mean = self.mean(height, where)
        gap = height - self.spread(mean)
        bessel = count / bound(count - ddof, min=1)
        if float32_bessel:
            bessel = double(self._xp.astype(bessel, self._xp.float32))
        variance = self.sum(gap * gap, where) / bound(count, min=1) * bessel
        deviation = self._xp.sqrt(variance)
        least = self.resolution(values if parts is None else parts, where)
        return low + mean, select((count > ddof) & (deviation > least), deviation, 0.0)

    def z_score(
        self,
        values: Array,
        ddof: int,
        eps: float,
        where: Array | None = None,
        *,
        float32_bessel: bool = False,
        parts: Array | None = None,
    ) -> Array:
        """Distance to the group's mean in standard deviations plus eps; 0 without any: [N]."""
        mean, deviation = self.moments(
            values, ddof, where, float32_bessel=float32_bessel, parts=parts
        )
        return ratio(values - self.spread(mean), self.spread(deviation + eps))

    def _sorted_within(self, values: Array) -> Array:
        """Rows by group, in it by value, and equal ones by input order: int64[N]."""
        xp = self._xp
        order = xp.argsort(_sortable(values), stable=False)
        ordered = xp.take(values, order)
        change = xp.astype(ordered[1:] != ordered[:-1], xp.int64)
        rank = xp.zeros_like(self.index)
        rank[order[1:]] = xp.cumulative_sum(change)
        # One sort by group and rank: NumPy's stable sort is fast on nearly sorted values only.
        return xp.argsort(self.index * len(order) + rank, stable=True)

    def first_smallest(self, values: Array) -> Array:
        """bool[N]: the row is the first of its group's smallest."""
        rows = self._xp.arange(len(values), device=device(values))
        lowest = values == self.spread(self.min(values))
        return rows == self.spread(self.min(rows, lowest))

    def smallest(self, values: Array, k: int) -> Array:
        """bool[N]: the row is among the k smallest of its group; of equals, the earlier."""
        order = self._sorted_within(values)
        starts = self._xp.take(self.spread(self._starts), order)
        place = self._xp.arange(len(order), device=device(order)) - starts
        chosen = self._xp.empty_like(order, dtype=self._xp.bool)
        chosen[order] = place < k
        return chosen

    def quantile(self, values: Array, fraction: float, where: Array | None = None) -> Array:
        """Quantile of each group, linear between neighbours (NumPy's default); NaN if empty.

        `fraction` 0.5 is the median, the mean of the two middle values.
        """
        kept = double(values) if where is None else select(where, double(values), math.inf)
        ordered = self._xp.take(kept, self._sorted_within(kept))
        count = self.sizes if where is None else self._whole(self.count(where))
        last = bound(count - 1, min=0)
        position = double(last) * fraction
        low = self._whole(self._xp.floor(position))
        high = self._xp.minimum(low + 1, last)
        some = count > 0
        below = select(some, ordered[self._starts + low], math.nan)
        above = select(some, ordered[self._starts + high], math.nan)
        share, gap = position - double(low), above - below
        # Interpolate from the nearer neighbour, so that fractions at a value return it exactly.
        return select(share < 0.5, below + share * gap, above - (1 - share) * gap)

    def _whole(self, values: Array) -> Array:
        return self._xp.astype(values, self._xp.int64)


def ratio(part: Array, whole: Array) -> Array:
    """`part / whole`, and 0 where the whole, which is not negative, is 0."""
    return select(whole > 0, part / select(whole > 0, whole, 1.0), 0.0)


def _sortable(values: Array) -> Array:
    """int64 in the order of the values: torch sorts integers several times faster than floats.

    The bits of a positive float, read as an integer, have its order; those of a negative float are
    inverted. Adding 0 turns -0 into 0.
    """
    xp = namespace(values)
    if not xp.isdtype(values.dtype, "real floating"):
        return values
    bits = (double(values) + 0.0).view(xp.int64)
    return bits ^ ((bits >> 63) & (2**63 - 1))
