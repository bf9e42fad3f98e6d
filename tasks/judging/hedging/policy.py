"""When a call in flight may get a second request: quantile of recent latencies, and budget; pure.

Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013: a second request after the 95th
percentile of the latency adds about 5 % of load and shortens the tail substantially.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

WINDOW_CALLS = 500
"""Calls from which a quantile is estimated: the most recent ones."""
MIN_CALLS = 20
"""A quantile needs this many calls, and at least one above it on average: p99 needs 100."""
SAVED_CALLS = 1000
"""Calls whose unused part of the budget is kept, so that a long time without hedges does not pay for a
burst of them."""


class Latencies:
    """The recent latencies of one endpoint and model."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, latency_s: float) -> None:
        """Add the latency of a call that ended; of a cancelled one, how long it was in flight.

        The latter is a lower bound above the time at which calls are hedged: quantiles up to there
        remain right.
        """
        self._recent.append(latency_s)
        insort(self._sorted, latency_s)
        if len(self._recent) > WINDOW_CALLS:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]

    def quantile(self, q: float, ages_s: Sequence[float]) -> float | None:
        """Return the latency, in seconds, that a fraction `q` of the calls does not exceed.

        Calls in flight count as slower than a latency that they have passed. Without them, the
        first calls to end, which are the fast ones, would make the estimate too small.

        Args:
            ages_s: how long each call in flight has been, ascending.

        Returns:
            None if too few calls have ended.
        """
        ended = len(self._sorted)
        if ended < max(MIN_CALLS, math.ceil(1 / (1 - q) - 1e-9)):
            return None
        # The condition holds from one latency on: the left side grows, the right side falls.
        low, high = 0, ended
        while low < high:
            middle = (low + high) // 2
            older = len(ages_s) - bisect_left(ages_s, self._sorted[middle])
            if middle + 1 >= q * (ended + older) - 1e-9:
                high = middle
            else:
                low = middle + 1
        return self._sorted[low] if low < ended else None


class HedgeBudget:
    """Allows second requests for a part of the calls made so far."""

    def __init__(self, at_most: float) -> None:
        self._at_most = at_most
        self._calls = 0.0
        self._hedges = 0

    def call(self) -> None:
        """Count a call."""
        self._calls = min(self._calls + 1, self._hedges / self._at_most + SAVED_CALLS)

    def take(self) -> bool:
        """Count a second request, if the budget allows one more."""
        if self._hedges + 1 > self._at_most * self._calls + 1e-9:
            return False
        self._hedges += 1
        return True

    def give_back(self) -> None:
        """Return what was taken for a second request that was not sent."""
        self._hedges -= 1
