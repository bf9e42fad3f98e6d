"""One rank of GRPO trainings by TRL, to be started by torchrun; writes down what the rank saw.

torchrun --nproc-per-node 2 trl_rank.py '{"folder": …, "tokenizer": …, "runs": {name: config}}'
"""

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trainer_backend import random_llama
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl_tools import train_with_tools

from oyer.manager import OyerError
from oyer.manager.trl import OverlappedRewards, reward_function

GROUP = 4
ROWS_PER_RANK = 6
"""A rank has a whole group and half of the next one."""
STEPS = 2


class Watched(GRPOTrainer):
    """Keeps the rows of this rank, each with the reward that came back from the gathering."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rows: list[dict[str, Any]] = []
        self.evaluated: list[float] = []
        super().__init__(*args, **kwargs)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        gathered = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(prompts)
        rewards = gathered[first : first + len(prompts), 0].tolist()
        if not self.model.training:
            self.evaluated += rewards
            return gathered
        for i, reward in enumerate(rewards):
            self.rows.append(
                {
                    "step": self.state.global_step,
                    "prompt": prompts[i],
                    "completion": completions[i],
                    "tokens": len(completion_ids_list[i]),
                    "reward": reward,
                }
            )
        return gathered


class WatchedMixin(OverlappedRewards, Watched):
    """The same, with judging that overlaps."""


def train_in_rooms(run: str, config: str, folder: str, tokenizer: str) -> dict[str, Any]:
    """Train with an environment that gives each rollout a prompt of its own."""
    trainer = train_with_tools(
        (OverlappedRewards,) if "mixin" in run else (),
        reward_function(config, run=run, timeout_s=30),
        Path(tokenizer),
        Path(folder),
        environment=True,
        per_device_train_batch_size=ROWS_PER_RANK,
    )
    return {"rewards": trainer.rewards, "own_lengths": trainer.own_lengths}


def train(run: str, config: str, folder: str, tokenizer: str) -> dict[str, Any]:
    """Train for some steps and say what was seen.

    A run is named after its set-up: `rooms` have an environment, `mixin` overlaps, and `repeated` has
    one prompt only.
    """
    if "rooms" in run:
        return train_in_rooms(run, config, folder, tokenizer)
    # Another seed, other completions: those of an earlier run are on record.
    seed = zlib.crc32(run.encode()) % 1000
    torch.manual_seed(seed)
    names = AutoTokenizer.from_pretrained(tokenizer).get_vocab()
    questions = [f"What is {i}+1?" for i in range(6)]
    trainer = (WatchedMixin if "mixin" in run else Watched)(
        random_llama(AutoTokenizer.from_pretrained(tokenizer)),
        # Nobody waits for the rest of a group that has no rest.
        reward_funcs=reward_function(config, num_generations=GROUP, run=run, timeout_s=30),
        processing_class=AutoTokenizer.from_pretrained(tokenizer),
        train_dataset=Dataset.from_dict(
            {"prompt": ["Same?"] * 6 if "repeated" in run else questions}
        ),
        eval_dataset=Dataset.from_dict({"prompt": ["What is 8+1?", "What is 9+1?"]}),
        args=GRPOConfig(
            output_dir=folder,
            num_generations=GROUP,
            per_device_train_batch_size=ROWS_PER_RANK,
            num_generations_eval=1,
            per_device_eval_batch_size=1,
            max_completion_length=24,
            # Of few tokens one is often the end: the completions differ in length.
            generation_kwargs={
                "suppress_tokens": [i for t, i in names.items() if t not in [*"abcdefg", "<eos>"]]
            },
            max_steps=STEPS,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        ),
    )
    error = None
    try:
        trainer.train()
        trainer.evaluate()
    except OyerError as raised:
        error = type(raised).__name__
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "rows": trainer.rows,
        "evaluated": trainer.evaluated,
        "error": error,
        "metrics": [sorted(entry) for entry in trainer.state.log_history],
        "columns": sorted(trainer._logs["extra"]),
        "steps": trainer.state.global_step,
        "finite": all(bool(torch.isfinite(p).all()) for p in model.parameters()),
        "weights": sum(p.detach().double().sum().item() for p in model.parameters()),
    }


def main() -> None:
    """Run every training that the argument names, and write one file for this rank."""
    job = json.loads(sys.argv[1])
    seen = {
        run: train(run, config, job["folder"], job["tokenizer"])
        for run, config in job["runs"].items()
    }
    rank = torch.distributed.get_rank()
    (Path(job["folder"]) / f"rank{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
