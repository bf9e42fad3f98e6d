"""Computes the values of a length method over length, for plots.

One group has a correct and an incorrect row of each length up to a limit. Other inputs are fixed:
quality is 1 or 0 by correctness; targets, histories and references are half the limit; all tokens
are reasoning tokens. For n-gram methods, a row of L tokens repeats its first `LOOP` tokens. For
methods that use truncation only, rows are finished or truncated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oyer.config.length_methods.catalogue import find, needs, validate
from oyer.config.length_methods.method import Method
from oyer.protocol.errors import InvalidLengthCall

POINTS = 161
"""Number of plotted lengths; odd, so that it includes the middle of the range."""

LOOP = 256
"""Period of the repeated tokens in a row, for n-gram methods."""

DEFAULT_MAX_LENGTH = 8192
"""Maximum plotted length of a method without a limit, in tokens."""

_DRAWN = {
    "add": "added to the reward",
    "multiply": "factor of the reward",
    "total": "the reward",
    "advantage": "the advantage",
    "mask": "kept in the loss",
}


@dataclass(frozen=True)
class Curves:
    """The values of a method over length."""

    title: str
    """The method with its non-default parameters."""
    what: str
    """The kind of the values."""
    lengths: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    """Values over the lengths, by kind of row."""


def curves(name: str, params: Mapping[str, Any], max_length: int | None = None) -> Curves:
    """Compute the values of a method over length.

    Raises:
        InvalidConfig: the method is unknown, or a parameter is wrong.
        InvalidLengthCall: the method does not have one value per row.
    """
    method = find(name)
    if method.kind not in _DRAWN:
        raise InvalidLengthCall(
            f"{name}: has values of kind {method.kind!r}, which cannot be plotted over length; see"
            " `oyer length list`"
        )
    checked = validate(method, params)
    needed = needs(name, params)
    top = max_length or _top(checked.model_dump())
    lengths = np.unique(np.linspace(1, top, POINTS).round().astype(np.int64))
    kinds = _kinds(method, needed)
    values = _values(method, params, lengths, kinds)
    given = ", ".join(f"{key} {value}" for key, value in params.items())
    return Curves(
        title=f"{name} ({given})" if given else name,
        what=_DRAWN[method.kind],
        lengths=lengths,
        values={
            kind: values[i * len(lengths) : (i + 1) * len(lengths)] for i, kind in enumerate(kinds)
        },
    )


def _top(params: Mapping[str, Any]) -> int:
    """Return a length beyond the method's limit, so that the plot shows values on both sides."""
    limit = params.get("max_len") or params.get("high") or params.get("low_ub")
    return int(limit * 1.25) if isinstance(limit, int) else DEFAULT_MAX_LENGTH


def _kinds(method: Method, needed: frozenset[str]) -> tuple[str, ...]:
    if any(name.split("|")[-1] in ("correct", "quality", "components") for name in needed):
        return ("right", "wrong")
    if "truncated" in needed:
        return ("finished", "truncated")
    return ("every row",)


def _values(
    method: Method, params: Mapping[str, Any], lengths: NDArray[np.int64], kinds: tuple[str, ...]
) -> NDArray[np.float64]:
    from oyer.tasks.lengths import Inputs, compute, pack

    rows = np.tile(lengths, len(kinds))
    first = np.arange(len(rows)) < len(lengths)
    right = first if kinds[0] == "right" else np.ones_like(first)
    half = np.full_like(rows, int(lengths[-1]) // 2)
    score = right.astype(np.float64)
    inputs = Inputs(
        lengths=rows,
        group_ids=np.zeros_like(rows),
        correct=right,
        quality=score,
        base_reward=score,
        truncated=~first if "truncated" in kinds else np.zeros_like(first),
        think_lengths=rows,
        answer_lengths=np.zeros_like(rows),
        target_lengths=half,
        history_lengths=half.astype(np.float64),
        reference_lengths=half.astype(np.float64),
        reference_accuracy=np.full_like(score, 0.5),
        total_tokens=rows,
        turns=np.ones_like(rows),
        no_think=~right,
        repetitive=np.zeros_like(first),
        components=np.stack([score, -rows / rows.max()], axis=1),
    )
    if "token_ids" in method.columns:
        loop = np.arange(LOOP, dtype=np.int32)
        ids = pack([np.resize(loop, int(n)).tolist() for n in rows])
        inputs = Inputs(**{**vars(inputs), "token_ids": ids})
    return np.asarray(compute(method.name, params, inputs).values, dtype=np.float64)
