"""Thresholds on scores, as a configuration writes them: `judge >= 6`."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SOURCE = r"judge(?::[A-Za-z0-9_.-]+)?|base_score|unshaped_reward"
"""The scores of a rollout by name: all judges together, one of them, the verifier's, or base score
and weighted judges."""

_CONDITION = re.compile(rf"\s*({SOURCE})\s*(>=|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """A threshold on a score."""

    source: str
    """A name that `SOURCE` matches."""
    strict: bool
    """Above the threshold, rather than at or above it."""
    threshold: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read a condition.

        Raises:
            ValueError: it is none; the message shows how one is written.
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
        """Say for `[N]` scores whether the condition holds: 1 or 0, NaN for a missing score."""
        held = scores > self.threshold if self.strict else scores >= self.threshold
        return np.where(np.isnan(scores), np.nan, held.astype(np.float64))


def needs_judge(source: str) -> bool:
    """Whether a score is known only once the judges have answered."""
    return source != "base_score"
