"""Selection among an endpoint's base URLs: weighted, with a circuit breaker for each URL.

- Three transient failures in a row open a URL's breaker. A 429 counts as an answer.
- After the cool-down one call probes the URL (half-open); others avoid it until that succeeds.
- If every breaker is open, the URL due first is called: no call is refused here.
- pybreaker does not fit: it holds its lock during the guarded call, one call at a time.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COOL_DOWN_S = 5.0
"""How long a failing URL is avoided, in seconds (default of litellm's Router)."""
FAILURES_TO_COOL = 3
"""Transient failures in a row after which a URL is avoided."""


@dataclass(slots=True)
class _Health:
    failures: int = 0
    cools_until_s: float | None = None
    probing: bool = False


class BaseUrlPool:
    """Picks the base URL of the next call.

    Call `report` once for each `pick`. Neither switches greenlets. A race between threads causes
    at most a second probe.
    """

    def __init__(
        self, weights: Sequence[float], *, clock: Callable[[], float], rng: random.Random
    ) -> None:
        self._weights = list(weights)
        self._health = [_Health() for _ in weights]
        self._clock = clock
        self._rng = rng

    def pick(self) -> int:
        """Return the index of the URL to call."""
        if len(self._weights) == 1:
            return 0
        now_s = self._clock()
        for index, health in enumerate(self._health):
            if _due_s(health) <= now_s and not health.probing:
                health.probing = True
                return index
        healthy = [i for i, health in enumerate(self._health) if health.cools_until_s is None]
        if not healthy:
            return min(range(len(self._health)), key=lambda i: _due_s(self._health[i]))
        return self._rng.choices(healthy, [self._weights[i] for i in healthy])[0]

    def pick_other(self, index: int) -> int | None:
        """Return the URL of a second request for a call to URL `index`; None if none is healthy.

        It is another URL if there are several.
        """
        others = [i for i in range(len(self._health)) if i != index] or [index]
        healthy = [i for i in others if self._health[i].cools_until_s is None]
        if not healthy:
            return None
        return self._rng.choices(healthy, [self._weights[i] for i in healthy])[0]

    def report(self, index: int, *, answered: bool | None) -> None:
        """Record whether the call to URL `index` was answered or failed in a transient way.

        None, for a cancelled call, says neither.
        """
        health = self._health[index]
        health.probing = False
        if answered is None:
            return
        if answered:
            health.failures, health.cools_until_s = 0, None
            return
        health.failures += 1
        if health.failures >= FAILURES_TO_COOL:
            health.cools_until_s = self._clock() + COOL_DOWN_S


def _due_s(health: _Health) -> float:
    """Return when an avoided URL may be probed; infinity for a healthy one."""
    return float("inf") if health.cools_until_s is None else health.cools_until_s
