"""Reads rows of a verl `DataProto`, and places rewards in the tensor that verl reads."""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from oyer.protocol.content import plain_messages
from oyer.protocol.errors import InvalidConfig, InvalidRollout
from oyer.protocol.rollout import Message

ComputeScore = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class VerlRow:
    """One row of a `DataProto`, decoded."""

    prompt: str | list[Message]
    response: str
    response_tokens: int
    """Tokens that the policy wrote, i.e. those in `response_mask`."""
    token_ids: list[int] | None = None
    """The policy's token ids, if requested."""
    uid: str | None
    """The prompt's id, if verl set one."""
    data_source: Any
    ground_truth: Any
    extra_info: dict[str, Any]

    @property
    def reference(self) -> str | None:
        """The reference answer as text for the judge."""
        if self.ground_truth is None or isinstance(self.ground_truth, str):
            return self.ground_truth
        return json.dumps(self.ground_truth, ensure_ascii=False, default=str)


def read_row(
    data: Any,
    i: int,
    tokenizer: Any,
    reward_fn_key: str = "data_source",
    *,
    token_ids: bool = False,
) -> VerlRow:
    """Decode row `i`: prompts are padded on the left, responses on the right."""
    prompts, responses = data.batch["prompts"][i], data.batch["responses"][i]
    mask = data.batch["attention_mask"][i]
    response_tokens = int(mask[-responses.shape[-1] :].sum())
    own = responses[:response_tokens]
    if "response_mask" in data.batch.keys():  # noqa: SIM118 - a TensorDict has no `in`
        # Exclude the tokens of tools and of users in other turns.
        own = own[data.batch["response_mask"][i][:response_tokens].bool()]
    prompt_tokens = int(mask[: prompts.shape[-1]].sum())
    extras = {name: column[i] for name, column in data.non_tensor_batch.items()}
    response = tokenizer.decode(responses[:response_tokens], skip_special_tokens=True)
    messages = extras.get("raw_prompt")
    uid = extras.get("uid")
    return VerlRow(
        prompt=(
            tokenizer.decode(prompts[len(prompts) - prompt_tokens :], skip_special_tokens=True)
            if messages is None or isinstance(messages, str)
            else plain_messages(messages)
        ),
        response=response.removesuffix(getattr(tokenizer, "eos_token", None) or ""),
        response_tokens=len(own),
        token_ids=own.tolist() if token_ids else None,
        uid=None if uid is None else str(uid),
        data_source=extras.get(reward_fn_key),
        ground_truth=(extras.get("reward_model") or {}).get("ground_truth"),
        extra_info=_extra_info(extras),
    )


def place(data: Any, rewards: Sequence[float]) -> Any:
    """Put each reward at its response's last token, `float32 [B, R]`, as verl's managers do."""
    responses = data.batch["responses"]
    placed = responses.new_zeros(responses.shape).float()
    lengths = data.batch["attention_mask"][:, -responses.shape[-1] :].sum(-1)
    for i, reward in enumerate(rewards):
        placed[i, int(lengths[i]) - 1] = reward
    return placed


def base_score_of(result: Any) -> float:
    """Read the result of `compute_score`: a number, or a dict with `score`.

    Raises:
        InvalidRollout: it is neither.
    """
    score: Any = result.get("score") if isinstance(result, Mapping) else result
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise InvalidRollout(
            f"compute_score: returned {result!r}; return a number, or a dict with a number under"
            " `score`"
        ) from error


def accuracy_of(result: Any, base_score: float) -> float:
    """Return `acc` of the result of `compute_score`, or the base score if there is none."""
    given = result.get("acc") if isinstance(result, Mapping) else None
    return float(given) if isinstance(given, (Real, np.bool_)) else base_score


def default_compute_score() -> ComputeScore:
    """Return verl's rule-based scorer.

    Raises:
        InvalidConfig: verl is not installed.
    """
    try:
        # Imported by name, because Oyer does not depend on verl.
        module = importlib.import_module("verl.utils.reward_score")
    except ImportError as error:
        raise InvalidConfig(
            "compute_score: is missing, and verl's cannot be imported; pass a function"
            " (data_source, solution_str, ground_truth, extra_info) -> float"
        ) from error
    found: ComputeScore = module.default_compute_score
    return found


def _extra_info(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `extra_info` that verl's managers pass to `compute_score`."""
    info = dict(extras.get("extra_info") or {})
    info |= dict(extras.get("tool_extra_fields") or {})
    if "__num_turns__" in extras:
        info["num_turns"] = extras["__num_turns__"]
    if "reward_scores" in extras:
        info["rollout_reward_scores"] = extras["reward_scores"]
    return info
