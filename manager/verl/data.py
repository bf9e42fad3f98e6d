"""Reads rows of a verl `DataProto`, and places rewards in the tensor that verl reads."""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from oyer.manager.adapters import NeededFields, row_metadata
from oyer.manager.verl.handover import MASK
from oyer.manager.verl.turns import as_turns, own_mask
from oyer.protocol.content import as_messages, reference_text
from oyer.protocol.errors import InvalidConfig, InvalidRollout
from oyer.protocol.rollout import Message

ComputeScore = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class VerlRow:
    """One row of a `DataProto`, decoded."""

    prompt: str | list[Message]
    text: str
    """The whole response as verl's managers pass it to `compute_score`."""
    response: str | list[Message]
    """The response for the judge: text, or messages if tools or users answered in it."""
    response_tokens: int
    """Tokens that the policy wrote, i.e. those in `response_mask`."""
    token_ids: list[int] | None = None
    """The policy's token ids, if requested."""
    truncated: bool = False
    """Whether generation hit the length limit."""
    uid: str | None
    """The prompt's id, if verl set one."""
    data_source: Any
    ground_truth: Any
    extra_info: dict[str, Any]
    metadata: dict[str, Any]
    """The row's ids, data source and other small values, for the record."""

    @property
    def reference(self) -> str | None:
        """The reference answer as text for the judge."""
        return reference_text(self.ground_truth)


@dataclass(frozen=True, kw_only=True)
class RowReading:
    """What the rows of a batch are read with."""

    tokenizer: Any
    needed: NeededFields
    """Fields that the configuration reads."""
    end_ids: frozenset[int] = frozenset()
    """Ids that end a generation."""
    response_length: int | None = None
    """Most tokens of a response; by default the width of the batch."""
    reward_fn_key: str = "data_source"


def read_row(data: Any, i: int, reading: RowReading) -> VerlRow:
    """Decode row `i`."""
    extras = {name: column[i] for name, column in data.non_tensor_batch.items()}
    tokenizer = reading.tokenizer
    prompt_ids, ids = _ids(data.batch, i, extras)
    mask = _mask(data.batch, i, extras, ids, reading)
    own = [token for token, flag in zip(ids, mask, strict=True) if flag]
    limit = reading.response_length or data.batch["responses"].shape[-1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    uid = extras.get("uid")
    extra_info = _extra_info(extras)
    return VerlRow(
        prompt=_prompt(prompt_ids, extras, reading),
        text=text,
        response=(
            text.removesuffix(getattr(tokenizer, "eos_token", None) or "")
            if all(mask)
            else as_turns(ids, mask, tokenizer)
        ),
        response_tokens=len(own),
        token_ids=own if reading.needed.token_ids else None,
        truncated=bool(ids) and len(ids) == limit and ids[-1] not in reading.end_ids,
        uid=None if uid is None else str(uid),
        data_source=extras.get(reading.reward_fn_key),
        ground_truth=(extras.get("reward_model") or {}).get("ground_truth"),
        extra_info=extra_info,
        metadata=row_metadata({key: extras[key] for key in _RECORDED if key in extras})
        | reading.needed.metadata_of({**extras, **extra_info}),
    )


_RECORDED = ("uid", "data_source", "index", "session_id", "__num_turns__", "extra_info")
"""Columns whose small values are kept on record."""


def end_ids_of(tokenizer: Any) -> frozenset[int]:
    """Return the ids that end a generation: the tokenizer's, and those of the model beside it."""
    found = [getattr(tokenizer, "eos_token_id", None)]
    folder = getattr(tokenizer, "name_or_path", None)
    file = Path(str(folder)) / "generation_config.json"
    if folder and file.is_file():
        named = json.loads(file.read_text()).get("eos_token_id")
        found += named if isinstance(named, list) else [named]
    return frozenset(one for one in found if isinstance(one, int))


def _ids(batch: Any, i: int, extras: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the ids of a row's prompt and response, without padding.

    In a batch, prompts are padded on the left and responses on the right. In the agent loop, the
    outputs of one trajectory are padded on the right, prompt, response and mask each by itself;
    there verl gives the lengths.
    """
    prompts, responses = batch["prompts"][i], batch["responses"][i]
    if "response_len" in extras and "prompt_len" in extras:
        prompt = prompts[: int(extras["prompt_len"])]
        return prompt.tolist(), responses[: int(extras["response_len"])].tolist()
    mask, width = batch["attention_mask"][i], prompts.shape[-1]
    prompt = prompts[mask[:width].bool()]
    return prompt.tolist(), responses[: int(mask[-responses.shape[-1] :].sum())].tolist()


def _mask(
    batch: Any, i: int, extras: Mapping[str, Any], ids: Sequence[int], reading: RowReading
) -> list[int]:
    """Return 1 for each token of the policy, and 0 for those of tools, users and the template."""
    handed = (extras.get("tool_extra_fields") or {}).get(MASK)
    if handed is not None and len(handed) == len(ids):
        return list(handed)
    if "response_mask" in batch.keys():  # noqa: SIM118 - a TensorDict has no `in`
        return [int(flag) for flag in batch["response_mask"][i][: len(ids)]]
    if int(extras.get("__num_turns__") or 0) > _TURNS_OF_A_SINGLE_REPLY:
        return own_mask(ids, reading.tokenizer, reading.end_ids)
    return [1] * len(ids)


_TURNS_OF_A_SINGLE_REPLY = 2
"""verl counts the prompt's turn and the policy's."""


def _prompt(ids: Sequence[int], extras: Mapping[str, Any], reading: RowReading) -> Any:
    messages = extras.get("raw_prompt")
    if messages is None or isinstance(messages, str):
        return reading.tokenizer.decode(ids, skip_special_tokens=True)
    media = extras.get("multi_modal_data") or {}
    images = iter(media.get("images") or media.get("image") or ())
    shown = [_with_images(one, images) for one in messages]
    return as_messages(shown, images=reading.needed.images)


def _with_images(message: Any, images: Iterator[Any]) -> Any:
    """Fill in the images that verl keeps beside the messages (up to 0.8)."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, (list, np.ndarray)):
        return message
    parts = [
        {**part, "image": next(images, None)}
        if isinstance(part, Mapping) and part.get("type") == "image" and part.get("image") is None
        else part
        for part in content
    ]
    return {**message, "content": parts}


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
    info |= {k: v for k, v in (extras.get("tool_extra_fields") or {}).items() if k != MASK}
    if "__num_turns__" in extras:
        info["num_turns"] = extras["__num_turns__"]
    if "reward_scores" in extras:
        info["rollout_reward_scores"] = extras["reward_scores"]
    return info
