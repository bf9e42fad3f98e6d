"""Choosing among an endpoint's base URLs: weighted, away from a failing one, with one probe back.

- Three transient failures in a row cool a URL down; a 429 is an answer and cools nothing.
- After the cool-down one call probes it (half-open); the others stay away until it succeeds.
- When every URL cools, the one due first is called: a call is never refused here.
- pybreaker does not fit: it holds its lock during the guarded call, one call at a time.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COOL_DOWN_S = 5.0
"""How long a failing URL is left alone, in seconds (litellm Router's default)."""
FAILURES_TO_COOL = 3
"""Transient failures in a row that cool a URL down."""


@dataclass(slots=True)
class _Health:
    failures: int = 0
    cools_until_s: float | None = None
    probing: bool = False


class BaseUrlPool:
    """Which base URL the next call goes to; owns no connection and no clock of its own.

    `pick` and `report` come in pairs. Neither switches greenlets; between threads the worst
    race is a second probe.
    """

    def __init__(
        self, weights: Sequence[float], *, clock: Callable[[], float], rng: random.Random
    ) -> None:
        self._weights = list(weights)
        self._health = [_Health() for _ in weights]
        self._clock = clock
        self._rng = rng

    def pick(self) -> int:
        """The index of the URL to call."""
        if len(self._weights) == 1:
            return 0
        now_s = self._clock()
        for index, health in enumerate(self._health):
            if _due_s(health) <= now_s and not health.probing:
                health.probing = True
                return index
        well = [i for i, health in enumerate(self._health) if health.cools_until_s is None]
        if not well:
            return min(range(len(self._health)), key=lambda i: _due_s(self._health[i]))
        return self._rng.choices(well, [self._weights[i] for i in well])[0]

    def report(self, index: int, *, answered: bool) -> None:
        """Say how the call to URL `index` ended: answered, or failed in a transient way."""
        health = self._health[index]
        health.probing = False
        if answered:
            health.failures, health.cools_until_s = 0, None
            return
        health.failures += 1
        if health.failures >= FAILURES_TO_COOL:
            health.cools_until_s = self._clock() + COOL_DOWN_S


def _due_s(health: _Health) -> float:
    """When a cooling URL may be probed; never for one that is well."""
    return float("inf") if health.cools_until_s is None else health.cools_until_s
