"""verifiers and prime-rl: Oyer as a plugged judge, without code of the user.

    --taskset.task.judges '[{"id": "oyer", "config": "oyer.yaml"}]'

The judge sees the whole last branch as messages with roles, with the tools' definitions. A rollout
without a score raises, so that its trace has an error and is not trained on. Rewards by key:
`oyer` is what the judges give, `oyer/length` what length methods change; their sum is
Oyer's reward. Every judge and length term is also a metric, `oyer/<name>`. Calls, tokens and cost
are in `trace.extra_usage`, the details in `trace.info["oyer"]`.

Source of the interface: verifiers 0.4, `verifiers.v1.judge.Judge` and `Task.score`.
"""

import asyncio
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verifiers.v1 import Judge, JudgeConfig
from verifiers.v1.types import ID, Usage

from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from oyer.manager.adapters import response_of, row_metadata
from oyer.manager.client import RewardManager
from oyer.manager.group_rewards import group_rewards
from oyer.manager.score import Score, scores_of, without_reward
from oyer.protocol.content import as_messages, reference_text
from oyer.protocol.errors import MissingScores
from oyer.protocol.rollout import Message, Rollout

__all__ = ["OyerJudge"]


class OyerJudgeConfig(JudgeConfig):
    """Options of the plugged judge; the endpoint and model options of other judges are not used."""

    id: ID = "oyer"
    config: Path | None = None
    """Oyer's configuration; default: the environment variable `OYER_CONFIG`."""
    run: str = "verifiers"
    """Name of the run in the record; trainings at one time need names of their own."""
    split: str | None = None
    """Purpose of the rollouts in the record, e.g. `eval` in an evaluation environment."""
    group_size: int | None = None
    """Rollouts per task, for length methods that compare them; not for evaluation with fewer."""
    answer_field: str = "answer"
    """Field of the task with the reference answer, if it has one."""
    timeout_s: float = 600.0
    """How long a rollout waits for its score, in seconds."""


class OyerJudge(Judge[float, OyerJudgeConfig]):
    """Scores a trace by Oyer's judges and length methods."""

    async def score(self, task: Any, trace: Any) -> Mapping[str, float]:
        """Return the rewards by key.

        Args:
            task: the task's data.
            trace: what was generated.

        Raises:
            MissingScores: there is no reward; verifiers keeps the trace out of training.
        """
        manager = _manager(self.config.config)
        rollout = _rollout(task, trace, self.config, manager.config)
        score = await self._scored(manager, rollout, trace)
        found = {name: value for name, value in score.components.items() if math.isfinite(value)}
        trace.record_metrics({f"oyer/{name}": value for name, value in found.items()})
        trace.info["oyer"] = {"status": score.status, "batch_id": score.batch_id, **found}
        if score.turn_scores:
            trace.info["oyer"]["turn_scores"] = [*score.turn_scores]
        if not score.trainable:
            raise MissingScores(f"no reward ({score.status}): {score.error}")
        rewards = {self.reward_name: score.unshaped_reward}
        if manager.config.length:
            rewards[f"{self.reward_name}/length"] = score.length_term
        return rewards

    async def _scored(self, manager: RewardManager, rollout: Rollout, trace: Any) -> Score:
        """Score a rollout in a batch of its own, whose usage is then the trace's, or with its group."""
        run, split, timeout_s = self.config.run, self.config.split, self.config.timeout_s
        if self.config.group_size is not None:
            (found,) = await group_rewards(
                manager,
                [rollout],
                timeout_s=timeout_s,
                run=run,
                split=split,
                group_size=self.config.group_size,
                sample_id=trace.id,
            )
            return found.score
        try:
            future = manager.submit([rollout], run=run, split=split)
            batch = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            late = TimeoutError(f"no score within {timeout_s:g} s")
            return without_reward(late, manager.config.reward)
        trace.extra_usage.append(
            Usage(
                prompt_tokens=batch.usage.prompt_tokens,
                completion_tokens=batch.usage.completion_tokens,
                cost=batch.usage.cost_usd,
            )
        )
        return scores_of(batch)[0]


@functools.cache
def _manager(config: Path | None) -> RewardManager:
    return RewardManager(load_config() if config is None else load_config(config))


def _rollout(task: Any, trace: Any, config: OyerJudgeConfig, reward: RewardConfig) -> Rollout:
    """Convert a trace's last branch; messages before the first sampled one are the prompt."""
    nodes = trace.branches[-1].nodes if trace.branches else []
    start = next((i for i, node in enumerate(nodes) if node.sampled), len(nodes))
    prompt, response = [_plain(node) for node in nodes[:start]], _turns(nodes[start:])
    reference = getattr(task, config.answer_field, None)
    return Rollout(
        prompt=as_messages(prompt) or task.prompt_text,
        response=response_of(response) or trace.last_reply,
        # Relayed turns, e.g. of an evaluation, have no token ids.
        response_tokens=sum(sum(node.mask) for node in nodes[start:])
        or trace.num_output_tokens
        or None,
        truncated=trace.is_truncated,
        reference=reference_text(reference),
        group_id=trace.task.key or trace.task.hash,
        tools=[_tool(tool) for tool in trace.tools] or None,
        metadata=row_metadata(
            {"trace_id": trace.id, **task.model_dump(exclude={"prompt", "system_prompt"})}, reward
        ),
    )


def _turns(nodes: list[Any]) -> list[Message]:
    """Return what was said after the prompt; an assistant message that was not sampled is not the
    policy's."""
    turns = [_plain(node) for node in nodes]
    for node, turn in zip(nodes, turns, strict=True):
        if not node.sampled and turn["role"] == "assistant":
            turn["role"] = "user"
    return turns


def _plain(node: Any) -> Message:
    message: Message = node.message.model_dump(mode="json", exclude_none=True)
    message.pop("provider_state", None)
    if message.get("tool_calls"):
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in message["tool_calls"]
        ]
    return message


def _tool(tool: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        },
    }
