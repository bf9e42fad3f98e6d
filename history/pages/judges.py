"""The judges of a batch's plan, by the names of their recorded judgements; pure."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

PAIRS = "/pairs"
"""End of the name under which a group judge's comparisons of pairs are recorded."""

TURNS = "/turns"
"""End of the name under which the scores after turns before the last are recorded."""


def scores_rollouts(recorded: str) -> bool:
    """Whether the judgements of a recorded name are scores of rollouts."""
    return not recorded.endswith((PAIRS, TURNS))


def scales_of(plan: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the scale of each judge."""
    return {one["name"]: tuple(one["scale"]) for one in plan.get("judges", ()) if "scale" in one}


def judge_name(recorded: str) -> str:
    """Return the judge of a recorded `NAME`, `NAME/fallback`, `NAME/pairs` or `NAME/turns`.

    Configured names hold no slash.
    """
    return recorded.partition("/")[0]


def share_of_scale(score: float, scale: tuple[float, float] | None) -> float:
    """Convert a score to [0, 1], so that judges can be compared; without a scale, leave it."""
    low, high = scale or (0.0, 1.0)
    return (score - low) / ((high - low) or 1.0)


def sample_scores(
    rows: Iterable[tuple[int, float | None]], plan: Mapping[str, Any], recorded: str
) -> list[float]:
    """Return the score of each sample of a judge on one rollout.

    A judge with a number as `criteria_per_call` has a row per call, and the mean of a sample's calls counts.

    Args:
        rows: `sample` and `score` of the judge's recorded judgements.
    """
    samples = _configured(plan, recorded).get("samples") or 1
    calls = splits_criteria(plan, recorded)
    found: dict[int, list[float]] = defaultdict(list)
    for number, score in rows:
        if score is not None:
            found[number % samples if calls else number].append(score)
    return [statistics.fmean(scores) for _, scores in sorted(found.items())]


def joint_score(
    rows: Iterable[tuple[int, float | None]],
    plan: Mapping[str, Any],
    recorded: str,
    terms: Mapping[str, float | None],
) -> float | None:
    """Return the score that a judge gave one rollout, on its scale; None if it gave none.

    It is the mean or median of the samples, as configured. How calls about different criteria are
    combined depends on their verdicts: with `criteria_per_call`, it is read from the reward's terms.

    Args:
        rows: see `sample_scores`.
        terms: `rewards.terms`; empty if the batch has not ended.
    """
    judge = _configured(plan, recorded)
    scores = sample_scores(rows, plan, recorded)
    if scores and splits_criteria(plan, recorded):
        counted = terms.get(f"score:{judge_name(recorded)}")
        if counted is None or not judge.get("normalize"):
            return counted
        low, high = judge["scale"]
        return float(low + counted * (high - low))
    if not scores:
        return None
    median = judge.get("aggregate") == "median"
    return statistics.median(scores) if median else statistics.fmean(scores)


def splits_criteria(plan: Mapping[str, Any], recorded: str) -> bool:
    """Whether a judge's rows are calls about some of its criteria each."""
    return isinstance(_configured(plan, recorded).get("criteria_per_call"), int)


def _configured(plan: Mapping[str, Any], recorded: str) -> Mapping[str, Any]:
    name = judge_name(recorded)
    return next((one for one in plan.get("judges", ()) if one["name"] == name), {})
