"""Composes rewards from their terms (DESIGN section 3); pure, over numpy arrays.

`reward = Π multipliers · (base_score + Σ weight_j · judge_j) + Σ weight_k · length_term_k`

- A missing score is NaN and a mask, never 0; the failure policy says what stands in for it.
- Terms are contributions: without multipliers they add up to the reward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oyer.tasks.config import JudgeConfig, RewardRules
from oyer.tasks.statuses import NOT_CALLED, Status

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdicts:
    """One judge's verdicts on a batch, `[N]` each."""

    scores: Floats
    """On the judge's scale; NaN where there is none."""
    statuses: list[str]


@dataclass(frozen=True)
class Composed:
    """What a batch's terms amount to, `[N]` each."""

    rewards: Floats
    """NaN where there is none."""
    unshaped_rewards: Floats
    """Base score and judges only, for samplers that filter on the raw metric."""
    judge_scores: Floats
    """As judged, NaN where there is none; the weighted mean where there are several judges."""
    mask: NDArray[np.bool_]
    """True where the reward may be trained on."""
    statuses: list[str]
    terms: dict[str, Floats] = field(default_factory=dict)


def compose(
    *,
    base_score: Floats,
    group_ids: Sequence[str | None],
    judges: Sequence[JudgeConfig],
    verdicts: Mapping[str, Verdicts],
    added: Mapping[str, Floats],
    multiplied: Mapping[str, Floats],
    rules: RewardRules,
) -> Composed:
    """Compose the rewards of a batch.

    Args:
        base_score: `[N]`, NaN where the rollout has none (it then adds nothing).
        group_ids: `[N]`, for `on_missing: group_mean`.
        judges: whose verdicts count, in order.
        verdicts: by judge name; a judge without verdicts is missing on every row.
        added: weighted length terms by name, `[N]` each; NaN where undefined.
        multiplied: length multipliers by name, `[N]` each.
        rules: gate and failure policy.
    """
    n = len(base_score)
    base = np.nan_to_num(base_score, nan=0.0)
    terms: dict[str, Floats] = {"base_score": base}
    judged = np.zeros(n)
    for judge in judges:
        contribution = judge.weight * _filled(verdicts[judge.name], group_ids, rules)
        judged = judged + contribution
        if len(judges) > 1:
            terms[f"judge:{judge.name}"] = contribution
    terms["judge"] = judged
    unshaped = base + judged
    rewards = unshaped
    for name, factor in multiplied.items():
        terms[name] = factor
        rewards = rewards * factor
    for name, term in added.items():
        terms[name] = term
        rewards = rewards + term
    return Composed(
        rewards=rewards,
        unshaped_rewards=unshaped,
        judge_scores=_mean_score(judges, verdicts, n),
        mask=np.isfinite(rewards),
        statuses=_statuses(judges, verdicts, n),
        terms=terms,
    )


def missing(statuses: Sequence[str]) -> list[int]:
    """Rows whose judgement failed: neither scored nor a decision not to call."""
    fine = {Status.SCORED, *NOT_CALLED}
    return [i for i, status in enumerate(statuses) if status not in fine]


def _filled(verdict: Verdicts, group_ids: Sequence[str | None], rules: RewardRules) -> Floats:
    """Scores with the failure policy applied; a gated rollout's judge adds nothing."""
    scores = verdict.scores.copy()
    scores[[i for i, status in enumerate(verdict.statuses) if status == Status.GATED]] = 0.0
    gaps = missing(verdict.statuses)
    if rules.on_missing == "value" and rules.value is not None:
        scores[gaps] = rules.value
    elif rules.on_missing == "group_mean" and gaps:
        means = _group_means(verdict, group_ids)
        for i in gaps:
            scores[i] = means.get(group_ids[i], np.nan)
    return scores


def _group_means(
    verdict: Verdicts, group_ids: Sequence[str | None]
) -> dict[str | None, np.float64]:
    groups: dict[str | None, list[float]] = {}
    for group_id, score, status in zip(group_ids, verdict.scores, verdict.statuses, strict=True):
        if status == Status.SCORED:
            groups.setdefault(group_id, []).append(score)
    return {group_id: np.mean(scores) for group_id, scores in groups.items()}


def _mean_score(judges: Sequence[JudgeConfig], verdicts: Mapping[str, Verdicts], n: int) -> Floats:
    if not judges:
        return np.full(n, np.nan)
    if len(judges) == 1:
        return verdicts[judges[0].name].scores
    weights = np.array([abs(judge.weight) for judge in judges])
    weights = weights if weights.any() else np.ones_like(weights)
    scores = np.stack([verdicts[judge.name].scores for judge in judges])
    return np.asarray(np.average(scores, axis=0, weights=weights))


def _statuses(judges: Sequence[JudgeConfig], verdicts: Mapping[str, Verdicts], n: int) -> list[str]:
    """A row's status: the first judge's that failed, else the first judge's."""
    rows = [[verdicts[judge.name].statuses[i] for judge in judges] for i in range(n)]
    return [
        next((row[i] for i in missing(row)), row[0]) if row else Status.SCORED.value for row in rows
    ]
