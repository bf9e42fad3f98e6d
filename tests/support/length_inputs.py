"""Batches for the tests of the length methods, and parameters for the methods that need some."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from oyer.config.length_methods.catalogue import METHODS
from oyer.tasks.lengths import Inputs, PackedTokens, pack

NEEDED: Mapping[str, Mapping[str, Any]] = {
    "laser": {"target_length": 500},
    "length_controlled": {"phi": -1.5, "scale_len": 300.0, "reference_len": 400.0},
}
"""Parameters without a default."""

SHAPING = sorted(name for name, method in METHODS.items() if method.kind != "measure")
"""The methods that a configuration can name."""

BY_ROW = sorted(name for name in SHAPING if METHODS[name].kind != "per_token")
"""Those with one value a row."""


def make_batch(groups: int = 4, size: int = 5, seed: int = 0) -> Inputs:
    """A batch with every column; no two rows have the same length."""
    random = torch.Generator().manual_seed(seed)
    rows = groups * size

    def uniform() -> Tensor:
        return torch.rand(rows, generator=random, dtype=torch.float64)

    lengths = torch.randperm(1000, generator=random)[:rows] + 1
    tokens = [torch.randint(0, 9, (int(n),), generator=random).tolist() for n in lengths]
    return Inputs(
        lengths=lengths,
        group_ids=torch.arange(groups).repeat_interleave(size) * 7 - 3,
        correct=uniform() < 0.5,
        quality=uniform(),
        base_reward=uniform(),
        truncated=uniform() < 0.2,
        think_lengths=torch.randperm(1000, generator=random)[:rows],
        answer_lengths=torch.randperm(1000, generator=random)[:rows],
        target_lengths=torch.randint(1, 1000, (rows,), generator=random),
        history_lengths=(uniform() * 500).where(uniform() < 0.8, torch.nan),
        reference_lengths=uniform() * 500,
        reference_accuracy=uniform(),
        advantages=uniform() - 0.5,
        total_tokens=lengths + 50,
        turns=torch.randint(1, 5, (rows,), generator=random),
        no_think=uniform() < 0.5,
        repetitive=uniform() < 0.3,
        components=torch.stack([uniform(), -uniform()], dim=1),
        token_ids=pack(tokens),
        texts=[" ".join(map(str, row)) for row in tokens],
    )


def pick(inputs: Inputs, rows: Tensor) -> Inputs:
    """The given rows of a batch, in the given order."""
    chosen: dict[str, Any] = {}
    for field in fields(inputs):
        column = getattr(inputs, field.name)
        if isinstance(column, Tensor):
            chosen[field.name] = column[rows]
        elif isinstance(column, PackedTokens):
            cu = column.cu_seqlens.tolist()
            chosen[field.name] = pack([column.ids[cu[i] : cu[i + 1]].tolist() for i in rows])
        elif isinstance(column, list):
            chosen[field.name] = [column[i] for i in rows]
    return replace(inputs, **chosen)
