"""rLLM 0.3: `AgentTrainer(…, evaluator=JudgedEvaluator(group_size=8))`.

rLLM evaluates each episode in a thread of its own (`n_parallel_tasks`, at least `group_size`), so the
wait does not hold up other episodes. `OYER_CONFIG` names the configuration.

- Missing score: the reward with the mean judge score of the task's others, and `TerminationReason.ERROR`, which
  `rllm.compact_filtering.mask_error` excludes from the group.
- Components: signals `oyer/<judge or term>`, which rLLM logs and puts on the trajectories.
- Groups: the episodes of one task, `group_size` (`rllm.rollout.n`).
- Evaluation: `JudgedEvaluator(split="eval")` for a validation of one episode per task.
"""

import asyncio
from typing import Any

from rllm.eval.types import EvalOutput, Signal
from rllm.workflows.workflow import TerminationReason

from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from oyer.manager import RewardManager, Rollout
from oyer.manager.adapters import response_of, row_metadata
from oyer.manager.group_rewards import group_rewards
from oyer.manager.stand_ins import with_group_mean
from oyer.protocol.content import as_messages, reference_text


class JudgedEvaluator:
    """Scores an episode's last trajectory by Oyer's judges."""

    def __init__(
        self,
        *,
        group_size: int | None = None,
        split: str = "train",
        run: str = "rllm",
        timeout_s: float = 600,
    ) -> None:
        config = load_config()
        self.manager = RewardManager(config if group_size is None else with_group_mean(config))
        self.group_size, self.split, self.run = group_size, split, run
        self.timeout_s = timeout_s

    def evaluate(self, task: Any, episode: Any) -> EvalOutput:
        """Score one episode; called in a thread."""
        (found,) = asyncio.run(
            group_rewards(
                self.manager,
                [rollout(task, episode, self.manager.config)],
                timeout_s=self.timeout_s,
                run=self.run,
                split=self.split,
                group_size=self.group_size,
                sample_id=episode.id,
            )
        )
        if not found.judged:
            episode.termination_reason = TerminationReason.ERROR
        return EvalOutput(
            reward=found.reward,
            is_correct=found.judged and found.reward > 0,
            signals=[Signal(name, value) for name, value in found.metrics.items()],
        )


def rollout(task: Any, episode: Any, config: RewardConfig) -> Rollout:
    """Convert an episode; each step's `chat_completions` holds all messages up to it."""
    steps = episode.trajectories[-1].steps
    messages = steps[-1].chat_completions if steps else []
    start = len(steps[0].chat_completions) - 1 if steps else 0
    reference = task.metadata.get("ground_truth", task.metadata.get("answer"))
    return Rollout(
        prompt=as_messages(messages[:start]) or as_messages(task.instruction),
        response=response_of(messages[start:]),
        response_tokens=sum(len(step.response_ids) for step in steps) or None,
        token_ids=[token for step in steps for token in step.response_ids] or None,
        truncated=getattr(episode.termination_reason, "value", None)
        in ("max_response_length_exceeded", "max_prompt_length_exceeded"),
        reference=reference_text(reference),
        group_id=task.id,
        metadata=row_metadata({"episode_id": episode.id, **task.metadata}, config),
    )
