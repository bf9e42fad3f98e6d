"""Finds the reasoning of a judge's model in a reply, under the names that endpoints use; pure.

- `reasoning_content`: DeepSeek, Qwen, SGLang, vLLM, LiteLLM.
- `reasoning`: OpenRouter, Groq, vLLM since 0.12; with `reasoning_details`.
- `thinking`: Ollama; `thinking_blocks`: LiteLLM for Anthropic's models.
- Parts of the content of type `thinking` (Mistral) or `reasoning`.
- A block between tags such as `<think>` in the content: servers without a reasoning parser.
"""

from collections.abc import Mapping
from typing import Any

from oyer.tasks.parsing.normalize import thinking_in

_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
_TEXTS = ("text", "summary", "thinking", "reasoning", "content")
"""Fields that hold the text of a part; encrypted parts have none."""


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the reasoning in a message of a chat completion; empty if there is none.

    Endpoints repeat the same reasoning under several names; the first name with text counts.
    """
    for name in _FIELDS:
        if found := _text(message.get(name)):
            return found
    content = message.get("content")
    if isinstance(content, list):
        return _text([part for part in content if is_reasoning(part)])
    return thinking_in(content) if isinstance(content, str) else ""


def reports_reasoning(message: Mapping[str, Any], usage: Any) -> bool:
    """Whether a reply reports reasoning, as text or as tokens in its usage."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if any(message.get(name) for name in _FIELDS) or any(map(is_reasoning, parts)):
        return True
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("completion_tokens_details")
    for counts in (usage, details if isinstance(details, dict) else {}):
        tokens = counts.get("reasoning_tokens")
        if isinstance(tokens, (int, float)) and tokens > 0:
            return True
    return False


def is_reasoning(part: Any) -> bool:
    """Whether a part of a message's content is reasoning and not part of the reply."""
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind.startswith(("thinking", "reasoning", "redacted_thinking"))


def _text(value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        return value
    if depth > 3:  # no endpoint nests deeper
        return ""
    if isinstance(value, list):
        return "".join(_text(part, depth + 1) for part in value)
    if isinstance(value, dict):
        return next((text for name in _TEXTS if (text := _text(value.get(name), depth + 1))), "")
    return ""
