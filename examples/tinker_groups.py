"""tinker-cookbook 0.6: `JudgedDataset(dataset)` adds Oyer's rewards to any dataset of groups.

    train, test = await builder()                      # the recipe's own RLDatasetBuilder
    return JudgedDataset(train), JudgedDataset(test, split="test")

`compute_group_rewards` gets whole groups and is awaited, so that judging overlaps with the other
groups' rollouts. Builders hold no connection and pickle; `OYER_CONFIG` names the configuration in
each process. The environment's rewards per step are added by tinker-cookbook itself.

- Missing score: the group's mean, so that the rollout's advantage is 0; its tokens are masked also
  if the environment's rewards differ.
- Components: metrics `oyer/<judge or term>` of each trajectory.
- Groups: tinker-cookbook's own.
- Evaluation: `split="test"`; the step on record is the dataset's batch index.
"""

import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tinker_cookbook.rl.types import (
    PARSE_ERROR_MASKED_METRIC_KEY,
    Env,
    EnvGroupBuilder,
    Metrics,
    RLDataset,
    Trajectory,
)

from oyer.config.loading import load_config
from oyer.manager import RewardManager, Rollout
from oyer.manager.adapters import response_of
from oyer.manager.group_rewards import group_rewards
from oyer.protocol.content import as_messages


@functools.cache
def manager() -> RewardManager:
    """Connect once per process, on first use."""
    return RewardManager(load_config())


@dataclass(frozen=True)
class JudgedGroup(EnvGroupBuilder):
    """A group whose trajectories are also scored by Oyer's judges."""

    builder: EnvGroupBuilder
    split: str = "train"
    step: int | None = None
    run: str = "tinker"
    group_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    async def make_envs(self) -> Sequence[Env]:
        """Make the environments of the inner builder."""
        envs: Sequence[Env] = await self.builder.make_envs()
        return envs

    async def compute_group_rewards(
        self, trajectory_group: list[Trajectory], env_group: Sequence[Env]
    ) -> list[tuple[float, Metrics]]:
        """Add Oyer's rewards to those of the inner builder."""
        inner = await self.builder.compute_group_rewards(trajectory_group, env_group)
        pairs = list(zip(trajectory_group, env_group, strict=True))
        rewards = await group_rewards(
            manager(),
            [rollout(trajectory, env, self.group_id) for trajectory, env in pairs],
            own=[
                reward + sum(step.reward for step in trajectory.transitions)
                for trajectory, (reward, _) in zip(trajectory_group, inner, strict=True)
            ],
            run=self.run,
            split=self.split,
            step=self.step,
        )
        for trajectory, reward in zip(trajectory_group, rewards, strict=True):
            if not reward.judged:
                for step in trajectory.transitions:
                    step.metrics[PARSE_ERROR_MASKED_METRIC_KEY] = 1.0
        return [
            (added + reward.reward, {**metrics, **reward.metrics})
            for (added, metrics), reward in zip(inner, rewards, strict=True)
        ]

    async def cleanup(self) -> None:
        """Clean up what the inner builder made."""
        await self.builder.cleanup()

    def logging_tags(self) -> list[str]:
        """Return the inner builder's tags."""
        tags: list[str] = self.builder.logging_tags()
        return tags


class JudgedDataset(RLDataset):
    """A dataset whose groups are judged."""

    def __init__(self, dataset: RLDataset, *, split: str = "train", run: str = "tinker") -> None:
        self.dataset, self.split, self.run = dataset, split, run

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """Return the judged groups of a batch."""
        return [
            JudgedGroup(builder, self.split, index, self.run)
            for builder in self.dataset.get_batch(index)
        ]

    def __len__(self) -> int:
        return len(self.dataset)


def rollout(trajectory: Trajectory, env: Any, group_id: str) -> Rollout:
    """Convert a trajectory of an environment that has a renderer, as the cookbook's have.

    What an environment adds between two of the policy's turns has the role `tool`.
    """
    renderer, turns = env.renderer, trajectory.transitions
    messages: list[Any] = []
    for i, turn in enumerate(turns):
        if i:
            seen = turns[i - 1].ob.length + len(turns[i - 1].ac.tokens)
            new = renderer.tokenizer.decode(turn.ob.to_ints()[seen:], skip_special_tokens=True)
            messages.append({"role": "tool", "content": new})
        message, _ = renderer.parse_response(turn.ac.tokens)
        messages.append(renderer.to_openai_message(message))
    ids = [token for turn in turns for token in turn.ac.tokens]
    prompt = renderer.tokenizer.decode(turns[0].ob.to_ints(), skip_special_tokens=True)
    if hasattr(env, "get_question"):
        prompt = [*env.convo_prefix, {"role": "user", "content": env.get_question()}]
    return Rollout(
        prompt=as_messages(prompt),
        response=response_of(messages),
        response_tokens=len(ids),
        token_ids=ids,
        truncated=trajectory.stop_reason == "max_tokens",
        reference=env.get_reference_answer() if hasattr(env, "get_reference_answer") else None,
        group_id=group_id,
    )
