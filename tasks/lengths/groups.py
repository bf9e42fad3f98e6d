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
        _, self.index, self.sizes = torch.unique(
            group_ids, return_inverse=True, return_counts=True
        )
        self._order = torch.argsort(self.index, stable=True)

    @classmethod
    def single(cls, like: Tensor) -> Self:
        """All rows in one group."""
        return cls(torch.zeros(like.shape[0], dtype=torch.int64, device=like.device))

    def __len__(self) -> int:
        return self.sizes.shape[0]

    def spread(self, per_group: Tensor) -> Tensor:
        """Give every row its group's value: [G] to [N]."""
        return per_group[self.index]

    def _reduce(self, values: Tensor, how: Reduction) -> Tensor:
        if not len(self):
            return values.new_zeros(0)
        return torch.segment_reduce(values[self._order], how, lengths=self.sizes, unsafe=True)

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

    def std(self, values: Tensor, ddof: int, where: Tensor | None = None) -> Tensor:
        """Standard deviation of each group; 0 where there are too few rows.

        Two passes, so that equal values give exactly 0.
        """
        count = self.sizes.double() if where is None else self.count(where)
        low = self.min(values, where)
        offset = self.mean(values - self.spread(low), where)
        gap = values.double() - self.spread(low) - self.spread(offset)
        squares = self.sum(gap * gap, where)
        spread = self.max(values, where) - low
        found = (squares / (count - ddof).clamp(min=1)).sqrt()
        return found.where((count > ddof) & (spread > 0), 0.0)

    def sorted_within(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rows by group and then by value: (positions [N], first position of each group [G])."""
        by_value = torch.argsort(values, stable=True)
        order = by_value[torch.argsort(self.index[by_value], stable=True)]
        return order, self.sizes.cumsum(0) - self.sizes

    def rank(self, values: Tensor) -> Tensor:
        """Each row's place in its group by ascending value, from 0; ties by input order."""
        order, starts = self.sorted_within(values)
        place = torch.arange(len(order), device=order.device) - starts.repeat_interleave(self.sizes)
        return torch.empty_like(order).scatter_(0, order, place)

    def quantile(self, values: Tensor, fraction: float, where: Tensor | None = None) -> Tensor:
        """Quantile of each group, linear between neighbours (NumPy's default); NaN if empty.

        `fraction` 0.5 is the median, the mean of the two middle values.
        """
        kept = values.double() if where is None else values.double().where(where, torch.inf)
        order, starts = self.sorted_within(kept)
        count = self.sizes if where is None else self.count(where).long()
        position = (count - 1).clamp(min=0).double() * fraction
        low = position.floor().long()
        high = torch.minimum(low + 1, (count - 1).clamp(min=0))
        ordered = kept[order]
        below, above = ordered[starts + low], ordered[starts + high]
        found = torch.lerp(below, above, position - low)
        return found.where(count > 0, torch.nan)
