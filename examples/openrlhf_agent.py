"""OpenRLHF's multi-turn agents: `--train.agent_func_path examples/openrlhf_agent.py`.

`AgentExecutor` runs your `AgentInstance` and adds Oyer's reward to its own. `OYER_CONFIG` names the
configuration. Set `N_SAMPLES_PER_PROMPT` to the value of `--rollout.n_samples_per_prompt`; without it,
each rollout is a group of its own. Ray's workers read both variables.

- The judge sees what the environment said as a tool's result; lengths count the policy's tokens only.
- Missing score: the mean judge score of the prompt's other rollouts; if none has one, the rollout's
  reward is the environment's, as it is after 600 s. `oyer/missing` in `extra_logs` marks it.
- OpenRLHF does not say which rollouts are of an evaluation: evaluate with as many samples per prompt.
"""

import os
import uuid
from typing import Any

from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor

from oyer.config.loading import load_config
from oyer.manager import RewardManager, Rollout
from oyer.manager.adapters import filed_under, response_of
from oyer.manager.group_rewards import group_rewards
from oyer.manager.openrlhf import group_id_of
from oyer.manager.stand_ins import with_group_mean
from oyer.protocol.content import reference_text

GROUP_SIZE = int(os.environ.get("N_SAMPLES_PER_PROMPT", "1"))
manager = RewardManager(with_group_mean(load_config()))


class AgentInstance(AgentInstanceBase):
    """An environment that asks once for a check; put yours here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._turns = 0

    async def step(self, state_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Answer one action of the policy."""
        import torch

        self._turns += 1
        done = self._turns == 2
        return {
            "rewards": torch.tensor(0.0),
            "environment_feedback": "" if done else "\nCheck it, and answer again.\n",
            "done": done,
        }


class AgentExecutor(MultiTurnAgentExecutor):
    """Runs the environment, then has the whole trajectory judged."""

    def __init__(self) -> None:
        super().__init__(AgentInstance)

    async def execute(
        self, prompt: str, label: Any, sampling_params: Any, max_length: int, hf_tokenizer: Any,
        llm_engine: Any, images: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Run one trajectory; its reward is the environment's plus Oyer's."""
        where: Any = {
            **filed_under(None, "openrlhf", manager),
            "split": "train",
            "group_size": GROUP_SIZE,
            "sample_id": uuid.uuid4().hex,
        }
        try:
            output: dict[str, Any] = await super().execute(
                prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images
            )
        except Exception:
            # Nobody waits for a trajectory that failed.
            manager.close_groups([group_id_of(prompt)], absent=[where.pop("sample_id")], **where)
            raise
        (found,) = await group_rewards(manager, [rollout(output, hf_tokenizer)], **where)
        output["reward"] += found.reward
        output["scores"] = output["reward"]
        output["extra_logs"] = {**output["extra_logs"], **found.metrics}
        return output


def rollout(output: dict[str, Any], tokenizer: Any) -> Rollout:
    """Convert what an executor returns; tokens between the action ranges are the environment's."""
    ids, messages = output["observation_tokens"], []
    ranges = output["action_ranges"]
    ends = [start for start, _ in ranges[1:]] + [len(ids)]
    for (start, end), until in zip(ranges, ends, strict=True):
        for role, part in (("assistant", ids[start:end]), ("tool", ids[end:until])):
            text = tokenizer.decode(part, skip_special_tokens=True).strip()
            if role == "assistant" or text:
                messages.append({"role": role, "content": text})
    own = [token for start, end in ranges for token in ids[start:end]]
    return Rollout(
        prompt=output["prompt"],
        response=response_of(messages),
        response_tokens=len(own),
        token_ids=own,
        truncated=output["truncated"],
        reference=reference_text(output["label"]),
        group_id=group_id_of(output["prompt"]),
    )
