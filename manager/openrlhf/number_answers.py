"""Answers of protocols that carry nothing but numbers: OpenRLHF's, and those like it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from oyer.config.reward import RewardConfig
from oyer.manager.adapters import component_columns, component_names
from oyer.manager.score import Score
from oyer.manager.stand_ins import is_missing, judge_weights, mean_judge_score
from oyer.protocol.status import Status

Answer = dict[str, Any]


def missing_reward(score: Score, stand_in: float) -> float:
    """Return the reward, or `stand_in` if there is none: OpenRLHF's baselines take no NaN or None."""
    return score.reward if score.trainable else stand_in


def answer(
    scores: Sequence[Score], config: RewardConfig, stand_ins: Sequence[float] | None = None
) -> Answer:
    """Convert scores to OpenRLHF's answer: finite numbers in lists of equal length.

    Args:
        scores: of the rows.
        config: names the judges and length terms, whose keys every answer has.
        stand_ins: the numbers for missing rewards, 0 by default.

    Returns:
        `rewards`; `scores` in [0, 1] for dynamic filtering (the judges' score relative to their
        scales, or its mean over the group if it is missing; 0 for a gated rollout; the reward if
        there is no judge score); `extra_logs`, with one key per judge and length term.
    """
    rewards = [
        missing_reward(score, stand_in)
        for score, stand_in in zip(scores, stand_ins or [0.0] * len(scores), strict=True)
    ]
    low, high = _judges_scale(config)
    judged = [_judge_score(score, config) for score in scores]
    return {
        "rewards": rewards,
        "scores": [
            (number - low) / (high - low)
            if math.isfinite(number) and high > low
            else 0.0
            if score.status == Status.GATED
            else reward
            for score, number, reward in zip(scores, judged, rewards, strict=True)
        ],
        "extra_logs": {
            "oyer_missing": [float(is_missing(score)) for score in scores],
            "oyer_judge_score": [_finite(number) for number in judged],
            "oyer_length_term": [_finite(score.length_term) for score in scores],
            **component_columns(scores, names=component_names(config)),
        },
    }


def _judge_score(score: Score, config: RewardConfig) -> float:
    """Return the judges' score, or its mean over the rollout's group if it is missing."""
    if math.isfinite(score.judge_score) or score.status == Status.GATED:
        return score.judge_score
    return mean_judge_score(score, config)


def _judges_scale(config: RewardConfig) -> tuple[float, float]:
    """Return the range of `Score.judge_score`, the weighted mean over judges."""
    weights = dict(judge_weights(config))
    if not weights:
        return 0.0, 0.0
    scales = {judge.name: judge.counted_scale for judge in config.judges}
    judged = [scales[name] for name in weights]
    low, high = np.average(judged, axis=0, weights=list(weights.values()))
    return float(low), float(high)


def _finite(value: float) -> float:
    """Replace NaN, which JSON and OpenRLHF's averages do not take, with 0; see `oyer_missing`."""
    return value if math.isfinite(value) else 0.0
