"""Composes rewards from their terms; pure, over numpy arrays.

`reward = gate · Π multipliers · (base_score + Σ weight_j · judge_j) + Σ weight_k · length_term_k`

- A missing score is NaN and a mask, never 0; the failure policy says what stands in for it.
- Terms are contributions: without gate and multipliers they add up to the reward.
- A length method that makes the whole reward contributes the change to what it replaces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oyer.config.condition import Condition
from oyer.config.reward import JudgeConfig, RewardRules
from oyer.protocol.partial_results import Floats, JudgeResult
from oyer.protocol.status import NOT_CALLED, Status
from oyer.tasks.rewards.missing_judges import Verdicts, completed


@dataclass(frozen=True)
class ComposedRewards:
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
    summands: dict[str, Floats] = field(default_factory=dict)
    """What adds up to the rewards: the terms with gate and multipliers in them."""
    scores: dict[str, Floats] = field(default_factory=dict)
    """What conditions and length methods call `base_score`, `judge`, `judge:<name>` and
    `unshaped_reward`: with the failure policy applied, NaN where a score is missing all the same.
    A gated rollout has the lowest of the judge's scale."""


def verdicts_of(
    parts: Mapping[int, JudgeResult], judges: Sequence[JudgeConfig]
) -> dict[str, Verdicts]:
    """Put the verdicts on a batch's chunks together, by judge name."""
    chunks = [parts[k] for k in sorted(parts)]
    return {
        judge.name: Verdicts(
            scores=np.array([s for part in chunks for s in part.scores[judge.name]], dtype=float),
            statuses=[s for part in chunks for s in part.statuses[judge.name]],
        )
        for judge in judges
    }


def compose(
    *,
    base_score: Floats,
    group_ids: Sequence[str | None],
    judges: Sequence[JudgeConfig],
    verdicts: Mapping[str, Verdicts],
    rules: RewardRules,
    correct: Sequence[bool | None] = (),
    added: Mapping[str, Floats] | None = None,
    multiplied: Mapping[str, Floats] | None = None,
    changed: Mapping[str, Floats] | None = None,
    kept: NDArray[np.bool_] | None = None,
) -> ComposedRewards:
    """Compose the rewards of a batch.

    Args:
        base_score: `[N]`, NaN where the rollout has none (it then adds nothing).
        group_ids: `[N]`, for `on_missing: group_mean`.
        judges: whose verdicts count, in order.
        verdicts: by judge name; a judge without verdicts is missing on every row.
        rules: gate and failure policy.
        correct: `[N]`, for `zero_unless: correct`.
        added: weighted length terms by name, `[N]` each; NaN where undefined.
        multiplied: length multipliers by name, `[N]` each.
        changed: changes to base score and judges by methods that make the whole reward.
        kept: `[N]`, false where a length method leaves the row out of training.
    """
    n = len(base_score)
    verdicts = completed(judges, verdicts, rules.min_valid_judges)
    base = np.nan_to_num(base_score, nan=0.0)
    filled = {judge.name: _filled(verdicts[judge.name], group_ids, rules) for judge in judges}
    shares = {
        # A judge of weight 0 is there for the record: its gaps make no hole in the reward.
        "judge" if len(judges) == 1 else f"judge:{judge.name}": judge.weight * filled[judge.name]
        if judge.weight
        else np.zeros(n)
        for judge in judges
    }
    judged = sum(shares.values(), np.zeros(n))
    statuses = _statuses(judges, verdicts, n)
    scores = _scores(base_score, base + judged, judges, filled, statuses)
    factors = {**_gate(rules, scores, statuses, correct), **(multiplied or {})}
    factor = np.prod([np.ones(n), *factors.values()], axis=0)
    inner = {"base_score": base, **shares, **(changed or {})}
    summands = {name: factor * term for name, term in inner.items()} | dict(added or {})
    rewards = np.sum(list(summands.values()), axis=0)
    return ComposedRewards(
        rewards=rewards,
        unshaped_rewards=base + judged,
        judge_scores=_mean_score(judges, {j.name: verdicts[j.name].scores for j in judges}, n),
        mask=np.isfinite(rewards) if kept is None else np.isfinite(rewards) & kept,
        statuses=statuses,
        terms=_unsigned({**inner, "judge": judged, **factors, **(added or {})}),
        summands=_unsigned(summands),
        scores=scores,
    )


def _unsigned(terms: Mapping[str, Floats]) -> dict[str, Floats]:
    """Write "no penalty" as 0.0 and never as -0.0."""
    return {name: values + 0.0 for name, values in terms.items()}


def meets(condition: Condition, scores: Mapping[str, Floats], statuses: Sequence[str]) -> Floats:
    """Say for `[N]` rollouts whether a condition holds: 1 or 0, NaN where nobody knows.

    A rollout that is not judged for its base score meets no condition on a judge.
    """
    held = condition.holds(scores[condition.source])
    if condition.source.startswith("judge"):
        held[_gated(statuses)] = 0.0
    return held


def _gate(
    rules: RewardRules,
    scores: Mapping[str, Floats],
    statuses: Sequence[str],
    correct: Sequence[bool | None],
) -> dict[str, Floats]:
    if rules.zero_unless is None:
        return {}
    if rules.zero_unless == "correct":
        return {"gate": np.array(correct, dtype=float)}
    return {"gate": meets(Condition.parse(rules.zero_unless), scores, statuses)}


def _scores(
    base_score: Floats,
    unshaped: Floats,
    judges: Sequence[JudgeConfig],
    filled: Mapping[str, Floats],
    statuses: Sequence[str],
) -> dict[str, Floats]:
    gated = _gated(statuses)
    judged = {
        judge.name: np.where(gated, judge.counted_scale[0], filled[judge.name]) for judge in judges
    }
    return {
        "base_score": base_score,
        "unshaped_reward": unshaped,
        "judge": _mean_score(judges, judged, len(base_score)),
        **{f"judge:{name}": scores for name, scores in judged.items()},
    }


def _gated(statuses: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([status == Status.GATED for status in statuses], dtype=bool)


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


def _group_means(verdict: Verdicts, group_ids: Sequence[str | None]) -> dict[str | None, float]:
    groups: dict[str | None, list[float]] = {}
    for group_id, score, status in zip(group_ids, verdict.scores, verdict.statuses, strict=True):
        if status == Status.SCORED:
            groups.setdefault(group_id, []).append(score)
    return {group_id: float(np.mean(scores)) for group_id, scores in groups.items()}


def _mean_score(judges: Sequence[JudgeConfig], scores: Mapping[str, Floats], n: int) -> Floats:
    if not judges:
        return np.full(n, np.nan)
    counting = [judge for judge in judges if judge.weight]
    weights = [abs(judge.weight) for judge in counting] or [1.0] * len(judges)
    stacked = np.stack([scores[judge.name] for judge in counting or judges])
    return np.asarray(np.average(stacked, axis=0, weights=weights))


def _statuses(judges: Sequence[JudgeConfig], verdicts: Mapping[str, Verdicts], n: int) -> list[str]:
    """A row's status: that of the first judge with a weight that failed, else the first such's."""
    counting = [judge for judge in judges if judge.weight] or judges
    rows = [[verdicts[judge.name].statuses[i] for judge in counting] for i in range(n)]
    return [
        next((row[i] for i in missing(row)), row[0]) if row else Status.SCORED.value for row in rows
    ]
