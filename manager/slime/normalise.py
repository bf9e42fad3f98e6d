"""The reward post-process: normalises rewards as slime and miles do, without missing rewards."""

import statistics
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

_STD_FLOOR = 1e-6
"""Added to a group's standard deviation, as in slime."""

_SCALED = ("grpo", "gspo", "cispo", "sapo")
_CENTRED = (*_SCALED, "reinforce_plus_plus_baseline")
"""Advantage estimators for which slime subtracts the group's mean; for `_SCALED` it also divides by
the standard deviation. `sapo` is from Relax."""


def post_process(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Normalise rewards per group as slime does, but without samples that have no reward.

    Samples of one attempt share a `rollout_id` and count once in their group. Groups may differ in
    size, as in miles.

    Returns:
        Raw and normalised rewards; a sample without a reward has the normalised reward 0.
    """
    raw = [float(_value(args, sample.reward)) for sample in samples]
    estimator = getattr(args, "advantage_estimator", "grpo")
    if estimator not in _CENTRED or not getattr(args, "rewards_normalization", True):
        return raw, list(raw)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, group in enumerate(_groups(args, samples)):
        if not samples[i].remove_sample:
            groups[group].append(i)
    normalised = [0.0] * len(raw)
    scaled = estimator in _SCALED and getattr(args, "grpo_std_normalization", True)
    for rows in groups.values():
        attempts = _attempts({i: (samples[i], raw[i]) for i in rows})
        mean = statistics.fmean(attempts)
        compared = scaled and len(attempts) > 1
        divisor = statistics.stdev(attempts) + _STD_FLOOR if compared else 1.0
        for i in rows:
            normalised[i] = (raw[i] - mean) / divisor
    return raw, normalised


def group_of(sample: Any) -> tuple[Any, Any] | None:
    """Return the group of a sample; None if it has none.

    miles numbers the groups of each LoRA adapter from 0.
    """
    if sample.group_index is None:
        return None
    return getattr(getattr(sample, "adapter", None), "name", None), sample.group_index


def _groups(args: Any, samples: Sequence[Any]) -> list[Hashable]:
    """Return the group of each sample.

    A custom rollout function may leave `group_index` out. The samples of a prompt then are
    neighbours: `n_samples_per_prompt` of them if their count fits, else those of equal prompts.
    """
    size = getattr(args, "n_samples_per_prompt", None) or len(samples)
    fits = bool(samples) and len(samples) % size == 0
    groups: list[Hashable] = []
    start = 0
    for i, sample in enumerate(samples):
        if not fits and i and sample.prompt != samples[i - 1].prompt:
            start = i
        place = ("place", i // size) if fits else ("from", start)
        groups.append(group_of(sample) or place)
    return groups


def _attempts(rows: Mapping[int, tuple[Any, float]]) -> list[float]:
    """Return one reward per attempt: the highest of its samples, as in slime."""
    rewards: dict[Any, float] = {}
    for i, (sample, reward) in rows.items():
        rollout_id = getattr(sample, "rollout_id", None)
        key = ("row", i) if rollout_id is None else ("rollout", rollout_id)
        rewards[key] = max(rewards.get(key, reward), reward)
    return list(rewards.values())


def _value(args: Any, reward: Any) -> Any:
    key = getattr(args, "reward_key", None)
    return reward[key] if key else reward
