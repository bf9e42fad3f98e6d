"""Reads the error in a response body, in any shape that endpoints use; pure."""

import json
import re
from collections.abc import Mapping
from typing import Any

from oyer.tasks.endpoint.token_usage import count

MESSAGE_CHARS = 4_000
"""How much of an endpoint's message is read, in characters."""

_LIMITED = re.compile(r"rate_?limit|too_many_requests|resource_exhausted", re.IGNORECASE)


def parsed(body: bytes) -> Any:
    """Read a body as JSON; None if it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def error_in(data: Any) -> dict[str, Any] | None:
    """Find the error that JSON reports, also with HTTP 200; None if there is none.

    Gemini sends the error object in a list.
    """
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if isinstance(error, dict) and error:
        return error
    if isinstance(error, str) and error:
        return {**data, "message": error}
    if data.get("object") == "error" or data.get("error_code") or data.get("error_msg"):
        return data
    return None


def described(error: Mapping[str, Any], body: bytes) -> tuple[str, str]:
    """Return the codes and the message of an error; the body is the message if there is none."""
    codes = (error.get(key) for key in ("code", "type", "param", "status", "error_code"))
    messages = (error.get(key) for key in ("message", "msg", "error_msg", "detail"))
    code = " ".join(str(found) for found in codes if found)
    message = next((str(found) for found in messages if found), decoded(body))
    return clean(code[:MESSAGE_CHARS]), clean(message[:MESSAGE_CHARS])


def named_status(error: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error names, by number or as a rate limit."""
    named = count(error.get("code"))
    if named and 400 <= named <= 599:
        return named
    words = " ".join(str(error.get(key)) for key in ("code", "type", "status"))
    return 429 if _LIMITED.search(words) else None


def clean(text: str) -> str:
    """Remove NUL characters and replace lone surrogates, which databases do not store."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def decoded(body: bytes) -> str:
    """Return the start of a body as text."""
    return clean(body[:MESSAGE_CHARS].decode("utf-8", "replace"))
