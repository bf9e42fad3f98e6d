"""The words of the test vectors, which are those of many repositories, in the catalogue's words."""

from collections.abc import Mapping
from typing import Any

INPUTS = {
    "effort": "lengths",
    "fully_correct": "correct",
    "history_len": "history_lengths",
    "is_repetitive": "repetitive",
    "num_turns": "turns",
    "ref_acc": "reference_accuracy",
    "rewards_per_func": "components",
}
"""Inputs that the catalogue calls by another name."""

GROUP_SIZES = ("group_size", "num_generations", "rollouts_per_prompt", "n_group")
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
"""Parameters that a source records and its formula does not use."""

_IMPLIED: Mapping[tuple[str, str], tuple[str, Any]] = {
    ("kimi_length_reward", "correct_score"): ("singleton", "min0_max1"),
    ("lcpo_exact", "delta"): ("cap", 1.0),
}
"""Parameters that only one source has, and the rule of that source (LASER, prime-rl)."""

_VALUES: Mapping[tuple[str, Any], str] = {
    ("unit", "lowercased_whitespace_words"): "words",
    ("unit", "characters"): "chars",
    ("metric", "token_efficiency"): "efficiency",
    ("metric", "reward_per_token"): "efficiency",
}


def translate(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """A vector's parameters in the catalogue's words; unknown ones are left as they are."""
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
