"""Converts chat messages and their content: to JSON, to text, and to the policy's own words.

Trainers of vision-language models submit images as objects or base64. In text, an image becomes
`[image]`, and so on; in messages, it becomes an `image_url` part.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oyer.protocol.images import image_url, images_in, is_image, unusable_image
from oyer.protocol.rollout import Message

_TEXTS = ("text", "refusal", "thinking", "reasoning")
"""Keys of the text of a part."""

_MEDIA = ("image", "video", "audio", "file", "document")
"""Prefixes of the types and keys of parts without text: `image_url`, `input_audio`, …"""

PLACEHOLDERS = (*_MEDIA, "array", "bytes")
"""All placeholders, without brackets."""

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys under which servers and parsers put the reasoning of a message; the first one counts."""

_DATA_URL = re.compile(r"\s*data:(\w+)/[^,;]*[^,]*;base64,", re.IGNORECASE)


def plain_messages(prompt: Any) -> Any:
    """Return chat messages with text content; anything but a list of messages is returned unchanged.

    Args:
        prompt: text, or messages in a list, tuple or array.
    """
    if isinstance(prompt, str) or not isinstance(prompt, (list, tuple, np.ndarray)):
        return prompt
    return [_message(one) if isinstance(one, Mapping) else one for one in prompt]


def as_messages(value: Any, *, images: bool = True) -> str | list[Message]:
    """Convert a trainer's prompt or completion to text or JSON messages; never raises.

    - Text blocks become text. Images become `image_url` parts with a `data:` URL (Pillow images as
      PNG), or with an empty URL if they cannot be sent; other media become placeholders.
    - Reasoning under other keys or in blocks of its own becomes `reasoning_content`.

    Args:
        value: text, one message, or messages in a list, tuple or array.
        images: False makes images placeholders too; see `adapters.NeededFields.images`.
    """
    if isinstance(value, str):
        return value
    messages = [value] if isinstance(value, Mapping) else value
    if isinstance(messages, np.ndarray) and messages.dtype == object:
        messages = messages.tolist()
    if value is None or not isinstance(messages, (list, tuple)):
        return "" if value is None else content_text(value)
    if not all(isinstance(one, Mapping) for one in messages):
        return content_text(value)
    return [_safe_message(one, images) for one in messages]


def images_as_text(messages: Any) -> Any:
    """Return chat messages whose images are placeholders; anything else is returned unchanged."""
    if not isinstance(messages, list) or not _holds_image(messages):
        return messages
    return [
        {**message, "content": content_text(message["content"])}
        if _holds_image([message])
        else message
        for message in messages
    ]


def _holds_image(messages: list[Any]) -> bool:
    return next(images_in(messages), None) is not None or unusable_image(messages) is not None


def policy_text(response: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the policy's own words: text as it is, of messages those with the role `assistant`.

    Reasoning is put in `<think>…</think>` before its message, and a tool call in
    `<tool_call>…</tool_call>` after it.
    """
    return "\n".join(policy_turns(response))


def turn_states(
    response: str | Sequence[dict[str, Any]],
) -> list[str | list[dict[str, Any]]]:
    """Return the states of a response after each turn of the policy, the last one whole.

    A turn is a message with the role `assistant` and the results of its tool calls. A text is one
    turn, and so are messages without any of the policy.
    """
    if isinstance(response, str):
        return [response]
    roles = [message.get("role") for message in response]
    ends = []
    for i, role in enumerate(roles):
        if role == "assistant":
            ends.append(i + 1)
        elif role in ("tool", "function") and ends[-1:] == [i]:
            ends[-1] = i + 1
    return [*(list(response[:end]) for end in ends[:-1]), list(response)]


def policy_turns(
    response: str | Sequence[Mapping[str, Any]], think: tuple[str, str] = ("<think>", "</think>")
) -> list[str]:
    """Return `policy_text` message by message.

    Args:
        think: the markers around reasoning.
    """
    if isinstance(response, str):
        return [response]
    return [_own_words(one, think) for one in response if one.get("role") == "assistant"]


def tool_calls_of(message: Mapping[str, Any]) -> list[str]:
    """Return a message's tool calls as JSON, `{"name": …, "arguments": …}`, arguments verbatim."""
    calls = message.get("tool_calls") or ()
    legacy = message.get("function_call")
    listed = list(calls) if isinstance(calls, (list, tuple)) else [calls]
    return [_call_text(call) for call in [*listed, *([legacy] if legacy else [])]]


def content_text(content: Any) -> str:
    """Return a message's content as text, with one line per part."""
    if isinstance(content, str):
        return content
    if isinstance(content, np.ndarray) and content.dtype != object:
        return "[array]"
    if isinstance(content, (list, tuple, np.ndarray)):
        return "\n".join(map(content_text, content))
    if isinstance(content, Mapping):
        return _part(content)
    return str(_plain(content))


def reference_text(value: Any) -> str | None:
    """Return a data set's reference answer as text: lists and mappings as JSON.

    None if there is none: null, NaN, as pandas fills gaps, or an empty text.

    Raises:
        ValueError, RecursionError: it has no text form, e.g. an integer of thousands of digits.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    holds = isinstance(value, (Mapping, list, tuple, np.ndarray))
    text = plain_json(value) if holds else str(value)
    return text if text.strip() else None


def plain_json(value: Any) -> str:
    """Return any value as JSON, with placeholders for media and for values that JSON cannot hold."""
    return json.dumps(_plain(value), ensure_ascii=False)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    plain = {key: _plain(value) for key, value in message.items() if key != "content"}
    if "content" in message:
        plain["content"] = None if content is None else content_text(content)
    return plain


def _own_words(message: Mapping[str, Any], think: tuple[str, str]) -> str:
    reasoning = message.get("reasoning_content")
    thought = f"{think[0]}{content_text(reasoning)}{think[1]}" if reasoning else ""
    words = thought + content_text(message.get("content") or "")
    calls = [f"<tool_call>\n{call}\n</tool_call>" for call in tool_calls_of(message)]
    return "\n".join([*([words] if words or not calls else []), *calls])


def _call_text(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping) or "name" not in function:
        return plain_json(call)
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or not _is_json(arguments):
        arguments = plain_json(arguments)
    return f'{{"name": {plain_json(function["name"])}, "arguments": {arguments}}}'


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _safe_message(message: Mapping[str, Any], images: bool) -> Message:
    """Convert one message; empty fields are left out, since data sets fill in absent keys by null."""
    role = message.get("role")
    safe: Message = {"role": role if isinstance(role, str) and role else "user"}
    content, thoughts = _safe_content(message.get("content"), images)
    reasoning = next((message[key] for key in _REASONING if message.get(key)), None)
    reasoning = "\n".join(thoughts) if reasoning is None else content_text(reasoning)
    safe["content"] = content
    if reasoning:
        safe["reasoning_content"] = reasoning
    for key, value in message.items():
        if key not in ("role", "content", *_REASONING) and value is not None:
            safe[str(key)] = _safe_value(value)
    return safe


def _safe_content(content: Any, images: bool) -> tuple[str | list[Message] | None, list[str]]:
    """Return a message's content as text or parts, and the texts of its reasoning blocks."""
    if content is None or isinstance(content, str):
        return content, []
    if isinstance(content, np.ndarray) and content.dtype == object:
        content = content.tolist()
    blocks = list(content) if isinstance(content, (list, tuple)) else [content]
    thoughts = [block for block in blocks if _is_reasoning(block)]
    parts: list[Message] = []
    for block in blocks:
        if _is_reasoning(block):
            continue
        url = image_url(block) if images else None
        if url is None and images and is_image(block):
            url = ""  # `submit` refuses it with its place
        if url is None:
            parts.append({"type": "text", "text": _safe_text(block)})
        else:
            parts.append({"type": "image_url", "image_url": {"url": url}})
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts), [*map(_safe_text, thoughts)]
    return parts, [*map(_safe_text, thoughts)]


def _is_reasoning(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") in ("thinking", "reasoning")


def _safe_text(block: Any) -> str:
    try:
        return content_text(block)
    except RecursionError:
        return f"[{type(block).__name__}]"


def _safe_value(value: Any) -> Any:
    """Return a JSON value: NaN becomes text, and what nests too deep a placeholder."""
    try:
        plain = json.loads(json.dumps(_plain(value)), parse_constant=str)
    except (ValueError, RecursionError):
        return f"[{type(value).__name__}]"
    return plain if _shallow(plain) else f"[{type(value).__name__}]"


def _shallow(value: Any, levels: int = 32) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_shallow(one, levels - 1) for one in inner)


def _part(part: Mapping[str, Any]) -> str:
    kind = str(part.get("type") or "")
    medium = _medium(kind)
    if medium is None:
        for key in _TEXTS:
            if isinstance(part.get(key), str):
                return str(part[key])
        # Data sets often give each part all keys and set the unused ones to null.
        medium = next(
            (_medium(key) for key, value in part.items() if value is not None and _medium(key)),
            None,
        )
    if medium is not None:
        return f"[{medium}]"
    return content_text(part["content"]) if part.get("content") else plain_json(part)


def _medium(name: Any) -> str | None:
    words = str(name).lower().removeprefix("input_")
    return next((medium for medium in _MEDIA if words.startswith(medium)), None)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        found = _DATA_URL.match(value)
        return value if found is None else f"[{found[1].lower()}]"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        if _medium(value.get("type") or "") is not None:
            return _part(value)
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return "[array]" if value.ndim > 1 else value.tolist()
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (bytes, bytearray)):
        return [_plain(one) for one in value]
    kinds = [kind.__name__.lower() for kind in type(value).__mro__]
    # Pillow has one image class per file format.
    return f"[{'image' if 'image' in kinds else kinds[0]}]"
