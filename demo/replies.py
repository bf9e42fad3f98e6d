"""Builds the bytes of a reply from a request and an action; no I/O."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Literal

from oyer.demo import rule_judge
from oyer.demo.request_log import RequestEntry
from oyer.demo.responses import Action
from oyer.protocol.errors import InvalidInput

BYTES_PER_TOKEN = 4
"""Assumed length of a token: OpenAI's rule of thumb for English text, applied to UTF-8."""

Ending = Literal["keep", "close", "reset", "never"]
"""What follows the last byte: the next request, a FIN, an RST, or nothing."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The bytes to send, and what happens to the connection after them."""

    payload: bytes
    """The part of head and body that is sent."""
    ending: Ending = "keep"
    status: int | None = None
    """None if no head is sent."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def reply_to(arrival: RequestEntry, action: Action) -> Reply:
    """Build the reply of an action, without its timing.

    A request that the rule judge cannot read gets status 400, as from OpenAI.
    """
    if action.fault == "black_hole":
        return Reply(b"", "never")
    if action.fault in ("reset", "close"):
        return Reply(b"", action.fault)
    if action.body is not None:
        return _transmit(arrival, action, action.body.encode())
    try:
        text = _text(arrival, action)
    except InvalidInput as error:
        return error_reply(arrival, 400, str(error))
    prompt_tokens = token_count(arrival.body or b"")
    completion_tokens = token_count(text.encode("utf-8", "replace"))
    completion = _completion(arrival, action, text)
    if action.usage:
        completion["usage"] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
    body = json.dumps(completion).encode()
    return _transmit(arrival, action, body, prompt_tokens, completion_tokens)


def error_reply(arrival: RequestEntry, status: int, message: str) -> Reply:
    """Build an error reply of the server itself."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return json_reply({"error": error}, status, f"req-{arrival.sequence}")


def json_reply(value: Any, status: int = 200, request_id: str = "control") -> Reply:
    """Build a JSON reply."""
    body = json.dumps(value).encode()
    return Reply(_head(status, "application/json", len(body), request_id, {}) + body, status=status)


def token_count(text: bytes) -> int:
    """Return the approximate number of tokens in UTF-8 text."""
    return math.ceil(len(text) / BYTES_PER_TOKEN)


def _text(arrival: RequestEntry, action: Action) -> str:
    if isinstance(action.text, str):
        return action.text
    if action.text:
        return action.text[arrival.sequence % len(action.text)]
    messages = arrival.messages()
    system = "\n".join(text for role, text in messages if role in ("system", "developer"))
    user = "\n".join(text for role, text in messages if role == "user")
    return rule_judge.score_reply(system, user)


def _completion(arrival: RequestEntry, action: Action, text: str) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **action.message},
        "finish_reason": "stop",
    }
    if action.top_logprobs is not None:
        choice["logprobs"] = {"content": _logprobs(text, action.top_logprobs)}
    return {
        "id": f"chatcmpl-{arrival.sequence}",
        "object": "chat.completion",
        "created": int(arrival.arrived_wall_s),
        "model": arrival.model,
        "choices": [{**choice, **action.choice}],
    }


def _logprobs(text: str, top: Mapping[str, float]) -> list[dict[str, Any]]:
    """Build logprobs; a number is one token, and all tokens except the last number are certain."""
    pieces = re.findall(r"\d+|\s*[^\W\d]+|\s|[^\w\s]|_", text)
    last_number = max((i for i, piece in enumerate(pieces) if piece.isdigit()), default=-1)
    return [
        {
            **_candidate(piece, top.get(piece, 0.0) if i == last_number else 0.0),
            "top_logprobs": [_candidate(*item) for item in top.items()]
            if i == last_number
            else [_candidate(piece, 0.0)],
        }
        for i, piece in enumerate(pieces)
    ]


def _candidate(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _transmit(
    arrival: RequestEntry,
    action: Action,
    body: bytes,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
) -> Reply:
    """Add the head to the body, and truncate as the action's fault says."""
    half = body[: len(body) // 2]
    if action.fault == "half_json":
        body = half
    headers = action.headers if action.retry_after_s is None else _with_retry_after(arrival, action)
    head = _head(action.status, action.content_type, len(body), f"req-{arrival.sequence}", headers)
    if action.fault == "reset_mid_body":
        return Reply(head + half, "reset", action.status)
    if action.fault == "short_body":
        return Reply(head + half, "close", action.status)
    return Reply(head + body, "keep", action.status, prompt_tokens, completion_tokens)


def _with_retry_after(arrival: RequestEntry, action: Action) -> dict[str, str]:
    wait_s = action.retry_after_s or 0.0
    name, value = {
        "seconds": ("Retry-After", f"{wait_s:g}"),
        # A date has whole seconds; it is rounded up so that it is never too early.
        "date": (
            "Retry-After",
            formatdate(math.ceil(arrival.arrived_wall_s + wait_s), usegmt=True),
        ),
        "ms": ("retry-after-ms", f"{wait_s * 1000:g}"),
        "reset_requests": ("x-ratelimit-reset-requests", _duration(wait_s)),
        "reset_tokens": ("x-ratelimit-reset-tokens", _duration(wait_s)),
    }[action.retry_after_form]
    return {name: value, **action.headers}


def _duration(seconds: float) -> str:
    """Format a duration as OpenAI does: `20ms`, `1.5s`, `1m30s`, `1h0m0s`."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return (
        (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest:g}s"
    )


def _head(
    status: int, content_type: str, length: int, request_id: str, headers: Mapping[str, str]
) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\nx-request-id: {request_id}\r\n{more}\r\n"
    ).encode("latin-1")


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
