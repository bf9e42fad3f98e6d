"""Rewards of a few rollouts, composed from scores that a test names."""

from typing import Any

import numpy as np

from oyer.config.reward import JudgeConfig, RewardRules
from oyer.protocol.batch import Columns
from oyer.protocol.partial_results import LengthResult
from oyer.protocol.status import Status
from oyer.tasks.rewards.compose import ComposedRewards, RewardInputs, compose
from oyer.tasks.rewards.missing_judges import Verdicts


def judge(name: str = "q", weight: float = 0.1) -> JudgeConfig:
    return JudgeConfig.model_validate(
        {"name": name, "endpoint": "e", "model": "m", "weight": weight}
    )


def verdicts(*rows: float | Status) -> Verdicts:
    """Build one judge's verdicts; a number is a score, a status a missing score."""
    return Verdicts(
        scores=np.array([np.nan if isinstance(row, Status) else row for row in rows], dtype=float),
        statuses=[row if isinstance(row, Status) else Status.SCORED for row in rows],
    )


def composed(
    *judged: Verdicts,
    base: list[float] | None = None,
    groups: list[str | None] | None = None,
    weights: list[float] | None = None,
    correct: list[bool | None] | None = None,
    lengths: LengthResult | None = None,
    **rules: Any,
) -> ComposedRewards:
    n = len(judged[0].statuses) if judged else len(base or [])
    judges = [judge(f"q{k}", weights[k] if weights else 0.1) for k in range(len(judged))]
    inputs = RewardInputs(
        columns=columns(base if base is not None else [1.0] * n, groups, correct),
        judges=judges,
        verdicts={j.name: v for j, v in zip(judges, judged, strict=True)},
        rules=RewardRules.model_validate(rules),
    )
    return compose(inputs, lengths)


def columns(
    base: list[float],
    groups: list[str | None] | None = None,
    correct: list[bool | None] | None = None,
) -> Columns:
    n = len(base)
    return Columns(
        group_ids=groups or ["g"] * n,
        base_score=[None if np.isnan(score) else score for score in base],
        correct=correct or [None] * n,
        truncated=[False] * n,
        response_tokens=[None] * n,
    )
