"""GRPO in TRL with Oyer's judge and length penalty as the reward.

    oyer up --config oyer.yaml &
    python examples/trl_grpo.py --config oyer.yaml --model Qwen/Qwen3-0.6B --data train.jsonl

A line of the data is `{"prompt": …, "answer": …}`. The run on record is named after `--out`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from oyer.manager.trl import reward_function


def exact(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Base score: 1 if the completion ends with the answer; rows with 0 are not judged."""
    return [
        float(text.strip().endswith(right)) for text, right in zip(completions, answer, strict=True)
    ]


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="an oyer.yaml")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="JSON lines")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", default="grpo-out")
    options = parser.parse_args()
    config = GRPOConfig(
        output_dir=options.out,
        num_generations=8,
        per_device_train_batch_size=8,
        max_completion_length=1024,
        max_steps=options.steps,
        logging_steps=1,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    reward = reward_function(
        options.config,
        num_generations=config.num_generations,
        base_score=exact,
        reference="answer",
        run=Path(options.out).name,
    )
    data = load_dataset("json", data_files=options.data, split="train")
    trainer = GRPOTrainer(options.model, reward_funcs=reward, args=config, train_dataset=data)
    trainer.train()


if __name__ == "__main__":
    main()
