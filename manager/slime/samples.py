"""Converts samples of slime and miles to rollouts."""

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from oyer.manager.adapters import NeededFields, as_number, row_metadata
from oyer.manager.openrlhf.query_text import QueryText
from oyer.manager.slime.normalise import group_of
from oyer.protocol.content import as_messages, reference_text
from oyer.protocol.rollout import Rollout


def rollout_of(
    args: Any, sample: Any, needed: NeededFields, default_group: str, tokenizer: Any = None
) -> Rollout:
    """Convert a sample.

    Args:
        args: the trainer's arguments.
        sample: slime's or miles' `Sample`.
        needed: fields that the configuration reads.
        default_group: the group of a sample without one.
        tokenizer: separates tool results from the policy's words, if the sample has a `loss_mask`.
    """
    metadata = sample.metadata if isinstance(sample.metadata, Mapping) else {}
    # Of an earlier call, if the sample is scored again.
    metadata = {key: value for key, value in metadata.items() if key not in _RESULTS}
    own = _own_tokens(args, sample)
    return Rollout(
        prompt=_prompt(sample, with_images=needed.images),
        response=_response(sample, own, tokenizer, with_images=needed.images),
        tools=_tools(metadata),
        group_id=group_id_of(sample) or default_group,
        base_score=as_number(metadata.get("base_score")),
        response_tokens=int(sample.response_length) if own is None else sum(own),
        token_ids=_own_ids(sample, own) if needed.token_ids else None,
        truncated=status_of(sample) == "truncated",
        reference=reference_text(sample.label),
        metadata={**row_metadata(_ids(sample) | dict(metadata)), **needed.metadata_of(metadata)},
    )


_RESULTS = ("judge_status", "oyer", "turn_scores")
"""Keys of a sample's metadata that the reward functions set."""


def group_id_of(sample: Any) -> str | None:
    """Return the id of a sample's group; None if it has none, as in an evaluation."""
    group = group_of(sample)
    if group is None:
        return None
    adapter, index = group
    return str(index) if adapter is None else f"{adapter}/{index}"


def status_of(sample: Any) -> str:
    """Return the value of a sample's status, e.g. `aborted`."""
    return str(getattr(sample.status, "value", sample.status))


def _ids(sample: Any) -> dict[str, Any]:
    names = ("index", "rollout_id", "session_id")
    found = {name: getattr(sample, name, None) for name in names}
    adapter = getattr(getattr(sample, "adapter", None), "name", None)
    return {
        name: value for name, value in (*found.items(), ("adapter", adapter)) if value is not None
    }


def _own_tokens(args: Any, sample: Any) -> list[bool] | None:
    """Return which tokens of the response the policy wrote; None if it wrote all.

    A resumed sample starts with tokens that slime masks because an older policy wrote them, not
    because they are a tool's.
    """
    mask = getattr(sample, "loss_mask", None)
    if mask is None:
        return None
    own = [bool(one) for one in mask]
    if getattr(args, "mask_offpolicy_in_partial_rollout", False):
        masked = sum(1 for _ in itertools.takewhile(lambda one: not one, own))
        own[:masked] = [True] * masked
    return None if all(own) else own


def _own_ids(sample: Any, own: Sequence[bool] | None) -> list[int]:
    ids = _response_ids(sample)
    if own is None or len(own) != len(ids):
        return ids
    return list(itertools.compress(ids, own))


def _response_ids(sample: Any) -> list[int]:
    return list(sample.tokens[len(sample.tokens) - int(sample.response_length) :])


def _response(sample: Any, own: Sequence[bool] | None, tokenizer: Any, *, with_images: bool) -> Any:
    """Return the response as text, or as messages if parts of it are not the policy's words."""
    messages = _own_messages(sample)
    if messages:
        return as_messages(messages, images=with_images)
    if own is None or not any(own):
        return _without_end_marks(sample.response, tokenizer)
    ids = _response_ids(sample)
    if tokenizer is not None and len(ids) == len(own):
        return _messages(ids, own, lambda part: tokenizer.decode(part, skip_special_tokens=True))
    if len(sample.response) == len(own):  # one token is one character
        return _messages(sample.response, own, "".join)
    return _without_end_marks(sample.response, tokenizer)


def _own_messages(sample: Any) -> list[Any]:
    """Return the messages that a custom generate function set, from the policy's first one on.

    A data set may have the prompt under the same key.
    """
    found = (sample.metadata or {}).get("messages")
    if not isinstance(found, (list, tuple)):
        return []
    prompt = sample.prompt if isinstance(sample.prompt, (list, tuple)) else ()
    rest = found[len(prompt) :] if [*found[: len(prompt)]] == [*prompt] else found
    return [*itertools.dropwhile(lambda one: one.get("role") != "assistant", rest)]


def _without_end_marks(response: str, tokenizer: Any) -> str:
    """Remove what ended the generation: slime keeps special tokens and stop tokens in the text."""
    marks = tuple(getattr(tokenizer, "all_special_tokens", None) or ())
    return _texts(marks).response(response, "")[0]


@lru_cache(maxsize=8)
def _texts(marks: tuple[str, ...]) -> QueryText:
    return QueryText(sorted(marks, key=len, reverse=True) or None)


def _messages(parts: Sequence[Any], own: Sequence[bool], text: Any) -> list[dict[str, Any]]:
    runs = itertools.groupby(zip(own, parts, strict=True), key=lambda pair: pair[0])
    return [
        {"role": "assistant" if is_own else "tool", "content": text([part for _, part in run])}
        for is_own, run in runs
    ]


def _prompt(sample: Any, *, with_images: bool) -> Any:
    images = (getattr(sample, "multimodal_inputs", None) or {}).get("images")
    if not with_images or not images or not isinstance(sample.prompt, str):
        return as_messages(sample.prompt, images=with_images)
    parts = [{"type": "image", "image": image} for image in images]
    content = [*parts, {"type": "text", "text": sample.prompt}]
    return as_messages([{"role": "user", "content": content}])


def _tools(metadata: Mapping[str, Any]) -> Any:
    tools = metadata.get("tools")
    return tools if isinstance(tools, list) and tools else None
