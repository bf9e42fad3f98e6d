"""Writes a reward as the product and sum of its terms; pure.

`reward = factors × (base score + judges + changes) + length terms`, as in `tasks/rewards/compose.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from oyer.config.length import term_names
from oyer.config.reward import RewardConfig
from oyer.protocol.batch_result import split_recorded

_CLOSE = 1e-4
"""How far the terms, which are float32, may be from the reward they add up to, relative to it."""


@dataclass(frozen=True)
class RewardTerm:
    """One term of a reward."""

    name: str
    value: float | None
    how: str
    """How it was computed, e.g. `0.1 × 6`."""


@dataclass(frozen=True)
class RewardSum:
    """A reward's terms by their place in the formula."""

    factors: list[RewardTerm] = field(default_factory=list)
    inner: list[RewardTerm] = field(default_factory=list)
    """Multiplied by the factors."""
    added: list[RewardTerm] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    """Each judge's score."""
    rest: float | None = None
    """What the formula leaves unexplained; None if nothing, or if a term is missing."""

    @property
    def terms(self) -> list[RewardTerm]:
        """All terms."""
        return [*self.factors, *self.inner, *self.added]


def reward_sum(
    recorded: Mapping[str, Any], reward: float | None, plan: Mapping[str, Any]
) -> RewardSum:
    """Sort recorded terms into the formula, as the batch's plan says.

    Args:
        recorded: `rewards.terms`.
    """
    parts = split_recorded(recorded)
    kinds = _kinds(plan)
    weights = {one["name"]: one.get("weight", 1.0) for one in plan.get("judges", ())}
    by_judge = [name for name in parts.terms if name.startswith("judge:")]
    found = RewardSum(scores=parts.scores)
    for name, value in parts.terms.items():
        if name == "judge" and by_judge:
            continue  # the sum of the terms by judge
        term = RewardTerm(name, value, _how(name, kinds, weights, parts.scores))
        if name == "gate" or kinds.get(name) == "multiply":
            found.factors.append(term)
        elif name in ("base_score", "judge", *by_judge) or kinds.get(name) == "total":
            found.inner.append(term)
        else:
            found.added.append(term)
    if reward is None or any(term.value is None for term in found.terms):
        return found
    total = sum(term.value or 0.0 for term in found.inner)
    for term in found.factors:
        total *= term.value or 0.0
    total += sum(term.value or 0.0 for term in found.added)
    if abs(reward - total) > _CLOSE * max(1.0, abs(reward)):
        return RewardSum(found.factors, found.inner, found.added, found.scores, reward - total)
    return found


def _kinds(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the kind of each length term: add, multiply, total or advantage."""
    try:
        items = RewardConfig.model_validate({"length": plan.get("length", ())}).length
    except ValidationError:  # of a release with other methods
        return {}
    return {name: item.kind for name, item in zip(term_names(items), items, strict=True)}


def _how(
    name: str,
    kinds: Mapping[str, str],
    weights: Mapping[str, float],
    scores: Mapping[str, float | None],
) -> str:
    if name == "base_score":
        return "of the trainer"
    if name == "gate":
        return "a factor of the reward rules"
    if name == "judge" and len(weights) == 1:
        name = f"judge:{next(iter(weights))}"
    judge = name.removeprefix("judge:")
    if judge in weights:
        score = scores.get(judge)
        return "no score" if score is None else f"{weights[judge]:g} × {score:g}"
    kind = {"multiply": "a factor", "total": "a change to the reward"}.get(kinds.get(name, ""), "")
    return f"length term{', ' + kind if kind else ''}"
