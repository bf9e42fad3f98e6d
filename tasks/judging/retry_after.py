"""How long an endpoint asks to wait, in every form in which endpoints say so."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|[dhms])")
_UNIT_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

EPOCH_FROM_S = 1e9
"""A bare number from here on is a time since 1970 (below: a duration), in seconds."""
EPOCH_FROM_MS = 1e11
"""A bare number from here on is a time since 1970 in milliseconds."""


def retry_after_s(
    headers: Mapping[str, str], now: datetime, *, rate_limited: bool = True
) -> float | None:
    """Seconds from `now` (aware) to wait before the next request; None where nothing is asked.

    `Retry-After` and `retry-after-ms` are what the server wants of this client: the longer of
    them counts. The reset headers (`x-ratelimit-reset-requests`, `anthropic-ratelimit-…-reset`)
    only stand in for them, first those whose allowance is spent: they tell when *all* of an
    allowance is back, and come with every reply, so that on a reply that is not `rate_limited`
    only a spent allowance is waited for. A time that has passed is 0; what cannot be read is
    nothing.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    resets = [name for name in lower if "ratelimit" in name and "reset" in name]
    spent = [name for name in resets if _number(lower.get(_remaining(name), "")) == 0]
    asked_ms = _number(lower.get("retry-after-ms", ""))
    asked_s = None if asked_ms is None else asked_ms / 1000
    for candidates in (
        [asked_s, _wait_s(lower.get("retry-after", ""), now)],
        [_wait_s(lower[name], now) for name in spent],
        [_wait_s(lower[name], now) for name in resets if rate_limited],
    ):
        waits = [wait for wait in candidates if wait is not None]
        if waits:
            return max(0.0, *waits)
    return None


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
