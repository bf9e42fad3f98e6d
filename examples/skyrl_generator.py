"""SkyRL 0.3: a generator that adds Oyer's rewards to those of any `BaseTextEnv`.

    class Judged(BasePPOExp):
        def get_generator(self, cfg, tokenizer, inference_engine_client):
            return JudgedGenerator(
                cfg.generator, cfg.environment.skyrl_gym, inference_engine_client, tokenizer
            )

Each trajectory is judged when it ends. The wait is a coroutine of `agent_loop`, not a call in
`BaseTextEnv.step`, where the 32 threads of `max_env_workers` would be held by rollouts that wait for
siblings without a thread. `OYER_CONFIG` names the configuration; needs `generator.batched=false`.

- Missing score: the reward with the mean judge score of the prompt's others, and a loss mask of 0.
- Components: `oyer/<judge or term>` among the environment's metrics.
- Groups: `TrajectoryID.instance_id`, as many as the batch has.
- Evaluation: split and step on record by `batch_metadata`.
- Lengths: the policy's own tokens, by SkyRL's loss mask.
"""

from collections import Counter
from contextvars import ContextVar
from typing import Any

from skyrl.train.generators.skyrl_gym_generator import SkyRLGymGenerator, StepWiseOutput

from oyer.config.loading import load_config
from oyer.manager import InvalidInput, RewardManager, Rollout
from oyer.manager.adapters import response_of, row_metadata
from oyer.manager.group_rewards import group_rewards
from oyer.manager.stand_ins import with_group_mean
from oyer.protocol.content import as_messages, reference_text

RUN = "skyrl"
TIMEOUT_S = 600.0


class JudgedGenerator(SkyRLGymGenerator):
    """Trajectories that Oyer's judges score beside their environment."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.batched:
            raise InvalidInput(
                "generator.batched: must be false, so that rollouts are judged singly"
            )
        self.manager = RewardManager(with_group_mean(load_config()))
        self._batch: ContextVar[tuple[Counter[str], Any]] = ContextVar("batch")

    async def generate(self, input_batch: Any, disable_tqdm: bool = False) -> Any:
        """Generate and score a batch."""
        sizes = Counter(one.instance_id for one in input_batch.get("trajectory_ids") or [])
        self._batch.set((sizes, input_batch.get("batch_metadata")))
        return await super().generate(input_batch, disable_tqdm)

    async def agent_loop(
        self, prompt: Any, env_class: str, env_extras: dict[str, Any], *args: Any, **options: Any
    ) -> Any:
        """Run one trajectory and add its reward to that of its last step."""
        columns = row_metadata(env_extras, self.manager.config)
        output = await super().agent_loop(prompt, env_class, env_extras, *args, **options)
        steps = output.step_outputs if isinstance(output, StepWiseOutput) else [output]
        trajectory, (sizes, batch) = options.get("trajectory_id"), self._batch.get()
        rollout = Rollout(
            prompt=as_messages(prompt),
            response=response_of([turn for step in steps for turn in self._turns(step)]),
            response_tokens=sum(sum(step.loss_mask) for step in steps),
            truncated=steps[-1].stop_reason == "length",
            reference=_reference(env_extras),
            group_id=None if trajectory is None else trajectory.instance_id,
            metadata=columns,
        )
        (found,) = await group_rewards(
            self.manager,
            [rollout],
            timeout_s=TIMEOUT_S,
            run=RUN,
            split=None if batch is None else batch.training_phase,
            step=None if batch is None else batch.global_step,
            group_size=None if trajectory is None else sizes[trajectory.instance_id],
            sample_id=None if trajectory is None else trajectory.to_string(),
        )
        steps[-1].env_metrics |= found.metrics
        _add(steps[-1], found.reward)
        if not found.judged:
            for step in steps:
                step.loss_mask = [0] * len(step.loss_mask)
        return output

    def _turns(self, step: Any) -> list[dict[str, str]]:
        """Split a response by its loss mask: the policy's tokens, and what the environment said."""
        turns: list[tuple[int, list[int]]] = []
        for token, own in zip(step.response_ids, step.loss_mask, strict=True):
            if token == self.tokenizer.eos_token_id:
                continue
            if not turns or turns[-1][0] != own:
                turns.append((own, []))
            turns[-1][1].append(token)
        return [
            {
                "role": "assistant" if own else "tool",
                "content": self.tokenizer.decode(tokens, skip_special_tokens=True),
            }
            for own, tokens in turns
        ]


def _add(step: Any, reward: float) -> None:
    """Add to a trajectory's reward, which is a number or one per token."""
    if isinstance(step.reward, list):
        step.reward[-1] += reward
    else:
        step.reward += reward


def _reference(env_extras: dict[str, Any]) -> str | None:
    reward_model = env_extras.get("reward_model") or env_extras.get("reward_spec") or {}
    return reference_text(reward_model.get("ground_truth"))
