"""Trains with TRL's own GRPOTrainer on the CPU, and keeps what its reward functions gave."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

GROUP = 4

SETTINGS: dict[str, Any] = {
    "num_generations": GROUP,
    "per_device_train_batch_size": 2 * GROUP,
    "max_completion_length": 12,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
"""Of a tiny training, for `GRPOConfig`."""


class Watched(GRPOTrainer):
    """Keeps the value of each reward function, by completion."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: dict[str, list[float]] = {}
        super().__init__(*args, **kwargs)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.seen |= dict(zip(completions, rewards.tolist(), strict=True))
        return rewards

    @property
    def rewards(self) -> dict[str, float]:
        """The values of the first reward function."""
        return {text: values[0] for text, values in self.seen.items()}


def train(
    model: Any,
    reward: Any,
    tokenizer_folder: Path,
    out: Path,
    rollout_func: Any = None,
    **options: Any,
) -> Watched:
    """Train a few steps of two groups; returns the trainer.

    Args:
        options: of `GRPOConfig`. Give a `seed` that no other test has: with the same completions, the
            rewards of the other test would be on record.
    """
    trainer = Watched(
        model,
        reward_funcs=reward,
        processing_class=AutoTokenizer.from_pretrained(tokenizer_folder),
        train_dataset=Dataset.from_dict({"prompt": [f"What is {i}+1?" for i in range(8)]}),
        args=GRPOConfig(output_dir=str(out), **(SETTINGS | options)),
        rollout_func=rollout_func,
    )
    trainer.train()
    return trainer
