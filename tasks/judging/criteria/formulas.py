"""Combines verdicts on criteria into one score; pure.

With weight w, value v in [0, 1] (met is 1; a choice is its rank), and g the good in it: v, or 1 - v for
a pitfall, whose w is negative:

- `weighted`: Σ |w|·g / Σ |w|. Rubrics as Rewards (arXiv:2507.17746), explicit aggregation.
- `points`: Σ w·v / Σ of the positive w; below 0 if faults outweigh. HealthBench (arXiv:2505.08775),
  `calculate_score` of simple-evals. It clips the mean over a data set, never a row.
- `signed`: Σ w·v / Σ |w|. open-instruct, `RubricVerifier` in `open_instruct/ground_truth_utils.py`.
- `mean`, `min`, `all` (1 if every g is 1), `any` (1 if one v is 1): NeMo Gym, `_aggregate_scores` in
  `resources_servers/multichallenge/app.py`.

Missing verdicts are left out of both sums. A required criterion with g below 1 limits the score to 0,
like `Gate` with its threshold of 1 in OpenEnv's RFC 004 (`rfcs/004-rubrics.md`).
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from oyer.config.criteria.criterion import Combine


class Weighed(NamedTuple):
    """A verdict as the formulas read it."""

    weight: float
    """Negative for a pitfall."""
    value: float | None
    """From 0 to 1; None if there is no verdict."""
    required: bool = False

    @property
    def good(self) -> float:
        """How good the verdict is, from 0 to 1."""
        assert self.value is not None
        return self.value if self.weight > 0 else 1.0 - self.value


def combined(
    how: Combine, verdicts: Sequence[Weighed], min_valid: int | None = None
) -> float | None:
    """Return the score of a rollout.

    Args:
        min_valid: verdicts that must be there; None means all.

    Returns:
        None if too few verdicts are there, a required one is missing, or the formula is undefined.
    """
    valid = [verdict for verdict in verdicts if verdict.value is not None]
    needed = len(verdicts) if min_valid is None else min(min_valid, len(verdicts))
    if len(valid) < max(1, needed) or any(v.required and v.value is None for v in verdicts):
        return None
    score = _FORMULAS[how](valid)
    if score is None:
        return None
    unmet = any(verdict.required and verdict.good < 1 for verdict in valid)
    return min(0.0, score) if unmet else score


def _weighted(valid: Sequence[Weighed]) -> float:
    total = sum(abs(v.weight) for v in valid)
    return sum(abs(v.weight) * v.good for v in valid) / total


def _points(valid: Sequence[Weighed]) -> float | None:
    possible = sum(v.weight for v in valid if v.weight > 0)
    return _gained(valid) / possible if possible else None


def _signed(valid: Sequence[Weighed]) -> float:
    return _gained(valid) / sum(abs(v.weight) for v in valid)


def _gained(valid: Sequence[Weighed]) -> float:
    return sum(v.weight * v.value for v in valid if v.value is not None)


_FORMULAS: dict[Combine, Callable[[Sequence[Weighed]], float | None]] = {
    "weighted": _weighted,
    "points": _points,
    "signed": _signed,
    "mean": lambda valid: fmean(v.good for v in valid),
    "min": lambda valid: min(v.good for v in valid),
    "all": lambda valid: float(all(v.good == 1 for v in valid)),
    "any": lambda valid: float(any(v.good == 1 for v in valid)),
}
