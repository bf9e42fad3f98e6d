"""Rollouts for tests: distinct texts, groups of four."""

from typing import Any

from oyer.manager import Rollout


def rollout(tag: str, i: int = 0, **fields: Any) -> Rollout:
    """Make a rollout that differs from those of other tags and numbers."""
    made: dict[str, Any] = {
        "prompt": f"{tag} question {i // 4}",
        "response": f"{tag}: the answer number {i} is {i}.",
        "group_id": f"{tag}-{i // 4}",
        "base_score": 1.0,
        "response_tokens": 100 + 10 * i,
    }
    return Rollout(**{**made, **fields})


def rollouts_of(tag: str, n: int = 8, **fields: Any) -> list[Rollout]:
    """Make `n` rollouts in groups of four; `fields` replace those of every rollout."""
    return [rollout(tag, i, **fields) for i in range(n)]
