"""Runs the length methods of a configuration on a batch.

- A row with a missing input (a judge's score, a closing marker) is excluded from the statistics
  and from training; its term is NaN.
- A truncated row under `mask` is excluded from both as well; its term is neutral.
- A truncated row under `wrong` counts as wrong. If a method compares lengths without correctness,
  the statistics of the other rows exclude it, and its own include all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oyer.config.length import term_names
from oyer.config.reward import LengthConfig
from oyer.protocol.partial_results import Floats, LengthResult
from oyer.protocol.token_ids import TokenIds
from oyer.tasks.lengths import Inputs, PackedTokens, compute
from oyer.tasks.lengths.arrays import Array, to_numpy
from oyer.tasks.lengths.inputs import Term
from oyer.tasks.rewards.length_columns import Counts, Flags, LengthInputs

if TYPE_CHECKING:
    import torch

_WHOLE = frozenset(
    {
        "lengths",
        "group_ids",
        "think_lengths",
        "answer_lengths",
        "target_lengths",
        "total_tokens",
        "turns",
    }
)
_FLAGS = frozenset({"correct", "truncated", "no_think", "repetitive"})


@dataclass(frozen=True)
class _Shaped:
    """The result of one method, `[N]` each."""

    kind: str
    values: Floats
    """The term; if the method computes the whole reward, the change to the reward it replaces."""
    history: Floats | None
    kept: Flags
    """False where the row is excluded from training."""


def length_part(
    items: Sequence[LengthConfig], inputs: LengthInputs, device: "torch.device | None" = None
) -> LengthResult:
    """Compute all length terms of a batch, with torch on a device, else with NumPy.

    Raises:
        InvalidLengthCall: a required input is missing, which only the batch's scores could show.
    """
    kept = np.ones(len(inputs), dtype=bool)
    part = LengthResult(kept=kept)
    named = list(zip(term_names(items), items, strict=True))
    for name, item in named:
        if not item.aggregates:
            shaped = _shaped(item, inputs, device)
            kept &= shaped.kept
            _put(part, name, item.weight, shaped)
    for name, item in named:
        if item.aggregates:
            part.advantages[name] = _aggregated(item, inputs, part, device)
    return part


def _put(part: LengthResult, name: str, weight: float, shaped: _Shaped) -> None:
    if shaped.history is not None:
        part.history[name] = shaped.history
    if shaped.kind == "multiply":
        part.multiplied[name] = shaped.values
    elif shaped.kind == "advantage":
        part.advantages[name] = shaped.values
    elif shaped.kind == "total":
        part.changed[name] = weight * shaped.values
    elif shaped.kind == "add":
        part.added[name] = weight * shaped.values


def _shaped(item: LengthConfig, inputs: LengthInputs, device: "torch.device | None") -> _Shaped:
    columns, unknown = inputs.of(item)
    masked = inputs.truncated & (item.truncated == "mask") & ~unknown
    rows = np.flatnonzero(~(unknown | masked))
    kind: str = item.kind
    values = np.full(len(inputs), np.nan)
    history = columns["history_lengths"].copy() if "history_lengths" in columns else None
    if len(rows):
        term = _computed(item, columns, rows, device)
        kind, values[rows] = term.kind, to_numpy(term.values)
        if term.history is not None and history is not None:
            history[rows] = to_numpy(term.history)
    others = rows[~inputs.truncated[rows]]
    if _apart(item) and 0 < len(others) < len(rows):
        values[others] = to_numpy(_computed(item, columns, others, device).values)
    if kind == "total":
        values -= inputs.replaced(item)
    # Replaces -0.0 by 0.0.
    values += 0.0
    values[masked] = 1.0 if kind == "multiply" else 0.0
    kept = ~(unknown | masked)
    return _Shaped(kind, values, history, kept & (values > 0) if kind == "mask" else kept)


def _apart(item: LengthConfig) -> bool:
    """Whether the statistics must exclude truncated rows because they do not use correctness."""
    return item.truncated == "wrong" and "group_ids" in item.needs and "correct" not in item.needs


def _aggregated(
    item: LengthConfig, inputs: LengthInputs, part: LengthResult, device: "torch.device | None"
) -> Floats:
    """Return the advantage of all terms together; NaN for a row without a reward."""
    composed = inputs.composed(part)
    components = np.stack(list(composed.summands.values()), axis=1)
    components[~composed.mask] = np.nan
    columns = {"components": components, "group_ids": inputs.group_ids}
    if "lengths" in item.needs:
        columns["lengths"] = inputs.of(item)[0]["lengths"]
    term = _computed(item, columns, np.arange(len(inputs)), device)
    return np.where(np.isnan(composed.rewards), np.nan, to_numpy(term.values))


def _computed(
    item: LengthConfig, columns: dict[str, Any], rows: Counts, device: "torch.device | None"
) -> Term:
    """Run a method on some rows of the batch."""
    chosen = {name: _array(name, column, rows, device) for name, column in columns.items()}
    return compute(item.method, item.params, Inputs(**chosen))


def _array(name: str, column: Any, rows: Counts, device: "torch.device | None") -> Any:
    if name == "texts":
        return [column[i] for i in rows]
    if isinstance(column, TokenIds):
        some = column if len(rows) == len(column.lengths) else column.pick(rows)
        return PackedTokens(_placed(some.ids, device), _placed(some.offsets, device))
    dtype = np.int64 if name in _WHOLE else np.bool_ if name in _FLAGS else np.float64
    return _placed(column[rows].astype(dtype, copy=False), device)


def _placed(values: NDArray[Any], device: "torch.device | None") -> Array:
    """Return the values on the device; None is the CPU with NumPy."""
    if device is None:
        return values
    import torch

    return torch.from_numpy(values).to(device)
