"""Evaluates methods on plain lists, with the names of the test vectors: for plots, checks and tests.

A vector names parameters and inputs as its source repository does, and expects the value that the
source returns: a term, a total reward or a centred advantage. This module translates names and
values; the formulas are in `methods`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oyer.config.length_methods import catalogue
from oyer.tasks.lengths.arrays import Array, double, isnan, namespace, select, without_nan
from oyer.tasks.lengths.dispatch import apply
from oyer.tasks.lengths.groups import Groups
from oyer.tasks.lengths.inputs import Term
from oyer.tasks.lengths.methods.advantage import length_weighted_mean
from oyer.tasks.lengths.methods.repetition import pack

_FLAGS = frozenset({"correct", "truncated", "no_think", "repetitive"})
_PLAIN = frozenset({"texts", "max_response_length"})

_ON_CORRECTNESS = frozenset({"alp", "jet", "lagrangian_over_budget", "lcpo_exact", "short_rl"})
"""Methods whose sources return correctness plus the term if no base reward is given."""

_CENTRED = frozenset({"brevity_bonus", "gr3", "lc_r1_length", "linear_pass_rate"})
"""Methods whose sources return the shaped reward minus the group's baseline."""

_PRESENTATION = frozenset({"format_weight", "length_weighted_baseline", "max_tokens", "n_used"})
"""Parameters of the returned form, which no formula uses."""

_INPUTS = {
    "effort": "lengths",
    "fully_correct": "correct",
    "history_len": "history_lengths",
    "is_repetitive": "repetitive",
    "num_turns": "turns",
    "ref_acc": "reference_accuracy",
    "rewards_per_func": "components",
}
"""Inputs that the catalogue calls by another name."""

_GROUP_SIZES = ("group_size", "num_generations", "rollouts_per_prompt", "n_group")
"""Names of the number of rows that every group has."""

_COSINE = {
    "max_value_correct": "short_correct",
    "min_value_correct": "long_correct",
    "min_value_wrong": "short_wrong",
    "max_value_wrong": "long_wrong",
    "min_len_value_correct": "short_correct",
    "max_len_value_correct": "long_correct",
    "min_len_value_wrong": "short_wrong",
    "max_len_value_wrong": "long_wrong",
}
"""open-r1, TRL and the paper name the branches' values by size, ms-swift by length."""

_RENAMED: Mapping[str, Mapping[str, str]] = {
    "cosine": _COSINE,
    "laser_ngram_repetition_onset": {"n": "ngram_size"},
    "qglas": {"c": "clip"},
}

_WITHOUT_EFFECT: Mapping[str, frozenset[str]] = {
    "kimi_length_reward": frozenset({"wrong_score"}),
    "lcpo_clip": frozenset({"alpha", "delta"}),
    "length_controlled_winrate": frozenset({"glm", "seed", "C_cv"}),
    "think_length_bonus": frozenset({"unit"}),
}
"""Parameters that a source records without using them."""

_IMPLIED: Mapping[tuple[str, str], tuple[str, Any]] = {
    ("kimi_length_reward", "correct_score"): ("singleton", "min0_max1"),
    ("lcpo_exact", "delta"): ("cap", 1.0),
}
"""Parameters of one source only, and our parameter for its rule (LASER, prime-rl)."""

_VALUES: Mapping[tuple[str, Any], str] = {
    ("unit", "lowercased_whitespace_words"): "words",
    ("unit", "characters"): "chars",
    ("metric", "token_efficiency"): "efficiency",
    ("metric", "reward_per_token"): "efficiency",
}

JET_FORMAT_WEIGHT = 0.1
"""Share of the format score, which is 1, in the total that JET's script returns."""


def evaluate(method: str, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    """Compute the value that a vector of the method expects, from and to plain lists.

    Args:
        method: a name of the catalogue.
        params: parameters in the catalogue's words or in those of the vectors' sources.
        inputs: columns as lists, None for a missing score or history.

    Returns:
        a list of floats, or of lists: the method's term, added to or multiplied into
        `base_reward` where that is given; for some methods the total or the centred advantage
        that their sources return.

    Raises:
        InvalidConfig: the method is unknown, or a parameter is wrong.
        InvalidLengthCall: a required input is missing.
    """
    found = catalogue.find(method)
    aside = {*_GROUP_SIZES, *_PRESENTATION}
    named = {**params, **{name: inputs[name] for name in aside & inputs.keys()}}
    sizes = [named.pop(name) for name in _GROUP_SIZES if name in named]
    size = sizes[0] if sizes else None
    shown = {name: named.pop(name) for name in _PRESENTATION & named.keys()}
    columns = _columns({name: inputs[name] for name in inputs.keys() - aside}, size)
    if "correct" in found.columns and "correct" not in columns and "base_reward" in columns:
        columns["correct"] = columns["base_reward"] > 0
    columns.setdefault("quality", columns.get("base_reward"))
    term = apply(found, _translated(method, named), columns, size)
    return _present(method, term, columns, shown)


def _translated(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a vector's parameters to the catalogue's names; unknown names are kept."""
    renamed = _RENAMED.get(method, {})
    ours: dict[str, Any] = {}
    for name, value in params.items():
        if name in _WITHOUT_EFFECT.get(method, ()):
            continue
        if (method, name) in _IMPLIED:
            implied, rule = _IMPLIED[method, name]
            ours[implied] = rule
        elif isinstance(value, str):
            ours[name] = _VALUES.get((name, value), value)
        else:
            ours[renamed.get(name, name)] = value
    return ours


def _columns(inputs: Mapping[str, Any], size: int | None) -> dict[str, Any]:
    """Return arrays by the catalogue's names; with only a group size, rows are grouped in order."""
    ours = {_INPUTS.get(name, name): values for name, values in inputs.items()}
    columns = {name: _column(name, values) for name, values in ours.items()}
    if size and "group_ids" not in columns:
        rows = max(len(column) for column in columns.values())
        columns["group_ids"] = np.arange(rows) // size
    return columns


def _column(name: str, values: Any) -> Any:
    if name in _PLAIN:
        return values
    if name == "token_ids":
        return pack(values)
    if name == "group_ids":
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=int)
    if isinstance(values, Mapping):
        return {key: np.array(column, dtype=float) for key, column in values.items()}
    if name in _FLAGS:
        return np.array([bool(value) for value in values], dtype=bool)
    if name.endswith("lengths") and all(isinstance(value, int) for value in values):
        return np.array(values, dtype=np.int64)
    return np.array(_with_nan(values), dtype=float)


def _with_nan(values: Any) -> Any:
    if isinstance(values, Sequence):
        return [_with_nan(value) for value in values]
    return math.nan if values is None else values


def _present(method: str, term: Term, columns: Mapping[str, Any], shown: Mapping[str, Any]) -> Any:
    """Return the values as the method's source does, as lists."""
    values = term.values
    if term.kind == "per_token":
        return _rows(values, columns["token_ids"].cu_seqlens, shown.get("max_tokens"))
    if method == "concave_effort":
        values = -values
    elif method == "consecutive_ngram_loop" and len(values) == 1:
        values = values[0]
    elif method == "o1_pruner" and "n_used" in shown:
        values = values[_first(columns["group_ids"], shown["n_used"])]
    base = _base(method, columns, shown)
    if term.kind in ("add", "multiply") and base is not None:
        values = base + values if term.kind == "add" else _multiplied(method, values, base, columns)
        if method in _CENTRED:
            values = _centred(values, columns, bool(shown.get("length_weighted_baseline")))
    return double(values).tolist()


def _first(group_ids: Array, k: int) -> Array:
    """bool[N]: the row is among the first k of its group."""
    return Groups(group_ids).smallest(namespace(group_ids).zeros_like(group_ids), k)


def _base(method: str, columns: Mapping[str, Any], shown: Mapping[str, Any]) -> Array | None:
    """Return the reward to combine with the term; None returns the term alone."""
    if "base_reward" in columns or method not in _ON_CORRECTNESS:
        return columns.get("base_reward")
    correct: Array = double(columns["correct"])
    if method != "jet":
        return correct
    share = float(shown.get("format_weight", JET_FORMAT_WEIGHT))
    return (1 - share) * correct + share


def _multiplied(method: str, factor: Array, base: Array, columns: Mapping[str, Any]) -> Array:
    """Multiply; LASER keeps the score of a wrong row, which is negative."""
    shaped = base * factor
    return select(columns["correct"], shaped, base) if method == "sigmoid_length" else shaped


def _centred(values: Array, columns: Mapping[str, Any], length_weighted: bool) -> Array:
    groups, known = Groups(columns["group_ids"]), ~isnan(values)
    if length_weighted:
        baseline = length_weighted_mean(without_nan(values), columns["lengths"], groups, known)
    else:
        baseline = groups.mean(values, known)
    return select(known, values - groups.spread(baseline), 0.0)


def _rows(values: Array, cu_seqlens: Array, width: int | None) -> list[list[float]]:
    """Split packed values by row, cut or padded with 0 to a given width."""
    rows = []
    for start, stop in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        row = values[start:stop].tolist()
        rows.append(row if width is None else (row + [0.0] * width)[:width])
    return rows
