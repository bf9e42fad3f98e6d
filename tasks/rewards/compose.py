"""Composes rewards from their terms; pure, over numpy arrays.

`reward = gate · Π multipliers · (base_score + Σ weight_j · judge_j) + Σ weight_k · length_term_k`

- A missing score is NaN and masked, never 0; the failure policy may replace it.
- Terms are contributions: without gate and multipliers they add up to the reward.
- A length method that computes the whole reward contributes its change to the reward it replaces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oyer.config.condition import Condition
from oyer.config.reward import JudgeConfig, RewardRules
from oyer.protocol.batch import Columns
from oyer.protocol.batch_result import BatchResult, CriteriaOfRow, Float32s, number_groups
from oyer.protocol.partial_results import Floats, JudgeResult, LengthResult
from oyer.protocol.status import SETTLED, Status
from oyer.tasks.rewards.missing_judges import Verdicts, completed


@dataclass(frozen=True, kw_only=True)
class RewardInputs:
    """Everything that the rewards of a batch depend on, except its length terms."""

    columns: Columns
    """Base scores (none adds nothing), groups (for `on_missing: group_mean`) and correctness
    (for `zero_unless: correct`)."""
    judges: Sequence[JudgeConfig]
    """The judges that count, in order."""
    verdicts: Mapping[str, Verdicts]
    """By judge name."""
    rules: RewardRules
    """Gate and failure policy."""


@dataclass(frozen=True)
class ComposedRewards:
    """The rewards of a batch and their terms, `[N]` each."""

    rewards: Floats
    """NaN where there is none."""
    unshaped_rewards: Floats
    """Base score and judges only, for samplers that filter on the raw metric."""
    judge_scores: Floats
    """Scores before the failure policy, NaN where missing; with several judges, the weighted mean."""
    mask: NDArray[np.bool_]
    """True where the reward may be trained on."""
    statuses: list[str]
    terms: dict[str, Floats] = field(default_factory=dict)
    summands: dict[str, Floats] = field(default_factory=dict)
    """Terms after gate and multipliers; they add up to the rewards."""
    raw_scores: dict[str, Floats] = field(default_factory=dict)
    """Each judge's scores as they came; NaN where missing."""
    groups: list[int] = field(default_factory=list)
    """Number of each row's group, -1 without one."""
    scores: dict[str, Floats] = field(default_factory=dict)
    """`base_score`, `judge`, `judge:<name>` and `unshaped_reward` as conditions and length methods
    read them: after the failure policy, NaN where still missing. A gated rollout has the lowest
    score of the judge's scale."""


def verdicts_of(
    parts: Mapping[int, JudgeResult], judges: Sequence[JudgeConfig]
) -> dict[str, Verdicts]:
    """Concatenate the verdicts on a batch's chunks, by judge name."""
    chunks = [parts[k] for k in sorted(parts)]
    return {
        judge.name: Verdicts(
            scores=np.array([s for part in chunks for s in part.scores[judge.name]], dtype=float),
            statuses=[s for part in chunks for s in part.statuses[judge.name]],
        )
        for judge in judges
    }


def compose(inputs: RewardInputs, length: LengthResult | None = None) -> ComposedRewards:
    """Compose the rewards of a batch.

    Args:
        length: its length terms; None for none.
    """
    judges, rules, columns = inputs.judges, inputs.rules, inputs.columns
    length = length or LengthResult()
    base_score = np.array(columns.base_score, dtype=float)
    verdicts = completed(judges, inputs.verdicts, rules.min_valid_judges)
    base = np.nan_to_num(base_score, nan=0.0)
    filled = {j.name: _filled(verdicts[j.name], columns.group_ids, rules) for j in judges}
    shares = _shares(judges, filled)
    judged = sum(shares.values(), np.zeros(len(base)))
    statuses = _statuses(judges, verdicts, len(base))
    scores = _scores(base_score, base + judged, judges, filled, statuses)
    factors = {**_gate(rules, scores, statuses, columns.correctness), **length.multiplied}
    factor = np.prod([np.ones(len(base)), *factors.values()], axis=0)
    inner = {"base_score": base, **shares, **length.changed}
    summands = {name: factor * term for name, term in inner.items()} | length.added
    rewards = np.sum(list(summands.values()), axis=0)
    raw_scores = {j.name: verdicts[j.name].scores for j in judges}
    return ComposedRewards(
        rewards=rewards,
        unshaped_rewards=base + judged,
        judge_scores=_mean_score(judges, raw_scores, len(base)),
        mask=np.isfinite(rewards) & (True if length.kept is None else length.kept),
        statuses=statuses,
        terms=_unsigned({**inner, "judge": judged, **factors, **length.added}),
        summands=_unsigned(summands),
        raw_scores={judge.name: inputs.verdicts[judge.name].scores for judge in judges},
        groups=number_groups(columns.group_ids),
        scores=scores,
    )


def batch_result(
    batch_id: str,
    composed: ComposedRewards,
    length: LengthResult,
    *,
    usage: Mapping[str, float],
    first_errors: Mapping[str, str],
    cancelled: str | None = None,
    criteria: Sequence[CriteriaOfRow] = (),
    turn_scores: Sequence[list[float | None]] = (),
) -> BatchResult:
    """Assemble the result of a batch.

    Args:
        length: its advantages and histories are part of the result.
        usage: calls, tokens and cost by the names in `batch_result.USAGE`.
        first_errors: the first error of each failed status.
        cancelled: who cancelled the batch, and why.
        criteria: `[N]`; empty without judges that give verdicts.
        turn_scores: `[N]`; empty without a judge that is asked about each turn.
    """
    return BatchResult(
        batch_id=batch_id,
        rewards=composed.rewards.astype(np.float32),
        unshaped_rewards=composed.unshaped_rewards.astype(np.float32),
        judge_scores=composed.judge_scores.astype(np.float32),
        mask=composed.mask,
        statuses=composed.statuses,
        terms=_float32s(composed.terms),
        usage=dict(usage),
        first_errors=dict(first_errors),
        advantages=_float32s(length.advantages),
        history=_float32s(length.history),
        cancelled=cancelled,
        scores=_float32s(composed.raw_scores),
        groups=composed.groups,
        criteria=list(criteria),
        turn_scores=list(turn_scores),
    )


def criteria_of(parts: Mapping[int, JudgeResult], size: int) -> list[CriteriaOfRow]:
    """Return the verdicts on criteria of each rollout, by judge; empty if no judge gives any."""
    rows: list[CriteriaOfRow] = []
    for k in sorted(parts):
        part = parts[k]
        n = max(map(len, part.statuses.values()), default=0)
        rows += [
            {name: found[i] for name, found in part.criteria.items() if found[i]} for i in range(n)
        ]
    return rows if any(rows) and len(rows) == size else []


def turn_scores_of(parts: Mapping[int, JudgeResult], size: int) -> list[list[float | None]]:
    """Return the score after each turn of each rollout; empty if no judge is asked about turns."""
    rows = [row for k in sorted(parts) for row in parts[k].turn_scores]
    return rows if len(rows) == size else []


def _float32s(arrays: Mapping[str, Floats]) -> dict[str, Float32s]:
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _shares(judges: Sequence[JudgeConfig], filled: Mapping[str, Floats]) -> dict[str, Floats]:
    """Weighted scores by term name. A judge of weight 0 is only recorded: its gaps do not count."""
    return {
        "judge" if len(judges) == 1 else f"judge:{judge.name}": judge.weight * filled[judge.name]
        if judge.weight
        else np.zeros(len(filled[judge.name]))
        for judge in judges
    }


def _unsigned(terms: Mapping[str, Floats]) -> dict[str, Floats]:
    """Replace -0.0 by 0.0."""
    return {name: values + 0.0 for name, values in terms.items()}


def meets(condition: Condition, scores: Mapping[str, Floats], statuses: Sequence[str]) -> Floats:
    """Evaluate a condition on `[N]` rollouts: 1 or 0, NaN where its score is missing.

    A gated rollout meets no condition on a judge.
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
    """Return the rows whose judgement failed: neither scored nor a decision not to call."""
    return [i for i, status in enumerate(statuses) if status not in SETTLED]


def _filled(verdict: Verdicts, group_ids: Sequence[str | None], rules: RewardRules) -> Floats:
    """Apply the failure policy to scores; a gated rollout gets 0."""
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
        # An empty response has a score too, and a gated one has none.
        if status in (Status.SCORED, Status.EMPTY) and np.isfinite(score):
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
    """Each row's status: of the first weighted judge that failed, else of the first weighted judge."""
    counting = [judge for judge in judges if judge.weight] or judges
    rows = [[verdicts[judge.name].statuses[i] for judge in counting] for i in range(n)]
    return [
        next((row[i] for i in missing(row)), row[0]) if row else Status.SCORED.value for row in rows
    ]
