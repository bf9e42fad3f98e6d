"""Whether a failed call is retried, and after how long; pure.

- This is the only retry layer: the HTTP client and its transport make one request per call.
- The wait is what the endpoint asks for, in any of the forms in which endpoints do, plus jitter.
"""

import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice, takewhile
from typing import Any

from oyer.tasks.endpoint.types import Failure, RetryClass

BACKOFF_BASE_S = 0.5
"""Longest wait after the first failure, in seconds; doubles with each (openai-python's base)."""
BACKOFF_CAP_S = 30.0
"""Longest wait that the backoff alone asks for, in seconds."""
IDENTICAL_5XX = 3
"""Number of equal 5xx in a row that end the retries: the error is then deterministic (one service
retried such a 500 1,149 times over 24 days)."""

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|[dhms])")
_UNIT_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

# "Please try again in 1m2.5s" (OpenAI, Groq), "retry after 7 seconds" (Azure), "请在 6 秒后重试".
_AMOUNT = r"\d{1,9}(?:\.\d{1,9})?"
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
_SPOKEN = rf"(?:{_AMOUNT}\s?{_UNIT}(?:,?\s(?:and\s)?)?)+"
_SAID = re.compile(
    r"(?:(?:try|available)(?:\sit)?\sagain|\bretry(?!ing)|\bresets?|\bcome\sback)\b[^.;:\n0-9]{0,30}?"
    rf"\b(?:in|after|within):?\s(?:about\s|approximately\s|at\sleast\s|~)?({_SPOKEN})"
    rf"|\bwait\s(?:for\s)?(?:about\s|approximately\s|at\sleast\s|~)?({_SPOKEN})",
    re.IGNORECASE,
)
_SAID_TIME = re.compile(
    r"(?:\b(?:try|available)\sagain|\bretry|\bresets?)\s(?:at|after):?\s(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)?)",
    re.IGNORECASE,
)
_SAID_ZH = re.compile(
    rf"({_AMOUNT})\s?(毫秒|秒|分|小时)钟?(?:之|以)?后[^。\n]{{0,6}}(?:试|请求|调用)"
    rf"|请\s?等待\s?({_AMOUNT})\s?(毫秒|秒|分|小时)"
)
_SPOKEN_PART = re.compile(rf"({_AMOUNT})\s?([a-z]+)")
_UNIT_ZH_S = {"毫秒": 1e-3, "秒": 1, "分": 60, "小时": 3600}

# Names without case and separators: Gemini's RetryInfo, gateways, Hugging Face's loading models.
_WAIT_S = frozenset(
    {"retrydelay", "retryafter", "retryafters", "retryafterseconds", "retryin", "retryinseconds"}
    | {"estimatedtime"}
)
_WAIT_MS = frozenset({"retryafterms", "retryaftermilliseconds", "retryinms"})
MAX_DEPTH = 6
"""Depth to which an error body is searched."""
MAX_PARTS = 200
"""Number of objects and texts of an error body that are searched."""
MAX_TEXT_CHARS = 4_000
"""How much of each text is searched, in characters."""

EPOCH_FROM_S = 1e9
"""A bare number from here on is a time since 1970 (below: a duration), in seconds."""
EPOCH_FROM_MS = 1e11
"""A bare number from here on is a time since 1970 in milliseconds."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Retry after a wait, or stop."""

    wait_s: float | None
    """None stops."""
    reason: str


def decide(
    history: Sequence[Failure], *, max_attempts: int, remaining_s: float, rng: random.Random
) -> RetryDecision:
    """Decide after the failures in `history` (oldest first, at least one).

    Full jitter: uniform in `[0, min(cap, base · 2ⁿ)]` (Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog 2015), added to the wait that the endpoint asks for, so that calls
    refused together do not retry together. A wait longer than `remaining_s`, the time left of the
    batch, stops.
    """
    last = history[-1]
    if last.retry is RetryClass.NEVER:
        return RetryDecision(None, "another attempt would fail the same way")
    if len(history) >= max_attempts:
        return RetryDecision(None, f"{len(history)} of {max_attempts} attempts made")
    if _is_deterministic(history):
        return RetryDecision(None, f"the same HTTP {last.http_status} {IDENTICAL_5XX} times")
    backoff_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (len(history) - 1))
    wait_s = (last.retry_after_s or 0.0) + rng.uniform(0.0, backoff_s)
    if wait_s > remaining_s:
        return RetryDecision(None, f"a wait of {wait_s:.1f} s would pass the batch's deadline")
    return RetryDecision(wait_s, last.retry)


def _is_deterministic(history: Sequence[Failure]) -> bool:
    last = history[-1]
    if last.fingerprint is None:
        return False
    same = takewhile(lambda failure: failure.fingerprint == last.fingerprint, reversed(history))
    return len(list(same)) >= IDENTICAL_5XX


def retry_after_s(
    headers: Mapping[str, str], now: datetime, *, rate_limited: bool = True, error: Any = None
) -> float | None:
    """Return the wait before the next request in seconds from `now` (aware); None if none is asked.

    The longest of `Retry-After`, `retry-after-ms` and the waits in the error counts. Without them
    the reset headers (`x-ratelimit-reset-requests`, `anthropic-ratelimit-…-reset`) count, first
    those of spent allowances. Reset headers give the time until the *whole* allowance is back and
    come with every reply; if the reply is not `rate_limited`, only spent allowances count. A time
    in the past is 0. Unreadable values are ignored.

    Args:
        error: The error of the body, as JSON or as text. Gemini (`RetryInfo`), OpenAI and Azure (in
            words) and OpenRouter (the upstream's headers) state the wait only there.
    """
    parts = list(islice(_walk(error), MAX_PARTS))
    inner = {name: str(value) for part in parts for name, value in _headers_in(part)}
    lower = {name.lower(): value.strip() for name, value in {**inner, **headers}.items()}
    resets = [name for name in lower if "ratelimit" in name and "reset" in name]
    spent = [name for name in resets if _number(lower.get(_remaining(name), "")) == 0]
    asked_ms = _number(lower.get("retry-after-ms", ""))
    asked_s = None if asked_ms is None else asked_ms / 1000
    for candidates in (
        [asked_s, _wait_s(lower.get("retry-after", ""), now), *_stated_s(parts, now)],
        [_wait_s(lower[name], now) for name in spent],
        [_wait_s(lower[name], now) for name in resets if rate_limited],
    ):
        waits = [wait for wait in candidates if wait is not None]
        if waits:
            return max(0.0, *waits)
    return None


def _walk(node: Any, depth: int = 0) -> Iterator[Mapping[str, Any] | str]:
    """Yield the objects and the texts of an error, also of JSON in a text."""
    if depth > MAX_DEPTH:
        return
    if isinstance(node, str):
        yield node
        # OpenRouter quotes the upstream's body in `metadata.raw`.
        if node.lstrip()[:1] in ("{", "["):
            try:
                yield from _walk(json.loads(node), depth + 1)
            except (ValueError, RecursionError):
                return
    elif isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _walk(value, depth + 1)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value, depth + 1)


def _headers_in(part: Mapping[str, Any] | str) -> Iterator[tuple[str, Any]]:
    """Yield the headers that an error quotes."""
    headers = part.get("headers") if isinstance(part, Mapping) else None
    if isinstance(headers, Mapping):
        yield from headers.items()


def _stated_s(parts: list[Mapping[str, Any] | str], now: datetime) -> Iterator[float | None]:
    """Yield the waits in an error, in seconds, from its fields and its sentences."""
    for part in parts:
        if isinstance(part, str):
            yield from _said_s(part, now)
            continue
        for name, value in part.items():
            plain = re.sub(r"[^a-z]", "", name.lower())
            if plain in _WAIT_S:
                yield _field_s(value, now)
            elif plain in _WAIT_MS and (wait_ms := _field_s(value, now)) is not None:
                yield wait_ms / 1000


def _field_s(value: Any, now: datetime) -> float | None:
    if isinstance(value, Mapping):
        # A protobuf duration as an object.
        parts = [_number(str(value.get(name, 0))) for name in ("seconds", "nanos")]
        return None if None in parts else (parts[0] or 0.0) + (parts[1] or 0.0) * 1e-9
    return None if isinstance(value, bool) else _wait_s(str(value).strip(), now)


def _said_s(text: str, now: datetime) -> Iterator[float | None]:
    for said in _SAID.finditer(text, 0, MAX_TEXT_CHARS):
        parts = _SPOKEN_PART.findall((said[1] or said[2]).lower())
        yield sum(float(amount) * _UNIT_S[_short_unit(unit)] for amount, unit in parts)
    for said in _SAID_TIME.finditer(text, 0, MAX_TEXT_CHARS):
        yield _wait_s(said[1].rstrip("."), now)
    for said in _SAID_ZH.finditer(text, 0, MAX_TEXT_CHARS):
        yield float(said[1] or said[3]) * _UNIT_ZH_S[said[2] or said[4]]


def _short_unit(unit: str) -> str:
    return "ms" if unit == "ms" or unit.startswith("milli") else unit[0]


def _remaining(reset_name: str) -> str:
    return reset_name.replace("reset", "remaining")


def _wait_s(value: str, now: datetime) -> float | None:
    """Read `30`, `1m30s`, an epoch, an HTTP date or an ISO time."""
    number = _number(value)
    if number is not None:
        if number >= EPOCH_FROM_MS:
            number /= 1000
        return number - now.timestamp() if number >= EPOCH_FROM_S else number
    parts = _PART.findall(value)
    if parts and "".join(amount + unit for amount, unit in parts) == value:
        return sum(float(amount) * _UNIT_S[unit] for amount, unit in parts)
    time = _time(value)
    return None if time is None else (time - now).total_seconds()


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _time(value: str) -> datetime | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            time = read(value)
        except (ValueError, OverflowError):
            continue
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    return None
