"""Splits a response of several turns into messages, and the policy's tokens from those of tools; pure."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from oyer.protocol.rollout import Message

_ROLES = ("user", "tool", "system", "assistant", "ipython", "observation", "environment")
"""Names that chat templates write before a message."""

_TOOL_ROLES = ("tool", "ipython", "observation", "environment")

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
"""The markers of the Hermes format, which Qwen's templates and verl's tool agent use."""


def own_mask(ids: Sequence[int], tokenizer: Any, end_ids: Collection[int]) -> list[int]:
    """Tell the policy's tokens (1) from those that the chat template added (0), without verl's mask.

    A turn of the policy starts at the start of the response or after the template's generation
    prompt, and ends with the first end token. A tool result that contains both is read as the policy's
    words, so verl's own mask is preferred.
    """
    prompt = _generation_prompt(tokenizer)
    mask = [1] * len(ids)
    start = 0
    for at in _occurrences(ids, prompt):
        ends = (i for i in range(start, at) if ids[i] in end_ids)
        end = next(ends, None)
        if end is not None:
            mask[end + 1 : at + len(prompt)] = [0] * (at + len(prompt) - end - 1)
            start = at + len(prompt)
    return mask


def as_turns(ids: Sequence[int], mask: Sequence[int], tokenizer: Any) -> list[Message]:
    """Decode a response to messages: the policy's turns, and what tools and users answered."""
    special = set(getattr(tokenizer, "all_special_ids", None) or ())
    messages: list[Message] = []
    for own, run in groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1])):
        tokens = [token for token, _ in run]
        if own:
            messages.append(_policy_message(tokenizer.decode(tokens, skip_special_tokens=True)))
        else:
            messages += _answers(tokens, special, tokenizer)
    return messages


def _policy_message(text: str) -> Message:
    calls = [call for call in map(_tool_call, _CALL.findall(text)) if call is not None]
    if not calls or len(calls) != text.count("<tool_call>"):
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": _CALL.sub("", text).strip(), "tool_calls": calls}


def _tool_call(text: str) -> Message | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    arguments = (
        arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    )
    return {"type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _answers(tokens: Sequence[int], special: set[int], tokenizer: Any) -> Iterator[Message]:
    """Yield the messages between two turns of the policy; headers of the template name their roles."""
    role = "tool"
    for piece in _pieces(tokens, special, tokenizer):
        header, _, rest = piece.lstrip().partition("\n")
        if header.strip() in _ROLES:
            role = header.strip()
            piece = rest
        if not piece.strip() or role == "assistant":
            continue
        results = _RESULT.findall(piece)
        if results or role in _TOOL_ROLES:
            yield from ({"role": "tool", "content": text} for text in results or [piece.strip()])
        else:
            yield {"role": role, "content": piece.strip()}


def _pieces(tokens: Sequence[int], special: set[int], tokenizer: Any) -> Iterator[str]:
    """Yield the texts between special tokens."""
    for is_special, run in groupby(tokens, key=lambda token: token in special):
        if not is_special:
            yield tokenizer.decode(list(run), skip_special_tokens=False)


def _generation_prompt(tokenizer: Any) -> list[int]:
    """Return what the chat template puts before a turn of the policy; empty without a template."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    question = [{"role": "user", "content": "?"}]
    closed = tokenizer.apply_chat_template(question, tokenize=False)
    opened = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    if not opened.startswith(closed):
        return []
    return list(tokenizer.encode(opened[len(closed) :], add_special_tokens=False))


def _occurrences(ids: Sequence[int], part: Sequence[int]) -> Iterator[int]:
    if not part:
        return
    for at in range(len(ids) - len(part) + 1):
        if ids[at] == part[0] and list(ids[at : at + len(part)]) == list(part):
            yield at
