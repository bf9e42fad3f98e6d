"""Whether a chat completion reports thinking beside its text; pure."""

from collections.abc import Mapping
from typing import Any

_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
"""Where DeepSeek, vLLM, SGLang, OpenRouter, Groq, Ollama and LiteLLM put a reply's thinking."""


def reports_thinking(message: Mapping[str, Any], usage: Any) -> bool:
    """Whether a reply reports thinking: as a text of its own, or as tokens of its usage."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if any(message.get(name) for name in _FIELDS) or any(map(is_thinking, parts)):
        return True
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("completion_tokens_details")
    for counts in (usage, details if isinstance(details, dict) else {}):
        tokens = counts.get("reasoning_tokens")
        if isinstance(tokens, (int, float)) and tokens > 0:
            return True
    return False


def is_thinking(part: Any) -> bool:
    """Whether a part of a message's content is thinking, as Mistral sends it."""
    kind = str(part.get("type")) if isinstance(part, dict) else ""
    return "thinking" in kind or "reasoning" in kind
