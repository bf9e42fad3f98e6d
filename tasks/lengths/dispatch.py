"""Runs a length method on the columns of a batch."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from oyer.config.length_methods import catalogue
from oyer.config.length_methods.method import Method
from oyer.protocol.errors import InvalidLengthCall
from oyer.tasks.lengths.arrays import Array, is_torch_array, to_kind_of
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import Inputs, PackedTokens, Term

MEANINGS = {
    "base_reward": "the reward that is shaped",
    "correct": "whether each row is correct",
    "group_ids": "each row's prompt",
    "history_lengths": "each prompt's shortest correct length so far, NaN for none",
    "quality": "each row's score",
    "quality>=0": "each row's score, not negative",
    "target_lengths": "the length asked for",
}
"""Explains a missing column in an error."""


def compute(method: str, params: Mapping[str, Any], inputs: Inputs) -> Term:
    """Compute a length term.

    Args:
        method: a name of the catalogue.
        params: the method's parameters; defaults are filled in.
        inputs: the batch's columns, NumPy arrays or torch tensors on one device; the returned
            values are of the same kind.

    Raises:
        InvalidConfig: the method is unknown, or a parameter is wrong.
        InvalidLengthCall: a required input is missing or out of bounds; the message names it.
    """
    found = catalogue.find(method)
    columns = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    size = columns.pop("group_size")
    if columns["quality"] is None:
        columns["quality"] = inputs.base_reward
    return apply(found, params, columns, size)


def apply(
    method: Method, params: Mapping[str, Any], columns: Mapping[str, Any], size: int | None
) -> Term:
    """Run `compute` on columns by name, in groups of `size` rows if given."""
    checked = catalogue.validate(method, params)
    present = {name: column for name, column in columns.items() if column is not None}
    needs = method.needs | checked.also_needs()
    for need in sorted(needs):
        _check_need(method, need, present)
    _check_rows(method, present)
    if "group_ids" in needs and size is not None:
        _check_group_size(method, present["group_ids"], size)
    taken = {name: present[name] for name in method.columns if name in present}
    tensor = next((column for column in present.values() if is_torch_array(column)), None)
    if tensor is not None and "token_ids" in taken:
        taken["token_ids"] = _on_device_of(taken["token_ids"], tensor)
    # The logarithm of 0 and the like are part of the formulas, as in torch.
    with np.errstate(all="ignore"):
        result = method.load()(**taken, **checked.model_dump())
    term = result if isinstance(result, Term) else Term(method.kind, result)
    return term if tensor is None else replace(term, values=to_kind_of(term.values, tensor))


def _on_device_of(tokens: PackedTokens, tensor: Array) -> PackedTokens:
    ids, cu_seqlens = (to_kind_of(part, tensor) for part in (tokens.ids, tokens.cu_seqlens))
    return PackedTokens(ids, cu_seqlens)


def _check_need(method: Method, need: str, columns: Mapping[str, Any]) -> None:
    name, bounded, bound = need.partition(">=")
    if not any(either in columns for either in name.split("|")):
        meaning = f" ({MEANINGS[need]})" if need in MEANINGS else ""
        raise InvalidLengthCall(
            f"{method.name} needs `{name.replace('|', '` or `')}`{meaning}: pass it, or "
            "choose another method"
        )
    if bounded and bool((columns[name] < float(bound)).any()):
        raise InvalidLengthCall(
            f"{method.name} needs `{name}` of at least {bound}: a lower score would turn its "
            "sign; map the scores to [0, 1], or choose an additive method"
        )


def _check_rows(method: Method, columns: Mapping[str, Any]) -> None:
    """Refuse columns of different lengths."""
    rows = {name: _rows(columns[name]) for name in method.columns if name in columns}
    counts = {name: count for name, count in rows.items() if count is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise InvalidLengthCall(
            f"{method.name}: columns differ in rows: {listed}; give a value per row"
        )


def _rows(column: Any) -> int | None:
    if isinstance(column, PackedTokens):
        return len(column.cu_seqlens) - 1
    is_column = hasattr(column, "shape") or isinstance(column, (list, tuple))
    return len(column) if is_column else None


def _check_group_size(method: Method, group_ids: Array, size: int) -> None:
    groups = Groups(group_ids)
    wrong = groups.sizes[groups.sizes != size].tolist()
    if wrong:
        raise InvalidLengthCall(
            f"{method.name} needs groups of {size} rows; {len(wrong)} of {len(groups)} groups "
            f"have another size, the first {wrong[0]}: wait for the rest, or drop the group"
        )
