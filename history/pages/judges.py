"""The judges of a batch's plan, by the names of their recorded judgements; pure."""

from collections.abc import Mapping
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
