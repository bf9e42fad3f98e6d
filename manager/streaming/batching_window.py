"""How long to wait for more rollouts before a chord is sent; pure, time is handed in."""

import math

MAX_WINDOW_S = 0.02
"""Longest wait of who comes last, in seconds: little beside the 0.5 to 30 s of a judge."""

FULL_RATE_PER_S = 100.0
"""From this many rollouts per second on the whole window is waited for; below, a part of it,
since waiting for company that does not come gains nothing."""

_QUIET = 0.25
"""A burst is not cut in two: a window goes on until nothing has come for this part of it."""

_MOST = 5
"""However much comes, a batch is sent after so many windows."""

_MEMORY_S = 0.25
"""How long an arrival counts towards the rate, in seconds."""


class ArrivalRate:
    """An exponentially fading count of arrivals."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0

    def seen(self, arrivals: int, now: float) -> None:
        """Count arrivals in."""
        self._level = self._faded(now) + arrivals
        self._at = now

    def window_s(self, now: float) -> float:
        """How long a rollout may be held back for others to come."""
        rate_per_s = self._faded(now) / _MEMORY_S
        return MAX_WINDOW_S * min(1.0, rate_per_s / FULL_RATE_PER_S)

    def due_at(self, since: float, now: float) -> float:
        """Say until when a batch that began to gather at `since` waits for more to come."""
        window_s = self.window_s(now)
        quiet_at = self._at + _QUIET * window_s
        return min(max(since + window_s, quiet_at), since + _MOST * window_s)

    def _faded(self, now: float) -> float:
        return self._level * math.exp(min(0.0, (self._at - now) / _MEMORY_S))
