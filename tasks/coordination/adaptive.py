"""Adaptive concurrency: slow start, additive increase, multiplicative decrease; pure.

- Only a 429 cuts the limit, once per cool-down. A transient error resets the count of clean calls.
- The limit grows after a round of clean calls made while it was in use. A cache hit or a retried
  success is no evidence about the limit.

Numbers: inspect_ai, `util/_concurrency.py` (499e615, 2026-08-22).
"""

import json
from dataclasses import asdict, dataclass, replace

MIN_LIMIT = 10
"""The limit is never cut below this many calls in flight."""
START_LIMIT = 20
"""The limit before any call was made."""
CUT = 0.8
"""A 429 multiplies the limit by this."""
COOLDOWN_S = 15.0
"""Seconds after a cut without evidence: most calls that end then began under the old limit."""
ROUND_MIN = 4
"""A round is as many clean calls as the limit, and at least this many."""
GROWTH = 0.05
"""Part of the limit added after a round, once a 429 or an error has ended slow start."""
SATURATION = 0.8
"""A limit grows only if at least this part of it was in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The shared state of one endpoint."""

    limit: int
    """Calls allowed in flight, over all workers."""
    clean: int = 0
    """Clean calls of the current round."""
    slow_start: bool = True
    """Rounds double the limit until the first 429 or transient error."""
    cooldown_until_s: float = 0.0
    """Redis time, in seconds."""

    def encode(self) -> str:
        """Return the JSON stored in Redis; `limiter.lua` reads its `limit`."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Control":
        """Parse the result of `encode`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Outcomes of the calls that ended since the last step."""

    clean: int = 0
    """Calls that succeeded at their first attempt."""
    transient: bool = False
    """Some failed by timeout, connection or 5xx."""
    rate_limited: bool = False
    """Some got a 429."""

    def __add__(self, other: "Evidence") -> "Evidence":
        return Evidence(
            clean=self.clean + other.clean,
            transient=self.transient or other.transient,
            rate_limited=self.rate_limited or other.rate_limited,
        )


def initial(max_limit: int) -> Control:
    """Return the state of an endpoint without calls so far."""
    return Control(limit=min(START_LIMIT, max_limit))


def step(state: Control, seen: Evidence, *, in_use: int, now_s: float, max_limit: int) -> Control:
    """Return the state after `seen`.

    Args:
        in_use: most calls recently in flight, over all workers.
        now_s: Redis time, in seconds.
        max_limit: the configured limit; the result is within `[1, max_limit]`.
    """
    state = replace(state, limit=min(state.limit, max_limit))
    cooling = now_s < state.cooldown_until_s
    if seen.rate_limited or seen.transient:
        state = replace(state, clean=0, slow_start=False)
    if seen.rate_limited and not cooling:
        floor = min(MIN_LIMIT, state.limit)
        return replace(
            state, limit=max(floor, int(state.limit * CUT)), cooldown_until_s=now_s + COOLDOWN_S
        )
    if seen.rate_limited or seen.transient or cooling or in_use < SATURATION * state.limit:
        return state
    clean = state.clean + seen.clean
    if clean < max(state.limit, ROUND_MIN):
        return replace(state, clean=clean)
    gain = state.limit if state.slow_start else max(1, round(state.limit * GROWTH))
    return replace(state, limit=min(state.limit + gain, max_limit), clean=0)
