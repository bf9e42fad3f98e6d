"""What a reward function sees of TRL: called as `GRPOTrainer._calculate_rewards` of 1.16 does."""

import asyncio
import inspect
from collections import defaultdict
from types import SimpleNamespace
from typing import Any


class Trainer:
    """What a reward function sees of the trainer."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[float]] = defaultdict(list)
        self.extra: dict[str, list[Any]] = defaultdict(list)
        self.state = SimpleNamespace(global_step=7)

    def columns(self) -> dict[str, Any]:
        """Return the columns that every call has."""
        return {
            "trainer_state": self.state,
            "log_extra": lambda column, values: self.extra[column].extend(values),
            "log_metric": lambda name, value: self.metrics[name].append(value),
        }

    def rewards(
        self, function: Any, tag: str, lengths: list[int], **columns: Any
    ) -> list[float | None]:
        """Call a reward function with one group of completions of these lengths."""
        n = len(lengths)
        given = {
            "prompts": [f"{tag}?"] * n,
            "completions": [f"{tag} {i}." for i in range(n)],
            "completion_ids": [[0] * length for length in lengths],
            **self.columns(),
            **columns,
        }
        rewards = function(**given)
        return asyncio.run(rewards) if inspect.iscoroutine(rewards) else rewards
