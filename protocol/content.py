"""Converts chat content to text: text parts stay text, other parts become placeholders.

Trainers of vision-language models submit images as objects or base64. A text judge cannot read them,
and JSON cannot carry the objects. An image becomes `[image]`, and so on.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_TEXTS = ("text", "refusal", "thinking", "reasoning")
"""Keys of the text of a part."""

_MEDIA = ("image", "video", "audio", "file", "document")
"""Prefixes of the types and keys of parts without text: `image_url`, `input_audio`, …"""

PLACEHOLDERS = (*_MEDIA, "array", "bytes")
"""All placeholders, without brackets."""

_DATA_URL = re.compile(r"\s*data:(\w+)/[^,;]*[^,]*;base64,", re.IGNORECASE)


def plain_messages(prompt: Any) -> Any:
    """Return chat messages with text content; anything but a list of messages is returned unchanged.

    Args:
        prompt: text, or messages in a list, tuple or array.
    """
    if isinstance(prompt, str) or not isinstance(prompt, (list, tuple, np.ndarray)):
        return prompt
    return [_message(one) if isinstance(one, Mapping) else one for one in prompt]


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


def plain_json(value: Any) -> str:
    """Return any value as JSON, with placeholders for media and for values that JSON cannot hold."""
    return json.dumps(_plain(value), ensure_ascii=False)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    plain = {key: _plain(value) for key, value in message.items() if key != "content"}
    if "content" in message:
        plain["content"] = None if content is None else content_text(content)
    return plain


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
