"""Reads an HTTP response: a reply, or a failure with its status and retry class.

Pure. Any bytes give a `Reply` or a `Failure`. Messages are not redacted here; the client does it.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from oyer.protocol.status import Status
from oyer.tasks.endpoint.error_body import (
    MESSAGE_CHARS,
    clean,
    decoded,
    described,
    error_in,
    named_status,
    parsed,
)
from oyer.tasks.endpoint.reasoning import is_reasoning, reasoning_of, reports_reasoning
from oyer.tasks.endpoint.refused_fields import refused_fields, refuses_structure
from oyer.tasks.endpoint.retry import retry_after_s
from oyer.tasks.endpoint.token_usage import token_usage
from oyer.tasks.endpoint.types import Failure, Reply, RetryClass, TokenLogprob
from oyer.tasks.parsing.finish_reasons import End, end_of, finish_reason, first_choice

# Wordings of OpenAI, Azure, Anthropic, Gemini, Mistral, vLLM, SGLang, TGI, llama.cpp, DashScope.
_CONTEXT = re.compile(
    r"context[_ ](length|window|size|limit)|max_model_len|maximum (prompt|input|model) length"
    r"|(prompt|input|request|inputs?)( tokens?)?( is| are)? too (long|large for)|too many tokens"
    r"|input token(s| count).{0,40}exceed|`inputs` tokens|token limit exceeded"
    r"|reduce the length of the (messages|prompt|input)|range of input length",
    re.IGNORECASE,
)
# Not "exceeded your current quota": Gemini uses it for its limits per minute.
_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|credits?|funds)|billing_(hard_limit|not_active)"
    r"|exceeded_current_quota|credit balance is too low|account_deactivated|arrearage",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content[_ ](filter|policy|management)|responsible ?ai|safety system|moderation"
    r"|data_?inspection_?failed|inappropriate content|content exists risk|prohibited_content"
    r"|guardrail|(prompt|input|request) (was|is|has been) (blocked|flagged)|block_?reason",
    re.IGNORECASE,
)
_STREAM = re.compile(rb"(?:\s|:[^\n]*\n)*(?:data|event|id|retry):|.*\"chat\.completion\.chunk\"")
# OpenAI's reasoning models answer this with 400 if thinking used up `max_tokens`.
_SPENT = re.compile(r"max_tokens or model output limit was reached", re.IGNORECASE)
_VARIABLE = re.compile(r"[0-9a-f-]{8,}|\d+", re.IGNORECASE)
"""Request ids, times and counters, which differ between otherwise equal errors."""

_BY_STATUS = {
    408: (Status.TIMEOUT, RetryClass.TRANSIENT),
    409: (Status.UNAVAILABLE, RetryClass.TRANSIENT),
    425: (Status.UNAVAILABLE, RetryClass.TRANSIENT),
    429: (Status.RATE_LIMITED, RetryClass.RATE_LIMIT),
    # AWS load balancers: the client closed the connection. Groq: no capacity. Gemini: cancelled.
    460: (Status.UNAVAILABLE, RetryClass.TRANSIENT),
    498: (Status.UNAVAILABLE, RetryClass.TRANSIENT),
    499: (Status.UNAVAILABLE, RetryClass.TRANSIENT),
}
_PASSING_5XX = frozenset({502, 503, 504, *range(520, 531), 598, 599})
"""Errors of gateways (520 to 527 and 530: Cloudflare) and of overload (529), where equal bodies
do not mean that the error is deterministic."""

_MAY_REFUSE = frozenset({Status.REJECTED, Status.UNAVAILABLE})
_NO_REFUSAL = frozenset({401, 402}) | _PASSING_5XX
"""Errors of authentication, billing and gateways, which no field of the request causes."""


def read_response(
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    sent: Collection[str] = (),
) -> Reply | Failure:
    """Read a 2xx response; arguments as `http_failure`.

    A body that is not a chat completion (HTML, incomplete JSON, no choice) is transient: a proxy or
    a failing server sent it. An error body is classified by the status in it, if there is one. A
    reply that the endpoint broke off is transient; a cut or filtered one is a `Reply`.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        if _STREAM.match(body[:MESSAGE_CHARS]):
            return _stream(http_status, body)
        return _not_a_reply(http_status, "NotJson", f"{error}: {decoded(body)[:200]!r}", {})
    usage = token_usage(data)
    choice = first_choice(data)
    reason = finish_reason(data, choice)
    end = end_of(reason)
    reported = error_in(data) or (None if end is End.FILTERED else error_in(choice))
    if reported:
        return http_failure(
            named_status(reported) or http_status,
            headers,
            body,
            error_class="ErrorBody",
            now=now,
            sent=sent,
            http_status=http_status,
            error=reported,
            **usage,
        )
    message = choice.get("message")
    if end is End.BROKEN:
        return _broken_off(http_status, f"{reason!r}", message, usage)
    if isinstance(message, dict) or end in (End.CUT, End.FILTERED):
        return _reply(http_status, data, choice, reason, usage)
    if "delta" in choice:
        return _stream(http_status, body, usage)
    return _not_a_reply(http_status, "NoChoice", decoded(body)[:200], usage)


def http_failure(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    error_class: str,
    now: datetime,
    sent: Collection[str] = (),
    http_status: int | None = None,
    error: dict[str, Any] | None = None,
    **usage: Any,
) -> Failure:
    """Read an error response.

    Args:
        status: The status that classifies the error.
        error_class: Its name in the record.
        sent: The names of the fields of the request's body.
        http_status: The response's own status, if it differs from `status`.
        error: The part of the body that reports the error, if known.
        usage: Token counts, if the error was billed.
    """
    data = parsed(body)
    rest = {**data, "choices": None} if isinstance(data, dict) else data or decoded(body)
    error = error or error_in(data) or (data if isinstance(data, dict) else {})
    code, message = described(error, body)
    meaning, retry, refused = _classified(status, error, code, message, sent)
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    retry = _retry_by_header(retry, lower.get("x-should-retry"))
    if 300 <= status < 400:
        message = f"leads to {lower.get('location')}: set the endpoint's base_url to that address"
    return Failure(
        status=meaning,
        retry=retry,
        error_class=error_class,
        message=f"HTTP {http_status or status}: {message}",
        http_status=http_status or status,
        retry_after_s=retry_after_s(
            headers, now, rate_limited=retry is RetryClass.RATE_LIMIT, error=[error, rest]
        ),
        refused=refused,
        fingerprint=_fingerprint(status, code, message) if _may_be_final(status) else None,
        **usage,
    )


def _retry_by_header(retry: RetryClass, should_retry: str | None) -> RetryClass:
    """Apply the header `x-should-retry`, which OpenAI's servers send and its client obeys."""
    if should_retry == "false":
        return RetryClass.NEVER
    if should_retry == "true" and retry is RetryClass.NEVER:
        return RetryClass.TRANSIENT
    return retry


def _classified(
    status: int, error: Mapping[str, Any], code: str, message: str, sent: Collection[str]
) -> tuple[Status, RetryClass, dict[str, str | None]]:
    """Return what an error means, and the fields of the request that it refuses."""
    meaning, retry = _meaning(status, code, message)
    refused = _refused(status, error, code, message, sent) if meaning in _MAY_REFUSE else {}
    if refused:
        return Status.REJECTED, RetryClass.NEVER, refused
    return meaning, retry, {}


def _refused(
    status: int, error: Mapping[str, Any], code: str, message: str, sent: Collection[str]
) -> dict[str, str | None]:
    """Return the fields of the request that an error refuses, with their new names."""
    if status in _NO_REFUSAL or not sent:
        return {}
    found = refused_fields(error, code, message, sent)
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


def _may_be_final(status: int) -> bool:
    """Whether equal errors of this status in a row are taken as deterministic."""
    return status >= 500 and status not in _PASSING_5XX


def _reply(
    http_status: int,
    data: Mapping[str, Any],
    choice: Mapping[str, Any],
    reason: str | None,
    usage: Mapping[str, Any],
) -> Reply:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    return Reply(
        text=_content(message.get("content")),
        reasoning=clean(reasoning_of(message)) or None,
        finish_reason=reason and clean(reason),
        refusal=_text(message.get("refusal")) or None,
        model=_text(data.get("model")),
        token_logprobs=_token_logprobs(choice.get("logprobs")),
        thought=reports_reasoning(message, data.get("usage")),
        http_status=http_status,
        **usage,
    )


def _broken_off(http_status: int, reason: str, message: Any, usage: Mapping[str, Any]) -> Failure:
    text = _content(message.get("content")) if isinstance(message, dict) else ""
    return Failure(
        status=Status.UNAVAILABLE,
        retry=RetryClass.TRANSIENT,
        error_class="BrokenOff",
        message=f"HTTP {http_status}: the endpoint broke the reply off, finish_reason {reason}:"
        f" {text[:200]!r}",
        http_status=http_status,
        **usage,
    )


def _stream(http_status: int, body: bytes, usage: Mapping[str, Any] | None = None) -> Failure:
    # Not retried: every reply would be a stream, and each is billed.
    return Failure(
        status=Status.UNAVAILABLE,
        retry=RetryClass.NEVER,
        error_class="Streamed",
        message=f"HTTP {http_status}: the endpoint streams its reply (server-sent events), although"
        " the request does not ask for a stream; turn streaming off in the endpoint or in the proxy"
        f" before it: {decoded(body)[:200]!r}",
        http_status=http_status,
        **(usage or {}),
    )


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


def _fingerprint(status: int, code: str, message: str) -> str:
    same = _VARIABLE.sub("", f"{code} {message}")
    return hashlib.sha256(f"{status} {same}".encode()).hexdigest()


def _content(content: Any) -> str:
    """Return a message's text, given as a string or as a list of parts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and not is_reasoning(part)]
        return "".join(_text(part.get("text")) for part in parts)
    return _text(content)


def _token_logprobs(logprobs: Any) -> tuple[TokenLogprob, ...] | None:
    """Return the tokens' log-probabilities; None if absent or unreadable."""
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
    return clean(value) if isinstance(value, str) else ""
