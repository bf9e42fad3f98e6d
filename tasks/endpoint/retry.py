"""Whether a failed call is tried again, and after how long; pure.

The one retry layer: the HTTP client and the transport below it make one request per call.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from oyer.tasks.endpoint.types import Failure, RetryClass

BACKOFF_BASE_S = 0.5
"""Longest wait after the first failure, in seconds; doubles with each (openai-python's base)."""
BACKOFF_CAP_S = 30.0
"""Longest wait that the backoff alone asks for, in seconds."""
IDENTICAL_5XX = 3
"""So many equal 5xx in a row are an answer, not an accident (one service retried a deterministic
500 1,149 times over 24 days)."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Wait and try again, or stop."""

    wait_s: float | None
    """None stops."""
    reason: str


def decide(
    history: Sequence[Failure], *, max_attempts: int, remaining_s: float, rng: random.Random
) -> RetryDecision:
    """Decide after the failures in `history` (oldest first, at least one).

    Full jitter: uniform in `[0, min(cap, base · 2ⁿ)]` (Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog 2015), on top of what the endpoint asks for, so that the calls
    refused together do not come back together. A wait longer than `remaining_s`, what the batch
    has left, is not waited for.
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
