"""NeMo-Gym: a resources server whose `verify` awaits Oyer's judges.

Put it into `resources_servers/oyer/app.py` with the configuration

    oyer: {resources_servers: {oyer: {entrypoint: app.py, domain: other, num_rollouts_per_prompt: 8}}}

`OYER_CONFIG` names Oyer's configuration.

- Missing score: with `num_rollouts_per_prompt` the reward with the mean judge score of the prompt's other
  rollouts; without it, or if none has a score, `JudgeError`, which NeMo-Gym files among the failures, not
  as a reward of 0. Either row asks NeMo-RL to mask it
  (`instance_config.mask_sample`).
- Components: `reward_components`, whose sum is the reward as NeMo-RL requires: `judge` and `length`, or
  with `gdpo: true` each judge and each length term. All are top-level numbers too, for the aggregate
  metrics.
- Groups: the rollouts of one task index.
- Evaluation: `split: eval`, without `num_rollouts_per_prompt`.
"""

import uuid
from typing import Any

from nemo_gym.base_resources_server import (
    BaseMultiRewardVerifyResponse,
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    SimpleResourcesServer,
)
from nemo_gym.judge import JudgeError
from pydantic import ConfigDict

from oyer.config.loading import load_config
from oyer.config.reward import RewardConfig
from oyer.manager import RewardManager, Rollout
from oyer.manager.adapters import response_of, row_metadata
from oyer.manager.group_rewards import group_rewards
from oyer.manager.stand_ins import with_group_mean
from oyer.protocol.content import as_messages, reference_text


class OyerServerConfig(BaseResourcesServerConfig):
    """Options of the server."""

    num_rollouts_per_prompt: int | None = None
    gdpo: bool = False
    split: str = "train"
    run: str = "nemo-gym"
    timeout_s: float = 600


class OyerVerifyRequest(BaseVerifyRequest):
    """A rollout with the columns of its row."""

    model_config = ConfigDict(extra="allow")


class OyerVerifyResponse(BaseMultiRewardVerifyResponse):
    """The reward, its components, and the same as top-level numbers."""

    model_config = ConfigDict(extra="allow")


class OyerServer(SimpleResourcesServer):
    """Scores rollouts by Oyer's judges."""

    config: OyerServerConfig

    def model_post_init(self, context: Any) -> None:
        """Connect once per server process."""
        super().model_post_init(context)
        config = load_config()
        grouped = self.config.num_rollouts_per_prompt is not None
        self._manager = RewardManager(with_group_mean(config) if grouped else config)

    async def verify(self, body: OyerVerifyRequest) -> OyerVerifyResponse:
        """Score one rollout.

        Raises:
            JudgeError: there is no reward.
        """
        columns = body.model_extra or {}
        (found,) = await group_rewards(
            self._manager,
            [rollout(body, columns, self._manager.config)],
            timeout_s=self.config.timeout_s,
            run=self.config.run,
            split=self.config.split,
            group_size=self.config.num_rollouts_per_prompt,
            sample_id=str(columns.get("_ng_rollout_index", uuid.uuid4().hex)),
        )
        score, metrics = found.score, found.metrics
        if not found.judged:
            columns["instance_config"] = {"mask_sample": True}
        if not score.trainable:
            raise JudgeError(f"{score.status}: {score.error}")
        components = {"judge": score.unshaped_reward, "length": score.length_term}
        if self.config.gdpo:
            named = {name.removeprefix("oyer/"): value for name, value in metrics.items()}
            components = {
                name: value for name, value in named.items() if f"{name}_present" in named
            }
        return OyerVerifyResponse(
            **body.model_dump(),
            **metrics,
            reward=sum(components.values()),
            reward_components=components,
        )


def rollout(body: Any, columns: dict[str, Any], config: RewardConfig) -> Rollout:
    """Convert a Responses-API conversation to chat messages."""
    params, usage = body.responses_create_params, body.response.usage
    index, reference = columns.get("_ng_task_index"), columns.get("expected_answer")
    return Rollout(
        prompt=chat(params.input),
        response=response_of(chat(body.response.output)),
        response_tokens=usage.output_tokens if usage else None,
        truncated=getattr(body.response.incomplete_details, "reason", None) == "max_output_tokens",
        reference=reference_text(reference),
        group_id=None if index is None else str(index),
        tools=[{"type": "function", "function": as_dict(tool)} for tool in params.tools or []]
        or None,
        metadata=row_metadata(columns, config),
    )


def chat(items: Any) -> Any:
    """Convert the items of the Responses API; reasoning goes to the message that follows it."""
    if isinstance(items, str):
        return items
    messages: list[dict[str, Any]] = []
    reasoning = ""
    for item in map(as_dict, items):
        match item.get("type", "message"):
            case "reasoning":
                reasoning += "\n".join(part["text"] for part in item.get("summary") or [])
                continue
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                message = {"role": "assistant", "content": None, "tool_calls": [call]}
            case "function_call_output":
                message = {
                    "role": "tool",
                    "tool_call_id": item["call_id"],
                    "content": item["output"],
                }
            case _:
                message = {"role": item["role"], "content": item["content"]}
        if reasoning and message["role"] == "assistant":
            message["reasoning_content"], reasoning = reasoning, ""
        messages.append(message)
    return as_messages(messages)


def as_dict(item: Any) -> dict[str, Any]:
    """Return an item of the API as a dict."""
    return dict(item) if isinstance(item, dict) else item.model_dump(exclude_none=True)


if __name__ == "__main__":
    OyerServer.run_webserver()
