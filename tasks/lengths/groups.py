"""Order-independent statistics of groups, deterministic on every device.

- Rows are sorted by group and reduced segment by segment; no floating-point scatter-add,
  whose order on CUDA changes from run to run.
- A mask leaves rows out of a statistic; a group without rows gets the stated filler.
"""

from typing import Literal, Self

import torch
from torch import Tensor

Reduction = Literal["sum", "max", "min"]


class Groups:
    """Rows by group.

    Args:
        group_ids: int64[N], any values, in any order.

    Attributes:
        index: int64[N], each row's group, counted from 0 by ascending id.
        sizes: int64[G], rows in each group.
    """

    def __init__(self, group_ids: Tensor) -> None:
        ids, self._order = torch.sort(group_ids, stable=True)
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        self.index = torch.empty_like(ids).scatter_(0, self._order, first.cumsum(0) - 1)
        self._starts = first.nonzero().squeeze(1)
        self.sizes = torch.diff(self._starts, append=self._starts.new_tensor([len(ids)]))

    @classmethod
    def single(cls, like: Tensor) -> Self:
        """All rows in one group."""
        return cls(torch.zeros(like.shape[0], dtype=torch.int64, device=like.device))

    def __len__(self) -> int:
        return self.sizes.shape[0]

    def spread(self, per_group: Tensor) -> Tensor:
        """Give every row its group's value: [G] to [N]."""
        return per_group.index_select(0, self.index)

    def _reduce(self, values: Tensor, how: Reduction) -> Tensor:
        if not len(self):
            return values.new_zeros(0)
        return torch.segment_reduce(
            values.index_select(0, self._order), how, lengths=self.sizes, unsafe=True
        )

    def sum(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """Sum of each group: [N] to [G]."""
        kept = values.double() if where is None else values.double().where(where, 0.0)
        return self._reduce(kept, "sum")

    def count(self, where: Tensor) -> Tensor:
        """Rows of each group in the mask, as float64[G]."""
        return self._reduce(where.double(), "sum")

    def mean(self, values: Tensor, where: Tensor | None = None, empty: float = 0.0) -> Tensor:
        """Mean of each group; `empty` for a group without rows."""
        count = self.sizes.double() if where is None else self.count(where)
        return (self.sum(values, where) / count.clamp(min=1)).where(count > 0, empty)

    def max(self, values: Tensor, where: Tensor | None = None, empty: float = 0.0) -> Tensor:
        """Largest value of each group; `empty` for a group without rows."""
        return self._extreme(values, where, empty, "max", -torch.inf)

    def min(self, values: Tensor, where: Tensor | None = None, empty: float = 0.0) -> Tensor:
        """Smallest value of each group; `empty` for a group without rows."""
        return self._extreme(values, where, empty, "min", torch.inf)

    def _extreme(
        self, values: Tensor, where: Tensor | None, empty: float, how: Reduction, beyond: float
    ) -> Tensor:
        kept = values.double() if where is None else values.double().where(where, beyond)
        found = self._reduce(kept, how)
        return found.where(found != beyond, empty)

    def moments(
        self,
        values: Tensor,
        ddof: int,
        where: Tensor | None = None,
        *,
        float32_bessel: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each group, 0 where rows are too few.

        Measured from the smallest value, so that the deviation of equal values is exactly 0.
        `float32_bessel` rounds n / (n - ddof) to single precision, as TRL does.
        """
        count = self.sizes.double() if where is None else self.count(where)
        low = self.min(values, where)
        height = values - self.spread(low)
        mean = self.mean(height, where)
        gap = height - self.spread(mean)
        bessel = count / (count - ddof).clamp(min=1)
        if float32_bessel:
            bessel = bessel.float().double()
        variance = self.sum(gap * gap, where) / count.clamp(min=1) * bessel
        return low + mean, variance.sqrt().where(count > ddof, 0.0)

    def z_score(
        self,
        values: Tensor,
        ddof: int,
        eps: float,
        where: Tensor | None = None,
        *,
        float32_bessel: bool = False,
    ) -> Tensor:
        """Distance to the group's mean in standard deviations plus eps; 0 without any: [N]."""
        mean, deviation = self.moments(values, ddof, where, float32_bessel=float32_bessel)
        return ratio(values - self.spread(mean), self.spread(deviation + eps))

    def _sorted_within(self, values: Tensor) -> Tensor:
        """Rows by group, in it by value, and equal ones by input order: int64[N]."""
        by_value = torch.sort(_sortable(values), stable=True).indices
        by_group = torch.sort(self.index.index_select(0, by_value), stable=True).indices
        return by_value.index_select(0, by_group)

    def first_smallest(self, values: Tensor) -> Tensor:
        """bool[N]: the row is the first of its group's smallest."""
        rows = torch.arange(len(values), device=values.device)
        lowest = values == self.spread(self.min(values))
        return rows == self.spread(self.min(rows, lowest))

    def smallest(self, values: Tensor, k: int) -> Tensor:
        """bool[N]: the row is among the k smallest of its group; of equals, the earlier."""
        order = self._sorted_within(values)
        starts = self._starts.repeat_interleave(self.sizes)
        place = torch.arange(len(order), device=order.device) - starts
        return torch.empty_like(order, dtype=torch.bool).scatter_(0, order, place < k)

    def quantile(self, values: Tensor, fraction: float, where: Tensor | None = None) -> Tensor:
        """Quantile of each group, linear between neighbours (NumPy's default); NaN if empty.

        `fraction` 0.5 is the median, the mean of the two middle values.
        """
        kept = values.double() if where is None else values.double().where(where, torch.inf)
        ordered = kept.index_select(0, self._sorted_within(kept))
        count = self.sizes if where is None else self.count(where).long()
        position = (count - 1).clamp(min=0).double() * fraction
        low = position.floor().long()
        high = torch.minimum(low + 1, (count - 1).clamp(min=0))
        below, above = ordered[self._starts + low], ordered[self._starts + high]
        found = torch.lerp(below, above, position - low)
        return found.where(count > 0, torch.nan)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, and 0 where the whole, which is not negative, is 0."""
    return (part / whole.where(whole > 0, 1.0)).where(whole > 0, 0.0)


def _sortable(values: Tensor) -> Tensor:
    """int64 in the order of the values: torch sorts integers several times faster than floats.

    A float's bits, read as an integer, grow with it where it is positive; those of negative
    ones are turned round. Adding 0 makes one zero of two.
    """
    if not values.is_floating_point():
        return values
    bits = (values.double() + 0.0).view(torch.int64)
    return bits ^ ((bits >> 63) & torch.iinfo(torch.int64).max)
