"""Finds what is wrong with the chat messages and tool definitions of a rollout; pure."""

from collections.abc import Mapping
from typing import Any

from oyer.manager.requirements import shown

_EXAMPLE = 'e.g. {"role": "assistant", "content": "…"}'


def messages_problem(field: str, value: Any) -> str | None:
    """Return what is wrong with a prompt or response, with the field and the fix; None if nothing.

    Args:
        field: `prompt` or `response`.
        value: text, or a list of chat messages.
    """
    if isinstance(value, str):
        return None
    if not isinstance(value, list):
        return (
            f"{field}: must be text or a list of chat messages, but is {type(value).__name__};"
            " convert it with oyer.protocol.content.as_messages"
        )
    check = _role_problem if field == "prompt" else _message_problem
    for i, message in enumerate(value):
        problem = check(message)
        if problem is not None:
            return f"{field}[{i}]{problem}"
    return None


def tools_problem(tools: Any) -> str | None:
    """Return what is wrong with tool definitions, with the field and the fix; None if nothing."""
    if tools is None:
        return None
    if not isinstance(tools, list):
        return f"tools: must be a list of tool definitions, but is {type(tools).__name__}"
    for i, tool in enumerate(tools):
        if not _has_text_keys(tool):
            return (
                f"tools[{i}]: is {shown(tool)}; give a definition, e.g."
                ' {"type": "function", "function": {"name": …, "parameters": …}}'
            )
    return None


def _role_problem(message: Any) -> str | None:
    if not _has_text_keys(message):
        return f": is {shown(message)}, and must be a chat message, {_EXAMPLE}"
    role = message.get("role")
    if not isinstance(role, str) or not role.strip():
        state = "is missing" if role is None else f"is {shown(role)}"
        return f".role: {state}; name the author, {_EXAMPLE}"
    return None


def _message_problem(message: Any) -> str | None:
    """Return what is wrong with a message of a response, whose parts are shown one by one."""
    problem = _role_problem(message)
    if problem is not None:
        return problem
    content = message.get("content")
    if isinstance(content, list):
        for k, part in enumerate(content):
            if not isinstance(part, (Mapping, str)):
                return f'.content[{k}]: is {shown(part)}; give parts, e.g. {{"type": "text", "text": "…"}}'
    elif content is not None and not isinstance(content, str):
        return f".content: is {shown(content)}; give text, a list of parts, or None"
    reasoning = message.get("reasoning_content")
    if reasoning is not None and not isinstance(reasoning, str):
        return f".reasoning_content: is {shown(reasoning)}; give text, or leave it out"
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(map(_has_text_keys, calls))):
        return f".tool_calls: is {shown(calls)}; give a list of calls, or leave it out"
    return None


def _has_text_keys(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
