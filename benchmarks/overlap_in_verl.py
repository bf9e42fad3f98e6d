"""Measures how long verl's V0 step waits for rewards: `manager(batch)` against `submit` and `result`.

    .venv-trainers/bin/python benchmarks/overlap_in_verl.py
    .venv-trainers/bin/python benchmarks/overlap_in_verl.py --steps 1 --log-probs-s 0.5

A step is what `RayPPOTrainer.fit` of verl up to 0.7.0 does with a generated `DataProto`: log-probs and
the reference's (lengthened by a sleep), and the reward manager. `submit` comes before the log-probs, as
`examples/verl/length_penalty.py` says. The bound is the calls' waves, less the log-probs after `submit`.

verl's reward loop (0.7.1 and later) awaits each reward inside the agent loop, before the log-probs: it has
no second way to measure.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from overlap_in_trainers import backend, tiny_model
from tensordict import TensorDict
from verl import DataProto

from oyer.manager.verl import LengthPenaltyRewardManager

CALL, SUBMIT = "reward_fn(batch)", "submit, log-probs, result"
PROMPT_TOKENS, RESPONSE_TOKENS = 16, 64


def batch_of(tokenizer: Any, name: str, rollouts: int) -> DataProto:
    """Lay out responses of prompts with 8 samples each, as verl's generation does."""
    batch = {
        "prompts": torch.full((rollouts, PROMPT_TOKENS), tokenizer.pad_token_id),
        "responses": torch.full((rollouts, RESPONSE_TOKENS), tokenizer.pad_token_id),
        "attention_mask": torch.zeros(rollouts, PROMPT_TOKENS + RESPONSE_TOKENS, dtype=torch.int64),
    }
    for i in range(rollouts):
        ids = tokenizer(f"{name}, response {i}")["input_ids"]
        batch["responses"][i, : len(ids)] = torch.tensor(ids)
        batch["attention_mask"][i, PROMPT_TOKENS - 1 : PROMPT_TOKENS + len(ids)] = 1
    columns = {
        "data_source": ["bench"] * rollouts,
        "reward_model": [{"ground_truth": "42"}] * rollouts,
        "uid": [f"{name} {i // 8}" for i in range(rollouts)],
    }
    return DataProto(
        batch=TensorDict(batch, batch_size=rollouts),
        non_tensor_batch={key: np.array(one, dtype=object) for key, one in columns.items()},
    )


def waited_s(way: str, manager: Any, batch: DataProto, log_probs_s: float) -> float:
    """Run a step; returns the seconds that it spent in the reward manager."""
    began = time.monotonic()
    future = manager.submit(batch) if way == SUBMIT else None
    in_submit_s = time.monotonic() - began
    time.sleep(log_probs_s)
    began = time.monotonic()
    rewards = manager(batch) if future is None else future.result()
    if rewards.isnan().any():
        raise SystemExit("not every rollout was judged; run `oyer check`")
    return in_submit_s + time.monotonic() - began


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Alternate the ways; the first step of each connects and warms up."""
    found: dict[str, list[float]] = {CALL: [], SUBMIT: []}
    with tempfile.TemporaryDirectory() as name, backend(options, Path(name)) as config:
        tokenizer = tiny_model(Path(name) / "model")
        manager = LengthPenaltyRewardManager(
            tokenizer,
            0,
            lambda **_: 1.0,
            length_penalty_config={
                "use_async_io": True,
                "oyer_config": str(config),
                "endpoint": "bench",
                "rubric": "reasoning_en",
            },
        )
        for step in range(options.steps + 1):
            for way, seconds in found.items():
                batch = batch_of(tokenizer, f"{way} {step}", options.rollouts)
                seconds.append(waited_s(way, manager, batch, options.log_probs_s))
    return {way: seconds[1:] for way, seconds in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--log-probs-s", type=float, default=1.5)
    parser.add_argument("--latency-s", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=3, help="after one that warms up")
    options = parser.parse_args()
    waves_s = math.ceil(options.rollouts / options.in_flight) * options.latency_s
    bounds_s = {CALL: waves_s, SUBMIT: max(0.0, waves_s - options.log_probs_s)}
    print("| trainer | rewards by | waited s | least … most s | bound s |\n|---|---|--:|--:|--:|")
    for way, seconds in measure(options).items():
        least, most = min(seconds), max(seconds)
        print(
            f"| verl V0 | {way} | {statistics.median(seconds):.2f} | {least:.2f} … {most:.2f} |"
            f" {bounds_s[way]:.2f} |"
        )


if __name__ == "__main__":
    main()
