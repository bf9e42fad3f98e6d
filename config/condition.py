"""Thresholds on scores in a configuration: `judge >= 6`."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SOURCE = r"judge(?::[A-Za-z0-9_.-]+)?|base_score|unshaped_reward"
"""A rollout's scores by name: of all judges together, of one judge, the base score, or the base
score plus the weighted judges."""

_CONDITION = re.compile(rf"\s*({SOURCE})\s*(>=|>)\s*(\S+)\s*")

_ROUNDING = 1e-9
"""Scores that are nearer to a threshold count as equal to it, relative to it beyond 1: the mean of 5, 5
and 5 with weights of 0.1 is 4.999999999999999."""


@dataclass(frozen=True)
class Condition:
    """A threshold on a score."""

    source: str
    """Name of the score; matches `SOURCE`."""
    strict: bool
    """True for `>`, False for `>=`."""
    threshold: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Parse a condition.

        Raises:
            ValueError: it is not a condition; the message gives examples.
        """
        found = _CONDITION.fullmatch(text)
        try:
            threshold = float(found[3]) if found else np.nan
        except ValueError:
            threshold = np.nan
        if found is None or not np.isfinite(threshold):
            raise ValueError(
                f"{text!r} is not a condition; write e.g. `judge >= 6`, `judge:style > 3`,"
                " `base_score >= 0.5` or `unshaped_reward > 0`"
            )
        return cls(found[1], found[2] == ">", threshold)

    def holds(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 1 or 0 for each of `[N]` scores; NaN for a missing score."""
        margin = _ROUNDING * max(1.0, abs(self.threshold))
        above = scores - self.threshold
        held = above > margin if self.strict else above >= -margin
        return np.where(np.isnan(scores), np.nan, held.astype(np.float64))


def needs_judge(source: str) -> bool:
    """Whether the score depends on a judge."""
    return source != "base_score"
