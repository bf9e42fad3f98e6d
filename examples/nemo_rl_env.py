"""NeMo-RL: an environment whose `step` waits for Oyer's judges.

    register_env("oyer", "nemo_rl_env.OyerEnvironment")
    env: {oyer: {config: oyer.yaml, num_generations: 8}}

- Missing score: the reward with the mean judge score of the prompt's other rollouts; 0 if none has one.
- Components: with `gdpo: true` the rewards are `reward/<judge or term>`, which NeMo-RL's GDPO reads
  (weights: `grpo.adv_estimator.reward_weights`); `total_reward` is then their sum. A missing
  component is the mean of the prompt's others, never NaN.
- Groups: rows of one prompt. Synchronous rollouts hand over all of them at once; asynchronous ones
  come one by one, and need `num_generations`.
- Truncation: NeMo-RL masks cut rollouts itself (`overlong_filtering`) and does not tell environments;
  length methods that read it are refused.
- Evaluation: a second environment with `split: eval` and without `num_generations`.
"""

import asyncio
import json
import uuid
from hashlib import sha256
from typing import Any

import ray
import torch
from nemo_rl.environments.interfaces import EnvironmentInterface, EnvironmentReturn

from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from oyer.manager import RewardManager, Rollout
from oyer.manager.adapters import check_reads_no_truncation, response_of, row_metadata
from oyer.manager.group_rewards import group_rewards
from oyer.manager.stand_ins import with_group_mean
from oyer.protocol.content import as_messages, reference_text


class JudgedEnvironment(EnvironmentInterface[dict[str, Any]]):
    """Single-turn rollouts scored by Oyer's judges."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.size = cfg.get("num_generations")
        self.gdpo, self.split = cfg.get("gdpo", False), cfg.get("split", "train")
        self.run, self.timeout_s = cfg.get("run", "nemo-rl"), cfg.get("timeout_s", 600)
        config = load_config(cfg.get("config"))
        check_reads_no_truncation(config, "NeMo-RL")
        self.manager = RewardManager(with_group_mean(config))

    def step(
        self, message_log_batch: list[Any], metadata: list[dict[str, Any]]
    ) -> EnvironmentReturn[dict[str, Any]]:
        """Score a batch; every episode ends with its first turn."""
        rollouts = [
            rollout(log, row or {}, self.manager.config)
            for log, row in zip(message_log_batch, metadata, strict=True)
        ]
        one_by_one = len(rollouts) == 1
        rewards = asyncio.run(
            group_rewards(
                self.manager,
                rollouts,
                timeout_s=self.timeout_s,
                run=self.run,
                split=self.split,
                group_size=self.size if one_by_one else None,
                sample_id=uuid.uuid4().hex if one_by_one else None,
            )
        )
        total = torch.tensor([one.reward for one in rewards])
        names = [name for name in rewards[0].metrics if f"{name}_present" in rewards[0].metrics]
        components = {
            f"reward/{name.removeprefix('oyer/')}": torch.tensor(
                [one.metrics[name] for one in rewards]
            )
            for name in names
        }
        count = len(rewards)
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": ""}] * count,
            metadata=metadata,
            next_stop_strings=[None] * count,
            rewards=components if self.gdpo else total,
            terminateds=torch.ones(count),
            answers=None,
        )

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """Return the means of the components."""
        names = [name for name in batch if isinstance(name, str) and name.startswith("reward/")]
        return batch, {name: batch[name].float().mean().item() for name in names}


# One thread per rollout that may wait, for asynchronous rollouts.
OyerEnvironment = ray.remote(max_concurrency=512)(JudgedEnvironment)


def rollout(log: list[dict[str, Any]], row: dict[str, Any], config: RewardConfig) -> Rollout:
    """Convert a message log; what follows the first assistant message is the response."""
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in log]
    roles = [turn["role"] for turn in messages]
    start = roles.index("assistant") if "assistant" in roles else len(roles)
    prompt, response = messages[:start], messages[start:]
    for turn in response:
        turn["role"] = "tool" if turn["role"] == "environment" else turn["role"]
    ids = [turn["token_ids"] for turn in log if turn["role"] == "assistant" and "token_ids" in turn]
    reference = row.get("ground_truth")
    return Rollout(
        prompt=as_messages(prompt),
        response=response_of(response),
        response_tokens=sum(map(len, ids)) if ids else None,
        reference=reference_text(reference),
        group_id=sha256(json.dumps(prompt, default=str).encode()).hexdigest(),
        metadata=row_metadata(row, config),
    )
