"""What an endpoint's HTTP response means: a reply, or a failure with its status and retry class.

Pure, and total: any bytes give a `Reply` or a `Failure`. Messages come out as the endpoint
wrote them; the client redacts them.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from oyer.tasks.judging.calls import Failure, Reply, RetryClass, TokenLogprob
from oyer.tasks.judging.parameters import refused_fields, refuses_structure
from oyer.tasks.judging.retry_after import retry_after_s
from oyer.tasks.judging.thinking import is_thinking, reports_thinking
from oyer.tasks.statuses import Status

MESSAGE_CHARS = 4_000
"""How much of an endpoint's message is looked at, in characters."""

MAX_COUNT = 10**8
"""Largest number of tokens that is believed: more than any model takes, and attempts of it add up
within the record's columns."""

# Wordings of OpenAI, Azure, Anthropic, Gemini, Mistral, vLLM, SGLang, TGI, llama.cpp, DashScope.
_CONTEXT = re.compile(
    r"context[_ ](length|window|size|limit)|max_model_len|maximum (prompt|input|model) length"
    r"|(prompt|input|request|inputs?)( tokens?)?( is| are)? too (long|large for)|too many tokens"
    r"|input token(s| count).{0,40}exceed|`inputs` tokens|token limit exceeded"
    r"|reduce the length of the (messages|prompt|input)|range of input length",
    re.IGNORECASE,
)
# Not "exceeded your current quota": so Gemini words its limits per minute.
_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|credits?|funds)|billing_(hard_limit|not_active)"
    r"|exceeded_current_quota|credit balance is too low|account_deactivated|arrearage",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content[_ ](filter|policy|management)|responsible ?ai|safety system|moderation"
    r"|data_?inspection_?failed|inappropriate content|content exists risk",
    re.IGNORECASE,
)
# OpenAI's reasoning models answer so, with 400, where thinking took up all of `max_tokens`.
_SPENT = re.compile(r"max_tokens or model output limit was reached", re.IGNORECASE)
_VARIABLE = re.compile(r"[0-9a-f-]{8,}|\d+", re.IGNORECASE)
"""Request ids, times and counters: what differs between two errors that say the same."""

_BY_STATUS = {
    408: (Status.TIMEOUT, RetryClass.TRANSIENT),
    409: (Status.UNAVAILABLE, RetryClass.TRANSIENT),
    429: (Status.RATE_LIMITED, RetryClass.RATE_LIMIT),
}

_MAY_REFUSE = frozenset({Status.REJECTED, Status.UNAVAILABLE})
_NO_REFUSAL = frozenset({401, 402, 502, 503, 504})
"""Errors of the key, of money and of gateways: no field of the request has caused them."""


def read_response(
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    sent: Collection[str] = (),
) -> Reply | Failure:
    """Read a 2xx response; arguments as `http_failure`.

    What is no chat completion (HTML, half a JSON, no choice) is transient: a proxy or a dying
    server sent it. An error body is judged by the status that it names, if it names one.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        return _not_a_reply(http_status, "NotJson", f"{error}: {_decoded(body)[:200]!r}", {})
    usage = _usage(data)
    if error_body := _error_in(data):
        named = _count(error_body.get("code")) or http_status
        return http_failure(
            named if 400 <= named <= 599 else http_status,
            headers,
            body,
            error_class="ErrorBody",
            now=now,
            sent=sent,
            http_status=http_status,
            **usage,
        )
    try:
        choice = data["choices"][0]
        return Reply(
            text=_content(choice["message"].get("content")),
            finish_reason=_text(choice.get("finish_reason")) or None,
            refusal=_text(choice["message"].get("refusal")) or None,
            model=_text(data.get("model")),
            token_logprobs=_token_logprobs(choice.get("logprobs")),
            thought=reports_thinking(choice["message"], data.get("usage")),
            http_status=http_status,
            **usage,
        )
    except (LookupError, TypeError, AttributeError):
        return _not_a_reply(http_status, "NoChoice", _decoded(body)[:200], usage)


def http_failure(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    error_class: str,
    now: datetime,
    sent: Collection[str] = (),
    http_status: int | None = None,
    **usage: Any,
) -> Failure:
    """Read an error response.

    Args:
        status: What the error is judged by.
        error_class: Its name on record.
        sent: The names of the fields of the request's body.
        http_status: The status line, where it differs from `status`.
        usage: Token counts, where the error was billed.
    """
    code, message = _described(body)
    meaning, retry = _meaning(status, code, message)
    refused = _refused(status, body, sent) if meaning in _MAY_REFUSE else {}
    if refused:
        meaning, retry = Status.REJECTED, RetryClass.NEVER
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    if lower.get("x-should-retry") == "false":
        retry = RetryClass.NEVER
    elif lower.get("x-should-retry") == "true" and retry is RetryClass.NEVER:
        retry = RetryClass.TRANSIENT
    if 300 <= status < 400:
        message = f"leads to {lower.get('location')}: set the endpoint's base_url to that address"
    return Failure(
        status=meaning,
        retry=retry,
        error_class=error_class,
        message=f"HTTP {http_status or status}: {message}",
        http_status=http_status or status,
        retry_after_s=retry_after_s(headers, now, rate_limited=retry is RetryClass.RATE_LIMIT),
        refused=refused,
        fingerprint=_fingerprint(status, code, message) if status >= 500 else None,
        **usage,
    )


def _refused(status: int, body: bytes, sent: Collection[str]) -> dict[str, str | None]:
    """The fields of the request that an error refuses, with their new names."""
    if status in _NO_REFUSAL or not sent:
        return {}
    code, message = _described(body)
    found = refused_fields(_error_object(body), code, message, sent)
    if not found and "response_format" in sent and status < 500:
        found = {"response_format": None} if refuses_structure(code, message) else {}
    return found


def _meaning(status: int, code: str, message: str) -> tuple[Status, RetryClass]:
    said = f"{code} {message}"
    if status == 402 or _QUOTA.search(said):
        return Status.REJECTED, RetryClass.NEVER
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status != 401 and _CONTEXT.search(said):
        return Status.CONTEXT_OVERFLOW, RetryClass.NEVER
    if status != 401 and _FILTER.search(said):
        return Status.REFUSED, RetryClass.NEVER
    if _SPENT.search(said):
        return Status.TRUNCATED, RetryClass.NEVER
    if 300 <= status < 500:
        return Status.REJECTED, RetryClass.NEVER
    return Status.UNAVAILABLE, RetryClass.TRANSIENT


def _not_a_reply(
    http_status: int, error_class: str, message: str, usage: Mapping[str, Any]
) -> Failure:
    return Failure(
        status=Status.UNAVAILABLE,
        retry=RetryClass.TRANSIENT,
        error_class=error_class,
        message=f"HTTP {http_status} without a chat completion: {message}",
        http_status=http_status,
        **usage,
    )


def _described(body: bytes) -> tuple[str, str]:
    """The codes and the message of an error body, whatever its shape."""
    error = _error_object(body)
    codes = (error.get(key) for key in ("code", "type", "param", "status", "error_code"))
    messages = (error.get(key) for key in ("message", "msg", "error_msg", "detail"))
    code = " ".join(str(found) for found in codes if found)
    message = next((str(found) for found in messages if found), _decoded(body))
    return _clean(code[:MESSAGE_CHARS]), _clean(message[:MESSAGE_CHARS])


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return _error_in(data) or (data if isinstance(data, dict) else {})


def _error_in(data: Any) -> dict[str, Any] | None:
    """The error that a JSON body reports, also under HTTP 200; None where it reports none."""
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


def _fingerprint(status: int, code: str, message: str) -> str:
    same = _VARIABLE.sub("", f"{code} {message}")
    return hashlib.sha256(f"{status} {same}".encode()).hexdigest()


def _usage(data: Any) -> dict[str, Any]:
    usage = data.get("usage") if isinstance(data, dict) else None
    if not isinstance(usage, dict):
        usage = {}
    prompt = _count(usage.get("prompt_tokens"))
    completion = _count(usage.get("completion_tokens"))
    return {
        "prompt_tokens": prompt or 0,
        "completion_tokens": completion or 0,
        "usage_reported": prompt is not None and completion is not None,
    }


def _count(value: Any) -> int | None:
    """A whole number that is not negative, however JSON wrote it; None where it is no count."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if 0 <= number <= MAX_COUNT else None


def _content(content: Any) -> str:
    """A message's text: a string, or a list of parts of which the text parts count."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        return "".join(_text(part.get("text")) for part in parts if not is_thinking(part))
    return _text(content)


def _token_logprobs(logprobs: Any) -> tuple[TokenLogprob, ...] | None:
    """The tokens' log-probabilities; None where there are none or they cannot be read."""
    try:
        return tuple(
            TokenLogprob(
                _text(entry["token"]),
                float(entry["logprob"]),
                tuple((_text(t["token"]), float(t["logprob"])) for t in entry["top_logprobs"]),
            )
            for entry in logprobs["content"]
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _text(value: Any) -> str:
    return _clean(value) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    """Drop what no database stores: NUL characters and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _decoded(body: bytes) -> str:
    return _clean(body[:MESSAGE_CHARS].decode("utf-8", "replace"))
